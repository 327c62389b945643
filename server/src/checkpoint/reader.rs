//! Reads a checkpoint file back and verifies every byte of it.

use std::io;

use lockstep_proto::{
    checksum::{Checksum128, checksum_128},
    limits::{DISK_FORMAT_VERSION, SECTOR_SIZE},
    superblock::Superblock,
};
use thiserror::Error;
use zerocopy::FromBytes;

use super::{
    layout::{
        CHUNK_PAYLOAD_MAX, CHUNK_SIZE_MAX, CheckpointHeader, CheckpointTrailer, ChunkHeader, HEADER_MAGIC, Section,
        TRAILER_MAGIC, padded_chunk_size,
    },
    writer::{CheckpointMeta, FinishedCheckpoint},
};
use crate::{
    buffers::{AlignedBuffer, Pool},
    journal::file::BlockFile,
};

/// Why a checkpoint cannot be loaded.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk failed.
    #[error("cannot read the checkpoint at byte {offset}: {reason}")]
    Io {
        /// Where.
        offset: u64,
        /// What the disk said.
        reason: io::Error,
    },
    /// It is not what was written.
    #[error("checkpoint is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the damaged part begins.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// Another build wrote it.
    #[error(
        "the checkpoint is of on-disk format version {0}, which is not supported (this build uses {DISK_FORMAT_VERSION}); start it with the build that wrote it"
    )]
    Version(u16),
    /// It is whole, but not the one that the superblock points to.
    #[error("this is another checkpoint than the superblock points to: its {0} differs")]
    Other(&'static str),
    /// Whoever takes in the stream does not understand it.
    #[error("the checkpoint's {section:?} section cannot be loaded: {reason}")]
    Content {
        /// Which part.
        section: Section,
        /// What the loader said.
        reason: String,
    },
}

impl CheckpointError {
    /// Whether the file is not what was once written, so that no build of this program could load it: the disk has lost
    /// it. False for a file that is whole and cannot be used for another reason, which somebody has to look into.
    pub fn is_damage(&self) -> bool {
        match self {
            CheckpointError::Io { reason, .. } => {
                reason.kind() == io::ErrorKind::UnexpectedEof || reason.raw_os_error() == Some(EIO)
            }
            CheckpointError::Damaged { .. } | CheckpointError::Other(_) => true,
            CheckpointError::Version(_) | CheckpointError::Content { .. } => false,
        }
    }
}

/// What a disk says of a sector that it cannot read.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Takes in a section's stream piece by piece, or says why it cannot.
pub type StreamSink<'a> = dyn FnMut(Section, &[u8]) -> Result<(), String> + 'a;

/// The checkpoint that a superblock points to; `None` if it points to none.
pub fn expected_by(superblock: &Superblock) -> Option<FinishedCheckpoint> {
    let op = superblock.checkpoint.get();
    (op != 0).then(|| FinishedCheckpoint {
        meta: CheckpointMeta {
            cluster: superblock.cluster.get(),
            shard: superblock.shard.get(),
            shards: superblock.shards.get(),
            op,
            parent: superblock.checkpoint_parent.get(),
            revision: superblock.checkpoint_revision.get(),
            timestamp_ns: superblock.checkpoint_timestamp_ns.get(),
        },
        size: superblock.checkpoint_size.get(),
        checksum: superblock.checkpoint_checksum.get(),
        state_hash: superblock.state_hash.get(),
    })
}

/// Reads a checkpoint from front to back and gives the stream of each section to `sink`, in pieces, each verified
/// before it is given. Only after the return is the whole known to be complete. Memory in use is one chunk.
///
/// # Errors
///
/// If the file is damaged, cut off, not the expected one, or refused by `sink`.
pub fn read_checkpoint(
    file: &impl BlockFile,
    expected: &FinishedCheckpoint,
    pool: &Pool,
    sink: &mut StreamSink<'_>,
) -> Result<(), CheckpointError> {
    let mut reader = Reader::new(file, pool);
    let found = reader.read(expected.size, &|meta| meta.differs_from(&expected.meta), sink)?;
    // Padding between chunks is covered by nothing else.
    if found.checksum != expected.checksum {
        return Err(CheckpointError::Damaged { offset: 0, what: "the checksum of the whole file" });
    }
    if found.state_hash != expected.state_hash {
        return Err(CheckpointError::Other("state hash"));
    }
    Ok(())
}

/// Reads a checkpoint that another server has sent: of this cluster and shard, at `op`, and nothing more is known of
/// it. As [`read_checkpoint`] else. Returns what the superblock needs to know of it.
///
/// # Errors
///
/// As [`read_checkpoint`].
pub fn read_received_checkpoint(
    file: &impl BlockFile,
    (cluster, shard, shards): (u128, u16, u16),
    op: u64,
    pool: &Pool,
    sink: &mut StreamSink<'_>,
) -> Result<FinishedCheckpoint, CheckpointError> {
    let mut reader = Reader::new(file, pool);
    let size = file.size().map_err(|reason| reader.io_error(reason))?;
    let differs = |meta: &CheckpointMeta| meta.differs_from(&CheckpointMeta { cluster, shard, shards, op, ..*meta });
    reader.read(size, &differs, sink)
}

impl CheckpointMeta {
    /// What differs between the two, if anything.
    fn differs_from(&self, other: &CheckpointMeta) -> Option<&'static str> {
        if self.cluster != other.cluster {
            return Some("cluster");
        }
        if (self.shard, self.shards) != (other.shard, other.shards) {
            return Some("shard");
        }
        (self != other).then_some("place in the log")
    }
}

struct Reader<'a, F> {
    file: &'a F,
    buffer: AlignedBuffer,
    /// How far the file has been verified.
    offset: u64,
    checksum: Checksum128,
    section: Section,
    section_sizes: [u64; Section::ALL.len()],
    chunks: u32,
}

impl<'a, F: BlockFile> Reader<'a, F> {
    fn new(file: &'a F, pool: &Pool) -> Reader<'a, F> {
        Reader {
            file,
            buffer: pool.take(CHUNK_SIZE_MAX),
            offset: 0,
            checksum: Checksum128::new(),
            section: Section::Store,
            section_sizes: [0; Section::ALL.len()],
            chunks: 0,
        }
    }

    fn read(
        &mut self,
        size: u64,
        differs: &dyn Fn(&CheckpointMeta) -> Option<&'static str>,
        sink: &mut StreamSink<'_>,
    ) -> Result<FinishedCheckpoint, CheckpointError> {
        self.check_size(size)?;
        let meta = self.read_header(differs)?;
        let trailer_offset = size - SECTOR_SIZE as u64;
        while self.offset < trailer_offset {
            self.read_chunk(trailer_offset, meta.op, sink)?;
        }
        let state_hash = self.read_trailer(meta.op)?;
        Ok(FinishedCheckpoint { meta, size, checksum: self.checksum.finish(), state_hash })
    }

    fn io_error(&self, reason: io::Error) -> CheckpointError {
        CheckpointError::Io { offset: self.offset, reason }
    }

    fn damaged<T>(&self, what: &'static str) -> Result<T, CheckpointError> {
        Err(CheckpointError::Damaged { offset: self.offset, what })
    }

    fn check_size(&self, expected: u64) -> Result<(), CheckpointError> {
        let size = self.file.size().map_err(|reason| self.io_error(reason))?;
        if size < expected {
            return Err(CheckpointError::Damaged { offset: size, what: "the file has been cut off" });
        }
        let size_min = 2 * SECTOR_SIZE as u64;
        if size != expected || size < size_min || !size.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(CheckpointError::Other("size"));
        }
        Ok(())
    }

    fn fill(&mut self, size: usize) -> Result<(), CheckpointError> {
        self.file
            .read_at(&mut self.buffer[..size], self.offset)
            .map_err(|reason| CheckpointError::Io { offset: self.offset, reason })
    }

    /// Counts `size` bytes at the start of the buffer as verified.
    fn advance(&mut self, size: usize) {
        self.checksum.update(&self.buffer[..size]);
        self.offset += size as u64;
    }

    fn read_header(
        &mut self,
        differs: &dyn Fn(&CheckpointMeta) -> Option<&'static str>,
    ) -> Result<CheckpointMeta, CheckpointError> {
        self.fill(SECTOR_SIZE)?;
        let (header, rest) =
            CheckpointHeader::read_from_prefix(&self.buffer[..SECTOR_SIZE]).expect("a sector is larger");
        if header.magic.get() != HEADER_MAGIC || header.checksum.get() != header.expected_checksum() {
            return self.damaged("its header");
        }
        if header.version.get() != DISK_FORMAT_VERSION {
            return Err(CheckpointError::Version(header.version.get()));
        }
        if header.reserved0 != [0; 2] || header.reserved1 != [0; 168] || rest.iter().any(|&byte| byte != 0) {
            return self.damaged("reserved bytes of its header");
        }
        let found = CheckpointMeta {
            cluster: header.cluster.get(),
            shard: header.shard.get(),
            shards: header.shards.get(),
            op: header.op.get(),
            parent: header.parent.get(),
            revision: header.revision.get(),
            timestamp_ns: header.timestamp_ns.get(),
        };
        if let Some(what) = differs(&found) {
            return Err(CheckpointError::Other(what));
        }
        self.advance(SECTOR_SIZE);
        Ok(found)
    }

    fn read_chunk(&mut self, trailer_offset: u64, op: u64, sink: &mut StreamSink<'_>) -> Result<(), CheckpointError> {
        let available = (trailer_offset - self.offset).min(CHUNK_SIZE_MAX as u64) as usize;
        self.fill(available)?;
        let (header, _) = ChunkHeader::read_from_prefix(&self.buffer[..]).expect("the buffer is larger");
        let payload_size = header.payload_size.get() as usize;
        if payload_size == 0 || payload_size > CHUNK_PAYLOAD_MAX || padded_chunk_size(payload_size) > available {
            return self.damaged("the size of a chunk");
        }
        let end = ChunkHeader::SIZE + payload_size;
        if checksum_128(&self.buffer[16..end]) != header.checksum.get() {
            return self.damaged("the checksum of a chunk");
        }
        let section = Section::from_disk(header.section).filter(|&section| section >= self.section);
        let is_next = header.op.get() == op && header.index.get() == self.chunks && header.reserved == [0; 31];
        let Some(section) = section.filter(|_| is_next) else {
            return self.damaged("a chunk is not the one that belongs here");
        };
        sink(section, &self.buffer[ChunkHeader::SIZE..end])
            .map_err(|reason| CheckpointError::Content { section, reason })?;
        self.section = section;
        self.section_sizes[section as usize - 1] += payload_size as u64;
        self.chunks += 1;
        self.advance(padded_chunk_size(payload_size));
        Ok(())
    }

    fn read_trailer(&mut self, op: u64) -> Result<u128, CheckpointError> {
        self.fill(SECTOR_SIZE)?;
        let (trailer, rest) =
            CheckpointTrailer::read_from_prefix(&self.buffer[..SECTOR_SIZE]).expect("a sector is larger");
        if trailer.magic.get() != TRAILER_MAGIC || trailer.checksum.get() != trailer.expected_checksum() {
            return self.damaged("its trailer");
        }
        if trailer.reserved != [0; 60] || rest.iter().any(|&byte| byte != 0) {
            return self.damaged("reserved bytes of its trailer");
        }
        let sizes = [trailer.store_size.get(), trailer.sessions_size.get()];
        if sizes != self.section_sizes || trailer.chunks.get() != self.chunks || trailer.op.get() != op {
            return self.damaged("its trailer does not fit what is before it");
        }
        self.advance(SECTOR_SIZE);
        Ok(trailer.state_hash.get())
    }
}
