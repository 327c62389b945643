//! What a committed log means: a second, naive state machine, against which every answer of the real one is held.
//!
//! It shares no code with store and sessions. The committed log is carried out on it once, when the first server learns
//! that an op is committed.

use std::{collections::BTreeMap, rc::Rc};

use lockstep_proto::{Operation, Status, limits::SESSION_WINDOW, message::MessageHeader, request::Request};

use super::presence::Presence;
use crate::{
    keyspace::{Expected, Keyspace, Moment, Time, Version, keys_of},
    plan::WorkloadPlan,
};

/// The answer to a request of the log.
pub type Verdict = Rc<Expected>;

#[derive(Clone, Debug, Default)]
struct ModelSession {
    last_op: u64,
    highest: u64,
    answers: BTreeMap<u64, Verdict>,
}

/// A request of the committed log that was carried out, and not refused or answered again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub(super) op: u64,
    /// Its place among the requests of the op.
    pub(super) index: usize,
    pub(super) revision: u64,
    pub(super) time_ns: u64,
}

/// The state after all committed ops so far.
#[derive(Clone, Debug)]
pub struct Model {
    effects: Vec<Effect>,
    keyspace: Keyspace,
    presence: Presence,
    /// The last revision after each op.
    revisions: Vec<u64>,
    sessions: BTreeMap<u64, ModelSession>,
    sessions_max: usize,
    store_bytes_max: u64,
    now_ns: u64,
}

impl Model {
    /// The state before the first op.
    pub fn new(workload: &WorkloadPlan) -> Model {
        Model {
            effects: Vec::new(),
            keyspace: Keyspace::default(),
            presence: Presence::default(),
            revisions: Vec::new(),
            sessions: BTreeMap::new(),
            sessions_max: workload.sessions_max,
            store_bytes_max: workload.store_bytes_max,
            now_ns: 0,
        }
    }

    /// Carries a prepare out. Returns an answer for each of its requests.
    pub fn apply(&mut self, message: &[u8]) -> Vec<Verdict> {
        let header = MessageHeader::view(message).expect("a prepare has a header");
        let mut rest = &message[MessageHeader::SIZE..header.size.get() as usize];
        let mut verdicts = Vec::with_capacity(header.request_count.get() as usize);
        self.now_ns = header.timestamp_ns.get();
        let mut revision = header.revision.get();
        while let Some((request, after)) = Request::parse_trusted(rest) {
            rest = after;
            verdicts.push(self.take((header.op.get(), verdicts.len()), revision, &request));
            revision += 1;
        }
        self.revisions.push(revision - 1);
        verdicts
    }

    /// The answer to a read at the time of the last op.
    pub fn read(&self, request: &Request<'_>) -> Expected {
        let moment = Moment { time: Time::exact(self.now_ns), version: Version::NONE };
        self.keyspace.clone().carry_out(&moment, request, false)
    }

    /// Timestamp of the last op.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What the keys have been so far.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The last revision after an op.
    pub(super) fn revision_after(&self, op: u64) -> u64 {
        op.checked_sub(1).map_or(0, |index| self.revisions[index as usize])
    }

    /// All requests so far that were carried out, in order.
    pub(super) fn effects(&self) -> &[Effect] {
        &self.effects
    }

    fn take(&mut self, (op, index): (u64, usize), revision: u64, request: &Request<'_>) -> Verdict {
        if request.operation() == Operation::Register {
            if self.sessions.len() == self.sessions_max {
                let idle = self.sessions.iter().map(|(&number, session)| (session.last_op, number)).min();
                self.sessions.remove(&idle.expect("a full table is not empty").1);
            }
            self.sessions.insert(revision, ModelSession { last_op: op, ..ModelSession::default() });
            return Rc::new(Expected::plain(Status::Ok, Version::Exact(revision)));
        }
        if request.session() == 0 {
            // It has no name, so it is carried out as often as it is there.
            return self.carry_out((op, index), revision, request);
        }
        let refusal = |status| Rc::new(Expected::plain(status, Version::NONE));
        let sequence = request.sequence();
        let Some(session) = self.sessions.get_mut(&request.session()) else { return refusal(Status::UnknownSession) };
        session.last_op = op;
        if let Some(verdict) = session.answers.get(&sequence) {
            return verdict.clone();
        }
        if session.highest.saturating_sub(SESSION_WINDOW as u64) >= sequence {
            return refusal(Status::StaleSequence);
        }
        session.highest = session.highest.max(sequence);
        let lowest = session.highest.saturating_sub(SESSION_WINDOW as u64) + 1;
        let verdict = self.carry_out((op, index), revision, request);
        let session = self.sessions.get_mut(&request.session()).expect("it was there just now");
        session.answers.insert(sequence, verdict.clone());
        session.answers.retain(|sequence, _| *sequence >= lowest);
        verdict
    }

    fn carry_out(&mut self, (op, index): (u64, usize), revision: u64, request: &Request<'_>) -> Verdict {
        self.keyspace.drop_expired(Time::exact(self.now_ns));
        if let Some(refusal) = self.keyspace.refusal(request, self.store_bytes_max) {
            return Rc::new(refusal);
        }
        self.effects.push(Effect { op, index, revision, time_ns: self.now_ns });
        let moment = Moment { time: Time::exact(self.now_ns), version: Version::Exact(revision) };
        let expected = self.keyspace.carry_out(&moment, request, false);
        for key in keys_of(request) {
            self.presence.note(revision, key, self.keyspace.get(key));
        }
        Rc::new(expected)
    }
}
