//! What a command is, what it is given, and what it asks to be done.

use lockstep_proto::program::{Builder, Opcode};

pub use super::registry::spec::{Group, Spec, Support};
use super::{arguments::Arguments, client::Client, pubsub::Subscriber, server::Server, writer::Writer};

/// Carries a command out, or says what has to be done for it. The number of arguments has been checked.
///
/// May be called again with the same arguments when what it asked for had no room: it changes nothing of the client
/// unless it answers by itself ([`Action::Done`], [`Action::Close`]).
pub type Run = for<'a> fn(&mut Context<'_>, &Arguments<'a>) -> Action<'a>;

/// What a command is given.
#[derive(Debug)]
pub struct Context<'c> {
    /// Who asks.
    pub client: &'c mut Client,
    /// The server.
    pub server: &'c Server,
    /// Where an answer given at once goes.
    pub out: Writer<'c>,
    /// Where the program for the store goes; empty at first (in a transaction: what the commands before it have put
    /// there). A handler that answers [`Action::Run`], [`Action::Everywhere`] or [`Action::Scan`] has appended one
    /// command.
    pub program: &'c mut Builder,
    /// The shard that serves this connection.
    pub shard: u16,
    /// Whether the command is carried out by EXEC.
    pub is_in_exec: bool,
    /// The time, in ns since 1970.
    pub wall_ns: u64,
    /// A number that nobody can foresee, drawn for this command.
    pub draw: u64,
}

/// What has to be done for a command.
#[derive(Debug)]
pub enum Action<'a> {
    /// Nothing: the answer is in [`Context::out`] (or there is none).
    Done,
    /// Close the connection once the answer in [`Context::out`] is sent.
    Close,
    /// Read a key. The answer is the value or null. The fast path: the key is not empty.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Write a key without a time-to-live. The answer is `+OK`. The fast path: key and value are within their bounds
    /// and the key is not empty.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Carry out the program in the shard of this slot. The answer is its result.
    Run {
        /// The slot of the command's key; all keys are in one shard (see [`Context::one_shard`]).
        slot: u16,
        /// Whether it may write.
        is_write: bool,
    },
    /// Carry out `opcode` on keys that may be in several shards: each shard gets those that are its own, in order.
    Split {
        /// The command.
        opcode: Opcode,
        /// The keys.
        keys: Arguments<'a>,
        /// How the shards' results become one.
        join: Join,
        /// Whether it may write.
        is_write: bool,
    },
    /// Carry out the program in every shard.
    Everywhere {
        /// How the shards' results become one.
        join: Join,
        /// Whether it may write.
        is_write: bool,
    },
    /// Carry out the program, one step of a scan, in the shard of this slot.
    Scan {
        /// The slot to go on from.
        slot: u16,
        /// The cursor to answer instead of 0, when that shard is done: the beginning of the next shard, if there is
        /// one.
        next: Option<u64>,
    },
    /// Begin a transaction, end it, watch keys: see [`super::transaction`].
    Transaction(TransactionStep<'a>),
    /// Something of the server's operation.
    Admin(AdminRequest),
}

/// How the results of several shards become one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Integers: their sum.
    Sum,
    /// Arrays with one element per key: the elements in the order of the keys.
    Gather,
    /// Arrays: one after the other, in the order of the shards.
    Concat,
    /// `+OK`, if all said so.
    AllOk,
    /// One of those that are not null, by the command's draw.
    AnyOf,
}

/// A step of a transaction.
#[derive(Clone, Copy, Debug)]
pub enum TransactionStep<'a> {
    /// MULTI.
    Begin,
    /// EXEC.
    Execute,
    /// DISCARD.
    Discard,
    /// WATCH these keys.
    Watch(Arguments<'a>),
    /// UNWATCH.
    Unwatch,
}

/// Something that concerns the running of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// Begin a checkpoint of every shard. Answered `+Background saving started`.
    Checkpoint,
    /// Let another server become primary of every shard. Answered `+OK` once it has begun, or an error.
    MovePrimary {
        /// Which one; `None` for the one that has caught up best.
        to: Option<u8>,
    },
    /// Stop this server, as SIGTERM does. Not answered: the connection is closed.
    Shutdown,
    /// Answer the number of other servers that hold this connection's last write durably, once it is at least `copies`,
    /// or after `timeout_ms` (0: never). With `local`, the answer is that of WAITAOF: an array of 1 (this server's own
    /// disk) and that.
    Wait {
        /// Number of other servers to wait for.
        copies: u8,
        /// Largest time to wait, in ms.
        timeout_ms: u64,
        /// `Some(n)` for WAITAOF: the number of local copies to wait for, 0 or 1.
        local: Option<u8>,
    },
}

impl Context<'_> {
    /// The client, as a subscriber.
    pub fn who(&self) -> Subscriber {
        (self.shard, self.client.shared.id)
    }

    /// The slot of `keys`, if they are all in one shard. Else the error is answered.
    pub fn one_shard<'k>(&mut self, mut keys: impl Iterator<Item = &'k [u8]>) -> Option<u16> {
        use lockstep_proto::slot::{shard_of_slot, slot_of};
        let shards = self.server.identity.shards;
        let slot = slot_of(keys.next().unwrap_or_default());
        let shard = shard_of_slot(slot, shards);
        if shards > 1 && !keys.all(|key| shard_of_slot(slot_of(key), shards) == shard) {
            self.out.error("CROSSSLOT Keys in request don't hash to the same slot");
            return None;
        }
        Some(slot)
    }
}
