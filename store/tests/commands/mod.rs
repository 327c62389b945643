//! What programs should do, said as plainly as possible, and random programs.

use std::{collections::BTreeMap, fmt};

use lockstep_proto::{
    Operation, Status,
    program::{Builder, ErrorCode, Opcode, Value, flags, results},
    reply::Reply,
    request::{Request, RequestParts, encode_request},
};
use lockstep_store::{Store, WriteResult};
use proptest::prelude::*;

/// A result with what it points to.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Nil,
    Ok,
    Integer(i64),
    Bulk(Vec<u8>),
    Word(&'static str),
    Array(Vec<Answer>),
    Error(ErrorCode),
    Aborted,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Bulk(bytes) => {
                write!(formatter, "{}*\"{}\"", bytes.len(), bytes[..bytes.len().min(50)].escape_ascii())
            }
            Answer::Array(answers) => formatter.debug_list().entries(answers).finish(),
            Answer::Integer(number) => write!(formatter, "{number}"),
            Answer::Word(word) => write!(formatter, "{word}"),
            Answer::Error(code) => write!(formatter, "{code:?}"),
            Answer::Nil => write!(formatter, "nil"),
            Answer::Ok => write!(formatter, "ok"),
            Answer::Aborted => write!(formatter, "aborted"),
        }
    }
}

impl Answer {
    fn of(value: Value<'_>) -> Answer {
        match value {
            Value::Nil => Answer::Nil,
            Value::Ok => Answer::Ok,
            Value::Integer(number) => Answer::Integer(number),
            Value::Bulk(bytes) => Answer::Bulk(bytes.to_vec()),
            Value::Word(word) => Answer::Word(word.text()),
            Value::Array(items) => {
                let answers: Vec<Answer> = items.iter().map(Answer::of).collect();
                assert_eq!(answers.len(), items.len());
                Answer::Array(answers)
            }
            Value::Error(code) => Answer::Error(code),
            Value::Aborted => Answer::Aborted,
        }
    }

    fn of_body(body: &[u8]) -> Vec<Answer> {
        results(body).map(Answer::of).collect()
    }
}

fn bulk(bytes: &[u8]) -> Answer {
    Answer::Bulk(bytes.to_vec())
}

fn boolean(is_so: bool) -> Answer {
    Answer::Integer(i64::from(is_so))
}

/// A command: opcode, flags, arguments.
#[derive(Clone)]
pub struct Call(pub Opcode, pub u8, pub Vec<Vec<u8>>);

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}/{}", self.0, self.1)?;
        self.2.iter().try_for_each(|it| match it.len() {
            8 => write!(formatter, " {}", number(it)),
            ..60 => write!(formatter, " \"{}\"", it.escape_ascii()),
            size => write!(formatter, " {size}*\"{}\"", it[..10].escape_ascii()),
        })
    }
}

pub fn build(calls: &[Call]) -> Builder {
    let mut program = Builder::new();
    for Call(opcode, flags, arguments) in calls {
        program.append(*opcode, *flags, arguments.iter().map(Vec::as_slice));
    }
    program
}

/// The frame of a program, as the front door makes it: without a session.
pub fn frame(operation: Operation, program: &Builder) -> Vec<u8> {
    let parts = RequestParts {
        operation,
        flags: 0,
        session: 0,
        sequence: 1,
        key: &[],
        arguments: &[],
        value: program.as_bytes(),
    };
    let mut frame = Vec::new();
    encode_request(&parts, &mut frame);
    frame
}

pub fn parse(frame: &[u8]) -> Request<'_> {
    let (request, rest) = Request::parse_trusted(frame).expect("a valid frame");
    assert!(rest.is_empty());
    request
}

/// Applies programs as one batch.
pub fn transact(store: &mut Store, now_ns: u64, programs: &[(u64, Builder)]) -> Vec<(WriteResult, Vec<Answer>)> {
    let frames: Vec<_> = programs.iter().map(|(revision, it)| (*revision, frame(Operation::Transact, it))).collect();
    let requests: Vec<_> = frames.iter().map(|(revision, frame)| (*revision, parse(frame))).collect();
    let (mut written, mut answers) = (Vec::new(), Vec::new());
    store.apply_batch_with(now_ns, &requests, &mut written, |index, result, body| {
        assert_eq!(index, answers.len());
        answers.push((*result, Answer::of_body(body)));
    });
    assert!(written.iter().eq(answers.iter().map(|(result, _)| result)));
    answers
}

/// Answers a program that only reads.
pub fn query(store: &Store, now_ns: u64, calls: &[Call]) -> (Status, Vec<Answer>) {
    let mut out = Vec::new();
    store.read(now_ns, &parse(&frame(Operation::Query, &build(calls))), &mut out);
    let reply = Reply::parse(&out).expect("a valid reply").expect("a whole reply");
    (reply.status(), Answer::of_body(reply.body()))
}

pub fn call(opcode: Opcode, arguments: &[&[u8]]) -> Call {
    Call(opcode, 0, arguments.iter().map(|argument| argument.to_vec()).collect())
}

pub fn int(number: i64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub value: Vec<u8>,
    pub expiry_ms: Option<i64>,
    pub version: u64,
    pub is_patched: bool,
    pub is_float: bool,
}

/// The naive keyspace.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub objects: BTreeMap<Vec<u8>, Object>,
    pub now_ms: i64,
    pub revision: u64,
}

const VALUE_MAX: usize = 1 << 20;

fn number(argument: &[u8]) -> i64 {
    i64::from_le_bytes(argument.try_into().expect("8 bytes"))
}

fn whole(text: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

impl Model {
    /// Time goes on.
    pub fn set_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.objects.retain(|_, object| object.expiry_ms.is_none_or(|expiry_ms| expiry_ms > now_ms));
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>, expiry_ms: Option<i64>) -> &mut Object {
        let object = Object { value, expiry_ms, version: self.revision, is_patched: false, is_float: false };
        self.objects.insert(key.to_vec(), object);
        self.objects.get_mut(key).expect("just inserted")
    }

    /// Removes the key if its time has come.
    fn settle(&mut self, key: &[u8]) {
        let now_ms = self.now_ms;
        if self.objects.get(key).and_then(|object| object.expiry_ms).is_some_and(|expiry_ms| expiry_ms <= now_ms) {
            self.objects.remove(key);
        }
    }

    fn time(&self, flags: u8, argument: &[u8]) -> Option<i64> {
        match flags & (flags::RELATIVE | flags::ABSOLUTE) {
            flags::RELATIVE => Some(self.now_ms.saturating_add(number(argument))),
            flags::ABSOLUTE => Some(number(argument)),
            _ => None,
        }
    }

    /// Carries out a program. `given` is what the store answered, for the one command whose arithmetic is not repeated
    /// here.
    pub fn run(&mut self, calls: &[Call], given: &[Answer]) -> Vec<Answer> {
        self.revision += 1;
        let is_check = |call: &&Call| call.0 == Opcode::Check;
        for Call(_, _, arguments) in calls.iter().take_while(is_check) {
            let present = self.stamp(&arguments[0]);
            if present != [Answer::Integer(number(&arguments[1])), Answer::Integer(number(&arguments[2]))] {
                return vec![Answer::Aborted];
            }
        }
        let calls = calls.iter().skip_while(is_check);
        calls.enumerate().map(|(index, call)| self.carry_out(call, given.get(index))).collect()
    }

    pub fn stamp(&self, key: &[u8]) -> [Answer; 2] {
        let object = self.objects.get(key);
        let expiry_ns = object.and_then(|object| object.expiry_ms).map_or(0, |expiry_ms| {
            // Beyond what nanoseconds can say, the number is in ms with the top bit set.
            expiry_ms.checked_mul(1_000_000).unwrap_or(i64::MIN | expiry_ms)
        });
        [Answer::Integer(object.map_or(0, |object| object.version as i64)), Answer::Integer(expiry_ns)]
    }

    fn carry_out(&mut self, Call(opcode, flags, arguments): &Call, given: Option<&Answer>) -> Answer {
        let flags = *flags;
        let key = arguments.first().cloned().unwrap_or_default();
        let found = self.objects.get(&key).cloned();
        let value = found.as_ref().map(|object| object.value.clone());
        let expiry_ms = found.as_ref().and_then(|object| object.expiry_ms);
        match opcode {
            Opcode::Get => value.map_or(Answer::Nil, Answer::Bulk),
            Opcode::MultiGet => Answer::Array(
                arguments.iter().map(|key| self.objects.get(key).map_or(Answer::Nil, |it| bulk(&it.value))).collect(),
            ),
            Opcode::Length => Answer::Integer(value.map_or(0, |value| value.len() as i64)),
            Opcode::Exists => {
                Answer::Integer(arguments.iter().filter(|key| self.objects.contains_key(*key)).count() as i64)
            }
            Opcode::Type => Answer::Word(if found.is_some() { "string" } else { "none" }),
            Opcode::TimeToLive => Answer::Integer(match (&found, expiry_ms) {
                (None, _) => -2,
                (_, None) => -1,
                (_, Some(expiry_ms)) => {
                    let ms = if flags & flags::ABSOLUTE != 0 { expiry_ms } else { expiry_ms - self.now_ms };
                    if flags & flags::SECONDS != 0 { ((i128::from(ms) + 500) / 1000) as i64 } else { ms }
                }
            }),
            Opcode::Encoding => found.map_or(Answer::Nil, |object| bulk(encoding(&object))),
            Opcode::Stamp => Answer::Array(self.stamp(&key).to_vec()),
            Opcode::KeyCount => Answer::Integer(self.objects.len() as i64),
            Opcode::Refuse => found.map_or(Answer::Nil, |_| Answer::Error(ErrorCode::NotAnInteger)),
            _ => self.change(*opcode, flags, arguments, given),
        }
    }

    /// Carries out what writes.
    fn change(&mut self, opcode: Opcode, flags: u8, arguments: &[Vec<u8>], given: Option<&Answer>) -> Answer {
        let key = arguments.first().cloned().unwrap_or_default();
        let found = self.objects.get(&key).cloned();
        let value = found.as_ref().map(|object| object.value.clone());
        let expiry_ms = found.as_ref().and_then(|object| object.expiry_ms);
        match opcode {
            Opcode::Set => {
                self.put(&key, arguments[1].clone(), None);
                Answer::Ok
            }
            Opcode::SetWith => self.set_with(flags, arguments, found),
            Opcode::MultiSet => {
                let is_refused =
                    flags & flags::NX != 0 && arguments.chunks(2).any(|pair| self.objects.contains_key(&pair[0]));
                if !is_refused {
                    for pair in arguments.chunks(2) {
                        self.put(&pair[0], pair[1].clone(), None);
                    }
                }
                if flags & flags::NX != 0 { boolean(!is_refused) } else { Answer::Ok }
            }
            Opcode::Append => {
                let mut all = value.unwrap_or_default();
                all.extend_from_slice(&arguments[1]);
                self.patch(&key, all, expiry_ms, found.is_some())
            }
            Opcode::SetRange => self.set_range(&key, arguments, found),
            Opcode::Increment => match whole(&value.unwrap_or(b"0".to_vec())) {
                None => Answer::Error(ErrorCode::NotAnInteger),
                Some(before) => match before.checked_add(number(&arguments[1])) {
                    None => Answer::Error(ErrorCode::Overflow),
                    Some(sum) => {
                        self.put(&key, sum.to_string().into_bytes(), expiry_ms);
                        Answer::Integer(sum)
                    }
                },
            },
            Opcode::IncrementFloat => {
                let is_number =
                    str::from_utf8(&value.unwrap_or(b"0".to_vec())).is_ok_and(|it| it.parse::<f64>().is_ok());
                match given {
                    Some(Answer::Bulk(sum)) if is_number => {
                        self.put(&key, sum.clone(), expiry_ms).is_float = true;
                        bulk(sum)
                    }
                    _ => Answer::Error(ErrorCode::NotAFloat),
                }
            }
            Opcode::GetDelete => {
                self.objects.remove(&key);
                value.map_or(Answer::Nil, Answer::Bulk)
            }
            Opcode::GetExpire => {
                let expiry_ms = self.time(flags, &arguments[1]);
                if let Some(object) = self.objects.get_mut(&key) {
                    object.expiry_ms = expiry_ms;
                }
                self.settle(&key);
                value.map_or(Answer::Nil, Answer::Bulk)
            }
            Opcode::Delete => {
                Answer::Integer(arguments.iter().filter(|key| self.objects.remove(*key).is_some()).count() as i64)
            }
            Opcode::DeleteIfEqual => {
                boolean(value.as_ref() == Some(&arguments[1]) && self.objects.remove(&key).is_some())
            }
            Opcode::Expire => self.expire(flags, arguments),
            Opcode::Persist => {
                boolean(self.objects.get_mut(&key).is_some_and(|object| object.expiry_ms.take().is_some()))
            }
            Opcode::Rename | Opcode::Copy => self.rename_or_copy(opcode, flags, arguments),
            Opcode::Flush => {
                self.objects.clear();
                Answer::Ok
            }
            _ => unreachable!("{opcode:?} is not in the model"),
        }
    }

    fn set_range(&mut self, key: &[u8], arguments: &[Vec<u8>], found: Option<Object>) -> Answer {
        let expiry_ms = found.as_ref().and_then(|object| object.expiry_ms);
        let mut all = found.map(|object| object.value).unwrap_or_default();
        if arguments[2].is_empty() {
            return Answer::Integer(all.len() as i64);
        }
        // An offset below zero does not come from the front door; it counts as one beyond the end.
        let end = i128::from(number(&arguments[1]) as u64) + arguments[2].len() as i128;
        if end > VALUE_MAX as i128 {
            return Answer::Error(ErrorCode::StringTooLong);
        }
        all.resize(all.len().max(end as usize), 0);
        all[number(&arguments[1]) as usize..end as usize].copy_from_slice(&arguments[2]);
        self.patch(key, all, expiry_ms, true)
    }

    fn patch(&mut self, key: &[u8], value: Vec<u8>, expiry_ms: Option<i64>, is_patched: bool) -> Answer {
        if value.len() > VALUE_MAX {
            return Answer::Error(ErrorCode::StringTooLong);
        }
        let size = value.len() as i64;
        self.put(key, value, expiry_ms).is_patched = is_patched;
        Answer::Integer(size)
    }

    fn set_with(&mut self, flags: u8, arguments: &[Vec<u8>], found: Option<Object>) -> Answer {
        let before = found.as_ref().map(|object| &object.value);
        let is_met = (flags & flags::NX == 0 || before.is_none())
            && (flags & flags::XX == 0 || before.is_some())
            && (flags & flags::IF_EQUAL == 0 || before == Some(&arguments[3]));
        if is_met {
            let kept = found.as_ref().and_then(|object| object.expiry_ms).filter(|_| flags & flags::KEEP_TTL != 0);
            self.put(&arguments[0], arguments[1].clone(), self.time(flags, &arguments[2]).or(kept));
            self.settle(&arguments[0]);
        }
        if flags & flags::GET != 0 {
            before.map_or(Answer::Nil, |value| bulk(value))
        } else if flags & flags::COUNT != 0 {
            boolean(is_met)
        } else if is_met {
            Answer::Ok
        } else {
            Answer::Nil
        }
    }

    fn expire(&mut self, flags: u8, arguments: &[Vec<u8>]) -> Answer {
        let when = self.time(flags, &arguments[1]).expect("one of the two");
        let Some(object) = self.objects.get_mut(&arguments[0]) else { return boolean(false) };
        let present = object.expiry_ms;
        // Infinite is larger than all that can be said.
        let infinite = present.map_or(i128::MAX, i128::from);
        let is_met = (flags & flags::NX == 0 || present.is_none())
            && (flags & flags::XX == 0 || present.is_some())
            && (flags & flags::GT == 0 || i128::from(when) > infinite)
            && (flags & flags::LT == 0 || i128::from(when) < infinite);
        if is_met {
            object.expiry_ms = Some(when);
            self.settle(&arguments[0]);
        }
        boolean(is_met)
    }

    fn rename_or_copy(&mut self, opcode: Opcode, flags: u8, arguments: &[Vec<u8>]) -> Answer {
        let is_rename = opcode == Opcode::Rename;
        let Some(source) = self.objects.get(&arguments[0]).cloned() else {
            return if is_rename { Answer::Error(ErrorCode::NoSuchKey) } else { boolean(false) };
        };
        let may_replace = if is_rename { flags & flags::NX == 0 } else { flags & flags::REPLACE != 0 };
        let is_done = may_replace || !self.objects.contains_key(&arguments[1]);
        if is_done && arguments[0] != arguments[1] {
            self.objects.insert(arguments[1].clone(), Object { version: self.revision, ..source });
            if is_rename {
                self.objects.remove(&arguments[0]);
            }
        }
        if is_rename && may_replace { Answer::Ok } else { boolean(is_done) }
    }
}

fn encoding(object: &Object) -> &'static [u8] {
    match object {
        Object { is_patched: true, .. } => b"raw",
        Object { is_float: false, value, .. } if whole(value).is_some() => b"int",
        Object { value, .. } if value.len() <= 44 => b"embstr",
        _ => b"raw",
    }
}

pub fn key(number: u8) -> Vec<u8> {
    match number {
        0 => vec![],
        1 => b"{tag}1".to_vec(),
        2 => b"{tag}2".to_vec(),
        3 => vec![0xFF; 300],
        number => format!("key-{number}").into_bytes(),
    }
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        16 => prop_oneof![Just(0i64), -20i64..20, Just(i64::MAX), Just(i64::MIN)].prop_map(|it| it.to_string().into_bytes()),
        4 => prop_oneof![Just("01"), Just("-0"), Just("1.5"), Just(" 1"), Just("9223372036854775808"), Just("2e3")]
            .prop_map(|text| text.as_bytes().to_vec()),
        16 => proptest::collection::vec(any::<u8>(), 0..60),
        4 => (any::<u8>(), 0usize..3000).prop_map(|(byte, size)| vec![byte; size]),
        1 => Just(vec![b'v'; VALUE_MAX - 20]),
    ]
}

/// A time around `now_ms`, or far away.
fn time(start_ms: i64) -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => (-3i64..80).prop_map(move |offset| start_ms.saturating_add(offset)),
        1 => prop_oneof![Just(i64::MAX), Just(i64::MAX - 1), Just(i64::MIN), Just(-1i64), Just(0), Just(9_300_000_000_000)],
    ]
}

/// A time and the flag that says from when it counts.
fn when(epoch_ms: i64) -> impl Strategy<Value = (u8, i64)> {
    prop_oneof![time(0).prop_map(|ms| (flags::RELATIVE, ms)), time(epoch_ms).prop_map(|ms| (flags::ABSOLUTE, ms)),]
}

/// Random commands on `keys` keys; the times are around `epoch_ms` and some tens of ms after it.
pub fn calls(keys: u8, epoch_ms: i64) -> impl Strategy<Value = Call> {
    use Opcode::*;
    let key = move || (0..keys).prop_map(key);
    let several = move || proptest::collection::vec(key(), 1..5);
    let one =
        prop_oneof![Just(Get), Just(Length), Just(Type), Just(Encoding), Just(Stamp), Just(GetDelete), Just(Persist)];
    let conditions = prop_oneof![3 => Just(0), 1 => Just(flags::NX), 1 => Just(flags::XX), 2 => Just(flags::IF_EQUAL)];
    let answers = prop_oneof![3 => Just(0), 1 => Just(flags::GET), 1 => Just(flags::COUNT)];
    let expiries = prop_oneof![3 => Just((0, 0)), 1 => Just((flags::KEEP_TTL, 0)), 3 => when(epoch_ms)];
    let offset = prop_oneof![8 => 0i64..200, 1 => Just(VALUE_MAX as i64 - 10), 1 => Just(i64::MAX), 1 => Just(-1)];
    let comparison = prop_oneof![
        Just(0),
        Just(flags::NX),
        Just(flags::XX),
        Just(flags::GT),
        Just(flags::LT),
        Just(flags::XX | flags::GT)
    ];
    prop_oneof![
        4 => (one, key()).prop_map(|(opcode, key)| Call(opcode, 0, vec![key])),
        2 => (prop_oneof![Just(MultiGet), Just(Exists), Just(Delete)], several())
            .prop_map(|(opcode, keys)| Call(opcode, 0, keys)),
        2 => (key(), prop_oneof![Just(0), Just(flags::SECONDS), Just(flags::ABSOLUTE), Just(129)])
            .prop_map(|(key, flags)| Call(TimeToLive, flags, vec![key])),
        1 => key().prop_map(|key| Call(Refuse, 0, vec![key, int(1)])),
        1 => Just(Call(KeyCount, 0, vec![])),
        4 => (key(), value()).prop_map(|(key, value)| Call(Set, 0, vec![key, value])),
        6 => (key(), value(), conditions, answers, expiries, value()).prop_map(
            |(key, value, condition, answer, (expiry, time), old)| {
                Call(SetWith, condition | answer | expiry, vec![key, value, int(time), old])
            }
        ),
        1 => (proptest::collection::vec((key(), value()), 1..4), any::<bool>()).prop_map(|(pairs, is_conditional)| {
            let arguments = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
            Call(MultiSet, if is_conditional { flags::NX } else { 0 }, arguments)
        }),
        3 => (prop_oneof![Just(Append), Just(DeleteIfEqual)], key(), value())
            .prop_map(|(opcode, key, value)| Call(opcode, 0, vec![key, value])),
        3 => (key(), offset, value()).prop_map(|(key, offset, value)| Call(SetRange, 0, vec![key, int(offset), value])),
        3 => (key(), prop_oneof![-9i64..9, Just(i64::MAX), Just(i64::MIN)])
            .prop_map(|(key, delta)| Call(Increment, 0, vec![key, int(delta)])),
        1 => (key(), prop_oneof![Just("0.5"), Just("-3"), Just("1e2"), Just("2.25")])
            .prop_map(|(key, delta)| Call(IncrementFloat, 0, vec![key, delta.as_bytes().to_vec()])),
        1 => (key(), prop_oneof![1 => Just((flags::PERSIST, 0)), 2 => when(epoch_ms)])
            .prop_map(|(key, (flags, time))| Call(GetExpire, flags, vec![key, int(time)])),
        3 => (key(), comparison, when(epoch_ms))
            .prop_map(|(key, comparison, (start, time))| Call(Expire, comparison | start, vec![key, int(time)])),
        2 => (prop_oneof![Just(Rename), Just(Copy)], key(), key(), 0u8..2)
            .prop_map(|(opcode, source, target, flags)| Call(opcode, flags, vec![source, target])),
    ]
}
