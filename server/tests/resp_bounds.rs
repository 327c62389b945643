//! The Redis front door and clients that ask for too much, take too little, or stop halfway: they do not hurt the
//! others, and what is within the bounds is answered.

mod harness;
#[path = "redis/talk.rs"]
#[allow(dead_code, reason = "made for another test")]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use std::{
    io::Write,
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use harness::{Cluster, Spec, wait_for};
use talk::{ask, client, open, pipeline, sharded, shown, start, words};
use wire::{Broken, Connection, encode};

/// More than may come in, one that sends half a command, and one that asks for far more than it takes: the others do
/// not feel it, and the server's memory stays within bounds.
#[test]
fn clients_that_mean_no_good_do_not_hurt_the_others() {
    let (cluster, id) = start(Spec::of(1).with(&["--resp-clients-max", "20"]));
    let mut good = client(&cluster, id);
    let value = "v".repeat(1 << 20);
    assert_eq!(ask(&mut good, &format!("set big {value}")), "+OK");
    let mut greedy = client(&cluster, id);
    let mut bytes = Vec::new();
    (0..20_000).for_each(|_| encode(&words("get big"), &mut bytes));
    // Sent from a thread of its own: the server stops to read from one that does not take its answers.
    let sender = std::thread::spawn(move || {
        greedy.send(&bytes);
        greedy
    });
    let mut halves: Vec<Connection> = (0..17).map(|_| client(&cluster, id)).collect();
    halves.iter_mut().for_each(|half| half.send(b"*2\r\n$3\r\nGET\r\n$1000\r\nabc"));
    wait_for("one too many", || {
        let mut last = client(&cluster, id);
        match shown(&last.receive_within(Duration::from_millis(200))).as_str() {
            "-ERR max number of clients reached" => Some(()),
            _ => {
                halves.push(last);
                None
            }
        }
    });
    for round in 0..200 {
        assert_eq!(
            pipeline(&mut good, &[format!("set key {round}"), "get key".to_string()])[1],
            format!("$\"{round}\"")
        );
    }
    let resident = resident_bytes(&cluster, id);
    assert!(resident < 600 << 20, "{} MiB in use", resident >> 20);
    drop(halves);
    drop(sender);
}

/// More may wait behind a read than the server keeps before it puts reads off; the read itself is still answered.
#[test]
fn a_read_is_answered_however_much_waits_behind_it() {
    let (cluster, id) = start(sharded(1));
    let mut connection = client(&cluster, id);
    let value = "v".repeat(1 << 20);
    for key in ["foo", "bar"] {
        assert_eq!(ask(&mut connection, &format!("set {key} {value}")), "+OK");
    }
    let echo = format!("echo {}", "e".repeat(4 << 20));
    for (reply, size) in pipeline(&mut connection, &["get foo", &echo, "get bar", "get foo"]).iter().zip([1, 4, 1, 1]) {
        assert!(reply.contains(&format!("({} bytes)", size << 20)), "{reply}");
    }
}

/// Each of them stays within its own bound; together they would take more than the server has. Those that hold most are
/// closed, and the others do not feel it.
#[test]
fn slow_readers_are_closed_when_all_together_hold_too_much() {
    let (cluster, id) = start(Spec::of(1).with(&["--resp-clients-memory", "32MiB"]));
    let mut good = client(&cluster, id);
    assert_eq!(ask(&mut good, "config get maxmemory-clients"), format!("*[$\"maxmemory-clients\", $\"{}\"]", 32 << 20));
    let value = "v".repeat(1 << 20);
    assert_eq!(ask(&mut good, &format!("set big {value}")), "+OK");
    let mut spared = client(&cluster, id);
    assert_eq!(ask(&mut spared, "client no-evict on"), "+OK");
    let ask_for_much = |connection: &mut Connection| {
        let mut bytes = Vec::new();
        (0..30).for_each(|_| encode(&words("get big"), &mut bytes));
        connection.send(&bytes);
    };
    ask_for_much(&mut spared);
    let mut greedy: Vec<Connection> = (0..40).map(|_| client(&cluster, id)).collect();
    greedy.iter_mut().for_each(ask_for_much);
    let field = |good: &mut Connection, section: &str, name: &str| {
        let info = good.ask(&["info", section]).expect("an answer");
        let info = String::from_utf8_lossy(info.text().expect("text")).into_owned();
        let value = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {info}"))
    };
    // Each has some four or five MiB waiting, so eight or so fit.
    wait_for("most of them to be closed", || (field(&mut good, "stats", "evicted_clients") >= 30).then_some(()));
    wait_for("their memory to be free", || {
        let held = field(&mut good, "memory", "mem_clients_normal");
        (held > 1 << 20 && held <= 32 << 20).then_some(())
    });
    let metric = |name: &str| cluster.metric(id, name, &[]).expect("it is told");
    wait_for("the metrics to say so, too", || {
        let (evicted, held) = (metric("lockstep_evicted_clients_total"), metric("lockstep_client_memory_bytes"));
        (evicted >= 30.0 && held > 1e6 && held <= f64::from(32 << 20)).then_some(())
    });
    for _ in 0..30 {
        let answer = spared.receive().expect("the one that must not be closed gets all its answers");
        assert_eq!(answer.text().map(<[u8]>::len), Some(1 << 20));
    }
    let round = |number: usize| [format!("set key {number}"), "get key".to_owned()];
    (0..50).for_each(|number| assert_eq!(pipeline(&mut good, &round(number))[1], format!("$\"{number}\"")));
    // Without a bound, nobody is closed.
    assert_eq!(ask(&mut good, "config set maxmemory-clients 1mb").split(' ').next(), Some("-ERR"));
    assert_eq!(pipeline(&mut good, &["config set maxmemory-clients 0", "config resetstat"]), ["+OK", "+OK"]);
    let mut more: Vec<Connection> = (0..10).map(|_| client(&cluster, id)).collect();
    more.iter_mut().for_each(ask_for_much);
    wait_for("all to hold what they asked for", || {
        (field(&mut good, "memory", "mem_clients_normal") > 32 << 20).then_some(())
    });
    assert_eq!(field(&mut good, "stats", "evicted_clients"), 0);
}

/// What transactions, watches and subscriptions keep counts as well.
#[test]
fn queued_transactions_count_as_memory_of_their_clients() {
    let (cluster, id) = start(sharded(1).with(&["--resp-clients-memory", "32MiB"]));
    let value = "v".repeat(900 << 10);
    let mut clients: Vec<Connection> =
        (0..16).map(|number| open(&cluster, id, number % 2).expect("it listens")).collect();
    for connection in &mut clients {
        let lines =
            ["multi".to_owned(), format!("set key {value}"), format!("set key {value}"), format!("set key {value}")];
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| encode(&words(line), &mut bytes));
        connection.send(&bytes);
    }
    let closed = |connection: &mut Connection| loop {
        match connection.receive_within(Duration::from_millis(300)) {
            Ok(_) => {}
            Err(Broken::Closed) => break true,
            Err(_) => break false,
        }
    };
    let mut left = clients;
    wait_for("some to be closed", || {
        left.retain_mut(|connection| !closed(connection));
        (left.len() < 16).then_some(())
    });
    assert!(left.len() >= 8, "{} of them fit", left.len());
    assert_eq!(pipeline(&mut left[0], &["discard", "set key value", "get key"])[..2], ["+OK", "+OK"]);
}

fn resident_bytes(cluster: &Cluster, id: u8) -> u64 {
    cluster.metric(id, "process_resident_memory_bytes", &[]).expect("the server tells its memory") as u64
}

/// A hundred clients that asked at the same moment for a megabyte of another shard were told that it was too much.
#[test]
fn large_values_of_another_shard_are_answered_however_many_ask_at_once() {
    let (cluster, id) = start(sharded(1));
    let value = "v".repeat(1 << 20);
    let mut clients: Vec<Connection> = (0..120).map(|_| client(&cluster, id)).collect();
    for key in ["foo", "bar"] {
        assert_eq!(ask(&mut clients[0], &format!("set {key} {value}")), "+OK");
    }
    for connection in &mut clients {
        let mut bytes = Vec::new();
        ["get foo", "get bar", "mget foo bar"].iter().for_each(|line| encode(&words(line), &mut bytes));
        connection.send(&bytes);
    }
    for connection in &mut clients {
        for count in [1, 1, 2] {
            assert_eq!(shown(&connection.receive()).matches("(1048576 bytes)").count(), count);
        }
    }
}

/// Writes for another shard wait in a mailbox with a bound, whoever has more for it waits.
#[test]
fn large_writes_for_another_shard_are_all_answered() {
    let (cluster, id) = start(sharded(1));
    let mut clients: Vec<Connection> = (0..4).map(|_| client(&cluster, id)).collect();
    let value = "v".repeat(1 << 20);
    let mut bytes = Vec::new();
    (0..20).for_each(|number| {
        let key = if number % 2 == 0 { "foo" } else { "bar" };
        encode(&words(&format!("set {{{key}}}{number} {value}")), &mut bytes);
    });
    std::thread::scope(|scope| {
        for connection in &mut clients {
            scope.spawn(|| {
                connection.send(&bytes);
                (0..20).for_each(|_| assert_eq!(shown(&connection.receive()), "+OK"));
            });
        }
    });
}

/// What is published waited behind the answer of a WAIT without counting.
#[test]
fn a_subscriber_that_waits_is_closed_when_too_much_is_published() {
    let (cluster, id) = start(Spec::of(1));
    let (mut listener, mut publisher) = (client(&cluster, id), client(&cluster, id));
    let set = publisher.ask(&["config", "set", "client-output-buffer-limit", "pubsub 1mb 0 0"]);
    assert_eq!(shown(&set), "+OK");
    assert!(!listener.ask(&["hello", "3"]).expect("an answer").is_error());
    assert!(listener.ask(&["subscribe", "news"]).is_ok());
    let mut bytes = Vec::new();
    encode(&words("wait 5 0"), &mut bytes);
    listener.send(&bytes);
    let message = format!("publish news {}", "m".repeat(64 << 10));
    wait_for("the listener's end", || (ask(&mut publisher, &message) == ":0").then_some(()));
    assert_eq!(shown(&listener.receive()), "Closed");
}

/// An EXEC that had to wait was built again, and its messages published again; refused, it left its commands to the
/// next one.
#[test]
fn an_exec_that_waits_is_carried_out_once() {
    let (cluster, id) = start(Spec::of(1));
    let (mut listener, mut connection) = (client(&cluster, id), client(&cluster, id));
    assert!(listener.ask(&["subscribe", "news"]).is_ok());
    for round in 0..10 {
        // As many programs as may be unanswered, so that EXEC waits for some of them.
        let mut lines = vec![format!("append {round} x"); 128];
        let transaction =
            ["multi".to_owned(), format!("publish news {round}"), format!("append {round} y"), "exec".into()];
        lines.extend(transaction);
        lines.extend(["multi".to_owned(), format!("strlen {round}"), "exec".into()]);
        let replies = pipeline(&mut connection, &lines);
        assert_eq!(replies[131..], ["*[:1, :129]", "+OK", "+QUEUED", "*[:129]"]);
        assert_eq!(shown(&listener.receive()), format!("*[$\"message\", $\"news\", $\"{round}\"]"));
    }
    assert_eq!(ask(&mut listener, "ping"), "*[$\"pong\", $\"\"]", "and no message more");
}

/// What looks at many keys would hold every replica up: patterns have a bound, and the shard is looked through outside
/// the log.
#[test]
fn patterns_have_a_bound_and_scans_of_several_shards_are_no_part_of_a_transaction() {
    let (cluster, id) = start(sharded(1));
    let mut connection = client(&cluster, id);
    let long = "*a".repeat(513);
    for line in [format!("keys {long}"), format!("scan 0 match {long}"), format!("psubscribe {long}")] {
        assert!(ask(&mut connection, &line).starts_with("-ERR "), "{line}");
    }
    assert_eq!(pipeline(&mut connection, &["multi", "scan 0", "exec"])[2], format!("-{CROSS_SLOT}"));
    // Behind writes that are not answered it waits for them.
    let replies = pipeline(&mut connection, &["set foo 1", "set bar 1", "dbsize", "keys f*", "del foo", "dbsize"]);
    assert_eq!(replies[2..], [":2", "*[$\"foo\"]", ":1", ":1"]);
}

const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// Idle connections keep little of the memory that their largest command and answer took.
#[test]
fn idle_clients_give_back_the_memory_of_large_values() {
    let (cluster, id) = start(Spec::of(1));
    let value = "v".repeat(1 << 20);
    let mut clients: Vec<Connection> = (0..300).map(|_| client(&cluster, id)).collect();
    for connection in &mut clients {
        assert_eq!(ask(connection, &format!("set key {value}")), "+OK");
        assert!(ask(connection, "get key").contains("(1048576 bytes)"));
    }
    let resident = resident_bytes(&cluster, id);
    assert!(resident < 400 << 20, "{} MiB in use by {} idle clients", resident >> 20, clients.len());
}

/// What CLIENT LIST says.
fn clients(connection: &mut Connection) -> String {
    let list = connection.ask(&["client", "list"]).expect("an answer");
    format!("\n{}", String::from_utf8_lossy(list.text().expect("a text")))
}

/// Sends a command that has to wait, and resets the connection once the server has it.
fn ask_and_vanish(cluster: &Cluster, id: u8, other: &mut Connection, line: &str) {
    let server = &cluster.servers[id as usize];
    let address = (server.host.as_str(), server.resp).to_socket_addrs().unwrap().next().unwrap();
    let mut socket = TcpStream::connect(address).expect("the server listens");
    let mut bytes = Vec::new();
    encode(&words(line), &mut bytes);
    socket.write_all(&bytes).expect("the server reads");
    let name = format!("addr={} ", socket.local_addr().unwrap());
    let command = format!(" cmd={} ", line.split(' ').next().unwrap());
    let mut is_there =
        |with: &str| clients(other).split("\nid=").any(|client| client.contains(&name) && client.contains(with));
    wait_for("the command to wait", || is_there(&command).then_some(()));
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    wait_for("the server to notice", || (!is_there("")).then_some(()));
}

#[test]
fn a_command_that_waits_is_not_carried_out_when_its_client_has_gone() {
    // One prepare of one request on its way and one that is being filled: everything else waits.
    let options = ["--batch-max-ops=1", "--pipeline=1", "--stall-timeout=5m", "--view-timeout=30s"];
    let (cluster, id) = start(Spec::of(3).with(&options));
    let mut other = client(&cluster, id);
    // Paused by a client.
    assert_eq!(ask(&mut other, "client pause 600000 write"), "+OK");
    ask_and_vanish(&cluster, id, &mut other, "append paused 1");
    assert_eq!(ask(&mut other, "client unpause"), "+OK");
    assert_eq!(ask(&mut other, "exists paused"), ":0");
    // No room in the log: its backups have stopped.
    let backups = [(id + 1) % 3, (id + 2) % 3];
    backups.iter().for_each(|&backup| cluster.signal(backup, "STOP"));
    let mut blockers: Vec<Connection> = (0..6).map(|_| client(&cluster, id)).collect();
    for blocker in &mut blockers {
        let mut bytes = Vec::new();
        encode(&words("incr blockers"), &mut bytes);
        blocker.send(&bytes);
    }
    wait_for("the log to be full", || (clients(&mut other).matches(" cmd=incr ").count() == 6).then_some(()));
    ask_and_vanish(&cluster, id, &mut other, "append room 1");
    backups.iter().for_each(|&backup| cluster.signal(backup, "CONT"));
    let mut counts: Vec<String> = blockers.iter_mut().map(|blocker| shown(&blocker.receive())).collect();
    counts.sort();
    assert_eq!(counts, [":1", ":2", ":3", ":4", ":5", ":6"], "those who are still there are answered");
    assert_eq!(ask(&mut other, "exists room"), ":0");
}
