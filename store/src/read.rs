//! Requests that read.

use lockstep_proto::{
    items::{MultiGetReplyItems, ScanArguments, ScanItem, ScanReplyHeader},
    limits::REPLY_BODY_SIZE_MAX,
    operation::{Operation, Status},
    reply::{ReplyHeader, ReplyParts, begin_reply, finish_reply},
    request::Request,
};
use zerocopy::{
    IntoBytes,
    little_endian::{U16, U32, U64},
};

use crate::{ahead::WINDOW, entry::Entry, expiry, program::first_key, store::Store};

/// A scan's reply ends once its body is this large, in bytes: far below the bound, so that one scan does not hold up
/// others.
const SCAN_BODY_SIZE: usize = 256 << 10;

/// Keys that one scan looks at, those included that have expired and are passed over.
const SCAN_KEYS_MAX: usize = 32_768;

/// Reads from which on it is worth it to ask for their memory ahead.
const READS_AHEAD_MIN: usize = 4;

/// Size of an item of a multi-get's reply besides the value, in bytes.
const MULTI_GET_ITEM_SIZE: usize = 13;

impl Store {
    /// Answers a read as of `now_ns`, in nanoseconds since 1970: appends a whole reply frame to `out`. Keys whose
    /// expiry is at or before `now_ns` do not exist.
    ///
    /// A multi-get whose values do not fit one reply is answered `BadRequest` with a text that says so, as is a request
    /// that is not a read.
    pub fn read(&self, now_ns: u64, request: &Request<'_>, out: &mut Vec<u8>) {
        let start = begin_reply(out);
        let (status, version) = match request.operation() {
            Operation::Get => self.get(now_ns, request.key(), out),
            Operation::Exists => self.read_entry(now_ns, request.key(), |_| ()),
            Operation::TimeToLive => self.time_to_live(now_ns, request.key(), out),
            Operation::MultiGet => (self.multi_get(now_ns, request, out), 0),
            Operation::Scan => (self.scan(now_ns, request, out), 0),
            Operation::Query => (self.query(now_ns, request.program(), out), 0),
            _ => {
                out.extend_from_slice(b"not a read: this operation is not answered by the store");
                (Status::BadRequest, 0)
            }
        };
        let parts =
            ReplyParts { status, operation: request.operation(), copies: 0, sequence: request.sequence(), version };
        finish_reply(&parts, start, out);
    }

    /// A key's value as of `now_ns`, in nanoseconds since 1970, in place: what a get answers, for who needs no reply
    /// frame.
    #[inline]
    pub fn value(&self, now_ns: u64, key: &[u8]) -> (Status, &[u8]) {
        let mut value: &[u8] = &[];
        let (status, _) = self.read_entry(now_ns, key, |entry| value = entry.value());
        (status, value)
    }

    /// Asks for the memory that `requests` will touch, so that answering them one after the other does not wait for
    /// it. Of more than [`READS_AHEAD`](crate::READS_AHEAD), the rest is left out; a few are not worth it.
    pub fn prefetch_reads(&self, requests: &[Request<'_>]) {
        if requests.len() < READS_AHEAD_MIN {
            return;
        }
        let keys = requests.iter().map(|request| match request.operation() {
            Operation::Query => first_key(request.program()),
            _ => request.key(),
        });
        self.prefetch_keys(keys, &mut [0; WINDOW]);
    }

    #[inline]
    fn read_entry<'a>(&'a self, now_ns: u64, key: &[u8], give: impl FnOnce(Entry<'a>)) -> (Status, u64) {
        match self.find_entry(now_ns, self.hash(key), key) {
            Some(entry) => {
                give(entry);
                (Status::Ok, entry.header.version())
            }
            None if self.is_own_key(key) => (Status::NotFound, 0),
            None => (Status::WrongShard, 0),
        }
    }

    #[inline]
    pub(crate) fn find_entry(&self, now_ns: u64, hash: u64, key: &[u8]) -> Option<Entry<'_>> {
        let entry = self.entry(self.find(hash, key)?);
        (!entry.is_expired(now_ns)).then_some(entry)
    }

    fn get(&self, now_ns: u64, key: &[u8], out: &mut Vec<u8>) -> (Status, u64) {
        self.read_entry(now_ns, key, |entry| out.extend_from_slice(entry.value()))
    }

    /// Remaining milliseconds are rounded up, so that a key that exists never has none left.
    fn time_to_live(&self, now_ns: u64, key: &[u8], out: &mut Vec<u8>) -> (Status, u64) {
        self.read_entry(now_ns, key, |entry| {
            let remaining_ms = match entry.header.expiry_ns() {
                0 => u64::MAX,
                expiry_ns => expiry::remaining_ms(expiry_ns, now_ns),
            };
            out.extend_from_slice(&remaining_ms.to_le_bytes());
        })
    }

    fn multi_get(&self, now_ns: u64, request: &Request<'_>, out: &mut Vec<u8>) -> Status {
        let body_start = out.len();
        let mut hashes = [0; WINDOW];
        let mut items = request.multi_get_items();
        loop {
            self.prefetch_keys(items, &mut hashes);
            let mut count = 0;
            // The array of hashes goes first: zip would swallow a key after the last hash.
            for (&hash, key) in hashes.iter().zip(items.by_ref()) {
                count += 1;
                let entry = self.find_entry(now_ns, hash, key);
                if entry.is_none() && !self.is_own_key(key) {
                    out.truncate(body_start);
                    return Status::WrongShard;
                }
                let value_size = entry.map_or(0, |entry| entry.header.value_size());
                if out.len() - body_start + MULTI_GET_ITEM_SIZE + value_size > REPLY_BODY_SIZE_MAX {
                    out.truncate(body_start);
                    out.extend_from_slice(
                        format!(
                            "the values are larger than a reply of {REPLY_BODY_SIZE_MAX} bytes: ask for fewer keys"
                        )
                        .as_bytes(),
                    );
                    return Status::BadRequest;
                }
                MultiGetReplyItems::push(entry.map(|entry| (entry.header.version(), entry.value())), out);
            }
            if count < WINDOW {
                return Status::Ok;
            }
        }
    }

    fn scan(&self, now_ns: u64, request: &Request<'_>, out: &mut Vec<u8>) -> Status {
        let Some(arguments) = request.scan_arguments() else {
            out.extend_from_slice(b"a scan without its arguments");
            return Status::BadRequest;
        };
        let header_start = out.len();
        out.extend_from_slice(&[0; ScanReplyHeader::SIZE]);
        let (count, cursor) = self.scan_items(now_ns, arguments, out);
        let (slot, position) = cursor.unwrap_or((0, 0));
        let header = ScanReplyHeader {
            cursor_slot: U16::new(slot),
            is_done: U16::new(u16::from(cursor.is_none())),
            count: U32::new(count),
            cursor_position: U64::new(position),
            reserved: U64::ZERO,
        };
        out[header_start..header_start + ScanReplyHeader::SIZE].copy_from_slice(header.as_bytes());
        Status::Ok
    }

    /// Appends items from the arguments' cursor on. Returns their number, and where to go on: `None` at the end.
    fn scan_items(&self, now_ns: u64, arguments: &ScanArguments, out: &mut Vec<u8>) -> (u32, Option<(u16, u64)>) {
        let limit = arguments.limit.get();
        let slots = self.slots.slots();
        let body_start = out.len();
        let (mut count, mut looked_at) = (0, 0);
        // A scan of one shard of several may well begin at slot 0: it means the shard's first.
        let first_slot = arguments.cursor_slot.get().max(slots.start);
        let mut position = if arguments.cursor_slot.get() < slots.start { 0 } else { arguments.cursor_position.get() };
        for slot in first_slot..slots.end {
            for (_, entry) in self.entries_from(slot, position) {
                let is_full = out.len() - body_start >= SCAN_BODY_SIZE;
                if count == limit || looked_at == SCAN_KEYS_MAX || is_full {
                    return (count, Some((slot, entry.header.creation())));
                }
                looked_at += 1;
                if entry.is_expired(now_ns) {
                    continue;
                }
                let value = if arguments.is_keys_only() { &[] } else { entry.value() };
                ScanItem { key: entry.key(), value, version: entry.header.version() }.push(out);
                count += 1;
            }
            position = 0;
        }
        (count, None)
    }
}

// The largest item may come on top of a body that is one byte short of being full.
const _: () = {
    use lockstep_proto::limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX};
    assert!(ScanReplyHeader::SIZE + SCAN_BODY_SIZE + 14 + KEY_SIZE_MAX + VALUE_SIZE_MAX < REPLY_BODY_SIZE_MAX);
    assert!(ReplyHeader::SIZE == 32);
};
