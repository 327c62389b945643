//! The primary-backup protocol of Lockstep, as a pure state machine.
//!
//! # What it is
//!
//! [`Replica`] is one server's part in one replication group. It is deterministic: the same inputs in the same order
//! give the same outputs. It does no I/O, reads no clock, draws no random numbers, starts no thread and is not async;
//! time is an argument of [`Replica::step`], and [`Replica::next_timeout_ns`] says when it wants to be called next even
//! if nothing happens. The disk is one more place to send messages to: [`Output::WriteJournal`] goes out,
//! [`Input::JournalWritten`] comes back. That is what lets a test or a simulator run the very code that production
//! runs.
//!
//! The protocol is Viewstamped Replication over a fixed member set (Liskov and Cowling, "Viewstamped Replication
//! Revisited", 2012), with durable logs. `docs/replication.md` has it in words: what is promised, why it holds, and
//! where each invariant is asserted.
//!
//! # What it is not
//!
//! It knows nothing of what requests do to data, of sockets, files or connections. The host moves bytes; this crate
//! never trusts it with a rule of the protocol.
//!
//! # Where to begin
//!
//! [`Input`] and [`Output`] are the whole conversation with the host. [`Replica::step`] takes an input apart;
//! `primary.rs` and `backup.rs` are the two sides of normal operation. `view.rs` says how a view ends and the next one
//! begins, with `suspicion.rs`, `handover.rs`, `candidate.rs` and `joining.rs` for the steps. `recovery.rs` is for
//! servers that have lost something, `transfer.rs` for those that are far behind, `repair.rs` and `hashes.rs` watch
//! over what disks hold. Beside them are plain data: `log.rs` the end of the log, `peers.rs` what a primary knows of
//! each backup, `timers.rs` what is due when. [`sessions`] is the table that makes a request take effect once; it is
//! part of the replicated state, and the host keeps it next to the store.

mod backup;
mod batch;
mod candidate;
mod chance;
mod config;
mod handover;
mod hashes;
mod io;
mod joining;
mod log;
mod log_end;
mod peers;
mod primary;
mod quorum;
mod read_ahead;
mod record;
mod recovery;
mod repair;
mod replica;
pub mod sessions;
mod status;
mod suspicion;
mod timers;
mod transfer;
mod view;

pub use batch::BatchPool;
pub use config::{AckPolicy, Config, ConfigError, FanOut};
pub use io::{Input, Output, Recovered, Refusal};
pub use quorum::Quorums;
pub use record::{VOUCH_UNKNOWN, ViewRecord};
pub use replica::Replica;
pub use status::{PeerState, ReplicaStatus, Role};
