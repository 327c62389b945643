//! What a committed log means: a second, naive state machine, against which every answer of the real one is held.
//!
//! It shares no code with store and sessions. The committed log is carried out on it once, when the first server learns
//! that an op is committed.

use std::collections::BTreeMap;

use lockstep_proto::{Operation, Status, limits::SESSION_WINDOW, message::MessageHeader, request::Request};

use crate::plan::MS;

/// The answer to a request of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub status: Status,
    /// Version, as in the reply.
    pub version: u64,
    /// The sum of an increment that was carried out; else 0.
    pub sum: i64,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its value.
    pub value: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// When it expires, in ns since 1970; 0: never.
    pub expiry_ns: u64,
}

#[derive(Clone, Debug, Default)]
struct ModelSession {
    last_op: u64,
    highest: u64,
    answers: BTreeMap<u64, Verdict>,
}

/// The state after all committed ops so far.
#[derive(Clone, Debug)]
pub struct Model {
    entries: BTreeMap<Vec<u8>, ModelEntry>,
    sessions: BTreeMap<u64, ModelSession>,
    sessions_max: usize,
    now_ns: u64,
}

impl Model {
    /// The state before the first op.
    pub fn new(sessions_max: usize) -> Model {
        Model { entries: BTreeMap::new(), sessions: BTreeMap::new(), sessions_max, now_ns: 0 }
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
            verdicts.push(self.take(header.op.get(), revision, &request));
            revision += 1;
        }
        verdicts
    }

    /// A key, if it exists at the time of the last op.
    pub fn entry(&self, key: &[u8]) -> Option<&ModelEntry> {
        self.entries.get(key).filter(|entry| entry.expiry_ns == 0 || entry.expiry_ns > self.now_ns)
    }

    /// Timestamp of the last op.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn take(&mut self, op: u64, revision: u64, request: &Request<'_>) -> Verdict {
        if request.operation() == Operation::Register {
            if self.sessions.len() == self.sessions_max {
                let idle = self.sessions.iter().map(|(&number, session)| (session.last_op, number)).min();
                self.sessions.remove(&idle.expect("a full table is not empty").1);
            }
            self.sessions.insert(revision, ModelSession { last_op: op, ..ModelSession::default() });
            return Verdict { status: Status::Ok, version: revision, sum: 0 };
        }
        let refusal = |status| Verdict { status, version: 0, sum: 0 };
        let sequence = request.sequence();
        let Some(session) = self.sessions.get_mut(&request.session()) else { return refusal(Status::UnknownSession) };
        session.last_op = op;
        if let Some(verdict) = session.answers.get(&sequence) {
            return *verdict;
        }
        if session.highest.saturating_sub(SESSION_WINDOW as u64) >= sequence {
            return refusal(Status::StaleSequence);
        }
        session.highest = session.highest.max(sequence);
        let lowest = session.highest.saturating_sub(SESSION_WINDOW as u64) + 1;
        let verdict = self.carry_out(revision, request);
        let session = self.sessions.get_mut(&request.session()).expect("it was there just now");
        session.answers.insert(sequence, verdict);
        session.answers.retain(|sequence, _| *sequence >= lowest);
        verdict
    }

    fn carry_out(&mut self, revision: u64, request: &Request<'_>) -> Verdict {
        let now_ns = self.now_ns;
        self.entries.retain(|_, entry| entry.expiry_ns == 0 || entry.expiry_ns > now_ns);
        let key = request.key().to_vec();
        let version = self.entries.get(&key).map_or(0, |entry| entry.version);
        let expiry_ns = request.ttl_ms().map_or(0, |ttl_ms| now_ns + ttl_ms * MS);
        let verdict = |status, version| Verdict { status, version, sum: 0 };
        match request.operation() {
            Operation::Put => self.write(key, revision, request.value().to_vec(), expiry_ns),
            Operation::Delete => match self.entries.remove(&key) {
                Some(_) => verdict(Status::Ok, revision),
                None => verdict(Status::NotFound, 0),
            },
            Operation::CompareAndSet if version == request.expected_version() => {
                self.write(key, revision, request.value().to_vec(), expiry_ns)
            }
            Operation::CompareAndSet => verdict(Status::VersionMismatch, version),
            Operation::Increment => self.increment(key, revision, request.delta()),
            Operation::Expire => match self.entries.get_mut(&key) {
                Some(entry) => {
                    entry.expiry_ns = expiry_ns;
                    verdict(Status::Ok, version)
                }
                None => verdict(Status::NotFound, 0),
            },
            _ => verdict(Status::BadRequest, 0),
        }
    }

    fn write(&mut self, key: Vec<u8>, revision: u64, value: Vec<u8>, expiry_ns: u64) -> Verdict {
        self.entries.insert(key, ModelEntry { value, version: revision, expiry_ns });
        Verdict { status: Status::Ok, version: revision, sum: 0 }
    }

    fn increment(&mut self, key: Vec<u8>, revision: u64, delta: i64) -> Verdict {
        let found = self.entries.get(&key);
        let (version, expiry_ns) = found.map_or((0, 0), |entry| (entry.version, entry.expiry_ns));
        let number = found.map_or(Some(0), |entry| {
            let number: i64 = str::from_utf8(&entry.value).ok()?.parse().ok()?;
            (number.to_string().as_bytes() == entry.value).then_some(number)
        });
        match number.and_then(|number| number.checked_add(delta)) {
            Some(sum) => Verdict { sum, ..self.write(key, revision, sum.to_string().into_bytes(), expiry_ns) },
            None => Verdict { status: Status::NotANumber, version, sum: 0 },
        }
    }
}
