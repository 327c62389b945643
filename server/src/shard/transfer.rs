//! State transfer: a server's checkpoint goes to one that has lost its state, or is behind every journal.
//!
//! What is asked for, when, and of whom, the replica decides. Here its file is read and written: [`read_chunk`] at the
//! server that has it, [`write_chunk`] and [`install`] at the one that needs it. Neither waits for the disk.

use std::{collections::VecDeque, rc::Rc};

use anyhow::{Context, ensure};
use bytes::Bytes;
use lockstep_proto::limits::{CHECKPOINT_CHUNK_SIZE_MAX, SECTOR_SIZE, SERVERS_MAX};
use lockstep_replica::Input;
use tracing::{error, info, warn};

use super::{
    Core, Shard,
    checkpoints::blocking,
    clock::Now,
    disk,
    replay::{ReplaySettings, read_received_machine},
    spare,
};
use crate::{
    buffers::Pool,
    checkpoint::{
        install::{create_received, install_received, received_path, remove_received},
        removal::RemovableFile,
        writer::FinishedCheckpoint,
    },
    journal::file::{Access, BlockFile, DirectFile, DirectFiles, FileLayer},
    notify::LocalNotify,
    park,
    ring::{self, Sync},
    stub::Machine,
};

/// How long a checkpoint is kept for a server that asks for nothing more of it, in ns.
const KEPT_NS: u64 = 60_000_000_000;

/// The file of a complete checkpoint, open: it can be read even when it has been removed since.
#[derive(Clone)]
pub struct KeptCheckpoint {
    op: u64,
    size: u64,
    file: Rc<RemovableFile>,
}

impl KeptCheckpoint {
    /// The checkpoint at `op`, a file of `size` bytes.
    pub fn new(op: u64, size: u64, file: DirectFile) -> KeptCheckpoint {
        KeptCheckpoint { op, size, file: Rc::new(RemovableFile::new(file, size)) }
    }

    /// Its op and its file, if nobody else reads it.
    pub(super) fn into_unread(self) -> Result<(u64, DirectFile), KeptCheckpoint> {
        let KeptCheckpoint { op, size, file } = self;
        match Rc::try_unwrap(file) {
            Ok(file) => Ok((op, file.into_inner())),
            Err(file) => Err(KeptCheckpoint { op, size, file }),
        }
    }

    /// The file has no name any more: its space is given back when nobody reads it any more.
    pub(super) fn note_removed(&self) {
        self.file.note_removed();
    }
}

/// What is being sent to others, and what is being received.
#[derive(Default)]
pub struct Transfers {
    /// For each server the checkpoint that it is reading, and when it asked last, in monotonic ns.
    kept: [Option<(KeptCheckpoint, u64)>; SERVERS_MAX as usize],
    received: Option<Rc<Received>>,
    /// The op of one that was dropped: its file goes when the next one is begun, or at the next start.
    leftover_op: Option<u64>,
}

/// A checkpoint that is being received.
struct Received {
    op: u64,
    size: u64,
    /// Pieces that wait to be written: where, and what.
    pieces: std::cell::RefCell<VecDeque<(u64, Bytes)>>,
    /// Bytes written.
    written: std::cell::Cell<u64>,
    is_given_up: std::cell::Cell<bool>,
    arrived: LocalNotify,
}

/// A received checkpoint that has been verified and is to become this server's state.
pub(super) struct Installation {
    pub(super) checkpoint: FinishedCheckpoint,
    machine: Machine,
    file: DirectFile,
}

impl Transfers {
    /// Bytes received of a checkpoint, and its size; `None` if none is being received.
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.received.as_ref().map(|received| (received.written.get(), received.size))
    }

    /// Lets go of the checkpoints that nobody has asked for in a while.
    pub fn forget_idle(&mut self, now: Now) {
        for kept in &mut self.kept {
            if kept.as_ref().is_some_and(|(_, asked_ns)| now.monotonic_ns - asked_ns > KEPT_NS) {
                *kept = None;
            }
        }
    }

    /// The checkpoint at `op`, or for 0 the newest one, for this server.
    fn choose(&mut self, current: Option<&KeptCheckpoint>, peer: u8, op: u64, now: Now) -> Option<KeptCheckpoint> {
        let kept = self.kept.get_mut(peer as usize)?;
        let is_it = |checkpoint: &&KeptCheckpoint| op == 0 || checkpoint.op == op;
        let own = kept.as_ref().map(|(checkpoint, _)| checkpoint).filter(|checkpoint| checkpoint.op == op);
        let chosen = own.or(current.filter(is_it)).cloned();
        *kept = chosen.clone().map(|checkpoint| (checkpoint, now.monotonic_ns));
        chosen
    }
}

/// Reads a piece of a checkpoint for another server.
pub fn read_chunk(shard: &Rc<Shard>, core: &mut Core, now: Now, peer: u8, op: u64, offset: u64) {
    let chosen = core.transfers.choose(core.checkpointer.current.as_ref(), peer, op, now);
    let is_inside = |checkpoint: &KeptCheckpoint| offset < checkpoint.size && offset.is_multiple_of(SECTOR_SIZE as u64);
    let Some(KeptCheckpoint { op, size, file }) = chosen.filter(is_inside) else {
        let input = Input::CheckpointRead { peer, op, offset, size: 0, bytes: None };
        return core.replica.step(now.monotonic_ns, now.wall_ns, input);
    };
    let count = (size - offset).min(CHECKPOINT_CHUNK_SIZE_MAX as u64) as usize;
    let buffer = core.pool.take(count);
    core.metrics.ring_operations.increment();
    let shard = shard.clone();
    park::spawn(async move {
        let bytes = match ring::read_at(file, buffer, count, offset).await {
            Ok(buffer) => Some(Pool::freeze(buffer, count)),
            Err(error) => {
                // The other one looks elsewhere, and the next checkpoint of this server takes the place of this one.
                error!(shard = shard.shard, op, offset, %error, "a checkpoint cannot be read for another server");
                None
            }
        };
        let size = if bytes.is_some() { size } else { 0 };
        shard.metrics.checkpoint_sent_bytes.add(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        shard.step(Input::CheckpointRead { peer, op, offset, size, bytes });
    });
}

/// Keeps a piece of another server's checkpoint.
pub fn write_chunk(shard: &Rc<Shard>, core: &mut Core, op: u64, offset: u64, size: u64, bytes: &Bytes) {
    let is_in_sectors = [offset, bytes.len() as u64, size].iter().all(|place| place.is_multiple_of(SECTOR_SIZE as u64));
    if !is_in_sectors || offset + bytes.len() as u64 > size {
        return core.reject_checkpoint(shard, op, "its pieces are not whole sectors of it");
    }
    // The message that it came in is not aligned for the disk.
    let bytes = core.pool.copy_padded(bytes, SECTOR_SIZE);
    let is_same = |received: &&Rc<Received>| received.op == op && received.size == size && offset > 0;
    let received = match core.transfers.received.as_ref().filter(is_same) {
        Some(received) => received.clone(),
        None if offset == 0 => begin_receiving(shard, core, op, size),
        None => return,
    };
    received.pieces.borrow_mut().push_back((offset, bytes));
    received.arrived.notify();
}

fn begin_receiving(shard: &Rc<Shard>, core: &mut Core, op: u64, size: u64) -> Rc<Received> {
    let before = core.transfers.received.take();
    if let Some(before) = &before {
        before.is_given_up.set(true);
        before.arrived.notify();
    }
    let received = Rc::new(Received {
        op,
        size,
        pieces: Default::default(),
        written: Default::default(),
        is_given_up: Default::default(),
        arrived: Default::default(),
    });
    core.transfers.received = Some(received.clone());
    info!(shard = core.shard, op, bytes = size, "receiving a checkpoint from another server");
    let before_op = before.map(|before| before.op).or(core.transfers.leftover_op.take());
    let (shard, task) = (shard.clone(), received.clone());
    park::spawn(async move {
        if let Err(failure) = receive(&shard, &task, before_op).await {
            shard.core.borrow_mut().fail(failure.context("cannot write a checkpoint that another server sends"));
            shard.turn.notify();
        }
    });
    received
}

/// Writes the pieces as they come, until all of them are there or another checkpoint is received in place of this one.
async fn receive(shard: &Rc<Shard>, received: &Rc<Received>, before_op: Option<u64>) -> anyhow::Result<()> {
    let folder = shard.core.borrow().checkpointer.folder().clone();
    let op = received.op;
    let file = blocking(folder, move |folder| {
        before_op.map_or(Ok(()), |before_op| remove_received(&folder, before_op))?;
        create_received(&folder, op)
    })
    .await?;
    let file = Rc::new(file);
    while received.written.get() < received.size && !received.is_given_up.get() {
        let Some((offset, bytes)) = received.pieces.borrow_mut().pop_front() else {
            received.arrived.notified().await;
            continue;
        };
        let count = bytes.len() as u64;
        shard.metrics.ring_operations.increment();
        ring::write_at(file.clone(), bytes, offset, Sync::Later).await?;
        // Once it is given up, the replica may be busy with a piece at the same place of another one.
        if !received.is_given_up.get() {
            received.written.set(offset + count);
            shard.step(Input::CheckpointWritten { op, offset });
        }
    }
    Ok(())
}

/// Checks a received checkpoint and makes it this server's state.
pub fn install(shard: &Rc<Shard>, core: &mut Core, op: u64, size: u64) {
    let is_whole = core
        .transfers
        .received
        .as_ref()
        .is_some_and(|received| received.op == op && received.size == size && received.written.get() == size);
    if !is_whole {
        return core.reject_checkpoint(shard, op, "it has not been received as a whole");
    }
    let settings = core.replay_settings;
    let (cluster, folder) = (core.identity.cluster, core.checkpointer.folder().clone());
    let shard = shard.clone();
    park::spawn(async move {
        let path = folder.clone();
        let work = move || -> anyhow::Result<Result<Installation, anyhow::Error>> {
            let file = DirectFiles.open(&received_path(&path, op), Access::ReadWrite).context("cannot open it")?;
            // The loading needs a chunk's worth of memory; the shard's pool stays the shard's.
            match load(&file, cluster, op, size, &settings) {
                Ok((machine, checkpoint)) => {
                    file.sync().context("cannot sync it")?;
                    install_received(&path, op).context("cannot rename it")?;
                    Ok(Ok(Installation { checkpoint, machine, file }))
                }
                Err(damage) => Ok(Err(damage)),
            }
        };
        let result = tokio::task::spawn_blocking(work).await;
        let core = &mut *shard.core.borrow_mut();
        match result {
            Ok(Ok(Ok(installation))) => disk::install(&shard, core, installation),
            Ok(Ok(Err(damage))) => core.reject_checkpoint(&shard, op, &format!("{damage:#}")),
            Ok(Err(failure)) => core.fail(failure.context(format!("checkpoint at op {op} from another server"))),
            Err(panic) => core.fail(panic.into()),
        }
        shard.turn.notify();
    });
}

fn load(
    file: &DirectFile,
    cluster: u128,
    op: u64,
    size: u64,
    settings: &ReplaySettings,
) -> anyhow::Result<(Machine, FinishedCheckpoint)> {
    let (machine, checkpoint) = read_received_machine(file, cluster, op, settings, &Pool::new(0))?;
    ensure!(checkpoint.size == size, "it is not as large as it was said to be");
    Ok((machine, checkpoint))
}

impl Core {
    /// Drops a received checkpoint that cannot be used.
    pub(super) fn reject_checkpoint(&mut self, shard: &Rc<Shard>, op: u64, reason: &str) {
        warn!(shard = self.shard, op, reason, "a checkpoint from another server is of no use, and is dropped");
        if let Some(received) = self.transfers.received.take() {
            received.is_given_up.set(true);
            received.arrived.notify();
        }
        let now = self.clock.now();
        self.replica.step(now.monotonic_ns, now.wall_ns, Input::CheckpointRejected { op });
        // Not removed now: the same one may be asked for again, and what comes must not be removed in its place.
        self.transfers.leftover_op = Some(op);
        shard.turn.notify();
    }

    /// A received checkpoint is in force, and the log has begun anew behind it.
    pub(super) fn take_over(&mut self, shard: &Rc<Shard>, now: Now, installation: Installation) {
        let Installation { checkpoint, machine, file } = installation;
        let (meta, op) = (checkpoint.meta, checkpoint.meta.op);
        info!(
            shard = self.shard,
            op,
            bytes = checkpoint.size,
            keys = machine.store.len(),
            "the state of another server has been taken over"
        );
        self.checkpointer.give_up();
        let before = self.checkpointer.current.replace(KeptCheckpoint::new(op, checkpoint.size, file));
        self.transfers.received = None;
        self.applies.clear();
        self.metrics.checkpoints_installed.increment();
        let replaced = std::mem::replace(&mut self.machine, machine);
        // Freeing millions of keys takes time.
        drop(tokio::task::spawn_blocking(move || drop(replaced)));
        let input = Input::CheckpointInstalled {
            op,
            checksum: meta.parent,
            revision: meta.revision,
            timestamp_ns: meta.timestamp_ns,
            state_hash: checkpoint.state_hash,
        };
        self.replica.step(now.monotonic_ns, now.wall_ns, input);
        let shard = shard.clone();
        park::spawn(async move {
            if let Err(failure) = spare::retire(&shard, before, op).await {
                warn!(shard = shard.shard, %failure, "an old checkpoint cannot be removed");
            }
        });
    }
}
