//! Walks of a client of the front door: SCAN with COUNT and MATCH, KEYS, DBSIZE and RANDOMKEY.

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    program::{Builder, Opcode, Value, flags::MATCH, results},
    reply::Reply,
};

use crate::{
    dice::Dice,
    walk::{Cursor, Page, Question, Returned, Walk},
};

/// A walk, or a question about all keys. Half of them are about the keys of groups only.
pub(super) fn draw(dice: &mut Dice) -> Walk {
    let question = match dice.below(6) {
        0 => Question::All,
        1 => Question::Count,
        2 => Question::Any,
        _ => Question::Scan(Walk::draw_limit(dice)),
    };
    let takes_pattern = matches!(question, Question::All | Question::Scan(_));
    Walk::new(question, if takes_pattern && dice.chance(500) { b"g" } else { b"" })
}

/// The next step, as the front door has it.
pub(super) fn program(walk: &Walk, dice: &mut Dice) -> Bytes {
    let mut program = Builder::new();
    let pattern = [walk.prefix(), b"*"].concat();
    match walk.question() {
        Question::Scan(limit) => {
            let flags = if walk.prefix().is_empty() { 0 } else { MATCH };
            let (_, cursor) = walk.cursor();
            program.command_with(Opcode::Scan, flags, &[&cursor.to_le_bytes(), &limit.to_le_bytes(), &pattern]);
        }
        Question::All => program.command(Opcode::Keys, &[&pattern]),
        Question::Count => program.command(Opcode::KeyCount, &[]),
        Question::Any => program.command(Opcode::RandomKey, &[&dice.any().to_le_bytes()]),
    }
    Bytes::copy_from_slice(program.as_bytes())
}

/// The answer to a step.
pub(super) fn page<'a>(walk: &Walk, reply: &Reply<'a>) -> Page<'a> {
    let mut values = results(reply.body());
    let (first, rest) = (values.next(), values.next());
    let is_one = reply.status() == Status::Ok && reply.operation() == Operation::Query && rest.is_none();
    let page = match (walk.question(), first) {
        _ if !is_one => None,
        (Question::Scan(_), Some(Value::Array(items))) => scanned(&items.iter().collect::<Vec<_>>()),
        (Question::All, Some(Value::Array(items))) => keys(items.iter()).map(|keys| Page::Keys(keys, None)),
        (Question::Count, Some(Value::Integer(count))) => u64::try_from(count).ok().map(Page::Count),
        (Question::Any, Some(Value::Nil)) => Some(Page::Keys(Vec::new(), None)),
        (Question::Any, Some(value)) => keys([value].into_iter()).map(|keys| Page::Keys(keys, None)),
        _ => None,
    };
    page.unwrap_or(Page::Malformed)
}

/// A cursor, and keys.
fn scanned<'a>(values: &[Value<'a>]) -> Option<Page<'a>> {
    let [Value::Bulk(cursor), Value::Array(items)] = values else { return None };
    let position: u64 = str::from_utf8(cursor).ok()?.parse().ok()?;
    let next: Option<Cursor> = (position != 0).then_some((0, position));
    Some(Page::Keys(keys(items.iter())?, next))
}

fn keys<'a>(values: impl Iterator<Item = Value<'a>>) -> Option<Vec<Returned<'a>>> {
    let key = |value| match value {
        Value::Bulk(key) => Some(Returned { key, version: None, value: None }),
        _ => None,
    };
    values.map(key).collect()
}
