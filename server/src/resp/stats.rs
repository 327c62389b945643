//! What `INFO` and `LATENCY` tell of the commands that were given.
//!
//! A shard counts in cells of its own, which only its thread writes. Time is measured from a command's arrival to its
//! answer, with everything that it waited for: that is what its client has waited.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    arguments::Arguments,
    client::ClientShared,
    flags,
    memory::Holders,
    pubsub::Delivery,
    registry::{self, Spec},
    server::Server,
    slow_log::{GLIMPSE_SIZE, Glimpse, SlowLog},
};
use crate::metrics::Counter;

/// Number of latency buckets: up to 1024 ns, up to twice as much, and so on; the last one takes the rest.
pub const BUCKETS: usize = 26;

/// Most different error codes that are counted.
const ERROR_CODES_MAX: usize = 128;

/// What is counted of one command.
#[derive(Debug, Default)]
pub struct CommandStats {
    /// How often it was carried out.
    pub calls: Counter,
    /// Time in all, in ns.
    pub latency_ns: Counter,
    /// How often it was refused before it was carried out.
    pub rejected: Counter,
    /// How often it was carried out and answered with an error.
    pub failed: Counter,
    /// How often it took how long.
    pub buckets: [Counter; BUCKETS],
}

/// The numbers of [`CommandStats`] at one moment, of one shard or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounts {
    /// How often it was carried out.
    pub calls: u64,
    /// Time in all, in ns.
    pub latency_ns: u64,
    /// How often it was refused.
    pub rejected: u64,
    /// How often it failed.
    pub failed: u64,
    /// How often it took how long.
    pub buckets: [u64; BUCKETS],
}

impl CommandCounts {
    fn each(&mut self, other: &CommandCounts, change: impl Fn(&mut u64, u64)) {
        change(&mut self.calls, other.calls);
        change(&mut self.latency_ns, other.latency_ns);
        change(&mut self.rejected, other.rejected);
        change(&mut self.failed, other.failed);
        for (bucket, &other) in self.buckets.iter_mut().zip(&other.buckets) {
            change(bucket, other);
        }
    }
}

/// What one shard counts.
#[derive(Debug)]
pub struct ShardStats {
    commands: Box<[CommandStats]>,
    /// Connections of the front door that were let in.
    pub connections: Counter,
    /// Connections that were not let in because there were too many.
    pub rejected_connections: Counter,
    /// Connections that were closed because all together held too much.
    pub evicted_connections: Counter,
    /// Bytes that came from clients.
    pub input_bytes: Counter,
    /// Bytes that went to clients.
    pub output_bytes: Counter,
    /// Reads that found their key.
    pub hits: Counter,
    /// Reads that did not.
    pub misses: Counter,
    /// Keys that were removed because they had expired.
    pub expired_keys: Counter,
}

/// The other numbers of [`ShardStats`], by the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that were let in.
    pub connections: u64,
    /// Connections that were not.
    pub rejected_connections: u64,
    /// Connections that were closed because all together held too much.
    pub evicted_connections: u64,
    /// Bytes that came.
    pub input_bytes: u64,
    /// Bytes that went.
    pub output_bytes: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Keys that were removed because they had expired.
    pub expired_keys: u64,
}

impl Totals {
    fn each(&mut self, other: &Totals, change: impl Fn(&mut u64, u64)) {
        change(&mut self.connections, other.connections);
        change(&mut self.rejected_connections, other.rejected_connections);
        change(&mut self.evicted_connections, other.evicted_connections);
        change(&mut self.input_bytes, other.input_bytes);
        change(&mut self.output_bytes, other.output_bytes);
        change(&mut self.hits, other.hits);
        change(&mut self.misses, other.misses);
        change(&mut self.expired_keys, other.expired_keys);
    }
}

impl Default for ShardStats {
    fn default() -> ShardStats {
        ShardStats {
            commands: (0..registry::count()).map(|_| CommandStats::default()).collect(),
            connections: Counter::default(),
            rejected_connections: Counter::default(),
            evicted_connections: Counter::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            hits: Counter::default(),
            misses: Counter::default(),
            expired_keys: Counter::default(),
        }
    }
}

impl ShardStats {
    /// Counts a command that was answered. Only the shard's thread may call this.
    #[inline]
    pub fn record(&self, number: u16, latency_ns: u64, is_error: bool) {
        let command = &self.commands[number as usize];
        command.calls.increment();
        command.latency_ns.add(latency_ns);
        command.buckets[bucket_of(latency_ns)].increment();
        if is_error {
            command.failed.increment();
        }
    }

    /// Counts a command that was refused before it was carried out. Only the shard's thread may call this.
    pub fn record_rejected(&self, number: u16) {
        self.commands[number as usize].rejected.increment();
    }

    fn counts(&self, number: u16) -> CommandCounts {
        let command = &self.commands[number as usize];
        CommandCounts {
            calls: command.calls.get(),
            latency_ns: command.latency_ns.get(),
            rejected: command.rejected.get(),
            failed: command.failed.get(),
            buckets: std::array::from_fn(|index| command.buckets[index].get()),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            connections: self.connections.get(),
            rejected_connections: self.rejected_connections.get(),
            evicted_connections: self.evicted_connections.get(),
            input_bytes: self.input_bytes.get(),
            output_bytes: self.output_bytes.get(),
            hits: self.hits.get(),
            misses: self.misses.get(),
            expired_keys: self.expired_keys.get(),
        }
    }
}

#[inline]
fn bucket_of(latency_ns: u64) -> usize {
    let size = 64 - (latency_ns.max(1) - 1).leading_zeros() as usize;
    size.saturating_sub(10).min(BUCKETS - 1)
}

/// Upper bound of a bucket in microseconds, as Redis shows it.
pub fn bucket_bound_us(bucket: usize) -> u64 {
    let bound = 1024_u64 << bucket;
    (bound + bound / 128 - 1) / 1000
}

/// What is counted over all shards, since the last `CONFIG RESETSTAT`.
#[derive(Debug, Default)]
pub struct Stats {
    /// What the shards' cells said at that moment: they only grow.
    baseline: Mutex<Baseline>,
    errors: Mutex<BTreeMap<String, u64>>,
    error_count: AtomicU64,
    rates: Mutex<Rates>,
    /// The slow commands.
    pub slow_log: SlowLog,
}

/// By shard; nothing before the first reset.
type Baseline = Vec<(Vec<CommandCounts>, Totals)>;

/// How fast numbers grew in the last second and a half.
#[derive(Debug, Default)]
struct Rates {
    samples: VecDeque<(u64, [u64; 3])>,
}

/// Samples of [`Rates`]: one every 100 ms.
const SAMPLES_MAX: usize = 16;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stats {
    /// What is known of one command over these shards, each with its number.
    pub fn command<'a>(&self, shards: impl Iterator<Item = (u16, &'a ShardStats)>, number: u16) -> CommandCounts {
        let baseline = lock(&self.baseline);
        let mut sum = CommandCounts::default();
        for (shard, stats) in shards {
            sum.each(&stats.counts(number), |count, other| *count += other);
            if let Some((commands, _)) = baseline.get(shard as usize) {
                sum.each(&commands[number as usize], |count, other| *count -= other);
            }
        }
        sum
    }

    /// The other numbers over these shards, each with its number.
    pub fn totals<'a>(&self, shards: impl Iterator<Item = (u16, &'a ShardStats)>) -> Totals {
        let baseline = lock(&self.baseline);
        let mut sum = Totals::default();
        for (shard, stats) in shards {
            sum.each(&stats.totals(), |count, other| *count += other);
            if let Some((_, totals)) = baseline.get(shard as usize) {
                sum.each(totals, |count, other| *count -= other);
            }
        }
        sum
    }

    /// `CONFIG RESETSTAT`, given all shards in order.
    pub fn reset<'a>(&self, shards: impl Iterator<Item = &'a ShardStats>) {
        let numbers = 0..registry::count() as u16;
        let of_shard =
            |stats: &ShardStats| (numbers.clone().map(|number| stats.counts(number)).collect(), stats.totals());
        *lock(&self.baseline) = shards.map(of_shard).collect();
        lock(&self.errors).clear();
        self.error_count.store(0, Relaxed);
    }

    /// Counts an error that was answered: `text` is its line, with or without the minus.
    pub fn count_error(&self, text: &[u8]) {
        let text = text.strip_prefix(b"-").unwrap_or(text);
        let end = text.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(text.len());
        let code = String::from_utf8_lossy(&text[..end.min(32)]).into_owned();
        self.error_count.fetch_add(1, Relaxed);
        let mut errors = lock(&self.errors);
        if let Some(count) = errors.get_mut(&code) {
            *count += 1;
        } else if errors.len() < ERROR_CODES_MAX {
            errors.insert(code, 1);
        }
    }

    /// How many errors of each code were answered.
    pub fn errors(&self) -> Vec<(String, u64)> {
        lock(&self.errors).iter().map(|(code, &count)| (code.clone(), count)).collect()
    }

    /// How many errors were answered.
    pub fn error_count(&self) -> u64 {
        self.error_count.load(Relaxed)
    }

    /// Remembers how far the numbers have come: commands, bytes in, bytes out. To be called every 100 ms.
    pub fn sample(&self, now_ns: u64, numbers: [u64; 3]) {
        let samples = &mut lock(&self.rates).samples;
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((now_ns, numbers));
    }

    /// Commands, bytes in and bytes out per second.
    pub fn rates(&self) -> [f64; 3] {
        let samples = &lock(&self.rates).samples;
        let (Some((begin_ns, first)), Some((end_ns, last))) = (samples.front(), samples.back()) else {
            return [0.0; 3];
        };
        let seconds = end_ns.saturating_sub(*begin_ns) as f64 / 1e9;
        let rate = |index: usize| last[index].saturating_sub(first[index]) as f64 / seconds.max(0.1);
        std::array::from_fn(rate)
    }
}

/// A command that has been taken in and is not answered yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The command; `None` for what no client has asked for.
    pub spec: Option<&'static Spec>,
    /// When it arrived, on the monotonic clock.
    pub arrived_ns: u64,
    /// How it begins.
    pub glimpse: Glimpse,
}

impl Asked {
    /// A command that arrives now.
    #[inline]
    pub fn new(spec: &'static Spec, arguments: &Arguments<'_>, now_ns: u64) -> Asked {
        // What may be a password is not kept.
        let glimpse = match spec.has(flags::NO_AUTH) {
            true => Glimpse::default(),
            false => Glimpse::of(arguments, 1 + usize::from(spec.container.is_some())),
        };
        Asked { spec: Some(spec), arrived_ns: now_ns, glimpse }
    }
}

/// What an answer is, as far as it is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Anything but these.
    #[default]
    Value,
    /// No value.
    Null,
    /// An error: how it begins.
    Error(Box<[u8]>),
}

impl Outcome {
    /// What the answer in these bytes is.
    #[inline]
    pub fn of(answer: &[u8]) -> Outcome {
        match answer {
            [b'-', ..] => Outcome::Error(answer[..answer.len().min(GLIMPSE_SIZE)].into()),
            [b'_', ..] | [b'$' | b'*', b'-', ..] => Outcome::Null,
            _ => Outcome::Value,
        }
    }
}

/// Where the connections of one shard count.
#[derive(Debug)]
pub struct Meter {
    server: Arc<Server>,
    shard: u16,
    now_ns: Cell<u64>,
    wall_ns: Cell<u64>,
    /// Where its clients are.
    pub holders: Holders,
}

impl Meter {
    /// The meter of a shard.
    pub fn new(server: Arc<Server>, shard: u16) -> Meter {
        Meter { server, shard, now_ns: Cell::new(0), wall_ns: Cell::new(0), holders: Holders::default() }
    }

    /// What the shard counts.
    pub fn stats(&self) -> &ShardStats {
        &self.server.shards[self.shard as usize].stats
    }

    /// Notes how many bytes a client holds. Whether that makes it too much for all together: then some are to be
    /// evicted.
    #[inline]
    pub fn hold(&self, client: &ClientShared, bytes: usize) -> bool {
        self.server.hold(client, bytes)
    }

    /// Closes clients until all together hold no more than they may.
    pub fn evict(&self) {
        self.server.evict_clients(&self.holders);
    }

    /// Lets the time be read from here until the next call: once per turn and batch of commands is exact enough.
    #[inline]
    pub fn set_now(&self, monotonic_ns: u64, wall_ns: u64) {
        self.now_ns.set(monotonic_ns);
        self.wall_ns.set(wall_ns);
    }

    /// Counts an answer that had to be waited for.
    #[inline]
    pub fn answered(&self, asked: &Asked, outcome: &Outcome, client: &ClientShared) {
        self.count(asked, outcome, self.now_ns.get().saturating_sub(asked.arrived_ns), client);
    }

    /// Counts an answer.
    #[inline]
    pub fn count(&self, asked: &Asked, outcome: &Outcome, latency_ns: u64, client: &ClientShared) {
        let Some(spec) = asked.spec else { return };
        let stats = self.stats();
        stats.record(spec.number, latency_ns, matches!(outcome, Outcome::Error(_)));
        match outcome {
            Outcome::Error(text) => self.server.stats.count_error(text),
            Outcome::Null if spec.has(flags::READONLY) && spec.keys.0 != 0 => stats.misses.increment(),
            Outcome::Value if spec.has(flags::READONLY) && spec.keys.0 != 0 => stats.hits.increment(),
            _ => {}
        }
        let slow_log = &self.server.stats.slow_log;
        if slow_log.takes(latency_ns) && !spec.has(flags::SKIP_SLOWLOG) {
            let name = client.names().name.clone();
            slow_log.enter(&spec.full_name(), &asked.glimpse, latency_ns, self.wall_ns.get(), client.peer, name);
        }
    }

    /// Hands what was published to the shards.
    #[inline]
    pub fn deliver(&self, deliveries: Vec<(u16, Delivery)>) {
        for (shard, delivery) in deliveries {
            self.server.deliver(shard, delivery);
        }
    }

    /// Counts a command that was refused before it was carried out.
    pub fn rejected(&self, spec: Option<&'static Spec>, text: &[u8]) {
        if let Some(spec) = spec {
            self.stats().record_rejected(spec.number);
        }
        self.server.stats.count_error(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_the_buckets_that_redis_shows() {
        let bounds: Vec<u64> = (0..9).map(bucket_bound_us).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 33, 66, 132, 264]);
        assert_eq!((bucket_of(0), bucket_of(1024), bucket_of(1025), bucket_of(2048)), (0, 0, 1, 1));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_reset_lets_everything_begin_anew() {
        let shards = [ShardStats::default(), ShardStats::default()];
        let numbered = || (0..).zip(&shards);
        let stats = Stats::default();
        shards[0].record(1, 5_000, false);
        shards[1].record(1, 7_000, true);
        shards[1].hits.increment();
        stats.count_error(b"-WRONGPASS invalid\r\n");
        let counts = stats.command(numbered(), 1);
        assert_eq!((counts.calls, counts.latency_ns, counts.failed), (2, 12_000, 1));
        assert_eq!(stats.errors(), [("WRONGPASS".to_owned(), 1)]);
        stats.reset(shards.iter());
        assert_eq!(stats.command(numbered(), 1), CommandCounts::default());
        assert_eq!(stats.totals(numbered()), Totals::default());
        assert_eq!((stats.errors(), stats.error_count()), (Vec::new(), 0));
        shards[0].record(1, 1_000, false);
        assert_eq!(stats.command(numbered(), 1).calls, 1);
        assert_eq!(stats.command(numbered().skip(1), 1).calls, 0);
    }

    #[test]
    fn rates_are_those_of_the_last_samples() {
        let stats = Stats::default();
        assert_eq!(stats.rates(), [0.0; 3]);
        for tick in 0..20 {
            stats.sample(tick * 100_000_000, [tick * 10, tick * 100, 0]);
        }
        assert_eq!(stats.rates(), [100.0, 1000.0, 0.0]);
    }
}
