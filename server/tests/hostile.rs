//! Bytes that no client and no server would send, on the port that both use: a precise refusal or a closed connection,
//! and a server that goes on as if nothing had happened.

mod harness;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use harness::{Cluster, Spec, workload::get, workload::put_within};
use lockstep_proto::{
    Operation, Status,
    hello::{Answer, Hello, Topology},
    limits::{REQUEST_SIZE_MAX, VALUE_SIZE_MAX},
    message::{Command, MessageHeader},
    reply::Reply,
    request::{FLAG_STALE, RequestHeader, RequestParts, encode_request},
};
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use zerocopy::IntoBytes;

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect((cluster.servers[0].host.as_str(), cluster.servers[0].port)).unwrap();
    stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    stream.set_write_timeout(Some(harness::DEADLINE)).unwrap();
    stream
}

/// Sends bytes, says that no more will come, and reads what comes back until the server closes.
fn exchange(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(cluster);
    // The server may close before it has taken everything: that is an answer too.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn topology(answer: &[u8]) -> (Topology, &[u8]) {
    let (topology, size) = Topology::parse(answer).unwrap().expect("a whole answer to the hello");
    (topology, &answer[size..])
}

fn client_hello() -> Vec<u8> {
    Hello::client(0, 0, 0).as_bytes().to_vec()
}

fn put(sequence: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let parts = RequestParts {
        operation: Operation::Put,
        flags: 0,
        session: 1,
        sequence,
        key: b"key",
        arguments: &[],
        value: b"value",
    };
    encode_request(&parts, &mut frame);
    frame
}

fn assert_unharmed(cluster: &mut Cluster) {
    assert!(cluster.poll_exit(0).is_none(), "the server has ended:\n{}", cluster.log(0));
    let addresses = cluster.addresses();
    put_within(&addresses, "still", "here", Duration::from_secs(30)).unwrap();
    assert_eq!(get(&addresses, "still").as_deref(), Some(&b"here"[..]));
}

#[test]
fn hellos_that_do_not_belong_here_are_told_why() {
    let mut cluster = Cluster::start(Spec::of(3));
    let mut wrong_version = Hello::client(0, 0, 0);
    wrong_version.version.set(999);
    let mut damaged = Hello::client(0, 0, 0);
    damaged.shard.set(7);
    let cases: Vec<(Vec<u8>, Answer, &str)> = vec![
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Answer::Malformed, "not the Lockstep protocol"),
        (b"PING\r\n".to_vec(), Answer::Malformed, "not the Lockstep protocol"),
        (wrong_version.as_bytes().to_vec(), Answer::Version, "999"),
        (damaged.as_bytes().to_vec(), Answer::Malformed, "checksum"),
        (Hello::client(12345, 0, 0).as_bytes().to_vec(), Answer::Cluster, "belongs to cluster"),
        (Hello::client(0, 0, 9).as_bytes().to_vec(), Answer::Cluster, "has 1 shards"),
        (Hello::client(0, 3, 0).as_bytes().to_vec(), Answer::Shard, "serves shard 0"),
        (Hello::replica(12345, 0, 1, 1, 3).as_bytes().to_vec(), Answer::Cluster, "belongs to cluster"),
    ];
    for (bytes, expected, text) in cases {
        let answer = exchange(&cluster, &bytes);
        let (topology, _) = topology(&answer);
        assert_eq!(topology.answer, expected, "{}", topology.text);
        assert!(topology.text.contains(text), "{:?} does not say {text:?}", topology.text);
    }
    for (reason, count) in
        [("not_lockstep", 2.0), ("version", 1.0), ("checksum", 1.0), ("cluster", 3.0), ("shard", 1.0)]
    {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(cluster.metric(0, "lockstep_rejected_total", &[&label]), Some(count), "{reason}");
    }
    assert_unharmed(&mut cluster);
}

#[test]
fn a_server_of_another_size_or_with_our_own_id_is_not_let_in() {
    let cluster = Cluster::start(Spec::of(3));
    let id = topology(&exchange(&cluster, &client_hello())).0.cluster;
    for hello in [Hello::replica(id, 0, 1, 1, 5), Hello::replica(id, 0, 1, 0, 3), Hello::replica(id, 0, 2, 1, 3)] {
        let answer = exchange(&cluster, hello.as_bytes());
        assert_eq!(topology(&answer).0.answer, Answer::Cluster);
    }
}

#[test]
fn malformed_requests_are_refused_by_name_and_end_their_connection() {
    let mut cluster = Cluster::start(Spec::of(1));
    let mut flipped = put(1);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let mut huge = put(1);
    huge[..4].copy_from_slice(&(REQUEST_SIZE_MAX as u32 + 1).to_le_bytes());
    let mut tiny = put(1);
    tiny[..4].copy_from_slice(&3u32.to_le_bytes());
    for (frame, text) in [(flipped, "checksum"), (huge, "bound"), (tiny, "smaller")] {
        let answer = exchange(&cluster, &[client_hello(), frame].concat());
        let (topology, rest) = topology(&answer);
        assert_eq!(topology.answer, Answer::Welcome);
        let reply = Reply::parse(rest).unwrap().expect("a reply that says what is wrong");
        assert_eq!(reply.status(), Status::BadRequest);
        let said = String::from_utf8_lossy(reply.body()).into_owned();
        assert!(said.contains(text), "{said:?} does not say {text:?}");
        assert_eq!(reply.size(), rest.len(), "nothing follows the refusal");
    }
    assert_unharmed(&mut cluster);
}

#[test]
fn requests_cut_off_anywhere_and_noise_of_any_length_do_no_harm() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
    let mut cluster = Cluster::start(Spec::of(1));
    let frame = [client_hello(), put(1)].concat();
    for size in 0..frame.len() {
        exchange(&cluster, &frame[..size]);
    }
    for _ in 0..100 {
        let mut noise = vec![0; random.random_range(0..4000)];
        random.fill_bytes(&mut noise);
        exchange(&cluster, &noise);
        exchange(&cluster, &[client_hello(), noise.clone()].concat());
        // Noise behind a header that says it is right.
        let mut plausible = noise;
        if plausible.len() > RequestHeader::SIZE {
            let size = plausible.len() as u32;
            plausible[..4].copy_from_slice(&size.to_le_bytes());
            plausible[4] = Operation::Put.to_wire();
            exchange(&cluster, &[client_hello(), plausible].concat());
        }
    }
    assert_unharmed(&mut cluster);
}

#[test]
fn messages_that_no_server_would_send_end_their_connection() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
    let mut cluster = Cluster::start(Spec::of(3));
    let id = topology(&exchange(&cluster, &client_hello())).0.cluster;
    let hello = Hello::replica(id, 0, 1, 1, 3);
    let message = |change: &dyn Fn(&mut MessageHeader)| {
        let mut header = MessageHeader::new(Command::HeartbeatOk, id, 0, 1, 3);
        change(&mut header);
        header.seal(&[]);
        header.as_bytes().to_vec()
    };
    let mut flipped = message(&|_| {});
    flipped[100] ^= 4;
    let mut noise = vec![0; 2000];
    random.fill_bytes(&mut noise);
    let cases = [
        message(&|header| header.cluster.set(1)),
        message(&|header| header.shard.set(1)),
        message(&|header| header.replica = 2),
        message(&|header| header.version.set(1)),
        message(&|header| header.command = 200),
        message(&|header| header.reserved = [1; 8]),
        message(&|header| header.view.set(u64::MAX)),
        message(&|header| {
            header.command = Command::Prepare.to_wire();
            header.op.set(1);
            header.request_count.set(1);
        }),
        flipped,
        noise,
    ];
    for (index, bytes) in cases.iter().enumerate() {
        let answer = exchange(&cluster, &[hello.as_bytes(), bytes].concat());
        let (topology, rest) = topology(&answer);
        assert_eq!((topology.answer, rest.len()), (Answer::Welcome, 0), "case {index}");
    }
    assert!(cluster.log(0).matches("refused a peer's message").count() >= cases.len(), "{}", cluster.log(0));
    assert_unharmed(&mut cluster);
}

#[test]
fn a_client_that_never_reads_its_answers_does_not_hurt_others() {
    let mut cluster = Cluster::start(Spec::of(1));
    let addresses = cluster.addresses();
    let value = "v".repeat(1 << 20);
    put_within(&addresses, "large", &value, Duration::from_secs(30)).unwrap();
    let mut stream = connect(&cluster);
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(&client_hello()).unwrap();
    let mut frames = Vec::new();
    for sequence in 1..=5000 {
        let parts = RequestParts {
            operation: Operation::Get,
            flags: 0,
            session: 0,
            sequence,
            key: b"large",
            arguments: &[],
            value: &[],
        };
        encode_request(&parts, &mut frames);
    }
    // Five gigabytes of answers are asked for, and none is taken.
    let _ = stream.write_all(&frames);
    assert_unharmed(&mut cluster);
    let resident = cluster.metric(0, "process_resident_memory_bytes", &[]).unwrap();
    assert!(resident < 512e6, "the server holds {resident} bytes");
}

/// Fourteen kilobytes of requests, all in one piece, asked for four hundred megabytes of answers, and got them in
/// memory.
#[test]
fn stale_reads_of_a_large_value_do_not_fill_the_memory() {
    const READS: u64 = 400;
    let mut cluster = Cluster::start(Spec::of(1));
    put_within(&cluster.addresses(), "large", &"v".repeat(VALUE_SIZE_MAX), harness::DEADLINE).unwrap();
    let mut bytes = client_hello();
    for sequence in 1..=READS {
        let parts = RequestParts {
            operation: Operation::Get,
            flags: FLAG_STALE,
            session: 0,
            sequence,
            key: b"large",
            arguments: &[],
            value: &[],
        };
        encode_request(&parts, &mut bytes);
    }
    let answer = exchange(&cluster, &bytes);
    let (_, mut rest) = topology(&answer);
    let mut statuses = Vec::new();
    while let Some(reply) = Reply::parse(rest).unwrap() {
        statuses.push(reply.status());
        rest = &rest[reply.size()..];
    }
    assert_eq!(statuses.len() as u64, READS, "every request is answered");
    assert!(statuses.iter().all(|status| matches!(status, Status::Ok | Status::Busy)));
    assert_eq!(statuses[0], Status::Ok);
    assert_eq!(statuses.last(), Some(&Status::Busy), "there is a bound to what waits");
    assert_unharmed(&mut cluster);
}
