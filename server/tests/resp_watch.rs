//! WATCH over real sockets: what makes a transaction fail, for how long a server notes what happens to watched keys,
//! and what becomes of a key that was watched on a backup.

mod harness;
#[path = "redis/talk.rs"]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use harness::{Cluster, wait_for};
use talk::{ask, client, open, pipeline, primary_of_all, sharded, start};
use wire::Connection;

/// Keys of both shards: of one, the command comes from another shard's port.
const KEYS: [&str; 2] = ["foo", "bar"];

/// Version and expiry of such a key do not show that something happened to it; Redis lets the transaction fail all the
/// same.
#[test]
fn a_watched_key_that_is_again_as_it_was_fails_the_transaction() {
    let (cluster, id) = start(sharded(3));
    let (mut one, mut other) = (client(&cluster, id), client(&cluster, id));
    let pasts: [(&[&str], &[&str], &str); 9] = [
        (&[], &["set K 1", "del K"], "*-1"),
        (&[], &["multi", "set K 1", "getdel K", "exec"], "*-1"),
        (&[], &["set K 1", "rename K {K}x"], "*-1"),
        (&[], &["set K 1", "flushall"], "*-1"),
        (&["set K 1", "expireat K 4000000000"], &["expireat K 4000000000"], "*-1"),
        (&["set K 1", "expireat K 4000000000"], &["persist K", "expireat K 4000000000"], "*-1"),
        // What does nothing touches nothing.
        (&["del K"], &["del K", "persist K", "getex K ex 100", "set K 1 xx", "flushall"], "*[+OK]"),
        (&["set K 1"], &["persist K", "get K", "set K 2 nx", "renamenx K K"], "*[+OK]"),
        (&["set K 1", "del K"], &["set {K}2 1", "del {K}2"], "*[+OK]"),
    ];
    // Keys of both shards: of one, the command comes from another shard's port.
    for (index, key) in ["foo", "bar"].iter().enumerate() {
        for (before, between, expected) in &pasts {
            let named = |lines: &[&str]| -> Vec<String> { lines.iter().map(|line| line.replace('K', key)).collect() };
            pipeline(&mut other, &named(before));
            let copies = ["multi", "wait 0 0", "exec"];
            ask(&mut one, "incr {K}n");
            let copies_before = pipeline(&mut one, &copies).pop();
            assert_ne!(copies_before.as_deref(), Some("*[:0]"));
            assert_eq!(ask(&mut one, &format!("watch {key}")), "+OK");
            pipeline(&mut other, &named(between));
            let lines = named(&["multi", "set K new", "exec"]);
            assert_eq!(pipeline(&mut one, &lines)[2], *expected, "{index}: {before:?} {between:?}");
            if *expected == "*-1" {
                assert_eq!(pipeline(&mut one, &copies).pop(), copies_before, "such an EXEC is no write");
            }
        }
        // Its own commands count as well, and what was before the watch does not; all in one go.
        let own = ["flushall", "set K 1", "del K", "watch K", "multi", "ping", "exec"];
        assert_eq!(pipeline(&mut one, &own.map(|line| line.replace('K', key)))[6], "*[+PONG]");
        let own = ["watch K", "set K 1", "del K", "multi", "ping", "exec", "multi", "ping", "exec"];
        let replies = pipeline(&mut one, &own.map(|line| line.replace('K', key)));
        assert_eq!([&replies[5], &replies[8]], ["*-1", "*[+PONG]"]);
        let own = ["watch K", "del K", "persist K", "multi", "ping", "exec"];
        assert_eq!(pipeline(&mut one, &own.map(|line| line.replace('K', key)))[5], "*[+PONG]");
    }
}

/// How many keys of both shards it is noted of what happens to them.
fn watched(cluster: &Cluster, id: u8) -> Option<f64> {
    let of = |shard| cluster.metric(id, "lockstep_watched_keys", &[&format!("shard=\"{shard}\"")]);
    Some(of(0)? + of(1)?)
}

fn wait_until_watched(cluster: &Cluster, id: u8, keys: f64, when: &str) {
    wait_for(&format!("{keys} watched keys {when}"), || (watched(cluster, id)? == keys).then_some(()));
}

#[test]
fn what_happens_to_a_key_is_noted_until_nobody_watches_any_more_however_that_ends() {
    let (cluster, id) = start(sharded(3));
    let mut other = client(&cluster, id);
    let endings: [&[&str]; 8] = [
        &["unwatch"],
        &["reset"],
        &["quit"],
        &["multi", "set K 1", "exec"],
        &["multi", "set K 1", "discard"],
        &["multi", "set K", "exec"],
        &["multi", "set foo 1", "set bar 1", "exec"],
        &["exec K"],
    ];
    for key in KEYS {
        for ending in endings {
            let mut one = client(&cluster, id);
            assert_eq!(ask(&mut one, &format!("watch {key} {{{key}}}2")), "+OK");
            wait_until_watched(&cluster, id, 2.0, "by one");
            pipeline(&mut one, &ending.iter().map(|line| line.replace('K', key)).collect::<Vec<_>>());
            assert_eq!(ask(&mut other, &format!("set {key} 1")), "+OK");
            wait_until_watched(&cluster, id, 0.0, &format!("after {ending:?} of {key}"));
        }
        // A connection that is cut, and an EXEC that fails.
        let mut one = client(&cluster, id);
        assert_eq!(ask(&mut one, &format!("watch {key}")), "+OK");
        wait_until_watched(&cluster, id, 1.0, "by one that will go");
        drop(one);
        wait_until_watched(&cluster, id, 0.0, "after it has gone");
        let mut one = client(&cluster, id);
        assert_eq!(ask(&mut one, &format!("watch {key}")), "+OK");
        assert_eq!(ask(&mut other, &format!("del {key}")), ":1");
        assert_eq!(pipeline(&mut one, &["multi", "ping", "exec"])[2], "*-1");
        wait_until_watched(&cluster, id, 0.0, "after an EXEC that failed");
    }
}

#[test]
fn a_key_stays_watched_for_one_client_when_another_stops() {
    let (cluster, id) = start(sharded(3));
    let mut other = client(&cluster, id);
    for key in KEYS {
        for ending in ["unwatch", "quit", "exec"] {
            let named = |lines: &[&str]| -> Vec<String> { lines.iter().map(|line| line.replace('K', key)).collect() };
            // The ports of both shards.
            let (mut one, mut two) = (client(&cluster, id), open(&cluster, id, 1).expect("the server listens"));
            pipeline(&mut other, &named(&["flushall"]));
            assert_eq!(pipeline(&mut one, &named(&["watch K", "multi"]))[0], "+OK");
            assert_eq!(pipeline(&mut two, &named(&["watch K"])), ["+OK"]);
            pipeline(&mut other, &named(&["set K 1"]));
            pipeline(&mut one, &[if ending == "unwatch" { "discard" } else { ending }]);
            if ending == "quit" {
                wait_for("its end", || (ask(&mut other, "client list").matches("addr=").count() == 2).then_some(()));
            }
            pipeline(&mut other, &named(&["del K"]));
            assert_eq!(pipeline(&mut two, &named(&["multi", "set K 2", "exec"]))[2], "*-1", "{key} {ending}");
            // From now on it is watched anew, by one that has seen all this.
            assert_eq!(pipeline(&mut two, &named(&["watch K", "multi", "set K 2", "exec"]))[3], "*[+OK]");
        }
    }
}

/// EXEC takes back what its client watches even if the WATCH is not answered yet.
#[test]
fn an_exec_that_is_refused_forgets_a_watch_that_is_under_way() {
    let (cluster, id) = start(sharded(3));
    let mut one = client(&cluster, id);
    for key in KEYS {
        let lines = ["watch K", "exec K", "set K 1", "multi", "ping", "exec"].map(|line| line.replace('K', key));
        assert_eq!(pipeline(&mut one, &lines)[5], "*[+PONG]", "{key}");
    }
}

/// Transactions of one client for each thing that can happen to the key that it watches. Whether it fails is told with
/// it.
const FATES: [(&str, bool); 5] = [
    ("left alone", false),
    ("cycled", true),
    ("changed", true),
    ("cycled, and watched by another", true),
    ("late", true),
];

/// The connections to a backup that watch one key each, by shard and fate.
fn watch_all(cluster: &Cluster, backup: u8) -> Vec<(String, usize, Connection)> {
    let mut connections = Vec::new();
    for tag in KEYS {
        for fate in 0..FATES.len() {
            let key = format!("{{{tag}}}{fate}");
            let mut connection = client(cluster, backup);
            assert_eq!(ask(&mut connection, "readonly"), "+OK");
            assert_eq!(ask(&mut connection, &format!("watch {key}")), "+OK");
            connections.push((key, fate, connection));
        }
    }
    connections
}

#[test]
fn a_key_watched_on_a_backup_fails_the_transaction_on_the_primary_that_it_becomes() {
    let (mut cluster, old) = start(sharded(3));
    let mut watchers: Vec<_> = (0..3).map(|id| if id == old { Vec::new() } else { watch_all(&cluster, id) }).collect();
    let mut other = client(&cluster, old);
    let cycle = |key: &str| [format!("set {key} 1"), format!("del {key}")];
    for tag in KEYS {
        pipeline(&mut other, &cycle(&format!("{{{tag}}}1")));
        ask(&mut other, &format!("set {{{tag}}}2 1"));
        pipeline(&mut other, &cycle(&format!("{{{tag}}}3")));
    }
    cluster.kill(old);
    let new = primary_of_all(&cluster);
    assert_ne!(new, old);
    let mut other = client(&cluster, new);
    for tag in KEYS {
        // Once a write is answered, what was in the log before is applied.
        wait_for("the new primary", || (ask(&mut other, &format!("set {{{tag}}} 1")) == "+OK").then_some(()));
        pipeline(&mut other, &[format!("watch {{{tag}}}3")]);
        pipeline(&mut other, &cycle(&format!("{{{tag}}}4")));
    }
    for (key, fate, connection) in &mut watchers[new as usize] {
        let (name, is_failing) = FATES[*fate];
        let replies = pipeline(connection, &["multi".to_owned(), format!("set {key} mine"), "exec".to_owned()]);
        assert_eq!(replies[2], if is_failing { "*-1" } else { "*[+OK]" }, "{key}: {name}");
    }
}

/// What is watched is compared where the transaction stands in the log, and a backup does not write the log.
#[test]
fn a_transaction_with_watched_keys_is_refused_by_a_backup() {
    let (cluster, id) = start(sharded(3));
    let mut one = client(&cluster, (id + 1) % 3);
    for key in KEYS {
        let lines = ["readonly", "watch K", "multi", "get K", "exec"].map(|line| line.replace('K', key));
        assert_eq!(pipeline(&mut one, &lines)[4], "-READONLY You can't write against a read only replica.");
        let lines = ["multi", "get K", "exec"].map(|line| line.replace('K', key));
        assert_eq!(pipeline(&mut one, &lines)[2], "*[$-1]", "the refusal has ended the watch");
    }
    wait_until_watched(&cluster, (id + 1) % 3, 0.0, "on the backup");
}
