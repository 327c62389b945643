//! The checksum of a client frame, put right, so that the fuzzer gets behind it.

use lockstep_proto::checksum::checksum_64;

/// The bytes as a frame with the right size and checksum; `None` if they are too few for a header.
pub fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < 32 {
        return None;
    }
    let mut frame = data.to_vec();
    let size = u32::try_from(frame.len()).ok()?;
    frame[..4].copy_from_slice(&size.to_le_bytes());
    let header = checksum_64(&frame[..24]);
    let body = &frame[32..];
    let checksum =
        if body.is_empty() { header } else { header.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ checksum_64(body) };
    frame[24..32].copy_from_slice(&checksum.to_le_bytes());
    Some(frame)
}
