//! How the front door uses what all shards share.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    client::{Client, ClientShared},
    context::Spec,
    cross_protocol::CrossProtocolGuard,
    flags,
    mailbox::{Mailbox, Notice},
    pubsub::{Delivery, PubSub, Topic},
    server::{Clients, Pause, Server, Settings, ShardView},
    stats::{ShardStats, Stats},
};
use crate::{
    cli::StartOptions,
    metrics::{ShardMetrics, StatusCell},
    shard::{Identity, connections::ConnectionRef},
};

impl Server {
    /// The front door of a server that has just been started.
    ///
    /// # Errors
    ///
    /// If the kernel gives no event descriptor or no random bytes.
    pub fn new(options: Arc<StartOptions>, identity: Identity, shards: Vec<ShardView>) -> io::Result<Server> {
        let mut bytes = [0; 20];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let resp = options.resp.as_ref().ok_or_else(|| io::Error::other("--resp is not given"))?;
        let settings = Settings {
            requirepass: Mutex::new(resp.password.0.clone()),
            needs_password: AtomicBool::new(!resp.password.0.is_empty()),
            clients_max: AtomicUsize::new(resp.clients_max as usize),
            idle_timeout_s: AtomicU64::new(0),
            pubsub_output_bytes_max: AtomicU64::new(32 << 20),
            client_bytes_max: AtomicU64::new(resp.client_bytes_max),
        };
        let mailboxes = shards.iter().map(|_| Mailbox::new()).collect::<io::Result<_>>()?;
        Ok(Server {
            settings,
            identity,
            run_id: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            started: Instant::now(),
            started_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
            shards,
            clients: Clients::default(),
            pubsub: PubSub::default(),
            pause: Pause::default(),
            large_commands: AtomicUsize::new(0),
            evicting: Mutex::default(),
            stats: Stats::default(),
            cross_protocol: CrossProtocolGuard::default(),
            overhead_bytes: OnceLock::new(),
            last_primary: Mutex::default(),
            mailboxes,
            options,
        })
    }

    /// Hands a published message to a shard, for its clients. From any thread.
    pub fn deliver(&self, shard: u16, delivery: Delivery) {
        self.mailboxes[shard as usize].notify(Notice::Deliver(delivery));
    }

    /// Forgets a client that has gone.
    pub fn forget(&self, shard: u16, client: &mut Client) {
        self.pubsub.forget((shard, client.shared.id), &mut client.subscriptions);
    }

    /// Where clients of the front door find a shard of a server: host and port. `None` if the port would be beyond all
    /// ports.
    pub fn address(&self, server: u8, shard: u16) -> Option<(String, u16)> {
        let resp = self.options.resp.as_ref()?;
        let address = resp.peers.get(server as usize)?;
        Some((address.host().to_owned(), address.port().checked_add(shard)?))
    }
}

impl ShardView {
    /// A shard that has not joined its cluster yet.
    pub fn new(metrics: Arc<ShardMetrics>, status: Arc<StatusCell>) -> ShardView {
        ShardView {
            metrics,
            status,
            role: AtomicU64::new(2),
            stats: ShardStats::default(),
            client_bytes: AtomicU64::new(0),
            watchers: Default::default(),
            keys: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            store_bytes_peak: AtomicU64::new(0),
            checkpoint: Mutex::default(),
        }
    }
}

impl Clients {
    /// Whether another client may come in, of `max` at most.
    pub fn has_room(&self, max: usize) -> bool {
        self.len() < max
    }
}

impl Pause {
    /// Whether a command has to wait.
    #[inline]
    pub fn holds(&self, spec: &Spec, wall_ns: u64) -> bool {
        let until_ns = self.until_ns.load(Relaxed);
        until_ns > wall_ns
            && (!self.is_write_only.load(Relaxed)
                || spec.has(flags::WRITE | flags::MAY_REPLICATE)
                || spec.name == "exec")
    }
}

impl Client {
    /// Lets others see how far its transaction has come.
    pub fn share_transaction(&self) {
        let commands = if self.transaction.is_open { self.transaction.queue.len() as u32 } else { u32::MAX };
        self.shared.multi.store(commands, Relaxed);
        self.shared.multi_bytes.store(self.transaction.queue_bytes as u64, Relaxed);
        self.shared.watches.store(self.transaction.watches.len() as u32, Relaxed);
    }

    /// Whether it listens to nothing but what this server itself tells, as Sentinel clients do: such a connection is
    /// worth keeping when this server loses the primary's role.
    pub fn is_listening_for_events(&self) -> bool {
        let is_event = |topic| self.subscriptions.names(topic).iter().all(|name| name.starts_with(b"+"));
        !self.subscriptions.is_empty() && is_event(Topic::Channel) && is_event(Topic::Pattern)
    }
}

impl ClientShared {
    /// A client that has just connected.
    pub fn new(
        id: u64,
        shard: u16,
        connection: ConnectionRef,
        fd: i32,
        peer: SocketAddr,
        local: SocketAddr,
        created_ns: u64,
    ) -> ClientShared {
        ClientShared {
            id,
            shard,
            connection,
            fd,
            peer,
            local,
            created_ns,
            names: Mutex::default(),
            active_ns: AtomicU64::new(created_ns),
            last_command: AtomicU32::new(0),
            resp: AtomicU32::new(2),
            channels: AtomicU32::new(0),
            patterns: AtomicU32::new(0),
            multi: AtomicU32::new(u32::MAX),
            watches: AtomicU32::new(0),
            query_bytes: AtomicU64::new(0),
            output_bytes: AtomicU64::new(0),
            multi_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            is_readonly: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            is_killed: AtomicBool::new(false),
            is_evicted: AtomicBool::new(false),
        }
    }

    /// Notes that it has given commands.
    #[inline]
    pub fn took(&self, commands: u64, wall_ns: u64) {
        if commands > 0 {
            self.commands.store(self.commands.load(Relaxed) + commands, Relaxed);
            self.active_ns.store(wall_ns, Relaxed);
        }
    }
}
