//! Where in the journal ring each prepare goes. Pure bookkeeping: no I/O happens here.
//!
//! # The layout
//!
//! Prepares lie end to end, in op order, each at a multiple of the sector size and padded to one. A prepare is never
//! split: when it does not fit between the end of the one before and the end of the ring, the rest of the ring stays as
//! it is and the prepare goes to offset 0. So op n+1 is found right behind op n, or at 0 if its size says that it would
//! not have fitted.
//!
//! # What may be overwritten
//!
//! Only prepares below a durable checkpoint ([`JournalRing::release_below`]). They are overwritten as late as possible,
//! so that a backup that lags behind can be fed from them for as long as they last.
//!
//! # How many writes are in flight
//!
//! A prepare is placed only while fewer than `in_flight_max` prepares before it still wait for their write to complete.
//! Recovery leans on this bound: where it finds op n whole, everything up to op n - `in_flight_max` had been durable.

use std::collections::VecDeque;

use lockstep_proto::{
    limits::SECTOR_SIZE,
    message::MessageHeader,
    mutant::{self, Mutant},
};
use thiserror::Error;

/// Most journal writes in flight. Part of the on-disk format: recovery tells torn from rotten by it.
///
/// A pipeline (`--pipeline`) must not be deeper than this.
pub const IN_FLIGHT_MAX: u64 = 256;

/// Where a prepare is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAt {
    /// From the start of the journal file, in bytes.
    pub offset: u64,
}

/// Where a prepare is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// From the start of the journal file, in bytes.
    pub offset: u64,
    /// With its padding, in bytes.
    pub padded_size: usize,
    /// Checksum of its header: what has been read is it only if this fits.
    pub checksum: u128,
}

/// Why a prepare cannot be placed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AppendRefusal {
    /// The ring is full of prepares that no durable checkpoint covers.
    #[error("the journal is full: op {op} needs {needed} bytes and {free} are free until the next checkpoint")]
    Full {
        /// The prepare's op.
        op: u64,
        /// Bytes needed, padding included.
        needed: u64,
        /// Bytes free, not necessarily in one piece.
        free: u64,
    },
    /// As many writes as allowed have not completed yet.
    #[error("op {op} must wait: as many journal writes as allowed are in flight")]
    InFlight {
        /// The prepare's op.
        op: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    padded_size: u64,
    /// Where the ring ended before this entry was placed: its offset, unless the rest of the ring was skipped.
    end_before: u64,
    checksum: u128,
    is_written: bool,
}

impl Entry {
    fn end(&self) -> u64 {
        self.offset + self.padded_size
    }
}

/// The index of a journal ring.
#[derive(Debug)]
pub struct JournalRing {
    size: u64,
    /// Where the next prepare goes if it fits, below `size`.
    end: u64,
    /// Op of the first entry, or of the next one if there is none.
    first_op: u64,
    entries: VecDeque<Entry>,
    /// Entries below this op may be overwritten.
    released_below: u64,
    /// Sum of the padded sizes of the entries that are not released.
    live_bytes: u64,
    durable_op: u64,
    in_flight_max: u64,
}

impl JournalRing {
    /// An empty ring of `size` bytes, whose first prepare is `next_op` and goes to `offset`.
    ///
    /// # Panics
    ///
    /// If `size` or `offset` is not a multiple of the sector size, or `offset` is not below `size`, or `next_op` is 0.
    pub fn new(size: u64, offset: u64, next_op: u64) -> JournalRing {
        JournalRing::with_in_flight_max(size, offset, next_op, IN_FLIGHT_MAX)
    }

    /// [`JournalRing::new`] with another bound than [`IN_FLIGHT_MAX`]: a simulated journal is small, and what the bound
    /// proves must come up in it.
    ///
    /// # Panics
    ///
    /// As [`JournalRing::new`], or if no write may be in flight.
    pub fn with_in_flight_max(size: u64, offset: u64, next_op: u64, in_flight_max: u64) -> JournalRing {
        assert!(in_flight_max > 0);
        assert!(size.is_multiple_of(SECTOR_SIZE as u64) && offset.is_multiple_of(SECTOR_SIZE as u64));
        assert!(offset < size && next_op > 0);
        JournalRing {
            size,
            end: offset,
            first_op: next_op,
            entries: VecDeque::new(),
            released_below: next_op,
            live_bytes: 0,
            durable_op: next_op - 1,
            in_flight_max,
        }
    }

    /// Size of the ring, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Most writes in flight.
    pub fn in_flight_max(&self) -> u64 {
        self.in_flight_max
    }

    /// The lowest op that is still there, released or not; the next op if there is none.
    pub fn first_op(&self) -> u64 {
        self.first_op
    }

    /// The highest op placed; one less than the first if there is none.
    pub fn last_op(&self) -> u64 {
        self.first_op + self.entries.len() as u64 - 1
    }

    /// The highest op up to which every write has completed.
    pub fn durable_op(&self) -> u64 {
        self.durable_op
    }

    /// Prepares placed whose write, or an earlier one's, has not completed.
    pub fn in_flight(&self) -> u64 {
        self.last_op() - self.durable_op
    }

    /// Bytes that must not be overwritten.
    pub fn used_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes that may be overwritten. A prepare may need more than its size, since it is never split.
    pub fn free_bytes(&self) -> u64 {
        self.size - self.live_bytes
    }

    /// Places the next prepare.
    ///
    /// # Errors
    ///
    /// If it must wait for a checkpoint or for earlier writes. Nothing was changed.
    ///
    /// # Panics
    ///
    /// If the header is not the next op's, or `padded_size` is not its size rounded up to a sector.
    pub fn append(&mut self, header: &MessageHeader, padded_size: usize) -> Result<WriteAt, AppendRefusal> {
        let op = header.op.get();
        assert_eq!(op, self.last_op() + 1, "the journal has no gaps");
        assert_eq!(padded_size, (header.size.get() as usize).next_multiple_of(SECTOR_SIZE));
        if op > self.durable_op + self.in_flight_max {
            return Err(AppendRefusal::InFlight { op });
        }
        if mutant::is(Mutant::ReuseJournalEarly) {
            self.release_below(self.durable_op + 1);
        }
        let needed = padded_size as u64;
        let Some(offset) = self.place(needed) else {
            return Err(AppendRefusal::Full { op, needed, free: self.free_bytes() });
        };
        let end_before = self.end;
        self.forget_overwritten(offset, needed);
        self.entries.push_back(Entry {
            offset,
            padded_size: needed,
            end_before,
            checksum: header.checksum.get(),
            is_written: false,
        });
        self.live_bytes += needed;
        self.end = (offset + needed) % self.size;
        Ok(WriteAt { offset })
    }

    /// Where the next prepare would go if it had this size; `None` if the ring is too full for it.
    pub fn preview(&self, padded_size: usize) -> Option<u64> {
        self.place(padded_size as u64)
    }

    /// The offset for `needed` bytes, if no live entry is in the way.
    fn place(&self, needed: u64) -> Option<u64> {
        let fits_behind = self.end + needed <= self.size;
        let Some(live_start) = self.live_start() else {
            return if fits_behind { Some(self.end) } else { Some(0).filter(|_| needed <= self.size) };
        };
        if self.end <= live_start {
            // The live entries go around the end of the ring, or fill it: there is room only up to the first of them.
            return Some(self.end).filter(|end| end + needed <= live_start);
        }
        if fits_behind { Some(self.end) } else { Some(0).filter(|_| needed <= live_start) }
    }

    fn live_start(&self) -> Option<u64> {
        let released = self.released_below.saturating_sub(self.first_op) as usize;
        self.entries.get(released).map(|entry| entry.offset)
    }

    /// Drops released entries from the index that a write to `offset..offset + size` destroys, and older ones.
    fn forget_overwritten(&mut self, offset: u64, size: u64) {
        let is_skipping = offset != self.end;
        while self.first_op < self.released_below
            && let Some(first) = self.entries.front()
        {
            let is_skipped_over = is_skipping && first.offset >= self.end;
            let is_hit = first.offset < offset + size && offset < first.end();
            if !is_skipped_over && !is_hit {
                break;
            }
            self.entries.pop_front();
            self.first_op += 1;
        }
    }

    /// The write of `op` is durable. Completions may come in any order. Returns the highest op up to which all are.
    ///
    /// # Panics
    ///
    /// If the op was not placed, or its write completed before.
    pub fn complete(&mut self, op: u64) -> u64 {
        let index = op.checked_sub(self.first_op).expect("a write in flight is never overwritten") as usize;
        let entry = self.entries.get_mut(index).expect("only what was placed can complete");
        assert!(!entry.is_written, "a write completes once");
        entry.is_written = true;
        while self.entry(self.durable_op + 1).is_some_and(|entry| entry.is_written) {
            self.durable_op += 1;
        }
        self.durable_op
    }

    fn entry(&self, op: u64) -> Option<&Entry> {
        self.entries.get(op.checked_sub(self.first_op)? as usize)
    }

    /// Where `op` is, for as long as it has not been overwritten.
    ///
    /// A read that takes time may find it overwritten meanwhile: compare the checksum of what was read.
    pub fn locate(&self, op: u64) -> Option<Location> {
        self.entry(op).map(|entry| Location {
            offset: entry.offset,
            padded_size: entry.padded_size as usize,
            checksum: entry.checksum,
        })
    }

    /// Where the scan for `op` must begin after a restart: what goes into the superblock for the op after a checkpoint.
    ///
    /// It is where the prepare before `op` ends, which stays right if `op` is dropped and replaced by a prepare of
    /// another size, as long as the one before it stays. `op` itself is there, or at 0 if it did not fit there.
    ///
    /// # Panics
    ///
    /// If `op` is neither in the journal nor the next one.
    pub fn scan_offset(&self, op: u64) -> u64 {
        match self.entry(op) {
            Some(entry) => entry.end_before,
            None => {
                assert_eq!(op, self.last_op() + 1);
                self.end
            }
        }
    }

    /// Drops every prepare above `op`. Returns the offset of the first sector of each, the last one first.
    ///
    /// The caller must overwrite each of these sectors with zeroes, durably, *before* it acts on the truncation
    /// (persists a view, acknowledges or places another prepare). Otherwise a restart could take up the dropped
    /// prepares again, as part of a log that was declared to be without them. One after the other in this order, or all
    /// at once.
    ///
    /// # Panics
    ///
    /// If a write is in flight (it could land after the zeroes), or `op` is below a released one.
    pub fn truncate_after(&mut self, op: u64) -> Vec<u64> {
        assert_eq!(self.in_flight(), 0, "writes must have completed before their prepares are dropped");
        assert!(op + 1 >= self.released_below, "a checkpoint covers what would be dropped");
        let mut sectors = Vec::new();
        while self.last_op() > op
            && let Some(entry) = self.entries.pop_back()
        {
            self.live_bytes -= entry.padded_size;
            self.end = entry.end_before;
            sectors.push(entry.offset);
        }
        self.durable_op = self.last_op();
        if mutant::is(Mutant::TruncationNotErased) {
            sectors.clear();
        }
        sectors
    }

    /// A durable superblock points to a checkpoint of everything below `op`: the space may be used again.
    ///
    /// # Panics
    ///
    /// If prepares below `op` are not in the journal yet, or not durable.
    pub fn release_below(&mut self, op: u64) {
        assert!(op <= self.durable_op + 1, "a checkpoint covers durable prepares only");
        while self.released_below < op {
            let entry = self.entry(self.released_below).expect("entries that are not released are kept");
            self.live_bytes -= entry.padded_size;
            self.released_below += 1;
        }
    }

    /// The lowest op that must not be overwritten.
    pub fn released_below(&self) -> u64 {
        self.released_below
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
