//! Violations in words.

use std::fmt::{self, Display, Write};

use super::{
    history::{Asked, History, NEVER, Operation, Told, Value},
    minimise::Minimal,
    model::State,
    order::Contradiction,
};

/// Operations that an explanation lists at most.
const LISTED_MAX: usize = 16;

/// Why a history cannot be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key that it is about.
    pub key: Vec<u8>,
    /// What is wrong, in a sentence or two.
    pub reason: String,
    /// The few operations that show it, one line each, by time.
    pub operations: Vec<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: {}", Text(&self.key), self.reason)?;
        self.operations.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Bytes for a person, cut off when they are many.
struct Text<'a>(&'a [u8]);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(32)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if shown.len() < self.0.len() { write!(f, "... ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

/// A moment in milliseconds.
struct Moment(u64);

impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl History {
    fn show(&self, value: Value) -> String {
        match value {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => Text(&self.texts[text as usize]).to_string(),
        }
    }

    /// One operation on one line.
    fn describe(&self, operation: &Operation, with_key: bool) -> String {
        let mut line = format!("[{} .. ", Moment(operation.invoke_ns));
        let _ = match operation.return_ns {
            NEVER => write!(line, "?"),
            end => write!(line, "{}", Moment(end)),
        };
        let _ = write!(line, " ms] client {}: {}", operation.client, self.describe_asked(&operation.asked));
        if with_key {
            let _ = write!(line, " on {}", Text(&self.keys[operation.key as usize]));
        }
        let _ = write!(line, " -> {}", self.describe_told(&operation.told));
        line
    }

    fn describe_asked(&self, asked: &Asked) -> String {
        let ttl = |ttl_ms: &Option<u64>| ttl_ms.map_or(String::new(), |ms| format!(" for {ms} ms"));
        match asked {
            Asked::Put { value, ttl_ms } => format!("put {}{}", self.show(*value), ttl(ttl_ms)),
            Asked::Delete => "delete".to_owned(),
            Asked::CompareAndSet { expected, value, ttl_ms } => {
                format!("compare-and-set from version {expected} to {}{}", self.show(*value), ttl(ttl_ms))
            }
            Asked::Increment { delta } => format!("increment by {delta}"),
            Asked::Expire { ttl_ms: None } => "expire never".to_owned(),
            Asked::Expire { ttl_ms } => format!("expire{}", ttl(ttl_ms)),
            Asked::Get => "get".to_owned(),
            Asked::Exists => "exists".to_owned(),
            Asked::TimeToLive => "time-to-live".to_owned(),
        }
    }

    fn describe_told(&self, told: &Told) -> String {
        match told {
            Told::Unknown => "outcome unknown".to_owned(),
            Told::Written { version } => format!("ok, version {version}"),
            Told::Summed { sum, version } => format!("{sum}, version {version}"),
            Told::Found { value, version } => format!("{}, version {version}", self.show(*value)),
            Told::Exists { version: 0 } => "exists".to_owned(),
            Told::Exists { version } => format!("exists, version {version}"),
            Told::Persistent => "does not expire".to_owned(),
            Told::Remaining { ms } => format!("{ms} ms left"),
            Told::NotFound => "not found".to_owned(),
            Told::Mismatch { version: 0 } => "mismatch, not found".to_owned(),
            Told::Mismatch { version } => format!("mismatch, version {version}"),
            Told::NotANumber { .. } => "not a number".to_owned(),
            Told::Refused => "refused without effect".to_owned(),
        }
    }

    pub(super) fn explain_contradiction(&self, contradiction: Contradiction) -> Violation {
        let (first, second, reason) = match contradiction {
            Contradiction::SameRevision(first, second) => (first, second, "two writes have the same version"),
            Contradiction::Backwards(first, second) => {
                (first, second, "the version of a write is not higher than one that was told before it was asked for")
            }
            Contradiction::FromTheFuture(first, second) => {
                (first, second, "a version was seen before its write was asked for")
            }
        };
        let [first, second] = [first, second].map(|place| self.operations[place as usize]);
        Violation {
            key: self.keys[second.key as usize].to_vec(),
            reason: reason.to_owned(),
            operations: vec![self.describe(&first, true), self.describe(&second, true)],
        }
    }

    pub(super) fn explain_stuck(&self, key: u32, minimal: &Minimal) -> Violation {
        let Minimal { operations: all, stuck, culprits } = minimal;
        let overdue = &all[stuck.overdue as usize];
        let is_open_write = |operation: &&Operation| operation.is_unknown() && !operation.asked.is_read();
        let unknown = all.iter().filter(is_open_write).count();
        let reason = format!(
            "no order of effects explains these answers. At best the key {} when client {} was told \"{}\" at {} ms{}",
            self.describe_state(&stuck.state),
            overdue.client,
            self.describe_told(&overdue.told),
            Moment(overdue.return_ns),
            self.suspect(all, overdue, &stuck.state),
        );
        let mut operations: Vec<String> = Vec::new();
        let cut = culprits.len().saturating_sub(LISTED_MAX);
        if cut > 0 {
            operations.push(format!("({cut} earlier operations)"));
        }
        operations.extend(culprits[cut..].iter().map(|operation| self.describe(operation, false)));
        if unknown > 0 {
            let writes = if unknown == 1 { "one write".to_owned() } else { format!("{unknown} writes") };
            operations.push(format!("({writes} of unknown outcome until then cannot explain it)"));
        }
        Violation { key: self.keys[key as usize].to_vec(), reason, operations }
    }

    fn describe_state(&self, state: &State) -> String {
        match (state.value, state.is_exact) {
            (None, _) => "did not exist".to_owned(),
            (Some(value), true) => format!("held {} at version {}", self.show(value), state.version),
            (Some(value), false) => format!("held {} at version {} or higher", self.show(value), state.version),
        }
    }

    /// What the operation that does not fit looks like.
    fn suspect(&self, all: &[Operation], overdue: &Operation, state: &State) -> String {
        let seen = overdue.version_seen();
        let is_written = all.iter().any(|operation| operation.revision() == Some(seen));
        let number = match state.value {
            Some(Value::Number(number)) => Some(number),
            None => Some(0),
            Some(Value::Text(_)) => None,
        };
        match (overdue.asked, overdue.told) {
            _ if seen != 0 && state.is_beyond(seen) => ": a stale answer".to_owned(),
            (_, Told::NotFound | Told::Mismatch { version: 0 }) => ": the write that made it is lost".to_owned(),
            (Asked::Increment { delta }, Told::Summed { sum, .. }) => match (number, sum.checked_sub(delta)) {
                (Some(number), Some(before)) if before > number && delta > 0 => {
                    format!(": the sum is {} too high, as if an increment was carried out twice", before - number)
                }
                (Some(number), Some(before)) if before < number && delta > 0 => {
                    format!(": the sum is {} too low, as if an increment was lost", number - before)
                }
                _ => String::new(),
            },
            _ if seen != 0 && !is_written => {
                format!(": nothing that was asked for can have made version {seen} as it was seen")
            }
            _ => String::new(),
        }
    }
}
