//! What the receive buffers of all native clients of a shard take together.
//!
//! Each buffer has a bound of its own, the largest frame; ten thousand clients that begin such a frame and do not end
//! it would still take more than there is. While there is plenty, buffers grow as reads fill them and stay as they are.
//! Beyond half of the bound they are only as large as the frame that has begun needs; beyond the bound a frame that
//! does not fit its buffer is refused.

use std::cell::Cell;

use crate::socket::RECEIVE_BYTES_MIN;

/// What the receive buffers of a shard's native clients may take together, beyond the smallest size of each, in bytes.
const BYTES_MAX: usize = 256 << 20;

/// The share of one connection.
pub(crate) struct Share<'a> {
    total: &'a Cell<usize>,
    held: usize,
}

impl Share<'_> {
    /// Nothing, of what the connections of a shard hold in all.
    pub fn of(total: &Cell<usize>) -> Share<'_> {
        Share { total, held: 0 }
    }

    /// Notes how large the buffer is.
    pub fn note(&mut self, capacity: usize) {
        let held = capacity.saturating_sub(RECEIVE_BYTES_MIN);
        self.total.set(self.total.get() - self.held + held);
        self.held = held;
    }

    /// Whether memory must be spared.
    pub fn is_tight(&self) -> bool {
        self.total.get() > BYTES_MAX / 2
    }

    /// Whether the buffer may be so large.
    pub fn has_room(&self, capacity: usize) -> bool {
        let held = capacity.saturating_sub(RECEIVE_BYTES_MIN);
        held <= self.held || self.total.get() - self.held + held <= BYTES_MAX
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.held);
    }
}

/// Drops the first `consumed` bytes, and leaves the buffer no larger than a frame of `frame_size` bytes, which has
/// begun, needs.
pub(crate) fn make_little_room(buffer: &mut Vec<u8>, consumed: usize, frame_size: usize) {
    buffer.drain(..consumed);
    let capacity = frame_size.max(RECEIVE_BYTES_MIN);
    if buffer.capacity() > capacity {
        buffer.shrink_to(capacity);
    } else {
        buffer.reserve_exact(capacity - buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_hold_is_bounded_and_given_back() {
        let total = Cell::new(0);
        let (mut one, mut other) = (Share::of(&total), Share::of(&total));
        one.note(RECEIVE_BYTES_MIN);
        assert_eq!(total.get(), 0, "the smallest are not counted");
        one.note(RECEIVE_BYTES_MIN + BYTES_MAX / 2);
        assert!(!other.is_tight());
        other.note(RECEIVE_BYTES_MIN + 1);
        assert!(one.is_tight() && other.is_tight());
        assert!(other.has_room(RECEIVE_BYTES_MIN + BYTES_MAX / 2));
        assert!(!other.has_room(RECEIVE_BYTES_MIN + BYTES_MAX / 2 + 1));
        other.note(RECEIVE_BYTES_MIN + BYTES_MAX / 2);
        assert!(
            !one.has_room(RECEIVE_BYTES_MIN + BYTES_MAX / 2 + 1) && one.has_room(RECEIVE_BYTES_MIN + BYTES_MAX / 2)
        );
        drop(one);
        assert_eq!(total.get(), BYTES_MAX / 2);
        drop(other);
        assert_eq!(total.get(), 0);
    }

    #[test]
    fn a_buffer_that_spares_memory_keeps_what_came_and_has_room_for_the_frame_that_has_begun() {
        let mut buffer = Vec::with_capacity(256 << 10);
        buffer.extend_from_slice(&[7; 100]);
        make_little_room(&mut buffer, 60, 32);
        assert_eq!((buffer.len(), buffer.capacity()), (40, RECEIVE_BYTES_MIN));
        make_little_room(&mut buffer, 0, 100_000);
        assert_eq!((buffer.len(), buffer.capacity()), (40, 100_000));
        make_little_room(&mut buffer, 40, 32);
        assert_eq!((buffer.len(), buffer.capacity()), (0, RECEIVE_BYTES_MIN));
    }
}
