//! Who is compared.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::redis::{RedisGroup, replication_info};
use crate::cluster::{Cluster, ClusterError, ClusterSpec};
use crate::drive::StopFlag;
use crate::record::ProcessRef;

/// Replicas of a Redis primary: as many copies as three Lockstep servers hold.
const REPLICAS: usize = 2;

/// How long Lockstep's servers may take to agree on a primary.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(20);

/// A way to run a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Three servers, answers after a durable majority.
    Lockstep,
    /// Redis with an append-only file synced at each write, two replicas the same, and WAIT 2 after each write.
    RedisDurable,
    /// Redis without persistence, two replicas, no WAIT.
    RedisFast,
    /// Valkey as [`Kind::RedisDurable`].
    ValkeyDurable,
    /// Valkey as [`Kind::RedisFast`].
    ValkeyFast,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Lockstep, Self::RedisDurable, Self::RedisFast, Self::ValkeyDurable, Self::ValkeyFast];

    /// Replicas that each write waits for with WAIT.
    pub fn wait_replicas(self) -> u32 {
        if self.is_durable_redis() { REPLICAS as u32 } else { 0 }
    }

    fn is_durable_redis(self) -> bool {
        matches!(self, Self::RedisDurable | Self::ValkeyDurable)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Lockstep => "lockstep",
            Self::RedisDurable => "redis-durable",
            Self::RedisFast => "redis-fast",
            Self::ValkeyDurable => "valkey-durable",
            Self::ValkeyFast => "valkey-fast",
        })
    }
}

/// What is installed.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// redis-server.
    pub redis: Option<PathBuf>,
    /// valkey-server.
    pub valkey: Option<PathBuf>,
    /// redis-benchmark.
    pub benchmark: Option<PathBuf>,
}

impl Programs {
    /// Looks for them in `PATH`.
    pub fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find =
            |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
        Self { redis: find("redis-server"), valkey: find("valkey-server"), benchmark: find("redis-benchmark") }
    }
}

/// Why a peer could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Lockstep.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Redis, Valkey.
    #[error("cannot start {0}: {1}")]
    Redis(Kind, io::Error),
    /// Three servers and no primary.
    #[error("no server takes writes after {PRIMARY_TIMEOUT:?}: {0}")]
    NoPrimary(String),
}

/// A running system; it ends when dropped.
#[derive(Debug)]
pub struct Peer {
    /// Which one.
    pub kind: Kind,
    /// In words.
    pub words: String,
    system: System,
}

#[derive(Debug)]
enum System {
    Lockstep(Box<Cluster>),
    Redis(RedisGroup),
}

impl Peer {
    /// Starts one. `None` if its program is not installed.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub fn start(
        kind: Kind,
        programs: &Programs,
        spec: &ClusterSpec,
        stop: &StopFlag,
    ) -> Result<Option<Self>, PeerError> {
        let program = match kind {
            Kind::Lockstep => {
                let cluster = Cluster::start(spec, stop)?;
                let words = format!("Lockstep, {}", crate::scenario::cluster_words(cluster.spec()));
                return Ok(Some(Self { kind, words, system: System::Lockstep(Box::new(cluster)) }));
            }
            Kind::RedisDurable | Kind::RedisFast => &programs.redis,
            Kind::ValkeyDurable | Kind::ValkeyFast => &programs.valkey,
        };
        let Some(program) = program else { return Ok(None) };
        let is_durable = kind.is_durable_redis();
        let group = RedisGroup::start(program, &spec.data_root, REPLICAS, is_durable);
        let group = group.map_err(|error| PeerError::Redis(kind, error))?;
        let name = if matches!(kind, Kind::RedisDurable | Kind::RedisFast) { "Redis" } else { "Valkey" };
        let how = if is_durable {
            "appendonly yes, appendfsync always, each write followed by WAIT 2"
        } else {
            "no persistence, no WAIT"
        };
        let words = format!("{name}, primary and {REPLICAS} replicas, {how}");
        Ok(Some(Self { kind, words, system: System::Redis(group) }))
    }

    /// Where it speaks RESP: every server that may be the primary.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.system {
            System::Lockstep(cluster) => cluster.resp_addresses(),
            System::Redis(group) => vec![group.primary()],
        }
    }

    /// The server that takes writes now.
    ///
    /// # Errors
    ///
    /// When there is none for a long time.
    pub fn primary(&self) -> Result<SocketAddr, PeerError> {
        let deadline = Instant::now() + PRIMARY_TIMEOUT;
        loop {
            let heard: Vec<_> =
                self.addresses().into_iter().map(|address| (address, replication_info(address))).collect();
            let is_primary = |info: &io::Result<String>| {
                info.as_ref().is_ok_and(|info| info.lines().any(|line| line == "role:master"))
            };
            if let Some((address, _)) = heard.iter().find(|(_, info)| is_primary(info)) {
                return Ok(*address);
            }
            if Instant::now() >= deadline {
                return Err(PeerError::NoPrimary(format!("{heard:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<ProcessRef> {
        match &self.system {
            System::Lockstep(cluster) => cluster.processes(),
            System::Redis(group) => group.processes(&self.kind.to_string()),
        }
    }

    /// Ends it in good order.
    ///
    /// # Errors
    ///
    /// When a server of Lockstep ended badly.
    pub fn stop(self) -> Result<(), ClusterError> {
        match self.system {
            System::Lockstep(cluster) => cluster.stop(),
            System::Redis(_) => Ok(()),
        }
    }
}
