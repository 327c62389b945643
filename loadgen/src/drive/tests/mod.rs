//! The driver against servers over real sockets.

mod faults;
mod latency;
mod resp;
mod scripted;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use scripted::{Act, Role, ScriptedServer};

/// A small run of writes that tests change to their needs.
fn spec(address: SocketAddr) -> RunSpec {
    RunSpec {
        phase: Phase::Run,
        servers: vec![address],
        shards: 1,
        protocol: Protocol::Native,
        wait_replicas: 0,
        resp_password: None,
        pacing: Pacing::Saturate,
        arrivals: Arrivals::Uniform,
        duration: Duration::from_millis(300),
        warmup: Duration::ZERO,
        connections: 2,
        in_flight: 4,
        workload: Workload::WRITES,
        increments: 0.0,
        keys: 500,
        distribution: KeyDistribution::Uniform,
        key_layout: KeyLayout::default(),
        values: ValueSizes { min: 20, max: 100 },
        timeout: Duration::from_secs(20),
        seed: 5,
        verify: true,
        threads: 1,
    }
}

/// Runs a spec and gives back the record.
fn run(spec: &RunSpec) -> RunRecord {
    with_context(|context| drive(spec, context).expect("the run begins"))
}

fn with_context<T>(act: impl FnOnce(DriveContext<'_>) -> T) -> T {
    let watch = &mut |_: &IntervalRow| {};
    act(DriveContext {
        stop: StopFlag::default(),
        finish: StopFlag::default(),
        opening: None,
        interval: None,
        events: EventLog::new(),
        processes: &[],
        watch,
    })
}

/// Puts every key once.
fn load(spec: &RunSpec) -> RunRecord {
    run(&RunSpec { phase: Phase::Load, pacing: Pacing::Saturate, ..spec.clone() })
}

fn has_event(record: &RunRecord, kind: &str) -> bool {
    record.events.iter().any(|event| event.kind == kind)
}
