//! INFO.

use std::{fmt::Write, sync::atomic::Ordering::Relaxed};

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        registry,
        server::{REDIS_VERSION, Server},
        stats::{CommandCounts, bucket_bound_us},
        topology::{Node, known_primary, nodes_of, shard_id},
    },
    config::memory_max,
};
use crate::{
    cli::Durability,
    metrics::{ProcessUsage, ShardStatus},
};

/// What a section is made of.
struct View<'a> {
    server: &'a Server,
    /// The shard of the connection that asks.
    shard: u16,
    wall_ns: u64,
}

/// Writes a section.
type Section = fn(&View<'_>, &mut Text);

/// The sections, in Redis's order. The flag tells whether a plain INFO has it.
const SECTIONS: &[(&str, &str, bool, Section)] = &[
    ("server", "Server", true, server),
    ("clients", "Clients", true, clients),
    ("memory", "Memory", true, memory),
    ("persistence", "Persistence", true, persistence),
    ("stats", "Stats", true, stats),
    ("replication", "Replication", true, replication),
    ("cpu", "CPU", true, cpu),
    ("modules", "Modules", true, |_, _| {}),
    ("commandstats", "Commandstats", false, command_stats),
    ("errorstats", "Errorstats", true, error_stats),
    ("latencystats", "Latencystats", false, latency_stats),
    ("cluster", "Cluster", true, cluster),
    ("keyspace", "Keyspace", true, keyspace),
];

/// Lines of a name and a value each.
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        write!(self.0, "{name}:{value}\r\n").expect("a string takes everything");
    }
}

/// INFO.
pub fn info<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let is_asked = |name: &str, is_default: bool| {
        let wishes = arguments.iter().skip(1).map(<[u8]>::to_ascii_lowercase);
        let fits = |wish: &[u8]| match wish {
            b"default" => is_default,
            b"all" | b"everything" => true,
            wish => wish == name.as_bytes(),
        };
        if arguments.len() == 1 { is_default } else { wishes.into_iter().any(|wish| fits(&wish)) }
    };
    let view = View { server: context.server, shard: context.shard, wall_ns: context.wall_ns };
    let mut text = Text(String::new());
    for (name, title, is_default, write) in SECTIONS {
        if !is_asked(name, *is_default) {
            continue;
        }
        if !text.0.is_empty() {
            text.0.push_str("\r\n");
        }
        write!(text.0, "# {title}\r\n").expect("a string takes everything");
        write(&view, &mut text);
    }
    context.out.verbatim("txt", text.0.as_bytes());
    Action::Done
}

impl View<'_> {
    /// The shards that a client of this connection takes for the whole, as they reported last.
    fn statuses(&self) -> impl Iterator<Item = ShardStatus> + '_ {
        self.server.visible_shards(self.shard).filter_map(|shard| self.server.shards[shard as usize].reported().status)
    }

    fn sum(&self, of: impl Fn(&ShardStatus) -> u64) -> u64 {
        self.statuses().map(|status| of(&status)).sum()
    }
}

fn server(view: &View<'_>, text: &mut Text) {
    let server = view.server;
    let uptime = server.started.elapsed().as_secs();
    let system = rustix::system::uname();
    let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    text.line("redis_version", REDIS_VERSION);
    text.line("server_name", "lockstep");
    text.line("lockstep_version", env!("CARGO_PKG_VERSION"));
    text.line("redis_git_sha1", "00000000");
    text.line("redis_git_dirty", 0);
    text.line("redis_build_id", "0");
    text.line("redis_mode", if server.is_cluster() { "cluster" } else { "standalone" });
    text.line("os", format!("{} {} {}", part(system.sysname()), part(system.release()), part(system.machine())));
    text.line("arch_bits", usize::BITS);
    text.line("monotonic_clock", "POSIX clock_gettime");
    text.line("multiplexing_api", "io_uring");
    text.line("process_id", std::process::id());
    text.line("process_supervised", "no");
    text.line("run_id", &server.run_id);
    text.line("tcp_port", server.own_port(view.shard));
    text.line("server_time_usec", view.wall_ns / 1000);
    text.line("uptime_in_seconds", uptime);
    text.line("uptime_in_days", uptime / 86_400);
    text.line("hz", 10);
    text.line("configured_hz", 10);
    text.line("lru_clock", (view.wall_ns / 1_000_000_000) & 0xff_ffff);
    let program = std::env::current_exe().map_or_else(|_| String::new(), |path| path.display().to_string());
    text.line("executable", program);
    text.line("config_file", "");
    text.line("io_threads_active", 0);
}

fn clients(view: &View<'_>, text: &mut Text) {
    let clients = view.server.clients.all();
    let count =
        |is: fn(&super::super::client::ClientShared) -> bool| clients.iter().filter(|client| is(client)).count();
    let largest = |of: fn(&super::super::client::ClientShared) -> u64| clients.iter().map(|client| of(client)).max();
    text.line("connected_clients", clients.len());
    text.line("cluster_connections", 0);
    text.line("maxclients", view.server.settings.clients_max.load(Relaxed));
    text.line("client_recent_max_input_buffer", largest(|client| client.query_bytes.load(Relaxed)).unwrap_or(0));
    text.line("client_recent_max_output_buffer", largest(|client| client.output_bytes.load(Relaxed)).unwrap_or(0));
    text.line("blocked_clients", count(|client| client.is_blocked.load(Relaxed)));
    text.line("tracking_clients", 0);
    text.line("pubsub_clients", count(|client| client.channels.load(Relaxed) + client.patterns.load(Relaxed) > 0));
    text.line("watching_clients", count(|client| client.watches.load(Relaxed) > 0));
    text.line("clients_in_timeout_table", 0);
}

/// A size for people, as Redis writes it.
fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

fn memory(view: &View<'_>, text: &mut Text) {
    let server = view.server;
    let used = view.sum(|status| status.store_bytes);
    let shards = || server.visible_shards(view.shard).map(|shard| &server.shards[shard as usize]);
    let peak = shards().map(|shard| shard.store_bytes_peak.load(Relaxed)).sum::<u64>().max(used);
    let resident = ProcessUsage::read().map_or(0, |usage| usage.resident_bytes);
    let system = rustix::system::sysinfo();
    let total = system.totalram as u64 * u64::from(system.mem_unit);
    let max = memory_max(server, view.shard);
    let sizes = [
        ("used_memory", used),
        ("used_memory_rss", resident),
        ("used_memory_peak", peak),
        ("total_system_memory", total),
        ("maxmemory", max),
    ];
    for (name, bytes) in sizes {
        text.line(name, bytes);
        text.line(&format!("{name}_human"), human(bytes));
    }
    text.line("used_memory_peak_perc", format_args!("{:.2}%", used as f64 * 100.0 / peak.max(1) as f64));
    text.line("used_memory_dataset", used);
    text.line("maxmemory_policy", "noeviction");
    text.line("mem_fragmentation_ratio", format_args!("{:.2}", server.fragmentation_ratio(resident)));
    text.line("mem_clients_normal", server.clients.all().iter().map(|client| client.memory_bytes()).sum::<u64>());
    text.line("mem_allocator", "mimalloc");
    text.line("active_defrag_running", 0);
    text.line("lazyfree_pending_objects", 0);
}

fn persistence(view: &View<'_>, text: &mut Text) {
    let server = view.server;
    let shards = || server.visible_shards(view.shard).map(|shard| &server.shards[shard as usize]);
    let is_loading = shards().any(|shard| shard.primary(server.identity.servers).is_none());
    let is_saving = shards().any(|shard| shard.metrics.checkpoint_active.get() > 0);
    let saves: u64 = shards().map(|shard| shard.metrics.checkpoint_duration.count()).sum();
    text.line("loading", u8::from(is_loading));
    text.line("async_loading", 0);
    text.line("rdb_changes_since_last_save", view.sum(|status| status.applied.saturating_sub(status.checkpoint)));
    text.line("rdb_bgsave_in_progress", u8::from(is_saving));
    text.line("rdb_last_save_time", server.last_checkpoint_seconds(view.shard));
    text.line("rdb_last_bgsave_status", "ok");
    text.line("rdb_saves", saves);
    text.line("aof_enabled", u8::from(server.options.durability == Durability::Disk));
    text.line("aof_rewrite_in_progress", 0);
    text.line("aof_rewrite_scheduled", 0);
    text.line("aof_last_bgrewrite_status", "ok");
    text.line("aof_last_write_status", "ok");
    text.line("aof_current_size", view.sum(|status| status.journal_used_bytes));
}

fn stats(view: &View<'_>, text: &mut Text) {
    let server = view.server;
    let totals = server.totals(view.shard);
    let commands: u64 =
        (0..registry::count() as u16).map(|number| server.command_counts(view.shard, number).calls).sum();
    let [ops, input, output] = server.stats.rates();
    let (channels, patterns) = server.pubsub.counts();
    text.line("total_connections_received", totals.connections);
    text.line("total_commands_processed", commands);
    text.line("instantaneous_ops_per_sec", ops as u64);
    text.line("total_net_input_bytes", totals.input_bytes);
    text.line("total_net_output_bytes", totals.output_bytes);
    text.line("instantaneous_input_kbps", format_args!("{:.2}", input / 1024.0));
    text.line("instantaneous_output_kbps", format_args!("{:.2}", output / 1024.0));
    text.line("rejected_connections", totals.rejected_connections);
    text.line("expired_keys", totals.expired_keys);
    text.line("evicted_keys", 0);
    text.line("evicted_clients", totals.evicted_connections);
    text.line("keyspace_hits", totals.hits);
    text.line("keyspace_misses", totals.misses);
    text.line("pubsub_channels", channels);
    text.line("pubsub_patterns", patterns);
    text.line("pubsubshard_channels", 0);
    text.line("latest_fork_usec", 0);
    text.line("total_forks", 0);
    text.line("unexpected_error_replies", 0);
    text.line("total_error_replies", server.stats.error_count());
}

fn replication(view: &View<'_>, text: &mut Text) {
    let server = view.server;
    let shard = server.node_shard(view.shard);
    let nodes = nodes_of(server, shard);
    let status = server.shards[shard as usize].reported().status;
    let offset = status.as_ref().map_or(0, |status| status.commit);
    if server.is_primary_for(shard) {
        let backups: Vec<&Node> = nodes.iter().filter(|node| !node.is_primary && node.is_up).collect();
        text.line("role", "master");
        text.line("connected_slaves", backups.len());
        for (index, backup) in backups.iter().enumerate() {
            let name = format!("slave{index}");
            let Node { host, port, durable, .. } = backup;
            text.line(&name, format_args!("ip={host},port={port},state=online,offset={durable},lag=0"));
        }
    } else {
        let primary = known_primary(&nodes);
        let is_up = primary.is_some_and(|node| node.is_up)
            && server.shards[shard as usize].primary(server.identity.servers).is_some();
        text.line("role", "slave");
        text.line("master_host", primary.map_or("", |node| node.host.as_str()));
        text.line("master_port", primary.map_or(0, |node| node.port));
        text.line("master_link_status", if is_up { "up" } else { "down" });
        text.line("master_last_io_seconds_ago", if is_up { 0 } else { -1 });
        text.line("master_sync_in_progress", u8::from(status.as_ref().is_some_and(|status| status.transfer.is_some())));
        text.line("slave_read_repl_offset", status.as_ref().map_or(0, |status| status.op));
        text.line("slave_repl_offset", offset);
        text.line("slave_priority", 100);
        text.line("slave_read_only", 1);
        text.line("replica_announced", 1);
        text.line("connected_slaves", 0);
    }
    text.line("master_failover_state", "no-failover");
    text.line("master_replid", shard_id(server.identity.cluster, shard));
    text.line("master_replid2", "0".repeat(40));
    text.line("master_repl_offset", offset);
    text.line("second_repl_offset", -1);
    let first = status.as_ref().map_or(0, |status| status.journal_first_op);
    text.line("repl_backlog_active", 1);
    text.line("repl_backlog_size", status.as_ref().map_or(0, |status| status.journal_size_bytes));
    text.line("repl_backlog_first_byte_offset", first);
    text.line("repl_backlog_histlen", (offset + 1).saturating_sub(first));
}

fn cpu(_: &View<'_>, text: &mut Text) {
    let Some(usage) = ProcessUsage::read() else { return };
    text.line("used_cpu_sys", format_args!("{:.6}", usage.system.as_secs_f64()));
    text.line("used_cpu_user", format_args!("{:.6}", usage.user.as_secs_f64()));
    text.line("used_cpu_sys_children", "0.000000");
    text.line("used_cpu_user_children", "0.000000");
}

/// The commands that were called or refused, with what is known of them.
fn counted(view: &View<'_>) -> Vec<(String, CommandCounts)> {
    let specs = registry::all().iter().flat_map(|spec| [spec].into_iter().chain(spec.subcommands));
    let counted = specs.map(|spec| (spec.full_name(), view.server.command_counts(view.shard, spec.number)));
    counted.filter(|(_, counts)| counts.calls + counts.rejected > 0).collect()
}

fn command_stats(view: &View<'_>, text: &mut Text) {
    for (name, counts) in counted(view) {
        let micros = counts.latency_ns / 1000;
        text.line(
            &format!("cmdstat_{name}"),
            format_args!(
                "calls={},usec={micros},usec_per_call={:.2},rejected_calls={},failed_calls={}",
                counts.calls,
                micros as f64 / counts.calls.max(1) as f64,
                counts.rejected,
                counts.failed
            ),
        );
    }
}

fn error_stats(view: &View<'_>, text: &mut Text) {
    for (code, count) in view.server.stats.errors() {
        text.line(&format!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn latency_stats(view: &View<'_>, text: &mut Text) {
    for (name, counts) in counted(view).into_iter().filter(|(_, counts)| counts.calls > 0) {
        let percentile = |share: f64| {
            let due = (counts.calls as f64 * share).ceil() as u64;
            let mut sum = 0;
            let bucket = counts.buckets.iter().position(|count| {
                sum += count;
                sum >= due
            });
            bucket_bound_us(bucket.unwrap_or(counts.buckets.len() - 1))
        };
        let values =
            format!("p50={}.000,p99={}.000,p99.9={}.000", percentile(0.5), percentile(0.99), percentile(0.999));
        text.line(&format!("latency_percentiles_usec_{name}"), values);
    }
}

fn cluster(view: &View<'_>, text: &mut Text) {
    text.line("cluster_enabled", u8::from(view.server.is_cluster()));
}

fn keyspace(view: &View<'_>, text: &mut Text) {
    let shards = view.server.visible_shards(view.shard).map(|shard| &view.server.shards[shard as usize]);
    let (keys, expires) = shards.fold((0, 0), |(keys, expires), shard| {
        (keys + shard.keys.load(Relaxed), expires + shard.expires.load(Relaxed))
    });
    if keys > 0 {
        text.line("db0", format_args!("keys={keys},expires={expires},avg_ttl=0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_redis_writes_them() {
        let sizes = [0, 200, 1023, 1024, 1_261_928, 25_325_268_992].map(human);
        assert_eq!(sizes, ["0B", "200B", "1023B", "1.00K", "1.20M", "23.59G"]);
    }
}
