//! A client of the front door: what its connection has been told, and what others may see of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    context::Spec,
    pubsub::{Delivery, Subscriptions},
    registry,
    transaction::Transaction,
    writer::Version,
};
use crate::shard::connections::ConnectionRef;

/// Which answers a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None, until it says `CLIENT REPLY ON`.
    Off,
    /// Not the one to the next command. (Set by `CLIENT REPLY SKIP`; the front door goes on by itself.)
    SkipNext,
    /// Not the one to this command.
    Skip,
}

/// A client, as its own shard sees it.
#[derive(Debug)]
pub struct Client {
    /// What other shards may see.
    pub shared: Arc<ClientShared>,
    /// The version of the protocol it is answered in.
    pub version: Version,
    /// Whether it may use commands, if a password is needed.
    pub is_authenticated: bool,
    /// Whether it takes old values from a backup (READONLY).
    pub is_readonly: bool,
    /// Which answers it wants.
    pub reply: ReplyMode,
    /// The transaction it is in, and what it watches.
    pub transaction: Transaction,
    /// What it publishes in the transaction that is being built.
    pub published: Vec<(u16, Delivery)>,
    /// What it listens to.
    pub subscriptions: Subscriptions,
    /// Number of servers that held its last write durably when that was answered.
    pub last_write_copies: u8,
}

impl Client {
    /// A client that has just connected.
    pub fn new(shared: Arc<ClientShared>, is_authenticated: bool) -> Client {
        Client {
            shared,
            version: Version::Resp2,
            is_authenticated,
            is_readonly: false,
            reply: ReplyMode::On,
            transaction: Transaction::default(),
            published: Vec::new(),
            subscriptions: Subscriptions::default(),
            last_write_copies: 0,
        }
    }

    /// Whether only the commands of subscribers are allowed: it listens, and speaks version 2.
    pub fn is_subscriber_only(&self) -> bool {
        self.version == Version::Resp2 && !self.subscriptions.is_empty()
    }
}

/// What others may see of a client: `CLIENT LIST` and `CLIENT KILL` on another shard's connection.
#[derive(Debug)]
pub struct ClientShared {
    /// Its number; never that of another client of this server.
    pub id: u64,
    /// The shard that serves it.
    pub shard: u16,
    /// Its connection there.
    pub connection: ConnectionRef,
    /// Its socket's file descriptor.
    pub fd: i32,
    /// Its address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// When it connected, in ns since 1970.
    pub created_ns: u64,
    /// What it says about itself.
    pub names: Mutex<ClientNames>,
    /// When it last asked for something, in ns since 1970.
    pub active_ns: AtomicU64,
    /// Number of its last command plus one; 0 before the first.
    pub last_command: AtomicU32,
    /// Version of the protocol: 2 or 3.
    pub resp: AtomicU32,
    /// Number of channels it listens to.
    pub channels: AtomicU32,
    /// Number of patterns it listens to.
    pub patterns: AtomicU32,
    /// Commands in its transaction; -1 without one.
    pub multi: AtomicU32,
    /// Keys it watches.
    pub watches: AtomicU32,
    /// Bytes that it has sent and that are not taken yet.
    pub query_bytes: AtomicU64,
    /// Bytes of answers that it has not taken yet.
    pub output_bytes: AtomicU64,
    /// Bytes of the commands that are queued in its transaction.
    pub multi_bytes: AtomicU64,
    /// Bytes it holds in all, as they are counted for [`Server::hold`](super::server::Server::hold).
    pub held_bytes: AtomicU64,
    /// Commands it has given.
    pub commands: AtomicU64,
    /// Whether it takes old values.
    pub is_readonly: AtomicBool,
    /// `CLIENT NO-EVICT`.
    pub no_evict: AtomicBool,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: AtomicBool,
    /// Whether it waits in `WAIT`.
    pub is_blocked: AtomicBool,
    /// It is to be closed.
    pub is_killed: AtomicBool,
    /// It is to be closed because it held most when clients held too much.
    pub is_evicted: AtomicBool,
}

/// What a client says about itself.
#[derive(Clone, Debug, Default)]
pub struct ClientNames {
    /// `CLIENT SETNAME`.
    pub name: Vec<u8>,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: Vec<u8>,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_version: Vec<u8>,
}

impl ClientShared {
    /// Commands in its transaction, -1 without one.
    pub fn multi(&self) -> i64 {
        i64::from(self.multi.load(Relaxed) as i32)
    }

    /// What it holds of the server's memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let buffers = self.output_bytes.load(Relaxed) + self.query_bytes.load(Relaxed) + self.multi_bytes.load(Relaxed);
        buffers.max(self.held_bytes.load(Relaxed))
    }

    /// What it says about itself.
    pub fn names(&self) -> MutexGuard<'_, ClientNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of its last command, with its container; `NULL` before the first.
    pub fn last_command_name(&self) -> String {
        let last = self.last_command.load(Relaxed).checked_sub(1);
        last.and_then(registry::by_number).map_or_else(|| "NULL".to_owned(), Spec::full_name)
    }
}
