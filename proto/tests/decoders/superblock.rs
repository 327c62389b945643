//! The superblock.

use lockstep_proto::{
    limits::{COUNTER_MAX, SECTOR_SIZE, SERVERS_MAX, SHARDS_MAX},
    superblock::{SUPERBLOCK_MAGIC, Superblock, SuperblockError},
};
use proptest::prelude::*;
use zerocopy::{
    FromBytes, FromZeros, IntoBytes,
    little_endian::{U16, U64, U128},
};

use crate::damage::{each_flipped_bit, noise};

fn superblock() -> impl Strategy<Value = Superblock> {
    let places = (1..=SERVERS_MAX, any::<prop::sample::Index>(), 1..=SHARDS_MAX, any::<prop::sample::Index>());
    let numbers = prop::array::uniform8(any::<u64>());
    let sums = prop::array::uniform4(any::<u128>());
    (places, numbers, sums, 0..2u8).prop_map(|((servers, replica, shards, shard), numbers, sums, has_lost_memory)| {
        let journal_size = numbers[0].max(1);
        let mut superblock = Superblock {
            replica: replica.index(servers.into()) as u8,
            servers,
            shard: U16::new(shard.index(shards.into()) as u16),
            shards: U16::new(shards),
            cluster: U128::new(sums[0]),
            sequence: U64::new(numbers[1]),
            view: U64::new(numbers[2].max(numbers[3])),
            log_view: U64::new(numbers[2].min(numbers[3])),
            journal_size: U64::new(journal_size),
            checkpoint: U64::new(numbers[4]),
            checkpoint_checksum: U128::new(sums[1]),
            checkpoint_size: U64::new(numbers[5]),
            checkpoint_parent: U128::new(sums[2]),
            checkpoint_revision: U64::new(numbers[6]),
            checkpoint_timestamp_ns: U64::new(numbers[7]),
            journal_offset: U64::new(numbers[5] % journal_size),
            state_hash: U128::new(sums[3]),
            has_lost_memory,
            is_recovering: has_lost_memory,
            vouch_op: U64::new(numbers[6] & COUNTER_MAX),
            incarnations: [U64::new(numbers[7] & COUNTER_MAX); 7],
            ..Superblock::new_zeroed()
        };
        superblock.seal();
        superblock
    })
}

fn sector(superblock: &Superblock) -> Vec<u8> {
    let mut sector = vec![0; SECTOR_SIZE];
    sector[..Superblock::SIZE].copy_from_slice(superblock.as_bytes());
    sector
}

/// The smallest superblock that is in order.
fn smallest() -> Superblock {
    let one = U64::new(1);
    let mut superblock = Superblock { servers: 1, shards: U16::new(1), journal_size: one, ..Superblock::new_zeroed() };
    superblock.seal();
    superblock
}

#[test]
fn a_disk_that_was_never_formatted_is_told_from_a_damaged_one() {
    assert_eq!(Superblock::parse(&[]), Err(SuperblockError::Magic));
    assert_eq!(Superblock::parse(&[0; SECTOR_SIZE]), Err(SuperblockError::Magic));
    assert_eq!(Superblock::parse(&[0xFF; SECTOR_SIZE]), Err(SuperblockError::Magic));
    let mut damaged = sector(&smallest());
    damaged[100] ^= 1;
    assert_eq!(Superblock::parse(&damaged), Err(SuperblockError::Checksum));
}

#[test]
fn another_version_of_the_format_is_told_which() {
    let mut bytes = sector(&smallest());
    bytes[24] = 9;
    let checksum = lockstep_proto::checksum::checksum_128(&bytes[16..Superblock::SIZE]);
    bytes[..16].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(Superblock::parse(&bytes), Err(SuperblockError::Version(9)));
}

#[test]
fn fields_out_of_their_range_are_refused() {
    let good = smallest();
    assert_eq!(Superblock::parse(good.as_bytes()), Ok(good));
    for bad in [
        Superblock { servers: 0, ..good },
        Superblock { servers: SERVERS_MAX + 1, ..good },
        Superblock { replica: 1, ..good },
        Superblock { shards: U16::new(0), ..good },
        Superblock { shards: U16::new(SHARDS_MAX + 1), ..good },
        Superblock { shard: U16::new(1), ..good },
        Superblock { log_view: U64::new(1), ..good },
        Superblock { journal_size: U64::new(0), ..good },
        Superblock { journal_offset: U64::new(1), ..good },
        Superblock { has_lost_memory: 2, ..good },
        Superblock { is_recovering: 2, ..good },
        Superblock { vouch_op: U64::new(COUNTER_MAX + 1), ..good },
        Superblock { incarnations: [U64::MAX_VALUE; 7], ..good },
        Superblock { reserved0: [1; 6], ..good },
        Superblock { reserved1: [1; 16], ..good },
    ] {
        assert_eq!(Superblock::parse(bad.as_bytes()), Err(SuperblockError::Checksum), "{bad:?}");
        let mut bad = bad;
        bad.seal();
        assert_eq!(Superblock::parse(bad.as_bytes()), Err(SuperblockError::Field), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn every_superblock_comes_back(superblock in superblock()) {
        prop_assert_eq!(Superblock::parse(&sector(&superblock)), Ok(superblock));
        prop_assert_eq!(superblock.magic.get(), SUPERBLOCK_MAGIC);
    }

    #[test]
    fn a_copy_that_is_cut_off_never_passes(superblock in superblock()) {
        for size in 0..Superblock::SIZE {
            // A torn write leaves either nothing or zeroes behind its end.
            prop_assert!(Superblock::parse(&superblock.as_bytes()[..size]).is_err());
            let mut torn = sector(&superblock);
            torn[size..].fill(0);
            let is_whole = torn[..Superblock::SIZE] == *superblock.as_bytes();
            prop_assert_eq!(Superblock::parse(&torn).is_ok(), is_whole);
        }
    }

    #[test]
    fn a_flipped_bit_never_passes(superblock in superblock()) {
        each_flipped_bit(superblock.as_bytes(), |damaged, bit| {
            assert!(Superblock::parse(damaged).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn bytes_that_are_no_superblock_do_no_harm(bytes in noise(400)) {
        let mut bytes = bytes;
        prop_assert!(Superblock::parse(&bytes).is_err());
        if let Ok((superblock, _)) = Superblock::mut_from_prefix(&mut bytes) {
            superblock.seal();
            let superblock = *superblock;
            if let Ok(parsed) = Superblock::parse(&bytes) {
                prop_assert_eq!(parsed, superblock);
                prop_assert!(parsed.replica < parsed.servers && parsed.shard.get() < parsed.shards.get());
            }
        }
    }
}
