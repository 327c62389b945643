//! Checkpoints at a simulated server: cut where the primary says, given out in pieces between turns, brought into force
//! in the server's order.

use std::collections::VecDeque;

use lockstep_proto::message::FLAG_CHECKPOINT;
use lockstep_replica::{Input, Role, sessions::SessionsProgress};
use lockstep_server::{
    checkpoint::{
        layout::Section,
        writer::{CheckpointMeta, CheckpointWriter, FinishedCheckpoint},
    },
    stub::state_hash,
};
use lockstep_store::CheckpointProgress;

use super::{
    CLUSTER, SHARD, SHARDS, Server,
    journal::{Change, Command, Purpose},
};
use crate::{disk::Work, facts::header_of, plan::MS, schedule::Event, shared::Shared};

/// Pause between two pieces, in ns.
const PIECE_PAUSE_NS: u64 = 200_000;

/// How far a checkpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The sessions give their part.
    Sessions,
    /// The store gives its part.
    Store,
    /// What is left is given out.
    Draining,
    /// Its last op is not durable yet.
    WaitingForLog,
    /// The file gets its name.
    Installing,
    /// The superblock is to point to it.
    Persisting,
}

/// A checkpoint that is being written.
pub(super) struct Checkpointing {
    op: u64,
    stage: Stage,
    writer: Option<CheckpointWriter>,
    sessions: Vec<u8>,
    sessions_hash: u128,
    pieces: VecDeque<(u64, bytes::Bytes)>,
    finished: Option<FinishedCheckpoint>,
    is_given_up: bool,
}

/// When checkpoints are due, and the one being written.
#[derive(Default)]
pub(super) struct Checkpointer {
    has_asked: bool,
    /// A backup needs a checkpoint at this op or a later one.
    wanted_op: u64,
    pub(super) active: Option<Checkpointing>,
}

impl Checkpointer {
    /// A backup needs a checkpoint at `op` or a later one.
    pub(super) fn want_at(&mut self, op: u64) {
        self.wanted_op = self.wanted_op.max(op);
    }

    /// The state that is being written has been replaced.
    pub(super) fn give_up(&mut self) {
        if let Some(active) = &mut self.active {
            active.is_given_up = true;
        }
    }
}

impl Server {
    /// What follows the application of a prepare: a checkpoint, if the primary has said so in it.
    pub(super) fn cut_if_flagged(&mut self, shared: &mut Shared, message: &[u8]) {
        if header_of(message).flags & FLAG_CHECKPOINT != 0 {
            self.cut(shared);
        }
    }

    fn cut(&mut self, shared: &mut Shared) {
        let (server, boot) = (self.id, self.boot);
        let Some(process) = self.process.as_deref_mut() else { return };
        let machine = &mut process.machine;
        let in_force = process.journal.superblock.durable().checkpoint.get();
        if process.checkpointer.active.is_some() || machine.applied <= in_force {
            return;
        }
        let op = machine.applied;
        shared.line(|| format!("{server}: checkpoint of op={op} begins"));
        let meta = CheckpointMeta {
            cluster: CLUSTER,
            shard: SHARD,
            shards: SHARDS,
            op,
            parent: machine.checksum,
            revision: machine.revision,
            timestamp_ns: machine.timestamp_ns,
        };
        machine.sessions.checkpoint_begin();
        machine.store.checkpoint_begin();
        process.checkpointer.has_asked = false;
        process.checkpointer.active = Some(Checkpointing {
            op,
            stage: Stage::Sessions,
            writer: Some(CheckpointWriter::new(meta, &shared.pool)),
            sessions: Vec::new(),
            sessions_hash: 0,
            pieces: VecDeque::new(),
            finished: None,
            is_given_up: false,
        });
        shared.after(PIECE_PAUSE_NS, Event::Checkpoint { server, boot });
    }

    /// Asks for a checkpoint if enough journal has been used since the last one.
    pub(super) fn look_after_checkpoint(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let in_force = process.journal.superblock.durable().checkpoint.get();
        if (in_force + 1..=process.machine.applied).contains(&process.checkpointer.wanted_op) {
            return self.cut(shared);
        }
        let (used, every) = (process.journal.used_bytes(), shared.plan.disk.checkpoint_every);
        if used < every || process.checkpointer.active.is_some() {
            return;
        }
        let alone = every + shared.plan.disk.journal_size.saturating_sub(every) / 4 * 3;
        if used >= alone {
            self.cut(shared);
        } else if process.role == Role::Primary && !process.checkpointer.has_asked {
            process.checkpointer.has_asked = true;
            self.step(shared, Input::CheckpointDue);
        }
    }

    /// The checkpoint that is being written goes on, as far as it can.
    pub fn checkpoint_goes_on(&mut self, shared: &mut Shared) {
        let (server, boot) = (self.id, self.boot);
        let step_bytes = shared.plan.disk.checkpoint_step;
        let Some(process) = self.process.as_deref_mut() else { return };
        let durable_op = process.journal.durable_op();
        let Some(active) = &mut process.checkpointer.active else { return };
        let may_give_up = active.stage < Stage::Installing;
        if active.is_given_up && may_give_up {
            process.checkpointer.active = None;
            return;
        }
        match active.stage {
            Stage::Sessions => {
                let progress = process.machine.sessions.checkpoint_step(step_bytes, &mut active.sessions);
                if let SessionsProgress::Done { hash } = progress {
                    active.sessions_hash = hash;
                    active.stage = Stage::Store;
                }
            }
            Stage::Store => {
                let mut piece = Vec::new();
                let progress = process.machine.store.checkpoint_step(step_bytes, &mut piece);
                active.take_store(&piece, progress);
            }
            Stage::Draining => {
                if let Some((offset, bytes)) = active.pieces.pop_front() {
                    let work = Work::WriteCheckpoint { op: active.op, is_received: false, offset, bytes };
                    return self.ask_disk(shared, vec![(work, Purpose::CheckpointPiece)]);
                }
                active.stage = Stage::WaitingForLog;
            }
            Stage::WaitingForLog if durable_op < active.op && !process.journal.is_stuck_below(active.op) => {
                // The primary may apply an op before its own write of it is durable.
                return shared.after(MS, Event::Checkpoint { server, boot });
            }
            Stage::WaitingForLog => {
                active.stage = Stage::Installing;
                let work = Work::Install { op: active.op, is_received: false };
                return self.ask_disk(shared, vec![(work, Purpose::CheckpointInstall)]);
            }
            Stage::Installing | Stage::Persisting => return,
        }
        shared.after(PIECE_PAUSE_NS, Event::Checkpoint { server, boot });
    }

    pub(super) fn checkpoint_is_installed(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let Some(active) = &mut process.checkpointer.active else { return };
        active.stage = Stage::Persisting;
        let finished = active.finished.expect("a checkpoint is complete before it gets its name");
        process.journal.push(Command::Persist(Change::Checkpoint(finished)));
        self.pump(shared);
    }

    /// The superblock points to the checkpoint, or to a later one that was installed meanwhile.
    pub(super) fn checkpoint_is_over(&mut self, shared: &mut Shared, finished: Option<&FinishedCheckpoint>) {
        let server = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        process.checkpointer.active = None;
        let keep = process.journal.superblock.durable().checkpoint.get();
        if let Some(finished) = finished {
            let (op, state_hash) = (finished.meta.op, finished.state_hash);
            shared.line(|| format!("{server}: checkpoint of op={op} is in force"));
            shared.facts.has_state(server, op, state_hash);
            self.step(shared, Input::CheckpointDurable { op, state_hash });
        }
        self.ask_disk(shared, vec![(Work::Clean { keep }, Purpose::Clean)]);
    }
}

impl PartialOrd for Stage {
    fn partial_cmp(&self, other: &Stage) -> Option<std::cmp::Ordering> {
        (*self as u8).partial_cmp(&(*other as u8))
    }
}

impl Checkpointing {
    fn take_store(&mut self, piece: &[u8], progress: CheckpointProgress) {
        let mut writer = self.writer.take().expect("a checkpoint has a writer until it is complete");
        writer.push(Section::Store, piece);
        while let Some(write) = writer.next_write() {
            self.pieces.push_back((write.offset, write.bytes));
        }
        let CheckpointProgress::Done { state_hash: store_hash } = progress else {
            self.writer = Some(writer);
            return;
        };
        writer.push(Section::Sessions, &self.sessions);
        while let Some(write) = writer.next_write() {
            self.pieces.push_back((write.offset, write.bytes));
        }
        let (writes, finished) = writer.finish(state_hash(store_hash, self.sessions_hash));
        self.pieces.extend(writes.into_iter().map(|write| (write.offset, write.bytes)));
        self.finished = Some(finished);
        self.stage = Stage::Draining;
    }
}
