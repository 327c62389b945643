//! What has to be equal in two servers' answers: their bytes, but for what follows.

use crate::{
    grammar::{Action, Step},
    wire::{Answer, Body, Reply},
};

/// Follows a sequence, since what has to be equal depends on what came before.
#[derive(Default)]
pub struct Agreement {
    /// The commands of the open transaction of each connection.
    queued: [Vec<Vec<Vec<u8>>>; 2],
    /// Whether a key has expired that nobody may have looked at since.
    has_expired: bool,
    /// Whether a connection was given a name in a HELLO that was refused: Redis 7.0 has taken it by then, 7.2 reads all
    /// options first.
    is_name_unclear: [bool; 2],
    /// Whether ours has refused a transaction on purpose: what comes after it is not comparable.
    is_apart: bool,
}

/// Seconds that may lie between one server's answer and the other's.
const SECONDS_APART_MAX: i64 = 20;

/// A time to live below this is a yes or no (-1, -2), not a time.
const TIME_MIN: i64 = 100;

impl Agreement {
    /// Whether the answers to a step agree.
    pub fn holds(&mut self, step: &Step, left: &Answer, right: &Answer) -> bool {
        if self.is_apart {
            return true;
        }
        let command = match &step.action {
            Action::Command(command) => command,
            Action::Pause(_) => {
                self.has_expired = true;
                return true;
            }
            Action::ScanAll(_) => {
                if matches!(left, Ok(reply) if reply.text() == Some(b"QUEUED")) {
                    self.queued[step.connection].push(vec![b"SCAN".to_vec()]);
                }
                return left == right;
            }
        };
        let (Ok(left), Ok(right)) = (left, right) else { return left == right };
        self.note_name(step.connection, command, right);
        let queued = &mut self.queued[step.connection];
        if is_named_in(&["DISCARD", "RESET"], command) && !left.is_error() {
            queued.clear();
        }
        if left.text() == Some(b"QUEUED") {
            queued.push(command.clone());
            return left == right;
        }
        if !command[0].eq_ignore_ascii_case(b"exec") {
            return self.agree(step.connection, command, left, right);
        }
        let queued = std::mem::take(queued);
        match (left.items(), right.items()) {
            (Some(left), Some(right)) if left.len() == right.len() && left.len() == queued.len() => {
                let mut pairs = queued.iter().zip(left.iter().zip(right));
                pairs.all(|(command, (left, right))| self.agree(step.connection, command, left, right))
            }
            // A step of a scan may have to go on in the next shard.
            _ if begins(right, "CROSSSLOT ") && queued.iter().any(|command| is_named_in(&["SCAN"], command)) => {
                self.is_apart = true;
                true
            }
            _ => left == right,
        }
    }

    fn note_name(&mut self, connection: usize, command: &[Vec<u8>], ours: &Reply) {
        if is_named_in(&["HELLO"], command) && command.iter().any(|word| word.eq_ignore_ascii_case(b"setname")) {
            self.is_name_unclear[connection] = ours.is_error();
        } else if is_named_in(&["CLIENT SETNAME", "RESET"], command) && !ours.is_error() {
            self.is_name_unclear[connection] = false;
        }
    }

    fn agree(&self, connection: usize, command: &[Vec<u8>], left: &Reply, right: &Reply) -> bool {
        if left == right {
            return true;
        }
        if is_deliberate(command, left, right) {
            return true;
        }
        if is_named_in(&["CLIENT GETNAME", "CLIENT INFO"], command) && self.is_name_unclear[connection] {
            return same_kind(left, right) || is_null(right);
        }
        if left.is_error() || right.is_error() {
            return false;
        }
        let name = command[0].to_ascii_uppercase();
        let second = command.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        match (&name[..], &second[..]) {
            // The order of keys is whatever the table's is.
            (b"KEYS", _) => sorted(left) == sorted(right),
            // SCAN as a whole is compared key by key; a single call's part and cursor are the server's own.
            (b"SCAN", _) => left.items().map(<[_]>::len) == right.items().map(<[_]>::len),
            // Which key is random; whether there is one is not.
            (b"RANDOMKEY", _) => same_kind(left, right),
            // Redis counts keys that have expired until it comes by.
            (b"DBSIZE", _) => self.has_expired && same_kind(left, right),
            // The clock goes on between the two servers' answers.
            (b"TTL" | b"EXPIRETIME", _) => near(left, right, SECONDS_APART_MAX),
            (b"PTTL" | b"PEXPIRETIME", _) => near(left, right, SECONDS_APART_MAX * 1000),
            (b"OBJECT", b"IDLETIME") | (b"TIME" | b"LASTSAVE", _) => same_kind(left, right),
            // Identity, addresses, memory, counts of what has happened, number of replicas: each server's own.
            (b"CLIENT", b"ID" | b"LIST") | (b"INFO" | b"ROLE" | b"WAIT", _) => same_kind(left, right),
            (b"CLIENT", b"INFO") => client(left) == client(right),
            // Redis finds keys there that have expired.
            (b"MEMORY", b"USAGE") => same_kind(left, right) || (self.has_expired && is_null(right)),
            (b"SLOWLOG", b"GET" | b"LEN") | (b"LATENCY", b"RESET" | b"HISTOGRAM") => same_kind(left, right),
            (b"HELLO", _) => hello(left) == hello(right),
            // Ours knows other commands than Redis 7.0.
            (b"COMMAND", b"" | b"COUNT" | b"LIST" | b"DOCS") => same_kind(left, right),
            (b"COMMAND", b"INFO") if command.len() == 2 => same_kind(left, right),
            (_, b"HELP") => same_kind(left, right),
            _ => false,
        }
    }
}

/// Whether a command is one of these: a name, or a container's and a subcommand's.
fn is_named_in(names: &[&str], command: &[Vec<u8>]) -> bool {
    names.iter().any(|name| {
        let mut words = command.iter();
        name.split(' ').all(|part| words.next().is_some_and(|word| word.eq_ignore_ascii_case(part.as_bytes())))
    })
}

/// Where ours differs on purpose: docs/redis.md has the reasons.
fn is_deliberate(command: &[Vec<u8>], redis: &Reply, ours: &Reply) -> bool {
    match &command[0].to_ascii_uppercase()[..] {
        // Outside of cluster mode too, a backup serves old reads to whoever asks for them with READONLY.
        b"READONLY" | b"READWRITE" => redis.is_error() && ours.text() == Some(b"OK"),
        // Redis 7.2 reads all options before it tries the password; 7.0 does not.
        b"HELLO" => begins(redis, "WRONGPASS ") && begins(ours, "ERR Syntax error in HELLO option"),
        // Redis 7.0 counts beyond the largest number and arrives in the past.
        b"CLIENT" | b"WAIT" => begins(ours, "ERR timeout is out of range"),
        // Since Redis 7.2, one word is enough.
        b"COMMAND" => begins(redis, "ERR wrong number of arguments for 'command|getkeys"),
        _ => false,
    }
}

fn begins(reply: &Reply, text: &str) -> bool {
    reply.is_error() && reply.text().is_some_and(|found| found.starts_with(text.as_bytes()))
}

fn is_null(reply: &Reply) -> bool {
    reply.kind == b'_' || reply.body == Body::Null
}

fn same_kind(left: &Reply, right: &Reply) -> bool {
    left.kind == right.kind && (left.body == Body::Null) == (right.body == Body::Null)
}

fn sorted(reply: &Reply) -> Option<Vec<&[u8]>> {
    let mut keys: Vec<&[u8]> = reply.items()?.iter().map(|key| key.text()).collect::<Option<_>>()?;
    keys.sort_unstable();
    Some(keys)
}

fn near(left: &Reply, right: &Reply, apart_max: i64) -> bool {
    match (left.integer(), right.integer()) {
        (Some(left), Some(right)) => left.min(right) >= TIME_MIN && left.abs_diff(right) <= apart_max as u64,
        _ => false,
    }
}

/// What HELLO says, without the version and the connection's number.
fn hello(reply: &Reply) -> Option<Vec<&Reply>> {
    let pairs = reply.items()?.as_chunks::<2>().0;
    let is_own = |pair: &&[Reply; 2]| matches!(pair[0].text(), Some(b"version" | b"id"));
    Some(pairs.iter().filter(|pair| !is_own(pair)).flatten().collect())
}

/// The fields of CLIENT INFO that do not depend on the server's memory, clock and sockets.
fn client(reply: &Reply) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(reply.text()?).ok()?;
    let is_compared = |field: &&str| {
        let name = field.split('=').next().unwrap_or_default();
        matches!(name, "name" | "db" | "sub" | "psub" | "multi" | "resp" | "cmd" | "user" | "redir")
    };
    Some(text.trim_end().split(' ').filter(is_compared).collect())
}
