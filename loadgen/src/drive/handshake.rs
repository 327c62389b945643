//! From an address to a connection with the primary, and a session on it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::Duration;

use lockstep_proto::hello::{Answer, Hello, HelloError, Topology};
use lockstep_proto::reply::Reply;
use lockstep_proto::request::{FrameError, RequestParts, encode_request};
use lockstep_proto::{Operation, Status};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;
use zerocopy::IntoBytes;

use super::resp::{Access, Protocol, ask_cluster_size, reach_resp};

/// How long one server may take to accept, to answer a hello, or to open a session, before the next one is tried.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Room for a topology, the largest thing read here.
const READ_SIZE: usize = 8192;

/// Why one attempt led to no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The socket failed, or took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// What answered is no server of this version.
    #[error("it does not answer as a Lockstep server of this version: {0}")]
    Hello(#[from] HelloError),
    /// A reply that cannot be read.
    #[error("its reply cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// It said no.
    #[error("it refused the connection ({0:?}): {1}")]
    Refused(Answer, String),
    /// It opened no session; the view it is in, if that was the reason.
    #[error("it opened no session ({0:?})")]
    NoSession(Status, Option<u64>),
    /// What answers in RESP is of no use.
    #[error("it answers: {0}")]
    Resp(String),
    /// It wants a password, or another one.
    #[error("it answers: {0} (a password is given with --resp-password-file or in LOCKSTEP_RESP_PASSWORD)")]
    Password(String),
    /// It serves some of the keys, and names other servers for the rest.
    #[error(
        "it is in cluster mode with {0} shards, so most keys are answered with -MOVED, which this program does not follow: use \
         --protocol native, or servers without cluster mode"
    )]
    ClusterMode(u64),
    /// It is a replica, and cannot say which server takes writes.
    #[error("it is a replica and takes no writes")]
    Replica,
    /// It is a backup, and says which server is the primary.
    #[error("it is a backup; server {0} is the primary")]
    Backup(usize),
}

impl HandshakeError {
    /// Whether trying again later can help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Hello(_) | Self::Frame(_) | Self::Password(_) | Self::ClusterMode(_) => true,
            Self::Refused(answer, _) => !matches!(answer, Answer::Full | Answer::Stopping),
            _ => false,
        }
    }
}

/// Which server to try next: the one that was named as the primary, else one after the other.
#[derive(Debug, Clone)]
pub(super) struct Finder {
    servers: Vec<SocketAddr>,
    next: usize,
}

impl Finder {
    /// Looks among `servers`, the first of which is tried first.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, next: 0 }
    }

    /// The base address of each server, as far as they are known.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The base address to try now.
    pub(super) fn candidate(&self) -> SocketAddr {
        self.servers[self.next % self.servers.len()]
    }

    /// The number of the server to try now.
    pub(super) fn server(&self) -> usize {
        self.next % self.servers.len()
    }

    /// The candidate was of no use: the next one, please.
    pub(super) fn skip(&mut self) {
        self.next = (self.next + 1) % self.servers.len();
    }

    /// A server said who the primary is.
    pub(super) fn point_at(&mut self, server: usize) {
        if server < self.servers.len() {
            self.next = server;
        }
    }

    /// A server said in which view it is.
    pub(super) fn point_at_view(&mut self, view: u64) {
        self.next = (view % self.servers.len() as u64) as usize;
    }

    /// Learns the other servers where fewer were given than there are.
    fn learn(&mut self, topology: &Topology) {
        if self.servers.len() >= usize::from(topology.servers) {
            return;
        }
        let found = topology.addresses().map(|text| text.to_socket_addrs().ok().and_then(|mut found| found.next()));
        if let Some(servers) = found.collect::<Option<Vec<_>>>() {
            self.servers = servers;
        }
    }
}

/// A server's port for a shard.
pub(super) fn shard_address(base: SocketAddr, shard: u16) -> SocketAddr {
    let mut address = base;
    address.set_port(base.port().wrapping_add(shard));
    address
}

/// Connects to a server's shard and says hello; each of the two may take `patience`.
///
/// # Errors
///
/// When it cannot be reached, or is no server for this shard.
pub(super) async fn reach(
    address: SocketAddr,
    shard: u16,
    shards: u16,
    patience: Duration,
) -> Result<(Rc<TcpStream>, Topology), HandshakeError> {
    let stream = open_stream(address, patience).await?;
    let hello = Hello::client(0, shard, shards);
    let topology = within(&stream, patience, exchange(&stream, hello.as_bytes().to_vec(), Topology::parse)).await??;
    if topology.answer != Answer::Welcome {
        return Err(HandshakeError::Refused(topology.answer, topology.text));
    }
    Ok((stream, topology))
}

/// Connects.
///
/// # Errors
///
/// When it cannot within `patience`.
pub(super) async fn open_stream(address: SocketAddr, patience: Duration) -> Result<Rc<TcpStream>, HandshakeError> {
    let connecting = tokio::time::timeout(patience, TcpStream::connect(address));
    let stream = connecting.await.map_err(|_| timed_out(patience))??;
    stream.set_nodelay(true)?;
    Ok(Rc::new(stream))
}

/// What a server says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// Its view; 0 where there are none.
    pub(super) view: u64,
    /// Whether it calls itself the primary.
    pub(super) is_primary: bool,
}

/// Connects to a server's shard and asks whom it takes for the primary, in the protocol of the run.
///
/// # Errors
///
/// When it cannot be reached, or is no server for this shard.
pub(super) async fn meet(
    access: &Access,
    address: SocketAddr,
    (shard, shards): (u16, u16),
    patience: Duration,
) -> Result<(Rc<TcpStream>, Heard), HandshakeError> {
    match access.protocol {
        Protocol::Native => {
            let (stream, topology) = reach(address, shard, shards, patience).await?;
            let is_primary = expect_primary(&topology).is_ok();
            Ok((stream, Heard { view: topology.view, is_primary }))
        }
        Protocol::Resp => {
            let (stream, is_primary) = reach_resp(access, address, patience).await?;
            Ok((stream, Heard { view: 0, is_primary }))
        }
    }
}

/// Connects to the candidate, which has to take writes of all keys.
///
/// # Errors
///
/// When it cannot be reached or does not; then the finder goes on to the next.
pub(super) async fn greet_resp(access: &Access, finder: &mut Finder) -> Result<Rc<TcpStream>, HandshakeError> {
    match reach_resp(access, finder.candidate(), STEP_TIMEOUT).await {
        Ok((stream, true)) => match ask_cluster_size(&stream, STEP_TIMEOUT).await? {
            0 | 1 => Ok(stream),
            shards => Err(HandshakeError::ClusterMode(shards)),
        },
        Ok((_, false)) => {
            finder.skip();
            Err(HandshakeError::Replica)
        }
        Err(error) => {
            finder.skip();
            Err(error)
        }
    }
}

/// Whether the server that says this is the primary.
///
/// # Errors
///
/// When it is not: which one is.
pub(super) fn expect_primary(topology: &Topology) -> Result<(), HandshakeError> {
    let primary = (topology.view % u64::from(topology.servers)) as usize;
    if primary == usize::from(topology.replica) { Ok(()) } else { Err(HandshakeError::Backup(primary)) }
}

/// Connects to the candidate and greets it.
///
/// # Errors
///
/// When it cannot be reached, is no server for this shard, or is a backup; then the finder points at its primary.
pub(super) async fn greet(
    finder: &mut Finder,
    shard: u16,
    shards: u16,
) -> Result<(Rc<TcpStream>, Topology), HandshakeError> {
    let address = shard_address(finder.candidate(), shard);
    let (stream, topology) = reach(address, shard, shards, STEP_TIMEOUT).await?;
    finder.learn(&topology);
    if let Err(HandshakeError::Backup(primary)) = expect_primary(&topology) {
        finder.point_at(primary);
        return Err(HandshakeError::Backup(primary));
    }
    finder.point_at(usize::from(topology.replica));
    Ok((stream, topology))
}

/// Opens a session on a fresh connection.
///
/// # Errors
///
/// When the server does not, which a server without a quorum will not either.
pub(super) async fn register(stream: &Rc<TcpStream>) -> Result<u64, HandshakeError> {
    let mut frame = Vec::new();
    let parts = RequestParts {
        operation: Operation::Register,
        flags: 0,
        session: 0,
        sequence: 1,
        key: &[],
        arguments: &[],
        value: &[],
    };
    encode_request(&parts, &mut frame);
    let parse = |bytes: &[u8]| -> Result<_, HandshakeError> {
        let mut skipped = 0;
        while let Some(reply) = Reply::parse(&bytes[skipped..])? {
            skipped += reply.size();
            if !reply.is_keep_alive() {
                return Ok(Some(((reply.status(), reply.version(), view_of(&reply)), skipped)));
            }
        }
        Ok(None)
    };
    match within(stream, STEP_TIMEOUT, exchange(stream, frame, parse)).await?? {
        (Status::Ok, session, _) => Ok(session),
        (status, _, view) => Err(HandshakeError::NoSession(status, view)),
    }
}

/// The view that a server which is not the primary names in its refusal.
pub(super) fn view_of(reply: &Reply<'_>) -> Option<u64> {
    let view = reply.body().try_into().ok()?;
    (reply.status() == Status::NotPrimary).then(|| u64::from_le_bytes(view))
}

/// Sends `question` and reads until `parse` has made an answer of what came.
pub(super) async fn exchange<T, E: Into<HandshakeError>>(
    stream: &TcpStream,
    question: Vec<u8>,
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Result<T, HandshakeError> {
    stream.write_all(question).await.0?;
    let mut buffer = Vec::with_capacity(READ_SIZE);
    loop {
        if let Some((answer, _)) = parse(&buffer).map_err(Into::into)? {
            return Ok(answer);
        }
        if buffer.len() == buffer.capacity() {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let filled = buffer.len();
        let (read, slice) = stream.read(buffer.slice(filled..)).await;
        buffer = slice.into_inner();
        if read? == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}

/// Gives `step` its time. After that the socket is shut down, so that the kernel completes what is pending on it.
pub(super) async fn within<T>(
    stream: &TcpStream,
    patience: Duration,
    step: impl Future<Output = T>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(patience, step).await.map_err(|_| {
        // The connection is thrown away; whether the peer still hears of it does not matter.
        let _ = stream.shutdown(std::net::Shutdown::Both);
        timed_out(patience)
    })
}

fn timed_out(patience: Duration) -> HandshakeError {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")).into()
}
