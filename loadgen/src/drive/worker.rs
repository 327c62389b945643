//! One generating thread: a ring, and on it a task per connection that sends, one that reads, and one that keeps time.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use lockstep_proto::limits::REPLY_BODY_SIZE_MAX;
use lockstep_proto::reply::ReplyHeader;

use super::RunSpec;
use super::coordinator::Flags;
use super::engine::{Engine, Next, Tally};
use super::handshake::{Finder, HandshakeError, greet, greet_resp, meet, register, shard_address};
use super::lane::WRITE_SIZE_MAX;
use super::notify::Notify;
use super::replies::After;
use super::resp::{Access, Protocol};
use super::ring;
use super::scout::{Primary, Scout};

/// How often time-outs, refused requests and the end of the run are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Ticks between two looks for requests that have waited too long.
const TICKS_PER_EXPIRY: u32 = 20;

/// A read buffer at first; it grows when a reply is larger.
const READ_SIZE: usize = 32 * 1024;

/// Pause between attempts to connect, at first and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How long a server that has just called itself the primary may take to accept another connection, and to answer its
/// hello.
const REACH_TIMEOUT: Duration = Duration::from_millis(500);

/// A request that has waited this long makes its connection look whether there is a newer primary.
const DOUBT_AFTER_NS: u64 = 100_000_000;

/// Requests due within this time are sent together. Without it, a generator at a high rate would wake up for each one.
const PACING_GRAIN: Duration = Duration::from_micros(10);

/// Stands for a session where there are none: not 0, which would ask for one.
const NO_SESSION: u64 = 1;

/// The state that the tasks of a thread share.
pub(super) struct Worker {
    engine: RefCell<Engine>,
    access: Access,
    /// One per lane: there is a rest to write, or the connection is broken.
    wakes: Vec<Notify>,
    /// Some lane has something to send.
    turn_end: Notify,
    /// There is room for what the pacer holds back.
    room: Notify,
    links: Vec<RefCell<Link>>,
    /// One per shard.
    scouts: Vec<Rc<Scout>>,
    /// Frames on their way to the kernel; one for all lanes, so that it stays in the cache.
    frames: RefCell<Vec<u8>>,
    started: Instant,
    is_over: Cell<bool>,
}

/// The present connection of a lane.
#[derive(Default)]
struct Link {
    stream: Option<Rc<TcpStream>>,
    /// What the socket had no room for. Until it is written, nothing else is sent.
    rest: Vec<u8>,
}

/// A lane's first connection, made before the run starts.
pub(super) struct Opened {
    stream: Rc<TcpStream>,
    servers: Vec<SocketAddr>,
    primary: Primary,
    session: u64,
}

/// Opens every lane's connection and session, all at once.
///
/// # Errors
///
/// When one cannot be opened within `patience`: the last reason.
pub(super) async fn open_all(
    finder: &Finder,
    lanes: usize,
    spec: &RunSpec,
    patience: Duration,
) -> Result<Vec<Opened>, (SocketAddr, HandshakeError)> {
    let deadline = Instant::now() + patience;
    let attempts: Vec<_> = (0..lanes)
        .map(|lane| {
            let finder = finder.clone();
            let (access, shards) = (Access::of(spec), spec.shards);
            let shard = (lane % usize::from(shards)) as u16;
            tokio_uring::spawn(async move { open(&access, finder, shard, shards, deadline).await })
        })
        .collect();
    let mut opened = Vec::with_capacity(lanes);
    for attempt in attempts {
        opened.push(attempt.await.expect("a connecting task does not panic")?);
    }
    Ok(opened)
}

async fn open(
    access: &Access,
    mut finder: Finder,
    shard: u16,
    shards: u16,
    deadline: Instant,
) -> Result<Opened, (SocketAddr, HandshakeError)> {
    let mut pause = RETRY_PAUSE.0;
    loop {
        let address = shard_address(finder.candidate(), shard);
        let attempt = match access.protocol {
            Protocol::Native => connect(&mut finder, shard, shards).await,
            Protocol::Resp => connect_resp(access, &mut finder).await,
        };
        let error = match attempt {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        if error.is_final() || Instant::now() >= deadline {
            return Err((address, error));
        }
        ring::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

/// One attempt at a connection in RESP, where there are no sessions.
async fn connect_resp(access: &Access, finder: &mut Finder) -> Result<Opened, HandshakeError> {
    let stream = greet_resp(access, finder).await?;
    let primary = Primary { server: finder.server(), view: 0, address: finder.candidate() };
    Ok(Opened { stream, servers: finder.servers().to_vec(), primary, session: NO_SESSION })
}

/// One attempt at a connection and a session on it.
async fn connect(finder: &mut Finder, shard: u16, shards: u16) -> Result<Opened, HandshakeError> {
    let (stream, topology) = match greet(finder, shard, shards).await {
        Ok(greeted) => greeted,
        Err(error) => {
            if !matches!(error, HandshakeError::Backup(_)) {
                finder.skip();
            }
            return Err(error);
        }
    };
    let server = usize::from(topology.replica);
    let primary = Primary { server, view: topology.view, address: shard_address(finder.candidate(), shard) };
    match register(&stream).await {
        Ok(session) => Ok(Opened { stream, servers: finder.servers().to_vec(), primary, session }),
        Err(error) => {
            match error {
                HandshakeError::NoSession(_, Some(view)) => finder.point_at_view(view),
                HandshakeError::NoSession(_, None) => {}
                _ => finder.skip(),
            }
            Err(error)
        }
    }
}

/// Runs until the plan is over and answered, or `stop` is set. Times count from `started`.
pub(super) async fn run(engine: Engine, access: Access, opened: Vec<Opened>, started: Instant, flags: &Flags) -> Tally {
    let lanes = opened.len();
    let shards = engine.bounds.shards;
    let scout = |shard: u16| {
        // Lanes go round the shards, so the first ones have one of each.
        let Opened { servers, primary, .. } = &opened[usize::from(shard)];
        Rc::new(Scout::new(access.clone(), (shard, shards), servers.clone(), *primary))
    };
    let worker = Rc::new(Worker {
        scouts: (0..shards).map(scout).collect(),
        engine: RefCell::new(engine),
        access: access.clone(),
        wakes: (0..lanes).map(|_| Notify::default()).collect(),
        turn_end: Notify::default(),
        room: Notify::default(),
        links: (0..lanes).map(|_| RefCell::default()).collect(),
        frames: RefCell::default(),
        started,
        is_over: Cell::new(false),
    });
    if let Some(ahead) = started.checked_duration_since(Instant::now()) {
        ring::sleep(ahead).await;
    }
    let mut tasks: Vec<_> = opened
        .into_iter()
        .enumerate()
        .map(|(lane, opened)| tokio_uring::spawn(worker.clone().serve_lane(lane, opened)))
        .collect();
    tasks.push(tokio_uring::spawn(worker.clone().end_turns()));
    if worker.engine.borrow().is_open_loop() {
        tasks.push(tokio_uring::spawn(worker.clone().pace()));
    }
    worker.keep_time(flags).await;
    worker.engine.borrow_mut().finish(worker.now_ns());
    worker.is_over.set(true);
    for lane in 0..lanes {
        worker.break_link(lane);
        worker.wakes[lane].set();
    }
    worker.room.set();
    worker.turn_end.set();
    for task in tasks {
        // A task in the middle of an attempt to connect is not waited for; it ends with the runtime.
        let _ = tokio::time::timeout(Duration::from_millis(50), task).await;
    }
    worker.engine.borrow().tally
}

impl Worker {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Marks a lane as having something to send at the end of this turn.
    #[inline]
    fn touch(&self, engine: &mut Engine, lane: usize) {
        engine.touch(lane);
        self.turn_end.set();
    }

    /// At the end of each turn, when everything that had arrived has been taken in: one write for each lane that has
    /// something to send. Sending as each lane is read instead would wake the servers for crumbs.
    async fn end_turns(self: Rc<Self>) {
        while !self.is_over.get() {
            self.turn_end.wait().await;
            let mut engine = self.engine.borrow_mut();
            while let Some(lane) = engine.pop_touched() {
                self.send(&mut engine, lane);
                engine.settle(lane);
            }
            if engine.take_pacer_wake() {
                self.room.set();
            }
        }
    }

    /// Hands a lane's frames to the kernel at once: one system call is less than a submission and its completion. Only
    /// what the socket has no room for waits on the ring.
    fn send(&self, engine: &mut Engine, lane: usize) {
        let mut link = self.links[lane].borrow_mut();
        let mut frames = self.frames.borrow_mut();
        while let Some(stream) = &link.stream
            && link.rest.is_empty()
        {
            frames.clear();
            engine.fill(lane, self.now_ns(), &mut frames);
            if frames.is_empty() {
                return;
            }
            match send_now(stream, &frames) {
                Ok(sent) if sent == frames.len() && sent < WRITE_SIZE_MAX => return,
                Ok(sent) if sent == frames.len() => {}
                Ok(sent) => {
                    link.rest.extend_from_slice(&frames[sent..]);
                    self.wakes[lane].set();
                }
                Err(_) => {
                    // The reader sees the end of the connection and says why.
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
        }
    }

    /// Sends on a lane and keeps it connected, until the run is over.
    async fn serve_lane(self: Rc<Self>, lane: usize, opened: Opened) {
        let Opened { mut stream, primary, session, .. } = opened;
        let scout = self.scout(lane);
        {
            let state = &mut self.engine.borrow_mut().lanes[lane];
            (state.session, state.primary) = (session, Some(primary));
        }
        loop {
            *self.links[lane].borrow_mut() = Link { stream: Some(stream.clone()), rest: Vec::new() };
            let reader = tokio_uring::spawn(self.clone().read_lane(lane, stream.clone()));
            self.touch(&mut self.engine.borrow_mut(), lane);
            self.write_rests(lane, &stream).await;
            self.break_link(lane);
            let (reason, after) = reader.await.expect("a reading task does not panic");
            if self.is_over.get() {
                return;
            }
            self.note_loss(lane, &reason);
            if self.protocol() == Protocol::Resp {
                self.engine.borrow_mut().lose_answers(lane, self.now_ns());
            }
            let primary = self.engine.borrow().lanes[lane].primary.expect("it was connected");
            match after {
                After::Stay | After::Leave(None) => scout.lost(primary),
                After::Leave(Some(view)) => {
                    scout.hear_of(view);
                    scout.lost(primary);
                }
                After::Register => self.engine.borrow_mut().forget_session(lane, self.now_ns()),
            }
            match self.reconnect(lane).await {
                Some(again) => stream = again,
                None => return,
            }
        }
    }

    fn protocol(&self) -> Protocol {
        self.access.protocol
    }

    fn scout(&self, lane: usize) -> &Rc<Scout> {
        &self.scouts[lane % self.scouts.len()]
    }

    /// Connects a lane again; its session goes on, and what has no answer is sent again. `None` when the run is over.
    async fn reconnect(&self, lane: usize) -> Option<Rc<TcpStream>> {
        let scout = self.scout(lane);
        loop {
            let primary = scout.find(&self.is_over).await?;
            let attempt = self.attach(lane, primary).await;
            if self.is_over.get() {
                return None;
            }
            match attempt {
                Ok((stream, session, primary)) => {
                    let mut engine = self.engine.borrow_mut();
                    (engine.lanes[lane].session, engine.lanes[lane].primary) = (session, Some(primary));
                    engine.resend_all(lane);
                    let text = format!("connection {lane} is up again, with server {}", primary.server);
                    engine.events.add("connection-regained", text);
                    return Some(stream);
                }
                Err(HandshakeError::NoSession(_, Some(view))) => {
                    scout.hear_of(view);
                    scout.lost(primary);
                }
                Err(_) => scout.lost(primary),
            }
        }
    }

    /// Connects a lane to a primary; opens a session if it has none any more.
    async fn attach(&self, lane: usize, primary: Primary) -> Result<(Rc<TcpStream>, u64, Primary), HandshakeError> {
        let shards = self.engine.borrow().bounds.shards;
        let shard = (lane % usize::from(shards)) as u16;
        let (stream, heard) = meet(&self.access, primary.address, (shard, shards), REACH_TIMEOUT).await?;
        self.scout(lane).hear_of(heard.view);
        if !heard.is_primary {
            return Err(HandshakeError::Replica);
        }
        let session = match self.engine.borrow().lanes[lane].session {
            0 => None,
            session => Some(session),
        };
        let session = match session {
            Some(session) => session,
            None => register(&stream).await?,
        };
        Ok((stream, session, Primary { view: heard.view, ..primary }))
    }

    fn note_loss(&self, lane: usize, reason: &str) {
        let mut engine = self.engine.borrow_mut();
        engine.tally.lost_connections += 1;
        engine.events.add("connection-lost", format!("connection {lane}: {reason}"));
    }

    /// Ends what is going on on a lane's connection.
    fn break_link(&self, lane: usize) {
        if let Some(stream) = self.links[lane].borrow_mut().stream.take() {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Writes what the socket had no room for, and sends what could not be sent meanwhile, until the connection breaks.
    async fn write_rests(&self, lane: usize, stream: &TcpStream) {
        loop {
            self.wakes[lane].wait().await;
            let rest = self.links[lane].borrow().rest.clone();
            if !rest.is_empty() && stream.write_all(rest).await.0.is_err() {
                return;
            }
            {
                let mut link = self.links[lane].borrow_mut();
                if link.stream.is_none() {
                    return;
                }
                link.rest.clear();
            }
            self.touch(&mut self.engine.borrow_mut(), lane);
        }
    }

    /// Reads replies until the connection breaks or has to be left; says why.
    async fn read_lane(self: Rc<Self>, lane: usize, stream: Rc<TcpStream>) -> (String, After) {
        let ended = self.read_until_broken(lane, &stream).await;
        // The writer waits for its wake-up or for its write; both end now.
        self.break_link(lane);
        self.wakes[lane].set();
        ended
    }

    async fn read_until_broken(&self, lane: usize, stream: &TcpStream) -> (String, After) {
        let mut buffer: Vec<u8> = Vec::with_capacity(READ_SIZE);
        loop {
            let filled = buffer.len();
            let (read, slice) = stream.read(buffer.slice(filled..)).await;
            buffer = slice.into_inner();
            match read {
                Ok(0) => return ("the server closed it".to_owned(), After::Stay),
                Ok(_) => {}
                Err(error) => return (error.to_string(), After::Stay),
            }
            let consumed = {
                let mut engine = self.engine.borrow_mut();
                let answered_before = engine.tally.answered;
                let (consumed, after) = match engine.on_bytes(lane, &buffer, self.now_ns()) {
                    Ok(taken_in) => taken_in,
                    Err(error) => return (format!("what it answers cannot be read: {error}"), After::Stay),
                };
                if engine.tally.answered != answered_before {
                    self.scout(lane).answered();
                }
                if after != After::Stay {
                    return (engine.take_leave_words(), after);
                }
                self.touch(&mut engine, lane);
                consumed
            };
            keep_rest(self.protocol(), &mut buffer, consumed);
        }
    }

    /// Open loop: takes requests from the plan as they become due.
    async fn pace(self: Rc<Self>) {
        let alertness_ns = self.engine.borrow().alertness_ns();
        while !self.is_over.get() {
            let now_ns = self.now_ns();
            let next = {
                let mut engine = self.engine.borrow_mut();
                engine.tick(now_ns);
                let next = engine.pull_due(now_ns);
                self.turn_end.set();
                next
            };
            match next {
                Next::At(due_ns) => {
                    let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns).saturating_sub(alertness_ns));
                    if wait >= PACING_GRAIN || alertness_ns < PACING_GRAIN.as_nanos() as u64 {
                        ring::sleep(wait.max(PACING_GRAIN)).await;
                    }
                    // Answers are taken in meanwhile: to yield is to look at the ring.
                    while self.now_ns() < due_ns && !self.is_over.get() {
                        tokio::task::yield_now().await;
                    }
                }
                Next::Full => self.room.wait().await,
                Next::Ended => return,
            }
        }
    }

    /// Looks after everything that depends on time alone. Returns when the run is over.
    async fn keep_time(&self, flags: &Flags) {
        for tick in 1u32.. {
            ring::sleep(TICK).await;
            let now_ns = self.now_ns();
            let mut engine = self.engine.borrow_mut();
            engine.tick(now_ns);
            if flags.finish.is_set() {
                engine.end_plan(now_ns);
            }
            if flags.stop.is_set() || engine.is_done(now_ns) || now_ns >= engine.drain_until_ns() {
                return;
            }
            for lane in 0..self.wakes.len() {
                if engine.has_resend_due(lane, now_ns) {
                    self.touch(&mut engine, lane);
                }
                let is_left_behind = self.look_for_newer(&engine, lane, now_ns);
                if is_left_behind || tick.is_multiple_of(TICKS_PER_EXPIRY) && engine.expire(lane, now_ns) {
                    self.break_link(lane);
                    self.wakes[lane].set();
                }
            }
            self.turn_end.set();
        }
    }
}

impl Worker {
    /// Whether a lane that waits for an answer should go to the primary of a later view, if there is one. A server that
    /// is stopped, or cut off from the others, says nothing of the kind itself.
    fn look_for_newer(&self, engine: &Engine, lane: usize, now_ns: u64) -> bool {
        let state = &engine.lanes[lane];
        let Some(oldest) = state.ring.oldest() else { return false };
        if engine.frames.protocol() == Protocol::Resp {
            // There are no views to tell a later primary by.
            return false;
        }
        if now_ns.saturating_sub(oldest.asked.waits_since_ns()) < DOUBT_AFTER_NS || !self.is_linked(lane) {
            return false;
        }
        let scout = self.scout(lane);
        scout.doubt();
        let view = state.primary.map_or(0, |primary| primary.view);
        scout.primary().is_some_and(|newer| newer.view > view)
    }

    fn is_linked(&self, lane: usize) -> bool {
        self.links[lane].borrow().stream.is_some()
    }
}

/// Sends without waiting. Returns how many bytes the socket took, perhaps none.
fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, for the stream owns it.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => Ok(0),
        other => Ok(other?),
    }
}

/// Keeps what is not a whole reply yet at the beginning of the buffer, with room for the rest of it.
fn keep_rest(protocol: Protocol, buffer: &mut Vec<u8>, consumed: usize) {
    buffer.drain(..consumed);
    if protocol == Protocol::Native
        && let Some(&size) = buffer.first_chunk::<4>()
    {
        // A size beyond the bound is refused by the parser once the header is there.
        let size = (u32::from_le_bytes(size) as usize).min(ReplyHeader::SIZE + REPLY_BODY_SIZE_MAX);
        buffer.reserve(size.saturating_sub(buffer.len()));
    }
    if buffer.len() == buffer.capacity() {
        buffer.reserve(READ_SIZE.max(buffer.len()));
    }
}
