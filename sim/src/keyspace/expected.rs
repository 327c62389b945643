//! Answers, as far as they can be known, and whether one that was given is one of them.

use lockstep_proto::{
    Operation, Status,
    program::{ErrorCode, Value, results},
};

use super::{Bytes, Version};

/// One result of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Nil,
    /// Done.
    Done,
    /// A number.
    Integer(i64),
    /// A number within bounds, both included.
    Between(i64, i64),
    /// A version, or 0.
    Version(Version),
    /// Bytes.
    Bulk(Bytes),
    /// Results in a row.
    Array(Vec<Expect>),
    /// An error.
    Error(ErrorCode),
    /// Nothing was carried out.
    Aborted,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// It is empty.
    Empty,
    /// A value.
    Value(Bytes),
    /// A sum.
    Sum(i64),
    /// A number without a sign, within bounds, both included.
    Within(u64, u64),
    /// The results of a program.
    Results(Vec<Expect>),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How it ended.
    pub status: Status,
    /// Version, as in the reply.
    pub version: Version,
    /// What else is told.
    pub body: Body,
}

/// What an answer tells about writes of unknown outcome: which, and its version.
pub type Bindings = Vec<(u32, u64)>;

impl Expected {
    /// An answer without a body.
    pub fn plain(status: Status, version: Version) -> Expected {
        Expected { status, version, body: Body::Empty }
    }

    /// The answer to the same, carried out as `operation`: a read of the front door may go through the log as a
    /// transact.
    pub fn as_operation(self, operation: Operation, version: Version) -> Expected {
        if operation != Operation::Transact {
            return self;
        }
        let results = match self.body {
            Body::Results(results) => results,
            Body::Value(value) => vec![Expect::Bulk(value)],
            _ => vec![Expect::Nil],
        };
        Expected { status: Status::Ok, version, body: Body::Results(results) }
    }

    /// What an answer that was given tells besides; `None` if it is not this one.
    pub fn accepts(&self, status: Status, version: u64, body: &[u8]) -> Option<Bindings> {
        let mut bindings = Bindings::new();
        let is_it = status == self.status
            && self.version.accepts(version, &mut bindings)
            && match &self.body {
                Body::Empty => body.is_empty(),
                Body::Value(value) => body == &value[..],
                Body::Sum(sum) => body == sum.to_le_bytes(),
                Body::Within(least, most) => {
                    body.try_into().is_ok_and(|number| (*least..=*most).contains(&u64::from_le_bytes(number)))
                }
                Body::Results(expected) => all_accepted(expected, results(body), &mut bindings),
            };
        is_it.then_some(bindings)
    }
}

/// Whether an answer says that nothing was carried out, because a key was not as it was asked to be.
pub fn says_otherwise(status: Status, operation: Operation, body: &[u8]) -> bool {
    status == Status::VersionMismatch
        || (operation == Operation::Transact && results(body).next() == Some(Value::Aborted))
}

fn all_accepted<'a>(expected: &[Expect], told: impl Iterator<Item = Value<'a>>, bindings: &mut Bindings) -> bool {
    let mut told = told.fuse();
    let are_it = expected.iter().all(|expect| told.next().is_some_and(|value| expect.accepts(&value, bindings)));
    are_it && told.next().is_none()
}

impl Expect {
    fn accepts(&self, told: &Value<'_>, bindings: &mut Bindings) -> bool {
        match (self, told) {
            (Expect::Nil, Value::Nil) | (Expect::Done, Value::Ok) | (Expect::Aborted, Value::Aborted) => true,
            (Expect::Integer(number), Value::Integer(told)) => number == told,
            (Expect::Between(least, most), Value::Integer(told)) => (least..=most).contains(&told),
            (Expect::Version(version), Value::Integer(told)) => version.accepts(*told as u64, bindings),
            (Expect::Bulk(bytes), Value::Bulk(told)) => &bytes[..] == *told,
            (Expect::Array(expected), Value::Array(items)) => all_accepted(expected, items.iter(), bindings),
            (Expect::Error(code), Value::Error(told)) => code == told,
            _ => false,
        }
    }
}

impl Version {
    fn accepts(&self, told: u64, bindings: &mut Bindings) -> bool {
        if let Version::Open { writer, .. } = *self {
            // One write makes one version.
            if bindings.iter().any(|(bound, version)| *bound == writer && *version != told) {
                return false;
            }
            bindings.push((writer, told));
        }
        self.may_be(told)
    }
}
