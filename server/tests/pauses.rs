//! A backup that is stopped for a while, under each ack policy, as the metrics show it; and servers that are asked to
//! stop.

mod harness;

use std::time::Duration;

use harness::{
    Cluster, Spec, wait_for,
    workload::{Workload, audit, get, put_within},
};

/// A backup's silence is shorter than by default, so that the tests need not wait a second for it; still ten
/// heartbeats. The primary stays.
fn spec() -> Spec {
    Spec::of(3).patient().with(&["--heartbeat-interval", "20ms", "--backup-silence", "200ms"])
}

/// The primary and one of the others.
fn roles(cluster: &Cluster) -> (u8, u8) {
    let primary = cluster.primary(0);
    (primary, (primary + 2) % 3)
}

/// Waits until the primary says of a backup that it is in the in-sync set, or that it is not.
fn wait_for_in_sync(cluster: &Cluster, primary: u8, backup: u8, is_in_sync: bool) {
    let label = format!("server=\"{backup}\"");
    wait_for(&format!("the backup to be in the in-sync set: {is_in_sync}"), || {
        let value = cluster.metric(primary, "lockstep_peer_in_sync", &[&label])?;
        ((value > 0.5) == is_in_sync).then_some(())
    });
}

#[test]
fn with_majority_a_stopped_backup_is_not_waited_for() {
    let mut cluster = Cluster::start(spec());
    let (primary, backup) = roles(&cluster);
    let workload = Workload::start(&cluster.addresses(), 4);
    workload.wait_for_more(50);
    cluster.signal(backup, "STOP");
    workload.wait_for_more(200);
    wait_for_in_sync(&cluster, primary, backup, false);
    workload.wait_for_more(200);
    cluster.signal(backup, "CONT");
    wait_for_in_sync(&cluster, primary, backup, true);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
    cluster.wait_until_healthy();
}

#[test]
fn with_all_a_stopped_backup_is_waited_for_until_it_leaves_the_in_sync_set() {
    let cluster = Cluster::start(spec().with(&["--ack", "all"]));
    let (primary, backup) = roles(&cluster);
    let workload = Workload::start(&cluster.addresses(), 4);
    workload.wait_for_more(50);
    cluster.signal(backup, "STOP");
    wait_for_in_sync(&cluster, primary, backup, false);
    workload.wait_for_more(200);
    cluster.signal(backup, "CONT");
    wait_for_in_sync(&cluster, primary, backup, true);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn with_strict_a_stopped_backup_blocks_writes_until_it_goes_on() {
    let cluster = Cluster::start(spec().with(&["--ack", "strict"]));
    let (_, backup) = roles(&cluster);
    put_within(&cluster.addresses(), "before", "1", Duration::from_secs(30)).unwrap();
    cluster.signal(backup, "STOP");
    // The client sends it again and again until its time is up; none of the sendings may be answered.
    let blocked = put_within(&cluster.addresses(), "during", "2", Duration::from_secs(2));
    assert!(blocked.is_err(), "a write was acknowledged without the stopped backup");
    cluster.signal(backup, "CONT");
    put_within(&cluster.addresses(), "after", "3", Duration::from_secs(30)).unwrap();
    assert_eq!(get(&cluster.addresses(), "after").as_deref(), Some(&b"3"[..]));
    cluster.wait_for_equal_state();
}

#[test]
fn asked_to_stop_servers_finish_what_is_in_flight_and_exit_with_0() {
    let mut cluster = Cluster::start(Spec::of(3));
    let workload = Workload::start(&cluster.addresses(), 8);
    workload.wait_for_more(100);
    // Backups first, one by one: the cluster goes on with one of them.
    cluster.signal(2, "TERM");
    assert!(cluster.wait_for_exit(2).success());
    workload.wait_for_more(100);
    cluster.signal(0, "TERM");
    assert!(cluster.wait_for_exit(0).success(), "{}", cluster.log(0));
    cluster.start_server(0);
    cluster.start_server(2);
    cluster.wait_until_healthy();
    workload.wait_for_more(50);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}
