//! The durable root of a shard: who it is, which view it is in, and where its checkpoint and journal begin.
//!
//! Four copies are kept, each in a sector of its own. A write goes to all of them with a higher sequence, two at a time,
//! so that a crash at any point leaves a valid copy of the old or of the new one; reading takes the valid copy
//! with the highest sequence.

use thiserror::Error;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U64, U128},
};

use crate::{
    checksum::checksum_128,
    layout::layout,
    limits::{COUNTER_MAX, DISK_FORMAT_VERSION, SERVERS_MAX, SHARDS_MAX},
};

/// "LKSTSUPR".
pub const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"LKSTSUPR");

/// Number of copies in the superblock file, one per sector.
pub const SUPERBLOCK_COPIES: usize = 4;

layout! {
    /// One copy of the superblock. The rest of its sector is zero.
    pub struct Superblock: 256 {
        0 checksum: U128 = "XXH3-128 of the bytes from 16 to 256.",
        16 magic: U64 = "`LKSTSUPR`.",
        24 version: U16 = "Version of the on-disk format.",
        26 replica: u8 = "This server's id.",
        27 servers: u8 = "Number of servers.",
        28 shard: U16 = "This shard.",
        30 shards: U16 = "Number of shards.",
        32 cluster: U128 = "The cluster.",
        48 sequence: U64 = "Counts the writes of the superblock.",
        56 view: U64 = "The durable view: no message with a higher one has been sent.",
        64 log_view: U64 = "The last view in which the log was normal.",
        72 journal_size: U64 = "Size of the journal ring, in bytes.",
        80 checkpoint: U64 = "Op of the durable checkpoint; 0 when there is none.",
        88 checkpoint_checksum: U128 = "XXH3-128 of the checkpoint file.",
        104 checkpoint_size: U64 = "Size of the checkpoint file, in bytes.",
        112 checkpoint_parent: U128 = "Checksum of the header of the prepare at the checkpoint; the next prepare's parent.",
        128 checkpoint_revision: U64 = "Revision that follows the checkpoint.",
        136 checkpoint_timestamp_ns: U64 = "Timestamp of the prepare at the checkpoint.",
        144 journal_offset: U64 = "Where in the ring the prepare after the checkpoint is, or will be.",
        152 state_hash: U128 = "Content hash of the state at the checkpoint.",
        168 has_lost_memory: u8 = "1 once started with durability `memory`: what it had acknowledged is lost at a restart.",
        169 is_recovering: u8 = "1 in a folder made by `recover`, until the cluster has said which view to join.",
        170 reserved0: [u8; 6] = "Zero.",
        176 vouch_op: U64 = "Highest op that may have been acknowledged in log_view and is lost: 0 none, 2^63 - 1 unknown.",
        184 incarnations: [U64; 7] = "Highest known incarnation of each server, the own one included; 0 when not known.",
        240 reserved1: [u8; 16] = "Zero.",
    }
}

/// Why a superblock copy cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// Not a superblock.
    #[error("not formatted: no superblock found")]
    Magic,
    /// Another version of the format.
    #[error("on-disk format version {0} is not supported (this build uses {DISK_FORMAT_VERSION})")]
    Version(u16),
    /// Damaged.
    #[error("superblock is damaged: checksum does not match")]
    Checksum,
    /// A field is out of its range.
    #[error("superblock is damaged: a field is out of range")]
    Field,
}

impl Superblock {
    /// Sets magic, version and checksum. The last thing done before writing.
    pub fn seal(&mut self) {
        self.magic = U64::new(SUPERBLOCK_MAGIC);
        self.version = U16::new(DISK_FORMAT_VERSION);
        self.checksum = U128::new(checksum_128(&self.as_bytes()[16..]));
    }

    /// Views a copy at the start of a sector.
    ///
    /// # Errors
    ///
    /// If the copy is not whole and of this version.
    pub fn parse(sector: &[u8]) -> Result<Superblock, SuperblockError> {
        let (superblock, _) = Superblock::read_from_prefix(sector).map_err(|_| SuperblockError::Magic)?;
        if superblock.magic.get() != SUPERBLOCK_MAGIC {
            return Err(SuperblockError::Magic);
        }
        if checksum_128(&superblock.as_bytes()[16..]) != superblock.checksum.get() {
            return Err(SuperblockError::Checksum);
        }
        if superblock.version.get() != DISK_FORMAT_VERSION {
            return Err(SuperblockError::Version(superblock.version.get()));
        }
        let is_sound = (1..=SERVERS_MAX).contains(&superblock.servers)
            && superblock.replica < superblock.servers
            && (1..=SHARDS_MAX).contains(&superblock.shards.get())
            && superblock.shard.get() < superblock.shards.get()
            && superblock.log_view.get() <= superblock.view.get()
            && superblock.journal_offset.get() < superblock.journal_size.get()
            && superblock.has_lost_memory <= 1
            && superblock.is_recovering <= 1
            && superblock.vouch_op.get() <= COUNTER_MAX
            && superblock.incarnations.iter().all(|incarnation| incarnation.get() <= COUNTER_MAX)
            && superblock.reserved0 == [0; 6]
            && superblock.reserved1 == [0; 16];
        if !is_sound {
            return Err(SuperblockError::Field);
        }
        Ok(superblock)
    }
}
