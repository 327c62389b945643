//! The client library and the command line against a scripted server on real sockets.

mod command_line;
mod failover;
mod fake;
mod garbage;
mod operations;
mod pipelining;
mod repeats;
mod servers;
