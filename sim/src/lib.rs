//! Whole Lockstep clusters in one thread, on virtual time, from one seed; and the checker that judges what clients saw.
//!
//! # What it is
//!
//! A run takes a seed to a [`plan::Plan`]: cluster size, settings, workload, and what goes wrong when. A
//! [`world::World`] then lets it happen: servers ([`host`]) that are the production replica, state machine and journal
//! code on a simulated disk ([`disk`]), network ([`network`]) and clock, and clients ([`client`], and [`redis`] at the
//! front door) that record what they are told. At every step [`facts`] compares what servers say with what their disks
//! hold; in the end everything is healed and must be well again, and the clients' histories are judged: by the
//! [`checker`] key by key, and where programs couple several keys, by [`groups`]. What an operation makes of keys is
//! said by [`keyspace`], not by the store.
//!
//! The same seed gives the same run, to the last bit: nothing here reads a clock or a real random number, or goes by
//! the order of a hash map. So a seed that fails can be replayed with a transcript, and made shorter.
//!
//! # What it is not
//!
//! The event loop of the server is not in it: [`host`] stands in for it. Real processes, disks and sockets are tested
//! in `server/tests/`.
//!
//! # Where to begin
//!
//! [`run::run_seed`] is a whole run. [`plan`] says what may happen, [`facts`] what must be true.

pub mod checker;
pub mod cli;
pub mod client;
pub mod dice;
pub mod disk;
pub mod facts;
pub mod groups;
pub mod host;
pub mod keyspace;
pub mod network;
pub mod plan;
pub mod redis;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod shared;
pub mod shrink;
pub mod stories;
pub mod trace;
pub mod transcript;
pub mod walk;
pub mod world;
