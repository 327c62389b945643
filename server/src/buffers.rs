//! Page-aligned buffers from a pool: what direct I/O, the ring and the batches under construction work in.
//!
//! A buffer is taken from a [`Pool`], filled, and either dropped or frozen into a [`Bytes`] that can be sent to several
//! backups and written to the journal at the same time; its memory goes back to the pool when the last reference is
//! gone. Memory is zeroed once, when it is allocated, so that a buffer is plain initialised bytes for its whole life;
//! it is never zeroed again, so a taken buffer holds whatever was last in it.
//!
//! Each shard has a pool of its own, so the lock inside is never contended. It is there because a [`Bytes`] may be
//! dropped on any thread, and giving memory back must be sound wherever that happens.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fmt,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio_uring::buf::{IoBuf, IoBufMut};

/// Alignment of every buffer, in bytes: what direct I/O asks for on any disk we know.
pub const BUFFER_ALIGN: usize = 4096;

/// Smallest buffer, in bytes.
pub const BUFFER_SIZE_MIN: usize = 4096;

/// Largest buffer, in bytes.
pub const BUFFER_SIZE_MAX: usize = 8 << 20;

/// Buffers come in powers of two from [`BUFFER_SIZE_MIN`] to [`BUFFER_SIZE_MAX`].
const CLASSES: usize = (BUFFER_SIZE_MAX / BUFFER_SIZE_MIN).trailing_zeros() as usize + 1;

const fn class_size(class: usize) -> usize {
    BUFFER_SIZE_MIN << class
}

fn class_layout(class: usize) -> Layout {
    Layout::from_size_align(class_size(class), BUFFER_ALIGN).expect("sizes and alignment are powers of two")
}

/// Owned, zero-initialised, page-aligned memory of one size class.
struct Block {
    start: NonNull<u8>,
    class: usize,
}

// SAFETY: a block owns its memory exclusively, as a `Box<[u8]>` would; nothing about it is tied to a thread.
unsafe impl Send for Block {}
// SAFETY: a shared block gives out shared access to plain bytes only.
unsafe impl Sync for Block {}

impl Block {
    fn allocate(class: usize) -> Block {
        let layout = class_layout(class);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Block { start, class }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the block owns `class_size` bytes, zeroed at allocation, and `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), class_size(self.class)) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), class_size(self.class)) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout and is given back once.
        unsafe { dealloc(self.start.as_ptr(), class_layout(self.class)) }
    }
}

/// The idle memory of a pool.
struct Shelf {
    idle: Mutex<Idle>,
    idle_bytes_max: usize,
}

#[derive(Default)]
struct Idle {
    classes: [Vec<Block>; CLASSES],
    bytes: usize,
    taken_bytes: usize,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        // A panic elsewhere cannot leave the shelf half-changed: nothing in here calls out while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, class: usize) -> Block {
        let mut idle = self.lock();
        idle.taken_bytes += class_size(class);
        if let Some(block) = idle.classes[class].pop() {
            idle.bytes -= class_size(class);
            return block;
        }
        drop(idle);
        Block::allocate(class)
    }

    fn give_back(&self, block: Block) {
        let mut idle = self.lock();
        let size = class_size(block.class);
        idle.taken_bytes -= size;
        if idle.bytes + size <= self.idle_bytes_max {
            idle.bytes += size;
            let class = block.class;
            idle.classes[class].push(block);
        } else {
            drop(idle);
            drop(block);
        }
    }
}

/// Where buffers come from and go back to. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct Pool {
    shelf: Arc<Shelf>,
}

impl Pool {
    /// An empty pool that keeps at most `idle_bytes_max` bytes of memory that nobody uses.
    ///
    /// How much is *in use* is for the callers to bound: they all have bounds of their own (pipeline, connections).
    pub fn new(idle_bytes_max: usize) -> Pool {
        Pool { shelf: Arc::new(Shelf { idle: Mutex::default(), idle_bytes_max }) }
    }

    /// A buffer of at least `capacity_min` bytes. Its contents are arbitrary.
    ///
    /// # Panics
    ///
    /// If `capacity_min` is beyond [`BUFFER_SIZE_MAX`].
    pub fn take(&self, capacity_min: usize) -> AlignedBuffer {
        assert!(capacity_min <= BUFFER_SIZE_MAX, "no message or chunk is that large");
        let size = capacity_min.next_power_of_two().max(BUFFER_SIZE_MIN);
        let class = (size / BUFFER_SIZE_MIN).trailing_zeros() as usize;
        AlignedBuffer { block: Some(self.shelf.take(class)), shelf: self.shelf.clone() }
    }

    /// Makes the first `len` bytes of a buffer immutable and shareable, without copying them. The whole buffer goes
    /// back to its pool when the last reference is dropped.
    ///
    /// # Panics
    ///
    /// If `len` is beyond the buffer's capacity.
    pub fn freeze(buffer: AlignedBuffer, len: usize) -> Bytes {
        assert!(len <= buffer.len());
        Bytes::from_owner(Frozen { buffer, len })
    }

    /// Copies `bytes` into a buffer whose length is padded with zeroes to a multiple of `align`, and freezes it.
    ///
    /// # Panics
    ///
    /// If the padded length is beyond [`BUFFER_SIZE_MAX`], or `align` is zero.
    pub fn copy_padded(&self, bytes: &[u8], align: usize) -> Bytes {
        let padded = bytes.len().next_multiple_of(align);
        let mut buffer = self.take(padded);
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer[bytes.len()..padded].fill(0);
        Pool::freeze(buffer, padded)
    }

    /// Bytes of memory that wait in the pool for somebody to take them.
    pub fn idle_bytes(&self) -> usize {
        self.shelf.lock().bytes
    }

    /// Bytes of memory that are taken at present, frozen ones included.
    pub fn taken_bytes(&self) -> usize {
        self.shelf.lock().taken_bytes
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (idle, taken) = (self.idle_bytes(), self.taken_bytes());
        formatter.debug_struct("Pool").field("idle_bytes", &idle).field("taken_bytes", &taken).finish()
    }
}

/// A page-aligned buffer from a [`Pool`]. As a slice it is its whole capacity, all of it initialised.
pub struct AlignedBuffer {
    /// `None` only while the buffer is being dropped.
    block: Option<Block>,
    shelf: Arc<Shelf>,
}

impl AlignedBuffer {
    fn block(&self) -> &Block {
        self.block.as_ref().expect("only drop takes the block out")
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block().bytes()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().expect("only drop takes the block out").bytes_mut()
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.shelf.give_back(block);
        }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AlignedBuffer").field("capacity", &self.len()).finish()
    }
}

// SAFETY: the memory is on the heap and stays where it is while the buffer is moved; all of it is initialised.
unsafe impl IoBuf for AlignedBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.block().start.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}

// SAFETY: as for `IoBuf`; the pointer comes from an exclusive borrow and nobody else has one.
unsafe impl IoBufMut for AlignedBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.block().start.as_ptr()
    }

    unsafe fn set_init(&mut self, _end: usize) {
        // All of the memory has been initialised since it was allocated: there is nothing to record.
    }
}

/// A buffer that nobody writes to any more.
struct Frozen {
    buffer: AlignedBuffer,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_initialised_and_large_enough() {
        let pool = Pool::new(64 << 20);
        for capacity_min in [0, 1, 4096, 4097, 65_536, 1 << 20, (4 << 20) + 1, BUFFER_SIZE_MAX] {
            let buffer = pool.take(capacity_min);
            assert!(buffer.len() >= capacity_min.max(BUFFER_SIZE_MIN));
            assert!(buffer.len() < 2 * capacity_min.max(BUFFER_SIZE_MIN));
            assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGN, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn memory_is_reused_as_it_was_left() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(4096);
        buffer[17] = 99;
        let address = buffer.as_ptr();
        drop(buffer);
        let buffer = pool.take(100);
        assert_eq!(buffer.as_ptr(), address);
        assert_eq!(buffer[17], 99);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Pool::new(10_000);
        let buffers: Vec<_> = (0..8).map(|_| pool.take(4096)).collect();
        assert_eq!((pool.idle_bytes(), pool.taken_bytes()), (0, 8 * 4096));
        drop(buffers);
        assert_eq!((pool.idle_bytes(), pool.taken_bytes()), (2 * 4096, 0));
    }

    #[test]
    fn frozen_memory_returns_when_the_last_reference_is_gone_on_any_thread() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(8192);
        buffer[..5].copy_from_slice(b"hello");
        let frozen = Pool::freeze(buffer, 5);
        let slice = frozen.slice(1..3);
        assert_eq!(&frozen[..], b"hello");
        drop(frozen);
        assert_eq!(pool.idle_bytes(), 0);
        std::thread::spawn(move || assert_eq!(&slice[..], b"el")).join().expect("the thread does not panic");
        assert_eq!(pool.idle_bytes(), 8192);
    }

    #[test]
    fn copies_are_padded_with_zeroes_even_in_used_memory() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(4096);
        buffer.fill(7);
        drop(buffer);
        let copy = pool.copy_padded(b"abc", 4096);
        assert_eq!(copy.len(), 4096);
        assert_eq!(&copy[..3], b"abc");
        assert!(copy[3..].iter().all(|&byte| byte == 0));
    }
}
