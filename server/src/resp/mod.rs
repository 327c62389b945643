//! The Redis front door: RESP2 and RESP3 on the same log and store.
//!
//! What it is
//!
//! - `parse` and `writer`: the protocol. `arguments`: a command where it arrived.
//! - `registry`: every command there is. `commands`: what each does, as an [`context::Action`].
//! - `pubsub`: who listens to what.
//! - `client` and `server`: what a command may know.

pub mod arguments;
pub mod client;
pub mod commands;
pub mod context;
pub mod flags;
pub mod numbers;
pub mod pubsub;
pub mod registry;
pub mod server;
pub mod transaction;
pub mod writer;
