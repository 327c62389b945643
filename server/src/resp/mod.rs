//! The Redis front door: RESP2 and RESP3 on the same log and store.
//!
//! # What it is
//!
//! - `parse` and `writer`: the protocol. `arguments`: a command where it arrived.
//! - `connection` and `door`: one client's connection. `pending`: its answers in order. `mailbox`: other shards.
//! - `registry`: every command there is. `commands`: what each does, as an [`context::Action`].
//! - `transaction`: MULTI to EXEC. `watchers`: how many watch keys of a shard.
//! - `submission`: what a command asks of a shard, and which way that takes.
//! - `pubsub`: who listens to what.
//! - `memory`: what all clients together may hold. `cross_protocol`: whom not to listen to.
//! - `stats`: what is counted. `slow_log`: what took long. `topology`: servers and shards as clients are told of them.
//! - `client` and `server`: what a command may know.
//!
//! What becomes of an action, the way into the log, the read queue or another shard, is in `shard::front` and what
//! stands beside it.

pub mod arguments;
pub mod client;
pub mod commands;
pub mod connection;
pub mod context;
pub mod cross_protocol;
pub mod door;
pub mod flags;
pub mod mailbox;
pub mod memory;
pub mod numbers;
pub mod parse;
pub mod pending;
pub mod pubsub;
pub mod redirect;
pub mod registry;
pub mod server;
pub mod shared;
pub mod slow_log;
pub mod stats;
pub mod submission;
pub mod topology;
pub mod transaction;
pub mod values;
pub mod watchers;
pub mod writer;
