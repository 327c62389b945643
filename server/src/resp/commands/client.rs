//! CLIENT and its subcommands.

use std::{fmt::Write, sync::atomic::Ordering::Relaxed};

use super::{
    super::{
        arguments::Arguments,
        client::{ClientShared, ReplyMode},
        context::{Action, Context},
        numbers::{integer, timeout_ms},
        registry::shown,
        server::Server,
    },
    connection::{BAD_NAME, SYNTAX_ERROR, is_printable},
    help::{help, subcommand_error},
};

/// CLIENT alone.
pub fn client_<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "CLIENT", arguments)
}

/// CLIENT HELP.
pub fn client_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "client")
}

/// CLIENT ID.
pub fn client_id<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(context.client.shared.id as i64);
    Action::Done
}

/// CLIENT GETNAME.
pub fn client_getname<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    match context.client.shared.names().name.as_slice() {
        [] => context.out.null(),
        name => context.out.bulk(name),
    }
    Action::Done
}

/// CLIENT SETNAME.
pub fn client_setname<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let name = arguments.get(2);
    if is_printable(name) {
        context.client.shared.names().name = name.to_vec();
        context.out.ok();
    } else {
        context.out.error(BAD_NAME);
    }
    Action::Done
}

/// CLIENT SETINFO.
pub fn client_setinfo<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (attribute, value) = (arguments.get(2), arguments.get(3));
    let is_name = arguments.is(2, "lib-name");
    if !is_name && !arguments.is(2, "lib-ver") {
        context.out.error_bytes(&[b"ERR Unrecognized option '", shown(attribute), b"'"].concat());
    } else if !is_printable(value) {
        let text = b" cannot contain spaces, newlines or special characters.";
        context.out.error_bytes(&[b"ERR ", shown(attribute), text].concat());
    } else {
        let mut names = context.client.shared.names();
        *(if is_name { &mut names.lib_name } else { &mut names.lib_version }) = value.to_vec();
        context.out.ok();
    }
    Action::Done
}

/// CLIENT INFO.
pub fn client_info<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let text = describe(&context.client.shared, context.wall_ns);
    context.out.verbatim("txt", &text);
    Action::Done
}

/// CLIENT LIST.
pub fn client_list<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let mut listed = Vec::new();
    let server = context.server;
    if arguments.len() == 2 {
        listed = server.clients.all();
    } else if arguments.len() == 4 && arguments.is(2, "type") {
        let Some(kind) = kind_of(context, arguments.get(3)) else { return Action::Done };
        listed = server.clients.all();
        listed.retain(|client| Kind::of(client) == kind);
    } else if arguments.len() > 3 && arguments.is(2, "id") {
        for id in arguments.iter().skip(3) {
            let Some(id) = integer(id) else {
                context.out.error("ERR Invalid client ID");
                return Action::Done;
            };
            listed.extend(u64::try_from(id).ok().and_then(|id| server.clients.find(id)));
        }
    } else {
        context.out.error(SYNTAX_ERROR);
        return Action::Done;
    }
    let text: Vec<u8> = listed.iter().flat_map(|client| describe(client, context.wall_ns)).collect();
    context.out.verbatim("txt", &text);
    Action::Done
}

/// Kinds of clients, as far as they are told apart here: other servers do not come to this port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    PubSub,
    /// A primary or a replica: nobody.
    Server,
}

impl Kind {
    fn of(client: &ClientShared) -> Kind {
        let listens = client.channels.load(Relaxed) > 0 || client.patterns.load(Relaxed) > 0;
        if listens { Kind::PubSub } else { Kind::Normal }
    }
}

/// The kind of this name; `None` if there is none, which has been answered.
fn kind_of(context: &mut Context<'_>, name: &[u8]) -> Option<Kind> {
    let kind = match name.to_ascii_lowercase().as_slice() {
        b"normal" => Kind::Normal,
        b"pubsub" => Kind::PubSub,
        b"master" | b"replica" | b"slave" => Kind::Server,
        _ => {
            context.out.error_bytes(&[b"ERR Unknown client type '", shown(name), b"'"].concat());
            return None;
        }
    };
    Some(kind)
}

/// The line about a client.
fn describe(client: &ClientShared, now_ns: u64) -> Vec<u8> {
    let seconds_since = |moment_ns: u64| now_ns.saturating_sub(moment_ns) / 1_000_000_000;
    let multi = client.multi();
    let (channels, patterns) = (client.channels.load(Relaxed), client.patterns.load(Relaxed));
    let mut flags = String::new();
    let marks = [
        (channels + patterns > 0, 'P'),
        (multi >= 0, 'x'),
        (client.is_blocked.load(Relaxed), 'b'),
        (client.is_readonly.load(Relaxed), 'r'),
        (client.no_evict.load(Relaxed), 'e'),
        (client.no_touch.load(Relaxed), 'T'),
    ];
    flags.extend(marks.iter().filter(|(is_set, _)| *is_set).map(|&(_, mark)| mark));
    if flags.is_empty() {
        flags.push('N');
    }
    let names = client.names().clone();
    let output = client.output_bytes.load(Relaxed);
    let input = client.query_bytes.load(Relaxed);
    let mut line = Vec::new();
    line.extend_from_slice(
        format!("id={} addr={} laddr={} fd={} name=", client.id, client.peer, client.local, client.fd).as_bytes(),
    );
    line.extend_from_slice(&names.name);
    let mut rest = String::new();
    write!(
        rest,
        " age={} idle={} flags={flags} db=0 sub={channels} psub={patterns} ssub=0 multi={multi} qbuf={input} qbuf-free=0 \
         argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll={} omem={output} tot-mem={} events=r cmd={} user=default redir=-1 resp={} \
         lib-name=",
        seconds_since(client.created_ns),
        seconds_since(client.active_ns.load(Relaxed)),
        client.multi_bytes.load(Relaxed),
        u8::from(output > 0),
        client.memory_bytes(),
        client.last_command_name(),
        client.resp.load(Relaxed),
    )
    .expect("a string takes everything");
    line.extend_from_slice(rest.as_bytes());
    line.extend_from_slice(&names.lib_name);
    line.extend_from_slice(b" lib-ver=");
    line.extend_from_slice(&names.lib_version);
    line.push(b'\n');
    line
}

/// Which clients to close.
struct Filter<'a> {
    id: Option<u64>,
    kind: Option<Kind>,
    peer: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    spares_self: bool,
}

impl Filter<'_> {
    fn fits(&self, client: &ClientShared) -> bool {
        self.id.is_none_or(|id| client.id == id)
            && self.kind.is_none_or(|kind| Kind::of(client) == kind)
            && self.peer.is_none_or(|peer| client.peer.to_string().as_bytes() == peer)
            && self.local.is_none_or(|local| client.local.to_string().as_bytes() == local)
    }
}

/// CLIENT KILL.
pub fn client_kill<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let is_old_form = arguments.len() == 3;
    let mut filter = Filter { id: None, kind: None, peer: None, local: None, spares_self: !is_old_form };
    if is_old_form {
        filter.peer = Some(arguments.get(2));
    } else if read_filter(context, arguments, &mut filter).is_none() {
        return Action::Done;
    }
    let own = context.client.shared.id;
    let mut count = 0;
    let mut is_own_end = false;
    for client in context.server.clients.all() {
        if !filter.fits(&client) || (client.id == own && filter.spares_self) {
            continue;
        }
        count += 1;
        if client.id == own {
            is_own_end = true;
        } else {
            context.server.kill(&client);
        }
    }
    match (is_old_form, count) {
        (true, 0) => context.out.error("ERR No such client"),
        (true, _) => context.out.ok(),
        (false, count) => context.out.integer(count),
    }
    if is_own_end { Action::Close } else { Action::Done }
}

/// Reads the pairs of option and value; `None` if one is wrong, which has been answered.
fn read_filter<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, filter: &mut Filter<'a>) -> Option<()> {
    let mut index = 2;
    while index < arguments.len() {
        let Some(value) = arguments.find(index + 1) else {
            context.out.error(SYNTAX_ERROR);
            return None;
        };
        if arguments.is(index, "id") {
            let id = integer(value).filter(|&id| id > 0);
            if id.is_none() {
                context.out.error("ERR client-id should be greater than 0");
            }
            filter.id = Some(id? as u64);
        } else if arguments.is(index, "type") {
            filter.kind = Some(kind_of(context, value)?);
        } else if arguments.is(index, "addr") {
            filter.peer = Some(value);
        } else if arguments.is(index, "laddr") {
            filter.local = Some(value);
        } else if arguments.is(index, "user") {
            if value != b"default" {
                context.out.error_bytes(&[b"ERR No such user '", shown(value), b"'"].concat());
                return None;
            }
        } else if arguments.is(index, "skipme") && (arguments.is(index + 1, "yes") || arguments.is(index + 1, "no")) {
            filter.spares_self = arguments.is(index + 1, "yes");
        } else {
            context.out.error(SYNTAX_ERROR);
            return None;
        }
        index += 2;
    }
    Some(())
}

/// CLIENT PAUSE.
pub fn client_pause<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let is_write_only = match arguments.len() {
        3 => false,
        4 if arguments.is(3, "write") => true,
        4 if arguments.is(3, "all") => false,
        4 => {
            context.out.error("ERR CLIENT PAUSE mode must be WRITE or ALL");
            return Action::Done;
        }
        _ => return subcommand_error(context, "CLIENT", arguments),
    };
    match timeout_ms(arguments.get(2), context.wall_ns) {
        Ok(timeout_ms) => {
            pause(context.server, context.wall_ns, timeout_ms, is_write_only);
            context.out.ok();
        }
        Err(error) => context.out.error(error.text()),
    }
    Action::Done
}

/// A pause that is under way is made no shorter, and stays one of everything.
fn pause(server: &Server, now_ns: u64, timeout_ms: u64, is_write_only: bool) {
    let pause = &server.pause;
    let end_ns = now_ns.saturating_add(timeout_ms.saturating_mul(1_000_000));
    let is_running = pause.until_ns.load(Relaxed) > now_ns;
    if !is_running || !is_write_only {
        pause.is_write_only.store(is_write_only, Relaxed);
    }
    if !is_running || end_ns > pause.until_ns.load(Relaxed) {
        pause.until_ns.store(end_ns, Relaxed);
    }
}

/// CLIENT UNPAUSE.
pub fn client_unpause<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.server.unpause();
    context.out.ok();
    Action::Done
}

/// CLIENT REPLY.
pub fn client_reply<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if arguments.is(2, "on") {
        context.client.reply = ReplyMode::On;
        context.out.ok();
    } else if arguments.is(2, "off") {
        context.client.reply = ReplyMode::Off;
    } else if arguments.is(2, "skip") {
        if context.client.reply != ReplyMode::Off {
            context.client.reply = ReplyMode::SkipNext;
        }
    } else {
        context.out.error(SYNTAX_ERROR);
    }
    Action::Done
}

/// The argument `on` or `off`; `None` if it is neither, which has been answered.
fn on_off(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Option<bool> {
    let is_on = arguments.is(2, "on");
    if !is_on && !arguments.is(2, "off") {
        context.out.error(SYNTAX_ERROR);
        return None;
    }
    context.out.ok();
    Some(is_on)
}

/// CLIENT NO-EVICT.
pub fn client_no_evict<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if let Some(is_on) = on_off(context, arguments) {
        context.client.shared.no_evict.store(is_on, Relaxed);
    }
    Action::Done
}

/// CLIENT NO-TOUCH.
pub fn client_no_touch<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if let Some(is_on) = on_off(context, arguments) {
        context.client.shared.no_touch.store(is_on, Relaxed);
    }
    Action::Done
}
