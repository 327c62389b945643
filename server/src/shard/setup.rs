//! What a shard's thread is given when it starts.

use std::{net::TcpListener, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use super::handover::MoveOutcome;
pub use crate::journal::folder::Identity;
use crate::{
    cli::StartOptions,
    journal::open::OpenedShard,
    metrics::{ShardMetrics, StatusCell},
    resp::server::Server,
};

/// Everything a shard needs from outside of its thread.
#[derive(Debug)]
pub struct ShardSetup {
    /// The settings, checked.
    pub options: Arc<StartOptions>,
    /// Which shard this is.
    pub shard: u16,
    /// Who the server is.
    pub identity: Identity,
    /// The shard's files, opened and checked. The folder's lock is held by the main thread until the process ends.
    pub files: OpenedShard,
    /// Where the shard counts.
    pub metrics: Arc<ShardMetrics>,
    /// Where the shard publishes its status, about every 100 ms, idle or not.
    pub status: Arc<StatusCell>,
    /// Bound and listening already, in blocking mode, so that a port in use is reported before any thread is started.
    pub listener: TcpListener,
    /// The Redis front door, if it is to be opened.
    pub front: Option<FrontSetup>,
    /// Becomes true when the server has to stop: accept no more, finish what is in flight, return. A sender that has
    /// gone means the same.
    pub shutdown: watch::Receiver<bool>,
    /// Questions of the admin thread.
    pub commands: mpsc::Receiver<AdminCommand>,
}

/// What a shard needs for the Redis front door.
#[derive(Debug)]
pub struct FrontSetup {
    /// Bound and listening, in blocking mode.
    pub listener: TcpListener,
    /// What all shards share.
    pub server: Arc<Server>,
}

/// A question of the admin thread to a shard.
#[derive(Debug)]
pub enum AdminCommand {
    /// What is the hash over the store's content? Answered between two turns; it costs a walk over all keys.
    StateHash {
        /// Takes the answer.
        answer: oneshot::Sender<StateHash>,
    },
    /// Let another server become primary. Answered when that has been done or given up.
    MovePrimary {
        /// Which one; `None` for the one that has caught up best.
        to: Option<u8>,
        /// Takes the answer.
        answer: oneshot::Sender<MoveOutcome>,
    },
}

/// Hash over a store's content, to compare replicas with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The shard.
    pub shard: u16,
    /// The op that was applied last: hashes of different ops cannot be compared.
    pub applied: u64,
    /// Keys in the store.
    pub keys: u64,
    /// The hash over store and sessions, 32 hexadecimal digits.
    pub hash: String,
}
