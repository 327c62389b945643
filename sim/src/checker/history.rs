//! What clients asked and were told, and when.

use std::collections::HashMap;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// Writes a value; an earlier time-to-live is dropped.
    Put {
        /// The value.
        value: &'a [u8],
        /// Time-to-live in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// Removes the key.
    Delete,
    /// Writes a value if the key's version is the expected one.
    CompareAndSet {
        /// The expected version; 0: the key must not exist.
        expected: u64,
        /// The value.
        value: &'a [u8],
        /// Time-to-live in milliseconds.
        ttl_ms: Option<u64>,
    },
    /// Adds to the decimal number that the key holds; a missing key counts as 0.
    Increment {
        /// What is added.
        delta: i64,
    },
    /// Gives an existing key a time-to-live, or takes it away.
    Expire {
        /// Time-to-live in milliseconds; `None` takes it away.
        ttl_ms: Option<u64>,
    },
    /// Reads value and version, linearizably.
    Get,
    /// Asks whether the key exists, linearizably.
    Exists,
    /// Asks for the time that the key has left, linearizably.
    TimeToLive,
}

/// What a client was told. An operation whose outcome is not known never gets an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Put, compare-and-set and delete: carried out as this revision. Expire: done, the key has this version.
    Written {
        /// The version.
        version: u64,
    },
    /// Increment: carried out.
    Summed {
        /// The sum.
        sum: i64,
        /// The revision of the increment.
        version: u64,
    },
    /// Get: the key exists.
    Found {
        /// The value.
        value: &'a [u8],
        /// The key's version.
        version: u64,
    },
    /// Exists: it does.
    Exists {
        /// The key's version; 0 if that was not told.
        version: u64,
    },
    /// Time-to-live: the key exists and does not expire.
    Persistent,
    /// Time-to-live: the key exists and will expire.
    Remaining {
        /// In this many milliseconds.
        ms: u64,
    },
    /// Get, exists, time-to-live, delete, expire: there is no such key.
    NotFound,
    /// Compare-and-set: the key has another version than the expected one.
    Mismatch {
        /// The key's version; 0: it does not exist.
        version: u64,
    },
    /// Increment: the value is not a number, or the sum is out of range.
    NotANumber {
        /// The key's version; 0 if that was not told.
        version: u64,
    },
    /// It is certain that the operation had no effect and never will.
    Refused,
}

/// A value, as the checker compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// A number in the form in which increments write it.
    Number(i64),
    /// Any other value, by its place in [`History::texts`].
    Text(u32),
}

/// No answer: the operation may have been carried out, or may yet be.
pub(super) const NEVER: u64 = u64::MAX;

/// [`Call`] with values interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Put { value: Value, ttl_ms: Option<u64> },
    Delete,
    CompareAndSet { expected: u64, value: Value, ttl_ms: Option<u64> },
    Increment { delta: i64 },
    Expire { ttl_ms: Option<u64> },
    Get,
    Exists,
    TimeToLive,
}

impl Asked {
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Asked::Get | Asked::Exists | Asked::TimeToLive)
    }

    /// The value that it writes.
    pub(super) fn value(&self) -> Option<Value> {
        match *self {
            Asked::Put { value, .. } | Asked::CompareAndSet { value, .. } => Some(value),
            _ => None,
        }
    }

    /// The time-to-live that it gives, in milliseconds.
    pub(super) fn ttl_ms(&self) -> Option<u64> {
        match *self {
            Asked::Put { ttl_ms, .. } | Asked::CompareAndSet { ttl_ms, .. } | Asked::Expire { ttl_ms } => ttl_ms,
            _ => None,
        }
    }
}

/// [`Answer`] with values interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Unknown,
    Written { version: u64 },
    Summed { sum: i64, version: u64 },
    Found { value: Value, version: u64 },
    Exists { version: u64 },
    Persistent,
    Remaining { ms: u64 },
    NotFound,
    Mismatch { version: u64 },
    NotANumber { version: u64 },
    Refused,
}

/// One operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) client: u32,
    pub(super) key: u32,
    pub(super) invoke_ns: u64,
    /// [`NEVER`] while there is no answer.
    pub(super) return_ns: u64,
    pub(super) asked: Asked,
    pub(super) told: Told,
}

impl Operation {
    pub(super) fn is_unknown(&self) -> bool {
        self.told == Told::Unknown
    }

    /// The revision that a write which was carried out got in the log.
    pub(super) fn revision(&self) -> Option<u64> {
        match (self.asked, self.told) {
            (Asked::Expire { .. }, _) => None,
            (_, Told::Written { version } | Told::Summed { version, .. }) => Some(version),
            _ => None,
        }
    }

    /// The version that the answer says the key had when the operation took effect, 0 if it does not say.
    pub(super) fn version_seen(&self) -> u64 {
        match (self.asked, self.told) {
            (Asked::CompareAndSet { expected, .. }, Told::Written { .. }) => expected,
            (Asked::Expire { .. }, Told::Written { version }) => version,
            (
                _,
                Told::Found { version, .. }
                | Told::Exists { version }
                | Told::Mismatch { version }
                | Told::NotANumber { version },
            ) => version,
            _ => 0,
        }
    }
}

/// Names an operation of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationId(pub(super) u32);

/// The operations of all clients of one cluster. Times are nanoseconds on one clock that all clients share.
///
/// ```
/// use lockstep_sim::checker::{Answer, Call, CheckOptions, History};
///
/// let mut history = History::new();
/// let put = history.invoke(1, 10, b"key", Call::Put { value: b"a", ttl_ms: None });
/// let get = history.invoke(2, 12, b"key", Call::Get);
/// history.complete(put, 20, Answer::Written { version: 7 });
/// history.complete(get, 25, Answer::NotFound);
/// assert!(history.check(&CheckOptions::default()).is_ok());
///
/// // The put was answered before this one was asked.
/// let get = history.invoke(2, 30, b"key", Call::Get);
/// history.complete(get, 35, Answer::NotFound);
/// assert!(history.check(&CheckOptions::default()).is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct History {
    pub(super) operations: Vec<Operation>,
    pub(super) keys: Vec<Box<[u8]>>,
    key_ids: HashMap<Box<[u8]>, u32>,
    pub(super) texts: Vec<Box<[u8]>>,
    text_ids: HashMap<Box<[u8]>, u32>,
}

impl History {
    /// Without operations.
    pub fn new() -> History {
        History::default()
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// A client asks for something. Until [`complete`](Self::complete) is called for it, its outcome is unknown: it may
    /// take effect at any later time, or never.
    pub fn invoke(&mut self, client: u32, now_ns: u64, key: &[u8], call: Call<'_>) -> OperationId {
        let key = intern(&mut self.keys, &mut self.key_ids, key);
        let asked = match call {
            Call::Put { value, ttl_ms } => Asked::Put { value: self.value(value), ttl_ms },
            Call::Delete => Asked::Delete,
            Call::CompareAndSet { expected, value, ttl_ms } => {
                Asked::CompareAndSet { expected, value: self.value(value), ttl_ms }
            }
            Call::Increment { delta } => Asked::Increment { delta },
            Call::Expire { ttl_ms } => Asked::Expire { ttl_ms },
            Call::Get => Asked::Get,
            Call::Exists => Asked::Exists,
            Call::TimeToLive => Asked::TimeToLive,
        };
        let operation = Operation { client, key, invoke_ns: now_ns, return_ns: NEVER, asked, told: Told::Unknown };
        self.operations.push(operation);
        OperationId(self.operations.len() as u32 - 1)
    }

    /// The answer to an operation has come.
    ///
    /// # Panics
    ///
    /// If it has one already, if time runs backwards, or if the answer does not belong to what was asked.
    pub fn complete(&mut self, id: OperationId, now_ns: u64, answer: Answer<'_>) {
        let told = match answer {
            Answer::Written { version } => Told::Written { version },
            Answer::Summed { sum, version } => Told::Summed { sum, version },
            Answer::Found { value, version } => Told::Found { value: self.value(value), version },
            Answer::Exists { version } => Told::Exists { version },
            Answer::Persistent => Told::Persistent,
            Answer::Remaining { ms } => Told::Remaining { ms },
            Answer::NotFound => Told::NotFound,
            Answer::Mismatch { version } => Told::Mismatch { version },
            Answer::NotANumber { version } => Told::NotANumber { version },
            Answer::Refused => Told::Refused,
        };
        let operation = &mut self.operations[id.0 as usize];
        assert!(operation.is_unknown(), "an operation is answered once");
        assert!(operation.invoke_ns <= now_ns, "an answer comes after the question");
        assert!(is_answer_to(&operation.asked, &told), "{told:?} is no answer to {:?}", operation.asked);
        operation.return_ns = now_ns;
        operation.told = told;
    }

    fn value(&mut self, bytes: &[u8]) -> Value {
        match parse_number(bytes) {
            Some(number) => Value::Number(number),
            None => Value::Text(intern(&mut self.texts, &mut self.text_ids, bytes)),
        }
    }
}

fn intern(all: &mut Vec<Box<[u8]>>, ids: &mut HashMap<Box<[u8]>, u32>, bytes: &[u8]) -> u32 {
    if let Some(id) = ids.get(bytes) {
        return *id;
    }
    let id = all.len() as u32;
    all.push(bytes.into());
    ids.insert(bytes.into(), id);
    id
}

/// A number in exactly the form in which increments write it.
fn parse_number(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 20)?.parse().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

fn is_answer_to(asked: &Asked, told: &Told) -> bool {
    match asked {
        Asked::Put { .. } => matches!(told, Told::Written { .. } | Told::Refused),
        Asked::Delete | Asked::Expire { .. } => matches!(told, Told::Written { .. } | Told::NotFound | Told::Refused),
        Asked::CompareAndSet { .. } => matches!(told, Told::Written { .. } | Told::Mismatch { .. } | Told::Refused),
        Asked::Increment { .. } => matches!(told, Told::Summed { .. } | Told::NotANumber { .. } | Told::Refused),
        Asked::Get => matches!(told, Told::Found { .. } | Told::NotFound | Told::Refused),
        Asked::Exists => matches!(told, Told::Exists { .. } | Told::NotFound | Told::Refused),
        Asked::TimeToLive => {
            matches!(told, Told::Persistent | Told::Remaining { .. } | Told::NotFound | Told::Refused)
        }
    }
}
