//! Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::{arguments::Span, context::Spec};

/// A client's transaction, and the keys that it watches.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Whether MULTI was given.
    pub is_open: bool,
    /// Whether a command was refused when it was queued: EXEC is refused, too.
    pub is_spoilt: bool,
    /// The commands, in order.
    pub queue: Vec<Queued>,
    /// Size of the queued commands, in bytes.
    pub queue_bytes: usize,
    /// What is watched.
    pub watches: Vec<Watch>,
}

/// A command that waits for EXEC.
#[derive(Debug)]
pub struct Queued {
    /// The command, or the subcommand.
    pub spec: &'static Spec,
    /// Its arguments.
    pub bytes: Vec<u8>,
    /// Where they are.
    pub spans: Vec<Span>,
}

/// A key that is watched, as it was then.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The key.
    pub key: Vec<u8>,
    /// Its version, 0 when it did not exist.
    pub version: u64,
    /// Its expiry, in ns since 1970, 0 for none.
    pub expiry_ns: u64,
}
