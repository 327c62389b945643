//! The text that a monitoring system reads, after known recordings.

use std::{collections::BTreeMap, sync::Arc};

use lockstep_proto::{Operation, Status, request::FrameError};

use super::*;

/// What the text says: the type of each family, and each sample by its name and labels.
struct Exposition {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no sample {sample}"))
    }
}

/// Reads OpenMetrics text strictly: each line is a comment or a sample, each sample belongs to the family before it,
/// nothing is said twice, and the end is marked.
fn parse(text: &str) -> Exposition {
    let body = text.strip_suffix("# EOF\n").expect("the text ends with its mark");
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    let mut family = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{name} is declared twice");
            family = name.to_owned();
        } else if line.starts_with("# HELP ") || line.starts_with("# UNIT ") {
            assert!(line.split(' ').nth(3).is_some(), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
            assert!(sample.starts_with(&family), "{sample} stands among samples of {family}");
            check_labels(sample);
            let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
            assert_eq!(samples.insert(sample.to_owned(), value), None, "{sample} is given twice");
        }
    }
    Exposition { types, samples }
}

fn check_labels(sample: &str) {
    let Some((_, labels)) = sample.split_once('{') else { return };
    let labels = labels.strip_suffix('}').expect("labels are closed");
    for label in labels.split(',') {
        let (name, value) = label.split_once('=').expect("a label has a value");
        assert!(!name.is_empty() && value.starts_with('"') && value.ends_with('"') && value.len() >= 2, "{label}");
    }
}

fn encoded(shards: &[Arc<ShardMetrics>]) -> Exposition {
    parse(&encode(shards).expect("numbers can be written"))
}

#[test]
fn known_recordings_come_out_as_they_went_in() {
    let shard = Arc::new(ShardMetrics::new(0, 1, 3));
    shard.count_requests(Operation::Put, Status::Ok, 500);
    shard.count_requests(Operation::Put, Status::Ok, 1);
    shard.count_requests(Operation::Get, Status::NotFound, 3);
    shard.count_requests(Operation::Status, Status::NotPrimary, 1);
    shard.count_rejected(FrameError::Checksum);
    shard.count_rejected(RejectReason::Full);
    shard.write_latency.record_n(1_200_000, 501);
    shard.batch_ops.record(501);
    shard.journal_write_latency.record(80_000);
    shard.journal_written_bytes.add(8192);
    shard.pipeline_depth.set(4);
    shard.peers[0].lag_ops.set(17);
    shard.peers[2].is_in_sync.set_flag(true);
    shard.peers[2].sent_bytes.add(99);
    shard.role.set(u64::from(Role::Primary.to_wire()));

    let text = encoded(&[shard]);
    let expected = [
        (r#"lockstep_requests_total{shard="0",operation="put",status="ok"}"#, 501.0),
        (r#"lockstep_requests_total{shard="0",operation="get",status="not_found"}"#, 3.0),
        (r#"lockstep_requests_total{shard="0",operation="get",status="ok"}"#, 0.0),
        (r#"lockstep_requests_total{shard="0",operation="status",status="redirected"}"#, 1.0),
        (r#"lockstep_rejected_total{shard="0",reason="checksum"}"#, 1.0),
        (r#"lockstep_rejected_total{shard="0",reason="full"}"#, 1.0),
        (r#"lockstep_rejected_total{shard="0",reason="size"}"#, 0.0),
        (r#"lockstep_request_latency_seconds_count{shard="0",kind="write"}"#, 501.0),
        (r#"lockstep_request_latency_seconds_bucket{le="0.001",shard="0",kind="write"}"#, 0.0),
        (r#"lockstep_request_latency_seconds_bucket{le="0.0015",shard="0",kind="write"}"#, 501.0),
        (r#"lockstep_request_latency_seconds_bucket{le="+Inf",shard="0",kind="write"}"#, 501.0),
        (r#"lockstep_request_latency_seconds_count{shard="0",kind="read"}"#, 0.0),
        (r#"lockstep_batch_ops_sum{shard="0"}"#, 501.0),
        (r#"lockstep_batch_ops_bucket{le="256.0",shard="0"}"#, 0.0),
        (r#"lockstep_batch_ops_bucket{le="512.0",shard="0"}"#, 1.0),
        (r#"lockstep_journal_write_latency_seconds_sum{shard="0"}"#, 0.00008),
        (r#"lockstep_journal_written_bytes_total{shard="0"}"#, 8192.0),
        (r#"lockstep_pipeline_depth{shard="0"}"#, 4.0),
        (r#"lockstep_peer_lag_ops{shard="0",server="0"}"#, 17.0),
        (r#"lockstep_peer_in_sync{shard="0",server="0"}"#, 0.0),
        (r#"lockstep_peer_in_sync{shard="0",server="2"}"#, 1.0),
        (r#"lockstep_peer_sent_bytes_total{shard="0",server="2"}"#, 99.0),
        (r#"lockstep_role{shard="0"}"#, 1.0),
    ];
    for (sample, value) in expected {
        assert_eq!(text.value(sample), value, "{sample}");
    }
    let sum = text.value(r#"lockstep_request_latency_seconds_sum{shard="0",kind="write"}"#);
    assert!((sum - 0.6012).abs() < 1e-9, "{sum}");
}

#[test]
fn a_server_is_not_its_own_peer_and_servers_that_do_not_exist_are_not_shown() {
    let text = encoded(&[Arc::new(ShardMetrics::new(0, 1, 3))]);
    let servers: Vec<&String> =
        text.samples.keys().filter(|sample| sample.starts_with("lockstep_peer_lag_ops")).collect();
    assert_eq!(
        servers,
        [r#"lockstep_peer_lag_ops{shard="0",server="0"}"#, r#"lockstep_peer_lag_ops{shard="0",server="2"}"#]
    );
}

#[test]
fn a_server_alone_has_no_peer_families() {
    let text = encoded(&[Arc::new(ShardMetrics::new(0, 0, 1))]);
    assert!(!text.types.keys().any(|family| family.contains("peer")));
}

#[test]
fn shards_share_families_and_keep_their_numbers_apart() {
    let shards: Vec<_> = (0..3).map(|shard| Arc::new(ShardMetrics::new(shard, 0, 3))).collect();
    for shard in &shards {
        shard.turns.add(u64::from(shard.shard) + 10);
    }
    let text = encoded(&shards);
    for shard in 0..3 {
        assert_eq!(text.value(&format!(r#"lockstep_turns_total{{shard="{shard}"}}"#)), f64::from(shard) + 10.0);
    }
    assert_eq!(text.types["lockstep_turns"], "counter");
    assert_eq!(text.types["lockstep_keys"], "gauge");
    assert_eq!(text.types["lockstep_request_latency_seconds"], "histogram");
}

#[test]
fn buckets_never_decrease_and_end_at_the_count() {
    let shard = Arc::new(ShardMetrics::new(0, 0, 1));
    for latency_ns in [0, 10_000, 10_001, 999_999_999, 20_000_000_000] {
        shard.read_latency.record(latency_ns);
    }
    let text = encode(&[shard]).expect("numbers can be written");
    let read: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("lockstep_request_latency_seconds_bucket") && line.contains("read"))
        .collect();
    let counts: Vec<u64> =
        read.iter().map(|line| line.rsplit_once(' ').expect("a sample").1.parse().expect("a count")).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!((counts.first(), counts.last()), (Some(&2), Some(&5)));
    assert!(read.last().expect("buckets").contains(r#"le="+Inf""#));
    assert_eq!(counts[counts.len() - 2], 4, "20 s is beyond the last bound");
}

#[test]
fn the_process_and_the_build_are_described() {
    let text = encoded(&[Arc::new(ShardMetrics::new(0, 0, 1))]);
    assert!(text.value("process_resident_memory_bytes") > 100_000.0);
    assert!(text.value("process_cpu_seconds_total") >= 0.0);
    assert!(text.value("process_start_time_seconds") > 1.6e9);
    assert!(text.samples.keys().any(|sample| sample.starts_with("lockstep_build_info{")));
}

#[test]
fn every_status_has_a_class_and_every_label_is_its_own() {
    for &status in Status::ALL {
        let shard = ShardMetrics::new(0, 0, 1);
        shard.count_requests(Operation::Ping, status, 2);
        let counted: u64 = StatusClass::ALL.iter().map(|&class| shard.requests(Operation::Ping, class)).sum();
        assert_eq!(counted, 2, "{status:?}");
    }
    assert_distinct(StatusClass::ALL.map(StatusClass::label).to_vec());
    assert_distinct(RejectReason::ALL.map(RejectReason::label).to_vec());
}

fn assert_distinct(mut labels: Vec<&str>) {
    let count = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), count);
}

#[test]
fn a_status_is_read_as_it_was_published_and_grows_old() {
    let cell = StatusCell::new();
    assert_eq!(cell.read().status, None);
    let status = crate::admin::tests::status(0, Role::Backup);
    cell.publish(status.clone());
    let first = cell.read();
    assert_eq!(first.status.as_ref(), Some(&status));
    assert!(cell.read().age >= first.age);
}
