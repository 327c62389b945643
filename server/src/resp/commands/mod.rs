//! What each command does.

pub mod catalogue;
pub mod channels;
pub mod client;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod help;
pub mod info;
pub mod keys;
pub mod latency;
mod program;
pub mod sentinel;
pub mod server;
pub mod slow_log;
pub mod strings;
pub mod transactions;
