//! A simulated client of the Redis front door: a connection on which requests are sent without waiting for answers,
//! which come in order. It never sends a request again: when its connection is lost, how what was unanswered ends is
//! not known.

mod draw;
mod plan;
mod walks;

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    program::{Value, results},
    reply::Reply,
};
use lockstep_server::resp::submission::Payload;

pub use self::plan::{RedisCommand, RedisPlan};
use crate::{
    dice::Dice,
    facts::Check,
    groups::GroupOperation,
    plan::{MS, Plan},
    schedule::Event,
    shared::Shared,
    walk::Walk,
};

/// Pause before a client connects again, in ns.
const PAUSE_NS: u64 = 5 * MS;

/// Groups of keys, by name.
pub type Groups = Rc<[Vec<Vec<u8>>]>;

/// What is asked over a connection of the front door.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A key's value.
    Get(Bytes),
    /// To write a key's value.
    Put(Bytes, Bytes),
    /// A program, and whether it may write.
    Program(Bytes, bool),
}

impl Asked {
    /// As the server's code has it.
    pub fn payload(&self) -> Payload<'_> {
        match self {
            Asked::Get(key) => Payload::Get(key),
            Asked::Put(key, value) => Payload::Put(key, value),
            Asked::Program(program, _) => Payload::Program(program),
        }
    }

    /// Whether it may write.
    pub fn is_write(&self) -> bool {
        match self {
            Asked::Get(_) => false,
            Asked::Put(..) => true,
            Asked::Program(_, is_write) => *is_write,
        }
    }
}

/// A key of which version and expiry, or the value, will be told: the place of the result, and the key.
#[derive(Clone, Copy, Debug)]
struct Told {
    result: usize,
    key: usize,
    is_stamp: bool,
}

/// What an answer belongs to.
#[derive(Clone, Debug)]
enum Unanswered {
    /// An operation on a group.
    Operation { id: GroupOperation, group: usize, told: Vec<Told> },
    /// A step of the walk.
    Step,
}

/// What a client last knew of a key.
#[derive(Clone, Debug, Default)]
struct Known {
    value: Vec<u8>,
    /// Version and expiry in ns since 1970, if it has seen them.
    stamp: Option<(u64, u64)>,
}

/// A client of the front door.
pub struct RedisClient {
    id: u8,
    dice: Dice,
    servers: u8,
    server: u8,
    connection: u32,
    groups: Groups,
    known: Vec<Vec<Known>>,
    unanswered: VecDeque<Unanswered>,
    /// When it may ask again.
    issue_ns: u64,
    timeout_ns: u64,
    wake_ns: u64,
    left: u32,
    /// Whether it asks for as much again as was refused or lost.
    insists: bool,
    values: u64,
    unknown: u32,
    walk: Walk,
    /// The highest revision that an answer has told.
    revision: u64,
}

impl RedisClient {
    /// A client that has done nothing yet.
    pub fn new(id: u8, plan: &Plan, groups: Groups) -> RedisClient {
        let mut dice = Dice::new(plan.seed ^ u64::from(id) << 56, "redis client");
        RedisClient {
            id,
            servers: plan.servers,
            server: dice.below(u64::from(plan.servers)) as u8,
            connection: 1,
            known: groups.iter().map(|keys| vec![Known::default(); keys.len()]).collect(),
            groups,
            unanswered: VecDeque::new(),
            issue_ns: dice.delay(&plan.workload.think_ns),
            timeout_ns: u64::MAX,
            wake_ns: u64::MAX,
            left: plan.workload.requests,
            insists: false,
            values: 0,
            unknown: 0,
            walk: walks::draw(&mut dice),
            revision: 0,
            dice,
        }
    }

    /// Whether it has asked for everything and knows how it ended, as far as that can be known.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.unanswered.is_empty()
    }

    /// Operations of which it does not know how they ended.
    pub fn unknown(&self) -> u32 {
        self.unknown + self.unanswered.len() as u32
    }

    /// Its connection, if it is to this server.
    pub fn connection_to(&self, server: u8) -> Option<(u8, u32)> {
        (self.server == server).then_some((self.id, self.connection))
    }

    /// What it still waits for, for a person.
    pub fn describe(&self) -> String {
        let (id, server, left, waits) = (self.id, self.server, self.left, self.unanswered.len());
        format!("redis client {id} at server {server}: {left} left, waits for {waits} answers")
    }

    /// Asks until so much more is answered.
    pub fn ask_for(&mut self, shared: &mut Shared, requests: u32) {
        self.left += requests;
        self.insists = true;
        self.arm(shared);
    }

    /// From now on nothing goes wrong: it asks until a little more is answered.
    pub fn heal(&mut self, shared: &mut Shared) {
        self.left = 2;
        self.issue_ns = self.issue_ns.min(shared.now_ns + 50 * MS);
        self.arm(shared);
    }

    /// Sees to it that it is called when it has something to do.
    pub fn arm(&mut self, shared: &mut Shared) {
        let can_issue = self.left > 0 && self.has_room(&shared.plan);
        let issue_ns = if can_issue { self.issue_ns } else { u64::MAX };
        let at_ns = issue_ns.min(self.timeout_ns).max(shared.now_ns);
        if at_ns < self.wake_ns {
            self.wake_ns = at_ns;
            shared.schedule.at(at_ns, Event::Client { client: self.id });
        }
    }

    fn has_room(&self, plan: &Plan) -> bool {
        self.unanswered.len() < plan.workload.redis.window as usize
    }

    /// Looks at what there is to do.
    pub fn wake(&mut self, shared: &mut Shared) {
        self.wake_ns = u64::MAX;
        if self.timeout_ns <= shared.now_ns {
            self.move_on(shared);
        }
        if self.unanswered.is_empty() && self.issue_ns <= shared.now_ns && self.dice.chance(shared.plan.workload.hop) {
            self.server = self.dice.below(u64::from(self.servers)) as u8;
            self.connection += 1;
        }
        // What is sent together arrives together, most of the time.
        let mut burst = if self.dice.chance(shared.plan.workload.redis.burst) { self.dice.within(2..=8) } else { 1 };
        while self.left > 0 && self.issue_ns <= shared.now_ns && self.has_room(&shared.plan) {
            self.issue(shared);
            burst -= 1;
            if burst == 0 {
                self.issue_ns = shared.now_ns + self.dice.delay(&shared.plan.workload.think_ns.clone());
                burst = 1;
            }
        }
        self.arm(shared);
    }

    /// Gives the connection up and goes to the next server.
    fn move_on(&mut self, shared: &mut Shared) {
        let lost = self.unanswered.len() as u32;
        self.unknown += lost;
        if shared.is_healed {
            // Now that nothing goes wrong, something has to be answered in the end.
            self.left += lost.min(2);
        } else if self.insists {
            self.left += lost;
        }
        self.unanswered.clear();
        self.walk.lose_step();
        self.timeout_ns = u64::MAX;
        self.server = (self.server + 1) % self.servers;
        self.connection += 1;
        self.issue_ns = self.issue_ns.max(shared.now_ns + PAUSE_NS + self.dice.below(PAUSE_NS));
    }

    fn issue(&mut self, shared: &mut Shared) {
        self.left -= 1;
        if self.dice.chance(shared.plan.workload.walk) && !self.walk.is_waiting() {
            self.walk.ask(shared);
            let program = walks::program(&self.walk, &mut self.dice);
            return self.send(shared, None, Asked::Program(program, false), Unanswered::Step);
        }
        let group = self.dice.below(self.groups.len() as u64) as usize;
        let (asked, told) = self.draw(shared, group);
        let mut frame = Vec::new();
        asked.payload().encode(asked.is_write(), 0, 1, &mut frame);
        let connection = Some(self.connection);
        let id = shared.groups.invoke(group as u16, self.id, connection, shared.now_ns, Bytes::from(frame));
        self.send(shared, Some(id), asked, Unanswered::Operation { id, group, told });
    }

    fn send(&mut self, shared: &mut Shared, id: Option<GroupOperation>, asked: Asked, unanswered: Unanswered) {
        if self.unanswered.is_empty() {
            self.timeout_ns = shared.now_ns + shared.plan.workload.timeout_ns;
        }
        self.unanswered.push_back(unanswered);
        let delay_ns = self.dice.delay(&shared.plan.network.delay_ns);
        let (server, client, connection) = (self.server, self.id, self.connection);
        let command = Event::Command { server, client, connection, id, asked };
        shared.request((client, connection), server, delay_ns, command);
    }

    /// An answer arrives, or the news that the connection is gone.
    pub fn take_reply(&mut self, shared: &mut Shared, connection: u32, frame: &[u8]) {
        if connection != self.connection {
            return;
        }
        if frame.is_empty() {
            self.move_on(shared);
            return self.arm(shared);
        }
        let Ok(Some(reply)) = Reply::parse(frame) else {
            return shared.facts.fail(Check::Answer, format!("client {} gets a malformed reply", self.id));
        };
        let Some(answered) = self.unanswered.pop_front() else {
            return shared.facts.fail(Check::Answer, format!("client {} is answered what it did not ask", self.id));
        };
        let is_waiting = !self.unanswered.is_empty();
        self.timeout_ns = if is_waiting { shared.now_ns + shared.plan.workload.timeout_ns } else { u64::MAX };
        match reply.status() {
            Status::NotPrimary | Status::Unavailable => {
                match answered {
                    Unanswered::Operation { id, .. } => shared.groups.refuse(id),
                    Unanswered::Step => self.walk.lose_step(),
                }
                self.left += u32::from(shared.is_healed || self.insists);
                if !is_waiting {
                    self.move_on(shared);
                }
            }
            // The store has no room for it. Asking again would not change that.
            Status::Busy => match answered {
                Unanswered::Operation { id, .. } => shared.groups.refuse(id),
                Unanswered::Step => {
                    shared.facts.fail(Check::Answer, format!("a step of client {} is refused", self.id))
                }
            },
            _ => self.settle(shared, &answered, &reply),
        }
        self.arm(shared);
    }

    fn settle(&mut self, shared: &mut Shared, answered: &Unanswered, reply: &Reply<'_>) {
        if matches!(reply.operation(), Operation::Transact | Operation::Put) {
            self.revision = self.revision.max(reply.version());
        }
        match answered {
            Unanswered::Operation { id, group, told } => {
                let answer = (reply.operation(), reply.status(), reply.version());
                shared.groups.complete(*id, shared.now_ns, answer, reply.body());
                self.learn(*group, told, reply);
            }
            Unanswered::Step => {
                let page = walks::page(&self.walk, reply);
                if self.walk.take(shared, self.revision, &page) {
                    self.walk = walks::draw(&mut self.dice);
                }
            }
        }
    }

    fn learn(&mut self, group: usize, told: &[Told], reply: &Reply<'_>) {
        let known = &mut self.known[group];
        if reply.operation() == Operation::Get {
            if let Some(told) = told.first() {
                known[told.key].value = reply.body().to_vec();
            }
            return;
        }
        let values: Vec<Value<'_>> = results(reply.body()).collect();
        for told in told {
            match values.get(told.result) {
                Some(Value::Array(items)) if told.is_stamp => {
                    let numbers =
                        items.iter().map(|item| if let Value::Integer(number) = item { number as u64 } else { 0 });
                    if let [version, expiry] = numbers.collect::<Vec<_>>()[..] {
                        known[told.key].stamp = Some((version, expiry));
                    }
                }
                Some(Value::Bulk(bytes)) if !told.is_stamp => known[told.key].value = bytes.to_vec(),
                _ => {}
            }
        }
    }
}
