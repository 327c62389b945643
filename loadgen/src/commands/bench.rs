//! One measurement: a cluster, its keys, a run, a folder.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};

use super::progress::Progress;
use super::watchman::watched;
use crate::cli::{Cli, ClusterOptions, ResultOptions, TargetOptions, loading};
use crate::cluster::{Cluster, ClusterSpec, Durability};
use crate::drive::{DriveContext, Protocol, RunSpec, StopFlag, drive, drive_audited};
use crate::faults::{Fault, conduct, outcomes};
use crate::record::{
    AuditReport, Checkout, Event, EventLog, IntervalRow, Machine, Meta, ProcessRef, ResultFolder, RunRecord, Summary,
    VerdictRules, folder_name, utc,
};
use crate::report::{Plot, plots_of_run};
use crate::scenario::{cluster_words, load_words};

/// The servers under load.
pub(super) enum Target {
    /// Started from here.
    Own(Box<Cluster>),
    /// Somebody else's.
    Running(Vec<SocketAddr>),
    /// One of several systems that are compared.
    Peer(PeerView),
}

/// A system under load that is started and stopped elsewhere.
#[derive(Debug, Clone)]
pub(super) struct PeerView {
    /// In words.
    pub(super) words: String,
    /// Where it takes requests.
    pub(super) addresses: Vec<SocketAddr>,
    /// Its processes, for CPU accounting.
    pub(super) processes: Vec<ProcessRef>,
}

impl Target {
    /// Starts the cluster that the options ask for, if they do.
    pub(super) fn open(
        target: &TargetOptions,
        cluster: &ClusterOptions,
        protocol: Protocol,
        stop: &StopFlag,
    ) -> anyhow::Result<Self> {
        match target.servers {
            Some(servers) => {
                let spec = ClusterSpec { has_resp: protocol == Protocol::Resp, ..cluster.spec(servers)? };
                Self::start(&spec, stop)
            }
            None => Ok(Self::Running(target.targets.clone())),
        }
    }

    /// Starts a cluster.
    pub(super) fn start(spec: &ClusterSpec, stop: &StopFlag) -> anyhow::Result<Self> {
        Ok(Self::Own(Box::new(Cluster::start(spec, stop)?)))
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Own(cluster) if cluster.spec().has_resp => cluster.resp_addresses(),
            Self::Own(cluster) => cluster.addresses(),
            Self::Running(addresses) => addresses.clone(),
            Self::Peer(peer) => peer.addresses.clone(),
        }
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Own(cluster) => cluster_words(cluster.spec()),
            Self::Peer(peer) => peer.words.clone(),
            Self::Running(addresses) => format!("a running cluster of {} at {}", addresses.len(), addresses[0]),
        }
    }

    /// The server processes that were started from here.
    fn servers(&self) -> Vec<ProcessRef> {
        self.own().map(Cluster::servers).unwrap_or_default()
    }

    /// How many servers must be alive for a run to have any sense: a commit quorum, and the idle ones of a control.
    fn needed(&self) -> usize {
        let Some(cluster) = self.own() else { return 0 };
        let ClusterSpec { servers, replicating, .. } = *cluster.spec();
        let quorum = if replicating == 2 { 2 } else { replicating.div_ceil(2) };
        servers - replicating + quorum
    }

    /// The end of the log of the server with this name.
    fn log_tail(&self, name: &str) -> String {
        let index = self.servers().iter().position(|server| server.name == name);
        self.own().zip(index).map_or_else(String::new, |(cluster, index)| cluster.log_tail(index))
    }

    /// The names of servers that have ended by themselves.
    fn ended(&self) -> Vec<String> {
        self.own().map(Cluster::ended).unwrap_or_default()
    }

    pub(super) fn own(&self) -> Option<&Cluster> {
        match self {
            Self::Own(cluster) => Some(cluster),
            Self::Running(_) | Self::Peer(_) => None,
        }
    }

    /// Ends what was started.
    pub(super) fn close(self) -> anyhow::Result<()> {
        if let Self::Own(cluster) = self {
            cluster.stop()?;
        }
        Ok(())
    }
}

/// What was measured in one run.
pub(super) struct Measured {
    pub(super) meta: Meta,
    pub(super) summary: Summary,
    pub(super) record: RunRecord,
    metrics: Vec<String>,
}

/// However few requests a run has in flight, its keys are loaded with this many connections and requests on each.
const PRELOAD_CONNECTIONS: usize = 16;
const PRELOAD_IN_FLIGHT: usize = 128;

/// Puts every key once, as fast as the servers take them.
pub(super) fn preload(spec: &RunSpec, target: &Target, stop: &StopFlag, progress: &Progress) -> anyhow::Result<()> {
    progress.say("loading keys");
    let spec = RunSpec {
        connections: spec.connections.max(PRELOAD_CONNECTIONS),
        in_flight: spec.in_flight.max(PRELOAD_IN_FLIGHT),
        ..loading(spec)
    };
    let events = EventLog::new();
    let servers = target.servers().len();
    let (record, ended) = watched(
        stop,
        servers,
        target.needed(),
        &events,
        || target.ended(),
        |stop| {
            let context = DriveContext {
                stop,
                finish: StopFlag::default(),
                opening: None,
                interval: None,
                events: events.clone(),
                processes: &[],
                watch: &mut |_| {},
            };
            drive(&spec, context)
        },
    );
    let counts = record.context("cannot load the keys")?.counts;
    if let Some(server) = ended.first() {
        bail!("{server} ended while keys were being loaded; its log ends with:\n{}", target.log_tail(server));
    }
    if counts.ok < spec.keys && !stop.is_set() {
        bail!(
            "{} of {} keys were loaded ({} failed, {} busy, {} unanswered){}",
            counts.ok,
            spec.keys,
            counts.failed,
            counts.busy,
            counts.unknown,
            first_bad_answer(&events.snapshot()).map_or_else(String::new, |words| format!("; {words}"))
        );
    }
    Ok(())
}

/// What the first answer said that was no success, if there was one.
fn first_bad_answer(events: &[Event]) -> Option<String> {
    let is_bad = |event: &&Event| matches!(event.kind.as_str(), "wrong-answer" | "refused-answer");
    events.iter().find(is_bad).map(|event| event.text.clone())
}

/// What is done beside a run.
#[derive(Default)]
pub(super) struct Extras<'a> {
    /// Read back every acknowledged write afterwards.
    pub(super) is_audited: bool,
    /// Do this to the servers.
    pub(super) faults: &'a [Fault],
    /// The length of one row of the time series, if not the usual.
    pub(super) interval: Option<Duration>,
}

/// Runs `spec` against `target`.
pub(super) fn measure(
    spec: &RunSpec,
    target: &Target,
    stop: &StopFlag,
    what: &str,
    progress: &Progress,
) -> anyhow::Result<Measured> {
    measure_with(spec, target, stop, what, progress, &Extras::default())
}

/// Runs `spec` against `target`, with `extras`.
pub(super) fn measure_with(
    spec: &RunSpec,
    target: &Target,
    stop: &StopFlag,
    what: &str,
    progress: &Progress,
    extras: &Extras<'_>,
) -> anyhow::Result<Measured> {
    let faults = extras.faults;
    let conductor = |cluster: &Cluster, opening: Receiver<Instant>, over: &StopFlag, events: &EventLog| {
        conduct(faults, cluster, &opening, over, events)
    };
    let conductor = target.own().filter(|_| !faults.is_empty()).map(|_| &conductor);
    let finish = StopFlag::default();
    let conducted = conducted(spec, target, stop, &finish, what, progress, extras, conductor)?;
    let (mut measured, inflicted) = conducted;
    if let Some((opens, inflicted)) = inflicted.flatten() {
        let outcomes = outcomes(opens, &inflicted, &measured.record);
        if inflicted.len() < faults.len() && !stop.is_set() {
            measured.summary.verdict.object("not all faults were inflicted before its end".to_owned());
        }
        for outcome in outcomes.iter().filter(|outcome| outcome.error.is_some()) {
            let error = outcome.error.as_deref().unwrap_or_default();
            measured.summary.verdict.object(format!("a fault could not be inflicted: {}: {error}", outcome.what));
        }
        measured.summary.faults = outcomes;
    }
    Ok(measured)
}

/// Runs `spec` against `target` while `conductor` does something to the cluster, on a thread of its own: it is given
/// the cluster, the moment at which the measured part begins, a flag that tells that the run is over, and the log of
/// events.
#[expect(clippy::too_many_arguments, reason = "all of them are of different types and none belongs to another")]
pub(super) fn conducted<C, T>(
    spec: &RunSpec,
    target: &Target,
    stop: &StopFlag,
    finish: &StopFlag,
    what: &str,
    progress: &Progress,
    extras: &Extras<'_>,
    conductor: Option<&C>,
) -> anyhow::Result<(Measured, Option<T>)>
where
    C: Fn(&Cluster, Receiver<Instant>, &StopFlag, &EventLog) -> T + Sync,
    T: Send,
{
    progress.say(what);
    let mut processes = vec![ProcessRef::own("generator")];
    match target {
        Target::Own(cluster) => processes.extend(cluster.processes()),
        Target::Peer(peer) => processes.extend(peer.processes.iter().cloned()),
        Target::Running(_) => {}
    }
    let events = EventLog::new();
    let over = StopFlag::default();
    let servers = target.servers().len();
    let drive_it = |stop: StopFlag| {
        let watch = &mut |row: &IntervalRow| progress.show(what, row);
        std::thread::scope(|scope| {
            let (opening, opened) = channel();
            let (events, over) = (&events, &over);
            let act = conductor
                .zip(target.own())
                .map(|(conductor, cluster)| scope.spawn(move || conductor(cluster, opened, over, events)));
            let context = DriveContext {
                stop,
                finish: finish.clone(),
                opening: Some(opening),
                interval: extras.interval,
                events: events.clone(),
                processes: &processes,
                watch,
            };
            let result = if extras.is_audited {
                drive_audited(spec, context).map(|(record, audit)| (record, Some(audit)))
            } else {
                drive(spec, context).map(|record| (record, None))
            };
            over.set();
            let acted = act.map(|act| act.join().expect("the conductor does not panic"));
            result.map(|(record, audit)| (record, audit, acted))
        })
    };
    let (result, ended) = watched(stop, servers, target.needed(), &events, || target.ended(), drive_it);
    let (record, audit, acted) = result?;
    let rules = VerdictRules { expects_steadiness: conductor.is_none(), ..VerdictRules::default() };
    let mut summary = judged(spec, target, &record, audit, &rules, progress);
    if stop.is_set() {
        summary.verdict.object("it was interrupted before its end".to_owned());
    }
    for server in ended {
        let tail = target.log_tail(&server);
        progress.line(&format!("{server} ended during the run; its log ends with:\n{tail}"));
        summary.verdict.object(format!("{server} ended during the run"));
    }
    let meta = meta(spec, target.own(), record.started_at)?;
    let metrics = target.own().map(Cluster::metrics).unwrap_or_default();
    Ok((Measured { meta, summary, record, metrics }, acted))
}

/// What was recorded, in short, and whether it is worth anything.
fn judged(
    spec: &RunSpec,
    target: &Target,
    record: &RunRecord,
    audit: Option<AuditReport>,
    rules: &VerdictRules,
    progress: &Progress,
) -> Summary {
    let scenario = format!("{}; {}", target.words(), load_words(spec));
    let mut summary = Summary::of(record, &scenario, spec.offered_per_s(), rules);
    // Numbers do not tell why requests were not answered; the first answer that was none does.
    if summary.verdict.is_void()
        && summary.counts.failed + summary.counts.unknown > 0
        && let Some(words) = first_bad_answer(&record.events)
    {
        summary.verdict.object(words);
    }
    summary.audit = audit;
    if let Some(audit) = audit {
        progress.line(&format!("audit: {audit}"));
        if !audit.is_clean() {
            summary.verdict.object(format!("the audit found faults: {audit}"));
        }
    }
    summary
}

/// Where and how this program runs.
pub(super) fn meta(spec: &RunSpec, cluster: Option<&Cluster>, started_at: SystemTime) -> anyhow::Result<Meta> {
    Ok(Meta {
        command_line: std::env::args().collect(),
        seed: spec.seed,
        started_at: utc(started_at),
        loadgen_version: env!("CARGO_PKG_VERSION").to_owned(),
        checkout: checkout(),
        machine: Machine::this(),
        data_file_system: cluster.and_then(Cluster::data_file_system),
        load: serde_json::to_value(spec)?,
        servers: cluster.map(|cluster| cluster.spec().settings()).unwrap_or_default(),
    })
}

impl Measured {
    /// Writes everything about the run into `folder`, with its plots if `plots`.
    pub(super) fn write(&self, folder: &ResultFolder, plots: bool) -> anyhow::Result<()> {
        folder.write_run(&self.meta, &self.summary, &self.record)?;
        for (server, metrics) in self.metrics.iter().enumerate() {
            folder.write(&format!("server-{server}.metrics.txt"), metrics)?;
        }
        if plots {
            write_plots(folder, &plots_of_run(folder.path(), &self.summary)?)?;
        }
        Ok(())
    }
}

/// Writes plots as files of a result.
pub(super) fn write_plots(folder: &ResultFolder, plots: &[Plot]) -> anyhow::Result<()> {
    for plot in plots {
        folder.write(&plot.name, &plot.svg)?;
    }
    Ok(())
}

/// The checkout that this program was built in, as far as that can be told: around the program or else around the
/// folder it was started in.
fn checkout() -> Option<Checkout> {
    let program = std::env::current_exe().ok()?;
    Checkout::around(program.parent()?).or_else(|| Checkout::around(&std::env::current_dir().ok()?))
}

/// Makes the folder of a result that begins now.
pub(super) fn result_folder(options: &ResultOptions, scenario: &str) -> anyhow::Result<ResultFolder> {
    let checkout = checkout();
    let scenario = options.name.as_deref().unwrap_or(scenario);
    let name = folder_name(SystemTime::now(), checkout.as_ref(), scenario);
    Ok(ResultFolder::create(&options.results, &name)?)
}

/// Finds out whether results can be written, before anything is measured in vain.
pub(super) fn check_results(options: &ResultOptions) -> anyhow::Result<()> {
    let folder = &options.results;
    let explain = || format!("cannot write results in {}", folder.display());
    std::fs::create_dir_all(folder).with_context(explain)?;
    tempfile::tempfile_in(folder).map(drop).map_err(|error| std::io::Error::from(error.kind())).with_context(explain)
}

/// Ends the program as for any other wrong command line.
pub(super) fn wrong_settings(command: &str, reason: &str) -> ! {
    Cli::wrong_settings(command, reason).exit()
}

/// Says so when a durable measurement would go to memory.
pub(super) fn warn_of_memory_disk(target: &Target, progress: &Progress) {
    let Some(cluster) = target.own() else { return };
    if cluster.spec().durability == Durability::Disk && cluster.data_file_system().as_deref() == Some("tmpfs") {
        progress.line(
            "note: the data folder is in memory (tmpfs), so 'disk' means nothing here; choose another with --data-root",
        );
    }
}
