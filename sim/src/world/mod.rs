//! A whole cluster on virtual time: its servers, clients and network, driven by one seed.

mod faults;
mod finish;

use bytes::Bytes;
use lockstep_proto::slot::shard_of_key;

use crate::{
    checker::History,
    client::Client,
    facts::{Check, Failure},
    host::{Process, SHARD, SHARDS, Server},
    network::Blocked,
    plan::{Fault, MS, Plan},
    redis::{Groups, RedisClient},
    schedule::Event,
    shared::{Counters, Shared},
    transcript::describe,
};

/// How long after the healing everything must be well again, in ns.
const LIVENESS_NS: u64 = 30_000 * MS;

/// Steps after which a run is taken for one that never ends.
const STEPS_MAX: u64 = 3_000_000;

/// How often it is looked at whether everything is well again, in ns.
const CONVERGE_NS: u64 = 20 * MS;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The check that failed, if one did.
    pub failure: Option<Failure>,
    /// Stands for everything that happened.
    pub trace_hash: u64,
    /// Events that happened.
    pub steps: u64,
    /// Faults that happened.
    pub counters: Counters,
    /// Ops that were committed.
    pub committed: u64,
    /// Operations that clients asked for.
    pub operations: u64,
    /// Operations of which clients do not know how they ended.
    pub unknown: u64,
    /// Whether the clients' history was too hard to judge.
    pub is_undecided: bool,
    /// Histories of groups that could be judged by the order of the committed log only.
    pub by_witness: u32,
    /// Walks through all keys that came to their end.
    pub walks: u64,
    /// Views that began.
    pub views: u64,
    /// Virtual time that passed, in ns.
    pub virtual_ns: u64,
}

/// A cluster.
pub struct World {
    /// The servers.
    pub servers: Vec<Server>,
    /// The clients of the native protocol.
    pub clients: Vec<Client>,
    /// The clients of the Redis front door. Their ids follow those of the others.
    pub redis: Vec<RedisClient>,
    /// Time, network, facts and transcript.
    pub shared: Shared,
    /// What clients asked and were told.
    pub history: History,
    keys: Vec<Vec<u8>>,
    groups: Groups,
    steps: u64,
    is_done: bool,
    is_undecided: bool,
    by_witness: u32,
    damage: Vec<Option<faults::Damage>>,
}

impl World {
    /// The cluster of a plan, about to start.
    pub fn new(plan: Plan, is_traced: bool) -> World {
        let mut shared = Shared::new(plan, is_traced);
        let plan = &shared.plan;
        let servers: Vec<Server> = (0..plan.servers).map(|id| Server::formatted(id, plan)).collect();
        let workload = &plan.workload;
        let groups = groups(&workload.redis.groups);
        let (natives, all) = (workload.clients, workload.clients + workload.redis.clients);
        let clients = (0..natives).map(|id| Client::new(id, plan, groups.clone())).collect();
        let redis = (natives..all).map(|id| RedisClient::new(id, plan, groups.clone())).collect();
        let keys = keys("k", workload.keys);
        let damage = vec![None; servers.len()];
        let (heal_at_ns, faults) = (plan.heal_at_ns, plan.faults.clone());
        for server in 0..servers.len() as u8 {
            let at_ns = shared.host_dice.below(20 * MS);
            shared.schedule.at(at_ns, Event::Start { server });
        }
        for (index, event) in faults.iter().enumerate() {
            shared.schedule.at(event.at_ns, Event::Fault(index));
        }
        shared.schedule.at(heal_at_ns, Event::Heal);
        World {
            servers,
            clients,
            redis,
            shared,
            history: History::new(),
            keys,
            groups,
            steps: 0,
            is_done: false,
            is_undecided: false,
            by_witness: 0,
            damage,
        }
    }

    /// Lets everything happen that the plan has in store.
    pub fn run(&mut self) {
        for client in &mut self.clients {
            client.arm(&mut self.shared);
        }
        for client in &mut self.redis {
            client.arm(&mut self.shared);
        }
        while !self.is_done && self.shared.facts.failure().is_none() {
            if !self.step() {
                // The healing, and after it the next look at whether all is well, are always still to come.
                self.shared.facts.fail(Check::Liveness, format!("nothing more happens\n{}", self.describe()));
            }
        }
    }

    /// Lets the next event happen. Returns whether there was one.
    pub fn step(&mut self) -> bool {
        let Some((at_ns, event)) = self.shared.schedule.pop() else { return false };
        self.steps += 1;
        if self.steps > STEPS_MAX {
            self.shared.facts.fail(Check::Liveness, format!("{STEPS_MAX} steps and no end\n{}", self.describe()));
        }
        self.shared.now_ns = at_ns.max(self.shared.now_ns);
        self.shared.facts.set_now(self.shared.now_ns);
        self.happen(event);
        for server in 0..self.servers.len() as u8 {
            self.end_doomed(server);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.hold(event) else { return };
        let at_ns = self.shared.now_ns;
        let shared = &mut self.shared;
        match event {
            Event::Deliver { from, to, boot, connection, message } => {
                self.deliver(from, to, boot, connection, message);
            }
            Event::Connect { from, to, boot } => self.connect(from, to, boot),
            Event::Disconnected { from, to, connection } => self.disconnected(from, to, connection),
            Event::Turn { server, boot } => self.at(server, boot, Server::turn),
            Event::Apply { server, boot } => self.at(server, boot, Server::apply_waiting),
            Event::Tick { server, boot } => self.at(server, boot, Server::tick),
            Event::Checkpoint { server, boot } => self.at(server, boot, Server::checkpoint_goes_on),
            Event::Disk { server, boot, id } => {
                self.at(server, boot, |server, shared| server.disk_done(shared, id));
                self.end_failed(server);
            }
            Event::Start { server } => self.start(server),
            Event::CrashAgain { server, times } => self.crash_again(server, times),
            Event::Resume { server, boot } => self.resume(server, boot),
            Event::Request { client, connection, .. } | Event::Command { client, connection, .. }
                if shared.network.is_request_lost(client, connection, at_ns) =>
            {
                shared.line(|| format!("what client {client} has asked for on {connection} is lost"));
            }
            // Nobody listens there.
            Event::Request { server, client, connection, .. } | Event::Command { server, client, connection, .. }
                if !self.servers[server as usize].is_up() =>
            {
                shared.hang_up(client, connection, MS);
            }
            Event::Request { server, client, connection, frame } => {
                self.servers[server as usize].take_request(shared, client, connection, frame);
            }
            Event::Command { server, client, connection, id, asked } => {
                self.servers[server as usize].take_command(shared, client, connection, (id, asked));
            }
            Event::HungUp { server, client, connection } => {
                self.servers[server as usize].hung_up(client, connection);
            }
            Event::Reply { client, connection, frame } => match self.clients.get_mut(client as usize) {
                Some(client) => client.take_reply(shared, &mut self.history, connection, &frame),
                None => self.redis[client as usize - self.clients.len()].take_reply(shared, connection, &frame),
            },
            Event::Client { client } => match self.clients.get_mut(client as usize) {
                Some(client) => client.wake(shared, &mut self.history, &self.keys),
                None => self.redis[client as usize - self.clients.len()].wake(shared),
            },
            Event::Fault(index) => self.fault(index),
            Event::Unblock { block } => shared.unblock(block),
            Event::Heal => self.heal(),
            Event::Converge => self.converge(),
        }
    }

    /// Keeps what is for a paused server until it goes on.
    fn hold(&mut self, event: Event) -> Option<Event> {
        let server = match &event {
            Event::Deliver { to, .. } => *to,
            Event::Disconnected { from, .. } => *from,
            Event::Turn { server, .. }
            | Event::Apply { server, .. }
            | Event::Tick { server, .. }
            | Event::Disk { server, .. }
            | Event::Checkpoint { server, .. }
            | Event::HungUp { server, .. }
            | Event::Request { server, .. }
            | Event::Command { server, .. } => *server,
            _ => return Some(event),
        };
        self.servers[server as usize].hold(event)
    }

    /// Does something to a process, if it still runs.
    fn at(&mut self, server: u8, boot: u32, act: impl FnOnce(&mut Server, &mut Shared)) {
        let node = &mut self.servers[server as usize];
        if node.is_up() && node.boot == boot {
            act(node, &mut self.shared);
        }
    }

    fn deliver(&mut self, from: u8, to: u8, boot: u32, connection: u32, message: Bytes) {
        let node = &mut self.servers[to as usize];
        let is_for_it = node.is_up() && (boot == 0 || boot == node.boot);
        if is_for_it && !self.shared.network.is_lost(from, to, connection) {
            node.take_message(&mut self.shared, message);
        } else {
            self.shared.line(|| format!("{to}: never gets {} of {from}", describe(&message)));
        }
    }

    fn connect(&mut self, from: u8, to: u8, boot: u32) {
        let network = &self.shared.network;
        let is_blocked = network.is_blocked(from, to) || network.is_blocked(to, from);
        let can = self.servers[to as usize].is_running() && self.servers[from as usize].is_running() && !is_blocked;
        if self.servers[from as usize].boot != boot || !self.servers[from as usize].is_up() {
            return;
        }
        if !can {
            let delay_ns = 10 * MS + self.shared.host_dice.below(50 * MS);
            return self.shared.after(delay_ns, Event::Connect { from, to, boot });
        }
        if network.connection(from, to) == 0 {
            self.shared.network.connect(from, to, self.servers[to as usize].boot);
            self.servers[from as usize].peer(&mut self.shared, to, true);
        }
    }

    fn disconnected(&mut self, from: u8, to: u8, connection: u32) {
        if self.shared.network.disconnect(from, to, connection) {
            let node = &mut self.servers[from as usize];
            node.peer(&mut self.shared, to, false);
            let (delay_ns, boot) = (20 * MS, node.boot);
            self.shared.after(delay_ns, Event::Connect { from, to, boot });
        }
    }

    /// A process ends without warning.
    pub fn crash(&mut self, server: u8) {
        if !self.servers[server as usize].is_up() {
            return;
        }
        self.shared.line(|| format!("{server}: crash"));
        self.servers[server as usize].crash(&mut self.shared);
        for from in 0..self.servers.len() as u8 {
            let connection = self.shared.network.connection(from, server);
            if connection != 0 {
                let delay_ns = self.shared.host_dice.delay(&self.shared.plan.network.delay_ns.clone());
                self.shared.after(delay_ns, Event::Disconnected { from, to: server, connection });
            }
        }
        let natives = self.clients.iter().filter_map(|client| client.connection_to(server));
        let redis = self.redis.iter().filter_map(|client| client.connection_to(server));
        for (client, connection) in natives.chain(redis) {
            self.shared.hang_up(client, connection, MS / 10);
        }
    }

    /// A server starts from what its disk holds.
    pub fn start(&mut self, server: u8) {
        if self.servers[server as usize].is_up() || (self.shared.is_healed && !self.shared.plan.is_healed(server)) {
            return;
        }
        self.wipe_if_beyond_repair(server);
        if self.shared.plan.changes_durability {
            let node = &mut self.servers[server as usize];
            node.is_memory = self.shared.host_dice.chance(400);
            node.disk.full_until_ns = if node.is_memory { 0 } else { node.disk.full_until_ns };
        }
        if let Err(reason) = self.servers[server as usize].start(&mut self.shared) {
            self.shared.facts.fail(Check::Start, format!("{server} does not start: {reason}"));
        }
    }

    /// A process that has met a failed write ends.
    fn end_failed(&mut self, server: u8) {
        let process = self.servers[server as usize].process.as_deref_mut();
        if process.and_then(Process::take_failure).is_some() {
            self.crash(server);
            let delay_ns = 5 * MS + self.shared.host_dice.below(100 * MS);
            self.shared.after(delay_ns, Event::Start { server });
        }
    }

    fn resume(&mut self, server: u8, boot: u32) {
        let node = &mut self.servers[server as usize];
        if node.boot == boot && node.is_paused {
            self.shared.line(|| format!("{server}: goes on"));
            node.resume(&mut self.shared);
        }
    }

    /// Blocks links for a while.
    pub fn block(&mut self, rows: [u8; 7], kind: Blocked, duration_ns: u64) -> u32 {
        let block = self.shared.network.block(rows, kind);
        self.shared.line(|| format!("links blocked: {rows:?} {kind:?}"));
        self.shared.after(duration_ns, Event::Unblock { block });
        block
    }

    /// What everybody is doing, for a person.
    pub fn describe(&self) -> String {
        let mut lines: Vec<String> = self.servers.iter().map(Server::describe).collect();
        lines.extend(self.clients.iter().filter(|client| !client.is_done()).map(Client::describe));
        lines.extend(self.redis.iter().filter(|client| !client.is_done()).map(RedisClient::describe));
        lines.join("\n")
    }

    /// How the run has ended.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            failure: self.shared.facts.failure().cloned(),
            trace_hash: self.shared.trace.hash(),
            steps: self.steps,
            counters: self.shared.counters.clone(),
            committed: self.shared.facts.committed_op(),
            operations: (self.history.len() + self.shared.groups.len()) as u64,
            unknown: self.clients.iter().map(|client| u64::from(client.unknown())).sum::<u64>()
                + self.redis.iter().map(|client| u64::from(client.unknown())).sum::<u64>(),
            is_undecided: self.is_undecided,
            by_witness: self.by_witness,
            walks: self.shared.walks,
            views: self.shared.facts.views(),
            virtual_ns: self.shared.now_ns,
        }
    }
}

/// Keys that belong to the shard.
fn keys(prefix: &str, count: u32) -> Vec<Vec<u8>> {
    let names = (0u64..).map(|number| format!("{prefix}{number}").into_bytes());
    names.filter(|name| shard_of_key(name, SHARDS) == SHARD).take(count as usize).collect()
}

/// Groups of keys that belong to the shard.
fn groups(sizes: &[u8]) -> Groups {
    let mut names = keys("g", sizes.iter().map(|size| u32::from(*size)).sum()).into_iter();
    sizes.iter().map(|size| names.by_ref().take(usize::from(*size)).collect()).collect()
}

/// Kinds of faults that do lasting damage to a disk.
pub(crate) const DAMAGING: &[Fault] = &[Fault::Rot, Fault::RotCheckpoint, Fault::MisdirectedWrite, Fault::Wipe];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    #[test]
    fn a_run_in_which_nothing_more_happens_has_failed() {
        let mut plan = Plan::calm(3);
        plan.workload.clients = 0;
        let mut world = World::new(plan, false);
        world.shared.schedule = Schedule::default();
        world.run();
        let failure = world.outcome().failure.expect("it did not come to an end");
        assert_eq!(failure.check, Check::Liveness);
    }
}
