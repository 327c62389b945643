//! Memory asked for ahead of its use.
//!
//! A request needs, one after the other, a line of the table, the entry to which that leads, and for a new key the end
//! of a slot's list: each a trip to memory that cannot begin before the one before it has ended. So requests are worked
//! on in windows: first all of a window's keys are hashed and their lines of the table asked for, then all of their
//! entries, then what new keys need; and only then are the requests carried out. A window waits for memory a few times,
//! instead of each of its requests. (An assembly line, on which every request is at another of these stations, was
//! measured too: it is no faster, and more to read.)

use lockstep_proto::slot::slot_of;

use crate::{prefetch::prefetch_bytes, slab::Handle, store::Store};

/// Requests in a window: about as many trips to memory as a processor core has under way at once. With twice and four
/// times as many, overwrites of random keys were slower.
pub(crate) const WINDOW: usize = 16;

/// Largest number of reads for which [`Store::prefetch_reads`] asks for memory at once.
pub const READS_AHEAD: usize = WINDOW;

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
    /// Gives each item in order to `write`, together with what was found out about its key. An empty key, of a request
    /// that has none, does no harm. Stops at the first error.
    #[inline]
    pub(crate) fn write_ahead<T, E>(
        &mut self,
        items: &[T],
        key_of: impl Fn(&T) -> &[u8],
        mut write: impl FnMut(&mut Store, &T, Probe) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut probes = [Probe::default(); WINDOW];
        for window in items.chunks(WINDOW) {
            for (probe, item) in probes.iter_mut().zip(window) {
                probe.hash = self.hash(key_of(item));
                self.table.prefetch(probe.hash);
            }
            let mut is_any_new = false;
            for (probe, item) in probes.iter_mut().zip(window) {
                self.probe(probe, key_of(item));
                is_any_new |= probe.slot.is_some();
            }
            if is_any_new {
                for stage in 1..=2 {
                    let slots = probes[..window.len()].iter().filter_map(|probe| probe.slot);
                    slots.for_each(|slot| self.slots.prefetch_push(slot, stage));
                }
            }
            for (probe, item) in probes.iter().zip(window) {
                write(self, item, *probe)?;
            }
        }
        Ok(())
    }

    /// What is known of a key whose turn is now.
    #[inline]
    pub(crate) fn probe_now(&self, key: &[u8]) -> Probe {
        let hash = self.hash(key);
        Probe { hash, changes: self.table.changes(), first: self.table.find(hash, |_| true), slot: None }
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

    /// Asks for the memory of the entry that a search for `hash` will look at first, and returns its handle; `None` if
    /// a search would find nothing.
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
