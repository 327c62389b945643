//! Options of the load itself.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use lockstep_proto::limits::SESSION_WINDOW;

use super::numbers::{parse_count, parse_duration, parse_rate, parse_share};
use super::targets::parse_target;
use crate::drive::{AUDITED_KEYS_MAX, Pacing, Password, Phase, Protocol, RunSpec};
use crate::plan::{Arrivals, KEYS_MAX, KeyDistribution, KeyLayout, ValueSizes, Workload};

/// Where a password can be given without a file.
const PASSWORD_VARIABLE: &str = "LOCKSTEP_RESP_PASSWORD";

/// Which servers are under load.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false, id = "target")]
pub struct TargetOptions {
    /// Start a cluster of this many servers for the measurement and remove it afterwards, 1 to 7.
    #[arg(long, value_name = "N", value_parser = parse_servers)]
    pub servers: Option<usize>,
    /// Use a running cluster: the base address of each server, in the order of their ids, comma-separated.
    #[arg(long, visible_alias = "addr", value_name = "HOST:PORT,..", value_delimiter = ',', value_parser = parse_target)]
    pub targets: Vec<SocketAddr>,
}

fn parse_servers(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=7).contains(count));
    count.ok_or_else(|| format!("'{text}' is no number of servers: use 1 to 7"))
}

/// How fast, and for how long.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("pace").args(["rate", "saturate"]).required(true))]
pub struct PacingOptions {
    /// Offered rate in requests per second, open loop: requests are sent on time whether or not answers come. 5000, 20k.
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Instead of a rate, keep every connection full.
    #[arg(long)]
    pub saturate: bool,
    /// How long requests are measured.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long requests are sent before measuring.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
}

impl PacingOptions {
    /// The pacing asked for.
    pub fn pacing(&self) -> Pacing {
        self.rate.map_or(Pacing::Saturate, Pacing::Rate)
    }
}

/// What is sent.
#[derive(Debug, Clone, Args)]
pub struct LoadOptions {
    /// Spacing of requests in time: poisson (as from many unrelated users) or uniform.
    #[arg(long, value_name = "PROCESS", default_value = "poisson")]
    pub arrivals: Arrivals,
    /// Connections to each shard's primary, all threads together, 1 to 4096.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: u16,
    /// Requests in flight on one connection, at most, 1 to 256. When all are taken, requests wait, and their response time with them.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=SESSION_WINDOW as i64))]
    pub in_flight: u16,
    /// Mix of operations: YCSB a, b, c, d or f, or write, or read [default: write].
    #[arg(long, value_name = "NAME", conflicts_with = "read_share")]
    pub workload: Option<Workload>,
    /// Instead of a workload by name: this share of gets, from 0 to 1, the rest puts.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub read_share: Option<f64>,
    /// In this share of the puts, from 0 to 1, one of 64 counters is incremented instead; an audit checks their sums, so that
    /// what happens twice or not at all shows [default: 0; of failover 0.1].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub increments: Option<f64>,
    /// How many different keys.
    #[arg(long, value_name = "COUNT", default_value = "100k", value_parser = parse_keys)]
    pub keys: u64,
    /// How requests spread over the keys: `uniform`, `zipfian[:theta]`, `latest[:theta]` or `sequential` [default: uniform,
    /// for YCSB workloads as YCSB has it].
    #[arg(long, value_name = "DISTRIBUTION")]
    pub keys_distribution: Option<KeyDistribution>,
    /// Length of each key in bytes.
    #[arg(long, value_name = "BYTES", default_value = "16")]
    pub key_size: KeyLayout,
    /// Length of values in bytes: one (100), or any in a range with equal likelihood (64..1024).
    #[arg(long, value_name = "BYTES", default_value = "100")]
    pub values: ValueSizes,
    /// A request that has no answer after this long is given up; it enters the histograms at this time.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Seed of arrivals, keys, values and orders. Values of one seed do not check under another.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Do not check values that are read.
    #[arg(long)]
    pub no_verify: bool,
    /// Remember the version of every acknowledged write, and read all of them back after the run (run and load only). Nobody
    /// else may write the same keys meanwhile.
    #[arg(long)]
    pub audit: bool,
    /// Do not put all keys once before measuring (only done where the cluster is started by this command).
    #[arg(long)]
    pub no_preload: bool,
    /// What the servers speak: native, or resp to drive Lockstep's Redis front door, Redis or Valkey. With resp, --targets
    /// names the servers' RESP addresses; the load goes to the one that takes writes.
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Protocol::Native)]
    pub protocol: Protocol,
    /// With --protocol resp: follow each write by WAIT for this many replicas, and count it as answered with that.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wait_replicas: u32,
    /// With --protocol resp: a file whose first line is the servers' password. For --targets, the environment variable
    /// LOCKSTEP_RESP_PASSWORD does as well.
    #[arg(long, value_name = "FILE")]
    pub resp_password_file: Option<PathBuf>,
    /// Generating threads, 1 to 256.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

fn parse_keys(text: &str) -> Result<u64, String> {
    let keys = parse_count(text)?;
    if (1..=KEYS_MAX).contains(&keys) {
        Ok(keys)
    } else {
        Err(format!("'{text}' is no number of keys: use 1 to {KEYS_MAX}"))
    }
}

impl LoadOptions {
    /// The mix asked for.
    pub fn workload(&self) -> Workload {
        self.workload.or(self.read_share.map(Workload::ReadShare)).unwrap_or(Workload::WRITES)
    }

    /// The servers' password. That of the environment belongs to servers that are running, not to those that are started here.
    fn resp_password(&self, are_running: bool) -> Result<Option<Password>, String> {
        if self.protocol != Protocol::Resp {
            return match self.resp_password_file {
                Some(_) => Err("--resp-password-file belongs to --protocol resp".to_owned()),
                None => Ok(None),
            };
        }
        let Some(file) = &self.resp_password_file else {
            let password = std::env::var_os(PASSWORD_VARIABLE).filter(|password| are_running && !password.is_empty());
            return Ok(password.map(|password| Password::new(password.as_bytes())));
        };
        let text = std::fs::read(file)
            .map_err(|error| format!("--resp-password-file: {} cannot be read: {error}", file.display()))?;
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        match line.strip_suffix(b"\r").unwrap_or(line) {
            [] => Err(format!("--resp-password-file: the first line of {} is empty", file.display())),
            password => Ok(Some(Password::new(password))),
        }
    }

    /// The spec of a run with these options.
    ///
    /// # Errors
    ///
    /// Says which options do not fit each other.
    pub fn spec(
        &self,
        servers: Vec<SocketAddr>,
        shards: u16,
        pacing: Pacing,
        warmup: Duration,
        duration: Duration,
    ) -> Result<RunSpec, String> {
        if self.connections < self.threads {
            let (connections, threads) = (self.connections, self.threads);
            return Err(format!("{threads} threads need at least as many --connections, not {connections}"));
        }
        if self.timeout.is_zero() {
            return Err("--timeout 0s gives up every request before it is sent".to_owned());
        }
        if duration < Duration::from_millis(10) {
            return Err("--duration is below 10ms, which measures nothing".to_owned());
        }
        if self.protocol == Protocol::Resp && self.audit {
            return Err("--audit needs the versions that only --protocol native tells".to_owned());
        }
        if self.audit && self.keys > AUDITED_KEYS_MAX {
            return Err(format!("an audit has room for {AUDITED_KEYS_MAX} keys: use fewer --keys"));
        }
        if self.increments.is_some_and(|share| share > 0.0) && self.key_size.len() < 16 {
            return Err("counters need keys of 16 bytes: use --key-size 16, or --increments 0".to_owned());
        }
        if self.protocol == Protocol::Native && self.wait_replicas > 0 {
            return Err("--wait-replicas belongs to --protocol resp".to_owned());
        }
        let resp_password = self.resp_password(!servers.is_empty())?;
        let workload = self.workload();
        let digits = usize::try_from(u64::BITS - self.keys.leading_zeros()).unwrap_or(64).div_ceil(4);
        if workload.mix().insert > 0.0 && self.key_size.len() < 16 || digits > self.key_size.len() {
            return Err(format!("keys of {} bytes cannot number this many keys: use --key-size 16", self.key_size));
        }
        Ok(RunSpec {
            phase: Phase::Run,
            servers,
            // A server passes on what belongs to another of its shards.
            shards: if self.protocol == Protocol::Resp { 1 } else { shards },
            protocol: self.protocol,
            wait_replicas: self.wait_replicas,
            resp_password,
            pacing,
            arrivals: self.arrivals,
            duration,
            warmup,
            connections: self.connections.into(),
            in_flight: self.in_flight.into(),
            workload,
            increments: self.increments.unwrap_or(0.0),
            keys: self.keys,
            distribution: self.keys_distribution.unwrap_or_else(|| workload.keys_default()),
            key_layout: self.key_size,
            values: self.values,
            timeout: self.timeout,
            seed: self.seed,
            verify: !self.no_verify,
            threads: self.threads.into(),
        })
    }
}

/// The spec that loads the keys of `spec`.
pub(crate) fn loading(spec: &RunSpec) -> RunSpec {
    RunSpec { phase: Phase::Load, pacing: Pacing::Saturate, warmup: Duration::ZERO, ..spec.clone() }
}
