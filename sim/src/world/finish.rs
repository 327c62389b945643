//! The end of a run: everything is healed, and then everything must be well.

use lockstep_proto::{
    Operation,
    program::{Builder, Opcode},
    reply::Reply,
    request::{Request, own_header},
};
use lockstep_replica::Role;
use lockstep_server::stub::{Machine, state_hash};
use zerocopy::IntoBytes;

use super::{CONVERGE_NS, LIVENESS_NS, World};
use crate::{
    checker::{self, CheckOptions},
    client::Client,
    facts::Check,
    groups::{GroupFailure, GroupOptions, describe_answer},
    host::{Server, WALL_START_NS},
    plan::MS,
    redis::RedisClient,
    schedule::Event,
};

/// Positions of the search for an order that are looked at per key. Many writes of one key with unknown outcome can be
/// ordered in too many ways; such a history is counted, and not judged.
const CHECK_STEPS_MAX: u64 = 300_000;

/// The same for a group of keys, whose positions take longer to look at. What is not found by then is judged by the
/// log.
const GROUP_STEPS_MAX: u64 = 10_000;

impl World {
    /// From now on nothing goes wrong. Servers that the plan leaves out go down for good; all others are up.
    pub(super) fn heal(&mut self) {
        self.shared.line(|| "healed".to_string());
        self.shared.is_healed = true;
        for block in self.shared.network.blocks() {
            self.shared.unblock(block);
        }
        // A cluster in which a disk has lost something bears no further loss.
        if (0..self.servers.len() as u8).any(|server| self.is_damaged(server)) {
            self.shared.plan.healed = u8::MAX;
        }
        for server in 0..self.servers.len() as u8 {
            let node = &mut self.servers[server as usize];
            node.disk.heal();
            node.doom = None;
            let boot = node.boot;
            if self.shared.plan.is_healed(server) {
                self.shared.after(0, Event::Resume { server, boot });
                self.shared.after(MS, Event::Start { server });
            } else {
                self.crash(server);
            }
        }
        for client in &mut self.clients {
            client.heal(&mut self.shared);
        }
        for client in &mut self.redis {
            client.heal(&mut self.shared);
        }
        self.shared.after(CONVERGE_NS, Event::Converge);
    }

    pub(super) fn converge(&mut self) {
        if self.is_converged() {
            self.is_done = true;
            return self.judge();
        }
        let waited_ns = self.shared.now_ns - self.shared.plan.heal_at_ns;
        if waited_ns > LIVENESS_NS {
            let check = if self.is_answered() { Check::Liveness } else { Check::Unanswered };
            let text = format!("{} s after the healing not all is well\n{}", LIVENESS_NS / 1000 / MS, self.describe());
            return self.shared.facts.fail(check, text);
        }
        self.shared.after(CONVERGE_NS, Event::Converge);
    }

    fn is_converged(&self) -> bool {
        let is_up = |server: &Server| server.is_up() || !self.shared.plan.is_healed(server.id);
        self.is_answered() && self.servers.iter().all(is_up) && self.is_one()
    }

    /// Whether there is a primary, and every server that is up is a whole member of its view and has everything: all
    /// that is committed, durable and applied. Not if all are down.
    pub fn is_one(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let Some(process) = self.servers[primary as usize].process.as_deref() else { return false };
        let status = process.status();
        let is_caught_up = |server: &Server| {
            let Some(process) = server.process.as_deref() else { return true };
            let own = process.status();
            let is_member = own.role == Role::Backup || server.id == primary;
            is_member
                && (own.view, own.op, own.durable) == (status.view, status.op, status.op)
                && (own.commit, process.machine.applied) == (status.op, status.op)
                && process.superblock().vouch_op.get() == 0
                && process.is_disk_idle()
        };
        self.servers.iter().all(is_caught_up) && status.op >= self.shared.facts.committed_op()
    }

    /// Whether all clients have asked for everything and know how it ended, as far as that can be known.
    pub fn is_answered(&self) -> bool {
        self.clients.iter().all(Client::is_done) && self.redis.iter().all(RedisClient::is_done)
    }

    /// Servers that have applied the same have the same state, those that have applied everything have that which the
    /// committed log says, and the clients saw what it says. What is wrong becomes the run's failure.
    pub fn judge(&mut self) {
        self.judge_states();
        self.judge_histories();
    }

    fn judge_states(&mut self) {
        let committed = self.shared.facts.committed_op();
        let mut findings = Vec::new();
        for server in &self.servers {
            let Some(process) = server.process.as_deref() else { continue };
            let machine = &process.machine;
            let hash = state_hash(machine.store.content_hash(), machine.sessions.content_hash());
            let difference = if machine.applied == committed { self.difference(machine) } else { None };
            findings.push((server.id, machine.applied, hash, difference));
        }
        for (server, op, hash, difference) in findings {
            self.shared.facts.has_state(server, op, hash);
            if let Some(difference) = difference {
                let text = format!("{server} has other values than the committed log says: {difference}");
                self.shared.facts.fail(Check::State, text);
            }
        }
    }

    /// Histories are judged twice: by a search for an order of effects, and by following that of the committed log.
    /// What is too hard to search for is judged by the log alone.
    fn judge_histories(&mut self) {
        let slack_ns = self.shared.facts.slack_ns();
        let options = GroupOptions { slack_ns, wall_start_ns: WALL_START_NS, steps_max: GROUP_STEPS_MAX };
        let mut wrong = Vec::new();
        let carried = self.shared.facts.carried_out();
        let singles = carried.as_ref().ok().map(|carried| self.shared.singles.witness_of_sessions(carried));
        let checked = CheckOptions { clock_slack_ns: slack_ns, steps_max: CHECK_STEPS_MAX, ..CheckOptions::default() };
        match self.history.check(&checked) {
            Ok(_) => {}
            Err(checker::Failure::Undecided { .. }) if singles.is_some() => self.by_witness += 1,
            Err(checker::Failure::Undecided { .. }) => self.is_undecided = true,
            Err(violation) => wrong.push(violation.to_string()),
        }
        wrong.extend(singles.and_then(|effects| self.shared.singles.follow(&options, &effects).err()));
        let witness = carried.and_then(|carried| self.shared.groups.witness(&carried));
        match self.shared.groups.check(&options, witness.as_deref().ok()) {
            Ok(by_witness) => self.by_witness += by_witness,
            Err(GroupFailure::Undecided(_)) => self.is_undecided = true,
            Err(GroupFailure::Violation(reason)) => wrong.push(reason),
        }
        wrong.extend(witness.err());
        if let Some(reason) = wrong.into_iter().next() {
            self.shared.facts.fail(Check::Linearizable, reason);
        }
    }

    /// What a server has for all keys, if that is not what the committed log says: values, versions and times of
    /// expiry.
    fn difference(&self, machine: &Machine) -> Option<String> {
        let model = self.shared.facts.model();
        let mut program = Builder::new();
        for key in self.keys.iter().chain(self.groups.iter().flatten()) {
            program.command(Opcode::Get, &[key]);
            program.command(Opcode::Stamp, &[key]);
        }
        let header = own_header(Operation::Query, 0, 1, 0, program.size());
        let frame = [header.as_bytes(), program.as_bytes()].concat();
        let (request, _) = Request::parse_trusted(&frame).expect("it was encoded just now");
        let mut out = Vec::new();
        machine.store.read(model.now_ns(), &request, &mut out);
        let reply = Reply::parse(&out).ok().flatten().expect("the store answers with a whole frame");
        let (status, version, body) = (reply.status(), reply.version(), reply.body());
        let expected = model.read(&request);
        let is_same = expected.accepts(status, version, body).is_some();
        (!is_same).then(|| format!("{}, not {expected:?}", describe_answer(Operation::Query, status, version, body)))
    }
}
