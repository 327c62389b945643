//! A simulated client: a session with a window of requests in flight, which asks again under the same session and sequence,
//! at any server, until it is answered or gives up.

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    program::{Builder, Opcode},
    reply::Reply,
    request::{FLAG_TTL, RequestParts, encode_request},
};

use crate::{
    checker::{Answer, Call, History, OperationId},
    dice::Dice,
    facts::Check,
    groups::GroupOperation,
    plan::{MS, Plan},
    redis::Groups,
    schedule::Event,
    shared::Shared,
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
    /// In the history of single keys, with the key.
    Key(OperationId, usize),
    /// In that of groups, with the group and the key.
    Group(GroupOperation, usize, usize),
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
        let at_ns = shared.network.client_arrival(client, connection, shared.now_ns + delay_ns);
        shared.schedule.at(at_ns, Event::Request { server, client, connection, frame });
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

    /// Asks for something.
    fn issue(&mut self, shared: &mut Shared, history: &mut History, keys: &[Vec<u8>]) {
        if self.session == 0 {
            return self.register(shared);
        }
        if self.pending.is_empty() && self.dice.chance(shared.plan.workload.hop) {
            // A server that takes itself for the primary and is not must be asked to be found out.
            let server = self.dice.below(u64::from(self.servers)) as u8;
            self.go_to(server);
        }
        self.left -= 1;
        self.issue_ns = shared.now_ns + self.dice.delay(&shared.plan.workload.think_ns);
        if !self.groups.is_empty() && self.dice.chance(shared.plan.workload.redis.native) {
            return self.issue_on_group(shared);
        }
        let key = self.dice.below(keys.len() as u64) as usize;
        let draw = self.draw(&shared.plan, key);
        let id = history.invoke(u32::from(self.id), shared.now_ns, &keys[key], draw.call());
        let sequence = if draw.operation.is_logged() { &mut self.sequence } else { &mut self.reads };
        *sequence += 1;
        let sequence = *sequence;
        let mut arguments = Vec::new();
        match draw.operation {
            Operation::CompareAndSet => arguments.extend_from_slice(&draw.number.to_le_bytes()),
            Operation::Increment => arguments.extend_from_slice(&draw.number.to_le_bytes()),
            Operation::Expire => arguments.extend_from_slice(&draw.ttl_ms.unwrap_or(0).to_le_bytes()),
            _ => {}
        }
        let mut flags = 0;
        if let (Some(ttl_ms), Operation::Put | Operation::CompareAndSet) = (draw.ttl_ms, draw.operation) {
            flags = FLAG_TTL;
            arguments.extend_from_slice(&ttl_ms.to_le_bytes());
        }
        let mut frame = Vec::new();
        let parts = RequestParts {
            operation: draw.operation,
            flags,
            session: if draw.operation.is_logged() { self.session } else { 0 },
            sequence,
            key: &keys[key],
            arguments: &arguments,
            value: &draw.value,
        };
        encode_request(&parts, &mut frame);
        let (frame, operation) = (Bytes::from(frame), draw.operation);
        self.add(shared, Pending { id: Some(Recorded::Key(id, key)), operation, sequence, frame, attempts: 1 });
    }

    /// Asks for something that concerns the keys that clients of the front door work on: reads of several keys at once, and
    /// writes of one.
    fn issue_on_group(&mut self, shared: &mut Shared) {
        const OPERATIONS: [Operation; 6] = [
            Operation::Query,
            Operation::Query,
            Operation::Put,
            Operation::CompareAndSet,
            Operation::Increment,
            Operation::Delete,
        ];
        let group = self.dice.below(self.groups.len() as u64) as usize;
        let key = self.dice.below(self.groups[group].len() as u64) as usize;
        let operation = self.dice.pick(&OPERATIONS);
        let value = match operation {
            Operation::Put | Operation::CompareAndSet => self.value(shared.plan.workload.value_max.min(100)),
            Operation::Query => self.query(group, key),
            _ => Vec::new(),
        };
        let argument = match operation {
            Operation::CompareAndSet => Some(self.group_versions[group][key]),
            Operation::Increment => Some(self.dice.within(1..=9)),
            _ => None,
        };
        let is_logged = operation.is_logged();
        let sequence = if is_logged { &mut self.sequence } else { &mut self.reads };
        *sequence += 1;
        let sequence = *sequence;
        let parts = RequestParts {
            operation,
            flags: 0,
            session: if is_logged { self.session } else { 0 },
            sequence,
            key: if operation == Operation::Query { &[] } else { &self.groups[group][key] },
            arguments: &argument.map_or(Vec::new(), |argument| argument.to_le_bytes().to_vec()),
            value: &value,
        };
        let mut frame = Vec::new();
        encode_request(&parts, &mut frame);
        let frame = Bytes::from(frame);
        let id = shared.groups.invoke(group as u16, self.id, None, shared.now_ns, frame.clone());
        self.add(
            shared,
            Pending { id: Some(Recorded::Group(id, group, key)), operation, sequence, frame, attempts: 1 },
        );
    }

    /// A program that reads the key, or all of its group.
    fn query(&mut self, group: usize, key: usize) -> Vec<u8> {
        let keys = &self.groups[group];
        let asked = if self.dice.chance(500) { &keys[..] } else { &keys[key..=key] };
        let mut program = Builder::new();
        for key in asked {
            program.command(Opcode::Get, &[key]);
            program.command(Opcode::Stamp, &[key]);
        }
        program.as_bytes().to_vec()
    }

    fn draw(&mut self, plan: &Plan, key: usize) -> Draw {
        const OPERATIONS: [(Operation, bool); 9] = [
            (Operation::Get, false),
            (Operation::Put, false),
            (Operation::Delete, false),
            (Operation::CompareAndSet, false),
            (Operation::Increment, false),
            (Operation::Exists, false),
            (Operation::Put, true),
            (Operation::Expire, true),
            (Operation::TimeToLive, false),
        ];
        let weights = &plan.workload.weights;
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut number = self.dice.below(total.max(1));
        let mut chosen = OPERATIONS[usize::from(self.dice.chance(500))];
        for (operation, &weight) in OPERATIONS.iter().zip(weights) {
            if number < u64::from(weight) {
                chosen = *operation;
                break;
            }
            number -= u64::from(weight);
        }
        let (operation, has_ttl) = chosen;
        let is_lifting = operation == Operation::Expire && self.dice.chance(200);
        let ttl_ms = (has_ttl && !is_lifting).then(|| self.dice.within(plan.workload.ttl_ms.clone()));
        let number = match operation {
            Operation::CompareAndSet => {
                if self.dice.chance(800) {
                    self.versions[key]
                } else {
                    self.dice.below(3)
                }
            }
            Operation::Increment => self.dice.within(1..=9),
            _ => 0,
        };
        let value = if matches!(operation, Operation::Put | Operation::CompareAndSet) {
            self.value(plan.workload.value_max)
        } else {
            Vec::new()
        };
        Draw { operation, ttl_ms, number, value }
    }

    /// A value that nobody else writes, or a number.
    fn value(&mut self, value_max: u32) -> Vec<u8> {
        if self.dice.chance(200) {
            return self.dice.below(100).to_string().into_bytes();
        }
        self.values += 1;
        let mut value = format!("{}:{}", self.id, self.values).into_bytes();
        let len = self.dice.below(u64::from(value_max) + 1) as usize;
        if value.len() < len {
            value.resize(len, b'.');
        }
        value
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
            Status::Unavailable | Status::Busy => self.move_on(shared, PAUSE_NS),
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
                // Sequences begin anew: what is still said of the old ones must not be taken for answers to the new ones.
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
            Recorded::Group(id, group, key) => {
                if version != 0 {
                    self.group_versions[group][key] = version;
                }
                shared.groups.complete(id, shared.now_ns, (operation, reply.status(), version), reply.body());
            }
            Recorded::Key(id, key) => {
                let Some(answer) = answer(operation, reply) else {
                    let text = format!("client {}: {operation:?} is answered {:?}", self.id, reply.status());
                    return shared.facts.fail(Check::Answer, text);
                };
                if version != 0 {
                    self.versions[key] = version;
                }
                history.complete(id, shared.now_ns, answer);
            }
        }
    }
}

/// A request that chance has drawn.
struct Draw {
    operation: Operation,
    ttl_ms: Option<u64>,
    /// Expected version, or what is added.
    number: u64,
    value: Vec<u8>,
}

impl Draw {
    fn call(&self) -> Call<'_> {
        let (value, ttl_ms) = (self.value.as_slice(), self.ttl_ms);
        match self.operation {
            Operation::Put => Call::Put { value, ttl_ms },
            Operation::Delete => Call::Delete,
            Operation::CompareAndSet => Call::CompareAndSet { expected: self.number, value, ttl_ms },
            Operation::Increment => Call::Increment { delta: self.number as i64 },
            Operation::Expire => Call::Expire { ttl_ms },
            Operation::Exists => Call::Exists,
            Operation::TimeToLive => Call::TimeToLive,
            _ => Call::Get,
        }
    }
}

/// A reply, as the history has it; `None` if it is no answer to such a request.
fn answer<'a>(operation: Operation, reply: &Reply<'a>) -> Option<Answer<'a>> {
    let (version, body) = (reply.version(), reply.body());
    let number = || body.try_into().ok().map(u64::from_le_bytes);
    match (operation, reply.status()) {
        (Operation::Get, Status::Ok) => Some(Answer::Found { value: body, version }),
        (Operation::Exists, Status::Ok) => Some(Answer::Exists { version }),
        (Operation::TimeToLive, Status::Ok) => Some(match number()? {
            u64::MAX => Answer::Persistent,
            ms => Answer::Remaining { ms },
        }),
        (Operation::Increment, Status::Ok) => Some(Answer::Summed { sum: number()? as i64, version }),
        (Operation::Put | Operation::CompareAndSet | Operation::Delete | Operation::Expire, Status::Ok) => {
            Some(Answer::Written { version })
        }
        (Operation::CompareAndSet, Status::VersionMismatch) => Some(Answer::Mismatch { version }),
        (Operation::Increment, Status::NotANumber) => Some(Answer::NotANumber { version }),
        (Operation::Put | Operation::CompareAndSet | Operation::Increment, Status::NotFound) => None,
        (_, Status::NotFound) => Some(Answer::NotFound),
        _ => None,
    }
}
