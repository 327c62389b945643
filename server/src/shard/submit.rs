//! Requests of the front door on their way into the log, the read queue, or another shard.
//!
//! Requests of one connection take effect in the order in which they were given. A read that comes while writes of its
//! connection are unanswered goes through the log behind them; a write that comes while reads are unanswered waits for them.

use lockstep_proto::{
    limits::REQUEST_BODY_SIZE_MAX,
    program::Opcode,
    request::{FLAG_STALE, Request},
};
use lockstep_replica::{Refusal, Role};

use super::{
    Core,
    front::{Asker, CROSS_SLOT, Desk, Taken},
    requests::{answer_read, parts_of},
};
use crate::resp::{
    context::{Action, Context, TransactionStep},
    door::{PROGRAMS_MAX, READS_ELSEWHERE_MAX},
    mailbox::{Ask, WAITING_BYTES_MAX},
    pending::Form,
    submission::{Payload, Way, is_stale, way},
    transaction::{Execution, Item},
    values::{NO_PRIMARY, READ_ONLY},
    writer::Writer,
};

/// A request for one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission<'a> {
    pub shard: u16,
    pub payload: Payload<'a>,
    pub is_write: bool,
}

impl Core {
    /// Sends a request on its way. `None` when that is done, or it was refused; else what it waits for.
    #[inline]
    pub(super) fn submit(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        submission: Submission<'_>,
        form: Form,
    ) -> Option<Taken> {
        self.submit_all(desk, asker, &[submission], form)
    }

    /// Sends the requests of one command on their way, to a shard each.
    pub(super) fn submit_all(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        submissions: &[Submission<'_>],
        mut form: Form,
    ) -> Option<Taken> {
        let is_write = submissions[0].is_write;
        let is_walk = || submissions.iter().any(|submission| submission.payload.is_walk());
        let is_logged = match way(asker.door.writes, asker.door.reads, is_write, is_walk) {
            Way::Log => true,
            Way::Read => false,
            Way::NeedsAnswers => return Some(Taken::NeedsAnswers),
        };
        if let Some(size) =
            submissions.iter().map(|submission| submission.payload.size()).find(|&size| size > REQUEST_BODY_SIZE_MAX)
        {
            asker.error(&format!("ERR the command is too large: {size} bytes of {REQUEST_BODY_SIZE_MAX} at most"));
            return None;
        }
        // A frame that is not sound must never get into the log: no server could apply it.
        if !submissions.iter().all(|submission| submission.payload.is_sound(is_logged)) {
            asker.error("ERR a key or value is too large, or the command cannot be carried out by this server");
            return None;
        }
        if is_logged && !matches!(form, Form::Put) && asker.door.writes >= PROGRAMS_MAX {
            return Some(Taken::NeedsAnswers);
        }
        let is_remote = |submission: &&Submission<'_>| submission.shard != self.shard;
        // What other shards answer cannot be put off.
        if asker.door.reads >= READS_ELSEWHERE_MAX && submissions.iter().any(|submission| is_remote(&submission)) {
            return Some(Taken::NeedsAnswers);
        }
        let (mailboxes, outbox) = (&desk.server.mailboxes, &desk.outbox);
        let has_room = |submission: &Submission<'_>| {
            let shard = submission.shard as usize;
            mailboxes[shard].has_room() && outbox[shard].ask_bytes.len() < WAITING_BYTES_MAX
        };
        if !submissions.iter().filter(is_remote).all(has_room) {
            return Some(Taken::NeedsRoom);
        }
        if is_logged && matches!(form, Form::Get) {
            form = Form::Value;
        }
        let sequence = asker.door.pending.next();
        let mut is_stale = false;
        if let Some(own) = submissions.iter().find(|submission| submission.shard == self.shard) {
            match self.submit_here(desk, asker, own, is_logged, sequence) {
                Submitted::Accepted => {}
                Submitted::Stale => is_stale = true,
                Submitted::Answered => return None,
                Submitted::Full => return Some(Taken::NeedsRoom),
            }
        }
        for submission in submissions.iter().filter(|submission| submission.shard != self.shard) {
            let parcel = &mut desk.outbox[submission.shard as usize];
            let flags = if asker.door.client.is_readonly && !is_logged { FLAG_STALE } else { 0 };
            submission.payload.encode(is_logged, flags, sequence, &mut parcel.ask_bytes);
            let end = parcel.ask_bytes.len();
            parcel.asks.push(Ask { connection: asker.name, sequence, end });
        }
        asker.door.owe(form, is_logged);
        if is_stale {
            self.answer_stale(desk, asker, sequence);
        }
        None
    }

    /// Answers the desk's request at once, from what this server has, however old.
    fn answer_stale(&self, desk: &mut Desk, asker: &mut Asker<'_>, sequence: u64) {
        let wall_ns = asker.now.wall_ns.max(self.machine.timestamp_ns);
        let (request, _) = Request::parse_trusted(&desk.frame).expect("it was just made");
        desk.scratch.clear();
        answer_read(&self.machine.store, &self.metrics, wall_ns, &request, &mut desk.scratch);
        let (parts, body) = parts_of(&request, &desk.scratch);
        let replies = &mut asker.connection.replies.borrow_mut();
        asker.door.answer(sequence, self.shard, parts.status, 0, body, replies);
    }

    #[inline]
    fn submit_here(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        submission: &Submission<'_>,
        is_logged: bool,
        sequence: u64,
    ) -> Submitted {
        let is_stale = is_stale(is_logged, asker.door.client.is_readonly, self.replica_role == Role::Primary);
        desk.frame.clear();
        submission.payload.encode(is_logged, if is_stale { FLAG_STALE } else { 0 }, sequence, &mut desk.frame);
        if is_stale {
            return Submitted::Stale;
        }
        let now_ns = asker.now.monotonic_ns;
        let refusal = if is_logged {
            if self.journal_is_full() {
                return self.no_room();
            }
            match self.replica.offer(now_ns, &desk.frame) {
                Ok(op) => {
                    self.origins.push(op, asker.name, now_ns);
                    asker.connection.last_write_op.set(op);
                    return Submitted::Accepted;
                }
                Err(refusal) => refusal,
            }
        } else {
            if !self.reads.has_room() {
                return self.no_room();
            }
            match self.replica.read_ticket() {
                Ok(ticket) => {
                    self.reads.push(ticket, asker.name, &desk.frame, asker.connection.last_write_op.get(), now_ns);
                    return Submitted::Accepted;
                }
                Err(refusal) => refusal,
            }
        };
        match refusal {
            Refusal::Busy => return self.no_room(),
            Refusal::NotPrimary { .. } => asker.error(READ_ONLY),
            Refusal::Recovering => asker.error(NO_PRIMARY),
        }
        Submitted::Answered
    }

    fn no_room(&mut self) -> Submitted {
        self.metrics.busy.increment();
        Submitted::Full
    }

    /// EXEC: the queued commands as one program.
    pub(super) fn execute(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, draw: u64) -> Option<Taken> {
        if asker.door.client.transaction.is_spoilt {
            asker.door.client.transaction.discard();
            asker.door.client.share_transaction();
            asker.error("EXECABORT Transaction discarded because of previous errors.");
            return None;
        }
        let built = match asker.door.built.take() {
            Some(built) => built,
            None => {
                if asker.door.reads > 0 {
                    return Some(Taken::NeedsAnswers);
                }
                match self.build(desk, asker, draw) {
                    Ok(built) => built,
                    Err(text) => {
                        asker.door.client.transaction.discard();
                        asker.door.client.share_transaction();
                        asker.error(text);
                        return None;
                    }
                }
            }
        };
        if built.program.is_empty() {
            asker.reply(|out| {
                built.execution.write(out, &[]);
            });
            desk.meter.deliver(built.execution.deliveries);
        } else {
            let submission = Submission {
                shard: built.shard,
                payload: Payload::Program(built.program.as_bytes()),
                is_write: built.program.is_write(),
            };
            let form = Form::Execute(Box::new(built.execution.clone()));
            if let Some(taken) = self.submit(desk, asker, submission, form) {
                asker.door.built = Some(built);
                return Some(taken);
            }
        }
        asker.door.client.transaction.discard();
        asker.door.client.share_transaction();
        asker.door.is_closing |= built.closes;
        None
    }

    /// Makes EXEC's program, and carries out what does not concern the store.
    fn build(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, draw: u64) -> Result<Box<Built>, &'static str> {
        use lockstep_proto::slot::{shard_of_key, shard_of_slot};
        let shards = self.identity.shards;
        let transaction = std::mem::take(&mut asker.door.client.transaction);
        let mut built = Box::<Built>::default();
        let mut shard = None;
        let mut is_one_shard = true;
        let mut belongs = |other: u16| is_one_shard &= *shard.get_or_insert(other) == other;
        for watch in &transaction.watches {
            belongs(shard_of_key(&watch.key, shards));
            let (version, expiry_ns) = (watch.version.to_le_bytes(), watch.expiry_ns.to_le_bytes());
            built.program.command(Opcode::Check, &[&watch.key, &version, &expiry_ns]);
        }
        let mut error = None;
        for queued in &transaction.queue {
            let arguments = queued.arguments();
            let start = built.execution.literals.len();
            let version = asker.door.client.version;
            let mut context = Context {
                client: &mut asker.door.client,
                server: &desk.server,
                out: Writer::new(&mut built.execution.literals, version),
                program: &mut built.program,
                shard: self.shard,
                is_in_exec: true,
                wall_ns: asker.now.wall_ns,
                draw,
            };
            let action = (queued.spec.run)(&mut context, &arguments);
            desk.meter.stats().record(queued.spec.number, 0, false);
            let is_answered =
                matches!(action, Action::Done | Action::Close | Action::Transaction(_) | Action::Admin(_));
            match action {
                Action::Done => {}
                Action::Close => built.closes = true,
                Action::Get { key } => {
                    belongs(shard_of_key(key, shards));
                    built.program.command(Opcode::Get, &[key]);
                }
                Action::Put { key, value } => {
                    belongs(shard_of_key(key, shards));
                    built.program.command(Opcode::Set, &[key, value]);
                }
                Action::Everywhere { .. } | Action::Scan { .. } if desk.server.is_cluster() => belongs(self.shard),
                // A step of a scan may have to go on in the next shard.
                Action::Scan { .. } if shards > 1 => error = Some(CROSS_SLOT),
                Action::Run { slot, .. } | Action::Scan { slot, .. } => belongs(shard_of_slot(slot, shards)),
                Action::Split { opcode, keys, .. } => {
                    keys.iter().for_each(|key| belongs(shard_of_key(key, shards)));
                    built.program.command_of(opcode, keys.iter());
                }
                // All shards are more than one.
                Action::Everywhere { .. } if shards > 1 => error = Some(CROSS_SLOT),
                Action::Everywhere { .. } => belongs(0),
                Action::Transaction(TransactionStep::Unwatch) => built.execution.literals.extend_from_slice(b"+OK\r\n"),
                Action::Transaction(_) | Action::Admin(_) => {
                    built.execution.literals.extend_from_slice(b"-ERR Command not allowed inside a transaction\r\n")
                }
            }
            if is_answered && built.execution.literals.len() == start {
                // CLIENT REPLY OFF and SKIP answer nothing, but an array has no gaps.
                built.execution.literals.extend_from_slice(b"+OK\r\n");
            }
            let end = built.execution.literals.len();
            built.execution.items.push(if is_answered { Item::Literal(start..end) } else { Item::Result });
        }
        built.execution.deliveries = std::mem::take(&mut asker.door.client.published);
        asker.door.client.transaction = transaction;
        if let Some(error) = error.or((!is_one_shard).then_some(CROSS_SLOT)) {
            return Err(error);
        }
        let watches = &asker.door.client.transaction.watches;
        if built.program.count() == watches.len()
            && let Some(watch) = watches.first()
        {
            // Checks alone are no program.
            built.program.command(Opcode::Exists, &[&watch.key]);
        }
        built.shard = shard.unwrap_or(self.shard);
        Ok(built)
    }
}

/// EXEC's program and what is to be done with its results.
#[derive(Debug, Default)]
pub struct Built {
    program: lockstep_proto::program::Builder,
    execution: Execution,
    shard: u16,
    closes: bool,
}

enum Submitted {
    /// It will be answered.
    Accepted,
    /// It is to be answered at once, from what is here.
    Stale,
    /// It was refused.
    Answered,
    /// There is no room for it now.
    Full,
}
