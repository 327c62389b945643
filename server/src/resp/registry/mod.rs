//! The commands that there are.
//!
//! Everything that is said about commands comes from these tables: what runs, what `COMMAND` answers, the errors about calls
//! that fit none, and the tables of `docs/redis.md`.

mod channels;
mod cluster;
mod connection;
mod keys;
#[cfg(test)]
mod page;
mod server;
pub mod spec;
mod strings;
pub mod syntax;
mod transactions;
#[cfg(test)]
mod unsupported;

use std::sync::LazyLock;

pub use self::spec::{Group, Spec, Support};
use super::{arguments::Arguments, context::Run};

/// The tables, one for each kind of command.
static TABLES: [&[Spec]; 7] = [
    connection::COMMANDS,
    strings::COMMANDS,
    keys::COMMANDS,
    transactions::COMMANDS,
    channels::COMMANDS,
    server::COMMANDS,
    cluster::COMMANDS,
];

/// Every command; subcommands are in their containers.
pub fn all() -> &'static [Spec] {
    REGISTRY.specs
}

/// Number of commands and subcommands: each has a number below it.
pub fn count() -> usize {
    REGISTRY.count
}

/// The command or subcommand with this number.
pub fn by_number(number: u32) -> Option<&'static Spec> {
    let mut specs = all().iter().flat_map(|spec| [spec].into_iter().chain(spec.subcommands));
    specs.find(|spec| u32::from(spec.number) == number)
}

/// The tables, with their commands numbered, and where a name is.
struct Registry {
    specs: &'static [Spec],
    count: usize,
    index: Box<[Option<&'static Spec>]>,
}

/// Places in the index: several times as many as there are commands, so that a look-up seldom meets another one.
const INDEX_SIZE: usize = 1024;

/// Longest name of a command, in bytes.
const NAME_SIZE_MAX: usize = 24;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut count = 0;
    let mut number = |spec: &Spec| {
        count += 1;
        Spec { number: count - 1, ..*spec }
    };
    let numbered = TABLES.iter().flat_map(|table| table.iter()).map(|spec| {
        let spec = number(spec);
        // They live as long as the program does.
        let subcommands: Vec<Spec> = spec.subcommands.iter().map(&mut number).collect();
        Spec { subcommands: subcommands.leak(), ..spec }
    });
    let specs: &'static [Spec] = numbered.collect::<Vec<Spec>>().leak();
    let mut index = vec![None; INDEX_SIZE].into_boxed_slice();
    for spec in specs {
        assert!(spec.name.len() <= NAME_SIZE_MAX, "{} is too long", spec.name);
        let mut place = place_of(spec.name.as_bytes());
        while index[place].is_some() {
            place = (place + 1) % INDEX_SIZE;
        }
        index[place] = Some(spec);
    }
    Registry { specs, count: count as usize, index }
});

/// Where the look-up of a name begins, whatever its case.
#[inline]
fn place_of(name: &[u8]) -> usize {
    let hash = name.iter().fold(0_u32, |hash, &byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte | 0x20)));
    (hash ^ (hash >> 15)) as usize % INDEX_SIZE
}

/// The command of this name, in whatever case.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > NAME_SIZE_MAX {
        return None;
    }
    let index = &REGISTRY.index;
    let mut place = place_of(name);
    while let Some(spec) = index[place] {
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        place = (place + 1) % INDEX_SIZE;
    }
    None
}

/// The subcommand of this name, in whatever case.
pub fn find_subcommand(container: &Spec, name: &[u8]) -> Option<&'static Spec> {
    container.subcommands.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The command or subcommand behind a name such as `get` or `client|id`.
pub fn find_full(name: &[u8]) -> Option<&'static Spec> {
    let Some(bar) = name.iter().position(|&byte| byte == b'|') else { return find(name) };
    find_subcommand(find(&name[..bar])?, &name[bar + 1..])
}

/// The command or subcommand that a call is meant for, with the right number of arguments.
///
/// # Errors
///
/// The text of Redis's error.
#[inline]
pub fn resolve(arguments: &Arguments<'_>) -> Result<&'static Spec, Vec<u8>> {
    let Some(mut spec) = find(arguments.get(0)) else { return Err(unknown_command(arguments)) };
    if !spec.subcommands.is_empty() && arguments.len() > 1 {
        spec = find_subcommand(spec, arguments.get(1)).ok_or_else(|| unknown_subcommand(spec, arguments.get(1)))?;
    }
    if spec.takes(arguments.len()) { Ok(spec) } else { Err(wrong_arity(spec)) }
}

/// The command or subcommand that a call is meant for, whatever its number of arguments.
pub fn meant(arguments: &Arguments<'_>) -> Option<&'static Spec> {
    let spec = find(arguments.get(0))?;
    if spec.subcommands.is_empty() || arguments.len() == 1 {
        return Some(spec);
    }
    find_subcommand(spec, arguments.get(1))
}

/// How much of what a client has sent is repeated in an error, in bytes.
const REPEATED_MAX: usize = 128;

/// The error about a command that there is not.
fn unknown_command(arguments: &Arguments<'_>) -> Vec<u8> {
    let mut repeated = Vec::new();
    for argument in arguments.iter().skip(1) {
        if repeated.len() >= REPEATED_MAX {
            break;
        }
        let begin = begin_of(argument, REPEATED_MAX - repeated.len());
        repeated.push(b'\'');
        repeated.extend_from_slice(begin);
        repeated.extend_from_slice(b"' ");
    }
    let name = begin_of(arguments.get(0), REPEATED_MAX);
    [b"ERR unknown command '", name, b"', with args beginning with: ", &repeated].concat()
}

/// The error about a subcommand that there is not.
fn unknown_subcommand(container: &Spec, name: &[u8]) -> Vec<u8> {
    let help = format!("'. Try {} HELP.", container.name.to_ascii_uppercase());
    [b"ERR unknown subcommand '", begin_of(name, REPEATED_MAX), help.as_bytes()].concat()
}

/// The error about too few or too many arguments.
pub fn wrong_arity(spec: &Spec) -> Vec<u8> {
    format!("ERR wrong number of arguments for '{}' command", spec.full_name()).into_bytes()
}

/// A text as Redis shows it in an error, where it is a C string: without a zero byte and what comes behind it.
pub fn shown(text: &[u8]) -> &[u8] {
    begin_of(text, text.len())
}

/// At most `size_max` bytes and none from a zero byte on: Redis formats it as a C string.
fn begin_of(text: &[u8], size_max: usize) -> &[u8] {
    let end = text.iter().take(size_max).position(|&byte| byte == 0).unwrap_or(text.len().min(size_max));
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(call: &[&[u8]]) -> Result<String, String> {
        let mut buffer = Vec::new();
        let spans: Vec<_> = call
            .iter()
            .map(|argument| {
                let begin = buffer.len() as u32;
                buffer.extend_from_slice(argument);
                (begin, buffer.len() as u32)
            })
            .collect();
        match resolve(&Arguments::new(&buffer, &spans)) {
            Ok(spec) => Ok(spec.full_name()),
            Err(text) => Err(String::from_utf8_lossy(&text).into_owned()),
        }
    }

    #[test]
    fn every_command_is_found_under_its_name_in_any_case() {
        for spec in all() {
            for name in [spec.name.to_owned(), spec.name.to_ascii_uppercase()] {
                assert_eq!(find(name.as_bytes()).map(|found| found.name), Some(spec.name));
            }
            for inner in spec.subcommands {
                assert_eq!(inner.container, Some(spec.name), "{}", inner.name);
                let found = find_full(inner.full_name().to_ascii_uppercase().as_bytes());
                assert_eq!(found.map(Spec::full_name), Some(inner.full_name()));
                assert!(inner.name != "help" || inner.arity == 2);
            }
        }
        assert!(find(b"").is_none() && find(b"lpush").is_none() && find(&[b'x'; 100]).is_none());
        assert!(find(b"client|id").is_none() && find_full(b"get|id").is_none());
    }

    #[test]
    fn every_text_is_there_and_well_formed() {
        for spec in all().iter().flat_map(|spec| [spec].into_iter().chain(spec.subcommands)) {
            assert!(spec.summary.ends_with('.') && !spec.summary.contains('|'), "{}", spec.full_name());
            let arguments = syntax::parse(spec.syntax);
            assert!(!arguments.is_empty() || spec.syntax.is_empty());
            if spec.keys.0 == 1 {
                assert!(!spec.key_flags.is_empty(), "{}", spec.full_name());
                let first = &arguments[0];
                let key = first.arguments.first().unwrap_or(first);
                assert_eq!(key.kind, syntax::Kind::Key, "{}", spec.full_name());
            }
            assert!(!(spec.has(spec::WRITE) && spec.has(spec::READONLY)));
        }
    }

    #[test]
    fn a_call_that_fits_nothing_gets_the_text_that_clients_know() {
        assert_eq!(resolved(&[b"GET", b"k"]), Ok("get".into()));
        assert_eq!(resolved(&[b"Client", b"iD"]), Ok("client|id".into()));
        assert_eq!(resolved(&[b"command"]), Ok("command".into()));
        let fails = |call: &[&[u8]], text: &str| assert_eq!(resolved(call), Err(text.into()));
        fails(&[b"get"], "ERR wrong number of arguments for 'get' command");
        fails(&[b"GET", b"a", b"b"], "ERR wrong number of arguments for 'get' command");
        fails(&[b"client"], "ERR wrong number of arguments for 'client' command");
        fails(&[b"client", b"id", b"x"], "ERR wrong number of arguments for 'client|id' command");
        fails(&[b"CLIENT", b"Nothing"], "ERR unknown subcommand 'Nothing'. Try CLIENT HELP.");
        fails(&[b"foo"], "ERR unknown command 'foo', with args beginning with: ");
        fails(&[b"foo", b"bar", b"baz"], "ERR unknown command 'foo', with args beginning with: 'bar' 'baz' ");
        fails(&[b"fo\0o", b"b\0r"], "ERR unknown command 'fo', with args beginning with: 'b' ");
        let long = [b'x'; 200];
        let x = |count| "x".repeat(count);
        fails(&[&long, &long], &format!("ERR unknown command '{}', with args beginning with: '{}' ", x(128), x(128)));
        let text = format!("ERR unknown command 'f', with args beginning with: '{}' '{}' ", x(100), x(25));
        fails(&[b"f", &long[..100], &long, b"y"], &text);
    }

    #[test]
    fn keys_are_where_redis_says() {
        let positions = |name: &str, len| find(name.as_bytes()).expect("there").key_positions(len).collect::<Vec<_>>();
        assert_eq!(positions("get", 2), [1]);
        assert_eq!(positions("mget", 4), [1, 2, 3]);
        assert_eq!(positions("mset", 5), [1, 3]);
        assert_eq!(positions("rename", 3), [1, 2]);
        assert!(positions("ping", 2).is_empty());
        assert!(positions("del", 1).is_empty());
    }
}
