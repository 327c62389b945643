//! Settings of a replica.

use lockstep_proto::limits::{BATCH_OPS_MAX, MESSAGE_SIZE_MAX, REQUEST_SIZE_MAX, SERVERS_MAX};
use lockstep_proto::message::MessageHeader;
use thiserror::Error;

/// When the primary answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckPolicy {
    /// Once it is committed: durable on a commit quorum.
    Majority,
    /// Once it is committed and durable on every member of the in-sync set: the classic primary-backup rule.
    All,
    /// Once it is committed and durable on every server. A dead backup blocks writes.
    Strict,
}

/// How a prepare reaches the backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanOut {
    /// To all of them at once.
    Parallel,
    /// To the next one only when the one before it has answered. Latency grows with the number of servers; kept to
    /// show by how much.
    Sequential,
}

/// Settings of a replica. All of a cluster's replicas have the same, but for `replica`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster.
    pub cluster: u128,
    /// The shard: a replication group of its own.
    pub shard: u16,
    /// This server's id.
    pub replica: u8,
    /// Number of servers, 1 to 7.
    pub servers: u8,
    /// When a write is answered.
    pub ack: AckPolicy,
    /// How a prepare reaches the backups.
    pub fanout: FanOut,
    /// Largest number of requests in one prepare.
    pub batch_ops_max: u32,
    /// Largest prepare, its header included, in bytes. The largest request must fit.
    pub batch_bytes_max: u32,
    /// How long an open batch waits for more requests, in ns. 0: it is closed at the end of the turn it was opened in.
    pub batch_linger_ns: u64,
    /// Requests that a batch gathers at most while others are on their way: while as many are, or more than it holds,
    /// it stays open, for `batch_gather_ns` at most. 0: it waits for none.
    pub batch_gather_ops: u32,
    /// How long a batch gathers at most, in ns.
    pub batch_gather_ns: u64,
    /// Prepares that may be closed and not yet answered. While it is full, the open batch grows.
    pub pipeline_max: u32,
    /// How often the primary says that it is alive, in ns.
    pub heartbeat_interval_ns: u64,
    /// How long a backup may make no progress, or say nothing, before it leaves the in-sync set, in ns.
    pub backup_silence_ns: u64,
    /// How long a backup waits for a sign of life of its primary before it suspects it, in ns. Up to a fifth is added,
    /// by chance; doubled, within bounds, after each view that did not begin.
    pub view_timeout_ns: u64,
    /// How long a primary may commit nothing although something waits for it, or its own disk may stand still, before
    /// it gives way, in ns.
    pub stall_timeout_ns: u64,
    /// Where the replica's chance comes from. Must be another number at each start of a server: nonces are made of it.
    pub jitter_seed: u64,
    /// How long to wait before something that was not answered is said again, in ns.
    pub resend_ns: u64,
    /// Prepares kept in memory for backups that lag, in bytes. Older ones are read back from the journal.
    pub log_memory_bytes_max: usize,
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// `servers` is out of range, or `replica` is not below it.
    #[error("server {replica} of {servers} does not exist; a cluster has 1 to {SERVERS_MAX} servers")]
    Servers {
        /// This server's id.
        replica: u8,
        /// Number of servers.
        servers: u8,
    },
    /// A batch bound is out of range.
    #[error("a batch must hold 1 to {BATCH_OPS_MAX} requests and {} to {MESSAGE_SIZE_MAX} bytes", BATCH_BYTES_MIN)]
    Batch,
    /// No prepare could ever be in flight.
    #[error("the pipeline must hold at least one prepare")]
    Pipeline,
    /// A time is zero where time must pass.
    #[error("heartbeat interval, backup silence, resend time, view timeout and stall timeout must not be zero")]
    Time,
}

/// The smallest bound for the size of a prepare: the largest request fits.
const BATCH_BYTES_MIN: usize = MessageHeader::SIZE + REQUEST_SIZE_MAX;

impl Config {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If a replica could not work with them.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=SERVERS_MAX).contains(&self.servers) || self.replica >= self.servers {
            return Err(ConfigError::Servers { replica: self.replica, servers: self.servers });
        }
        let bytes = self.batch_bytes_max as usize;
        if !(1..=BATCH_OPS_MAX).contains(&(self.batch_ops_max as usize))
            || !(BATCH_BYTES_MIN..=MESSAGE_SIZE_MAX).contains(&bytes)
        {
            return Err(ConfigError::Batch);
        }
        if self.pipeline_max == 0 {
            return Err(ConfigError::Pipeline);
        }
        let times_ns = [
            self.heartbeat_interval_ns,
            self.backup_silence_ns,
            self.resend_ns,
            self.view_timeout_ns,
            self.stall_timeout_ns,
        ];
        if times_ns.contains(&0) {
            return Err(ConfigError::Time);
        }
        Ok(())
    }

    /// The primary of `view`.
    pub fn primary_of(&self, view: u64) -> u8 {
        (view % u64::from(self.servers)) as u8
    }

    /// Headers kept in memory: more than can be uncommitted at any server, so that logs can be compared down to a
    /// committed op. Servers may have different pipelines, so the deepest one counts.
    pub(crate) fn headers_kept(&self) -> usize {
        2 * self.pipeline_max.max(PIPELINE_MAX) as usize + 64
    }

    /// Prepares that may be on their way to one backup.
    pub(crate) fn window_ops(&self) -> usize {
        2 * self.pipeline_max as usize + 16
    }
}

/// The deepest pipeline that a server is meant to have.
const PIPELINE_MAX: u32 = 256;

/// Heartbeats that may be missing before something is taken for a sign that there will be none.
pub(crate) const SILENT_HEARTBEATS: u64 = 2;

/// Bytes of prepares that may be on their way to one backup, beyond the first one.
pub(crate) const WINDOW_BYTES: usize = 32 << 20;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings that tests start from.
    pub(crate) fn config(replica: u8, servers: u8) -> Config {
        Config {
            cluster: 7,
            shard: 0,
            replica,
            servers,
            ack: AckPolicy::Majority,
            fanout: FanOut::Parallel,
            batch_ops_max: 100,
            batch_bytes_max: 2 << 20,
            batch_linger_ns: 0,
            batch_gather_ops: 0,
            batch_gather_ns: 0,
            pipeline_max: 4,
            heartbeat_interval_ns: 50_000_000,
            backup_silence_ns: 1_000_000_000,
            resend_ns: 100_000_000,
            view_timeout_ns: 500_000_000,
            stall_timeout_ns: 1_000_000_000,
            jitter_seed: 1,
            log_memory_bytes_max: 1 << 20,
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        assert_eq!(config(0, 3).check(), Ok(()));
        assert!(matches!(config(3, 3).check(), Err(ConfigError::Servers { .. })));
        assert!(matches!(config(0, 8).check(), Err(ConfigError::Servers { .. })));
        assert_eq!(Config { batch_ops_max: 0, ..config(0, 1) }.check(), Err(ConfigError::Batch));
        assert_eq!(Config { batch_bytes_max: 1 << 10, ..config(0, 1) }.check(), Err(ConfigError::Batch));
        assert_eq!(Config { pipeline_max: 0, ..config(0, 1) }.check(), Err(ConfigError::Pipeline));
        assert_eq!(Config { resend_ns: 0, ..config(0, 1) }.check(), Err(ConfigError::Time));
    }
}
