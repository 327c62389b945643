//! The state as it was at one moment, written out piece by piece while requests go on being applied.
//!
//! At the cut nothing is copied. A cursor then goes through the slots in the order of creation and writes out what it
//! finds, passing over keys created after the cut. An entry that the cursor has yet to reach and that is to change is
//! moved aside as it is: the change is made in a copy, which is marked so that the cursor passes over it, and the old
//! entry is written out and freed by the next step. So memory grows only by the entries that change, until the next
//! step, and no write has to encode anything.
//!
//! # The stream
//!
//! | part | size | content |
//! |---|---|---|
//! | [`StreamHeader`] | 32 | magic, version, shard, number of entries, counter of creations |
//! | entries | 32 + key + value each | as in memory (`entry.rs`), not marked, in no particular order |
//! | [`StreamTrailer`] | 32 | state hash and number of entries; where an entry has its key size, zero |

use lockstep_proto::{
    limits::DISK_FORMAT_VERSION,
    mutant::{self, Mutant},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64, U128},
};

use crate::{
    entry::{Entry, EntryHeader, MARK_MAX, header_mut},
    hash::ContentHash,
    slab::{Handle, Slab},
    store::Store,
};

/// "LKSTDATA".
pub(crate) const STREAM_MAGIC: u64 = u64::from_le_bytes(*b"LKSTDATA");
/// "LEND".
pub(crate) const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"LEND");

/// What looking at an entry costs of a step's budget besides its bytes, so that passing over a million is no single
/// step.
const LOOK_COST: usize = 16;

/// The beginning of a stream.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct StreamHeader {
    pub magic: U64,
    pub version: U16,
    pub shard: U16,
    pub shards: U16,
    pub reserved: U16,
    pub count: U64,
    pub creation_next: U64,
}

/// The end of a stream.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct StreamTrailer {
    pub state_hash: U128,
    pub count: U64,
    pub magic: U32,
    /// Zero, where an entry has its key size, which is never zero.
    pub key_size: U16,
    pub reserved: U16,
}

const _: () = {
    assert!(size_of::<StreamHeader>() == EntryHeader::SIZE);
    assert!(size_of::<StreamTrailer>() == EntryHeader::SIZE);
};

/// How far a checkpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointProgress {
    /// There is more to write.
    More,
    /// The stream is complete, and the checkpoint no longer active.
    Done {
        /// What [`Store::content_hash`] was at the cut.
        state_hash: u128,
    },
}

/// A checkpoint that is being written.
pub(crate) struct Checkpoint {
    /// Keys with this creation number or a higher one came after the cut.
    creation_next: u64,
    /// Number of keys at the cut.
    count: u64,
    mark: u32,
    /// Slot and creation number from which on entries have not been looked at.
    cursor: (u16, u64),
    /// Entries as they were at the cut, in memory but in no table or list, to be written out and freed.
    kept: Vec<Handle>,
    hash: ContentHash,
    has_header: bool,
}

impl Checkpoint {
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Whether the entry's present state belongs into the checkpoint and is not there yet.
    #[inline]
    pub fn is_wanted(&self, header: &EntryHeader) -> bool {
        !mutant::is(Mutant::CheckpointNotAtCut)
            && header.creation() < self.creation_next
            && header.mark() != self.mark
            && (header.slot(), header.creation()) >= self.cursor
    }

    /// Takes over an entry that is wanted.
    pub fn keep(&mut self, handle: Handle) {
        self.kept.push(handle);
    }

    fn write_header(&mut self, shard: u16, shards: u16, out: &mut Vec<u8>) {
        let header = StreamHeader {
            magic: U64::new(STREAM_MAGIC),
            version: U16::new(DISK_FORMAT_VERSION),
            shard: U16::new(shard),
            shards: U16::new(shards),
            reserved: U16::ZERO,
            count: U64::new(self.count),
            creation_next: U64::new(self.creation_next),
        };
        out.extend_from_slice(header.as_bytes());
        self.has_header = true;
    }

    fn write_trailer(&self, out: &mut Vec<u8>) -> u128 {
        assert_eq!(self.hash.count(), self.count, "a checkpoint holds every key that existed at its cut, once");
        let state_hash = self.hash.finish(self.creation_next);
        let trailer = StreamTrailer {
            state_hash: U128::new(state_hash),
            count: U64::new(self.count),
            magic: U32::new(TRAILER_MAGIC),
            key_size: U16::ZERO,
            reserved: U16::ZERO,
        };
        out.extend_from_slice(trailer.as_bytes());
        state_hash
    }

    fn write_entry(&mut self, entry: Entry<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        entry.encode(out);
        self.hash.add(&out[start..]);
    }

    /// Writes and frees what was kept. Returns whether all of it has been written.
    fn write_kept(&mut self, slab: &mut Slab, end: usize, out: &mut Vec<u8>) -> bool {
        while let Some(handle) = self.kept.pop() {
            self.write_entry(Entry::of(slab.bytes(handle)), out);
            slab.free(handle);
            if out.len() >= end {
                return self.kept.is_empty();
            }
        }
        true
    }
}

impl Store {
    /// Begins a checkpoint: the state as it is now is what [`Store::checkpoint_step`] will write out.
    ///
    /// # Panics
    ///
    /// If a checkpoint is active.
    pub fn checkpoint_begin(&mut self) {
        assert!(self.checkpoint.is_none(), "a checkpoint is being written");
        if self.mark_last == MARK_MAX {
            self.clear_stale_marks();
            self.mark_last = 0;
        }
        self.mark_last += 1;
        self.checkpoint = Some(Checkpoint {
            creation_next: self.creation_next,
            count: self.len() as u64,
            mark: self.mark_last,
            cursor: (self.slots.slots().start, 0),
            kept: Vec::new(),
            hash: ContentHash::new(),
            has_header: false,
        });
    }

    /// Whether a checkpoint has been begun and is neither complete nor aborted.
    pub fn checkpoint_is_active(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Appends the next piece of the active checkpoint's stream to `out`: about `budget_bytes`, less when there is
    /// nothing but keys to pass over, and at most one entry more.
    ///
    /// # Panics
    ///
    /// If no checkpoint is active.
    pub fn checkpoint_step(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> CheckpointProgress {
        let mut checkpoint = self.checkpoint.take().expect("a checkpoint has been begun");
        let end = out.len() + budget_bytes.max(1);
        if !checkpoint.has_header {
            checkpoint.write_header(self.shard, self.shards, out);
        }
        let is_complete =
            checkpoint.write_kept(&mut self.slab, end, out) && self.checkpoint_walk(&mut checkpoint, end, out);
        if is_complete {
            return CheckpointProgress::Done { state_hash: checkpoint.write_trailer(out) };
        }
        self.checkpoint = Some(checkpoint);
        CheckpointProgress::More
    }

    /// Gives the active checkpoint up; does nothing when there is none. What was written of it is of no use.
    pub fn checkpoint_abort(&mut self) {
        if let Some(checkpoint) = self.checkpoint.take() {
            for handle in checkpoint.kept {
                self.slab.free(handle);
            }
            self.has_stale_marks = true;
        }
    }

    /// Moves the cursor on. Returns whether it has reached the end.
    fn checkpoint_walk(&mut self, checkpoint: &mut Checkpoint, end: usize, out: &mut Vec<u8>) -> bool {
        let mut passed = Vec::new();
        let mut looks = 0;
        let (mut slot, mut position) = checkpoint.cursor;
        let slots_end = self.slots.slots().end;
        let is_spent = |out: &[u8], looks: usize| out.len() + looks * LOOK_COST >= end;
        while slot < slots_end && !is_spent(out, looks) {
            looks += 1;
            let mut next = (slot + 1, 0);
            for (handle, entry) in self.entries_from(slot, position) {
                let creation = entry.header.creation();
                if creation >= checkpoint.creation_next {
                    break;
                }
                if is_spent(out, looks) && looks > 1 {
                    next = (slot, creation);
                    break;
                }
                looks += 1;
                if entry.header.mark() == checkpoint.mark {
                    passed.push(handle);
                } else {
                    checkpoint.write_entry(entry, out);
                }
            }
            (slot, position) = next;
        }
        checkpoint.cursor = (slot, position);
        for handle in passed {
            header_mut(self.slab.bytes_mut(handle)).set_mark(0);
        }
        slot == slots_end
    }

    /// Takes off the marks that aborted checkpoints have left, once in two thousand checkpoints.
    fn clear_stale_marks(&mut self) {
        if !std::mem::take(&mut self.has_stale_marks) {
            return;
        }
        for slot in self.slots.slots() {
            let marked = self.entries_from(slot, 0).filter(|(_, entry)| entry.header.mark() != 0);
            for handle in marked.map(|(handle, _)| handle).collect::<Vec<_>>() {
                header_mut(self.slab.bytes_mut(handle)).set_mark(0);
            }
        }
    }
}
