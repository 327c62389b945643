//! Judges what clients were told about small groups of keys that programs couple: is there an order of effects that
//! explains every answer?
//!
//! The [`checker`](crate::checker) judges single keys and knows a handful of operations, which lets it cope with
//! thousands of writes of unknown outcome. A program may touch several keys and do anything, so here a whole group is
//! one state, a [`Keyspace`](crate::keyspace::Keyspace), on which requests are carried out as they were sent. What
//! keeps the search short:
//!
//! - An answered write tells its place in the log, so the order of all of these is given. Only what has no answer has
//!   to be placed, and only what changes something.
//! - What changes nothing is placed as soon as it fits.
//! - Requests of one connection of the front door take effect in the order in which they were sent, answered or not. So
//!   of each connection that was lost only one place has to be remembered, and an order that breaks this rule is wrong,
//!   too.
//! - A write without an answer is placed no earlier than right before something that concerns its keys.
//! - Where nothing fits any more, only what concerns the same keys can help, so all else before it is left as it is.
//!
//! Each write takes effect once at most: a sum or a length that is explained only by a second time has no order.
//!
//! Where much has no answer the search takes too long all the same. A simulated cluster knows more than its clients:
//! the order that its log has made. That is a witness: an order that only has to be followed once to see whether it is
//! one. Single keys have it, too: as groups of one key each, which are followed and not searched.

mod describe;
mod precedence;
mod search;
#[cfg(test)]
mod tests;
mod witness;

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    program::{Commands, Opcode, Value, results},
    request::Request,
};

pub use describe::describe_answer;
use describe::{explain, explain_refused};
use search::{Found, Search};
use witness::Walk;
pub use witness::{Carried, Effect};

use crate::keyspace::{Time, keys_of, says_otherwise};

/// What a client was told.
#[derive(Clone, Debug)]
struct Told {
    operation: Operation,
    status: Status,
    version: u64,
    body: Bytes,
}

/// What an operation is to the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It was carried out at this place of the log.
    Logged(u64),
    /// It was carried out at a place of the log that the answer does not tell.
    Somewhere,
    /// It was answered and has changed nothing.
    Pure,
    /// It may have changed something, and was not answered.
    Unknown,
    /// It has done nothing and says nothing.
    Void,
}

/// One operation of one client.
#[derive(Clone, Debug)]
struct Operated {
    group: u16,
    client: u32,
    /// Operations of one connection take effect in their order.
    connection: Option<u32>,
    invoke_ns: u64,
    /// `u64::MAX` while there is no answer.
    return_ns: u64,
    request: Bytes,
    told: Option<Told>,
    is_refused: bool,
}

/// Names an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupOperation(u32);

/// How to judge.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// By how many ns the clock that ends times-to-live may differ from that of the history.
    pub slack_ns: u64,
    /// What the servers' clock says at the beginning of the history, in ns since 1970.
    pub wall_start_ns: u64,
    /// Positions that may be looked at per group before giving up.
    pub steps_max: u64,
}

/// Why a history was not found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupFailure {
    /// It is wrong, for this reason.
    Violation(String),
    /// It takes too long to find out; this is how far it was.
    Undecided(String),
}

/// The operations of all clients on all groups. Times are on one clock that all clients share.
#[derive(Clone, Debug, Default)]
pub struct GroupHistory {
    operations: Vec<Operated>,
}

impl GroupHistory {
    /// Number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Number of operations that have an answer.
    pub fn answered(&self) -> usize {
        self.operations.iter().filter(|operated| operated.told.is_some()).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// A client asks for something. Until there is an answer, its outcome is unknown: it may take effect at any later
    /// time, or never. `request` is a whole frame, `connection` one that keeps the order of its requests.
    pub fn invoke(
        &mut self,
        group: u16,
        client: u8,
        connection: Option<u32>,
        now_ns: u64,
        request: Bytes,
    ) -> GroupOperation {
        self.operations.push(Operated {
            group,
            client: u32::from(client),
            connection: connection.map(|connection| u32::from(client) << 24 | connection),
            invoke_ns: now_ns,
            return_ns: u64::MAX,
            request,
            told: None,
            is_refused: false,
        });
        GroupOperation(self.operations.len() as u32 - 1)
    }

    /// The answer has come: that to `operation`, as which the request was carried out.
    ///
    /// # Panics
    ///
    /// If there was one already.
    pub fn complete(
        &mut self,
        id: GroupOperation,
        now_ns: u64,
        (operation, status, version): (Operation, Status, u64),
        body: &[u8],
    ) {
        let operated = &mut self.operations[id.0 as usize];
        assert!(operated.told.is_none() && !operated.is_refused, "an operation is answered once");
        operated.return_ns = now_ns;
        operated.told = Some(Told { operation, status, version, body: Bytes::copy_from_slice(body) });
    }

    /// It is certain that an operation has had no effect and never will.
    pub fn refuse(&mut self, id: GroupOperation) {
        self.operations[id.0 as usize].is_refused = true;
    }

    /// Decides whether the history is right. Returns how many groups only the witness could decide.
    ///
    /// A `witness` is an order of effects, which must explain the history as well.
    ///
    /// # Errors
    ///
    /// The first group that is not right, or that cannot be decided within the bound on steps where there is no
    /// witness.
    pub fn check(&self, options: &GroupOptions, witness: Option<&[Effect]>) -> Result<u32, GroupFailure> {
        let groups = self.groups();
        let (mut by_witness, mut undecided) = (0, None);
        for group in 0..groups {
            let (members, operations) = self.members(group);
            let found = Search::new(&operations, *options).run();
            if let Found::NoOrder(stuck) = found {
                return Err(GroupFailure::Violation(explain(group, &operations, &stuck)));
            }
            if let Some(effects) = witness {
                follow(options, group, &members, &operations, effects).map_err(GroupFailure::Violation)?;
            }
            if let Found::Undecided(stuck) = found {
                by_witness += 1;
                undecided = Some(explain(group, &operations, &stuck));
            }
        }
        match undecided {
            Some(how_far) if witness.is_none() => Err(GroupFailure::Undecided(how_far)),
            _ => Ok(by_witness),
        }
    }

    /// Decides whether an order of effects explains the history. No other order is looked for.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn follow(&self, options: &GroupOptions, witness: &[Effect]) -> Result<(), String> {
        (0..self.groups()).try_for_each(|group| {
            let (members, operations) = self.members(group);
            follow(options, group, &members, &operations, witness)
        })
    }

    fn groups(&self) -> u16 {
        self.operations.iter().map(|operated| operated.group + 1).max().unwrap_or(0)
    }

    /// The operations on a group, and before them their ids.
    fn members(&self, group: u16) -> (Vec<u32>, Vec<Operated>) {
        let is_member = |(_, operated): &(u32, &Operated)| operated.group == group;
        (0..).zip(&self.operations).filter(is_member).map(|(id, operated)| (id, operated.clone())).unzip()
    }
}

/// Whether a witness explains what was told about a group, and why not.
fn follow(
    options: &GroupOptions,
    group: u16,
    members: &[u32],
    operations: &[Operated],
    witness: &[Effect],
) -> Result<(), String> {
    let place = |effect: &Effect| members.binary_search(&effect.operation.0).ok();
    let step = |effect: &Effect| Some((place(effect)? as u32, effect.revision, effect.time_ns));
    let steps: Vec<witness::Step> = witness.iter().filter_map(step).collect();
    let followed = Walk::new(operations, *options).follow(&steps);
    followed.map_err(|refused| explain_refused(group, operations, &refused))
}

impl Operated {
    fn request(&self) -> Request<'_> {
        let (request, _) = Request::parse_trusted(&self.request).expect("clients send whole frames");
        request
    }

    fn kind(&self) -> Kind {
        let request = self.request();
        let is_write = request.operation().is_logged();
        match &self.told {
            _ if self.is_refused => Kind::Void,
            None if is_write => Kind::Unknown,
            None => Kind::Void,
            Some(told) if told.operation == Operation::Transact => Kind::Logged(told.version),
            // The version that it tells is the key's.
            Some(told) if request.operation() == Operation::Expire && told.status == Status::Ok => Kind::Somewhere,
            Some(told) if is_write && told.status == Status::Ok => Kind::Logged(told.version),
            Some(_) => Kind::Pure,
        }
    }

    /// The keys that it concerns, a bit each, by the names in `keys`, which are added to.
    fn keys(&self, keys: &mut Vec<Vec<u8>>) -> u64 {
        let mut bits = 0;
        for name in keys_of(&self.request()) {
            let known = keys.iter().position(|key| key == name);
            bits |= 1 << known.unwrap_or(keys.len());
            if known.is_none() {
                keys.push(name.to_vec());
            }
        }
        bits
    }

    /// Keys that existed when it began, and the versions that the answer says they were at.
    fn seen(&self) -> Vec<(&[u8], u64)> {
        let request = self.request();
        let Some(told) = &self.told else { return Vec::new() };
        let mut seen = match (request.operation(), told.operation) {
            (Operation::Query, Operation::Query) => {
                let commands = Commands::new(request.program()).zip(results(&told.body));
                let stamps = commands.filter_map(|(command, value)| match value {
                    Value::Array(items) if command.opcode == Opcode::Stamp => match items.iter().next() {
                        Some(Value::Integer(version)) => Some((command.first::<1>()[0], version as u64)),
                        _ => None,
                    },
                    _ => None,
                });
                stamps.collect()
            }
            (Operation::Transact, _) if !says_otherwise(told.status, told.operation, &told.body) => {
                let checks = Commands::new(request.program()).filter(|command| command.opcode == Opcode::Check);
                let versions = checks.map(|check| {
                    let [key, version] = check.first();
                    (key, u64::from_le_bytes(version.try_into().expect("a number has 8 bytes")))
                });
                versions.collect()
            }
            (Operation::CompareAndSet, _) if told.status == Status::Ok => {
                vec![(request.key(), request.expected_version())]
            }
            _ => Vec::new(),
        };
        seen.retain(|(_, version)| *version != 0);
        seen
    }

    /// When it was carried out, on the servers' clock.
    fn time(&self, options: &GroupOptions) -> Time {
        let start_ns = options.wall_start_ns;
        Time {
            earliest_ns: start_ns.saturating_add(self.invoke_ns).saturating_sub(options.slack_ns),
            latest_ns: start_ns.saturating_add(self.return_ns).saturating_add(options.slack_ns).min(i64::MAX as u64),
        }
    }
}
