//! What each command does.

pub mod client;
pub mod connection;
pub mod help;
pub mod keys;
mod program;
pub mod strings;
pub mod transactions;
