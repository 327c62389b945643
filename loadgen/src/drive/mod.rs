//! Sends a plan to servers and records what comes back.
//!
//! This file is the border between the driver and everything else: [`RunSpec`] says what to do, [`DriveContext`] what to
//! keep an eye on meanwhile, and [`drive`] gives back a [`RunRecord`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::plan::{Arrivals, KeyDistribution, KeyLayout, StreamSpec, ValueSizes, Workload};
use crate::record::{EventLog, IntervalRow, ProcessRef, RunRecord};

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
    /// Shards per server.
    pub shards: u16,
    /// How fast.
    pub pacing: Pacing,
    /// The spacing of arrivals in time (no meaning when saturating).
    pub arrivals: Arrivals,
    /// How long requests are intended for, after the warm-up.
    pub duration: Duration,
    /// How long requests are sent before anything counts.
    pub warmup: Duration,
    /// Connections to each shard's primary, all threads together.
    pub connections: usize,
    /// Requests in flight on one connection, at most.
    pub in_flight: usize,
    /// The mix of operations.
    pub workload: Workload,
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
        StreamSpec { workload: self.workload, keys: self.keys, distribution: self.distribution, values: self.values }
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
    /// This build has no driver.
    #[error("this build of lockstep-loadgen cannot send requests yet: it was built without the protocol driver")]
    NoDriver,
    /// A server did not accept the connections of the run's start.
    #[error("cannot connect to {address}: {reason}; is the server running and serving?")]
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
pub fn drive(spec: &RunSpec, context: DriveContext<'_>) -> Result<RunRecord, DriveError> {
    let DriveContext { .. } = context;
    let _ = spec;
    Err(DriveError::NoDriver)
}
