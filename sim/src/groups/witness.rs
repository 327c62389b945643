//! Judges by a witness: the committed log says in which order what changed something has taken effect. If that order
//! explains every answer, the history is right, however many others would have to be tried without it.
//!
//! Nothing that the log says is believed. Operations are carried out as they were *asked*, and an order is refused
//!
//! - that has an operation twice, one that was refused, or not one that was answered,
//! - that has an operation before one that was answered before it was asked for, or before an earlier one of its
//!   connection,
//! - in which an answer is not the one that was given, or a revision not the one that was told,
//! - in which time goes back, or differs by more than the slack from that of the history once a key may expire.
//!
//! Reads that are not in the log take effect as soon as they fit, between two of its operations or after a key has
//! expired. They change nothing, so that none has to wait for another's sake.

use std::collections::HashMap;

use lockstep_proto::request::Request;

use super::{GroupHistory, GroupOperation, GroupOptions, Kind, Operated, precedence::Precedence};
use crate::keyspace::{Bytes, Keyspace, Moment, Time, Version};

/// A request that the committed log has carried out.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// The request, as it is in the log.
    pub request: Request<'a>,
    /// Which operation it is, if it came through the front door; others tell it by session and sequence.
    pub asked: Option<GroupOperation>,
    /// Its place in the log.
    pub revision: u64,
    /// As of which time, in ns since 1970.
    pub time_ns: u64,
}

/// One effect of an operation, as a witness has it.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// Of which operation.
    pub operation: GroupOperation,
    /// Its place in the log.
    pub revision: u64,
    /// As of which time it was carried out, in ns since 1970.
    pub time_ns: u64,
}

impl GroupHistory {
    /// What a log has carried out of this history, in its order. What belongs to no group is left out.
    ///
    /// # Errors
    ///
    /// If the log has a request without a session that nobody has asked for.
    pub fn witness(&self, log: &[Carried<'_>]) -> Result<Vec<Effect>, String> {
        let by_sequence = self.by_sequence();
        let mut effects = Vec::new();
        for carried in log {
            let request = &carried.request;
            let operation = match carried.asked {
                None if request.session() == 0 => {
                    let (operation, revision) = (request.operation(), carried.revision);
                    return Err(format!("the log has a {operation:?} at {revision} that nobody has asked for"));
                }
                None => by_sequence.get(&(request.session(), request.sequence())).copied(),
                asked => asked,
            };
            let effect = |operation| Effect { operation, revision: carried.revision, time_ns: carried.time_ns };
            effects.extend(operation.map(effect));
        }
        Ok(effects)
    }

    /// The same of a history in which every operation of the log has a session. What belongs to no group, or came
    /// through the front door, is left out.
    pub fn witness_of_sessions(&self, log: &[Carried<'_>]) -> Vec<Effect> {
        let by_sequence = self.by_sequence();
        let effect = |carried: &Carried<'_>| {
            let operation = *by_sequence.get(&(carried.request.session(), carried.request.sequence()))?;
            Some(Effect { operation, revision: carried.revision, time_ns: carried.time_ns })
        };
        log.iter().filter_map(effect).collect()
    }

    /// The operations that have a session, by that and their sequence.
    fn by_sequence(&self) -> HashMap<(u64, u64), GroupOperation> {
        let requests = (0..).zip(&self.operations).map(|(id, operated)| (operated.request(), GroupOperation(id)));
        let named = requests.filter(|(request, _)| request.session() != 0);
        named.map(|(request, id)| ((request.session(), request.sequence()), id)).collect()
    }
}

/// Why an order of effects is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: String,
    /// The operation that does not fit.
    pub(super) place: u32,
    /// What the keys were by then.
    pub(super) state: Keyspace,
}

/// One effect on the group that is judged: place of the operation, and revision and time as in [`Effect`].
pub(super) type Step = (u32, u64, u64);

/// Follows an order of effects on a group.
pub(super) struct Walk<'a> {
    operations: &'a [Operated],
    options: GroupOptions,
    precedence: Precedence<'a>,
    state: Keyspace,
    /// The servers' time of day.
    now_ns: u64,
    revision: u64,
    /// Whether a key has ever been given a time to expire: from then on it matters when something takes effect.
    is_time_bound: bool,
    is_placed: Vec<bool>,
    /// So many of the answered operations, by the time of their answers, are placed before one that is not.
    answered: usize,
    /// Operations that changed nothing and are not in the log, and not placed.
    reads: Vec<u32>,
    /// The last operation of each connection that is placed.
    last: HashMap<u32, u32>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(operations: &'a [Operated], options: GroupOptions) -> Walk<'a> {
        Walk {
            operations,
            options,
            precedence: Precedence::new(operations),
            state: Keyspace::default(),
            now_ns: 0,
            revision: 0,
            is_time_bound: false,
            is_placed: vec![false; operations.len()],
            answered: 0,
            reads: Vec::new(),
            last: HashMap::new(),
        }
    }

    /// Whether this order explains every answer.
    pub(super) fn follow(mut self, steps: &[Step]) -> Result<(), Refused> {
        let is_read = |place: &u32| self.precedence.kinds[*place as usize] == Kind::Pure;
        self.reads = (0..self.operations.len() as u32).filter(is_read).collect();
        self.reads.retain(|place| steps.iter().all(|(logged, ..)| logged != place));
        for &step in steps {
            let placed = self.check_place(step).and_then(|()| {
                self.wait_until(step.2);
                self.carry_out_step(step)
            });
            placed.map_err(|why| Refused { why, place: step.0, state: self.state.clone() })?;
        }
        self.wait_until(i64::MAX as u64);
        match self.overdue() {
            None => Ok(()),
            Some(place) => {
                let why = match self.precedence.kinds[place as usize] {
                    Kind::Logged(revision) => format!("it was told revision {revision}, and is not in the log"),
                    Kind::Somewhere => "it was told that it was carried out, and is not in the log".to_owned(),
                    _ => "the keys were never what it was told".to_owned(),
                };
                Err(Refused { why, place, state: self.state })
            }
        }
    }

    /// The operation that was answered first, of those that are not placed.
    fn overdue(&self) -> Option<u32> {
        self.precedence.by_return.get(self.answered).copied()
    }

    fn may_be_next(&self, place: u32) -> bool {
        let is_placed = |place: u32| self.is_placed[place as usize];
        let is_in_time = self.overdue().is_none_or(|overdue| self.precedence.may_be_next(place, overdue, is_placed));
        let connection = self.operations[place as usize].connection;
        let last = connection.and_then(|connection| self.last.get(&connection));
        is_in_time && last.is_none_or(|last| *last < place)
    }

    fn note_placed(&mut self, place: u32) {
        self.is_placed[place as usize] = true;
        while self.overdue().is_some_and(|overdue| self.is_placed[overdue as usize]) {
            self.answered += 1;
        }
        if let Some(connection) = self.operations[place as usize].connection {
            self.last.insert(connection, place);
        }
    }

    /// Whether the log may have an operation there at all.
    fn check_place(&self, (place, revision, time_ns): Step) -> Result<(), String> {
        let why = match self.precedence.kinds[place as usize] {
            _ if self.is_placed[place as usize] => "the log has it twice",
            _ if self.operations[place as usize].is_refused => "it was refused, and is in the log",
            Kind::Logged(told) if told != revision => "its answer has another revision than the log",
            _ if revision <= self.revision => "revisions of the log do not grow",
            _ if time_ns < self.now_ns => "times of the log go back",
            _ => return Ok(()),
        };
        Err(format!("{why} (at {revision})"))
    }

    /// Carries out an operation of the log, as it was asked for.
    fn carry_out_step(&mut self, (place, revision, time_ns): Step) -> Result<(), String> {
        if !self.may_be_next(place) {
            return Err(format!("the log has it at {revision}, before something that must precede it"));
        }
        let operated = &self.operations[place as usize];
        let version = Version::Exact(revision);
        let moment = Moment { time: Time::exact(time_ns), version };
        let expected = self.state.carry_out(&moment, &operated.request(), false);
        self.is_time_bound |= self.state.iter().any(|(_, entry)| entry.expiry.is_some());
        if self.is_time_bound && !operated.time(&self.options).may_be(time_ns) {
            return Err(format!("the log has it at {revision} as of {time_ns}, which is not when it was asked"));
        }
        if let Some(told) = &operated.told {
            let expected = expected.as_operation(told.operation, version);
            if expected.accepts(told.status, told.version, &told.body).is_none() {
                return Err(format!("by the log, its answer is {expected:?} (at {revision})"));
            }
        }
        self.revision = revision;
        self.note_placed(place);
        Ok(())
    }

    /// Time goes on. What was asked and fits takes effect meanwhile, before a key expires if it can.
    fn wait_until(&mut self, until_ns: u64) {
        loop {
            let expiries = self.state.iter().filter_map(|(_, entry)| entry.expiry);
            let next_ns = expiries.map(|expiry| expiry.earliest_ns).min().filter(|next_ns| *next_ns <= until_ns);
            let latest_ns = next_ns.map_or(until_ns, |next_ns| next_ns.saturating_sub(1));
            if latest_ns >= self.now_ns {
                self.place_reads(Time { earliest_ns: self.now_ns, latest_ns });
            }
            let Some(next_ns) = next_ns else { break };
            self.now_ns = self.now_ns.max(next_ns);
            let expired: Vec<Bytes> = self.state.may_expire_by(self.now_ns).cloned().collect();
            for key in expired {
                self.state.remove(&key);
            }
        }
        self.now_ns = until_ns;
    }

    /// Places the reads that fit between two times at which nothing happens.
    fn place_reads(&mut self, between: Time) {
        let mut is_placed = true;
        while std::mem::take(&mut is_placed) {
            for place in std::mem::take(&mut self.reads) {
                if self.may_be_next(place) && self.fits(place, between) {
                    self.note_placed(place);
                    is_placed = true;
                } else {
                    self.reads.push(place);
                }
            }
        }
    }

    fn fits(&self, place: u32, between: Time) -> bool {
        let operated = &self.operations[place as usize];
        let told = operated.told.as_ref().expect("a read that is placed was answered");
        let mut time = between;
        if self.is_time_bound {
            let asked = operated.time(&self.options);
            time.earliest_ns = time.earliest_ns.max(asked.earliest_ns);
            time.latest_ns = time.latest_ns.min(asked.latest_ns);
            if time.latest_ns < time.earliest_ns {
                return false;
            }
        }
        let moment = Moment { time, version: Version::NONE };
        let expected = self.state.clone().carry_out(&moment, &operated.request(), false);
        expected.as_operation(told.operation, Version::NONE).accepts(told.status, told.version, &told.body).is_some()
    }
}
