//! What a client asks for, as chance has it, and what the answer to it is to the history.

use std::ops::RangeInclusive;

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    items::{SCAN_KEYS_ONLY, ScanArguments, ScanReplyHeader, ScanReplyItems},
    program::{Builder, Opcode},
    reply::Reply,
    request::{FLAG_TTL, RequestParts, encode_request},
};
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64},
};

use super::{Client, Pending, Recorded};
use crate::{
    checker::{Answer, Call, History},
    dice::Dice,
    plan::Plan,
    shared::Shared,
    walk::{Page, Question, Returned, Walk},
};

impl Client {
    /// Asks for something.
    pub(super) fn issue(&mut self, shared: &mut Shared, history: &mut History, keys: &[Vec<u8>]) {
        if self.session == 0 {
            return self.register(shared);
        }
        if self.pending.is_empty() && self.dice.chance(shared.plan.workload.hop) {
            // A server that takes itself for the primary and is not must be asked to be found out.
            let server = self.dice.below(u64::from(self.servers)) as u8;
            self.go_to(server);
        }
        self.left -= 1;
        self.issue_ns = shared.now_ns + self.dice.delay(&shared.plan.workload.think_ns);
        if !self.groups.is_empty() && self.dice.chance(shared.plan.workload.redis.native) {
            return self.issue_on_group(shared);
        }
        if self.dice.chance(shared.plan.workload.walk) && !self.walk.is_waiting() {
            return self.issue_step(shared);
        }
        let key = self.dice.below(keys.len() as u64) as usize;
        let draw = self.draw(&shared.plan, key);
        let id = history.invoke(u32::from(self.id), shared.now_ns, &keys[key], draw.call());
        let sequence = if draw.operation.is_logged() { &mut self.sequence } else { &mut self.reads };
        *sequence += 1;
        let sequence = *sequence;
        let mut arguments = Vec::new();
        match draw.operation {
            Operation::CompareAndSet => arguments.extend_from_slice(&draw.number.to_le_bytes()),
            Operation::Increment => arguments.extend_from_slice(&draw.number.to_le_bytes()),
            Operation::Expire => arguments.extend_from_slice(&draw.ttl_ms.unwrap_or(0).to_le_bytes()),
            _ => {}
        }
        let mut flags = 0;
        if let (Some(ttl_ms), Operation::Put | Operation::CompareAndSet) = (draw.ttl_ms, draw.operation) {
            flags = FLAG_TTL;
            arguments.extend_from_slice(&ttl_ms.to_le_bytes());
        }
        let mut frame = Vec::new();
        let parts = RequestParts {
            operation: draw.operation,
            flags,
            session: if draw.operation.is_logged() { self.session } else { 0 },
            sequence,
            key: &keys[key],
            arguments: &arguments,
            value: &draw.value,
        };
        encode_request(&parts, &mut frame);
        let (frame, operation) = (Bytes::from(frame), draw.operation);
        let sent = shared.singles.invoke(key as u16, self.id, None, shared.now_ns, frame.clone());
        self.add(shared, Pending { id: Some(Recorded::Key(id, sent, key)), operation, sequence, frame, attempts: 1 });
    }

    /// Asks for the next step of the walk.
    fn issue_step(&mut self, shared: &mut Shared) {
        self.walk.ask(shared);
        let is_keys_only = self.dice.chance(300);
        let Question::Scan(limit) = self.walk.question() else { unreachable!("the native protocol asks nothing else") };
        let (slot, position) = self.walk.cursor();
        let arguments = ScanArguments {
            cursor_slot: U16::new(slot),
            flags: U16::new(if is_keys_only { SCAN_KEYS_ONLY } else { 0 }),
            limit: U32::new(limit as u32),
            cursor_position: U64::new(position),
            reserved: U64::ZERO,
        };
        self.reads += 1;
        let parts = RequestParts {
            operation: Operation::Scan,
            flags: 0,
            session: 0,
            sequence: self.reads,
            key: &[],
            arguments: arguments.as_bytes(),
            value: &[],
        };
        let mut frame = Vec::new();
        encode_request(&parts, &mut frame);
        let id = Some(Recorded::Step { is_keys_only });
        let (frame, sequence) = (Bytes::from(frame), self.reads);
        self.add(shared, Pending { id, operation: Operation::Scan, sequence, frame, attempts: 1 });
    }

    /// Asks for something that concerns the keys that clients of the front door work on: reads of several keys at once,
    /// and writes of one.
    fn issue_on_group(&mut self, shared: &mut Shared) {
        const OPERATIONS: [Operation; 6] = [
            Operation::Query,
            Operation::Query,
            Operation::Put,
            Operation::CompareAndSet,
            Operation::Increment,
            Operation::Delete,
        ];
        let group = self.dice.below(self.groups.len() as u64) as usize;
        let key = self.dice.below(self.groups[group].len() as u64) as usize;
        let operation = self.dice.pick(&OPERATIONS);
        let value = match operation {
            Operation::Put | Operation::CompareAndSet => {
                self.value(0..=100.min(*shared.plan.workload.value_size.end()))
            }
            Operation::Query => self.query(group, key),
            _ => Vec::new(),
        };
        let argument = match operation {
            Operation::CompareAndSet => Some(self.group_versions[group][key]),
            Operation::Increment => Some(self.dice.within(1..=9)),
            _ => None,
        };
        let is_logged = operation.is_logged();
        let sequence = if is_logged { &mut self.sequence } else { &mut self.reads };
        *sequence += 1;
        let sequence = *sequence;
        let parts = RequestParts {
            operation,
            flags: 0,
            session: if is_logged { self.session } else { 0 },
            sequence,
            key: if operation == Operation::Query { &[] } else { &self.groups[group][key] },
            arguments: &argument.map_or(Vec::new(), |argument| argument.to_le_bytes().to_vec()),
            value: &value,
        };
        let mut frame = Vec::new();
        encode_request(&parts, &mut frame);
        let frame = Bytes::from(frame);
        let id = shared.groups.invoke(group as u16, self.id, None, shared.now_ns, frame.clone());
        self.add(
            shared,
            Pending { id: Some(Recorded::Group(id, group, key)), operation, sequence, frame, attempts: 1 },
        );
    }

    /// A program that reads the key, or all of its group.
    fn query(&mut self, group: usize, key: usize) -> Vec<u8> {
        let keys = &self.groups[group];
        let asked = if self.dice.chance(500) { &keys[..] } else { &keys[key..=key] };
        let mut program = Builder::new();
        for key in asked {
            program.command(Opcode::Get, &[key]);
            program.command(Opcode::Stamp, &[key]);
        }
        program.as_bytes().to_vec()
    }

    fn draw(&mut self, plan: &Plan, key: usize) -> Draw {
        const OPERATIONS: [(Operation, bool); 9] = [
            (Operation::Get, false),
            (Operation::Put, false),
            (Operation::Delete, false),
            (Operation::CompareAndSet, false),
            (Operation::Increment, false),
            (Operation::Exists, false),
            (Operation::Put, true),
            (Operation::Expire, true),
            (Operation::TimeToLive, false),
        ];
        let weights = &plan.workload.weights;
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut number = self.dice.below(total.max(1));
        let mut chosen = OPERATIONS[usize::from(self.dice.chance(500))];
        for (operation, &weight) in OPERATIONS.iter().zip(weights) {
            if number < u64::from(weight) {
                chosen = *operation;
                break;
            }
            number -= u64::from(weight);
        }
        let (operation, has_ttl) = chosen;
        let is_lifting = operation == Operation::Expire && self.dice.chance(200);
        let ttl_ms = (has_ttl && !is_lifting).then(|| self.dice.within(plan.workload.ttl_ms.clone()));
        let number = match operation {
            Operation::CompareAndSet => {
                if self.dice.chance(800) {
                    self.versions[key]
                } else {
                    self.dice.below(3)
                }
            }
            Operation::Increment => self.dice.within(1..=9),
            _ => 0,
        };
        let value = if matches!(operation, Operation::Put | Operation::CompareAndSet) {
            self.value(plan.workload.value_size.clone())
        } else {
            Vec::new()
        };
        Draw { operation, ttl_ms, number, value }
    }

    /// A value that nobody else writes, or a number.
    fn value(&mut self, size: RangeInclusive<u64>) -> Vec<u8> {
        if *size.start() == 0 && self.dice.chance(200) {
            return self.dice.below(100).to_string().into_bytes();
        }
        self.values += 1;
        let mut value = format!("{}:{}", self.id, self.values).into_bytes();
        let len = self.dice.within(size) as usize;
        if value.len() < len {
            value.resize(len, b'.');
        }
        value
    }
}

/// A request that chance has drawn.
struct Draw {
    operation: Operation,
    ttl_ms: Option<u64>,
    /// Expected version, or what is added.
    number: u64,
    value: Vec<u8>,
}

impl Draw {
    fn call(&self) -> Call<'_> {
        let (value, ttl_ms) = (self.value.as_slice(), self.ttl_ms);
        match self.operation {
            Operation::Put => Call::Put { value, ttl_ms },
            Operation::Delete => Call::Delete,
            Operation::CompareAndSet => Call::CompareAndSet { expected: self.number, value, ttl_ms },
            Operation::Increment => Call::Increment { delta: self.number as i64 },
            Operation::Expire => Call::Expire { ttl_ms },
            Operation::Exists => Call::Exists,
            Operation::TimeToLive => Call::TimeToLive,
            _ => Call::Get,
        }
    }
}

/// A reply, as the history has it; `None` if it is no answer to such a request.
pub(super) fn answer<'a>(operation: Operation, reply: &Reply<'a>) -> Option<Answer<'a>> {
    let (version, body) = (reply.version(), reply.body());
    let number = || body.try_into().ok().map(u64::from_le_bytes);
    match (operation, reply.status()) {
        (Operation::Get, Status::Ok) => Some(Answer::Found { value: body, version }),
        (Operation::Exists, Status::Ok) => Some(Answer::Exists { version }),
        (Operation::TimeToLive, Status::Ok) => Some(match number()? {
            u64::MAX => Answer::Persistent,
            ms => Answer::Remaining { ms },
        }),
        (Operation::Increment, Status::Ok) => Some(Answer::Summed { sum: number()? as i64, version }),
        (Operation::Put | Operation::CompareAndSet | Operation::Delete | Operation::Expire, Status::Ok) => {
            Some(Answer::Written { version })
        }
        (Operation::CompareAndSet, Status::VersionMismatch) => Some(Answer::Mismatch { version }),
        (Operation::Increment, Status::NotANumber) => Some(Answer::NotANumber { version }),
        (Operation::Put | Operation::CompareAndSet | Operation::Increment, Status::NotFound) => None,
        (_, Status::NotFound) => Some(Answer::NotFound),
        (Operation::Put | Operation::CompareAndSet | Operation::Increment, Status::Busy) => Some(Answer::Refused),
        _ => None,
    }
}

/// A walk through all keys, so many at a time.
pub(super) fn draw_walk(dice: &mut Dice) -> Walk {
    Walk::new(Question::Scan(Walk::draw_limit(dice)), b"")
}

/// The reply to a scan.
pub(super) fn page<'a>(reply: &Reply<'a>, is_keys_only: bool) -> Page<'a> {
    let Ok((header, items)) = ScanReplyHeader::ref_from_prefix(reply.body()) else { return Page::Malformed };
    let items: Vec<Returned<'a>> = ScanReplyItems::new(items)
        .map(|item| Returned {
            key: item.key,
            version: Some(item.version),
            value: (!is_keys_only).then_some(item.value),
        })
        .collect();
    if reply.status() != Status::Ok || items.len() != header.count.get() as usize {
        return Page::Malformed;
    }
    let is_done = header.is_done.get() == 1;
    Page::Keys(items, (!is_done).then(|| (header.cursor_slot.get(), header.cursor_position.get())))
}
