//! One generating thread: a ring, and on it a task per connection that sends, one that reads, and one that keeps time.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use lockstep_proto::limits::REPLY_BODY_SIZE_MAX;
use lockstep_proto::reply::ReplyHeader;

use super::StopFlag;
use super::engine::{Engine, Next};
use super::handshake::{Finder, HandshakeError, greet, register, shard_address};
use super::notify::Notify;
use super::replies::After;
use super::ring;

/// How often time-outs, refused requests and the end of the run are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Ticks between two looks for requests that have waited too long.
const TICKS_PER_EXPIRY: u32 = 20;

/// A read buffer at first; it grows when a reply is larger.
const READ_SIZE: usize = 32 * 1024;

/// Pause between attempts to connect, at first and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Requests due within this time are sent together. Without it, a generator at a high rate would wake up for each one.
const PACING_GRAIN: Duration = Duration::from_micros(10);

/// The state that the tasks of a thread share.
pub(super) struct Worker {
    engine: RefCell<Engine>,
    /// One per lane: there is something to send, or the connection is broken.
    wakes: Vec<Notify>,
    /// There is room for what the pacer holds back.
    room: Notify,
    /// The present connection of each lane.
    links: Vec<RefCell<Option<Rc<TcpStream>>>>,
    /// Write buffers, the one used last on top, for it is the one in the cache.
    buffers: RefCell<Vec<Vec<u8>>>,
    started: Instant,
    is_over: Cell<bool>,
}

/// A lane's first connection, made before the run starts.
pub(super) struct Opened {
    stream: Rc<TcpStream>,
    finder: Finder,
    session: u64,
}

/// Opens every lane's connection and session, all at once.
///
/// # Errors
///
/// When one cannot be opened within `patience`: the last reason.
pub(super) async fn open_all(
    finder: &Finder, lanes: usize, shards: u16, patience: Duration,
) -> Result<Vec<Opened>, (std::net::SocketAddr, HandshakeError)> {
    let deadline = Instant::now() + patience;
    let attempts: Vec<_> = (0..lanes)
        .map(|lane| {
            let finder = finder.clone();
            let shard = (lane % usize::from(shards)) as u16;
            tokio_uring::spawn(async move { open(finder, shard, shards, deadline).await })
        })
        .collect();
    let mut opened = Vec::with_capacity(lanes);
    for attempt in attempts {
        opened.push(attempt.await.expect("a connecting task does not panic")?);
    }
    Ok(opened)
}

async fn open(
    mut finder: Finder, shard: u16, shards: u16, deadline: Instant,
) -> Result<Opened, (std::net::SocketAddr, HandshakeError)> {
    let mut pause = RETRY_PAUSE.0;
    loop {
        let address = shard_address(finder.candidate(), shard);
        let error = match connect(&mut finder, shard, shards, None).await {
            Ok((stream, session)) => return Ok(Opened { stream, finder, session }),
            Err(error) => error,
        };
        if error.is_final() || Instant::now() >= deadline {
            return Err((address, error));
        }
        ring::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

/// One attempt. Without a session to go on with, a new one is opened.
async fn connect(
    finder: &mut Finder, shard: u16, shards: u16, session: Option<u64>,
) -> Result<(Rc<TcpStream>, u64), HandshakeError> {
    let stream = match greet(finder, shard, shards).await {
        Ok(stream) => stream,
        Err(error) => {
            if !matches!(error, HandshakeError::Backup(_)) {
                finder.skip();
            }
            return Err(error);
        }
    };
    if let Some(session) = session {
        return Ok((stream, session));
    }
    match register(&stream).await {
        Ok(session) => Ok((stream, session)),
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
pub(super) async fn run(engine: Engine, opened: Vec<Opened>, started: Instant, stop: &StopFlag) -> Engine {
    let lanes = opened.len();
    let worker = Rc::new(Worker {
        engine: RefCell::new(engine),
        wakes: (0..lanes).map(|_| Notify::default()).collect(),
        room: Notify::default(),
        links: (0..lanes).map(|_| RefCell::new(None)).collect(),
        buffers: RefCell::default(),
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
    if worker.engine.borrow().is_open_loop() {
        tasks.push(tokio_uring::spawn(worker.clone().pace()));
    }
    worker.keep_time(stop).await;
    worker.is_over.set(true);
    worker.engine.borrow_mut().finish(worker.now_ns());
    for lane in 0..lanes {
        worker.break_link(lane);
        worker.wakes[lane].set();
    }
    worker.room.set();
    for task in tasks {
        // A task in the middle of a time-out to connect is not waited for.
        let _ = tokio::time::timeout(Duration::from_millis(50), task).await;
    }
    // Tasks that are still connecting hold the worker until the runtime is dropped, but they do not use the engine.
    worker.take_engine()
}

impl Worker {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn take_engine(self: Rc<Self>) -> Engine {
        todo_take(self)
    }

    /// Wakes the lanes that have got something to send; `own` is awake.
    #[inline]
    fn wake_touched(&self, engine: &mut Engine, own: Option<usize>) {
        for lane in engine.touched.drain(..) {
            if Some(lane) != own {
                self.wakes[lane].set();
            }
        }
        if engine.take_pacer_wake() {
            self.room.set();
        }
    }
}
