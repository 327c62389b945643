//! Options of `start` as they are written, and what becomes of them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use lockstep_proto::{
    checksum::cluster_id,
    limits::{BATCH_OPS_MAX, MESSAGE_SIZE_MAX, REQUEST_SIZE_MAX, SERVERS_MAX},
    message::MessageHeader,
};

use super::{
    address::Address,
    options::StartOptions,
    resp::RespArgs,
    units::{parse_size, parse_time, show_size, show_time},
};
use crate::{journal::open::Expected, shard::connections::CLIENTS_MEMORY_MIN};

/// Client connections of one shard, unless more are asked for.
pub(super) const CONNECTIONS_MAX: u32 = 10_000;

/// Which copies a write must have before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// A commit quorum: half of the servers, rounded up. One slow server is not waited for (with three or more).
    Majority,
    /// Every server of the in-sync set: the classic primary-backup rule. A backup that falls silent is dropped from the
    /// set after `--backup-silence` and comes back when it has caught up.
    All,
    /// Every server. A server that is down blocks all writes.
    Strict,
}

/// How the primary hands the log to the backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FanOut {
    /// To all backups at once.
    Parallel,
    /// To one backup after the other, each only when the one before it has answered. For measurements: latency grows with the number of
    /// servers.
    Sequential,
}

/// What "durable" means to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// On the disk, past its write cache.
    Disk,
    /// In memory. A server that restarts has forgotten what it acknowledged.
    Memory,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

macro_rules! value_name {
    ($($name:ident),+) => {$(
        impl $name {
            /// The value as it is written on the command line.
            pub fn name(self) -> String {
                self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
            }
        }
    )+};
}

value_name!(Ack, FanOut, Durability, LogFormat);

/// Which CPUs the shards' threads run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Shard i on the i-th CPU of those the process may use, round and round.
    Available,
    /// Shard i on the i-th of these, round and round.
    Cpus(Vec<usize>),
    /// Wherever the kernel likes.
    Unpinned,
}

/// Smallest `--batch-max-bytes`: below it the largest request would fit into no batch.
pub const BATCH_BYTES_MIN: u64 = (MessageHeader::SIZE + REQUEST_SIZE_MAX) as u64;

/// Default of `--clients-memory`.
const CLIENTS_MEMORY: &str = "256MiB";

/// Largest `--pipeline`.
pub const PIPELINE_LIMIT: u32 = 256;

/// Options that `start` and `dev` have in common: how the servers replicate, batch and bound themselves.
#[derive(Args, Clone, Debug)]
pub struct TuningArgs {
    /// Which servers must hold a write durably before it is answered
    ///
    /// `majority` answers once a commit quorum holds the write: fast, and not held up by one slow server. `all` waits for every server
    /// that is in sync, so that each of them has what was answered; a silent backup delays writes by up to `--backup-silence`, once. `strict` waits
    /// for every server there is: one that is down blocks all writes until it is back. Safety of committed writes is the
    /// same under all three. Give every server the same, because any of them may become primary.
    #[arg(long, value_enum, default_value_t = Ack::Majority, help_heading = "Replication")]
    pub ack: Ack,

    /// How the primary hands the log to its backups
    ///
    /// `sequential` is here to measure what textbooks describe; there is no other reason to choose it: latency grows by
    /// one round trip per backup.
    #[arg(long, value_enum, default_value_t = FanOut::Parallel, help_heading = "Replication")]
    pub fanout: FanOut,

    /// When a prepare counts as durable
    ///
    /// With `memory`, nothing waits for the disk, and a server that restarts has lost what it acknowledged: if as many
    /// servers as form a quorum restart together (a power cut, one bad deployment), ACKNOWLEDGED WRITES ARE LOST. For caches and
    /// measurements.
    #[arg(long, value_enum, default_value_t = Durability::Disk, help_heading = "Replication")]
    pub durability: Durability,

    /// How often the primary tells idle backups that it is there
    ///
    /// Backups learn from it what is committed, so an idle backup's store may be older than the primary's by this much. Lower
    /// costs packets; higher makes `--view-timeout` and `--backup-silence` less precise.
    #[arg(long, value_name = "TIME", default_value = "25ms", value_parser = parse_time, help_heading = "Replication")]
    pub heartbeat_interval: Duration,

    /// How long the primary may be silent before the others look for a new one
    ///
    /// After a primary has died, writes and reads wait about this long and a little more: each server adds up to a fifth by
    /// chance, and as many as form a quorum must agree that they miss it. Lower makes a failover shorter; too low makes
    /// one out of every pause of a busy host or network, and each costs a few milliseconds. At least four heartbeats.
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = parse_time, help_heading = "Replication")]
    pub view_timeout: Duration,

    /// How long a primary may get nothing done before it gives way to another one
    ///
    /// Its disk hangs, or as many others as it needs do not answer, while writes wait: after this time it lets the others choose
    /// another primary. Lower than the disk's slowest healthy write makes a failover out of it.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_time, help_heading = "Replication")]
    pub stall_timeout: Duration,

    /// How long a backup may be silent before it leaves the in-sync set
    ///
    /// Under `--ack all` this is how long writes stall when a backup dies. At least three heartbeats, or healthy backups
    /// are dropped whenever one packet is late.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time, help_heading = "Replication")]
    pub backup_silence: Duration,

    /// Largest number of requests in one prepare
    ///
    /// Batches form by themselves under load; a bound keeps one prepare from delaying those behind it. 1 switches batching off, at a
    /// great cost in throughput.
    #[arg(long, value_name = "N", default_value_t = 4096, help_heading = "Batching")]
    pub batch_max_ops: u32,

    /// Largest prepare, in bytes
    ///
    /// One prepare is one journal write and one message to each backup. Between 1.1 MiB, so that the largest request fits, and
    /// 4 MiB.
    #[arg(long, value_name = "SIZE", default_value = "2MiB", value_parser = parse_size, help_heading = "Batching")]
    pub batch_max_bytes: u64,

    /// How long a batch that is not full waits for more requests
    ///
    /// 0 sends what has arrived at once: best latency, and under load batches grow without it. A linger trades latency at
    /// low load for fewer, larger prepares. At most 100ms.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time, help_heading = "Batching")]
    pub batch_linger: Duration,

    /// Number of requests up to which a batch grows while others are on their way
    ///
    /// A batch waits while more requests are in prepares that are not committed yet than it holds, but no longer than until it
    /// holds this many. A prepare costs a cluster about as much as fifty requests do, so few large ones leave the CPU to
    /// requests. 0 waits for nothing: less latency where the servers have idle CPUs. At most 4096.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Batching")]
    pub batch_gather: u32,

    /// How long a batch waits at most to grow to --batch-gather
    ///
    /// Bounds what the wait can add to a request's latency where commits take long: over slow links, or with sequential fan-out.
    /// At most 100ms.
    #[arg(long, value_name = "TIME", default_value = "500us", value_parser = parse_time, help_heading = "Batching")]
    pub batch_gather_time: Duration,

    /// Largest number of prepares that are sent and not yet committed
    ///
    /// While it is reached, requests gather in the open batch; when that is full too, clients are not read from. Higher hides
    /// slow links and disks; lower makes larger batches. 1 to 256.
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "Batching")]
    pub pipeline: u32,

    /// How long a shard's thread goes on looking for work before it sleeps
    ///
    /// Each step of a request that finds the thread asleep waits for it to be woken. Where each shard has a CPU of its own, 50us
    /// to 200us save that and keep the CPU busy; where it shares one, they take it from the others. At most 10ms; 0 sleeps at
    /// once.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time, help_heading = "CPU")]
    pub busy_poll: Duration,

    /// Bytes of journal after which a checkpoint is begun [default: half of the journal]
    ///
    /// A checkpoint makes the journal before it reusable. Rarer ones cost less disk traffic and make a restart replay
    /// more. Must leave room in the journal for what is written while the checkpoint is under way: if the journal fills,
    /// writes wait.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Bounds")]
    pub checkpoint_every: Option<u64>,

    /// Largest number of client connections of one shard
    ///
    /// Beyond it, new clients are told that the server is full. Each takes some tens of KiB of buffers, and up to 20 MiB when
    /// it asks for more than it takes.
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_MAX, help_heading = "Bounds")]
    pub connections_max: u32,

    /// Memory that the replies of all clients of one shard together may take while they wait to be sent; 0 for no bound
    ///
    /// Beyond it, the clients that leave most untaken are closed, and may connect again. Up to 16 KiB of each client are not counted.
    /// Small: clients that read large values slowly are closed; at least 64 MiB, which one client alone can need. Large: they
    /// can drive the server out of memory. Of Redis clients, see `--resp-clients-memory`.
    #[arg(long, value_name = "SIZE", default_value = CLIENTS_MEMORY, value_parser = parse_size, help_heading = "Bounds")]
    pub clients_memory: u64,

    /// Largest number of client sessions of one shard
    ///
    /// Beyond it, the session used longest ago is evicted, and its client can no longer tell whether its last writes were
    /// carried out. MUST BE THE SAME ON EVERY SERVER: eviction is part of the replicated state, and servers that disagree
    /// on it drift apart. Each takes about 8 KiB.
    #[arg(long, value_name = "N", default_value_t = 10_000, help_heading = "Bounds")]
    pub sessions_max: u32,

    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub log_format: LogFormat,

    /// Let the kernel move the shards' threads between CPUs
    ///
    /// By default the thread of shard i stays on the i-th CPU that the process may use: caches stay warm. Several servers on
    /// one host would pile up on the first CPUs; give each its own `--cpus`, or use this.
    #[arg(long, conflicts_with = "cpus", help_heading = "CPU")]
    pub no_pin: bool,

    /// CPUs for the shards' threads, in order, round and round
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', help_heading = "CPU")]
    pub cpus: Vec<usize>,
}

/// Options of `start`.
#[derive(Args, Clone, Debug)]
pub struct StartArgs {
    /// The data folder, formatted before with `lockstep-server format`
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where the servers are, in the order of their ids, this one included
    ///
    /// Base ports: shard i of a server is at its port + i. What the servers call each other; clients are told the same unless
    /// `--advertise` says otherwise.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', required = true)]
    pub peers: Vec<Address>,

    /// Where to listen [default: this server's own entry in --peers]
    ///
    /// Needed where that entry is a name or address that this host does not have: behind a proxy, a load balancer or in
    /// a container. Clients and servers are not authenticated: do not listen where strangers can reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<Address>,

    /// Where clients find the servers, in the order of their ids [default: as --peers]
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub advertise: Vec<Address>,

    /// Where to serve /metrics, /healthz and /status over HTTP [default: nowhere]
    ///
    /// Not protected by anything: use an address that only your own monitoring reaches, such as 127.0.0.1:9700. Port 0
    /// takes a free one and logs it.
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<Address>,

    /// Refuse to start unless the data folder belongs to this cluster [default: take what it says]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,

    /// Refuse to start unless the data folder belongs to this server [default: take what it says]
    #[arg(long, value_name = "I")]
    pub id: Option<u8>,

    /// Stop, as with SIGTERM, when the program that started this one ends
    ///
    /// For test harnesses, so that none of their servers outlives them.
    #[arg(long)]
    pub stop_with_parent: bool,

    /// How it serves Redis clients.
    #[command(flatten)]
    pub resp: RespArgs,

    /// How it replicates, batches and bounds itself.
    #[command(flatten)]
    pub tuning: TuningArgs,
}

impl TuningArgs {
    /// Checks everything that does not depend on the data folder.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn check(&self) -> Result<(), String> {
        within("--batch-max-ops", u64::from(self.batch_max_ops), 1, BATCH_OPS_MAX as u64)?;
        if !(BATCH_BYTES_MIN..=MESSAGE_SIZE_MAX as u64).contains(&self.batch_max_bytes) {
            return Err(format!(
                "--batch-max-bytes is {}: choose from {BATCH_BYTES_MIN} bytes (the largest request must fit) to {} bytes",
                show_size(self.batch_max_bytes),
                MESSAGE_SIZE_MAX
            ));
        }
        within("--pipeline", u64::from(self.pipeline), 1, u64::from(PIPELINE_LIMIT))?;
        within("--connections-max", u64::from(self.connections_max), 1, 1_000_000)?;
        if self.clients_memory > 0 && self.clients_memory < CLIENTS_MEMORY_MIN {
            return Err(format!(
                "--clients-memory is {}: choose 0, for no bound, or at least {}",
                show_size(self.clients_memory),
                show_size(CLIENTS_MEMORY_MIN)
            ));
        }
        within("--sessions-max", u64::from(self.sessions_max), 1, 10_000_000)?;
        within("--batch-gather", u64::from(self.batch_gather), 0, 4096)?;
        time_within("--batch-gather-time", self.batch_gather_time, Duration::ZERO, Duration::from_millis(100))?;
        time_within("--batch-linger", self.batch_linger, Duration::ZERO, Duration::from_millis(100))?;
        time_within("--busy-poll", self.busy_poll, Duration::ZERO, Duration::from_millis(10))?;
        time_within(
            "--heartbeat-interval",
            self.heartbeat_interval,
            Duration::from_millis(1),
            Duration::from_secs(10),
        )?;
        let minute = Duration::from_secs(60);
        time_within("--view-timeout", self.view_timeout, Duration::from_millis(4), minute)?;
        time_within("--stall-timeout", self.stall_timeout, Duration::from_millis(10), 10 * minute)?;
        if self.view_timeout < 4 * self.heartbeat_interval {
            return Err(format!(
                "--view-timeout is {}, less than four times --heartbeat-interval ({}): the others would look for a new primary \
                 whenever a packet is late; raise the former or lower the latter",
                show_time(self.view_timeout),
                show_time(self.heartbeat_interval)
            ));
        }
        time_within("--backup-silence", self.backup_silence, Duration::from_millis(3), Duration::from_secs(3600))?;
        if self.backup_silence < 3 * self.heartbeat_interval {
            return Err(format!(
                "--backup-silence is {}, less than three times --heartbeat-interval ({}): healthy backups would be \
                 dropped; raise the former or lower the latter",
                show_time(self.backup_silence),
                show_time(self.heartbeat_interval)
            ));
        }
        Ok(())
    }

    fn pinning(&self) -> Pinning {
        match self.cpus.as_slice() {
            _ if self.no_pin => Pinning::Unpinned,
            [] => Pinning::Available,
            cpus => Pinning::Cpus(cpus.to_vec()),
        }
    }

    /// The options as they are written on a command line, for a child process. Times and sizes are in their smallest unit.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--ack={}", self.ack.name()),
            format!("--fanout={}", self.fanout.name()),
            format!("--durability={}", self.durability.name()),
            format!("--heartbeat-interval={}ns", self.heartbeat_interval.as_nanos()),
            format!("--view-timeout={}ns", self.view_timeout.as_nanos()),
            format!("--stall-timeout={}ns", self.stall_timeout.as_nanos()),
            format!("--backup-silence={}ns", self.backup_silence.as_nanos()),
            format!("--batch-max-ops={}", self.batch_max_ops),
            format!("--batch-max-bytes={}", self.batch_max_bytes),
            format!("--batch-linger={}ns", self.batch_linger.as_nanos()),
            format!("--batch-gather={}", self.batch_gather),
            format!("--batch-gather-time={}ns", self.batch_gather_time.as_nanos()),
            format!("--pipeline={}", self.pipeline),
            format!("--busy-poll={}ns", self.busy_poll.as_nanos()),
            format!("--connections-max={}", self.connections_max),
            format!("--clients-memory={}", self.clients_memory),
            format!("--sessions-max={}", self.sessions_max),
            format!("--log-format={}", self.log_format.name()),
        ];
        arguments.extend(self.checkpoint_every.map(|bytes| format!("--checkpoint-every={bytes}")));
        if self.no_pin {
            arguments.push("--no-pin".to_owned());
        }
        arguments.extend(self.cpus.iter().map(|cpu| format!("--cpus={cpu}")));
        arguments
    }
}

impl StartArgs {
    /// What the data folder has to be, as far as the command line says.
    pub fn expected(&self) -> Expected {
        Expected { cluster: self.cluster.as_deref().map(cluster_id), replica: self.id, ..Expected::default() }
    }

    /// Checks everything that does not depend on the data folder.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn validate(&self) -> Result<StartOptions, String> {
        self.tuning.check()?;
        check_addresses("--peers", &self.peers)?;
        if !self.advertise.is_empty() {
            check_addresses("--advertise", &self.advertise)?;
            if self.advertise.len() != self.peers.len() {
                return Err(format!(
                    "--advertise has {} addresses and --peers has {}: give one for each server, in the order of their ids",
                    self.advertise.len(),
                    self.peers.len()
                ));
            }
        }
        let tuning = &self.tuning;
        Ok(StartOptions {
            data_dir: self.data_dir.clone(),
            peers: self.peers.clone(),
            advertise: if self.advertise.is_empty() { self.peers.clone() } else { self.advertise.clone() },
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            resp: self.resp.validate(&self.peers)?,
            ack: tuning.ack,
            fanout: tuning.fanout,
            durability: tuning.durability,
            heartbeat_interval_ns: tuning.heartbeat_interval.as_nanos() as u64,
            view_timeout_ns: tuning.view_timeout.as_nanos() as u64,
            stall_timeout_ns: tuning.stall_timeout.as_nanos() as u64,
            backup_silence_ns: tuning.backup_silence.as_nanos() as u64,
            batch_ops_max: tuning.batch_max_ops,
            batch_bytes_max: tuning.batch_max_bytes as u32,
            batch_linger_ns: tuning.batch_linger.as_nanos() as u64,
            batch_gather_ops: tuning.batch_gather,
            batch_gather_ns: tuning.batch_gather_time.as_nanos() as u64,
            pipeline_max: tuning.pipeline,
            checkpoint_every: tuning.checkpoint_every,
            connections_max: tuning.connections_max,
            client_bytes_max: tuning.clients_memory,
            sessions_max: tuning.sessions_max,
            log_format: tuning.log_format,
            pinning: tuning.pinning(),
            busy_poll_ns: tuning.busy_poll.as_nanos() as u64,
        })
    }
}

pub(super) fn within(option: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{option} is {value}: choose from {min} to {max}"))
}

fn time_within(option: &str, value: Duration, min: Duration, max: Duration) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{option} is {}: choose from {} to {}", show_time(value), show_time(min), show_time(max)))
}

pub(super) fn check_addresses(option: &str, addresses: &[Address]) -> Result<(), String> {
    if addresses.len() > SERVERS_MAX as usize {
        return Err(format!("{option} has {} addresses: a cluster has at most {SERVERS_MAX} servers", addresses.len()));
    }
    for (index, address) in addresses.iter().enumerate() {
        if let Some(first) = addresses[..index].iter().position(|other| other == address) {
            return Err(format!("{option}: servers {first} and {index} have the same address {address}"));
        }
    }
    Ok(())
}
