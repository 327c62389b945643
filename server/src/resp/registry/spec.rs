//! What is known of a command before it runs: what `COMMAND` tells of it, and `docs/redis.md`.

use std::fmt::Write;

use super::super::context::Run;
pub use super::super::flags::*;

/// Allowed to a RESP2 client that is subscribed to something.
pub const SUBSCRIBED: u32 = 1 << 29;
/// Category `@keyspace`.
pub const CAT_KEYSPACE: u32 = 1 << 23;
/// Category `@string`.
pub const CAT_STRING: u32 = 1 << 24;
/// Category `@connection`.
pub const CAT_CONNECTION: u32 = 1 << 25;
/// Category `@transaction`.
pub const CAT_TRANSACTION: u32 = 1 << 26;
/// Category `@dangerous` where [`ADMIN`] does not say so.
pub const CAT_DANGEROUS: u32 = 1 << 27;
/// Category `@admin` where [`ADMIN`] does not say so.
pub const CAT_ADMIN: u32 = 1 << 28;

/// Kinds of commands, by Redis's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Connections and the handshake.
    Connection,
    /// Values.
    String,
    /// Keys.
    Generic,
    /// Transactions.
    Transactions,
    /// Channels.
    PubSub,
    /// The server itself.
    Server,
    /// Discovery by cluster clients.
    Cluster,
    /// Discovery by sentinel clients.
    Sentinel,
}

impl Group {
    /// Every group, in the order of `docs/redis.md`.
    pub const ALL: [Group; 8] = [
        Group::Connection,
        Group::String,
        Group::Generic,
        Group::Transactions,
        Group::PubSub,
        Group::Server,
        Group::Cluster,
        Group::Sentinel,
    ];

    /// Redis's name.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Connection => "connection",
            Group::String => "string",
            Group::Generic => "generic",
            Group::Transactions => "transactions",
            Group::PubSub => "pubsub",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Sentinel => "sentinel",
        }
    }
}

/// How close a command is to Redis's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As Redis 7.2 does it.
    Full,
    /// Differs so, and for this reason.
    Differs(&'static str),
}

/// A command, or a subcommand of a container.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// In lower case; of a subcommand, without its container.
    pub name: &'static str,
    /// The container, for a subcommand.
    pub container: Option<&'static str>,
    /// Number of arguments, the name included; when negative, at least so many.
    pub arity: i8,
    /// The constants of this module.
    pub flags: u32,
    /// First and last key (negative: from the end) and the step between keys; zeroes without keys.
    pub keys: (i8, i8, i8),
    /// What the command does to its keys, in Redis's words: one text for all, or one for each.
    pub key_flags: &'static [&'static str],
    /// What kind of command it is.
    pub group: Group,
    /// The Redis version that had it first.
    pub since: &'static str,
    /// The arguments, in the notation of Redis's manual: `COMMAND DOCS` is made of it.
    pub syntax: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Hints for clients, in Redis's words.
    pub tips: &'static [&'static str],
    /// How close it is to Redis's.
    pub support: Support,
    /// Runs it.
    pub run: Run,
    /// Counts up over all commands and subcommands, once they are in the registry.
    pub number: u16,
    /// What a container contains.
    pub subcommands: &'static [Spec],
}

impl Spec {
    /// A command without keys.
    pub const fn new(name: &'static str, arity: i8, flags: u32, group: Group, since: &'static str, run: Run) -> Spec {
        Spec {
            name,
            container: None,
            arity,
            flags,
            keys: (0, 0, 0),
            key_flags: &[],
            group,
            since,
            syntax: "",
            summary: "",
            tips: &[],
            support: Support::Full,
            run,
            number: 0,
            subcommands: &[],
        }
    }

    /// Says how it is called and what it does.
    pub const fn about(mut self, syntax: &'static str, summary: &'static str) -> Spec {
        self.syntax = syntax;
        self.summary = summary;
        self
    }

    /// Its only key is the first argument.
    pub const fn key(self, flags: &'static [&'static str]) -> Spec {
        self.keys(1, 1, 1, flags)
    }

    /// Where its keys are.
    pub const fn keys(mut self, first: i8, last: i8, step: i8, flags: &'static [&'static str]) -> Spec {
        self.keys = (first, last, step);
        self.key_flags = flags;
        self
    }

    /// Hints for clients.
    pub const fn tips(mut self, tips: &'static [&'static str]) -> Spec {
        self.tips = tips;
        self
    }

    /// It is not quite as Redis's, in this and for that reason.
    pub const fn differs(mut self, how: &'static str) -> Spec {
        self.support = Support::Differs(how);
        self
    }

    /// It is among the commands of the server, whatever table it stands in.
    pub const fn in_server(mut self) -> Spec {
        self.group = Group::Server;
        self
    }

    /// It contains these.
    pub const fn contains(mut self, subcommands: &'static [Spec]) -> Spec {
        self.subcommands = subcommands;
        self
    }

    /// It is contained in this one.
    pub const fn of(mut self, container: &'static str) -> Spec {
        self.container = Some(container);
        self
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Whether a call with `len` arguments, the name included, has the right number of them.
    #[inline]
    pub const fn takes(&self, len: usize) -> bool {
        if self.arity >= 0 { len == self.arity as usize } else { len >= -(self.arity as isize) as usize }
    }

    /// The name with the container: `client|id`.
    pub fn full_name(&self) -> String {
        let mut name = String::new();
        if let Some(container) = self.container {
            write!(name, "{container}|").expect("a string takes everything");
        }
        name + self.name
    }

    /// The flags by their names.
    pub fn flag_names(&self) -> Vec<&'static str> {
        ALL.iter().filter(|(flag, _)| self.has(*flag)).map(|&(_, name)| name).collect()
    }

    /// The categories of Redis's access control, in its order.
    pub fn categories(&self) -> Vec<&'static str> {
        let categories = [
            (self.has(CAT_KEYSPACE), "@keyspace"),
            (self.has(READONLY), "@read"),
            (self.has(WRITE), "@write"),
            (self.has(CAT_STRING), "@string"),
            (self.has(PUBSUB), "@pubsub"),
            (self.has(ADMIN | CAT_ADMIN), "@admin"),
            (self.has(FAST), "@fast"),
            (!self.has(FAST), "@slow"),
            (self.has(BLOCKING), "@blocking"),
            (self.has(ADMIN | CAT_DANGEROUS), "@dangerous"),
            (self.has(CAT_CONNECTION), "@connection"),
            (self.has(CAT_TRANSACTION), "@transaction"),
        ];
        categories.into_iter().filter(|(is_in, _)| *is_in).map(|(_, name)| name).collect()
    }

    /// The positions of the keys in a call with `len` arguments, the name included.
    pub fn key_positions(&self, len: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { len as isize + last as isize } else { last as isize };
        let end = if first == 0 { 0 } else { (last.max(-1) + 1) as usize };
        (first as usize..end.min(len)).step_by(step.max(1) as usize)
    }
}
