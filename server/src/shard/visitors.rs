//! Mail between the shards of a server: commands of other shards' clients, and answers for our own.
//!
//! The clients of another shard are one visitor here: a connection without a socket, whose requests go the way of all
//! others.

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use lockstep_proto::{Operation, Status, reply::ReplyParts, request::Request};
use lockstep_replica::{Refusal, Role};
use tracing::warn;

use super::{
    Core, Shard,
    clock::Now,
    connections::{Connection, ConnectionRef},
    front::Desk,
    handover::MoveAsker,
    requests::{answer_read, parts_of},
    watches::aborted,
};
use crate::{
    park,
    resp::{
        mailbox::{Answer, Ask, Notice, Parcel},
        server::Server,
        writer::Writer,
    },
    ring,
};

/// Bytes of answers for the clients of another shard in one turn, beyond which answers with a body are refused.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bytes of answers from a backup for the clients of another shard in one turn, beyond which the rest waits for the
/// next one.
const STALE_BYTES_MAX: usize = 16 << 20;

/// How long clients may take to take what they have been answered, when this server has lost the primary's role.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is answered then.
const TOO_MUCH: &[u8] = b"too much was asked of another shard at once, try again";

/// The clients of another shard, as far as they have asked something of this one.
#[derive(Debug)]
pub struct Visitor {
    /// Who has asked for what is not answered yet, in order; `None` where an answer has overtaken.
    places: VecDeque<Option<(ConnectionRef, u64)>>,
    /// Number of the first place.
    first: u64,
    /// Answers of this turn.
    answers: Vec<Answer>,
    answer_bytes: Vec<u8>,
    /// Who cannot be answered.
    cut: Vec<ConnectionRef>,
}

impl Default for Visitor {
    fn default() -> Visitor {
        // Sequences of requests count from one.
        Visitor { places: VecDeque::new(), first: 1, answers: Vec::new(), answer_bytes: Vec::new(), cut: Vec::new() }
    }
}

impl Visitor {
    /// Takes an answer in.
    ///
    /// # Panics
    ///
    /// If nothing with its number is waited for.
    pub fn answer(&mut self, parts: &ReplyParts, body: &[u8]) {
        let index = parts.sequence.wrapping_sub(self.first) as usize;
        let place = self.places.get_mut(index).and_then(Option::take);
        let (connection, sequence) = place.expect("an answer is for a request that waits");
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        let (mut status, mut body, copies) = (parts.status, body, parts.copies);
        if self.answer_bytes.len() > ANSWER_BYTES_MAX && !body.is_empty() {
            if parts.operation.is_logged() {
                // It has taken effect, and the answer is not kept: not to be told from a lost connection.
                return self.cut.push(connection);
            }
            (status, body) = (Status::BadRequest, TOO_MUCH);
        }
        self.answer_bytes.extend_from_slice(body);
        let (end, revision) = (self.answer_bytes.len(), parts.version);
        self.answers.push(Answer { connection, sequence, status, copies, revision, end });
    }

    /// Adds a place. Its number.
    fn expect(&mut self, connection: ConnectionRef, sequence: u64) -> u64 {
        self.places.push_back(Some((connection, sequence)));
        self.first + self.places.len() as u64 - 1
    }

    /// Takes the last place away again: its request has found no room.
    fn unexpect(&mut self) {
        self.places.pop_back();
    }

    /// Forgets what is waited for, and names who waits: the answers will not be known here.
    fn drain(&mut self) -> Vec<ConnectionRef> {
        self.first += self.places.len() as u64;
        self.places.drain(..).flatten().map(|(connection, _)| connection).collect()
    }
}

/// Commands of other shards that have come and are not taken in yet.
#[derive(Debug, Default)]
pub struct Backlog {
    parcels: VecDeque<Parcel>,
    /// Asks of the first parcel that are taken in.
    taken: usize,
}

/// Takes mail in for as long as the shard lives.
pub async fn mail_loop(shard: Rc<Shard>, server: Arc<Server>) {
    let wake = Rc::new(MailboxOf { server: server.clone(), shard: shard.shard });
    let mut count = vec![0; 8];
    while !shard.is_stopped() {
        shard.metrics.ring_operations.increment();
        count = match ring::read_at(wake.clone(), count, 8, 0).await {
            Ok(count) => count,
            Err(error) => {
                shard.core.borrow_mut().fail(anyhow::Error::new(error).context("cannot wait for mail of other shards"));
                shard.ended.notify();
                return;
            }
        };
        for parcel in server.mailboxes[shard.shard as usize].take() {
            take_parcel(&shard, &server, parcel);
        }
        shard.backlog.notify();
        // Who waited for a place in another shard's mailbox may go on.
        shard.room.notify_all();
        shard.turn.notify();
    }
}

/// Takes in what other shards have sent, as far as there is room, for as long as the shard lives.
pub async fn backlog_loop(shard: Rc<Shard>) {
    loop {
        shard.backlog.notified().await;
        while !shard.core.borrow_mut().take_backlog() {
            shard.turn.notify();
            shard.room.notified().await;
        }
        shard.turn.notify();
    }
}

/// Keeps the mailboxes alive while the kernel reads from one.
struct MailboxOf {
    server: Arc<Server>,
    shard: u16,
}

impl std::os::fd::AsRawFd for MailboxOf {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.server.mailboxes[self.shard as usize].as_raw_fd()
    }
}

fn take_parcel(shard: &Rc<Shard>, server: &Arc<Server>, mut parcel: Parcel) {
    let core = &mut *shard.core.borrow_mut();
    let now = core.clock.now();
    if let Some(desk) = &core.desk {
        desk.meter.set_now(now.monotonic_ns, now.wall_ns);
    }
    let mut start = 0;
    for answer in std::mem::take(&mut parcel.answers) {
        let body = &parcel.answer_bytes[start..answer.end];
        start = answer.end;
        let Some(connection) = core.connections.get(answer.connection).cloned() else { continue };
        let at = (answer.copies, answer.revision);
        connection.door_answer(answer.sequence, parcel.from, answer.status, at, body);
        if answer.copies > 0
            && let Some(door) = connection.door()
        {
            door.borrow_mut().note_write(parcel.from, parcel.applied);
        }
        core.connections.mark_dirty(&connection);
    }
    for notice in std::mem::take(&mut parcel.notices) {
        take_notice(shard, server, core, notice);
    }
    if !parcel.asks.is_empty() {
        core.backlog.parcels.push_back(parcel);
    }
}

fn take_notice(shard: &Rc<Shard>, server: &Arc<Server>, core: &mut Core, notice: Notice) {
    match notice {
        Notice::Cut(name) | Notice::Kill(name) => {
            if let Some(connection) = core.connections.get(name) {
                connection.cut();
            }
        }
        Notice::CutAll => core.cut_front_door(),
        Notice::Deliver(delivery) => {
            for &id in &delivery.listeners {
                core.push_to(server, id, |out| delivery.write(out));
            }
            for (pattern, ids) in &delivery.pattern_listeners {
                for &id in ids {
                    core.push_to(server, id, |out| delivery.write_for_pattern(pattern, out));
                }
            }
        }
        Notice::Checkpoint => {
            let now = core.clock.now();
            core.want_checkpoint(shard, now);
        }
        Notice::MovePrimary(to) => {
            let now = core.clock.now();
            if core.begin_handover(now, to, MoveAsker::Own).is_err() {
                warn!(shard = core.shard, "FAILOVER: this shard stays where it is");
            }
        }
    }
}

impl Core {
    /// Opens the front door of this shard.
    pub(super) fn open_front_door(&mut self, server: Arc<Server>, seed: u64) {
        self.visitors = (0..self.identity.shards).map(|_| self.connections.open_visitor()).collect();
        self.watchers = server.shards[self.shard as usize].watchers.clone();
        let mut desk = Desk::new(server, self.shard, seed);
        desk.expired_keys = self.machine.store.expired_total();
        self.desk = Some(Box::new(desk));
        self.share_state();
    }

    /// Lets the other shards see which role this one has, and how many keys.
    pub(super) fn share_state(&mut self) {
        let Some(desk) = &mut self.desk else { return };
        let expired = self.machine.store.expired_total();
        // A store that was replaced by a checkpoint of another server begins at zero.
        let before = std::mem::replace(&mut desk.expired_keys, expired);
        desk.meter.stats().expired_keys.add(expired.saturating_sub(before));
        let view = match self.replica_role {
            // It does not know of a view's primary before it has joined one, but it may well have heard of the view.
            Role::Recovering => self.replica.view() << 2 | 2,
            Role::Primary => self.replica.view() << 2 | 1,
            Role::Backup => self.replica.view() << 2,
        };
        let shard = &desk.server.shards[self.shard as usize];
        shard.keys.store(self.machine.store.len() as u64, Relaxed);
        shard.expires.store(self.machine.store.expiring_len() as u64, Relaxed);
        let cell = &shard.role;
        if cell.load(Relaxed) != view {
            cell.store(view, Relaxed);
        }
    }

    /// Sends a client something that it has not asked for.
    fn push_to(&mut self, server: &Server, id: u64, write: impl FnOnce(&mut Writer<'_>)) {
        let Some(client) = server.clients.find(id).filter(|client| client.shard == self.shard) else { return };
        let connection = self.connections.get(client.connection).filter(|connection| !connection.is_broken.get());
        let Some(connection) = connection.cloned() else { return };
        let Some(door) = connection.door() else { return };
        let waiting_bytes = {
            let (mut door, mut replies) = (door.borrow_mut(), connection.replies.borrow_mut());
            let version = door.client.version;
            if door.pending.is_empty() {
                write(&mut Writer::new(&mut replies, version));
            } else {
                // Behind what is owed: the answer to its own SUBSCRIBE may be part of that.
                let mut bytes = Vec::new();
                write(&mut Writer::new(&mut bytes, version));
                door.pending.push_ready(&bytes);
            }
            replies.len() + door.pending.ready_bytes()
        };
        self.connections.mark_dirty(&connection);
        connection.note_memory();
        if waiting_bytes as u64 > server.settings.pubsub_output_bytes_max.load(Relaxed) {
            warn!(shard = self.shard, id, "a subscriber takes too little of what is published, closing its connection");
            connection.cut();
        }
    }

    /// Takes in what other shards' clients have asked. Whether all of it.
    fn take_backlog(&mut self) -> bool {
        let now = self.clock.now();
        while let Some(parcel) = self.backlog.parcels.front_mut() {
            let mut parcel = std::mem::take(parcel);
            let visitor = self.visitors[parcel.from as usize].clone();
            let first = self.backlog.taken;
            for (index, ask) in parcel.asks.iter().enumerate().skip(first) {
                let start = if index == 0 { 0 } else { parcel.asks[index - 1].end };
                let frame = &mut parcel.ask_bytes[start..ask.end];
                if !self.take_ask(now, &visitor, ask, frame) {
                    self.backlog.taken = index;
                    self.backlog.parcels[0] = parcel;
                    return false;
                }
            }
            if let Some(desk) = &self.desk {
                desk.server.mailboxes[self.shard as usize].taken(parcel.ask_bytes.len());
            }
            self.backlog.parcels.pop_front();
            self.backlog.taken = 0;
        }
        true
    }

    /// Takes one command of another shard's client in. Whether there was room.
    fn take_ask(
        &mut self,
        now: Now,
        (name, connection): &(ConnectionRef, Rc<Connection>),
        ask: &Ask,
        frame: &mut [u8],
    ) -> bool {
        let visitor = connection.visitor().expect("visitors are visitors");
        let number = visitor.borrow_mut().expect(ask.connection, ask.sequence);
        // The frame carries the number in its own connection there; here it is that of the visitor's place.
        frame[16..24].copy_from_slice(&number.to_le_bytes());
        let frame = &*frame;
        let (request, _) = Request::parse_trusted(frame).expect("the other shard has made it");
        let operation = request.operation();
        let is_program = matches!(operation, Operation::Transact | Operation::Query);
        if is_program && !self.look_after_watches(request.program(), &ask.revisions) {
            let parts = ReplyParts { status: Status::Ok, operation, copies: 0, sequence: number, version: 0 };
            connection.answer(&parts, &aborted(), self.shard);
            return true;
        }
        let refusal = if operation.is_logged() {
            if self.journal_is_full() {
                visitor.borrow_mut().unexpect();
                return false;
            }
            match self.replica.offer(now.monotonic_ns, frame) {
                Ok(op) => {
                    self.origins.push(op, *name, now.monotonic_ns);
                    self.note_offered(op, frame);
                    return true;
                }
                Err(refusal) => refusal,
            }
        } else if request.is_stale_allowed() && self.replica_role != Role::Primary {
            if visitor.borrow().answer_bytes.len() > STALE_BYTES_MAX {
                visitor.borrow_mut().unexpect();
                return false;
            }
            let wall_ns = now.wall_ns.max(self.machine.timestamp_ns);
            self.read_scratch.clear();
            answer_read(&self.machine.store, &self.metrics, wall_ns, &request, &mut self.read_scratch);
            let (mut parts, body) = parts_of(&request, &self.read_scratch);
            if is_program {
                parts.version = self.machine.revision - 1;
            }
            connection.answer(&parts, body, self.shard);
            return true;
        } else {
            match self.replica.read_ticket() {
                Ok(ticket) if self.reads.has_room() => {
                    // Writes of the same client are ahead of it in the log, or it would be in the log itself.
                    self.reads.push(ticket, *name, frame, 0, now.monotonic_ns);
                    return true;
                }
                Ok(_) => Refusal::Busy,
                Err(refusal) => refusal,
            }
        };
        let status = match refusal {
            Refusal::Busy => {
                visitor.borrow_mut().unexpect();
                return false;
            }
            Refusal::NotPrimary { .. } => Status::NotPrimary,
            Refusal::Recovering => Status::Unavailable,
        };
        let parts = ReplyParts { status, operation, copies: 0, sequence: number, version: 0 };
        connection.answer(&parts, &[], self.shard);
        true
    }

    /// Hands over what this turn has for other shards.
    pub(super) fn post_mail(&mut self) {
        let Some(desk) = &mut self.desk else { return };
        for (shard, (_, connection)) in self.visitors.iter().enumerate() {
            let Some(visitor) = connection.visitor() else { continue };
            let visitor = &mut *visitor.borrow_mut();
            desk.outbox[shard].notices.extend(visitor.cut.drain(..).map(Notice::Cut));
            if !visitor.answers.is_empty() {
                let parcel = &mut desk.outbox[shard];
                parcel.applied = self.machine.applied;
                parcel.answers = std::mem::take(&mut visitor.answers);
                parcel.answer_bytes = std::mem::take(&mut visitor.answer_bytes);
            }
        }
        for (shard, parcel) in desk.outbox.iter_mut().enumerate() {
            if !parcel.is_empty() {
                parcel.from = self.shard;
                desk.server.mailboxes[shard].post(std::mem::take(parcel));
            }
        }
    }

    /// This server is no longer the primary of the shard: whoever waits for a write here cannot be told how it ends,
    /// and the clients have to look for the new primary.
    pub(super) fn leave_front_door(&mut self) {
        let Some(desk) = &mut self.desk else { return };
        for (shard, (_, connection)) in self.visitors.iter().enumerate() {
            let Some(visitor) = connection.visitor() else { continue };
            let cut = visitor.borrow_mut().drain();
            desk.outbox[shard].notices.extend(cut.into_iter().map(Notice::Cut));
        }
        if !desk.server.is_cluster() {
            for (shard, parcel) in desk.outbox.iter_mut().enumerate() {
                if shard != self.shard as usize {
                    parcel.notices.push(Notice::CutAll);
                }
            }
        }
        self.cut_front_door();
    }

    fn cut_front_door(&mut self) {
        let is_client = |connection: &&Rc<Connection>| {
            connection.door().is_some_and(|door| !door.borrow().client.is_listening_for_events())
        };
        let leaving: Vec<Rc<Connection>> =
            self.connections.iter().filter(is_client).filter(|connection| connection.leave()).cloned().collect();
        if leaving.is_empty() {
            return;
        }
        park::spawn(async move {
            ring::sleep(LEAVE_TIMEOUT).await;
            for connection in leaving.iter().filter(|connection| !connection.is_broken.get()) {
                connection.cut();
            }
        });
    }
}
