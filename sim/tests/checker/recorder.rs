//! Histories as tests write them.

use lockstep_sim::checker::{Answer, Call, CheckOptions, Failure, History};

/// One operation on a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub client: u32,
    pub key: &'static str,
    pub invoke: u64,
    /// `None`: the outcome is unknown.
    pub end: Option<(u64, Told)>,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Put(String),
    PutFor(String, u64),
    Delete,
    Cas(u64, String),
    Add(i64),
    Expire(Option<u64>),
    Get,
    Exists,
    Ttl,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Ok(u64),
    Sum(i64, u64),
    Found(String, u64),
    Exists(u64),
    Persistent,
    Remaining(u64),
    None,
    Mismatch(u64),
    NotANumber(u64),
}

/// An operation on key "k".
pub fn op(client: u32, times: std::ops::Range<u64>, ask: Ask, told: Told) -> Op {
    Op { client, key: "k", invoke: times.start, end: Some((times.end, told)), ask }
}

/// An operation on key "k" that never got an answer.
pub fn unknown(client: u32, invoke: u64, ask: Ask) -> Op {
    Op { client, key: "k", invoke, end: None, ask }
}

pub fn put(value: &str) -> Ask {
    Ask::Put(value.to_owned())
}

pub fn cas(expected: u64, value: &str) -> Ask {
    Ask::Cas(expected, value.to_owned())
}

pub fn found(value: &str, version: u64) -> Told {
    Told::Found(value.to_owned(), version)
}

pub fn history(operations: &[Op]) -> History {
    let mut history = History::new();
    for op in operations {
        let call = match &op.ask {
            Ask::Put(value) => Call::Put { value: value.as_bytes(), ttl_ms: None },
            Ask::PutFor(value, ms) => Call::Put { value: value.as_bytes(), ttl_ms: Some(*ms) },
            Ask::Delete => Call::Delete,
            Ask::Cas(expected, value) => {
                Call::CompareAndSet { expected: *expected, value: value.as_bytes(), ttl_ms: None }
            }
            Ask::Add(delta) => Call::Increment { delta: *delta },
            Ask::Expire(ttl_ms) => Call::Expire { ttl_ms: *ttl_ms },
            Ask::Get => Call::Get,
            Ask::Exists => Call::Exists,
            Ask::Ttl => Call::TimeToLive,
        };
        let id = history.invoke(op.client, op.invoke, op.key.as_bytes(), call);
        let Some((end, told)) = &op.end else { continue };
        let answer = match told {
            Told::Ok(version) => Answer::Written { version: *version },
            Told::Sum(sum, version) => Answer::Summed { sum: *sum, version: *version },
            Told::Found(value, version) => Answer::Found { value: value.as_bytes(), version: *version },
            Told::Exists(version) => Answer::Exists { version: *version },
            Told::Persistent => Answer::Persistent,
            Told::Remaining(ms) => Answer::Remaining { ms: *ms },
            Told::None => Answer::NotFound,
            Told::Mismatch(version) => Answer::Mismatch { version: *version },
            Told::NotANumber(version) => Answer::NotANumber { version: *version },
        };
        history.complete(id, *end, answer);
    }
    history
}

pub fn check(operations: &[Op]) -> Result<(), Failure> {
    history(operations).check(&CheckOptions { clock_slack_ns: 0, ..CheckOptions::default() }).map(|_| ())
}

/// Asserts that a history is right.
#[track_caller]
pub fn assert_good(operations: &[Op]) {
    if let Err(failure) = check(operations) {
        panic!("{failure}");
    }
}

/// Asserts that a history is wrong, and returns the explanation.
#[track_caller]
pub fn assert_bad(operations: &[Op]) -> String {
    match check(operations) {
        Err(Failure::Violation(violation)) => violation.to_string(),
        other => panic!("no violation found: {other:?}"),
    }
}
