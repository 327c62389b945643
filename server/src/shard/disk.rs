//! The shard's journal and superblock on the ring: what is written, what is read back, and what happens when that
//! fails.
//!
//! What the replica asks for is carried out in the order in which it asks, as far as order matters: writes go to the
//! disk side by side, a truncation waits for all of them and holds up all that comes after it. A write that fails ends
//! the process: nothing that depends on it is acknowledged, and it is never tried again, because after a failed write
//! nobody can say what is on the disk.

use std::{collections::VecDeque, rc::Rc};

use anyhow::Context;
use bytes::Bytes;
use lockstep_proto::{
    limits::SECTOR_SIZE,
    message::{Command, MessageHeader},
    superblock::Superblock,
};
use lockstep_replica::{Input, ViewRecord};
use tracing::{info, warn};

use super::{
    Core, Shard, clock::Now, header_of, memory_log::MemoryLog, replay::enter_view_record, transfer::Installation,
};
use crate::{
    buffers::Pool,
    checkpoint::writer::FinishedCheckpoint,
    journal::{
        file::DirectFile,
        ring::{JournalRing, Location},
        superblock::{SuperblockWrite, SuperblockWriter},
    },
    park,
    ring::{self, Sync},
};

/// What a shard keeps on disk.
pub struct Disk {
    log: Log,
    superblock: SuperblockWriter,
    superblock_file: Rc<DirectFile>,
    commands: VecDeque<DiskCommand>,
    /// Something is under way that nothing may be done beside.
    is_exclusive: bool,
    announced_first_op: u64,
}

/// Where prepares are kept.
enum Log {
    /// In the journal file.
    Journal { ring: JournalRing, file: Rc<DirectFile> },
    /// Nowhere that survives a restart: durability `memory`.
    Memory(MemoryLog),
}

enum DiskCommand {
    Write { op: u64, message: Bytes, since_ns: u64 },
    Truncate { op: u64 },
    Repair { op: u64, message: Bytes },
    Persist(SuperblockChange),
    Install(Box<Installation>),
}

/// A change of the superblock.
pub enum SuperblockChange {
    /// The replica has moved to another view, or knows more about what it can vouch for.
    View(ViewRecord),
    /// A checkpoint of this server is complete.
    Checkpoint(FinishedCheckpoint),
}

impl Disk {
    /// A shard that keeps its log in a journal.
    pub fn with_journal(
        ring: JournalRing,
        file: DirectFile,
        superblock: SuperblockWriter,
        superblock_file: DirectFile,
    ) -> Disk {
        Disk::new(Log::Journal { ring, file: Rc::new(file) }, superblock, superblock_file)
    }

    /// A shard that keeps its log in memory.
    pub fn in_memory(log: MemoryLog, superblock: SuperblockWriter, superblock_file: DirectFile) -> Disk {
        Disk::new(Log::Memory(log), superblock, superblock_file)
    }

    fn new(log: Log, superblock: SuperblockWriter, superblock_file: DirectFile) -> Disk {
        Disk {
            log,
            superblock,
            superblock_file: Rc::new(superblock_file),
            commands: VecDeque::new(),
            is_exclusive: false,
            announced_first_op: 0,
        }
    }

    /// The lowest op that a backup can still be given.
    pub fn first_op(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.first_op(),
            Log::Memory(log) => log.first_op(),
        }
    }

    /// The highest op up to which every write has completed.
    pub fn durable_op(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.durable_op(),
            Log::Memory(log) => log.last_op(),
        }
    }

    /// Bytes of the log that no checkpoint covers.
    pub fn used_bytes(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.used_bytes(),
            Log::Memory(log) => log.used_bytes(),
        }
    }

    /// Bytes that the log may have.
    pub fn size(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.size(),
            Log::Memory(log) => log.bytes_max(),
        }
    }

    /// Whether a write waits for room in the journal, or for a truncation. A change of view that waits for the
    /// superblock is done in a moment, and is no reason to take nothing in.
    pub fn is_full(&self) -> bool {
        matches!(self.commands.front(), Some(DiskCommand::Write { .. } | DiskCommand::Truncate { .. }))
    }

    /// Whether `op` is not in the log yet and will not be before there is room, because everything else has been done.
    pub fn is_stuck_below(&self, op: u64) -> bool {
        let is_waiting = matches!(self.commands.front(), Some(DiskCommand::Write { .. }));
        is_waiting && !self.is_exclusive && !self.has_writes_in_flight() && self.last_op() < op
    }

    /// The superblock as it is on the disk.
    pub fn superblock(&self) -> &Superblock {
        self.superblock.durable()
    }

    fn last_op(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.last_op(),
            Log::Memory(log) => log.last_op(),
        }
    }

    fn has_writes_in_flight(&self) -> bool {
        match &self.log {
            Log::Journal { ring, .. } => ring.in_flight() > 0,
            Log::Memory(_) => false,
        }
    }

    /// Where the scan for `op` has to begin after a restart.
    fn scan_offset(&self, op: u64) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.scan_offset(op),
            // Nothing is scanned: a restart has lost everything.
            Log::Memory(_) => 0,
        }
    }

    /// Drops what a checkpoint at `op` has made pointless of what waits. Returns op and checksum of each prepare among
    /// it.
    fn drop_covered(&mut self, op: u64) -> Vec<(u64, u128)> {
        let mut prepares = Vec::new();
        self.commands.retain(|command| match command {
            DiskCommand::Write { op: own, message, .. } if *own <= op => {
                prepares.push((*own, header_of(message).checksum.get()));
                false
            }
            DiskCommand::Truncate { op: after } => *after >= op,
            _ => true,
        });
        prepares
    }

    /// Begins the log anew, behind a checkpoint at `op`. What lies in the journal is older than that.
    fn restart_log(&mut self, op: u64) {
        match &mut self.log {
            Log::Journal { ring, .. } => *ring = JournalRing::new(ring.size(), 0, op + 1),
            Log::Memory(log) => *log = MemoryLog::new(log.bytes_max(), op + 1),
        }
    }
}

/// Makes a prepare durable; the replica is told when it is.
pub fn write_prepare(shard: &Rc<Shard>, core: &mut Core, now: Now, op: u64, message: Bytes) {
    core.disk.commands.push_back(DiskCommand::Write { op, message, since_ns: now.monotonic_ns });
    pump(shard, core);
}

/// Drops everything above `op` from the log, durably, before anything that is asked for later is carried out.
pub fn truncate(shard: &Rc<Shard>, core: &mut Core, op: u64) {
    core.disk.commands.push_back(DiskCommand::Truncate { op });
    pump(shard, core);
}

/// Writes a prepare over what the journal holds of it and cannot be read.
pub fn repair(shard: &Rc<Shard>, core: &mut Core, op: u64, message: Bytes) {
    core.disk.commands.push_back(DiskCommand::Repair { op, message });
    pump(shard, core);
}

/// Changes the superblock: what concerns views behind everything that was asked for before, a checkpoint in front of
/// it. What waits may wait for the very room in the journal that the checkpoint makes; and it covers nothing that a
/// truncation drops.
pub fn persist(shard: &Rc<Shard>, core: &mut Core, change: SuperblockChange) {
    match change {
        SuperblockChange::View(_) => core.disk.commands.push_back(DiskCommand::Persist(change)),
        SuperblockChange::Checkpoint(_) => core.disk.commands.push_front(DiskCommand::Persist(change)),
    }
    pump(shard, core);
}

/// Takes another server's state for this server's, behind everything that was asked for before.
pub(super) fn install(shard: &Rc<Shard>, core: &mut Core, installation: Installation) {
    core.disk.commands.push_back(DiskCommand::Install(Box::new(installation)));
    pump(shard, core);
}

/// Carries out what is asked for, as far as it can be now.
fn pump(shard: &Rc<Shard>, core: &mut Core) {
    while !core.disk.is_exclusive
        && let Some(command) = core.disk.commands.pop_front()
    {
        let blocked = match command {
            DiskCommand::Write { op, message, since_ns } => start_write(shard, core, op, message, since_ns),
            DiskCommand::Truncate { op } => start_truncation(shard, core, op),
            DiskCommand::Repair { op, message } => start_repair(shard, core, op, message),
            DiskCommand::Persist(change) if core.disk.superblock.is_busy() => Some(DiskCommand::Persist(change)),
            DiskCommand::Persist(change) => start_persist(shard, core, change),
            DiskCommand::Install(installation) => start_installation(shard, core, installation),
        };
        if let Some(command) = blocked {
            core.disk.commands.push_front(command);
            return;
        }
    }
}

fn start_write(shard: &Rc<Shard>, core: &mut Core, op: u64, message: Bytes, since_ns: u64) -> Option<DiskCommand> {
    let checksum = header_of(&message).checksum.get();
    let (ring, file) = match &mut core.disk.log {
        Log::Journal { ring, file } => (ring, file.clone()),
        Log::Memory(log) => {
            if let Err(message) = log.push(op, message) {
                return Some(DiskCommand::Write { op, message, since_ns });
            }
            let now = core.clock.now();
            core.replica.step(now.monotonic_ns, now.wall_ns, Input::JournalWritten { op, checksum });
            announce_first_op(core, now);
            // What that lets the replica say is said at the end of a turn, and this one's has passed.
            shard.turn.notify();
            return None;
        }
    };
    let Ok(place) = ring.append(header_of(&message), message.len()) else {
        // Room comes with the next checkpoint, or with the completion of an earlier write.
        return Some(DiskCommand::Write { op, message, since_ns });
    };
    shard.metrics.ring_operations.increment();
    shard.metrics.journal_written_bytes.add(message.len() as u64);
    let shard = shard.clone();
    park::spawn(async move {
        let result = ring::write_at(file, message, place.offset, Sync::Durable).await;
        finish(&shard, result.with_context(|| format!("cannot write op {op} to the journal")), |core, now| {
            let Log::Journal { ring, .. } = &mut core.disk.log else { return };
            ring.complete(op);
            core.metrics.journal_write_latency.record(now.monotonic_ns.saturating_sub(since_ns));
            core.replica.step(now.monotonic_ns, now.wall_ns, Input::JournalWritten { op, checksum });
        });
    });
    None
}

fn start_truncation(shard: &Rc<Shard>, core: &mut Core, op: u64) -> Option<DiskCommand> {
    if core.disk.has_writes_in_flight() {
        return Some(DiskCommand::Truncate { op });
    }
    let (sectors, file) = match &mut core.disk.log {
        Log::Journal { ring, file } => (ring.truncate_after(op), file.clone()),
        Log::Memory(log) => {
            log.truncate_after(op);
            return None;
        }
    };
    if sectors.is_empty() {
        return None;
    }
    core.disk.is_exclusive = true;
    let zeroes = core.pool.copy_padded(&[0; SECTOR_SIZE], SECTOR_SIZE);
    let shard = shard.clone();
    park::spawn(async move {
        let mut result = Ok(());
        for offset in sectors {
            result = ring::write_at(file.clone(), zeroes.clone(), offset, Sync::Durable).await;
            if result.is_err() {
                break;
            }
        }
        finish(&shard, result.context("cannot truncate the journal"), |core, _| core.disk.is_exclusive = false);
    });
    None
}

/// Nothing else is written meanwhile: the space could be given to another prepare.
fn start_repair(shard: &Rc<Shard>, core: &mut Core, op: u64, message: Bytes) -> Option<DiskCommand> {
    let (place, file) = match &core.disk.log {
        Log::Journal { ring, file } => (ring.locate(op), file.clone()),
        Log::Memory(_) => return None,
    };
    let is_it =
        |place: &Location| place.checksum == header_of(&message).checksum.get() && place.padded_size == message.len();
    // The space may have been used again, or the op replaced, while the prepare was fetched.
    let place = place.filter(is_it)?;
    core.disk.is_exclusive = true;
    let shard = shard.clone();
    park::spawn(async move {
        let result = ring::write_at(file, message, place.offset, Sync::Durable).await;
        finish(&shard, result.with_context(|| format!("cannot repair op {op} in the journal")), |core, _| {
            core.disk.is_exclusive = false;
            core.metrics.repaired_prepares.increment();
            warn!(shard = core.shard, op, offset = place.offset, "a rotten prepare has been repaired");
        });
    });
    None
}

fn start_persist(shard: &Rc<Shard>, core: &mut Core, change: SuperblockChange) -> Option<DiskCommand> {
    let journal_offset = match &change {
        // An installed checkpoint may have overtaken it: the journal has begun anew, and the older one is of no use.
        SuperblockChange::Checkpoint(finished) if finished.meta.op <= core.disk.superblock().checkpoint.get() => {
            core.checkpoint_is_over();
            return None;
        }
        SuperblockChange::Checkpoint(finished) if core.disk.durable_op() < finished.meta.op => {
            return start_restart(shard, core, *finished);
        }
        SuperblockChange::Checkpoint(finished) => core.disk.scan_offset(finished.meta.op + 1),
        SuperblockChange::View(_) => 0,
    };
    let write = core.disk.superblock.begin(&core.pool, |superblock| match &change {
        SuperblockChange::View(record) => enter_view_record(record, superblock),
        SuperblockChange::Checkpoint(finished) => finished.enter_into(superblock, journal_offset),
    });
    write_superblock(shard, core, write, move |core, now| match change {
        SuperblockChange::View(record) => {
            core.replica.step(now.monotonic_ns, now.wall_ns, Input::ViewDurable(record));
        }
        SuperblockChange::Checkpoint(finished) => {
            release_below(core, finished.meta.op + 1);
            core.checkpoint_is_durable(now, &finished);
        }
    });
    None
}

/// Brings a checkpoint into force whose last prepares are not in the log: they wait for room, and the others had them
/// committed. The log begins anew behind the checkpoint, which holds what they did, durably.
fn start_restart(shard: &Rc<Shard>, core: &mut Core, finished: FinishedCheckpoint) -> Option<DiskCommand> {
    if core.disk.has_writes_in_flight() {
        return Some(DiskCommand::Persist(SuperblockChange::Checkpoint(finished)));
    }
    let (op, journal_op) = (finished.meta.op, core.disk.last_op());
    info!(
        shard = core.shard,
        op, journal_op, "the journal is full and begins anew behind a checkpoint that is ahead of it"
    );
    core.disk.is_exclusive = true;
    let write = core.disk.superblock.begin(&core.pool, |superblock| finished.enter_into(superblock, 0));
    write_superblock(shard, core, write, move |core, now| {
        core.disk.is_exclusive = false;
        core.disk.restart_log(finished.meta.op);
        for (op, checksum) in core.disk.drop_covered(finished.meta.op) {
            core.replica.step(now.monotonic_ns, now.wall_ns, Input::JournalWritten { op, checksum });
        }
        core.checkpoint_is_durable(now, &finished);
    });
    None
}

/// Everything before it has completed, and nothing is written until it is done.
fn start_installation(shard: &Rc<Shard>, core: &mut Core, installation: Box<Installation>) -> Option<DiskCommand> {
    if core.disk.has_writes_in_flight() || core.disk.superblock.is_busy() {
        return Some(DiskCommand::Install(installation));
    }
    let finished = installation.checkpoint;
    let op = finished.meta.op;
    // What has been acknowledged must not be lost by it.
    if core.disk.last_op() > op || core.machine.applied >= op {
        core.reject_checkpoint(shard, op, "this server has come further by itself meanwhile");
        return None;
    }
    core.disk.is_exclusive = true;
    let write = core.disk.superblock.begin(&core.pool, |superblock| finished.enter_into(superblock, 0));
    write_superblock(shard, core, write, {
        let shard = shard.clone();
        move |core, now| {
            core.disk.is_exclusive = false;
            core.disk.restart_log(op);
            core.take_over(&shard, now, *installation);
        }
    });
    None
}

fn write_superblock(
    shard: &Rc<Shard>,
    core: &Core,
    write: SuperblockWrite,
    completed: impl FnOnce(&mut Core, Now) + 'static,
) {
    let (shard, file) = (shard.clone(), core.disk.superblock_file.clone());
    park::spawn(async move {
        let mut result = Ok(());
        for step in write.steps {
            result = ring::write_at(file.clone(), step.bytes, step.offset, Sync::Durable).await;
            if result.is_err() {
                break;
            }
        }
        finish(&shard, result.context("cannot write the superblock"), |core, now| {
            core.disk.superblock.finish();
            completed(core, now);
        });
    });
}

/// A durable checkpoint covers everything below `op`: the space may be used again, as late as possible.
fn release_below(core: &mut Core, op: u64) {
    match &mut core.disk.log {
        Log::Journal { ring, .. } => ring.release_below(op),
        Log::Memory(log) => log.release_below(op),
    }
}

/// Tells the replica what a backup can still be given, when that has changed.
fn announce_first_op(core: &mut Core, now: Now) {
    let first_op = core.disk.first_op();
    if first_op != core.disk.announced_first_op {
        core.disk.announced_first_op = first_op;
        core.replica.step(now.monotonic_ns, now.wall_ns, Input::JournalTrimmed { first_op });
    }
}

/// What every completion has in common: a failure ends the shard; otherwise what waited is looked at again, and a turn
/// follows.
fn finish(shard: &Rc<Shard>, result: anyhow::Result<()>, completed: impl FnOnce(&mut Core, Now)) {
    let core = &mut *shard.core.borrow_mut();
    let now = core.clock.now();
    match result {
        Ok(()) => {
            completed(core, now);
            pump(shard, core);
            announce_first_op(core, now);
        }
        Err(failure) => core.fail(failure),
    }
    shard.turn.notify();
}

/// Reads a prepare back for another server. The replica gets `None` if it is not there any more, and is told if it is
/// there and damaged.
pub fn read_prepare(shard: &Rc<Shard>, core: &mut Core, now: Now, peer: u8, op: u64) {
    let answer = move |message, rotten| Input::JournalRead { peer, op, message, rotten };
    let found = match &core.disk.log {
        Log::Journal { ring, file } => ring.locate(op).map(|place| (place, file.clone(), op <= ring.durable_op())),
        Log::Memory(log) => return core.replica.step(now.monotonic_ns, now.wall_ns, answer(log.get(op), None)),
    };
    let Some((place, file, is_durable)) = found else {
        return core.replica.step(now.monotonic_ns, now.wall_ns, answer(None, None));
    };
    shard.metrics.ring_operations.increment();
    let buffer = core.pool.take(place.padded_size);
    let shard = shard.clone();
    park::spawn(async move {
        let result = ring::read_at(file, buffer, place.padded_size, place.offset).await;
        // The space may have been used again since: then the prepare is gone.
        let is_still_there = match &shard.core.borrow().disk.log {
            Log::Journal { ring, .. } => ring.locate(op) == Some(place),
            Log::Memory(_) => false,
        };
        if !is_still_there {
            return shard.step(answer(None, None));
        }
        let damage = match result {
            Ok(buffer) => match check_prepare(&buffer, shard.cluster, shard.shard, place.checksum) {
                Ok(()) => return shard.step(answer(Some(Pool::freeze(buffer, place.padded_size)), None)),
                Err(damage) => damage,
            },
            Err(error) => error.into(),
        };
        if !is_durable {
            // It was just being written.
            return shard.step(answer(None, None));
        }
        warn!(shard = shard.shard, op, offset = place.offset, %damage, "a prepare in the journal is rotten: fetching it again");
        shard.step(answer(None, Some(place.checksum)));
    });
}

fn check_prepare(bytes: &[u8], cluster: u128, shard: u16, checksum: u128) -> anyhow::Result<()> {
    let header = header_of(bytes);
    let command = header.check(cluster, shard)?;
    anyhow::ensure!(command == Command::Prepare, "it is not a prepare");
    anyhow::ensure!(header.checksum.get() == checksum, "it is another prepare");
    header.check_body(&bytes[MessageHeader::SIZE..header.size.get() as usize])?;
    Ok(())
}
