//! Clients of the native protocol that ask for much and take nothing.

mod harness;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use harness::{Cluster, Server, Spec, wait_for, workload};
use lockstep_client::{Client, ClientOptions};
use lockstep_proto::{
    Operation,
    hello::Hello,
    request::{FLAG_STALE, RequestParts, encode_request},
};
use zerocopy::IntoBytes;

const MIB: f64 = (1 << 20) as f64;

/// How many ask for too much.
const GREEDY: usize = 60;

/// Reads of a value of one MiB that each of them asks for: fewer than a client alone is answered, and more than the
/// kernel's buffers take.
const READS: u64 = 15;

/// Each of them stays within its own bound; together they would take most of a GiB. Those that hold most are closed,
/// and the others do not feel it.
#[test]
fn clients_that_never_read_are_closed_when_all_together_hold_too_much() {
    let mut cluster = Cluster::start(Spec::of(1).with(&["--clients-memory=64MiB"]));
    write_large_value(&cluster);
    // One that reads nothing either, but has asked for little.
    let mut modest = ask_for_much(&cluster.servers[0], 0, 1);
    let mut evicted_before = 0;
    for flags in [FLAG_STALE, 0] {
        let mut greedy: Vec<TcpStream> = (0..GREEDY).map(|_| ask_for_much(&cluster.servers[0], flags, READS)).collect();
        wait_for("most of them to be closed", || {
            let evicted = metric(&cluster, "lockstep_evicted_connections_total");
            (evicted >= (evicted_before + 30) as f64).then_some(())
        });
        wait_for("their memory to be free", || {
            (metric(&cluster, "lockstep_reply_memory_bytes") <= 64.0 * MIB).then_some(())
        });
        // They are, all the while: somebody who reads what he asks for gets it.
        let addresses = cluster.addresses();
        workload::put_within(&addresses, "key", "value", Duration::from_secs(30)).unwrap();
        assert_eq!(workload::get(&addresses, "large").map(|value| value.len()), Some(1 << 20));
        let cut = greedy.iter_mut().filter_map(|stream| read_to_end(stream, READS << 20)).count();
        evicted_before += cut;
        wait_for("the metrics to tell of those that were closed, all others get what they asked for", || {
            let evicted = metric(&cluster, "lockstep_evicted_connections_total");
            assert!(evicted <= evicted_before as f64, "{evicted} are closed, and {evicted_before} know it");
            (evicted == evicted_before as f64).then_some(())
        });
    }
    wait_for("all memory to be free", || (metric(&cluster, "lockstep_reply_memory_bytes") == 0.0).then_some(()));
    assert_eq!(read_to_end(&mut modest, 1 << 20), None, "it was not closed");
    assert!(cluster.poll_exit(0).is_none());
}

/// The least bound that can be set was once less than what one client may hold.
#[test]
fn a_client_alone_is_not_closed_for_what_it_may_hold() {
    let cluster = Cluster::start(Spec::of(1).with(&["--clients-memory=64MiB"]));
    write_large_value(&cluster);
    let mut greedy = ask_for_much(&cluster.servers[0], 0, 80);
    wait_for("as much to wait as is being sent", || {
        (metric(&cluster, "lockstep_reply_memory_bytes") > 32.0 * MIB).then_some(())
    });
    assert_eq!(read_to_end(&mut greedy, 32 << 20), None, "it gets what it was answered");
    assert_eq!(metric(&cluster, "lockstep_evicted_connections_total"), 0.0);
}

/// Each begins the largest request and does not end it.
#[test]
fn clients_that_never_end_their_requests_are_refused_when_all_together_hold_too_much() {
    let mut cluster = Cluster::start(Spec::of(1));
    let mut frame = Vec::new();
    let value = vec![b'v'; 1 << 20];
    let (operation, flags, session, sequence) = (Operation::Put, 0, 1, 7);
    encode_request(
        &RequestParts { operation, flags, session, sequence, key: b"key", arguments: &[], value: &value },
        &mut frame,
    );
    let begin = || {
        let mut stream = TcpStream::connect((cluster.servers[0].host.as_str(), cluster.servers[0].port)).unwrap();
        stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
        stream.write_all(Hello::client(0, 0, 0).as_bytes()).unwrap();
        stream.write_all(&frame[..100]).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..300).map(|_| begin()).collect();
    wait_for("the last ones to be refused", || {
        (metric(&cluster, "lockstep_refused_frames_total") >= 40.0).then_some(())
    });
    wait_for("the metrics to say why", || {
        let held = metric(&cluster, "lockstep_receive_memory_bytes");
        (held > 200.0 * MIB && held <= 256.0 * MIB).then_some(())
    });
    let refused = |stream: &mut TcpStream| {
        let mut bytes = Vec::new();
        let text = b"unfinished requests of all clients together take too much memory";
        let is_told = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut is_closed = stream.read_to_end(&mut bytes).is_ok();
        if is_told(&bytes) {
            stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
            is_closed = stream.read_to_end(&mut bytes).is_ok();
        }
        assert_eq!(is_told(&bytes), is_closed);
        is_closed
    };
    let last = streams.iter_mut().rev().take(40).filter_map(|stream| refused(stream).then_some(())).count();
    assert!(last >= 30, "{last} of the last 40 are told why");
    // Small requests go on, and there is room again once those are gone.
    workload::put_within(&cluster.addresses(), "small", "value", Duration::from_secs(30)).unwrap();
    drop(streams);
    wait_for("all memory to be free", || (metric(&cluster, "lockstep_receive_memory_bytes") == 0.0).then_some(()));
    write_large_value(&cluster);
    assert!(cluster.poll_exit(0).is_none());
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    cluster.metric(0, name, &[]).expect("it is told")
}

fn write_large_value(cluster: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(cluster.addresses().split(','), ClientOptions::new()).await.unwrap();
        client.put("large", vec![b'v'; 1 << 20]).await.unwrap();
    });
}

/// A connection on which a value of one MiB is asked for so many times, and nothing is read.
fn ask_for_much(server: &Server, flags: u8, reads: u64) -> TcpStream {
    let mut stream = TcpStream::connect((server.host.as_str(), server.port)).unwrap();
    stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    let mut bytes = Hello::client(0, 0, 0).as_bytes().to_vec();
    for sequence in 1..=reads {
        let parts = RequestParts {
            operation: Operation::Get,
            flags,
            session: 0,
            sequence,
            key: b"large",
            arguments: &[],
            value: &[],
        };
        encode_request(&parts, &mut bytes);
    }
    stream.write_all(&bytes).unwrap();
    stream
}

/// Reads until so many bytes have come, which is `None`, or the connection ends.
fn read_to_end(stream: &mut TcpStream, wanted: u64) -> Option<u64> {
    let mut piece = vec![0; 256 << 10];
    let mut total = 0;
    while total < wanted {
        match stream.read(&mut piece) {
            Ok(size @ 1..) => total += size as u64,
            _ => return Some(total),
        }
    }
    None
}
