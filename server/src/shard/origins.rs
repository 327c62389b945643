//! Who asked: for each prepare in flight, the connections that its requests came from, in order.

use std::collections::VecDeque;

use super::connections::ConnectionRef;

/// Where the requests of one prepare came from.
#[derive(Default)]
pub struct Origins {
    op: u64,
    /// One per request of the batch.
    pub connections: Vec<ConnectionRef>,
    /// Requests that arrived together: one past the index of the last, and the time, in monotonic ns.
    pub arrivals: Vec<(u32, u64)>,
}

/// The origins of the open batch and of all prepares that are not answered yet.
#[derive(Default)]
pub struct OriginQueue {
    open: Origins,
    closed: VecDeque<Origins>,
    spare: Vec<Origins>,
}

impl OriginQueue {
    /// Notes that the next request of the batch that will be `op` came from `connection`.
    #[inline]
    pub fn push(&mut self, op: u64, connection: ConnectionRef, arrival_ns: u64) {
        if op != self.open.op {
            self.close();
            self.open.op = op;
        }
        self.open.connections.push(connection);
        let end = self.open.connections.len() as u32;
        match self.open.arrivals.last_mut() {
            Some((last_end, last_ns)) if *last_ns == arrival_ns => *last_end = end,
            _ => self.open.arrivals.push((end, arrival_ns)),
        }
    }

    /// The origins of `op`, whose answers are known now; `None` if nobody here asked for it.
    ///
    /// # Panics
    ///
    /// If an earlier op has not been taken: answers come in the order of the log.
    pub fn take(&mut self, op: u64) -> Option<Origins> {
        if self.open.op == op {
            self.close();
        }
        let first = self.closed.front()?;
        assert!(first.op >= op, "op {} is answered before op {}", op, first.op);
        if first.op == op { self.closed.pop_front() } else { None }
    }

    /// Gives the memory of taken origins back.
    pub fn recycle(&mut self, mut origins: Origins) {
        origins.connections.clear();
        origins.arrivals.clear();
        if self.spare.len() < 64 {
            self.spare.push(origins);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.open.connections.is_empty() && self.closed.is_empty()
    }

    /// Forgets everybody who waits, and names them: this server is no longer the primary and cannot know how their
    /// requests end.
    pub fn drain(&mut self) -> impl Iterator<Item = ConnectionRef> {
        self.close();
        self.closed.drain(..).flat_map(|origins| origins.connections)
    }

    fn close(&mut self) {
        if !self.open.connections.is_empty() {
            let next = self.spare.pop().unwrap_or_default();
            self.closed.push_back(std::mem::replace(&mut self.open, next));
        }
        // Ops count from one, so zero is nobody's.
        self.open.op = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::connections::ConnectionTable;

    #[test]
    fn origins_come_back_by_op_and_only_once() {
        let mut table = ConnectionTable::default();
        let (first, second) = (table.open().0, table.open().0);
        let mut queue = OriginQueue::default();
        queue.push(5, first, 10);
        queue.push(5, second, 10);
        queue.push(5, second, 11);
        queue.push(6, first, 12);
        assert!(queue.take(4).is_none(), "op 4 came from nobody");
        let origins = queue.take(5).unwrap();
        assert_eq!(origins.connections, [first, second, second]);
        assert_eq!(origins.arrivals, [(2, 10), (3, 11)]);
        queue.recycle(origins);
        assert_eq!(queue.take(6).unwrap().connections, [first]);
        assert!(queue.take(6).is_none() && queue.is_empty());
    }
}
