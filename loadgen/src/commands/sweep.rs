//! `sweep`.

use super::Ending;
use super::bench::{
    Target, check_results, measure, meta, preload, result_folder, warn_of_memory_disk, write_plots, wrong_settings,
};
use super::progress::{Progress, Steps, one_line};
use super::stop::stop_on_signals;
use super::tell;
use crate::cli::SweepCommand;
use crate::drive::{Pacing, RunSpec};
use crate::record::ResultFolder;
use crate::report::{plots_of_sweep, rate_text};
use crate::scenario::load_words;
use crate::sweep::{Sweep, SweepRun};

/// `sweep`.
pub(super) fn sweep(command: &SweepCommand) -> anyhow::Result<Ending> {
    let SweepCommand { target, rates, duration, warmup, load, cluster, result } = command;
    let spec = load
        .spec(target.targets.clone(), cluster.common.shards, Pacing::Saturate, *warmup, *duration)
        .unwrap_or_else(|reason| wrong_settings("sweep", &reason));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(rates.0.len() as u64, Steps::Runs);
    if target.servers.is_some() {
        progress.say("starting servers");
    }
    let target = Target::open(target, cluster, load.protocol, &stop)?;
    warn_of_memory_disk(&target, &progress);
    let spec = RunSpec { servers: target.addresses(), ..spec };
    if matches!(target, Target::Own(_)) && !load.no_preload {
        preload(&spec, &target, &stop, &progress)?;
    }
    let folder = result_folder(result, "sweep")?;
    let started_at = std::time::SystemTime::now();
    let scenario = format!("{}; {}", target.words(), words_without_rate(&spec));
    let mut sweep = Sweep { scenario, runs: Vec::new() };
    for &rate in &rates.0 {
        let what = format!("{}/s", rate_text(rate));
        let spec = RunSpec { pacing: Pacing::Rate(rate), ..spec.clone() };
        let measured = measure(&spec, &target, &stop, &what, &progress)?;
        let name = format!("rate-{rate:.0}");
        measured.write(&ResultFolder::create(&folder.path().join("runs"), &name)?, false)?;
        progress.line(&format!("{what:>8} offered  {}", one_line(&measured.summary)));
        progress.step();
        sweep.runs.push(SweepRun { folder: format!("runs/{name}"), summary: measured.summary });
        if stop.is_set() || sweep.is_saturated() {
            break;
        }
    }
    folder.write_json("sweep.json", &sweep)?;
    folder.write("sweep.csv", sweep.csv())?;
    write_plots(&folder, &plots_of_sweep(&sweep)?)?;
    let own = if let Target::Own(cluster) = &target { Some(&**cluster) } else { None };
    folder.write_json("meta.json", &meta(&spec, own, started_at)?)?;
    super::report::write_page(&folder)?;
    drop(progress);
    tell::result(format_args!("written to {}", folder.path().display()));
    target.close()?;
    Ok(if stop.is_set() {
        Ending::Stopped
    } else if sweep.runs.iter().all(|run| run.summary.verdict.is_void()) {
        // Rates beyond what the servers can do are expected to be void; that none was valid is not.
        Ending::Void
    } else {
        Ending::Good
    })
}

fn words_without_rate(spec: &RunSpec) -> String {
    let words = load_words(spec);
    words.split(", saturated by ").next().unwrap_or_default().to_owned()
}
