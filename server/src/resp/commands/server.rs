//! TIME, ROLE, WAIT, WAITAOF, LASTSAVE, BGSAVE, MEMORY, FAILOVER, SHUTDOWN.

use lockstep_proto::{program::Opcode, slot::slot_of};

use super::{
    super::{
        arguments::Arguments,
        context::{Action, AdminRequest, Context},
        numbers::{NOT_AN_INTEGER, integer, timeout_ms},
        topology::{Node, known_primary, nodes_of},
    },
    connection::SYNTAX_ERROR,
    help::{help, subcommand_error},
};
use crate::cli::Durability;

/// TIME.
pub fn time<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let (seconds, micros) = (context.wall_ns / 1_000_000_000, context.wall_ns / 1000 % 1_000_000);
    context.out.array(2);
    context.out.bulk(seconds.to_string().as_bytes());
    context.out.bulk(micros.to_string().as_bytes());
    Action::Done
}

/// ROLE.
pub fn role<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let server = context.server;
    let shard = server.node_shard(context.shard);
    let nodes = nodes_of(server, shard);
    let offset = server.shards[shard as usize].reported().status.map_or(0, |status| status.commit);
    let out = &mut context.out;
    if server.is_primary_for(shard) {
        let backups: Vec<&Node> = nodes.iter().filter(|node| !node.is_primary && node.is_up).collect();
        out.array(3);
        out.bulk(b"master");
        out.integer(offset as i64);
        out.array(backups.len());
        for backup in backups {
            out.array(3);
            out.bulk(backup.host.as_bytes());
            out.bulk(backup.port.to_string().as_bytes());
            out.bulk(backup.durable.to_string().as_bytes());
        }
    } else {
        let primary = known_primary(&nodes);
        let state: &[u8] = if primary.is_some_and(|node| node.is_up) { b"connected" } else { b"connect" };
        out.array(5);
        out.bulk(b"slave");
        out.bulk(primary.map_or(&[][..], |node| node.host.as_bytes()));
        out.integer(primary.map_or(0, |node| node.port.into()));
        out.bulk(state);
        out.integer(offset as i64);
    }
    Action::Done
}

/// WAIT.
pub fn wait<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let Some(copies) = integer(arguments.get(1)) else {
        context.out.error(NOT_AN_INTEGER);
        return Action::Done;
    };
    let timeout_ms = match timeout_ms(arguments.get(2), context.wall_ns) {
        Ok(timeout_ms) => timeout_ms,
        Err(error) => {
            context.out.error(error.text());
            return Action::Done;
        }
    };
    if !context.server.is_primary_for(context.shard) {
        context.out.error(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured \
             to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        );
        return Action::Done;
    }
    if context.is_in_exec {
        // A transaction does not wait: what is known counts.
        context.out.integer(context.client.last_write_copies.saturating_sub(1).into());
        return Action::Done;
    }
    let copies = copies.clamp(0, u8::MAX.into()) as u8;
    Action::Admin(AdminRequest::Wait { copies, timeout_ms, local: None })
}

/// WAITAOF.
pub fn waitaof<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let local = integer(arguments.get(1));
    let copies = integer(arguments.get(2));
    let timeout = timeout_ms(arguments.get(3), context.wall_ns);
    let error = match (local, copies, &timeout) {
        (None, ..) => NOT_AN_INTEGER,
        (Some(local), ..) if !(0..=1).contains(&local) => "ERR value is out of range, value must between 0 and 1",
        (_, None, _) => NOT_AN_INTEGER,
        (_, Some(copies), _) if copies < 0 => "ERR value is out of range, must be positive",
        (.., Err(error)) => error.text(),
        _ if !context.server.is_primary_for(context.shard) => {
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and \
             are not propagated."
        }
        (Some(1), ..) if context.server.options.durability == Durability::Memory => {
            "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
        }
        _ => "",
    };
    match (local, copies, timeout) {
        (Some(local), Some(copies), Ok(timeout_ms)) if error.is_empty() => {
            if context.is_in_exec {
                context.out.array(2);
                context.out.integer(1);
                context.out.integer(context.client.last_write_copies.saturating_sub(1).into());
                return Action::Done;
            }
            let copies = copies.min(u8::MAX.into()) as u8;
            Action::Admin(AdminRequest::Wait { copies, timeout_ms, local: Some(local as u8) })
        }
        _ => {
            context.out.error(error);
            Action::Done
        }
    }
}

/// LASTSAVE.
pub fn lastsave<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(context.server.last_checkpoint_seconds(context.shard) as i64);
    Action::Done
}

/// BGSAVE.
pub fn bgsave<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if arguments.len() > 2 || (arguments.len() == 2 && !arguments.is(1, "schedule")) {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    }
    Action::Admin(AdminRequest::Checkpoint)
}

/// MEMORY alone.
pub fn memory<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "MEMORY", arguments)
}

/// MEMORY HELP.
pub fn memory_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "memory")
}

/// MEMORY USAGE.
pub fn memory_usage<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let mut index = 3;
    while index < arguments.len() {
        let samples = arguments.find(index + 1).filter(|_| arguments.is(index, "samples"));
        let error = match samples.map(integer) {
            None => SYNTAX_ERROR,
            Some(None) => NOT_AN_INTEGER,
            Some(Some(samples)) if samples < 0 => SYNTAX_ERROR,
            Some(_) => {
                index += 2;
                continue;
            }
        };
        context.out.error(error);
        return Action::Done;
    }
    let key = arguments.get(2);
    context.program.command(Opcode::MemoryUsage, &[key]);
    Action::Run { slot: slot_of(key), is_write: false }
}

/// FAILOVER.
pub fn failover<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    match read_failover(context, arguments) {
        Ok(to) => Action::Admin(AdminRequest::MovePrimary { to }),
        Err(text) => {
            context.out.error(text);
            Action::Done
        }
    }
}

/// The server that is to become primary, if one was named.
fn read_failover(context: &Context<'_>, arguments: &Arguments<'_>) -> Result<Option<u8>, &'static str> {
    if arguments.len() == 2 && arguments.is(1, "abort") {
        return Err("ERR No failover in progress.");
    }
    let (mut target, mut has_timeout, mut is_forced) = (None, false, false);
    let mut index = 1;
    while index < arguments.len() {
        let more = arguments.len() - index - 1;
        if arguments.is(index, "timeout") && more >= 1 && !has_timeout {
            let timeout_ms = integer(arguments.get(index + 1)).ok_or(NOT_AN_INTEGER)?;
            if timeout_ms <= 0 {
                return Err("ERR FAILOVER timeout must be greater than 0");
            }
            has_timeout = true;
            index += 2;
        } else if arguments.is(index, "to") && more >= 2 && target.is_none() {
            target = Some((arguments.get(index + 1), integer(arguments.get(index + 2)).ok_or(NOT_AN_INTEGER)?));
            index += 3;
        } else if arguments.is(index, "force") && !is_forced {
            is_forced = true;
            index += 1;
        } else {
            return Err(SYNTAX_ERROR);
        }
    }
    let server = context.server;
    if !server.is_primary_for(context.shard) {
        return Err("ERR FAILOVER is not valid when server is a replica.");
    }
    if is_forced {
        return Err("ERR FAILOVER with FORCE is not there: a server that has not caught up is never made primary.");
    }
    let nodes = nodes_of(server, server.node_shard(context.shard));
    if !nodes.iter().any(|node| !node.is_primary && node.is_up) {
        return Err("ERR FAILOVER requires connected replicas.");
    }
    let Some((host, port)) = target else { return Ok(None) };
    let found = nodes.iter().find(|node| node.host.as_bytes() == host && i64::from(node.port) == port);
    match found {
        Some(node) if node.is_primary => Err("ERR FAILOVER target HOST and PORT is not a replica."),
        Some(node) if !node.is_up => Err("ERR FAILOVER target replica is not online."),
        Some(node) => Ok(Some(node.server)),
        None => Err("ERR FAILOVER target HOST and PORT is not a replica."),
    }
}

/// SHUTDOWN.
pub fn shutdown<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let given = |word: &str| (1..arguments.len()).any(|index| arguments.is(index, word));
    let known = ["nosave", "save", "now", "force", "abort"];
    let all_known = (1..arguments.len()).all(|index| known.iter().any(|word| arguments.is(index, word)));
    let is_abort = given("abort");
    if !all_known || (given("nosave") && given("save")) || (is_abort && arguments.len() > 2) {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    }
    if is_abort {
        context.out.error("ERR No shutdown in progress.");
        return Action::Done;
    }
    Action::Admin(AdminRequest::Shutdown)
}
