//! Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.
//!
//! Commands between MULTI and EXEC are kept as they arrived. EXEC turns them into one program, which is one entry of
//! the log: it happens as a whole or not at all, also across a failover. Commands that do not concern the store are
//! carried out when EXEC builds the program, and their answers stand in their places.
//!
//! WATCH remembers the version and the expiry of keys; in front of EXEC's program stand checks that they are still the
//! same. That a key was touched and is again as it was is noted by its shard for as long as somebody watches (see
//! `shard::watches`).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use lockstep_proto::program::{Value, results};

use super::{
    arguments::{Arguments, Span},
    context::Spec,
    pubsub::Delivery,
    values::write_value,
    watchers::Watching,
    writer::Writer,
};

/// Largest size of the commands of a transaction, in bytes.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// Largest number of commands of a transaction.
pub const QUEUE_MAX: usize = 16_384;

/// Largest number of keys that one client watches.
pub const WATCHES_MAX: usize = 4096;

/// A client's transaction, and the keys that it watches.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Whether MULTI was given.
    pub is_open: bool,
    /// Whether a command was refused when it was queued: EXEC is refused, too.
    pub is_spoilt: bool,
    /// The commands, in order.
    pub queue: Vec<Queued>,
    /// Size of the queued commands, in bytes.
    pub queue_bytes: usize,
    /// What is watched, by key.
    pub watches: BTreeMap<Vec<u8>, Watch>,
    /// Size of the watched keys, in bytes.
    pub watch_bytes: usize,
    /// For each shard that has such keys, what makes it note what happens to them.
    pub watching: Vec<Watching>,
}

/// A command that waits for EXEC.
#[derive(Debug)]
pub struct Queued {
    /// The command, or the subcommand.
    pub spec: &'static Spec,
    /// Its arguments.
    pub bytes: Vec<u8>,
    /// Where they are.
    pub spans: Vec<Span>,
}

/// A key that is watched, as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its version, 0 when it did not exist.
    pub version: u64,
    /// Its expiry, in ns since 1970, 0 for none.
    pub expiry_ns: u64,
    /// The revision of the last request that was applied then.
    pub revision: u64,
}

impl Transaction {
    /// Keeps a command for EXEC. Whether there is room for it.
    pub fn enqueue(&mut self, spec: &'static Spec, arguments: &Arguments<'_>) -> bool {
        // With where the arguments are: a command of many empty ones is large, too.
        let bytes_len: usize = arguments.iter().map(<[u8]>::len).sum();
        let size = bytes_len + arguments.len() * size_of::<Span>() + size_of::<Queued>();
        if self.queue.len() >= QUEUE_MAX || self.queue_bytes + size > QUEUE_BYTES_MAX {
            self.is_spoilt = true;
            return false;
        }
        let mut bytes = Vec::with_capacity(bytes_len);
        arguments.iter().for_each(|argument| bytes.extend_from_slice(argument));
        let mut end = 0;
        let spans = arguments.iter().map(|argument| {
            let begin = end;
            end += argument.len() as u32;
            (begin, end)
        });
        let spans = spans.collect();
        self.queue_bytes += size;
        self.queue.push(Queued { spec, bytes, spans });
        true
    }

    /// Whether so many more keys may be watched.
    pub fn may_watch(&self, keys: &Arguments<'_>) -> bool {
        let bytes = self.watch_bytes + keys.iter().map(<[u8]>::len).sum::<usize>();
        self.watches.len() + keys.len() <= WATCHES_MAX && bytes <= QUEUE_BYTES_MAX
    }

    /// Watches keys as they were found. One that is watched already stays as it was found first.
    pub fn watch(&mut self, found: impl Iterator<Item = (Vec<u8>, Watch)>, watching: Watching) {
        if !self.watching.iter().any(|other| other.is_of_same_shard(&watching)) {
            self.watching.push(watching);
        }
        for (key, watch) in found {
            let size = key.len();
            if let Entry::Vacant(place) = self.watches.entry(key) {
                self.watch_bytes += size;
                place.insert(watch);
            }
        }
    }

    /// Forgets what is watched.
    pub fn unwatch(&mut self) {
        self.watches.clear();
        self.watch_bytes = 0;
        self.watching.clear();
    }

    /// What it takes of the memory, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.queue_bytes + self.watch_bytes + self.watches.len() * size_of::<(Vec<u8>, Watch)>()
    }

    /// Ends the transaction without carrying it out, and forgets what is watched.
    pub fn discard(&mut self) {
        *self = Transaction::default();
    }
}

impl Queued {
    /// The arguments.
    pub fn arguments(&self) -> Arguments<'_> {
        Arguments::new(&self.bytes, &self.spans)
    }
}

/// What EXEC has to answer: for each command, its place among the program's results or what it has answered already.
#[derive(Clone, Debug, Default)]
pub struct Execution {
    /// In order.
    pub items: Vec<Item>,
    /// The answers that are known.
    pub literals: Vec<u8>,
    /// What is published in it, for each shard: delivered once it has been carried out.
    pub deliveries: Vec<(u16, Delivery)>,
    /// What it watches is known until it is answered.
    pub watching: Vec<Watching>,
}

/// The answer of one command of a transaction.
#[derive(Clone, Debug)]
pub enum Item {
    /// The next result of the program.
    Result,
    /// These bytes of [`Execution::literals`].
    Literal(Range<usize>),
}

impl Execution {
    /// Writes EXEC's answer. `body` holds the results. Whether the transaction was carried out.
    pub fn write(&self, out: &mut Writer<'_>, body: &[u8]) -> bool {
        let mut values = results(body);
        if values.clone().next() == Some(Value::Aborted) {
            out.null_array();
            return false;
        }
        out.array(self.items.len());
        for item in &self.items {
            match item {
                Item::Literal(range) => out.raw(&self.literals[range.clone()]),
                Item::Result => match values.next() {
                    Some(value) => write_value(out, &value),
                    None => out.error("ERR internal error: the store gave too few results"),
                },
            }
        }
        true
    }
}
