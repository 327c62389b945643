//! A store out of a checkpoint's stream.

use lockstep_proto::{
    limits::{DISK_FORMAT_VERSION, VALUE_SIZE_MAX},
    slot::slot_of,
};
use thiserror::Error;
use zerocopy::FromBytes;

use crate::{
    ahead::{Probe, WINDOW},
    checkpoint::{STREAM_MAGIC, StreamHeader, StreamTrailer, TRAILER_MAGIC},
    entry::{Entry, EntryHeader},
    hash::ContentHash,
    slab::Handle,
    store::{Store, StoreConfig},
};

/// Why a stream cannot be loaded. Whatever the reason, the checkpoint is of no use: take an older one or another
/// server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The first bytes are not those of a store's stream.
    #[error("this is not a checkpoint of a store")]
    Magic,
    /// Another version of the format.
    #[error("checkpoint format version {0} is not supported (this build uses {DISK_FORMAT_VERSION})")]
    Version(u16),
    /// Another shard's.
    #[error("the checkpoint is of shard {shard} of {shards}, not of this one")]
    Shard {
        /// The shard in the stream.
        shard: u16,
        /// The number of shards in the stream.
        shards: u16,
    },
    /// A field is out of its range.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(&'static str),
    /// The stream ends too early.
    #[error("the checkpoint is cut off: it ends before its trailer")]
    Truncated,
    /// The content is not what its state hash says.
    #[error("the checkpoint is damaged: its content does not have the state hash in its trailer")]
    StateHash,
}

enum Stage {
    Header,
    Entries { count: u64 },
    Done { state_hash: u128 },
    Failed(LoadError),
}

/// Builds a store from a checkpoint's stream that comes in pieces of any size.
///
/// It holds at most one incomplete entry besides the store, and never sets memory aside because a number in the stream
/// says so.
pub struct Loader {
    store: Store,
    stage: Stage,
    /// The beginning of an item that is not complete.
    partial: Vec<u8>,
    content: Content,
}

/// What the entries add up to.
#[derive(Default)]
struct Content {
    hash: ContentHash,
    expiring: usize,
}

impl Content {
    fn add(&mut self, item: &[u8]) {
        self.hash.add(item);
        self.expiring += usize::from(Entry::of(item).header.expiry_ns() != 0);
    }
}

impl Loader {
    /// A loader for this shard's stream.
    ///
    /// # Panics
    ///
    /// If the shard is not below the number of shards.
    pub fn new(config: StoreConfig) -> Loader {
        Loader { store: Store::new(config), stage: Stage::Header, partial: Vec::new(), content: Content::default() }
    }

    /// Takes the next piece of the stream.
    ///
    /// # Errors
    ///
    /// If the stream is not valid. Every later call gives the same error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let result = self.push_piece(bytes);
        if let Err(error) = result {
            self.stage = Stage::Failed(error);
        }
        result
    }

    /// Ends the stream. Returns the store and its state hash.
    ///
    /// # Errors
    ///
    /// If the stream was not valid, or ends too early.
    pub fn finish(mut self) -> Result<(Store, u128), LoadError> {
        let state_hash = match self.stage {
            Stage::Done { state_hash } => state_hash,
            Stage::Failed(error) => return Err(error),
            _ => return Err(LoadError::Truncated),
        };
        self.order_lists()?;
        // Two expiring keys of equal creation number would be one in the index.
        if self.content.expiring != self.store.expiry.len() {
            return Err(LoadError::Damaged("two keys have the same creation number"));
        }
        Ok((self.store, state_hash))
    }

    fn push_piece(&mut self, mut bytes: &[u8]) -> Result<(), LoadError> {
        while !self.partial.is_empty() {
            let size = self.item_size(&self.partial)?;
            let (missing, rest) = bytes.split_at(bytes.len().min(size - self.partial.len()));
            self.partial.extend_from_slice(missing);
            bytes = rest;
            if self.partial.len() < size {
                return Ok(());
            }
            // The size of an entry is known only once its header is there.
            if self.item_size(&self.partial)? == size {
                let item = std::mem::take(&mut self.partial);
                self.take_item(&item)?;
                self.partial = item;
                self.partial.clear();
            }
        }
        while !bytes.is_empty() {
            bytes = self.take_entries(bytes)?;
            let size = self.item_size(bytes)?;
            let Some((item, rest)) = bytes.split_at_checked(size) else {
                self.partial.extend_from_slice(bytes);
                return Ok(());
            };
            self.take_item(item)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Takes the whole entries at the start of `bytes`, asking for memory ahead. Returns what is left: nothing, the
    /// trailer or the beginning of an entry.
    fn take_entries<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], LoadError> {
        if !matches!(self.stage, Stage::Entries { .. }) {
            return Ok(bytes);
        }
        let mut window: [&[u8]; WINDOW] = [&[]; WINDOW];
        let mut count = WINDOW;
        while count == WINDOW {
            count = 0;
            for item in &mut window {
                let size = self.item_size(bytes)?;
                let Some((entry, rest)) = bytes.split_at_checked(size).filter(|(item, _)| is_entry(item)) else {
                    break;
                };
                (*item, bytes) = (entry, rest);
                count += 1;
            }
            self.place_entries(&window[..count])?;
        }
        Ok(bytes)
    }

    fn place_entries(&mut self, items: &[&[u8]]) -> Result<(), LoadError> {
        let content = &mut self.content;
        self.store.write_ahead(
            items,
            |item| Entry::of(item).key(),
            |store, item, probe| {
                place_entry(store, item, probe)?;
                content.add(item);
                Ok(())
            },
        )
    }

    /// Size of the item that begins with `bytes`, as far as they tell. More than there are bytes if they do not tell
    /// all.
    fn item_size(&self, bytes: &[u8]) -> Result<usize, LoadError> {
        match self.stage {
            Stage::Failed(error) => return Err(error),
            Stage::Done { .. } => return Err(LoadError::Damaged("something follows the trailer")),
            Stage::Header => return Ok(EntryHeader::SIZE),
            Stage::Entries { .. } => {}
        }
        let Ok((header, _)) = EntryHeader::ref_from_prefix(bytes) else {
            return Ok(EntryHeader::SIZE);
        };
        if !header.is_of_entry() {
            return Ok(EntryHeader::SIZE);
        }
        if header.mark() != 0 || header.value_size() > VALUE_SIZE_MAX {
            return Err(LoadError::Damaged("the size of a value is out of range"));
        }
        Ok(header.entry_size())
    }

    fn take_item(&mut self, item: &[u8]) -> Result<(), LoadError> {
        match self.stage {
            Stage::Header => self.take_header(item),
            Stage::Entries { .. } if is_entry(item) => self.place_entries(&[item]),
            Stage::Entries { count } => self.take_trailer(item, count),
            Stage::Done { .. } => Err(LoadError::Damaged("something follows the trailer")),
            Stage::Failed(error) => Err(error),
        }
    }

    fn take_header(&mut self, item: &[u8]) -> Result<(), LoadError> {
        let header = StreamHeader::read_from_bytes(item).map_err(|_| LoadError::Truncated)?;
        if header.magic.get() != STREAM_MAGIC {
            return Err(LoadError::Magic);
        }
        if header.version.get() != DISK_FORMAT_VERSION {
            return Err(LoadError::Version(header.version.get()));
        }
        let (shard, shards) = (header.shard.get(), header.shards.get());
        if (shard, shards) != (self.store.shard, self.store.shards) {
            return Err(LoadError::Shard { shard, shards });
        }
        if header.reserved.get() != 0 || header.creation_next.get() == 0 {
            return Err(LoadError::Damaged("a field of the header is out of range"));
        }
        self.store.creation_next = header.creation_next.get();
        self.stage = Stage::Entries { count: header.count.get() };
        Ok(())
    }

    fn take_trailer(&mut self, item: &[u8], count: u64) -> Result<(), LoadError> {
        let trailer = StreamTrailer::read_from_bytes(item).map_err(|_| LoadError::Truncated)?;
        if trailer.magic.get() != TRAILER_MAGIC || trailer.reserved.get() != 0 {
            return Err(LoadError::Damaged("its trailer is not one"));
        }
        if trailer.count.get() != count || self.content.hash.count() != count {
            return Err(LoadError::Damaged("it does not hold as many keys as it says"));
        }
        let state_hash = self.content.hash.finish(self.store.creation_next);
        if trailer.state_hash.get() != state_hash {
            return Err(LoadError::StateHash);
        }
        self.stage = Stage::Done { state_hash };
        Ok(())
    }

    /// Brings each slot's keys, which came in no particular order, into the order of their creation.
    fn order_lists(&mut self) -> Result<(), LoadError> {
        for slot in self.store.slots.slots() {
            let mut items: Vec<(u64, Handle)> = self.store.slots.iter_from(slot, 0).collect();
            if items.is_sorted_by(|left, right| left.0 < right.0) {
                continue;
            }
            items.sort_unstable_by_key(|item| item.0);
            if !items.is_sorted_by(|left, right| left.0 < right.0) {
                return Err(LoadError::Damaged("two keys have the same creation number"));
            }
            self.store.slots.fill(slot, items.into_iter());
        }
        Ok(())
    }
}

/// Adds a whole entry to a store that is being loaded.
fn place_entry(store: &mut Store, item: &[u8], probe: Probe) -> Result<(), LoadError> {
    let entry = Entry::of(item);
    let header = entry.header;
    let slot = probe.slot.unwrap_or_else(|| slot_of(entry.key()));
    if header.slot() != slot || !store.slots.slots().contains(&slot) {
        return Err(LoadError::Damaged("a key is in a slot that is not its own or not this shard's"));
    }
    if !header.is_encoding_valid() {
        return Err(LoadError::Damaged("the encoding of a value is out of range"));
    }
    if header.creation() == 0 || header.creation() >= store.creation_next {
        return Err(LoadError::Damaged("a creation number is out of range"));
    }
    if !store.has_room(item.len()) {
        return Err(LoadError::Damaged("it holds more than a store may"));
    }
    if store.find_probed(probe, entry.key()).is_some() {
        return Err(LoadError::Damaged("a key is there twice"));
    }
    store.place(probe.hash, header, entry.key(), entry.value());
    Ok(())
}

/// Whether a whole item is an entry, and not the trailer.
fn is_entry(item: &[u8]) -> bool {
    EntryHeader::ref_from_prefix(item).is_ok_and(|(header, _)| header.is_of_entry())
}
