//! The state machine of the fake cluster: small, slow, and plain enough to be believed.

use std::collections::{BTreeMap, HashMap};

use lockstep_proto::{
    Operation, Status,
    items::{MultiGetReplyItems, ScanItem, ScanReplyHeader},
    request::Request,
    slot::{shard_of_key, slot_of},
};
use zerocopy::{
    IntoBytes,
    little_endian::{U16, U32, U64},
};

use super::connection::reply;

#[derive(Clone, Debug)]
struct Stored {
    value: Vec<u8>,
    version: u64,
    ttl_ms: Option<u64>,
}

/// Keys, and the answers that sessions were given.
#[derive(Default)]
pub struct Machine {
    keys: BTreeMap<Vec<u8>, Stored>,
    /// Answers by session and sequence.
    pub sessions: HashMap<u64, HashMap<u64, Vec<u8>>>,
    revision: u64,
    /// Writes that took effect.
    pub writes: usize,
}

impl Machine {
    /// Answers a request; one with a session at most once, the same answer every time.
    pub fn carry_out(&mut self, request: &Request<'_>, shards: u16, shard: u16) -> Vec<u8> {
        if request.session() == 0 {
            return self.answer(request, shards, shard);
        }
        let Some(session) = self.sessions.get(&request.session()) else {
            return reply(request, Status::UnknownSession, 0, &[]);
        };
        if let Some(answer) = session.get(&request.sequence()) {
            return answer.clone();
        }
        let answer = self.answer(request, shards, shard);
        self.writes += 1;
        self.sessions.get_mut(&request.session()).unwrap().insert(request.sequence(), answer.clone());
        answer
    }

    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.keys.get(key).map(|stored| &stored.value[..])
    }

    fn answer(&mut self, request: &Request<'_>, shards: u16, shard: u16) -> Vec<u8> {
        let key = request.key().to_vec();
        let is_ours = |key: &[u8]| key.is_empty() || shard_of_key(key, shards) == shard;
        let items_are_ours =
            request.multi_get_items().all(is_ours) && request.multi_put_items().all(|(key, _)| is_ours(key));
        if !is_ours(&key) || !items_are_ours {
            return reply(request, Status::WrongShard, 0, &[]);
        }
        if request.operation().is_logged() {
            self.revision += 1;
        }
        let version = self.revision;
        let found = self.keys.get(&key).cloned();
        let written = |machine: &mut Machine, value: &[u8], ttl_ms| {
            machine.keys.insert(key.clone(), Stored { value: value.to_vec(), version, ttl_ms });
            reply(request, Status::Ok, version, &[])
        };
        match (request.operation(), found) {
            (Operation::Register, _) => {
                self.sessions.insert(version, HashMap::new());
                reply(request, Status::Ok, version, &[])
            }
            (Operation::Put, _) => written(self, request.value(), request.ttl_ms()),
            (Operation::CompareAndSet, found) => match found.map_or(0, |found| found.version) {
                present if present == request.expected_version() => written(self, request.value(), request.ttl_ms()),
                present => reply(request, Status::VersionMismatch, present, &[]),
            },
            (Operation::Increment, found) => self.increment(request, found, version),
            (Operation::MultiPut, _) => {
                for (key, value) in request.multi_put_items() {
                    let stored = Stored { value: value.to_vec(), version, ttl_ms: request.ttl_ms() };
                    self.keys.insert(key.to_vec(), stored);
                }
                reply(request, Status::Ok, version, &[])
            }
            (Operation::MultiGet, _) => self.multi_get(request),
            (Operation::Scan, _) => self.scan(request, shards, shard),
            (Operation::Ping, _) => reply(request, Status::Ok, 0, &[]),
            (_, None) => reply(request, Status::NotFound, 0, &[]),
            (Operation::Get, Some(found)) => reply(request, Status::Ok, found.version, &found.value),
            (Operation::Exists, Some(found)) => reply(request, Status::Ok, found.version, &[]),
            (Operation::TimeToLive, Some(found)) => {
                reply(request, Status::Ok, found.version, &found.ttl_ms.unwrap_or(u64::MAX).to_le_bytes())
            }
            (Operation::Delete, Some(_)) => {
                self.keys.remove(request.key());
                reply(request, Status::Ok, version, &[])
            }
            (Operation::Expire, Some(found)) => written(self, &found.value, request.ttl_ms()),
            (
                operation @ (Operation::Status | Operation::MovePrimary | Operation::Transact | Operation::Query),
                Some(_),
            ) => unreachable!("{operation:?} has no key"),
        }
    }

    fn increment(&mut self, request: &Request<'_>, found: Option<Stored>, version: u64) -> Vec<u8> {
        let present = match &found {
            None => Some(0),
            Some(found) => std::str::from_utf8(&found.value).ok().and_then(|text| text.parse::<i64>().ok()),
        };
        let Some(sum) = present.and_then(|present| present.checked_add(request.delta())) else {
            return reply(request, Status::NotANumber, 0, &[]);
        };
        let stored = Stored { value: sum.to_string().into_bytes(), version, ttl_ms: None };
        self.keys.insert(request.key().to_vec(), stored);
        reply(request, Status::Ok, version, &sum.to_le_bytes())
    }

    fn multi_get(&self, request: &Request<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        for key in request.multi_get_items() {
            MultiGetReplyItems::push(self.keys.get(key).map(|stored| (stored.version, &stored.value[..])), &mut body);
        }
        reply(request, Status::Ok, 0, &body)
    }

    /// Slot by slot; the position within a slot is the version plus one, so that 0 is before everything.
    fn scan(&self, request: &Request<'_>, shards: u16, shard: u16) -> Vec<u8> {
        let arguments = request.scan_arguments().unwrap();
        let start = (arguments.cursor_slot.get(), arguments.cursor_position.get());
        let mut places: Vec<_> = self
            .keys
            .iter()
            .filter(|(key, _)| shard_of_key(key, shards) == shard)
            .map(|(key, stored)| ((slot_of(key), stored.version + 1), key, stored))
            .filter(|(place, _, _)| *place > start)
            .collect();
        places.sort_by_key(|(place, _, _)| *place);
        let limit = arguments.limit.get() as usize;
        let is_done = places.len() <= limit;
        places.truncate(limit);
        let (slot, position) = places.last().map_or(start, |(place, _, _)| *place);
        let header = ScanReplyHeader {
            cursor_slot: U16::new(slot),
            is_done: U16::new(u16::from(is_done)),
            count: U32::new(places.len() as u32),
            cursor_position: U64::new(position),
            reserved: U64::ZERO,
        };
        let mut body = header.as_bytes().to_vec();
        for (_, key, stored) in places {
            let value = if arguments.is_keys_only() { &[] } else { &stored.value[..] };
            ScanItem { key, value, version: stored.version }.push(&mut body);
        }
        reply(request, Status::Ok, 0, &body)
    }
}
