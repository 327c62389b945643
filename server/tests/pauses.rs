//! A backup that is stopped for a while, under each ack policy, as the metrics show it; and servers that are asked to
//! stop.

mod harness;

use std::time::Duration;

use harness::{
    Cluster, Spec, wait_for,
    workload::{Workload, audit, get, put_within},
};

/// Shorter than the default, so that the tests need not wait a second for it; still ten heartbeats.
const QUICK: [&str; 4] = ["--heartbeat-interval", "20ms", "--backup-silence", "200ms"];

fn in_sync(cluster: &Cluster, peer: u8) -> Option<bool> {
    let label = format!("server=\"{peer}\"");
    cluster.metric(0, "lockstep_peer_in_sync", &[&label]).map(|value| value > 0.5)
}

#[test]
fn with_majority_a_stopped_backup_is_not_waited_for() {
    let mut cluster = Cluster::start(Spec::of(3).with(&QUICK));
    let workload = Workload::start(&cluster.addresses(), 4);
    workload.wait_for_more(50);
    cluster.signal(2, "STOP");
    workload.wait_for_more(200);
    wait_for("the stopped backup to leave the in-sync set", || (in_sync(&cluster, 2) == Some(false)).then_some(()));
    workload.wait_for_more(200);
    cluster.signal(2, "CONT");
    wait_for("the backup to come back into the in-sync set", || (in_sync(&cluster, 2) == Some(true)).then_some(()));
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
    cluster.wait_until_healthy();
}

#[test]
fn with_all_a_stopped_backup_is_waited_for_until_it_leaves_the_in_sync_set() {
    let cluster = Cluster::start(Spec::of(3).with(&QUICK).with(&["--ack", "all"]));
    let workload = Workload::start(&cluster.addresses(), 4);
    workload.wait_for_more(50);
    cluster.signal(2, "STOP");
    wait_for("the stopped backup to leave the in-sync set", || (in_sync(&cluster, 2) == Some(false)).then_some(()));
    workload.wait_for_more(200);
    cluster.signal(2, "CONT");
    wait_for("the backup to come back into the in-sync set", || (in_sync(&cluster, 2) == Some(true)).then_some(()));
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn with_strict_a_stopped_backup_blocks_writes_until_it_goes_on() {
    let cluster = Cluster::start(Spec::of(3).with(&QUICK).with(&["--ack", "strict"]));
    put_within(&cluster.addresses(), "before", "1", Duration::from_secs(30)).unwrap();
    cluster.signal(2, "STOP");
    // The client sends it again and again until its time is up; none of the sendings may be answered.
    let blocked = put_within(&cluster.addresses(), "during", "2", Duration::from_secs(2));
    assert!(blocked.is_err(), "a write was acknowledged without the stopped backup");
    cluster.signal(2, "CONT");
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
