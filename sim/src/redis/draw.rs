//! What a client of the front door asks for, as chance has it.

use bytes::Bytes;
use lockstep_proto::program::{
    Builder, Opcode,
    flags::{ABSOLUTE, COUNT, GET, GT, IF_EQUAL, KEEP_TTL, LT, NX, PERSIST, RELATIVE, REPLACE, XX},
};

use super::{Asked, RedisClient, RedisCommand, Told};
use crate::{host::WALL_START_NS, plan::MS, shared::Shared};

/// An expiry that does not come, in ms from now.
const FAR_MS: i64 = 1_000_000_000;

/// Values that several clients write, so that comparing with them may succeed.
const COMMON: [&[u8]; 4] = [b"a", b"b", b"7", b""];

/// What INCRBYFLOAT adds: sums that are exact and sums that are rounded, large and small, and what is not added at all.
const FLOATS: [&[u8]; 10] =
    [b"1", b"0.5", b"0.1", b"-0.3", b"-7", b"3.0e3", b"1e18", b"12345678901234567.89", b"1e-17", b"inf"];

/// What EXPIRE may ask of the expiry that is there.
const CONDITIONS: [u8; 8] = [0, 0, NX, XX, GT, LT, XX | GT, XX | LT];

/// A program that is being drawn.
struct Draft {
    program: Builder,
    told: Vec<Told>,
    /// Results that the commands so far have.
    results: usize,
    group: usize,
    /// Whether it will be a single command.
    is_single: bool,
}

impl Draft {
    fn command(&mut self, opcode: Opcode, flags: u8, arguments: &[&[u8]]) {
        self.program.command_with(opcode, flags, arguments);
        self.results += usize::from(opcode != Opcode::Check);
    }

    /// The result of the next command will be a key's value, or its stamp.
    fn will_tell(&mut self, key: usize, is_stamp: bool) {
        self.told.push(Told { result: self.results, key, is_stamp });
    }
}

impl RedisClient {
    /// Draws something to ask of a group of keys.
    pub(super) fn draw(&mut self, shared: &Shared, group: usize) -> (Asked, Vec<Told>) {
        let plan = &shared.plan.workload.redis;
        let kinds = RedisCommand::ALL;
        let total: u64 = plan.weights.iter().map(|weight| u64::from(*weight)).sum();
        let pick = |client: &mut RedisClient| {
            let mut number = client.dice.below(total.max(1));
            let mut weighted = kinds.iter().zip(plan.weights);
            let found = weighted.find(|(_, weight)| {
                let is_it = number < u64::from(*weight);
                number = number.saturating_sub(u64::from(*weight));
                is_it
            });
            found.map_or(RedisCommand::Get, |(kind, _)| *kind)
        };
        let is_single = !self.dice.chance(plan.multi);
        let mut draft = Draft { program: Builder::new(), told: Vec::new(), results: 0, group, is_single };
        if is_single {
            let kind = pick(self);
            let key = self.key(group);
            let name = Bytes::copy_from_slice(&self.groups[group][key]);
            match kind {
                RedisCommand::Get => return (Asked::Get(name), vec![Told { result: 0, key, is_stamp: false }]),
                RedisCommand::Put => {
                    return (Asked::Put(name, Bytes::from(self.value(shared, group, key))), Vec::new());
                }
                _ => self.add(shared, &mut draft, kind, key),
            }
        } else {
            for _ in 0..self.dice.below(3) {
                self.check(plan.watch, &mut draft);
            }
            for _ in 0..self.dice.within(1..=4) {
                let kind = pick(self);
                let key = self.key(group);
                self.add(shared, &mut draft, kind, key);
            }
            if self.dice.chance(300) {
                for key in 0..self.groups[group].len() {
                    self.add(shared, &mut draft, RedisCommand::Stamp, key);
                }
            }
        }
        let is_write = draft.program.is_write();
        (Asked::Program(Bytes::copy_from_slice(draft.program.as_bytes()), is_write), draft.told)
    }

    fn key(&mut self, group: usize) -> usize {
        self.dice.below(self.groups[group].len() as u64) as usize
    }

    /// Puts a check in front, as WATCH does, of what was seen last, however long ago.
    fn check(&mut self, watch: u32, draft: &mut Draft) {
        let key = self.key(draft.group);
        let Some((version, expiry)) = self.known[draft.group][key].stamp.filter(|_| self.dice.chance(watch)) else {
            return;
        };
        let name = self.groups[draft.group][key].clone();
        draft.command(Opcode::Check, 0, &[&name, &version.to_le_bytes(), &expiry.to_le_bytes()]);
    }

    fn value(&mut self, shared: &Shared, group: usize, key: usize) -> Vec<u8> {
        let value = match self.dice.below(4) {
            0 => self.dice.pick(&COMMON).to_vec(),
            1 => self.dice.below(100).to_string().into_bytes(),
            _ => {
                self.values += 1;
                let mut value = format!("{}:{}", self.id, self.values).into_bytes();
                let len = self.dice.within(0..=100.min(*shared.plan.workload.value_size.end())) as usize;
                value.resize(value.len().max(len), b'.');
                value
            }
        };
        self.known[group][key].value = value.clone();
        value
    }

    /// An expiry: its flag, and the number that goes with it. A time that may have come when it is given, or not, is
    /// given by single commands only: the checker of groups does not know which of the two the commands after it would
    /// see.
    fn expiry(&mut self, shared: &Shared, is_single: bool) -> (u8, [u8; 8]) {
        let ttl_ms = self.dice.within(shared.plan.workload.ttl_ms.clone()) as i64;
        let now_ms = ((WALL_START_NS + shared.now_ns) / MS) as i64;
        let (flag, ms) = match self.dice.below(10) {
            0 => (ABSOLUTE, now_ms + FAR_MS),
            1 => (ABSOLUTE, 1),
            2 if is_single => (ABSOLUTE, now_ms + ttl_ms),
            _ => (RELATIVE, ttl_ms),
        };
        (flag, ms.to_le_bytes())
    }

    /// Adds a command.
    fn add(&mut self, shared: &Shared, draft: &mut Draft, kind: RedisCommand, key: usize) {
        let keys = self.groups[draft.group].clone();
        let other = self.key(draft.group);
        let names = (&keys[key][..], &keys[other][..]);
        match kind {
            RedisCommand::Get | RedisCommand::Read | RedisCommand::Stamp | RedisCommand::TimeToLive => {
                self.add_read(draft, kind, key, names);
            }
            RedisCommand::SetExpiring | RedisCommand::Expire | RedisCommand::GetExpire | RedisCommand::Persist => {
                self.add_expiring(shared, draft, kind, key, names.0);
            }
            RedisCommand::Increment
            | RedisCommand::IncrementFloat
            | RedisCommand::GetDelete
            | RedisCommand::Delete
            | RedisCommand::DeleteIfEqual
            | RedisCommand::Move => {
                self.add_change(draft, kind, key, names);
            }
            _ => self.add_write(shared, draft, kind, (key, other), names),
        }
    }

    fn add_read(&mut self, draft: &mut Draft, kind: RedisCommand, key: usize, (name, other): (&[u8], &[u8])) {
        match kind {
            RedisCommand::Get => {
                draft.will_tell(key, false);
                draft.command(Opcode::Get, 0, &[name]);
            }
            RedisCommand::Stamp => {
                draft.will_tell(key, true);
                draft.command(Opcode::Stamp, 0, &[name]);
            }
            RedisCommand::TimeToLive => {
                draft.command(Opcode::TimeToLive, self.dice.pick(&[0, 0, ABSOLUTE]), &[name]);
            }
            _ => match self.dice.below(4) {
                0 => draft.command(Opcode::Length, 0, &[name]),
                1 => {
                    let [first, last] = [0; 2].map(|_| (self.dice.below(20) as i64 - 10).to_le_bytes());
                    draft.command(Opcode::GetRange, 0, &[name, &first, &last]);
                }
                2 => draft.command(Opcode::Exists, 0, &[name, other, name]),
                _ => draft.command(Opcode::MultiGet, 0, &[name, other]),
            },
        }
    }

    /// Adds what writes a value.
    fn add_write(
        &mut self,
        shared: &Shared,
        draft: &mut Draft,
        kind: RedisCommand,
        (key, other_key): (usize, usize),
        (name, other): (&[u8], &[u8]),
    ) {
        let known = self.known[draft.group][key].value.clone();
        let value = self.value(shared, draft.group, key);
        let short = &value[..value.len().min(8)];
        match kind {
            RedisCommand::SetWith => {
                let flags =
                    self.dice.pick(&[NX, XX, IF_EQUAL, IF_EQUAL, 0]) | self.dice.pick(&[0, 0, GET, COUNT, KEEP_TTL]);
                draft.command(Opcode::SetWith, flags, &[name, &value, &[0; 8], &known]);
            }
            RedisCommand::MultiSet => {
                let flags = if self.dice.chance(300) { NX } else { 0 };
                let another = self.value(shared, draft.group, other_key);
                draft.command(Opcode::MultiSet, flags, &[name, &value, other, &another]);
            }
            RedisCommand::Append => draft.command(Opcode::Append, 0, &[name, short]),
            RedisCommand::SetRange => {
                draft.command(Opcode::SetRange, 0, &[name, &self.dice.below(30).to_le_bytes(), short]);
            }
            _ => draft.command(Opcode::Set, 0, &[name, &value]),
        }
    }

    /// Adds what changes a key and is given no value to write.
    fn add_change(&mut self, draft: &mut Draft, kind: RedisCommand, key: usize, (name, other): (&[u8], &[u8])) {
        match kind {
            RedisCommand::Increment => {
                let delta = self.dice.pick(&[1, 1, -1, 5, i64::MAX]).to_le_bytes();
                draft.command(Opcode::Increment, 0, &[name, &delta]);
            }
            RedisCommand::IncrementFloat => {
                draft.command(Opcode::IncrementFloat, 0, &[name, self.dice.pick(&FLOATS)]);
            }
            RedisCommand::GetDelete => draft.command(Opcode::GetDelete, 0, &[name]),
            RedisCommand::Delete => draft.command(Opcode::Delete, 0, &[name, other]),
            RedisCommand::DeleteIfEqual => {
                let known = self.known[draft.group][key].value.clone();
                draft.command(Opcode::DeleteIfEqual, 0, &[name, &known]);
            }
            _ => {
                const MOVES: [(Opcode, u8); 4] =
                    [(Opcode::Rename, 0), (Opcode::Rename, NX), (Opcode::Copy, 0), (Opcode::Copy, REPLACE)];
                let (opcode, flags) = self.dice.pick(&MOVES);
                draft.command(opcode, flags, &[name, other]);
            }
        }
    }

    fn add_expiring(&mut self, shared: &Shared, draft: &mut Draft, kind: RedisCommand, key: usize, name: &[u8]) {
        let (flag, time) = self.expiry(shared, draft.is_single);
        match kind {
            RedisCommand::SetExpiring => {
                let known = self.known[draft.group][key].value.clone();
                let value = self.value(shared, draft.group, key);
                let flags = flag | self.dice.pick(&[0, NX, XX, IF_EQUAL, GET]);
                draft.command(Opcode::SetWith, flags, &[name, &value, &time, &known]);
            }
            RedisCommand::Expire => {
                draft.command(Opcode::Expire, flag | self.dice.pick(&CONDITIONS), &[name, &time]);
            }
            RedisCommand::GetExpire => {
                let flag = if self.dice.chance(300) { PERSIST } else { flag };
                draft.will_tell(key, false);
                draft.command(Opcode::GetExpire, flag, &[name, &time]);
            }
            _ => draft.command(Opcode::Persist, 0, &[name]),
        }
    }
}
