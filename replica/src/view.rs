//! How a view begins: a primary that has restarted asks the others what they hold, before it goes on.
//!
//! A commit may come before the primary's own write is durable, so a restarted primary may lack what it has acknowledged.
//! It therefore never goes on in its old view. It begins the next view that it is the primary of:
//!
//! 1. It makes the new view durable and asks the others to join it (start_view_change).
//! 2. Each of them makes the view durable, which ends its part in earlier views, and answers with the end of its log
//!    (do_view_change).
//! 3. With answers of a view-change quorum, its own included, it takes the log with the highest log_view, and among these
//!    the longest: it fetches what it misses, drops what is not in it, and makes both durable.
//! 4. It makes its log_view durable and tells the others which log this view begins with (start_view). They drop what is
//!    not in it, fetch what they miss, and make their log_view durable once they hold it all: only then do they vote.
//!
//! Every commit quorum has a member in common with the quorum of step 2, so the chosen log holds everything that was
//! committed before. The order of the durable writes is what makes a crash between any two of these steps harmless: a
//! durable log_view says "my log is this view's log, as far as it goes, and at least as far as the view's beginning".

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_proto::message::{Command, MessageHeader};
use zerocopy::{
    FromBytes,
    little_endian::{U64, U128},
};

use crate::{
    batch::BatchPool, io::Output, peers::Peer, record::ViewRecord, replica::Replica, status::Role, timers::Timer,
};

/// What a replica is doing about its view.
pub(crate) enum Phase {
    /// The view was begun; this replica's log is its log.
    Normal,
    /// Restarted in a view that it had not joined: waits for its primary.
    Waiting,
    /// Will be the primary, once enough others have answered.
    Candidate(Box<Candidate>),
    /// Has left earlier views, and waits for the new one to begin.
    Participant {
        /// Whether the end of the log was sent.
        has_answered: bool,
    },
    /// Knows the log with which the view has begun, and fetches what it misses of it.
    Joining {
        /// The last op of that log.
        target_op: u64,
        /// Whether the primary was told how far this replica is.
        has_greeted: bool,
        /// Whether the new log_view was handed to the disk.
        has_persisted: bool,
    },
}

/// A primary that has restarted.
#[derive(Default)]
pub(crate) struct Candidate {
    has_announced: bool,
    has_persisted: bool,
    answers: [Option<Answer>; lockstep_proto::limits::SERVERS_MAX as usize],
    chosen: Option<Chosen>,
}

/// The end of somebody's log.
struct Answer {
    log_view: u64,
    op: u64,
    commit: u64,
    checksum: u128,
    headers: Vec<MessageHeader>,
}

impl Answer {
    /// Whether whoever answers has never taken part in anything.
    fn is_fresh(&self) -> bool {
        self.log_view == 0 && self.op == 0 && self.commit == 0
    }
}

/// The log that the view begins with.
struct Chosen {
    from: u8,
    op: u64,
    commit: u64,
    checksum: u128,
    headers: Vec<MessageHeader>,
    /// Up to here our log is certain to be the chosen one.
    common: u64,
    /// The first op that was asked for last.
    asked_op: u64,
    /// Prepares that have come before the one that must come next: some are read from a journal, some are not. At most
    /// [`SERVED_OPS`].
    early: BTreeMap<u64, Bytes>,
}

/// Prepares that are served for one request during a view change.
const SERVED_OPS: u64 = 16;

impl<P: BatchPool> Replica<P> {
    /// Takes up work after a start.
    pub(crate) fn restart(&mut self) {
        if self.config.primary_of(self.view) == self.config.replica {
            self.begin_view(self.view + 1);
        } else if self.log_view == self.view {
            // What it acknowledged as a member of this view is durable, so it goes on where it was.
            self.phase = Phase::Normal;
            self.set_role(Role::Backup);
            self.owes_ok = true;
        } else {
            self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        }
    }

    /// Begins the first view not below `view_min` that this replica is the primary of.
    fn begin_view(&mut self, view_min: u64) {
        let servers = u64::from(self.config.servers);
        let me = u64::from(self.config.replica);
        let view = view_min + (me + servers - view_min % servers) % servers;
        assert!(view > self.view && self.config.primary_of(view) == self.config.replica);
        self.leave_view(view);
        self.phase = Phase::Candidate(Box::default());
    }

    /// Ends the part in the present view, durably.
    fn leave_view(&mut self, view: u64) {
        assert!(view > self.view, "views only go up");
        self.view = view;
        self.open = None;
        self.has_reads = false;
        self.round = 0;
        self.round_confirmed = 0;
        self.round_seen = 0;
        self.is_behind = false;
        self.last_request_ns = None;
        self.timers.stop(Timer::Heartbeat);
        self.timers.stop(Timer::Linger);
        self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        self.set_role(Role::Recovering);
        self.persist_view();
    }

    /// Goes on with a change of view as far as what is durable allows.
    pub(crate) fn advance_view(&mut self) {
        if self.durable_view < self.view {
            return;
        }
        match &mut self.phase {
            Phase::Normal | Phase::Waiting => {}
            Phase::Participant { has_answered } => {
                if !std::mem::replace(has_answered, true) {
                    self.send_do_view_change();
                }
            }
            Phase::Candidate(candidate) => {
                if !std::mem::replace(&mut candidate.has_announced, true) {
                    let own = self.own_answer();
                    self.take_answer(self.config.replica, own);
                    for replica in self.other_ids() {
                        self.send_start_view_change(replica);
                    }
                }
                self.advance_candidate();
            }
            Phase::Joining { .. } => self.advance_joining(),
        }
    }

    /// Hands view and log_view to the disk.
    fn persist_view(&mut self) {
        let record = ViewRecord { view: self.view, log_view: self.log_view, ..self.record };
        self.outputs.push_back(Output::PersistView(record));
    }

    fn advance_joining(&mut self) {
        let (view, log_view) = (self.view, self.durable_log_view);
        let held = self.log.durable().min(self.verified);
        let Phase::Joining { target_op, has_greeted, has_persisted } = &mut self.phase else { return };
        self.owes_ok |= !std::mem::replace(has_greeted, true);
        if held < *target_op {
            return;
        }
        if log_view == view {
            self.log_view = view;
            self.phase = Phase::Normal;
            self.timers.stop(Timer::Resend);
            self.set_role(Role::Backup);
            self.owes_ok = true;
        } else if !std::mem::replace(has_persisted, true) {
            // True from now on, whatever view comes before it is durable.
            self.log_view = view;
            self.persist_view();
        }
    }

    /// The part of the log that may be counted on: durable, and certain to be the log of `log_view`.
    fn own_answer(&self) -> Answer {
        let op = self.log.durable().min(self.verified);
        Answer {
            log_view: self.log_view,
            op,
            commit: self.commit.min(op),
            checksum: self.log.checksum(op).unwrap_or(0),
            headers: self.log.headers_to(op).copied().collect(),
        }
    }

    fn send_start_view_change(&mut self, replica: u8) {
        let header = self.header(Command::StartViewChange);
        self.send(replica, header);
    }

    pub(crate) fn on_start_view_change(&mut self, header: &MessageHeader) {
        let view = header.view.get();
        if self.config.primary_of(view) != header.replica {
            return;
        }
        if view > self.view {
            self.leave_view(view);
            self.phase = Phase::Participant { has_answered: false };
            return;
        }
        if self.durable_view < self.view {
            return;
        }
        if view < self.view {
            // It does not know how far the others are: a view that it begins must be above ours.
            let ok = self.ok_header(Command::HeartbeatOk);
            return self.send(header.replica, ok);
        }
        match self.phase {
            Phase::Waiting | Phase::Participant { .. } => {
                self.phase = Phase::Participant { has_answered: true };
                self.send_do_view_change();
            }
            Phase::Normal | Phase::Candidate(_) | Phase::Joining { .. } => {}
        }
    }

    fn send_do_view_change(&mut self) {
        let op = self.log.durable().min(self.verified);
        let mut header = self.header(Command::DoViewChange);
        header.log_view = U64::new(self.log_view);
        header.commit = U64::new(self.commit.min(op));
        header.parent = U128::new(self.log.checksum(op).unwrap_or(0));
        self.send_with_headers(self.config.primary_of(self.view), header, op);
    }

    pub(crate) fn on_do_view_change(&mut self, header: &MessageHeader, message: &[u8]) {
        if header.view.get() != self.view {
            return;
        }
        if self.role == Role::Primary {
            // It has not heard that the view has begun.
            return self.send_start_view(header.replica);
        }
        let Some(headers) = headers_in(message, header.op.get()) else { return };
        let answer = Answer {
            log_view: header.log_view.get(),
            op: header.op.get(),
            commit: header.commit.get(),
            checksum: header.parent.get(),
            headers,
        };
        self.take_answer(header.replica, answer);
        self.advance_candidate();
    }

    fn take_answer(&mut self, from: u8, answer: Answer) {
        let quorum = self.quorums.view_change as usize;
        let me = self.config.replica;
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        if !candidate.has_announced || candidate.chosen.is_some() {
            return;
        }
        candidate.answers[from as usize] = Some(answer);
        let answers = || candidate.answers.iter().flatten();
        // A replica without a memory cannot vouch that nothing was committed: beside others who have one, it is not counted,
        // unless everybody has answered and nobody is left who could know more.
        let has_memory = answers().any(|answer| !answer.is_fresh());
        let count = answers().filter(|answer| !has_memory || !answer.is_fresh()).count();
        let is_own_fresh = candidate.answers[me as usize].as_ref().is_some_and(Answer::is_fresh);
        if has_memory && is_own_fresh {
            return self.fatal(
                "this server's data folder is freshly formatted, but the other servers hold data: \
                 a primary that lost its disk cannot be replaced yet; restore its folder"
                    .to_string(),
            );
        }
        if count < quorum && answers().count() < self.config.servers as usize {
            return;
        }
        let best = (0..self.config.servers)
            .filter_map(|replica| Some((replica, candidate.answers[replica as usize].as_ref()?)))
            .max_by_key(|(replica, answer)| (answer.log_view, answer.op, *replica == me));
        let commit = answers().map(|answer| answer.commit).max().unwrap_or(0);
        if let Some((from, best)) = best {
            let chosen = Chosen {
                from,
                op: best.op,
                commit,
                checksum: best.checksum,
                headers: best.headers.clone(),
                common: 0,
                asked_op: 0,
                early: BTreeMap::new(),
            };
            self.choose(chosen);
        }
    }

    /// Makes our log a beginning of the chosen one.
    fn choose(&mut self, mut chosen: Chosen) {
        if chosen.op < chosen.commit || chosen.op < self.applied {
            return self.fatal(format!(
                "the servers that answered hold the log up to op {} only, but op {} was committed",
                chosen.op,
                chosen.commit.max(self.applied)
            ));
        }
        chosen.common = if chosen.from == self.config.replica {
            chosen.op
        } else {
            self.common_op(chosen.op, chosen.checksum, &chosen.headers)
        };
        self.truncate_to(chosen.common.min(self.log.op()));
        self.commit = self.commit.max(chosen.commit);
        if let Phase::Candidate(candidate) = &mut self.phase {
            candidate.chosen = Some(chosen);
        }
        self.fetch();
    }

    /// The highest op up to which our log is certain to be the one that ends at `op` with this checksum, and of which these
    /// are the last headers.
    ///
    /// There may be no headers at all: whoever tells may have a checkpoint at `op` and nothing before it.
    fn common_op(&self, op: u64, checksum: u128, headers: &[MessageHeader]) -> u64 {
        let is_ours = |op: u64, checksum: u128| self.log.checksum(op) == Some(checksum);
        // What we know to be committed is part of every later log.
        let committed = self.commit.min(self.log.op()).min(self.verified);
        if is_ours(op, checksum) {
            return op.max(committed);
        }
        for theirs in headers.iter().rev() {
            let (op, before) = (theirs.op.get(), theirs.op.get() - 1);
            if is_ours(op, theirs.checksum.get()) {
                return op.max(committed);
            }
            if is_ours(before, theirs.parent.get()) {
                return before.max(committed);
            }
        }
        committed
    }

    /// Asks for the next part of the chosen log that we miss.
    fn fetch(&mut self) {
        let op = self.log.op() + 1;
        let mut header = self.header(Command::RequestPrepare);
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &mut candidate.chosen else { return };
        if op > chosen.op {
            return;
        }
        chosen.asked_op = op;
        header.op = U64::new(op);
        let from = chosen.from;
        self.send(from, header);
    }

    /// Serves the log's end to a primary that has chosen it.
    pub(crate) fn serve_view_change(&mut self, to: u8, op: u64) {
        if self.config.primary_of(self.view) != to || matches!(self.phase, Phase::Candidate(_)) {
            return;
        }
        for op in op..(op + SERVED_OPS).min(self.log.durable() + 1) {
            if let Some(message) = self.log.message(op) {
                self.outputs.push_back(Output::Send { to, message: message.clone() });
            } else if op >= self.journal_first_op {
                self.outputs.push_back(Output::ReadJournal { peer: to, op });
            }
        }
    }

    /// A prepare that we have asked for, to complete our log.
    pub(crate) fn on_fetched_prepare(&mut self, header: MessageHeader, message: Bytes) {
        let (op, next_op) = (header.op.get(), self.log.op() + 1);
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &mut candidate.chosen else { return };
        if (next_op..=chosen.op).contains(&op) && op < chosen.asked_op + SERVED_OPS {
            chosen.early.insert(op, message);
        }
        while let Phase::Candidate(candidate) = &mut self.phase
            && let Some(chosen) = &mut candidate.chosen
            && let Some(message) = chosen.early.remove(&(self.log.op() + 1))
            && self.take_fetched(message)
        {}
    }

    /// Adds a fetched prepare to our log. Returns whether it fits.
    fn take_fetched(&mut self, message: Bytes) -> bool {
        let header = *MessageHeader::view(&message).expect("a prepare has a header");
        let op = header.op.get();
        let Phase::Candidate(candidate) = &self.phase else { return false };
        let Some(chosen) = &candidate.chosen else { return false };
        let expected = chosen.headers.iter().find(|theirs| theirs.op.get() == op);
        if !self.log.is_next(&header) || expected.is_some_and(|theirs| theirs.checksum != header.checksum) {
            return false;
        }
        if op == chosen.op && header.checksum.get() != chosen.checksum {
            // What came before it was not of the chosen log after all.
            let common = chosen.common;
            self.truncate_to(common);
            return false;
        }
        let is_last_asked = op + 1 == chosen.asked_op + SERVED_OPS;
        self.log.push(header, message.clone(), false);
        self.outputs.push_back(Output::WriteJournal { op, message });
        if is_last_asked {
            self.fetch();
        }
        true
    }

    fn advance_candidate(&mut self) {
        let (op, durable, view) = (self.log.op(), self.log.durable(), self.view);
        let is_log_view_durable = self.durable_log_view == view;
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &candidate.chosen else { return };
        if op < chosen.op || durable < chosen.op {
            return;
        }
        assert_eq!(op, chosen.op, "our log is the chosen one");
        if is_log_view_durable {
            return self.become_primary();
        }
        if !std::mem::replace(&mut candidate.has_persisted, true) {
            self.log_view = view;
            self.verified = op;
            self.persist_view();
        }
    }

    fn become_primary(&mut self) {
        self.log_view = self.view;
        self.phase = Phase::Normal;
        self.view_start_op = self.log.op();
        self.view_start_checksum = self.log.position().checksum;
        self.verified = self.log.op();
        self.in_sync_told = 0;
        for peer in &mut self.peers {
            *peer = Peer::new(peer.is_connected, self.now_ns);
        }
        self.timers.stop(Timer::Resend);
        self.timers.set(Timer::Heartbeat, self.now_ns + self.config.heartbeat_interval_ns);
        self.set_role(Role::Primary);
        for replica in self.other_ids() {
            self.send_start_view(replica);
        }
        self.advance_commit();
    }

    /// Tells a backup which log this view has begun with, unless it was told just now.
    pub(crate) fn send_start_view(&mut self, replica: u8) {
        let peer = &mut self.peers[replica as usize];
        let wait_ns = self.config.resend_ns / 4;
        if !peer.is_connected || peer.last_start_view_ns.is_some_and(|last_ns| self.now_ns - last_ns < wait_ns) {
            return;
        }
        peer.last_start_view_ns = Some(self.now_ns);
        let mut header = self.header(Command::StartView);
        header.in_sync = self.in_sync_mask();
        header.parent = U128::new(self.view_start_checksum);
        // Later prepares are of this view and prove themselves.
        self.send_with_headers(replica, header, self.view_start_op);
    }

    pub(crate) fn on_start_view(&mut self, header: &MessageHeader, message: &[u8]) {
        let view = header.view.get();
        if self.config.primary_of(view) != header.replica || view < self.view {
            return;
        }
        let is_known = view == self.view && matches!(self.phase, Phase::Normal | Phase::Joining { .. });
        if is_known {
            self.owes_ok = true;
            return;
        }
        let target_op = header.op.get();
        let Some(headers) = headers_in(message, target_op) else { return };
        if view > self.view {
            self.leave_view(view);
        }
        let common = self.common_op(target_op, header.parent.get(), &headers);
        if common < self.applied {
            return self.fatal(format!(
                "view {view} begins with a log that differs from this server's at op {}, which was committed",
                common + 1
            ));
        }
        self.truncate_to(common);
        self.verified = common;
        self.in_sync_heard = header.in_sync;
        self.phase = Phase::Joining { target_op, has_greeted: false, has_persisted: false };
        self.learn_commit(header.commit.get());
        self.advance_view();
    }

    /// Somebody is in a view above ours.
    pub(crate) fn on_higher_view(&mut self, view: u64) {
        if self.own_answer().is_fresh() && self.role != Role::Primary {
            return self.fatal(format!(
                "this server's data folder is freshly formatted, but its cluster is in view {view} already: \
                 a primary that lost its disk cannot be replaced yet; restore its folder"
            ));
        }
        self.begin_view(view + 1);
    }

    pub(crate) fn on_peer_connected(&mut self, replica: u8) {
        let peer = &mut self.peers[replica as usize];
        peer.is_connected = true;
        peer.rewind(peer.received);
        peer.last_start_view_ns = None;
        if self.durable_view < self.view {
            return;
        }
        match self.phase {
            Phase::Candidate(_) => self.send_start_view_change(replica),
            Phase::Normal if self.role == Role::Primary => {
                if self.peers[replica as usize].has_joined {
                    self.pump_all();
                } else {
                    self.send_start_view(replica);
                }
            }
            _ if self.config.primary_of(self.view) != replica => {}
            Phase::Waiting | Phase::Participant { .. } => self.send_do_view_change(),
            Phase::Normal | Phase::Joining { .. } => {
                let ok = self.ok_header(Command::HeartbeatOk);
                self.send(replica, ok);
            }
        }
    }

    pub(crate) fn on_resend_timer(&mut self) {
        if self.durable_view >= self.view {
            self.resend();
        }
        if !matches!(self.phase, Phase::Normal) {
            self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        }
    }

    fn resend(&mut self) {
        match &self.phase {
            Phase::Normal if self.role == Role::Primary => self.resend_round(),
            Phase::Normal => {}
            Phase::Candidate(candidate) if candidate.chosen.is_some() => self.fetch(),
            Phase::Candidate(_) => {
                for replica in self.other_ids() {
                    self.send_start_view_change(replica);
                }
            }
            Phase::Waiting | Phase::Participant { .. } => self.send_do_view_change(),
            Phase::Joining { .. } => {
                self.owes_ok = true;
                self.request_prepares();
            }
        }
    }
}

/// The headers in the body of a message, if they are the chained end of a log whose last op is `op`.
fn headers_in(message: &[u8], op: u64) -> Option<Vec<MessageHeader>> {
    let size = MessageHeader::view(message)?.size.get() as usize;
    let body = message.get(MessageHeader::SIZE..size)?;
    let headers = <[MessageHeader]>::ref_from_bytes(body).ok()?;
    let is_chained =
        headers.windows(2).all(|pair| pair[1].op.get() == pair[0].op.get() + 1 && pair[1].parent == pair[0].checksum);
    let ends_at_op = headers.last().is_none_or(|last| last.op.get() == op);
    let are_sound = headers
        .iter()
        .all(|header| header.command() == Some(Command::Prepare) && header.header_checksum() == header.checksum.get());
    (is_chained && ends_at_op && are_sound).then(|| headers.to_vec())
}
