//! What the store should do, said as plainly as possible: one ordered map, no handles, no slots' lists, no memory of
//! its own. And the way from a command to the frames that the store is given.

#![allow(dead_code, reason = "each test uses a part of the model")]

use std::collections::BTreeMap;

use lockstep_proto::{
    Operation, Status,
    items::{MultiGetItems, MultiGetReplyItems, MultiPutItems, ScanReplyHeader, ScanReplyItems},
    reply::Reply,
    request::{FLAG_TTL, Request, RequestParts, encode_request},
    slot::{shard_of_key, slot_of},
};
use lockstep_store::{Store, StoreConfig, WriteResult};
use proptest::prelude::*;
use zerocopy::FromBytes;

pub const MS: u64 = 1_000_000;

/// A write, with keys as numbers.
#[derive(Clone, Debug)]
pub enum Command {
    Put {
        key: u8,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    },
    Delete {
        key: u8,
    },
    /// `offset` is added to the version that the key has before the batch; 0 makes it the right one.
    CompareAndSet {
        key: u8,
        offset: u64,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    },
    Increment {
        key: u8,
        delta: i64,
    },
    MultiPut {
        items: Vec<(u8, Vec<u8>)>,
        ttl_ms: Option<u64>,
    },
    Expire {
        key: u8,
        ttl_ms: Option<u64>,
    },
}

/// Commands of one prepare, and the time since the one before.
#[derive(Clone, Debug)]
pub struct Batch {
    pub elapsed_ms: u64,
    pub commands: Vec<Command>,
}

/// The bytes of a key: some share a hash tag, some are long.
pub fn key_bytes(key: u8) -> Vec<u8> {
    match key % 8 {
        0..=2 => format!("{{tag}}{key}").into_bytes(),
        3 => format!("{key}-{}", "long".repeat(30)).into_bytes(),
        _ => format!("key-{key}").into_bytes(),
    }
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => (0u64..1000).prop_map(|number| number.to_string().into_bytes()),
        12 => proptest::collection::vec(any::<u8>(), 0..200),
        6 => (any::<u8>(), 0usize..6000).prop_map(|(byte, size)| vec![byte; size]),
        1 => (any::<u8>(), 120_000usize..160_000).prop_map(|(byte, size)| vec![byte; size]),
    ]
}

fn ttl_ms() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 1 => (1u64..40).prop_map(Some)]
}

fn command(keys: u8) -> impl Strategy<Value = Command> {
    let delta = prop_oneof![-5i64..5, Just(i64::MAX), Just(i64::MIN)];
    let offset = prop_oneof![3 => Just(0u64), 1 => 0u64..3];
    prop_oneof![
        6 => (0..keys, value(), ttl_ms()).prop_map(|(key, value, ttl_ms)| Command::Put { key, value, ttl_ms }),
        3 => (0..keys).prop_map(|key| Command::Delete { key }),
        3 => (0..keys, offset, value(), ttl_ms())
            .prop_map(|(key, offset, value, ttl_ms)| Command::CompareAndSet { key, offset, value, ttl_ms }),
        2 => (0..keys, delta).prop_map(|(key, delta)| Command::Increment { key, delta }),
        1 => (proptest::collection::vec((0..keys, value()), 1..5), ttl_ms())
            .prop_map(|(items, ttl_ms)| Command::MultiPut { items, ttl_ms }),
        2 => (0..keys, ttl_ms()).prop_map(|(key, ttl_ms)| Command::Expire { key, ttl_ms }),
    ]
}

/// Random batches over `keys` keys.
pub fn batches(keys: u8, count: usize) -> impl Strategy<Value = Vec<Batch>> {
    let batch = (0u64..10, proptest::collection::vec(command(keys), 0..12));
    proptest::collection::vec(batch.prop_map(|(elapsed_ms, commands)| Batch { elapsed_ms, commands }), 1..count)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    pub value: Vec<u8>,
    pub version: u64,
    pub creation: u64,
    pub expiry_ns: Option<u64>,
}

/// The versions of the keys that exist.
pub type Versions = BTreeMap<Vec<u8>, u64>;

fn expected_version(before: &Versions, key: u8, offset: u64) -> u64 {
    before.get(&key_bytes(key)).copied().unwrap_or(0) + offset
}

/// The naive store.
#[derive(Clone, Debug)]
pub struct Model {
    pub shard: u16,
    pub shards: u16,
    pub entries: BTreeMap<Vec<u8>, ModelEntry>,
    pub creations: u64,
    pub now_ns: u64,
    pub revision: u64,
}

impl Model {
    pub fn new(shard: u16, shards: u16) -> Model {
        Model { shard, shards, entries: BTreeMap::new(), creations: 0, now_ns: 1_000_000_000, revision: 100 }
    }

    /// Carries out a batch and gives the frames that make a store do the same.
    pub fn apply_batch(&mut self, batch: &Batch) -> (Vec<(u64, Vec<u8>)>, Vec<WriteResult>) {
        self.now_ns += batch.elapsed_ms * MS;
        self.remove_expired();
        let before: Versions = self.entries.iter().map(|(key, entry)| (key.clone(), entry.version)).collect();
        let (mut frames, mut results) = (Vec::new(), Vec::new());
        for command in &batch.commands {
            self.revision += 1;
            frames.push((self.revision, command_frame(command, &before)));
            let (status, version, value) = self.apply(command, &before);
            results.push(WriteResult { status, version, value });
        }
        (frames, results)
    }

    pub fn remove_expired(&mut self) {
        let now_ns = self.now_ns;
        self.entries.retain(|_, entry| entry.expiry_ns.is_none_or(|expiry_ns| expiry_ns > now_ns));
    }

    fn is_own(&self, key: &[u8]) -> bool {
        shard_of_key(key, self.shards) == self.shard
    }

    pub fn version(&self, key: &[u8]) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.version)
    }

    fn expiry_ns(&self, ttl_ms: Option<u64>) -> Option<u64> {
        ttl_ms.map(|ttl_ms| self.now_ns + ttl_ms * MS)
    }

    fn put(&mut self, key: &[u8], value: &[u8], expiry_ns: Option<u64>) -> (Status, u64, u64) {
        if !self.is_own(key) {
            return (Status::WrongShard, 0, 0);
        }
        let creation = match self.entries.get(key) {
            Some(entry) => entry.creation,
            None => {
                self.creations += 1;
                self.creations
            }
        };
        let entry = ModelEntry { value: value.to_vec(), version: self.revision, creation, expiry_ns };
        self.entries.insert(key.to_vec(), entry);
        (Status::Ok, self.revision, 0)
    }

    fn apply(&mut self, command: &Command, before: &Versions) -> (Status, u64, u64) {
        let absent = |model: &Model, key: &[u8], status| if model.is_own(key) { status } else { Status::WrongShard };
        match command {
            Command::Put { key, value, ttl_ms } => self.put(&key_bytes(*key), value, self.expiry_ns(*ttl_ms)),
            Command::Delete { key } => match self.entries.remove(&key_bytes(*key)) {
                Some(_) => (Status::Ok, self.revision, 0),
                None => (absent(self, &key_bytes(*key), Status::NotFound), 0, 0),
            },
            Command::CompareAndSet { key, offset, value, ttl_ms } => {
                let name = key_bytes(*key);
                let version = self.version(&name);
                if version == expected_version(before, *key, *offset) {
                    return self.put(&name, value, self.expiry_ns(*ttl_ms));
                }
                (absent(self, &name, Status::VersionMismatch), version, 0)
            }
            Command::Increment { key, delta } => self.increment(&key_bytes(*key), *delta),
            Command::MultiPut { items, ttl_ms } => {
                if items.iter().any(|(key, _)| !self.is_own(&key_bytes(*key))) {
                    return (Status::WrongShard, 0, 0);
                }
                for (key, value) in items {
                    self.put(&key_bytes(*key), value, self.expiry_ns(*ttl_ms));
                }
                (Status::Ok, self.revision, 0)
            }
            Command::Expire { key, ttl_ms } => {
                let expiry_ns = self.expiry_ns(*ttl_ms);
                match self.entries.get_mut(&key_bytes(*key)) {
                    Some(entry) => {
                        entry.expiry_ns = expiry_ns;
                        (Status::Ok, entry.version, 0)
                    }
                    None => (absent(self, &key_bytes(*key), Status::NotFound), 0, 0),
                }
            }
        }
    }

    fn increment(&mut self, key: &[u8], delta: i64) -> (Status, u64, u64) {
        let (text, expiry_ns) = match self.entries.get(key) {
            Some(entry) => (entry.value.clone(), entry.expiry_ns),
            None => (b"0".to_vec(), None),
        };
        // A number is what prints as itself.
        let number = String::from_utf8(text).ok().and_then(|text| {
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        });
        let Some(sum) = number.and_then(|number| number.checked_add(delta)) else {
            return (Status::NotANumber, self.version(key), 0);
        };
        match self.put(key, sum.to_string().as_bytes(), expiry_ns) {
            (Status::Ok, version, _) => (Status::Ok, version, sum as u64),
            refused => refused,
        }
    }

    /// Keys in the order in which a scan must give them, with where the scan stands at each.
    pub fn scan_order(&self) -> Vec<(u16, u64, Vec<u8>)> {
        let mut order: Vec<_> =
            self.entries.iter().map(|(key, entry)| (slot_of(key), entry.creation, key.clone())).collect();
        order.sort();
        order
    }
}

/// The frame that asks for a command. Compare-and-sets expect versions as they are before the batch.
fn command_frame(command: &Command, before: &Versions) -> Vec<u8> {
    let number = |number: u64| number.to_le_bytes().to_vec();
    let ttl = |ttl_ms: &Option<u64>| ttl_ms.map_or(Vec::new(), number);
    match command {
        Command::Put { key, value, ttl_ms } => {
            write_frame(Operation::Put, ttl_ms.is_some(), &key_bytes(*key), &ttl(ttl_ms), value)
        }
        Command::Delete { key } => write_frame(Operation::Delete, false, &key_bytes(*key), &[], &[]),
        Command::CompareAndSet { key, offset, value, ttl_ms } => {
            let arguments = [number(expected_version(before, *key, *offset)), ttl(ttl_ms)].concat();
            write_frame(Operation::CompareAndSet, ttl_ms.is_some(), &key_bytes(*key), &arguments, value)
        }
        Command::Increment { key, delta } => {
            write_frame(Operation::Increment, false, &key_bytes(*key), &delta.to_le_bytes(), &[])
        }
        Command::MultiPut { items, ttl_ms } => {
            let mut body = Vec::new();
            for (key, value) in items {
                MultiPutItems::push(&key_bytes(*key), value, &mut body);
            }
            write_frame(Operation::MultiPut, ttl_ms.is_some(), &[], &ttl(ttl_ms), &body)
        }
        Command::Expire { key, ttl_ms } => {
            write_frame(Operation::Expire, false, &key_bytes(*key), &number(ttl_ms.unwrap_or(0)), &[])
        }
    }
}

/// A logged request's frame.
pub fn write_frame(operation: Operation, has_ttl: bool, key: &[u8], arguments: &[u8], value: &[u8]) -> Vec<u8> {
    let flags = if has_ttl { FLAG_TTL } else { 0 };
    frame(&RequestParts { operation, flags, session: 1, sequence: 1, key, arguments, value })
}

/// A read's frame.
pub fn read_frame(operation: Operation, key: &[u8], arguments: &[u8]) -> Vec<u8> {
    frame(&RequestParts { operation, flags: 0, session: 0, sequence: 77, key, arguments, value: &[] })
}

fn frame(parts: &RequestParts<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(parts, &mut bytes);
    bytes
}

pub fn parse(frame: &[u8]) -> Request<'_> {
    Request::parse(frame).expect("a valid frame").expect("a whole frame")
}

pub fn config(seed: u64, shard: u16, shards: u16) -> StoreConfig {
    StoreConfig { hash_seed: [seed, seed ^ 1, seed ^ 2, seed ^ 3], shard, shards, bytes_max: u64::MAX }
}

pub fn apply(store: &mut Store, now_ns: u64, frames: &[(u64, Vec<u8>)]) -> Vec<WriteResult> {
    let requests: Vec<_> = frames.iter().map(|(revision, frame)| (*revision, parse(frame))).collect();
    let mut results = vec![WriteResult { status: Status::Busy, version: 9, value: 9 }];
    store.apply_batch(now_ns, &requests, &mut results);
    results
}

/// A reply: status, version, body.
pub fn read(store: &Store, now_ns: u64, frame: &[u8]) -> (Status, u64, Vec<u8>) {
    // Something is in the buffer already: a reply is appended.
    let mut out = vec![0xEE; 5];
    store.read(now_ns, &parse(frame), &mut out);
    let reply = Reply::parse(&out[5..]).expect("a valid reply").expect("a whole reply");
    assert_eq!(reply.size() + 5, out.len());
    assert_eq!((reply.operation(), reply.sequence(), reply.copies()), (parse(frame).operation(), 77, 0));
    (reply.status(), reply.version(), reply.body().to_vec())
}

/// What one scan gave.
pub struct Scanned {
    pub items: Vec<(Vec<u8>, Vec<u8>, u64)>,
    /// Slot and position to go on from; `None` at the end.
    pub cursor: Option<(u16, u64)>,
}

pub fn scan(store: &Store, now_ns: u64, cursor: (u16, u64), limit: u32, is_keys_only: bool) -> Scanned {
    let flags = u16::from(is_keys_only);
    let mut arguments = Vec::new();
    arguments.extend_from_slice(&cursor.0.to_le_bytes());
    arguments.extend_from_slice(&flags.to_le_bytes());
    arguments.extend_from_slice(&limit.to_le_bytes());
    arguments.extend_from_slice(&cursor.1.to_le_bytes());
    arguments.extend_from_slice(&[0; 8]);
    let (status, version, body) = read(store, now_ns, &read_frame(Operation::Scan, &[], &arguments));
    assert_eq!((status, version), (Status::Ok, 0));
    let (header, items) = ScanReplyHeader::read_from_prefix(&body).expect("a header");
    let items: Vec<_> =
        ScanReplyItems::new(items).map(|item| (item.key.to_vec(), item.value.to_vec(), item.version)).collect();
    assert_eq!(items.len(), header.count.get() as usize);
    let is_done = header.is_done.get() == 1;
    Scanned { items, cursor: (!is_done).then(|| (header.cursor_slot.get(), header.cursor_position.get())) }
}

/// Every key, value and version that scans give, from the beginning to the end.
pub fn scan_all(store: &Store, now_ns: u64, limit: u32) -> Vec<(Vec<u8>, Vec<u8>, u64)> {
    let (mut items, mut cursor) = (Vec::new(), Some((0, 0)));
    while let Some(from) = cursor {
        let scanned = scan(store, now_ns, from, limit, false);
        items.extend(scanned.items);
        cursor = scanned.cursor;
    }
    items
}

/// Compares everything that can be read of a store to the model.
pub fn assert_equal(store: &Store, model: &Model, keys: u8) {
    store.check().expect("a consistent store");
    let mut all_keys = Vec::new();
    for key in (0..keys).map(key_bytes) {
        let entry = model.entries.get(&key);
        let status = match entry {
            Some(_) => Status::Ok,
            None if shard_of_key(&key, model.shards) == model.shard => Status::NotFound,
            None => Status::WrongShard,
        };
        let version = entry.map_or(0, |entry| entry.version);
        let value = entry.map_or(Vec::new(), |entry| entry.value.clone());
        assert_eq!(read(store, model.now_ns, &read_frame(Operation::Get, &key, &[])), (status, version, value));
        assert_eq!(read(store, model.now_ns, &read_frame(Operation::Exists, &key, &[])), (status, version, vec![]));
        let remaining = entry.map_or(Vec::new(), |entry| match entry.expiry_ns {
            None => u64::MAX.to_le_bytes().to_vec(),
            Some(expiry_ns) => ((expiry_ns - model.now_ns) / MS).to_le_bytes().to_vec(),
        });
        assert_eq!(
            read(store, model.now_ns, &read_frame(Operation::TimeToLive, &key, &[])),
            (status, version, remaining)
        );
        if shard_of_key(&key, model.shards) == model.shard {
            MultiGetItems::push(&key, &mut all_keys);
        }
    }
    assert_multi_get(store, model, &all_keys);
    let expected: Vec<_> = model.scan_order().into_iter().map(|(_, _, key)| key).collect();
    let scanned = scan_all(store, model.now_ns, 7);
    assert_eq!(scanned.iter().map(|(key, _, _)| key.clone()).collect::<Vec<_>>(), expected);
    for (key, value, version) in scanned {
        assert_eq!((&value, version), (&model.entries[&key].value, model.entries[&key].version));
    }
}

fn assert_multi_get(store: &Store, model: &Model, all_keys: &[u8]) {
    if all_keys.is_empty() {
        return;
    }
    let frame = read_frame(Operation::MultiGet, &[], all_keys);
    let (status, _, body) = read(store, model.now_ns, &frame);
    let mut size = 0;
    let expected: Vec<_> = parse(&frame)
        .multi_get_items()
        .map(|key| {
            let found = model.entries.get(key).map(|entry| (entry.version, entry.value.clone()));
            size += 13 + found.as_ref().map_or(0, |(_, value)| value.len());
            found
        })
        .collect();
    if size > 4 << 20 {
        assert_eq!(status, Status::BadRequest);
        return;
    }
    assert_eq!(status, Status::Ok);
    let found: Vec<_> =
        MultiGetReplyItems::new(&body).map(|item| item.map(|(version, value)| (version, value.to_vec()))).collect();
    assert_eq!(found, expected);
}
