//! Options of clusters that are started for a measurement.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::CLUSTER_HEADING;
use super::numbers::{parse_duration, parse_size};
use crate::cluster::{Ack, Batching, ClusterError, ClusterSpec, Durability, Fanout, data_root_default, find_server};

/// Settings that a matrix does not vary.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = CLUSTER_HEADING)]
pub struct CommonClusterOptions {
    /// The server's program [default: lockstep-server beside this program].
    #[arg(long, value_name = "FILE", env = "LOCKSTEP_SERVER_BIN")]
    pub server_bin: Option<PathBuf>,
    /// Where the servers' data goes while they run [default: /var/tmp].
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Shards per server; with --targets and the native protocol, as many as the running servers have.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Delay that every server-to-server link gets in each direction; a round trip takes twice as long; such as 1ms
    /// [default: none].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub link_delay: Option<Duration>,
    /// Requests in one prepare, at most [default: the server's].
    #[arg(long, value_name = "N")]
    pub batch_max_ops: Option<u32>,
    /// Bytes in one prepare, at most, such as 256KiB [default: the server's].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub batch_max_bytes: Option<u64>,
    /// How long an open batch waits for more, such as 100us [default: the server's].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub batch_linger: Option<Duration>,
    /// Requests up to which a batch grows while others are on their way [default: the server's].
    #[arg(long, value_name = "N")]
    pub batch_gather: Option<u32>,
    /// Prepares in flight [default: the server's].
    #[arg(long, value_name = "N")]
    pub pipeline: Option<u32>,
    /// Size of each shard's journal. It is written in full before a cluster starts, so a larger one takes longer.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_size)]
    pub journal_size: u64,
    /// A further argument of `lockstep-server format`; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub format_arg: Vec<String>,
    /// A further argument of `lockstep-server start`; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub start_arg: Vec<String>,
}

/// All settings of one cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = CLUSTER_HEADING)]
pub struct ClusterOptions {
    /// When a write is answered.
    #[arg(long, value_name = "POLICY", default_value = "majority")]
    pub ack: Ack,
    /// How the primary hands prepares to its backups.
    #[arg(long, value_name = "WAY", default_value = "parallel")]
    pub fanout: Fanout,
    /// What an acknowledgement means.
    #[arg(long, value_name = "WHERE", default_value = "disk")]
    pub durability: Durability,
    /// The rest.
    #[command(flatten)]
    pub common: CommonClusterOptions,
}

impl CommonClusterOptions {
    /// A cluster with these settings.
    ///
    /// # Errors
    ///
    /// When there is no server program.
    pub fn spec(
        &self,
        servers: usize,
        ack: Ack,
        fanout: Fanout,
        durability: Durability,
    ) -> Result<ClusterSpec, ClusterError> {
        Ok(ClusterSpec {
            server_bin: find_server(self.server_bin.as_deref())?,
            data_root: self.data_root.clone().unwrap_or_else(data_root_default),
            servers,
            replicating: servers,
            shards: self.shards,
            ack,
            fanout,
            durability,
            link_delay: self.link_delay.filter(|delay| !delay.is_zero()),
            has_cuttable_links: false,
            disk_size: None,
            has_resp: false,
            batching: Batching {
                max_ops: self.batch_max_ops,
                max_bytes: self.batch_max_bytes,
                linger: self.batch_linger,
                gather: self.batch_gather,
                pipeline: self.pipeline,
            },
            journal_size: Some(self.journal_size),
            format_arguments: self.format_arg.clone(),
            start_arguments: self.start_arg.clone(),
        })
    }
}

impl ClusterOptions {
    /// A cluster of `servers` servers with these settings.
    ///
    /// # Errors
    ///
    /// When there is no server program.
    pub fn spec(&self, servers: usize) -> Result<ClusterSpec, ClusterError> {
        self.common.spec(servers, self.ack, self.fanout, self.durability)
    }
}
