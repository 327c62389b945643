//! Requests as a person would say them, how they are encoded, and what a decoded one must answer.

use lockstep_proto::{
    Operation,
    items::{MultiGetItems, MultiPutItems, SCAN_KEYS_ONLY, ScanArguments},
    limits::{COUNTER_MAX, ITEMS_MAX, SLOTS, TTL_MS_MAX},
    request::{FLAG_STALE, FLAG_TTL, MOVE_TO_ANY, Request, RequestParts, encode_request},
};
use proptest::prelude::*;
use zerocopy::{
    IntoBytes,
    little_endian::{U16, U32, U64},
};

pub type Bytes = Vec<u8>;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Ask {
    Register,
    Ping,
    Status,
    MovePrimary { server: u8 },
    Delete(Bytes),
    Increment { key: Bytes, delta: i64 },
    Expire { key: Bytes, ttl_ms: u64 },
    Get { key: Bytes, is_stale: bool },
    Exists { key: Bytes, is_stale: bool },
    TimeToLive { key: Bytes, is_stale: bool },
    Put { key: Bytes, value: Bytes, ttl_ms: Option<u64> },
    CompareAndSet { key: Bytes, value: Bytes, version: u64, ttl_ms: Option<u64> },
    MultiGet { keys: Vec<Bytes>, is_stale: bool },
    MultiPut { items: Vec<(Bytes, Bytes)>, ttl_ms: Option<u64> },
    Scan { slot: u16, position: u64, limit: u32, is_keys_only: bool, is_stale: bool },
}

fn stale(is_stale: bool) -> u8 {
    if is_stale { FLAG_STALE } else { 0 }
}

impl Ask {
    pub fn operation(&self) -> Operation {
        match self {
            Ask::Register => Operation::Register,
            Ask::Ping => Operation::Ping,
            Ask::Status => Operation::Status,
            Ask::MovePrimary { .. } => Operation::MovePrimary,
            Ask::Delete(_) => Operation::Delete,
            Ask::Increment { .. } => Operation::Increment,
            Ask::Expire { .. } => Operation::Expire,
            Ask::Get { .. } => Operation::Get,
            Ask::Exists { .. } => Operation::Exists,
            Ask::TimeToLive { .. } => Operation::TimeToLive,
            Ask::Put { .. } => Operation::Put,
            Ask::CompareAndSet { .. } => Operation::CompareAndSet,
            Ask::MultiGet { .. } => Operation::MultiGet,
            Ask::MultiPut { .. } => Operation::MultiPut,
            Ask::Scan { .. } => Operation::Scan,
        }
    }

    pub fn has_session(&self) -> bool {
        self.operation().is_logged() && self.operation() != Operation::Register
    }

    pub fn key(&self) -> &[u8] {
        match self {
            Ask::Delete(key)
            | Ask::Increment { key, .. }
            | Ask::Expire { key, .. }
            | Ask::Get { key, .. }
            | Ask::Exists { key, .. }
            | Ask::TimeToLive { key, .. }
            | Ask::Put { key, .. }
            | Ask::CompareAndSet { key, .. } => key,
            _ => &[],
        }
    }

    fn ttl_ms(&self) -> Option<u64> {
        match self {
            Ask::Put { ttl_ms, .. } | Ask::CompareAndSet { ttl_ms, .. } | Ask::MultiPut { ttl_ms, .. } => *ttl_ms,
            Ask::Expire { ttl_ms, .. } => Some(*ttl_ms).filter(|&ttl_ms| ttl_ms != 0),
            _ => None,
        }
    }

    fn is_stale(&self) -> bool {
        match self {
            Ask::Get { is_stale, .. }
            | Ask::Exists { is_stale, .. }
            | Ask::TimeToLive { is_stale, .. }
            | Ask::MultiGet { is_stale, .. }
            | Ask::Scan { is_stale, .. } => *is_stale,
            _ => false,
        }
    }

    fn flags(&self) -> u8 {
        let has_ttl_flag = self.ttl_ms().is_some() && !matches!(self, Ask::Expire { .. });
        stale(self.is_stale()) | if has_ttl_flag { FLAG_TTL } else { 0 }
    }

    fn arguments(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Ask::Increment { delta, .. } => bytes.extend(delta.to_le_bytes()),
            Ask::MovePrimary { server } => bytes.push(*server),
            Ask::Expire { ttl_ms, .. } => bytes.extend(ttl_ms.to_le_bytes()),
            Ask::CompareAndSet { version, ttl_ms, .. } => {
                bytes.extend(version.to_le_bytes());
                bytes.extend(ttl_ms.iter().flat_map(|ttl_ms| ttl_ms.to_le_bytes()));
            }
            Ask::Put { ttl_ms, .. } | Ask::MultiPut { ttl_ms, .. } => {
                bytes.extend(ttl_ms.iter().flat_map(|ttl_ms| ttl_ms.to_le_bytes()));
            }
            &Ask::Scan { slot, position, limit, is_keys_only, .. } => bytes.extend_from_slice(
                ScanArguments {
                    cursor_slot: U16::new(slot),
                    flags: U16::new(if is_keys_only { SCAN_KEYS_ONLY } else { 0 }),
                    limit: U32::new(limit),
                    cursor_position: U64::new(position),
                    reserved: U64::ZERO,
                }
                .as_bytes(),
            ),
            _ => {}
        }
        bytes
    }

    fn value(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Ask::Put { value, .. } | Ask::CompareAndSet { value, .. } => bytes.extend(value),
            Ask::MultiGet { keys, .. } => keys.iter().for_each(|key| MultiGetItems::push(key, &mut bytes)),
            Ask::MultiPut { items, .. } => {
                items.iter().for_each(|(key, value)| MultiPutItems::push(key, value, &mut bytes));
            }
            _ => {}
        }
        bytes
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, session: u64, sequence: u64, out: &mut Bytes) {
        let start = out.len();
        let size = encode_request(
            &RequestParts {
                operation: self.operation(),
                flags: self.flags(),
                session: if self.has_session() { session } else { 0 },
                sequence,
                key: self.key(),
                arguments: &self.arguments(),
                value: &self.value(),
            },
            out,
        );
        assert_eq!(out.len(), start + size);
    }

    /// Holds every answer of a decoded request against what was asked.
    pub fn assert_same(&self, request: &Request<'_>, session: u64, sequence: u64) {
        assert_eq!(request.operation(), self.operation());
        assert_eq!(request.session(), if self.has_session() { session } else { 0 });
        assert_eq!(request.sequence(), sequence);
        assert_eq!(request.key(), self.key());
        assert_eq!(request.ttl_ms(), self.ttl_ms());
        assert_eq!(request.is_stale_allowed(), self.is_stale());
        let value: &[u8] = match self {
            Ask::Put { value, .. } | Ask::CompareAndSet { value, .. } => value,
            _ => &[],
        };
        assert_eq!(request.value(), value);
        let keys: Vec<&[u8]> = request.multi_get_items().collect();
        let pairs: Vec<(&[u8], &[u8])> = request.multi_put_items().collect();
        match self {
            Ask::MultiGet { keys: asked, .. } => assert!(keys.iter().copied().eq(asked.iter().map(|key| &key[..]))),
            Ask::MultiPut { items, .. } => {
                assert!(pairs.iter().copied().eq(items.iter().map(|(key, value)| (&key[..], &value[..]))));
            }
            _ => assert!(keys.is_empty() && pairs.is_empty()),
        }
        match *self {
            Ask::CompareAndSet { version, .. } => assert_eq!(request.expected_version(), version),
            Ask::Increment { delta, .. } => assert_eq!(request.delta(), delta),
            Ask::MovePrimary { server } => {
                assert_eq!(request.move_to(), Some(server).filter(|&server| server != MOVE_TO_ANY))
            }
            _ => {}
        }
        let scan = request
            .scan_arguments()
            .map(|scan| (scan.cursor_slot.get(), scan.cursor_position.get(), scan.limit.get(), scan.is_keys_only()));
        let asked = match *self {
            Ask::Scan { slot, position, limit, is_keys_only, .. } => Some((slot, position, limit, is_keys_only)),
            _ => None,
        };
        assert_eq!(scan, asked);
    }
}

/// Calls everything that a request can be asked: none of it may panic for a request that a decoder let through.
pub fn ask_everything(request: &Request<'_>) {
    let items = request.multi_get_items().map(<[u8]>::len).sum::<usize>()
        + request.multi_put_items().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    assert!(request.key().len() + request.value().len() + request.arguments().len() + items <= 2 * request.size());
    assert!(request.ttl_ms().is_none_or(|ttl_ms| (1..=TTL_MS_MAX).contains(&ttl_ms)));
    assert_eq!(request.scan_arguments().is_some(), request.operation() == Operation::Scan);
    assert_eq!(request.multi_get_items().next().is_some(), request.operation() == Operation::MultiGet);
    assert_eq!(request.multi_put_items().next().is_some(), request.operation() == Operation::MultiPut);
    match request.operation() {
        Operation::CompareAndSet => drop(request.expected_version()),
        Operation::Increment => drop(request.delta()),
        Operation::MovePrimary => drop(request.move_to()),
        _ => {}
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 1..40),
        1 => prop::collection::vec(any::<u8>(), 200..300),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..150)
}

fn ttl() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(prop_oneof![1..=TTL_MS_MAX, Just(1), Just(TTL_MS_MAX)])
}

pub fn session() -> impl Strategy<Value = u64> {
    prop_oneof![1..1000u64, 1..=u64::MAX]
}

pub fn sequence() -> impl Strategy<Value = u64> {
    prop_oneof![1..1000u64, 1..=COUNTER_MAX, Just(COUNTER_MAX)]
}

/// Any well-formed request.
pub fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Register),
        Just(Ask::Ping),
        Just(Ask::Status),
        prop_oneof![any::<u8>(), Just(MOVE_TO_ANY)].prop_map(|server| Ask::MovePrimary { server }),
        key().prop_map(Ask::Delete),
        (key(), any::<i64>()).prop_map(|(key, delta)| Ask::Increment { key, delta }),
        (key(), 0..=TTL_MS_MAX).prop_map(|(key, ttl_ms)| Ask::Expire { key, ttl_ms }),
        key().prop_map(|key| Ask::Expire { key, ttl_ms: 0 }),
        (key(), any::<bool>()).prop_map(|(key, is_stale)| Ask::Get { key, is_stale }),
        (key(), any::<bool>()).prop_map(|(key, is_stale)| Ask::Exists { key, is_stale }),
        (key(), any::<bool>()).prop_map(|(key, is_stale)| Ask::TimeToLive { key, is_stale }),
        (key(), value(), ttl()).prop_map(|(key, value, ttl_ms)| Ask::Put { key, value, ttl_ms }),
        (key(), value(), any::<u64>(), ttl()).prop_map(|(key, value, version, ttl_ms)| Ask::CompareAndSet {
            key,
            value,
            version,
            ttl_ms
        }),
        (prop::collection::vec(key(), 1..8), any::<bool>())
            .prop_map(|(keys, is_stale)| Ask::MultiGet { keys, is_stale }),
        (prop::collection::vec((key(), value()), 1..6), ttl())
            .prop_map(|(items, ttl_ms)| Ask::MultiPut { items, ttl_ms }),
        (0..SLOTS, any::<u64>(), 1..=ITEMS_MAX as u32, any::<bool>(), any::<bool>()).prop_map(
            |(slot, position, limit, is_keys_only, is_stale)| Ask::Scan {
                slot,
                position,
                limit,
                is_keys_only,
                is_stale
            }
        ),
    ]
}

/// A whole request frame.
pub fn frame() -> impl Strategy<Value = Bytes> {
    (ask(), session(), sequence()).prop_map(|(ask, session, sequence)| {
        let mut frame = Vec::new();
        ask.encode(session, sequence, &mut frame);
        frame
    })
}
