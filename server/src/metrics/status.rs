//! One consistent picture of a shard, for `/status` and `/healthz`.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Follows the primary's log.
    Backup,
    /// Orders writes.
    Primary,
    /// Has not joined a view yet: starting, or waiting for other servers.
    Recovering,
}

impl Role {
    /// Value of the metric `lockstep_role` and of the status reply's `role`.
    pub const fn to_wire(self) -> u8 {
        match self {
            Role::Backup => 0,
            Role::Primary => 1,
            Role::Recovering => 2,
        }
    }
}

/// What a shard knows of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSnapshot {
    /// The server's id.
    pub server: u8,
    /// Where it is, `host:port` of its first shard.
    pub address: String,
    /// Whether the connection to it is up.
    pub is_connected: bool,
    /// Whether it is in the in-sync set.
    pub is_in_sync: bool,
    /// Whether it needs ops that this server's journal no longer holds.
    pub is_behind: bool,
    /// Highest op it is known to hold durably, with all before; 0 when not known.
    pub durable: u64,
    /// Ops by which that is behind this server's journal.
    pub lag_ops: u64,
}

/// How far a checkpoint that another server sends has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferSnapshot {
    /// Bytes written so far.
    pub received_bytes: u64,
    /// Size of the checkpoint, in bytes.
    pub size_bytes: u64,
}

/// One shard of one server at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// This server's id.
    pub replica: u8,
    /// Number of servers.
    pub servers: u8,
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// What the replica is doing.
    pub role: Role,
    /// The view; its primary is server `view mod servers`.
    pub view: u64,
    /// The last view in which the log was normal.
    pub log_view: u64,
    /// Whether it has heard nothing of that primary for longer than `--view-timeout`.
    pub is_suspecting: bool,
    /// Highest op that this server may have acknowledged in `log_view` although it has lost it; 0 if there is none,
    /// 2^63 - 1 if it cannot tell.
    pub vouch_op: u64,
    /// Whether the folder was made by `recover` and the server does not know yet which view to join.
    pub is_recovering: bool,
    /// The checkpoint that another server is sending, if one is.
    pub transfer: Option<TransferSnapshot>,
    /// Highest op in the journal.
    pub op: u64,
    /// Highest op of which it and all before are durable here.
    pub durable: u64,
    /// Highest op known to be committed.
    pub commit: u64,
    /// Highest op applied to the store.
    pub applied: u64,
    /// Number of logged requests so far.
    pub revision: u64,
    /// The lowest op that the journal still holds, or the next one.
    pub journal_first_op: u64,
    /// Op of the last durable checkpoint.
    pub checkpoint: u64,
    /// Hash of the state at the checkpoint, 32 hexadecimal digits.
    pub checkpoint_hash: String,
    /// Prepares in flight.
    pub pipeline: u64,
    /// Ids of the servers in the in-sync set.
    pub in_sync: Vec<u8>,
    /// Ack policy: `majority`, `all` or `strict`.
    pub ack: String,
    /// Fan-out: `parallel` or `sequential`.
    pub fanout: String,
    /// Durability: `disk` or `memory`.
    pub durability: String,
    /// Keys in the store.
    pub keys: u64,
    /// Memory of the store, in bytes.
    pub store_bytes: u64,
    /// Sessions in the table.
    pub sessions: u64,
    /// Client connections.
    pub connections: u64,
    /// Bytes of the journal in use.
    pub journal_used_bytes: u64,
    /// Size of the journal, in bytes.
    pub journal_size_bytes: u64,
    /// Milliseconds since the shard was started.
    pub uptime_ms: u64,
    /// Every server, by id, this one included.
    pub peers: Vec<PeerSnapshot>,
}

/// A status and how old it is.
#[derive(Clone, Debug)]
pub struct ReportedStatus {
    /// What the shard published last; `None` before the first time.
    pub status: Option<ShardStatus>,
    /// Time since then, or since the cell was made.
    pub age: Duration,
}

/// Where a shard's thread leaves its status for the admin thread.
///
/// The shard publishes about every 100 ms, idle or not: a status that grows old means a stalled event loop.
#[derive(Debug)]
pub struct StatusCell(Mutex<(Option<ShardStatus>, Instant)>);

impl StatusCell {
    /// An empty cell.
    pub fn new() -> Self {
        StatusCell(Mutex::new((None, Instant::now())))
    }

    /// Replaces the status. The lock is held for one swap only.
    pub fn publish(&self, status: ShardStatus) {
        let mut fresh = (Some(status), Instant::now());
        let mut cell = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        std::mem::swap(&mut *cell, &mut fresh);
        // The old status is freed after the lock is given back.
        drop(cell);
    }

    /// The last status and its age.
    pub fn read(&self) -> ReportedStatus {
        let cell = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ReportedStatus { status: cell.0.clone(), age: cell.1.elapsed() }
    }
}

impl Default for StatusCell {
    fn default() -> Self {
        Self::new()
    }
}
