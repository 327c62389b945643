//! Turns a stream of state into the writes of a checkpoint file.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_proto::{
    checksum::{Checksum128, checksum_128},
    limits::{DISK_FORMAT_VERSION, SECTOR_SIZE},
    mutant::{self, Mutant},
    superblock::Superblock,
};
use zerocopy::{
    FromZeros, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use super::layout::{
    CHUNK_SIZE_MAX, CheckpointHeader, CheckpointTrailer, ChunkHeader, HEADER_MAGIC, Section, TRAILER_MAGIC,
    padded_chunk_size,
};
use crate::buffers::{AlignedBuffer, Pool};

/// What a checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The cluster.
    pub cluster: u128,
    /// The shard.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// The last op that the state includes. Not 0.
    pub op: u64,
    /// Checksum of the header of the prepare at `op`.
    pub parent: u128,
    /// Revision of the next request.
    pub revision: u64,
    /// Timestamp of the prepare at `op`, in ns since 1970.
    pub timestamp_ns: u64,
}

/// One write of a checkpoint file. Writes do not overlap and may be in flight together, in any order.
#[derive(Clone, Debug)]
pub struct CheckpointWrite {
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// Page-aligned, a multiple of the sector size, at most 1 MiB.
    pub bytes: Bytes,
}

/// A checkpoint whose last write has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedCheckpoint {
    /// What it is of.
    pub meta: CheckpointMeta,
    /// Size of the file, in bytes.
    pub size: u64,
    /// XXH3-128 of the file.
    pub checksum: u128,
    /// Content hash of the state.
    pub state_hash: u128,
}

impl FinishedCheckpoint {
    /// Makes a superblock point to this checkpoint. `journal_offset` is where the prepare after it is, or will be:
    /// [`crate::journal::ring::JournalRing::scan_offset`] of the op after it.
    pub fn enter_into(&self, superblock: &mut Superblock, journal_offset: u64) {
        superblock.checkpoint = U64::new(self.meta.op);
        superblock.checkpoint_checksum = U128::new(self.checksum);
        superblock.checkpoint_size = U64::new(self.size);
        superblock.checkpoint_parent = U128::new(self.meta.parent);
        superblock.checkpoint_revision = U64::new(self.meta.revision);
        superblock.checkpoint_timestamp_ns = U64::new(self.meta.timestamp_ns);
        superblock.state_hash = U128::new(self.state_hash);
        let is_off = mutant::is(Mutant::CheckpointOffsetWrong) && journal_offset >= SECTOR_SIZE as u64;
        superblock.journal_offset = U64::new(journal_offset - if is_off { SECTOR_SIZE as u64 } else { 0 });
    }
}

/// The making of a checkpoint file, front to back, without I/O.
///
/// Push the stream in pieces of any size, and after each push take the writes that have become ready. Memory in use is
/// one chunk plus what has been pushed but not taken.
#[derive(Debug)]
pub struct CheckpointWriter {
    meta: CheckpointMeta,
    pool: Pool,
    /// The chunk being filled, with room for its header; `None` between chunks.
    chunk: Option<OpenChunk>,
    section: Section,
    section_sizes: [u64; Section::ALL.len()],
    chunks: u32,
    offset: u64,
    checksum: Checksum128Debug,
    ready: VecDeque<CheckpointWrite>,
}

#[derive(Debug)]
struct OpenChunk {
    buffer: AlignedBuffer,
    filled: usize,
}

impl CheckpointWriter {
    /// Begins a checkpoint. The header is ready to be written at once.
    ///
    /// # Panics
    ///
    /// If the op is 0, which stands for "no checkpoint".
    pub fn new(meta: CheckpointMeta, pool: &Pool) -> CheckpointWriter {
        assert!(meta.op > 0);
        let mut header = CheckpointHeader::new_zeroed();
        header.magic = U64::new(HEADER_MAGIC);
        header.version = U16::new(DISK_FORMAT_VERSION);
        header.shard = U16::new(meta.shard);
        header.shards = U16::new(meta.shards);
        header.cluster = U128::new(meta.cluster);
        header.op = U64::new(meta.op);
        header.revision = U64::new(meta.revision);
        header.parent = U128::new(meta.parent);
        header.timestamp_ns = U64::new(meta.timestamp_ns);
        header.checksum = U128::new(header.expected_checksum());
        let mut writer = CheckpointWriter {
            meta,
            pool: pool.clone(),
            chunk: None,
            section: Section::Store,
            section_sizes: [0; Section::ALL.len()],
            chunks: 0,
            offset: 0,
            checksum: Checksum128Debug(Checksum128::new()),
            ready: VecDeque::new(),
        };
        writer.enqueue(pool.copy_padded(header.as_bytes(), SECTOR_SIZE));
        writer
    }

    /// What the checkpoint is of.
    pub fn meta(&self) -> &CheckpointMeta {
        &self.meta
    }

    /// Bytes of the file that have become ready so far, taken or not.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// Takes the next piece of a section's stream.
    ///
    /// # Panics
    ///
    /// If a later section has begun.
    pub fn push(&mut self, section: Section, mut bytes: &[u8]) {
        assert!(section >= self.section, "sections have an order");
        if section != self.section {
            self.close_chunk();
            self.section = section;
        }
        self.section_sizes[section as usize - 1] += bytes.len() as u64;
        while !bytes.is_empty() {
            let pool = &self.pool;
            let chunk = self
                .chunk
                .get_or_insert_with(|| OpenChunk { buffer: pool.take(CHUNK_SIZE_MAX), filled: ChunkHeader::SIZE });
            let count = bytes.len().min(CHUNK_SIZE_MAX - chunk.filled);
            chunk.buffer[chunk.filled..chunk.filled + count].copy_from_slice(&bytes[..count]);
            chunk.filled += count;
            bytes = &bytes[count..];
            if chunk.filled == CHUNK_SIZE_MAX {
                self.close_chunk();
            }
        }
    }

    fn close_chunk(&mut self) {
        let Some(OpenChunk { mut buffer, filled }) = self.chunk.take() else { return };
        let payload_size = filled - ChunkHeader::SIZE;
        let mut header = ChunkHeader::new_zeroed();
        header.op = U64::new(self.meta.op);
        header.index = U32::new(self.chunks);
        header.payload_size = U32::new(payload_size as u32);
        header.section = self.section as u8;
        buffer[..ChunkHeader::SIZE].copy_from_slice(header.as_bytes());
        header.checksum = U128::new(checksum_128(&buffer[16..filled]));
        buffer[..16].copy_from_slice(header.checksum.as_bytes());
        let padded_size = padded_chunk_size(payload_size);
        buffer[filled..padded_size].fill(0);
        self.chunks += 1;
        self.enqueue(Pool::freeze(buffer, padded_size));
    }

    fn enqueue(&mut self, bytes: Bytes) {
        self.checksum.0.update(&bytes);
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.ready.push_back(CheckpointWrite { offset, bytes });
    }

    /// The next write that is ready.
    pub fn next_write(&mut self) -> Option<CheckpointWrite> {
        self.ready.pop_front()
    }

    /// Ends the stream. Returns the last writes, and what the superblock needs to know once they, and all before, are
    /// durable.
    pub fn finish(mut self, state_hash: u128) -> (VecDeque<CheckpointWrite>, FinishedCheckpoint) {
        self.close_chunk();
        let mut trailer = CheckpointTrailer::new_zeroed();
        trailer.magic = U64::new(TRAILER_MAGIC);
        trailer.op = U64::new(self.meta.op);
        [trailer.store_size, trailer.sessions_size] = self.section_sizes.map(U64::new);
        trailer.state_hash = U128::new(state_hash);
        trailer.chunks = U32::new(self.chunks);
        trailer.checksum = U128::new(trailer.expected_checksum());
        self.enqueue(self.pool.copy_padded(trailer.as_bytes(), SECTOR_SIZE));
        let finished =
            FinishedCheckpoint { meta: self.meta, size: self.offset, checksum: self.checksum.0.finish(), state_hash };
        (self.ready, finished)
    }
}

/// A running checksum has nothing to show.
struct Checksum128Debug(Checksum128);

impl std::fmt::Debug for Checksum128Debug {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Checksum128")
    }
}
