//! The load generator drives whatever speaks RESP.

use std::{net::SocketAddr, time::Duration};

use lockstep_loadgen::{
    drive::{DriveContext, Pacing, Phase, Protocol, RunSpec, StopFlag, drive},
    plan::{Arrivals, KeyDistribution, KeyLayout, ValueSizes, Workload},
    record::{EventLog, RunRecord},
};

use crate::{
    harness::{Cluster, DEADLINE, Spec, wait_for},
    ours::{resp_address, wait_for_primary},
    peer::Redis,
    tools::find_or_skip,
    wire::Connection,
};

fn spec(servers: Vec<SocketAddr>) -> RunSpec {
    RunSpec {
        phase: Phase::Run,
        servers,
        shards: 1,
        protocol: Protocol::Resp,
        wait_replicas: 0,
        resp_password: None,
        pacing: Pacing::Rate(2000.0),
        arrivals: Arrivals::Uniform,
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        connections: 4,
        in_flight: 32,
        workload: Workload::A,
        increments: 0.1,
        keys: 500,
        distribution: KeyDistribution::Uniform,
        key_layout: KeyLayout::default(),
        values: ValueSizes { min: 0, max: 3000 },
        timeout: DEADLINE,
        seed: 5,
        verify: true,
        threads: 2,
    }
}

fn run(spec: &RunSpec) -> RunRecord {
    let context = DriveContext {
        stop: StopFlag::default(),
        finish: StopFlag::default(),
        opening: None,
        interval: None,
        events: EventLog::new(),
        processes: &[],
        watch: &mut |_| {},
    };
    drive(spec, context).expect("the run begins")
}

/// Loads the keys, and runs each kind of workload on them.
fn drive_all(servers: &[SocketAddr], wait_replicas: u32) {
    let spec = RunSpec { wait_replicas, ..spec(servers.to_vec()) };
    let loaded = run(&RunSpec { phase: Phase::Load, pacing: Pacing::Saturate, ..spec.clone() });
    expect_good(&loaded, 500, "load");
    for workload in [Workload::A, Workload::F, Workload::WRITES, Workload::C] {
        let record = run(&RunSpec { workload, ..spec.clone() });
        expect_good(&record, 1900, &workload.to_string());
    }
}

/// Everything is answered, but for what was on its way when a busy machine made another server the primary.
fn expect_good(record: &RunRecord, asked: u64, what: &str) {
    let counts = &record.counts;
    let lost = record.events.iter().filter(|event| event.kind == "connection-lost").count() as u64;
    let wrong = counts.failed + counts.busy + counts.corrupt;
    assert_eq!(wrong, 0, "{what}: {counts:?} {:?}", record.events);
    assert!(counts.unknown <= lost * 32, "{what}: {counts:?} {:?}", record.events);
    assert!(counts.ok + counts.unknown >= asked, "{what}: {counts:?} {:?}", record.events);
}

#[test]
fn the_load_generator_drives_redis() {
    let Some(program) = find_or_skip("the_load_generator_drives_redis", "redis-server") else { return };
    let redis = Redis::start(&program, &[]);
    drive_all(&[redis.address], 0);
    let mut connection = Connection::open(redis.address).unwrap();
    let keys = connection.ask(&["DBSIZE"]).unwrap().integer().unwrap();
    assert!((501..=600).contains(&keys), "500 keys and the counters: {keys}");
}

#[test]
fn a_write_that_too_few_replicas_have_is_not_counted_as_answered() {
    let test = "a_write_that_too_few_replicas_have_is_not_counted_as_answered";
    let Some(program) = find_or_skip(test, "redis-server") else { return };
    let redis = Redis::start(&program, &[]);
    let timeout = Duration::from_millis(100);
    let spec = RunSpec { wait_replicas: 1, workload: Workload::WRITES, timeout, ..spec(vec![redis.address]) };
    let record = run(&RunSpec { pacing: Pacing::Rate(50.0), ..spec });
    assert_eq!(record.counts.ok, 0, "there is no replica: {:?}", record.counts);
    assert!(record.counts.unknown > 0, "{:?}", record.counts);
}

#[test]
fn the_load_generator_drives_ours_from_any_address() {
    let cluster = Cluster::start(Spec { shards: 2, ..Spec::of(3) }.patient().with_resp());
    wait_for_primary(&cluster);
    let mut servers: Vec<_> = (0..3).map(|id| resp_address(&cluster, id, 0)).collect();
    servers.rotate_left(1);
    drive_all(&servers, 0);
    drive_all(&servers, 2);
}

#[test]
fn the_load_generator_follows_the_primary_that_was_killed() {
    // Nobody but the one that is killed gives way.
    let mut cluster = Cluster::start(Spec::of(3).with(&["--view-timeout=1s", "--stall-timeout=30s"]).with_resp());
    let primary = wait_for_primary(&cluster);
    let servers: Vec<_> = (0..3).map(|id| resp_address(&cluster, id, 0)).collect();
    let spec = RunSpec { duration: Duration::from_secs(5), increments: 0.0, ..spec(servers) };
    let record = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&spec));
        let has_load = || cluster.status(primary, 0)?["revision"].as_u64().filter(|&revision| revision > 1000);
        wait_for("the load", has_load);
        cluster.kill(primary);
        running.join().unwrap()
    });
    let counts = &record.counts;
    assert_eq!((counts.failed, counts.corrupt), (0, 0), "{counts:?} {:?}", record.events);
    // What was on its way when the primary died, or gave way on a busy machine, may or may not have happened; nothing
    // else is lost.
    let lost = record.events.iter().filter(|event| event.kind == "connection-lost").count() as u64;
    assert!(lost > 0 && counts.unknown <= lost * 32, "{counts:?} {:?}", record.events);
    assert!(counts.ok + counts.missing >= 9_000, "{counts:?} {:?}", record.events);
    assert!(record.events.iter().any(|event| event.kind == "connection-regained"), "{:?}", record.events);
}
