//! Commands on values.

use lockstep_proto::{
    limits::VALUE_SIZE_MAX,
    program::{
        ErrorCode, Opcode,
        flags::{ABSOLUTE, COUNT, GET, IF_EQUAL, KEEP_TTL, NX, PERSIST, RELATIVE, XX},
    },
};

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context, Join},
        numbers::{NOT_AN_INTEGER, integer},
    },
    connection::SYNTAX_ERROR,
    program::{are_keys_in_bounds, is_option, run, split},
};

const TOO_LONG: &str = ErrorCode::StringTooLong.text();

const NS_PER_MS: u64 = 1_000_000;

/// What a time of expiry in the options of a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
}

/// Why a time of expiry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpiryError {
    NotAnInteger,
    OutOfRange,
}

/// A time of expiry as it was given.
#[derive(Clone, Copy, Debug)]
struct Expiry<'a> {
    text: &'a [u8],
    unit: Unit,
    is_absolute: bool,
}

impl Expiry<'_> {
    /// Flag and number for a program. The time counts from the batch's timestamp, but whether it can be said at all is
    /// looked at here and now.
    fn resolve(&self, wall_ns: u64) -> Result<(u8, i64), ExpiryError> {
        let time = integer(self.text).ok_or(ExpiryError::NotAnInteger)?;
        let factor = if self.unit == Unit::Seconds { 1000 } else { 1 };
        let ms = Some(time).filter(|&time| time > 0).and_then(|time| time.checked_mul(factor));
        let ms = ms.ok_or(ExpiryError::OutOfRange)?;
        if self.is_absolute {
            return Ok((ABSOLUTE, ms));
        }
        ms.checked_add((wall_ns / NS_PER_MS) as i64).map(|_| (RELATIVE, ms)).ok_or(ExpiryError::OutOfRange)
    }
}

/// Answers why an expiry is refused.
fn refuse_expiry<'a>(context: &mut Context<'_>, error: ExpiryError, command: &str) -> Action<'a> {
    match error {
        ExpiryError::NotAnInteger => context.out.error(NOT_AN_INTEGER),
        ExpiryError::OutOfRange => context.out.error(&format!("ERR invalid expire time in '{command}' command")),
    }
    Action::Done
}

/// Options of SET, or of GETEX.
#[derive(Clone, Copy, Debug, Default)]
struct Options<'a> {
    flags: u8,
    expiry: Option<Expiry<'a>>,
    compared: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// Reads the options from index `first` on; `None` if they make no sense. An option that contradicts one before it
    /// makes none; one that is given twice does.
    fn read(arguments: &Arguments<'a>, first: usize, is_set: bool) -> Option<Options<'a>> {
        let mut options = Options::default();
        let mut index = first;
        while index < arguments.len() {
            let word = arguments.get(index);
            let next = arguments.find(index + 1);
            let took = options.take_flag(word, is_set) || {
                index += 1;
                next.is_some_and(|next| options.take_pair(word, next, is_set))
            };
            if !took {
                return None;
            }
            index += 1;
        }
        Some(options)
    }

    fn take_flag(&mut self, word: &[u8], is_set: bool) -> bool {
        let (flag, excluded) = if !is_set {
            if !is_option(word, "persist") || self.expiry.is_some() {
                return false;
            }
            (PERSIST, 0)
        } else if is_option(word, "nx") {
            (NX, XX | IF_EQUAL)
        } else if is_option(word, "xx") {
            (XX, NX | IF_EQUAL)
        } else if is_option(word, "get") {
            (GET, 0)
        } else if is_option(word, "keepttl") && self.expiry.is_none() {
            (KEEP_TTL, 0)
        } else {
            return false;
        };
        let is_allowed = self.flags & excluded == 0;
        self.flags |= flag;
        is_allowed
    }

    fn take_pair(&mut self, word: &[u8], next: &'a [u8], is_set: bool) -> bool {
        if is_set && is_option(word, "ifeq") {
            let is_allowed = self.flags & (NX | XX | IF_EQUAL) == 0;
            self.flags |= IF_EQUAL;
            self.compared = Some(next);
            return is_allowed;
        }
        let (unit, is_absolute) = if is_option(word, "ex") {
            (Unit::Seconds, false)
        } else if is_option(word, "px") {
            (Unit::Milliseconds, false)
        } else if is_option(word, "exat") {
            (Unit::Seconds, true)
        } else if is_option(word, "pxat") {
            (Unit::Milliseconds, true)
        } else {
            return false;
        };
        let is_other = |before: Expiry<'_>| (before.unit, before.is_absolute) != (unit, is_absolute);
        // PERSIST and KEEPTTL are one bit.
        let is_allowed = self.flags & KEEP_TTL == 0 && !self.expiry.is_some_and(is_other);
        self.expiry = Some(Expiry { text: next, unit, is_absolute });
        is_allowed
    }
}

/// Whether a value is within its bound. If not, that is answered.
fn is_value_in_bounds(context: &mut Context<'_>, value: &[u8]) -> bool {
    if value.len() > VALUE_SIZE_MAX {
        context.out.error(TOO_LONG);
    }
    value.len() <= VALUE_SIZE_MAX
}

/// SetWith, with an expiry that is still to be looked at.
fn set_with<'a>(
    context: &mut Context<'_>,
    (key, value): (&'a [u8], &'a [u8]),
    options: Options<'a>,
    command: &str,
) -> Action<'a> {
    let (flag, time) = match options.expiry.map(|expiry| expiry.resolve(context.wall_ns)).transpose() {
        Ok(expiry) => expiry.unwrap_or((0, 0)),
        Err(error) => return refuse_expiry(context, error, command),
    };
    let compared = options.compared.unwrap_or_default();
    if !is_value_in_bounds(context, value) || !is_value_in_bounds(context, compared) {
        return Action::Done;
    }
    run(context, Opcode::SetWith, options.flags | flag, &[key, value, &time.to_le_bytes(), compared])
}

/// GET.
pub fn get<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    read_value(context, arguments.get(1))
}

fn read_value<'a>(context: &mut Context<'_>, key: &'a [u8]) -> Action<'a> {
    if key.is_empty() {
        return run(context, Opcode::Get, 0, &[key]);
    }
    if are_keys_in_bounds(context, [key].into_iter()) { Action::Get { key } } else { Action::Done }
}

/// SET.
pub fn set<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (key, value) = (arguments.get(1), arguments.get(2));
    if arguments.len() > 3 {
        let Some(options) = Options::read(arguments, 3, true) else {
            context.out.error(SYNTAX_ERROR);
            return Action::Done;
        };
        return set_with(context, (key, value), options, "set");
    }
    if !is_value_in_bounds(context, value) || !are_keys_in_bounds(context, [key].into_iter()) {
        return Action::Done;
    }
    if key.is_empty() { run(context, Opcode::Set, 0, &[key, value]) } else { Action::Put { key, value } }
}

/// SETNX.
pub fn setnx<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let options = Options { flags: NX | COUNT, ..Options::default() };
    set_with(context, (arguments.get(1), arguments.get(2)), options, "setnx")
}

/// SETEX.
pub fn setex<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiring(context, arguments, Unit::Seconds, "setex")
}

/// PSETEX.
pub fn psetex<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiring(context, arguments, Unit::Milliseconds, "psetex")
}

fn set_expiring<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, unit: Unit, command: &str) -> Action<'a> {
    let expiry = Expiry { text: arguments.get(2), unit, is_absolute: false };
    let options = Options { expiry: Some(expiry), ..Options::default() };
    set_with(context, (arguments.get(1), arguments.get(3)), options, command)
}

/// GETSET.
pub fn getset<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let options = Options { flags: GET, ..Options::default() };
    set_with(context, (arguments.get(1), arguments.get(2)), options, "getset")
}

/// GETDEL.
pub fn getdel<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::GetDelete, 0, &[arguments.get(1)])
}

/// GETEX.
pub fn getex<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let key = arguments.get(1);
    let Some(options) = Options::read(arguments, 2, false) else {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    };
    if arguments.len() == 2 {
        return read_value(context, key);
    }
    match options.expiry.map(|expiry| expiry.resolve(context.wall_ns)).transpose() {
        Ok(expiry) => {
            let (flag, time) = expiry.unwrap_or((PERSIST, 0));
            run(context, Opcode::GetExpire, flag, &[key, &time.to_le_bytes()])
        }
        // Redis looks at the key before it looks at the time.
        Err(error) => {
            let code = match error {
                ExpiryError::NotAnInteger => ErrorCode::NotAnInteger,
                ExpiryError::OutOfRange => ErrorCode::InvalidExpireTime,
            };
            run(context, Opcode::Refuse, 0, &[key, &i64::from(code.to_wire()).to_le_bytes()])
        }
    }
}

/// MGET.
pub fn mget<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    split(context, Opcode::MultiGet, arguments.from(1), Join::Gather)
}

/// MSET.
pub fn mset<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_several(context, arguments, 0, "mset")
}

/// MSETNX.
pub fn msetnx<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_several(context, arguments, NX, "msetnx")
}

fn set_several<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, flags: u8, command: &str) -> Action<'a> {
    if arguments.len().is_multiple_of(2) {
        context.out.error(&format!("ERR wrong number of arguments for '{command}' command"));
        return Action::Done;
    }
    let pairs = arguments.from(1);
    if !pairs.iter().skip(1).step_by(2).all(|value| is_value_in_bounds(context, value))
        || !are_keys_in_bounds(context, pairs.iter().step_by(2))
    {
        return Action::Done;
    }
    let Some(slot) = context.one_shard(pairs.iter().step_by(2)) else { return Action::Done };
    context.program.append(Opcode::MultiSet, flags, pairs.iter());
    Action::Run { slot, is_write: true }
}

/// APPEND.
pub fn append<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (key, value) = (arguments.get(1), arguments.get(2));
    if !is_value_in_bounds(context, value) {
        return Action::Done;
    }
    run(context, Opcode::Append, 0, &[key, value])
}

/// STRLEN.
pub fn strlen<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::Length, 0, &[arguments.get(1)])
}

/// GETRANGE.
pub fn getrange<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (Some(first), Some(last)) = (integer(arguments.get(2)), integer(arguments.get(3))) else {
        context.out.error(NOT_AN_INTEGER);
        return Action::Done;
    };
    run(context, Opcode::GetRange, 0, &[arguments.get(1), &first.to_le_bytes(), &last.to_le_bytes()])
}

/// SUBSTR.
pub fn substr<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    getrange(context, arguments)
}

/// SETRANGE.
pub fn setrange<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (key, value) = (arguments.get(1), arguments.get(3));
    let offset = match integer(arguments.get(2)) {
        Some(offset) if offset >= 0 => offset,
        Some(_) => {
            context.out.error("ERR offset is out of range");
            return Action::Done;
        }
        None => {
            context.out.error(NOT_AN_INTEGER);
            return Action::Done;
        }
    };
    if !is_value_in_bounds(context, value) {
        return Action::Done;
    }
    run(context, Opcode::SetRange, 0, &[key, &offset.to_le_bytes(), value])
}

/// INCR.
pub fn incr<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    increment(context, arguments.get(1), 1)
}

/// DECR.
pub fn decr<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    increment(context, arguments.get(1), -1)
}

/// INCRBY.
pub fn incrby<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    match integer(arguments.get(2)) {
        Some(delta) => increment(context, arguments.get(1), delta),
        None => {
            context.out.error(NOT_AN_INTEGER);
            Action::Done
        }
    }
}

/// DECRBY.
pub fn decrby<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let delta = integer(arguments.get(2));
    match delta.map(i64::checked_neg) {
        Some(Some(delta)) => return increment(context, arguments.get(1), delta),
        Some(None) => context.out.error("ERR decrement would overflow"),
        None => context.out.error(NOT_AN_INTEGER),
    }
    Action::Done
}

fn increment<'a>(context: &mut Context<'_>, key: &'a [u8], delta: i64) -> Action<'a> {
    run(context, Opcode::Increment, 0, &[key, &delta.to_le_bytes()])
}

/// INCRBYFLOAT.
pub fn incrbyfloat<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::IncrementFloat, 0, &[arguments.get(1), arguments.get(2)])
}

/// DELIFEQ.
pub fn delifeq<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (key, value) = (arguments.get(1), arguments.get(2));
    if !is_value_in_bounds(context, value) {
        return Action::Done;
    }
    run(context, Opcode::DeleteIfEqual, 0, &[key, value])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::arguments::Span;

    /// Flags and the text of the expiry, if the options make sense.
    fn read(options: &str, is_set: bool) -> Option<(u8, Option<String>)> {
        let mut spans: Vec<Span> = Vec::new();
        let mut begin = 0;
        for word in options.split(' ') {
            spans.push((begin, begin + word.len() as u32));
            begin += word.len() as u32 + 1;
        }
        let arguments = Arguments::new(options.as_bytes(), &spans);
        let options = Options::read(&arguments, 1, is_set)?;
        let text = options.expiry.map(|expiry| String::from_utf8_lossy(expiry.text).into_owned());
        Some((options.flags, text))
    }

    #[test]
    fn options_that_contradict_each_other_make_no_sense_and_the_last_of_equal_ones_counts() {
        assert_eq!(read("set nx get", true), Some((NX | GET, None)));
        assert_eq!(read("set NX nX", true), Some((NX, None)));
        assert_eq!(read("set EX 1 ex 2", true), Some((0, Some("2".to_owned()))));
        assert_eq!(read("set ifeq nx xx", true), None);
        assert_eq!(read("set ifeq nx get", true), Some((IF_EQUAL | GET, None)));
        assert_eq!(read("getex persist persist", false), Some((PERSIST, None)));
        for options in
            ["nx xx", "xx nx", "ex", "ex 1 px 2", "keepttl ex 1", "ex 1 keepttl", "persist", "nx ifeq v", "ifeq", "foo"]
        {
            assert_eq!(read(&format!("set {options}"), true), None, "{options}");
        }
        for options in ["nx", "get", "keepttl", "ifeq v", "persist ex 1", "pxat 1 persist", "ex"] {
            assert_eq!(read(&format!("getex {options}"), false), None, "{options}");
        }
    }

    #[test]
    fn an_expiry_is_refused_that_is_not_positive_or_cannot_be_said() {
        let resolve = |text: &str, unit, is_absolute| {
            Expiry { text: text.as_bytes(), unit, is_absolute }.resolve(1_000_000_000 * NS_PER_MS)
        };
        let max = i64::MAX.to_string();
        assert_eq!(resolve("7", Unit::Seconds, false), Ok((RELATIVE, 7000)));
        assert_eq!(resolve("7", Unit::Milliseconds, true), Ok((ABSOLUTE, 7)));
        assert_eq!(resolve(&max, Unit::Milliseconds, true), Ok((ABSOLUTE, i64::MAX)));
        for (text, unit, is_absolute) in [
            ("0", Unit::Seconds, true),
            ("-1", Unit::Milliseconds, false),
            ("9223372036854776", Unit::Seconds, true),
            (&max, Unit::Milliseconds, false),
        ] {
            assert_eq!(resolve(text, unit, is_absolute), Err(ExpiryError::OutOfRange), "{text}");
        }
        assert_eq!(resolve("1.0", Unit::Seconds, false), Err(ExpiryError::NotAnInteger));
    }
}
