//! Checksums: XXH3, 64 bits wide for client frames and 128 bits wide for replica messages, superblocks and checkpoints.
//!
//! What they catch: bit rot, torn and misdirected writes, truncation, and bytes mixed up by a broken network card or
//! proxy; a random change passes unseen once in 2^64, or 2^128, times. What they do not catch: an attacker who changes
//! bytes *and* checksum, since XXH3 is not a cryptographic hash and no key is used.

use xxhash_rust::xxh3;

/// XXH3 of `bytes`, in 64 bits: for client frames.
#[inline]
pub fn checksum_64(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// XXH3 of `bytes`, in 128 bits: for everything that is written to disk, and for the hash chain of the log.
#[inline]
pub fn checksum_128(bytes: &[u8]) -> u128 {
    xxh3::xxh3_128(bytes)
}

/// XXH3 in 128 bits over bytes that arrive in pieces.
///
/// Equal to [`checksum_128`] of the pieces laid end to end.
#[derive(Clone, Default)]
pub struct Checksum128(xxh3::Xxh3);

impl Checksum128 {
    /// A checksum of nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything taken in so far.
    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

/// The cluster id that belongs to a cluster's name.
///
/// Servers are formatted one by one, on hosts that do not talk to each other yet, so the id must follow from the name
/// alone.
pub fn cluster_id(name: &str) -> u128 {
    match checksum_128(name.as_bytes()) {
        0 => 1, // Zero means "any cluster" in a client's hello.
        id => id,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_xxh3() {
        assert_eq!(checksum_64(b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(checksum_128(b""), 0x99AA_06D3_0147_98D8_6001_C324_468D_497F);
    }

    #[test]
    fn a_cluster_id_follows_from_the_name_and_is_never_zero() {
        assert_eq!(cluster_id("north"), cluster_id("north"));
        assert_ne!(cluster_id("north"), cluster_id("south"));
        assert_ne!(cluster_id(""), 0);
    }

    proptest! {
        #[test]
        fn pieces_give_the_checksum_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut checksum = Checksum128::new();
            let mut start = 0;
            for end in cuts.into_iter().chain([bytes.len()]) {
                checksum.update(&bytes[start..end]);
                start = end;
            }
            prop_assert_eq!(checksum.finish(), checksum_128(&bytes));
        }
    }
}
