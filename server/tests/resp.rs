//! The Redis front door over real sockets: order, transactions, other shards, backups, a dying primary. Clients that
//! ask for too much are in `resp_bounds`. What each command answers is compared with Redis itself in `tests/redis`.

mod harness;
#[path = "redis/talk.rs"]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use std::{
    collections::HashMap,
    net::ToSocketAddrs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use harness::{Spec, wait_for};
use talk::{ask, client, open, pipeline, sharded, shown, start, words};
use wire::{Broken, Connection, encode};

/// Reads and writes of one connection, sent without waiting, see each other in the order in which they were sent,
/// whichever shard they are for.
#[test]
fn pipelined_commands_take_effect_and_are_answered_in_order() {
    let (cluster, id) = start(sharded(3));
    let mut connection = client(&cluster, id);
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    for round in 0..20 {
        let mut lines = Vec::new();
        let mut expected = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            lines.extend([
                format!("set {key} {round}"),
                format!("get {key}"),
                format!("incr {key}"),
                format!("get {key}"),
            ]);
            expected.extend(["+OK".to_string(), format!("$\"{round}\""), format!(":{}", round + 1)]);
            expected.push(format!("$\"{}\"", round + 1));
            if index % 3 == 0 {
                lines.push(format!("echo {round}-{index}"));
                expected.push(format!("$\"{round}-{index}\""));
            }
            if index % 7 == 0 {
                lines.push(format!("mget {} {} none", keys[0], keys[index]));
                expected.push(format!("*[$\"{0}\", $\"{0}\", $-1]", round + 1));
            }
        }
        assert_eq!(pipeline(&mut connection, &lines), expected, "round {round}");
        // Reads alone, behind nothing, then a write at once behind them.
        let mut lines: Vec<String> = keys.iter().map(|key| format!("get {key}")).collect();
        lines.push(format!("del {}", keys.join(" ")));
        let mut expected = vec![format!("$\"{}\"", round + 1); keys.len()];
        expected.push(format!(":{}", keys.len()));
        assert_eq!(pipeline(&mut connection, &lines), expected, "round {round}");
    }
}

#[test]
fn a_transaction_is_carried_out_as_a_whole_or_not_at_all() {
    let (cluster, id) = start(sharded(3));
    let (mut one, mut other) = (client(&cluster, id), client(&cluster, id));
    let begin = ["multi", "set {t}a 5", "incr {t}a", "ping", "get {t}b", "exec"];
    let replies = pipeline(&mut one, &begin);
    assert_eq!(replies[..5], ["+OK", "+QUEUED", "+QUEUED", "+QUEUED", "+QUEUED"]);
    assert_eq!(replies[5], "*[+OK, :6, +PONG, $-1]");
    // Watched, and changed by somebody else.
    assert_eq!(ask(&mut one, "watch {t}a"), "+OK");
    assert_eq!(ask(&mut other, "incr {t}a"), ":7");
    assert_eq!(pipeline(&mut one, &["multi", "set {t}a 100", "exec"]), ["+OK", "+QUEUED", "*-1"]);
    assert_eq!(ask(&mut one, "get {t}a"), "$\"7\"");
    // Watched and left alone; all in one go, so that the watch is not answered when the transaction comes.
    let lines = ["watch {t}a", "get {t}a", "multi", "incr {t}a", "exec", "exec", "discard"];
    let replies = pipeline(&mut one, &lines);
    assert_eq!(replies[..5], ["+OK", "$\"7\"", "+OK", "+QUEUED", "*[:8]"]);
    assert_eq!(replies[5..], ["-ERR EXEC without MULTI", "-ERR DISCARD without MULTI"]);
    // A watch of a key that only time changes.
    assert_eq!(pipeline(&mut one, &["watch {t}a"]), ["+OK"]);
    assert_eq!(ask(&mut other, "expire {t}a 1000"), ":1");
    assert_eq!(pipeline(&mut one, &["multi", "exec"]), ["+OK", "*-1"]);
    // Refused when it is queued, and so refused as a whole.
    let replies = pipeline(&mut one, &["multi", "set {t}a", "set {t}a 9", "exec", "get {t}a"]);
    assert_eq!(replies[1], "-ERR wrong number of arguments for 'set' command");
    assert_eq!(replies[3..], ["-EXECABORT Transaction discarded because of previous errors.", "$\"8\""]);
    // Of two shards: "foo" and "bar" are in different halves of the slots.
    let replies = pipeline(&mut one, &["multi", "set foo 1", "set bar 1", "exec", "mget foo bar"]);
    assert_eq!(replies[3..], ["-CROSSSLOT Keys in request don't hash to the same slot", "*[$-1, $-1]"]);
    assert_eq!(ask(&mut one, "mset foo 1 bar 2"), "-CROSSSLOT Keys in request don't hash to the same slot");
    // What several shards can do one by one is joined.
    assert_eq!(pipeline(&mut one, &["set foo 1", "set bar 2", "exists foo bar foo none", "dbsize"])[2..], [":3", ":3"]);
    assert_eq!(pipeline(&mut one, &["unlink foo bar none", "flushall", "dbsize"]), [":2", "+OK", ":0"]);
}

#[test]
fn a_backup_answers_readonly_and_reads_only_what_is_asked_to_be_stale() {
    let (cluster, id) = start(Spec::of(3).patient());
    let backup = (id + 1) % 3;
    assert_eq!(ask(&mut client(&cluster, id), "set key value"), "+OK");
    let mut connection = client(&cluster, backup);
    let refusal = "-READONLY You can't write against a read only replica.";
    assert_eq!(pipeline(&mut connection, &["get key", "set key other", "ping"]), [refusal, refusal, "+PONG"]);
    assert_eq!(ask(&mut connection, "readonly"), "+OK");
    wait_for("the backup to have the key", || (ask(&mut connection, "get key") == "$\"value\"").then_some(()));
    let replies =
        pipeline(&mut connection, &["get key", "set key other", "mget key none", "exists key", "readwrite", "get key"]);
    assert_eq!(replies, ["$\"value\"", refusal, "*[$\"value\", $-1]", ":1", "+OK", refusal]);
}

#[test]
fn a_cluster_node_says_where_a_key_is_before_anything_runs() {
    let (cluster, id) = start(sharded(3).with(&["--cluster-mode"]));
    let server = &cluster.servers[id as usize];
    let other = cluster.primary(1);
    let mut connection = client(&cluster, id);
    // "foo" is in slot 12182 and so in the second half, "bar" in slot 5061.
    let moved = format!("-MOVED 12182 {}:{}", server.host, cluster.servers[other as usize].resp + 1);
    assert_eq!(pipeline(&mut connection, &["set foo 1", "get foo", "set bar 1"]), [&moved, &moved, "+OK"]);
    assert_eq!(ask(&mut connection, "mget foo bar"), "-CROSSSLOT Keys in request don't hash to the same slot");
    let replies = pipeline(&mut connection, &["multi", "set foo 1", "set bar 2", "exec", "get bar"]);
    assert_eq!(replies[1], moved);
    assert_eq!(replies[3..], ["-EXECABORT Transaction discarded because of previous errors.", "$\"1\""]);
    let mut second = open(&cluster, other, 1).expect("it listens");
    assert_eq!(ask(&mut second, "set foo 1"), "+OK");
    // Without keys, a command is about the node's own.
    assert_eq!(
        pipeline(&mut second, &["dbsize", "keys *", "scan 0", "randomkey"]),
        [":1", "*[$\"foo\"]", "*[$\"0\", *[$\"foo\"]]", "$\"foo\""]
    );
    assert_eq!(pipeline(&mut second, &["set foo 1", "flushall", "dbsize", "set foo 1"])[1..3], ["+OK", ":0"]);
    assert_eq!(pipeline(&mut connection, &["dbsize", "multi", "dbsize", "get bar", "exec"])[4], "*[:1, $\"1\"]");
    let backup = (id + 1) % 3;
    let mut connection = client(&cluster, backup);
    let moved = format!("-MOVED 5061 {}:{}", server.host, server.resp);
    assert_eq!(
        pipeline(&mut connection, &["get bar", "set bar 1", "readonly", "set bar 1"]),
        [&moved, &moved, "+OK", &moved]
    );
    wait_for("the backup to have the key", || (ask(&mut connection, "get bar") == "$\"1\"").then_some(()));
    // What is about the node and not about a key needs no READONLY, as in Redis: the backup's own is told.
    let mut connection = client(&cluster, backup);
    assert_eq!(
        pipeline(
            &mut connection,
            &[
                "dbsize",
                "keys *",
                "scan 0",
                "randomkey",
                "cluster countkeysinslot 5061",
                "cluster getkeysinslot 5061 9"
            ]
        ),
        [":1", "*[$\"bar\"]", "*[$\"0\", *[$\"bar\"]]", "$\"bar\"", ":1", "*[$\"bar\"]"]
    );
    assert_eq!(pipeline(&mut connection, &["multi", "dbsize", "exec", "get bar"])[2..], ["*[:1]", &moved]);
    assert_eq!(ask(&mut connection, "flushall"), "-READONLY You can't write against a read only replica.");
    assert_eq!(
        pipeline(&mut connection, &["copy bar {bar}2 db 15", "copy bar {bar}2 db 16"]),
        [moved.as_str(); 2],
        "where the key is comes first"
    );
    let mut connection = client(&cluster, id);
    assert_eq!(
        pipeline(&mut connection, &["copy bar {bar}2 db 15", "copy bar {bar}2 db 16", "copy bar {bar}2 db 0"]),
        ["-ERR Copying to another database is not allowed in cluster mode", "-ERR DB index is out of range", ":1"]
    );
}

/// Tools follow the primary that they are told of, and would come back for ever.
#[test]
fn a_server_that_knows_of_no_primary_does_not_name_itself() {
    let (mut cluster, id) = start(Spec::of(3).with(&["--cluster-mode"]));
    (0..3).for_each(|server| cluster.kill(server));
    // It was primary of the last view that it knows, and cannot begin another one alone.
    cluster.start_server(id);
    wait_for("the server to be without a primary", || {
        cluster.status(id, 0).filter(|status| status["role"] == "recovering")
    });
    let mut connection = client(&cluster, id);
    let own = cluster.servers[id as usize].resp;
    let role = ask(&mut connection, "role");
    assert!(role.contains("\"slave\"") && !role.contains(&own.to_string()), "{role}");
    let info = ask(&mut connection, "info replication");
    assert!(info.contains("role:slave") && !info.contains(&format!("master_port:{own}")), "{info}");
    assert_eq!(pipeline(&mut connection, &["dbsize", "get a"]), ["-CLUSTERDOWN The cluster is down"; 2]);
}

/// Everything that was answered before, during and after the primaries' deaths is there afterwards, and no INCR counted
/// twice that was answered once.
#[test]
fn no_answered_write_is_lost_when_primaries_are_killed() {
    let (mut cluster, _) = start(Spec::of(3));
    let addresses: Vec<_> = cluster.servers.iter().map(|server| (server.host.clone(), server.resp)).collect();
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let written: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (addresses, is_over) = (addresses.clone(), is_over.clone());
            let (answered, written) = (answered.clone(), written.clone());
            std::thread::spawn(move || write(writer, &addresses, &is_over, &answered, &written))
        })
        .collect();
    let wait_for_more = |count: u64| {
        let before = answered.load(Relaxed);
        wait_for("more answers", || (answered.load(Relaxed) >= before + count).then_some(()));
    };
    for _ in 0..3 {
        wait_for_more(200);
        let victim = cluster.primary(0);
        cluster.kill(victim);
        wait_for_more(200);
        cluster.start_server(victim);
        cluster.wait_until_healthy();
    }
    is_over.store(true, Relaxed);
    let attempts: u64 = writers.into_iter().map(|writer| writer.join().expect("it does not panic")).sum();
    let mut connection = client(&cluster, cluster.primary(0));
    // Another one may become primary at any time, and says so.
    let mut get = |key: &str| {
        wait_for("an answer of the primary", || match shown(&connection.ask(&["GET", key])) {
            reply if reply.starts_with('$') => Some(reply),
            reply => {
                assert!(reply == "Closed" || reply.starts_with("-READONLY "), "{reply}");
                connection = client(&cluster, cluster.primary(0));
                None
            }
        })
    };
    for (key, value) in written.lock().unwrap().iter() {
        assert_eq!(get(key), format!("$\"{value}\""), "{key}");
    }
    let count: u64 = get("count").trim_start_matches('$').trim_matches('"').parse().unwrap();
    let answered = answered.load(Relaxed);
    assert!((answered..=attempts).contains(&count), "{count} counted, {answered} answered, {attempts} tried");
    cluster.wait_for_equal_state();
}

/// Writes keys of its own and counts, until it is over. How often it has tried to count.
fn write(
    writer: usize,
    addresses: &[(String, u16)],
    is_over: &AtomicBool,
    answered: &AtomicU64,
    written: &Mutex<HashMap<String, u64>>,
) -> u64 {
    let (mut number, mut attempts, mut next) = (0, 0, writer);
    while !is_over.load(Relaxed) {
        next += 1;
        let (host, port) = &addresses[next % addresses.len()];
        let address = (host.as_str(), *port).to_socket_addrs().unwrap().next().unwrap();
        // While nobody takes writes, the servers need the processor more.
        std::thread::sleep(Duration::from_millis(2));
        let Ok(mut connection) = Connection::open(address) else { continue };
        while !is_over.load(Relaxed) {
            number += 1;
            let key = format!("{writer}-{number}");
            attempts += 1;
            let replies = pipeline(&mut connection, &[format!("set {key} {number}"), "incr count".to_string()]);
            if replies[0] == "+OK" {
                written.lock().unwrap().insert(key, number);
            }
            if !replies[1].starts_with(':') {
                break;
            }
            answered.fetch_add(1, Relaxed);
        }
    }
    attempts
}

/// A server that is no longer primary closes its clients' connections, so that they look for the new one.
#[test]
fn handing_over_closes_the_clients_connections() {
    let (cluster, id) = start(Spec::of(3).patient());
    let mut connection = client(&cluster, id);
    assert_eq!(ask(&mut connection, "set key value"), "+OK");
    assert_eq!(ask(&mut client(&cluster, id), "failover"), "+OK");
    assert_eq!(shown(&connection.receive()), "Closed");
    let next = wait_for("another primary", || Some(cluster.primary(0)).filter(|&next| next != id));
    assert_eq!(ask(&mut client(&cluster, next), "get key"), "$\"value\"");
}

/// Commands that were carried out were not answered, because the connection was closed while their answers were on
/// their way from another shard or to the client.
#[test]
fn handing_over_answers_everything_that_it_carries_out() {
    let (cluster, id) = start(sharded(3));
    let (mut connections, keys) = ([client(&cluster, id), open(&cluster, id, 1).expect("it listens")], ["foo", "bar"]);
    let begun = AtomicU64::new(0);
    let answered: [u64; 2] = std::thread::scope(|scope| {
        let readers = connections.each_mut().map(|connection| {
            scope.spawn(|| {
                let mut answered = [0; 2];
                let lines: Vec<Vec<Vec<u8>>> = keys.iter().map(|key| words(&format!("incr {key}"))).collect();
                let mut bytes = Vec::new();
                (0..20).for_each(|_| lines.iter().for_each(|line| encode(line, &mut bytes)));
                loop {
                    connection.send(&bytes);
                    for number in 0..40 {
                        match connection.receive() {
                            Ok(reply) => answered[number % 2] += u64::from(reply.integer().is_some()),
                            Err(_) => return answered,
                        }
                    }
                    begun.fetch_add(1, Relaxed);
                }
            })
        });
        wait_for("both to count", || (begun.load(Relaxed) > 20).then_some(()));
        assert_eq!(ask(&mut client(&cluster, id), "failover"), "+OK");
        let counts = readers.map(|reader| reader.join().expect("it does not panic"));
        [counts[0][0] + counts[1][0], counts[0][1] + counts[1][1]]
    });
    for (key, answered) in keys.iter().zip(answered) {
        let counted = wait_for("the new primary", || {
            let reply =
                (0..3).filter_map(|id| open(&cluster, id, 0)).map(|mut other| ask(&mut other, &format!("get {key}")));
            reply.into_iter().find(|reply| reply.starts_with('$'))
        });
        assert_eq!(counted, format!("$\"{answered}\""), "{key}");
    }
}

#[test]
fn what_is_published_reaches_the_listeners_of_every_shard() {
    let (cluster, id) = start(sharded(3));
    let mut listeners = [open(&cluster, id, 0).unwrap(), open(&cluster, id, 1).unwrap()];
    for listener in &mut listeners {
        assert_eq!(ask(listener, "subscribe news"), "*[$\"subscribe\", $\"news\", :1]");
        assert_eq!(ask(listener, "psubscribe n*s"), "*[$\"psubscribe\", $\"n*s\", :2]");
        assert_eq!(
            ask(listener, "get key"),
            "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        );
    }
    let mut publisher = client(&cluster, id);
    assert_eq!(
        pipeline(&mut publisher, &["publish news one", "publish other two", "publish news three"]),
        [":4", ":0", ":4"]
    );
    for listener in &mut listeners {
        for message in ["one", "three"] {
            assert_eq!(shown(&listener.receive()), format!("*[$\"message\", $\"news\", $\"{message}\"]"));
            assert_eq!(shown(&listener.receive()), format!("*[$\"pmessage\", $\"n*s\", $\"news\", $\"{message}\"]"));
        }
    }
}

#[test]
fn a_client_is_killed_and_clients_are_paused() {
    let (cluster, id) = start(sharded(1));
    let (mut one, mut other) = (open(&cluster, id, 0).unwrap(), open(&cluster, id, 1).unwrap());
    let number = other.ask(&["CLIENT", "ID"]).unwrap().integer().expect("a number");
    assert_eq!(ask(&mut one, &format!("client kill id {number}")), ":1");
    assert_eq!(shown(&other.receive()), "Closed");
    let mut other = client(&cluster, id);
    assert_eq!(ask(&mut one, "client pause 9223372036854775807"), "-ERR timeout is out of range");
    assert_eq!(ask(&mut one, "client pause 100000 write"), "+OK");
    assert_eq!(ask(&mut other, "get key"), "$-1");
    let mut bytes = Vec::new();
    encode(&words("set key value"), &mut bytes);
    other.send(&bytes);
    assert_eq!(ask(&mut one, "get key"), "$-1");
    assert_eq!(ask(&mut one, "client unpause"), "+OK");
    assert_eq!(shown(&other.receive()), "+OK");
    // Silence, for as long as it is asked for.
    let lines = ["client reply off", "set key a", "get key", "client reply on"];
    let mut bytes = Vec::new();
    lines.iter().for_each(|line| encode(&words(line), &mut bytes));
    ["client reply skip", "set key b", "get key"].iter().for_each(|line| encode(&words(line), &mut bytes));
    one.send(&bytes);
    assert_eq!([shown(&one.receive()), shown(&one.receive())], ["+OK", "$\"b\""]);
}

/// A browser that a web page has send a request here must not get as far as the lines of its body.
#[test]
fn an_http_request_ends_its_connection_before_its_body_is_carried_out() {
    let (cluster, id) = start(sharded(1));
    let mut good = client(&cluster, id);
    assert_eq!(ask(&mut good, "set key value"), "+OK");
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n",
        "multi\r\nhost:\r\nFLUSHALL\r\nexec\r\n",
        "subscribe a\r\n*1\r\n$4\r\npost\r\nunsubscribe\r\nFLUSHALL\r\n",
    ] {
        let mut browser = client(&cluster, id);
        browser.send(request.as_bytes());
        let answers: Vec<String> = std::iter::from_fn(|| Some(shown(&browser.receive()))).take(4).collect();
        assert!(answers.contains(&"Closed".to_owned()), "{request}: {answers:?}");
        assert_eq!(ask(&mut good, "get key"), "$\"value\"", "{request}");
    }
    assert_eq!(cluster.log(id).matches("POST or Host:").count(), 1, "{}", cluster.log(id));
}

#[test]
fn what_is_no_command_is_refused_and_its_connection_closed() {
    let (cluster, id) = start(Spec::of(1).with(&["--requirepass", "secret"]));
    for (bytes, error) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"),
        ("*11\r\n", "unauthenticated multibulk length"),
        ("*1\r\n$16385\r\n", "unauthenticated bulk length"),
        ("set \"a\r\n", "unbalanced quotes in request"),
    ] {
        let mut connection = client(&cluster, id);
        connection.send(format!("*1\r\n$4\r\nping\r\n{bytes}").as_bytes());
        assert_eq!(shown(&connection.receive()), "-NOAUTH Authentication required.");
        assert_eq!(shown(&connection.receive()), format!("-ERR Protocol error: {error}"));
        assert_eq!(connection.receive(), Err(Broken::Closed));
    }
    let mut connection = client(&cluster, id);
    assert_eq!(ask(&mut connection, "auth wrong"), "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(pipeline(&mut connection, &["auth secret", "set key value", "get key"]), ["+OK", "+OK", "$\"value\""]);
}
