//! `matrix`.

use std::time::SystemTime;

use anyhow::{bail, ensure};

use super::Ending;
use super::bench::{
    Target, check_results, measure, meta, preload, result_folder, warn_of_memory_disk, write_plots, wrong_settings,
};
use super::progress::{Progress, Steps, one_line};
use super::stop::stop_on_signals;
use super::tell;
use crate::cli::MatrixCommand;
use crate::cluster::ClusterSpec;
use crate::drive::{Protocol, RunSpec, StopFlag};
use crate::matrix::{Cell, CellRun, Matrix, MatrixPlan};
use crate::record::{ResultFolder, Summary};
use crate::report::plots_of_matrix;
use crate::scenario::{load_words, surroundings_words};

/// So many failures in a row are no accident, and the rest would fail as well.
const FAILURES_MAX: usize = 3;

/// `matrix`.
pub(super) fn matrix(command: &MatrixCommand) -> anyhow::Result<Ending> {
    let plan = plan(command)?;
    let MatrixCommand { pacing, load, cluster, result, .. } = command;
    let spec = load
        .spec(Vec::new(), cluster.shards, pacing.pacing(), pacing.warmup, pacing.duration)
        .unwrap_or_else(|reason| wrong_settings("matrix", &reason));
    let Some(&(first, _)) = plan.order(load.seed).first() else { bail!("there is nothing to measure") };
    let mut surroundings = surroundings_words(&cluster_of(command, &first)?);
    if plan.durabilities.len() > 1 {
        surroundings.remove(0);
    }
    surroundings.push(load_words(&spec));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let folder = result_folder(result, &short_name(command))?;
    let started_at = SystemTime::now();
    let mut matrix = Matrix { scenario: surroundings.join(", "), runs: Vec::new(), stopped_early: false };
    let bench = Bench { command, spec: &spec, folder: &folder, stop: &stop };
    let result = bench.measure_all(&plan, &mut matrix);
    matrix.stopped_early = stop.is_set() || result.is_err();
    // Whatever ended it, what was measured is kept.
    folder.write_json("matrix.json", &matrix)?;
    folder.write("matrix.csv", matrix.csv())?;
    folder.write_json("meta.json", &bench.meta(started_at)?)?;
    write_plots(&folder, &plots_of_matrix(&matrix)?)?;
    super::report::write_page(&folder)?;
    tell::result(fits(&matrix));
    tell::result(format_args!("written to {}", folder.path().display()));
    result?;
    let void = matrix.void_cells();
    for cell in &void {
        tell::result(format_args!("no valid measurement of {}", cell.name()));
    }
    Ok(if stop.is_set() {
        Ending::Stopped
    } else if void.is_empty() {
        Ending::Good
    } else {
        Ending::Void
    })
}

/// The plan, checked before anything is started.
fn plan(command: &MatrixCommand) -> anyhow::Result<MatrixPlan> {
    let largest = command.servers.0.last().copied().unwrap_or(0);
    if let Some(replicating) = command.control {
        ensure!(replicating >= 1, "--control 0 leaves nobody to do the work: use 1 or more");
        ensure!(
            replicating < largest,
            "--control {replicating} needs --servers beyond {replicating}, so that some are idle"
        );
    }
    let once = |name: &str, unique: bool| {
        ensure!(unique, "--{name} names a value twice");
        Ok(())
    };
    once("fanout", is_unique(&command.fanout))?;
    once("ack", is_unique(&command.ack))?;
    once("durability", is_unique(&command.durability))?;
    Ok(MatrixPlan {
        servers: command.servers.0.clone(),
        fanouts: command.fanout.clone(),
        acks: command.ack.clone(),
        durabilities: command.durability.clone(),
        control: command.control,
        repeats: command.repeat,
    })
}

/// What tells this matrix from others in a list of folders.
fn short_name(command: &MatrixCommand) -> String {
    let counts = &command.servers.0;
    let mut name = format!("matrix-n{}-{}", counts[0], counts[counts.len() - 1]);
    for durability in &command.durability {
        name += &format!("-{durability}");
    }
    if let Some(delay) = command.cluster.link_delay {
        name += &format!("-links-{}", humantime::format_duration(delay));
    }
    name
}

fn is_unique<T: Ord + Clone>(values: &[T]) -> bool {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted.len() == values.len()
}

fn cluster_of(command: &MatrixCommand, cell: &Cell) -> anyhow::Result<ClusterSpec> {
    let spec = command.cluster.spec(cell.servers, cell.ack, cell.fanout, cell.durability)?;
    let has_resp = command.load.protocol == Protocol::Resp;
    Ok(ClusterSpec { replicating: cell.replicating, has_resp, ..spec })
}

struct Bench<'a> {
    command: &'a MatrixCommand,
    spec: &'a RunSpec,
    folder: &'a ResultFolder,
    stop: &'a StopFlag,
}

impl Bench<'_> {
    /// Measures everything, or as much as it can; an error means that it made no sense to go on.
    fn measure_all(&self, plan: &MatrixPlan, matrix: &mut Matrix) -> anyhow::Result<()> {
        let order = plan.order(self.spec.seed);
        let progress = Progress::new(order.len() as u64, Steps::Runs);
        let mut failures = 0;
        for (index, (cell, repeat)) in order.iter().enumerate() {
            if self.stop.is_set() {
                break;
            }
            let name = format!("{}-r{}", cell.name(), repeat + 1);
            let result = self.measure_cell(cell, &name, &progress);
            // A run that was interrupted shows nothing.
            if self.stop.is_set() {
                break;
            }
            let (summary, error) = match result {
                Ok(summary) => (Some(summary), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            let told = match (&summary, &error) {
                (Some(summary), _) => one_line(summary),
                (None, error) => format!("FAILED: {}", error.as_deref().unwrap_or_default()),
            };
            progress.line(&format!("{:>3}/{} {name:<34} {told}", index + 1, order.len()));
            progress.step();
            failures = if error.is_some() { failures + 1 } else { 0 };
            let last_error = error.clone();
            let folder = format!("runs/{name}");
            matrix.runs.push(CellRun { cell: *cell, repeat: *repeat, folder, summary, error });
            if failures == FAILURES_MAX {
                bail!("{FAILURES_MAX} runs in a row failed, the last with: {}", last_error.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn measure_cell(&self, cell: &Cell, name: &str, progress: &Progress) -> anyhow::Result<Summary> {
        progress.say(&format!("{name}: starting servers"));
        let target = Target::start(&cluster_of(self.command, cell)?, self.stop)?;
        if self.folder.path().join("runs").read_dir().is_err() {
            warn_of_memory_disk(&target, progress);
        }
        let spec = RunSpec { servers: target.addresses(), ..self.spec.clone() };
        if !self.command.load.no_preload {
            preload(&spec, &target, self.stop, progress)?;
        }
        let measured = measure(&spec, &target, self.stop, name, progress)?;
        let folder = ResultFolder::create(&self.folder.path().join("runs"), name)?;
        measured.write(&folder, false)?;
        target.close()?;
        Ok(measured.summary)
    }

    fn meta(&self, started_at: SystemTime) -> anyhow::Result<crate::record::Meta> {
        let data_root = self.command.cluster.data_root.clone().unwrap_or_else(crate::cluster::data_root_default);
        let data_file_system = crate::record::file_system_of(&data_root);
        Ok(crate::record::Meta { data_file_system, ..meta(self.spec, None, started_at)? })
    }
}

/// How each line grows, as text.
fn fits(matrix: &Matrix) -> String {
    let mut out = format!("{:<40}{:>22}{:>10}\n", "p50 of the response time", "growth per server", "R²");
    for durability in matrix.durabilities() {
        for line in matrix.series(durability) {
            let name = format!("{} ({durability})", line.name);
            out += &match line.fit(0) {
                Some(fit) => {
                    format!("{name:<40}{:>22}{:>10.3}\n", crate::report::time_text(fit.slope), fit.r_squared)
                }
                None => format!("{name:<40}{:>22}\n", "too few points"),
            };
        }
    }
    out.truncate(out.trim_end().len());
    out
}
