//! The words that tests of one situation are written in: `cluster.replica(1).stop()`,
//! `cluster.replica(1).corrupt(Prepare(2))`.
//!
//! A [`Cluster`] is a [`World`] in which nothing goes wrong but what the test does. Time passes only when it says so.
//! When the test is over, what clients were told is judged, and what the servers that are up have.

use lockstep_proto::message::MessageHeader;
use lockstep_replica::{AckPolicy, ReplicaStatus, Role};

use crate::{
    disk::{Survivors, Tearing},
    facts::Failure,
    network::{Arriving, Blocked, ClientCut},
    plan::{MS, Plan},
    redis::RedisPlan,
    schedule::Event,
    world::World,
};

/// What can be damaged on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The prepare of an op, in the journal.
    Prepare(u64),
    /// The checkpoint in force.
    Checkpoint,
    /// A copy of the superblock.
    SuperblockCopy(u8),
}

pub use Part::{Checkpoint, Prepare, SuperblockCopy};

/// A cluster in a test. It panics when it is dropped if what clients were told, or what servers have, is not right.
pub struct Cluster {
    /// All of it.
    pub world: World,
}

/// One server of a [`Cluster`].
pub struct ReplicaHandle<'a> {
    world: &'a mut World,
    server: u8,
}

impl Cluster {
    /// Servers that have started and agreed on a primary. Their journal proves what is rotten after few prepares.
    pub fn new(servers: u8) -> Cluster {
        Cluster::with(servers, |_| ())
    }

    /// The same with other settings.
    pub fn with(servers: u8, change: impl FnOnce(&mut Plan)) -> Cluster {
        let mut plan = Plan::calm(servers);
        change(&mut plan);
        let mut cluster = Cluster { world: World::new(plan, true) };
        cluster.wait_for("a primary", |world| world.primary().is_some());
        cluster
    }

    /// One of the servers.
    pub fn replica(&mut self, server: u8) -> ReplicaHandle<'_> {
        ReplicaHandle { world: &mut self.world, server }
    }

    /// The primary of the highest view.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn primary(&self) -> u8 {
        self.world.primary().unwrap_or_else(|| panic!("there is no primary\n{}", self.world.describe()))
    }

    /// Lets time pass.
    ///
    /// # Panics
    ///
    /// If a check fails meanwhile.
    pub fn pass_ms(&mut self, ms: u64) {
        let end_ns = self.world.shared.now_ns + ms * MS;
        while self.world.shared.schedule.next_ns().is_some_and(|at_ns| at_ns <= end_ns) {
            self.world.step();
            self.check();
        }
        self.world.shared.now_ns = end_ns;
    }

    /// Lets all clients, of the front door, too, ask for this much more, and waits until they are answered.
    ///
    /// # Panics
    ///
    /// If they are not answered in time.
    pub fn expect_answers(&mut self, requests: u32) {
        self.ask(requests);
        self.wait_for("all clients are answered", World::is_answered);
    }

    /// Lets all clients, of the front door, too, ask for this much more. What is refused or lost with its connection
    /// they ask for again, those of the front door as something new.
    pub fn ask(&mut self, requests: u32) {
        for client in &mut self.world.clients {
            client.ask_for(&mut self.world.shared, requests);
        }
        for client in &mut self.world.redis {
            client.ask_for(&mut self.world.shared, requests);
        }
    }

    /// Lets the first client write so often, and waits until it is answered.
    ///
    /// # Panics
    ///
    /// If it is not answered in time.
    pub fn expect_writes(&mut self, count: u32) {
        self.ask_to_write(count);
        self.wait_for("the writes are answered", |world| world.clients[0].is_done());
    }

    /// Lets the first client write so often.
    pub fn ask_to_write(&mut self, count: u32) {
        self.world.shared.plan.workload.weights = ONLY_PUT;
        self.world.clients[0].ask_for(&mut self.world.shared, count);
    }

    /// Lets the second client write once.
    pub fn ask_second_to_write(&mut self) {
        self.world.shared.plan.workload.weights = ONLY_PUT;
        self.world.clients[1].ask_for(&mut self.world.shared, 1);
    }

    /// Lets the second client ask this server for a value, whoever the primary is.
    pub fn ask_to_read_from(&mut self, server: u8) {
        self.world.shared.plan.workload.weights = ONLY_GET;
        self.world.clients[1].go_to(server);
        self.world.clients[1].ask_for(&mut self.world.shared, 1);
    }

    /// Lets the first client ask this server for a value, whoever the primary is.
    pub fn ask_first_to_read_from(&mut self, server: u8) {
        self.world.shared.plan.workload.weights = ONLY_GET;
        self.world.clients[0].go_to(server);
        self.world.clients[0].ask_for(&mut self.world.shared, 1);
    }

    /// Waits until something is so, and looks after each single thing that happens.
    ///
    /// # Panics
    ///
    /// If it is not within 20 s.
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        let end_ns = self.world.shared.now_ns + 20_000 * MS;
        while !is_so(&self.world) {
            assert!(self.world.shared.now_ns < end_ns && self.world.step(), "never: {what}\n{}", self.world.describe());
            self.check();
        }
    }

    /// Waits until something is so.
    ///
    /// # Panics
    ///
    /// If it is not within 20 s.
    pub fn wait_for(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        for _ in 0..4000 {
            if is_so(&self.world) {
                return;
            }
            self.pass_ms(5);
        }
        panic!("never: {what}\n{}\n{}", self.world.describe(), self.world.shared.trace.take_lines().join("\n"));
    }

    /// Waits until there is a primary, and every server that is up is a whole member of its view and has applied
    /// everything.
    ///
    /// # Panics
    ///
    /// If that takes too long, or all are down.
    pub fn expect_converged(&mut self) {
        self.wait_for("all servers that are up are one", World::is_one);
    }

    /// Cuts servers off from all others, both ways, until [`Cluster::join`], or until [`Cluster::free`] is given what
    /// this returns.
    pub fn cut_off(&mut self, servers: &[u8]) -> u32 {
        let set = servers.iter().fold(0, |mask, server| mask | (1 << server));
        let rows = self.world.shared.network.rows_around(set);
        self.world.block(rows, Blocked::Lost, u64::MAX / 4)
    }

    /// Ends one cut.
    pub fn free(&mut self, cut: u32) {
        self.world.shared.unblock(cut);
    }

    /// Nothing that one server sends reaches the other, until [`Cluster::join`].
    pub fn cut(&mut self, from: u8, to: u8) {
        let rows = self.world.shared.network.rows(1 << from, 1 << to);
        self.world.block(rows, Blocked::Lost, u64::MAX / 4);
    }

    /// Two servers do not reach each other, until [`Cluster::join`].
    pub fn cut_between(&mut self, left: u8, right: u8) {
        self.cut(left, right);
        self.cut(right, left);
    }

    /// Breaks the connections of all clients.
    pub fn reset_clients(&mut self, arriving: Arriving) {
        let shared = &mut self.world.shared;
        for client in 0..(self.world.clients.len() + self.world.redis.len()) as u8 {
            if let Some(connection) = shared.network.client_connection(client) {
                shared.reset_client(client, connection, arriving);
            }
        }
    }

    /// Nothing that clients send reaches a server, or nothing that is sent to them reaches them, or neither, until
    /// [`Cluster::join`].
    pub fn cut_clients(&mut self, there: bool, back: bool) {
        self.world.shared.network.cut_clients(ClientCut { clients: u32::MAX, servers: u8::MAX, there, back });
    }

    /// The second client does not reach these servers, until [`Cluster::join`].
    pub fn cut_second_client(&mut self, servers: &[u8]) {
        let servers = servers.iter().fold(0, |mask, server| mask | (1 << server));
        self.world.shared.network.cut_clients(ClientCut { clients: 0b10, servers, there: true, back: true });
    }

    /// Messages from one server to another that are `what` are kept back from now on.
    pub fn delay(&mut self, from: u8, to: u8, what: impl Fn(&MessageHeader) -> bool + 'static) {
        self.world.shared.network.delay(from, to, what);
    }

    /// Nothing is kept back any more. What was kept and is `what` arrives now, late; the rest never does.
    ///
    /// Returns how many messages are on their way.
    pub fn delay_no_more(&mut self, what: impl Fn(&MessageHeader) -> bool) -> usize {
        self.delay_only(what);
        let kept = self.world.shared.network.take_kept();
        let count = kept.len();
        for (from, to, message) in kept {
            self.world.shared.after(0, Event::Deliver { from, to, boot: 0, connection: 0, message });
        }
        count
    }

    /// Of what was kept back, keeps what is `what`, and drops the rest; nothing else is kept back any more.
    pub fn delay_only(&mut self, what: impl Fn(&MessageHeader) -> bool) {
        self.world.shared.network.delay_nothing();
        self.world.shared.network.retain_kept(what);
    }

    /// Frees all links.
    pub fn join(&mut self) {
        for block in self.world.shared.network.blocks() {
            self.world.shared.unblock(block);
        }
    }

    fn check(&mut self) {
        if let Some(Failure { check, text, .. }) = self.world.shared.facts.failure() {
            let text = format!("{check:?}: {text}");
            panic!("{text}\n{}", self.world.shared.trace.take_lines().join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test that has failed has told why.
        if std::thread::panicking() {
            return;
        }
        self.world.judge();
        self.check();
        assert!(!self.world.outcome().is_undecided, "a scenario is short enough to be judged");
    }
}

impl ReplicaHandle<'_> {
    /// Ends the process without warning.
    pub fn stop(&mut self) {
        self.world.crash(self.server);
    }

    /// Starts it from what its disk holds.
    pub fn start(&mut self) {
        self.world.start(self.server);
    }

    /// Starts it with durability `memory`: what it acknowledges from now on is lost when it ends.
    pub fn start_in_memory(&mut self) {
        self.world.servers[self.server as usize].is_memory = true;
        self.start();
    }

    /// Loses its disk; the folder is made anew with `recover`. It is down afterwards.
    pub fn wipe(&mut self) {
        self.world.crash(self.server);
        self.world.wipe(self.server);
    }

    /// Stops it as SIGSTOP does.
    pub fn pause(&mut self) {
        self.world.servers[self.server as usize].is_paused = true;
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.world.servers[self.server as usize].resume(&mut self.world.shared);
    }

    /// Its disk does nothing for a while.
    pub fn stall_disk_ms(&mut self, ms: u64) {
        let until_ns = self.world.shared.now_ns + ms * MS;
        self.world.servers[self.server as usize].disk.stalled_until_ns = until_ns;
    }

    /// The prepare of this op does not get onto its disk, until [`ReplicaHandle::hold_nothing`].
    pub fn hold_write(&mut self, op: u64) {
        self.world.servers[self.server as usize].disk.held_ops.push(op);
    }

    /// Every prepare gets onto its disk.
    pub fn hold_nothing(&mut self) {
        self.world.servers[self.server as usize].disk.held_ops.clear();
    }

    /// Ends the process without warning; what was being written is damaged.
    pub fn stop_with_torn_writes(&mut self) {
        self.stop_so(Tearing { survivors: Survivors::Pieces(0), damages: true });
    }

    /// Ends the process without warning; of what was being written, this is on the disk.
    pub fn stop_leaving(&mut self, survivors: Survivors) {
        self.stop_so(Tearing { survivors, damages: false });
    }

    fn stop_so(&mut self, tearing: Tearing) {
        self.world.shared.plan.disk.tearing = tearing;
        self.stop();
        self.world.shared.plan.disk.tearing = CLEAN_CRASH;
    }

    /// What it says of itself.
    ///
    /// # Panics
    ///
    /// If it is down.
    pub fn status(&self) -> ReplicaStatus {
        self.world.servers[self.server as usize].process.as_deref().expect("it is up").status()
    }

    /// Flips a bit on its disk.
    ///
    /// # Panics
    ///
    /// If there is no such thing.
    pub fn corrupt(&mut self, part: Part) {
        self.world.shared.facts.is_damaged();
        let server = &mut self.world.servers[self.server as usize];
        match part {
            Prepare(op) => {
                let (offset, size) = server.place_of(op).expect("the op is in the journal of a server that is up");
                server.disk.journal.rot(offset + size as u64 - 1, 3);
            }
            Checkpoint => {
                let op = *server.disk.checkpoint_ops().last().expect("there is a checkpoint");
                server.disk.checkpoint(op).expect("it is in force").rot(5000, 3);
            }
            SuperblockCopy(copy) => {
                server.disk.superblock.rot(u64::from(copy) * 4096 + 60, 3);
            }
        }
        server.is_damaged = true;
    }

    /// What it is.
    pub fn role(&self) -> Option<Role> {
        self.world.servers[self.server as usize].process.as_deref().map(|process| process.role())
    }

    /// # Panics
    ///
    /// If it is something else.
    pub fn expect_status(&self, role: Role) {
        assert_eq!(self.role(), Some(role), "{}", self.world.describe());
    }

    /// Asks it, as an operator does, to let another server be primary.
    pub fn hand_over(&mut self, to: Option<u8>) {
        self.world.servers[self.server as usize].hand_over(&mut self.world.shared, to);
    }

    /// What its superblock says that it cannot vouch for; 0: nothing.
    pub fn vouch_op(&self) -> u64 {
        let process = self.world.servers[self.server as usize].process.as_deref();
        process.map_or(0, |process| process.superblock().vouch_op.get())
    }
}

/// What was being written when a server of a [`Cluster`] ends is lost, and leaves what was there before.
const CLEAN_CRASH: Tearing = Tearing { survivors: Survivors::Pieces(0), damages: false };

const ONLY_PUT: [u8; 9] = [0, 1, 0, 0, 0, 0, 0, 0, 0];
const ONLY_GET: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Plan {
    /// A cluster in which nothing goes wrong by itself, and clients that ask for nothing until they are told to.
    pub fn calm(servers: u8) -> Plan {
        let mut plan = Plan::of(0);
        plan.servers = servers;
        plan.ack = AckPolicy::Majority;
        (plan.is_memory, plan.changes_durability) = (false, false);
        plan.faults = Vec::new();
        plan.heal_at_ns = u64::MAX / 4;
        plan.healed = u8::MAX;
        (plan.network.loss, plan.network.repeat, plan.network.is_fifo) = (0, 0, true);
        plan.network.delay_ns = 20_000..=100_000;
        plan.disk.tearing = CLEAN_CRASH;
        (plan.clock_rates, plan.clock_offsets_ns) = ([1000; 7], [0; 7]);
        plan.pipeline_max = 2;
        plan.batch_ops_max = 4;
        plan.heartbeat_ns = 25 * MS;
        plan.disk.latency_ns = 50_000..=200_000;
        plan.disk.in_flight_max = 4;
        plan.disk.journal_size = 512 << 10;
        plan.disk.checkpoint_every = 256 << 10;
        plan.workload.clients = 2;
        plan.workload.requests = 0;
        plan.workload.window = 1;
        plan.workload.hop = 0;
        plan.workload.think_ns = MS..=2 * MS;
        plan.workload.attempts_max = u32::MAX;
        plan.workload.keys = 1;
        plan.workload.walk = 0;
        plan.workload.redis = RedisPlan::none();
        plan.workload.weights = [2, 4, 1, 1, 1, 0, 0, 0, 0];
        plan
    }
}
