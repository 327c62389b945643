//! One number for the whole content, which does not depend on the order in which entries are looked at.
//!
//! It is the sum of the entries' hashes: a checkpoint, which comes across entries in the order in which they are
//! touched, arrives at the same number as a walk through all slots. A sum is no protection against somebody who makes
//! up entries to cancel each other out; it is there to find replicas that differ by accident.

use lockstep_proto::checksum::checksum_128;
use zerocopy::{
    Immutable, IntoBytes,
    little_endian::{U64, U128},
};

/// A sum over entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContentHash {
    sum: u128,
    count: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Total {
    sum: U128,
    count: U64,
    creation_next: U64,
}

impl ContentHash {
    pub fn new() -> ContentHash {
        ContentHash::default()
    }

    /// Takes in an entry as it stands in a checkpoint stream.
    pub fn add(&mut self, record: &[u8]) {
        self.sum = self.sum.wrapping_add(checksum_128(record));
        self.count += 1;
    }

    /// Number of entries taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The number for all entries taken in and the counter of creations.
    pub fn finish(&self, creation_next: u64) -> u128 {
        let total =
            Total { sum: U128::new(self.sum), count: U64::new(self.count), creation_next: U64::new(creation_next) };
        checksum_128(total.as_bytes())
    }
}
