//! Clients of a server that takes nothing in, because its journal is full: they wait, and send nothing twice.

mod harness;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::{self, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use harness::{Cluster, Spec, wait_for};
use lockstep_client::{Client, ClientOptions, Entry};
use lockstep_proto::{
    Operation, Status,
    decoder::StreamDecoder,
    hello::{Answer, Hello, Topology},
    reply::ReplyParts,
    request::{RequestParts, encode_request},
};
use zerocopy::IntoBytes;

/// As many writes as a session may have in flight, and far more of them than the journal takes.
const WRITES: u64 = 256;
const VALUE_SIZE: usize = 288 << 10;

/// How long the client waits for a word from its server: many times as long as one is silent that is there, so that a
/// busy machine is no silence.
const SILENCE: Duration = Duration::from_secs(3);

/// Three times as long.
const FULL_TIME: Duration = Duration::from_secs(9);

/// A server with a full journal reads no ping. Its clients took it for dead after two seconds, connected again, and
/// sent all they had in flight once more: repetitions that filled the journal again as soon as there was room.
#[test]
fn clients_of_a_server_with_a_full_journal_wait_and_repeat_nothing() {
    // Nothing is committed without the last server, so nothing is applied, and no checkpoint makes room.
    let options = ["--ack=strict", "--batch-max-ops=1", "--pipeline=64", "--stall-timeout=5m", "--view-timeout=30s"];
    let mut cluster = Cluster::start(Spec::of(3).with(&options));
    let primary = cluster.primary(0);
    let mut goner = RawClient::connect(&cluster, primary);
    let session = goner.ask(Operation::Register, 0, 1, b"", b"").version;
    let stopped = (primary + 1) % 3;
    let metric = |name: &str, labels: &[&str]| cluster.metric(primary, name, labels).expect("it is told");
    let accepted = || metric("lockstep_connections_accepted_total", &[]);
    let puts = || metric("lockstep_requests_total", &["operation=\"put\"", "status=\"ok\""]);
    let (writers, go) = start_writers(cluster.addresses());
    let (accepted_before, puts_before) = (accepted(), puts());
    cluster.signal(stopped, "STOP");
    go.send(()).unwrap();
    wait_for("the journal to be full", || {
        (metric("lockstep_journal_free_bytes", &[]) < VALUE_SIZE as f64).then_some(())
    });
    let full_since = Instant::now();
    // As large as the others, so that it does not fit even if it comes before the next of them.
    goner.send(Operation::Put, session, 2, b"nobody", &vec![0; VALUE_SIZE]);
    assert!(goner.next_reply().is_none(), "there is no room, so it is not answered: what comes is a keep-alive");
    assert_eq!(metric("lockstep_client_connections", &[]), 2.0);
    drop(goner);
    wait_for("the lost connection to be found out", || {
        (metric("lockstep_client_connections", &[]) == 1.0).then_some(())
    });
    wait_for("clients to have waited for long", || (full_since.elapsed() >= FULL_TIME).then_some(()));
    assert_eq!(accepted(), accepted_before, "the server is there all the time");
    assert_eq!(puts(), puts_before, "nothing is committed");
    cluster.signal(stopped, "CONT");
    let Written { versions, nobody } = writers.join().unwrap();
    assert_eq!(accepted(), accepted_before);
    assert_eq!(puts(), puts_before + WRITES as f64, "each write was carried out and answered once");
    let (first, last) = (versions.iter().min().unwrap(), versions.iter().max().unwrap());
    assert_eq!(last - first, WRITES - 1, "and stands in the log once");
    assert_eq!(nobody, None, "nobody waited for it");
    cluster.wait_until_healthy();
    cluster.wait_for_equal_state();
}

/// What the client has got.
struct Written {
    /// The versions of what it wrote.
    versions: Vec<u64>,
    /// What it then read of the key of that name.
    nobody: Option<Entry>,
}

/// A client with its session open, which writes as soon as it is told to.
fn start_writers(addresses: String) -> (JoinHandle<Written>, Sender<()>) {
    let (go, told) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    // Looking for another primary would open connections, and is not what this is about.
    let options = ClientOptions::new()
        .request_timeout(2 * harness::DEADLINE)
        .attempt_timeout(SILENCE)
        .silence_timeout(SILENCE)
        .probe_after(2 * harness::DEADLINE)
        .in_flight_bytes_max(256 << 20);
    let writers = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(addresses.split(','), options).await.unwrap();
            client.put("first", "opens the session").await.unwrap();
            ready.send(()).unwrap();
            told.recv().unwrap();
            let put = |number: u64| {
                let client = client.clone();
                async move { client.put(format!("key-{number}"), vec![number as u8; VALUE_SIZE]).await }
            };
            let writes: Vec<_> = (0..WRITES).map(|number| tokio::spawn(put(number))).collect();
            let mut versions = Vec::new();
            for write in writes {
                versions.push(write.await.unwrap().expect("there is room again").version);
            }
            Written { versions, nobody: client.get("nobody").await.unwrap() }
        })
    });
    is_ready.recv().unwrap();
    (writers, go)
}

/// A connection that says exactly what it is told to.
struct RawClient {
    stream: TcpStream,
    decoder: StreamDecoder,
}

impl RawClient {
    fn connect(cluster: &Cluster, server: u8) -> RawClient {
        let server = &cluster.servers[usize::from(server)];
        let mut stream = TcpStream::connect((server.host.as_str(), server.port)).unwrap();
        stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
        stream.write_all(Hello::client(0, 0, 0).as_bytes()).unwrap();
        let mut client = RawClient { stream, decoder: StreamDecoder::new() };
        let topology = loop {
            match client.decoder.next_with(Topology::parse).unwrap() {
                Some(topology) => break topology,
                None => client.read(),
            }
        };
        assert_eq!(topology.answer, Answer::Welcome);
        client
    }

    fn send(&mut self, operation: Operation, session: u64, sequence: u64, key: &[u8], value: &[u8]) {
        let mut frame = Vec::new();
        encode_request(
            &RequestParts { operation, flags: 0, session, sequence, key, arguments: &[], value },
            &mut frame,
        );
        self.stream.write_all(&frame).unwrap();
    }

    fn ask(&mut self, operation: Operation, session: u64, sequence: u64, key: &[u8], value: &[u8]) -> ReplyParts {
        self.send(operation, session, sequence, key, value);
        loop {
            if let Some(parts) = self.next_reply() {
                assert_eq!((parts.status, parts.sequence), (Status::Ok, sequence));
                return parts;
            }
        }
    }

    /// The next frame that comes; `None` if it is a keep-alive.
    fn next_reply(&mut self) -> Option<ReplyParts> {
        loop {
            if let Some(reply) = self.decoder.next_reply().unwrap() {
                let parts = ReplyParts {
                    status: reply.status(),
                    operation: reply.operation(),
                    copies: reply.copies(),
                    sequence: reply.sequence(),
                    version: reply.version(),
                };
                return (!reply.is_keep_alive()).then_some(parts);
            }
            self.read();
        }
    }

    fn read(&mut self) {
        let mut piece = [0; 4096];
        let size = self.stream.read(&mut piece).unwrap();
        assert!(size > 0, "the server has closed the connection");
        self.decoder.push(&piece[..size]);
    }
}
