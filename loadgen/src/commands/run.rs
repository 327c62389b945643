//! `run` and `load`.

use std::time::Duration;

use super::Ending;
use super::bench::{
    Extras, Measured, Target, check_results, measure_with, preload, result_folder, warn_of_memory_disk, wrong_settings,
};
use super::progress::{Progress, Steps, table};
use super::stop::stop_on_signals;
use super::tell;
use crate::cli::{LoadCommand, ResultOptions, RunCommand, loading};
use crate::cluster::ClusterSpec;
use crate::drive::{Pacing, Protocol, RunSpec, StopFlag};
use crate::faults::Fault;

/// `run`.
pub(super) fn run(command: &RunCommand) -> anyhow::Result<Ending> {
    let RunCommand { target, pacing, load, faults, cluster, result } = command;
    check_faults(faults, command).unwrap_or_else(|reason| wrong_settings("run", &reason));
    let shards = cluster.common.shards;
    // Built before anything is started, so that settings that do not fit are told at once.
    let spec = load
        .spec(target.targets.clone(), shards, pacing.pacing(), pacing.warmup, pacing.duration)
        .unwrap_or_else(|reason| wrong_settings("run", &reason));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(seconds(pacing.duration), Steps::Seconds);
    if target.servers.is_some() {
        progress.say("starting servers");
    }
    let target = match target.servers {
        Some(servers) if !faults.is_empty() => {
            let spec = ClusterSpec { has_resp: load.protocol == Protocol::Resp, ..cluster.spec(servers)? };
            Target::start(&prepared(spec, faults), &stop)?
        }
        _ => Target::open(target, cluster, load.protocol, &stop)?,
    };
    warn_of_memory_disk(&target, &progress);
    let spec = RunSpec { servers: target.addresses(), ..spec };
    if matches!(target, Target::Own(_)) && !load.no_preload {
        preload(&spec, &target, &stop, &progress)?;
    }
    let interval = (!faults.is_empty()).then_some(FAULT_INTERVAL);
    let extras = Extras { is_audited: load.audit, faults, interval };
    let measured = measure_with(&spec, &target, &stop, "running", &progress, &extras)?;
    drop(progress);
    finish(measured, target, result, if faults.is_empty() { "run" } else { "faults" }, &stop)
}

/// With faults the time series is this fine, so that a short outage shows.
const FAULT_INTERVAL: Duration = Duration::from_millis(100);

/// Refuses faults that could not be inflicted, before anything is started.
fn check_faults(faults: &[Fault], command: &RunCommand) -> Result<(), String> {
    let Some(latest) = faults.iter().map(|fault| fault.at).max() else { return Ok(()) };
    let Some(servers) = command.target.servers else {
        return Err("--fault needs a cluster that is started by this command: use --servers, not --targets".to_owned());
    };
    if latest >= command.pacing.duration {
        let (at, duration) = (humantime::format_duration(latest), humantime::format_duration(command.pacing.duration));
        return Err(format!("a fault at={at} comes when the run of --duration {duration} is over"));
    }
    if let Some(server) = faults.iter().filter_map(Fault::server_max).max().filter(|server| *server >= servers) {
        return Err(format!(
            "a fault is about server {server}, but --servers {servers} are numbered from 0 to {}",
            servers - 1
        ));
    }
    Ok(())
}

/// A cluster to which these faults can be done.
fn prepared(spec: ClusterSpec, faults: &[Fault]) -> ClusterSpec {
    // Room for the journal, and for two checkpoints and the rest of what a short run makes.
    let disk_size = spec.journal_size.unwrap_or(JOURNAL_SIZE_DEFAULT) + DISK_SIZE_BEYOND_JOURNAL;
    ClusterSpec {
        has_cuttable_links: faults.iter().any(Fault::cuts_links),
        disk_size: faults.iter().any(Fault::fills_disks).then_some(disk_size),
        ..spec
    }
}

const JOURNAL_SIZE_DEFAULT: u64 = 1 << 30;
const DISK_SIZE_BEYOND_JOURNAL: u64 = 256 << 20;

/// `load`.
pub(super) fn load(command: &LoadCommand) -> anyhow::Result<Ending> {
    let LoadCommand { target, load, cluster, result } = command;
    let unused = Duration::from_secs(1);
    let spec = load
        .spec(target.targets.clone(), cluster.common.shards, Pacing::Saturate, Duration::ZERO, unused)
        .unwrap_or_else(|reason| wrong_settings("load", &reason));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(1, Steps::Seconds);
    if target.servers.is_some() {
        progress.say("starting servers");
    }
    let target = Target::open(target, cluster, load.protocol, &stop)?;
    warn_of_memory_disk(&target, &progress);
    let spec = loading(&RunSpec { servers: target.addresses(), ..spec });
    let extras = Extras { is_audited: load.audit, ..Extras::default() };
    let measured = measure_with(&spec, &target, &stop, "loading", &progress, &extras)?;
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
        Target::Running(_) | Target::Peer(_) => kind.to_owned(),
    };
    let folder = result_folder(result, &name)?;
    measured.write(&folder, true)?;
    tell::result(table(&measured.summary));
    tell::result(format_args!("written to {}", folder.path().display()));
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
