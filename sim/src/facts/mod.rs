//! What must be true of the whole cluster, whatever happens: checked at every message, every durable write, every
//! commit.
//!
//! The facts are kept from the disks' side: what a server says is compared with what its simulated disk really holds.
//! `docs/replication.md` numbers the invariants that these checks hold.

mod disk;
mod effects;
mod in_sync;
mod model;
mod presence;

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_proto::{
    message::{Command, MessageHeader},
    reply::ReplyParts,
    superblock::Superblock,
};
use lockstep_replica::{AckPolicy, Quorums, Recovered};

use self::{disk::DiskFacts, in_sync::InSync};
pub use self::{
    model::{Model, Verdict},
    presence::{Presence, Window},
};
use crate::{
    groups::{GroupOperation, describe_answer},
    host::WALL_START_NS,
    plan::{MS, Plan},
};

/// How far the time of an answer may be from that of the histories if no write has waited for longer, in ns.
const SLACK_NS: u64 = 2000 * MS;

/// Which check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Two servers are the primary of one view, or a server is that of a view which is another one's.
    OnePrimary,
    /// An op is committed with two different prepares, or the chain of committed ops is broken.
    CommittedAgree,
    /// An op is committed that too few disks have held.
    CommittedHeld,
    /// A view begins without a committed op, or a server drops one that it has acknowledged.
    CommittedLost,
    /// A server says that it holds an op durably, and its disk does not.
    DurableBeforeSaid,
    /// A server speaks of a view that is not durable.
    ViewBeforeSaid,
    /// After a restart, a server has forgotten what it had said.
    Forgotten,
    /// A start takes something into its log that had been dropped from it, or was never in it.
    Returned,
    /// An answer differs from what the committed log says.
    Answer,
    /// A read was answered from a state older than what had been answered before it.
    StaleRead,
    /// No order of effects explains what the clients were told.
    Linearizable,
    /// A walk through the keys has missed one that was there all the time, or has told of one that was not.
    Walk,
    /// Replicas that have applied the same ops differ.
    StateHash,
    /// In the end, a replica's keys are not what the committed log says.
    State,
    /// The cluster did not become whole again although nothing goes wrong any more.
    Liveness,
    /// A client was not answered although nothing goes wrong any more.
    Unanswered,
    /// A server ended itself although no disk failed.
    Fatal,
    /// A server does not start from what its disk holds.
    Start,
    /// An assertion of the code under test failed.
    Assertion,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which one.
    pub check: Check,
    /// What was seen.
    pub text: String,
    /// When, in virtual ns.
    pub at_ns: u64,
}

/// What the cluster has promised so far, and what its disks hold.
pub struct Facts {
    quorums: Quorums,
    ack: AckPolicy,
    all: u8,
    now_ns: u64,
    failure: Option<Failure>,
    /// Every prepare that a server has handed to its journal.
    prepares: BTreeMap<(u64, u128), Bytes>,
    /// Which operations the requests of a prepare are, as far as they came through the front door.
    asked: BTreeMap<(u64, u128), Vec<Option<GroupOperation>>>,
    /// The servers that have held a prepare durably at some time, a bit each.
    holders: BTreeMap<(u64, u128), u8>,
    /// Checksums of the committed prepares, from op 1 on.
    committed: Vec<u128>,
    /// The views in which that was first known.
    committed_views: Vec<u64>,
    verdicts: Vec<Vec<Verdict>>,
    model: Model,
    answered: u64,
    /// What primaries have ordered and not applied: when it was stamped, by op.
    stamped: BTreeMap<u64, u64>,
    /// How long something has waited at most from its stamp until its primary has applied it, in ns.
    longest_wait_ns: u64,
    has_damage: bool,
    primaries: BTreeMap<u64, u8>,
    /// What each server does with its in-sync set as a primary.
    in_sync: Vec<InSync>,
    heartbeat_ns: u64,
    disks: Vec<DiskFacts>,
    state_hashes: BTreeMap<u64, u128>,
}

impl Facts {
    /// Of a cluster that was formatted just now.
    pub fn new(plan: &Plan) -> Facts {
        Facts {
            quorums: Quorums::of(plan.servers),
            ack: plan.ack,
            all: ((1u16 << plan.servers) - 1) as u8,
            now_ns: 0,
            failure: None,
            prepares: BTreeMap::new(),
            asked: BTreeMap::new(),
            holders: BTreeMap::new(),
            committed: Vec::new(),
            committed_views: Vec::new(),
            verdicts: Vec::new(),
            model: Model::new(&plan.workload),
            answered: 0,
            stamped: BTreeMap::new(),
            longest_wait_ns: 0,
            has_damage: plan.is_memory,
            primaries: BTreeMap::new(),
            in_sync: (0..plan.servers).map(|_| InSync::default()).collect(),
            heartbeat_ns: plan.heartbeat_ns,
            disks: (0..plan.servers).map(|_| DiskFacts::default()).collect(),
            state_hashes: BTreeMap::new(),
        }
    }

    /// Time goes on.
    pub fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// The first check that failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// A check has failed.
    pub fn fail(&mut self, check: Check, text: String) {
        let at_ns = self.now_ns;
        self.failure.get_or_insert(Failure { check, text, at_ns });
    }

    fn ensure(&mut self, is_so: bool, check: Check, text: impl FnOnce() -> String) {
        if !is_so {
            self.fail(check, text());
        }
    }

    /// The naive state machine after all committed ops.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Highest op known to be committed.
    pub fn committed_op(&self) -> u64 {
        self.committed.len() as u64
    }

    /// Highest op of which a client was told.
    pub fn answered_op(&self) -> u64 {
        self.answered
    }

    /// The last revision that had to be seen by whoever asked for something now.
    pub fn answered_revision(&self) -> u64 {
        self.model.revision_after(self.answered.min(self.committed_op()))
    }

    /// The last revision that anybody could have seen by now.
    pub fn committed_revision(&self) -> u64 {
        self.model.revision_after(self.committed_op())
    }

    /// Number of views that have begun.
    pub fn views(&self) -> u64 {
        self.primaries.len() as u64
    }

    /// Highest op that a server has said it holds.
    pub fn said_op(&self, server: u8) -> u64 {
        self.disks[server as usize].said_op()
    }

    /// A replica hands a prepare to its journal. `asked` tells which operations its requests are, if they were offered
    /// there.
    pub fn handed_over(&mut self, server: u8, message: &Bytes, asked: Option<Vec<Option<GroupOperation>>>) {
        let header = header_of(message);
        let (op, checksum) = (header.op.get(), header.checksum.get());
        if let Some(asked) = asked {
            self.asked.entry((op, checksum)).or_insert(asked);
            self.stamped.insert(op, header.timestamp_ns.get());
        }
        self.prepares.entry((op, checksum)).or_insert_with(|| message.clone());
        self.disks[server as usize].hand_over(op, checksum);
    }

    /// A replica drops everything above `op`.
    ///
    /// It may drop what is committed and fetch it again, as long as enough other disks hold it.
    pub fn truncates(&mut self, server: u8, op: u64) {
        let committed = self.committed.len() as u64;
        let said_op = self.disks[server as usize].said_op().min(committed);
        let is_held = |lost: &u64| self.disks[server as usize].log(*lost) == Some(self.committed[*lost as usize - 1]);
        let lost = (op + 1..=said_op).find(is_held);
        self.disks[server as usize].truncate(op);
        let Some(lost) = lost else { return };
        let checksum = self.committed[lost as usize - 1];
        let holders = self.disks.iter().filter(|disk| disk.holds(lost, checksum)).count();
        let needed = if self.has_damage { 1 } else { self.quorums.commit as usize };
        self.ensure(holders >= needed, Check::CommittedLost, || {
            format!("{server} drops op {lost}, which it has acknowledged, and only {holders} others hold it")
        });
    }

    /// A disk has lost something, or is about to: from now on a committed op may be on fewer disks than a quorum.
    pub fn is_damaged(&mut self) {
        self.has_damage = true;
    }

    /// The first sector of a truncation is about to be overwritten: from now on a crash may lose any of it.
    pub fn is_erasing(&mut self, server: u8, op: u64) {
        self.disks[server as usize].lose_above(op);
    }

    /// The sectors of a truncation have been overwritten.
    pub fn erased(&mut self, server: u8, op: u64) {
        self.disks[server as usize].erase(op);
    }

    /// A prepare is on its way to a disk: from now on a crash may leave it there.
    pub fn is_placed(&mut self, server: u8, op: u64, checksum: u128) {
        self.disks[server as usize].place(op, checksum);
    }

    /// A prepare is on a disk.
    pub fn is_durable(&mut self, server: u8, op: u64, checksum: u128) {
        self.disks[server as usize].make_durable(op, checksum);
        *self.holders.entry((op, checksum)).or_default() |= 1 << server;
    }

    /// A superblock is on a disk, all of it.
    pub fn superblock_is_durable(&mut self, server: u8, superblock: &Superblock) {
        self.disks[server as usize].set_superblock(superblock);
    }

    /// A message leaves a server: it promises nothing that its disk does not hold.
    pub fn is_sent(&mut self, server: u8, message: &[u8]) {
        let header = header_of(message);
        let Some(command) = header.command() else { return };
        if command == Command::Prepare {
            return;
        }
        let disk = &mut self.disks[server as usize];
        let (view, log_view) = (header.view.get(), header.log_view.get());
        let is_view_durable = view <= disk.view();
        let says_log_view =
            matches!(command, Command::PrepareOk | Command::HeartbeatOk | Command::DoViewChange | Command::StartView);
        let is_log_view_durable = !says_log_view || log_view <= disk.log_view();
        disk.says_view(view, if says_log_view { log_view } else { 0 });
        let says_op = matches!(command, Command::PrepareOk | Command::HeartbeatOk | Command::DoViewChange);
        let missing = if says_op { disk.says_op(header.op.get(), header.parent.get()) } else { None };
        self.ensure(header.replica == server, Check::ViewBeforeSaid, || format!("{server} speaks for another server"));
        self.ensure(is_view_durable, Check::ViewBeforeSaid, || {
            format!("{server} says view {view} in a {command:?}, which is not durable")
        });
        self.ensure(is_log_view_durable, Check::ViewBeforeSaid, || {
            format!("{server} says log_view {log_view} in a {command:?}, which is not durable")
        });
        if let Some(op) = missing {
            let said = header.op.get();
            self.fail(
                Check::DurableBeforeSaid,
                format!("{server} says in a {command:?} that it holds op {said}, but op {op} is not on its disk"),
            );
        }
    }

    /// A server knows an op to be committed.
    pub fn is_committed(&mut self, server: u8, op: u64, checksum: u128) {
        if let Some(&known) = op.checked_sub(1).and_then(|index| self.committed.get(index as usize)) {
            return self.ensure(known == checksum, Check::CommittedAgree, || {
                format!("{server} takes another prepare of op {op} for committed than others do")
            });
        }
        let mut chain = Vec::new();
        let (mut at, mut sum) = (op, checksum);
        while at > self.committed.len() as u64 {
            let Some(message) = self.prepares.get(&(at, sum)) else {
                return self.fail(Check::CommittedAgree, format!("{server} commits op {at}, which nobody has ordered"));
            };
            chain.push((at, sum, message.clone()));
            (at, sum) = (at - 1, header_of(message).parent.get());
        }
        let last = self.committed.last().copied().unwrap_or(0);
        if sum != last {
            return self
                .fail(Check::CommittedAgree, format!("{server} commits op {op}, which does not follow op {at}"));
        }
        for (op, checksum, message) in chain.into_iter().rev() {
            let holders = self.holders.get(&(op, checksum)).copied().unwrap_or(0);
            let view = header_of(&message).view.get();
            // A copy counts only once its server could not forget that it belongs to the log of the view it was ordered
            // in.
            let members = (0..self.disks.len()).filter(|&server| self.disks[server].log_view_max() >= view);
            let voters = members.filter(|&server| holders & (1 << server) != 0).count();
            let quorum = self.quorums.commit as usize;
            self.ensure(voters >= quorum, Check::CommittedHeld, || {
                format!("{server} commits op {op}, which only {voters} of {quorum} disks hold as part of view {view}")
            });
            self.committed.push(checksum);
            self.committed_views.push(self.disks[server as usize].view());
            self.verdicts.push(self.model.apply(&message));
        }
    }

    /// A primary applies an op.
    pub fn is_applied_by_primary(&mut self, server: u8, op: u64) {
        self.in_sync[server as usize].applies(self.now_ns, op);
        let after = self.stamped.split_off(&(op + 1));
        let before = std::mem::replace(&mut self.stamped, after);
        let waited = before.get(&op).map_or(0, |stamped_ns| self.since(*stamped_ns));
        self.longest_wait_ns = self.longest_wait_ns.max(waited);
    }

    /// How far the time as of which something has been answered may be from that of the histories, in ns. Times of day
    /// are equal wherever a key can expire, but a read is answered as of the time of the first write that is not
    /// applied yet.
    pub fn slack_ns(&self) -> u64 {
        let waiting = self.stamped.values().map(|stamped_ns| self.since(*stamped_ns)).max();
        SLACK_NS.max(self.longest_wait_ns).max(waiting.unwrap_or(0))
    }

    fn since(&self, stamped_ns: u64) -> u64 {
        (WALL_START_NS + self.now_ns).saturating_sub(stamped_ns)
    }

    /// A primary gives an answer: of the request at `index` of `op`.
    pub fn is_answered(&mut self, server: u8, op: u64, index: usize, parts: &ReplyParts, body: &[u8]) {
        self.answered = self.answered.max(op);
        let Some(verdict) = self.verdicts.get(op as usize - 1).and_then(|verdicts| verdicts.get(index)).cloned() else {
            return self.fail(Check::Answer, format!("{server} answers request {index} of op {op}, which has none"));
        };
        let is_right = verdict.accepts(parts.status, parts.version, body).is_some();
        self.ensure(is_right, Check::Answer, || {
            let told = describe_answer(parts.operation, parts.status, parts.version, body);
            format!("{server} answers request {index} of op {op} with {told}; the log says {verdict:?}")
        });
        let holders = self.holders.get(&(op, self.committed[op as usize - 1])).copied().unwrap_or(0);
        self.ensure(holders.count_ones() >= u32::from(parts.copies), Check::CommittedHeld, || {
            format!("{server} claims {} copies of op {op}, held by {}", parts.copies, holders.count_ones())
        });
        let is_met = self.ack != AckPolicy::Strict || parts.copies == 0 || holders == self.all;
        self.ensure(is_met, Check::CommittedHeld, || format!("{server} answers op {op} without all servers"));
        let missing = self.in_sync[server as usize].mask & self.all & !holders;
        self.ensure(self.ack != AckPolicy::All || missing == 0, Check::CommittedHeld, || {
            format!("{server} answers op {op} without {missing:07b} of its in-sync set")
        });
    }

    /// A read is answered from the state after `applied`; when it was asked for, `floor` had been answered.
    pub fn is_read(&mut self, server: u8, applied: u64, floor: u64) {
        self.ensure(applied >= floor, Check::StaleRead, || {
            format!("{server} answers a read from op {applied}, when op {floor} had been answered before it")
        });
    }

    /// A server has become primary: nobody else is, and its log has all that was committed.
    pub fn becomes_primary(&mut self, server: u8, view: u64) {
        let first = *self.primaries.entry(view).or_insert(server);
        self.ensure(first == server, Check::OnePrimary, || {
            format!("{first} and {server} are primaries of view {view}")
        });
        let disk = &self.disks[server as usize];
        let is_durable = (disk.view(), disk.log_view()) == (view, view);
        // What is committed in later views is none of its business: it has slept, and will be told.
        let lost = (disk.base() + 1..=self.committed.len() as u64)
            .filter(|op| self.committed_views[*op as usize - 1] < view)
            .find(|op| disk.log(*op) != Some(self.committed[*op as usize - 1]));
        self.ensure(is_durable, Check::ViewBeforeSaid, || {
            format!("{server} is the primary of view {view}, which is not durable")
        });
        if let Some(op) = lost {
            self.fail(
                Check::CommittedLost,
                format!("{server} begins view {view} without op {op}, which was committed"),
            );
        }
    }

    /// A server has started. `log` has the checksum of each op in its journal.
    pub fn has_started(
        &mut self,
        server: u8,
        superblock: &Superblock,
        recovered: &Recovered,
        log: BTreeMap<u64, u128>,
    ) {
        let record = &recovered.record;
        let disk = &mut self.disks[server as usize];
        let (said_view, said_log_view) = disk.said_views();
        let (said_op, said_checksum) = disk.said();
        let holds = said_op <= recovered.commit || log.get(&said_op) == Some(&said_checksum);
        let is_vouched = record.vouch_op >= said_op;
        let stray = disk.stray(&log);
        // A write that was in flight at a crash may have reached the disk all the same.
        for (&op, &checksum) in &log {
            *self.holders.entry((op, checksum)).or_default() |= 1 << server;
        }
        disk.start(superblock, recovered.commit, log);
        self.ensure(record.view >= said_view, Check::Forgotten, || {
            format!("{server} starts in view {}, but had said view {said_view}", record.view)
        });
        self.ensure(record.log_view >= said_log_view, Check::Forgotten, || {
            format!("{server} starts with log_view {}, but had said {said_log_view}", record.log_view)
        });
        if let Some(op) = stray {
            self.fail(
                Check::Returned,
                format!("{server} finds another op {op} than it had placed last, or one it had dropped"),
            );
        }
        self.ensure(holds || is_vouched, Check::Forgotten, || {
            format!("{server} starts without op {said_op}, which it had acknowledged, and does not know it")
        });
        if recovered.commit > 0 {
            self.is_committed(server, recovered.commit, recovered.commit_checksum);
        }
    }

    /// A server has taken over another's checkpoint.
    pub fn has_installed(&mut self, server: u8, op: u64, checksum: u128) {
        self.is_committed(server, op, checksum);
        // What a checkpoint has in it is held as well as in prepares.
        for (op, checksum) in (1..=op).zip(self.committed.iter().copied()) {
            *self.holders.entry((op, checksum)).or_default() |= 1 << server;
        }
        self.disks[server as usize].install(op, checksum);
    }

    /// A data folder is gone, and with it all that its server had said.
    ///
    /// What it has held still counts for commits: it says that it has lost it, and until it has got it back that is the
    /// same as if the disk had been lost a moment after the commit.
    pub fn is_wiped(&mut self, server: u8) {
        self.has_damage = true;
        self.disks[server as usize].wipe();
    }

    /// A server's state after an op has this content hash.
    pub fn has_state(&mut self, server: u8, op: u64, hash: u128) {
        let known = *self.state_hashes.entry(op).or_insert(hash);
        self.ensure(known == hash, Check::StateHash, || {
            format!("{server} has another state after op {op} than another server: {hash:032x}, not {known:032x}")
        });
    }
}

/// The header of a message.
pub fn header_of(message: &[u8]) -> &MessageHeader {
    MessageHeader::view(message).expect("a message has a header")
}
