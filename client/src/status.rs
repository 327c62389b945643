//! What every server says about its replicas.

use std::{sync::Arc, time::Duration};

use lockstep_proto::{
    Operation, Status,
    items::{PeerStatus, StatusBody},
};
use serde::Serialize;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use zerocopy::FromBytes;

use crate::{
    call::Body,
    error::FailureKind,
    handle::Client,
    socket::Socket,
    topology::{Directory, shard_address},
};

/// Servers that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// What a replica does in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    /// Follows the primary.
    Backup,
    /// Orders the writes.
    Primary,
    /// Is not in normal operation yet.
    Recovering,
    /// Has lost ops that it may have acknowledged, and gets them back from the others before it counts again.
    Deficient,
    /// Something that this client does not know.
    Unknown,
}

/// What a server says about its replica of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// What it does.
    pub role: ReplicaRole,
    /// The view.
    pub view: u64,
    /// Highest op in its journal.
    pub op: u64,
    /// Highest op that it knows to be committed.
    pub commit: u64,
    /// Highest op applied to its store.
    pub applied: u64,
    /// Highest op that is durable with all before.
    pub durable: u64,
    /// Op of its last durable checkpoint.
    pub checkpoint: u64,
    /// Number of logged requests so far.
    pub revision: u64,
    /// Number of keys in its store.
    pub keys: u64,
    /// Milliseconds since the server was started.
    pub uptime_ms: u64,
    /// Client connections of the shard.
    pub connections: u32,
    /// The checkpoint that another server is sending to it, if one is.
    pub transfer: Option<Transfer>,
    /// The ids of the servers that it holds to be in sync.
    pub in_sync: Vec<u8>,
    /// Ack policy.
    pub ack: &'static str,
    /// Fan-out.
    pub fanout: &'static str,
    /// Durability.
    pub durability: &'static str,
    /// What it knows of the other servers.
    pub peers: Vec<PeerReport>,
}

/// How far a checkpoint has come that a server gets from another one, because what it lacks is in no journal any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// What has come so far, in KiB.
    pub received_kib: u32,
    /// Its size, in KiB.
    pub size_kib: u32,
}

impl Transfer {
    /// How much of it has come, in whole percent.
    pub fn percent(&self) -> u32 {
        let share = u64::from(self.received_kib) * 100 / u64::from(self.size_kib.max(1));
        share.min(100) as u32
    }
}

/// What a server knows about another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerReport {
    /// The other server's id.
    pub server: u8,
    /// Highest op that it is known to hold durably with all before; 0 when not known.
    pub durable: u64,
    /// Ops by which it is behind the answering server's journal.
    pub lag: u64,
    /// Whether the connection to it is up.
    pub is_connected: bool,
    /// Whether it is in the in-sync set.
    pub is_in_sync: bool,
    /// Whether it needs ops that the answering server's journal no longer holds.
    pub is_behind: bool,
}

/// One line of the cluster's status: one server, one shard.
#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    /// The server's id.
    pub server: u8,
    /// The shard.
    pub shard: u16,
    /// Where the shard's port is.
    pub address: String,
    /// What it says; `None` if it cannot be reached.
    pub replica: Option<ReplicaStatus>,
    /// Why it cannot be reached.
    pub error: Option<String>,
}

impl Client {
    /// Asks every server about every shard, each over a connection of its own: backups answer too, and a server that
    /// does not answer costs one connect timeout.
    pub async fn status(&self) -> Vec<ServerStatus> {
        let servers = self.cluster().servers.clone();
        let limit = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        let mut questions = JoinSet::new();
        for shard in 0..self.shards() {
            for (server, base) in servers.iter().cloned().enumerate() {
                let (client, limit) = (self.clone(), limit.clone());
                questions.spawn(async move {
                    let _permit = limit.acquire_owned().await;
                    let asked = ask(&client, &base, shard).await;
                    let address = shard_address(&base, shard).unwrap_or(base);
                    let (replica, error) = match asked {
                        Ok(replica) => (Some(replica), None),
                        Err(kind) => (None, Some(kind.to_string())),
                    };
                    ServerStatus { server: server as u8, shard, address, replica, error }
                });
            }
        }
        let mut lines = questions.join_all().await;
        lines.sort_by_key(|line| (line.shard, line.server));
        lines
    }
}

/// Asks one server about one shard.
pub(crate) async fn ask(client: &Client, base: &str, shard: u16) -> Result<ReplicaStatus, FailureKind> {
    let options = client.options();
    let directory: Arc<Directory> = client.directory();
    let socket = directory.open(base, shard, &options).await.map_err(|failure| failure.kind)?;
    let patience: Duration = options.connect_timeout;
    timeout(patience, exchange(socket)).await.map_err(|_| FailureKind::Silent(patience))?
}

async fn exchange(socket: Socket) -> Result<ReplicaStatus, FailureKind> {
    let mut frame = Vec::new();
    Body::empty(Operation::Status).encode(0, 1, &mut frame);
    let response = socket.exchange(&frame, Operation::Status).await?;
    if response.status != Status::Ok {
        return Err(FailureKind::Status(response.status));
    }
    read_status(&response.body).ok_or_else(|| FailureKind::Protocol("the body of the status is malformed".to_owned()))
}

fn read_status(body: &[u8]) -> Option<ReplicaStatus> {
    let (status, rest) = StatusBody::ref_from_prefix(body).ok()?;
    let peers = <[PeerStatus]>::ref_from_bytes(rest).ok()?;
    if peers.len() != usize::from(status.servers) {
        return None;
    }
    let name = |names: &[&'static str], value: u8| *names.get(usize::from(value)).unwrap_or(&"unknown");
    Some(ReplicaStatus {
        role: match status.role {
            1 => ReplicaRole::Primary,
            0 | 2 if status.is_deficient != 0 => ReplicaRole::Deficient,
            0 => ReplicaRole::Backup,
            2 => ReplicaRole::Recovering,
            _ => ReplicaRole::Unknown,
        },
        view: status.view.get(),
        op: status.op.get(),
        commit: status.commit.get(),
        applied: status.applied.get(),
        durable: status.durable.get(),
        checkpoint: status.checkpoint.get(),
        revision: status.revision.get(),
        keys: status.keys.get(),
        uptime_ms: status.uptime_ms.get(),
        connections: status.connections.get(),
        transfer: (status.transfer_size_kib.get() != 0).then(|| Transfer {
            received_kib: status.transfer_received_kib.get(),
            size_kib: status.transfer_size_kib.get(),
        }),
        in_sync: (0..8).filter(|server| status.in_sync & 1 << server != 0).collect(),
        ack: name(&["majority", "all", "strict"], status.ack),
        fanout: name(&["parallel", "sequential"], status.fanout),
        durability: name(&["disk", "memory"], status.durability),
        peers: peers
            .iter()
            .map(|peer| PeerReport {
                server: peer.replica,
                durable: peer.durable.get(),
                lag: peer.lag.get(),
                is_connected: peer.is_connected != 0,
                is_in_sync: peer.is_in_sync != 0,
                is_behind: peer.is_behind != 0,
            })
            .collect(),
    })
}
