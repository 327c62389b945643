//! One connection of the fake cluster.

use std::sync::Arc;

use lockstep_proto::{
    Operation, Status,
    decoder::StreamDecoder,
    hello::{Hello, Role},
    items::{PeerStatus, StatusBody},
    reply::{ReplyParts, encode_reply},
    request::Request,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Action, Held, Seen, Shared};

/// What a connection's writer is told.
pub enum Out {
    Bytes(Vec<u8>),
    Close,
}

pub async fn accept(shared: Arc<Shared>, server: usize, shard: u16, listener: TcpListener) {
    // Aborting the task that accepts drops the set, which ends its connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = {
            let mut state = shared.state.lock().unwrap();
            state.connections += 1;
            state.connections - 1
        };
        connections.spawn(serve(shared.clone(), server, shard, connection, stream));
    }
}

async fn serve(shared: Arc<Shared>, server: usize, shard: u16, connection: usize, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut reader, writer) = stream.into_split();
    let mut hello = [0; Hello::SIZE];
    if reader.read_exact(&mut hello).await.is_err() {
        return;
    }
    let (hello, role) = Hello::parse(&hello).unwrap().unwrap();
    assert_eq!(role, Role::Client);
    assert_eq!(hello.shard.get(), shard);
    let (out, messages) = mpsc::unbounded_channel();
    let _ = out.send(Out::Bytes(shared.topology(server, shard)));
    let is_welcome = shared.state.lock().unwrap().refusal.is_none();
    if !is_welcome {
        let _ = out.send(Out::Close);
    }
    let place = Place { server, shard, connection };
    // Whichever half ends first ends the other.
    tokio::select! {
        () = write(writer, messages) => {}
        () = read(&shared, place, reader, out) => {}
    }
    shared.changed.send_replace(());
}

async fn write(mut writer: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Out>) {
    while let Some(Out::Bytes(bytes)) = messages.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy)]
struct Place {
    server: usize,
    shard: u16,
    connection: usize,
}

async fn read(shared: &Shared, place: Place, mut reader: OwnedReadHalf, out: mpsc::UnboundedSender<Out>) {
    let mut decoder = StreamDecoder::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match reader.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(size) => decoder.push(&piece[..size]),
        }
        while let Some(request) = decoder.next_request().expect("the client sends valid frames") {
            take(shared, place, &request, &out);
        }
        shared.changed.send_replace(());
    }
}

/// Notes a request down and does with it what the hook says.
fn take(shared: &Shared, place: Place, request: &Request<'_>, out: &mpsc::UnboundedSender<Out>) {
    let mut state = shared.state.lock().unwrap();
    let (session, sequence) = (request.session(), request.sequence());
    let is_same = |seen: &&Seen| session != 0 && (seen.session, seen.sequence) == (session, sequence);
    let seen = Seen {
        connection: place.connection,
        server: place.server,
        operation: request.operation(),
        session,
        sequence,
        key: request.key().to_vec(),
        items: request.multi_get_items().count(),
        repeats: state.seen.iter().filter(is_same).count(),
    };
    state.seen.push(seen.clone());
    if session != 0 {
        state.outstanding.insert((session, sequence));
        let &(_, oldest) = state.outstanding.range((session, 0)..).next().unwrap();
        state.widest_window = state.widest_window.max(sequence - oldest);
    }
    let primary = (state.view % shared.advertised.lock().unwrap().len() as u64) as usize;
    if state.left_behind.is_some_and(|(server, _)| server == place.server) {
        if request.operation() == Operation::Ping {
            let _ = out.send(Out::Bytes(reply(request, Status::Ok, 0, &[])));
        }
        return;
    }
    let is_for_primary = !matches!(request.operation(), Operation::Ping | Operation::Status);
    let action = if is_for_primary && place.server != primary {
        Action::Refuse(Status::NotPrimary)
    } else {
        (state.hook)(&seen)
    };
    let send = |bytes| drop(out.send(Out::Bytes(bytes)));
    if let Action::Refuse(status) = action {
        state.outstanding.remove(&(session, sequence));
        return send(refusal(request, status, state.view));
    }
    if let Action::Ignore = action {
        return;
    }
    if let Action::Close = action {
        return drop(out.send(Out::Close));
    }
    let bytes = match request.operation() {
        Operation::Status => status_reply(request, place, state.view, shared),
        Operation::MovePrimary => {
            let servers = shared.advertised.lock().unwrap().len() as u64;
            let to = request.move_to().map_or((state.view + 1) % servers, u64::from);
            while state.view % servers != to {
                state.view += 1;
            }
            reply(request, Status::Ok, 0, &state.view.to_le_bytes())
        }
        _ => state.machine.carry_out(request, shared.shards, place.shard),
    };
    match action {
        Action::Hold => return state.held.push(Held { seen, bytes, connection: out.clone() }),
        Action::Answer => send(bytes),
        Action::AnswerTwice => send([&bytes[..], &bytes].concat()),
        Action::CarryOutAndClose => drop(out.send(Out::Close)),
        Action::CarryOutAndTear => {
            send(bytes[..bytes.len() / 2].to_vec());
            let _ = out.send(Out::Close);
        }
        Action::CarryOutAndSend(other) => send(other),
        Action::Ignore | Action::Refuse(_) | Action::Close => unreachable!("done above"),
    }
    state.outstanding.remove(&(session, sequence));
}

fn refusal(request: &Request<'_>, status: Status, view: u64) -> Vec<u8> {
    let body = match status {
        Status::NotPrimary => view.to_le_bytes().to_vec(),
        _ => b"because the test says so".to_vec(),
    };
    reply(request, status, 0, &body)
}

fn status_reply(request: &Request<'_>, place: Place, view: u64, shared: &Shared) -> Vec<u8> {
    let servers = shared.advertised.lock().unwrap().len();
    let is_primary = view % servers as u64 == place.server as u64;
    let mut status = StatusBody::new_zeroed();
    status.view.set(view);
    status.op.set(70 + place.server as u64);
    status.commit.set(60);
    status.applied.set(50);
    status.uptime_ms.set(61_000);
    status.connections.set(4);
    status.shard.set(place.shard);
    status.shards.set(shared.shards);
    status.replica = place.server as u8;
    status.servers = servers as u8;
    status.role = u8::from(is_primary);
    status.in_sync = 0b11;
    if place.server == 2 && place.shard == 1 {
        status.is_deficient = 1;
        status.transfer_received_kib.set(1_000);
        status.transfer_size_kib.set(3_000);
    }
    let mut body = status.as_bytes().to_vec();
    for server in 0..servers {
        let mut peer = PeerStatus::new_zeroed();
        peer.replica = server as u8;
        peer.lag.set(10 * server as u64);
        body.extend_from_slice(peer.as_bytes());
    }
    reply(request, Status::Ok, 0, &body)
}

/// A reply frame.
pub fn reply(request: &Request<'_>, status: Status, version: u64, body: &[u8]) -> Vec<u8> {
    let copies = if request.operation().is_logged() { 2 } else { 0 };
    let parts = ReplyParts { status, operation: request.operation(), copies, sequence: request.sequence(), version };
    let mut bytes = Vec::new();
    encode_reply(&parts, body, &mut bytes);
    bytes
}
