//! From a key's hash to its handle: extendible hashing, so that growth never stops the store for a full rehash.
//!
//! The top bits of a hash select, through a directory, a segment of 8 KiB. A segment that is nearly full is split in
//! two by one more bit of the hash, which takes a few microseconds; only the directory, four bytes per segment, ever
//! doubles.
//!
//! A segment is 128 groups of one cache line: seven buckets and a line of bookkeeping. A key belongs to the group its
//! hash says, and to the next one with room when that is full; each group counts the keys that went past it, so that a
//! search ends at the first group that nobody went past, and a removal leaves no trace. The group keeps 32 bits of each
//! key's hash, its handle, and the group it belongs to: enough to split a segment without touching a single entry.

use crate::{prefetch::prefetch, slab::Handle};

const GROUPS: usize = 128;
const BUCKETS: usize = 7;

/// Keys at which a segment is split, about nine tenths of its buckets.
const SEGMENT_KEYS_MAX: u32 = (GROUPS * BUCKETS * 9 / 10) as u32;

/// The bits of the hash that a bucket knows are all used up at this depth.
const DEPTH_MAX: u8 = 32;

/// One cache line of a segment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group {
    /// The high half of the hash of the key in each bucket.
    tags: [u32; BUCKETS],
    /// The handle in each bucket; zero when it is empty.
    handles: [u32; BUCKETS],
    /// The group that the key in each bucket belongs to.
    homes: [u8; BUCKETS],
    /// Keys that belong to this group or one before it and lie behind it; 255 stands for that many or more, for good.
    passed: u8,
}

const _: () = assert!(size_of::<Group>() == 64);

const GROUP_EMPTY: Group = Group { tags: [0; BUCKETS], handles: [0; BUCKETS], homes: [0; BUCKETS], passed: 0 };

/// The buckets for which a comparison holds, a bit for each. All seven are compared without a branch, because which one
/// it will be is a coin toss that the processor would lose.
#[inline]
fn matching(values: &[u32; BUCKETS], wanted: u32) -> u32 {
    let mut matching = 0;
    for (index, &value) in values.iter().enumerate() {
        matching |= u32::from(value == wanted) << index;
    }
    matching
}

struct Segment {
    groups: Box<[Group; GROUPS]>,
    keys: u32,
    /// Number of leading hash bits that all keys of the segment have in common.
    depth: u8,
}

impl Segment {
    fn new(depth: u8) -> Segment {
        Segment { groups: Box::new([GROUP_EMPTY; GROUPS]), keys: 0, depth }
    }

    fn insert(&mut self, home: usize, tag: u32, handle: u32) {
        let mut at = home;
        for _ in 0..GROUPS {
            let group = &mut self.groups[at];
            let empty = matching(&group.handles, 0);
            if empty != 0 {
                let index = empty.trailing_zeros() as usize;
                group.tags[index] = tag;
                group.handles[index] = handle;
                group.homes[index] = home as u8;
                self.keys += 1;
                return;
            }
            group.passed = group.passed.saturating_add(1);
            at = (at + 1) % GROUPS;
        }
        panic!("a segment of the table is over-full: thousands of keys have one hash");
    }

    /// Group and index of the bucket with `tag` and a handle for which `is_match` holds, among those that `home` may
    /// have put there.
    #[inline]
    fn position(&self, home: usize, tag: u32, mut is_match: impl FnMut(Handle) -> bool) -> Option<(usize, usize)> {
        let mut at = home;
        for _ in 0..GROUPS {
            let group = &self.groups[at];
            let mut candidates = matching(&group.tags, tag);
            while candidates != 0 {
                let index = candidates.trailing_zeros() as usize;
                // An empty bucket has a tag too.
                if Handle::from_bits(group.handles[index]).is_some_and(&mut is_match) {
                    return Some((at, index));
                }
                candidates &= candidates - 1;
            }
            if group.passed == 0 {
                return None;
            }
            at = (at + 1) % GROUPS;
        }
        None
    }

    fn remove(&mut self, home: usize, (at, index): (usize, usize)) {
        self.groups[at].handles[index] = 0;
        self.keys -= 1;
        let mut passed = home;
        while passed != at {
            let count = &mut self.groups[passed].passed;
            if *count != u8::MAX {
                *count -= 1;
            }
            passed = (passed + 1) % GROUPS;
        }
    }

    /// Divides the keys by the next bit of their hashes: those with a zero stay, those with a one are returned.
    fn split(&mut self) -> Segment {
        assert!(self.depth < DEPTH_MAX, "a segment of the table cannot be split: too many keys have one hash");
        let bit = 31 - u32::from(self.depth);
        let depth = self.depth + 1;
        let old = std::mem::replace(self, Segment::new(depth));
        let mut sibling = Segment::new(depth);
        for group in old.groups.iter() {
            for ((&tag, &handle), &home) in group.tags.iter().zip(&group.handles).zip(&group.homes) {
                if handle != 0 {
                    let half = if tag >> bit & 1 == 0 { &mut *self } else { &mut sibling };
                    half.insert(home as usize, tag, handle);
                }
            }
        }
        sibling
    }
}

#[inline]
fn home_of(hash: u64) -> usize {
    hash as usize % GROUPS
}

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The table of all keys.
pub(crate) struct Table {
    segments: Vec<Segment>,
    /// For each value of the hash's first `depth` bits, its segment.
    directory: Vec<u32>,
    depth: u8,
    keys: usize,
    changes: u64,
}

impl Table {
    pub fn new() -> Table {
        Table { segments: vec![Segment::new(0)], directory: vec![0], depth: 0, keys: 0, changes: 0 }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.segments.len() * size_of::<[Group; GROUPS]>()
            + self.segments.capacity() * size_of::<Segment>()
            + self.directory.capacity() * size_of::<u32>()
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> usize {
        // In two steps, because a shift by all 64 bits is not defined.
        self.directory[(hash >> 1 >> (63 - self.depth)) as usize] as usize
    }

    /// Asks for the cache line in which a search for `hash` begins.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.segments[self.segment_of(hash)].groups[home_of(hash)]);
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        *self = Table { changes: self.changes + 1, ..Table::new() };
    }

    /// Number of changes so far: as long as it stays the same, so does what a search finds.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The handle of the key with this hash for which `is_match` holds.
    #[inline]
    pub fn find(&self, hash: u64, is_match: impl FnMut(Handle) -> bool) -> Option<Handle> {
        let segment = &self.segments[self.segment_of(hash)];
        let (at, index) = segment.position(home_of(hash), tag_of(hash), is_match)?;
        Handle::from_bits(segment.groups[at].handles[index])
    }

    /// Adds a key that is not there yet.
    pub fn insert(&mut self, hash: u64, handle: Handle) {
        let mut segment = self.segment_of(hash);
        while self.segments[segment].keys >= SEGMENT_KEYS_MAX {
            self.split(segment, hash);
            segment = self.segment_of(hash);
        }
        self.segments[segment].insert(home_of(hash), tag_of(hash), handle.to_bits());
        self.keys += 1;
        self.changes += 1;
    }

    /// Removes a key.
    ///
    /// # Panics
    ///
    /// If it is not there.
    pub fn remove(&mut self, hash: u64, handle: Handle) {
        let segment = self.segment_of(hash);
        let segment = &mut self.segments[segment];
        let place = segment.position(home_of(hash), tag_of(hash), |other| other == handle);
        segment.remove(home_of(hash), place.expect("the key to remove is in the table"));
        self.keys -= 1;
        self.changes += 1;
    }

    /// Notes that a key's entry has moved.
    ///
    /// # Panics
    ///
    /// If the key is not there.
    pub fn replace(&mut self, hash: u64, old: Handle, new: Handle) {
        let segment = self.segment_of(hash);
        let segment = &mut self.segments[segment];
        let place = segment.position(home_of(hash), tag_of(hash), |other| other == old);
        let (at, index) = place.expect("the key that moved is in the table");
        segment.groups[at].handles[index] = new.to_bits();
        self.changes += 1;
    }

    fn split(&mut self, segment: usize, hash: u64) {
        let depth = self.segments[segment].depth;
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&segment| [segment, segment]).collect();
            self.depth += 1;
        }
        let sibling = self.segments[segment].split();
        self.segments.push(sibling);
        // The directory's entries for this segment are one run; its second half now belongs to the sibling.
        let run = 1usize << (self.depth - depth);
        let index = (hash >> 1 >> (63 - self.depth)) as usize;
        let start = index & !(run - 1);
        self.directory[start + run / 2..start + run].fill(self.segments.len() as u32 - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn scramble(number: u64) -> u64 {
        let mixed = (number ^ number >> 31).wrapping_mul(0x7FB5_D329_728E_A185);
        (mixed ^ mixed >> 27).wrapping_mul(0x81DA_DEF4_BC2D_D44D)
    }

    fn handle(number: u64) -> Handle {
        Handle::from_bits(number as u32 + 1).expect("not zero")
    }

    fn assert_equal(table: &Table, model: &BTreeMap<u64, Handle>) {
        assert_eq!(table.len(), model.len());
        for (&hash, &handle) in model {
            assert_eq!(table.find(hash, |found| found == handle), Some(handle));
        }
    }

    #[test]
    fn every_key_is_found_while_the_table_grows_and_shrinks() {
        let mut table = Table::new();
        let mut model = BTreeMap::new();
        for number in 0..50_000 {
            table.insert(scramble(number), handle(number));
            model.insert(scramble(number), handle(number));
        }
        assert_equal(&table, &model);
        for number in (0..50_000).filter(|number| number % 3 != 0) {
            table.remove(scramble(number), handle(number));
            model.remove(&scramble(number));
            assert_eq!(table.find(scramble(number), |found| found == handle(number)), None);
        }
        assert_equal(&table, &model);
        for number in (0..50_000).step_by(3) {
            table.replace(scramble(number), handle(number), handle(number + 100_000));
            model.insert(scramble(number), handle(number + 100_000));
        }
        assert_equal(&table, &model);
        for number in (0..50_000).step_by(3) {
            table.remove(scramble(number), handle(number + 100_000));
        }
        assert_eq!(table.len(), 0);
        // Removals leave no trace: nobody is counted as having passed a group.
        assert!(table.segments.iter().all(|segment| segment.groups.iter().all(|group| group.passed == 0)));
    }

    #[test]
    fn keys_whose_hashes_differ_only_in_the_low_half_are_told_apart_by_their_handles() {
        let mut table = Table::new();
        for number in 0..700u64 {
            table.insert(0xABCD_EF01_0000_0000 | number, handle(number));
        }
        for number in 0..700u64 {
            let found = table.find(0xABCD_EF01_0000_0000 | number, |found| found == handle(number));
            assert_eq!(found, Some(handle(number)));
        }
    }

    #[test]
    fn memory_stays_in_proportion_to_the_keys() {
        let mut table = Table::new();
        for number in 0..200_000 {
            table.insert(scramble(number), handle(number));
        }
        assert!(table.memory_bytes() < 200_000 * 24, "{} bytes", table.memory_bytes());
    }
}
