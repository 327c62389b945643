//! `failover`.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Ending;
use super::bench::{
    Extras, Target, check_results, conducted, preload, result_folder, warn_of_memory_disk, write_plots, wrong_settings,
};
use super::progress::{Progress, Steps};
use super::report::write_page;
use super::stop::stop_on_signals;
use super::tell;
use crate::cli::{FailoverCommand, LoadOptions};
use crate::cluster::{Cluster, ClusterError};
use crate::drive::{Pacing, RunSpec, StopFlag};
use crate::failover::{Failover, FailoverFault, FailoverRepeat, GapDistribution};
use crate::plan::mix64;
use crate::record::{EventLog, gap_between};
use crate::report::{plot_of_failover, plots_of_run};

/// The share of increments unless another is asked for.
const INCREMENTS_DEFAULT: f64 = 0.1;

/// How often the servers are asked how far they are.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long another server may take to become primary, and a server that was down to be in sync again.
const FAILOVER_PATIENCE: Duration = Duration::from_secs(30);
const WHOLE_PATIENCE: Duration = Duration::from_secs(60);

/// A row of the time series: short enough for a gap to show.
const INTERVAL: Duration = Duration::from_millis(100);

/// Between two faults up to this much passes by chance, so that they do not keep step with heartbeats.
const JITTER_MS: u64 = 100;

/// What was done in one repeat, before its gap is known.
struct Done {
    at: Instant,
    from: usize,
    to: usize,
    view: u64,
    whole_after: Duration,
}

/// `failover`.
pub(super) fn failover(command: &FailoverCommand) -> anyhow::Result<Ending> {
    let FailoverCommand { servers, load, cluster, result, .. } = command;
    // Part of every such measurement.
    let load = LoadOptions { audit: true, increments: load.increments.or(Some(INCREMENTS_DEFAULT)), ..load.clone() };
    let spec = load
        .spec(Vec::new(), cluster.common.shards, Pacing::Rate(command.rate), command.warmup, Duration::MAX)
        .unwrap_or_else(|reason| wrong_settings("failover", &reason));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let progress = Progress::new(command.repeat.into(), Steps::Runs);
    progress.say("starting servers");
    let target = Target::start(&cluster.spec(usize::from(*servers))?, &stop)?;
    warn_of_memory_disk(&target, &progress);
    let spec = RunSpec { servers: target.addresses(), ..spec };
    if !load.no_preload {
        preload(&spec, &target, &stop, &progress)?;
    }
    let finish = StopFlag::default();
    let conductor = |cluster: &Cluster, opening: Receiver<Instant>, over: &StopFlag, events: &EventLog| {
        let series = Series { command, cluster, over, events, progress: &progress };
        let done = series.run(&opening);
        // Whatever came of it, the load is over now.
        finish.set();
        done
    };
    let extras = Extras { is_audited: true, faults: &[], interval: Some(INTERVAL) };
    let conducted = conducted(&spec, &target, &stop, &finish, "failing over", &progress, &extras, Some(&conductor))?;
    let (measured, Some(series)) = conducted else { bail!("a cluster of its own was started, but nothing was done") };
    let failover = summarise(command, &measured, &series, command.warmup);
    drop(progress);

    let name = format!("failover-{}-n{servers}", word(command.fault));
    let folder = result_folder(result, &name)?;
    folder.write_run(&measured.meta, &measured.summary, &measured.record)?;
    folder.write_json("failover.json", &failover)?;
    folder.write("failover.csv", failover.csv())?;
    let mut plots = plots_of_run(folder.path(), &failover.summary)?;
    plots.extend(plot_of_failover(&failover)?);
    write_plots(&folder, &plots)?;
    write_page(&folder)?;
    tell::result(&failover);
    tell::result(format_args!("written to {}", folder.path().display()));
    if let Err(error) = series.result {
        bail!("the series ended after {} of {} repeats: {error:#}", series.done.len(), command.repeat);
    }
    target.close()?;
    Ok(judge(&failover, command, &stop))
}

fn word(fault: FailoverFault) -> &'static str {
    match fault {
        FailoverFault::KillPrimary => "kill-primary",
        FailoverFault::Handover => "handover",
        FailoverFault::StopPrimary => "stop-primary",
    }
}

fn judge(failover: &Failover, command: &FailoverCommand, stop: &StopFlag) -> Ending {
    let is_clean = failover.audit().is_some_and(|audit| audit.is_clean());
    let is_quick = match (command.gap_max, &failover.gap) {
        (Some(max), Some(gap)) => gap.p99_ms <= max.as_secs_f64() * 1e3,
        _ => true,
    };
    if stop.is_set() {
        return Ending::Stopped;
    }
    if !is_clean {
        tell::note("lockstep-loadgen: acknowledged writes were lost, doubled or could not be read back");
    }
    if !is_quick {
        tell::note("lockstep-loadgen: the gap is longer than --gap-max");
    }
    match (is_clean && is_quick, failover.summary.verdict.is_void()) {
        (false, _) => Ending::Wrong,
        (true, true) => Ending::Void,
        (true, false) => Ending::Good,
    }
}

/// What came of all repeats.
struct SeriesOutcome {
    opens: Option<Instant>,
    done: Vec<Done>,
    result: anyhow::Result<()>,
}

fn summarise(
    command: &FailoverCommand,
    measured: &super::bench::Measured,
    series: &SeriesOutcome,
    warmup: Duration,
) -> Failover {
    let silences = &measured.record.silences;
    let mut repeats = Vec::new();
    if let Some(opens) = series.opens {
        let run_ns = |moment: Instant| (moment.saturating_duration_since(opens) + warmup).as_nanos() as u64;
        for (index, done) in series.done.iter().enumerate() {
            let next_ns = series.done.get(index + 1).map_or(u64::MAX, |next| run_ns(next.at));
            // Bringing the server back may disturb too, but is another matter only if it comes after the gap.
            let gap = gap_between(silences, run_ns(done.at), next_ns);
            repeats.push(FailoverRepeat {
                at_s: done.at.saturating_duration_since(opens).as_secs_f64(),
                from: done.from,
                to: done.to,
                view: done.view,
                gap_ms: gap.map_or(0.0, |gap| (gap.to_ns - gap.from_ns) as f64 / 1e6),
                whole_after_s: done.whole_after.as_secs_f64(),
            });
        }
    }
    let gaps: Vec<f64> = repeats.iter().map(|repeat| repeat.gap_ms).collect();
    Failover {
        scenario: format!("{}; {}", measured.summary.scenario, command.fault),
        fault: command.fault,
        gap: GapDistribution::of(&gaps),
        repeats,
        summary: measured.summary.clone(),
    }
}

/// The repeats, one after the other.
struct Series<'a> {
    command: &'a FailoverCommand,
    cluster: &'a Cluster,
    over: &'a StopFlag,
    events: &'a EventLog,
    progress: &'a Progress,
}

impl Series<'_> {
    fn run(&self, opening: &Receiver<Instant>) -> SeriesOutcome {
        let Ok(opens) = opening.recv() else {
            return SeriesOutcome { opens: None, done: Vec::new(), result: Ok(()) };
        };
        let mut done = Vec::new();
        self.pause_until(opens);
        for repeat in 0..self.command.repeat {
            match self.repeat(u64::from(repeat)) {
                Ok(Some(one)) => {
                    self.progress.step();
                    done.push(one);
                }
                Ok(None) => break,
                Err(error) => {
                    self.events.add("series-ended", format!("{error:#}"));
                    return SeriesOutcome { opens: Some(opens), done, result: Err(error) };
                }
            }
        }
        // So that the last gap has an end.
        self.pause_until(Instant::now() + self.command.pause);
        SeriesOutcome { opens: Some(opens), done, result: Ok(()) }
    }

    /// One fault and the recovery from it; `None` when the run is over.
    fn repeat(&self, number: u64) -> anyhow::Result<Option<Done>> {
        let cluster = self.cluster;
        self.wait_until_whole().context("before the fault")?;
        let jitter = Duration::from_millis(mix64(self.command.load.seed ^ number) % JITTER_MS);
        self.pause_until(Instant::now() + self.command.pause + jitter);
        if self.over.is_set() {
            return Ok(None);
        }
        let (from, view_before) = cluster.primary(0).context("there is no primary")?;
        let Some(at) = self.inflict_in_time(from)? else { return Ok(None) };
        self.events.add("fault", format!("{} (server {from})", self.command.fault));
        let newer = || cluster.primary(0).filter(|(_, view)| *view > view_before);
        let Some((to, view)) = self.poll(FAILOVER_PATIENCE, newer) else {
            if self.over.is_set() {
                return Ok(None);
            }
            bail!(
                "no other server became primary within {FAILOVER_PATIENCE:?}; the end of server {}'s log:\n{}",
                (from + 1) % cluster.replicas(),
                cluster.log_tail((from + 1) % cluster.replicas())
            );
        };
        self.events.add("new-primary", format!("server {to} is the primary of view {view}"));
        // The gap must be over before the server that comes back takes CPU time from the others.
        self.pause_until(Instant::now() + self.command.pause);
        let back_at = Instant::now();
        self.undo(from)?;
        self.wait_until_whole().context("after the fault")?;
        let whole_after = back_at.elapsed();
        self.events.add("whole", format!("all servers are in sync {:.3} s later", whole_after.as_secs_f64()));
        Ok(Some(Done { at, from, to, view, whole_after }))
    }

    /// Does it, and says when. A primary may keep its place for a moment, when no other server has caught up; then it
    /// is asked again.
    fn inflict_in_time(&self, primary: usize) -> anyhow::Result<Option<Instant>> {
        let deadline = Instant::now() + FAILOVER_PATIENCE;
        while !self.over.is_set() {
            let at = Instant::now();
            match self.inflict(primary) {
                Ok(()) => return Ok(Some(at)),
                Err(error) if self.command.fault == FailoverFault::Handover && at < deadline => {
                    self.events.add("fault-refused", error.to_string());
                    std::thread::sleep(10 * POLL_INTERVAL);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn inflict(&self, primary: usize) -> Result<(), ClusterError> {
        match self.command.fault {
            FailoverFault::KillPrimary => self.cluster.kill(primary),
            FailoverFault::StopPrimary => self.cluster.set_stopped(primary, true),
            FailoverFault::Handover => self.cluster.move_primaries(None),
        }
    }

    fn undo(&self, server: usize) -> Result<(), ClusterError> {
        match self.command.fault {
            FailoverFault::KillPrimary => self.cluster.restart(server),
            FailoverFault::StopPrimary => self.cluster.set_stopped(server, false),
            FailoverFault::Handover => Ok(()),
        }
    }

    fn wait_until_whole(&self) -> anyhow::Result<()> {
        if self.poll(WHOLE_PATIENCE, || self.cluster.is_whole().then_some(())).is_none() && !self.over.is_set() {
            bail!("not all servers were up and in sync within {WHOLE_PATIENCE:?}: {}", self.cluster.states_in_words());
        }
        Ok(())
    }

    /// Asks until there is an answer; `None` when there is none in time, or the run is over.
    fn poll<T>(&self, patience: Duration, ask: impl Fn() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        while !self.over.is_set() && Instant::now() < deadline {
            if let Some(answer) = ask() {
                return Some(answer);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        None
    }

    fn pause_until(&self, moment: Instant) {
        while !self.over.is_set() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}
