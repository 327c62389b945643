//! Key → slot → shard.
//!
//! A slot is CRC16 (XMODEM) of the key, or of its hash tag, modulo 16384, as the Redis Cluster specification defines it
//! under "Key distribution model". Shards own equal, contiguous ranges of slots.

use crc::{CRC_16_XMODEM, Crc, Table};

use crate::limits::SLOTS;

static CRC: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// The part of the key that decides its slot: what stands between the first `{` and the first `}` after it, if that is
/// not empty, and else the whole key.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    match key[open + 1..].iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(size) => &key[open + 1..open + 1 + size],
    }
}

/// The slot of a key, below [`SLOTS`].
pub fn slot_of(key: &[u8]) -> u16 {
    CRC.checksum(hash_tag(key)) % SLOTS
}

/// The shard that owns `slot` in a cluster of `shards` shards.
///
/// # Panics
///
/// If `shards` is zero or `slot` is not below [`SLOTS`].
#[inline]
pub fn shard_of_slot(slot: u16, shards: u16) -> u16 {
    assert!(shards > 0 && slot < SLOTS);
    (u32::from(slot) * u32::from(shards) / u32::from(SLOTS)) as u16
}

/// The shard that owns a key in a cluster of `shards` shards.
///
/// # Panics
///
/// If `shards` is zero.
#[inline]
pub fn shard_of_key(key: &[u8], shards: u16) -> u16 {
    // With one shard there is nothing to find out, and the hot path saves the checksum of the key.
    if shards == 1 { 0 } else { shard_of_slot(slot_of(key), shards) }
}

/// The slots that `shard` owns, from the first to one past the last.
///
/// # Panics
///
/// If `shard` is not below `shards`.
pub fn slots_of_shard(shard: u16, shards: u16) -> std::ops::Range<u16> {
    assert!(shard < shards);
    let first = |shard: u16| (u32::from(shard) * u32::from(SLOTS)).div_ceil(u32::from(shards)) as u16;
    first(shard)..first(shard + 1)
}
