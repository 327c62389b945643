//! What Redis clients are told of the servers themselves, over real sockets: counts, passwords, who is primary.

mod harness;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
};

use harness::{Cluster, Spec, wait_for};
use wire::{Answer, Connection};

fn client(cluster: &Cluster, id: u8) -> Connection {
    let server = &cluster.servers[id as usize];
    let address = (server.host.as_str(), server.resp).to_socket_addrs().unwrap().next().unwrap();
    Connection::open(address).expect("the server listens")
}

/// Three patient servers of two shards, and the primary of both.
fn start() -> (Cluster, u8) {
    let spec = Spec { shards: 2, ..Spec::of(3) };
    let cluster = Cluster::start(spec.patient().with_resp());
    let id = wait_for("one primary for all", || Some(cluster.primary(0)).filter(|&id| cluster.primary(1) == id));
    (cluster, id)
}

fn text(answer: &Answer) -> String {
    let reply = answer.as_ref().expect("an answer");
    String::from_utf8_lossy(reply.text().unwrap_or_default()).into_owned()
}

/// The value of a field of INFO.
fn field(connection: &mut Connection, section: &str, name: &str) -> String {
    let info = text(&connection.ask(&["info", section]));
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {info}")).to_owned()
}

#[test]
fn info_counts_what_clients_have_done_until_it_is_reset() {
    let (cluster, id) = start();
    let mut connection = client(&cluster, id);
    for key in ["one", "two", "three", "four"] {
        assert_eq!(text(&connection.ask(&["set", key, "value", "ex", "1000"])), "OK");
    }
    assert_eq!(text(&connection.ask(&["set", "five", "value"])), "OK");
    assert_eq!(text(&connection.ask(&["get", "one"])), "value");
    assert!(connection.ask(&["get", "nothing"]).is_ok());
    assert!(connection.ask(&["incr", "one"]).expect("an answer").is_error());
    assert!(connection.ask(&["get"]).expect("an answer").is_error());
    // Five keys in two shards, four of which expire: each shard's count is that of its last turn, before it has
    // answered.
    assert_eq!(field(&mut connection, "keyspace", "db0"), "keys=5,expires=4,avg_ttl=0");
    assert!(field(&mut connection, "commandstats", "cmdstat_set").starts_with("calls=5,"));
    let get = field(&mut connection, "commandstats", "cmdstat_get");
    assert!(get.starts_with("calls=2,") && get.ends_with("rejected_calls=1,failed_calls=0"), "{get}");
    assert!(field(&mut connection, "commandstats", "cmdstat_incr").ends_with("failed_calls=1"));
    assert_eq!(field(&mut connection, "errorstats", "errorstat_ERR"), "count=2");
    assert_eq!(field(&mut connection, "stats", "keyspace_hits"), "1");
    assert_eq!(field(&mut connection, "stats", "keyspace_misses"), "1");
    assert_eq!(field(&mut connection, "replication", "role"), "master");
    assert_eq!(field(&mut connection, "stats", "expired_keys"), "0");
    assert_eq!(text(&connection.ask(&["set", "short", "value", "px", "1"])), "OK");
    wait_for("the key to expire", || (text(&connection.ask(&["get", "short"])).is_empty()).then_some(()));
    // Its shard removes it with the next write.
    assert_eq!(text(&connection.ask(&["set", "{short}er", "value"])), "OK");
    assert_eq!(field(&mut connection, "stats", "expired_keys"), "1");
    assert_eq!(connection.ask(&["del", "{short}er"]).expect("an answer").integer(), Some(1));
    let mut number = |name| field(&mut connection, "memory", name).parse::<f64>().expect("a number");
    assert!(number("used_memory") > 0.0 && number("used_memory_peak") >= number("used_memory"));
    let ratio = number("mem_fragmentation_ratio");
    assert!((0.5..3.0).contains(&ratio), "a young server looks fragmented: {ratio}");
    assert!(text(&connection.ask(&["info", "all"])).contains("# Modules"));

    assert_eq!(text(&connection.ask(&["config", "set", "slowlog-log-slower-than", "0"])), "OK");
    assert_eq!(connection.ask(&["append", "slow", "value"]).expect("an answer").integer(), Some(5));
    let entries = connection.ask(&["slowlog", "get", "1"]).expect("an answer");
    let words = entries.items().expect("entries")[0].items().expect("fields")[3].items().expect("words").to_vec();
    let words: Vec<String> =
        words.iter().map(|word| String::from_utf8_lossy(word.text().unwrap_or_default()).into_owned()).collect();
    assert_eq!(words, ["append", "slow", "... (1 more arguments)"]);

    assert_eq!(text(&connection.ask(&["config", "resetstat"])), "OK");
    assert!(!text(&connection.ask(&["info", "commandstats"])).contains("cmdstat_set"));
    assert_eq!(field(&mut connection, "stats", "keyspace_hits"), "0");
    assert_eq!(field(&mut connection, "keyspace", "db0"), "keys=6,expires=4,avg_ttl=0");
}

#[test]
fn a_password_is_needed_where_there_is_one() {
    let cluster = Cluster::start(Spec::of(1).with(&["--requirepass=sesame"]).with_resp());
    cluster.primary(0);
    let mut connection = client(&cluster, 0);
    assert_eq!(text(&connection.ask(&["get", "key"])), "NOAUTH Authentication required.");
    assert!(text(&connection.ask(&["hello", "3"])).starts_with("NOAUTH HELLO must be called"));
    for password in ["Sesame", "sesam", "sesamee", ""] {
        assert!(text(&connection.ask(&["auth", password])).starts_with("WRONGPASS "), "{password}");
    }
    assert!(text(&connection.ask(&["auth", "somebody", "sesame"])).starts_with("WRONGPASS "));
    assert_eq!(text(&connection.ask(&["ping"])), "NOAUTH Authentication required.");
    assert_eq!(text(&connection.ask(&["auth", "sesame"])), "OK");
    assert_eq!(text(&connection.ask(&["set", "key", "value"])), "OK");
    let mut other = client(&cluster, 0);
    assert!(!other.ask(&["hello", "3", "auth", "default", "sesame"]).expect("an answer").is_error());
    assert_eq!(text(&other.ask(&["get", "key"])), "value");
    // Whoever is in stays in; whoever comes needs the new one.
    assert_eq!(text(&connection.ask(&["config", "set", "requirepass", "open"])), "OK");
    assert_eq!(text(&other.ask(&["get", "key"])), "value");
    let mut third = client(&cluster, 0);
    assert!(text(&third.ask(&["auth", "sesame"])).starts_with("WRONGPASS "));
    assert_eq!(text(&third.ask(&["auth", "default", "open"])), "OK");
}

#[test]
fn subscribers_and_sentinel_clients_are_told_of_a_new_primary() {
    let (mut cluster, old) = start();
    let backup = (old + 1) % 3;
    let mut listener = client(&cluster, backup);
    assert!(listener.ask(&["subscribe", "+switch-master"]).is_ok());
    let mut asker = client(&cluster, backup);
    let address = |id: u8| (cluster.servers[id as usize].host.clone(), cluster.servers[id as usize].resp.to_string());
    let (old_address, addresses) = (address(old), [0, 1, 2].map(address));
    let mut told = move || {
        let answer = asker.ask(&["sentinel", "get-master-addr-by-name", "mymaster"]).expect("an answer");
        let parts = answer.items().expect("an address").to_vec();
        let part = |index: usize| String::from_utf8_lossy(parts[index].text().unwrap_or_default()).into_owned();
        (part(0), part(1))
    };
    assert_eq!(told(), old_address);
    cluster.kill(old);
    let new = cluster.primary(0);
    let message = listener.receive().expect("a message");
    let event =
        String::from_utf8_lossy(message.items().expect("three parts")[2].text().unwrap_or_default()).into_owned();
    let (host, port) = &addresses[new as usize];
    assert_eq!(event, format!("mymaster {} {} {host} {port}", old_address.0, old_address.1));
    assert_eq!(&told(), &addresses[new as usize]);
}

/// A plain client talks to one server: that has to be the primary of everything.
#[test]
fn every_shard_has_its_primary_where_the_first_one_has_it() {
    let (cluster, id) = start();
    let other = (id + 1) % 3;
    let server = &cluster.servers[id as usize];
    let mut stream = TcpStream::connect((server.host.as_str(), server.admin)).expect("it listens");
    write!(stream, "POST /move-primary?shard=1&to={other} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let moved: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let view = moved["view"].as_u64().expect("the view in which the other one is primary");
    wait_for("the way back", || {
        let status = cluster.status(id, 1)?;
        (status["role"] == "primary" && status["view"].as_u64()? > view).then_some(())
    });
    let mut connection = client(&cluster, id);
    for key in ["one", "two", "three", "four"] {
        assert_eq!(text(&connection.ask(&["set", key, "value"])), "OK");
    }
}

/// A client that has gone waits for nothing any more, and its connection is given back.
#[test]
fn a_wait_that_cannot_end_does_not_outlive_its_client() {
    let (cluster, id) = start();
    let mut watcher = client(&cluster, id);
    let mut waiters: Vec<Connection> = (0..5).map(|_| client(&cluster, id)).collect();
    for waiter in &mut waiters {
        assert_eq!(text(&waiter.ask(&["set", "key", "value"])), "OK");
        waiter.send(b"*3\r\n$4\r\nWAIT\r\n$1\r\n5\r\n$1\r\n0\r\n");
    }
    assert_eq!(field(&mut watcher, "clients", "connected_clients"), "6");
    drop(waiters);
    wait_for("their end", || (field(&mut watcher, "clients", "connected_clients") == "1").then_some(()));
}

#[test]
fn what_is_published_in_a_transaction_is_heard_only_if_it_is_carried_out() {
    let (cluster, id) = start();
    let mut listener = client(&cluster, id);
    assert!(listener.ask(&["subscribe", "news"]).is_ok());
    let (mut one, mut other) = (client(&cluster, id), client(&cluster, id));
    for (message, is_disturbed) in [("lost", true), ("heard", false)] {
        assert_eq!(text(&one.ask(&["watch", "key"])), "OK");
        if is_disturbed {
            assert_eq!(text(&other.ask(&["set", "key", "other"])), "OK");
        }
        assert_eq!(text(&one.ask(&["multi"])), "OK");
        for command in [&["publish", "news", message][..], &["set", "key", "value"], &["client", "reply", "skip"]] {
            assert_eq!(text(&one.ask(command)), "QUEUED");
        }
        let answer = one.ask(&["exec"]).expect("an answer");
        assert_eq!(answer.items().map(<[_]>::len), (!is_disturbed).then_some(3), "{answer:?}");
        // What CLIENT REPLY SKIP said in a transaction is about the command behind it.
        one.send(b"PING skipped\r\n");
        assert_eq!(text(&one.ask(&["ping", "answered"])), "answered");
    }
    let heard = listener.receive().expect("a message");
    assert_eq!(heard.items().expect("three parts")[2].text(), Some(&b"heard"[..]));
}

#[test]
fn idle_clients_are_closed_after_the_timeout_and_listeners_are_not() {
    let (cluster, id) = start();
    let (mut idle, mut listener, mut busy) = (client(&cluster, id), client(&cluster, id), client(&cluster, id));
    assert_eq!(text(&idle.ask(&["ping"])), "PONG");
    assert!(listener.ask(&["subscribe", "news"]).is_ok());
    assert_eq!(text(&busy.ask(&["config", "set", "timeout", "3"])), "OK");
    wait_for("the idle one's end", || (field(&mut busy, "clients", "connected_clients") == "2").then_some(()));
    assert!(idle.receive().is_err(), "its connection is closed");
    assert_eq!(busy.ask(&["publish", "news", "still here"]).expect("an answer").integer(), Some(1));
    let heard = listener.receive().expect("a message");
    assert_eq!(heard.items().expect("three parts")[2].text(), Some(&b"still here"[..]));
}

#[test]
fn a_client_cannot_watch_or_queue_without_end() {
    let (cluster, id) = start();
    let mut connection = client(&cluster, id);
    let keys: Vec<String> = (0..4096).map(|key| format!("{{t}}{key}")).collect();
    let watch: Vec<&str> = ["watch"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    assert_eq!(text(&connection.ask(&watch)), "OK");
    assert_eq!(text(&connection.ask(&["watch", "{t}more"])), "ERR too many watched keys of one client");
    assert_eq!(text(&connection.ask(&["unwatch"])), "OK");
    assert_eq!(text(&connection.ask(&["multi"])), "OK");
    let many: Vec<&str> = ["mget"].into_iter().chain(vec![""; 300_000]).collect();
    assert_eq!(text(&connection.ask(&many)), "QUEUED");
    assert!(connection.ask(&many).expect("an answer").is_error());
    assert!(text(&connection.ask(&["exec"])).starts_with("EXECABORT "));
}
