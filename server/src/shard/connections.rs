//! The client connections of a shard, as the rest of the shard sees them: a place to put replies.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::notify::LocalNotify;

/// Replies that wait to be sent on one connection, in bytes, beyond which nothing more is read from it.
pub const REPLIES_PAUSE_BYTES: usize = 1 << 20;

/// Replies that wait to be sent on one connection, in bytes, beyond which its reads are refused as busy: it asks for more
/// than it takes.
pub const REPLIES_BYTES_MAX: usize = 16 << 20;

/// Names a connection; the name of a closed one is never that of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRef {
    index: u32,
    generation: u32,
}

/// One client connection.
#[derive(Default)]
pub struct Connection {
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
    is_dirty: Cell<bool>,
}

impl Connection {
    /// Whether the writing task has nothing more to wait for.
    pub fn is_finished(&self) -> bool {
        self.is_broken.get() || (self.is_ending.get() && self.unanswered.get() == 0 && self.replies.borrow().is_empty())
    }

    /// Counts one accepted request as answered.
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
}

impl ConnectionTable {
    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection.
    pub fn open(&mut self) -> (ConnectionRef, Rc<Connection>) {
        let connection = Rc::new(Connection::default());
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(connection.clone());
        (ConnectionRef { index, generation: slot.0 }, connection)
    }

    /// Removes a connection. Answers to it are dropped from now on.
    pub fn close(&mut self, name: ConnectionRef) {
        let slot = &mut self.slots[name.index as usize];
        assert!(slot.0 == name.generation && slot.1.is_some(), "a connection is closed once");
        slot.0 = slot.0.wrapping_add(1);
        slot.1 = None;
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

    /// Wakes the writing task of every connection that there is something to send on.
    pub fn flush_dirty(&mut self) {
        for connection in self.dirty.drain(..) {
            connection.is_dirty.set(false);
            connection.flush.notify();
        }
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
}
