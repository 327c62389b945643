//! Clients' requests at a server: into the open batch, into the queue of reads, or refused; and their answers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_proto::{Status, reply::ReplyParts, reply::encode_reply, request::Request};
use lockstep_replica::{Input, Refusal, Role};
use lockstep_server::stub::{Answers, refuse};

use super::{Server, door::Doors};
use crate::{groups::GroupOperation, schedule::Event, shared::Shared};

/// A connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub client: u8,
    pub connection: u32,
}

/// A request that was put into a batch.
struct Offered {
    origin: Origin,
    /// Which operation it is, if it came through the front door.
    id: Option<GroupOperation>,
}

/// A read that waits.
struct Read {
    origin: Origin,
    frame: Bytes,
    ticket: u64,
    op_min: u64,
    /// What had been answered when it arrived.
    floor: u64,
}

/// Whoever waits for something at a server.
#[derive(Default)]
pub(super) struct Requests {
    /// The requests of an op that were offered here, in order.
    origins: VecDeque<(u64, Vec<Offered>)>,
    reads: VecDeque<Read>,
    confirmed: u64,
    /// Requests for which there is no room at present.
    waiting: VecDeque<(Origin, Bytes)>,
    last_write: BTreeMap<Origin, u64>,
}

impl Requests {
    /// The next request of the batch that will be `op` came from there.
    pub(super) fn note_offered(&mut self, origin: Origin, op: u64, id: Option<GroupOperation>) {
        match self.origins.back_mut() {
            Some((last, origins)) if *last == op => origins.push(Offered { origin, id }),
            _ => self.origins.push_back((op, vec![Offered { origin, id }])),
        }
        self.last_write.insert(origin, op);
    }

    /// Which operations the requests of `op` are, if they were offered here.
    pub(super) fn asked(&self, op: u64) -> Option<Vec<Option<GroupOperation>>> {
        let (_, origins) = self.origins.iter().find(|(at, _)| *at == op)?;
        Some(origins.iter().map(|offered| offered.id).collect())
    }

    /// A read has come from there, when `floor` had been answered.
    pub(super) fn note_read(&mut self, origin: Origin, frame: Bytes, ticket: u64, floor: u64) {
        let op_min = self.last_write.get(&origin).copied().unwrap_or(0);
        self.reads.push_back(Read { origin, frame, ticket, op_min, floor });
    }
}

impl Shared {
    /// Sends a reply; an empty one breaks the connection.
    pub(super) fn reply(&mut self, client: u8, connection: u32, frame: Bytes) {
        if self.network.loses_reply(client, connection) {
            return;
        }
        let delay_ns = self.host_dice.delay(&self.plan.network.delay_ns.clone());
        self.after(delay_ns, Event::Reply { client, connection, frame });
    }

    /// Sends a reply that overtakes none before it on its connection.
    pub(super) fn reply_in_order(&mut self, client: u8, connection: u32, frame: Bytes) {
        if self.network.loses_reply(client, connection) {
            return;
        }
        let at_ns = self.now_ns + self.host_dice.delay(&self.plan.network.delay_ns.clone());
        let at_ns = self.network.reply_arrival(client, connection, at_ns);
        self.schedule.at(at_ns, Event::Reply { client, connection, frame });
    }
}

impl Server {
    /// A request arrives.
    pub fn take_request(&mut self, shared: &mut Shared, client: u8, connection: u32, frame: Bytes) {
        let origin = Origin { client, connection };
        let Some(process) = self.process.as_deref_mut() else { return };
        let must_wait = process.requests.waiting.iter().any(|(waiting, _)| *waiting == origin);
        if must_wait || !self.try_request(shared, origin, &frame) {
            let process = self.process.as_deref_mut().expect("it was there just now");
            process.requests.waiting.push_back((origin, frame));
        }
        self.ask_turn(shared);
    }

    /// A client's connection is gone, and with it what it has asked for and was not taken in. What was goes on.
    pub fn hung_up(&mut self, client: u8, connection: u32) {
        let origin = Origin { client, connection };
        let Some(process) = self.process.as_deref_mut() else { return };
        process.requests.waiting.retain(|(waiting, _)| *waiting != origin);
        process.doors.close(origin);
    }

    /// Takes a request in. Returns whether there was room.
    fn try_request(&mut self, shared: &mut Shared, origin: Origin, frame: &Bytes) -> bool {
        let Some(process) = self.process.as_deref_mut() else { return true };
        let request = Request::parse(frame).expect("clients send whole frames").expect("clients send whole frames");
        let operation = request.operation();
        let refusal = if operation.is_logged() {
            if process.journal.is_full() {
                return false;
            }
            match process.replica.offer(self.clock.monotonic_ns(shared.now_ns), frame) {
                Ok(op) => {
                    process.requests.note_offered(origin, op, None);
                    return true;
                }
                Err(refusal) => refusal,
            }
        } else {
            match process.replica.read_ticket() {
                Ok(ticket) => {
                    process.requests.note_read(origin, frame.clone(), ticket, shared.facts.answered_op());
                    return true;
                }
                Err(refusal) => refusal,
            }
        };
        let (status, text) = match refusal {
            Refusal::Busy => return false,
            Refusal::NotPrimary { view } => (Status::NotPrimary, view.to_le_bytes().to_vec()),
            Refusal::Recovering => (Status::Unavailable, Vec::new()),
        };
        let mut out = Vec::new();
        refuse(&request, status, &text, &mut out);
        shared.reply(origin.client, origin.connection, Bytes::from(out));
        true
    }

    /// There may be room again.
    pub(super) fn retry_waiting(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let mut waiting = std::mem::take(&mut process.requests.waiting);
        while let Some((origin, frame)) = waiting.pop_front() {
            if !self.try_request(shared, origin, &frame) {
                waiting.push_front((origin, frame));
                break;
            }
        }
        let Some(process) = self.process.as_deref_mut() else { return };
        waiting.append(&mut process.requests.waiting);
        process.requests.waiting = waiting;
    }

    /// The replica has confirmed reads.
    pub(super) fn confirm_reads(&mut self, ticket: u64) {
        if let Some(process) = self.process.as_deref_mut() {
            process.requests.confirmed = process.requests.confirmed.max(ticket);
        }
    }

    /// Answers the reads that nothing keeps waiting.
    pub(super) fn answer_reads(&mut self, shared: &mut Shared) {
        let wall_ns = self.clock.wall_ns(shared.now_ns);
        let id = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        let wall_ns = process.replica.read_time_ns(wall_ns);
        let (machine, requests) = (&process.machine, &mut process.requests);
        let (confirmed, applied) = (requests.confirmed, machine.applied);
        let is_ready = |read: &Read| read.ticket <= confirmed && read.op_min <= applied;
        if !requests.reads.iter().any(is_ready) {
            return;
        }
        let (ready, waiting) = std::mem::take(&mut requests.reads).into_iter().partition(is_ready);
        requests.reads = waiting;
        let ready: VecDeque<Read> = ready;
        for read in ready {
            shared.facts.is_read(id, applied, read.floor);
            let (request, _) = Request::parse_trusted(&read.frame).expect("it was parsed when it arrived");
            let mut out = Vec::new();
            machine.store.read(wall_ns.max(machine.timestamp_ns), &request, &mut out);
            process.doors.reply(shared, read.origin, request.sequence(), Bytes::from(out));
        }
    }

    /// Applies a prepare and answers whoever asked for it here.
    pub(super) fn apply_and_answer(&mut self, shared: &mut Shared, op: u64, message: &Bytes, copies: u8) {
        let id = self.id;
        let Some(process) = self.process.as_deref_mut() else { return };
        let requests = &mut process.requests;
        let is_ours = requests.origins.front().is_some_and(|(first, _)| *first == op);
        let origins = if is_ours { requests.origins.pop_front().map(|(_, origins)| origins) } else { None };
        let origins = origins.unwrap_or_default();
        let mut replies = Replies { shared, server: id, op, origins: &origins, doors: &mut process.doors };
        process.machine.apply(message, copies, &mut replies);
    }

    /// This server is not the primary any more: how its writes end is not its to say.
    pub(super) fn give_up_requests(&mut self, shared: &mut Shared, role: Role) {
        let Some(process) = self.process.as_deref_mut() else { return };
        if role == Role::Primary {
            return;
        }
        process.doors.cut(shared);
        let requests = std::mem::take(&mut process.requests);
        for read in requests.reads.into_iter().filter(|read| !process.doors.has(read.origin)) {
            let (request, _) = Request::parse_trusted(&read.frame).expect("it was parsed when it arrived");
            let mut out = Vec::new();
            refuse(&request, Status::Unavailable, b"", &mut out);
            shared.reply(read.origin.client, read.origin.connection, Bytes::from(out));
        }
        let mut broken: Vec<Origin> =
            requests.origins.into_iter().flat_map(|(_, origins)| origins).map(|offered| offered.origin).collect();
        broken.retain(|origin| !process.doors.has(*origin));
        broken.sort_unstable();
        broken.dedup();
        for origin in broken {
            shared.reply(origin.client, origin.connection, Bytes::new());
        }
        process.requests.waiting = requests.waiting;
        process.requests.confirmed = 0;
    }

    /// An operator wants another server to be the primary.
    pub fn hand_over(&mut self, shared: &mut Shared, to: Option<u8>) {
        self.step(shared, Input::Handover { to });
    }
}

/// Sends the answers of a batch.
struct Replies<'a> {
    shared: &'a mut Shared,
    server: u8,
    op: u64,
    origins: &'a [Offered],
    doors: &'a mut Doors,
}

impl Answers for Replies<'_> {
    fn answer(&mut self, index: usize, parts: &ReplyParts, body: &[u8]) {
        let Some(Offered { origin, .. }) = self.origins.get(index) else { return };
        self.shared.facts.is_answered(self.server, self.op, index, parts, body);
        let mut out = Vec::new();
        encode_reply(parts, body, &mut out);
        self.doors.reply(self.shared, *origin, parts.sequence, Bytes::from(out));
    }
}
