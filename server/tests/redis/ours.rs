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
    streams::{byte_differences, knocking_differences, listening_differences},
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
fn one_server_answers_as_redis_does() {
    compare("one_server_answers_as_redis_does", &quick(), Keys::Any, 3000, 2);
}

#[test]
fn keys_of_other_shards_are_answered_as_redis_does() {
    let spec = Spec { shards: 2, ..quick() };
    compare("keys_of_other_shards_are_answered_as_redis_does", &spec, Keys::Spread, 500, 1);
    compare("keys_of_other_shards_are_answered_as_redis_does", &spec, Keys::OneSlot, 500, 1);
}

#[test]
fn three_durable_servers_answer_as_redis_does() {
    compare("three_durable_servers_answer_as_redis_does", &Spec::of(3), Keys::Any, 200, 1);
}

#[test]
fn bytes_that_are_no_commands_are_answered_as_redis_does() {
    let Some(program) = find_or_skip("bytes_that_are_no_commands_are_answered_as_redis_does", "redis-server") else {
        return;
    };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(quick()));
    let found = byte_differences(redis.address, ours[0], seeds(1500));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn listeners_are_told_what_redis_tells_them() {
    let Some(program) = find_or_skip("listeners_are_told_what_redis_tells_them", "redis-server") else { return };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(quick()));
    let found = listening_differences(redis.address, ours[0], seeds(400));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn strangers_are_treated_as_redis_treats_them() {
    let Some(program) = find_or_skip("strangers_are_treated_as_redis_treats_them", "redis-server") else { return };
    let redis = Redis::start(&program, &["--requirepass", "secret"]);
    let cluster = Cluster::start(quick().with(&["--requirepass", "secret"]).with_resp());
    let found = knocking_differences(redis.address, resp_address(&cluster, 0, 0), seeds(1000));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Of a command: its arity, the places of its keys, and its flags in any order.
fn described(connection: &mut Connection, name: &str) -> Option<(String, Vec<String>)> {
    let reply = connection.ask(&["COMMAND", "INFO", name]).ok()?;
    let about = reply.items()?.first()?.items()?;
    let flags = about.get(2)?.items()?.iter().map(|flag| String::from_utf8_lossy(flag.text()?).to_string().into());
    let mut flags: Vec<String> = flags.collect::<Option<_>>()?;
    flags.sort();
    Some((format!("{:?} {:?}", about.get(1)?, about.get(3..6)?), flags))
}

#[test]
fn commands_are_described_as_redis_describes_them() {
    let Some(program) = find_or_skip("commands_are_described_as_redis_describes_them", "redis-server") else { return };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(quick()));
    let (mut redis, mut ours) = (Connection::open(redis.address).unwrap(), Connection::open(ours[0]).unwrap());
    let list = ours.ask(&["COMMAND", "LIST"]).unwrap();
    let names = list.items().unwrap().iter().map(|name| String::from_utf8_lossy(name.text().unwrap()).to_string());
    let mut wrong = String::new();
    let mut compared = 0;
    for name in names {
        let mine = described(&mut ours, &name).unwrap_or_else(|| panic!("COMMAND INFO {name}"));
        // Redis 7.0 does not know all of them.
        let Some(theirs) = described(&mut redis, &name) else { continue };
        compared += 1;
        // What Redis 7.2 says of them, and 7.0 did not yet.
        let is_newer = matches!(&*name, "command|getkeys" | "command|getkeysandflags" | "wait");
        if mine != theirs && !is_newer {
            wrong += &format!("{name}\n  redis says {theirs:?}\n  ours says  {mine:?}\n");
        }
    }
    assert!(compared > 60, "only {compared} commands were compared");
    assert!(wrong.is_empty(), "\n{wrong}");
}
