//! The parts put together, and the few ways to change one entry that keep all of them consistent.

use std::collections::BTreeMap;

use ahash::RandomState;
use lockstep_proto::{
    mutant::{self, Mutant},
    operation::Status,
    slot::{slot_of, slots_of_shard},
};

use crate::{
    ahead::Probe,
    checkpoint::Checkpoint,
    entry::{Attributes, Encoding, Entry, EntryHeader, NewValue, header_mut, write_entry},
    hash::ContentHash,
    prefetch::prefetch_bytes,
    slab::{Handle, Slab},
    slots::SlotLists,
    table::Table,
    watched::Watched,
    write_times::WriteTimes,
};

/// What [`StoreConfig::bytes_max`] is on every server.
pub const STORE_BYTES_MAX: u64 = 64 << 30;

/// How many entries ahead a walk through a list asks for memory.
const ENTRIES_AHEAD: usize = 8;

/// Largest entry, in bytes, of which a copy is made for a checkpoint before it changes. A larger one is moved.
const COPY_SIZE_MAX: usize = 1024;

/// What a store needs to know.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Secret of this process, so that nobody can choose keys that fall together. Not visible in anything the store
    /// says or writes, so it may differ between replicas and between runs.
    pub hash_seed: [u64; 4],
    /// The shard whose keys the store holds.
    pub shard: u16,
    /// Number of shards in the cluster.
    pub shards: u16,
    /// Largest size of all entries together (32 bytes, key and value each), in bytes. A write beyond it is answered
    /// `Busy`, on every replica alike, because it depends on nothing but the content: so this must be the same for all
    /// of them.
    pub bytes_max: u64,
}

/// Memory of a store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Memory set aside for entries: keys, values and their headers. Parts that no entry has used yet are not resident.
    pub entries: usize,
    /// The table from key to entry.
    pub table: usize,
    /// The lists of each slot's keys.
    pub slots: usize,
    /// The keys that have a time-to-live, by expiry; an estimate.
    pub expiry: usize,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> usize {
        self.entries + self.table + self.slots + self.expiry
    }
}

/// The keys and values of one shard.
pub struct Store {
    pub(crate) hasher: RandomState,
    pub(crate) shard: u16,
    pub(crate) shards: u16,
    pub(crate) table: Table,
    pub(crate) slab: Slab,
    pub(crate) slots: SlotLists,
    /// (expiry, creation) → slot, for the keys that have a time-to-live.
    pub(crate) expiry: BTreeMap<(u64, u64), u16>,
    /// What the next key that comes into being gets.
    pub(crate) creation_next: u64,
    /// Size of all entries together.
    pub(crate) bytes: u64,
    pub(crate) bytes_max: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Mark of the last checkpoint begun.
    pub(crate) mark_last: u32,
    /// Whether an aborted checkpoint may have left marks behind.
    pub(crate) has_stale_marks: bool,
    /// When which revisions were applied.
    pub(crate) write_times: WriteTimes,
    /// Which keys are watched, and how they were touched.
    pub(crate) watched: Watched,
    /// Keys that were removed because they had expired.
    pub(crate) expired_total: u64,
    /// The results of the program that is carried out: kept for their memory.
    pub(crate) results: Vec<u8>,
}

impl Store {
    /// An empty store.
    ///
    /// # Panics
    ///
    /// If the shard is not below the number of shards.
    pub fn new(config: StoreConfig) -> Store {
        assert!(config.shard < config.shards, "shard {} of {}", config.shard, config.shards);
        let [k0, k1, k2, k3] = config.hash_seed;
        Store {
            hasher: RandomState::with_seeds(k0, k1, k2, k3),
            shard: config.shard,
            shards: config.shards,
            table: Table::new(),
            slab: Slab::new(),
            slots: SlotLists::new(slots_of_shard(config.shard, config.shards)),
            expiry: BTreeMap::new(),
            creation_next: 1,
            bytes: 0,
            bytes_max: config.bytes_max,
            checkpoint: None,
            mark_last: 0,
            has_stale_marks: false,
            write_times: WriteTimes::default(),
            watched: Watched::default(),
            expired_total: 0,
            results: Vec::new(),
        }
    }

    /// Number of keys that have a time-to-live, as [`Store::len`] counts them.
    pub fn expiring_len(&self) -> usize {
        self.expiry.len()
    }

    /// Number of keys that were removed because they had expired, since this store was made. It is no part of the
    /// state.
    pub fn expired_total(&self) -> u64 {
        self.expired_total
    }

    /// Number of keys, those included that have expired and were not removed yet.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// The keys that have expired at `now_ns`, in nanoseconds since 1970, and were not removed yet: the longest expired
    /// first.
    pub fn expired_keys(&self, now_ns: u64) -> impl Iterator<Item = &[u8]> {
        let expired = self.expiry.range(..=(now_ns, u64::MAX));
        expired.map(|(&(_, creation), &slot)| self.entry(self.slots.find(slot, creation)).key())
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of all entries together: header, key and value of each, in bytes. A checkpoint is about as large.
    pub fn entry_bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory in use.
    pub fn memory_bytes(&self) -> MemoryUse {
        MemoryUse {
            entries: self.slab.memory_bytes(),
            table: self.table.memory_bytes(),
            slots: self.slots.memory_bytes(),
            // A node of the map holds 6 to 11 items; nine is typical.
            expiry: self.expiry.len() * (size_of::<(u64, u64, u16)>() * 11 / 9 + 4),
        }
    }

    /// One number for the whole content: equal on two stores if and only if (but for a chance of 2^-128) they hold the
    /// same keys, values, versions, expiries and creation numbers. The hash seed does not matter.
    ///
    /// It is computed anew by every call, from all entries: about half a second for ten million keys. A checkpoint's
    /// state hash is the same number for the moment of its cut, without the pause.
    pub fn content_hash(&self) -> u128 {
        let mut hash = ContentHash::new();
        let mut record = Vec::new();
        for slot in self.slots.slots() {
            for (_, entry) in self.entries_from(slot, 0) {
                record.clear();
                entry.encode(&mut record);
                hash.add(&record);
            }
        }
        hash.finish(self.creation_next)
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    #[inline]
    pub(crate) fn entry(&self, handle: Handle) -> Entry<'_> {
        Entry::of(self.slab.bytes(handle))
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Handle> {
        self.table.find(hash, |handle| self.entry(handle).key() == key)
    }

    /// Whether the key belongs to this shard.
    #[inline]
    pub(crate) fn is_own_key(&self, key: &[u8]) -> bool {
        self.shards == 1 || self.slots.slots().contains(&slot_of(key))
    }

    /// Whether entries of `size` bytes in all have room besides what is there.
    #[inline]
    pub(crate) fn has_room(&self, size: usize) -> bool {
        // A store that counts what only it itself holds at the moment decides other than the rest.
        let own = if mutant::is(Mutant::CheckpointTakesRoom) && self.checkpoint.is_some() { self.bytes / 2 } else { 0 };
        self.bytes + own + size as u64 <= self.bytes_max
    }

    /// The entries of `slot` that were created at `creation` or later, in the order of their creation, with memory
    /// asked for ahead.
    pub(crate) fn entries_from(&self, slot: u16, creation: u64) -> impl Iterator<Item = (Handle, Entry<'_>)> {
        let creation = creation + u64::from(creation > 0 && mutant::is(Mutant::ScanSkips));
        let items = self.slots.iter_from(slot, creation);
        let mut ahead = items.clone();
        for (_, handle) in ahead.by_ref().take(ENTRIES_AHEAD) {
            prefetch_bytes(self.slab.bytes(handle));
        }
        items.map(move |(_, handle)| {
            if let Some((_, handle)) = ahead.next() {
                prefetch_bytes(self.slab.bytes(handle));
            }
            (handle, self.entry(handle))
        })
    }

    /// Adds a key that does not exist.
    pub(crate) fn insert(&mut self, probe: Probe, key: &[u8], new: &NewValue<'_>) -> Status {
        let slot = probe.slot.unwrap_or_else(|| slot_of(key));
        if !self.slots.slots().contains(&slot) {
            return Status::WrongShard;
        }
        if !self.has_room(EntryHeader::SIZE + key.len() + new.value.len()) {
            return Status::Busy;
        }
        let &NewValue { value, expiry_ns, version, encoding } = new;
        let attributes = Attributes { version, creation: self.creation_next, expiry_ns, slot, encoding };
        self.creation_next += 1;
        let header = EntryHeader::new(&attributes, key.len(), value.len());
        self.place(probe.hash, &header, key, value);
        Status::Ok
    }

    /// Puts an entry that is not there into memory, table, list and expiry index.
    pub(crate) fn place(&mut self, hash: u64, header: &EntryHeader, key: &[u8], value: &[u8]) {
        let handle = self.slab.allocate(header.entry_size());
        write_entry(self.slab.bytes_mut(handle), header, key, value);
        self.table.insert(hash, handle);
        self.slots.push(header.slot(), header.creation(), handle);
        self.bytes += header.entry_size() as u64;
        if header.expiry_ns() != 0 {
            self.expiry.insert((header.expiry_ns(), header.creation()), header.slot());
        }
    }

    /// Gives an existing key another value.
    #[inline]
    pub(crate) fn overwrite(&mut self, hash: u64, handle: Handle, new: &NewValue<'_>) -> Status {
        let &NewValue { value, expiry_ns, version, encoding } = new;
        let header = *self.entry(handle).header;
        let value_start = EntryHeader::SIZE + header.key_size();
        let size = value_start + value.len();
        if size > header.entry_size() && !self.has_room(size - header.entry_size()) {
            return Status::Busy;
        }
        self.bytes = self.bytes - header.entry_size() as u64 + size as u64;
        self.index_expiry(&header, expiry_ns);
        let handle = self.make_writable(hash, handle, value_start, size);
        let bytes = self.slab.bytes_mut(handle);
        header_mut(bytes).overwrite(version, expiry_ns, encoding, value.len());
        bytes[value_start..size].copy_from_slice(value);
        Status::Ok
    }

    /// Writes `bytes` over the value of an existing key, from `offset` on. The value grows if need be, with zeroes
    /// before `offset`; the expiry stays.
    ///
    /// # Panics
    ///
    /// If there is no room; the caller has looked. In a debug build also if the value becomes larger than a value may
    /// be.
    pub(crate) fn patch(&mut self, hash: u64, handle: Handle, offset: usize, bytes: &[u8], version: u64) {
        let header = *self.entry(handle).header;
        let value_size = header.value_size().max(offset + bytes.len());
        let growth = value_size - header.value_size();
        assert!(self.has_room(growth), "nothing is refused after the check");
        self.bytes += growth as u64;
        let size = header.entry_size();
        let handle = self.make_writable(hash, handle, size, size + growth);
        let value_start = EntryHeader::SIZE + header.key_size();
        let entry = self.slab.bytes_mut(handle);
        header_mut(entry).overwrite(version, header.expiry_ns(), Encoding::Patched, value_size);
        let value = &mut entry[value_start..value_start + value_size];
        if offset > header.value_size() {
            value[header.value_size()..offset].fill(0);
        }
        value[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Removes all keys.
    pub(crate) fn clear(&mut self) {
        if self.checkpoint.is_none() {
            let mut watched = std::mem::take(&mut self.watched);
            watched.touch_all(|hash| {
                let handle = self.table.find(hash, |handle| self.hash(self.entry(handle).key()) == hash);
                handle.map(|handle| self.entry(handle).header.version())
            });
            self.watched = watched;
            self.table.clear();
            self.slab = Slab::new();
            self.slots = SlotLists::new(self.slots.slots());
            self.expiry.clear();
            self.bytes = 0;
            return;
        }
        // The checkpoint wants what it has not written yet.
        for slot in self.slots.slots() {
            let keys: Vec<Handle> = self.slots.iter_from(slot, 0).map(|(_, handle)| handle).collect();
            for handle in keys {
                self.remove(self.hash(self.entry(handle).key()), handle);
            }
        }
    }

    /// Changes when an existing key ceases to exist, and nothing else, as the request at `revision` wants it.
    pub(crate) fn set_expiry(&mut self, hash: u64, handle: Handle, expiry_ns: u64, revision: u64) {
        let header = *self.entry(handle).header;
        if (header.expiry_ns(), expiry_ns) != (0, 0) {
            self.watched.touch(hash, revision);
        }
        if header.expiry_ns() == expiry_ns {
            return;
        }
        self.index_expiry(&header, expiry_ns);
        let size = header.entry_size();
        let handle = self.make_writable(hash, handle, size, size);
        header_mut(self.slab.bytes_mut(handle)).set_expiry_ns(expiry_ns);
    }

    /// Removes an existing key.
    pub(crate) fn remove(&mut self, hash: u64, handle: Handle) {
        let header = *self.entry(handle).header;
        // Whoever has seen this version, or a later one, sees that it is gone.
        self.watched.touch(hash, header.version());
        self.bytes -= header.entry_size() as u64;
        self.index_expiry(&header, 0);
        self.slots.remove(header.slot(), header.creation());
        self.table.remove(hash, handle);
        match &mut self.checkpoint {
            Some(checkpoint) if checkpoint.is_wanted(&header) => checkpoint.keep(handle),
            _ => self.slab.free(handle),
        }
    }

    #[inline]
    fn index_expiry(&mut self, header: &EntryHeader, expiry_ns: u64) {
        if header.expiry_ns() == expiry_ns {
            return;
        }
        if header.expiry_ns() != 0 {
            self.expiry.remove(&(header.expiry_ns(), header.creation()));
        }
        if expiry_ns != 0 {
            self.expiry.insert((expiry_ns, header.creation()), header.slot());
        }
    }

    /// Returns where an entry can be written as one of `size` bytes: where it is, if it fits; else a new place, to
    /// which its first `kept` bytes are copied. If the running checkpoint needs the entry's present state, that is set
    /// aside.
    #[inline]
    fn make_writable(&mut self, hash: u64, handle: Handle, kept: usize, size: usize) -> Handle {
        let is_wanted = match &self.checkpoint {
            Some(checkpoint) => checkpoint.is_wanted(self.entry(handle).header),
            None => false,
        };
        if is_wanted && !self.set_copy_aside(handle) {
            return self.relocate(hash, handle, kept, size, is_wanted);
        }
        if self.slab.is_fitting(handle, size) {
            return handle;
        }
        self.relocate(hash, handle, kept, size, false)
    }

    /// Gives the checkpoint a copy of a small entry, so that the entry itself need not move: to move it means to change
    /// the table and the slot's list. Returns false for a larger one.
    fn set_copy_aside(&mut self, handle: Handle) -> bool {
        let size = self.entry(handle).header.entry_size();
        let Some(checkpoint) = self.checkpoint.as_mut().filter(|_| size <= COPY_SIZE_MAX) else { return false };
        let copy = self.slab.allocate(size);
        self.slab.copy(handle, copy, size);
        checkpoint.keep(copy);
        header_mut(self.slab.bytes_mut(handle)).set_mark(checkpoint.mark());
        true
    }

    /// Moves an entry to a place for `size` bytes. The old place goes to the checkpoint if that wants it.
    #[cold]
    fn relocate(&mut self, hash: u64, old: Handle, kept: usize, size: usize, is_wanted: bool) -> Handle {
        let new = self.slab.allocate(size);
        self.slab.copy(old, new, kept);
        let header = header_mut(self.slab.bytes_mut(new));
        let (slot, creation) = (header.slot(), header.creation());
        match &mut self.checkpoint {
            Some(checkpoint) if is_wanted => {
                header.set_mark(checkpoint.mark());
                checkpoint.keep(old);
            }
            _ => self.slab.free(old),
        }
        self.table.replace(hash, old, new);
        self.slots.replace(slot, creation, new);
        new
    }

    /// Looks into every corner of the store for contradictions. Takes as long as [`Store::content_hash`]; meant for
    /// tests and for the examination of a data folder.
    ///
    /// # Errors
    ///
    /// What contradicts what.
    pub fn check(&self) -> Result<(), String> {
        let (mut keys, mut bytes, mut expiring) = (0, 0, 0);
        for slot in self.slots.slots() {
            let mut creation_last = 0;
            for (handle, entry) in self.entries_from(slot, 0) {
                let creation = entry.header.creation();
                let name = || format!("key {} of slot {slot}", creation);
                if entry.header.slot() != slot || slot_of(entry.key()) != slot {
                    return Err(format!("{} is in the list of another slot", name()));
                }
                if creation <= creation_last || creation >= self.creation_next {
                    return Err(format!("{} is out of order", name()));
                }
                creation_last = creation;
                if self.find(self.hash(entry.key()), entry.key()) != Some(handle) {
                    return Err(format!("{} is not what the table finds", name()));
                }
                let expiry = (entry.header.expiry_ns(), creation);
                if expiry.0 != 0 && self.expiry.get(&expiry) != Some(&slot) {
                    return Err(format!("{} is missing in the expiry index", name()));
                }
                expiring += usize::from(expiry.0 != 0);
                keys += 1;
                bytes += entry.header.entry_size() as u64;
            }
        }
        if (keys, bytes, expiring) != (self.len(), self.bytes, self.expiry.len()) {
            return Err(format!(
                "the lists hold {keys} keys, {bytes} bytes and {expiring} expiries; counted were {}, {} and {}",
                self.len(),
                self.bytes,
                self.expiry.len()
            ));
        }
        Ok(())
    }
}
