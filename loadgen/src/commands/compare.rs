//! `compare`.

use std::time::SystemTime;

use anyhow::{Context, bail};

use super::Ending;
use super::bench::{
    PeerView, Target, check_results, measure, meta, preload, result_folder, write_plots, wrong_settings,
};
use super::progress::{Progress, Steps, one_line};
use super::stop::stop_on_signals;
use super::tell;
use crate::cli::{CompareCommand, LoadOptions};
use crate::cluster::{Ack, ClusterSpec, Durability, Fanout, data_root_default};
use crate::compare::{BENCHMARKS, ComparedRun, Comparison, Kind, Peer, Programs, SATURATING, run_benchmark};
use crate::drive::{Pacing, Protocol, RunSpec, StopFlag};
use crate::plan::Workload;
use crate::record::{ResultFolder, file_system_of};
use crate::report::{plots_of_comparison, rate_text};
use crate::scenario::load_words;

/// Servers of the Lockstep cluster.
const SERVERS: usize = 3;

/// `compare`.
pub(super) fn compare(command: &CompareCommand) -> anyhow::Result<Ending> {
    let CompareCommand { rates, repeat, duration, warmup, load, cluster, result } = command;
    let options = LoadOptions { protocol: Protocol::Resp, ..load.clone() };
    let spec = options
        .spec(Vec::new(), 1, Pacing::Saturate, *warmup, *duration)
        .unwrap_or_else(|reason| wrong_settings("compare", &reason));
    check_results(result)?;
    let stop = stop_on_signals()?;
    let programs = Programs::find();
    let cluster_spec = cluster.spec(SERVERS, Ack::Majority, Fanout::Parallel, Durability::Disk)?;
    let peers = start_peers(&programs, &ClusterSpec { has_resp: true, ..cluster_spec }, &stop)?;
    let folder = result_folder(result, "compare")?;
    let started_at = SystemTime::now();
    let loads = loads(&spec, &rates.0);
    let benchmarks = if programs.benchmark.is_some() { BENCHMARKS.len() } else { 0 };
    let steps = repeat * peers.len() * (loads.len() + benchmarks);
    let words = load_words(&spec);
    let mut comparison = Comparison {
        scenario: words.split(", saturated by ").next().unwrap_or_default().to_owned(),
        peers: peers.iter().map(|peer| (peer.kind, peer.words.clone())).collect(),
        runs: Vec::new(),
        benchmarks: Vec::new(),
    };
    let stage =
        Stage { peers: &peers, folder: &folder, stop: &stop, progress: Progress::new(steps as u64, Steps::Runs) };
    let measured = stage.measure_all(&loads, *repeat, &programs, duration.as_secs_f64(), &spec, &mut comparison);
    // What was measured before something failed is kept.
    folder.write_json("compare.json", &comparison)?;
    folder.write("compare.csv", comparison.csv())?;
    write_plots(&folder, &plots_of_comparison(&comparison)?)?;
    let data_root = command.cluster.data_root.clone().unwrap_or_else(data_root_default);
    let meta = crate::record::Meta { data_file_system: file_system_of(&data_root), ..meta(&spec, None, started_at)? };
    folder.write_json("meta.json", &meta)?;
    measured?;
    super::report::write_page(&folder)?;
    drop(stage);
    tell::result(standings(&comparison));
    tell::result(format_args!("written to {}", folder.path().display()));
    for peer in peers {
        peer.stop()?;
    }
    Ok(if stop.is_set() { Ending::Stopped } else { Ending::Good })
}

/// Everything that is installed.
fn start_peers(programs: &Programs, spec: &ClusterSpec, stop: &StopFlag) -> anyhow::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for kind in Kind::ALL {
        tell::note(format_args!("starting {kind}"));
        match Peer::start(kind, programs, spec, stop)? {
            Some(peer) => peers.push(peer),
            None => tell::note(format_args!(
                "{kind} is left out: its server is not installed (scripts/redis-tools.sh installs Redis)"
            )),
        }
    }
    if programs.benchmark.is_none() {
        tell::note("redis-benchmark is not installed: its part is left out");
    }
    Ok(peers)
}

/// The loads and their names.
fn loads(spec: &RunSpec, rates: &[f64]) -> Vec<(String, RunSpec)> {
    let at_rate =
        |rate: &f64| (format!("{}/s", rate_text(*rate)), RunSpec { pacing: Pacing::Rate(*rate), ..spec.clone() });
    let saturating = SATURATING.iter().map(|&(name, connections, in_flight, is_reading)| {
        let workload = if is_reading { Workload::C } else { Workload::WRITES };
        let pacing = Pacing::Saturate;
        let (connections, in_flight) = (connections.into(), in_flight.into());
        (name.to_owned(), RunSpec { pacing, connections, in_flight, workload, threads: 1, ..spec.clone() })
    });
    rates.iter().map(at_rate).chain(saturating).collect()
}

struct Stage<'a> {
    peers: &'a [Peer],
    folder: &'a ResultFolder,
    stop: &'a StopFlag,
    progress: Progress,
}

impl Stage<'_> {
    /// Each load on each peer, and then the next load: what changes on this machine meanwhile hits all alike.
    fn measure_all(
        &self,
        loads: &[(String, RunSpec)],
        repeats: usize,
        programs: &Programs,
        duration_s: f64,
        spec: &RunSpec,
        comparison: &mut Comparison,
    ) -> anyhow::Result<()> {
        for peer in self.peers {
            peer.primary()?;
            let spec = RunSpec { servers: peer.addresses(), ..spec.clone() };
            preload(&spec, &target(peer), self.stop, &self.progress)
                .with_context(|| format!("cannot load {}", peer.kind))?;
        }
        for repeat in 0..repeats {
            for (load, spec) in loads {
                for peer in self.in_turn(repeat) {
                    if self.stop.is_set() {
                        return Ok(());
                    }
                    let run = self.measure_load(load, spec, peer, repeat)?;
                    comparison.runs.push(run);
                }
            }
            let Some(program) = &programs.benchmark else { continue };
            for benchmark in BENCHMARKS {
                // It knows no WAIT, so it has nothing to say about durable Redis.
                for peer in self.in_turn(repeat).filter(|peer| peer.kind.wait_replicas() == 0) {
                    if self.stop.is_set() {
                        return Ok(());
                    }
                    self.progress.say(&format!("redis-benchmark {} {}", benchmark.name, peer.kind));
                    let place = (peer.kind, repeat);
                    let run = run_benchmark(program, benchmark, peer.primary()?, duration_s, place)?;
                    let (rate, p50) = (rate_text(run.requests_per_s), run.p50_ms);
                    let name = format!("redis-benchmark {}", benchmark.name);
                    self.progress.line(&format!("{name:<34} {:<15} {rate:>6}/s  p50 {p50} ms", peer.kind.to_string()));
                    self.progress.step();
                    comparison.benchmarks.push(run);
                }
            }
        }
        Ok(())
    }

    /// The peers, with another one first each time.
    fn in_turn(&self, repeat: usize) -> impl Iterator<Item = &Peer> {
        let first = repeat % self.peers.len();
        self.peers[first..].iter().chain(&self.peers[..first])
    }

    fn measure_load(&self, load: &str, spec: &RunSpec, peer: &Peer, repeat: usize) -> anyhow::Result<ComparedRun> {
        let spec = RunSpec { servers: peer.addresses(), wait_replicas: peer.kind.wait_replicas(), ..spec.clone() };
        let what = format!("{load} {}", peer.kind);
        let measured = measure(&spec, &target(peer), self.stop, &what, &self.progress)?;
        let words: String = load.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '-' }).collect();
        let folder = format!("runs/{words}-{}-{repeat}", peer.kind);
        let (parent, name) = folder.split_once('/').expect("there is a slash");
        measured.write(&ResultFolder::create(&self.folder.path().join(parent), name)?, false)?;
        let told = one_line(&measured.summary);
        self.progress.line(&format!("{load:<34} {:<15} {told}", peer.kind.to_string()));
        self.progress.step();
        if measured.summary.counts.ok == 0 && !self.stop.is_set() {
            bail!("{what}: nothing was answered; {}", measured.summary.verdict);
        }
        Ok(ComparedRun { load: load.to_owned(), peer: peer.kind, repeat, folder, summary: measured.summary })
    }
}

fn target(peer: &Peer) -> Target {
    Target::Peer(PeerView { words: peer.words.clone(), addresses: peer.addresses(), processes: peer.processes() })
}

/// The goals as a table.
fn standings(comparison: &Comparison) -> String {
    let mut out =
        format!("{:<66}{:>12}{:>12}{:>8}  goal\n", "Lockstep beside Redis (medians)", "ours", "theirs", "ratio");
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for standing in comparison.standings() {
        let ratio = standing.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let reached = match standing.is_reached() {
            Some(true) => "reached",
            Some(false) => "NOT reached",
            None => "not measured",
        };
        let (ours, theirs) = (number(standing.ours), number(standing.theirs));
        let bound = standing.bound_words();
        out += &format!("{:<66}{ours:>12}{theirs:>12}{ratio:>8}  {bound}: {reached}\n", standing.goal.what);
    }
    out
}
