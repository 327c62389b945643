//! Connections of the front door: accepting them, reading commands, sending answers.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio_uring::net::{TcpListener, TcpStream};
use tracing::debug;

use super::{
    client::{Client, ClientShared},
    door::Door,
    memory::UNCOUNTED_BYTES,
    server::Server,
};
use crate::{
    file_limit::FileLimit,
    metrics::RejectReason,
    park, ring,
    shard::{
        Shard, Taken,
        connections::{Connection, ConnectionRef, REPLIES_PAUSE_BYTES},
    },
    socket::{Acceptor, RECEIVE_BYTES_MIN, close_gently, make_room, read_more, send, with_socket, write_replies},
};

/// What is said to a client that is one too many.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// How long a paused connection waits before it looks again whether it may go on: the longer, the more there may be
/// that do.
fn pause_step(clients: usize) -> Duration {
    Duration::from_millis(5).max(Duration::from_micros(20 * clients as u64))
}

/// How long a silent connection is left alone before the kernel asks whether the other side is still there, as Redis's
/// `tcp-keepalive`.
pub const KEEPALIVE: Duration = Duration::from_secs(300);

/// Accepts connections until the shard stops.
pub async fn accept_loop(shard: Rc<Shard>, server: Arc<Server>, listener: TcpListener) {
    let mut acceptor = Acceptor::new(listener);
    while let Some((stream, peer)) = acceptor.next(&shard).await {
        keep_alive(&stream);
        park::spawn(serve(shard.clone(), server.clone(), Rc::new(stream), peer));
    }
}

async fn serve(shard: Rc<Shard>, server: Arc<Server>, stream: Rc<TcpStream>, peer: SocketAddr) {
    let has_files = FileLimit::now(shard.shards).has_room_for_client(&*stream);
    if !has_files || !server.clients.has_room(server.settings.clients_max.load(Relaxed)) {
        shard.metrics.count_rejected(RejectReason::Full);
        server.shards[shard.shard as usize].stats.rejected_connections.increment();
        let _ = send(&stream, TOO_MANY.to_vec()).await;
        return close_gently(&stream).await;
    }
    let id = server.clients.next_id();
    let local = local_address(&stream).unwrap_or(peer);
    let is_authenticated = !server.settings.needs_password.load(Relaxed);
    let created_ns = shard.wall_ns();
    let meter = shard.meter();
    meter.stats().connections.increment();
    let (name, connection) = shard.open_door(|connection| {
        let shared = ClientShared::new(id, shard.shard, connection, stream.as_raw_fd(), peer, local, created_ns);
        Door::new(Client::new(Arc::new(shared), is_authenticated), meter.clone())
    });
    *connection.stream.borrow_mut() = Rc::downgrade(&stream);
    meter.holders.enter(id, Rc::downgrade(&connection));
    let shared = connection.door().expect("it was made with one").borrow().client.shared.clone();
    server.clients.enter(shared.clone());
    debug!(shard = shard.shard, id, "client connected");
    tokio::join!(
        async {
            read_commands(&shard, &server, &stream, name, &connection, &shared).await;
            connection.is_ending.set(true);
            shard.end_waits(name);
            connection.flush.notify();
        },
        async {
            write_replies(&shard, &stream, &connection).await;
            connection.is_broken.set(true);
            connection.drained.notify();
            connection.settled.notify();
            if connection.is_refused.get() {
                close_gently(&stream).await;
            }
            // Ends the read above, if it still waits.
            let _ = stream.shutdown(Shutdown::Both);
        }
    );
    if let Some(door) = connection.door() {
        server.forget(shard.shard, &mut door.borrow_mut().client);
    }
    server.clients.leave(id);
    meter.holders.leave(id);
    meter.hold(&shared, 0);
    if shared.is_evicted.load(Relaxed) {
        meter.stats().evicted_connections.increment();
        shard.metrics.evicted_clients.increment();
    }
    shard.close_connection(name);
}

/// Lets the kernel find out about clients that have vanished without a word: their connections would count for ever.
fn keep_alive(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
    let _ = with_socket(stream, |socket| socket.set_tcp_keepalive(&keepalive));
}

fn local_address(stream: &TcpStream) -> Option<SocketAddr> {
    with_socket(stream, |socket| socket.local_addr()).ok()?.as_socket()
}

/// Whether the other side has reset the connection, or both sides have closed it: nobody is there any more. One that
/// only says that it will send nothing more may still wait for answers.
pub fn is_reset(stream: &TcpStream) -> bool {
    with_socket(stream, |socket| {
        // Errors and the end of both directions are told whether they are asked for or not.
        let mut descriptors = [PollFd::new(&*socket, PollFlags::empty())];
        matches!(poll(&mut descriptors, Some(&Timespec::default())), Ok(1..))
    })
}

/// What is said when unfinished commands of all clients together take too much memory.
const TOO_MUCH: &str = "ERR unfinished commands of all clients together take too much memory, try again later";

/// Memory for commands that a connection keeps while there are none, in bytes.
const RECEIVE_KEPT_BYTES: usize = 64 << 10;

/// Unfinished commands up to this size are not counted: every connection has a buffer.
const LARGE_BYTES_MIN: usize = 256 << 10;

/// What the larger unfinished commands of all clients may take together, in bytes.
const LARGE_BYTES_MAX: usize = 512 << 20;

/// The share of one connection in the memory for large commands.
struct Large<'a> {
    total: &'a AtomicUsize,
    held: usize,
}

impl Large<'_> {
    /// Asks for `bytes` in all, or gives back what is beyond that. Whether they are there.
    fn hold(&mut self, bytes: usize) -> bool {
        let bytes = if bytes > LARGE_BYTES_MIN { bytes } else { 0 };
        if bytes != self.held {
            let total = self
                .total
                .fetch_add(bytes.wrapping_sub(self.held), Relaxed)
                .wrapping_add(bytes)
                .wrapping_sub(self.held);
            let is_growing = bytes > self.held;
            self.held = bytes;
            return !is_growing || total <= LARGE_BYTES_MAX;
        }
        true
    }
}

impl Drop for Large<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.held, Relaxed);
    }
}

/// Reads commands until the connection ends.
async fn read_commands(
    shard: &Rc<Shard>,
    server: &Server,
    stream: &Rc<TcpStream>,
    name: ConnectionRef,
    connection: &Rc<Connection>,
    shared: &ClientShared,
) {
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES_MIN);
    let mut large = Large { total: &server.large_commands, held: 0 };
    loop {
        let mut consumed = 0;
        let wanted = loop {
            let (size, taken) = shard.take_commands(name, connection, &buffer[consumed..]);
            consumed += size;
            connection.begin_wait(matches!(taken, Taken::NeedsRoom | Taken::NeedsAnswers), size > 0);
            match taken {
                Taken::All { wanted } => break wanted,
                // The log is full: nothing more is read from this socket until there is room again.
                Taken::NeedsRoom => shard.room.notified().await,
                Taken::NeedsAnswers => connection.settled.notified().await,
                Taken::NeedsSending => connection.drained.notified().await,
                Taken::Paused => {
                    ring::sleep(pause_step(server.clients.len())).await;
                    if is_reset(stream) {
                        connection.cut();
                    }
                }
                Taken::Closed => return,
            }
            connection.is_waiting.set(false);
            // What has waited so long that its client has gone is not carried out.
            if connection.is_broken.get() {
                return;
            }
        };
        if !large.hold((buffer.len() - consumed).max(wanted)) {
            return shard.refuse_commands(connection, TOO_MUCH);
        }
        make_room(&mut buffer, consumed, wanted);
        if buffer.is_empty() && buffer.capacity() > RECEIVE_KEPT_BYTES {
            // It may be idle from now on, as thousands of others.
            buffer = Vec::with_capacity(RECEIVE_KEPT_BYTES);
        }
        if shared.query_bytes.swap(buffer.len() as u64, Relaxed).max(buffer.len() as u64) > UNCOUNTED_BYTES as u64 {
            connection.note_memory();
        }
        while connection.replies.borrow().len() > REPLIES_PAUSE_BYTES && !connection.is_broken.get() {
            connection.drained.notified().await;
        }
        if connection.is_broken.get() || shard.is_stopping() {
            return;
        }
        shard.metrics.ring_operations.increment();
        let before = buffer.len();
        match read_more(stream, buffer).await {
            Some(bytes) => buffer = bytes,
            None => return,
        }
        let size = (buffer.len() - before) as u64;
        shard.meter().stats().input_bytes.add(size);
    }
}
