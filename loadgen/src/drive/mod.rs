//! Sends a plan to servers and records what comes back.
//!
//! This file is the border between the driver and everything else: [`RunSpec`] says what to do, [`DriveContext`] what
//! to keep an eye on meanwhile, and [`drive`] gives back a [`RunRecord`].

mod answering;
mod coordinator;
mod engine;
mod handshake;
mod inflight;
mod lane;
mod ledger;
mod notify;
mod replies;
mod resp;
mod resp_replies;
mod ring;
mod scout;
mod slice;
mod source;
#[cfg(test)]
mod tests;
mod worker;

pub use answering::AnsweringServer;
pub use ledger::AUDITED_KEYS_MAX;
pub use resp::{Password, Protocol};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::plan::{Arrivals, KeyDistribution, KeyLayout, StreamSpec, ValueSizes, Workload};
use crate::record::{AuditReport, EventLog, IntervalRow, ProcessRef, RunRecord, Window};
use coordinator::{Kind, conduct};
use ledger::Ledger;

/// How fast requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pacing {
    /// Open loop: this many requests per second over all connections, whether or not answers come.
    Rate(f64),
    /// Closed loop: every connection always has its full number of requests in flight. Intended time = time of sending.
    Saturate,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Each key `0..keys` is put once ([`crate::plan::OpStream::load`]), then the run ends. No warm-up.
    Load,
    /// Operations of the workload for the duration.
    Run,
}

/// Everything that decides what a run does; the same spec and the same servers should give the same numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RunSpec {
    /// Load the keys, or run the workload.
    pub phase: Phase,
    /// Base address of each server, in the order of their ids; shard i answers at port + i. The first is the primary of
    /// view 0; the hello's topology says more.
    pub servers: Vec<SocketAddr>,
    /// Shards per server; 1 with [`Protocol::Resp`], where a server passes on what belongs to another of its shards.
    pub shards: u16,
    /// What the servers speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// With [`Protocol::Resp`]: each write is followed by a WAIT for this many replicas, and has its answer with that.
    /// 0: none.
    #[serde(default)]
    pub wait_replicas: u32,
    /// With [`Protocol::Resp`]: what the servers' password is. It is in no result.
    #[serde(skip)]
    pub resp_password: Option<Password>,
    /// How fast.
    pub pacing: Pacing,
    /// The spacing of arrivals in time (no meaning when saturating).
    pub arrivals: Arrivals,
    /// How long requests are intended for, after the warm-up; [`Duration::MAX`]: until [`DriveContext::finish`] is set.
    pub duration: Duration,
    /// How long requests are sent before anything counts.
    pub warmup: Duration,
    /// Connections to each shard's primary, all threads together.
    pub connections: usize,
    /// Requests in flight on one connection, at most.
    pub in_flight: usize,
    /// The mix of operations.
    pub workload: Workload,
    /// In this share of the workload's puts over existing keys, a counter is incremented instead: what happens twice,
    /// or not at all, shows in its sum.
    #[serde(default)]
    pub increments: f64,
    /// How many keys are (to be) loaded.
    pub keys: u64,
    /// How requests are spread over the keys.
    pub distribution: KeyDistribution,
    /// How a key index becomes bytes.
    pub key_layout: KeyLayout,
    /// Lengths of values.
    pub values: ValueSizes,
    /// A request without an answer for this long is given up and recorded as [`crate::record::Outcome::Unknown`].
    pub timeout: Duration,
    /// The seed of everything random.
    pub seed: u64,
    /// Whether values are checked on reads.
    pub verify: bool,
    /// Generating threads.
    pub threads: usize,
}

impl RunSpec {
    /// The part of the spec that [`crate::plan::OpStream`] needs.
    pub fn stream(&self) -> StreamSpec {
        StreamSpec {
            workload: self.workload,
            increments: self.increments,
            keys: self.keys,
            distribution: self.distribution,
            values: self.values,
        }
    }

    /// The offered rate in requests per second, unless the run saturates.
    pub fn offered_per_s(&self) -> Option<f64> {
        match self.pacing {
            Pacing::Rate(rate) => Some(rate),
            Pacing::Saturate => None,
        }
    }
}

/// A flag that asks a run to end early; clones share it. Set by Ctrl-C.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a run is given beside its spec.
pub struct DriveContext<'a> {
    /// Ask often; when set, send nothing more, record what is in flight as unknown and return what was measured.
    pub stop: StopFlag,
    /// Ask often; when set, ask for nothing more, wait for what is in flight, and return what was measured. A spec
    /// whose duration is [`Duration::MAX`] ends in no other way.
    pub finish: StopFlag,
    /// Is told when the measured part begins, before it does.
    pub opening: Option<Sender<Instant>>,
    /// The length of one row of the time series, if not the usual.
    pub interval: Option<Duration>,
    /// Where lost and regained connections are noted. `drive` puts a snapshot of it into the record.
    pub events: EventLog,
    /// Whose CPU time to take; handed on to [`crate::record::Collector::run`].
    pub processes: &'a [ProcessRef],
    /// Called with each finished row of the time series; handed on to [`crate::record::Collector::run`].
    pub watch: &'a mut dyn FnMut(&IntervalRow),
}

/// Why a run could not be made. Losing connections during a run is no such error: that is recorded.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A server did not accept the connections of the run's start.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// A setting that this machine or these servers cannot do.
    #[error("{0}")]
    Refused(String),
}

/// Runs `spec` and gives back what was recorded.
///
/// # Errors
///
/// When the run could not begin.
pub fn drive(spec: &RunSpec, mut context: DriveContext<'_>) -> Result<RunRecord, DriveError> {
    coordinator::check(spec)?;
    let window = window_of(spec, context.interval);
    let (record, _) = conduct(spec, Kind::Planned, None, window, &mut context)?;
    Ok(record)
}

/// Runs `spec`, remembers the version of every acknowledged write, and reads all of them back when the run is over.
///
/// The servers must be up again by then: keys that cannot be read within the spec's time-out count as unread.
///
/// # Errors
///
/// When the run or the audit could not begin, or when there are more keys than an audit has room for.
pub fn drive_audited(spec: &RunSpec, mut context: DriveContext<'_>) -> Result<(RunRecord, AuditReport), DriveError> {
    coordinator::check(spec)?;
    if spec.protocol == Protocol::Resp {
        return Err(DriveError::Refused("an audit needs the versions that only the native protocol tells".to_owned()));
    }
    if spec.keys > AUDITED_KEYS_MAX {
        return Err(DriveError::Refused(format!("an audit has room for {AUDITED_KEYS_MAX} keys, not {}", spec.keys)));
    }
    // New keys of an inserting workload are audited as far as there is room for as many again.
    let room = (2 * spec.keys).min(AUDITED_KEYS_MAX);
    let ledger = Arc::new(Ledger::new(room));
    let window = window_of(spec, context.interval);
    let (mut record, _) = conduct(spec, Kind::Planned, Some(ledger.clone()), window, &mut context)?;
    let mut report = ledger.report();
    if context.stop.is_set() {
        // Whoever asked to stop does not want to wait for an audit.
        report.unread = report.keys + report.counters;
    } else if report.keys + report.counters > 0 {
        let reading = RunSpec { pacing: Pacing::Saturate, workload: Workload::C, verify: true, ..spec.clone() };
        let quiet = &mut |_: &IntervalRow| {};
        let mut context = DriveContext {
            stop: context.stop.clone(),
            finish: StopFlag::default(),
            opening: None,
            interval: None,
            events: context.events.clone(),
            processes: &[],
            watch: quiet,
        };
        // Servers that are gone for good are no reason to throw away what was measured.
        match conduct(&reading, Kind::Audit, Some(ledger.clone()), Window::new(0, None), &mut context) {
            Ok((read, _)) => {
                ledger.complete(&mut report);
                report.corrupt = read.counts.corrupt;
                report.unread = report.keys + report.counters - read.counts.ok - read.counts.corrupt;
            }
            Err(error) => {
                context.events.add("audit-failed", error.to_string());
                report.unread = report.keys + report.counters;
            }
        }
    }
    context.events.add("audit", report.to_string());
    record.events = context.events.snapshot();
    Ok((record, report))
}

/// What the generator itself can do at best.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ceiling {
    /// Requests per second against a server that only answers.
    pub requests_per_s: f64,
    /// CPU time that the generator spends on one request, user and kernel, in nanoseconds.
    pub generator_ns: f64,
    /// CPU time that the answering server spends on one request, in nanoseconds.
    pub server_ns: f64,
}

/// Saturates a server that only answers, on this host, with what `spec` would send; its servers and phase are ignored.
///
/// # Errors
///
/// When the server or the generator could not be set up.
pub fn ceiling(spec: &RunSpec) -> Result<Ceiling, DriveError> {
    let refused = |error| DriveError::Refused(format!("cannot start an answering server: {error}"));
    let server = AnsweringServer::start(spec.shards).map_err(refused)?;
    let spec = RunSpec {
        servers: vec![server.address()],
        phase: Phase::Run,
        pacing: Pacing::Saturate,
        // It remembers nothing, so what it answers to a read is no value, and to an increment no sum.
        verify: false,
        increments: 0.0,
        protocol: Protocol::Native,
        wait_replicas: 0,
        resp_password: None,
        ..spec.clone()
    };
    coordinator::check(&spec)?;
    let mut context = DriveContext {
        stop: StopFlag::default(),
        finish: StopFlag::default(),
        opening: None,
        interval: None,
        events: EventLog::new(),
        processes: &[],
        watch: &mut |_| {},
    };
    let before = server.cpu();
    let (record, totals) = conduct(&spec, Kind::Planned, None, window_of(&spec, None), &mut context)?;
    let ended = totals.tally.ended.max(1) as f64;
    Ok(Ceiling {
        requests_per_s: record.counts.ok as f64 * 1e9 / record.elapsed_ns.max(1) as f64,
        generator_ns: totals.cpu_ns as f64 / ended,
        server_ns: (server.cpu() - before).as_nanos() as f64 / ended,
    })
}

fn window_of(spec: &RunSpec, interval: Option<Duration>) -> Window {
    let window = match spec.phase {
        Phase::Load => Window::new(0, None),
        Phase::Run => {
            let is_open = spec.duration == Duration::MAX;
            Window::new(spec.warmup.as_nanos() as u64, (!is_open).then_some(spec.duration.as_nanos() as u64))
        }
    };
    match interval {
        Some(interval) => Window { interval_ns: (interval.as_nanos() as u64).max(1), ..window },
        None => window,
    }
}
