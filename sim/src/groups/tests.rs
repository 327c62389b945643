//! Histories written by hand, and random ones that are right.

use std::collections::BTreeMap;

use lockstep_proto::{
    program::{Builder, Opcode, ResultWriter},
    request::{RequestParts, encode_request},
};

use super::*;
use crate::{
    dice::Dice,
    keyspace::{Body, Expect, Keyspace, Moment, Version},
};

const OPTIONS: GroupOptions = GroupOptions { slack_ns: 10, wall_start_ns: 1_000_000, steps_max: 100_000 };

/// A bound so low that the search decides nothing.
const TOO_HARD: GroupOptions = GroupOptions { steps_max: 1, ..OPTIONS };

fn frame(is_write: bool, commands: &[(Opcode, &[&[u8]])]) -> Bytes {
    let mut program = Builder::new();
    commands.iter().for_each(|(opcode, arguments)| program.command(*opcode, arguments));
    let mut frame = Vec::new();
    let payload = lockstep_server::resp::submission::Payload::Program(program.as_bytes());
    payload.encode(is_write, 0, 1, &mut frame);
    Bytes::from(frame)
}

fn body(results: &[Expect]) -> Vec<u8> {
    fn write(out: &mut ResultWriter<'_>, result: &Expect) {
        match result {
            Expect::Nil => out.nil(),
            Expect::Done => out.ok(),
            Expect::Integer(number) | Expect::Between(number, _) => out.integer(*number),
            Expect::Version(version) => out.integer(version.least() as i64),
            Expect::Bulk(bytes) => out.bulk(bytes),
            Expect::Array(items) => {
                let array = out.begin_array();
                items.iter().for_each(|item| write(out, item));
                out.end_array(array, items.len());
            }
            Expect::Error(code) => out.error(*code),
            Expect::Aborted => out.aborted(),
        }
    }
    let mut bytes = Vec::new();
    let mut out = ResultWriter::new(&mut bytes, 10_000, results.len());
    for result in results {
        write(&mut out, result);
        out.end_command();
    }
    bytes
}

/// Builds a history line by line: when it was asked and answered, over which connection, what, and the answer.
#[derive(Default)]
struct Lines(GroupHistory);

impl Lines {
    fn write(
        &mut self,
        times: (u64, u64),
        connection: u32,
        commands: &[(Opcode, &[&[u8]])],
        revision: u64,
        told: &[Expect],
    ) {
        let id = self.0.invoke(0, 1, Some(connection), times.0, frame(true, commands));
        self.0.complete(id, times.1, (Operation::Transact, Status::Ok, revision), &body(told));
    }

    fn lost(&mut self, at_ns: u64, connection: u32, commands: &[(Opcode, &[&[u8]])]) -> GroupOperation {
        self.0.invoke(0, 1, Some(connection), at_ns, frame(true, commands))
    }

    fn read(&mut self, times: (u64, u64), connection: u32, commands: &[(Opcode, &[&[u8]])], told: &[Expect]) {
        let id = self.0.invoke(0, 1, Some(connection), times.0, frame(false, commands));
        self.0.complete(id, times.1, (Operation::Query, Status::Ok, 0), &body(told));
    }

    /// Whether the history, which is right, is explained by this order: operations by their lines, and their revisions.
    fn is_explained_by(&self, order: &[(u32, u64)]) -> bool {
        let effect = |&(line, revision): &(u32, u64)| {
            let invoke_ns = self.0.operations[line as usize].invoke_ns;
            let time_ns = OPTIONS.wall_start_ns + invoke_ns;
            Effect { operation: GroupOperation(line), revision, time_ns }
        };
        let mut witness: Vec<Effect> = order.iter().map(effect).collect();
        for at in 1..witness.len() {
            witness[at].time_ns = witness[at].time_ns.max(witness[at - 1].time_ns);
        }
        assert!(self.is_right(), "only the order is in question");
        assert!(matches!(self.0.check(&TOO_HARD, None), Err(GroupFailure::Undecided(_))));
        match (self.0.check(&OPTIONS, Some(&witness)), self.0.check(&TOO_HARD, Some(&witness))) {
            (Ok(0), Ok(1)) => true,
            (Err(GroupFailure::Violation(_)), Err(GroupFailure::Violation(_))) => false,
            other => panic!("the order is judged alike in both cases: {other:?}"),
        }
    }

    fn is_right(&self) -> bool {
        match self.0.check(&OPTIONS, None) {
            Ok(_) => true,
            Err(GroupFailure::Violation(_)) => false,
            Err(GroupFailure::Undecided(_)) => panic!("a short history is decided"),
        }
    }
}

fn bulk(text: &str) -> Expect {
    Expect::Bulk(text.as_bytes().into())
}

const ONE: [u8; 8] = 1u64.to_le_bytes();
const INCREMENT: (Opcode, &[&[u8]]) = (Opcode::Increment, &[b"n", &ONE]);
const GET: (Opcode, &[&[u8]]) = (Opcode::Get, &[b"n"]);

#[test]
fn a_write_without_an_answer_happens_once_late_or_never() {
    let sum = |sum: i64| {
        let mut lines = Lines::default();
        lines.lost(10, 1, &[INCREMENT]);
        lines.write((20, 30), 2, &[INCREMENT], 5, &[Expect::Integer(1)]);
        lines.write((40, 50), 2, &[INCREMENT], 9, &[Expect::Integer(sum)]);
        lines.is_right()
    };
    assert!(sum(2) && sum(3), "never, or between the two");
    assert!(!sum(4), "twice");
    let mut lines = Lines::default();
    lines.write((20, 30), 2, &[INCREMENT], 5, &[Expect::Integer(2)]);
    lines.lost(31, 1, &[INCREMENT]);
    assert!(!lines.is_right(), "it was not even asked for");
}

#[test]
fn keys_that_are_written_at_once_are_seen_at_once() {
    let halves = |a: &str, b: &str| {
        let mut lines = Lines::default();
        lines.write((10, 20), 1, &[(Opcode::MultiSet, &[b"a", b"1", b"b", b"1"])], 1, &[Expect::Done]);
        lines.write((30, 60), 1, &[(Opcode::MultiSet, &[b"a", b"2", b"b", b"2"])], 2, &[Expect::Done]);
        lines.read((40, 50), 2, &[(Opcode::MultiGet, &[b"a", b"b"])], &[Expect::Array(vec![bulk(a), bulk(b)])]);
        lines.is_right()
    };
    assert!(halves("1", "1") && halves("2", "2"));
    assert!(!halves("1", "2") && !halves("2", "1"));
}

#[test]
fn what_is_copied_may_come_from_a_write_without_an_answer() {
    let mut lines = Lines::default();
    lines.write((10, 20), 1, &[(Opcode::Set, &[b"a", b"5"])], 1, &[Expect::Done]);
    lines.lost(25, 2, &[(Opcode::Increment, &[b"a", &8u64.to_le_bytes()])]);
    lines.write((30, 40), 1, &[(Opcode::Rename, &[b"a", b"b"])], 3, &[Expect::Done]);
    lines.write((50, 60), 1, &[(Opcode::Set, &[b"a", b""])], 4, &[Expect::Done]);
    lines.write((70, 80), 1, &[(Opcode::Length, &[b"b"])], 5, &[Expect::Integer(2)]);
    assert!(lines.is_right());
}

#[test]
fn requests_of_one_connection_take_effect_in_their_order() {
    let seen = |value: Expect, connection: u32| {
        let mut lines = Lines::default();
        lines.read((10, 30), 1, &[GET], &[value]);
        lines.write((10, 30), connection, &[INCREMENT], 1, &[Expect::Integer(1)]);
        lines.is_right()
    };
    assert!(seen(Expect::Nil, 1) && seen(Expect::Nil, 2));
    assert!(seen(bulk("1"), 2), "at the same time over another connection");
    assert!(!seen(bulk("1"), 1), "the read was asked for first");
}

#[test]
fn what_was_lost_with_a_connection_takes_effect_in_its_order() {
    let seen = |value: &str| {
        let mut lines = Lines::default();
        lines.lost(10, 1, &[(Opcode::Set, &[b"n", b"first"])]);
        lines.lost(10, 1, &[(Opcode::Set, &[b"n", b"second"])]);
        lines.read((20, 30), 2, &[GET], &[bulk("second")]);
        lines.read((40, 50), 2, &[GET], &[bulk(value)]);
        lines.is_right()
    };
    assert!(seen("second"));
    assert!(!seen("first"));
}

#[test]
fn a_check_holds_for_the_version_that_was_seen_and_for_no_other() {
    let check = |version: u64, told: Expect| {
        let mut lines = Lines::default();
        lines.write((10, 20), 1, &[INCREMENT], 4, &[Expect::Integer(1)]);
        let check: (Opcode, &[&[u8]]) = (Opcode::Check, &[b"n", &version.to_le_bytes(), &[0; 8]]);
        lines.write((30, 40), 1, &[check, INCREMENT], 6, &[told]);
        lines.is_right()
    };
    assert!(check(4, Expect::Integer(2)) && check(3, Expect::Aborted));
    assert!(!check(3, Expect::Integer(2)) && !check(4, Expect::Aborted));
}

#[test]
fn a_version_that_nobody_was_told_of_belongs_to_a_write_without_an_answer() {
    let stamp: (Opcode, &[&[u8]]) = (Opcode::Stamp, &[b"n"]);
    let told = |version: u64| Expect::Array(vec![Expect::Version(Version::Exact(version)), Expect::Integer(0)]);
    let versions = |first: u64, second: u64| {
        let mut lines = Lines::default();
        lines.write((10, 20), 1, &[INCREMENT], 4, &[Expect::Integer(1)]);
        lines.lost(25, 2, &[INCREMENT]);
        lines.read((30, 40), 1, &[GET, stamp], &[bulk("2"), told(first)]);
        lines.write((50, 60), 1, &[stamp], 9, &[told(second)]);
        lines.is_right()
    };
    assert!(versions(7, 7));
    assert!(!versions(3, 3), "before what had been answered");
    assert!(!versions(7, 8), "one write has one version");
    assert!(!versions(10, 10), "later than what follows it");
}

#[test]
fn a_key_is_there_until_it_expires_and_not_longer() {
    let seen = |at_ns: u64, value: Expect| {
        let mut lines = Lines::default();
        let set: (Opcode, &[&[u8]]) = (Opcode::Set, &[b"n", b"v"]);
        lines.write((10, 20), 1, &[set], 1, &[Expect::Done]);
        // An absolute time, as that of the history: 2 ms, which is 1 ms after its beginning.
        let mut program = Builder::new();
        let flags = lockstep_proto::program::flags::ABSOLUTE;
        program.command_with(Opcode::Expire, flags, &[b"n", &2i64.to_le_bytes()]);
        let mut expire = Vec::new();
        lockstep_server::resp::submission::Payload::Program(program.as_bytes()).encode(true, 0, 1, &mut expire);
        let id = lines.0.invoke(0, 1, Some(1), 30, Bytes::from(expire));
        lines.0.complete(id, 40, (Operation::Transact, Status::Ok, 2), &body(&[Expect::Integer(1)]));
        lines.read((at_ns, at_ns + 5), 2, &[GET], &[value]);
        lines.is_right()
    };
    assert!(seen(900_000, bulk("v")) && seen(1_100_000, Expect::Nil));
    assert!(seen(1_000_000, bulk("v")) && seen(1_000_000, Expect::Nil), "within the slack of the clocks");
    assert!(!seen(900_000, Expect::Nil) && !seen(1_100_000, bulk("v")));
}

fn any_program(dice: &mut Dice, versions: &BTreeMap<&[u8], u64>) -> (bool, Bytes) {
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    let (key, other) = (dice.pick(&keys), dice.pick(&keys));
    let value = dice.below(10).to_string().into_bytes();
    let version = versions.get(key).copied().unwrap_or(0).to_le_bytes();
    let check: (Opcode, &[&[u8]]) = (Opcode::Check, &[key, &version, &[0; 8]]);
    let command: (Opcode, &[&[u8]]) = match dice.below(8) {
        0 | 1 => {
            return (false, frame(false, &[(Opcode::Get, &[key]), (Opcode::Stamp, &[key]), (Opcode::Get, &[other])]));
        }
        2 => (Opcode::Set, &[key, &value]),
        3 => (Opcode::Append, &[key, &value]),
        4 => (Opcode::Delete, &[key]),
        5 => (Opcode::MultiSet, &[key, &value, other, &value]),
        6 => (Opcode::Copy, &[key, other]),
        _ => (Opcode::Increment, &[key, &ONE]),
    };
    let commands = [check, command];
    (true, frame(true, &commands[usize::from(dice.chance(600))..]))
}

/// Clients ask one thing after another of one copy of the keys, and lose many answers. Also returns the order of its
/// writes.
fn right_history(dice: &mut Dice) -> (GroupHistory, Vec<Effect>) {
    struct Doing {
        id: GroupOperation,
        is_write: bool,
        request: Bytes,
        effect_ns: u64,
        return_ns: Option<u64>,
    }
    let (mut history, mut effects) = (GroupHistory::default(), Vec::new());
    let (mut state, mut versions, mut revision) = (Keyspace::default(), BTreeMap::new(), 0);
    let mut clients = [(0u64, 1u32); 3];
    let mut doing: Vec<Doing> = Vec::new();
    for _ in 0..40 {
        let client = (0..3).min_by_key(|&client| clients[client].0).expect("there are three");
        let (now_ns, connection) = &mut clients[client];
        // Everything that takes effect before this is asked for.
        doing.sort_by_key(|doing| doing.effect_ns);
        let due = doing.iter().take_while(|doing| doing.effect_ns < *now_ns).count();
        for done in doing.drain(..due) {
            revision += u64::from(done.is_write);
            let time_ns = OPTIONS.wall_start_ns + done.effect_ns;
            if done.is_write {
                effects.push(Effect { operation: done.id, revision, time_ns });
            }
            let time = Time::exact(time_ns);
            let (request, _) = Request::parse_trusted(&done.request).expect("a whole frame");
            let expected = state.carry_out(&Moment { time, version: Version::Exact(revision) }, &request, false);
            let Body::Results(results) = &expected.body else { panic!("programs have results") };
            let Some(return_ns) = done.return_ns else { continue };
            let told = (request.operation(), Status::Ok, if done.is_write { revision } else { 0 });
            history.complete(done.id, return_ns, told, &body(results));
        }
        for (key, entry) in [&b"a"[..], b"b", b"c"].map(|key| (key, state.get(key))) {
            versions.insert(key, entry.map_or(0, |entry| entry.version.least()));
        }
        let (is_write, request) = any_program(dice, &versions);
        let id = history.invoke(0, client as u8, Some(*connection), *now_ns, request.clone());
        let effect_ns = *now_ns + dice.below(50);
        if dice.chance(400) {
            *connection += 1;
            if dice.chance(600) {
                let effect_ns = effect_ns + dice.below(400);
                doing.push(Doing { id, is_write, request, effect_ns, return_ns: None });
            }
            *now_ns += dice.below(100);
            continue;
        }
        let return_ns = effect_ns + dice.below(50);
        doing.push(Doing { id, is_write, request, effect_ns, return_ns: Some(return_ns) });
        *now_ns = return_ns + 1 + dice.below(100);
    }
    (history, effects)
}

#[test]
fn no_history_that_is_right_is_found_wrong() {
    let mut undecided = 0;
    for seed in 0..400 {
        let (history, _) = right_history(&mut Dice::new(seed, "history"));
        match history.check(&OPTIONS, None) {
            Ok(_) => {}
            Err(GroupFailure::Undecided(_)) => undecided += 1,
            Err(GroupFailure::Violation(reason)) => panic!("seed {seed}: {reason}"),
        }
    }
    assert!(undecided <= 20, "{undecided} of 400 histories were not decided");
}

#[test]
fn the_order_of_the_log_decides_what_is_too_hard_to_search_for() {
    for seed in 0..400 {
        let (history, mut witness) = right_history(&mut Dice::new(seed, "history"));
        assert!(matches!(history.check(&TOO_HARD, None), Err(GroupFailure::Undecided(_))));
        assert_eq!(history.check(&TOO_HARD, Some(&witness)), Ok(1), "seed {seed}");
        let is_answered = |effect: &Effect| history.operations[effect.operation.0 as usize].told.is_some();
        let answered = witness.iter().position(is_answered).expect("something was answered");
        witness.remove(answered);
        let judged = history.check(&TOO_HARD, Some(&witness));
        assert!(matches!(judged, Err(GroupFailure::Violation(_))), "seed {seed}: an answered write is missing");
    }
}

#[test]
fn an_order_with_a_write_missing_doubled_or_elsewhere_is_refused() {
    let mut lines = Lines::default();
    lines.lost(10, 1, &[INCREMENT]);
    lines.write((20, 30), 2, &[INCREMENT], 5, &[Expect::Integer(2)]);
    lines.write((40, 50), 2, &[INCREMENT], 9, &[Expect::Integer(3)]);
    lines.lost(60, 2, &[INCREMENT]);
    assert!(lines.is_explained_by(&[(0, 4), (1, 5), (2, 9)]));
    assert!(lines.is_explained_by(&[(0, 4), (1, 5), (2, 9), (3, 10)]));
    assert!(!lines.is_explained_by(&[(1, 5), (2, 9)]), "without the lost one the sums are others");
    assert!(!lines.is_explained_by(&[(1, 5), (0, 6), (2, 9)]), "too late");
    assert!(!lines.is_explained_by(&[(0, 4), (1, 5), (2, 9), (0, 10)]), "twice");
    assert!(!lines.is_explained_by(&[(0, 4), (2, 5), (1, 9)]), "against time");
    assert!(!lines.is_explained_by(&[(0, 4), (1, 5)]), "an answered one is missing");
    assert!(!lines.is_explained_by(&[(0, 4), (1, 6), (2, 9)]), "its answer has another revision");
    assert!(!lines.is_explained_by(&[(0, 5), (1, 5), (2, 9)]), "two have one revision");
}

#[test]
fn an_order_against_time_or_that_of_a_connection_is_refused() {
    let set = |key: &'static [u8]| -> [&[u8]; 2] { [key, b"v"] };
    let (a, b) = (set(b"a"), set(b"b"));
    let mut lines = Lines::default();
    // Nothing in the answers tells in which order these were.
    lines.lost(10, 1, &[(Opcode::Set, &a)]);
    lines.lost(10, 1, &[(Opcode::Set, &b)]);
    lines.read((20, 30), 2, &[(Opcode::Get, &[b"c"])], &[Expect::Nil]);
    lines.write((40, 50), 2, &[(Opcode::Set, &a)], 7, &[Expect::Done]);
    lines.lost(60, 3, &[(Opcode::Set, &b)]);
    assert!(lines.is_explained_by(&[(0, 1), (1, 2), (3, 7), (4, 8)]));
    assert!(lines.is_explained_by(&[(1, 2), (3, 7)]), "the first was lost on its way");
    assert!(!lines.is_explained_by(&[(1, 1), (0, 2), (3, 7)]), "the second was sent later over the same connection");
    assert!(!lines.is_explained_by(&[(4, 6), (3, 7)]), "the last was not even asked for");
}

#[test]
fn an_order_in_which_something_refused_takes_effect_is_refused() {
    let mut lines = Lines::default();
    let refused = lines.lost(10, 1, &[(Opcode::Set, &[b"a", b"v"])]);
    lines.0.refuse(refused);
    lines.write((20, 30), 2, &[INCREMENT], 5, &[Expect::Integer(1)]);
    assert!(lines.is_explained_by(&[(1, 5)]));
    assert!(!lines.is_explained_by(&[(0, 4), (1, 5)]));
}

#[test]
fn an_order_that_a_read_does_not_fit_into_is_refused() {
    let mut lines = Lines::default();
    lines.write((10, 40), 1, &[INCREMENT], 1, &[Expect::Integer(1)]);
    lines.lost(10, 2, &[(Opcode::Set, &[b"n", b"7"])]);
    lines.read((20, 30), 3, &[GET], &[bulk("7")]);
    assert!(lines.is_explained_by(&[(0, 1), (1, 2)]));
    assert!(!lines.is_explained_by(&[(0, 1)]), "it was never seen");
    let mut lines = Lines::default();
    lines.write((10, 20), 1, &[INCREMENT], 1, &[Expect::Integer(1)]);
    lines.lost(21, 2, &[INCREMENT]);
    lines.lost(21, 3, &[(Opcode::Set, &[b"n", b"1"])]);
    lines.read((30, 40), 4, &[GET], &[bulk("1")]);
    lines.read((50, 60), 4, &[GET], &[bulk("2")]);
    assert!(lines.is_explained_by(&[(0, 1), (1, 2)]));
    assert!(!lines.is_explained_by(&[(0, 1), (2, 2)]), "the sum was never seen");
}

#[test]
fn an_order_in_which_a_key_expires_at_another_time_is_refused() {
    let explained = |read: (u64, u64), value: Expect, set_ns: u64| {
        let mut lines = Lines::default();
        let mut program = Builder::new();
        let flags = lockstep_proto::program::flags::RELATIVE;
        program.command_with(Opcode::SetWith, flags, &[b"n", b"v", &1i64.to_le_bytes(), b""]);
        let mut set = Vec::new();
        lockstep_server::resp::submission::Payload::Program(program.as_bytes()).encode(true, 0, 1, &mut set);
        let id = lines.0.invoke(0, 1, Some(1), 100, Bytes::from(set));
        lines.0.complete(id, 110, (Operation::Transact, Status::Ok, 2), &body(&[Expect::Done]));
        lines.read(read, 2, &[GET], &[value]);
        let effect = Effect { operation: id, revision: 2, time_ns: OPTIONS.wall_start_ns + set_ns };
        lines.0.check(&TOO_HARD, Some(&[effect])).is_ok()
    };
    // A relative expiry counts from the whole ms: it is over 1 ms after the beginning of the history.
    assert!(explained((900_000, 900_005), bulk("v"), 105) && explained((1_100_000, 1_100_005), Expect::Nil, 105));
    assert!(!explained((900_000, 900_005), Expect::Nil, 105) && !explained((1_100_000, 1_100_005), bulk("v"), 105));
    assert!(!explained((900_000, 900_005), bulk("v"), 500), "the log says that it was carried out after its answer");
}

#[test]
fn what_the_log_has_is_told_by_session_and_sequence_or_by_the_connection() {
    let named = |session: u64, sequence: u64| {
        let parts = RequestParts {
            operation: Operation::Put,
            flags: 0,
            session,
            sequence,
            key: b"k",
            arguments: &[],
            value: b"v",
        };
        let mut frame = Vec::new();
        encode_request(&parts, &mut frame);
        Bytes::from(frame)
    };
    let (mine, other, unnamed) = (named(3, 1), named(3, 2), frame(true, &[INCREMENT]));
    let mut history = GroupHistory::default();
    let put = history.invoke(0, 1, None, 10, mine.clone());
    let increment = history.invoke(0, 2, Some(1), 10, unnamed.clone());
    let carried = |frame: &'static [u8], asked: Option<GroupOperation>, revision: u64| {
        let (request, _) = Request::parse_trusted(frame).expect("a whole frame");
        Carried { request, asked, revision, time_ns: 0 }
    };
    let [mine, other, unnamed] = [mine, other, unnamed].map(|frame| &*Vec::from(frame).leak());
    let log = [carried(mine, None, 1), carried(other, None, 2), carried(unnamed, Some(increment), 3)];
    let witness = history.witness(&log).expect("all was asked for");
    let told: Vec<(GroupOperation, u64)> = witness.iter().map(|effect| (effect.operation, effect.revision)).collect();
    assert_eq!(told, [(put, 1), (increment, 3)]);
    assert!(history.witness(&[carried(unnamed, None, 1)]).is_err(), "nobody has asked for it");
}

/// A request of the native protocol about the key "k".
fn native(operation: Operation, sequence: u64, arguments: &[u8], value: &[u8]) -> Bytes {
    let session = if operation.is_logged() { 9 } else { 0 };
    let mut frame = Vec::new();
    encode_request(&RequestParts { operation, flags: 0, session, sequence, key: b"k", arguments, value }, &mut frame);
    Bytes::from(frame)
}

/// A key is written, is given 5 ms, and is looked at; 10 ms later it is deleted, which ends like this.
fn expiring(left_ms: u64, deleted: Status) -> GroupHistory {
    const LATER_NS: u64 = 10_000_000;
    let mut history = GroupHistory::default();
    let mut line = |at_ns: u64, request: Bytes, (status, version): (Status, u64), body: &[u8]| {
        let (parsed, _) = Request::parse_trusted(&request).expect("it is whole");
        let operation = parsed.operation();
        let id = history.invoke(0, 1, None, at_ns, request.clone());
        history.complete(id, at_ns + 10, (operation, status, version), body);
    };
    let ok = (Status::Ok, 3);
    line(10, native(Operation::Put, 1, &[], b"v"), ok, &[]);
    line(30, native(Operation::Expire, 2, &5u64.to_le_bytes(), &[]), ok, &[]);
    line(50, native(Operation::Exists, 1, &[], &[]), ok, &[]);
    line(70, native(Operation::TimeToLive, 2, &[], &[]), ok, &left_ms.to_le_bytes());
    let version = if deleted == Status::Ok { 9 } else { 0 };
    line(LATER_NS, native(Operation::Delete, 3, &[], &[]), (deleted, version), &[]);
    history
}

#[test]
fn what_the_native_protocol_says_of_expiry_is_judged_by_the_times_of_the_log() {
    // Operation by its line, revision, and time.
    let follow = |history: &GroupHistory, log: &[(u32, u64, u64)]| {
        let effect = |&(line, revision, ns): &(u32, u64, u64)| Effect {
            operation: GroupOperation(line),
            revision,
            time_ns: OPTIONS.wall_start_ns + ns,
        };
        let witness: Vec<Effect> = log.iter().map(effect).collect();
        history.follow(&OPTIONS, &witness).map_err(|text| text.lines().next().unwrap_or_default().to_owned())
    };
    const LOG: [(u32, u64, u64); 3] = [(0, 3, 15), (1, 5, 35), (4, 9, 10_000_005)];
    assert_eq!(follow(&expiring(5, Status::NotFound), &LOG), Ok(()));
    let is_refused = |history: &GroupHistory, log: &[(u32, u64, u64)], why: &str| {
        let text = follow(history, log).expect_err("it cannot have been so");
        assert!(text.contains(why), "{text}");
    };
    is_refused(&expiring(5, Status::Ok), &LOG, "by the log, its answer is");
    is_refused(&expiring(6, Status::NotFound), &LOG, "before something that must precede it");
    is_refused(&expiring(5, Status::NotFound), &[LOG[0], LOG[2]], "before something that must precede it");
    let mut alone = GroupHistory::default();
    for (line, revision) in [(0, 3), (1, 3)] {
        let operated = &expiring(5, Status::NotFound).operations[line];
        let id = alone.invoke(0, 1, None, operated.invoke_ns, operated.request.clone());
        let operation = operated.request().operation();
        alone.complete(id, operated.return_ns, (operation, Status::Ok, revision), &[]);
    }
    is_refused(&alone, &LOG[..1], "it was told that it was carried out, and is not in the log");
    assert_eq!(follow(&alone, &LOG[..2]), Ok(()));
}
