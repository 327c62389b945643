//! Our servers beside Redis.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Instant,
};

use crate::{
    differential::{Pair, differences, expect_none, seeds},
    grammar::Keys,
    harness::{Cluster, Spec, wait_for},
    peer::Redis,
    sequence::Runner,
    streams::{byte_differences, listening_differences},
    tools::find_or_skip,
    wire::Connection,
};

/// Where a server's shard speaks RESP.
pub fn resp_address(cluster: &Cluster, id: u8, shard: u16) -> SocketAddr {
    let server = &cluster.servers[id as usize];
    (server.host.as_str(), server.resp + shard).to_socket_addrs().unwrap().next().unwrap()
}

/// Waits until a server says by INFO that it takes writes, and gives its id.
pub fn wait_for_primary(cluster: &Cluster) -> u8 {
    let is_primary = |id: u8| {
        let reply = Connection::open(resp_address(cluster, id, 0)).ok()?.ask(&["INFO", "replication"]).ok()?;
        let text = String::from_utf8_lossy(reply.text()?).into_owned();
        text.contains("role:master").then_some(id)
    };
    let running = || (0..cluster.spec.servers).filter(|id| cluster.is_running(*id));
    wait_for("a server that takes writes", || running().find_map(is_primary))
}

/// A cluster with its front doors open, and all addresses of the primary.
pub fn start(spec: Spec) -> (Cluster, Vec<SocketAddr>) {
    let cluster = Cluster::start(spec.with_resp());
    let primary = wait_for_primary(&cluster);
    let addresses = (0..cluster.spec.shards).map(|shard| resp_address(&cluster, primary, shard)).collect();
    (cluster, addresses)
}

fn compare(test: &str, spec: &Spec, keys: Keys, sequences: u64, pairs: usize) {
    let Some(program) = find_or_skip(test, "redis-server") else { return };
    let running: Vec<_> = (0..pairs).map(|_| (Redis::start(&program, &[]), start(spec.clone()))).collect();
    let pair = |(redis, (_, addresses)): &(Redis, (Cluster, Vec<SocketAddr>))| Pair {
        left: Runner::new(vec![redis.address]),
        right: Runner::new(addresses.clone()),
    };
    let (begun, seeds) = (Instant::now(), seeds(sequences));
    let found = differences(seeds.clone(), keys, running.iter().map(pair).collect());
    expect_none(test, &seeds, begun, &found);
}

/// Without a disk in the way, thousands of sequences take less than a minute.
fn quick() -> Spec {
    Spec::of(1).with(&["--durability", "memory"])
}

#[test]
#[ignore = "the last differences are being fixed"]
fn one_server_answers_as_redis_does() {
    compare("one_server_answers_as_redis_does", &quick(), Keys::Any, 3000, 2);
}

#[test]
#[ignore = "the last differences are being fixed"]
fn keys_of_other_shards_are_answered_as_redis_does() {
    let spec = Spec { shards: 2, ..quick() };
    compare("keys_of_other_shards_are_answered_as_redis_does", &spec, Keys::Spread, 500, 1);
    compare("keys_of_other_shards_are_answered_as_redis_does", &spec, Keys::OneSlot, 500, 1);
}

#[test]
#[ignore = "the last differences are being fixed"]
fn three_durable_servers_answer_as_redis_does() {
    compare("three_durable_servers_answer_as_redis_does", &Spec::of(3), Keys::Any, 200, 1);
}

#[test]
#[ignore = "the last differences are being fixed"]
fn bytes_that_are_no_commands_are_answered_as_redis_does() {
    let Some(program) = find_or_skip("bytes_that_are_no_commands_are_answered_as_redis_does", "redis-server") else {
        return;
    };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(quick()));
    let found = byte_differences(redis.address, ours[0], seeds(1500));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
#[ignore = "the last differences are being fixed"]
fn listeners_are_told_what_redis_tells_them() {
    let Some(program) = find_or_skip("listeners_are_told_what_redis_tells_them", "redis-server") else { return };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(quick()));
    let found = listening_differences(redis.address, ours[0], seeds(400));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
