//! A turn: everything that arrived is in; let the replica close a batch, and carry out what it says.
//!
//! All that a turn queues, the journal write, the sends to the backups and the replies, reaches the kernel in one
//! submission, when the thread has nothing left to run and parks.

use std::rc::Rc;

use bytes::Bytes;
use lockstep_proto::{Status, message::MessageHeader, reply::ReplyParts};
use lockstep_replica::{Input, Output, Role};
use tracing::{error, info, warn};

use super::{
    Core, Shard,
    clock::Now,
    connections::{Connection, ConnectionTable},
    disk, header_of,
    origins::Origins,
    transfer,
};
use crate::{
    metrics::ShardMetrics,
    stub::{Answers, NoAnswers},
};

/// Runs turns for as long as the shard lives.
pub async fn turn_loop(shard: Rc<Shard>) {
    loop {
        shard.turn.notified().await;
        turn(&shard);
    }
}

/// One turn.
pub fn turn(shard: &Rc<Shard>) {
    let mut core = shard.core.borrow_mut();
    let core = &mut *core;
    let now = core.clock.now();
    core.metrics.turns.increment();
    if let Some(desk) = &core.desk {
        desk.meter.set_now(now.monotonic_ns, now.wall_ns);
    }
    core.replica.step(now.monotonic_ns, now.wall_ns, Input::TurnEnd);
    let mut has_room = false;
    while let Some(output) = core.replica.next_output() {
        // Whoever waits for room also waits to be told that this is the wrong server by now, or that a handover has
        // failed.
        has_room |= matches!(
            output,
            Output::WriteJournal { .. }
                | Output::Apply { .. }
                | Output::ReadsConfirmed { .. }
                | Output::RoleChanged(_)
                | Output::HandoverEnded { .. }
        );
        carry_out(shard, core, now, output);
    }
    if !core.reads.is_empty() {
        let is_done = core.answer_reads(now);
        if !is_done {
            shard.turn_again();
        }
    }
    core.flush_peers();
    core.forget_watches_of_nobody();
    core.share_state();
    core.post_mail();
    core.metrics.evicted_connections.add(core.connections.flush_dirty());
    core.look_after_checkpoint(shard, now);
    if !core.applies.is_empty() {
        shard.apply.notify();
    }
    if has_room && shard.room.has_waiters() {
        shard.room.notify_all();
    }
    if !core.waits.is_empty()
        && let Some(deadline_ns) = core.answer_waits(now)
    {
        shard.arm_timer(now.monotonic_ns, deadline_ns);
    }
    if let Some(deadline_ns) = core.replica.next_timeout_ns() {
        shard.arm_timer(now.monotonic_ns, deadline_ns);
    }
    if core.failure.is_some() {
        shard.ended.notify();
    }
}

fn carry_out(shard: &Rc<Shard>, core: &mut Core, now: Now, output: Output) {
    match output {
        Output::Send { to, message } => send(core, to, message),
        Output::WriteJournal { op, message } => {
            let header = MessageHeader::view(&message).expect("a prepare has a header");
            core.metrics.batch_ops.record(u64::from(header.request_count.get()));
            core.metrics.batch_bytes.record(u64::from(header.size.get()));
            core.metrics.pipeline_depths.record(op.saturating_sub(core.machine.applied));
            // What is to be sent so far goes into the ring before the write: the disk's queue is the longer way.
            core.flush_peers();
            disk::write_prepare(shard, core, now, op, message);
        }
        Output::ReadJournal { peer, op } => disk::read_prepare(shard, core, now, peer, op),
        Output::TruncateJournal { op } => disk::truncate(shard, core, op),
        Output::Apply { message, copies } => {
            if core.replica_role == Role::Primary {
                core.apply_and_answer(now, &message, copies);
                core.cut_if_flagged(&message);
            } else {
                // A backup applies behind its answer, never in front of it.
                core.applies.push_back(message);
            }
        }
        Output::ReadsConfirmed { ticket } => core.reads.confirm(ticket),
        Output::PersistView(record) => disk::persist(shard, core, disk::SuperblockChange::View(record)),
        Output::RoleChanged(role) => core.change_role(role),
        Output::InSyncChanged { mask } => {
            info!(shard = core.shard, in_sync = %format_mask(mask), "the in-sync set changed");
        }
        Output::BackupBehind { peer, op } => {
            info!(
                shard = core.shard,
                peer,
                needs_op = op,
                journal_begins_at_op = core.journal_first_op(),
                "a backup needs ops that this server's journal no longer holds: it will be sent a checkpoint"
            );
            core.want_checkpoint_at(op);
        }
        Output::Behind { op, first_op, checkpoint_op } => info!(
            shard = core.shard,
            needs_op = op,
            journal_begins_at_op = first_op,
            checkpoint_op,
            "this server has fallen behind the others' journals: fetching a checkpoint"
        ),
        Output::RepairJournal { op, message } => disk::repair(shard, core, op, message),
        Output::ReadCheckpoint { peer, op, offset } => transfer::read_chunk(shard, core, now, peer, op, offset),
        Output::WriteCheckpoint { op, offset, size, bytes } => {
            transfer::write_chunk(shard, core, op, offset, size, &bytes);
        }
        Output::InstallCheckpoint { op, size } => transfer::install(shard, core, op, size),
        Output::HandoverEnded { is_done } => core.end_handover(is_done),
        Output::HashMismatch { op, peer, own_hash, peer_hash } => {
            core.metrics.state_hash_mismatches.increment();
            error!(
                shard = core.shard,
                op,
                peer,
                own_hash = %format_args!("{own_hash:032x}"),
                peer_hash = %format_args!("{peer_hash:032x}"),
                "ALARM: the states of two servers differ at the same op; keep the folders of both and report this"
            );
        }
        Output::Fatal { reason } => core.fail(anyhow::anyhow!(reason)),
    }
}

/// Puts a message into the queue of a peer. Heartbeats do not pile up in front of a peer that takes nothing.
fn send(core: &mut Core, to: u8, mut message: Bytes) {
    let Some(peer) = &core.peers[to as usize] else {
        return;
    };
    // A prepare is padded for the journal; on the wire it ends where its header says.
    message.truncate(header_of(&message).size.get() as usize);
    if message.len() == MessageHeader::SIZE && peer.is_congested() {
        return;
    }
    core.metrics.peers[to as usize].sent_bytes.add(message.len() as u64);
    if !peer.send(message) {
        warn!(shard = core.shard, peer = to, "a peer takes nothing, disconnecting it");
    }
}

/// Applies what a backup has acknowledged, always behind the submission of the acknowledgement.
pub async fn apply_loop(shard: Rc<Shard>) {
    loop {
        shard.apply.notified().await;
        // Completes in the round after the one that submits everything queued so far.
        let _ = tokio_uring::no_op().await;
        let core = &mut *shard.core.borrow_mut();
        core.apply_waiting();
        let now = core.clock.now();
        core.look_after_checkpoint(&shard, now);
    }
}

fn format_mask(mask: u8) -> String {
    let members: Vec<String> = (0..8).filter(|bit| mask & (1 << bit) != 0).map(|bit| bit.to_string()).collect();
    members.join(",")
}

impl Core {
    fn flush_peers(&self) {
        for peer in self.peers.iter().flatten() {
            peer.flush();
        }
    }

    pub(super) fn apply_waiting(&mut self) {
        while let Some(message) = self.applies.pop_front() {
            self.machine.apply(&message, 0, &mut NoAnswers);
            self.cut_if_flagged(&message);
        }
    }

    fn apply_and_answer(&mut self, now: Now, message: &Bytes, copies: u8) {
        let op = MessageHeader::view(message).expect("a prepare has a header").op.get();
        let Some(origins) = self.origins.take(op) else {
            return self.machine.apply(message, copies, &mut NoAnswers);
        };
        let mut answers = Replies {
            connections: &mut self.connections,
            shard: self.shard,
            metrics: &self.metrics,
            origins: &origins,
            last: None,
            bytes: 0,
        };
        self.machine.apply(message, copies, &mut answers);
        self.metrics.reply_bytes.add(answers.bytes);
        let mut start = 0;
        for &(end, arrival_ns) in &origins.arrivals {
            let latency_ns = now.monotonic_ns.saturating_sub(arrival_ns);
            self.metrics.write_latency.record_n(latency_ns, u64::from(end - start));
            start = end;
        }
        self.origins.recycle(origins);
    }

    fn change_role(&mut self, role: Role) {
        let view = self.replica.view();
        info!(shard = self.shard, view, role = ?role, "role changed");
        if role != Role::Recovering && self.metrics.view.get() != view {
            self.metrics.view_changes.increment();
            self.metrics.view.set(view);
        }
        let was_primary = std::mem::replace(&mut self.replica_role, role) == Role::Primary;
        self.watches_from_op = self.replica.status().op;
        if role == Role::Primary {
            self.apply_waiting();
            return;
        }
        self.refuse_reads(Status::Unavailable, b"this server is no longer the primary");
        // How these writes end is not this server's to say any more, so their connections are cut without an answer.
        for name in self.origins.drain() {
            if let Some(connection) = self.connections.get(name).filter(|connection| connection.visitor().is_none()) {
                connection.cut();
            }
        }
        if was_primary {
            self.leave_front_door();
        }
    }
}

/// Writes the answers of a batch into the replies of the connections that asked.
struct Replies<'a> {
    connections: &'a mut ConnectionTable,
    shard: u16,
    metrics: &'a ShardMetrics,
    origins: &'a Origins,
    last: Option<(super::connections::ConnectionRef, Rc<Connection>)>,
    bytes: u64,
}

impl Answers for Replies<'_> {
    #[inline]
    fn answer(&mut self, index: usize, parts: &ReplyParts, body: &[u8]) {
        self.metrics.count_requests(parts.operation, parts.status, 1);
        let name = self.origins.connections[index];
        // Requests of one connection stand together, so the connection is looked up once per run of them.
        if self.last.as_ref().is_none_or(|(last, _)| *last != name) {
            self.last = self.connections.get(name).map(|connection| (name, connection.clone()));
            if let Some((_, connection)) = &self.last {
                self.connections.mark_dirty(connection);
            }
        }
        let Some((_, connection)) = &self.last else {
            return;
        };
        connection.answer(parts, body, self.shard);
        self.bytes += 32 + body.len() as u64;
    }
}
