//! HELLO, AUTH, PING, ECHO, SELECT, QUIT, RESET.

use std::sync::atomic::Ordering::Relaxed;

use subtle::ConstantTimeEq;

use super::super::{
    arguments::Arguments,
    client::{Client, ReplyMode},
    context::{Action, Context},
    numbers::{NOT_AN_INTEGER, integer},
    registry::shown,
    server::REDIS_VERSION,
    writer::Version,
};
use crate::cli::PASSWORD_SIZE_MAX;

/// The error about options that make no sense.
pub(super) const SYNTAX_ERROR: &str = "ERR syntax error";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOT_AUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
    <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same \
    time";

/// HELLO.
pub fn hello<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let mut version = None;
    if let Some(text) = arguments.find(1) {
        version = match integer(text) {
            Some(2) => Some(Version::Resp2),
            Some(3) => Some(Version::Resp3),
            Some(_) => {
                context.out.error("NOPROTO unsupported protocol version");
                return Action::Done;
            }
            None => {
                context.out.error("ERR Protocol version is not an integer or out of range");
                return Action::Done;
            }
        };
    }
    let Some(name) = hello_options(context, arguments) else { return Action::Done };
    if !context.client.is_authenticated {
        context.out.error(NOT_AUTHENTICATED);
        return Action::Done;
    }
    if let Some(name) = name {
        context.client.shared.names().name = name.to_vec();
    }
    if let Some(version) = version {
        set_version(context, version);
    }
    describe_server(context);
    Action::Done
}

/// Carries out the options of HELLO in their order, but for the name, which comes back; `None` if one is wrong, which
/// has been answered.
fn hello_options<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Option<Option<&'a [u8]>> {
    let mut name = None;
    let mut index = 2;
    while index < arguments.len() {
        let more = arguments.len() - index - 1;
        if arguments.is(index, "auth") && more >= 2 {
            if !log_in(context, arguments.get(index + 1), arguments.get(index + 2)) {
                context.out.error(WRONG_PASSWORD);
                return None;
            }
            index += 3;
        } else if arguments.is(index, "setname") && more >= 1 {
            let wish = arguments.get(index + 1);
            if !is_printable(wish) {
                context.out.error(BAD_NAME);
                return None;
            }
            name = Some(wish);
            index += 2;
        } else {
            let option = shown(arguments.get(index));
            context.out.error_bytes(&[b"ERR Syntax error in HELLO option '", option, b"'"].concat());
            return None;
        }
    }
    Some(name)
}

fn describe_server(context: &mut Context<'_>) {
    let (server, shard) = (context.server, context.shard);
    let is_primary = server.is_primary_for(shard);
    let id = context.client.shared.id as i64;
    let proto = if context.client.version == Version::Resp3 { 3 } else { 2 };
    let out = &mut context.out;
    out.map(7);
    out.bulk(b"server");
    out.bulk(b"redis");
    out.bulk(b"version");
    out.bulk(REDIS_VERSION.as_bytes());
    out.bulk(b"proto");
    out.integer(proto);
    out.bulk(b"id");
    out.integer(id);
    out.bulk(b"mode");
    out.bulk(if server.is_cluster() { b"cluster" } else { b"standalone" });
    out.bulk(b"role");
    out.bulk(if is_primary { b"master" } else { b"replica" });
    out.bulk(b"modules");
    out.array(0);
}

pub(super) fn set_version(context: &mut Context<'_>, version: Version) {
    context.client.version = version;
    context.out.version = version;
    context.client.shared.resp.store(if version == Version::Resp3 { 3 } else { 2 }, Relaxed);
}

/// The error about a name of a client that may not be one.
pub(super) const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Whether a name consists of visible ASCII only.
pub(super) fn is_printable(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

/// AUTH.
pub fn auth<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (user, password): (&[u8], &[u8]) = match arguments.len() {
        2 if !context.server.needs_password() => {
            context.out.error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                 configuration is correct?",
            );
            return Action::Done;
        }
        2 => (b"default", arguments.get(1)),
        3 => (arguments.get(1), arguments.get(2)),
        _ => {
            context.out.error(SYNTAX_ERROR);
            return Action::Done;
        }
    };
    if log_in(context, user, password) {
        context.out.ok()
    } else {
        context.out.error(WRONG_PASSWORD)
    }
    Action::Done
}

/// Whether user and password are right; then the client is authenticated.
fn log_in(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> bool {
    let is_right = {
        let due = context.server.settings.requirepass.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (due.is_empty() || is_equal_in_constant_time(&due, password)) && user == b"default"
    };
    // As in Redis, a client that fails to authenticate again keeps what it had.
    context.client.is_authenticated |= is_right;
    is_right
}

/// Whether two passwords are the same. The time this takes tells nothing of where they differ, nor of the size of
/// `due`.
fn is_equal_in_constant_time(due: &[u8], given: &[u8]) -> bool {
    fn padded(text: &[u8]) -> [u8; PASSWORD_SIZE_MAX] {
        let mut padded = [0; PASSWORD_SIZE_MAX];
        let size = text.len().min(PASSWORD_SIZE_MAX);
        padded[..size].copy_from_slice(&text[..size]);
        padded
    }
    (padded(due).ct_eq(&padded(given)) & due.len().ct_eq(&given.len())).into()
}

/// PING.
pub fn ping<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let message = arguments.find(1);
    if arguments.len() > 2 {
        context.out.error("ERR wrong number of arguments for 'ping' command");
    } else if context.client.is_subscriber_only() {
        context.out.array(2);
        context.out.bulk(b"pong");
        context.out.bulk(message.unwrap_or_default());
    } else {
        match message {
            Some(message) => context.out.bulk(message),
            None => context.out.simple("PONG"),
        }
    }
    Action::Done
}

/// ECHO.
pub fn echo<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    context.out.bulk(arguments.get(1));
    Action::Done
}

/// SELECT.
pub fn select<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    match integer(arguments.get(1)) {
        Some(0) => context.out.ok(),
        Some(index) if i32::try_from(index).is_err() => {
            context.out.error("ERR value is out of range, value must between -2147483648 and 2147483647");
        }
        Some(_) if context.server.is_cluster() => context.out.error("ERR SELECT is not allowed in cluster mode"),
        Some(_) => context.out.error("ERR DB index is out of range"),
        None => context.out.error(NOT_AN_INTEGER),
    }
    Action::Done
}

/// QUIT.
pub fn quit<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.ok();
    Action::Close
}

/// RESET.
pub fn reset<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let who = context.who();
    let server = context.server;
    let client: &mut Client = context.client;
    server.pubsub.forget(who, &mut client.subscriptions);
    client.transaction = Default::default();
    client.is_authenticated = !server.needs_password();
    client.is_readonly = false;
    // An answer that was to be skipped is skipped, this one.
    if client.reply != ReplyMode::Skip {
        client.reply = ReplyMode::On;
    }
    let shared = &client.shared;
    shared.names().name.clear();
    for count in [&shared.channels, &shared.patterns, &shared.watches] {
        count.store(0, Relaxed);
    }
    shared.multi.store(-1_i32 as u32, Relaxed);
    for flag in [&shared.is_readonly, &shared.no_evict, &shared.no_touch] {
        flag.store(false, Relaxed);
    }
    set_version(context, Version::Resp2);
    context.out.simple("RESET");
    Action::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_equal_only_when_they_are() {
        assert!(is_equal_in_constant_time(b"secret", b"secret"));
        assert!(!is_equal_in_constant_time(b"secret", b"secre"));
        assert!(!is_equal_in_constant_time(b"secret", b"secret\0"));
        assert!(!is_equal_in_constant_time(b"secret", b"Secret"));
        let long = [b'x'; PASSWORD_SIZE_MAX];
        assert!(is_equal_in_constant_time(&long, &long));
        assert!(!is_equal_in_constant_time(&long, &[b'x'; PASSWORD_SIZE_MAX + 1]));
    }
}
