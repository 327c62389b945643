//! A key-value server in few lines, that does what a test's script says. Sessions work as in the real one.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lockstep_proto::hello::{Answer, Hello, Topology};
use lockstep_proto::limits::SESSION_WINDOW;
use lockstep_proto::reply::{ReplyParts, encode_reply};
use lockstep_proto::request::Request;
use lockstep_proto::{Operation, Status};
use zerocopy::FromBytes;

/// A connection without news for this long answers what it has put off.
const QUIET: Duration = Duration::from_millis(20);

/// What the server does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// What is asked.
    Answer,
    /// The whole server sleeps first.
    Stall(Duration),
    /// Executes it and closes the connection without an answer.
    Hang,
    /// Neither executes nor answers it.
    Swallow,
    /// Refuses it with this status and body.
    Refuse(Status, Vec<u8>),
    /// Answers a read with wrong bytes.
    Corrupt,
    /// Says that it was done, and does not do it.
    Forget,
    /// Executes it twice and answers.
    Double,
    /// Answers only once this many requests of the connection wait.
    PutOffUntil(usize),
}

/// What a script sees of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Requests before it on all connections, registers aside.
    pub(super) nth: u64,
    pub(super) operation: Operation,
}

type Script = Box<dyn FnMut(Seen) -> Act + Send>;

/// Everything the server knows.
#[derive(Default)]
pub(super) struct State {
    pub(super) values: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    /// Answers by session and sequence.
    answers: HashMap<(u64, u64), u64>,
    sums: HashMap<(u64, u64), (u64, i64)>,
    pub(super) sessions: u64,
    pub(super) revision: u64,
    pub(super) seen: u64,
    /// Writes that were executed.
    pub(super) executed: u64,
    /// Writes that came again after they had been executed.
    pub(super) repeated: u64,
    /// The most requests that one connection had put off.
    pub(super) put_off_max: usize,
}

/// Who the server says that it is.
#[derive(Debug, Clone)]
pub(super) struct Role {
    pub(super) replica: u8,
    pub(super) view: u64,
    pub(super) shard: u16,
    pub(super) shards: u16,
    pub(super) addresses: Vec<SocketAddr>,
}

struct Shared {
    role: Role,
    state: Mutex<State>,
    script: Mutex<Script>,
    is_over: AtomicBool,
}

/// The server; it ends when dropped.
pub(super) struct ScriptedServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    /// A lone server with a script.
    pub(super) fn start(script: impl FnMut(Seen) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addresses = vec![listener.local_addr().expect("it is bound")];
        let role = Role { replica: 0, view: 0, shard: 0, shards: 1, addresses };
        Self::serve(listener, role, script)
    }

    /// One that always does what is asked.
    pub(super) fn honest() -> Self {
        Self::start(|_| Act::Answer)
    }

    /// A server with a role on a listener.
    pub(super) fn serve(listener: TcpListener, role: Role, script: impl FnMut(Seen) -> Act + Send + 'static) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            role,
            state: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            is_over: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Looks at what it knows.
    pub(super) fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.lock().expect("no test panics while it holds the state"))
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        let shared = shared.clone();
        connections.push(std::thread::spawn(move || serve_connection(stream, &shared)));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn serve_connection(mut stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(QUIET)).expect("a socket option");
    let mut input = Vec::new();
    let mut output = Vec::new();
    let mut put_off: Vec<Vec<u8>> = Vec::new();
    let mut has_greeted = false;
    let mut piece = [0; 64 * 1024];
    while !shared.is_over.load(Ordering::Relaxed) {
        match stream.read(&mut piece) {
            Ok(0) => return,
            Ok(size) => input.extend_from_slice(&piece[..size]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                put_off.drain(..).for_each(|frame| shared.execute(&frame, &mut output));
            }
            Err(_) => return,
        }
        if !has_greeted {
            let Ok((hello, _)) = Hello::read_from_prefix(&input) else { continue };
            hello.check().expect("the generator's hello is sound");
            output.extend_from_slice(&shared.role.topology());
            input.drain(..Hello::SIZE);
            has_greeted = true;
        }
        let goes_on = shared.take_in(&mut input, &mut put_off, &mut output);
        if stream.write_all(&output).is_err() || !goes_on {
            return;
        }
        output.clear();
    }
}

impl Role {
    fn topology(&self) -> Vec<u8> {
        let text: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        Topology {
            answer: Answer::Welcome,
            replica: self.replica,
            shard: self.shard,
            shards: self.shards,
            cluster: 1,
            view: self.view,
            servers: self.addresses.len() as u8,
            window: SESSION_WINDOW as u16,
            text: text.join(","),
        }
        .encode()
    }
}

impl Shared {
    /// Handles every whole frame. False when the connection is to be closed.
    fn take_in(&self, input: &mut Vec<u8>, put_off: &mut Vec<Vec<u8>>, output: &mut Vec<u8>) -> bool {
        while let Some(request) = Request::parse(input).expect("the generator's frames are sound") {
            let frame = input[..request.size()].to_vec();
            let (operation, key) = (request.operation(), request.key().to_vec());
            input.drain(..frame.len());
            if operation == Operation::Register {
                self.execute(&frame, output);
                continue;
            }
            let shards = self.role.shards;
            assert_eq!(lockstep_proto::slot::shard_of_key(&key, shards), self.role.shard, "a key of another shard");
            let nth = {
                let mut state = self.state.lock().expect("nobody panics with it");
                state.seen += 1;
                state.seen - 1
            };
            let act = (self.script.lock().expect("no script panics"))(Seen { nth, operation });
            match act {
                Act::Answer => self.execute(&frame, output),
                Act::Stall(time) => {
                    let held = self.state.lock().expect("nobody panics with it");
                    std::thread::sleep(time);
                    drop(held);
                    self.execute(&frame, output);
                }
                Act::Hang => {
                    self.execute(&frame, &mut Vec::new());
                    return false;
                }
                Act::Double => {
                    self.execute(&frame, &mut Vec::new());
                    self.state.lock().expect("nobody panics with it").forget_answers();
                    self.execute(&frame, output);
                }
                Act::Swallow => {}
                Act::Refuse(status, body) => self.refuse(&frame, status, &body, output),
                Act::Corrupt => self.corrupt(&frame, output),
                Act::Forget => self.forget(&frame, output),
                Act::PutOffUntil(count) => {
                    put_off.push(frame);
                    let mut state = self.state.lock().expect("nobody panics with it");
                    state.put_off_max = state.put_off_max.max(put_off.len());
                    drop(state);
                    if put_off.len() >= count && input.is_empty() {
                        put_off.drain(..).for_each(|frame| self.execute(&frame, output));
                    }
                }
            }
        }
        true
    }

    fn execute(&self, frame: &[u8], output: &mut Vec<u8>) {
        let request = Request::parse(frame).expect("it was sound").expect("it was whole");
        let mut state = self.state.lock().expect("nobody panics with it");
        let (status, version, body) = match request.operation() {
            Operation::Register => {
                state.sessions += 1;
                (Status::Ok, state.sessions, Vec::new())
            }
            Operation::Put => (Status::Ok, state.put(&request), Vec::new()),
            Operation::Increment => {
                let (version, sum) = state.increment(&request);
                (Status::Ok, version, sum.to_le_bytes().to_vec())
            }
            Operation::Get => match state.values.get(request.key()) {
                Some((version, value)) => (Status::Ok, *version, value.clone()),
                None => (Status::NotFound, 0, Vec::new()),
            },
            other => panic!("the generator does not send {other:?}"),
        };
        encode_reply(&parts(&request, status, version), &body, output);
    }

    fn refuse(&self, frame: &[u8], status: Status, body: &[u8], output: &mut Vec<u8>) {
        let request = Request::parse(frame).expect("it was sound").expect("it was whole");
        encode_reply(&parts(&request, status, 0), body, output);
    }

    fn corrupt(&self, frame: &[u8], output: &mut Vec<u8>) {
        let request = Request::parse(frame).expect("it was sound").expect("it was whole");
        encode_reply(&parts(&request, Status::Ok, u64::MAX), b"this is no value of that key at all", output);
    }

    fn forget(&self, frame: &[u8], output: &mut Vec<u8>) {
        let request = Request::parse(frame).expect("it was sound").expect("it was whole");
        let mut state = self.state.lock().expect("nobody panics with it");
        state.revision += 1;
        encode_reply(&parts(&request, Status::Ok, state.revision), &[], output);
    }
}

impl State {
    /// From now on what comes again is executed again.
    fn forget_answers(&mut self) {
        self.answers.clear();
        self.sums.clear();
    }

    /// Executes an increment once, and gives its version and sum.
    fn increment(&mut self, request: &Request<'_>) -> (u64, i64) {
        let sum_of = |value: &[u8]| std::str::from_utf8(value).expect("a counter holds text").parse::<i64>();
        let id = (request.session(), request.sequence());
        if let Some(&answer) = self.sums.get(&id) {
            self.repeated += 1;
            return answer;
        }
        let before = self.values.get(request.key()).map_or(0, |(_, value)| sum_of(value).expect("a number"));
        let sum = before + request.delta();
        self.executed += 1;
        self.revision += 1;
        self.sums.insert(id, (self.revision, sum));
        self.values.insert(request.key().to_vec(), (self.revision, sum.to_string().into_bytes()));
        (self.revision, sum)
    }

    /// Executes a write once, however often it comes.
    fn put(&mut self, request: &Request<'_>) -> u64 {
        let id = (request.session(), request.sequence());
        if let Some(&version) = self.answers.get(&id) {
            self.repeated += 1;
            return version;
        }
        self.executed += 1;
        self.revision += 1;
        self.answers.insert(id, self.revision);
        self.values.insert(request.key().to_vec(), (self.revision, request.value().to_vec()));
        self.revision
    }
}

fn parts(request: &Request<'_>, status: Status, version: u64) -> ReplyParts {
    ReplyParts { status, operation: request.operation(), copies: 1, sequence: request.sequence(), version }
}
