//! The load generator of Lockstep: offers load on time, measures what users would have seen, and draws it.
//!
//! # What it is
//!
//! An *open-loop* generator. A plan says, from a seed, when each request is meant to be sent; requests go out at those
//! times whether or not earlier ones have been answered, and latency is counted from the intended time. A server that
//! stalls for a second is thus charged for every request of that second, as its users would charge it. Three histograms
//! are kept in every run: *response* (from the intended time), *service* (from the actual send) and *lateness* (the
//! generator's own delay). A run ends with a verdict, VALID or VOID, by rules that are written in
//! [`record::VerdictRules`]: a generator that was late, a rate that was not reached, or latencies that were still
//! moving make a measurement void, whatever it seems to show.
//!
//! Around that core are the things that make a measurement repeatable: clusters that are started and removed for it, a
//! link proxy that gives server-to-server links a fixed delay, a matrix that compares sizes, fan-outs and ack policies
//! in shuffled order with a control, a calibration of what the machine can do at best, and plots and a page of the
//! results.
//!
//! # What it is not
//!
//! No client library (that is `lockstep-client`; the driver here speaks the protocol on its own rings to cost less), no
//! tester of correctness beyond checking the values that it reads, and no benchmark suite of other systems (but what
//! speaks RESP can be driven by the same loads, for [`compare`]).
//!
//! # The pipeline
//!
//! | module | does |
//! |---|---|
//! | [`plan`] | decides what is asked for and when, before the first request |
//! | [`drive`] | sends it and notes four moments of each request |
//! | [`record`] | merges what the threads noted, judges it, writes the folder of a run |
//! | [`cluster`] | starts and stops servers, and the proxy between them |
//! | [`faults`] | kills, stops and cuts off servers on the clock of a run |
//! | [`matrix`], [`sweep`], [`failover`] | many runs, or many faults, as one result |
//! | [`compare`] | Lockstep beside Redis and Valkey under the same loads |
//! | [`calibrate`] | the floor that no implementation can get below |
//! | [`report`] | plots and the offline page |
//! | [`cli`], [`commands`] | the command line, and what each command does |
//!
//! # Where to begin
//!
//! [`drive::RunSpec`] is everything that decides a run, [`record::RunRecord`] everything that comes out of it.
//! `commands/run.rs` shows the whole way from one to the other on two screens.

pub mod calibrate;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod compare;
pub mod drive;
pub mod failover;
pub mod faults;
pub mod matrix;
pub mod plan;
pub mod record;
pub mod report;
pub mod scenario;
pub mod sweep;
