//! The shard's journal and superblock on the ring: what is written, what is read back, and what happens when that fails.
//!
//! What the replica asks for is carried out in the order in which it asks, as far as order matters: writes go to the disk
//! side by side, a truncation waits for all of them and holds up all that comes after it. A write that fails
//! ends the process: nothing that depends on it is acknowledged, and it is never tried again, because after a failed write
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
use zerocopy::little_endian::U64;

use super::{Core, Shard, clock::Now, header_of};
use crate::{
    buffers::Pool,
    journal::{file::DirectFile, ring::JournalRing, superblock::SuperblockWriter},
    ring::{self, Sync},
};

/// What a shard keeps on disk.
pub struct Disk {
    log: Log,
    superblock: SuperblockWriter,
    superblock_file: Rc<DirectFile>,
    commands: VecDeque<DiskCommand>,
    is_truncating: bool,
    announced_first_op: u64,
}

/// Where prepares are kept.
enum Log {
    /// In the journal file.
    Journal { ring: JournalRing, file: Rc<DirectFile> },
    /// Nowhere that survives a restart: durability `memory`.
    Memory(MemoryLog),
}

/// The last prepares, bounded as the journal would be.
struct MemoryLog {
    first_op: u64,
    prepares: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

enum DiskCommand {
    Write { op: u64, message: Bytes, since_ns: u64 },
    Truncate { op: u64 },
    Persist(SuperblockChange),
}

/// A change of the superblock.
pub enum SuperblockChange {
    /// The replica has something that it must not forget.
    View(ViewRecord),
    /// A checkpoint is complete.
    Checkpoint(Box<dyn FnOnce(&mut Superblock)>),
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

    /// A shard that keeps the last `bytes_max` bytes of its log after `op` in memory.
    pub fn in_memory(bytes_max: usize, op: u64, superblock: SuperblockWriter, superblock_file: DirectFile) -> Disk {
        let log = MemoryLog { first_op: op + 1, prepares: VecDeque::new(), bytes: 0, bytes_max };
        Disk::new(Log::Memory(log), superblock, superblock_file)
    }

    fn new(log: Log, superblock: SuperblockWriter, superblock_file: DirectFile) -> Disk {
        Disk {
            log,
            superblock,
            superblock_file: Rc::new(superblock_file),
            commands: VecDeque::new(),
            is_truncating: false,
            announced_first_op: 0,
        }
    }

    /// The lowest op that a backup can still be given.
    pub fn first_op(&self) -> u64 {
        match &self.log {
            Log::Journal { ring, .. } => ring.first_op(),
            Log::Memory(log) => log.first_op,
        }
    }

    /// Whether something waits that cannot be carried out now: for room in the journal, or for a truncation.
    pub fn is_full(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The superblock as it is on the disk.
    pub fn superblock(&self) -> &Superblock {
        self.superblock.durable()
    }

    /// The journal; `None` with durability `memory`.
    pub fn ring(&self) -> Option<&JournalRing> {
        match &self.log {
            Log::Journal { ring, .. } => Some(ring),
            Log::Memory(_) => None,
        }
    }
}

/// Makes a prepare durable; the replica is told when it is.
pub fn write_prepare(shard: &Rc<Shard>, core: &mut Core, now: Now, op: u64, message: Bytes) {
    if let Log::Memory(log) = &mut core.disk.log {
        let checksum = header_of(&message).checksum.get();
        log.push(op, message);
        core.replica.step(now.monotonic_ns, now.wall_ns, Input::JournalWritten { op, checksum });
        // What that lets the replica say is said at the end of a turn, and this one's has passed.
        shard.turn.notify();
        return announce_first_op(core, now);
    }
    core.disk.commands.push_back(DiskCommand::Write { op, message, since_ns: now.monotonic_ns });
    pump(shard, core);
}

/// Drops everything above `op` from the log, durably, before anything that is asked for later is carried out.
pub fn truncate(shard: &Rc<Shard>, core: &mut Core, op: u64) {
    if let Log::Memory(log) = &mut core.disk.log {
        log.truncate_after(op);
        return;
    }
    core.disk.commands.push_back(DiskCommand::Truncate { op });
    pump(shard, core);
}

/// Changes the superblock, behind everything that was asked for before. Only a checkpoint goes first: what it covers is
/// durable and committed, so that no write or truncation which waits can concern it, and a write that waits for room in
/// the journal waits for exactly this.
pub fn persist(shard: &Rc<Shard>, core: &mut Core, change: SuperblockChange) {
    let is_checkpoint = matches!(change, SuperblockChange::Checkpoint(_));
    let command = DiskCommand::Persist(change);
    if is_checkpoint {
        core.disk.commands.push_front(command);
    } else {
        core.disk.commands.push_back(command);
    }
    pump(shard, core);
}

/// Carries out what is asked for, as far as it can be now.
fn pump(shard: &Rc<Shard>, core: &mut Core) {
    let disk = &mut core.disk;
    while let Some(command) = disk.commands.pop_front() {
        let blocked = match command {
            command if disk.is_truncating => Some(command),
            DiskCommand::Write { op, message, since_ns } => start_write(shard, disk, op, message, since_ns),
            DiskCommand::Truncate { op } => start_truncation(shard, disk, &core.pool, op),
            DiskCommand::Persist(change) if disk.superblock.is_busy() => Some(DiskCommand::Persist(change)),
            DiskCommand::Persist(change) => {
                start_persist(shard, disk, &core.pool, change);
                None
            }
        };
        if let Some(command) = blocked {
            disk.commands.push_front(command);
            return;
        }
    }
}

fn start_write(shard: &Rc<Shard>, disk: &mut Disk, op: u64, message: Bytes, since_ns: u64) -> Option<DiskCommand> {
    let Log::Journal { ring, file } = &mut disk.log else {
        unreachable!("the log in memory has no writes to wait for");
    };
    let Ok(place) = ring.append(header_of(&message), message.len()) else {
        // Room comes with the next checkpoint, or with the completion of an earlier write.
        return Some(DiskCommand::Write { op, message, since_ns });
    };
    let checksum = header_of(&message).checksum.get();
    shard.metrics.ring_operations.increment();
    shard.metrics.journal_written_bytes.add(message.len() as u64);
    let (shard, file) = (shard.clone(), file.clone());
    tokio_uring::spawn(async move {
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

fn start_truncation(shard: &Rc<Shard>, disk: &mut Disk, pool: &Pool, op: u64) -> Option<DiskCommand> {
    let Log::Journal { ring, file } = &mut disk.log else {
        unreachable!("the log in memory is truncated at once");
    };
    if ring.in_flight() > 0 {
        return Some(DiskCommand::Truncate { op });
    }
    let sectors = ring.truncate_after(op);
    if sectors.is_empty() {
        return None;
    }
    disk.is_truncating = true;
    let zeroes = pool.copy_padded(&[0; SECTOR_SIZE], SECTOR_SIZE);
    let (shard, file) = (shard.clone(), file.clone());
    tokio_uring::spawn(async move {
        let mut result = Ok(());
        for offset in sectors {
            result = ring::write_at(file.clone(), zeroes.clone(), offset, Sync::Durable).await;
            if result.is_err() {
                break;
            }
        }
        finish(&shard, result.context("cannot truncate the journal"), |core, _| core.disk.is_truncating = false);
    });
    None
}

fn start_persist(shard: &Rc<Shard>, disk: &mut Disk, pool: &Pool, change: SuperblockChange) {
    let durable_record = match &change {
        SuperblockChange::View(record) => Some(*record),
        SuperblockChange::Checkpoint(_) => None,
    };
    let write = disk.superblock.begin(pool, |superblock| match change {
        SuperblockChange::View(record) => enter_record(superblock, &record),
        SuperblockChange::Checkpoint(apply) => apply(superblock),
    });
    let (shard, file) = (shard.clone(), disk.superblock_file.clone());
    tokio_uring::spawn(async move {
        let mut result = Ok(());
        for step in write.steps {
            result = ring::write_at(file.clone(), step.bytes, step.offset, Sync::Durable).await;
            if result.is_err() {
                break;
            }
        }
        finish(&shard, result.context("cannot write the superblock"), |core, now| {
            core.disk.superblock.finish();
            match durable_record {
                Some(record) => {
                    core.replica.step(now.monotonic_ns, now.wall_ns, Input::ViewDurable(record));
                }
                None => core.checkpoint_is_durable(),
            }
        });
    });
}

/// Puts what the replica must not forget into the superblock.
fn enter_record(superblock: &mut Superblock, record: &ViewRecord) {
    superblock.view = U64::new(record.view);
    superblock.log_view = U64::new(record.log_view);
    superblock.vouch_op = U64::new(record.vouch_op);
    superblock.incarnations = record.incarnations.map(U64::new);
    superblock.is_recovering = u8::from(record.is_recovering);
}

/// What the superblock says of the replica.
pub fn record_in(superblock: &Superblock) -> ViewRecord {
    ViewRecord {
        view: superblock.view.get(),
        log_view: superblock.log_view.get(),
        vouch_op: superblock.vouch_op.get(),
        incarnations: superblock.incarnations.map(U64::get),
        is_recovering: superblock.is_recovering != 0,
    }
}

/// A durable checkpoint covers everything below `op`: the space may be used again, as late as possible.
pub(super) fn release_below(core: &mut Core, op: u64) {
    if let Log::Journal { ring, .. } = &mut core.disk.log {
        ring.release_below(op);
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

/// Reads a prepare back for a backup that lags; the replica gets `None` if it is not there any more.
pub fn read_prepare(shard: &Rc<Shard>, core: &mut Core, now: Now, peer: u8, op: u64) {
    let (location, file) = match &core.disk.log {
        Log::Journal { ring, file } => match ring.locate(op) {
            Some(location) => (location, file.clone()),
            None => {
                let input = Input::JournalRead { peer, op, message: None, is_rotten: false };
                return core.replica.step(now.monotonic_ns, now.wall_ns, input);
            }
        },
        Log::Memory(log) => {
            let input = Input::JournalRead { peer, op, message: log.get(op), is_rotten: false };
            return core.replica.step(now.monotonic_ns, now.wall_ns, input);
        }
    };
    shard.metrics.ring_operations.increment();
    let buffer = core.pool.take(location.padded_size);
    let shard = shard.clone();
    tokio_uring::spawn(async move {
        let result = ring::read_at(file, buffer, location.padded_size, location.offset).await;
        let result = result.with_context(|| format!("cannot read op {op} from the journal"));
        let message = result.and_then(|buffer| {
            // The space may have been used again since, or is just being written: then the prepare is gone.
            let is_still_there = match &shard.core.borrow().disk.log {
                Log::Journal { ring, .. } => ring.locate(op) == Some(location),
                Log::Memory(_) => false,
            };
            let is_it = is_still_there && header_of(&buffer).checksum.get() == location.checksum;
            if is_it {
                check_prepare(&buffer, shard.cluster, shard.shard)
                    .with_context(|| format!("op {op} has rotted in the journal"))?;
            }
            Ok(is_it.then(|| Pool::freeze(buffer, location.padded_size)))
        });
        match message {
            Ok(message) => shard.step(Input::JournalRead { peer, op, message, is_rotten: false }),
            Err(failure) => finish(&shard, Err(failure), |_, _| ()),
        }
    });
}

fn check_prepare(bytes: &[u8], cluster: u128, shard: u16) -> anyhow::Result<()> {
    let header = header_of(bytes);
    let command = header.check(cluster, shard)?;
    anyhow::ensure!(command == Command::Prepare, "it is not a prepare");
    header.check_body(&bytes[MessageHeader::SIZE..header.size.get() as usize])?;
    Ok(())
}

impl MemoryLog {
    fn push(&mut self, op: u64, message: Bytes) {
        assert_eq!(op, self.first_op + self.prepares.len() as u64, "the log has no gaps");
        self.bytes += message.len();
        self.prepares.push_back(message);
        while self.bytes > self.bytes_max && self.prepares.len() > 1 {
            let dropped = self.prepares.pop_front().map_or(0, |dropped| dropped.len());
            self.bytes -= dropped;
            self.first_op += 1;
        }
    }

    fn get(&self, op: u64) -> Option<Bytes> {
        self.prepares.get(op.checked_sub(self.first_op)? as usize).cloned()
    }

    fn truncate_after(&mut self, op: u64) {
        while self.first_op + self.prepares.len() as u64 > op + 1 {
            let Some(dropped) = self.prepares.pop_back() else { return };
            self.bytes -= dropped.len();
        }
    }
}
