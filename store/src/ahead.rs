//! Memory asked for ahead of its use.
//!
//! A request needs, one after the other, a line of the table, the entry to which that leads, and for a new key the end of a
//! slot's list: each a trip to memory that cannot begin before the one before it has ended. So requests are worked on
//! like on an assembly line: while one is being carried out, the next few are at the stations before it, and their trips take
//! place meanwhile.

use lockstep_proto::slot::slot_of;

use crate::{prefetch::prefetch_bytes, slab::Handle, store::Store};

/// Keys that are taken together where they do not come as one slice.
pub(crate) const WINDOW: usize = 64;

/// Places on the line at which a key's entry, list, block and end of block are asked for, and the request carried out. The
/// first place, 0, is where the key is hashed and its line of the table asked for.
const ENTRY: usize = 6;
const LIST_BLOCK: usize = 9;
const LIST_END: usize = 12;
const WRITE: usize = 15;

/// Places are numbered modulo this.
const LINE: usize = 16;

const _: () = assert!(WRITE < LINE && LINE.is_power_of_two());

/// What is known of a key before its request's turn comes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Probe {
    pub hash: u64,
    /// The table's count of changes when it was searched.
    changes: u64,
    /// The entry that a search looks at first.
    first: Option<Handle>,
    /// The key's slot, if it was needed.
    pub slot: Option<u16>,
}

impl Store {
    /// Gives each item in order to `write`, together with what was found out about its key. An empty key, of a request that has
    /// none, does no harm. Stops at the first error.
    #[inline]
    pub(crate) fn write_ahead<T, E>(
        &mut self,
        items: &[T],
        key_of: impl Fn(&T) -> &[u8],
        mut write: impl FnMut(&mut Store, &T, Probe) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut probes = [Probe::default(); LINE];
        // An index before the first item wraps around and is beyond the last one as well.
        for turn in 0..items.len() + WRITE {
            if let Some(item) = items.get(turn) {
                let hash = self.hash(key_of(item));
                self.table.prefetch(hash);
                probes[turn % LINE].hash = hash;
            }
            let index = turn.wrapping_sub(ENTRY);
            if let Some(item) = items.get(index) {
                self.probe(&mut probes[index % LINE], key_of(item));
            }
            for (place, stage) in [(LIST_BLOCK, 1), (LIST_END, 2)] {
                let index = turn.wrapping_sub(place);
                if let Some(slot) = probes[index % LINE].slot.filter(|_| index < items.len()) {
                    self.slots.prefetch_push(slot, stage);
                }
            }
            let index = turn.wrapping_sub(WRITE);
            if let Some(item) = items.get(index) {
                write(self, item, probes[index % LINE])?;
            }
        }
        Ok(())
    }

    #[inline]
    fn probe(&self, probe: &mut Probe, key: &[u8]) {
        probe.changes = self.table.changes();
        probe.first = self.prefetch_entry(probe.hash);
        probe.slot = None;
        if probe.first.is_none() {
            let slot = slot_of(key);
            self.slots.prefetch_push(slot, 0);
            probe.slot = Some(slot);
        }
    }

    /// Asks for the memory of the entry that a search for `hash` will look at first, and returns its handle; `None` if a
    /// search would find nothing.
    #[inline]
    fn prefetch_entry(&self, hash: u64) -> Option<Handle> {
        let first = self.table.find(hash, |_| true)?;
        prefetch_bytes(self.slab.bytes(first));
        Some(first)
    }

    /// Finds a key of which a probe was made before. Searches again only if the table has changed since.
    #[inline]
    pub(crate) fn find_probed(&self, probe: Probe, key: &[u8]) -> Option<Handle> {
        if probe.changes == self.table.changes() {
            let first = probe.first?;
            if self.entry(first).key() == key {
                return Some(first);
            }
        }
        self.find(probe.hash, key)
    }

    /// Hashes up to [`WINDOW`] keys and asks for the memory that reading them will touch.
    #[inline]
    pub(crate) fn prefetch_keys<'a>(&self, keys: impl Iterator<Item = &'a [u8]>, hashes: &mut [u64; WINDOW]) {
        let mut count = 0;
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(key);
            self.table.prefetch(*hash);
            count += 1;
        }
        for &hash in &hashes[..count] {
            self.prefetch_entry(hash);
        }
    }
}
