//! The bytes of a checkpoint file. All integers are little-endian; `docs/disk-format.md` has the same as tables.

use lockstep_proto::{checksum::checksum_128, limits::SECTOR_SIZE};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64, U128},
};

/// "LKSTCHKP", at the start of a checkpoint.
pub const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"LKSTCHKP");

/// "LKSTCEND", in the trailer.
pub const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"LKSTCEND");

/// Largest chunk, its header included, in bytes.
pub const CHUNK_SIZE_MAX: usize = 1 << 20;

/// Largest number of stream bytes in a chunk.
pub const CHUNK_PAYLOAD_MAX: usize = CHUNK_SIZE_MAX - ChunkHeader::SIZE;

/// What the bytes of a chunk belong to. Sections follow each other in this order, and a chunk holds bytes of one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Section {
    /// The store's records.
    Store = 1,
    /// The table of sessions.
    Sessions = 2,
}

impl Section {
    /// Every section, in order.
    pub const ALL: [Section; 2] = [Section::Store, Section::Sessions];

    /// The section with this value on disk, if there is one.
    pub fn from_disk(value: u8) -> Option<Section> {
        Section::ALL.into_iter().find(|section| *section as u8 == value)
    }
}

/// The first 256 bytes of the first sector; the rest of the sector is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CheckpointHeader {
    /// XXH3-128 of the bytes from 16 to 256.
    pub checksum: U128,
    /// `LKSTCHKP`.
    pub magic: U64,
    /// Version of the on-disk format.
    pub version: U16,
    /// The shard.
    pub shard: U16,
    /// Number of shards.
    pub shards: U16,
    /// Zero.
    pub reserved0: [u8; 2],
    /// The cluster.
    pub cluster: U128,
    /// The last op that the state includes.
    pub op: U64,
    /// Revision that follows.
    pub revision: U64,
    /// Checksum of the header of the prepare at `op`.
    pub parent: U128,
    /// Timestamp of the prepare at `op`, in ns since 1970.
    pub timestamp_ns: U64,
    /// Zero.
    pub reserved1: [u8; 168],
}

/// The first 64 bytes of a chunk; the payload follows, then zeroes up to a multiple of the sector size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// XXH3-128 of the bytes from 16 to the end of the payload.
    pub checksum: U128,
    /// The checkpoint's op: a chunk cannot pass for one of another checkpoint.
    pub op: U64,
    /// Counts the chunks of the file, from 0.
    pub index: U32,
    /// Size of the payload, in bytes.
    pub payload_size: U32,
    /// A `Section`.
    pub section: u8,
    /// Zero.
    pub reserved: [u8; 31],
}

/// The first 128 bytes of the last sector; the rest of the sector is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CheckpointTrailer {
    /// XXH3-128 of the bytes from 16 to 128.
    pub checksum: U128,
    /// `LKSTCEND`.
    pub magic: U64,
    /// The checkpoint's op.
    pub op: U64,
    /// Bytes of the store's section.
    pub store_size: U64,
    /// Bytes of the sessions' section.
    pub sessions_size: U64,
    /// Content hash of the state.
    pub state_hash: U128,
    /// Number of chunks.
    pub chunks: U32,
    /// Zero.
    pub reserved: [u8; 60],
}

/// Size and place of every field are part of the format.
macro_rules! assert_layout {
    ($name:ident: $size:literal { $( $offset:literal $field:ident, )+ }) => {
        impl $name {
            /// Size of the structure, in bytes.
            pub const SIZE: usize = $size;
        }
        const _: () = {
            assert!(size_of::<$name>() == $size && align_of::<$name>() == 1);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )+
        };
    };
}

assert_layout!(CheckpointHeader: 256 {
    0 checksum, 16 magic, 24 version, 26 shard, 28 shards, 30 reserved0, 32 cluster, 48 op, 56 revision, 64 parent,
    80 timestamp_ns, 88 reserved1,
});
assert_layout!(ChunkHeader: 64 { 0 checksum, 16 op, 24 index, 28 payload_size, 32 section, 33 reserved, });
assert_layout!(CheckpointTrailer: 128 {
    0 checksum, 16 magic, 24 op, 32 store_size, 40 sessions_size, 48 state_hash, 64 chunks, 68 reserved,
});

impl CheckpointHeader {
    pub(super) fn expected_checksum(&self) -> u128 {
        checksum_128(&self.as_bytes()[16..])
    }
}

impl CheckpointTrailer {
    pub(super) fn expected_checksum(&self) -> u128 {
        checksum_128(&self.as_bytes()[16..])
    }
}

/// Size on disk of a chunk with this payload, in bytes.
pub(super) fn padded_chunk_size(payload_size: usize) -> usize {
    (ChunkHeader::SIZE + payload_size).next_multiple_of(SECTOR_SIZE)
}
