//! The client connections of a shard, as the rest of the shard sees them: a place to put replies.

use std::{
    cell::{Cell, RefCell},
    net::Shutdown,
    rc::{Rc, Weak},
    sync::atomic::Ordering::Relaxed,
};

use lockstep_proto::{
    Status,
    limits::REPLY_BODY_SIZE_MAX,
    reply::{ReplyHeader, ReplyParts, encode_reply},
    request::Request,
};
use tokio_uring::net::TcpStream;
use tracing::warn;
use zerocopy::IntoBytes;

use super::visitors::Visitor;
use crate::{
    notify::LocalNotify,
    resp::{
        connection::is_reset,
        door::{Door, OUTPUT_BYTES_MAX},
        memory::UNCOUNTED_BYTES,
    },
};

/// Replies that wait to be sent on one connection, in bytes, beyond which nothing more is read from it.
pub const REPLIES_PAUSE_BYTES: usize = 1 << 20;

/// Replies that wait to be sent on one connection, in bytes, beyond which its reads are refused as busy: it asks for
/// more than it takes.
pub const REPLIES_BYTES_MAX: usize = 16 << 20;

/// Least that all clients of a shard together must be allowed to leave untaken, in bytes: what one of them alone may.
/// While so much is being sent as is answered at once, as much again may wait, and the last answer may come on top of
/// either.
pub const CLIENTS_MEMORY_MIN: u64 = {
    let answered_bytes_max = REPLIES_BYTES_MAX + ReplyHeader::SIZE + REPLY_BODY_SIZE_MAX;
    (2 * answered_bytes_max as u64).next_power_of_two()
};

/// Names a connection; the name of a closed one is never that of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRef {
    index: u32,
    generation: u32,
}

/// What speaks over a connection.
#[derive(Default)]
enum Kind {
    /// A client that speaks our own protocol.
    #[default]
    Native,
    /// A client of the Redis front door.
    Door(Box<RefCell<Door>>),
    /// The clients of another shard.
    Visitor(RefCell<Visitor>),
}

/// One client connection.
#[derive(Default)]
pub struct Connection {
    kind: Kind,
    /// Replies that wait to be sent. The writing task takes the whole buffer and leaves an empty one.
    pub replies: RefCell<Vec<u8>>,
    /// Wakes the writing task.
    pub flush: LocalNotify,
    /// Wakes the reading task when replies have been sent.
    pub drained: LocalNotify,
    /// No more requests will come; close when everything is answered and sent.
    pub is_ending: Cell<bool>,
    /// The socket is of no further use.
    pub is_broken: Cell<bool>,
    /// Requests that were accepted and not answered yet.
    pub unanswered: Cell<u64>,
    /// The op that will hold this connection's latest write: its reads wait for it.
    pub last_write_op: Cell<u64>,
    /// A request that has been read waits until there is room for it; at the front door also one that waits for
    /// answers.
    pub is_waiting: Cell<bool>,
    /// Native: something was sent since [`Connection::was_silent`] was asked last, ...
    pub has_sent: Cell<bool>,
    /// ... and answers were owed then. Front door: it was waiting already when that was looked at last.
    has_owed: Cell<bool>,
    /// Front door: wakes the reading task when something has been answered.
    pub settled: LocalNotify,
    /// Front door: what was sent last is why the connection is closed, and must arrive.
    pub is_refused: Cell<bool>,
    /// Bytes of answers that are being sent.
    in_flight: Cell<usize>,
    /// Native: bytes of replies that are counted in [`ConnectionTable::replies_held`].
    counted: Cell<u64>,
    /// The socket, for as long as it is served.
    pub stream: RefCell<Weak<TcpStream>>,
    is_dirty: Cell<bool>,
}

impl Connection {
    /// Whether the writing task has nothing more to wait for.
    pub fn is_finished(&self) -> bool {
        let owes = || match &self.kind {
            Kind::Door(door) => !door.borrow().pending.is_empty(),
            _ => self.unanswered.get() != 0,
        };
        self.is_broken.get() || (self.is_ending.get() && !owes() && self.replies.borrow().is_empty())
    }

    /// The state of a front door's connection.
    #[inline]
    pub fn door(&self) -> Option<&RefCell<Door>> {
        match &self.kind {
            Kind::Door(door) => Some(door),
            _ => None,
        }
    }

    /// Whether a client speaks our own protocol over it.
    #[inline]
    pub fn is_native(&self) -> bool {
        matches!(self.kind, Kind::Native)
    }

    /// The clients of another shard.
    pub fn visitor(&self) -> Option<&RefCell<Visitor>> {
        match &self.kind {
            Kind::Visitor(visitor) => Some(visitor),
            _ => None,
        }
    }

    /// Takes in the answer of `shard`, the connection's own, to an accepted request.
    #[inline]
    pub fn answer(&self, parts: &ReplyParts, body: &[u8], shard: u16) {
        match &self.kind {
            Kind::Native => {
                encode_reply(parts, body, &mut self.replies.borrow_mut());
                self.answered();
            }
            Kind::Door(_) => self.door_answer(parts.sequence, shard, parts.status, (parts.copies, parts.version), body),
            Kind::Visitor(visitor) => visitor.borrow_mut().answer(parts, body),
        }
    }

    /// Takes in the answer of a shard to a request of a front door's client. `at` is the number of its durable copies,
    /// and its revision.
    #[inline]
    pub fn door_answer(&self, sequence: u64, shard: u16, status: Status, at: (u8, u64), body: &[u8]) {
        let Kind::Door(door) = &self.kind else { return };
        if self.is_broken.get() {
            // Nobody will take it.
            return;
        }
        let waiting = {
            let (mut replies, mut door) = (self.replies.borrow_mut(), door.borrow_mut());
            door.answer(sequence, shard, status, at, body, &mut replies);
            replies.len() + door.pending.ready_bytes()
        };
        self.settled.notify();
        if waiting > OUTPUT_BYTES_MAX {
            self.cut();
        }
        if waiting > UNCOUNTED_BYTES {
            self.note_memory();
        }
    }

    /// Front door: notes what the client holds of the server's memory. If that makes it too much for all clients
    /// together, those that hold most are closed.
    pub fn note_memory(&self) {
        let Kind::Door(door) = &self.kind else { return };
        let door = door.borrow();
        let shared = &door.client.shared;
        let sending = self.replies.borrow().len() + self.in_flight.get();
        shared.output_bytes.store((sending + door.pending.ready_bytes()) as u64, Relaxed);
        if door.meter.hold(shared, sending + door.held_bytes()) {
            let meter = door.meter.clone();
            drop(door);
            meter.evict();
        }
    }

    /// Notes how many bytes of answers are being sent.
    pub fn note_sending(&self, bytes: usize) {
        let before = self.in_flight.replace(bytes);
        let Kind::Door(door) = &self.kind else { return };
        if before.max(bytes) > UNCOUNTED_BYTES {
            self.note_memory();
        } else {
            door.borrow().client.shared.output_bytes.store(bytes as u64, Relaxed);
        }
    }

    /// Front door: takes nothing more in, and closes the connection once everything that is owed is answered and sent.
    /// Whether that is still to come.
    pub fn leave(&self) -> bool {
        let Kind::Door(door) = &self.kind else { return false };
        let is_owing =
            !door.borrow().pending.is_empty() || !self.replies.borrow().is_empty() || self.in_flight.get() > 0;
        if !is_owing || self.is_broken.get() {
            self.cut();
            return false;
        }
        door.borrow_mut().is_closing = true;
        self.is_ending.set(true);
        // The client may have sent more, which must not cost it what it has been answered.
        self.is_refused.set(true);
        self.flush.notify();
        self.settled.notify();
        true
    }

    /// Native: whether its replies take so much that they have to be counted, or did.
    #[inline]
    pub fn is_counted(&self) -> bool {
        self.is_native() && (self.counted.get() > 0 || self.reply_bytes() > UNCOUNTED_BYTES)
    }

    fn reply_bytes(&self) -> usize {
        self.replies.borrow().len() + self.in_flight.get()
    }

    /// Closes the connection and gives back at once what its answers take.
    pub fn evict(&self) {
        self.cut();
        if let Ok(mut replies) = self.replies.try_borrow_mut() {
            *replies = Vec::new();
        }
        if let Kind::Door(door) = &self.kind
            && let Ok(mut door) = door.try_borrow_mut()
        {
            door.pending.forget_answers();
            door.deferred = Vec::new();
        }
    }

    /// Puts a read off if its client does not take its answers. Whether it did.
    pub fn defer(&self, request: &Request<'_>) -> bool {
        let Kind::Door(door) = &self.kind else { return false };
        let mut door = door.borrow_mut();
        if !door.is_deferring(request.sequence(), self.replies.borrow().len()) {
            return false;
        }
        door.deferred.extend_from_slice(request.header().as_bytes());
        door.deferred.extend_from_slice(request.key());
        door.deferred.extend_from_slice(request.arguments());
        true
    }

    /// Whether reads were put off.
    pub fn has_deferred(&self) -> bool {
        self.door().is_some_and(|door| !door.borrow().deferred.is_empty())
    }

    /// Closes the connection, whatever is still owed or unsent.
    pub fn cut(&self) {
        self.is_broken.set(true);
        // A write that its client does not take would hold the connection otherwise.
        if let Some(stream) = self.stream.borrow().upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.flush.notify();
        self.settled.notify();
        self.drained.notify();
    }

    /// Front door: notes whether a command waits from now on, and whether that is another one than before.
    #[inline]
    pub fn begin_wait(&self, is_waiting: bool, is_another: bool) {
        self.is_waiting.set(is_waiting);
        if is_another {
            self.has_owed.set(false);
        }
    }

    /// Front door: closes the connection of a client that has gone while a command of it waits. Whether it is to be
    /// woken for that.
    pub fn cut_if_gone(&self) -> bool {
        if !self.is_waiting.get() {
            return false;
        }
        // The kernel is only asked about those that have waited for some time.
        let is_gone = || self.stream.borrow().upgrade().is_some_and(|stream| is_reset(&stream));
        if !self.is_broken.get() && self.has_owed.replace(true) && is_gone() {
            self.cut();
        }
        self.is_broken.get()
    }

    /// Native: whether the client was owed an answer all the time since this was asked last, and was sent nothing.
    pub fn was_silent(&self) -> bool {
        let owes = self.is_waiting.get() || self.unanswered.get() > 0;
        let (has_owed, has_sent) = (self.has_owed.replace(owes), self.has_sent.replace(false));
        owes && has_owed && !has_sent && self.replies.borrow().is_empty()
    }

    /// Counts one accepted request as answered.
    ///
    /// # Panics
    ///
    /// If all were answered before.
    pub fn answered(&self) {
        let unanswered = self.unanswered.get();
        assert!(unanswered > 0, "a request is answered once");
        self.unanswered.set(unanswered - 1);
    }
}

/// All connections of a shard.
#[derive(Default)]
pub struct ConnectionTable {
    slots: Vec<(u32, Option<Rc<Connection>>)>,
    free: Vec<u32>,
    dirty: Vec<Rc<Connection>>,
    /// Connections that are no client's.
    visitors: usize,
    /// What the replies of all native clients take, as far as they are counted, in bytes.
    replies_held: u64,
    /// What they may take, in bytes; 0 for no bound.
    replies_held_max: u64,
}

impl ConnectionTable {
    /// A table of connections whose waiting replies may take so many bytes together; 0 for no bound.
    pub fn bounded(replies_held_max: u64) -> ConnectionTable {
        ConnectionTable { replies_held_max, ..ConnectionTable::default() }
    }

    /// What the replies take that native clients have not taken yet, in bytes. Small ones are not counted.
    pub fn replies_held(&self) -> u64 {
        self.replies_held
    }

    /// Notes what the replies of a native client take. If that makes it too much for all of them together, those that
    /// hold most are closed. Returns how many.
    #[inline]
    pub fn note_replies(&mut self, connection: &Connection) -> u64 {
        if connection.is_counted() { self.count_replies(connection) } else { 0 }
    }

    fn count_replies(&mut self, connection: &Connection) -> u64 {
        let bytes = connection.reply_bytes();
        let is_counted = bytes > UNCOUNTED_BYTES && !connection.is_broken.get();
        let counted = if is_counted { bytes as u64 } else { 0 };
        let before = connection.counted.replace(counted);
        self.replies_held = self.replies_held - before + counted;
        let is_too_much = self.replies_held_max > 0 && self.replies_held > self.replies_held_max;
        if counted > before && is_too_much { self.evict_most() } else { 0 }
    }

    /// Closes the clients that hold most, until all together hold an eighth less than they may: not for each reply
    /// anew.
    #[cold]
    fn evict_most(&mut self) -> u64 {
        let mut holders: Vec<_> = self.iter().filter(|connection| connection.counted.get() > 0).cloned().collect();
        holders.sort_by_key(|connection| std::cmp::Reverse(connection.counted.get()));
        let mut evicted = 0;
        for connection in holders {
            if self.replies_held <= self.replies_held_max - self.replies_held_max / 8 {
                break;
            }
            let bytes = connection.counted.replace(0);
            self.replies_held -= bytes;
            evicted += 1;
            warn!(
                bytes,
                all_bytes = self.replies_held,
                "clients leave more replies untaken than --clients-memory allows, closing the one that holds most"
            );
            connection.evict();
        }
        evicted
    }

    /// Number of open connections of clients.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.visitors
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection.
    pub fn open(&mut self) -> (ConnectionRef, Rc<Connection>) {
        self.open_as(|_| Connection::default())
    }

    /// Adds a connection of the front door.
    pub fn open_door(&mut self, door: impl FnOnce(ConnectionRef) -> Door) -> (ConnectionRef, Rc<Connection>) {
        self.open_as(|name| {
            let kind = Kind::Door(Box::new(RefCell::new(door(name))));
            Connection { kind, ..Connection::default() }
        })
    }

    /// Adds the clients of another shard.
    pub fn open_visitor(&mut self) -> (ConnectionRef, Rc<Connection>) {
        self.visitors += 1;
        self.open_as(|_| Connection { kind: Kind::Visitor(RefCell::default()), ..Connection::default() })
    }

    fn open_as(&mut self, make: impl FnOnce(ConnectionRef) -> Connection) -> (ConnectionRef, Rc<Connection>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let name = ConnectionRef { index, generation: slot.0 };
        let connection = Rc::new(make(name));
        slot.1 = Some(connection.clone());
        (name, connection)
    }

    /// Removes a connection. Answers to it are dropped from now on.
    ///
    /// # Panics
    ///
    /// If it was removed before.
    pub fn close(&mut self, name: ConnectionRef) {
        let slot = &mut self.slots[name.index as usize];
        assert!(slot.0 == name.generation && slot.1.is_some(), "a connection is closed once");
        slot.0 = slot.0.wrapping_add(1);
        self.replies_held -= slot.1.take().map_or(0, |connection| connection.counted.replace(0));
        self.free.push(name.index);
    }

    /// The connection, if it is still open.
    #[inline]
    pub fn get(&self, name: ConnectionRef) -> Option<&Rc<Connection>> {
        let (generation, connection) = &self.slots[name.index as usize];
        if *generation == name.generation { connection.as_ref() } else { None }
    }

    /// The open connections.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.slots.iter().filter_map(|(_, connection)| connection.as_ref())
    }

    /// Remembers that there is something to send, for the end of the turn.
    #[inline]
    pub fn mark_dirty(&mut self, connection: &Rc<Connection>) {
        if !connection.is_dirty.replace(true) {
            self.dirty.push(connection.clone());
        }
    }

    /// Wakes the writing task of every connection that there is something to send on. Returns how many clients were
    /// closed because they leave too much untaken.
    pub fn flush_dirty(&mut self) -> u64 {
        let mut evicted = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        for connection in dirty.drain(..) {
            connection.is_dirty.set(false);
            connection.flush.notify();
            evicted += self.note_replies(&connection);
        }
        self.dirty = dirty;
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_is_not_found_under_its_old_name() {
        let mut table = ConnectionTable::default();
        let (first, _) = table.open();
        table.close(first);
        let (second, connection) = table.open();
        assert_eq!(first.index, second.index, "the place is used again");
        assert!(table.get(first).is_none());
        assert!(Rc::ptr_eq(table.get(second).unwrap(), &connection));
        assert_eq!(table.len(), 1);
    }

    /// A client that has so many bytes of replies untaken.
    fn holder(table: &mut ConnectionTable, bytes: usize) -> (ConnectionRef, Rc<Connection>) {
        let (name, connection) = table.open();
        connection.replies.borrow_mut().resize(bytes, 0);
        (name, connection)
    }

    #[test]
    fn those_that_leave_most_untaken_are_closed_and_give_their_memory_back() {
        let mut table = ConnectionTable::bounded(8 << 20);
        let holders: Vec<_> = [1, 4, 2].map(|mib| holder(&mut table, mib << 20)).into();
        let small = holder(&mut table, UNCOUNTED_BYTES).1;
        assert_eq!(holders.iter().map(|(_, connection)| table.note_replies(connection)).sum::<u64>(), 0);
        assert_eq!((table.note_replies(&small), table.replies_held()), (0, 7 << 20));
        let (name, last) = holder(&mut table, 3 << 20);
        assert_eq!(table.note_replies(&last), 1, "10 MiB are more than 8, and 6 are clearly less");
        assert_eq!(table.replies_held(), 6 << 20);
        let is_broken = |connection: &Connection| connection.is_broken.get();
        assert_eq!(
            holders.iter().map(|(_, connection)| is_broken(connection)).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert!(holders[1].1.replies.borrow().is_empty());
        // What comes for one that is being closed does not count.
        holders[1].1.replies.borrow_mut().resize(4 << 20, 0);
        assert_eq!((table.note_replies(&holders[1].1), table.replies_held()), (0, 6 << 20));
        // What is being sent counts until it is, and what a closed connection held no longer does.
        let sent = last.replies.take();
        last.note_sending(sent.len());
        table.note_replies(&last);
        assert_eq!(table.replies_held(), 6 << 20);
        last.note_sending(0);
        table.note_replies(&last);
        assert_eq!(table.replies_held(), 3 << 20);
        table.close(name);
        holders.iter().for_each(|(name, _)| table.close(*name));
        assert_eq!(table.replies_held(), 0);
    }

    #[test]
    fn without_a_bound_nobody_is_closed() {
        let mut table = ConnectionTable::default();
        let connection = holder(&mut table, 64 << 20).1;
        assert_eq!((table.note_replies(&connection), table.replies_held()), (0, 64 << 20));
    }
}
