//! Checkpoints: the state at one op, written to a file while the shard goes on working.
//!
//! The store and the sessions give their state at the cut in small pieces, between turns; what is about to be overwritten
//! meanwhile they keep until it is written. The steps and their order, each durable before the next: the file; its
//! name; the superblock that points to it. Then the journal below it may be used again, and the checkpoint before it goes.

use std::{
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use lockstep_store::CheckpointProgress;
use tracing::info;

use super::{
    Core, Shard,
    disk::{self, SuperblockChange},
};
use crate::{
    checkpoint::{
        install::{create_temporary, install, remove_leftovers},
        layout::Section,
        writer::{CheckpointMeta, CheckpointWrite, CheckpointWriter, FinishedCheckpoint},
    },
    journal::file::{BlockFile, DirectFile},
    notify::LocalNotify,
    ring::{self, Sync},
};

/// Bytes that the store gives out between two turns: some tens of microseconds of work.
const STEP_BYTES: usize = 64 << 10;

/// When the next checkpoint is due, and whether one is being written.
pub struct Checkpointer {
    folder: PathBuf,
    every_bytes: u64,
    is_active: bool,
    installed: Rc<LocalNotify>,
}

impl Checkpointer {
    /// One that starts a checkpoint whenever `every_bytes` of journal are not covered by the one before.
    pub fn new(folder: PathBuf, every_bytes: u64) -> Checkpointer {
        Checkpointer { folder, every_bytes, is_active: false, installed: Rc::default() }
    }
}

impl Core {
    /// Starts a checkpoint if enough journal has been used since the last one.
    pub(super) fn start_checkpoint_if_due(&mut self, shard: &Rc<Shard>) {
        let Some(ring) = self.disk.ring() else { return };
        let checkpoint_op = self.disk.superblock().checkpoint.get();
        let is_due = ring.used_bytes() >= self.checkpointer.every_bytes && self.machine.applied > checkpoint_op;
        if !is_due || self.checkpointer.is_active || shard.is_stopping() {
            return;
        }
        self.checkpointer.is_active = true;
        self.metrics.checkpoint_active.set_flag(true);
        let shard = shard.clone();
        tokio_uring::spawn(async move {
            let start = Instant::now();
            match write_checkpoint(&shard).await {
                Ok(finished) => shard.core.borrow_mut().finish_checkpoint(&finished, start.elapsed()),
                Err(failure) => {
                    shard.core.borrow_mut().fail(failure.context("cannot write a checkpoint"));
                    shard.turn.notify();
                }
            }
        });
    }

    fn finish_checkpoint(&mut self, finished: &FinishedCheckpoint, elapsed: Duration) {
        self.checkpointer.is_active = false;
        self.metrics.checkpoint_active.set_flag(false);
        self.metrics.checkpoint_duration.record(elapsed.as_nanos() as u64);
        self.metrics.checkpoint_bytes.set(finished.size);
        info!(
            shard = self.shard,
            op = finished.meta.op,
            bytes = finished.size,
            duration_ms = elapsed.as_millis() as u64,
            "checkpoint complete"
        );
    }

    /// The superblock points to the new checkpoint.
    pub(super) fn checkpoint_is_durable(&mut self) {
        let op = self.disk.superblock().checkpoint.get();
        disk::release_below(self, op + 1);
        self.checkpointer.installed.notify();
    }

    /// Begins a checkpoint of the state as it is now. The sessions, small beside the store, are taken whole.
    fn cut(&mut self) -> (CheckpointWriter, Vec<u8>) {
        let machine = &mut self.machine;
        let meta = CheckpointMeta {
            cluster: self.identity.cluster,
            shard: self.shard,
            shards: self.identity.shards,
            op: machine.applied,
            parent: machine.checksum,
            revision: machine.revision,
            timestamp_ns: machine.timestamp_ns,
        };
        let mut sessions = Vec::new();
        machine.sessions.encode(&mut sessions);
        machine.store.checkpoint_begin();
        (CheckpointWriter::new(meta, &self.pool), sessions)
    }
}

async fn write_checkpoint(shard: &Rc<Shard>) -> anyhow::Result<FinishedCheckpoint> {
    let ((mut writer, sessions), folder, installed) = {
        let core = &mut *shard.core.borrow_mut();
        (core.cut(), core.checkpointer.folder.clone(), core.checkpointer.installed.clone())
    };
    let op = writer.meta().op;
    let file = blocking(folder.clone(), move |folder| create_temporary(&folder, op)).await?;
    let file = Rc::new(file);
    let mut piece = Vec::with_capacity(2 * STEP_BYTES);
    let state_hash = loop {
        piece.clear();
        let progress = shard.core.borrow_mut().machine.store.checkpoint_step(STEP_BYTES, &mut piece);
        writer.push(Section::Store, &piece);
        while let Some(write) = writer.next_write() {
            write_piece(&file, write).await?;
        }
        if let CheckpointProgress::Done { state_hash } = progress {
            break state_hash;
        }
        // Everything that has arrived meanwhile goes first.
        let _ = tokio_uring::no_op().await;
    };
    writer.push(Section::Sessions, &sessions);
    let (writes, finished) = writer.finish(state_hash);
    for write in writes {
        write_piece(&file, write).await?;
    }
    wait_until_durable(shard, op).await;
    let file = Rc::into_inner(file).context("a write of the checkpoint is still in flight")?;
    blocking(folder.clone(), move |folder| {
        file.sync()?;
        install(&folder, op)
    })
    .await?;
    {
        let core = &mut *shard.core.borrow_mut();
        let journal_offset = core.disk.ring().context("the journal is gone")?.scan_offset(op + 1);
        let change = Box::new(move |superblock: &mut _| finished.enter_into(superblock, journal_offset));
        disk::persist(shard, core, SuperblockChange::Checkpoint(change));
    }
    installed.notified().await;
    blocking(folder, move |folder| remove_leftovers(&folder, op)).await?;
    Ok(finished)
}

async fn write_piece(file: &Rc<DirectFile>, write: CheckpointWrite) -> anyhow::Result<()> {
    Ok(ring::write_at(file.clone(), write.bytes, write.offset, Sync::Later).await?)
}

/// The primary may apply an op before its own write of it is durable; a checkpoint may not come into force that early.
async fn wait_until_durable(shard: &Rc<Shard>, op: u64) {
    while shard.core.borrow().disk.ring().is_some_and(|ring| ring.durable_op() < op) {
        ring::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs what waits for the file system on a thread of its own.
async fn blocking<T: Send + 'static>(
    folder: PathBuf,
    work: impl FnOnce(PathBuf) -> std::io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let name = folder.display().to_string();
    let result = tokio::task::spawn_blocking(move || work(folder)).await?;
    result.with_context(|| format!("in folder {name}"))
}
