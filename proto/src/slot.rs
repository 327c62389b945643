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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::SHARDS_MAX;

    /// CRC16 (XMODEM) one bit at a time, straight from its definition: polynomial 0x1021, nothing reflected, starting at 0.
    fn crc16_by_bits(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc, &byte| {
            (0..8).fold(
                crc ^ (u16::from(byte) << 8),
                |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
                },
            )
        })
    }

    #[test]
    fn the_check_value_of_the_cluster_specification() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"123456789"), 0x31C3);
    }

    #[test]
    fn slots_that_redis_cluster_gives() {
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("hello", 866), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn the_hash_tag_is_what_stands_between_the_first_braces() {
        for (key, tag) in [
            ("{user1000}.following", "user1000"),
            ("{user1000}.followers", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo}{bar", "foo}{bar"),
            ("foo{bar", "foo{bar"),
            ("}{", "}{"),
            ("{}", "{}"),
            ("{", "{"),
            ("a{b}", "b"),
            ("}a{b}", "b"),
            ("", ""),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
            assert_eq!(slot_of(key.as_bytes()), crc16_by_bits(tag.as_bytes()) % SLOTS, "{key}");
        }
    }

    #[test]
    fn shards_own_every_slot_exactly_once() {
        for shards in 1..=SHARDS_MAX {
            let mut next = 0;
            for shard in 0..shards {
                let slots = slots_of_shard(shard, shards);
                assert_eq!(slots.start, next, "shard {shard} of {shards}");
                assert!(!slots.is_empty(), "shard {shard} of {shards}");
                for slot in slots.clone() {
                    assert_eq!(shard_of_slot(slot, shards), shard, "slot {slot} of {shards} shards");
                }
                next = slots.end;
            }
            assert_eq!(next, SLOTS, "{shards} shards");
        }
    }

    #[test]
    fn shards_differ_in_size_by_one_slot_at_most() {
        for shards in 1..=SHARDS_MAX {
            let smallest = SLOTS / shards;
            for shard in 0..shards {
                let size = slots_of_shard(shard, shards).len();
                assert!(size == usize::from(smallest) || size == usize::from(smallest) + 1);
            }
        }
    }

    #[test]
    #[should_panic]
    fn a_shard_that_does_not_exist_owns_nothing() {
        slots_of_shard(3, 3);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_definition(key in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(CRC.checksum(&key), crc16_by_bits(&key));
            prop_assert!(slot_of(&key) < SLOTS);
        }

        #[test]
        fn a_key_is_in_its_shard(key in prop::collection::vec(any::<u8>(), 0..50), shards in 1..=SHARDS_MAX) {
            let shard = shard_of_key(&key, shards);
            prop_assert!(slots_of_shard(shard, shards).contains(&slot_of(&key)));
        }

        #[test]
        fn keys_with_one_tag_share_a_slot(
            tag in "[^{}]{1,20}", before in "[^{]{0,10}", after in ".{0,10}",
        ) {
            let key = format!("{before}{{{tag}}}{after}");
            prop_assert_eq!(slot_of(key.as_bytes()), slot_of(tag.as_bytes()));
        }
    }
}
