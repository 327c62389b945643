//! Why a command did not end well.

use std::io;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// There is no such key.
    NotFound(Vec<u8>),
    /// The answer is "no", for this reason.
    Refused(String),
    /// The answer is "no", and was printed.
    NotMet,
    /// The command does not make sense.
    Usage(String),
    /// The request failed.
    Client(lockstep_client::Error),
    /// Nobody reads the output any more.
    OutputClosed,
    /// Anything else, in words.
    Other(String),
}

impl From<lockstep_client::Error> for Failure {
    fn from(error: lockstep_client::Error) -> Self {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other(error.to_string()),
        }
    }
}
