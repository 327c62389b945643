//! Programs: the commands of a Redis client, carried out with Redis's semantics.
//!
//! A program is carried out at one place of the log, at one time: its prepare's timestamp. Whatever could refuse it as
//! a whole (a key of another shard, no room, a check that fails) is found before its first command changes anything;
//! what only one command fails for is that command's result.
//!
//! | file | what is in it |
//! |---|---|
//! | `read` | commands that read |
//! | `walk` | commands that go through many keys |
//! | `strings` | commands that write values |
//! | `keys` | commands that write keys: removal, expiry, names |
//! | `long_double` | INCRBYFLOAT's arithmetic |

mod keys;
mod long_double;
mod read;
mod strings;
mod walk;

use lockstep_proto::{
    limits::{REPLY_BODY_SIZE_MAX, VALUE_SIZE_MAX},
    mutant::{self, Mutant},
    operation::Status,
    program::{Command, Commands, ErrorCode, Kind, Opcode, ResultWriter},
};

use crate::{
    ahead::Probe,
    apply::{Moment, WriteResult},
    decimal,
    entry::EntryHeader,
    expiry,
    slab::Handle,
    store::Store,
};

/// What all programs of a batch may do besides what they would do anyway, in steps of about a nanosecond: a batch is
/// carried out on every replica, and nothing else is done meanwhile.
const BATCH_WORK_MAX: u64 = 400_000_000;

/// What one program of a batch may do of that.
const PROGRAM_WORK_MAX: u64 = 40_000_000;

/// What a program that only reads, and on this server alone, may do.
const QUERY_WORK_MAX: u64 = 400_000_000;

/// Steps to look at a key.
const KEY_STEPS: u64 = 32;

/// Bytes of a value that are copied in one step.
const BYTES_PER_STEP: usize = 16;

/// The steps that are left for a program.
#[derive(Debug)]
pub(crate) struct Work {
    left: u64,
}

impl Work {
    /// A batch begins.
    pub fn of_batch() -> Work {
        Work { left: BATCH_WORK_MAX }
    }

    /// Takes steps. Returns whether there were as many.
    fn take(&mut self, steps: u64) -> bool {
        let is_enough = self.left > steps;
        self.left = self.left.saturating_sub(steps);
        is_enough
    }

    fn is_used_up(&self) -> bool {
        self.left == 0
    }
}

/// The first key of a program's first command, so that memory can be asked for ahead; empty if it has none.
#[inline]
pub(crate) fn first_key(program: &[u8]) -> &[u8] {
    let Some(command) = Commands::new(program).next() else { return &[] };
    match command.opcode.form().kinds.first() {
        Some(Kind::Key) => command.arguments().next().unwrap_or(&[]),
        _ => &[],
    }
}

/// A key of a command that writes, and where its entry is if it exists.
#[derive(Clone, Copy)]
struct Place {
    probe: Probe,
    found: Option<Handle>,
}

/// A program that is being carried out.
struct Run<'s, 'o> {
    store: &'s mut Store,
    moment: Moment,
    /// What was found out ahead about the first key.
    first: Option<Probe>,
    out: ResultWriter<'o>,
    work: Work,
}

impl Store {
    /// Carries out a program, with a share of its batch's `work`. Appends the body of the reply to `out`.
    pub(crate) fn transact(
        &mut self,
        moment: Moment,
        program: &[u8],
        first: Probe,
        work: &mut Work,
        out: &mut Vec<u8>,
    ) -> WriteResult {
        let (mut count, mut growth) = (0, 0);
        for command in Commands::new(program) {
            if !self.owns_keys_of(&command) {
                return WriteResult::new(Status::WrongShard, 0);
            }
            count += 1;
            growth += growth_max(&command);
        }
        // Room for the most that it may need: the same on every replica, and enough whatever is there.
        if growth > 0 && !self.has_room(growth) {
            return WriteResult::new(Status::Busy, 0);
        }
        let mut out = ResultWriter::new(out, REPLY_BODY_SIZE_MAX, count);
        let mut checks = Commands::new(program).take_while(|command| command.opcode == Opcode::Check);
        if !checks.all(|command| self.holds(moment.timestamp_ns, &command)) {
            if mutant::is(Mutant::AbortedRunsFirst) {
                return self.run_first(moment, program, first, out);
            }
            out.aborted();
            return WriteResult::new(Status::Ok, moment.revision);
        }
        let share = work.left.min(PROGRAM_WORK_MAX);
        let mut run = Run { store: self, moment, first: Some(first), out, work: Work { left: share } };
        for command in Commands::new(program).skip_while(|command| command.opcode == Opcode::Check) {
            run.carry_out(&command);
            run.out.end_command();
        }
        work.left -= share - run.work.left;
        WriteResult::new(Status::Ok, moment.revision)
    }

    /// Answers a program that only reads. Appends the body of the reply to `out`.
    pub(crate) fn query(&self, now_ns: u64, program: &[u8], out: &mut Vec<u8>) -> Status {
        if !Commands::new(program).all(|command| self.owns_keys_of(&command)) {
            return Status::WrongShard;
        }
        let mut out = ResultWriter::new(out, REPLY_BODY_SIZE_MAX, Commands::new(program).count());
        let mut work = Work { left: QUERY_WORK_MAX };
        for command in Commands::new(program) {
            self.answer(now_ns, &command, &mut work, &mut out);
            out.end_command();
        }
        Status::Ok
    }

    /// What [`Mutant::AbortedRunsFirst`] does.
    #[cold]
    fn run_first(&mut self, moment: Moment, program: &[u8], first: Probe, mut out: ResultWriter<'_>) -> WriteResult {
        let mut command = Commands::new(program).skip_while(|command| command.opcode == Opcode::Check);
        let mut unheard = Vec::new();
        let unheard = ResultWriter::new(&mut unheard, REPLY_BODY_SIZE_MAX, 1);
        let work = Work { left: PROGRAM_WORK_MAX };
        let mut run = Run { store: self, moment, first: Some(first), out: unheard, work };
        run.carry_out(&command.next().expect("checks alone are no program"));
        out.aborted();
        WriteResult::new(Status::Ok, moment.revision)
    }

    fn owns_keys_of(&self, command: &Command<'_>) -> bool {
        self.shards == 1 || command.keys().all(|key| self.is_own_key(key))
    }

    /// Whether what a check asks for is so.
    fn holds(&self, now_ns: u64, check: &Command<'_>) -> bool {
        let [key, version, expiry_ns] = check.first();
        let found = self.find_entry(now_ns, self.hash(key), key);
        let present = found.map_or((0, 0), |entry| (entry.header.version(), entry.header.expiry_ns()));
        present == (number(version) as u64, number(expiry_ns) as u64) || mutant::is(Mutant::WatchIgnored)
    }
}

/// The most by which a command may make all entries together larger, in bytes.
fn growth_max(command: &Command<'_>) -> usize {
    /// Longest sum of an INCRBYFLOAT: the largest number has 4933 digits, and 17 are printed behind the point.
    const FLOAT_SIZE_MAX: usize = 5000;
    let entry = |key: &[u8], value_size: usize| EntryHeader::SIZE + key.len() + value_size.min(VALUE_SIZE_MAX);
    match command.opcode {
        Opcode::Set | Opcode::SetWith | Opcode::Append => {
            let [key, value] = command.first();
            entry(key, value.len())
        }
        Opcode::MultiSet => pairs(command).map(|(key, value)| entry(key, value.len())).sum(),
        Opcode::SetRange => {
            let [key, offset, value] = command.first();
            entry(key, usize::try_from(number(offset)).unwrap_or(0).saturating_add(value.len()))
        }
        Opcode::Increment => entry(command.first::<1>()[0], decimal::SIZE_MAX),
        Opcode::IncrementFloat => entry(command.first::<1>()[0], FLOAT_SIZE_MAX),
        Opcode::Rename | Opcode::Copy => entry(command.first::<2>()[1], VALUE_SIZE_MAX),
        _ => 0,
    }
}

/// The keys and values of a MultiSet.
fn pairs<'a>(command: &Command<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
    let mut arguments = command.arguments();
    std::iter::from_fn(move || Some((arguments.next()?, arguments.next()?)))
}

/// The number that an argument is.
#[inline]
fn number(argument: &[u8]) -> i64 {
    i64::from_le_bytes(*argument.first_chunk().expect("the program was checked"))
}

impl Run<'_, '_> {
    fn carry_out(&mut self, command: &Command<'_>) {
        match command.opcode {
            Opcode::Set => self.set(command),
            Opcode::SetWith => self.set_with(command),
            Opcode::MultiSet => self.multi_set(command),
            Opcode::Append => self.append(command),
            Opcode::SetRange => self.set_range(command),
            Opcode::Increment => self.increment(command),
            Opcode::IncrementFloat => self.increment_float(command),
            Opcode::GetDelete => self.get_delete(command),
            Opcode::GetExpire => self.get_expire(command),
            Opcode::Delete => self.delete(command),
            Opcode::DeleteIfEqual => self.delete_if_equal(command),
            Opcode::Expire => self.expire(command),
            Opcode::Persist => self.persist(command),
            Opcode::Rename => self.rename(command),
            Opcode::Copy => self.copy(command),
            Opcode::Flush => {
                self.store.clear();
                self.out.ok();
            }
            _ => self.store.answer(self.moment.timestamp_ns, command, &mut self.work, &mut self.out),
        }
    }

    /// Finds a key. One that has expired is removed on the way.
    #[inline]
    fn find(&mut self, key: &[u8]) -> Place {
        let first = self.first.take().filter(|probe| probe.hash == self.store.hash(key));
        let probe = first.unwrap_or_else(|| self.store.probe_now(key));
        Place { probe, found: self.store.find_live(self.moment.timestamp_ns, probe, key) }
    }

    /// Takes the steps for copying `size` bytes. If there are not as many left, that is the command's result.
    fn takes_copying(&mut self, size: usize) -> bool {
        let is_enough = self.work.take((size / BYTES_PER_STEP) as u64);
        if !is_enough {
            self.out.error(ErrorCode::TooMuchWork);
        }
        is_enough
    }

    fn value(&self, handle: Handle) -> &[u8] {
        self.store.entry(handle).value()
    }

    fn expiry_ns(&self, handle: Handle) -> u64 {
        self.store.entry(handle).header.expiry_ns()
    }

    /// The time `ms` from now, in ms since 1970.
    fn ms_from_now(&self, ms: i64) -> i64 {
        expiry::now_ms(self.moment.timestamp_ns).saturating_add(ms)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::{
        Operation, Status,
        program::{Builder, Opcode, Value, results},
        request::{Request, RequestParts, encode_request},
    };

    use crate::{Store, StoreConfig};

    fn transact(store: &mut Store, commands: &[(Opcode, &[&[u8]])]) -> (Status, Vec<u8>) {
        let mut program = Builder::new();
        commands.iter().for_each(|(opcode, arguments)| program.command(*opcode, arguments));
        let value = program.as_bytes();
        let (operation, flags, session, sequence) = (Operation::Transact, 0, 0, 1);
        let mut frame = Vec::new();
        encode_request(
            &RequestParts { operation, flags, session, sequence, key: &[], arguments: &[], value },
            &mut frame,
        );
        let (request, _) = Request::parse_trusted(&frame).expect("a valid frame");
        let mut given = None;
        store.apply_batch_with(1, &[(7, request)], &mut Vec::new(), |_, result, body| {
            given = Some((result.status, body.to_vec()));
        });
        given.expect("each program is answered")
    }

    #[test]
    fn a_program_for_which_there_is_no_room_changes_nothing_and_one_that_needs_none_is_carried_out() {
        let mut store = Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: 200 });
        let (status, _) = transact(&mut store, &[(Opcode::Set, &[b"a", &[b'x'; 100]])]);
        assert_eq!(status, Status::Ok);
        let hash = store.content_hash();
        let too_much: [(Opcode, &[&[u8]]); 5] = [
            (Opcode::Set, &[b"b", &[b'x'; 100]]),
            (Opcode::Append, &[b"a", &[b'x'; 100]]),
            (Opcode::SetRange, &[b"a", &[0xFF, 0, 0, 0, 0, 0, 0, 0], b"x"]),
            (Opcode::MultiSet, &[b"b", &[b'x'; 20], b"c", &[b'x'; 20]]),
            (Opcode::Copy, &[b"a", b"b"]),
        ];
        for command in too_much {
            let program = [(Opcode::Delete, &[&b"a"[..]][..]), command];
            assert_eq!(transact(&mut store, &program), (Status::Busy, vec![]), "{command:?}");
            assert_eq!(store.content_hash(), hash, "{command:?}");
        }
        let program: [(Opcode, &[&[u8]]); 3] =
            [(Opcode::Get, &[b"b"]), (Opcode::Delete, &[b"a", b"b"]), (Opcode::KeyCount, &[])];
        let (status, body) = transact(&mut store, &program);
        assert_eq!(status, Status::Ok);
        assert!(results(&body).eq([Value::Nil, Value::Integer(1), Value::Integer(0)]));
        assert_eq!(store.bytes, 0);
    }
}
