//! The links between servers, and the connections on them and of clients.

mod clients;

use bytes::Bytes;
use lockstep_proto::message::MessageHeader;

use self::clients::ClientLink;
pub use self::clients::{Arriving, ClientCut};
use crate::{
    dice::Dice,
    facts::header_of,
    plan::{Fault, Plan},
    schedule::Event,
    shared::Shared,
};

/// A message that arrives again does so within this many view timeouts.
const LATE_VIEWS: u64 = 4;

/// What happens to messages on a link that is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// They are lost.
    Lost,
    /// They arrive when the link is free again.
    Held,
}

/// Links that are blocked for a while.
#[derive(Clone, Debug)]
struct Block {
    number: u32,
    /// For each sender, the receivers that its messages do not reach, a bit each.
    rows: [u8; 7],
    kind: Blocked,
    held: Vec<(u8, u8, u32, u32, Bytes)>,
}

impl Block {
    fn covers(&self, from: u8, to: u8) -> bool {
        self.rows[from as usize] & (1 << to) != 0
    }
}

/// From one server to another.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The open connection; 0: none.
    connection: u32,
    /// The process that it was made to.
    boot: u32,
    /// What was sent on this connection or an earlier one is lost.
    lost_to: u32,
    /// Something that was sent on this connection is lost, and so nothing that is sent on it later arrives: over TCP
    /// there are no gaps.
    broken: u32,
    last_arrival_ns: u64,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    servers: u8,
    links: [[Link; 7]; 7],
    blocks: Vec<Block>,
    blocks_total: u32,
    connections_total: u32,
    clients: [ClientLink; 16],
    /// By name, as [`Block`]s have one.
    client_cuts: Vec<(u32, ClientCut)>,
    delays: Delays,
    dice: Dice,
}

/// From whom, to whom, and which messages.
type Delay = (u8, u8, Box<dyn Fn(&MessageHeader) -> bool>);

/// Messages that a test keeps back, and those that were kept.
#[derive(Default)]
struct Delays {
    what: Vec<Delay>,
    kept: Vec<(u8, u8, Bytes)>,
}

impl std::fmt::Debug for Delays {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} messages kept back", self.kept.len())
    }
}

impl Network {
    /// A network without connections.
    pub fn new(plan: &Plan) -> Network {
        Network {
            servers: plan.servers,
            links: [[Link::default(); 7]; 7],
            blocks: Vec::new(),
            blocks_total: 0,
            connections_total: 0,
            clients: [ClientLink::default(); 16],
            client_cuts: Vec::new(),
            delays: Delays::default(),
            dice: Dice::new(plan.seed, "network"),
        }
    }

    fn link(&mut self, from: u8, to: u8) -> &mut Link {
        &mut self.links[from as usize][to as usize]
    }

    /// The open connection from one server to another; 0: none.
    pub fn connection(&self, from: u8, to: u8) -> u32 {
        self.links[from as usize][to as usize].connection
    }

    /// Whether messages from one server to another are blocked.
    pub fn is_blocked(&self, from: u8, to: u8) -> bool {
        self.blocks.iter().any(|block| block.covers(from, to))
    }

    /// What blocks messages from one server to another. If several do, it is the one that began first: so what is held
    /// of a link is held in one place, and stays in order.
    fn block_of(&mut self, from: u8, to: u8) -> Option<&mut Block> {
        self.blocks.iter_mut().find(|block| block.covers(from, to))
    }

    /// Opens a connection to a process.
    pub fn connect(&mut self, from: u8, to: u8, boot: u32) {
        self.connections_total += 1;
        let connection = self.connections_total;
        let link = self.link(from, to);
        (link.connection, link.boot) = (connection, boot);
    }

    /// A connection is gone. Returns whether it was open.
    pub fn disconnect(&mut self, from: u8, to: u8, connection: u32) -> bool {
        let link = self.link(from, to);
        let is_open = link.connection == connection && connection != 0;
        if is_open {
            link.connection = 0;
        }
        is_open
    }

    /// What is on its way on the open connection is lost.
    pub fn lose_in_flight(&mut self, from: u8, to: u8) {
        let link = self.link(from, to);
        link.lost_to = link.connection;
    }

    /// Whether what was sent on a connection is lost.
    pub fn is_lost(&self, from: u8, to: u8, connection: u32) -> bool {
        connection != 0 && connection <= self.links[from as usize][to as usize].lost_to
    }

    /// A process is gone, and its connections with it.
    pub fn close_all_of(&mut self, server: u8) {
        for link in &mut self.links[server as usize] {
            link.connection = 0;
        }
    }

    /// Keeps messages back from now on: those from one server to another that are `what`.
    pub fn delay(&mut self, from: u8, to: u8, what: impl Fn(&MessageHeader) -> bool + 'static) {
        self.delays.what.push((from, to, Box::new(what)));
    }

    /// Keeps nothing back any more.
    pub fn delay_nothing(&mut self) {
        self.delays.what.clear();
    }

    /// Drops what was kept back and is not `what`.
    pub fn retain_kept(&mut self, what: impl Fn(&MessageHeader) -> bool) {
        self.delays.kept.retain(|(_, _, message)| what(header_of(message)));
    }

    /// Takes out all that was kept back, from whom and to whom, in the order in which it was sent.
    pub fn take_kept(&mut self) -> Vec<(u8, u8, Bytes)> {
        std::mem::take(&mut self.delays.kept)
    }

    /// Blocks links. Returns a name for [`Shared::unblock`].
    pub fn block(&mut self, rows: [u8; 7], kind: Blocked) -> u32 {
        self.blocks_total += 1;
        self.blocks.push(Block { number: self.blocks_total, rows, kind, held: Vec::new() });
        self.blocks_total
    }

    /// What is in force of [`Network::block`] and [`Network::cut_clients`].
    pub fn blocks(&self) -> Vec<u32> {
        let cuts = self.client_cuts.iter().map(|(number, _)| *number);
        self.blocks.iter().map(|block| block.number).chain(cuts).collect()
    }

    /// Rows for [`Network::block`]: between the servers of a set and all others, both ways.
    pub fn rows_around(&self, servers: u8) -> [u8; 7] {
        let others = ((1u16 << self.servers) - 1) as u8 & !servers;
        let (there, back) = (self.rows(servers, others), self.rows(others, servers));
        std::array::from_fn(|row| there[row] | back[row])
    }

    /// Rows for [`Network::block`]: from the servers of one set to those of another.
    pub fn rows(&self, from: u8, to: u8) -> [u8; 7] {
        std::array::from_fn(|server| if from & (1 << server) != 0 { to & !(1 << server) } else { 0 })
    }
}

impl Shared {
    /// Sends a message to another server.
    pub fn send(&mut self, from: u8, to: u8, message: Bytes) {
        let Link { connection, boot, broken, .. } = *self.network.link(from, to);
        if connection == 0 {
            return;
        }
        let delays = &mut self.network.delays;
        let is_kept = |(of, whom, what): &Delay| (*of, *whom) == (from, to) && what(header_of(&message));
        if delays.what.iter().any(is_kept) {
            return delays.kept.push((from, to, message));
        }
        let (is_fifo, loss, repeat) = {
            let plan = &self.plan.network;
            (plan.is_fifo, plan.loss, plan.repeat)
        };
        if broken == connection || self.catch(from, to, boot, connection, &message) {
            return;
        }
        if !self.is_healed && self.network.dice.chance(loss) {
            self.counters.count(Fault::Loss);
            return;
        }
        if !self.is_healed && self.network.dice.chance(repeat) {
            self.counters.count(Fault::Repeat);
            self.repeat(from, to, message.clone());
        }
        self.deliver(from, to, boot, connection, message, is_fifo);
    }

    /// Some messages come back when nobody thinks of them any more.
    fn repeat(&mut self, from: u8, to: u8, message: Bytes) {
        let delay_ns = if self.network.dice.chance(500) {
            self.network.dice.below(LATE_VIEWS * self.plan.view_timeout_ns())
        } else {
            self.network.dice.delay(&self.plan.network.delay_ns)
        };
        self.after(delay_ns, Event::Deliver { from, to, boot: 0, connection: 0, message });
    }

    fn deliver(&mut self, from: u8, to: u8, boot: u32, connection: u32, message: Bytes, is_fifo: bool) {
        let delay_ns = self.network.dice.delay(&self.plan.network.delay_ns);
        let mut at_ns = self.now_ns + delay_ns;
        let link = self.network.link(from, to);
        let is_overtaking = at_ns < link.last_arrival_ns;
        if is_fifo {
            at_ns = at_ns.max(link.last_arrival_ns);
        }
        link.last_arrival_ns = link.last_arrival_ns.max(at_ns);
        if is_overtaking && !is_fifo {
            self.counters.count(Fault::Reorder);
        }
        // Over TCP a message goes to the process that the connection was made to; else to whoever runs when it arrives.
        let boot = if is_fifo { boot } else { 0 };
        self.schedule.at(at_ns, Event::Deliver { from, to, boot, connection, message });
    }

    /// Takes a message if its link is blocked. Returns whether it was.
    fn catch(&mut self, from: u8, to: u8, boot: u32, connection: u32, message: &Bytes) -> bool {
        let is_fifo = self.plan.network.is_fifo;
        let Some(block) = self.network.block_of(from, to) else { return false };
        match block.kind {
            Blocked::Held => block.held.push((from, to, boot, connection, message.clone())),
            Blocked::Lost if is_fifo => {
                let link = self.network.link(from, to);
                link.broken = link.broken.max(connection);
            }
            Blocked::Lost => {}
        }
        true
    }

    /// Ends a block. On links that no other one covers, what was held goes on its way, and connections that have lost
    /// something are noticed to be gone.
    pub fn unblock(&mut self, number: u32) {
        self.network.client_cuts.retain(|(cut, _)| *cut != number);
        let Some(at) = self.network.blocks.iter().position(|block| block.number == number) else { return };
        let block = self.network.blocks.remove(at);
        let is_fifo = self.plan.network.is_fifo;
        for (from, to, boot, connection, message) in &block.held {
            if !self.catch(*from, *to, *boot, *connection, message) {
                self.deliver(*from, *to, *boot, *connection, message.clone(), is_fifo);
            }
        }
        for from in 0..self.network.servers {
            for to in (0..self.network.servers).filter(|&to| block.covers(from, to)) {
                let Link { connection, broken, .. } = *self.network.link(from, to);
                if connection != 0 && connection == broken && !self.network.is_blocked(from, to) {
                    self.after(0, Event::Disconnected { from, to, connection });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two servers with a connection from the first to the second.
    fn two(is_fifo: bool) -> Shared {
        let mut plan = Plan::calm(2);
        plan.network.is_fifo = is_fifo;
        let mut shared = Shared::new(plan, false);
        shared.network.connect(0, 1, 1);
        shared
    }

    fn block(shared: &mut Shared, kind: Blocked) -> u32 {
        let rows = shared.network.rows(0b01, 0b10);
        shared.network.block(rows, kind)
    }

    fn send(shared: &mut Shared, text: &'static str) {
        shared.send(0, 1, Bytes::from_static(text.as_bytes()));
    }

    /// What happens next, in words, all of it.
    fn drain(shared: &mut Shared) -> Vec<String> {
        let events = std::iter::from_fn(|| shared.schedule.pop());
        events
            .map(|(_, event)| match event {
                Event::Deliver { message, .. } => String::from_utf8_lossy(&message).into_owned(),
                Event::Disconnected { connection, .. } => format!("{connection} is gone"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_link_is_free_only_when_nothing_blocks_it_any_more() {
        for is_first_over_first in [true, false] {
            let mut shared = two(true);
            let first = block(&mut shared, Blocked::Held);
            send(&mut shared, "a");
            let second = block(&mut shared, Blocked::Held);
            send(&mut shared, "b");
            let (one, other) = if is_first_over_first { (first, second) } else { (second, first) };
            shared.unblock(one);
            send(&mut shared, "c");
            assert!(drain(&mut shared).is_empty(), "the other one is still there");
            shared.unblock(other);
            assert_eq!(drain(&mut shared), ["a", "b", "c"]);
        }
    }

    #[test]
    fn what_was_held_is_lost_if_its_link_is_then_blocked_by_something_that_loses_it() {
        for is_fifo in [true, false] {
            let mut shared = two(is_fifo);
            let holding = block(&mut shared, Blocked::Held);
            send(&mut shared, "a");
            let losing = block(&mut shared, Blocked::Lost);
            shared.unblock(holding);
            assert!(drain(&mut shared).is_empty());
            shared.unblock(losing);
            send(&mut shared, "b");
            // Without order, only what was sent meanwhile is lost.
            assert_eq!(drain(&mut shared), [if is_fifo { "1 is gone" } else { "b" }]);
        }
    }

    #[test]
    fn a_connection_that_has_lost_something_is_gone_once_its_link_is_free_and_nothing_arrives_on_it_before() {
        let mut shared = two(true);
        let losing = block(&mut shared, Blocked::Lost);
        send(&mut shared, "a");
        let holding = block(&mut shared, Blocked::Held);
        shared.unblock(losing);
        send(&mut shared, "b");
        assert!(drain(&mut shared).is_empty());
        shared.unblock(holding);
        assert_eq!(drain(&mut shared), ["1 is gone"]);
        let idle = block(&mut shared, Blocked::Lost);
        shared.network.connect(0, 1, 1);
        shared.unblock(idle);
        assert!(drain(&mut shared).is_empty(), "nothing was sent on this one meanwhile");
    }

    #[test]
    fn what_is_on_its_way_is_lost_with_its_connection_in_order_or_not() {
        for is_fifo in [true, false] {
            let mut shared = two(is_fifo);
            send(&mut shared, "a");
            shared.network.lose_in_flight(0, 1);
            shared.network.connect(0, 1, 1);
            send(&mut shared, "b");
            let is_lost = |event: &Event| match event {
                Event::Deliver { from, to, connection, .. } => shared.network.is_lost(*from, *to, *connection),
                other => panic!("{other:?}"),
            };
            let mut events: Vec<Event> = std::iter::from_fn(|| shared.schedule.pop()).map(|(_, event)| event).collect();
            events.sort_by_key(
                |event| if let Event::Deliver { message, .. } = event { message.clone() } else { Bytes::new() },
            );
            assert_eq!(events.iter().map(is_lost).collect::<Vec<_>>(), [true, false]);
        }
    }
}
