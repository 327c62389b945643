//! A cluster that speaks the protocol and misbehaves as told.
//!
//! Its servers listen on ports of the system's choice and share one [`Machine`], as if they replicated it. Every
//! request that arrives is noted down and shown to the test's hook, which says what becomes of it: see [`Action`].

mod connection;
mod machine;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use lockstep_client::{Client, ClientOptions};
use lockstep_proto::{
    Operation, Status,
    hello::{Answer, Topology},
    reply::encode_keep_alive,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::JoinHandle,
};

pub use machine::Machine;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster's id.
pub const CLUSTER: u128 = 0xC1A5;

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts the connections of the whole cluster, from 0; the one that discovers the topology is a connection too.
    pub connection: usize,
    pub server: usize,
    pub operation: Operation,
    pub session: u64,
    pub sequence: u64,
    pub key: Vec<u8>,
    /// Items of a multi-get.
    pub items: usize,
    /// How many requests with this session and sequence have arrived before it.
    pub repeats: usize,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is carried out and answered.
    Answer,
    /// It is carried out and answered twice.
    AnswerTwice,
    /// It is carried out, and answered when the test says so.
    Hold,
    /// It is not carried out and not answered.
    Ignore,
    /// It is not carried out, and its sender is told so.
    Refuse(Status),
    /// The connection is closed before it is carried out.
    Close,
    /// It is carried out; then the connection is closed before the answer.
    CarryOutAndClose,
    /// It is carried out; then the connection is closed in the middle of the answer.
    CarryOutAndTear,
    /// It is carried out and these bytes are sent instead of the answer.
    CarryOutAndSend(Vec<u8>),
}

type Hook = Box<dyn FnMut(&Seen) -> Action + Send>;

/// An answer that is held back.
pub struct Held {
    pub seen: Seen,
    bytes: Vec<u8>,
    connection: mpsc::UnboundedSender<connection::Out>,
}

impl Held {
    /// Whether the connection that waits for the answer is gone.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

/// What the connections of all servers share.
pub struct State {
    pub machine: Machine,
    pub seen: Vec<Seen>,
    pub held: Vec<Held>,
    /// Requests with a session that have arrived and were not answered, as (session, sequence).
    outstanding: BTreeSet<(u64, u64)>,
    /// The largest distance from the oldest outstanding sequence of a session to one that arrived.
    pub widest_window: u64,
    pub connections: usize,
    pub cluster: u128,
    pub view: u64,
    /// A server that knows nothing of later views than this one and answers nothing but hellos and pings.
    pub left_behind: Option<(usize, u64)>,
    pub window: u16,
    /// What servers say to a hello, if not welcome.
    pub refusal: Option<Answer>,
    /// Bytes that servers send instead of a topology.
    pub topology_bytes: Option<Vec<u8>>,
    hook: Hook,
}

/// What connections need besides the state.
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// What the topology says: the servers' base addresses.
    advertised: Mutex<Vec<String>>,
    shards: u16,
}

struct Server {
    base_port: u16,
    /// Keep others from the ports once the server has been stopped, and do not listen.
    holders: Vec<TcpSocket>,
    /// Accepts connections, and ends them all when it is aborted.
    listeners: Vec<JoinHandle<()>>,
}

/// The cluster. Ends with its value.
pub struct Fake {
    shared: Arc<Shared>,
    servers: Vec<Server>,
}

impl Fake {
    pub async fn start(servers: usize, shards: u16) -> Fake {
        let state = State {
            machine: Machine::default(),
            seen: Vec::new(),
            held: Vec::new(),
            outstanding: BTreeSet::new(),
            widest_window: 0,
            connections: 0,
            cluster: CLUSTER,
            view: 0,
            left_behind: None,
            window: 256,
            refusal: None,
            topology_bytes: None,
            hook: Box::new(|_| Action::Answer),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            advertised: Mutex::new(Vec::new()),
            shards,
        });
        let mut fake = Fake { shared, servers: Vec::new() };
        for id in 0..servers {
            let listeners = bind_neighbours(shards).await;
            let base_port = listeners[0].local_addr().unwrap().port();
            fake.servers.push(Server { base_port, holders: Vec::new(), listeners: fake.serve(id, listeners) });
        }
        *fake.shared.advertised.lock().unwrap() = fake.addresses();
        fake
    }

    /// One server with one shard, whose requests go through `hook`.
    pub async fn single(hook: impl FnMut(&Seen) -> Action + Send + 'static) -> Fake {
        let fake = Fake::start(1, 1).await;
        fake.hook(hook);
        fake
    }

    fn serve(&self, id: usize, listeners: Vec<TcpListener>) -> Vec<JoinHandle<()>> {
        let serve =
            |(shard, listener)| tokio::spawn(connection::accept(self.shared.clone(), id, shard as u16, listener));
        listeners.into_iter().enumerate().map(serve).collect()
    }

    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("127.0.0.1:{}", server.base_port)).collect()
    }

    /// Lets the servers name other addresses than those they listen on.
    pub fn advertise(&self, addresses: Vec<String>) {
        *self.shared.advertised.lock().unwrap() = addresses;
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Decides from now on what becomes of requests.
    pub fn hook(&self, hook: impl FnMut(&Seen) -> Action + Send + 'static) {
        self.state().hook = Box::new(hook);
    }

    /// A client with short pauses, so that tests are quick, and long timeouts, so that a busy machine is not a failure.
    pub async fn client(&self) -> Client {
        Client::connect(self.addresses(), options()).await.unwrap()
    }

    /// Waits until `is_so`.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) -> impl Future<Output = ()> {
        let mut changed = self.shared.changed.subscribe();
        let shared = self.shared.clone();
        let what = what.to_owned();
        async move {
            let wait = async {
                while !is_so(&shared.state.lock().unwrap()) {
                    changed.changed().await.unwrap();
                }
            };
            if tokio::time::timeout(PATIENCE, wait).await.is_err() {
                let state = shared.state.lock().unwrap();
                panic!("never happened: {what}; {} held, seen: {:?}", state.held.len(), state.seen);
            }
        }
    }

    /// Sends the held answers that `take` takes out, in the order in which it gives them.
    pub fn release(&self, take: impl FnOnce(&mut Vec<Held>) -> Vec<Held>) {
        let mut state = self.state();
        for held in take(&mut state.held) {
            state.outstanding.remove(&(held.seen.session, held.seen.sequence));
            // A connection that is gone takes no answers.
            let _ = held.connection.send(connection::Out::Bytes(held.bytes));
        }
    }

    /// Has the servers say that they are there wherever an answer is held back.
    pub fn keep_alive(&self) {
        let mut bytes = Vec::new();
        encode_keep_alive(&mut bytes);
        for held in &self.state().held {
            let _ = held.connection.send(connection::Out::Bytes(bytes.clone()));
        }
    }

    /// Ends a server: its ports are closed, and so are its connections.
    pub async fn stop(&mut self, id: usize) {
        for listener in self.servers[id].listeners.drain(..) {
            listener.abort();
            let _ = listener.await;
        }
        if self.servers[id].holders.is_empty() {
            let base_port = self.servers[id].base_port;
            self.servers[id].holders = (base_port..base_port + self.shared.shards).filter_map(hold).collect();
        }
    }

    /// Starts a stopped server at its old ports.
    pub async fn restart(&mut self, id: usize) {
        let base_port = self.servers[id].base_port;
        let mut listeners = Vec::new();
        for shard in 0..self.shared.shards {
            listeners.push(bind_again(base_port + shard).await);
        }
        self.servers[id].listeners = self.serve(id, listeners);
    }

    /// The requests that have arrived and are about a key of the store, in their order.
    pub fn seen(&self, operation: Operation) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.operation == operation).cloned().collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.servers.iter().flat_map(|server| &server.listeners).for_each(JoinHandle::abort);
    }
}

impl State {
    pub fn count(&self, operation: Operation) -> usize {
        self.seen.iter().filter(|seen| seen.operation == operation).count()
    }
}

impl Shared {
    fn topology(&self, server: usize, shard: u16) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        if let Some(bytes) = &state.topology_bytes {
            return bytes.clone();
        }
        let advertised = self.advertised.lock().unwrap();
        let topology = Topology {
            answer: state.refusal.unwrap_or(Answer::Welcome),
            replica: server as u8,
            shard,
            shards: self.shards,
            cluster: state.cluster,
            view: state.left_behind.filter(|(left, _)| *left == server).map_or(state.view, |(_, view)| view),
            servers: advertised.len() as u8,
            window: state.window,
            text: if state.refusal.is_some() { "go away".to_owned() } else { advertised.join(",") },
        };
        topology.encode()
    }
}

/// Options for tests.
pub fn options() -> ClientOptions {
    ClientOptions::new()
        .request_timeout(PATIENCE)
        .attempt_timeout(PATIENCE)
        .silence_timeout(PATIENCE)
        .connect_timeout(PATIENCE)
        .retries_max(50)
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
}

/// A socket that keeps a port from those who ask the system for one, and from nobody else.
fn hold(port: u16) -> Option<TcpSocket> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).ok().map(|()| socket)
}

/// A listener on a port that has just been closed. A process that another test is just starting may hold it for a
/// moment longer.
pub async fn bind_again(port: u16) -> TcpListener {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Listeners on as many neighbouring ports as there are shards.
async fn bind_neighbours(shards: u16) -> Vec<TcpListener> {
    for _ in 0..1000 {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_port = first.local_addr().unwrap().port();
        let mut listeners = vec![first];
        for shard in 1..shards {
            let Some(port) = base_port.checked_add(shard) else { break };
            let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await else { break };
            listeners.push(listener);
        }
        if listeners.len() == usize::from(shards) {
            return listeners;
        }
    }
    panic!("no {shards} neighbouring ports are free");
}
