//! Ways to damage bytes, and the checksum of a client frame computed a second time, from its description alone.

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Calls `check` with every copy of `bytes` that differs from it in one bit, and the number of the bit.
pub fn each_flipped_bit(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut damaged = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        check(&damaged, bit);
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Bytes of any kind, with more zeroes and small numbers in them than chance gives.
pub fn noise(size_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => any::<u8>(), 2 => Just(0u8), 2 => 0..20u8, 1 => Just(0xFFu8)];
    prop::collection::vec(byte, 0..=size_max)
}

/// Writes size and checksum into the frame, as `docs/protocol.md` describes them.
pub fn seal_frame(frame: &mut [u8]) {
    let size = u32::try_from(frame.len()).expect("a small frame");
    frame[..4].copy_from_slice(&size.to_le_bytes());
    let header = xxh3_64(&frame[..24]);
    let body = &frame[32..];
    let checksum = if body.is_empty() { header } else { header.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ xxh3_64(body) };
    frame[24..32].copy_from_slice(&checksum.to_le_bytes());
}
