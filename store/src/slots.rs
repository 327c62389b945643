//! The keys of each slot in the order of their creation: what scans, checkpoints and hashes go by.
//!
//! A slot's list is a row of blocks of at most 128 items, so that neither growth nor clearing away of removed keys ever
//! moves more than a block's worth of memory, even when all keys of the store carry one hash tag. A removed key leaves
//! a hole; a block that is half holes is compacted, and joined to a neighbour if both are small.

use std::ops::Range;

use crate::{prefetch::prefetch, slab::Handle};

/// Largest number of items in a block.
const BLOCK_ITEMS_MAX: usize = 128;

/// A block with fewer items than this is not worth compacting.
const BLOCK_ITEMS_COMPACTED: usize = 8;

/// A key: 12 bytes, against 16 for the same fields in a structure with a 64-bit number.
#[derive(Clone, Copy)]
struct Item {
    creation_low: u32,
    creation_high: u32,
    /// `None` for a hole.
    handle: Option<Handle>,
}

const _: () = assert!(size_of::<Item>() == 12);

impl Item {
    fn new(creation: u64, handle: Handle) -> Item {
        Item { creation_low: creation as u32, creation_high: (creation >> 32) as u32, handle: Some(handle) }
    }

    #[inline]
    fn creation(&self) -> u64 {
        u64::from(self.creation_high) << 32 | u64::from(self.creation_low)
    }
}

/// Items in the order of their creation. Never empty.
struct Block {
    items: Vec<Item>,
    live: u32,
}

impl Block {
    fn first(&self) -> u64 {
        self.items[0].creation()
    }

    fn last(&self) -> u64 {
        self.items[self.items.len() - 1].creation()
    }

    /// Index of the first item that was created at `creation` or later.
    fn position_from(&self, creation: u64) -> usize {
        self.items.partition_point(|item| item.creation() < creation)
    }

    fn compact(&mut self) {
        self.items.retain(|item| item.handle.is_some());
        self.items.shrink_to(self.items.len() * 2);
    }
}

/// The lists of all slots of a shard.
pub(crate) struct SlotLists {
    first_slot: u16,
    lists: Vec<Vec<Block>>,
    blocks: usize,
    items_capacity: usize,
}

impl SlotLists {
    pub fn new(slots: Range<u16>) -> SlotLists {
        let mut lists = Vec::new();
        lists.resize_with(slots.len(), Vec::new);
        SlotLists { first_slot: slots.start, lists, blocks: 0, items_capacity: 0 }
    }

    /// The slots that this shard owns.
    pub fn slots(&self) -> Range<u16> {
        self.first_slot..self.first_slot + self.lists.len() as u16
    }

    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.lists.capacity() * size_of::<Vec<Block>>()
            + self.blocks * size_of::<Block>()
            + self.items_capacity * size_of::<Item>()
    }

    #[inline]
    fn list(&self, slot: u16) -> &[Block] {
        &self.lists[(slot - self.first_slot) as usize]
    }

    /// Asks for the memory that adding a key to `slot` will touch, as far as the memory asked for by the calls with
    /// lower `stage`, from 0 to 2, allows to tell.
    #[inline]
    pub fn prefetch_push(&self, slot: u16, stage: usize) {
        let Some(list) = self.lists.get(slot.wrapping_sub(self.first_slot) as usize) else { return };
        if stage == 0 {
            return prefetch(list);
        }
        let Some(block) = list.last() else { return };
        if stage == 1 {
            return prefetch(block);
        }
        if let Some(item) = block.items.last() {
            prefetch(item);
        }
    }

    /// Adds a key behind all others of its slot. While a store is being loaded, keys may come in another order, to be
    /// put right by [`SlotLists::fill`]; until then nothing but [`SlotLists::iter_from`] with 0 may be called for the
    /// slot.
    pub fn push(&mut self, slot: u16, creation: u64, handle: Handle) {
        let list = &mut self.lists[(slot - self.first_slot) as usize];
        let item = Item::new(creation, handle);
        if let Some(block) = list.last_mut()
            && block.items.len() < BLOCK_ITEMS_MAX
        {
            let capacity = block.items.capacity();
            block.items.push(item);
            block.live += 1;
            self.items_capacity += block.items.capacity() - capacity;
            return;
        }
        // The first block grows by doubling; behind a full one another full one is likely.
        let mut items = Vec::with_capacity(if list.is_empty() { 4 } else { BLOCK_ITEMS_MAX });
        items.push(item);
        let block = Block { items, live: 1 };
        self.blocks += 1;
        self.items_capacity += block.items.capacity();
        list.push(block);
    }

    /// Replaces the keys of a slot by `items`, given in the order of their creation.
    pub fn fill(&mut self, slot: u16, items: impl Iterator<Item = (u64, Handle)>) {
        let list = std::mem::take(&mut self.lists[(slot - self.first_slot) as usize]);
        self.blocks -= list.len();
        self.items_capacity -= list.iter().map(|block| block.items.capacity()).sum::<usize>();
        drop(list);
        for (creation, handle) in items {
            self.push(slot, creation, handle);
        }
    }

    /// Index of block and item of a key.
    fn position(&self, slot: u16, creation: u64) -> (usize, usize) {
        let list = self.list(slot);
        let block = list.partition_point(|block| block.first() <= creation).checked_sub(1);
        let block = block.expect("the key is in its slot's list");
        let item = list[block].position_from(creation);
        assert_eq!(list[block].items[item].creation(), creation, "the key is in its slot's list");
        (block, item)
    }

    /// The handle of the key of `slot` that was created at `creation`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn find(&self, slot: u16, creation: u64) -> Handle {
        let (block, item) = self.position(slot, creation);
        self.list(slot)[block].items[item].handle.expect("the key has not been removed")
    }

    /// Notes that a key's entry has moved.
    ///
    /// # Panics
    ///
    /// If the key is not in the list.
    pub fn replace(&mut self, slot: u16, creation: u64, handle: Handle) {
        let (block, item) = self.position(slot, creation);
        let item = &mut self.lists[(slot - self.first_slot) as usize][block].items[item];
        assert!(item.handle.is_some(), "the key has not been removed");
        item.handle = Some(handle);
    }

    /// Removes a key.
    ///
    /// # Panics
    ///
    /// If the key is not in the list.
    pub fn remove(&mut self, slot: u16, creation: u64) {
        let (at, item) = self.position(slot, creation);
        let list = &mut self.lists[(slot - self.first_slot) as usize];
        let block = &mut list[at];
        assert!(block.items[item].handle.take().is_some(), "a key is removed once");
        block.live -= 1;
        let size = block.items.len();
        if block.live == 0 {
            self.items_capacity -= block.items.capacity();
            self.blocks -= 1;
            list.remove(at);
        } else if size >= BLOCK_ITEMS_COMPACTED && block.live as usize * 2 <= size {
            let capacity = block.items.capacity();
            block.compact();
            self.items_capacity -= capacity;
            self.items_capacity += block.items.capacity();
            self.join(slot, at);
        }
    }

    /// Moves a compacted block's items to the end of the block before it, or those of the block behind it to its own
    /// end, if the two together are small.
    fn join(&mut self, slot: u16, at: usize) {
        let list = &mut self.lists[(slot - self.first_slot) as usize];
        let is_small = |left: usize| {
            let pair = list.get(left..left + 2);
            pair.is_some_and(|pair| pair[0].items.len() + pair[1].items.len() <= BLOCK_ITEMS_MAX / 2)
        };
        let left = match at.checked_sub(1) {
            Some(left) if is_small(left) => left,
            _ if is_small(at) => at,
            _ => return,
        };
        let right = list.remove(left + 1);
        let left = &mut list[left];
        let capacity = left.items.capacity() + right.items.capacity();
        left.items.extend_from_slice(&right.items);
        left.live += right.live;
        self.items_capacity -= capacity;
        self.items_capacity += left.items.capacity();
        self.blocks -= 1;
    }

    /// Number of keys in `slot`; 0 for a slot of another shard.
    pub fn len(&self, slot: u16) -> usize {
        let list = self.lists.get(slot.wrapping_sub(self.first_slot) as usize);
        list.map_or(0, |list| list.iter().map(|block| block.live as usize).sum())
    }

    /// Slot and creation number of the key before which `index` keys stand, in the order of slots and in them of
    /// creation; `None` if there are not as many.
    pub fn nth(&self, index: usize) -> Option<(u16, u64)> {
        let mut before = 0;
        for slot in self.slots() {
            for block in self.list(slot) {
                if index < before + block.live as usize {
                    let mut items = block.items.iter().filter(|item| item.handle.is_some());
                    return items.nth(index - before).map(|item| (slot, item.creation()));
                }
                before += block.live as usize;
            }
        }
        None
    }

    /// The keys of `slot` that were created at `creation` or later, in the order of their creation.
    pub fn iter_from(&self, slot: u16, creation: u64) -> impl Iterator<Item = (u64, Handle)> + Clone {
        let list = self.list(slot);
        // Only the first block that reaches up to `creation` holds items to be left out.
        let first = list.partition_point(|block| block.last() < creation);
        let skipped = list.get(first).map_or(0, |block| block.position_from(creation));
        let items = list[first..].iter().flat_map(|block| &block.items).skip(skipped);
        items.filter_map(|item| Some((item.creation(), item.handle?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn handle(number: u64) -> Handle {
        Handle::from_bits(number as u32).expect("not zero")
    }

    fn assert_equal(lists: &SlotLists, model: &BTreeMap<u64, Handle>, from: u64) {
        assert!(lists.iter_from(7, from).eq(model.range(from..).map(|(&creation, &handle)| (creation, handle))));
    }

    #[test]
    fn a_list_keeps_the_order_of_creation_through_removals_and_moves() {
        let mut lists = SlotLists::new(5..9);
        let mut model = BTreeMap::new();
        for creation in 1..=5000 {
            lists.push(7, creation * 2, handle(creation));
            model.insert(creation * 2, handle(creation));
        }
        // A stride that is coprime to the count visits every key once, in an order with no pattern in it.
        for step in 0..4990 {
            let creation = (step * 1777 % 5000 + 1) * 2;
            lists.remove(7, creation);
            model.remove(&creation);
            if step % 100 == 0 {
                assert_equal(&lists, &model, 0);
                assert_equal(&lists, &model, creation);
                assert_equal(&lists, &model, creation + 1);
            }
        }
        assert!(lists.blocks <= 2 && lists.items_capacity < 300, "{} {}", lists.blocks, lists.items_capacity);
        for (&creation, &old) in &model.clone() {
            assert_eq!(lists.find(7, creation), old);
            lists.replace(7, creation, handle(creation + 100_000));
            model.insert(creation, handle(creation + 100_000));
        }
        assert_equal(&lists, &model, 0);
        for &creation in model.keys() {
            lists.remove(7, creation);
        }
        assert_eq!((lists.blocks, lists.items_capacity), (0, 0));
        assert_eq!(lists.iter_from(7, 0).count(), 0);
    }

    #[test]
    fn the_memory_count_is_what_the_blocks_hold() {
        let mut lists = SlotLists::new(0..2);
        for creation in 1..=3000u64 {
            lists.push((creation % 2) as u16, creation, handle(creation));
        }
        for creation in (1..=3000).filter(|creation| creation % 5 != 0) {
            lists.remove((creation % 2) as u16, creation);
        }
        lists.fill(1, [(4000, handle(1)), (4001, handle(2))].into_iter());
        let blocks: Vec<&Block> = lists.lists.iter().flatten().collect();
        assert_eq!(lists.blocks, blocks.len());
        assert_eq!(lists.items_capacity, blocks.iter().map(|block| block.items.capacity()).sum::<usize>());
    }
}
