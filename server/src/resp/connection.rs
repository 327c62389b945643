//! Connections of the front door: accepting them, reading commands, sending answers.

use std::{
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio_uring::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::{
    client::{Client, ClientShared},
    door::Door,
    server::Server,
};
use crate::{
    metrics::RejectReason,
    ring,
    shard::{
        Shard, Taken,
        connections::{Connection, ConnectionRef, REPLIES_PAUSE_BYTES},
    },
    socket::{RECEIVE_BYTES_MIN, close_gently, make_room, read_more, send, write_replies},
};

/// What is said to a client that is one too many.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// How long a paused connection waits before it looks again whether it may go on.
const PAUSE_STEP: Duration = Duration::from_millis(5);

/// Accepts connections until the shard stops.
pub async fn accept_loop(shard: Rc<Shard>, server: Arc<Server>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                shard.metrics.ring_operations.increment();
                if shard.is_stopping() {
                    return;
                }
                let _ = stream.set_nodelay(true);
                tokio_uring::spawn(serve(shard.clone(), server.clone(), Rc::new(stream), peer));
            }
            Err(error) => {
                // Out of file descriptors, most likely: those that are open go on, and the next may fit again.
                warn!(shard = shard.shard, %error, "cannot accept a connection");
                ring::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(shard: Rc<Shard>, server: Arc<Server>, stream: Rc<TcpStream>, peer: SocketAddr) {
    if !server.clients.has_room(server.settings.clients_max.load(Relaxed)) {
        shard.metrics.count_rejected(RejectReason::Full);
        let _ = send(&stream, TOO_MANY.to_vec()).await;
        return close_gently(&stream).await;
    }
    let id = server.clients.next_id();
    let local = local_address(&stream).unwrap_or(peer);
    let is_authenticated = !server.settings.needs_password.load(Relaxed);
    let created_ns = shard.wall_ns();
    let (name, connection) = shard.open_door(|connection| {
        let shared = ClientShared::new(id, shard.shard, connection, stream.as_raw_fd(), peer, local, created_ns);
        Door::new(Client::new(Arc::new(shared), is_authenticated))
    });
    let shared = connection.door().expect("it was made with one").borrow().client.shared.clone();
    server.clients.enter(shared.clone());
    debug!(shard = shard.shard, id, "client connected");
    tokio::join!(
        async {
            read_commands(&shard, &stream, name, &connection, &shared).await;
            connection.is_ending.set(true);
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
    shard.close_connection(name);
}

fn local_address(stream: &TcpStream) -> Option<SocketAddr> {
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the borrow of it ends before that.
    let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    socket2::SockRef::from(&socket).local_addr().ok()?.as_socket()
}

/// Reads commands until the connection ends.
async fn read_commands(
    shard: &Rc<Shard>,
    stream: &Rc<TcpStream>,
    name: ConnectionRef,
    connection: &Rc<Connection>,
    shared: &ClientShared,
) {
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES_MIN);
    loop {
        let mut consumed = 0;
        let wanted = loop {
            let (size, taken) = shard.take_commands(name, connection, &buffer[consumed..]);
            consumed += size;
            match taken {
                Taken::All { wanted } => break wanted,
                // The log is full: nothing more is read from this socket until there is room again.
                Taken::NeedsRoom => shard.room.notified().await,
                Taken::NeedsAnswers => connection.settled.notified().await,
                Taken::NeedsSending => connection.drained.notified().await,
                Taken::Paused => ring::sleep(PAUSE_STEP).await,
                Taken::Closed => return,
            }
            if connection.is_broken.get() {
                return;
            }
        };
        make_room(&mut buffer, consumed, wanted);
        shared.query_bytes.store(buffer.len() as u64, Relaxed);
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
        shared.received_bytes.fetch_add((buffer.len() - before) as u64, Relaxed);
    }
}
