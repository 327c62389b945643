use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::line::{Line, QUEUED_BYTES_MAX};
use super::{LinkProxy, Route};

const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy in front of a fresh listener: the listener, the proxy, and a connection through it.
fn link(delay: Duration) -> (TcpListener, LinkProxy, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let front = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = front.local_addr().expect("it is bound");
    let target = server.local_addr().expect("it is bound");
    let proxy = LinkProxy::start(vec![Route { listener: front, target }], delay).expect("it starts");
    let client = TcpStream::connect(address).expect("the proxy accepts");
    client.set_nodelay(true).expect("a TCP option");
    client.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    (server, proxy, client)
}

/// A second route of the same proxy, by which a test can tell that the proxy has heard its orders.
fn link_and_witness() -> (TcpListener, LinkProxy, TcpStream, Witness) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let [server, front, far, witness_front] = [listen(), listen(), listen(), listen()];
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
    let dials = [address(&front), address(&witness_front)];
    let routes = [(front, address(&server)), (witness_front, address(&far))];
    let routes = routes.map(|(listener, target)| Route { listener, target });
    let proxy = LinkProxy::start(routes.into(), Duration::ZERO).expect("it starts");
    let [client, near] = dials.map(|address| {
        let stream = TcpStream::connect(address).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
        stream
    });
    let (far, _) = far.accept().expect("the proxy dials");
    far.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    (server, proxy, client, Witness { near, far })
}

/// Both ends of a route that is never cut.
struct Witness {
    near: TcpStream,
    far: TcpStream,
}

impl Witness {
    /// What the proxy was told before is done when this returns: it takes its orders and bytes as they come.
    fn is_passed_on(&mut self) {
        self.near.write_all(b"?").expect("it is taken");
        self.far.read_exact(&mut [0]).expect("it is passed on");
    }
}

/// Answers every byte with itself until the connection ends.
fn echo(server: TcpListener) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("the proxy dials");
        stream.set_nodelay(true).expect("a TCP option");
        let mut buffer = [0; 4096];
        let mut echoed = 0;
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..len]).expect("the proxy takes it");
            echoed += len as u64;
        }
        echoed
    })
}

/// Bytes without a short period, so that a lost or repeated piece cannot go unseen.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (crate::plan::mix64(i / 8) >> (i % 8 * 8)) as u8).collect()
}

#[test]
fn a_round_trip_takes_two_delays() {
    let delay = Duration::from_millis(3);
    let (server, _proxy, mut client) = link(delay);
    let echo = echo(server);
    // On busy cores most round trips take longer. One quick one shows that the proxy itself does not add more.
    let deadline = Instant::now() + PATIENCE;
    let mut quickest = Duration::MAX;
    let mut rounds = 0;
    while rounds < 20 || (quickest > 2 * delay + Duration::from_millis(2) && Instant::now() < deadline) {
        let sent = Instant::now();
        let message = [rounds as u8];
        client.write_all(&message).expect("the proxy takes it");
        let mut answer = [0];
        client.read_exact(&mut answer).expect("an answer comes");
        assert_eq!(answer, message);
        assert!(sent.elapsed() >= 2 * delay, "an answer came before both delays were over");
        quickest = quickest.min(sent.elapsed());
        rounds += 1;
    }
    assert!(quickest <= 2 * delay + Duration::from_millis(2), "even the quickest took {quickest:?}");
    client.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(echo.join().expect("the echo ends"), rounds);
}

#[test]
fn bytes_arrive_in_order_and_pieces_do_not_wait_for_each_other() {
    let delay = Duration::from_millis(500);
    let (server, _proxy, mut client) = link(delay);
    let sent = bytes(16 * 1024 * 1024);
    let expected = sent.clone();
    let begun = Instant::now();
    let sender = std::thread::spawn(move || {
        for piece in sent.chunks(10_007) {
            client.write_all(piece).expect("the proxy takes it");
        }
        client.shutdown(Shutdown::Write).expect("it is connected");
        client
    });
    let (mut stream, _) = server.accept().expect("the proxy dials");
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the end of the stream is passed on");
    assert!(received == expected, "{} bytes, not as sent", received.len());
    // A delay per piece of at most 256 KiB would add up to more than half a minute.
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
    sender.join().expect("it has sent everything");
}

#[test]
fn what_is_under_way_is_bounded_and_complete() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let expected = bytes(QUEUED_BYTES_MAX + 16 * 1024 * 1024);
    let sent = expected.clone();
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it is listening");
        stream.write_all(&sent).expect("it is taken in the end");
    });
    let (mut source, _) = listener.accept().expect("the sender dials");
    let mut sink = TcpStream::connect(address).expect("it is listening");
    let (mut far, _) = listener.accept().expect("the sink dials");
    let (mut line, mut scratch) = (Line::default(), vec![0; 64 * 1024]);

    let mut pieces = 0;
    while line.wants_input() {
        pieces += line.fill(&mut source, &mut scratch).expect("the source is healthy");
    }
    assert_eq!(line.fill(&mut source, &mut scratch).expect("the source is healthy"), 0, "a full line reads no more");
    assert!(line.queued_bytes() < QUEUED_BYTES_MAX + scratch.len());

    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).expect("the end of the stream is passed on");
        received
    });
    while !line.is_finished() {
        (0..pieces).for_each(|_| line.release());
        line.flush(&mut sink).expect("the sink is healthy");
        pieces = line.fill(&mut source, &mut scratch).expect("the source is healthy");
    }
    assert!(reader.join().expect("the reader ends") == expected, "not as sent");
    sender.join().expect("it has sent everything");
}

#[test]
fn a_close_is_passed_on_in_both_directions() {
    let (server, _proxy, mut client) = link(Duration::from_millis(1));
    let (mut stream, _) = server.accept().expect("the proxy dials");
    stream.write_all(b"last words").expect("the proxy takes it");
    drop(stream);
    let mut words = String::new();
    client.read_to_string(&mut words).expect("the end of the stream is passed on");
    assert_eq!(words, "last words");
}

#[test]
fn a_target_that_refuses_closes_the_connection() {
    let (server, _proxy, mut client) = link(Duration::from_millis(1));
    let target = server.local_addr().expect("it is bound");
    drop(server);
    let front = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = front.local_addr().expect("it is bound");
    let _second = LinkProxy::start(vec![Route { listener: front, target }], Duration::ZERO).expect("it starts");
    // The first connection may have been accepted by the kernel before the listener went away; the second was not.
    let mut refused = TcpStream::connect(address).expect("the proxy accepts");
    refused.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn dropping_the_proxy_ends_its_connections_and_its_thread() {
    let (server, proxy, mut client) = link(Duration::from_secs(60));
    let (_stream, _) = server.accept().expect("the proxy dials");
    client.write_all(b"never to arrive").expect("the proxy takes it");
    drop(proxy);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_cut_route_holds_bytes_back_until_it_is_mended_and_leaves_others_alone() {
    let (server, proxy, mut client, mut witness) = link_and_witness();
    let (mut stream, _) = server.accept().expect("the proxy dials");
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    client.write_all(b"before").expect("the proxy takes it");
    let mut before = [0; 6];
    stream.read_exact(&mut before).expect("it is passed on");
    proxy.cut([0, 7]);
    witness.is_passed_on();
    client.write_all(b"late").expect("it is taken");
    stream.write_all(b"x").expect("it is taken");
    witness.is_passed_on();
    for end in [&mut stream, &mut client] {
        end.set_read_timeout(Some(Duration::from_millis(50))).expect("a TCP option");
        assert!(end.read(&mut [0]).is_err(), "both directions are cut");
    }
    proxy.cut([7]);
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    client.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    let mut late = [0; 4];
    stream.read_exact(&mut late).expect("what was held back goes on");
    assert_eq!(late, *b"late");
    client.read_exact(&mut late[..1]).expect("what was held back goes on");
    assert_eq!(late[0], b'x');
}

#[test]
fn a_cut_connection_that_dies_ends_and_costs_no_time() {
    let (server, proxy, client) = link(Duration::ZERO);
    let (mut stream, _) = server.accept().expect("the proxy dials");
    stream.write_all(b"unread").expect("it is taken");
    // Something must be there to be thrown away, or the close would be no reset.
    client.peek(&mut [0]).expect("it is passed on");
    proxy.cut([0]);
    drop(client);
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP option");
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}
