//! What the commands that the store carries out have in common.

use lockstep_proto::{limits::KEY_SIZE_MAX, program::Opcode, slot::slot_of};

use super::super::{
    arguments::Arguments,
    context::{Action, Context, Join},
};

/// Whether an argument is this option, in whatever case. `word` is in lower case. Like Redis, for which it is a C
/// string, this does not look beyond a zero byte.
pub(super) fn is_option(argument: &[u8], word: &str) -> bool {
    let end = argument.iter().position(|&byte| byte == 0).unwrap_or(argument.len());
    argument[..end].eq_ignore_ascii_case(word.as_bytes())
}

/// Whether all keys are within their bound. If not, that is answered.
pub(super) fn are_keys_in_bounds<'k>(context: &mut Context<'_>, mut keys: impl Iterator<Item = &'k [u8]>) -> bool {
    let are_in_bounds = keys.all(|key| key.len() <= KEY_SIZE_MAX);
    if !are_in_bounds {
        context.out.error(&format!("ERR key is too long: {KEY_SIZE_MAX} bytes at most"));
    }
    are_in_bounds
}

/// Largest pattern, in bytes: to match one takes time in proportion to its size, for every key.
const PATTERN_SIZE_MAX: usize = 1024;

/// Whether a pattern is within its bound. If not, that is answered.
pub(super) fn is_pattern_in_bounds(context: &mut Context<'_>, pattern: &[u8]) -> bool {
    if pattern.len() > PATTERN_SIZE_MAX {
        context.out.error(&format!("ERR pattern is too long: {PATTERN_SIZE_MAX} bytes at most"));
    }
    pattern.len() <= PATTERN_SIZE_MAX
}

/// Carries out one command on the key that is its first argument.
#[inline]
pub(super) fn run<'a>(context: &mut Context<'_>, opcode: Opcode, flags: u8, arguments: &[&[u8]]) -> Action<'a> {
    let key = arguments[0];
    if !are_keys_in_bounds(context, [key].into_iter()) {
        return Action::Done;
    }
    context.program.command_with(opcode, flags, arguments);
    Action::Run { slot: slot_of(key), is_write: opcode.is_write() }
}

/// Carries out one command on keys that may be in several shards.
pub(super) fn split<'a>(context: &mut Context<'_>, opcode: Opcode, keys: Arguments<'a>, join: Join) -> Action<'a> {
    if keys.len() == 1 {
        return run(context, opcode, 0, &[keys.get(0)]);
    }
    if !are_keys_in_bounds(context, keys.iter()) {
        return Action::Done;
    }
    Action::Split { opcode, keys, join, is_write: opcode.is_write() }
}
