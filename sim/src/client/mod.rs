//! A simulated client: a session with a window of requests in flight, which asks again under the same session and
//! sequence, at any server, until it is answered or gives up.

mod draw;

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    reply::Reply,
    request::{RequestParts, encode_request},
};

use self::draw::{answer, draw_walk, page};
use crate::{
    checker::{History, OperationId},
    dice::Dice,
    facts::Check,
    groups::GroupOperation,
    plan::{MS, Plan},
    redis::Groups,
    schedule::Event,
    shared::Shared,
    walk::Walk,
};

/// Sequences of reads begin here, so that they are told from those of writes.
const READ_SEQUENCES: u64 = 1 << 40;

/// Shortest pause before a request is sent again after a refusal, in ns.
const PAUSE_NS: u64 = 5 * MS;

/// Longest time that a client waits for an answer before it asks again, in ns.
const TIMEOUT_MAX_NS: u64 = 2000 * MS;

/// Where an operation is recorded.
#[derive(Clone, Copy, Debug)]
enum Recorded {
    /// In the history of single keys, as what is told and as what was sent, with the key.
    Key(OperationId, GroupOperation, usize),
    /// In that of groups, with the group and the key.
    Group(GroupOperation, usize, usize),
    /// It is a step of the walk.
    Step {
        /// Whether values were not asked for.
        is_keys_only: bool,
    },
}

/// A request without an answer.
#[derive(Clone, Debug)]
struct Pending {
    /// `None` for the registering of the session.
    id: Option<Recorded>,
    operation: Operation,
    sequence: u64,
    frame: Bytes,
    attempts: u32,
}

/// A client.
pub struct Client {
    id: u8,
    dice: Dice,
    servers: u8,
    session: u64,
    sequence: u64,
    reads: u64,
    server: u8,
    connection: u32,
    highest_view: u64,
    pending: Vec<Pending>,
    /// When what is pending is sent again; `None` while it is on its way.
    resend_ns: Option<u64>,
    timeout_ns: u64,
    issue_ns: u64,
    left: u32,
    wake_ns: u64,
    /// Last version seen of each key.
    versions: Vec<u64>,
    values: u64,
    unknown: u32,
    groups: Groups,
    /// Last version seen of each key of each group.
    group_versions: Vec<Vec<u64>>,
    walk: Walk,
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(id: u8, plan: &Plan, groups: Groups) -> Client {
        let mut dice = Dice::new(plan.seed ^ u64::from(id) << 56, "client");
        Client {
            id,
            servers: plan.servers,
            session: 0,
            sequence: 0,
            reads: READ_SEQUENCES,
            server: dice.below(u64::from(plan.servers)) as u8,
            connection: 1,
            highest_view: 0,
            pending: Vec::new(),
            resend_ns: None,
            timeout_ns: u64::MAX,
            issue_ns: dice.delay(&plan.workload.think_ns),
            left: plan.workload.requests,
            wake_ns: u64::MAX,
            versions: vec![0; plan.workload.keys as usize],
            values: 0,
            unknown: 0,
            group_versions: groups.iter().map(|keys| vec![0; keys.len()]).collect(),
            groups,
            walk: draw_walk(&mut dice),
            dice,
        }
    }

    /// Whether it has asked for everything and knows how it ended, as far as that can be known.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.pending.is_empty()
    }

    /// Operations of which it does not know how they ended.
    pub fn unknown(&self) -> u32 {
        self.unknown + self.pending.len() as u32
    }

    /// Its connection, if it is to this server.
    pub fn connection_to(&self, server: u8) -> Option<(u8, u32)> {
        (self.server == server).then_some((self.id, self.connection))
    }

    /// What it still waits for, for a person.
    pub fn describe(&self) -> String {
        let waiting: Vec<String> =
            self.pending.iter().map(|pending| format!("{:?} {}", pending.operation, pending.sequence)).collect();
        format!("client {} at server {}: {} left, waits for {}", self.id, self.server, self.left, waiting.join(", "))
    }

    /// Asks for so much more.
    pub fn ask_for(&mut self, shared: &mut Shared, requests: u32) {
        self.left += requests;
        self.arm(shared);
    }

    /// Turns to this server, whoever the primary is.
    pub fn go_to(&mut self, server: u8) {
        self.server = server;
        self.connection += 1;
    }

    /// From now on nothing goes wrong: it asks for a little more and never gives up.
    pub fn heal(&mut self, shared: &mut Shared) {
        self.left = 2;
        self.issue_ns = self.issue_ns.min(shared.now_ns + 50 * MS);
        self.arm(shared);
    }

    /// Sees to it that it is called when it has something to do.
    pub fn arm(&mut self, shared: &mut Shared) {
        let can_issue = self.left > 0 && self.has_room(&shared.plan);
        let issue_ns = if can_issue { self.issue_ns } else { u64::MAX };
        let at_ns = issue_ns.min(self.resend_ns.unwrap_or(self.timeout_ns)).max(shared.now_ns);
        if at_ns < self.wake_ns {
            self.wake_ns = at_ns;
            shared.schedule.at(at_ns, Event::Client { client: self.id });
        }
    }

    fn has_room(&self, plan: &Plan) -> bool {
        self.pending.len() < plan.workload.window as usize && (self.session != 0 || self.pending.is_empty())
    }

    /// Looks at what there is to do.
    pub fn wake(&mut self, shared: &mut Shared, history: &mut History, keys: &[Vec<u8>]) {
        let now_ns = shared.now_ns;
        self.wake_ns = u64::MAX;
        if self.resend_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            self.resend(shared);
        } else if self.resend_ns.is_none() && self.timeout_ns <= now_ns {
            self.move_on(shared, 0);
        }
        while self.left > 0 && self.issue_ns <= now_ns && self.has_room(&shared.plan) {
            self.issue(shared, history, keys);
        }
        self.arm(shared);
    }

    /// Goes to the next server.
    fn move_on(&mut self, shared: &Shared, pause_ns: u64) {
        self.server = (self.server + 1) % self.servers;
        self.reconnect(shared, pause_ns);
    }

    fn reconnect(&mut self, shared: &Shared, pause_ns: u64) {
        self.connection += 1;
        let pause_ns = if pause_ns == 0 { 0 } else { pause_ns + self.dice.below(pause_ns) };
        self.resend_ns = Some(shared.now_ns + pause_ns);
    }

    fn resend(&mut self, shared: &mut Shared) {
        self.resend_ns = None;
        let attempts_max = if shared.is_healed { u32::MAX } else { shared.plan.workload.attempts_max };
        let before = self.pending.len();
        self.pending.retain(|pending| pending.attempts < attempts_max || pending.id.is_none());
        self.unknown += (before - self.pending.len()) as u32;
        if !self.pending.iter().any(|pending| matches!(pending.id, Some(Recorded::Step { .. }))) {
            self.walk.lose_step();
        }
        for at in 0..self.pending.len() {
            self.pending[at].attempts += 1;
            let frame = self.pending[at].frame.clone();
            self.send(shared, frame);
        }
        self.timeout_ns = if self.pending.is_empty() { u64::MAX } else { self.timeout_from(shared) };
    }

    /// Longer after each attempt, so that a cluster that is slow is not flooded.
    fn timeout_from(&self, shared: &Shared) -> u64 {
        let attempts = self.pending.iter().map(|pending| pending.attempts).max().unwrap_or(1);
        shared.now_ns + (shared.plan.workload.timeout_ns << attempts.saturating_sub(1).min(5)).min(TIMEOUT_MAX_NS)
    }

    fn send(&mut self, shared: &mut Shared, frame: Bytes) {
        let delay_ns = self.dice.delay(&shared.plan.network.delay_ns);
        let (server, client, connection) = (self.server, self.id, self.connection);
        shared.request((client, connection), server, delay_ns, Event::Request { server, client, connection, frame });
    }

    fn add(&mut self, shared: &mut Shared, pending: Pending) {
        if self.pending.is_empty() {
            self.timeout_ns = self.timeout_from(shared);
        }
        let frame = pending.frame.clone();
        self.pending.push(pending);
        if self.resend_ns.is_none() {
            self.send(shared, frame);
        }
    }

    fn register(&mut self, shared: &mut Shared) {
        self.reads += 1;
        let mut frame = Vec::new();
        let parts = RequestParts {
            operation: Operation::Register,
            flags: 0,
            session: 0,
            sequence: self.reads,
            key: &[],
            arguments: &[],
            value: &[],
        };
        encode_request(&parts, &mut frame);
        let pending = Pending {
            id: None,
            operation: Operation::Register,
            sequence: self.reads,
            frame: Bytes::from(frame),
            attempts: 1,
        };
        self.add(shared, pending);
    }

    /// A reply arrives, or the news that the connection is gone.
    pub fn take_reply(&mut self, shared: &mut Shared, history: &mut History, connection: u32, frame: &[u8]) {
        if connection != self.connection {
            return;
        }
        if frame.is_empty() {
            self.move_on(shared, PAUSE_NS);
            return self.arm(shared);
        }
        let Ok(Some(reply)) = Reply::parse(frame) else {
            return shared.facts.fail(Check::Answer, format!("client {} gets a malformed reply", self.id));
        };
        match reply.status() {
            Status::NotPrimary => self.follow(shared, reply.body()),
            Status::Unavailable => self.move_on(shared, PAUSE_NS),
            _ => self.settle(shared, history, &reply),
        }
        self.arm(shared);
    }

    /// Goes where the primary of a view is.
    fn follow(&mut self, shared: &Shared, body: &[u8]) {
        let view = body.try_into().map_or(0, u64::from_le_bytes);
        if view > self.highest_view {
            self.highest_view = view;
            self.server = (view % u64::from(self.servers)) as u8;
            return self.reconnect(shared, 0);
        }
        let primary = (self.highest_view % u64::from(self.servers)) as u8;
        if self.server != primary && self.dice.chance(500) {
            self.server = primary;
            return self.reconnect(shared, PAUSE_NS);
        }
        self.move_on(shared, PAUSE_NS);
    }

    fn settle(&mut self, shared: &mut Shared, history: &mut History, reply: &Reply<'_>) {
        let is_it = |pending: &Pending| pending.operation == reply.operation() && pending.sequence == reply.sequence();
        let Some(at) = self.pending.iter().position(is_it) else { return };
        let pending = self.pending.remove(at);
        self.timeout_ns = if self.pending.is_empty() { u64::MAX } else { self.timeout_from(shared) };
        let Some(id) = pending.id else {
            self.session = reply.version();
            self.sequence = 0;
            return;
        };
        match reply.status() {
            // Whether an earlier attempt was carried out is not known.
            Status::StaleSequence => self.unknown += 1,
            Status::UnknownSession => {
                self.unknown += 1;
                // What else is in flight belongs to the lost session.
                self.unknown += self.pending.iter().filter(|other| other.operation.is_logged()).count() as u32;
                self.pending.retain(|other| !other.operation.is_logged());
                self.session = 0;
                // Sequences begin anew: what is still said of the old ones must not be taken for answers to the new
                // ones.
                self.reconnect(shared, 0);
            }
            _ => self.complete(shared, history, id, pending.operation, reply),
        }
    }
}

impl Client {
    /// A request is answered.
    fn complete(
        &mut self,
        shared: &mut Shared,
        history: &mut History,
        id: Recorded,
        operation: Operation,
        reply: &Reply<'_>,
    ) {
        let version = reply.version();
        match id {
            Recorded::Step { is_keys_only } => {
                if self.walk.take(shared, 0, &page(reply, is_keys_only)) {
                    self.walk = draw_walk(&mut self.dice);
                }
            }
            Recorded::Group(id, group, key) => {
                if version != 0 {
                    self.group_versions[group][key] = version;
                }
                if reply.status() == Status::Busy {
                    return shared.groups.refuse(id);
                }
                shared.groups.complete(id, shared.now_ns, (operation, reply.status(), version), reply.body());
            }
            Recorded::Key(id, sent, key) => {
                let Some(answer) = answer(operation, reply) else {
                    let text = format!("client {}: {operation:?} is answered {:?}", self.id, reply.status());
                    return shared.facts.fail(Check::Answer, text);
                };
                if version != 0 {
                    self.versions[key] = version;
                }
                history.complete(id, shared.now_ns, answer);
                // What the log refuses stays refused, however often it is asked for under this sequence.
                if reply.status() == Status::Busy {
                    return shared.singles.refuse(sent);
                }
                shared.singles.complete(sent, shared.now_ns, (operation, reply.status(), version), reply.body());
            }
        }
    }
}
