//! The server, as every command on every shard sees it.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    client::ClientShared,
    cross_protocol::CrossProtocolGuard,
    mailbox::{Mailbox, Notice},
    pubsub::PubSub,
    registry,
    stats::{CommandCounts, ShardStats, Stats, Totals},
    watchers::Watchers,
};
use crate::{
    cli::{RespOptions, StartOptions},
    metrics::{ProcessUsage, ReportedStatus, ShardMetrics, StatusCell},
    shard::Identity,
};

/// The version of Redis whose commands and answers these are.
pub const REDIS_VERSION: &str = "7.2.0";

/// What all shards of a server share for the front door.
#[derive(Debug)]
pub struct Server {
    /// The settings.
    pub options: Arc<StartOptions>,
    /// Who the server is.
    pub identity: Identity,
    /// Forty hexadecimal digits, drawn at each start.
    pub run_id: String,
    /// When it was started.
    pub started: Instant,
    /// The same, in ns since 1970.
    pub started_ns: u64,
    /// The shards.
    pub shards: Vec<ShardView>,
    /// What CONFIG SET can change.
    pub settings: Settings,
    /// The clients.
    pub clients: Clients,
    /// Who listens to which channel.
    pub pubsub: PubSub,
    /// CLIENT PAUSE.
    pub pause: Pause,
    /// Bytes that large unfinished commands of all clients take.
    pub large_commands: AtomicUsize,
    /// Held by the shard that looks for clients to close because all together hold too much.
    pub evicting: Mutex<()>,
    /// Where each shard gets its mail.
    pub mailboxes: Vec<Mailbox>,
    /// What is counted over all shards.
    pub stats: Stats,
    /// Warns of browsers.
    pub cross_protocol: CrossProtocolGuard,
    /// Memory of the process beside the stores, in bytes, when all shards had begun.
    pub overhead_bytes: OnceLock<u64>,
    /// The server that was primary of the first shard when that was last looked at.
    pub last_primary: Mutex<Option<u8>>,
}

impl Server {
    /// Whether each shard is a node of a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.options.resp.as_ref().is_some_and(|resp| resp.is_cluster)
    }

    /// How the front door is set; there is one where there are clients.
    pub fn resp(&self) -> Option<&RespOptions> {
        self.options.resp.as_ref()
    }

    /// Name under which SENTINEL knows the cluster.
    pub fn master_name(&self) -> &str {
        self.resp().map_or("", |resp| resp.master_name.as_str())
    }

    /// The port that a client of `shard` is connected to.
    pub fn own_port(&self, shard: u16) -> u16 {
        self.resp().map_or(0, |resp| resp.listen.port().saturating_add(shard))
    }

    /// The shards that a client of `shard` takes for the whole: its own in cluster mode, where it is a node, and else
    /// all.
    pub fn visible_shards(&self, shard: u16) -> Range<u16> {
        if self.is_cluster() { shard..shard + 1 } else { 0..self.identity.shards }
    }

    fn visible_stats(&self, shard: u16) -> impl Iterator<Item = (u16, &ShardStats)> {
        self.visible_shards(shard).map(|shard| (shard, &self.shards[shard as usize].stats))
    }

    /// What is counted of a command in the shards that a client of `shard` sees.
    pub fn command_counts(&self, shard: u16, number: u16) -> CommandCounts {
        self.stats.command(self.visible_stats(shard), number)
    }

    /// Looks after what nobody asks for: remembers how far the numbers have come, and tells subscribers of a new
    /// primary. To be called about every 100 ms.
    pub fn look_around(&self, now_ns: u64) {
        let shards = || (0..).zip(self.shards.iter().map(|shard| &shard.stats));
        let commands = (0..registry::count() as u16).map(|number| self.stats.command(shards(), number).calls).sum();
        let totals = self.stats.totals(shards());
        self.stats.sample(now_ns, [commands, totals.input_bytes, totals.output_bytes]);
        self.measure_overhead();
        self.tell_of_primary();
    }

    /// Notes what the process takes beside the stores, once all shards have said what those take.
    fn measure_overhead(&self) {
        if self.overhead_bytes.get().is_none()
            && let Some(stored) = self.stored_bytes()
            && let Some(usage) = ProcessUsage::read()
        {
            let _ = self.overhead_bytes.set(usage.resident_bytes.saturating_sub(stored));
        }
    }

    /// What the stores of all shards take, in bytes; `None` until each has published it.
    fn stored_bytes(&self) -> Option<u64> {
        self.shards.iter().map(|shard| Some(shard.reported().status?.store_bytes)).sum()
    }

    /// How many times as much memory the process takes as its stores and what it took beside them at the start: what
    /// grows are buffers and holes. (Redis's ratio is to all that was allocated, which nobody counts here.)
    pub fn fragmentation_ratio(&self, resident_bytes: u64) -> f64 {
        let expected = self.overhead_bytes.get().copied().unwrap_or(resident_bytes) + self.stored_bytes().unwrap_or(0);
        resident_bytes as f64 / expected.max(1) as f64
    }

    /// Publishes `+switch-master`, as a sentinel does, when the first shard has another primary than before.
    fn tell_of_primary(&self) {
        let Some(primary) = self.shards[0].primary(self.identity.servers) else { return };
        let mut last = self.last_primary.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = last.replace(primary).filter(|before| *before != primary) else { return };
        drop(last);
        let (Some((old_host, old_port)), Some((host, port))) = (self.address(before, 0), self.address(primary, 0))
        else {
            return;
        };
        let text = format!("{} {old_host} {old_port} {host} {port}", self.master_name());
        for (shard, delivery) in self.pubsub.publish(b"+switch-master", text.as_bytes()).1 {
            self.deliver(shard, delivery);
        }
    }

    /// What else is counted there.
    pub fn totals(&self, shard: u16) -> Totals {
        self.stats.totals(self.visible_stats(shard))
    }

    /// When the oldest of the last checkpoints there was finished, in s since 1970; the server's start before the
    /// first.
    pub fn last_checkpoint_seconds(&self, shard: u16) -> u64 {
        let started_s = self.started_ns / 1_000_000_000;
        let shards = self.visible_shards(shard).map(|shard| &self.shards[shard as usize]);
        shards.map(|shard| shard.checkpoint_seconds(started_s)).min().unwrap_or(started_s)
    }

    /// Whether clients have to authenticate.
    pub fn needs_password(&self) -> bool {
        self.settings.needs_password.load(Relaxed)
    }

    /// The shard that a client of `shard` takes for the whole: its own in cluster mode, where it is a node, and else
    /// the first.
    pub fn node_shard(&self, shard: u16) -> u16 {
        if self.is_cluster() { shard } else { 0 }
    }

    /// Whether this server is primary, as a client of `shard` sees it.
    pub fn is_primary_for(&self, shard: u16) -> bool {
        self.shards[self.node_shard(shard) as usize].is_primary()
    }

    /// Sees to it that a client's connection is closed.
    pub fn kill(&self, client: &ClientShared) {
        client.is_killed.store(true, Relaxed);
        self.mailboxes[client.shard as usize].notify(Notice::Kill(client.connection));
    }

    /// Ends CLIENT PAUSE.
    pub fn unpause(&self) {
        self.pause.until_ns.store(0, Relaxed);
    }
}

/// A shard, as others see it.
#[derive(Debug)]
pub struct ShardView {
    /// What it counts.
    pub metrics: Arc<ShardMetrics>,
    /// Its status, about every 100 ms.
    pub status: Arc<StatusCell>,
    /// The view it is in, and its role there, as of now: view * 4 + role (0 backup, 1 primary, 2 recovering).
    pub role: AtomicU64,
    /// What it counts of the front door's commands.
    pub stats: ShardStats,
    /// What its clients hold, in bytes.
    pub client_bytes: AtomicU64,
    /// The clients of all shards that watch its keys.
    pub watchers: Watchers,
    /// Number of its keys, as of the end of its last turn.
    pub keys: AtomicU64,
    /// Number of those that expire.
    pub expires: AtomicU64,
    /// Most bytes that its store has taken at the moments at which its status was published.
    pub store_bytes_peak: AtomicU64,
    /// Op of its last checkpoint, and when that was first seen, in s since 1970.
    pub checkpoint: Mutex<Option<(u64, u64)>>,
}

impl ShardView {
    /// Whether this server is the shard's primary.
    #[inline]
    pub fn is_primary(&self) -> bool {
        self.role.load(Relaxed) & 3 == 1
    }

    /// The server that is primary, as far as this one knows; `None` if it knows of none.
    pub fn primary(&self, servers: u8) -> Option<u8> {
        let role = self.role.load(Relaxed);
        (role & 3 != 2).then(|| ((role >> 2) % u64::from(servers)) as u8)
    }

    /// The view.
    pub fn view(&self) -> u64 {
        self.role.load(Relaxed) >> 2
    }

    /// When its last checkpoint was finished, in s since 1970; `started_s` before the first since the start.
    fn checkpoint_seconds(&self, started_s: u64) -> u64 {
        let checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint.map_or(started_s, |(_, seconds)| seconds.max(started_s))
    }

    /// Notes which checkpoint the shard has. To be called with each status that it publishes.
    pub fn observe_checkpoint(&self, op: u64, wall_ns: u64) {
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *checkpoint {
            // It was there when the server started.
            None => *checkpoint = Some((op, 0)),
            Some((last, _)) if *last == op => {}
            Some(last) => *last = (op, wall_ns / 1_000_000_000),
        }
    }

    /// Its status as published last.
    pub fn reported(&self) -> ReportedStatus {
        self.status.read()
    }
}

/// What CONFIG SET can change.
#[derive(Debug)]
pub struct Settings {
    /// The password; empty for none.
    pub requirepass: Mutex<Vec<u8>>,
    /// Whether there is a password.
    pub needs_password: AtomicBool,
    /// Largest number of clients of the front door.
    pub clients_max: AtomicUsize,
    /// Seconds of idleness after which a client is closed; 0 for never.
    pub idle_timeout_s: AtomicU64,
    /// Bytes of answers waiting for a subscriber beyond which it is closed.
    pub pubsub_output_bytes_max: AtomicU64,
    /// Bytes that all clients together may hold; 0 for no bound.
    pub client_bytes_max: AtomicU64,
}

/// Clients of all shards.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<ClientShared>>>,
    last_id: AtomicU64,
    count: AtomicUsize,
}

impl Clients {
    /// A number for a new client.
    pub fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    /// Number of clients.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a client.
    pub fn enter(&self, client: Arc<ClientShared>) {
        let mut clients = self.lock();
        clients.insert(client.id, client);
        self.count.store(clients.len(), Relaxed);
    }

    /// Removes a client.
    pub fn leave(&self, id: u64) {
        let mut clients = self.lock();
        clients.remove(&id);
        self.count.store(clients.len(), Relaxed);
    }

    /// All clients, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<ClientShared>> {
        self.lock().values().cloned().collect()
    }

    /// One client.
    pub fn find(&self, id: u64) -> Option<Arc<ClientShared>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ClientShared>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CLIENT PAUSE.
#[derive(Debug, Default)]
pub struct Pause {
    /// Until when, in ns since 1970; 0 for not.
    pub until_ns: AtomicU64,
    /// Whether only writes are paused.
    pub is_write_only: AtomicBool,
}
