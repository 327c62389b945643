//! Settings in words, for titles and tables.

use std::time::Duration;

use crate::cluster::ClusterSpec;
use crate::drive::{Pacing, Phase, Protocol, RunSpec};

/// A cluster in words: `3 servers, parallel fan-out, majority ack, durable on disk`.
pub fn cluster_words(spec: &ClusterSpec) -> String {
    let mut words = Vec::new();
    if spec.replicating < spec.servers {
        words.push(format!("{} and {} idle", plural(spec.replicating, "server"), spec.servers - spec.replicating));
    } else {
        words.push(plural(spec.servers, "server"));
    }
    if spec.replicating > 1 {
        words.push(format!("{} fan-out", spec.fanout));
        words.push(format!("{} ack", spec.ack));
    }
    words.extend(surroundings_words(spec));
    words.join(", ")
}

/// What is the same for all clusters of a comparison.
pub fn surroundings_words(spec: &ClusterSpec) -> Vec<String> {
    let mut words = vec![format!("durable in {}", spec.durability).replace("in disk", "on disk")];
    if spec.shards > 1 {
        words.push(plural(spec.shards.into(), "shard"));
    }
    if let Some(delay) = spec.link_delay {
        words.push(format!("links delayed by {} each way", short(delay)));
    }
    let batching = &spec.batching;
    words.extend(batching.max_ops.map(|ops| format!("at most {ops} requests per prepare")));
    words.extend(batching.linger.map(|linger| format!("linger {}", short(linger))));
    words.extend(batching.gather.map(|ops| format!("batches gather up to {ops} requests")));
    words.extend(batching.pipeline.map(|depth| format!("{depth} prepares in flight")));
    words
}

/// A load in words: `writes only, values of 100 bytes, 100000 keys (uniform), 20000 requests/s (poisson)`.
pub fn load_words(spec: &RunSpec) -> String {
    let mut words = Vec::new();
    match spec.phase {
        Phase::Load => words.push("loading every key once".to_owned()),
        Phase::Run => words.push(spec.workload.to_string()),
    }
    if spec.protocol == Protocol::Resp {
        words.push(match spec.wait_replicas {
            0 => "RESP".to_owned(),
            replicas => format!("RESP with WAIT {replicas}"),
        });
    }
    words.push(format!("values of {} bytes", spec.values));
    words.push(match spec.phase {
        // Each is put once, in order, whatever the distribution of a run would be.
        Phase::Load => format!("{} keys", spec.keys),
        Phase::Run => format!("{} keys ({})", spec.keys, spec.distribution),
    });
    match (spec.phase, spec.pacing) {
        (Phase::Run, Pacing::Rate(rate)) => words.push(format!("{rate:.0} requests/s ({})", spec.arrivals)),
        _ => words.push(format!("saturated by {} connections × {} in flight", spec.connections, spec.in_flight)),
    }
    words.join(", ")
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn short(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace("us", " µs").replace("ms", " ms")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Ack, Batching, Durability, Fanout};

    fn spec() -> ClusterSpec {
        ClusterSpec {
            server_bin: "x".into(),
            data_root: "/".into(),
            servers: 3,
            replicating: 3,
            shards: 1,
            ack: Ack::Majority,
            fanout: Fanout::Parallel,
            durability: Durability::Disk,
            link_delay: Some(Duration::from_micros(500)),
            has_cuttable_links: false,
            disk_size: None,
            has_resp: false,
            batching: Batching::default(),
            journal_size: None,
            format_arguments: Vec::new(),
            start_arguments: Vec::new(),
        }
    }

    #[test]
    fn clusters_read_as_sentences() {
        assert_eq!(
            cluster_words(&spec()),
            "3 servers, parallel fan-out, majority ack, durable on disk, links delayed by 500 µs each way"
        );
        let control = ClusterSpec { replicating: 1, link_delay: None, durability: Durability::Memory, ..spec() };
        assert_eq!(cluster_words(&control), "1 server and 2 idle, durable in memory");
    }
}
