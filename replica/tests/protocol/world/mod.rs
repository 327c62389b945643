//! A cluster in one thread: replicas, their disks, and the network between them, every step of it under a test's
//! control.

pub mod disk;
mod facts;
pub mod message;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use lockstep_proto::limits::REQUEST_SIZE_MAX;
use lockstep_proto::message::MessageHeader;
use lockstep_replica::{
    AckPolicy, Config, FanOut, Input, Output, Refusal, Replica, ReplicaStatus, Role, VOUCH_UNKNOWN,
};

use self::{
    disk::{Disk, Work},
    facts::Facts,
    message::{HeapPool, carried, describe, header_of, request_frame, sequences_of},
};

/// Wall clock of all servers when the monotonic clock is at 0, in ns.
const WALL_START_NS: u64 = 1_700_000_000_000_000_000;

const MS: u64 = 1_000_000;

/// One server.
pub struct Server {
    config: Config,
    pub disk: Disk,
    replica: Option<Replica<HeapPool>>,
    role: Role,
    /// The process does not run: nothing reaches it, and no time passes for it.
    pub is_paused: bool,
    /// The disk does nothing.
    pub is_disk_stalled: bool,
    /// Highest op applied: by this process, or replayed before it.
    applied: u64,
    /// For each read ticket given out, the highest op that had been answered then.
    reads: BTreeMap<u64, u64>,
}

impl Server {
    pub fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.is_up() && !self.is_paused
    }

    /// A piece of the disk's pending work that can be done now.
    fn next_work(&self) -> Option<usize> {
        if self.is_disk_stalled { None } else { self.disk.ready().first().copied() }
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }
}

/// The cluster.
pub struct World {
    pub now_ns: u64,
    pub servers: Vec<Server>,
    pub facts: Facts,
    /// Messages on their way, by sender and receiver.
    links: BTreeMap<(u8, u8), VecDeque<Bytes>>,
    /// Servers that can reach each other, the lower first.
    wired: BTreeSet<(u8, u8)>,
    /// Ways on which messages are lost without anybody noticing: from, to.
    pub muted: BTreeSet<(u8, u8)>,
    /// Whether a replica may say that it must end.
    pub may_give_up: bool,
    /// Starts so far: where the replicas' chance comes from.
    starts: u64,
    sequence: u64,
    trace: Vec<String>,
}

/// Settings that tests start from: small bounds, so that they are met.
pub fn config(servers: u8) -> Config {
    Config {
        cluster: 7,
        shard: 0,
        replica: 0,
        servers,
        ack: AckPolicy::Majority,
        fanout: FanOut::Parallel,
        batch_ops_max: 100,
        batch_bytes_max: (MessageHeader::SIZE + REQUEST_SIZE_MAX) as u32,
        batch_linger_ns: 0,
        batch_gather_ops: 0,
        batch_gather_ns: 0,
        pipeline_max: 4,
        heartbeat_interval_ns: 50 * MS,
        backup_silence_ns: 500 * MS,
        resend_ns: 100 * MS,
        view_timeout_ns: 400 * MS,
        stall_timeout_ns: 800 * MS,
        jitter_seed: 1,
        log_memory_bytes_max: 1 << 20,
    }
}

impl World {
    /// A cluster of freshly formatted servers, none of them started.
    pub fn new(config: &Config) -> World {
        let ids = 0..config.servers;
        World {
            now_ns: 0,
            servers: ids
                .clone()
                .map(|replica| Server {
                    config: Config { replica, ..config.clone() },
                    disk: Disk::formatted(replica, 1),
                    replica: None,
                    role: Role::Recovering,
                    is_paused: false,
                    is_disk_stalled: false,
                    applied: 0,
                    reads: BTreeMap::new(),
                })
                .collect(),
            facts: Facts::default(),
            links: ids
                .clone()
                .flat_map(|from| ids.clone().map(move |to| ((from, to), VecDeque::new())))
                .filter(|((from, to), _)| from != to)
                .collect(),
            wired: BTreeSet::new(),
            muted: BTreeSet::new(),
            may_give_up: false,
            starts: 0,
            sequence: 0,
            trace: Vec::new(),
        }
    }

    /// Starts of servers so far.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// The lines written since the last call.
    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    /// Writes a line.
    pub fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    pub fn ids(&self) -> std::ops::Range<u8> {
        0..self.servers.len() as u8
    }

    pub fn status(&self, server: u8) -> Option<ReplicaStatus> {
        self.servers[server as usize].replica.as_ref().map(Replica::status)
    }

    /// The server that says it is the primary of the highest view.
    pub fn primary(&self) -> Option<u8> {
        self.ids()
            .filter_map(|server| Some((self.status(server)?, server)))
            .filter(|(status, _)| status.role == Role::Primary)
            .max_by_key(|(status, _)| status.view)
            .map(|(_, server)| server)
    }

    /// Starts a server from what its disk holds.
    pub fn start(&mut self, server: u8) {
        let now_ns = self.now_ns;
        let node = &mut self.servers[server as usize];
        assert!(!node.is_up());
        let recovered = node.disk.recover();
        // The host replays what is committed, before the replica begins.
        for message in node.disk.journal().range(..=recovered.commit).map(|(_, message)| message) {
            self.facts.is_committed(header_of(message).op.get(), message::checksum_of(message));
        }
        node.applied = recovered.commit;
        node.reads.clear();
        node.role = Role::Recovering;
        node.is_paused = false;
        self.starts += 1;
        let config = Config { jitter_seed: self.starts, ..node.config.clone() };
        node.replica = Some(Replica::new(config, recovered, HeapPool, now_ns));
        self.drain(server);
        for other in self.ids() {
            if self.is_connected(server, other) {
                self.input(server, Input::PeerConnected(other));
                self.input(other, Input::PeerConnected(server));
            }
        }
    }

    /// Ends a server without warning. Of its disk's pending work nothing more is done. What it has sent is on its way;
    /// what was sent to it is lost.
    pub fn crash(&mut self, server: u8) {
        let others: Vec<u8> = self.ids().filter(|&other| self.is_connected(server, other)).collect();
        let node = &mut self.servers[server as usize];
        node.replica = None;
        node.is_paused = false;
        node.is_disk_stalled = false;
        node.disk.crash();
        for other in others {
            self.link(other, server).clear();
            self.input(other, Input::PeerDisconnected(server));
        }
    }

    /// Whether messages get from one server to another: both are up, and nothing is cut.
    fn is_connected(&self, from: u8, to: u8) -> bool {
        let is_up = |server: u8| self.servers[server as usize].is_up();
        self.wired.contains(&(from.min(to), from.max(to))) && is_up(from) && is_up(to)
    }

    /// Lets two servers reach each other.
    pub fn connect(&mut self, left: u8, right: u8) {
        if self.wired.insert((left.min(right), left.max(right))) && self.is_connected(left, right) {
            self.input(left, Input::PeerConnected(right));
            self.input(right, Input::PeerConnected(left));
        }
    }

    /// Cuts two servers off from each other. What is on its way is lost.
    pub fn disconnect(&mut self, left: u8, right: u8) {
        let was_connected = self.is_connected(left, right);
        self.wired.remove(&(left.min(right), left.max(right)));
        self.link(left, right).clear();
        self.link(right, left).clear();
        if was_connected {
            self.input(left, Input::PeerDisconnected(right));
            self.input(right, Input::PeerDisconnected(left));
        }
    }

    /// Messages on their way from one server to another.
    pub fn link(&mut self, from: u8, to: u8) -> &mut VecDeque<Bytes> {
        self.links.get_mut(&(from, to)).expect("there is a link between any two servers")
    }

    /// The links that have messages.
    pub fn busy_links(&self) -> Vec<(u8, u8)> {
        self.links.iter().filter(|(_, messages)| !messages.is_empty()).map(|(&link, _)| link).collect()
    }

    /// Read tickets of a server that are not confirmed yet.
    pub fn pending_reads(&self, server: u8) -> usize {
        self.servers[server as usize].reads.len()
    }

    /// Offers a request to a server.
    pub fn offer(&mut self, server: u8) -> Result<u64, Refusal> {
        self.sequence += 1;
        let sequence = self.sequence;
        let now_ns = self.now_ns;
        let replica = self.servers[server as usize].replica.as_mut().expect("the server is up");
        let offered = replica.offer(now_ns, &request_frame(sequence));
        if offered.is_ok() {
            self.facts.offered(sequence);
        }
        self.drain(server);
        offered
    }

    /// A read arrives at a server.
    pub fn read(&mut self, server: u8) -> Result<u64, Refusal> {
        let floor = self.facts.acknowledged();
        let node = &mut self.servers[server as usize];
        let ticket = node.replica.as_mut().expect("the server is up").read_ticket()?;
        // Reads of one round share a ticket; the last of them has seen most.
        node.reads.insert(ticket, floor);
        Ok(ticket)
    }

    /// Lets a server do a piece of its disk's pending work.
    pub fn complete(&mut self, server: u8, index: usize) {
        let Some(input) = self.servers[server as usize].disk.complete(index) else { return };
        if let Input::CheckpointInstalled { op, .. } = input {
            self.servers[server as usize].applied = op;
        }
        self.input(server, input);
    }

    /// Hands a message to a server. If it is down, the message is lost.
    pub fn deliver(&mut self, to: u8, message: &Bytes) {
        let node = &self.servers[to as usize];
        if node.is_up() {
            let message = carried(message, node.config.cluster);
            self.input(to, Input::Message(message));
        }
    }

    /// Lets time pass, and ticks every server that asked for it.
    pub fn advance(&mut self, duration_ns: u64) {
        let end_ns = self.now_ns + duration_ns;
        loop {
            let due = self
                .ids()
                .filter(|&server| self.servers[server as usize].is_running())
                .filter_map(|server| Some((self.servers[server as usize].replica.as_ref()?.next_timeout_ns()?, server)))
                .filter(|(due_ns, _)| *due_ns <= end_ns)
                .min();
            let Some((due_ns, server)) = due else { break };
            self.now_ns = self.now_ns.max(due_ns);
            self.input(server, Input::Tick);
            let next_ns = self.servers[server as usize].replica.as_ref().and_then(Replica::next_timeout_ns);
            assert!(next_ns.is_none_or(|next_ns| next_ns > due_ns), "a timer of {server} fires without end");
        }
        self.now_ns = end_ns;
    }

    /// Does everything that can be done without time passing: whatever is on its way arrives, disks do their work,
    /// turns end.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.settle_round() {
                return;
            }
        }
        panic!("the cluster talks without end");
    }

    fn settle_round(&mut self) -> bool {
        let running: Vec<u8> = self.ids().filter(|&server| self.servers[server as usize].is_running()).collect();
        let mut has_work = false;
        for &server in &running {
            while let Some(index) = self.servers[server as usize].next_work() {
                has_work = true;
                self.complete(server, index);
            }
        }
        for (from, to) in self.busy_links() {
            // A process that does not run receives nothing, but what it has sent arrives.
            if self.servers[to as usize].is_paused {
                continue;
            }
            for _ in 0..self.link(from, to).len() {
                has_work = true;
                let message = self.link(from, to).pop_front().expect("it was counted");
                self.deliver(to, &message);
            }
        }
        for server in running {
            self.input(server, Input::TurnEnd);
            has_work |= self.servers[server as usize].next_work().is_some();
        }
        has_work || self.busy_links().iter().any(|&(_, to)| !self.servers[to as usize].is_paused)
    }

    /// Gives a server an input, and carries out what it wants done.
    pub fn input(&mut self, server: u8, input: Input) {
        let now_ns = self.now_ns;
        // One that has given up meanwhile takes nothing in any more.
        let Some(replica) = self.servers[server as usize].replica.as_mut() else { return };
        replica.step(now_ns, WALL_START_NS + now_ns, input);
        self.drain(server);
    }

    fn drain(&mut self, server: u8) {
        while let Some(output) = self.servers[server as usize].replica.as_mut().and_then(Replica::next_output) {
            self.carry_out(server, output);
        }
    }

    fn carry_out(&mut self, server: u8, output: Output) {
        let is_primary = self.servers[server as usize].role == Role::Primary;
        let mut note = |text: String| self.trace.push(format!("{server}: {text}"));
        let node = &mut self.servers[server as usize];
        match output {
            Output::Send { to, message } => {
                assert_ne!(to, server);
                note(format!("to {to}: {}", describe(&message)));
                self.facts.is_sent(server, &message, &node.disk);
                if self.is_connected(server, to) && !self.muted.contains(&(server, to)) {
                    self.link(server, to).push_back(message);
                }
            }
            Output::WriteJournal { op, message } => {
                note(format!("write op={op}"));
                node.disk.ask(Work::Write { op, message });
            }
            Output::TruncateJournal { op } => {
                note(format!("truncate above op={op}"));
                assert!(op >= node.applied, "{server} drops what it has applied");
                node.disk.ask(Work::Truncate { op });
            }
            Output::ReadJournal { peer, op } => {
                note(format!("read op={op} for {peer}"));
                node.disk.ask(Work::Read { peer, op });
            }
            Output::PersistView(record) => {
                let vouch = match record.vouch_op {
                    0 => String::new(),
                    VOUCH_UNKNOWN => " vouch unknown".to_owned(),
                    op => format!(" vouch op={op}"),
                };
                note(format!("persist view={} log_view={}{vouch}", record.view, record.log_view));
                node.disk.ask(Work::Persist { record });
            }
            Output::Apply { message, copies } => {
                let op = header_of(&message).op.get();
                let with = if is_primary { format!(", answer with copies={copies}") } else { String::new() };
                note(format!("apply op={op} requests={}{with}", sequences_of(&message).len()));
                self.on_apply(server, &message, copies, is_primary);
            }
            Output::ReadsConfirmed { ticket } => {
                note(format!("reads confirmed up to ticket={ticket}"));
                self.on_reads_confirmed(server, ticket);
            }
            Output::RoleChanged(role) => {
                note(format!("is now {}", format!("{role:?}").to_lowercase()));
                let node = &mut self.servers[server as usize];
                node.reads.clear();
                node.role = role;
                if role == Role::Primary {
                    let status = self.status(server).expect("the server is up");
                    self.facts.is_primary(server, &status, &self.servers[server as usize].disk);
                }
            }
            Output::InSyncChanged { mask } => {
                let members: Vec<String> =
                    self.ids().filter(|id| mask & (1 << id) != 0).map(|id| id.to_string()).collect();
                self.trace.push(format!("{server}: in sync: {}", members.join(" ")));
            }
            Output::BackupBehind { peer, op } => {
                note(format!("{peer} needs op={op}, which the journal no longer holds"))
            }
            Output::Behind { op, first_op, checkpoint_op } => {
                note(format!("op={op} is needed, journal begins at op={first_op}, checkpoint at op={checkpoint_op}"));
            }
            Output::RepairJournal { op, message } => {
                note(format!("repair op={op}"));
                node.disk.ask(Work::Repair { op, message });
            }
            Output::ReadCheckpoint { peer, op, offset } => node.disk.ask(Work::ReadCheckpoint { peer, op, offset }),
            Output::WriteCheckpoint { op, offset, size, bytes } => {
                note(format!("write checkpoint op={op} offset={offset} of {size}"));
                node.disk.ask(Work::WriteCheckpoint { op, offset, size, bytes });
            }
            Output::InstallCheckpoint { op, size } => {
                note(format!("install checkpoint op={op}"));
                node.disk.ask(Work::Install { op, size });
            }
            Output::HandoverEnded { is_done } => {
                note(format!("handover {}", if is_done { "done" } else { "given up" }));
            }
            Output::HashMismatch { op, peer, .. } => note(format!("state at op={op} differs from that of {peer}")),
            Output::Fatal { reason } => {
                note(format!("gives up: {reason}"));
                assert!(self.may_give_up, "{server} gives up: {reason}");
                self.crash(server);
            }
        }
    }

    fn on_apply(&mut self, server: u8, message: &Bytes, copies: u8, is_primary: bool) {
        let op = header_of(message).op.get();
        let status = self.status(server).expect("the server is up");
        let node = &mut self.servers[server as usize];
        assert_eq!(op, node.applied + 1, "{server} applies every op once, in order");
        node.applied = op;
        self.facts.is_applied(message);
        if is_primary {
            let disks: Vec<&Disk> = self.servers.iter().map(|server| &server.disk).collect();
            let ack = self.servers[server as usize].config.ack;
            self.facts.is_answered(server, message, copies, &status, ack, &disks);
        } else {
            assert_eq!(copies, 0, "a backup answers nobody");
        }
    }

    fn on_reads_confirmed(&mut self, server: u8, ticket: u64) {
        let node = &mut self.servers[server as usize];
        let later = node.reads.split_off(&(ticket + 1));
        let confirmed = std::mem::replace(&mut node.reads, later);
        for (ticket, floor) in confirmed {
            let applied = node.applied;
            assert!(
                applied >= floor,
                "{server} confirms read {ticket} at op {applied}, when op {floor} had been answered"
            );
        }
    }
}
