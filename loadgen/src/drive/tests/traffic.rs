//! What is sent when nothing goes wrong.

use super::*;
use crate::plan::{ArrivalPlan, ValueMaker};
use crate::record::Counts;

#[test]
fn loading_puts_every_key_once_with_its_value() {
    let server = ScriptedServer::honest();
    let spec = RunSpec { threads: 2, connections: 3, ..spec(server.address) };
    let record = load(&spec);
    assert_eq!(record.counts, Counts { ok: 500, ..Counts::default() });
    server.state(|state| {
        assert_eq!((state.executed, state.values.len()), (500, 500));
        let values = ValueMaker::new(spec.seed);
        for index in 0..500 {
            let mut key = [0; 16];
            spec.key_layout.write(index, &mut key);
            let (_, value) = &state.values[key.as_slice()];
            assert_eq!(values.check(index, value), Ok(index), "the nonce of a load is the index");
        }
    });
}

#[test]
fn every_request_of_a_mix_is_counted_once() {
    let server = ScriptedServer::honest();
    let spec = RunSpec { workload: Workload::A, threads: 2, ..spec(server.address) };
    load(&spec);
    let record = run(&spec);
    let counts = record.counts;
    assert!(counts.ok > 100, "{counts:?}");
    assert_eq!(counts, Counts { ok: counts.ok, ..Counts::default() }, "nothing is missing, wrong or unanswered");
    assert_eq!(server.state(|state| state.seen), 500 + counts.ok);
    assert_eq!(server.state(|state| state.executed), 500 + record.histograms.writes.len());
    assert_eq!(server.state(|state| state.repeated), 0);
}

#[test]
fn a_read_modify_write_is_one_request_of_two_steps() {
    let server = ScriptedServer::honest();
    let spec = RunSpec { workload: Workload::F, ..spec(server.address) };
    load(&spec);
    let record = run(&spec);
    let (reads, changes) = (record.histograms.reads.len(), record.histograms.writes.len());
    assert!(reads > 20 && changes > 20);
    assert_eq!(record.counts.ok, reads + changes);
    assert_eq!(server.state(|state| state.executed), 500 + changes);
    assert_eq!(server.state(|state| state.seen), 500 + reads + 2 * changes);
}

#[test]
fn saturation_keeps_each_connection_exactly_full() {
    let server = ScriptedServer::start(|_| Act::PutOffUntil(6));
    let record = run(&RunSpec { in_flight: 6, ..spec(server.address) });
    assert!(record.counts.ok > 50, "a connection that is never full would get no answer: {:?}", record.counts);
    assert_eq!(record.counts.unknown, 0);
    assert_eq!(server.state(|state| state.put_off_max), 6);
}

#[test]
fn an_open_loop_sends_exactly_what_the_plan_says() {
    let server = ScriptedServer::honest();
    for (arrivals, threads) in [(Arrivals::Uniform, 1), (Arrivals::Poisson, 2)] {
        let spec = RunSpec { pacing: Pacing::Rate(3000.0), arrivals, threads, in_flight: 64, ..spec(server.address) };
        let end_ns = spec.duration.as_nanos() as u64;
        let planned: usize = (0..threads)
            .map(|thread| ArrivalPlan::new(arrivals, 3000.0, thread, threads, spec.seed, end_ns).count())
            .sum();
        let record = run(&spec);
        assert_eq!(record.counts, Counts { ok: planned as u64, ..Counts::default() });
    }
}

#[test]
fn warm_up_is_sent_and_left_out() {
    let server = ScriptedServer::honest();
    let spec = RunSpec { warmup: Duration::from_millis(100), pacing: Pacing::Rate(1000.0), ..spec(server.address) };
    let record = run(&spec);
    assert_eq!((record.counts.ok, record.counts.warmup), (300, 100));
    assert_eq!(server.state(|state| state.seen), 400);
}

#[test]
fn keys_go_to_the_connection_of_their_shard() {
    // The servers assert that each key is theirs.
    let listeners = super::super::answering::bind_neighbours(3).expect("neighbouring ports");
    let base = listeners[0].local_addr().expect("it is bound");
    let servers: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(shard, listener)| {
            let role = Role { replica: 0, view: 0, shard: shard as u16, shards: 3, addresses: vec![base] };
            ScriptedServer::serve(listener, role, |_| Act::Answer)
        })
        .collect();
    let spec = RunSpec { shards: 3, workload: Workload::A, ..spec(base) };
    assert_eq!(load(&spec).counts.ok, 500);
    let record = run(&spec);
    assert_eq!(record.counts, Counts { ok: record.counts.ok, ..Counts::default() });
    for server in &servers {
        assert!(server.state(|state| state.executed) > 100, "500 keys spread over three shards");
        assert_eq!(server.state(|state| state.sessions), 4, "two connections for each of two runs");
    }
}

#[test]
fn large_values_are_written_and_read_whole() {
    let server = ScriptedServer::honest();
    let values = ValueSizes { min: 100_000, max: 300_000 };
    let spec = RunSpec { keys: 20, values, workload: Workload::A, ..spec(server.address) };
    assert_eq!(load(&spec).counts.ok, 20);
    let counts = run(&spec).counts;
    assert_eq!(counts, Counts { ok: counts.ok, ..Counts::default() });
    assert!(counts.ok > 0);
}

#[test]
fn the_answering_server_answers_everything() {
    let server = AnsweringServer::start(2).expect("it starts");
    let spec = RunSpec { shards: 2, threads: 2, ..spec(server.address()) };
    let counts = run(&spec).counts;
    assert!(counts.ok > 1000, "{counts:?}");
    assert_eq!(counts, Counts { ok: counts.ok, ..Counts::default() });
}

#[test]
fn the_ceiling_has_three_numbers() {
    let ceiling = ceiling(&spec("127.0.0.1:1".parse().expect("an address"))).expect("it can be measured");
    assert!(ceiling.requests_per_s > 1000.0 && ceiling.generator_ns > 10.0 && ceiling.server_ns > 10.0, "{ceiling:?}");
}

#[test]
fn a_stop_ends_a_run_early() {
    let server = ScriptedServer::honest();
    let spec = RunSpec { duration: Duration::from_secs(600), ..spec(server.address) };
    let stop = StopFlag::default();
    let begin = std::time::Instant::now();
    let record = with_context(|context| {
        let mut rows = 0;
        let watch = &mut |_: &IntervalRow| {
            rows += 1;
            stop.set();
        };
        drive(&spec, DriveContext { stop: stop.clone(), watch, ..context }).expect("the run begins")
    });
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(record.counts.ok > 0);
}
