//! Bodies with several parts: multi-get, multi-put, scan and status.

use zerocopy::{
    FromBytes,
    little_endian::{U16, U32, U64},
};

use crate::{
    layout::layout,
    limits::{ITEMS_MAX, SLOTS, VALUE_SIZE_MAX},
    request::FrameError,
};

layout! {
    /// What a scan asks for.
    pub struct ScanArguments: 24 {
        0 cursor_slot: U16 = "Slot to go on from: 0 at first, then what the last reply gave.",
        2 flags: U16 = "Bit 0: keys only, no values.",
        4 limit: U32 = "Largest number of keys in the reply, 1 to 16384. A reply may hold fewer and still not be the last.",
        8 cursor_position: U64 = "Position in the slot to go on from: 0 at first, then what the last reply gave.",
        16 reserved: U64 = "Zero.",
    }
}

/// Scan flag: keys and versions only.
pub const SCAN_KEYS_ONLY: u16 = 1;

impl ScanArguments {
    /// Whether values are left out.
    pub fn is_keys_only(&self) -> bool {
        self.flags.get() & SCAN_KEYS_ONLY != 0
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// If a field is out of its range.
    pub fn check(&self) -> Result<(), FrameError> {
        let limit = self.limit.get() as usize;
        if self.cursor_slot.get() >= SLOTS || limit == 0 || limit > ITEMS_MAX {
            return Err(FrameError::Body);
        }
        if self.flags.get() & !SCAN_KEYS_ONLY != 0 || self.reserved.get() != 0 {
            return Err(FrameError::Reserved);
        }
        Ok(())
    }
}

layout! {
    /// What comes before the keys in the reply to a scan.
    pub struct ScanReplyHeader: 24 {
        0 cursor_slot: U16 = "Slot to go on from.",
        2 is_done: U16 = "1 when the scan has seen every key, else 0.",
        4 count: U32 = "Number of items that follow.",
        8 cursor_position: U64 = "Position in the slot to go on from.",
        16 reserved: U64 = "Zero.",
    }
}

layout! {
    /// A server's own view of its replica, in the reply to a status request.
    pub struct StatusBody: 96 {
        0 view: U64 = "The view.",
        8 op: U64 = "Highest op in the journal.",
        16 commit: U64 = "Highest op known to be committed.",
        24 applied: U64 = "Highest op applied to the store.",
        32 durable: U64 = "Highest op of which it and all before are durable here.",
        40 checkpoint: U64 = "Op of the last durable checkpoint.",
        48 keys: U64 = "Number of keys in the store.",
        56 uptime_ms: U64 = "Milliseconds since the server was started.",
        64 connections: U32 = "Client connections of this shard.",
        68 shard: U16 = "The shard.",
        70 shards: U16 = "Number of shards.",
        72 replica: u8 = "Who answers.",
        73 servers: u8 = "Number of servers; as many `PeerStatus` follow.",
        74 role: u8 = "0 backup, 1 primary, 2 recovering.",
        75 in_sync: u8 = "The in-sync set, a bit per server (as the primary has it, or last told this backup).",
        76 ack: u8 = "Ack policy: 0 majority, 1 all, 2 strict.",
        77 fanout: u8 = "Fan-out: 0 parallel, 1 sequential.",
        78 durability: u8 = "Durability: 0 disk, 1 memory.",
        79 is_deficient: u8 = "1 when it has lost ops that it may have acknowledged, and does not have them back yet.",
        80 revision: U64 = "Number of logged requests so far: the version that the next one will get.",
        88 transfer_received_kib: U32 = "KiB of a checkpoint that have come from another server so far.",
        92 transfer_size_kib: U32 = "Size of that checkpoint in KiB; 0 when none is on its way.",
    }
}

layout! {
    /// What the answering server knows of one server.
    pub struct PeerStatus: 24 {
        0 durable: U64 = "Highest op that server is known to hold durably, with all before; 0 when not known.",
        8 lag: U64 = "Ops by which it is behind the answering server's journal; 0 unless that is the primary, which alone is told.",
        16 replica: u8 = "Which server.",
        17 is_connected: u8 = "1 when the connection to it is up.",
        18 is_in_sync: u8 = "1 when it is in the in-sync set.",
        19 is_behind: u8 = "1 when it needs ops that the answering server's journal no longer holds.",
        20 reserved: U32 = "Zero.",
    }
}

fn split_u16(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = U16::read_from_prefix(bytes).ok()?;
    Some((number.get() as usize, rest))
}

fn split_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = U32::read_from_prefix(bytes).ok()?;
    Some((number.get() as usize, rest))
}

fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = U64::read_from_prefix(bytes).ok()?;
    Some((number.get(), rest))
}

/// The keys of a multi-get request.
#[derive(Clone, Copy, Debug)]
pub struct MultiGetItems<'a>(&'a [u8]);

impl<'a> MultiGetItems<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        MultiGetItems(bytes)
    }

    pub(crate) fn check(bytes: &'a [u8]) -> Result<(), FrameError> {
        let mut items = MultiGetItems(bytes);
        let mut count = 0;
        for key in items.by_ref() {
            count += 1;
            if key.is_empty() || count > ITEMS_MAX {
                return Err(FrameError::Body);
            }
        }
        if count == 0 || !items.0.is_empty() {
            return Err(FrameError::Body);
        }
        Ok(())
    }

    /// Appends one key to the body of a multi-get.
    ///
    /// # Panics
    ///
    /// If the key is larger than [`crate::limits::KEY_SIZE_MAX`].
    pub fn push(key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&u16::try_from(key.len()).expect("key size").to_le_bytes());
        out.extend_from_slice(key);
    }
}

impl<'a> Iterator for MultiGetItems<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (key_size, rest) = split_u16(self.0)?;
        let (key, rest) = rest.split_at_checked(key_size)?;
        self.0 = rest;
        Some(key)
    }
}

/// The keys and values of a multi-put request.
#[derive(Clone, Copy, Debug)]
pub struct MultiPutItems<'a>(&'a [u8]);

impl<'a> MultiPutItems<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        MultiPutItems(bytes)
    }

    pub(crate) fn check(bytes: &'a [u8]) -> Result<(), FrameError> {
        let mut items = MultiPutItems(bytes);
        let mut count = 0;
        for (key, value) in items.by_ref() {
            count += 1;
            if key.is_empty() || count > ITEMS_MAX {
                return Err(FrameError::Body);
            }
            if value.len() > VALUE_SIZE_MAX {
                return Err(FrameError::ValueSize(value.len()));
            }
        }
        if count == 0 || !items.0.is_empty() {
            return Err(FrameError::Body);
        }
        Ok(())
    }

    /// Appends one key and value to the body of a multi-put.
    ///
    /// # Panics
    ///
    /// If key or value are beyond the bounds of [`crate::limits`].
    pub fn push(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        assert!(value.len() <= VALUE_SIZE_MAX);
        out.extend_from_slice(&u16::try_from(key.len()).expect("key size").to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
}

impl<'a> Iterator for MultiPutItems<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (key_size, rest) = split_u16(self.0)?;
        let (value_size, rest) = split_u32(rest)?;
        let (key, rest) = rest.split_at_checked(key_size)?;
        let (value, rest) = rest.split_at_checked(value_size)?;
        self.0 = rest;
        Some((key, value))
    }
}

/// The items in the reply to a multi-get: `None` for a key that does not exist, else its version and value.
#[derive(Clone, Copy, Debug)]
pub struct MultiGetReplyItems<'a>(&'a [u8]);

impl<'a> MultiGetReplyItems<'a> {
    /// Views the body of a reply. Iteration ends early if the body is malformed.
    pub fn new(body: &'a [u8]) -> Self {
        MultiGetReplyItems(body)
    }

    /// Appends one item to the body of a reply.
    ///
    /// # Panics
    ///
    /// If the value is larger than [`VALUE_SIZE_MAX`].
    pub fn push(found: Option<(u64, &[u8])>, out: &mut Vec<u8>) {
        let (version, value) = found.unwrap_or((0, &[]));
        assert!(value.len() <= VALUE_SIZE_MAX);
        out.push(u8::from(found.is_some()));
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

impl<'a> Iterator for MultiGetReplyItems<'a> {
    type Item = Option<(u64, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&found, rest) = self.0.split_first()?;
        if found > 1 {
            return None;
        }
        let (version, rest) = split_u64(rest)?;
        let (value_size, rest) = split_u32(rest)?;
        let (value, rest) = rest.split_at_checked(value_size)?;
        self.0 = rest;
        Some((found != 0).then_some((version, value)))
    }
}

/// One key in the reply to a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value; empty when only keys were asked for.
    pub value: &'a [u8],
    /// The key's version.
    pub version: u64,
}

impl ScanItem<'_> {
    /// Size of the item in the body of a reply, in bytes.
    pub fn encoded_size(&self) -> usize {
        14 + self.key.len() + self.value.len()
    }

    /// Appends the item to the body of a reply.
    ///
    /// # Panics
    ///
    /// If key or value are beyond the bounds of [`crate::limits`].
    pub fn push(&self, out: &mut Vec<u8>) {
        assert!(self.value.len() <= VALUE_SIZE_MAX);
        out.extend_from_slice(&u16::try_from(self.key.len()).expect("key size").to_le_bytes());
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }
}

/// The items after the [`ScanReplyHeader`] in the reply to a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanReplyItems<'a>(&'a [u8]);

impl<'a> ScanReplyItems<'a> {
    /// Views what follows the header. Iteration ends early if the bytes are malformed.
    pub fn new(bytes: &'a [u8]) -> Self {
        ScanReplyItems(bytes)
    }
}

impl<'a> Iterator for ScanReplyItems<'a> {
    type Item = ScanItem<'a>;

    fn next(&mut self) -> Option<ScanItem<'a>> {
        let (key_size, rest) = split_u16(self.0)?;
        let (value_size, rest) = split_u32(rest)?;
        let (version, rest) = split_u64(rest)?;
        let (key, rest) = rest.split_at_checked(key_size)?;
        let (value, rest) = rest.split_at_checked(value_size)?;
        self.0 = rest;
        Some(ScanItem { key, value, version })
    }
}
