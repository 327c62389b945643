//! What the settings of batching do to three servers on loopback, durable on disk with acknowledgement by a majority.
//!
//! Each setting is a cluster of its own, of processes of the optimised `lockstep-server`, under two closed loops:
//!
//! - `saturated`: 64 connections that always have 128 requests in flight each. The time is the inverse of the
//!   throughput.
//! - `alone`: one request in flight. The time is what a request waits for its answer, and what a linger costs.
//!
//! An iteration is one request. A sample is a window of time in which requests are answered without pause. Its length
//! over the number of answers is the time of one, which is then taken times the iterations that Criterion asked for. It
//! cannot be the other way round, with the requests counted off: filling the connections and draining them would be
//! most of a short sample.
//!
//! Servers and generator share the machine's CPUs, so a setting that costs the servers less CPU gains twice.

mod setting;
mod stand;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
// Brings in the allocator.
use lockstep_benches as _;

use setting::settings;
use stand::{Load, Stand};

fn batching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batching");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(1));
    for setting in settings() {
        // Started by the first of the two loads that the filter lets through; stopped before the next setting's.
        let mut stand: Option<Stand> = None;
        for load in [Load::SATURATED, Load::ALONE] {
            group.bench_function(BenchmarkId::new(setting.to_string(), load.name), |bencher| {
                let stand = stand.get_or_insert_with(|| Stand::start(&setting).unwrap_or_else(|error| fail(&error)));
                bencher.iter_custom(|requests| {
                    let time_s = stand.time_per_request_s(&load).unwrap_or_else(|error| fail(&error));
                    Duration::from_secs_f64(time_s * requests as f64)
                });
            });
        }
        if let Some(stand) = stand {
            stand.stop().unwrap_or_else(|error| fail(&error));
        }
    }
}

/// Criterion's closures cannot return an error, and a sample that failed must not become a number.
fn fail(error: &anyhow::Error) -> ! {
    eprintln!("\nerror: {error:#}");
    std::process::exit(1)
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(2));
    targets = batching
}
criterion_main!(benches);
