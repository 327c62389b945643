//! SLOWLOG and its subcommands.

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        numbers::integer,
    },
    help::{help, subcommand_error},
};

/// SLOWLOG alone.
pub fn slowlog<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "SLOWLOG", arguments)
}

/// SLOWLOG HELP.
pub fn slowlog_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "slowlog")
}

/// SLOWLOG LEN.
pub fn slowlog_len<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(context.server.stats.slow_log.len() as i64);
    Action::Done
}

/// SLOWLOG RESET.
pub fn slowlog_reset<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.server.stats.slow_log.clear();
    context.out.ok();
    Action::Done
}

/// SLOWLOG GET.
pub fn slowlog_get<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let count = match arguments.len() {
        2 => Some(10),
        3 => integer(arguments.get(2)).filter(|&count| count >= -1),
        _ => return subcommand_error(context, "SLOWLOG", arguments),
    };
    let Some(count) = count else {
        context.out.error("ERR count should be greater than or equal to -1");
        return Action::Done;
    };
    let entries = context.server.stats.slow_log.latest(usize::try_from(count).unwrap_or(usize::MAX));
    context.out.array(entries.len());
    for entry in entries {
        context.out.array(6);
        for number in [entry.id, entry.answered_s, entry.latency_us] {
            context.out.integer(number as i64);
        }
        context.out.array(entry.words.len());
        for word in &entry.words {
            context.out.bulk(word);
        }
        context.out.bulk(entry.peer.to_string().as_bytes());
        context.out.bulk(&entry.client_name);
    }
    Action::Done
}
