//! Requests of the front door on their way into the log, the read queue, or another shard.
//!
//! Requests of one connection take effect in the order in which they were given. A read that comes while writes of its
//! connection are unanswered goes through the log behind them; a write that comes while reads are unanswered waits for
//! them.

use lockstep_proto::{
    Status,
    limits::REQUEST_BODY_SIZE_MAX,
    request::{FLAG_STALE, Request},
};
use lockstep_replica::{Refusal, Role};

use super::{
    Core,
    front::{Asker, Desk, Taken},
    requests::{answer_read, parts_of},
    watches::aborted,
};
use crate::resp::{
    door::{PROGRAMS_MAX, READS_ELSEWHERE_MAX},
    mailbox::{Ask, WAITING_BYTES_MAX},
    pending::Form,
    submission::{Payload, Way, is_stale, way},
    values::{NO_PRIMARY, READ_ONLY},
};

/// A request for one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission<'a> {
    pub shard: u16,
    pub payload: Payload<'a>,
    pub is_write: bool,
    /// Of a program that begins with checks: the revisions at which their keys were looked at.
    pub revisions: &'a [u64],
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
        let (mut is_stale, mut is_aborted) = (false, false);
        if let Some(own) = submissions.iter().find(|submission| submission.shard == self.shard) {
            match self.submit_here(desk, asker, own, is_logged, sequence) {
                Submitted::Accepted => {}
                Submitted::Stale => is_stale = true,
                Submitted::Aborted => is_aborted = true,
                Submitted::Answered => return None,
                Submitted::Full => return Some(Taken::NeedsRoom),
            }
        }
        for submission in submissions.iter().filter(|submission| submission.shard != self.shard) {
            let flags = if asker.door.client.is_readonly && !is_logged { FLAG_STALE } else { 0 };
            let parcel = &mut desk.outbox[submission.shard as usize];
            submission.payload.encode(is_logged, flags, sequence, &mut parcel.ask_bytes);
            let end = parcel.ask_bytes.len();
            let revisions = submission.revisions.into();
            parcel.asks.push(Ask { connection: asker.name, sequence, end, revisions });
        }
        asker.door.owe(form, is_logged);
        if is_stale {
            self.answer_stale(desk, asker, sequence);
        }
        if is_aborted {
            let replies = &mut asker.connection.replies.borrow_mut();
            asker.door.answer(sequence, self.shard, Status::Ok, (0, 0), &aborted(), replies);
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
        let at = (0, self.machine.revision - 1);
        asker.door.answer(sequence, self.shard, parts.status, at, body, replies);
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
        // What a node of a Redis Cluster has, a backup tells from what is its own.
        let takes_old = asker.door.client.is_readonly
            || (self.replica_role == Role::Backup && desk.server.is_cluster() && submission.payload.is_about_node());
        let is_stale = is_stale(is_logged, takes_old, self.replica_role == Role::Primary);
        desk.frame.clear();
        submission.payload.encode(is_logged, if is_stale { FLAG_STALE } else { 0 }, sequence, &mut desk.frame);
        let now_ns = asker.now.monotonic_ns;
        if let Payload::Program(program) = submission.payload
            && !self.look_after_watches(program, submission.revisions)
        {
            return Submitted::Aborted;
        }
        if is_stale {
            return Submitted::Stale;
        }
        let refusal = if is_logged {
            if self.journal_is_full() {
                return self.no_room();
            }
            match self.replica.offer(now_ns, &desk.frame) {
                Ok(op) => {
                    self.origins.push(op, asker.name, now_ns);
                    self.note_offered(op, &desk.frame);
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
}

enum Submitted {
    /// It will be answered.
    Accepted,
    /// It is to be answered at once, from what is here.
    Stale,
    /// It is not to be carried out: a watched key was touched.
    Aborted,
    /// It was refused.
    Answered,
    /// There is no room for it now.
    Full,
}
