//! The server of Lockstep: everything that does I/O around the pure protocol core and store.
//!
//! # What it is
//!
//! The host of `lockstep-replica` and `lockstep-store`. A server is one process with one pinned thread per shard. Each
//! thread has an io_uring, a listener, a journal, a store and a replica of its own and shares none of them: a shard is
//! a replication group across the same servers as all the others. Beside them, the main thread answers HTTP on the
//! admin port and waits for signals.
//!
//! - [`cli`]: the command line, and [`cli::StartOptions`], the settings of a running server, checked.
//! - [`shard`]: a shard's thread. [`shard::ShardSetup`] is everything it is given; it owns the rest.
//! - [`socket`]: connections from clients and other servers. [`stub`]: from a request to its reply.
//! - [`uring`], [`ring_handle`], [`park`] and [`ring`]: the ring it runs on, how it is entered, how the thread waits
//!   there, and the operations it asks for. [`notify`]: how its tasks wake each other.
//! - [`affinity`]: the CPU it runs on. [`buffers`] and [`huge_pages`]: its memory. [`file_limit`]: its open files.
//! - [`journal`] and [`checkpoint`]: the data folder: format, recovery, where prepares go, checkpoint files, `inspect`.
//! - [`metrics`]: what a shard counts and tells. [`admin`]: the same over HTTP.
//! - [`resp`]: the Redis front door.
//! - [`supervise`]: how threads are started, watched and stopped. [`telemetry`]: log lines. [`dev`]: a whole cluster on
//!   one host.
//!
//! # What it is not
//!
//! It knows no protocol rule. What a message means and what is to be sent, written or applied next is decided by
//! `lockstep-replica`, which is told the time and never asks; what a request does to the data is `lockstep-store`'s.
//! Byte layouts are `lockstep-proto`'s. This library exists for the `lockstep-server` program, its tests and benches;
//! its API is not kept stable.
//!
//! # Where to begin
//!
//! `main.rs` and [`supervise`] for how a server comes up and goes down, then [`shard`] for what happens in a turn of
//! the event loop. `docs/operations.md` has the same from the outside.

pub mod admin;
pub mod affinity;
pub mod buffers;
pub mod checkpoint;
pub mod cli;
pub mod dev;
pub mod file_limit;
pub mod huge_pages;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod park;
mod receive;
pub mod resp;
pub mod ring;
pub mod ring_handle;
pub mod shard;
pub mod socket;
pub mod stop_signals;
pub mod stub;
pub mod supervise;
pub mod telemetry;
pub mod uring;
