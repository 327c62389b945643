//! From received bytes to the open batch, the read queue, or an answer at once.

use std::rc::Rc;

use lockstep_proto::{
    Operation, Status,
    reply::{ReplyHeader, ReplyParts, encode_reply},
    request::{Request, RequestHeader},
    slot::shard_of_key,
};
use lockstep_replica::Refusal;
use lockstep_store::Store;
use zerocopy::FromBytes;

use super::{
    Core, Shard,
    clock::Now,
    connections::{Connection, ConnectionRef, REPLIES_BYTES_MAX},
};
use crate::{metrics::ShardMetrics, stub::refuse};

/// How far the shard got in the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All whole frames were taken: this many bytes.
    Consumed(usize),
    /// This many bytes were taken; the next frame has to wait until there is room in the log.
    Full(usize),
    /// A frame is malformed. It was refused, and the connection is to be closed once that is sent.
    Refused,
}

/// What became of one request.
enum Outcome {
    /// It will be answered later.
    Accepted,
    /// It was answered.
    Answered,
    /// There is no room for it now.
    Full,
}

impl Shard {
    /// Takes the whole frames at the start of `bytes` in, and sees to it that a turn follows.
    pub fn take_requests(&self, name: ConnectionRef, connection: &Rc<Connection>, bytes: &[u8]) -> Progress {
        if bytes.is_empty() {
            return Progress::Consumed(0);
        }
        let core = &mut *self.core.borrow_mut();
        let now = core.clock.now();
        let progress = core.take_requests(now, name, connection, bytes);
        self.turn.notify();
        progress
    }

    /// Refuses the request that begins `bytes` because there is no memory to take the rest of it in. What it is part of
    /// cannot be skipped, so nothing more is read from its connection.
    pub fn refuse_frame(&self, connection: &Rc<Connection>, bytes: &[u8]) {
        let Ok((header, _)) = RequestHeader::ref_from_prefix(bytes) else { return };
        let operation = Operation::from_wire(header.operation).unwrap_or(Operation::Ping);
        let sequence = header.sequence.get();
        let parts = ReplyParts { status: Status::Busy, operation, copies: 0, sequence, version: 0 };
        let text = b"unfinished requests of all clients together take too much memory, try again later";
        encode_reply(&parts, text, &mut connection.replies.borrow_mut());
        self.metrics.busy.increment();
        self.metrics.refused_frames.increment();
    }
}

impl Core {
    fn take_requests(&mut self, now: Now, name: ConnectionRef, connection: &Rc<Connection>, bytes: &[u8]) -> Progress {
        let mut consumed = 0;
        let mut accepted = 0;
        let progress = loop {
            match Request::parse(&bytes[consumed..]) {
                Ok(None) => break Progress::Consumed(consumed),
                Ok(Some(request)) => {
                    let size = request.size();
                    let frame = &bytes[consumed..consumed + size];
                    match self.take_request(now, name, connection, &request, frame) {
                        Outcome::Accepted => accepted += 1,
                        Outcome::Answered => {}
                        Outcome::Full => break Progress::Full(consumed),
                    }
                    consumed += size;
                }
                Err(error) => {
                    self.metrics.count_rejected(error);
                    let parts = ReplyParts {
                        status: Status::BadRequest,
                        operation: Operation::Ping,
                        copies: 0,
                        sequence: 0,
                        version: 0,
                    };
                    encode_reply(&parts, error.to_string().as_bytes(), &mut connection.replies.borrow_mut());
                    break Progress::Refused;
                }
            }
        };
        self.metrics.received_bytes.add(consumed as u64);
        connection.unanswered.set(connection.unanswered.get() + accepted);
        if !connection.replies.borrow().is_empty() {
            self.connections.mark_dirty(connection);
            // Reads that may be stale are answered here, before a turn: thousands of clients could ask for megabytes in
            // between.
            self.metrics.evicted_connections.add(self.connections.note_replies(connection));
        }
        progress
    }

    #[inline]
    fn take_request(
        &mut self,
        now: Now,
        name: ConnectionRef,
        connection: &Rc<Connection>,
        request: &Request<'_>,
        frame: &[u8],
    ) -> Outcome {
        let operation = request.operation();
        if self.identity.shards > 1 && !self.owns_keys(request) {
            return self.refuse(connection, request, Status::WrongShard, b"a key belongs to another shard");
        }
        if operation.is_logged() {
            return self.take_write(now, name, connection, request, frame);
        }
        if operation.is_read() {
            return self.take_read(now, name, connection, request, frame);
        }
        if operation == Operation::MovePrimary {
            return match self.take_move(now, name, connection, request) {
                true => Outcome::Accepted,
                false => Outcome::Answered,
            };
        }
        let mut replies = connection.replies.borrow_mut();
        let body = if operation == Operation::Status { self.status_body(now) } else { Vec::new() };
        let parts = ReplyParts { status: Status::Ok, operation, copies: 0, sequence: request.sequence(), version: 0 };
        encode_reply(&parts, &body, &mut replies);
        self.metrics.count_requests(operation, Status::Ok, 1);
        Outcome::Answered
    }

    #[inline]
    fn take_write(
        &mut self,
        now: Now,
        name: ConnectionRef,
        connection: &Rc<Connection>,
        request: &Request<'_>,
        frame: &[u8],
    ) -> Outcome {
        // The journal has no room until a checkpoint is durable: waiting is all that can be done.
        if self.journal_is_full() {
            return self.full();
        }
        match self.replica.offer(now.monotonic_ns, frame) {
            Ok(op) => {
                self.origins.push(op, name, now.monotonic_ns);
                self.note_offered(op, frame);
                connection.last_write_op.set(op);
                Outcome::Accepted
            }
            Err(Refusal::Busy) => self.full(),
            Err(refusal) => self.refuse_role(connection, request, refusal),
        }
    }

    fn take_read(
        &mut self,
        now: Now,
        name: ConnectionRef,
        connection: &Rc<Connection>,
        request: &Request<'_>,
        frame: &[u8],
    ) -> Outcome {
        if request.is_stale_allowed() {
            let wall_ns = now.wall_ns.max(self.machine.timestamp_ns);
            answer_read(&self.machine.store, &self.metrics, wall_ns, request, &mut connection.replies.borrow_mut());
            return Outcome::Answered;
        }
        if !self.reads.has_room() {
            return self.full();
        }
        match self.replica.read_ticket() {
            Ok(ticket) => {
                self.reads.push(ticket, name, frame, connection.last_write_op.get(), now.monotonic_ns);
                Outcome::Accepted
            }
            Err(Refusal::Busy) => self.full(),
            Err(refusal) => self.refuse_role(connection, request, refusal),
        }
    }

    fn full(&mut self) -> Outcome {
        self.metrics.busy.increment();
        Outcome::Full
    }

    fn refuse_role(&mut self, connection: &Rc<Connection>, request: &Request<'_>, refusal: Refusal) -> Outcome {
        match refusal {
            Refusal::NotPrimary { view } => self.refuse(connection, request, Status::NotPrimary, &view.to_le_bytes()),
            Refusal::Busy | Refusal::Recovering => {
                let text = b"this server has not joined its cluster yet: it waits for other servers";
                self.refuse(connection, request, Status::Unavailable, text)
            }
        }
    }

    fn refuse(&mut self, connection: &Rc<Connection>, request: &Request<'_>, status: Status, text: &[u8]) -> Outcome {
        self.metrics.count_requests(request.operation(), status, 1);
        refuse(request, status, text, &mut connection.replies.borrow_mut());
        Outcome::Answered
    }

    fn owns_keys(&self, request: &Request<'_>) -> bool {
        let shards = self.identity.shards;
        let is_ours = |key: &[u8]| shard_of_key(key, shards) == self.shard;
        match request.operation() {
            Operation::MultiGet => request.multi_get_items().all(is_ours),
            Operation::MultiPut => request.multi_put_items().all(|(key, _)| is_ours(key)),
            _ => request.key().is_empty() || is_ours(request.key()),
        }
    }

    /// Answers the reads that nothing keeps waiting any more, up to [`ANSWER_BYTES_MAX`] bytes. Whether that was all of
    /// them.
    pub(super) fn answer_reads(&mut self, now: Now) -> bool {
        let wall_ns = self.replica.read_time_ns(now.wall_ns).max(self.machine.timestamp_ns);
        let (machine, connections, metrics) = (&self.machine, &mut self.connections, &self.metrics);
        let (scratch, shard) = (&mut self.read_scratch, self.shard);
        let ahead = |requests: &[Request<'_>]| machine.store.prefetch_reads(requests);
        self.reads.answer_ready(machine.applied, ANSWER_BYTES_MAX, ahead, |name, request, arrival_ns| {
            let Some(connection) = connections.get(name).cloned() else { return 0 };
            let size;
            if connection.is_native() && connection.is_broken.get() {
                connection.answered();
                return 0;
            } else if connection.is_native() {
                let before = connection.replies.borrow().len();
                answer_read(&machine.store, metrics, wall_ns, request, &mut connection.replies.borrow_mut());
                size = connection.replies.borrow().len() - before;
                connection.answered();
                metrics.evicted_connections.add(connections.note_replies(&connection));
            } else if connection.defer(request) {
                return 0;
            } else if request.operation() == Operation::Get {
                let (status, value) = machine.store.value(wall_ns, request.key());
                metrics.count_requests(Operation::Get, status, 1);
                let sequence = request.sequence();
                let parts = ReplyParts { status, operation: Operation::Get, copies: 0, sequence, version: 0 };
                size = value.len();
                connection.answer(&parts, value, shard);
            } else {
                scratch.clear();
                answer_read(&machine.store, metrics, wall_ns, request, scratch);
                let (mut parts, body) = parts_of(request, scratch);
                if request.operation() == Operation::Query {
                    parts.version = machine.revision - 1;
                }
                size = body.len();
                connection.answer(&parts, body, shard);
            }
            connections.mark_dirty(&connection);
            metrics.read_latency.record(now.monotonic_ns.saturating_sub(arrival_ns));
            size
        })
    }

    /// Refuses everything that waits: this server is not the primary any more, or stops.
    pub(super) fn refuse_reads(&mut self, status: Status, text: &[u8]) {
        let (connections, metrics, shard) = (&mut self.connections, &self.metrics, self.shard);
        self.reads.drain(|name, request| {
            let Some(connection) = connections.get(name).cloned() else {
                return;
            };
            let parts = ReplyParts {
                status,
                operation: request.operation(),
                copies: 0,
                sequence: request.sequence(),
                version: 0,
            };
            connection.answer(&parts, text, shard);
            connections.mark_dirty(&connection);
            metrics.count_requests(request.operation(), status, 1);
        });
    }
}

/// Bytes of answers to reads in one turn, beyond which the rest waits until these are on their way: the shard has other
/// things to do, and what clients take in the meantime does not have to be kept.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Takes the reply to a read, which is all that is in `reply`, apart.
pub(super) fn parts_of<'a>(request: &Request<'_>, reply: &'a [u8]) -> (ReplyParts, &'a [u8]) {
    let (header, body) = ReplyHeader::ref_from_prefix(reply).expect("a whole reply");
    let parts = ReplyParts {
        status: Status::from_wire(header.status).expect("replies have a status"),
        operation: request.operation(),
        copies: 0,
        sequence: request.sequence(),
        version: header.version.get(),
    };
    (parts, body)
}

/// Appends the answer to a read, unless so much waits on its connection already that its memory would have no bound: a
/// request of some forty bytes can ask for megabytes.
pub(super) fn answer_read(
    store: &Store,
    metrics: &ShardMetrics,
    wall_ns: u64,
    request: &Request<'_>,
    replies: &mut Vec<u8>,
) {
    let start = replies.len();
    if start > REPLIES_BYTES_MAX {
        refuse(request, Status::Busy, b"take the replies that wait before asking for more", replies);
    } else {
        store.read(wall_ns, request, replies);
    }
    let (reply, _) = ReplyHeader::ref_from_prefix(&replies[start..]).expect("a reply was appended");
    let status = Status::from_wire(reply.status).expect("replies have a status");
    metrics.count_requests(request.operation(), status, 1);
}
