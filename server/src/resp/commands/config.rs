//! CONFIG and its subcommands: the settings that exist here, under Redis's names.

use std::sync::atomic::Ordering::Relaxed;

use lockstep_proto::limits::VALUE_SIZE_MAX;
use lockstep_store::{STORE_BYTES_MAX, glob};

use super::{
    super::{
        arguments::Arguments,
        connection::KEEPALIVE,
        context::{Action, Context},
        door::OUTPUT_BYTES_MAX,
        memory::CLIENT_MEMORY_MIN,
        numbers::integer,
        registry::shown,
        server::Server,
        slow_log::SLOW_LOG_LEN_LIMIT,
    },
    connection::SYNTAX_ERROR,
    help::{help, subcommand_error},
};
use crate::{
    cli::{Durability, PASSWORD_SIZE_MAX},
    file_limit::FileLimit,
};

/// Checks a new value; then, if told so, makes it count.
type Set = fn(&Server, &[u8], bool) -> Result<(), String>;

/// A setting.
struct Parameter {
    name: &'static str,
    get: fn(&Server, u16) -> String,
    /// How it is changed, if it can be.
    set: Option<Set>,
}

const fn fixed(name: &'static str, get: fn(&Server, u16) -> String) -> Parameter {
    Parameter { name, get, set: None }
}

const fn changeable(name: &'static str, get: fn(&Server, u16) -> String, set: Set) -> Parameter {
    Parameter { name, get, set: Some(set) }
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

/// How many bytes of keys and values the shards of a client's node can hold.
pub(super) fn memory_max(server: &Server, shard: u16) -> u64 {
    STORE_BYTES_MAX * server.visible_shards(shard).len() as u64
}

fn replicas_to_write(server: &Server, _: u16) -> String {
    (server.identity.servers.div_ceil(2) - 1).to_string()
}

/// In the order of their names. Those of replicas have their old names, too, which older clients ask for.
const PARAMETERS: &[Parameter] = &[
    fixed("appendfsync", |_, _| "always".to_owned()),
    fixed("appendonly", |server, _| yes(server.options.durability == Durability::Disk)),
    fixed("bind", |server, _| server.resp().map_or_else(String::new, |resp| resp.listen.host().to_owned())),
    changeable(
        "client-output-buffer-limit",
        |server, _| {
            let bytes = server.settings.pubsub_output_bytes_max.load(Relaxed);
            format!("normal {OUTPUT_BYTES_MAX} 0 0 slave 0 0 0 pubsub {bytes} 0 0")
        },
        set_output_limit,
    ),
    fixed("cluster-enabled", |server, _| yes(server.is_cluster())),
    fixed("cluster-require-full-coverage", |_, _| "no".to_owned()),
    fixed("databases", |_, _| "1".to_owned()),
    fixed("dir", |server, _| server.options.data_dir.display().to_string()),
    fixed("io-threads", |server, _| server.identity.shards.to_string()),
    fixed("latency-tracking", |_, _| "yes".to_owned()),
    changeable("maxclients", |server, _| server.settings.clients_max.load(Relaxed).to_string(), set_clients_max),
    fixed("maxmemory", |server, shard| memory_max(server, shard).to_string()),
    changeable(
        "maxmemory-clients",
        |server, _| server.settings.client_bytes_max.load(Relaxed).to_string(),
        set_client_memory,
    ),
    fixed("maxmemory-policy", |_, _| "noeviction".to_owned()),
    fixed("min-replicas-to-write", replicas_to_write),
    fixed("min-slaves-to-write", replicas_to_write),
    fixed("notify-keyspace-events", |_, _| String::new()),
    fixed("port", |server, shard| server.own_port(shard).to_string()),
    fixed("proto-max-bulk-len", |_, _| VALUE_SIZE_MAX.to_string()),
    fixed("replica-read-only", |_, _| "yes".to_owned()),
    fixed("replica-serve-stale-data", |_, _| "no".to_owned()),
    changeable(
        "requirepass",
        |server, _| {
            let password = server.settings.requirepass.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            String::from_utf8_lossy(&password).into_owned()
        },
        set_password,
    ),
    fixed("save", |_, _| String::new()),
    fixed("slave-read-only", |_, _| "yes".to_owned()),
    fixed("slave-serve-stale-data", |_, _| "no".to_owned()),
    changeable(
        "slowlog-log-slower-than",
        |server, _| server.stats.slow_log.threshold_us.load(Relaxed).to_string(),
        |server, value, is_applied| {
            let threshold_us = number(value, -1, i64::MAX)?;
            if is_applied {
                server.stats.slow_log.threshold_us.store(threshold_us, Relaxed);
            }
            Ok(())
        },
    ),
    changeable(
        "slowlog-max-len",
        |server, _| server.stats.slow_log.len_max.load(Relaxed).to_string(),
        |server, value, is_applied| {
            let len_max = number(value, 0, SLOW_LOG_LEN_LIMIT as i64)?;
            if is_applied {
                server.stats.slow_log.len_max.store(len_max as u64, Relaxed);
                server.stats.slow_log.trim();
            }
            Ok(())
        },
    ),
    fixed("tcp-keepalive", |_, _| KEEPALIVE.as_secs().to_string()),
    changeable(
        "timeout",
        |server, _| server.settings.idle_timeout_s.load(Relaxed).to_string(),
        |server, value, is_applied| {
            let seconds = number(value, 0, i32::MAX.into())?;
            if is_applied {
                server.settings.idle_timeout_s.store(seconds as u64, Relaxed);
            }
            Ok(())
        },
    ),
];

fn number(value: &[u8], min: i64, max: i64) -> Result<i64, String> {
    let number = integer(value).ok_or("argument couldn't be parsed into an integer")?;
    if !(min..=max).contains(&number) {
        return Err(format!("argument must be between {min} and {max} inclusive"));
    }
    Ok(number)
}

fn set_password(server: &Server, value: &[u8], is_applied: bool) -> Result<(), String> {
    if value.len() > PASSWORD_SIZE_MAX {
        return Err(format!("argument must have at most {PASSWORD_SIZE_MAX} bytes"));
    }
    if is_applied {
        let mut password = server.settings.requirepass.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *password = value.to_vec();
        server.settings.needs_password.store(!value.is_empty(), Relaxed);
    }
    Ok(())
}

fn set_client_memory(server: &Server, value: &[u8], is_applied: bool) -> Result<(), String> {
    let bytes = memory_size(&String::from_utf8_lossy(value)).ok_or("argument must be a memory value")?;
    if bytes > 0 && bytes < CLIENT_MEMORY_MIN {
        return Err(format!("argument must be 0, for no bound, or at least {CLIENT_MEMORY_MIN} bytes"));
    }
    if is_applied {
        server.settings.client_bytes_max.store(bytes, Relaxed);
    }
    Ok(())
}

fn set_clients_max(server: &Server, value: &[u8], is_applied: bool) -> Result<(), String> {
    let clients_max = number(value, 1, u32::MAX.into())?.unsigned_abs();
    let room = FileLimit::now(server.identity.shards).room();
    if clients_max > room {
        return Err(format!(
            "The operating system is not able to handle the specified number of clients, try with {room}"
        ));
    }
    if is_applied {
        server.settings.clients_max.store(clients_max as usize, Relaxed);
    }
    Ok(())
}

/// Takes groups of class, hard limit, soft limit and seconds. Only the hard limit of `pubsub` exists here.
fn set_output_limit(server: &Server, value: &[u8], is_applied: bool) -> Result<(), String> {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
    }
    for group in words.chunks_exact(4) {
        let limit =
            memory_size(group[1]).filter(|_| memory_size(group[2]).is_some() && group[3].parse::<u32>().is_ok());
        let limit = limit.ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        match group[0].to_ascii_lowercase().as_str() {
            "pubsub" if limit == 0 => return Err("a subscriber without a limit could use up all memory".to_owned()),
            "pubsub" if is_applied => server.settings.pubsub_output_bytes_max.store(limit, Relaxed),
            "normal" | "slave" | "replica" | "pubsub" => {}
            _ => return Err("Invalid client class specified in buffer limit configuration.".to_owned()),
        }
    }
    Ok(())
}

/// A size with one of Redis's units.
fn memory_size(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let units =
        [("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30), ("k", 1000), ("m", 1_000_000), ("g", 1_000_000_000)];
    let (digits, unit) = units
        .iter()
        .find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .unwrap_or((text.strip_suffix('b').unwrap_or(&text), 1));
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// CONFIG alone.
pub fn config<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "CONFIG", arguments)
}

/// CONFIG HELP.
pub fn config_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "config")
}

/// CONFIG GET.
pub fn config_get<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let mut asked: Vec<(&[u8], &Parameter)> = Vec::new();
    for pattern in arguments.iter().skip(2) {
        // A plain name is told as it was asked for, so that whoever did finds it.
        let is_name = !pattern.iter().any(|byte| b"[*?".contains(byte));
        let fits = |parameter: &&Parameter| glob::matches(pattern, parameter.name.as_bytes(), true);
        for parameter in PARAMETERS.iter().filter(fits) {
            let name = if is_name { pattern } else { parameter.name.as_bytes() };
            if !asked.iter().any(|(other, _)| *other == name) {
                asked.push((name, parameter));
            }
        }
    }
    context.out.map(asked.len());
    for (name, parameter) in asked {
        context.out.bulk(name);
        context.out.bulk((parameter.get)(context.server, context.shard).as_bytes());
    }
    Action::Done
}

/// CONFIG SET.
pub fn config_set<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !arguments.len().is_multiple_of(2) {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    }
    match read_changes(context.server, arguments) {
        Ok(changes) => {
            for (set, value) in changes {
                // It was checked before.
                let _ = set(context.server, value, true);
            }
            context.out.ok();
        }
        Err(text) => context.out.error_bytes(&text),
    }
    Action::Done
}

type Change<'a> = (Set, &'a [u8]);

/// All changes or none: each is checked before any counts.
fn read_changes<'a>(server: &Server, arguments: &Arguments<'a>) -> Result<Vec<Change<'a>>, Vec<u8>> {
    let mut changes: Vec<(&str, Change<'a>)> = Vec::new();
    for index in (2..arguments.len()).step_by(2) {
        let (name, value) = (arguments.get(index), arguments.get(index + 1));
        let fail = |why: &str| {
            [b"ERR CONFIG SET failed (possibly related to argument '", shown(name), b"') - ", why.as_bytes()].concat()
        };
        let parameter = PARAMETERS.iter().find(|parameter| parameter.name.as_bytes().eq_ignore_ascii_case(name));
        let Some(parameter) = parameter else {
            return Err([b"ERR Unknown option or number of arguments for CONFIG SET - '", shown(name), b"'"].concat());
        };
        let Some(set) = parameter.set else { return Err(fail("can't set immutable config")) };
        if changes.iter().any(|(other, _)| *other == parameter.name) {
            return Err(fail("duplicate parameter"));
        }
        set(server, value, false).map_err(|why| fail(&why))?;
        changes.push((parameter.name, (set, value)));
    }
    Ok(changes.into_iter().map(|(_, change)| change).collect())
}

/// CONFIG RESETSTAT.
pub fn config_resetstat<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let server = context.server;
    server.stats.reset(server.shards.iter().map(|shard| &shard.stats));
    context.out.ok();
    Action::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_in_order() {
        assert!(PARAMETERS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn sizes_have_units() {
        let sizes = ["0", "10b", "2k", "2kb", "3mb", "1gb"].map(memory_size);
        assert_eq!(sizes.map(Option::unwrap), [0, 10, 2000, 2048, 3 << 20, 1 << 30]);
        assert_eq!([memory_size("x"), memory_size("-1"), memory_size("99999999999gb")], [None; 3]);
    }
}
