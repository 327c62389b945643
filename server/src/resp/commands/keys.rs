//! Commands on keys.

use lockstep_proto::{
    limits::SLOTS,
    program::{
        Opcode,
        flags::{ABSOLUTE, GT, LT, MATCH, NONE, NX, RELATIVE, REPLACE, SECONDS, XX},
    },
    slot::{shard_of_slot, slots_of_shard},
};

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context, Join},
        numbers::{NOT_AN_INTEGER, integer},
    },
    connection::SYNTAX_ERROR,
    help,
    program::{are_keys_in_bounds, is_option, is_pattern_in_bounds, run, split},
};

const NS_PER_MS: u64 = 1_000_000;

/// DEL.
pub fn del<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    split(context, Opcode::Delete, arguments.from(1), Join::Sum)
}

/// UNLINK.
pub fn unlink<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    split(context, Opcode::Delete, arguments.from(1), Join::Sum)
}

/// EXISTS.
pub fn exists<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    split(context, Opcode::Exists, arguments.from(1), Join::Sum)
}

/// TOUCH.
pub fn touch<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    split(context, Opcode::Exists, arguments.from(1), Join::Sum)
}

/// TYPE.
pub fn type_<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::Type, 0, &[arguments.get(1)])
}

/// EXPIRE.
pub fn expire<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiry(context, arguments, RELATIVE, 1000, "expire")
}

/// PEXPIRE.
pub fn pexpire<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiry(context, arguments, RELATIVE, 1, "pexpire")
}

/// EXPIREAT.
pub fn expireat<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiry(context, arguments, ABSOLUTE, 1000, "expireat")
}

/// PEXPIREAT.
pub fn pexpireat<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    set_expiry(context, arguments, ABSOLUTE, 1, "pexpireat")
}

/// `unit_ms` is the unit of the argument. A time may be negative here: the key is removed.
fn set_expiry<'a>(
    context: &mut Context<'_>,
    arguments: &Arguments<'a>,
    start: u8,
    unit_ms: i64,
    command: &str,
) -> Action<'a> {
    let Some(flags) = expiry_options(context, &arguments.from(3)) else { return Action::Done };
    let Some(time) = integer(arguments.get(2)) else {
        context.out.error(NOT_AN_INTEGER);
        return Action::Done;
    };
    // The time counts from the batch's timestamp, but whether it can be said at all is looked at here and now.
    let now_ms = if start == RELATIVE { (context.wall_ns / NS_PER_MS) as i64 } else { 0 };
    let ms = time.checked_mul(unit_ms).filter(|ms| ms.checked_add(now_ms).is_some());
    let Some(ms) = ms else {
        context.out.error(&format!("ERR invalid expire time in '{command}' command"));
        return Action::Done;
    };
    run(context, Opcode::Expire, flags | start, &[arguments.get(1), &ms.to_le_bytes()])
}

/// The conditions of an EXPIRE; `None` if they make no sense, which has been answered.
fn expiry_options(context: &mut Context<'_>, options: &Arguments<'_>) -> Option<u8> {
    let mut flags = 0;
    for option in options.iter() {
        let names = [("nx", NX), ("xx", XX), ("gt", GT), ("lt", LT)];
        let Some((_, flag)) = names.into_iter().find(|(name, _)| is_option(option, name)) else {
            let end = option.iter().position(|&byte| byte == 0).unwrap_or(option.len());
            // Redis takes line breaks off the end of an error; those inside it become spaces.
            let end = option[..end].iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
            context.out.error_bytes(&[b"ERR Unsupported option ", &option[..end]].concat());
            return None;
        };
        flags |= flag;
    }
    if flags & NX != 0 && flags & (XX | GT | LT) != 0 {
        context.out.error("ERR NX and XX, GT or LT options at the same time are not compatible");
        return None;
    }
    if flags & GT != 0 && flags & LT != 0 {
        context.out.error("ERR GT and LT options at the same time are not compatible");
        return None;
    }
    Some(flags)
}

/// TTL.
pub fn ttl<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::TimeToLive, SECONDS, &[arguments.get(1)])
}

/// PTTL.
pub fn pttl<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::TimeToLive, 0, &[arguments.get(1)])
}

/// EXPIRETIME.
pub fn expiretime<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::TimeToLive, ABSOLUTE | SECONDS, &[arguments.get(1)])
}

/// PEXPIRETIME.
pub fn pexpiretime<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::TimeToLive, ABSOLUTE, &[arguments.get(1)])
}

/// PERSIST.
pub fn persist<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::Persist, 0, &[arguments.get(1)])
}

/// RENAME.
pub fn rename<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run_on_two(context, arguments, Opcode::Rename, 0)
}

/// RENAMENX.
pub fn renamenx<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run_on_two(context, arguments, Opcode::Rename, NX)
}

fn run_on_two<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, opcode: Opcode, flags: u8) -> Action<'a> {
    let keys = [arguments.get(1), arguments.get(2)];
    if !are_keys_in_bounds(context, keys.into_iter()) {
        return Action::Done;
    }
    let Some(slot) = context.one_shard(keys.into_iter()) else { return Action::Done };
    context.program.command_with(opcode, flags, &keys);
    Action::Run { slot, is_write: true }
}

/// COPY.
pub fn copy<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (mut flags, mut is_elsewhere) = (0, false);
    let mut index = 3;
    while index < arguments.len() {
        let option = arguments.get(index);
        match arguments.find(index + 1) {
            _ if is_option(option, "replace") => flags = REPLACE,
            Some(database) if is_option(option, "db") => {
                // Redis has these in cluster mode, too, though it does not use them.
                is_elsewhere = context.server.is_cluster() && matches!(integer(database), Some(1..16));
                if !is_elsewhere && !is_own_database(context, database) {
                    return Action::Done;
                }
                index += 1;
            }
            _ => {
                context.out.error(SYNTAX_ERROR);
                return Action::Done;
            }
        }
        index += 1;
    }
    if is_elsewhere {
        context.out.error("ERR Copying to another database is not allowed in cluster mode");
        return Action::Done;
    }
    if arguments.get(1) == arguments.get(2) {
        context.out.error("ERR source and destination objects are the same");
        return Action::Done;
    }
    run_on_two(context, arguments, Opcode::Copy, flags)
}

/// Whether a database is the one there is. If not, that is answered.
fn is_own_database(context: &mut Context<'_>, database: &[u8]) -> bool {
    match integer(database) {
        Some(0) => return true,
        Some(index) if i32::try_from(index).is_ok() => context.out.error("ERR DB index is out of range"),
        Some(_) => {
            let (min, max) = (i32::MIN, i32::MAX);
            context.out.error(&format!("ERR value is out of range, value must between {min} and {max}"));
        }
        None => context.out.error(NOT_AN_INTEGER),
    }
    false
}

/// RANDOMKEY.
pub fn randomkey<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.program.command(Opcode::RandomKey, &[&context.draw.to_le_bytes()]);
    Action::Everywhere { join: Join::AnyOf, is_write: false }
}

/// KEYS.
pub fn keys<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_pattern_in_bounds(context, arguments.get(1)) {
        return Action::Done;
    }
    context.program.command(Opcode::Keys, &[arguments.get(1)]);
    Action::Everywhere { join: Join::Concat, is_write: false }
}

/// DBSIZE.
pub fn dbsize<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.program.command(Opcode::KeyCount, &[]);
    Action::Everywhere { join: Join::Sum, is_write: false }
}

/// FLUSHALL.
pub fn flushall<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let is_sound = match arguments.len() {
        1 => true,
        2 => ["sync", "async"].iter().any(|word| is_option(arguments.get(1), word)),
        _ => false,
    };
    if !is_sound {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    }
    context.program.command(Opcode::Flush, &[]);
    Action::Everywhere { join: Join::AllOk, is_write: true }
}

/// FLUSHDB.
pub fn flushdb<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    flushall(context, arguments)
}

/// SCAN.
pub fn scan<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let Some(cursor) = cursor(arguments.get(1)) else {
        context.out.error("ERR invalid cursor");
        return Action::Done;
    };
    let (mut flags, mut count, mut pattern): (u8, i64, &[u8]) = (0, 10, b"");
    let mut index = 2;
    while index < arguments.len() {
        let option = arguments.get(index);
        let Some(next) = arguments.find(index + 1) else {
            context.out.error(SYNTAX_ERROR);
            return Action::Done;
        };
        if is_option(option, "count") {
            count = match integer(next) {
                Some(count) if count >= 1 => count,
                found => {
                    context.out.error(if found.is_some() { SYNTAX_ERROR } else { NOT_AN_INTEGER });
                    return Action::Done;
                }
            };
        } else if is_option(option, "match") {
            flags |= MATCH;
            pattern = next;
        } else if is_option(option, "type") {
            flags = if is_option(next, "string") { flags & !NONE } else { flags | NONE };
        } else {
            context.out.error(SYNTAX_ERROR);
            return Action::Done;
        }
        index += 2;
    }
    if !is_pattern_in_bounds(context, pattern) {
        return Action::Done;
    }
    let numbers = [cursor.to_le_bytes(), count.to_le_bytes()];
    context.program.command_with(Opcode::Scan, flags, &[&numbers[0], &numbers[1], pattern]);
    let slot = (cursor % u64::from(SLOTS)) as u16;
    let shards = context.server.identity.shards;
    let following = shard_of_slot(slot, shards) + 1;
    // The low bits of a cursor are a slot, so the first slot of a shard is the cursor at its beginning.
    let next = (following < shards).then(|| u64::from(slots_of_shard(following, shards).start));
    Action::Scan { slot, next }
}

/// Reads a cursor as C's `strtoul` does: a sign may stand before it, and no digits at all are zero.
fn cursor(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    let text = &text[..end];
    if text.is_empty() {
        return Some(0);
    }
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    Some(if is_negative { number.wrapping_neg() } else { number })
}

/// OBJECT, with a subcommand that there is not.
pub fn object<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    help::subcommand_error(context, "OBJECT", arguments)
}

/// OBJECT HELP.
pub fn object_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help::help(context, "object")
}

/// OBJECT ENCODING.
pub fn object_encoding<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::Encoding, 0, &[arguments.get(2)])
}

/// OBJECT IDLETIME.
pub fn object_idletime<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    run(context, Opcode::IdleTime, 0, &[arguments.get(2)])
}

#[cfg(test)]
mod tests {
    use super::cursor;

    #[test]
    fn a_cursor_is_read_as_c_does() {
        for (text, number) in
            [("0", 0), ("", 0), ("+7", 7), ("007", 7), ("-1", u64::MAX), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(cursor(text.as_bytes()), Some(number), "{text}");
        }
        assert_eq!(cursor(b"5\0x"), Some(5));
        for text in ["a", "-", "+", " 1", "1 ", "--1", "18446744073709551616", "1.0"] {
            assert_eq!(cursor(text.as_bytes()), None, "{text}");
        }
    }
}
