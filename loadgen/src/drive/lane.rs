//! One session with one shard: what waits, what is in flight, and the frames of both.

use std::collections::VecDeque;

use lockstep_proto::Operation;
use lockstep_proto::request::{RequestParts, encode_request};

use super::RunSpec;
use super::inflight::{Asked, InFlight, InFlightRing};
use super::resp::{Protocol, encode, wait_command};
use super::resp_replies::{Expected, Part};
use super::scout::Primary;
use crate::plan::{KeyLayout, OpKind, ValueMaker};

/// A write to the kernel stops growing here: enough to spread its cost over many requests, little enough for the cache.
pub(super) const WRITE_SIZE_MAX: usize = 256 * 1024;

/// One session. It outlives its connection: after a loss the same requests are sent again under the same sequences.
#[derive(Debug)]
pub(super) struct Lane {
    /// The connection number that this lane belongs to; a connection has one lane per shard.
    pub(super) group: usize,
    /// Whom it is connected to, or was last.
    pub(super) primary: Option<Primary>,
    /// The session, 0 before the first register.
    pub(super) session: u64,
    /// Requests that have a sequence.
    pub(super) ring: InFlightRing,
    /// How many there are.
    pub(super) open: usize,
    /// Requests that have none yet.
    pub(super) queue: VecDeque<Asked>,
    /// In RESP: the replies that are due, in their order.
    pub(super) expected: VecDeque<Expected>,
    /// Sequences to send again.
    pub(super) resend: VecDeque<u64>,
    /// Not before this moment.
    pub(super) resend_at_ns: u64,
    /// Whether it is on the list of lanes with something to send.
    pub(super) is_touched: bool,
}

impl Lane {
    /// A lane with nothing to do, with room for `window` sequences.
    pub(super) fn new(group: usize, window: usize) -> Self {
        Self {
            group,
            primary: None,
            session: 0,
            ring: InFlightRing::new(window),
            open: 0,
            queue: VecDeque::new(),
            expected: VecDeque::new(),
            resend: VecDeque::new(),
            resend_at_ns: 0,
            is_touched: false,
        }
    }

    /// There is a new connection: everything without an answer is sent again, oldest first.
    pub(super) fn resend_all(&mut self) {
        self.resend.clear();
        self.resend.extend(self.ring.sequences());
        self.resend_at_ns = 0;
    }

    /// Takes a request out of flight.
    #[inline]
    pub(super) fn take(&mut self, sequence: u64) -> Option<InFlight> {
        let taken = self.ring.take(sequence)?;
        self.open -= 1;
        Some(taken)
    }

    /// Appends the frames of everything that may be sent now, up to `open_max` requests in flight. `floor` says what
    /// version a read has to see.
    #[inline]
    pub(super) fn fill(
        &mut self,
        now_ns: u64,
        open_max: usize,
        frames: &mut FrameMaker,
        floor: impl Fn(u64) -> u64,
        out: &mut Vec<u8>,
    ) {
        while self.resend_at_ns <= now_ns && out.len() < WRITE_SIZE_MAX {
            let Some(sequence) = self.resend.pop_front() else { break };
            if let Some(again) = self.ring.get(sequence) {
                frames.append(&again.asked, sequence, self.session, out);
                self.expected.extend(frames.expected(&again.asked, sequence));
            }
        }
        while out.len() < WRITE_SIZE_MAX && self.open < open_max && self.ring.has_room() {
            let Some(mut asked) = self.queue.pop_front() else { break };
            asked.mark_sent(now_ns);
            let version_floor = if asked.is_write() { 0 } else { floor(asked.op.key_index) };
            let sequence = self.ring.push(asked, version_floor);
            self.open += 1;
            frames.append(&asked, sequence, self.session, out);
            self.expected.extend(frames.expected(&asked, sequence));
        }
    }
}

/// Makes request frames, without allocating: a frame is a function of the request, so that it can be made again.
#[derive(Debug)]
pub(super) struct FrameMaker {
    layout: KeyLayout,
    values: ValueMaker,
    key: Vec<u8>,
    value: Vec<u8>,
    protocol: Protocol,
    wait_replicas: u32,
    /// What follows each write.
    wait: Vec<u8>,
}

impl FrameMaker {
    /// Frames with the keys and values of a spec.
    pub(super) fn new(spec: &RunSpec) -> Self {
        Self {
            layout: spec.key_layout,
            values: ValueMaker::new(spec.seed),
            key: vec![0; spec.key_layout.len()],
            value: vec![0; spec.values.max as usize],
            protocol: spec.protocol,
            wait_replicas: spec.wait_replicas,
            wait: wait_command(spec.wait_replicas, spec.timeout),
        }
    }

    /// What the servers speak.
    #[inline]
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How many replicas each write waits for.
    pub(super) fn wait_replicas(&self) -> u32 {
        self.wait_replicas
    }

    /// The replies that the frame of a request brings, where they are found by their order.
    #[inline]
    fn expected(&self, asked: &Asked, sequence: u64) -> impl Iterator<Item = Expected> + use<> {
        let parts: &[Part] = match self.protocol {
            Protocol::Native => &[],
            Protocol::Resp if asked.is_write() && self.wait_replicas > 0 => &[Part::BeforeWait, Part::Wait],
            Protocol::Resp => &[Part::Whole],
        };
        parts.iter().map(move |&part| Expected { sequence, part })
    }

    /// The key of an index.
    #[inline]
    pub(super) fn key(&mut self, index: u64) -> &[u8] {
        self.layout.write(index, &mut self.key);
        &self.key
    }

    #[inline]
    fn append(&mut self, asked: &Asked, sequence: u64, session: u64, out: &mut Vec<u8>) {
        self.layout.write(asked.op.key_index, &mut self.key);
        let is_write = asked.is_write();
        let is_increment = asked.op.kind == OpKind::Increment;
        let value_len = if is_write { asked.op.value_len as usize } else { 0 };
        let value = &mut self.value[..value_len];
        if is_write && !is_increment {
            self.values.fill(asked.op.key_index, asked.op.nonce, value);
        }
        if self.protocol == Protocol::Resp {
            match is_write {
                true if is_increment => encode(&[b"INCR", &self.key], out),
                true => encode(&[b"SET", &self.key, value], out),
                false => encode(&[b"GET", &self.key], out),
            }
            if is_write {
                out.extend_from_slice(&self.wait);
            }
            return;
        }
        let parts = RequestParts {
            operation: match is_write {
                true if is_increment => Operation::Increment,
                true => Operation::Put,
                false => Operation::Get,
            },
            flags: 0,
            session: if is_write { session } else { 0 },
            sequence,
            key: &self.key,
            arguments: if is_increment { &ONE } else { &[] },
            value,
        };
        encode_request(&parts, out);
    }
}

/// What a counter grows by.
const ONE: [u8; 8] = 1i64.to_le_bytes();
