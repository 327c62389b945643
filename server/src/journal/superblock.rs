//! Reading and writing the superblock: four copies, one per sector.
//!
//! # How a write goes
//!
//! The new superblock has the sequence of the old one plus one. It is written to copies 0 and 1, and when that is
//! durable to copies 2 and 3. Nothing acts on it before both steps are durable. A crash can therefore damage at most
//! the two copies of one step, and the two others are then whole: both old (first step) or both new (second step).
//!
//! # How it is read
//!
//! The whole copy with the highest sequence counts. It is never older than what was acted on: all four copies had
//! reached that sequence before anything acted on it, and since then have only been overwritten with higher ones. It
//! may be newer: a write that was cut off. Acting on that is as good as if the crash had come a moment later, provided
//! that it cannot be lost again; so whoever opens the superblock to go on with it first brings all copies up to the
//! chosen one ([`repair`]), again in an order in which the only holders of a sequence are never overwritten.
//!
//! Fewer than two whole copies are refused. A crash alone leaves at least two, so the disk has done something else, and
//! a single survivor could be a copy that the disk dropped a write to, long out of date. Two different whole copies
//! with the same sequence are refused too: no order of writes leads there.

use std::io;

use bytes::Bytes;
use lockstep_proto::{
    limits::SECTOR_SIZE,
    mutant::{self, Mutant},
    superblock::{SUPERBLOCK_COPIES, Superblock, SuperblockError},
};
use thiserror::Error;
use zerocopy::{IntoBytes, little_endian::U64};

use super::file::BlockFile;
use crate::buffers::Pool;

/// Size of the superblock file, in bytes.
pub const SUPERBLOCK_FILE_SIZE: usize = SUPERBLOCK_COPIES * SECTOR_SIZE;

/// Copies written in one step, side by side.
const COPIES_PER_STEP: usize = 2;

/// Steps of a write.
pub const SUPERBLOCK_STEPS: usize = SUPERBLOCK_COPIES / COPIES_PER_STEP;

/// Fewest whole copies with which a superblock is believed.
const WHOLE_COPIES_MIN: usize = 2;

/// Why no superblock could be read.
#[derive(Debug, Error)]
pub enum SuperblockReadError {
    /// The disk failed.
    #[error("cannot read the superblock: {0}")]
    Io(#[from] io::Error),
    /// No copy is a superblock.
    #[error("not formatted: no superblock found")]
    NotFormatted,
    /// Whole, but of another version.
    #[error("on-disk format version {0} is not supported (this build uses {version}); start it with the build that wrote it", version = lockstep_proto::limits::DISK_FORMAT_VERSION)]
    Version(u16),
    /// Too few whole copies.
    #[error(
        "superblock is damaged: only {whole} of {SUPERBLOCK_COPIES} copies are whole, {WHOLE_COPIES_MIN} are needed; with \
         other servers in the cluster, make a new folder with `lockstep-server recover`"
    )]
    Damaged {
        /// Whole copies found.
        whole: usize,
    },
    /// Two whole copies with the same sequence differ.
    #[error(
        "superblock is damaged: two copies with sequence {sequence} differ; with other servers in the cluster, make a new \
         folder with `lockstep-server recover`"
    )]
    Contradiction {
        /// Their sequence.
        sequence: u64,
    },
}

/// A superblock as it was found.
#[derive(Clone, Debug)]
pub struct SuperblockReading {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// What each copy holds.
    pub copies: [Result<Superblock, SuperblockError>; SUPERBLOCK_COPIES],
}

impl SuperblockReading {
    /// Whether this copy equals the superblock that counts.
    pub fn is_current(&self, copy: usize) -> bool {
        self.copies[copy] == Ok(self.superblock)
    }

    /// Whether every copy equals the superblock that counts.
    pub fn is_complete(&self) -> bool {
        (0..SUPERBLOCK_COPIES).all(|copy| self.is_current(copy))
    }
}

/// Reads all copies and chooses the one that counts, by the rules at the top of this module.
///
/// # Errors
///
/// If none can be chosen.
pub fn read(file: &impl BlockFile) -> Result<SuperblockReading, SuperblockReadError> {
    let mut buffer = Pool::new(0).take(SUPERBLOCK_FILE_SIZE);
    match file.read_at(&mut buffer[..SUPERBLOCK_FILE_SIZE], 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(SuperblockReadError::NotFormatted),
        result => result?,
    }
    choose(std::array::from_fn(|copy| Superblock::parse(&buffer[copy * SECTOR_SIZE..][..SECTOR_SIZE])))
}

fn choose(
    copies: [Result<Superblock, SuperblockError>; SUPERBLOCK_COPIES],
) -> Result<SuperblockReading, SuperblockReadError> {
    if copies.iter().all(|copy| matches!(copy, Err(SuperblockError::Magic))) {
        return Err(SuperblockReadError::NotFormatted);
    }
    // A copy of another version has a checksum that fits: it is not damage, and must not be repaired away.
    if let Some(version) = copies.iter().find_map(|copy| match copy {
        Err(SuperblockError::Version(version)) => Some(*version),
        _ => None,
    }) {
        return Err(SuperblockReadError::Version(version));
    }
    let whole = copies.iter().flatten().count();
    let newest = copies.iter().flatten().max_by_key(|superblock| superblock.sequence.get());
    let Some(&superblock) = newest.filter(|_| whole >= WHOLE_COPIES_MIN) else {
        return Err(SuperblockReadError::Damaged { whole });
    };
    let has_twin_that_differs =
        copies.iter().flatten().any(|copy| copy.sequence == superblock.sequence && *copy != superblock);
    if has_twin_that_differs {
        return Err(SuperblockReadError::Contradiction { sequence: superblock.sequence.get() });
    }
    Ok(SuperblockReading { superblock, copies })
}

/// Brings every copy up to the one that counts, durably. Must be done before anything acts on what was read.
///
/// # Errors
///
/// What the disk says.
pub fn repair(file: &impl BlockFile, reading: &SuperblockReading) -> io::Result<()> {
    if mutant::is(Mutant::SuperblockNotRepaired) {
        return Ok(());
    }
    let write = SuperblockWrite::new(&reading.superblock, &Pool::new(0));
    for (index, step) in write.steps.iter().enumerate() {
        // A copy that is current may be the only holder of its sequence, so it is left alone.
        for within in 0..COPIES_PER_STEP {
            if !reading.is_current(index * COPIES_PER_STEP + within) {
                let at = within * SECTOR_SIZE;
                file.write_at(&step.bytes[at..at + SECTOR_SIZE], step.offset + at as u64)?;
            }
        }
        file.sync()?;
    }
    Ok(())
}

/// Writes a sealed superblock in both steps, durably.
///
/// # Errors
///
/// What the disk says. The process must not go on: which superblock the disk holds is not known.
pub fn write(file: &impl BlockFile, superblock: &Superblock) -> io::Result<()> {
    for step in &SuperblockWrite::new(superblock, &Pool::new(0)).steps {
        file.write_at(&step.bytes, step.offset)?;
        file.sync()?;
    }
    Ok(())
}

/// One durable write of two copies.
#[derive(Clone, Debug)]
pub struct SuperblockStep {
    /// Where in the superblock file, in bytes.
    pub offset: u64,
    /// What: page-aligned, a multiple of the sector size.
    pub bytes: Bytes,
}

/// A write of the superblock, as steps: each must be durable before the next one is submitted.
#[derive(Clone, Debug)]
pub struct SuperblockWrite {
    /// The steps, in order.
    pub steps: [SuperblockStep; SUPERBLOCK_STEPS],
}

impl SuperblockWrite {
    fn new(superblock: &Superblock, pool: &Pool) -> SuperblockWrite {
        assert!(Superblock::parse(superblock.as_bytes()).is_ok(), "a superblock that could not be read back");
        let steps = std::array::from_fn(|step| {
            let mut sectors = [0; COPIES_PER_STEP * SECTOR_SIZE];
            for sector in sectors.chunks_exact_mut(SECTOR_SIZE) {
                sector[..Superblock::SIZE].copy_from_slice(superblock.as_bytes());
            }
            if mutant::is(Mutant::SuperblockInOneStep) {
                let bytes = pool.copy_padded(&sectors.repeat(SUPERBLOCK_STEPS), SECTOR_SIZE);
                return SuperblockStep { offset: 0, bytes };
            }
            let is_half = mutant::is(Mutant::SuperblockHalfWritten);
            let offset = if is_half { 0 } else { (step * sectors.len()) as u64 };
            SuperblockStep { offset, bytes: pool.copy_padded(&sectors, SECTOR_SIZE) }
        });
        SuperblockWrite { steps }
    }
}

/// The superblock of a running shard: what is durable, and at most one change of it on its way to the disk.
#[derive(Debug)]
pub struct SuperblockWriter {
    durable: Superblock,
    in_flight: Option<Superblock>,
}

impl SuperblockWriter {
    /// Goes on from a superblock that was read and repaired.
    pub fn new(durable: Superblock) -> SuperblockWriter {
        SuperblockWriter { durable, in_flight: None }
    }

    /// What is durable.
    pub fn durable(&self) -> &Superblock {
        &self.durable
    }

    /// Whether a write is on its way: [`SuperblockWriter::begin`] must wait for [`SuperblockWriter::finish`].
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Plans the write of a changed superblock. Sequence and checksum are set here.
    ///
    /// # Panics
    ///
    /// If a write is on its way already, or the change makes a superblock that could not be read back.
    pub fn begin(&mut self, pool: &Pool, change: impl FnOnce(&mut Superblock)) -> SuperblockWrite {
        assert!(!self.is_busy(), "one superblock write at a time");
        let mut next = self.durable;
        change(&mut next);
        next.sequence = U64::new(self.durable.sequence.get() + 1);
        next.seal();
        self.in_flight = Some(next);
        SuperblockWrite::new(&next, pool)
    }

    /// Every step of the write is durable.
    ///
    /// # Panics
    ///
    /// If there was none.
    pub fn finish(&mut self) -> &Superblock {
        self.durable = self.in_flight.take().expect("a write was begun");
        &self.durable
    }
}

#[cfg(test)]
#[path = "superblock_tests.rs"]
mod tests;
