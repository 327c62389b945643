//! The numbers of all shards as OpenMetrics text.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use lockstep_proto::{
    Operation,
    limits::{DISK_FORMAT_VERSION, WIRE_VERSION},
};

use super::{
    cells::Histogram,
    process::ProcessUsage,
    shard::{PeerMetrics, RejectReason, ShardMetrics, StatusClass, operation_label},
};

/// A number with one value per shard, or per shard and server.
struct Number<T> {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    read: fn(&T) -> u64,
}

/// A histogram per shard, with what distinguishes it from others of the same name.
struct Distribution {
    label: Option<(&'static str, &'static str)>,
    read: fn(&ShardMetrics) -> &Histogram,
}

const fn number<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Number<T> {
    Number { name, help, unit: None, read }
}

const fn bytes<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Number<T> {
    Number { name, help, unit: Some(Unit::Bytes), read }
}

const COUNTERS: &[Number<ShardMetrics>] = &[
    number("busy", "Requests refused or held back because the pipeline was full", |m| m.busy.get()),
    number("turns", "Turns of the event loop", |m| m.turns.get()),
    number("ring_operations", "Operations handed to io_uring for sockets and the journal", |m| m.ring_operations.get()),
    number("connections_accepted", "Connections accepted", |m| m.accepted_connections.get()),
    number("keep_alives", "Times that a client which waited for an answer was told that the server is there", |m| {
        m.keep_alives.get()
    }),
    number("sessions_evicted", "Sessions evicted to keep the table within its bound", |m| m.evicted_sessions.get()),
    number("view_changes", "Times that the view has changed since the start", |m| m.view_changes.get()),
    number("checkpoints_installed", "Checkpoints of other servers that have become this server's state", |m| {
        m.checkpoints_installed.get()
    }),
    number("repaired_prepares", "Rotten prepares in the journal that were fetched and written again", |m| {
        m.repaired_prepares.get()
    }),
    number("evicted_clients", "Redis clients closed because all together held too much memory", |m| {
        m.evicted_clients.get()
    }),
    number("evicted_connections", "Native clients closed because all together left too many replies untaken", |m| {
        m.evicted_connections.get()
    }),
    number(
        "refused_frames",
        "Requests refused because unfinished ones of all native clients took too much memory",
        |m| m.refused_frames.get(),
    ),
    number("state_hash_mismatches", "Times that a backup's state differed at the same op: an alarm", |m| {
        m.state_hash_mismatches.get()
    }),
    bytes("checkpoint_sent", "Bytes of checkpoints sent to other servers", |m| m.checkpoint_sent_bytes.get()),
    bytes("received", "Bytes received from clients and servers", |m| m.received_bytes.get()),
    bytes("replies", "Bytes sent to clients", |m| m.reply_bytes.get()),
    bytes("journal_written", "Bytes written to the journal, padding included", |m| m.journal_written_bytes.get()),
];

const GAUGES: &[Number<ShardMetrics>] = &[
    number("pipeline_depth", "Prepares in flight", |m| m.pipeline_depth.get()),
    bytes("journal_used", "Journal space that no checkpoint has made reusable", |m| m.journal_used_bytes.get()),
    bytes("journal_free", "Journal space that can be written", |m| m.journal_free_bytes.get()),
    number("checkpoint_active", "1 while a checkpoint is being written", |m| m.checkpoint_active.get()),
    number("checkpoint_op", "Op of the last durable checkpoint", |m| m.checkpoint_op.get()),
    bytes("checkpoint_size", "Size of the last durable checkpoint", |m| m.checkpoint_bytes.get()),
    bytes(
        "checkpoint_received",
        "Bytes received of a checkpoint that another server is sending; 0 while none is",
        |m| m.checkpoint_received_bytes.get(),
    ),
    number("client_connections", "Client connections", |m| m.client_connections.get()),
    number("reply_memory_bytes", "Replies that native clients have not taken, beyond small buffers", |m| {
        m.reply_memory_bytes.get()
    }),
    number("receive_memory_bytes", "Requests of native clients that have begun, beyond small buffers", |m| {
        m.receive_memory_bytes.get()
    }),
    number("client_memory_bytes", "Memory that Redis clients hold beyond small buffers", |m| {
        m.client_memory_bytes.get()
    }),
    number("server_connections", "Connections from and to other servers", |m| m.server_connections.get()),
    number("sessions", "Sessions in the table", |m| m.sessions.get()),
    number("keys", "Keys in the store", |m| m.keys.get()),
    number("watched_keys", "Keys of which is noted what happens to them, because a Redis client watches", |m| {
        m.watched_keys.get()
    }),
    bytes("store", "Memory of the store", |m| m.store_bytes.get()),
    number("view", "The view; its primary is server (view mod servers)", |m| m.view.get()),
    number("role", "0 backup, 1 primary, 2 recovering", |m| m.role.get()),
    number("deficient", "1 while the server may have acknowledged more than it holds, and fetches it", |m| {
        m.is_deficient.get()
    }),
    number("op", "Highest op in the journal", |m| m.op.get()),
    number("op_durable", "Highest op of which it and all before are durable here", |m| m.durable.get()),
    number("op_committed", "Highest op known to be committed", |m| m.commit.get()),
    number("op_applied", "Highest op applied to the store", |m| m.applied.get()),
];

const PEER_GAUGES: &[Number<PeerMetrics>] = &[
    number(
        "peer_lag_ops",
        "Ops by which a server's durable log is behind this journal, as the primary knows; elsewhere 0",
        |p| p.lag_ops.get(),
    ),
    number("peer_in_sync", "1 when the server is in the in-sync set", |p| p.is_in_sync.get()),
    number("peer_connected", "1 when the connection to the server is up", |p| p.is_connected.get()),
    number("peer_behind", "1 when the server needs ops that this journal no longer holds", |p| p.is_behind.get()),
];

const PEER_COUNTERS: &[Number<PeerMetrics>] = &[bytes("peer_sent", "Bytes sent to the server", |p| p.sent_bytes.get())];

const HISTOGRAMS: &[(&str, &str, Option<Unit>, &[Distribution])] = &[
    (
        "request_latency",
        "Time from the arrival of a request to its reply, by kind of request",
        Some(Unit::Seconds),
        &[
            Distribution { label: Some(("kind", "write")), read: |m| &m.write_latency },
            Distribution { label: Some(("kind", "read")), read: |m| &m.read_latency },
        ],
    ),
    ("batch_ops", "Requests per prepare", None, &[Distribution { label: None, read: |m| &m.batch_ops }]),
    (
        "batch_size",
        "Bytes per prepare, header included",
        Some(Unit::Bytes),
        &[Distribution { label: None, read: |m| &m.batch_bytes }],
    ),
    (
        "pipeline_depth_at_prepare",
        "Prepares in flight when another one was closed",
        None,
        &[Distribution { label: None, read: |m| &m.pipeline_depths }],
    ),
    (
        "journal_write_latency",
        "Time from the submission of a journal write to its durable completion",
        Some(Unit::Seconds),
        &[Distribution { label: None, read: |m| &m.journal_write_latency }],
    ),
    (
        "checkpoint_duration",
        "Time from begin to end of a checkpoint",
        Some(Unit::Seconds),
        &[Distribution { label: None, read: |m| &m.checkpoint_duration }],
    ),
];

/// Reads the numbers of every shard, and of the process, whenever the metrics are asked for.
#[derive(Debug)]
pub struct ServerCollector {
    shards: Vec<Arc<ShardMetrics>>,
}

type Labels = Vec<(&'static str, String)>;

impl ServerCollector {
    /// A collector over all shards of this server.
    pub fn new(shards: Vec<Arc<ShardMetrics>>) -> Self {
        ServerCollector { shards }
    }

    fn encode_numbers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = |read: fn(&ShardMetrics) -> u64| {
            self.shards.iter().map(move |shard| (shard_labels(shard), read(shard))).collect::<Vec<_>>()
        };
        for counter in COUNTERS {
            encode_samples(encoder, counter, MetricType::Counter, samples(counter.read))?;
        }
        for gauge in GAUGES {
            encode_samples(encoder, gauge, MetricType::Gauge, samples(gauge.read))?;
        }
        Ok(())
    }

    fn encode_peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = |read: fn(&PeerMetrics) -> u64| {
            let mut samples = Vec::new();
            for shard in &self.shards {
                for server in (0..shard.servers).filter(|&server| server != shard.replica) {
                    let mut labels = shard_labels(shard);
                    labels.push(("server", server.to_string()));
                    samples.push((labels, read(&shard.peers[server as usize])));
                }
            }
            samples
        };
        for counter in PEER_COUNTERS {
            encode_samples(encoder, counter, MetricType::Counter, samples(counter.read))?;
        }
        for gauge in PEER_GAUGES {
            encode_samples(encoder, gauge, MetricType::Gauge, samples(gauge.read))?;
        }
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Vec::new();
        for shard in &self.shards {
            for &operation in Operation::ALL {
                for class in StatusClass::ALL {
                    let count = shard.requests(operation, class);
                    // What never happened is left out, except success, so that a rate over it begins at zero.
                    if count > 0 || class == StatusClass::Ok {
                        let mut labels = shard_labels(shard);
                        labels.push(("operation", operation_label(operation).to_owned()));
                        labels.push(("status", class.label().to_owned()));
                        samples.push((labels, count));
                    }
                }
            }
        }
        let requests = number::<ShardMetrics>("requests", "Requests answered, by operation and how they ended", |_| 0);
        encode_samples(encoder, &requests, MetricType::Counter, samples)?;

        let mut samples = Vec::new();
        for shard in &self.shards {
            for reason in RejectReason::ALL {
                let mut labels = shard_labels(shard);
                labels.push(("reason", reason.label().to_owned()));
                samples.push((labels, shard.rejected(reason)));
            }
        }
        let rejected =
            number::<ShardMetrics>("rejected", "Connections refused or closed for what came over them", |_| 0);
        encode_samples(encoder, &rejected, MetricType::Counter, samples)
    }

    fn encode_histograms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, unit, distributions) in HISTOGRAMS {
            let name = format!("lockstep_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, unit.as_ref(), MetricType::Histogram)?;
            for shard in &self.shards {
                for distribution in *distributions {
                    let mut labels = shard_labels(shard);
                    labels.extend(distribution.label.map(|(key, value)| (key, value.to_owned())));
                    let (buckets, sum) = (distribution.read)(shard).snapshot();
                    // Counted from the buckets just read, so that the two agree while the shard goes on counting.
                    let count = buckets.iter().map(|&(_, count)| count).sum();
                    metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

fn shard_labels(shard: &ShardMetrics) -> Labels {
    vec![("shard", shard.shard.to_string())]
}

fn encode_samples<T>(
    encoder: &mut DescriptorEncoder<'_>,
    number: &Number<T>,
    metric_type: MetricType,
    samples: Vec<(Labels, u64)>,
) -> fmt::Result {
    if samples.is_empty() {
        return Ok(());
    }
    let is_counter = matches!(metric_type, MetricType::Counter);
    let name = format!("lockstep_{}", number.name);
    let mut metric = encoder.encode_descriptor(&name, number.help, number.unit.as_ref(), metric_type)?;
    for (labels, value) in samples {
        let mut sample = metric.encode_family(&labels)?;
        if is_counter {
            sample.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        } else {
            sample.encode_gauge(&value)?;
        }
    }
    Ok(())
}

fn encode_build(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("protocol", "3"), ("disk_format", "2")];
    const { assert!(WIRE_VERSION == 3 && DISK_FORMAT_VERSION == 2) };
    encoder.encode_descriptor("lockstep_build", "What is running", None, MetricType::Info)?.encode_info(&labels)
}

fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(usage) = ProcessUsage::read() else {
        return Ok(());
    };
    encoder
        .encode_descriptor("process_cpu", "CPU time of the server", Some(&Unit::Seconds), MetricType::Counter)?
        .encode_counter::<NoLabelSet, f64, u64>(&(usage.user + usage.system).as_secs_f64(), None)?;
    encode_process_gauge(
        encoder,
        "process_resident_memory",
        "Resident memory",
        Some(&Unit::Bytes),
        usage.resident_bytes as f64,
    )?;
    encode_process_gauge(encoder, "process_threads", "Threads", None, usage.threads as f64)?;
    let help = "When the server was started, since 1970";
    encode_process_gauge(encoder, "process_start_time", help, Some(&Unit::Seconds), usage.start_seconds)
}

fn encode_process_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: f64,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
}

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_build(&mut encoder)?;
        self.encode_requests(&mut encoder)?;
        self.encode_histograms(&mut encoder)?;
        self.encode_numbers(&mut encoder)?;
        self.encode_peers(&mut encoder)?;
        encode_process(&mut encoder)
    }
}

/// The metrics of `shards` and of this process, as OpenMetrics text.
///
/// # Errors
///
/// If a number cannot be formatted, which would be a fault of this module.
pub fn encode(shards: &[Arc<ShardMetrics>]) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ServerCollector::new(shards.to_vec())));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

// The label sets used here are vectors of pairs; this holds the assumption in one visible place.
const _: fn() = || {
    fn is_label_set<T: EncodeLabelSet>() {}
    is_label_set::<Labels>();
};
