//! Exit codes, and the one line that says why.

use lockstep_client::{Error, FailureKind, Outcome};
use serde_json::{Value, json};

use super::{failure::Failure, output::Printer};

/// Done.
pub const OK: u8 = 0;
/// The key does not exist, or the condition does not hold.
pub const NOT_MET: u8 = 1;
/// The command line does not make sense.
pub const USAGE: u8 = 2;
/// No answer, or one that cannot be used.
pub const UNAVAILABLE: u8 = 3;

/// Says on standard error what went wrong, if anything; with JSON answers also in an object on standard output. Returns the exit
/// code.
pub fn report(result: Result<(), Failure>, printer: &Printer) -> u8 {
    let Err(failure) = result else { return OK };
    match &failure {
        // A closed standard output has nothing left to be told.
        Failure::NotFound(key) if printer.is_json() => drop(printer.json(&super::output::missing(key))),
        Failure::NotFound(key) => printer.note(&format!("(nil) {}", super::output::escape(key))),
        Failure::NotMet => {}
        Failure::Usage(message) => tell(printer, "usage", message, None),
        Failure::Refused(message) => tell(printer, "refused", message, None),
        Failure::Client(error) => tell(printer, kind(error), &words(error), Some(error)),
        Failure::Other(message) => tell(printer, "other", message, None),
        // Whoever read our output has had enough of it.
        Failure::OutputClosed => {}
    }
    code(&failure)
}

fn tell(printer: &Printer, kind: &str, message: &str, error: Option<&Error>) {
    if printer.is_json() {
        let mut object = json!({"error": kind, "message": message});
        if let Some(error) = error {
            let outcome = if error.outcome() == Outcome::Unknown { "unknown" } else { "not_executed" };
            object["outcome"] = Value::from(outcome);
        }
        if let Some(Error::VersionMismatch { current }) = error {
            object["version"] = Value::from(*current);
        }
        // A closed standard output has nothing left to be told.
        drop(printer.json(&object));
    }
    printer.error(message);
}

/// An error in words, with what there is on this command line against it.
fn words(error: &Error) -> String {
    match error {
        Error::Timeout { .. } => error.to_string().replace("the request timeout", "--timeout"),
        Error::Unavailable { cause, .. } if matches!(cause.kind, FailureKind::Status(_)) => {
            format!("{error}; `lockstep status` shows every server")
        }
        _ => error.to_string(),
    }
}

/// A word for scripts.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Timeout { .. } => "timeout",
        Error::Unavailable { .. } => "unavailable",
        Error::Protocol { .. } => "protocol",
        Error::SessionLost => "session_lost",
        Error::WrongType => "wrong_type",
        Error::VersionMismatch { .. } => "version_mismatch",
        Error::TooLarge { .. } => "too_large",
        Error::CrossShard { .. } => "cross_shard",
        Error::InvalidArgument(_) => "invalid_argument",
        Error::Refused { .. } => "refused",
        Error::Closed => "closed",
    }
}

fn code(failure: &Failure) -> u8 {
    match failure {
        Failure::NotFound(_) | Failure::NotMet | Failure::Refused(_) => NOT_MET,
        Failure::Usage(_) => USAGE,
        Failure::OutputClosed => OK,
        Failure::Other(_) => UNAVAILABLE,
        Failure::Client(error) => match error {
            Error::VersionMismatch { .. } | Error::WrongType => NOT_MET,
            Error::TooLarge { .. } | Error::CrossShard { .. } | Error::InvalidArgument(_) => USAGE,
            Error::Unavailable { cause, .. } if matches!(cause.kind, FailureKind::Address) => USAGE,
            _ => UNAVAILABLE,
        },
    }
}
