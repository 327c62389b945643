//! Connections that this server opens: one to each other server, for the messages to it.

use std::{
    cell::{Cell, RefCell},
    net::{Shutdown, SocketAddr, ToSocketAddrs},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lockstep_proto::hello::{Answer, Hello, Topology};
use lockstep_replica::Input;
use tokio_uring::{buf::BoundedBuf, net::TcpStream};
use tracing::{debug, info, warn};
use zerocopy::IntoBytes;

use super::Shard;
use crate::{
    notify::LocalNotify,
    ring::{self, Gather},
};

/// Messages that wait for one peer, in bytes, beyond which it is disconnected: the protocol bounds what it sends to a
/// peer that does not answer, so this is only reached when something is wrong.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// Messages that wait for one peer beyond which those without a body are dropped: they are repeated by timers.
const QUEUE_MESSAGES_MAX: usize = 1024;

/// Pause before the first attempt to connect again; doubled with each failure.
const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How long most of the other servers may refuse this one before it gives up: longer than a connection of an earlier
/// process of this server can be taken for alive.
const REFUSED_MAX: Duration = Duration::from_secs(6);

/// The way to one other server.
pub struct Peer {
    /// Its id.
    pub id: u8,
    /// Its base address, as the user gave it.
    pub address: String,
    /// Where this shard finds it, for people.
    shard_address: String,
    queue: RefCell<Vec<Bytes>>,
    queue_bytes: Cell<usize>,
    is_connected: Cell<bool>,
    /// Since when it refuses this server as one that does not belong to it.
    refused_since: Cell<Option<Instant>>,
    flush: LocalNotify,
}

/// Why there is no connection to a peer.
struct ConnectFailure {
    text: String,
    /// Whether it is there and says that this server does not belong to it.
    is_refusal: bool,
}

impl From<String> for ConnectFailure {
    fn from(text: String) -> ConnectFailure {
        ConnectFailure { text, is_refusal: false }
    }
}

impl Peer {
    /// A peer that is not connected yet, of this shard.
    pub fn new(id: u8, address: String, shard: u16) -> Peer {
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u32>().ok()?)));
        let shard_address =
            port.map_or_else(|| address.clone(), |(host, port)| format!("{host}:{}", port + u32::from(shard)));
        Peer {
            id,
            address,
            shard_address,
            queue: RefCell::default(),
            queue_bytes: Cell::new(0),
            is_connected: Cell::new(false),
            refused_since: Cell::new(None),
            flush: LocalNotify::default(),
        }
    }

    /// Whether messages can be sent to it now.
    pub fn is_connected(&self) -> bool {
        self.is_connected.get()
    }

    /// Queues a message, to be sent in one write with all others of this turn. Without a connection it is lost, as any
    /// message may be. Returns false if the peer is so far behind that it must be disconnected.
    pub fn send(&self, message: Bytes) -> bool {
        if !self.is_connected.get() {
            return true;
        }
        self.queue_bytes.set(self.queue_bytes.get() + message.len());
        self.queue.borrow_mut().push(message);
        self.queue_bytes.get() <= QUEUE_BYTES_MAX
    }

    /// Wakes the writing task if there is something to write.
    pub fn flush(&self) {
        if !self.queue.borrow().is_empty() {
            self.flush.notify();
        }
    }

    /// Whether so much waits that a message which will be sent again anyway is better left out.
    pub fn is_congested(&self) -> bool {
        self.queue.borrow().len() >= QUEUE_MESSAGES_MAX
    }
}

/// Keeps the connection to one peer up, for as long as the shard runs.
pub async fn connect_loop(shard: Rc<Shard>, peer: Rc<Peer>) {
    let mut pause = RECONNECT_MIN;
    let mut last_failure = String::new();
    while !shard.is_stopped() {
        match connect(&shard, &peer).await {
            Ok(stream) => {
                info!(shard = shard.shard, peer = peer.id, address = %peer.shard_address, "connected to peer");
                last_failure.clear();
                peer.refused_since.set(None);
                let connected = Instant::now();
                peer.is_connected.set(true);
                shard.metrics.server_connections.set(shard.metrics.server_connections.get() + 1);
                shard.step(Input::PeerConnected(peer.id));
                carry_messages(&shard, &stream, &peer).await;
                peer.is_connected.set(false);
                shard.metrics.server_connections.set(shard.metrics.server_connections.get() - 1);
                peer.queue.borrow_mut().clear();
                peer.queue_bytes.set(0);
                shard.step(Input::PeerDisconnected(peer.id));
                // A peer that closes every connection at once is not to be stormed.
                if connected.elapsed() > RECONNECT_MAX {
                    pause = RECONNECT_MIN;
                }
                info!(shard = shard.shard, peer = peer.id, "lost the connection to peer");
            }
            Err(ConnectFailure { text: failure, is_refusal }) => {
                let since = is_refusal.then(|| peer.refused_since.get().unwrap_or_else(Instant::now));
                peer.refused_since.set(since);
                shard.end_if_refused(&failure);
                // The same failure again and again says nothing new, and one who leaves has no need to know.
                if failure == last_failure || shard.is_leaving() {
                    debug!(shard = shard.shard, peer = peer.id, address = %peer.shard_address, %failure, "cannot reach peer");
                } else {
                    warn!(shard = shard.shard, peer = peer.id, address = %peer.shard_address, %failure, "cannot reach peer");
                }
                last_failure = failure;
            }
        }
        ring::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

async fn connect(shard: &Rc<Shard>, peer: &Peer) -> Result<Rc<TcpStream>, ConnectFailure> {
    let address = resolve(&peer.address, shard.shard).await?;
    let stream = Rc::new(TcpStream::connect(address).await.map_err(|error| error.to_string())?);
    let _ = stream.set_nodelay(true);
    let hello = Hello::replica(shard.cluster, shard.shard, shard.shards, shard.replica, shard.servers)
        .of_process(shard.instance, shard.options.sessions_max);
    let hello = Bytes::copy_from_slice(hello.as_bytes());
    ring::send_all(stream.clone(), Gather::of(vec![hello])).await.map_err(|error| error.to_string())?;
    let topology = read_topology(&stream).await?;
    if topology.answer != Answer::Welcome {
        let is_refusal = !matches!(topology.answer, Answer::Full | Answer::Stopping);
        return Err(ConnectFailure { text: format!("it refuses this server: {}", topology.text), is_refusal });
    }
    if topology.replica != peer.id {
        return Err(format!(
            "server {} answers there, not server {}; check the order of --peers",
            topology.replica, peer.id
        )
        .into());
    }
    Ok(stream)
}

impl Shard {
    /// Ends a server that most of the others refuse, and have refused for a while: it can never take part.
    fn end_if_refused(&self, reason: &str) {
        let core = &mut *self.core.borrow_mut();
        let is_final = |peer: &&Rc<Peer>| peer.refused_since.get().is_some_and(|since| since.elapsed() > REFUSED_MAX);
        let refusing: Vec<String> =
            core.peers.iter().flatten().filter(is_final).map(|peer| peer.id.to_string()).collect();
        if refusing.len() * 2 > core.peers.iter().flatten().count() {
            core.fail(anyhow::anyhow!("servers {} do not let this server in: {reason}", refusing.join(", ")));
            self.turn.notify();
        }
    }
}

async fn read_topology(stream: &TcpStream) -> Result<Topology, String> {
    let mut buffer: Vec<u8> = Vec::with_capacity(8192);
    loop {
        let filled = buffer.len();
        if filled == buffer.capacity() {
            return Err("its answer to the hello is too long".to_string());
        }
        let (result, slice) = stream.read(buffer.slice(filled..)).await;
        buffer = slice.into_inner();
        match result {
            Ok(0) => return Err("it closed the connection without an answer".to_string()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        if let Some((topology, _)) = Topology::parse(&buffer).map_err(|error| error.to_string())? {
            return Ok(topology);
        }
    }
}

/// Looks a host name up without blocking the event loop.
async fn resolve(address: &str, shard: u16) -> Result<SocketAddr, String> {
    let base: SocketAddr = match address.parse() {
        Ok(address) => address,
        Err(_) => {
            let name = address.to_string();
            tokio::task::spawn_blocking(move || name.to_socket_addrs().map(|mut found| found.next()))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("cannot look up {address}: {error}"))?
                .ok_or_else(|| format!("{address} has no address"))?
        }
    };
    let port = base.port().checked_add(shard).ok_or_else(|| format!("port of shard {shard} is beyond 65535"))?;
    Ok(SocketAddr::new(base.ip(), port))
}

/// Writes what is queued until the connection ends.
async fn carry_messages(shard: &Rc<Shard>, stream: &Rc<TcpStream>, peer: &Peer) {
    let is_closed = Cell::new(false);
    tokio::join!(
        async {
            // Nothing is ever sent back, so a completed read means that the connection is gone.
            let (_, _) = stream.read(vec![0; 1]).await;
            is_closed.set(true);
            peer.flush.notify();
        },
        async {
            let mut gather = Gather::of(Vec::new());
            while !is_closed.get() && peer.queue_bytes.get() <= QUEUE_BYTES_MAX {
                std::mem::swap(&mut gather.pieces, &mut *peer.queue.borrow_mut());
                if gather.pieces.is_empty() {
                    peer.flush.notified().await;
                    continue;
                }
                let size: usize = gather.pieces.iter().map(Bytes::len).sum();
                shard.metrics.ring_operations.increment();
                gather = match ring::send_all(stream.clone(), gather).await {
                    Ok(gather) => gather,
                    Err(_) => break,
                };
                peer.queue_bytes.set(peer.queue_bytes.get() - size);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    );
}
