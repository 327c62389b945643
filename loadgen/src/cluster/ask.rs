//! Questions to one server over a connection of its own, for whoever inflicts faults and wants to know what became of
//! them.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lockstep_proto::decoder::StreamDecoder;
use lockstep_proto::hello::{Answer, Hello, Topology};
use lockstep_proto::items::StatusBody;
use lockstep_proto::request::{MOVE_TO_ANY, RequestParts, encode_request};
use lockstep_proto::{Operation, Status};
use zerocopy::{FromBytes, IntoBytes};

/// A connection on which the server has said welcome.
pub(super) struct Conversation {
    stream: TcpStream,
    decoder: StreamDecoder,
}

/// What a server says about its replica of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplicaState {
    pub(super) view: u64,
    pub(super) is_primary: bool,
    pub(super) is_backup: bool,
    pub(super) commit: u64,
    pub(super) applied: u64,
    /// The in-sync set, a bit per server.
    pub(super) in_sync: u8,
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { view, is_primary, is_backup, commit, applied, in_sync } = self;
        let role = match (is_primary, is_backup) {
            (true, _) => "primary",
            (_, true) => "backup",
            _ => "neither primary nor backup",
        };
        write!(out, "{role}, view {view}, commit {commit}, applied {applied}, in-sync set {in_sync:#b}")
    }
}

impl Conversation {
    /// Connects to a server's port for a shard; each step may take `patience`.
    pub(super) fn open(base: SocketAddr, shard: u16, patience: Duration) -> io::Result<Self> {
        let mut address = base;
        address.set_port(base.port().wrapping_add(shard));
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.write_all(Hello::client(0, shard, 0).as_bytes())?;
        let mut decoder = StreamDecoder::new();
        let topology = loop {
            if let Some(topology) = decoder.next_with(Topology::parse).map_err(io::Error::other)? {
                break topology;
            }
            read_more(&mut stream, &mut decoder)?;
        };
        match topology.answer {
            Answer::Welcome => Ok(Self { stream, decoder }),
            answer => Err(io::Error::other(format!("it refuses us: {answer:?} {}", topology.text))),
        }
    }

    /// Sends one request without key or session and gives the reply's status and body.
    fn ask(&mut self, operation: Operation, arguments: &[u8]) -> io::Result<(Status, Vec<u8>)> {
        let parts = RequestParts { operation, flags: 0, session: 0, sequence: 1, key: &[], arguments, value: &[] };
        let mut frame = Vec::new();
        encode_request(&parts, &mut frame);
        self.stream.write_all(&frame)?;
        loop {
            while let Some(reply) = self.decoder.next_reply().map_err(io::Error::other)? {
                if !reply.is_keep_alive() {
                    return Ok((reply.status(), reply.body().to_vec()));
                }
            }
            read_more(&mut self.stream, &mut self.decoder)?;
        }
    }

    /// What it says about its replica.
    pub(super) fn state(&mut self) -> io::Result<ReplicaState> {
        let (status, body) = self.ask(Operation::Status, &[])?;
        let malformed = || io::Error::other(format!("its status ({status:?}) cannot be read"));
        let (body, _) = StatusBody::ref_from_prefix(&body).map_err(|_| malformed())?;
        Ok(ReplicaState {
            view: body.view.get(),
            is_primary: body.role == 1,
            is_backup: body.role == 0,
            commit: body.commit.get(),
            applied: body.applied.get(),
            in_sync: body.in_sync,
        })
    }

    /// Asks the primary to let another server take its place, and gives the view in which that one does.
    pub(super) fn move_primary(&mut self, to: Option<u8>) -> io::Result<u64> {
        let (status, body) = self.ask(Operation::MovePrimary, &[to.unwrap_or(MOVE_TO_ANY)])?;
        match (status, body[..].try_into().map(u64::from_le_bytes)) {
            (Status::Ok, Ok(view)) => Ok(view),
            _ => Err(io::Error::other(format!("{status:?}: {}", String::from_utf8_lossy(&body)))),
        }
    }
}

fn read_more(stream: &mut TcpStream, decoder: &mut StreamDecoder) -> io::Result<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        size => {
            decoder.push(&piece[..size]);
            Ok(())
        }
    }
}
