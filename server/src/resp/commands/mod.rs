//! What each command does.

pub mod client;
pub mod connection;
pub mod help;
