//! A replica: its state, and the way from an input to what it changes.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_proto::{
    limits::SERVERS_MAX,
    message::{Command, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::{
    IntoBytes,
    little_endian::{U64, U128},
};

use crate::{
    batch::{BatchPool, OpenBatch},
    chance::Chance,
    config::Config,
    handover::Handover,
    hashes::Checkpoint,
    io::{Input, Output, Recovered, Refusal},
    log::{Log, Position},
    peers::Peer,
    quorum::Quorums,
    record::ViewRecord,
    repair::Repair,
    status::{PeerState, ReplicaStatus, Role},
    timers::{Timer, TimerTable},
    transfer::{Installed, Transfer},
    view::Phase,
};

/// One server's part in a replication group. See the crate's page.
pub struct Replica<P: BatchPool> {
    pub(crate) config: Config,
    pub(crate) quorums: Quorums,
    pub(crate) pool: P,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) timers: TimerTable,
    /// Monotonic time of the input at hand, in ns.
    pub(crate) now_ns: u64,
    /// Wall time of the input at hand, in ns since 1970.
    pub(crate) wall_ns: u64,

    pub(crate) view: u64,
    pub(crate) log_view: u64,
    /// See [`ViewRecord`].
    pub(crate) vouch_op: u64,
    pub(crate) incarnations: [u64; SERVERS_MAX as usize],
    pub(crate) is_recovering: bool,
    /// Of these, what is durable.
    pub(crate) durable: ViewRecord,
    pub(crate) phase: Phase,
    pub(crate) role: Role,

    pub(crate) log: Log,
    /// Highest op known to be committed. May be above the end of the log at a backup.
    pub(crate) commit: u64,
    /// Highest op given out to be applied.
    pub(crate) applied: u64,
    /// Highest op of which it and all before are certain to be this view's log. See `backup.rs`.
    pub(crate) verified: u64,
    pub(crate) journal_first_op: u64,
    /// The last checkpoints of this server, oldest first.
    pub(crate) checkpoints: VecDeque<Checkpoint>,

    // Views.
    pub(crate) chance: Chance,
    /// What must come back with an answer that this replica waits for.
    pub(crate) nonce: u64,
    pub(crate) is_suspecting: bool,
    /// When each server was last heard to suspect this view.
    pub(crate) suspected_ns: [Option<u64>; SERVERS_MAX as usize],
    /// When this view is suspected, unless something happens before.
    pub(crate) progress_due_ns: u64,
    /// How long that is after the last time something happened.
    pub(crate) view_wait_ns: u64,
    /// Whether the time was prolonged because this process did not run.
    pub(crate) has_grace: bool,
    /// Views in a row that did not begin.
    pub(crate) failed_views: u32,
    /// Wiped servers that wait for an answer: their nonces.
    pub(crate) recoveries: [Option<u64>; SERVERS_MAX as usize],
    pub(crate) transfer: Option<Transfer>,
    pub(crate) repairs: Vec<Repair>,

    // Primary.
    pub(crate) open: Option<OpenBatch<P::Buffer>>,
    pub(crate) peers: Vec<Peer>,
    /// Last op of the log with which the view began: reads wait until it is applied.
    pub(crate) view_start_op: u64,
    /// Checksum of that op's header.
    pub(crate) view_start_checksum: u128,
    /// The last read round that was asked for.
    pub(crate) round: u64,
    pub(crate) round_confirmed: u64,
    pub(crate) has_reads: bool,
    pub(crate) in_sync_told: u8,
    /// What was committed when this primary's last heartbeat was due.
    pub(crate) heartbeat_commit: u64,
    pub(crate) handover: Option<Handover>,
    /// Whether the next prepare is to ask all for a checkpoint.
    pub(crate) is_checkpoint_due: bool,
    /// The commit that was seen last, and when it was new; the same of what is durable.
    pub(crate) seen_commit: u64,
    pub(crate) commit_moved_ns: u64,
    pub(crate) seen_durable: u64,
    pub(crate) durable_moved_ns: u64,

    // Backup.
    pub(crate) owes_ok: bool,
    pub(crate) round_seen: u64,
    pub(crate) in_sync_heard: u8,
    pub(crate) last_request_ns: Option<u64>,
    pub(crate) is_behind: bool,
}

impl<P: BatchPool> Replica<P> {
    /// A replica that starts from what its host found on the disk.
    ///
    /// # Panics
    ///
    /// If the settings do not pass [`Config::check`], or `recovered` contradicts itself.
    pub fn new(config: Config, mut recovered: Recovered, pool: P, now_ns: u64) -> Replica<P> {
        if let Err(error) = config.check() {
            panic!("settings that were not checked: {error}");
        }
        let servers = config.servers;
        let (log, record, verified) = take_log(&mut recovered);
        let mut replica = Replica {
            quorums: Quorums::of(servers),
            pool,
            outputs: VecDeque::new(),
            timers: TimerTable::default(),
            now_ns,
            wall_ns: recovered.commit_timestamp_ns,
            view: record.view,
            log_view: record.log_view,
            vouch_op: record.vouch_op,
            incarnations: record.incarnations,
            is_recovering: record.is_recovering,
            durable: recovered.record,
            phase: Phase::Waiting,
            role: Role::Recovering,
            // A stray among it is below what a commit quorum holds: `docs/replication.md`, Safety, 14.
            verified,
            log,
            commit: recovered.commit,
            applied: recovered.commit,
            journal_first_op: recovered.journal_first_op,
            checkpoints: VecDeque::new(),
            chance: Chance::new(config.jitter_seed, config.replica),
            nonce: 0,
            is_suspecting: false,
            suspected_ns: Default::default(),
            progress_due_ns: 0,
            view_wait_ns: 0,
            has_grace: false,
            failed_views: 0,
            recoveries: Default::default(),
            transfer: None,
            repairs: Vec::new(),
            open: None,
            peers: (0..servers).map(|_| Peer::new(false, now_ns)).collect(),
            view_start_op: 0,
            view_start_checksum: 0,
            round: 0,
            round_confirmed: 0,
            has_reads: false,
            in_sync_told: 0,
            heartbeat_commit: 0,
            handover: None,
            is_checkpoint_due: false,
            seen_commit: 0,
            commit_moved_ns: now_ns,
            seen_durable: 0,
            durable_moved_ns: now_ns,
            owes_ok: false,
            round_seen: 0,
            in_sync_heard: 0,
            last_request_ns: None,
            is_behind: false,
            config,
        };
        replica.note_checkpoint(recovered.checkpoint_op, recovered.checkpoint_hash);
        replica.restart();
        replica
    }

    /// Takes an input in. What is to be done about it waits in [`Replica::next_output`].
    ///
    /// `now_ns` is monotonic; `wall_ns` is the time since 1970 and decides the expiry of keys.
    pub fn step(&mut self, now_ns: u64, wall_ns: u64, input: Input) {
        self.now_ns = now_ns.max(self.now_ns);
        self.wall_ns = wall_ns;
        match input {
            Input::Message(message) => self.on_message(message),
            Input::JournalWritten { op, checksum } => self.on_journal_written(op, checksum),
            Input::JournalRead { peer, op, rotten: Some(checksum), .. } => self.begin_repair(peer, op, checksum),
            Input::JournalRead { peer, op, message, rotten: None } => self.on_journal_read(peer, op, message),
            Input::JournalTrimmed { first_op } => self.journal_first_op = first_op,
            Input::ViewDurable(record) => self.on_record_durable(record),
            Input::PeerConnected(peer) => self.on_peer_connected(peer),
            Input::PeerDisconnected(peer) => self.on_peer_disconnected(peer),
            Input::Handover { to } => self.on_handover_wanted(to),
            Input::CheckpointDue => self.is_checkpoint_due = self.role == Role::Primary,
            Input::CheckpointDurable { op, state_hash } => self.note_checkpoint(op, state_hash),
            Input::CheckpointRead { peer, op, offset, size, bytes } => {
                self.on_checkpoint_read(peer, op, offset, size, bytes.as_ref());
            }
            Input::CheckpointWritten { op, offset } => self.on_checkpoint_written(op, offset),
            Input::CheckpointInstalled { op, checksum, revision, timestamp_ns, state_hash } => {
                let position = Position { checksum, revision, timestamp_ns };
                self.on_checkpoint_installed(Installed { op, position, state_hash });
            }
            Input::CheckpointRejected { op } => self.on_checkpoint_rejected(op),
            Input::TurnEnd => self.on_turn_end(),
            Input::Tick => self.on_tick(),
        }
        self.check_invariants();
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due, in monotonic ns.
    pub fn next_timeout_ns(&self) -> Option<u64> {
        self.timers.next_timeout_ns()
    }

    /// What this replica tells about itself.
    pub fn status(&self) -> ReplicaStatus {
        let is_primary = self.role == Role::Primary;
        let in_sync = if is_primary { self.in_sync_mask() } else { self.in_sync_heard };
        let me = self.config.replica;
        let peers = (0..self.config.servers)
            .zip(&self.peers)
            .map(|(replica, peer)| PeerState {
                replica,
                durable: if replica == me { self.log.durable() } else { peer.received },
                is_connected: replica == me || peer.is_connected,
                is_in_sync: in_sync & (1 << replica) != 0,
                is_behind: is_primary && peer.is_behind,
            })
            .collect();
        ReplicaStatus {
            role: self.role,
            view: self.view,
            log_view: self.log_view,
            op: self.log.op(),
            durable: self.log.durable(),
            commit: self.commit,
            applied: self.applied,
            pipeline: if is_primary { (self.log.op() - self.applied) as u32 } else { 0 },
            is_suspecting: self.is_suspecting,
            in_sync,
            peers,
        }
    }

    /// The view, without the rest of the status.
    pub fn view(&self) -> u64 {
        self.view
    }

    fn on_message(&mut self, message: Bytes) {
        let header = *MessageHeader::view(&message).expect("the host has checked the message");
        let Some(command) = header.command() else { return };
        if command != Command::Prepare && !self.is_heard(command, &header) {
            return;
        }
        match command {
            Command::Prepare => self.on_prepare(header, message),
            Command::PrepareOk | Command::HeartbeatOk => self.on_ok(&header),
            Command::Heartbeat => self.on_heartbeat(&header),
            Command::RequestPrepare => self.on_request_prepare(&header),
            Command::Behind => self.on_behind(&header),
            Command::StartViewChange => self.on_start_view_change(&header),
            Command::DoViewChange => self.on_do_view_change(&header, &message),
            Command::StartView => self.on_start_view(&header, &message),
            Command::Suspect => self.on_suspect(&header),
            Command::Handover => self.on_handover(&header),
            Command::Recovery => self.on_recovery(&header),
            Command::RecoveryResponse => self.on_recovery_response(&header),
            Command::RequestCheckpoint => self.on_request_checkpoint(&header),
            Command::CheckpointChunk => self.on_checkpoint_chunk(&header, &message),
            Command::Diverged => self.on_diverged(&header),
        }
    }

    /// Whether a message concerns this replica, in the state that both are in.
    fn is_heard(&mut self, command: Command, header: &MessageHeader) -> bool {
        let from = header.replica;
        if from == self.config.replica || !self.is_server(from) {
            return false;
        }
        let is_recovery = matches!(command, Command::Recovery | Command::RecoveryResponse);
        if self.is_recovering {
            // It might have promised, before it was wiped, to listen to nobody in this view.
            return command == Command::RecoveryResponse;
        }
        let (incarnation, known) = (header.incarnations[from as usize].get(), self.incarnations[from as usize]);
        if !is_recovery && header.view.get() == 0 && self.is_reformatted(header) {
            return false;
        }
        // What it said before its disk was wiped does not count. But a question may be of now, by a clock that was set
        // back.
        incarnation >= known || command == Command::Recovery || mutant::is(Mutant::StaleIncarnationCounts)
    }

    pub(crate) fn is_server(&self, replica: u8) -> bool {
        replica < self.config.servers
    }

    fn on_journal_written(&mut self, op: u64, checksum: u128) {
        self.log.set_durable(op, checksum);
        match self.role {
            Role::Primary => self.advance_commit(),
            Role::Backup => self.owes_ok = true,
            Role::Recovering => {
                self.owes_ok = true;
                self.advance_view();
            }
        }
    }

    fn on_turn_end(&mut self) {
        match self.role {
            Role::Primary => self.end_primary_turn(),
            Role::Backup | Role::Recovering => self.end_backup_turn(),
        }
        self.forget();
    }

    fn on_tick(&mut self) {
        if let Some(due_ns) = self.timers.take_expired(Timer::Heartbeat, self.now_ns)
            && self.role == Role::Primary
        {
            self.on_heartbeat_timer(due_ns);
        }
        if self.timers.take_expired(Timer::Linger, self.now_ns).is_some() && self.role == Role::Primary {
            self.close_batch_if_due();
        }
        if self.timers.take_expired(Timer::Resend, self.now_ns).is_some() {
            self.on_resend_timer();
        }
        if let Some(due_ns) = self.timers.take_expired(Timer::View, self.now_ns) {
            self.on_view_timer(due_ns);
        }
        if self.timers.take_expired(Timer::Transfer, self.now_ns).is_some() {
            self.on_transfer_timer();
        }
        if self.timers.take_expired(Timer::Repair, self.now_ns).is_some() {
            self.ask_for_repairs();
        }
    }

    /// Lets go of prepares that are applied here, durable here, and held by every backup that keeps up.
    fn forget(&mut self) {
        let mut needed_from = self.applied.min(self.log.durable()) + 1;
        while self.log.message_bytes() > self.config.log_memory_bytes_max && self.log.forget_message(needed_from - 1) {}
        if self.role == Role::Primary {
            for (_, peer) in self.others() {
                if peer.is_in_sync && peer.is_connected {
                    needed_from = needed_from.min(peer.received + 1);
                }
            }
        }
        while self.log.forget_message(needed_from - 1) {}
        self.log.forget_headers(self.config.headers_kept());
    }

    /// The other servers.
    pub(crate) fn others(&self) -> impl Iterator<Item = (u8, &Peer)> {
        let me = self.config.replica;
        (0..self.config.servers).zip(&self.peers).filter(move |(replica, _)| *replica != me)
    }

    /// The other servers' ids.
    pub(crate) fn other_ids(&self) -> impl Iterator<Item = u8> + use<P> {
        let me = self.config.replica;
        (0..self.config.servers).filter(move |replica| *replica != me)
    }

    /// A header for a message of this replica, in its view.
    ///
    /// # Panics
    ///
    /// If the view is not durable yet: after a crash, this replica would not know that it had promised not to work in
    /// an earlier one.
    pub(crate) fn header(&self, command: Command) -> MessageHeader {
        assert!(self.may_speak(), "no message carries a view that is not durable");
        let mut header =
            MessageHeader::new(command, self.config.cluster, self.config.shard, self.config.replica, self.view);
        header.commit = U64::new(self.commit.min(self.log.op()));
        let is_fence_skipped = mutant::is(Mutant::LogViewFenceSkipped);
        header.log_view = U64::new(if is_fence_skipped { self.log_view } else { self.durable.log_view });
        header.checkpoint = U64::new(self.checkpoint().op);
        let me = self.config.replica as usize;
        header.incarnations[me] = U64::new(self.incarnations[me]);
        header
    }

    /// Sends a message without a body.
    pub(crate) fn send(&mut self, to: u8, mut header: MessageHeader) {
        header.seal(&[]);
        self.outputs.push_back(Output::Send { to, message: Bytes::copy_from_slice(header.as_bytes()) });
    }

    /// Sends a message whose body is the headers of the log's end, up to `op`.
    pub(crate) fn send_with_headers(&mut self, to: u8, mut header: MessageHeader, op: u64) {
        header.op = U64::new(op);
        let mut body: Vec<u8> = Vec::new();
        for entry in self.log.headers_to(op, self.config.headers_kept()) {
            body.extend_from_slice(entry.as_bytes());
        }
        header.seal(&body);
        let message = [header.as_bytes(), &body].concat();
        self.outputs.push_back(Output::Send { to, message: Bytes::from(message) });
    }

    /// An `ok`: everything up to `op` is durable here, and certain to be this view's log.
    pub(crate) fn ok_header(&self, command: Command) -> MessageHeader {
        let mut header = self.header(command);
        let durable = if mutant::is(Mutant::AckBeforeDurable) { self.log.op() } else { self.log.durable() };
        let op = durable.min(self.verified);
        header.op = U64::new(op);
        header.parent = U128::new(self.log.checksum(op).unwrap_or(0));
        header.round = U64::new(self.round_seen);
        header.state_hash = U128::new(self.checkpoint().state_hash);
        header
    }

    /// Gives out what may be applied.
    pub(crate) fn apply_to(&mut self, op: u64, copies: u8) {
        let first = self.outputs.len();
        while self.applied < op {
            let message = self.log.message(self.applied + 1).expect("what is not applied is in memory").clone();
            self.applied += 1;
            self.outputs.push_back(Output::Apply { message, copies });
        }
        if mutant::is(Mutant::ApplyOutOfOrder) && first + 1 < self.outputs.len() {
            self.outputs.swap(first, first + 1);
        }
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        if self.role != role {
            self.role = role;
            self.outputs.push_back(Output::RoleChanged(role));
        }
    }

    pub(crate) fn fatal(&mut self, reason: String) {
        self.outputs.push_back(Output::Fatal { reason });
    }

    /// Why nothing can be offered now, if so.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.role {
            Role::Primary => None,
            Role::Backup => Some(Refusal::NotPrimary { view: self.view }),
            Role::Recovering if self.config.primary_of(self.view) != self.config.replica => {
                Some(Refusal::NotPrimary { view: self.view })
            }
            Role::Recovering => Some(Refusal::Recovering),
        }
    }

    /// What holds after every step. Cheap, so it is checked in release builds too.
    fn check_invariants(&self) {
        assert!(
            self.applied <= self.commit || mutant::is(Mutant::ApplyUncommitted),
            "only what is committed is applied"
        );
        let is_verified = self.applied <= self.verified || mutant::is(Mutant::ApplyUnverified);
        assert!(is_verified, "only what is certain to be this view's log is applied");
        assert!(self.verified <= self.log.op() && self.log.durable() <= self.log.op());
        assert!(self.log_view <= self.view && self.durable.log_view <= self.durable.view);
        assert!(self.role != Role::Primary || self.durable.log_view == self.view, "a primary's view is durable");
        if self.role == Role::Primary {
            let inherited = self.view_start_op.saturating_sub(self.applied);
            let in_flight = self.log.op() - self.applied;
            assert!(in_flight <= u64::from(self.config.pipeline_max).max(inherited), "the pipeline is bounded");
        }
    }
}

/// The log that was recovered, what is to be remembered of it, and up to where it is certain.
fn take_log(recovered: &mut Recovered) -> (Log, ViewRecord, u64) {
    let position = Position {
        checksum: recovered.commit_checksum,
        revision: recovered.revision,
        timestamp_ns: recovered.commit_timestamp_ns,
    };
    let mut log = Log::new(recovered.commit, position, std::mem::take(&mut recovered.headers));
    for message in std::mem::take(&mut recovered.suffix) {
        let header = *MessageHeader::view(&message).expect("a prepare has a header");
        log.push(header, message, true);
    }
    let mut record = recovered.record;
    let mut verified = log.op();
    if record.vouch_op > 0 {
        // What it holds beyond what it had lost may have been taken in while it joined its view again, and be part of
        // no log. It counts as lost, too, as far as it is not certain.
        record.vouch_op = record.vouch_op.max(log.op());
        let is_certain = |op: &u64| log.header(*op).is_some_and(|header| header.view.get() == record.log_view);
        verified = (recovered.commit + 1..=log.op()).rev().find(is_certain).unwrap_or(recovered.commit);
    }
    (log, record, verified)
}
