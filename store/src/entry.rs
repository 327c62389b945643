//! Layout of an entry, in memory and in a checkpoint stream: a 32-byte header, the key, the value.
//!
//! Both use the same bytes, so that writing a checkpoint is copying. The one difference is the checkpoint mark, which
//! is zero in a stream.

use lockstep_proto::limits::{SLOTS, VALUE_SIZE_MAX};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bits of the slot word that hold the slot.
const SLOT_BITS: u32 = 14;
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;

/// What stands for a plain value under an empty key: in a stream, such an entry is told from the trailer by it.
const PLAIN_OF_EMPTY_KEY: u16 = 3;

/// Bits of the size word that hold the value's size; the mark is in the rest.
const VALUE_SIZE_BITS: u32 = 21;
const VALUE_SIZE_MASK: u32 = (1 << VALUE_SIZE_BITS) - 1;

/// Largest checkpoint mark.
pub(crate) const MARK_MAX: u32 = u32::MAX >> VALUE_SIZE_BITS;

/// The fixed part of an entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct EntryHeader {
    /// Revision of the request that wrote the value.
    version: U64,
    /// Place in the order in which keys were created, from 1.
    creation: U64,
    /// When the key ceases to exist, in nanoseconds since 1970; 0 for never.
    expiry_ns: U64,
    /// Size of the value in the low 21 bits; the checkpoint mark in the others.
    size_and_mark: U32,
    key_size: U16,
    /// The slot in the low 14 bits; how the value came about in the others.
    slot_and_encoding: U16,
}

const _: () = {
    assert!(size_of::<EntryHeader>() == 32);
    assert!(VALUE_SIZE_MAX <= VALUE_SIZE_MASK as usize);
    assert!(SLOTS as u32 == 1 << SLOT_BITS);
};

/// How a value came about, as far as it shows: Redis clients can ask for the encoding of an object, and in Redis that
/// depends on the command which made the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// It was written as a whole.
    #[default]
    Plain = 0,
    /// It was made by changing a part of one, or adding to it.
    Patched = 1,
    /// It is the text of a number with a fraction, or was before its fraction became zero.
    Float = 2,
}

/// A value to be written, and what goes with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewValue<'a> {
    pub value: &'a [u8],
    /// 0 for never.
    pub expiry_ns: u64,
    pub version: u64,
    pub encoding: Encoding,
}

/// What an entry says besides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub version: u64,
    pub creation: u64,
    pub expiry_ns: u64,
    pub slot: u16,
    pub encoding: Encoding,
}

impl EntryHeader {
    pub const SIZE: usize = size_of::<EntryHeader>();

    /// The header of a new entry, not marked.
    pub fn new(attributes: &Attributes, key_size: usize, value_size: usize) -> EntryHeader {
        debug_assert!(value_size <= VALUE_SIZE_MAX && attributes.slot < SLOTS);
        EntryHeader {
            version: U64::new(attributes.version),
            creation: U64::new(attributes.creation),
            expiry_ns: U64::new(attributes.expiry_ns),
            size_and_mark: U32::new(value_size as u32),
            key_size: U16::new(key_size as u16),
            slot_and_encoding: U16::new(attributes.slot | encoding_bits(attributes.encoding, key_size)),
        }
    }

    #[inline]
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    #[inline]
    pub fn creation(&self) -> u64 {
        self.creation.get()
    }

    #[inline]
    pub fn expiry_ns(&self) -> u64 {
        self.expiry_ns.get()
    }

    #[inline]
    pub fn slot(&self) -> u16 {
        self.slot_and_encoding.get() & SLOT_MASK
    }

    #[inline]
    pub fn encoding(&self) -> Encoding {
        match self.slot_and_encoding.get() >> SLOT_BITS {
            1 => Encoding::Patched,
            2 => Encoding::Float,
            _ => Encoding::Plain,
        }
    }

    /// Whether a header in a stream is that of an entry: the trailer, which is as large, has zeroes in these places.
    #[inline]
    pub fn is_of_entry(&self) -> bool {
        self.key_size.get() != 0 || self.slot_and_encoding.get() >> SLOT_BITS != 0
    }

    /// Whether the encoding is one that this code writes.
    pub fn is_encoding_valid(&self) -> bool {
        self.slot_and_encoding.get() >> SLOT_BITS == encoding_bits(self.encoding(), self.key_size()) >> SLOT_BITS
    }

    #[inline]
    pub fn key_size(&self) -> usize {
        self.key_size.get() as usize
    }

    #[inline]
    pub fn value_size(&self) -> usize {
        (self.size_and_mark.get() & VALUE_SIZE_MASK) as usize
    }

    /// Size of the whole entry, in bytes.
    #[inline]
    pub fn entry_size(&self) -> usize {
        EntryHeader::SIZE + self.key_size() + self.value_size()
    }

    /// The checkpoint that already has an older state of this entry; 0 for none.
    #[inline]
    pub fn mark(&self) -> u32 {
        self.size_and_mark.get() >> VALUE_SIZE_BITS
    }

    #[inline]
    pub fn set_mark(&mut self, mark: u32) {
        debug_assert!(mark <= MARK_MAX);
        self.size_and_mark = U32::new((self.size_and_mark.get() & VALUE_SIZE_MASK) | mark << VALUE_SIZE_BITS);
    }

    /// Sets what an overwrite changes. The mark stays.
    #[inline]
    pub fn overwrite(&mut self, version: u64, expiry_ns: u64, encoding: Encoding, value_size: usize) {
        debug_assert!(value_size <= VALUE_SIZE_MAX);
        self.version = U64::new(version);
        self.expiry_ns = U64::new(expiry_ns);
        self.slot_and_encoding = U16::new(self.slot() | encoding_bits(encoding, self.key_size()));
        self.size_and_mark = U32::new((self.size_and_mark.get() & !VALUE_SIZE_MASK) | value_size as u32);
    }

    /// Sets the expiry alone.
    pub fn set_expiry_ns(&mut self, expiry_ns: u64) {
        self.expiry_ns = U64::new(expiry_ns);
    }
}

/// An entry, viewed in place.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub header: &'a EntryHeader,
    rest: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Views the entry at the start of `bytes`, which may go on behind it.
    #[inline]
    pub fn of(bytes: &'a [u8]) -> Entry<'a> {
        let (header, rest) = EntryHeader::ref_from_prefix(bytes).expect("an entry is larger than its header");
        Entry { header, rest }
    }

    #[inline]
    pub fn key(&self) -> &'a [u8] {
        &self.rest[..self.header.key_size()]
    }

    #[inline]
    pub fn value(&self) -> &'a [u8] {
        let key_size = self.header.key_size();
        &self.rest[key_size..key_size + self.header.value_size()]
    }

    /// Whether the key has ceased to exist by `now_ns`.
    #[inline]
    pub fn is_expired(&self, now_ns: u64) -> bool {
        is_expired(self.header.expiry_ns(), now_ns)
    }

    /// Appends the entry as it stands in a checkpoint stream: the same bytes, not marked.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut header = *self.header;
        header.set_mark(0);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.rest[..self.header.key_size() + self.header.value_size()]);
    }
}

/// The bits of the slot word that stand for an encoding.
#[inline]
fn encoding_bits(encoding: Encoding, key_size: usize) -> u16 {
    let bits = if encoding == Encoding::Plain && key_size == 0 { PLAIN_OF_EMPTY_KEY } else { encoding as u16 };
    bits << SLOT_BITS
}

/// Whether something with this expiry has ceased to exist by `now_ns`.
#[inline]
pub(crate) fn is_expired(expiry_ns: u64, now_ns: u64) -> bool {
    expiry_ns != 0 && expiry_ns <= now_ns
}

/// Views the header of the entry at the start of `bytes`, for changes.
#[inline]
pub(crate) fn header_mut(bytes: &mut [u8]) -> &mut EntryHeader {
    let (header, _) = EntryHeader::mut_from_prefix(bytes).expect("an entry is larger than its header");
    header
}

/// Writes a whole entry to the start of `bytes`.
///
/// # Panics
///
/// If it does not fit.
#[inline]
pub(crate) fn write_entry(bytes: &mut [u8], header: &EntryHeader, key: &[u8], value: &[u8]) {
    debug_assert!(header.key_size() == key.len() && header.value_size() == value.len());
    let (header_bytes, rest) = bytes.split_at_mut(EntryHeader::SIZE);
    let (key_bytes, rest) = rest.split_at_mut(key.len());
    header_bytes.copy_from_slice(header.as_bytes());
    key_bytes.copy_from_slice(key);
    rest[..value.len()].copy_from_slice(value);
}
