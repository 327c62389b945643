//! What a shard tells about itself: the status reply, `/status`, and the gauges of `/metrics`.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use lockstep_proto::items::{PeerStatus, StatusBody};
use lockstep_replica::{PeerState, ReplicaStatus, Role};
use tokio::sync::mpsc;
use zerocopy::{
    IntoBytes,
    little_endian::{U16, U32, U64},
};

use super::{AdminCommand, Core, Shard, StateHash, clock::Now, handover::MoveAsker};
use crate::{
    cli::{Ack, Durability, FanOut},
    metrics::{PeerSnapshot, Role as ReportedRole, ShardStatus, TransferSnapshot},
    ring,
    stub::state_hash,
};

/// How often the status is published and the gauges are set.
const INTERVAL: Duration = Duration::from_millis(100);

/// How many of these intervals a client waits for a word at most, once it has been owed one for an interval of this
/// length.
const KEEP_ALIVE_INTERVALS: u64 = 2;

/// How long a shard waits before it tries again to have its primary where the first shard's is.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the shard's status for as long as it runs.
pub async fn report_loop(shard: Rc<Shard>) {
    for interval in 1u64.. {
        if shard.is_stopped() {
            return;
        }
        shard.metrics.receive_memory_bytes.set(shard.receive_bytes.get() as u64);
        if interval.is_multiple_of(KEEP_ALIVE_INTERVALS) {
            shard.keep_clients();
        }
        {
            let core = &mut *shard.core.borrow_mut();
            core.publish();
            core.cut_idle_clients();
            if core.follow_first_shard() {
                shard.turn.notify();
            }
        }
        ring::sleep(INTERVAL).await;
    }
}

/// Answers the admin thread's questions.
pub async fn command_loop(shard: Rc<Shard>, mut commands: mpsc::Receiver<AdminCommand>) {
    while let Some(command) = commands.recv().await {
        match command {
            AdminCommand::StateHash { answer } => {
                let _ = answer.send(shard.core.borrow_mut().state_hash());
            }
            AdminCommand::MovePrimary { to, answer } => {
                let core = &mut *shard.core.borrow_mut();
                let now = core.clock.now();
                if let Err((outcome, MoveAsker::Admin(answer))) = core.begin_handover(now, to, MoveAsker::Admin(answer))
                {
                    let _ = answer.send(outcome);
                }
                shard.turn.notify();
            }
        }
    }
}

impl Core {
    fn state_hash(&mut self) -> StateHash {
        self.apply_waiting();
        let machine = &self.machine;
        let hash = state_hash(machine.store.content_hash(), machine.sessions.content_hash());
        StateHash {
            shard: self.shard,
            applied: machine.applied,
            keys: machine.store.len() as u64,
            hash: format!("{hash:032x}"),
        }
    }

    fn role(&self) -> ReportedRole {
        match self.replica_role {
            Role::Primary => ReportedRole::Primary,
            Role::Backup => ReportedRole::Backup,
            Role::Recovering => ReportedRole::Recovering,
        }
    }

    /// How far a server that holds the log up to `durable` is behind this one's `op`. Only a primary is told what the
    /// others hold, so elsewhere nothing is known and nobody is said to lag.
    fn lag_ops(&self, op: u64, durable: u64) -> u64 {
        if self.replica_role == Role::Primary { op.saturating_sub(durable) } else { 0 }
    }

    /// Body of the reply to a status request.
    pub(super) fn status_body(&self, now: Now) -> Vec<u8> {
        let status = self.replica.status();
        let superblock = self.disk.superblock();
        let (received, size) = self.transfers.progress().unwrap_or((0, 0));
        let kib = |bytes: u64| U32::new(u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX));
        let body = StatusBody {
            view: U64::new(status.view),
            op: U64::new(status.op),
            commit: U64::new(status.commit),
            applied: U64::new(self.machine.applied),
            durable: U64::new(status.durable),
            checkpoint: U64::new(superblock.checkpoint.get()),
            keys: U64::new(self.machine.store.len() as u64),
            uptime_ms: U64::new(now.monotonic_ns / 1_000_000),
            connections: U32::new(self.connections.len() as u32),
            shard: U16::new(self.shard),
            shards: U16::new(self.identity.shards),
            replica: self.identity.replica,
            servers: self.identity.servers,
            role: self.role().to_wire(),
            in_sync: status.in_sync,
            ack: match self.options.ack {
                Ack::Majority => 0,
                Ack::All => 1,
                Ack::Strict => 2,
            },
            fanout: match self.options.fanout {
                FanOut::Parallel => 0,
                FanOut::Sequential => 1,
            },
            durability: match self.options.durability {
                Durability::Disk => 0,
                Durability::Memory => 1,
            },
            is_deficient: u8::from(status.op < superblock.vouch_op.get()),
            revision: U64::new(self.machine.revision),
            transfer_received_kib: kib(received),
            transfer_size_kib: kib(size),
        };
        let mut bytes = body.as_bytes().to_vec();
        for peer in &status.peers {
            let peer = PeerStatus {
                durable: U64::new(peer.durable),
                lag: U64::new(self.lag_ops(status.op, peer.durable)),
                replica: peer.replica,
                is_connected: u8::from(peer.is_connected),
                is_in_sync: u8::from(peer.is_in_sync),
                is_behind: u8::from(peer.is_behind),
                reserved: U32::ZERO,
            };
            bytes.extend_from_slice(peer.as_bytes());
        }
        bytes
    }

    /// Lets the server that is primary of the first shard become primary of this one, too. Whether that was begun.
    ///
    /// A plain Redis client talks to one server: where the shards have their primaries on different ones, none of them
    /// could carry out all that it asks for. (Cluster clients go to each shard's own.)
    fn follow_first_shard(&mut self) -> bool {
        let Some(desk) = self.desk.as_ref().filter(|desk| self.shard > 0 && !desk.server.is_cluster()) else {
            return false;
        };
        let leader = desk.server.shards[0].primary(self.identity.servers);
        let Some(leader) = leader.filter(|&leader| leader != self.identity.replica) else { return false };
        let is_ready =
            |peer: &lockstep_replica::PeerState| peer.replica == leader && peer.is_connected && peer.is_in_sync;
        if self.replica_role != Role::Primary || !self.replica.status().peers.iter().any(is_ready) {
            return false;
        }
        let now = self.clock.now();
        let is_due = now.monotonic_ns.saturating_sub(self.followed_ns) > FOLLOW_INTERVAL.as_nanos() as u64;
        if !is_due {
            return false;
        }
        self.followed_ns = now.monotonic_ns;
        self.begin_handover(now, Some(leader), MoveAsker::Own).is_ok()
    }

    fn publish(&mut self) {
        let status = self.replica.status();
        let now = self.clock.now();
        let store_bytes = self.machine.store.memory_bytes().total() as u64;
        let (used, size) = (self.disk.used_bytes(), self.disk.size());
        self.transfers.forget_idle(now);
        let superblock = *self.disk.superblock();
        let transfer = self.transfers.progress();
        if let Some(desk) = &self.desk {
            let shard = &desk.server.shards[self.shard as usize];
            shard.store_bytes_peak.fetch_max(store_bytes, Relaxed);
            shard.observe_checkpoint(superblock.checkpoint.get(), now.wall_ns);
            self.metrics.client_memory_bytes.set(shard.client_bytes.load(Relaxed));
            if self.shard == 0 {
                desk.server.look_around(now.monotonic_ns);
            }
        }
        self.set_gauges(&status, store_bytes);
        self.metrics.checkpoint_received_bytes.set(transfer.map_or(0, |(received, _)| received));
        let peers = status.peers.iter().map(|peer| self.publish_peer(peer, status.op)).collect();
        self.status.publish(ShardStatus {
            shard: self.shard,
            shards: self.identity.shards,
            replica: self.identity.replica,
            servers: self.identity.servers,
            cluster: format!("{:032x}", self.identity.cluster),
            role: self.role(),
            view: status.view,
            log_view: status.log_view,
            vouch_op: superblock.vouch_op.get(),
            is_suspecting: status.is_suspecting,
            is_recovering: superblock.is_recovering != 0,
            transfer: transfer.map(|(received_bytes, size_bytes)| TransferSnapshot { received_bytes, size_bytes }),
            op: status.op,
            durable: status.durable,
            commit: status.commit,
            applied: self.machine.applied,
            revision: self.machine.revision,
            journal_first_op: self.disk.first_op(),
            checkpoint: superblock.checkpoint.get(),
            checkpoint_hash: format!("{:032x}", superblock.state_hash.get()),
            pipeline: u64::from(status.pipeline),
            in_sync: (0..self.identity.servers).filter(|id| status.in_sync & (1 << id) != 0).collect(),
            ack: self.options.ack.name(),
            fanout: self.options.fanout.name(),
            durability: self.options.durability.name(),
            keys: self.machine.store.len() as u64,
            store_bytes,
            sessions: self.machine.sessions.len() as u64,
            connections: self.connections.len() as u64,
            journal_used_bytes: used,
            journal_size_bytes: size,
            uptime_ms: now.monotonic_ns / 1_000_000,
            peers,
        });
    }

    fn set_gauges(&self, status: &ReplicaStatus, store_bytes: u64) {
        let superblock = self.disk.superblock();
        let (used, size) = (self.disk.used_bytes(), self.disk.size());
        let metrics = &self.metrics;
        metrics.reply_memory_bytes.set(self.connections.replies_held());
        metrics.view.set(status.view);
        metrics.is_deficient.set_flag(status.op < superblock.vouch_op.get());
        metrics.role.set(u64::from(self.role().to_wire()));
        metrics.op.set(status.op);
        metrics.commit.set(status.commit);
        metrics.applied.set(self.machine.applied);
        metrics.durable.set(status.durable);
        metrics.pipeline_depth.set(u64::from(status.pipeline));
        metrics.keys.set(self.machine.store.len() as u64);
        metrics.watched_keys.set(self.machine.store.watched_len() as u64);
        metrics.store_bytes.set(store_bytes);
        metrics.sessions.set(self.machine.sessions.len() as u64);
        metrics.evicted_sessions.set(self.machine.sessions.evicted_total());
        metrics.journal_used_bytes.set(used);
        metrics.journal_free_bytes.set(size.saturating_sub(used));
        metrics.checkpoint_op.set(superblock.checkpoint.get());
    }

    fn publish_peer(&self, peer: &PeerState, op: u64) -> PeerSnapshot {
        let lag_ops = self.lag_ops(op, peer.durable);
        let gauges = &self.metrics.peers[peer.replica as usize];
        gauges.lag_ops.set(lag_ops);
        gauges.is_in_sync.set_flag(peer.is_in_sync);
        gauges.is_connected.set_flag(peer.is_connected);
        gauges.is_behind.set_flag(peer.is_behind);
        PeerSnapshot {
            server: peer.replica,
            address: self.options.peers[peer.replica as usize].to_string(),
            is_connected: peer.is_connected,
            is_in_sync: peer.is_in_sync,
            is_behind: peer.is_behind,
            durable: peer.durable,
            lag_ops,
        }
    }
}
