//! What can go wrong, and what is known about a request when it did.

use std::{borrow::Cow, fmt, io, time::Duration};

use lockstep_proto::{
    Operation, Status,
    hello::{Answer, HelloError},
    request::FrameError,
};
use thiserror::Error;

/// What is known about a request that ended in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not carried out and will not be: nothing has changed.
    NotExecuted,
    /// It may have been carried out, or may yet be: the answer was lost. Read the key to find out.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NotExecuted => "not executed",
            Outcome::Unknown => "outcome unknown",
        })
    }
}

/// Why a request failed.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// No answer within the request timeout.
    #[error(
        "{}: no answer within {} ({outcome}); give it longer with the request timeout",
        operation_words(*operation),
        time_words(*after)
    )]
    Timeout {
        /// What was asked for.
        operation: Operation,
        /// The request timeout.
        after: Duration,
        /// Whether it may have been carried out.
        outcome: Outcome,
    },
    /// No server could be brought to answer within the retry limits.
    #[error("unavailable ({outcome}): {cause}")]
    Unavailable {
        /// What went wrong last.
        cause: Failure,
        /// Whether it may have been carried out.
        outcome: Outcome,
    },
    /// A server sent bytes that are not the protocol. The connection was closed; the next request opens another.
    #[error("{address} does not speak the protocol as it should ({outcome}): {message}")]
    Protocol {
        /// Who sent them.
        address: String,
        /// What is wrong with them.
        message: String,
        /// Whether the request may have been carried out.
        outcome: Outcome,
    },
    /// The session was evicted, or its window has passed, before a repeated write was answered: whether one of its
    /// attempts was carried out cannot be found out from the server any more.
    #[error(
        "the server has forgotten the session of a write whose answer was lost (outcome unknown): read the key to find out"
    )]
    SessionLost,
    /// The value is not a decimal 64-bit number, or the sum leaves its range. Nothing was changed.
    #[error("the value is not a decimal 64-bit number, or the sum is out of its range")]
    WrongType,
    /// The key has another version than the expected one. Nothing was changed.
    #[error("the key's version is {current}, not the expected one (0: it does not exist)")]
    VersionMismatch {
        /// The present version, 0 if the key does not exist.
        current: u64,
    },
    /// A key, a value or the whole request is beyond its bound. Nothing was sent.
    #[error("{what}: {size}, and {max} is the most")]
    TooLarge {
        /// What is too large and in which unit, such as `size of the key in bytes`.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The keys of one multi-put belong to several shards. Nothing was sent.
    #[error(
        "the keys {first:?} and {other:?} belong to shards {first_shard} and {other_shard}, but a multi-put must stay within one: \
         give keys that belong together a common hash tag, such as {{user:7}}:name and {{user:7}}:mail"
    )]
    CrossShard {
        /// A key, for a person to read.
        first: String,
        /// Its shard.
        first_shard: u16,
        /// A key of another shard, for a person to read.
        other: String,
        /// Its shard.
        other_shard: u16,
    },
    /// An argument that no server would take: an empty key, a time-to-live of zero, a shard that is not there. Nothing
    /// was sent.
    #[error("{0}")]
    InvalidArgument(Cow<'static, str>),
    /// A server refused the request for good. It was not carried out.
    #[error("refused by the server: {status:?}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// How the server put it.
        status: Status,
        /// The server's words for a person, if it gave any.
        message: String,
    },
    /// The runtime that the client was made on has ended.
    #[error("the client's runtime has ended (outcome unknown)")]
    Closed,
}

impl Error {
    /// What is known about the request.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Timeout { outcome, .. } | Error::Unavailable { outcome, .. } | Error::Protocol { outcome, .. } => {
                *outcome
            }
            Error::SessionLost | Error::Closed => Outcome::Unknown,
            _ => Outcome::NotExecuted,
        }
    }

    /// Whether the same request may succeed later without anything being done about it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Timeout { .. } | Error::Unavailable { .. } | Error::Protocol { .. })
    }

    /// There is no `what`, a shard or a server, of this number among the `count` that there are.
    pub(crate) fn none_such(what: &str, number: impl fmt::Display, count: usize) -> Error {
        let last = count - 1;
        let those = if last == 0 { format!("only {what} 0") } else { format!("{what}s 0 to {last}") };
        Error::InvalidArgument(format!("there is no {what} {number}: the cluster has {those}").into())
    }

    pub(crate) fn from_failure(failure: Failure, outcome: Outcome) -> Error {
        match failure.kind {
            FailureKind::Protocol(message) => Error::Protocol { address: failure.address, message, outcome },
            _ => Error::Unavailable { cause: failure, outcome },
        }
    }
}

/// What went wrong between this client and one server.
#[derive(Clone, Debug, Error)]
#[error("{address}: {kind}")]
pub struct Failure {
    /// The server, as `host:port`; several with commas between when none in particular is meant.
    pub address: String,
    /// What went wrong.
    pub kind: FailureKind,
}

/// The ways in which talking to a server goes wrong.
#[derive(Clone, Debug, Error)]
pub enum FailureKind {
    /// The address cannot be used.
    #[error("not an address: expected host:port, with room for the shard numbers above the port")]
    Address,
    /// No connection came about.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No connection within the connect timeout.
    #[error("no connection within {}", time_words(*.0))]
    ConnectTimeout(Duration),
    /// A connection, but no topology on it within the connect timeout.
    #[error(
        "connected, but no answer to the hello within {}: it is busy, or this is no server's base address (its Redis port, perhaps)",
        time_words(*.0)
    )]
    HelloTimeout(Duration),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server closed the connection.
    #[error("connection closed by the server")]
    Closed,
    /// The server said nothing, not even to a ping.
    #[error("silent for {}", time_words(*.0))]
    Silent(Duration),
    /// The server sent what is not the protocol.
    #[error("{0}")]
    Protocol(String),
    /// The server took the hello, but not the client.
    #[error("refuses this client: {answer:?}{}{message}", if message.is_empty() { "" } else { ": " })]
    Hello {
        /// How the server put it.
        answer: Answer,
        /// The server's words for a person, if it gave any.
        message: String,
    },
    /// The server belongs to another cluster than the one that was found first, or serves another shard than asked for.
    #[error("{0}")]
    Mismatch(&'static str),
    /// None of the servers that answer is the primary.
    #[error("no primary found for shard {shard} (highest view heard of: {view})")]
    NoPrimary {
        /// The shard.
        shard: u16,
        /// The highest view that a server spoke of.
        view: u64,
    },
    /// While the server owed answers, another one was found to be the primary of a later view.
    #[error("another server has become the primary, in view {view}")]
    Superseded {
        /// The later view.
        view: u64,
    },
    /// The server cannot take the request now.
    #[error("cannot take the request now: {}", refusal_words(*.0))]
    Status(Status),
    /// So many requests had to be repeated that repeating is suspended for a while.
    #[error("too many requests had to be repeated, last because of: {0}")]
    RetryBudget(String),
}

/// A time for people: whole milliseconds, and what is shorter as it is.
fn time_words(time: Duration) -> String {
    if time < Duration::from_millis(1) { format!("{time:?}") } else { format!("{} ms", time.as_millis()) }
}

/// `compare-and-set` for `CompareAndSet`.
fn operation_words(operation: Operation) -> String {
    let mut words = String::new();
    for letter in format!("{operation:?}").chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Why a server does not take a request, for people.
fn refusal_words(status: Status) -> String {
    match status {
        Status::Unavailable => {
            "it is starting or stopping, or there is no majority of the servers that could agree on it".to_owned()
        }
        Status::NotPrimary => "it is not the primary".to_owned(),
        Status::Busy => "it has too much to do".to_owned(),
        other => format!("{other:?}"),
    }
}

impl FailureKind {
    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            FailureKind::Address
                | FailureKind::Hello { answer: Answer::Malformed | Answer::Version | Answer::Cluster, .. }
        )
    }

    pub(crate) fn at(self, address: &str) -> Failure {
        Failure { address: address.to_owned(), kind: self }
    }
}

impl From<FrameError> for FailureKind {
    fn from(error: FrameError) -> Self {
        FailureKind::Protocol(error.to_string())
    }
}

impl From<HelloError> for FailureKind {
    fn from(error: HelloError) -> Self {
        FailureKind::Protocol(error.to_string())
    }
}

impl From<io::Error> for FailureKind {
    fn from(error: io::Error) -> Self {
        FailureKind::Lost(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_timeout_was_told_as_zero_with_an_internal_name() {
        let text = |operation, after| Error::Timeout { operation, after, outcome: Outcome::NotExecuted }.to_string();
        let short = text(Operation::Get, Duration::from_nanos(1));
        assert_eq!(short, "get: no answer within 1ns (not executed); give it longer with the request timeout");
        let long = text(Operation::CompareAndSet, Duration::from_secs(5));
        assert!(long.starts_with("compare-and-set: no answer within 5000 ms"), "{long}");
    }

    #[test]
    fn what_may_pass_by_itself_is_told_from_what_will_not() {
        let outcome = Outcome::NotExecuted;
        let failure = FailureKind::Closed.at("10.0.0.1:7400");
        let operation = Operation::Get;
        let transient = [
            Error::Timeout { operation, after: Duration::from_secs(5), outcome },
            Error::Unavailable { cause: failure, outcome },
            Error::Protocol { address: String::new(), message: String::new(), outcome },
        ];
        let lasting = [
            Error::SessionLost,
            Error::WrongType,
            Error::VersionMismatch { current: 7 },
            Error::TooLarge { what: "size of the key in bytes", size: 70_000, max: 65_535 },
            Error::CrossShard { first: "a".into(), first_shard: 0, other: "b".into(), other_shard: 1 },
            Error::InvalidArgument("a key must have at least one byte".into()),
            Error::Refused { status: Status::BadRequest, message: String::new() },
            Error::Closed,
        ];
        assert!(transient.iter().all(Error::is_transient));
        assert!(!lasting.iter().any(Error::is_transient));
    }

    #[test]
    fn no_such_shard_and_no_such_server_did_not_say_which_there_are() {
        let text = |what, number, count| Error::none_such(what, number, count).to_string();
        assert_eq!(text("server", 9, 3), "there is no server 9: the cluster has servers 0 to 2");
        assert_eq!(text("shard", 7, 1), "there is no shard 7: the cluster has only shard 0");
    }

    #[test]
    fn a_server_without_a_quorum_said_unavailable_and_no_more() {
        let text = FailureKind::Status(Status::Unavailable).to_string();
        assert!(text.contains("no majority of the servers") && !text.contains("Unavailable"), "{text}");
    }
}
