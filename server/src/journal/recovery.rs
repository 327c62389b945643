//! Reading the journal back after a stop or a crash.
//!
//! # The scan
//!
//! It begins where the superblock says that the prepare after the checkpoint is, and follows the prepares by their
//! sizes. A prepare belongs to the log if its header and its body fit their checksums, it is of this cluster and shard,
//! its op is the next one and its parent is the prepare before it. What an earlier lap of the ring left behind has a
//! lower op, and what another history left behind has another parent, so neither is mistaken for a next prepare.
//!
//! # Torn is not rotten
//!
//! Where the next prepare, op n, is not found whole, either it was being written when the server stopped (*torn*), or
//! the disk has damaged what it held (*rotten*). A torn prepare was never acknowledged and the log ends before it. So
//! it does with a rotten one, but that may have been acknowledged, and so may everything behind it: the server has to
//! remember durably, before anything is erased, how far its word went (`vouch_op` of the superblock), and fetches what
//! it lost from the others. A server that is alone has nobody to fetch it from and is not started.
//!
//! The rest of the ring is searched for whole prepares with a higher op, and n was durable, so it is rotten, in these
//! two cases:
//!
//! - There is a prepare n + [`IN_FLIGHT_MAX`] or higher. [`JournalRing`] places it only when n is durable.
//! - The cluster has one server, which acknowledges nothing before it is on its own disk, and a later prepare
//!   says that n was committed. (In a larger cluster that proves nothing: the other servers may have committed n while
//!   it was still on its way to this disk. Durability `memory` proves nothing either.)
//!
//! What is left is damage to one of the last [`IN_FLIGHT_MAX`] prepares of a server that also crashed just then: it
//! cannot be told from a torn write by anything on this disk, and counts as torn.
//!
//! # Ghosts
//!
//! Several writes are in flight at once, so op n + 1 may have survived where n is torn. Such a *ghost* must never come
//! back: the log may get another n, or the same n followed by another n + 1 after a change of view, and a later restart
//! would then take the ghost for part of it. So before the log is used, the first sector of every ghost is overwritten
//! with zeroes, durably. So is every header without its body, of a ghost that is torn itself: a client's request may
//! come again at the same op in a later view, and a write of it that is torn in its turn, with its body on disk and its
//! header not, would make the old one whole.

use std::io;

use bytes::Bytes;
use lockstep_proto::{
    limits::SECTOR_SIZE,
    message::{Command, MessageHeader},
    mutant::{self, Mutant},
    superblock::Superblock,
};
use thiserror::Error;

use super::{
    file::BlockFile,
    ring::{IN_FLIGHT_MAX, JournalRing},
};
use crate::buffers::{AlignedBuffer, BUFFER_SIZE_MAX, Pool};

/// Why a journal cannot be recovered.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error(
        "cannot {what} the journal at byte {offset}: {reason}; try again, or if the disk is lost, make a folder on another one \
         with `lockstep-server recover`, which the other servers fill"
    )]
    Io {
        /// Reading or repairing.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What the disk said.
        reason: io::Error,
    },
    /// A prepare that was durable is damaged, and there is no other server that could have it.
    #[error(
        "journal is rotten: op {op} at byte {offset} is damaged although it had been durable (op {later_op} after it is \
         whole), and a server that is alone cannot fetch it from another: restore the folder from a copy"
    )]
    Rotten {
        /// The damaged prepare.
        op: u64,
        /// Where it should be.
        offset: u64,
        /// The later prepare that proves it.
        later_op: u64,
    },
}

/// A prepare as it was found.
#[derive(Clone, Debug)]
pub struct RecoveredPrepare {
    /// Its header.
    pub header: MessageHeader,
    /// Where it is in the ring, in bytes.
    pub offset: u64,
    /// The whole of it, padding included; page-aligned.
    pub message: Bytes,
}

/// A prepare beyond the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// Its op.
    pub op: u64,
    /// Where it is in the ring, in bytes.
    pub offset: u64,
    /// What it says is committed.
    pub commit: u64,
}

/// How the log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing was on its way when the server stopped, as far as one can see.
    Clean,
    /// Prepares were being written, and have been dropped.
    Torn {
        /// The first one that is not whole, or does not continue the log.
        op: u64,
        /// Where it is, or should be, in bytes.
        offset: u64,
        /// Whole prepares after it.
        ghosts: Vec<Ghost>,
    },
    /// A prepare that had been durable is damaged: what this server has acknowledged may go up to `later_op`.
    Rotten {
        /// The damaged prepare.
        op: u64,
        /// Where it should be, in bytes.
        offset: u64,
        /// The highest op that is whole behind it.
        later_op: u64,
        /// Whole prepares after it.
        ghosts: Vec<Ghost>,
    },
}

/// The last prepare of the log, or the checkpoint if the log is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Its op.
    pub op: u64,
    /// Checksum of its header: the next prepare's parent.
    pub checksum: u128,
    /// Revision of the next request.
    pub next_revision: u64,
    /// Its timestamp, in ns since 1970.
    pub timestamp_ns: u64,
}

/// A journal that is ready for use.
#[derive(Debug)]
pub struct RecoveredJournal {
    /// The index, everything in it durable.
    pub ring: JournalRing,
    /// The end of the log.
    pub end: LogEnd,
    /// How it ends.
    pub tail: Tail,
}

/// A scan of the journal, from the checkpoint to the end of the log.
///
/// Take out all prepares with [`Recovery::next_prepare`], then call [`Recovery::finish`]. Memory in use is one window
/// of 8 MiB and the prepare handed out.
#[derive(Debug)]
pub struct Recovery<'a, F> {
    window: Window<'a, F>,
    pool: Pool,
    origin: Origin,
    ring: JournalRing,
    end: LogEnd,
    tail: Option<Tail>,
    /// Sectors behind the end of the log with the header of a prepare that is not whole.
    torn_headers: Vec<u64>,
}

/// What the superblock says about the journal.
#[derive(Clone, Copy, Debug)]
struct Origin {
    cluster: u128,
    shard: u16,
    is_alone: bool,
    is_commit_local: bool,
}

impl<'a, F: BlockFile> Recovery<'a, F> {
    /// Begins a scan. Buffers of prepares come from `pool`.
    ///
    /// # Panics
    ///
    /// If journal size or offset in the superblock are not multiples of the sector size ([`super::open`] checks them).
    pub fn new(file: &'a F, superblock: &Superblock, pool: &Pool) -> Recovery<'a, F> {
        Recovery::with_in_flight_max(file, superblock, IN_FLIGHT_MAX, pool)
    }

    /// [`Recovery::new`] of a journal that was written under another bound than [`IN_FLIGHT_MAX`].
    ///
    /// # Panics
    ///
    /// As [`Recovery::new`].
    pub fn with_in_flight_max(
        file: &'a F,
        superblock: &Superblock,
        in_flight_max: u64,
        pool: &Pool,
    ) -> Recovery<'a, F> {
        let size = superblock.journal_size.get();
        let offset = superblock.journal_offset.get();
        Recovery {
            window: Window::new(file, size, pool),
            pool: pool.clone(),
            origin: Origin {
                cluster: superblock.cluster.get(),
                shard: superblock.shard.get(),
                is_alone: superblock.servers == 1,
                is_commit_local: superblock.servers == 1 && superblock.has_lost_memory == 0,
            },
            ring: JournalRing::with_in_flight_max(size, offset, superblock.checkpoint.get() + 1, in_flight_max),
            end: LogEnd {
                op: superblock.checkpoint.get(),
                checksum: superblock.checkpoint_parent.get(),
                next_revision: superblock.checkpoint_revision.get(),
                timestamp_ns: superblock.checkpoint_timestamp_ns.get(),
            },
            tail: None,
            torn_headers: Vec::new(),
        }
    }

    /// The next prepare; `None` at the end of the log.
    ///
    /// # Errors
    ///
    /// If the disk fails, or the log of a server that is alone ends at a prepare that had been durable.
    pub fn next_prepare(&mut self) -> Result<Option<RecoveredPrepare>, RecoveryError> {
        if self.tail.is_some() {
            return Ok(None);
        }
        let op = self.end.op + 1;
        let behind = self.ring.scan_offset(op);
        let mut found = None;
        for offset in [behind, 0] {
            let Some(header) = self.window.whole_prepare(offset, &self.origin)? else { continue };
            let is_next = header.op.get() == op && header.parent.get() == self.end.checksum;
            if is_next && self.place(&header, offset) {
                found = Some((header, offset));
                break;
            }
        }
        let Some((header, offset)) = found else {
            self.tail = Some(self.judge_end(op, behind)?);
            return Ok(None);
        };
        self.end = LogEnd {
            op,
            checksum: header.checksum.get(),
            next_revision: header.revision.get() + u64::from(header.request_count.get()),
            timestamp_ns: header.timestamp_ns.get(),
        };
        let bytes = self.window.bytes(offset, padded_size(&header))?;
        let message = self.pool.copy_padded(bytes, SECTOR_SIZE);
        Ok(Some(RecoveredPrepare { header, offset, message }))
    }

    /// Enters the prepare into the index, if that is where the index would have put it.
    fn place(&mut self, header: &MessageHeader, offset: u64) -> bool {
        let op = header.op.get();
        if self.ring.preview(padded_size(header)) != Some(offset) {
            return false;
        }
        self.ring.append(header, padded_size(header)).expect("there is room, as the preview said");
        self.ring.complete(op);
        true
    }

    /// Looks at what is behind the end of the log: nothing, prepares that were in flight, or proof of damage.
    fn judge_end(&mut self, op: u64, offset: u64) -> Result<Tail, RecoveryError> {
        let ghosts = self.find_ghosts(op, offset)?;
        let is_proof = |ghost: &Ghost| {
            let is_too_far = ghost.op - op >= self.ring.in_flight_max();
            let is_committed_here = self.origin.is_commit_local && ghost.commit >= op;
            is_too_far || is_committed_here
        };
        if ghosts.iter().any(is_proof) {
            let later_op = ghosts.iter().map(|ghost| ghost.op).max().unwrap_or(op);
            return if self.origin.is_alone {
                Err(RecoveryError::Rotten { op, offset, later_op })
            } else {
                Ok(Tail::Rotten { op, offset, later_op, ghosts })
            };
        }
        let is_begun = !ghosts.is_empty() || self.has_header_of(op, offset)? || self.has_header_of(op, 0)?;
        Ok(if is_begun { Tail::Torn { op, offset, ghosts } } else { Tail::Clean })
    }

    /// Whole prepares of op `op` or higher in the part of the ring that the log does not use.
    fn find_ghosts(&mut self, op: u64, end: u64) -> Result<Vec<Ghost>, RecoveryError> {
        let first = self.ring.locate(self.ring.first_op());
        let start = first.map_or(end, |first| first.offset);
        let size = self.ring.size();
        let is_straight = end > start || first.is_none();
        let pieces = if is_straight { [end..size, 0..start] } else { [end..start, 0..0] };
        let mut ghosts = Vec::new();
        for piece in pieces {
            let mut offset = piece.start;
            while offset < piece.end {
                let prepare = self.window.whole_prepare(offset, &self.origin)?;
                let Some(header) = prepare.filter(|header| offset + padded_size(header) as u64 <= piece.end) else {
                    // If it is not one but stands in what a client has sent, nothing is lost: the log does not use this
                    // part.
                    if self.window.header(offset, &self.origin)?.is_some_and(|header| header.op.get() >= op) {
                        self.torn_headers.push(offset);
                    }
                    offset += SECTOR_SIZE as u64;
                    continue;
                };
                if header.op.get() >= op {
                    ghosts.push(Ghost { op: header.op.get(), offset, commit: header.commit.get() });
                }
                // A body is whatever clients have sent: nothing inside it can pass for a prepare.
                offset += padded_size(&header) as u64;
            }
        }
        Ok(ghosts)
    }

    fn has_header_of(&mut self, op: u64, offset: u64) -> Result<bool, RecoveryError> {
        Ok(self.window.header(offset, &self.origin)?.is_some_and(|header| header.op.get() == op))
    }

    /// How the log ends; `None` before [`Recovery::next_prepare`] has come to its end.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// Takes the scan to its end if it is not there yet, and makes the dropped tail unrecognisable for the next one.
    ///
    /// After [`Tail::Rotten`], the superblock must say durably how far this server may have acknowledged the log,
    /// *before* this is called: it destroys the proof.
    ///
    /// # Errors
    ///
    /// As [`Recovery::next_prepare`], or if the disk refuses the write.
    pub fn finish(mut self) -> Result<RecoveredJournal, RecoveryError> {
        while self.next_prepare()?.is_some() {}
        let tail = self.tail.expect("the scan has ended");
        let mut sectors = if mutant::is(Mutant::TornHeadersNotErased) { Vec::new() } else { self.torn_headers };
        if let Tail::Torn { op, offset, ghosts } | Tail::Rotten { op, offset, ghosts, .. } = &tail {
            sectors.extend(ghosts.iter().map(|ghost| ghost.offset));
            // What does not continue the log where the next prepare should be: a whole one, with another parent.
            for candidate in [*offset, 0] {
                let header = self.window.header(candidate, &self.origin)?;
                if header.is_some_and(|header| header.op.get() == *op) {
                    sectors.push(candidate);
                }
            }
        }
        if !mutant::is(Mutant::GhostsNotErased) {
            erase(self.window.file, &sectors)?;
        }
        Ok(RecoveredJournal { ring: self.ring, end: self.end, tail })
    }

    /// The end of the scan without changing anything on the disk: for a look at a journal.
    pub(crate) fn into_findings(self) -> (JournalRing, LogEnd, Option<Tail>) {
        (self.ring, self.end, self.tail)
    }
}

/// Erases every prepare of this cluster and shard in the journal, whole or not, durably: none of them may ever be taken
/// for part of a log again.
///
/// # Errors
///
/// If the disk fails.
pub fn erase_all(file: &impl BlockFile, superblock: &Superblock, pool: &Pool) -> Result<(), RecoveryError> {
    let mut scan = Recovery::new(file, superblock, pool);
    let mut sectors = Vec::new();
    for offset in (0..superblock.journal_size.get()).step_by(SECTOR_SIZE) {
        if scan.window.header(offset, &scan.origin)?.is_some() {
            sectors.push(offset);
        }
    }
    erase(file, &sectors)
}

/// Overwrites sectors of the journal with zeroes, durably.
///
/// # Errors
///
/// What the disk says.
pub fn erase(file: &impl BlockFile, sectors: &[u64]) -> Result<(), RecoveryError> {
    let zeroes = Pool::new(0).copy_padded(&[0; SECTOR_SIZE], SECTOR_SIZE);
    for &offset in sectors {
        file.write_at(&zeroes, offset).map_err(|reason| RecoveryError::Io { what: "repair", offset, reason })?;
    }
    if let Some(&offset) = sectors.first() {
        file.sync().map_err(|reason| RecoveryError::Io { what: "repair", offset, reason })?;
    }
    Ok(())
}

fn padded_size(header: &MessageHeader) -> usize {
    (header.size.get() as usize).next_multiple_of(SECTOR_SIZE)
}

/// A large piece of the ring in memory, so that small prepares do not cost a read each.
#[derive(Debug)]
struct Window<'a, F> {
    file: &'a F,
    ring_size: u64,
    buffer: AlignedBuffer,
    offset: u64,
    len: usize,
}

impl<'a, F: BlockFile> Window<'a, F> {
    fn new(file: &'a F, ring_size: u64, pool: &Pool) -> Window<'a, F> {
        let size = ring_size.min(BUFFER_SIZE_MAX as u64) as usize;
        Window { file, ring_size, buffer: pool.take(size), offset: 0, len: 0 }
    }

    /// `len` bytes from `offset`; must be within the ring.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], RecoveryError> {
        assert!(offset + len as u64 <= self.ring_size && len <= self.buffer.len());
        let is_inside = offset >= self.offset && offset + len as u64 <= self.offset + self.len as u64;
        if !is_inside {
            let available = (self.ring_size - offset).min(self.buffer.len() as u64) as usize;
            self.len = 0;
            self.file.read_at(&mut self.buffer[..available], offset).map_err(|reason| RecoveryError::Io {
                what: "read",
                offset,
                reason,
            })?;
            (self.offset, self.len) = (offset, available);
        }
        let start = (offset - self.offset) as usize;
        Ok(&self.buffer[start..start + len])
    }

    /// The header at `offset`, if there is a prepare's header of this cluster and shard.
    fn header(&mut self, offset: u64, origin: &Origin) -> Result<Option<MessageHeader>, RecoveryError> {
        let sector = self.bytes(offset, SECTOR_SIZE)?;
        let header = *MessageHeader::view(sector).expect("a sector is larger than a header");
        let is_prepare = header.check(origin.cluster, origin.shard) == Ok(Command::Prepare);
        Ok(Some(header).filter(|_| is_prepare))
    }

    /// The header at `offset`, if a whole prepare of this cluster and shard is there.
    fn whole_prepare(&mut self, offset: u64, origin: &Origin) -> Result<Option<MessageHeader>, RecoveryError> {
        let Some(header) = self.header(offset, origin)? else { return Ok(None) };
        if offset + padded_size(&header) as u64 > self.ring_size {
            return Ok(None);
        }
        let message = &self.bytes(offset, padded_size(&header))?[..header.size.get() as usize];
        let is_whole = header.check_body(&message[MessageHeader::SIZE..]).is_ok() || mutant::is(Mutant::BodyNotChecked);
        Ok(Some(header).filter(|_| is_whole))
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
