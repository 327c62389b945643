//! Checkpoints: the state at one op, written to a file while the shard goes on working.
//!
//! The primary says at which op, by a flag in the prepare, so that all replicas have checkpoints of the same states and
//! can compare them. A server whose journal fills up before that makes one alone.
//!
//! The sessions and the store give their state at the cut in small pieces, between turns; what is about to change
//! meanwhile they keep until it is written. The pieces come no faster than journal and requests can bear: see `Pace`.
//! The steps and their order, each durable before the next: the file; its name; the superblock that points to it. Then
//! the journal below it may be used again, and the checkpoint before it goes.

use std::{
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use lockstep_proto::message::FLAG_CHECKPOINT;
use lockstep_replica::{Input, Role, sessions::SessionsProgress};
use lockstep_store::CheckpointProgress;
use tracing::info;

use super::{
    Core, Shard,
    clock::Now,
    disk::{self, SuperblockChange},
    header_of,
    pace::{Pace, STEP_BYTES},
    spare::{self, Spare},
    transfer::KeptCheckpoint,
};
use crate::{
    checkpoint::{
        install::install,
        layout::Section,
        removal,
        writer::{CheckpointMeta, CheckpointWrite, CheckpointWriter, FinishedCheckpoint},
    },
    journal::file::{BlockFile, DirectFile},
    notify::LocalNotify,
    park,
    ring::{self, Sync},
    stub::state_hash,
};

/// When the next checkpoint is due, and what is being written.
pub struct Checkpointer {
    folder: PathBuf,
    /// Bytes of journal after which the primary asks for one.
    every_bytes: u64,
    /// Bytes of journal after which a server does not wait for the primary's word.
    alone_bytes: u64,
    has_asked: bool,
    /// Cut, and not begun to be written.
    cut: Option<CheckpointWriter>,
    is_active: bool,
    /// The one that is being written is of a state that has been replaced.
    is_given_up: bool,
    is_over: Rc<LocalNotify>,
    /// A backup needs a checkpoint at this op or a later one.
    wanted_op: u64,
    /// The checkpoint in force.
    pub(super) current: Option<KeptCheckpoint>,
    /// The file that the next one is written to.
    pub(super) spare: Option<Spare>,
}

impl Checkpointer {
    /// One for a journal of `journal_bytes` that starts a checkpoint whenever `every_bytes` of it are not covered by
    /// the one before. `current` is the one in force.
    pub fn new(folder: PathBuf, every_bytes: u64, journal_bytes: u64, current: Option<KeptCheckpoint>) -> Checkpointer {
        Checkpointer {
            folder,
            every_bytes,
            alone_bytes: every_bytes + journal_bytes.saturating_sub(every_bytes) / 4 * 3,
            has_asked: false,
            cut: None,
            is_active: false,
            is_given_up: false,
            is_over: Rc::default(),
            wanted_op: 0,
            current,
            spare: None,
        }
    }

    /// The shard's folder.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// The state that is being written has been replaced by another server's.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = self.is_active;
    }
}

impl Core {
    /// What follows the application of a prepare: a checkpoint, if the primary has said so in it.
    pub(super) fn cut_if_flagged(&mut self, message: &[u8]) {
        if header_of(message).flags & FLAG_CHECKPOINT != 0 {
            self.cut();
        }
    }

    /// Begins a checkpoint of the state as it is now, unless one is being written.
    pub(super) fn cut(&mut self) {
        let machine = &mut self.machine;
        if self.checkpointer.is_active || machine.applied <= self.disk.superblock().checkpoint.get() {
            return;
        }
        let meta = CheckpointMeta {
            cluster: self.identity.cluster,
            shard: self.shard,
            shards: self.identity.shards,
            op: machine.applied,
            parent: machine.checksum,
            revision: machine.revision,
            timestamp_ns: machine.timestamp_ns,
        };
        machine.sessions.checkpoint_begin();
        machine.store.checkpoint_begin();
        self.checkpointer.cut = Some(CheckpointWriter::new(meta, &self.pool));
        self.checkpointer.is_active = true;
        self.checkpointer.has_asked = false;
        self.metrics.checkpoint_active.set_flag(true);
    }

    /// Asks for a checkpoint if enough journal has been used since the last one, and starts to write one that was cut.
    pub(super) fn look_after_checkpoint(&mut self, shard: &Rc<Shard>, now: Now) {
        let used = self.disk.used_bytes();
        if used >= self.checkpointer.every_bytes && !self.checkpointer.is_active && !shard.is_stopping() {
            if used >= self.checkpointer.alone_bytes {
                self.cut();
            } else if self.replica_role == Role::Primary && !self.checkpointer.has_asked {
                self.checkpointer.has_asked = true;
                self.replica.step(now.monotonic_ns, now.wall_ns, Input::CheckpointDue);
            }
        }
        // A backup waits for it, and an idle primary would never be due.
        let (wanted, applied) = (self.checkpointer.wanted_op, self.machine.applied);
        if (self.disk.superblock().checkpoint.get() + 1..=applied).contains(&wanted) && !shard.is_stopping() {
            self.cut();
        }
        let Some(writer) = self.checkpointer.cut.take() else { return };
        let shard = shard.clone();
        park::spawn(async move {
            let start = Instant::now();
            let result = write_checkpoint(&shard, writer).await;
            shard.core.borrow_mut().end_checkpoint(result, start.elapsed());
            shard.turn.notify();
        });
    }

    fn end_checkpoint(&mut self, result: anyhow::Result<Option<FinishedCheckpoint>>, elapsed: Duration) {
        let result = match result {
            Ok(result) => result,
            // It stays active: nothing may be begun beside its remains until the process has ended.
            Err(failure) => return self.fail(failure.context("cannot write a checkpoint")),
        };
        self.checkpointer.is_active = false;
        self.checkpointer.is_given_up = false;
        self.metrics.checkpoint_active.set_flag(false);
        match result {
            Some(finished) => {
                self.metrics.checkpoint_duration.record(elapsed.as_nanos() as u64);
                self.metrics.checkpoint_bytes.set(finished.size);
                info!(
                    shard = self.shard,
                    op = finished.meta.op,
                    bytes = finished.size,
                    duration_ms = elapsed.as_millis() as u64,
                    state_hash = %format_args!("{:032x}", finished.state_hash),
                    "checkpoint complete"
                );
            }
            None => info!(shard = self.shard, "a checkpoint was given up: the state has been replaced"),
        }
    }

    /// A backup needs ops from `op` on, which the log does not hold any more. A checkpoint is of use to it if it is at
    /// `op` or later: if the one in force is not, the next one must not be long in coming.
    pub(super) fn want_checkpoint_at(&mut self, op: u64) {
        self.checkpointer.wanted_op = self.checkpointer.wanted_op.max(op);
    }

    /// The superblock points to a checkpoint of this server.
    pub(super) fn checkpoint_is_durable(&mut self, now: Now, finished: &FinishedCheckpoint) {
        let input = Input::CheckpointDurable { op: finished.meta.op, state_hash: finished.state_hash };
        self.replica.step(now.monotonic_ns, now.wall_ns, input);
        self.checkpoint_is_over();
    }

    /// The task that writes a checkpoint may go on.
    pub(super) fn checkpoint_is_over(&mut self) {
        self.checkpointer.is_over.notify();
    }
}

/// Writes a checkpoint and brings it into force; `None` if it was given up.
async fn write_checkpoint(shard: &Rc<Shard>, writer: CheckpointWriter) -> anyhow::Result<Option<FinishedCheckpoint>> {
    let (folder, is_over, mut pace) = {
        let core = shard.core.borrow();
        (core.checkpointer.folder.clone(), core.checkpointer.is_over.clone(), Pace::new(&core))
    };
    let op = writer.meta().op;
    let Some(sessions) = take_sessions(shard, &mut pace).await else { return Ok(None) };
    let file = Rc::new(spare::begin_file(shard, op).await?);
    let written = write_state(shard, writer, &file, sessions, &mut pace).await?;
    let file = Rc::into_inner(file).context("a write of the checkpoint is still in flight")?;
    let Some(finished) = written else {
        spare::keep(shard, Spare { op, file }).await?;
        return Ok(None);
    };
    let file = blocking(folder, move |folder| {
        removal::shorten(&file, finished.size)?;
        file.sync()?;
        install(&folder, op)?;
        Ok(file)
    })
    .await?;
    {
        let core = &mut *shard.core.borrow_mut();
        disk::persist(shard, core, SuperblockChange::Checkpoint(finished));
    }
    is_over.notified().await;
    if shard.core.borrow().disk.superblock().checkpoint.get() != op {
        return Ok(None);
    }
    let before = shard.core.borrow_mut().checkpointer.current.replace(KeptCheckpoint::new(op, finished.size, file));
    spare::retire(shard, before, op).await?;
    Ok(Some(finished))
}

/// Writes the whole file; `None` if the checkpoint was given up. When it is done, nothing stands in the way of its
/// coming into force.
async fn write_state(
    shard: &Rc<Shard>,
    mut writer: CheckpointWriter,
    file: &Rc<DirectFile>,
    (sessions, sessions_hash): (Vec<Vec<u8>>, u128),
    pace: &mut Pace,
) -> anyhow::Result<Option<FinishedCheckpoint>> {
    let op = writer.meta().op;
    let Some(store_hash) = write_store(shard, &mut writer, file, pace).await? else { return Ok(None) };
    for piece in sessions {
        writer.push(Section::Sessions, &piece);
        while let Some(write) = writer.next_write() {
            write_piece(shard, file, write, pace).await?;
        }
    }
    let (writes, finished) = writer.finish(state_hash(store_hash, sessions_hash));
    for write in writes {
        write_piece(shard, file, write, pace).await?;
    }
    wait_until_in_journal(shard, op).await;
    Ok(Some(finished).filter(|_| !shard.core.borrow().checkpointer.is_given_up))
}

/// The sessions' part, in pieces, and its hash. They come first, since a session that changes costs more until it is
/// taken.
async fn take_sessions(shard: &Rc<Shard>, pace: &mut Pace) -> Option<(Vec<Vec<u8>>, u128)> {
    let mut pieces = Vec::new();
    loop {
        let step_bytes = pace.step_bytes();
        let mut piece = Vec::with_capacity(step_bytes + step_bytes / 8);
        let progress = {
            let core = &mut *shard.core.borrow_mut();
            if core.checkpointer.is_given_up {
                return None;
            }
            core.machine.sessions.checkpoint_step(step_bytes, &mut piece)
        };
        let size = piece.len();
        pieces.push(piece);
        if let SessionsProgress::Done { hash } = progress {
            return Some((pieces, hash));
        }
        pace.rest(shard, size).await;
    }
}

/// Writes the store's part, and returns its hash.
async fn write_store(
    shard: &Rc<Shard>,
    writer: &mut CheckpointWriter,
    file: &Rc<DirectFile>,
    pace: &mut Pace,
) -> anyhow::Result<Option<u128>> {
    let mut piece = Vec::with_capacity(2 * STEP_BYTES);
    loop {
        piece.clear();
        let progress = {
            let core = &mut *shard.core.borrow_mut();
            if core.checkpointer.is_given_up {
                return Ok(None);
            }
            core.machine.store.checkpoint_step(pace.step_bytes(), &mut piece)
        };
        writer.push(Section::Store, &piece);
        while let Some(write) = writer.next_write() {
            write_piece(shard, file, write, pace).await?;
        }
        if let CheckpointProgress::Done { state_hash } = progress {
            return Ok(Some(state_hash));
        }
        pace.rest(shard, piece.len()).await;
    }
}

async fn write_piece(
    shard: &Rc<Shard>,
    file: &Rc<DirectFile>,
    write: CheckpointWrite,
    pace: &mut Pace,
) -> anyhow::Result<()> {
    let CheckpointWrite { mut offset, mut bytes } = write;
    while !bytes.is_empty() {
        let piece = bytes.split_to(pace.write_bytes().min(bytes.len()));
        let size = piece.len();
        ring::write_at(file.clone(), piece, offset, Sync::Later).await?;
        offset += size as u64;
        pace.rest(shard, size).await;
    }
    Ok(())
}

/// The primary may apply an op before its own write of it is durable. Then its checkpoint waits, unless that write
/// waits for the very room in the journal that the checkpoint makes.
async fn wait_until_in_journal(shard: &Rc<Shard>, op: u64) {
    while {
        let core = shard.core.borrow();
        core.disk.durable_op() < op && !core.disk.is_stuck_below(op) && !core.checkpointer.is_given_up
    } {
        ring::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs what waits for the file system on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    folder: PathBuf,
    work: impl FnOnce(PathBuf) -> std::io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let name = folder.display().to_string();
    let result = tokio::task::spawn_blocking(move || work(folder)).await?;
    result.with_context(|| format!("in folder {name}"))
}
