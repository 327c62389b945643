//! What will happen, by virtual time.

use std::{cmp::Ordering, collections::BinaryHeap};

use bytes::Bytes;

use crate::{groups::GroupOperation, redis::Asked};

/// Something that will happen. `boot` names a process of a server: what was meant for one that is gone does not happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message arrives.
    Deliver {
        /// Who sent it.
        from: u8,
        /// Whom it is for.
        to: u8,
        /// The process it was sent to; 0: whichever runs.
        boot: u32,
        /// The connection it was sent on; 0: none.
        connection: u32,
        /// The message.
        message: Bytes,
    },
    /// A server tries to connect to another.
    Connect {
        /// Who.
        from: u8,
        /// To whom.
        to: u8,
        /// The process that tries.
        boot: u32,
    },
    /// A server notices that a connection is gone.
    Disconnected {
        /// Who notices.
        from: u8,
        /// To whom it was.
        to: u8,
        /// Which one.
        connection: u32,
    },
    /// A server ends its turn.
    Turn {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
    },
    /// A server applies what waits.
    Apply {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
    },
    /// A timer of a replica.
    Tick {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
    },
    /// A disk is done with something.
    Disk {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
        /// What.
        id: u64,
    },
    /// A checkpoint goes on.
    Checkpoint {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
    },
    /// A server starts.
    Start {
        /// The server.
        server: u8,
    },
    /// A server that has just started crashes again, so many times.
    CrashAgain {
        /// The server.
        server: u8,
        /// How often.
        times: u8,
    },
    /// A paused server goes on.
    Resume {
        /// The server.
        server: u8,
        /// Its process.
        boot: u32,
    },
    /// A client's request arrives.
    Request {
        /// The server.
        server: u8,
        /// Who asks, and on which of its connections.
        client: u8,
        /// The connection.
        connection: u32,
        /// The frame.
        frame: Bytes,
    },
    /// What is asked over a connection of the Redis front door arrives.
    Command {
        /// The server.
        server: u8,
        /// Who asks.
        client: u8,
        /// On which connection.
        connection: u32,
        /// Which operation of the history of groups it is, if it is one.
        id: Option<GroupOperation>,
        /// What.
        asked: Asked,
    },
    /// A server notices that a client's connection is gone.
    HungUp {
        /// The server.
        server: u8,
        /// The client.
        client: u8,
        /// The connection.
        connection: u32,
    },
    /// A reply arrives at a client; an empty one: the connection is gone.
    Reply {
        /// The client.
        client: u8,
        /// The connection.
        connection: u32,
        /// The frame.
        frame: Bytes,
    },
    /// A client looks at what it has to do.
    Client {
        /// The client.
        client: u8,
    },
    /// A fault of the plan begins.
    Fault(usize),
    /// A link is free again, or clients reach servers again.
    Unblock {
        /// Which blocking ends.
        block: u32,
    },
    /// Nothing goes wrong any more.
    Heal,
    /// The convergence of the cluster is looked at.
    Converge,
}

#[derive(Debug)]
struct Entry {
    at_ns: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at_ns, self.number) == (other.at_ns, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as the heap needs it; of two at the same time, the one asked for first.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

/// All that will happen.
#[derive(Debug, Default)]
pub struct Schedule {
    heap: BinaryHeap<Entry>,
    numbers: u64,
}

impl Schedule {
    /// Adds an event.
    pub fn at(&mut self, at_ns: u64, event: Event) {
        self.numbers += 1;
        self.heap.push(Entry { at_ns, number: self.numbers, event });
    }

    /// When the next event happens.
    pub fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.at_ns)
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|entry| (entry.at_ns, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_they_were_asked_for() {
        let mut schedule = Schedule::default();
        for (at_ns, index) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            schedule.at(at_ns, Event::Fault(index));
        }
        let order: Vec<(u64, usize)> = std::iter::from_fn(|| schedule.pop())
            .map(|(at_ns, event)| match event {
                Event::Fault(index) => (at_ns, index),
                _ => unreachable!(),
            })
            .collect();
        assert_eq!(order, [(3, 1), (3, 3), (5, 0), (5, 2)]);
    }
}
