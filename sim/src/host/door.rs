//! The Redis front door of a simulated server: what it asks of the log and of the queue of reads, and in which order it
//! answers.
//!
//! Which way a request takes, its frame, and the queue of answers are the server's own code. Not in it are the Redis
//! protocol, the making of programs from commands, and other shards.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    reply::{Reply, ReplyParts, encode_reply},
    request::Request,
};
use lockstep_replica::{Refusal, Role};
use lockstep_server::resp::{
    pending::{Form, Pending, Place},
    stats,
    submission::{Way, is_stale, way},
    writer::Version,
};

use super::{SHARD, Server, requests::Origin};
use crate::{groups::GroupOperation, redis::Asked, shared::Shared};

/// A connection of the front door.
#[derive(Default)]
struct Door {
    /// Decides the order of the answers.
    pending: Pending,
    /// Reads that are not in the log and not answered.
    reads: usize,
    /// Requests in the log that are not answered.
    writes: usize,
    /// What was received and not taken yet.
    waiting: VecDeque<(Option<GroupOperation>, Asked)>,
    /// By place in the queue of answers: whether it is in the log, and its reply once there is one.
    replies: VecDeque<(u64, bool, Option<Bytes>)>,
}

/// All of a process.
#[derive(Default)]
pub(super) struct Doors {
    /// `None` for a connection that was cut: what comes on it is not looked at.
    open: BTreeMap<Origin, Option<Box<Door>>>,
}

/// What has become of a request.
enum Taken {
    /// It is on its way, or refused.
    Done,
    /// It has to wait.
    Waits,
}

impl Door {
    /// A request was taken, and will be answered.
    fn owe(&mut self, is_logged: bool, form: Form) {
        self.replies.push_back((self.pending.next(), is_logged, None));
        let asked = stats::Asked::default();
        self.pending.push(Place { form, version: Version::Resp3, is_silent: false, is_write: is_logged, asked });
        *(if is_logged { &mut self.writes } else { &mut self.reads }) += 1;
    }

    /// The answer to a request that was taken. Returns the replies that can be sent now.
    fn answer(&mut self, sequence: u64, frame: Bytes) -> Vec<Bytes> {
        let (is_logged, reply) = self
            .replies
            .iter_mut()
            .find(|(place, ..)| *place == sequence)
            .map(|(_, is_logged, reply)| (*is_logged, reply))
            .expect("an answer is for a request that waits");
        let parsed = Reply::parse(&frame).ok().flatten().expect("the server encodes its answers");
        self.pending.answer(sequence, SHARD, parsed.status(), parsed.body(), &mut Vec::new());
        *reply = Some(frame.clone());
        *(if is_logged { &mut self.writes } else { &mut self.reads }) -= 1;
        self.release()
    }

    /// A request was not taken, and this is its answer.
    fn refuse(&mut self, frame: Bytes) -> Vec<Bytes> {
        if !self.pending.is_empty() {
            self.pending.push_ready(b"-READONLY\r\n");
            // What is ready shares a place with what was ready before.
            self.replies.push_back((self.pending.next() - 1, false, Some(frame)));
            return Vec::new();
        }
        vec![frame]
    }

    fn release(&mut self) -> Vec<Bytes> {
        let mut released = Vec::new();
        while let Some((_, _, Some(_))) = self.replies.front().filter(|(place, ..)| *place < self.pending.first()) {
            released.extend(self.replies.pop_front().and_then(|(.., reply)| reply));
        }
        released
    }
}

impl Doors {
    /// Whether a connection is one of the front door.
    pub fn has(&self, origin: Origin) -> bool {
        self.open.contains_key(&origin)
    }

    /// Sends a reply, in the connection's order if that is one of the front door.
    pub fn reply(&mut self, shared: &mut Shared, origin: Origin, sequence: u64, frame: Bytes) {
        let Some(door) = self.open.get_mut(&origin) else {
            return shared.reply(origin.client, origin.connection, frame);
        };
        if let Some(door) = door {
            for frame in door.answer(sequence, frame) {
                shared.reply_in_order(origin.client, origin.connection, frame);
            }
        }
    }

    /// A client has closed its connection: nothing that comes on it is looked at any more, and nothing is answered.
    pub fn close(&mut self, origin: Origin) {
        if let Some(door) = self.open.get_mut(&origin) {
            *door = None;
        }
    }

    /// Closes every connection.
    pub fn cut(&mut self, shared: &mut Shared) {
        for (origin, door) in &mut self.open {
            if door.take().is_some() {
                shared.reply_in_order(origin.client, origin.connection, Bytes::new());
            }
        }
    }
}

impl Server {
    /// A request of a connection of the front door arrives.
    pub fn take_command(
        &mut self,
        shared: &mut Shared,
        client: u8,
        connection: u32,
        asked: (Option<GroupOperation>, Asked),
    ) {
        let origin = Origin { client, connection };
        let Some(process) = self.process.as_deref_mut() else { return };
        let door = process.doors.open.entry(origin).or_insert_with(|| Some(Box::default()));
        if let Some(door) = door {
            door.waiting.push_back(asked);
            self.take_commands(shared, origin);
        }
    }

    /// Takes what has waited, as far as that can be done now.
    pub(super) fn take_waiting_commands(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let waits = |door: &Option<Box<Door>>| door.as_ref().is_some_and(|door| !door.waiting.is_empty());
        let waiting = process.doors.open.iter().filter(|(_, door)| waits(door));
        let waiting: Vec<Origin> = waiting.map(|(origin, _)| *origin).collect();
        for origin in waiting {
            self.take_commands(shared, origin);
        }
    }

    fn take_commands(&mut self, shared: &mut Shared, origin: Origin) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let Some(mut door) = process.doors.open.get_mut(&origin).and_then(Option::take) else { return };
        let mut has_taken = false;
        while let Some(asked) = door.waiting.pop_front() {
            if let Taken::Waits = self.take_asked(shared, origin, &mut door, &asked) {
                door.waiting.push_front(asked);
                break;
            }
            has_taken = true;
        }
        let process = self.process.as_deref_mut().expect("it was there just now");
        process.doors.open.insert(origin, Some(door));
        if has_taken {
            self.ask_turn(shared);
        }
    }

    fn take_asked(
        &mut self,
        shared: &mut Shared,
        origin: Origin,
        door: &mut Door,
        (id, asked): &(Option<GroupOperation>, Asked),
    ) -> Taken {
        let (now_ns, wall_ns) = (self.clock.monotonic_ns(shared.now_ns), self.clock.wall_ns(shared.now_ns));
        let process = self.process.as_deref_mut().expect("the process takes something in");
        let payload = asked.payload();
        let is_logged = match way(door.writes, door.reads, asked.is_write(), || payload.is_walk()) {
            Way::Log => true,
            Way::Read => false,
            Way::NeedsAnswers => return Taken::Waits,
        };
        assert!(payload.is_sound(is_logged), "clients ask for nothing else");
        let sequence = door.pending.next();
        let mut frame = Vec::new();
        payload.encode(is_logged, 0, sequence, &mut frame);
        let form = match asked {
            Asked::Get(_) if !is_logged => Form::Get,
            Asked::Put(..) => Form::Put,
            _ => Form::Value,
        };
        // Clients do not say READONLY, so only a wrong variant answers from what the server happens to have.
        if is_stale(is_logged, false, process.role == Role::Primary) {
            shared.facts.is_read(self.id, process.machine.applied, shared.facts.answered_op());
            let (request, _) = Request::parse_trusted(&frame).expect("it was encoded just now");
            let mut out = Vec::new();
            process.machine.store.read(wall_ns.max(process.machine.timestamp_ns), &request, &mut out);
            door.owe(is_logged, form);
            for frame in door.answer(sequence, Bytes::from(out)) {
                shared.reply_in_order(origin.client, origin.connection, frame);
            }
            return Taken::Done;
        }
        let refusal = if is_logged && process.journal.is_full() {
            Some(Refusal::Busy)
        } else if is_logged {
            process.replica.offer(now_ns, &frame).map(|op| process.requests.note_offered(origin, op, *id)).err()
        } else {
            let ticket = process.replica.read_ticket();
            let floor = shared.facts.answered_op();
            ticket.map(|ticket| process.requests.note_read(origin, Bytes::from(frame), ticket, floor)).err()
        };
        match refusal {
            None => door.owe(is_logged, form),
            Some(Refusal::Busy) => return Taken::Waits,
            Some(Refusal::NotPrimary { .. } | Refusal::Recovering) => {
                for frame in door.refuse(refused(asked)) {
                    shared.reply_in_order(origin.client, origin.connection, frame);
                }
            }
        }
        Taken::Done
    }
}

fn refused(asked: &Asked) -> Bytes {
    let operation = if asked.is_write() { Operation::Transact } else { Operation::Query };
    let parts = ReplyParts { status: Status::NotPrimary, operation, copies: 0, sequence: 1, version: 0 };
    let mut out = Vec::new();
    encode_reply(&parts, &[], &mut out);
    Bytes::from(out)
}
