//! The words that tests of one situation are written in: `cluster.replica(1).stop()`, `cluster.corrupt(1, Prepare(2))`.
//!
//! A [`Cluster`] is a [`World`] in which nothing goes wrong but what the test does. Time passes only when it says so.

use lockstep_replica::{AckPolicy, Role};

use crate::{
    facts::Failure,
    network::Blocked,
    plan::{MS, Plan},
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

/// A cluster in a test.
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

    /// Lets clients ask for this much more, and waits until they know how it ended.
    ///
    /// # Panics
    ///
    /// If they are not answered in time.
    pub fn expect_answers(&mut self, requests: u32) {
        self.ask(requests);
        self.wait_for("all clients are answered", |world| world.clients.iter().all(|client| client.is_done()));
    }

    /// Lets clients ask for this much more.
    pub fn ask(&mut self, requests: u32) {
        for client in &mut self.world.clients {
            client.ask_for(&mut self.world.shared, requests);
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
        panic!("never: {what}\n{}\n{}", self.world.shared.trace.take_lines().join("\n"), self.world.describe());
    }

    /// Waits until every server that is up is a whole member of one view and has applied everything.
    ///
    /// # Panics
    ///
    /// If that takes too long.
    pub fn expect_converged(&mut self) {
        self.wait_for("all servers that are up are one", |world| {
            let up: Vec<_> = world.servers.iter().filter_map(|server| server.process.as_deref()).collect();
            up.iter().all(|process| {
                let (own, first) = (process.status(), up[0].status());
                own.role != Role::Recovering
                    && (own.view, own.op, own.op) == (first.view, first.op, process.machine.applied)
                    && process.superblock().vouch_op.get() == 0
            })
        });
    }

    /// Cuts servers off from all others, both ways, until [`Cluster::join`].
    pub fn cut_off(&mut self, servers: &[u8]) {
        let set = servers.iter().fold(0, |mask, server| mask | (1 << server));
        let rows = self.world.shared.network.rows_around(set);
        self.world.block(rows, Blocked::Lost, u64::MAX / 4);
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
            panic!("{}\n{text}", self.world.shared.trace.take_lines().join("\n"));
        }
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
                let (offset, _) = server.place_of(op).expect("the op is in the journal of a server that is up");
                server.disk.journal.rot(offset + 300, 3);
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

impl Plan {
    /// A cluster in which nothing goes wrong by itself, and clients that ask for nothing until they are told to.
    pub fn calm(servers: u8) -> Plan {
        let mut plan = Plan::of(0);
        plan.servers = servers;
        plan.ack = AckPolicy::Majority;
        plan.is_memory = false;
        plan.faults = Vec::new();
        plan.heal_at_ns = u64::MAX / 4;
        plan.healed = u8::MAX;
        (plan.network.loss, plan.network.repeat) = (0, 0);
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
        plan.workload.weights = [2, 4, 1, 1, 1, 0, 0, 0, 0];
        plan
    }
}
