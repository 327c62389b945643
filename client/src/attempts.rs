//! What becomes of a request: sent, answered, refused, repeated, given up.
//!
//! The rule that everything here serves: a write is sent again only under the session and sequence that it had, so that
//! the server can tell it from a new one, until it is known not to have been carried out.

use lockstep_proto::{Operation, Status, reply::Reply};
use tokio::time::Instant;

use crate::{
    call::{Answer, Call},
    error::{Error, Failure, FailureKind, Outcome},
    flight::{InFlight, State},
    link::Link,
    session::{Lookup, Session},
    timer::Outage,
};

impl Link {
    /// Gives a number to the next waiting call that may have one.
    pub(crate) fn number_next(&mut self, now: Instant) -> Option<u64> {
        self.drop_settled(now);
        if let Some(call) = self.waiting_unlogged.pop_front() {
            return Some(self.flight.insert(call, 0));
        }
        if self.waiting_writes.is_empty() {
            return None;
        }
        match self.session {
            Session::None => {
                self.session = Session::Registering;
                let register = Call::internal(Operation::Register, self.options.request_timeout, now);
                Some(self.flight.insert(register, 0))
            }
            Session::Open(session) if self.flight.has_room_for_write() => {
                let call = self.waiting_writes.pop_front()?;
                Some(self.flight.insert(call, session))
            }
            Session::Open(_) | Session::Registering => None,
        }
    }

    /// Takes calls off the heads of the queues that must not be sent any more.
    fn drop_settled(&mut self, now: Instant) {
        let failure = self.last_failure.as_ref();
        for waiting in [&mut self.waiting_writes, &mut self.waiting_unlogged] {
            while waiting.front().is_some_and(|call| call.is_cancelled() || call.deadline <= now)
                && let Some(call) = waiting.pop_front()
            {
                call.expire(failure, Outcome::NotExecuted);
            }
        }
    }

    /// Appends the frame of a queued request to `out`.
    pub(crate) fn encode(&mut self, sequence: u64, now: Instant, out: &mut Vec<u8>) {
        let Lookup::Outstanding(entry) = self.flight.get_mut(sequence) else { return };
        if entry.state != State::Queued {
            return;
        }
        if entry.call.is_cancelled() {
            self.flight.remove(sequence);
            return;
        }
        entry.call.body.encode(entry.session, sequence, out);
        entry.state = State::Sent(now);
        entry.attempts += 1;
        self.wake.lower(entry.call.deadline);
        self.wake.lower(entry.resend_at(now, self.options.attempt_timeout));
        self.wake.lower(now + self.options.probe_after);
        if self.owed_since.is_none() {
            self.owed_since = Some(now);
            self.wake.lower(now + self.options.silence_timeout / 2);
        }
    }

    /// Takes one reply in.
    ///
    /// # Errors
    ///
    /// Why the connection must be given up: the reply makes no sense, or the server is not the primary any more.
    pub(crate) fn on_reply(&mut self, reply: &Reply<'_>, now: Instant) -> Result<(), FailureKind> {
        if reply.is_keep_alive() {
            self.kept_alive_at = Some(now);
            return Ok(());
        }
        let sequence = reply.sequence();
        let entry = match self.flight.get_mut(sequence) {
            Lookup::Outstanding(entry) => entry,
            // The answer to a request that was sent twice or given up.
            Lookup::Settled => return Ok(()),
            Lookup::Unused if sequence == 0 && reply.status() == Status::BadRequest => {
                return Err(FailureKind::Protocol(format!("calls our bytes malformed: {}", text_of(reply))));
            }
            Lookup::Unused => {
                return Err(FailureKind::Protocol(format!("reply to request {sequence}, which was never sent")));
            }
        };
        if reply.operation() != entry.call.operation() {
            let (sent, got) = (entry.call.operation(), reply.operation());
            return Err(FailureKind::Protocol(format!("reply to {got:?} where one to {sent:?} was due")));
        }
        if reply.status().is_answer() {
            return self.on_answer(reply);
        }
        if !entry.is_sent() {
            // The refusal of an attempt that was already counted as lost.
            return Ok(());
        }
        match reply.status() {
            Status::NotPrimary => {
                if let Ok(view) = reply.body().try_into() {
                    self.view = self.view.max(u64::from_le_bytes(view));
                }
                entry.state = State::Queued;
                Err(FailureKind::Status(Status::NotPrimary))
            }
            // It cannot serve at present. Somebody else may, and if not, it will be asked again soon.
            Status::Unavailable => {
                entry.state = State::Queued;
                Err(FailureKind::Status(Status::Unavailable))
            }
            Status::Busy => {
                let until = now + self.backoff.pause_after(entry.attempts.saturating_sub(1));
                self.refused(sequence, FailureKind::Status(Status::Busy), now, until);
                Ok(())
            }
            Status::UnknownSession => {
                self.session_unknown(sequence);
                Ok(())
            }
            status => {
                let is_in_doubt = entry.is_in_doubt;
                let error = match status {
                    Status::StaleSequence if is_in_doubt => Error::SessionLost,
                    _ => Error::Refused { status, message: text_of(reply) },
                };
                self.settle(sequence, Err(error));
                Ok(())
            }
        }
    }

    fn on_answer(&mut self, reply: &Reply<'_>) -> Result<(), FailureKind> {
        if reply.operation() != Operation::Ping {
            // A ping is answered by servers that cannot do anything else.
            self.last_failure = None;
            self.outage = None;
        }
        self.budget.give();
        if reply.operation() == Operation::Register {
            if reply.status() != Status::Ok || reply.version() == 0 {
                return Err(FailureKind::Protocol("register answered without a session".to_owned()));
            }
            self.session = Session::Open(reply.version());
        }
        let body = bytes::Bytes::copy_from_slice(reply.body());
        let answer = Answer { status: reply.status(), version: reply.version(), copies: reply.copies(), body };
        self.settle(reply.sequence(), Ok(answer));
        Ok(())
    }

    fn settle(&mut self, sequence: u64, result: Result<Answer, Error>) {
        let Some(entry) = self.flight.remove(sequence) else { return };
        if entry.call.operation() == Operation::Register && result.is_err() {
            self.session = Session::None;
        }
        entry.call.settle(result);
    }

    /// The present attempt was refused without effect. Tries again at `until`.
    fn refused(&mut self, sequence: u64, kind: FailureKind, now: Instant, until: Instant) {
        let failure = kind.at(self.peer_name());
        self.last_failure = Some(failure.clone());
        let Lookup::Outstanding(entry) = self.flight.get_mut(sequence) else { return };
        entry.state = State::Paused(until);
        self.wake.lower(until);
        entry.call.failed_attempts += 1;
        let is_last = entry.call.failed_attempts > self.options.retries_max;
        if is_last {
            self.give_up(sequence, &failure);
        } else if !self.budget.take(now) {
            self.give_up(sequence, &over_budget(&failure));
        }
    }

    fn give_up(&mut self, sequence: u64, failure: &Failure) {
        let Lookup::Outstanding(entry) = self.flight.get_mut(sequence) else { return };
        let outcome = entry.outcome();
        self.settle(sequence, Err(Error::from_failure(failure.clone(), outcome)));
    }

    /// The server does not know the session of a write. One that was sent for the first time was not carried out and
    /// gets a place in the next session; one that was sent before may have been carried out under the lost session.
    fn session_unknown(&mut self, sequence: u64) {
        let Some(entry) = self.flight.remove(sequence) else { return };
        if self.session == Session::Open(entry.session) {
            self.session = Session::None;
        }
        if entry.is_in_doubt {
            entry.call.settle(Err(Error::SessionLost));
            return;
        }
        let mut call = entry.call;
        call.failed_attempts += 1;
        if call.failed_attempts > self.options.retries_max {
            let failure = FailureKind::Status(Status::UnknownSession).at(self.peer_name());
            call.fail(&failure, Outcome::NotExecuted);
        } else {
            self.waiting_writes.push_front(call);
        }
    }

    /// Makes everything that is in flight, and not paused, ready for a new connection.
    pub(crate) fn queue_everything(&mut self) {
        self.unsent.clear();
        for (sequence, entry) in self.flight.iter_mut() {
            if entry.state == State::Queued {
                self.unsent.push_back(sequence);
            }
        }
    }

    /// The connection is gone, and with it the answers to all that was sent on it.
    pub(crate) fn connection_lost(&mut self, kind: FailureKind) {
        let failure = kind.at(self.peer_name());
        self.peer = None;
        self.owed_since = None;
        self.ping_at = None;
        self.kept_alive_at = None;
        self.unsent.clear();
        let now = Instant::now();
        let is_attempt = self.take_attempt(now);
        let retries_max = self.options.retries_max;
        // What the link asks for itself is asked anew on the next connection if it is still wanted.
        self.flight.take_if(|entry| entry.call.reply.is_none());
        self.waiting_unlogged.retain(|call| call.reply.is_some());
        if self.session == Session::Registering {
            self.session = Session::None;
        }
        let mut given_up = Vec::new();
        for (sequence, entry) in self.flight.iter_mut() {
            if !entry.is_sent() {
                continue;
            }
            entry.state = State::Queued;
            entry.is_in_doubt = true;
            entry.call.failed_attempts += u32::from(is_attempt);
            if entry.call.failed_attempts > retries_max {
                given_up.push(sequence);
            }
        }
        for sequence in given_up {
            self.give_up(sequence, &failure);
        }
        self.last_failure = Some(failure);
    }

    /// Nobody takes requests. Whether that counts as another attempt of each of them: the loss of a good connection
    /// does, and after it the passing of time, however often servers are asked meanwhile.
    fn take_attempt(&mut self, now: Instant) -> bool {
        match &mut self.outage {
            Some(outage) => outage.take_attempt(now, &self.backoff),
            None => {
                self.outage = Some(Outage::new(now, &self.backoff));
                true
            }
        }
    }

    /// All servers were asked and none of them is a primary that can be reached.
    pub(crate) fn round_failed(&mut self, failure: Failure) {
        let is_attempt = self.take_attempt(Instant::now());
        let is_permanent = failure.kind.is_permanent();
        if !is_attempt && !is_permanent {
            self.last_failure = Some(failure);
            return;
        }
        let retries_max = if is_permanent { 0 } else { self.options.retries_max };
        let is_spent = |call: &mut Call| {
            call.failed_attempts = call.failed_attempts.saturating_add(1);
            call.failed_attempts > retries_max
        };
        for waiting in [&mut self.waiting_writes, &mut self.waiting_unlogged] {
            for mut call in std::mem::take(waiting) {
                if is_spent(&mut call) {
                    call.fail(&failure, Outcome::NotExecuted);
                } else {
                    waiting.push_back(call);
                }
            }
        }
        for (_, entry) in self.flight.iter_mut() {
            is_spent(&mut entry.call);
        }
        for entry in self.flight.take_if(|entry| entry.call.failed_attempts > retries_max) {
            let outcome = entry.outcome();
            entry.call.fail(&failure, outcome);
        }
        self.last_failure = Some(failure);
    }

    /// Fails what is past its deadline, lets go of what nobody waits for, and queues what is due for another attempt.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.wake.clear();
        self.expire_waiting(now);
        let failure = self.last_failure.clone();
        for entry in self.flight.take_if(|entry| is_finished(entry, now)) {
            if entry.call.operation() == Operation::Register {
                self.session = Session::None;
            }
            let outcome = entry.outcome();
            // A request that is out on a good connection was simply not answered in time, whatever happened before.
            let failure = failure.as_ref().filter(|_| !entry.is_sent());
            entry.call.expire(failure, outcome);
        }
        let (is_connected, kept_alive_at) = (self.peer.is_some(), self.kept_alive_at);
        for (sequence, entry) in self.flight.iter_mut() {
            self.wake.lower(entry.call.deadline);
            match entry.state {
                State::Queued => {}
                State::Paused(until) if until <= now => {
                    entry.state = State::Queued;
                    self.unsent.push_back(sequence);
                }
                State::Paused(until) => self.wake.lower(until),
                State::Sent(at) if is_connected => {
                    // A server that says so is there and has the request, or will read it: to send it again would only
                    // add to what waits, and would be answered after it.
                    let at = kept_alive_at.map_or(at, |kept_alive_at| at.max(kept_alive_at));
                    let resend_at = entry.resend_at(at, self.options.attempt_timeout);
                    if resend_at > now {
                        self.wake.lower(resend_at);
                    } else if entry.call.failed_attempts < self.options.retries_max && self.budget.take(now) {
                        entry.call.failed_attempts += 1;
                        entry.is_in_doubt = true;
                        entry.state = State::Queued;
                        self.unsent.push_back(sequence);
                    }
                }
                State::Sent(_) => {}
            }
        }
    }

    fn expire_waiting(&mut self, now: Instant) {
        let failure = self.last_failure.clone();
        for waiting in [&mut self.waiting_writes, &mut self.waiting_unlogged] {
            for call in std::mem::take(waiting) {
                if call.is_cancelled() {
                    continue;
                }
                if call.deadline <= now {
                    call.expire(failure.as_ref(), Outcome::NotExecuted);
                } else {
                    self.wake.lower(call.deadline);
                    waiting.push_back(call);
                }
            }
        }
    }

    /// Notes that the server has sent a whole reply. Pieces of replies do not count: what follows a wrong length is
    /// swallowed as if it belonged to one huge reply.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.ping_at = None;
        self.owed_since = (!self.flight.is_empty()).then_some(now);
    }

    /// Asks a silent server for a sign of life, and later gives it up.
    pub(crate) fn check_silence(&mut self, now: Instant) -> Result<(), FailureKind> {
        let patience = self.options.silence_timeout / 2;
        let Some(owed_since) = self.owed_since else { return Ok(()) };
        let due_at = self.ping_at.unwrap_or(owed_since) + patience;
        if due_at > now {
            self.wake.lower(due_at);
            return Ok(());
        }
        if self.ping_at.is_some() {
            return Err(FailureKind::Silent(now - owed_since));
        }
        // Its deadline is later than the moment at which the lack of an answer to it ends the connection.
        let ping = Call::internal(Operation::Ping, self.options.silence_timeout * 2, now);
        self.waiting_unlogged.push_front(ping);
        self.ping_at = Some(now);
        self.wake.lower(now + patience);
        Ok(())
    }

    /// Whether a request has been out for so long that there may be another primary by now.
    pub(crate) fn is_in_doubt(&mut self, now: Instant) -> bool {
        let Some(sent_at) = self.flight.oldest_sent_at() else { return false };
        let doubt_at = sent_at + self.options.probe_after;
        if doubt_at > now {
            self.wake.lower(doubt_at);
        }
        doubt_at <= now
    }

    /// Whether it is time to look for a newer primary.
    pub(crate) fn is_look_due(&mut self, now: Instant) -> bool {
        if !self.is_in_doubt(now) {
            return false;
        }
        let not_before = self.look_backoff.arise(now);
        not_before.into_iter().for_each(|at| self.wake.lower(at));
        not_before.is_none()
    }

    fn peer_name(&self) -> &str {
        self.peer.as_deref().unwrap_or("cluster")
    }
}

/// Whether a request is over without an answer: nobody waits for it and it is not out, or its deadline has passed.
fn is_finished(entry: &InFlight, now: Instant) -> bool {
    entry.call.deadline <= now || (entry.call.is_cancelled() && !entry.is_sent())
}

fn over_budget(failure: &Failure) -> Failure {
    FailureKind::RetryBudget(failure.kind.to_string()).at(&failure.address)
}

fn text_of(reply: &Reply<'_>) -> String {
    String::from_utf8_lossy(reply.body()).into_owned()
}
