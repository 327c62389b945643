//! Which cluster to start.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// Durable on a commit quorum.
    Majority,
    /// Durable on every member of the in-sync set.
    All,
    /// Durable on every server; a dead backup blocks writes.
    Strict,
}

/// How the primary hands a prepare to its backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fanout {
    /// To all backups at once.
    Parallel,
    /// To the next backup only once the one before has answered.
    Sequential,
}

/// What a server has done before it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Written to the disk and synced.
    Disk,
    /// Kept in memory only.
    Memory,
}

/// The name as the server's command line takes it, which is also the one of ours.
macro_rules! display_as_option {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no variant is hidden");
                out.write_str(value.get_name())
            }
        }
    )*};
}
display_as_option!(Ack, Fanout, Durability);

/// Settings of batching; whatever is `None` is left to the server's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// The most requests in one prepare.
    pub max_ops: Option<u32>,
    /// The most bytes in one prepare.
    pub max_bytes: Option<u64>,
    /// How long an open batch waits for more.
    pub linger: Option<Duration>,
    /// Requests up to which a batch grows while others are on their way.
    pub gather: Option<u32>,
    /// Prepares in flight.
    pub pipeline: Option<u32>,
}

/// A cluster of server processes on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The server's program.
    pub server_bin: PathBuf,
    /// Where the folder with all data is made; it is removed in the end.
    pub data_root: PathBuf,
    /// Server processes alive, in total.
    pub servers: usize,
    /// How many of them make up the cluster under load. The others are clusters of one, alive but idle: they show what
    /// the mere presence of processes costs.
    pub replicating: usize,
    /// Shards per server.
    pub shards: u16,
    /// When a write is answered.
    pub ack: Ack,
    /// How prepares are handed out.
    pub fanout: Fanout,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Delay of each server-to-server link in each direction; `None` leaves the proxy out.
    pub link_delay: Option<Duration>,
    /// Whether links can be cut, which takes a proxy on each of them.
    pub has_cuttable_links: bool,
    /// Bytes of a small disk in memory for each server, so that it can be filled; `None`: data goes to the data root.
    pub disk_size: Option<u64>,
    /// Whether the servers also speak RESP, on ports of its own.
    pub has_resp: bool,
    /// Batching settings.
    pub batching: Batching,
    /// Bytes of each shard's journal; `None` for the server's default.
    pub journal_size: Option<u64>,
    /// Further arguments of `lockstep-server format`.
    pub format_arguments: Vec<String>,
    /// Further arguments of `lockstep-server start`.
    pub start_arguments: Vec<String>,
}

impl ClusterSpec {
    /// Every setting by name, for `meta.json`.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set("servers", self.servers.to_string());
        set("replicating", self.replicating.to_string());
        set("shards", self.shards.to_string());
        set("ack", self.ack.to_string());
        set("fanout", self.fanout.to_string());
        set("durability", self.durability.to_string());
        let delay = |delay: Duration| humantime::format_duration(delay).to_string();
        set("link-delay", self.link_delay.map_or_else(|| "none".to_owned(), delay));
        set("cuttable-links", self.has_cuttable_links.to_string());
        set("disk-size", self.disk_size.map_or_else(|| "not bounded".to_owned(), |size| size.to_string()));
        set("resp", self.has_resp.to_string());
        let Batching { max_ops, max_bytes, linger, gather, pipeline } = self.batching;
        let or_default = |value: Option<String>| value.unwrap_or_else(|| "default".to_owned());
        set("batch-max-ops", or_default(max_ops.map(|ops| ops.to_string())));
        set("batch-max-bytes", or_default(max_bytes.map(|bytes| bytes.to_string())));
        set("batch-linger", or_default(linger.map(delay)));
        set("batch-gather", or_default(gather.map(|ops| ops.to_string())));
        set("pipeline", or_default(pipeline.map(|depth| depth.to_string())));
        set("journal-size", or_default(self.journal_size.map(|size| size.to_string())));
        set("format-arguments", self.format_arguments.join(" "));
        set("start-arguments", self.start_arguments.join(" "));
        settings
    }

    /// The options of `lockstep-server start` that follow from the settings.
    pub(super) fn start_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |name: &str, value: String| options.extend([name.to_owned(), value]);
        add("--ack", self.ack.to_string());
        add("--fanout", self.fanout.to_string());
        add("--durability", self.durability.to_string());
        let Batching { max_ops, max_bytes, linger, gather, pipeline } = self.batching;
        if let Some(ops) = max_ops {
            add("--batch-max-ops", ops.to_string());
        }
        if let Some(bytes) = max_bytes {
            add("--batch-max-bytes", bytes.to_string());
        }
        if let Some(linger) = linger {
            add("--batch-linger", humantime::format_duration(linger).to_string());
        }
        if let Some(ops) = gather {
            add("--batch-gather", ops.to_string());
        }
        if let Some(depth) = pipeline {
            add("--pipeline", depth.to_string());
        }
        options.extend(self.start_arguments.iter().cloned());
        options
    }
}
