//! A cluster to be measured, and what it is put under.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, ensure};
use lockstep_benches::requests::{KEY_SIZE, VALUE_SIZE};
use lockstep_loadgen::cluster::{Ack, Cluster, ClusterSpec, Durability, Fanout, find_server};
use lockstep_loadgen::drive::{DriveContext, Pacing, Phase, Protocol, RunSpec, StopFlag, drive};
use lockstep_loadgen::plan::{Arrivals, KeyDistribution, KeyLayout, ValueSizes, Workload};
use lockstep_loadgen::record::EventLog;

use crate::setting::Setting;

const SERVERS: usize = 3;

/// Few, so that checkpoints are small and the figures are about the log, not the store.
const KEYS: u64 = 10_000;

/// Written in full before each cluster starts, so no larger than a few samples need.
const JOURNAL_SIZE: u64 = 64 << 20;

/// How long a cluster is given to answer a request before the bench ends.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Names a server program that is to be used as it is.
const SERVER_VARIABLE: &str = "LOCKSTEP_SERVER_BIN";

/// A closed loop.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its part of a bench's name.
    pub name: &'static str,
    connections: usize,
    in_flight: usize,
    warmup: Duration,
    window: Duration,
}

impl Load {
    /// As much as the servers take.
    pub const SATURATED: Load = Load {
        name: "saturated",
        connections: 64,
        in_flight: 128,
        warmup: Duration::from_millis(40),
        window: Duration::from_millis(120),
    };

    /// One request after the other.
    pub const ALONE: Load = Load {
        name: "alone",
        connections: 1,
        in_flight: 1,
        warmup: Duration::from_millis(10),
        window: Duration::from_millis(100),
    };
}

/// A running cluster.
pub struct Stand {
    cluster: Cluster,
}

impl Stand {
    /// Starts three servers with this setting.
    pub fn start(setting: &Setting) -> anyhow::Result<Stand> {
        let spec = ClusterSpec {
            server_bin: server_bin()?,
            data_root: env!("CARGO_TARGET_TMPDIR").into(),
            servers: SERVERS,
            replicating: SERVERS,
            shards: 1,
            ack: Ack::Majority,
            fanout: Fanout::Parallel,
            durability: Durability::Disk,
            link_delay: None,
            has_cuttable_links: false,
            disk_size: None,
            has_resp: false,
            batching: setting.batching(),
            journal_size: Some(JOURNAL_SIZE),
            format_arguments: Vec::new(),
            start_arguments: Vec::new(),
        };
        let cluster = Cluster::start(&spec, &StopFlag::default()).context("cannot start a cluster")?;
        Ok(Stand { cluster })
    }

    /// Puts the cluster under `load` for a while. Returns seconds per request: time over answers.
    pub fn time_per_request_s(&self, load: &Load) -> anyhow::Result<f64> {
        let spec = RunSpec {
            phase: Phase::Run,
            servers: self.cluster.addresses(),
            shards: 1,
            protocol: Protocol::Native,
            wait_replicas: 0,
            resp_password: None,
            pacing: Pacing::Saturate,
            arrivals: Arrivals::default(),
            duration: load.window,
            warmup: load.warmup,
            connections: load.connections,
            in_flight: load.in_flight,
            workload: Workload::WRITES,
            increments: 0.0,
            keys: KEYS,
            distribution: KeyDistribution::Uniform,
            key_layout: KeyLayout::new(KEY_SIZE).context("the load generator has keys of this size")?,
            values: ValueSizes::fixed(VALUE_SIZE as u32),
            timeout: TIMEOUT,
            seed: 1,
            verify: false,
            threads: 1,
        };
        let events = EventLog::new();
        let context = DriveContext {
            stop: StopFlag::default(),
            finish: StopFlag::default(),
            opening: None,
            interval: None,
            events,
            processes: &[],
            watch: &mut |_| {},
        };
        let record = drive(&spec, context).with_context(|| self.logs())?;
        let counts = record.counts;
        ensure!(
            counts.ok > 0 && counts.ok == counts.asked(),
            "of {} requests only {} were answered as asked\n{}",
            counts.asked(),
            counts.ok,
            self.logs()
        );
        Ok(record.elapsed_ns as f64 / 1e9 / counts.ok as f64)
    }

    /// Ends the servers in good order and removes their data.
    pub fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().context("cannot stop a cluster")
    }

    fn logs(&self) -> String {
        let log = |server| format!("log of server {server} ends with:\n{}", self.cluster.log_tail(server));
        (0..SERVERS).map(log).collect::<Vec<_>>().join("\n")
    }
}

/// The server's program: the one named in the environment, or this project's, which Cargo brings up to date first.
fn server_bin() -> anyhow::Result<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let path = match env::var_os(SERVER_VARIABLE) {
        Some(named) => PathBuf::from(named),
        None => build_server()?,
    };
    let path = find_server(Some(&path)).with_context(|| format!("give the program in {SERVER_VARIABLE}"))?;
    eprintln!("servers are {}", path.display());
    Ok(FOUND.get_or_init(|| path).clone())
}

/// Builds the server where this program was built, so that no earlier build of it is measured in its place.
fn build_server() -> anyhow::Result<PathBuf> {
    // Cargo makes this folder inside of the one that everything goes to.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("the target folder has no parent")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "lockstep-server", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot run Cargo to build the server")?;
    ensure!(built.success(), "the server does not build: run `cargo build --release -p lockstep-server`");
    Ok(target.join("release").join("lockstep-server"))
}
