//! What the frame of each operation has to look like, as one row per operation.
//!
//! The table is what [`crate::request::Request::parse`] checks a frame against; looking a row up is cheaper on the hot path
//! than asking the same questions of the operation one by one.

use crate::{
    operation::Operation,
    request::{FLAG_STALE, FLAG_TTL},
};

/// What follows the key, the version and the time-to-live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    Value,
    Keys,
    KeysAndValues,
    Delta,
    TimeToLive,
    Scan,
    Server,
    /// A program; whether it may only read.
    Program(bool),
}

/// What the frame of one operation looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Whether there is a key. If so it is not empty.
    pub has_key: bool,
    /// Whether the session is given.
    pub has_session: bool,
    /// Flags that the operation takes.
    pub flags: u8,
    /// Size of the expected version after the key, in bytes.
    pub version_size: u8,
    /// What comes last.
    pub rest: Rest,
}

impl Shape {
    /// The row of `operation`.
    #[inline]
    pub(crate) fn of(operation: Operation) -> &'static Shape {
        &SHAPES[operation as usize]
    }

    const fn row(operation: Operation) -> Shape {
        let (has_key, flags, rest) = match operation {
            Operation::Register | Operation::Ping | Operation::Status => (false, 0, Rest::Nothing),
            Operation::Get | Operation::Exists | Operation::TimeToLive => (true, FLAG_STALE, Rest::Nothing),
            Operation::Delete => (true, 0, Rest::Nothing),
            Operation::Put | Operation::CompareAndSet => (true, FLAG_TTL, Rest::Value),
            Operation::Increment => (true, 0, Rest::Delta),
            Operation::Expire => (true, 0, Rest::TimeToLive),
            Operation::MultiGet => (false, FLAG_STALE, Rest::Keys),
            Operation::MultiPut => (false, FLAG_TTL, Rest::KeysAndValues),
            Operation::Scan => (false, FLAG_STALE, Rest::Scan),
            Operation::MovePrimary => (false, 0, Rest::Server),
            Operation::Transact => (false, 0, Rest::Program(false)),
            Operation::Query => (false, FLAG_STALE, Rest::Program(true)),
        };
        // A program's answer is not kept, so that a retry could not be given it again: it belongs to no session.
        let has_session = operation.is_logged() && !matches!(operation, Operation::Register | Operation::Transact);
        let version_size = if matches!(operation, Operation::CompareAndSet) { 8 } else { 0 };
        Shape { has_key, has_session, flags, version_size, rest }
    }
}

/// The rows by wire value; the first one belongs to no operation.
static SHAPES: [Shape; Operation::ALL.len() + 1] = {
    let mut shapes = [Shape::row(Operation::Ping); Operation::ALL.len() + 1];
    let mut index = 0;
    while index < Operation::ALL.len() {
        let operation = Operation::ALL[index];
        shapes[operation as usize] = Shape::row(operation);
        index += 1;
    }
    shapes
};
