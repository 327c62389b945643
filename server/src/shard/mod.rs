//! One shard: its thread, ring, journal, store, replica and connections.
//!
//! [`run`] is the thread. Everything in it is single-threaded: tasks share a [`Shard`], and borrow its [`Core`] for as
//! long as they do not wait. What arrives is put in by [`requests`] and [`Shard::take_message`]; [`turn`] then lets the
//! replica decide and carries out what it says, with `disk` for the journal, [`checkpoints`] for the checkpoint and
//! [`peers`] for the other servers.

pub mod callers;
pub mod checkpoints;
pub mod clock;
pub mod connections;
mod disk;
mod expire;
mod front;
mod front_admin;
mod handover;
mod keep_alive;
pub mod memory_log;
mod origins;
mod pace;
pub mod peers;
mod reads;
mod recover;
pub mod replay;
mod report;
pub mod requests;
mod setup;
mod spare;
mod start;
mod submit;
pub mod transactions;
mod transfer;
pub mod turn;
pub mod visitors;
mod watches;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lockstep_proto::{
    hello::{Answer, Hello, Role as HelloRole, Topology},
    limits::{SECTOR_SIZE, SESSION_WINDOW},
    message::{Command, MessageHeader},
};
use lockstep_replica::{Input, Replica, Role};

pub use self::front::Taken;
pub use self::setup::*;
pub use self::start::run;
use self::{
    callers::Callers,
    checkpoints::Checkpointer,
    clock::Clock,
    connections::{Connection, ConnectionRef, ConnectionTable},
    disk::Disk,
    handover::MoveAsker,
    origins::OriginQueue,
    peers::Peer,
    reads::ReadQueue,
    replay::ReplaySettings,
    transfer::Transfers,
};
use crate::{
    buffers::{AlignedBuffer, Pool},
    cli::StartOptions,
    metrics::{ShardMetrics, StatusCell},
    notify::{LocalBroadcast, LocalNotify},
    park,
    resp::{door::Door, stats::Meter, watchers::Watchers},
    ring,
    stub::Machine,
};

/// What the tasks of a shard share.
pub struct Shard {
    /// Everything that a turn changes.
    pub core: RefCell<Core>,
    /// Asks for a turn. It comes once all that has arrived so far is in.
    pub turn: LocalNotify,
    /// Wakes the task that applies what a backup has acknowledged.
    pub apply: LocalNotify,
    /// Wakes the connections that wait for room in the log.
    pub room: LocalBroadcast,
    /// Wakes the task that takes in what other shards' clients have asked.
    pub backlog: LocalNotify,
    /// Wakes the main task: the shard has failed.
    pub ended: LocalNotify,
    /// The cluster.
    pub cluster: u128,
    /// Which shard this is.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// This server's id.
    pub replica: u8,
    /// Number of servers.
    pub servers: u8,
    /// The servers that are connected to this one.
    pub callers: Callers,
    /// Tells this process from all others of the same server.
    pub instance: u64,
    /// What the receive buffers of native clients take, beyond the smallest size of each, in bytes.
    pub receive_bytes: Cell<usize>,
    /// Where the shard counts.
    pub metrics: Arc<ShardMetrics>,
    options: Arc<StartOptions>,
    phase: Cell<Phase>,
    timer_deadline_ns: Cell<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked to stop; a primary looks for another one first.
    HandingOver,
    /// Nothing new is taken in; what is in flight is finished.
    Stopping,
    /// Nothing is done any more.
    Stopped,
}

/// What the turns of a shard change.
pub struct Core {
    shard: u16,
    identity: Identity,
    options: Arc<StartOptions>,
    clock: Clock,
    replica: Replica<BatchBuffers>,
    replica_role: Role,
    machine: Machine,
    applies: VecDeque<Bytes>,
    connections: ConnectionTable,
    origins: OriginQueue,
    reads: ReadQueue,
    peers: Vec<Option<Rc<Peer>>>,
    pool: Pool,
    disk: Disk,
    checkpointer: Checkpointer,
    transfers: Transfers,
    replay_settings: ReplaySettings,
    /// Who waits for the end of the handover that is under way.
    handover: Option<MoveAsker>,
    metrics: Arc<ShardMetrics>,
    status: Arc<StatusCell>,
    failure: Option<anyhow::Error>,
    /// What the Redis front door works with, if it is open.
    desk: Option<Box<front::Desk>>,
    /// When this shard last tried to have its primary where the first shard's is, on the monotonic clock.
    followed_ns: u64,
    /// The clients of each shard that have asked something of this one.
    visitors: Vec<(ConnectionRef, Rc<Connection>)>,
    backlog: visitors::Backlog,
    waits: Vec<front_admin::Waiting>,
    /// The clients of all shards that watch keys of this one.
    watchers: Watchers,
    /// As primary: op of the log up to which nobody here looked at what requests do to watched keys.
    watches_from_op: u64,
    read_scratch: Vec<u8>,
    /// A connection that is closed: it asked for what this shard has put into the log by itself.
    nobody: ConnectionRef,
    /// Op of the last program that comes across expired keys.
    expired_op: u64,
}

/// The memory that batches are built in: pooled, aligned for direct I/O, padded with zeroes to whole sectors.
pub struct BatchBuffers(Pool);

impl lockstep_replica::BatchPool for BatchBuffers {
    type Buffer = AlignedBuffer;

    fn take(&mut self, capacity: usize) -> AlignedBuffer {
        self.0.take(capacity.next_multiple_of(SECTOR_SIZE))
    }

    fn freeze(&mut self, mut buffer: AlignedBuffer, len: usize) -> Bytes {
        let padded = len.next_multiple_of(SECTOR_SIZE);
        buffer[len..padded].fill(0);
        Pool::freeze(buffer, padded)
    }
}

impl Shard {
    /// Whether nothing new is to be taken in.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase.get(), Phase::Stopping | Phase::Stopped)
    }

    /// Whether it was asked to stop: it may be doing everything still.
    pub fn is_leaving(&self) -> bool {
        self.phase.get() != Phase::Running
    }

    /// Whether nothing is to be done any more.
    pub fn is_stopped(&self) -> bool {
        self.phase.get() == Phase::Stopped
    }

    /// Gives the replica an input outside of a turn, and sees to it that a turn follows.
    pub fn step(&self, input: Input) {
        let core = &mut *self.core.borrow_mut();
        let now = core.clock.now();
        core.replica.step(now.monotonic_ns, now.wall_ns, input);
        self.turn.notify();
    }

    /// Takes in a checked message of another server. A prepare is copied once, into memory that the journal can write
    /// from.
    pub fn take_message(&self, message: &[u8], command: Command) {
        let core = &mut *self.core.borrow_mut();
        let message = if command == Command::Prepare {
            core.pool.copy_padded(message, SECTOR_SIZE)
        } else {
            Bytes::copy_from_slice(message)
        };
        let now = core.clock.now();
        core.replica.step(now.monotonic_ns, now.wall_ns, Input::Message(message));
        self.turn.notify();
    }

    /// Whether a caller may come in, or why not.
    pub fn greet(&self, hello: &Hello, role: HelloRole) -> (Answer, String) {
        let us = self.topology(Answer::Welcome, String::new());
        if let Some(refusal) = crate::socket::refusal(hello, role, &us) {
            return refusal;
        }
        if role == HelloRole::Replica
            && let Some(refusal) = self.refuse_server(hello)
        {
            return refusal;
        }
        if self.is_stopping() && role == HelloRole::Client {
            return (Answer::Stopping, "this server is stopping".to_string());
        }
        let connections_max = self.options.connections_max as usize;
        if role == HelloRole::Client && self.connection_count() >= connections_max {
            let text = format!("{connections_max} connections are open, as many as --connections-max allows");
            return (Answer::Full, text);
        }
        (Answer::Welcome, String::new())
    }

    fn refuse_server(&self, hello: &Hello) -> Option<(Answer, String)> {
        let (theirs, ours) = (hello.sessions_max.get(), self.options.sessions_max);
        if theirs != 0 && theirs != ours {
            let text = format!(
                "--sessions-max is {ours} here and {theirs} at server {}: it must be the same on all servers, or their states \
                 would drift apart",
                hello.replica
            );
            return Some((Answer::Cluster, text));
        }
        if self.callers.is_taken(hello.replica, hello.instance.get()) {
            let text = format!(
                "another process is connected as server {} already: each server needs an id and a data folder of its own",
                hello.replica
            );
            return Some((Answer::Identity, text));
        }
        None
    }

    /// What this shard says about itself. `text` is why a caller is refused; a welcome carries the servers' addresses.
    pub fn topology(&self, answer: Answer, text: String) -> Topology {
        let addresses = || {
            let addresses: Vec<String> = self.options.advertise.iter().map(ToString::to_string).collect();
            addresses.join(",")
        };
        Topology {
            answer,
            replica: self.replica,
            shard: self.shard,
            shards: self.shards,
            cluster: self.cluster,
            view: self.core.borrow().replica.view(),
            servers: self.servers,
            window: SESSION_WINDOW as u16,
            text: if answer == Answer::Welcome { addresses() } else { text },
        }
    }

    /// Adds a client's connection.
    pub fn open_connection(&self) -> (ConnectionRef, Rc<Connection>) {
        let core = &mut *self.core.borrow_mut();
        self.metrics.accepted_connections.increment();
        let opened = core.connections.open();
        self.metrics.client_connections.set(core.connections.len() as u64);
        opened
    }

    /// Adds a connection of the front door.
    pub fn open_door(&self, door: impl FnOnce(ConnectionRef) -> Door) -> (ConnectionRef, Rc<Connection>) {
        let core = &mut *self.core.borrow_mut();
        self.metrics.accepted_connections.increment();
        let opened = core.connections.open_door(door);
        self.metrics.client_connections.set(core.connections.len() as u64);
        opened
    }

    /// Where the front door's commands are counted.
    ///
    /// # Panics
    ///
    /// If the front door is not open.
    pub fn meter(&self) -> Rc<Meter> {
        self.core.borrow().desk.as_ref().expect("the front door is open").meter.clone()
    }

    /// The time of day, in ns since 1970.
    pub fn wall_ns(&self) -> u64 {
        self.core.borrow_mut().clock.now().wall_ns
    }

    /// Notes that replies of a connection have been sent.
    #[inline]
    pub fn note_replies(&self, connection: &Connection) {
        if connection.is_counted() {
            let evicted = self.core.borrow_mut().connections.note_replies(connection);
            self.metrics.evicted_connections.add(evicted);
        }
    }

    /// Removes a client's connection.
    pub fn close_connection(&self, name: ConnectionRef) {
        let core = &mut *self.core.borrow_mut();
        core.connections.close(name);
        self.metrics.client_connections.set(core.connections.len() as u64);
    }

    /// Number of open client connections.
    pub fn connection_count(&self) -> usize {
        self.core.borrow().connections.len()
    }

    /// Sees to it that another turn comes once the kernel has got what this one has queued.
    fn turn_again(self: &Rc<Self>) {
        let shard = self.clone();
        park::spawn(async move {
            // Completes in the round after the one that submits everything queued so far.
            let _ = tokio_uring::no_op().await;
            shard.turn.notify();
        });
    }

    /// Sees to it that a turn comes when `deadline_ns` has passed.
    ///
    /// A timer that runs is not cancelled when an earlier one is started; it then causes a turn that finds nothing to
    /// do.
    pub fn arm_timer(self: &Rc<Self>, now_ns: u64, deadline_ns: u64) {
        if deadline_ns >= self.timer_deadline_ns.get() {
            return;
        }
        self.timer_deadline_ns.set(deadline_ns);
        let shard = self.clone();
        park::spawn(async move {
            ring::sleep(Duration::from_nanos(deadline_ns.saturating_sub(now_ns))).await;
            if shard.timer_deadline_ns.get() == deadline_ns {
                shard.timer_deadline_ns.set(u64::MAX);
            }
            if !shard.is_stopped() {
                shard.step(Input::Tick);
                // Room may have come without an output of the replica: the disk has done what held a write up.
                shard.room.notify_all();
            }
        });
    }
}

impl Core {
    /// Ends the shard, and with it the process: what it would do next could not be trusted. The first failure counts.
    pub fn fail(&mut self, failure: anyhow::Error) {
        self.failure.get_or_insert(failure);
    }

    fn journal_first_op(&self) -> u64 {
        self.disk.first_op()
    }

    fn journal_is_full(&self) -> bool {
        self.disk.is_full()
    }

    /// Whether everything that was accepted has been answered.
    fn is_quiet(&self) -> bool {
        self.origins.is_empty()
            && self.reads.is_empty()
            && self.connections.iter().all(|connection| connection.replies.borrow().is_empty())
    }
}

/// The header of a prepare that is in memory.
fn header_of(message: &[u8]) -> &MessageHeader {
    MessageHeader::view(message).expect("a message has a header")
}
