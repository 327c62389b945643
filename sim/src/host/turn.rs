//! A turn: everything that arrived is in; the replica may close a batch, and what it says is carried out.

use bytes::Bytes;
use lockstep_proto::message::{Command, MessageHeader};
use lockstep_replica::{Input, Output, Role};
use lockstep_server::{journal::ring::Location, stub::NoAnswers};

use super::{
    CLUSTER, Process, SHARD, Server,
    journal::{Change, Command as Disk, Completed, Log, Purpose, Steps},
};
use crate::{
    disk::{Done, Work},
    facts::{Check, header_of},
    schedule::Event,
    shared::Shared,
    transcript::{describe, describe_record},
};

/// How long a turn may wait for more to arrive, in ns.
const TURN_DELAY_NS: u64 = 20_000;

/// How often it is looked at whether a prepare that is held may get onto the disk, in ns.
const HELD_NS: u64 = 100_000;

impl Server {
    /// Gives the replica an input; a turn follows.
    pub(super) fn step(&mut self, shared: &mut Shared, input: Input) {
        let (monotonic_ns, wall_ns) = (self.clock.monotonic_ns(shared.now_ns), self.clock.wall_ns(shared.now_ns));
        if let Some(process) = self.process.as_deref_mut() {
            process.replica.step(monotonic_ns, wall_ns, input);
            self.ask_turn(shared);
        }
    }

    pub(super) fn ask_turn(&mut self, shared: &mut Shared) {
        let (server, boot) = (self.id, self.boot);
        if let Some(process) = self.process.as_deref_mut()
            && !std::mem::replace(&mut process.has_turn, true)
        {
            let delay_ns = shared.host_dice.below(TURN_DELAY_NS);
            shared.after(delay_ns, Event::Turn { server, boot });
        }
    }

    /// A message of another server arrives.
    pub fn take_message(&mut self, shared: &mut Shared, message: Bytes) {
        let header = header_of(&message);
        let body = &message[MessageHeader::SIZE..header.size.get() as usize];
        let checked = header.check(CLUSTER, SHARD).and_then(|command| {
            header.check_body(body)?;
            if command == Command::Prepare { header.check_requests(body) } else { Ok(()) }
        });
        match checked {
            Ok(()) => self.step(shared, Input::Message(message)),
            Err(error) => shared.facts.fail(Check::Assertion, format!("a message is malformed: {error}")),
        }
    }

    /// A connection to another server is open, or gone.
    pub fn peer(&mut self, shared: &mut Shared, peer: u8, is_connected: bool) {
        let input = if is_connected { Input::PeerConnected(peer) } else { Input::PeerDisconnected(peer) };
        self.step(shared, input);
    }

    /// A timer has fired.
    pub fn tick(&mut self, shared: &mut Shared) {
        if let Some(process) = self.process.as_deref_mut() {
            process.tick_ns = u64::MAX;
            self.step(shared, Input::Tick);
        }
    }

    /// Ends a turn.
    pub fn turn(&mut self, shared: &mut Shared) {
        let (monotonic_ns, wall_ns) = (self.clock.monotonic_ns(shared.now_ns), self.clock.wall_ns(shared.now_ns));
        let Some(process) = self.process.as_deref_mut() else { return };
        process.has_turn = false;
        process.replica.step(monotonic_ns, wall_ns, Input::TurnEnd);
        let mut has_room = false;
        while let Some(output) = self.process.as_deref_mut().and_then(|process| process.replica.next_output()) {
            has_room |= matches!(output, Output::WriteJournal { .. } | Output::Apply { .. });
            self.carry_out(shared, output);
        }
        self.answer_reads(shared);
        self.look_after_checkpoint(shared);
        if has_room {
            self.retry_waiting(shared);
        }
        self.take_waiting_commands(shared);
        self.arm(shared);
    }

    /// Sees to it that what waits is looked at in time.
    fn arm(&mut self, shared: &mut Shared) {
        let (server, boot) = (self.id, self.boot);
        let Some(process) = self.process.as_deref_mut() else { return };
        if !process.applies.is_empty() && !std::mem::replace(&mut process.has_apply, true) {
            shared.after(1000, Event::Apply { server, boot });
        }
        if let Some(deadline_ns) = process.replica.next_timeout_ns() {
            let at_ns = self.clock.true_ns(deadline_ns).max(shared.now_ns);
            if at_ns < process.tick_ns {
                process.tick_ns = at_ns;
                shared.schedule.at(at_ns, Event::Tick { server, boot });
            }
        }
    }

    /// Applies what a backup has acknowledged.
    pub fn apply_waiting(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        process.has_apply = false;
        while let Some(message) = self.process.as_deref_mut().and_then(|process| process.applies.pop_front()) {
            let process = self.process.as_deref_mut().expect("it was there just now");
            process.machine.apply(&message, 0, &mut NoAnswers);
            self.cut_if_flagged(shared, &message);
        }
    }

    fn carry_out(&mut self, shared: &mut Shared, output: Output) {
        let id = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        match output {
            Output::Send { to, message } => self.send(shared, to, message),
            Output::WriteJournal { op, message } => self.write_journal(shared, op, message),
            Output::TruncateJournal { op } => {
                shared.line(|| format!("{id}: truncate above op={op}"));
                shared.facts.truncates(id, op);
                process.journal.push(Disk::Truncate { op });
                self.pump(shared);
            }
            Output::ReadJournal { peer, op } => self.read_journal(shared, peer, op),
            Output::RepairJournal { op, message } => {
                shared.line(|| format!("{id}: repair op={op}"));
                process.journal.push(Disk::Repair { op, message });
                self.pump(shared);
            }
            Output::Apply { message, copies } => self.apply(shared, message, copies),
            Output::ReadsConfirmed { ticket } => self.confirm_reads(ticket),
            Output::PersistView(record) => {
                shared.line(|| format!("{id}: persist {}", describe_record(&record)));
                process.journal.push(Disk::Persist(Change::View(record)));
                self.pump(shared);
            }
            Output::RoleChanged(role) => self.change_role(shared, role),
            Output::InSyncChanged { mask } => {
                shared.line(|| format!("{id}: in sync: {mask:07b}"));
                shared.facts.in_sync_changes(id, mask);
            }
            Output::BackupBehind { peer, op } => {
                shared.line(|| format!("{id}: {peer} needs op={op}, which is gone"));
                if let Some(process) = self.process.as_deref_mut() {
                    process.checkpointer.want_at(op);
                }
            }
            Output::Behind { op, first_op, checkpoint_op } => shared.line(|| {
                format!("{id}: needs op={op}, but the primary begins at {first_op}, checkpoint {checkpoint_op}")
            }),
            Output::ReadCheckpoint { peer, op, offset } => self.read_checkpoint(shared, peer, op, offset),
            Output::WriteCheckpoint { op, offset, size, bytes } => {
                self.write_received(shared, op, offset, size, &bytes);
            }
            Output::InstallCheckpoint { op, size } => self.install_received(shared, op, size),
            Output::HandoverEnded { is_done } => shared.line(|| format!("{id}: handover ended, done: {is_done}")),
            Output::HashMismatch { op, peer, .. } => {
                shared.facts.fail(Check::StateHash, format!("{id} finds {peer}'s checkpoint of op {op} different"));
            }
            Output::Fatal { reason } => shared.facts.fail(Check::Fatal, format!("{id} ends itself: {reason}")),
        }
    }

    fn send(&mut self, shared: &mut Shared, to: u8, message: Bytes) {
        let id = self.id;
        shared.line(|| format!("{id}: to {to}: {}", describe(&message)));
        shared
            .trace
            .step(shared.now_ns, [u64::from(id) << 8 | u64::from(to), header_of(&message).checksum.get() as u64]);
        shared.facts.is_sent(id, &message);
        shared.send(id, to, message);
    }

    fn write_journal(&mut self, shared: &mut Shared, op: u64, message: Bytes) {
        let id = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        shared.line(|| format!("{id}: write op={op}"));
        shared.facts.handed_over(id, &message, process.requests.asked(op));
        process.journal.push(Disk::Write { op, message });
        self.pump(shared);
    }

    fn apply(&mut self, shared: &mut Shared, message: Bytes, copies: u8) {
        let (op, checksum) = (header_of(&message).op.get(), header_of(&message).checksum.get());
        let id = self.id;
        shared.line(|| format!("{id}: apply op={op} copies={copies}"));
        shared.facts.is_committed(id, op, checksum);
        let Some(process) = self.process.as_deref_mut() else { return };
        if process.role == Role::Primary {
            shared.facts.is_applied_by_primary(id, op);
            self.apply_and_answer(shared, op, &message, copies);
            self.cut_if_flagged(shared, &message);
        } else {
            process.applies.push_back(message);
        }
    }

    fn change_role(&mut self, shared: &mut Shared, role: Role) {
        let id = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        let view = process.replica.view();
        shared.line(|| format!("{id}: is now {role:?} in view {view}"));
        shared.trace.step(shared.now_ns, [u64::from(id) << 8 | role as u64, view]);
        process.role = role;
        shared.facts.changes_role(id);
        if role == Role::Primary {
            self.apply_waiting(shared);
            // It may have left the view again before this turn's end.
            let is_still = self.process.as_deref().is_some_and(|process| process.status().role == Role::Primary);
            if is_still {
                shared.facts.becomes_primary(id, view);
            }
        } else {
            self.give_up_requests(shared, role);
        }
    }

    /// Carries out what was asked of the journal, as far as it can be now.
    pub(super) fn pump(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let mut steps = Steps::default();
        process.journal.pump(process.machine.applied, &shared.pool, &mut steps);
        self.ask_disk(shared, steps.work);
        for completed in steps.completed {
            self.act_on(shared, completed);
        }
        self.announce_first_op(shared);
    }

    pub(super) fn ask_disk(&mut self, shared: &mut Shared, work: Vec<(Work, Purpose)>) {
        let (server, boot) = (self.id, self.boot);
        let Some(process) = self.process.as_deref_mut() else { return };
        for (work, purpose) in work {
            if let Purpose::Prepare { op, checksum } = purpose {
                shared.facts.is_placed(server, op, checksum);
            }
            if let Purpose::Erase { op } = purpose {
                shared.facts.is_erasing(server, op);
            }
            let id = self.disk.ask(work);
            process.purposes.insert(id, purpose);
            let latency_ns = self.disk.latency_ns(shared.now_ns, &shared.plan.disk, &mut shared.disk_dice);
            let at_ns = (shared.now_ns + latency_ns).max(self.disk.stalled_until_ns);
            shared.schedule.at(at_ns, Event::Disk { server, boot, id });
        }
    }

    /// The disk is done with something.
    pub fn disk_done(&mut self, shared: &mut Shared, id: u64) {
        if shared.now_ns < self.disk.stalled_until_ns {
            let (server, boot) = (self.id, self.boot);
            return shared.schedule.at(self.disk.stalled_until_ns, Event::Disk { server, boot, id });
        }
        if self.disk.is_held(id) {
            let (server, boot) = (self.id, self.boot);
            return shared.after(HELD_NS, Event::Disk { server, boot, id });
        }
        let Some(done) = self.disk.complete(shared.now_ns, id) else { return };
        let server = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        let Some(purpose) = process.purposes.remove(&id) else { return };
        if let Done::Failed(fault) = done {
            shared.counters.count(fault);
            shared.line(|| format!("{server}: {} at the disk", fault.name()));
            process.failure = Some(fault);
            return;
        }
        let mut steps = Steps::default();
        process.journal.complete(&purpose, &shared.pool, &mut steps);
        self.ask_disk(shared, steps.work);
        for completed in steps.completed {
            self.act_on(shared, completed);
        }
        match purpose {
            Purpose::Read { peer, op, place, is_durable } => {
                self.journal_was_read(shared, peer, op, (place, is_durable), done);
            }
            Purpose::CheckpointPiece => self.checkpoint_goes_on(shared),
            Purpose::CheckpointInstall => self.checkpoint_is_installed(shared),
            Purpose::Received { op, offset } => self.piece_is_written(shared, op, offset),
            Purpose::ReceivedInstall { op } => self.received_is_installed(shared, op),
            _ => {}
        }
        self.pump(shared);
        self.ask_turn(shared);
    }

    fn act_on(&mut self, shared: &mut Shared, completed: Completed) {
        let id = self.id;
        if let (Completed::Viewed(_) | Completed::Checkpointed(_) | Completed::Installed(_), Some(process)) =
            (&completed, self.process.as_deref_mut())
        {
            shared.facts.superblock_is_durable(id, process.journal.superblock.durable());
        }
        match completed {
            Completed::Written { op, checksum } => {
                shared.line(|| format!("{id}: op={op} is durable"));
                shared.facts.is_durable(id, op, checksum);
                self.step(shared, Input::JournalWritten { op, checksum });
            }
            Completed::Erased { op } => shared.facts.erased(id, op),
            Completed::Viewed(record) => {
                shared.line(|| format!("{id}: durable: {}", describe_record(&record)));
                self.step(shared, Input::ViewDurable(record));
            }
            Completed::Checkpointed(finished) => self.checkpoint_is_over(shared, Some(&finished)),
            Completed::Overtaken => self.checkpoint_is_over(shared, None),
            Completed::Installed(installation) => self.take_over(shared, *installation),
            Completed::Rejected { op } => self.reject_received(shared, op),
            Completed::Repaired => shared.line(|| format!("{id}: repaired")),
        }
    }

    /// Tells the replica what a backup can still be given, when that has changed.
    pub(super) fn announce_first_op(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let first_op = process.journal.first_op();
        if first_op != process.journal.announced_first_op {
            process.journal.announced_first_op = first_op;
            self.step(shared, Input::JournalTrimmed { first_op });
        }
    }

    fn read_journal(&mut self, shared: &mut Shared, peer: u8, op: u64) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let (message, found) = match &process.journal.log {
            Log::Journal(ring) => (None, ring.locate(op).map(|place| (place, op <= ring.durable_op()))),
            Log::Memory(log) => (log.get(op), None),
        };
        match found {
            Some((place, is_durable)) => {
                let work = Work::Read { offset: place.offset, len: place.padded_size };
                self.ask_disk(shared, vec![(work, Purpose::Read { peer, op, place, is_durable })]);
            }
            None => self.step(shared, Input::JournalRead { peer, op, message, rotten: None }),
        }
    }

    fn journal_was_read(&mut self, shared: &mut Shared, peer: u8, op: u64, was: (Location, bool), done: Done) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let (place, is_durable) = was;
        let Done::Bytes(bytes) = done else { return };
        // The space may have been used again since: then the prepare is gone, and not rotten.
        let is_still_there = process.journal.ring().is_some_and(|ring| ring.locate(op) == Some(place));
        let is_whole = is_prepare(&bytes, place.checksum);
        let message = (is_still_there && is_whole).then(|| Bytes::from(bytes));
        let rotten = (is_still_there && !is_whole && is_durable).then_some(place.checksum);
        self.step(shared, Input::JournalRead { peer, op, message, rotten });
    }
}

impl Process {
    /// Highest op applied, and what of it waits.
    pub fn applied(&self) -> u64 {
        self.machine.applied
    }
}

fn is_prepare(bytes: &[u8], checksum: u128) -> bool {
    let Some(header) = MessageHeader::view(bytes) else { return false };
    header.checksum.get() == checksum
        && header.check(CLUSTER, SHARD) == Ok(Command::Prepare)
        && bytes
            .get(MessageHeader::SIZE..header.size.get() as usize)
            .is_some_and(|body| header.check_body(body).is_ok())
}
