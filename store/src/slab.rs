//! Memory for entries: chunks cut into equal slots, a hundred sizes of them, and a chunk of its own for what is larger.
//!
//! A handle is 32 bits, half of what an address takes in every bucket and list. It says in which chunk (20 bits) and
//! which slot of it (12 bits) an entry lies. Free slots of a chunk are chained through their own first bytes, so
//! freeing and reusing needs no other memory; a chunk whose last entry goes is given back to the allocator, so memory
//! follows the data when sizes change over time.

use std::num::NonZeroU32;

const SLOT_BITS: u32 = 12;
const SLOTS_MAX: usize = 1 << SLOT_BITS;
const CHUNKS_MAX: usize = 1 << (32 - SLOT_BITS);

/// Largest chunk that is cut into slots, in bytes. Chunks have the size of a power of two, which is what allocators
/// serve without loss; the server's loses a sixth at some sizes between.
const CHUNK_SIZE_MAX: usize = 1 << 19;

/// Largest slot, in bytes. An entry beyond it has a chunk to itself.
const SLOT_SIZE_MAX: usize = 128 << 10;

/// Sizes up to here, in bytes, are rounded up to a multiple of 8; larger ones to an eighth of a power of two.
const FINE_SIZE_MAX: usize = 256;
const FINE_CLASSES: usize = FINE_SIZE_MAX / 8;
const CLASSES: usize = FINE_CLASSES + 8 * (SLOT_SIZE_MAX / FINE_SIZE_MAX).ilog2() as usize;

const CLASS_LARGE: u8 = u8::MAX;
const FREE_NONE: u16 = u16::MAX;

/// Where an entry lies. Never zero, so that `Option<Handle>` is as small as a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(NonZeroU32);

impl Handle {
    #[inline]
    fn new(chunk: usize, slot: usize) -> Handle {
        debug_assert!(chunk > 0 && chunk < CHUNKS_MAX && slot < SLOTS_MAX);
        Handle(NonZeroU32::new((chunk as u32) << SLOT_BITS | slot as u32).expect("chunk 0 is never used"))
    }

    #[inline]
    pub fn from_bits(bits: u32) -> Option<Handle> {
        NonZeroU32::new(bits).map(Handle)
    }

    #[inline]
    pub fn to_bits(self) -> u32 {
        self.0.get()
    }

    #[inline]
    fn chunk(self) -> usize {
        (self.0.get() >> SLOT_BITS) as usize
    }

    #[inline]
    fn slot(self) -> usize {
        self.0.get() as usize & (SLOTS_MAX - 1)
    }
}

struct Chunk {
    bytes: Box<[u8]>,
    slot_size: u32,
    /// Place in its class's list of chunks with room; meaningless when the chunk is full.
    partial_at: u32,
    live: u16,
    /// Slots from here on were never used, and their memory never touched.
    fresh: u16,
    free_head: u16,
    class: u8,
}

impl Chunk {
    fn unused() -> Chunk {
        Chunk {
            bytes: Box::default(),
            slot_size: 0,
            partial_at: 0,
            live: 0,
            fresh: 0,
            free_head: FREE_NONE,
            class: CLASS_LARGE,
        }
    }

    fn slots(&self) -> usize {
        self.bytes.len() / self.slot_size as usize
    }

    fn is_full(&self) -> bool {
        self.live as usize == self.slots()
    }

    #[inline]
    fn range(&self, slot: usize) -> std::ops::Range<usize> {
        let start = slot * self.slot_size as usize;
        start..start + self.slot_size as usize
    }
}

/// The entries' memory.
pub(crate) struct Slab {
    chunks: Vec<Chunk>,
    unused_chunks: Vec<u32>,
    /// For each class the chunks with room.
    partial: Vec<Vec<u32>>,
    reserved: usize,
}

impl Slab {
    pub fn new() -> Slab {
        Slab {
            chunks: vec![Chunk::unused()],
            unused_chunks: Vec::new(),
            partial: vec![Vec::new(); CLASSES],
            reserved: 0,
        }
    }

    /// Memory of all chunks, in bytes, whether entries use it or not.
    pub fn memory_bytes(&self) -> usize {
        self.reserved + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// The whole slot of an entry, which may be larger than the entry.
    #[inline]
    pub fn bytes(&self, handle: Handle) -> &[u8] {
        let chunk = &self.chunks[handle.chunk()];
        &chunk.bytes[chunk.range(handle.slot())]
    }

    /// The whole slot of an entry, for changes.
    #[inline]
    pub fn bytes_mut(&mut self, handle: Handle) -> &mut [u8] {
        let chunk = &mut self.chunks[handle.chunk()];
        let range = chunk.range(handle.slot());
        &mut chunk.bytes[range]
    }

    /// Whether an entry that comes to have `size` bytes may stay where it is: it fits, and would not waste half of the
    /// slot.
    #[inline]
    pub fn is_fitting(&self, handle: Handle, size: usize) -> bool {
        let slot_size = self.chunks[handle.chunk()].slot_size as usize;
        size <= slot_size && (size > slot_size / 2 || slot_size <= 64)
    }

    /// Copies the first `size` bytes of one entry's slot to another's.
    pub fn copy(&mut self, from: Handle, to: Handle, size: usize) {
        let from_range = self.chunks[from.chunk()].range(from.slot());
        let to_start = self.chunks[to.chunk()].range(to.slot()).start;
        let from_range = from_range.start..from_range.start + size;
        if from.chunk() == to.chunk() {
            self.chunks[from.chunk()].bytes.copy_within(from_range, to_start);
            return;
        }
        let chunks = self.chunks.get_disjoint_mut([from.chunk(), to.chunk()]);
        let [from, to] = chunks.expect("two chunks that both exist");
        to.bytes[to_start..to_start + size].copy_from_slice(&from.bytes[from_range]);
    }

    /// Finds room for an entry of `size` bytes. The room's contents are arbitrary.
    ///
    /// # Panics
    ///
    /// If there are a million chunks already. The store's bound on the size of its data is reached long before.
    pub fn allocate(&mut self, size: usize) -> Handle {
        let Some(class) = class_of(size) else {
            return self.add_chunk(CLASS_LARGE, size, size);
        };
        let Some(&id) = self.partial[class].last() else {
            let slot_size = class_size(class);
            return self.add_chunk(class as u8, slot_size, chunk_size(slot_size));
        };
        let chunk = &mut self.chunks[id as usize];
        let slot = if chunk.free_head == FREE_NONE {
            chunk.fresh += 1;
            chunk.fresh as usize - 1
        } else {
            let slot = chunk.free_head as usize;
            let start = slot * chunk.slot_size as usize;
            chunk.free_head = u16::from_le_bytes([chunk.bytes[start], chunk.bytes[start + 1]]);
            slot
        };
        chunk.live += 1;
        if chunk.is_full() {
            self.partial[class].pop();
        }
        Handle::new(id as usize, slot)
    }

    fn add_chunk(&mut self, class: u8, slot_size: usize, size: usize) -> Handle {
        let id = self.unused_chunks.pop().unwrap_or_else(|| {
            assert!(self.chunks.len() < CHUNKS_MAX, "the store has no room for more entries");
            self.chunks.push(Chunk::unused());
            self.chunks.len() as u32 - 1
        });
        let mut chunk = Chunk::unused();
        chunk.bytes = vec![0; size].into_boxed_slice();
        chunk.slot_size = slot_size as u32;
        chunk.class = class;
        chunk.live = 1;
        chunk.fresh = 1;
        self.reserved += chunk.bytes.len();
        if !chunk.is_full() {
            let partial = &mut self.partial[class as usize];
            chunk.partial_at = partial.len() as u32;
            partial.push(id);
        }
        self.chunks[id as usize] = chunk;
        Handle::new(id as usize, 0)
    }

    /// Gives an entry's room back. The handle must not be used again.
    pub fn free(&mut self, handle: Handle) {
        let id = handle.chunk();
        let chunk = &mut self.chunks[id];
        debug_assert!(chunk.live > 0 && handle.slot() < chunk.fresh as usize);
        if chunk.class == CLASS_LARGE {
            return self.drop_chunk(id);
        }
        let was_full = chunk.is_full();
        let start = chunk.range(handle.slot()).start;
        chunk.bytes[start..start + 2].copy_from_slice(&chunk.free_head.to_le_bytes());
        chunk.free_head = handle.slot() as u16;
        chunk.live -= 1;
        let is_empty = chunk.live == 0;
        let class = chunk.class as usize;
        if was_full {
            chunk.partial_at = self.partial[class].len() as u32;
            self.partial[class].push(id as u32);
        }
        // The last chunk of a class stays, so that a key that comes and goes does not make a chunk come and go.
        if is_empty && self.partial[class].len() > 1 {
            let at = self.chunks[id].partial_at as usize;
            self.partial[class].swap_remove(at);
            if let Some(&moved) = self.partial[class].get(at) {
                self.chunks[moved as usize].partial_at = at as u32;
            }
            self.drop_chunk(id);
        }
    }

    fn drop_chunk(&mut self, id: usize) {
        self.reserved -= self.chunks[id].bytes.len();
        self.chunks[id] = Chunk::unused();
        self.unused_chunks.push(id as u32);
    }
}

/// The class of an entry of `size` bytes; `None` for one that gets a chunk to itself.
#[inline]
fn class_of(size: usize) -> Option<usize> {
    debug_assert!(size > 0);
    if size <= FINE_SIZE_MAX {
        return Some((size - 1) / 8);
    }
    if size > SLOT_SIZE_MAX {
        return None;
    }
    let log = (size - 1).ilog2();
    let step = ((size - 1) >> (log - 3)) & 7;
    Some(FINE_CLASSES + 8 * (log - FINE_SIZE_MAX.ilog2()) as usize + step)
}

/// Size of the chunks that are cut into slots of `slot_size`, in bytes.
fn chunk_size(slot_size: usize) -> usize {
    let size_max = SLOTS_MAX * slot_size;
    CHUNK_SIZE_MAX.min(1 << size_max.ilog2())
}

/// Size of the slots of a class, in bytes.
fn class_size(class: usize) -> usize {
    if class < FINE_CLASSES {
        return (class + 1) * 8;
    }
    let coarse = class - FINE_CLASSES;
    let log = FINE_SIZE_MAX.ilog2() as usize + coarse / 8;
    (9 + coarse % 8) << (log - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for size in 1..=SLOT_SIZE_MAX {
            let class = class_of(size).expect("within the largest slot");
            assert!(class_size(class) >= size, "{size}");
            assert!(class == 0 || class_size(class - 1) < size, "{size}");
            assert!(
                size <= FINE_SIZE_MAX || class_size(class) * 8 <= size * 9 + 8,
                "{size} wastes more than an eighth"
            );
        }
        assert_eq!(class_of(SLOT_SIZE_MAX), Some(CLASSES - 1));
        assert_eq!(class_of(SLOT_SIZE_MAX + 1), None);
    }

    #[test]
    fn every_chunk_is_used_nearly_to_its_end() {
        for class in 0..CLASSES {
            let slots = chunk_size(class_size(class)) / class_size(class);
            assert!((4..=SLOTS_MAX).contains(&slots), "{slots} slots of {} bytes", class_size(class));
        }
    }

    #[test]
    fn slots_do_not_overlap_and_come_back_after_free() {
        let mut slab = Slab::new();
        let handles: Vec<Handle> = (0..10_000).map(|_| slab.allocate(100)).collect();
        for (number, &handle) in handles.iter().enumerate() {
            slab.bytes_mut(handle).fill(number as u8);
        }
        for (number, &handle) in handles.iter().enumerate() {
            assert!(slab.bytes(handle).iter().all(|&byte| byte == number as u8));
        }
        let reserved = slab.memory_bytes();
        for &handle in handles.iter().step_by(2) {
            slab.free(handle);
        }
        for _ in 0..5000 {
            slab.allocate(104);
        }
        assert_eq!(slab.memory_bytes(), reserved);
    }

    #[test]
    fn empty_chunks_are_given_back() {
        let mut slab = Slab::new();
        let handles: Vec<Handle> = (0..100_000).map(|_| slab.allocate(200)).collect();
        let large = slab.allocate(1 << 20);
        assert_eq!(slab.bytes(large).len(), 1 << 20);
        assert!(slab.reserved > 20 << 20);
        slab.free(large);
        for handle in handles {
            slab.free(handle);
        }
        assert!(slab.reserved <= CHUNK_SIZE_MAX);
        // Their numbers are used again, for other sizes too.
        let chunks = slab.chunks.len();
        for _ in 0..500 {
            slab.allocate(20_000);
        }
        assert_eq!(slab.chunks.len(), chunks);
    }
}
