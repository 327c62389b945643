//! `run` and `load`.

use std::time::Duration;

use super::Ending;
use super::bench::{Measured, Target, measure_audited, preload, result_folder, warn_of_memory_disk};
use super::progress::{Progress, Steps, table};
use super::stop::stop_on_signals;
use crate::cli::{LoadCommand, ResultOptions, RunCommand, loading};
use crate::drive::{Pacing, RunSpec, StopFlag};

/// `run`.
pub(super) fn run(command: &RunCommand) -> anyhow::Result<Ending> {
    let RunCommand { target, pacing, load, cluster, result } = command;
    let shards = cluster.common.shards;
    // Built before anything is started, so that settings that do not fit are told at once.
    let spec = load
        .spec(target.targets.clone(), shards, pacing.pacing(), pacing.warmup, pacing.duration)
        .map_err(anyhow::Error::msg)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(seconds(pacing.duration), Steps::Seconds);
    progress.say("starting servers");
    let target = Target::open(target, cluster, &stop)?;
    warn_of_memory_disk(&target, &progress);
    let spec = RunSpec { servers: target.addresses(), ..spec };
    if matches!(target, Target::Own(_)) && !load.no_preload {
        preload(&spec, &target, &stop, &progress)?;
    }
    let measured = measure_audited(&spec, &target, &stop, "running", &progress, load.audit)?;
    drop(progress);
    finish(measured, target, result, "run", &stop)
}

/// `load`.
pub(super) fn load(command: &LoadCommand) -> anyhow::Result<Ending> {
    let LoadCommand { target, load, cluster, result } = command;
    let unused = Duration::from_secs(1);
    let spec = load
        .spec(target.targets.clone(), cluster.common.shards, Pacing::Saturate, Duration::ZERO, unused)
        .map_err(anyhow::Error::msg)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(1, Steps::Seconds);
    progress.say("starting servers");
    let target = Target::open(target, cluster, &stop)?;
    warn_of_memory_disk(&target, &progress);
    let spec = loading(&RunSpec { servers: target.addresses(), ..spec });
    let measured = measure_audited(&spec, &target, &stop, "loading", &progress, load.audit)?;
    drop(progress);
    finish(measured, target, result, "load", &stop)
}

fn finish(
    measured: Measured,
    target: Target,
    result: &ResultOptions,
    kind: &str,
    stop: &StopFlag,
) -> anyhow::Result<Ending> {
    let name = match &target {
        Target::Own(cluster) => {
            let spec = cluster.spec();
            format!("{kind}-n{}-{}-{}-{}", spec.servers, spec.fanout, spec.ack, spec.durability)
        }
        Target::Running(_) => kind.to_owned(),
    };
    let folder = result_folder(result, &name)?;
    measured.write(&folder, true)?;
    println!("{}", table(&measured.summary));
    println!("written to {}", folder.path().display());
    // What was measured is safe on disk before servers get a chance to end badly.
    target.close()?;
    Ok(if stop.is_set() {
        Ending::Stopped
    } else if measured.summary.verdict.is_void() {
        Ending::Void
    } else {
        Ending::Good
    })
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}
