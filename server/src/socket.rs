//! Connections that others open: accepting them, the hello, and the reading and writing of frames.
//!
//! A connection is one long-lived task. It reads what has arrived, hands it to the shard, and writes what the shard's
//! turn left for it, one write per turn. A dropped tokio-uring read or accept is not a cancel, so nothing here is
//! raced against anything else; a read ends because the socket is shut down.

use std::{
    cell::Cell,
    net::{Shutdown, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use lockstep_proto::{
    hello::{Answer, Hello, HelloError, Role, Topology},
    limits::{MESSAGE_SIZE_MAX, REQUEST_SIZE_MAX},
    message::{Command, MessageError, MessageHeader},
    request::RequestHeader,
};
use socket2::SockRef;
use tokio_uring::{
    buf::BoundedBuf,
    net::{TcpListener, TcpStream},
};
use tracing::{debug, info, warn};
use zerocopy::FromBytes;

use crate::{
    file_limit::FileLimit,
    metrics::RejectReason,
    park,
    receive::{Share, make_little_room},
    ring::{self, Gather},
    shard::{
        Shard,
        connections::{Connection, ConnectionRef, REPLIES_PAUSE_BYTES},
        requests::Progress,
    },
};

/// Receive buffer of a new connection, in bytes; it grows as long as reads fill it.
pub(crate) const RECEIVE_BYTES_MIN: usize = 16 << 10;

/// Receive buffer beyond which only a frame that does not fit makes it grow.
const RECEIVE_BYTES_MAX: usize = 256 << 10;

/// Memory for replies that a connection keeps while there are none, in bytes: thousands of idle connections have it
/// twice.
const REPLIES_KEPT_BYTES: usize = 32 << 10;

/// How long a new connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused caller may take to take the refusal.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts connections until the shard stops.
pub async fn accept_loop(shard: Rc<Shard>, listener: TcpListener) {
    let mut acceptor = Acceptor::new(listener);
    while let Some((stream, _)) = acceptor.next(&shard).await {
        park::spawn(serve(shard.clone(), Rc::new(stream)));
    }
}

/// Accepts connections as long as the server has files for itself.
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// Whether the last connection was one too many, which is logged once.
    is_short: bool,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener) -> Acceptor {
        Acceptor { listener, is_short: false }
    }

    /// The next connection; `None` once the shard is stopping.
    pub(crate) async fn next(&mut self, shard: &Shard) -> Option<(TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept().await {
                _ if shard.is_stopping() => return None,
                Ok((stream, peer)) => {
                    shard.metrics.ring_operations.increment();
                    let limit = FileLimit::now(shard.shards);
                    if limit.has_room_for_caller(&stream) {
                        self.is_short = false;
                        let _ = stream.set_nodelay(true);
                        return Some((stream, peer));
                    }
                    shard.metrics.count_rejected(RejectReason::Full);
                    if !std::mem::replace(&mut self.is_short, true) {
                        warn!(shard = shard.shard, %peer, "closing connections at once: {}", limit.refusal());
                    }
                }
                // Out of file descriptors, most likely: those that are open go on, and the next may fit again.
                Err(error) => {
                    warn!(shard = shard.shard, %error, "cannot accept a connection");
                    ring::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One accepted connection, from hello to close.
async fn serve(shard: Rc<Shard>, stream: Rc<TcpStream>) {
    let greeted = Rc::new(Cell::new(false));
    park::spawn({
        let (greeted, stream) = (greeted.clone(), Rc::downgrade(&stream));
        let metrics = shard.metrics.clone();
        async move {
            ring::sleep(HELLO_TIMEOUT).await;
            if let Some(stream) = stream.upgrade().filter(|_| !greeted.get()) {
                metrics.count_rejected(RejectReason::Timeout);
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    });
    let hello = read_hello(&stream).await;
    greeted.set(true);
    let Some((hello, rest)) = hello else {
        return;
    };
    let limit = FileLimit::now(shard.shards);
    let (answer, text, reason) = match hello.check() {
        Ok(role) => {
            let (answer, text) = match shard.greet(&hello, role) {
                (Answer::Welcome, _) if role == Role::Client && !limit.has_room_for_client(&*stream) => {
                    (Answer::Full, limit.refusal())
                }
                answer => answer,
            };
            (answer, text, RejectReason::of_answer(answer))
        }
        Err(error) => {
            let answer = if matches!(error, HelloError::Version(_)) { Answer::Version } else { Answer::Malformed };
            (answer, error.to_string(), Some(RejectReason::from(error)))
        }
    };
    if send(&stream, shard.topology(answer, text.clone()).encode()).await.is_err() {
        return;
    }
    if let Some(reason) = reason {
        shard.metrics.count_rejected(reason);
        info!(shard = shard.shard, reason = %text, "refused a connection");
        return close_gently(&stream).await;
    }
    if hello.role == Role::Client.to_wire() {
        serve_client(&shard, &stream, rest).await;
    } else {
        let connections = &shard.metrics.server_connections;
        connections.set(connections.get() + 1);
        shard.callers.enter(hello.replica, hello.instance.get(), &stream);
        serve_replica(&shard, &stream, hello.replica, rest).await;
        connections.set(connections.get() - 1);
    }
}

pub(crate) async fn send(stream: &Rc<TcpStream>, bytes: Vec<u8>) -> std::io::Result<()> {
    ring::send_all(stream.clone(), Gather::of(vec![Bytes::from(bytes)])).await.map(drop)
}

/// Closes so that what was sent last is not lost: a close with unread bytes would make the kernel reset the connection
/// and throw the answer away. Does not wait for ever for the other side to take it.
pub(crate) async fn close_gently(stream: &Rc<TcpStream>) {
    let weak = Rc::downgrade(stream);
    park::spawn(async move {
        ring::sleep(CLOSE_TIMEOUT).await;
        if let Some(stream) = weak.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    let _ = stream.shutdown(Shutdown::Write);
    let mut scratch = vec![0; 4096];
    for _ in 0..64 {
        let (result, buffer) = stream.read(scratch).await;
        scratch = buffer;
        if !matches!(result, Ok(1..)) {
            return;
        }
    }
}

/// Has `act` ask or set what tokio-uring has no method for.
pub(crate) fn with_socket<T>(stream: &TcpStream, act: impl FnOnce(SockRef<'_>) -> T) -> T {
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the borrow of it ends before that.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    act(SockRef::from(&socket))
}

/// Reads the hello; `None` if the caller goes away, or sends what cannot be a hello and cannot be answered.
async fn read_hello(stream: &TcpStream) -> Option<(Hello, Vec<u8>)> {
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES_MIN);
    loop {
        buffer = read_more(stream, buffer).await?;
        // Something else than our protocol may be shorter than a hello and wait for an answer: do not wait for more.
        let is_foreign = !Hello::is_prefix_plausible(&buffer);
        if is_foreign {
            buffer.resize(buffer.len().max(Hello::SIZE), 0);
        }
        if let Ok((hello, rest)) = Hello::read_from_prefix(&buffer) {
            return Some((hello, rest.to_vec()));
        }
    }
}

/// Reads once, behind what `buffer` already holds. `None` when nothing more will come.
pub(crate) async fn read_more(stream: &TcpStream, buffer: Vec<u8>) -> Option<Vec<u8>> {
    debug_assert!(buffer.len() < buffer.capacity());
    let filled = buffer.len();
    let (result, slice) = stream.read(buffer.slice(filled..)).await;
    match result {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(slice.into_inner()),
    }
}

/// Drops the first `consumed` bytes and makes room for the next read: at least for `frame_size` bytes in all, and for
/// more when the last read filled the buffer.
pub(crate) fn make_room(buffer: &mut Vec<u8>, consumed: usize, frame_size: usize) {
    let was_full = buffer.len() == buffer.capacity();
    buffer.drain(..consumed);
    let mut capacity = buffer.capacity();
    if was_full && capacity < RECEIVE_BYTES_MAX {
        capacity *= 2;
    }
    let mut needed = frame_size.max(buffer.len() + 1);
    if buffer.len() == buffer.capacity() && needed < buffer.len() + RECEIVE_BYTES_MIN {
        // The size of the whole is not known, as of a Redis command of many arguments: else it would come in byte by
        // byte.
        needed = buffer.len() + (buffer.len() / 2).max(RECEIVE_BYTES_MIN);
    }
    let capacity = capacity.max(needed);
    if capacity > buffer.capacity() {
        buffer.reserve_exact(capacity - buffer.len());
    } else if buffer.is_empty() && buffer.capacity() > 2 * RECEIVE_BYTES_MAX {
        // One huge frame does not hold its memory for the rest of the connection's life.
        *buffer = Vec::with_capacity(RECEIVE_BYTES_MAX);
    }
}

async fn serve_client(shard: &Rc<Shard>, stream: &Rc<TcpStream>, rest: Vec<u8>) {
    let (name, connection) = shard.open_connection();
    *connection.stream.borrow_mut() = Rc::downgrade(stream);
    debug!(shard = shard.shard, connections = shard.connection_count(), "client connected");
    tokio::join!(
        async {
            read_requests(shard, stream, name, &connection, rest).await;
            connection.is_ending.set(true);
            connection.flush.notify();
        },
        async {
            write_replies(shard, stream, &connection).await;
            connection.is_broken.set(true);
            connection.drained.notify();
            // Ends the read above, if it still waits.
            let _ = stream.shutdown(Shutdown::Both);
        }
    );
    shard.close_connection(name);
}

async fn read_requests(
    shard: &Rc<Shard>,
    stream: &Rc<TcpStream>,
    name: ConnectionRef,
    connection: &Rc<Connection>,
    mut buffer: Vec<u8>,
) {
    buffer.reserve_exact(RECEIVE_BYTES_MIN.saturating_sub(buffer.len()));
    let mut share = Share::of(&shard.receive_bytes);
    loop {
        let mut consumed = 0;
        loop {
            match shard.take_requests(name, connection, &buffer[consumed..]) {
                Progress::Consumed(size) => {
                    consumed += size;
                    break;
                }
                // The log is full: nothing more is read from this socket until there is room again.
                Progress::Full(size) => {
                    consumed += size;
                    connection.is_waiting.set(true);
                    shard.room.notified().await;
                    connection.is_waiting.set(false);
                }
                // The refusal is in the replies; this connection's bytes cannot be trusted any more.
                Progress::Refused => return,
            }
            // What waits here has not been offered to the replica, so nobody will answer it, and it can be dropped: its
            // client cannot tell that from a request that was lost on its way, and sends it again elsewhere if it still
            // wants it.
            if connection.is_broken.get() {
                return;
            }
        }
        let frame_size = RequestHeader::ref_from_prefix(&buffer[consumed..])
            .map_or(RequestHeader::SIZE, |(header, _)| header.size.get() as usize)
            .min(REQUEST_SIZE_MAX);
        if frame_size > buffer.capacity() && !share.has_room(frame_size) {
            return shard.refuse_frame(connection, &buffer[consumed..]);
        }
        if share.is_tight() {
            make_little_room(&mut buffer, consumed, frame_size);
        } else {
            make_room(&mut buffer, consumed, frame_size);
        }
        share.note(buffer.capacity());
        while connection.replies.borrow().len() > REPLIES_PAUSE_BYTES && !connection.is_broken.get() {
            connection.drained.notified().await;
        }
        if connection.is_broken.get() || shard.is_stopping() {
            return;
        }
        shard.metrics.ring_operations.increment();
        match read_more(stream, buffer).await {
            Some(bytes) => buffer = bytes,
            None => return,
        }
    }
}

pub(crate) async fn write_replies(shard: &Rc<Shard>, stream: &Rc<TcpStream>, connection: &Rc<Connection>) {
    let mut spare = Vec::new();
    while !connection.is_finished() {
        let replies = connection.replies.replace(spare);
        if replies.is_empty() {
            spare = replies;
            if connection.has_deferred() {
                shard.resume_reads(connection);
            }
            connection.flush.notified().await;
            continue;
        }
        shard.metrics.ring_operations.increment();
        connection.has_sent.set(true);
        connection.note_sending(replies.len());
        let (result, replies) = stream.write_all(replies).await;
        connection.note_sending(0);
        shard.note_replies(connection);
        if result.is_err() {
            return;
        }
        if let Some(door) = connection.door() {
            door.borrow().meter.stats().output_bytes.add(replies.len() as u64);
        }
        spare = replies;
        spare.clear();
        if spare.capacity() > REPLIES_KEPT_BYTES {
            spare = Vec::new();
        }
        connection.drained.notify();
        if connection.has_deferred() {
            shard.resume_reads(connection);
        }
    }
}

/// A connection that carries another server's messages to this one.
async fn serve_replica(shard: &Rc<Shard>, stream: &Rc<TcpStream>, replica: u8, rest: Vec<u8>) {
    info!(shard = shard.shard, peer = replica, "peer connected");
    let mut buffer = rest;
    buffer.reserve_exact(RECEIVE_BYTES_MAX);
    loop {
        let (consumed, wanted) = match take_messages(shard, replica, &buffer) {
            Ok(progress) => progress,
            Err(reason) => {
                shard.metrics.count_rejected(reason);
                warn!(shard = shard.shard, peer = replica, %reason, "refused a peer's message, closing its connection");
                return close_gently(stream).await;
            }
        };
        make_room(&mut buffer, consumed, wanted);
        if shard.is_stopped() {
            return;
        }
        shard.metrics.ring_operations.increment();
        match read_more(stream, buffer).await {
            Some(bytes) => buffer = bytes,
            None => break,
        }
    }
    info!(shard = shard.shard, peer = replica, "peer disconnected");
}

/// Hands every whole message in `bytes` to the replica. Returns how many bytes that took, and the size of the message
/// that has begun after them.
fn take_messages(shard: &Rc<Shard>, replica: u8, bytes: &[u8]) -> Result<(usize, usize), MessageError> {
    let mut consumed = 0;
    while let Some(header) = MessageHeader::view(&bytes[consumed..]) {
        let command = header.check(shard.cluster, shard.shard)?;
        let size = header.size.get() as usize;
        debug_assert!(size <= MESSAGE_SIZE_MAX);
        let Some(message) = bytes.get(consumed..consumed + size) else {
            return Ok((consumed, size));
        };
        header.check_body(&message[MessageHeader::SIZE..])?;
        // A prepare names the primary that ordered it, which need not be the one who passes it on.
        if command != Command::Prepare && header.replica != replica {
            return Err(MessageError::Replica(header.replica));
        }
        if command == Command::Prepare {
            header.check_requests(&message[MessageHeader::SIZE..])?;
        }
        shard.take_message(message, command);
        consumed += size;
    }
    Ok((consumed, MessageHeader::SIZE))
}

/// The refusal that answers a hello which does not belong here; `None` if it does.
pub fn refusal(hello: &Hello, role: Role, us: &Topology) -> Option<(Answer, String)> {
    let cluster = hello.cluster.get();
    let is_any = role == Role::Client && cluster == 0;
    if cluster != us.cluster && !is_any {
        return Some((
            Answer::Cluster,
            format!("this server belongs to cluster {:032x}, not to {cluster:032x}", us.cluster),
        ));
    }
    let shards = hello.shards.get();
    if shards != us.shards && !(role == Role::Client && shards == 0) {
        return Some((Answer::Cluster, format!("this cluster has {} shards, not {shards}", us.shards)));
    }
    if role == Role::Replica && (hello.servers != us.servers || hello.replica == us.replica) {
        return Some((
            Answer::Cluster,
            format!(
                "this is server {} of {}; a server {} of {} does not belong to its cluster",
                us.replica, us.servers, hello.replica, hello.servers
            ),
        ));
    }
    if hello.shard.get() != us.shard {
        return Some((Answer::Shard, format!("this port serves shard {}, not shard {}", us.shard, hello.shard.get())));
    }
    None
}
