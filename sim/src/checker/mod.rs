//! Judges a history of client operations: is there an order of effects that explains every answer?
//!
//! # What it is
//!
//! A pure function over a [`History`]: what each client asked, when, what it was told, and when. The history is
//! *linearizable* if every operation that was answered can be given one moment between its question and its answer, and
//! every operation that was not any later moment or none, so that a single copy of the store which carries the
//! operations out at those moments would have given all the answers. [`History::check`] decides that, and explains a
//! violation with the few operations that show it.
//!
//! It also holds that an operation takes effect *at most once*: an increment, answered or not, is counted once or not
//! at all, and a value that comes back after it was overwritten is not explained by its first write.
//!
//! # How
//!
//! Keys are judged one by one, since a history is linearizable if and only if that of every key is. Versions are
//! positions in the log of a shard, so they are first compared with time across all keys (`order`). Then `search` looks
//! for an order for each key. The order of the answered writes is given by their versions, which makes the time nearly
//! proportional to the number of operations; only what writes with unknown outcome may have done is tried out. A
//! violation is reduced (`minimise`) until nothing more can be left out.
//!
//! # What it is not
//!
//! Operations on several keys, scans, and reads that may be stale are not judged. Time-to-live is judged within the
//! given slack between the clocks, not to the nanosecond.

mod history;
mod minimise;
mod model;
mod order;
mod pending;
mod problem;
mod search;
mod violation;

pub use history::{Answer, Call, History, OperationId};
pub use violation::Violation;

use history::{NEVER, Operation};
use minimise::minimise;
use problem::Problem;
use search::{Found, Search};

/// How to judge.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Number of shards of the cluster: versions are compared within a shard.
    pub shards: u16,
    /// By how many nanoseconds the clock that ends times-to-live may differ from that of the history.
    pub clock_slack_ns: u64,
    /// Positions that may be looked at per key before giving up.
    pub steps_max: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { shards: 1, clock_slack_ns: 1_000_000_000, steps_max: 5_000_000 }
    }
}

/// What was found right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations that were judged.
    pub operations: usize,
    /// Of these, writes with unknown outcome.
    pub unknown: usize,
    /// Keys.
    pub keys: usize,
    /// Positions that the search looked at: close to the number of answered writes unless much is unknown.
    pub steps: u64,
}

/// Why a history was not found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is wrong.
    Violation(Box<Violation>),
    /// It takes too long to find out.
    Undecided {
        /// The key whose operations can be ordered in too many ways.
        key: Vec<u8>,
        /// Positions that were looked at.
        steps: u64,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Violation(violation) => write!(f, "not linearizable: {violation}"),
            Failure::Undecided { key, steps } => {
                write!(f, "undecided after {steps} steps: key \"{}\"", key.escape_ascii())
            }
        }
    }
}

impl std::error::Error for Failure {}

impl History {
    /// Decides whether the history is linearizable. Operations without an answer count as of unknown outcome.
    ///
    /// # Errors
    ///
    /// The first violation found; if there is none, the first key that cannot be decided within the bound on steps.
    pub fn check(&self, options: &CheckOptions) -> Result<Report, Failure> {
        let shard_of_key: Vec<u16> =
            self.keys.iter().map(|key| lockstep_proto::slot::shard_of_key(key, options.shards)).collect();
        let floors = order::version_floors(self, &shard_of_key)
            .map_err(|contradiction| Failure::Violation(Box::new(self.explain_contradiction(contradiction))))?;
        let mut by_key: Vec<(Vec<Operation>, Vec<u64>)> = vec![Default::default(); self.keys.len()];
        for (operation, floor) in self.operations.iter().zip(floors) {
            let (operations, floors) = &mut by_key[operation.key as usize];
            operations.push(*operation);
            floors.push(floor);
        }
        let is_open = |operation: &&Operation| operation.return_ns == NEVER && !operation.asked.is_read();
        let mut report = Report { operations: self.len(), keys: self.keys.len(), ..Report::default() };
        let mut undecided = None;
        for (key, (operations, floors)) in by_key.into_iter().enumerate() {
            let unknown = operations.iter().filter(is_open).count();
            report.unknown += unknown;
            let problem = Problem::new(&operations, &floors, options.clock_slack_ns);
            let mut search = Search::new(&problem);
            let found = search.run(options.steps_max);
            report.steps += search.steps;
            match found {
                Found::Order => {}
                Found::Undecided => {
                    let key = self.keys[key].to_vec();
                    undecided.get_or_insert(Failure::Undecided { key, steps: options.steps_max });
                }
                Found::NoOrder(stuck) => {
                    let minimal = minimise(operations, floors, options.clock_slack_ns, stuck);
                    let violation = self.explain_stuck(key as u32, &minimal);
                    return Err(Failure::Violation(Box::new(violation)));
                }
            }
        }
        undecided.map_or(Ok(report), Err)
    }
}
