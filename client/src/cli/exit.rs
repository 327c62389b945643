//! Exit codes, and the one line that says why.

use lockstep_client::{Error, FailureKind};

use super::{failure::Failure, output::Printer};

/// Done.
pub const OK: u8 = 0;
/// The key does not exist, or the condition does not hold.
pub const NOT_MET: u8 = 1;
/// The command line does not make sense.
pub const USAGE: u8 = 2;
/// No answer, or one that cannot be used.
pub const UNAVAILABLE: u8 = 3;

/// Says on standard error what went wrong, if anything. Returns the exit code.
pub fn report(result: Result<(), Failure>, printer: &Printer) -> u8 {
    let Err(failure) = result else { return OK };
    match &failure {
        // A closed standard output has nothing left to be told.
        Failure::NotFound(key) if printer.is_json() => drop(printer.json(&super::output::missing(key))),
        Failure::NotFound(key) => printer.note(&format!("(nil) {}", super::output::escape(key))),
        Failure::NotMet => {}
        Failure::Usage(message) | Failure::Refused(message) => printer.error(message),
        Failure::Client(error) => printer.error(&error.to_string()),
        Failure::Other(message) => printer.error(message),
        // Whoever read our output has had enough of it.
        Failure::OutputClosed => {}
    }
    code(&failure)
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
