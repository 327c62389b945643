//! A server that only answers: what the generator can reach at best, with no store, no log and no other server behind.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use lockstep_proto::hello::{Answer, Hello, Topology};
use lockstep_proto::limits::SESSION_WINDOW;
use lockstep_proto::reply::{ReplyParts, encode_reply};
use lockstep_proto::request::Request;
use lockstep_proto::{Operation, Status};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};
use zerocopy::FromBytes;

use super::ring;

/// Large enough for everything that one connection of the ceiling measurement has in flight.
const READ_SIZE: usize = 256 * 1024;

/// How often the server looks whether it should end.
const STOP_POLL: Duration = Duration::from_millis(5);

/// Attempts to find neighbouring free ports.
const BIND_ATTEMPTS: usize = 100;

/// A running server on a thread of its own; it ends when dropped.
#[derive(Debug)]
pub struct AnsweringServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    cpu_ns: Arc<AtomicU64>,
}

impl AnsweringServer {
    /// Starts one on a free port of this host, and on the ports after it for further shards.
    ///
    /// # Errors
    ///
    /// When there is no such port, or no io_uring.
    pub fn start(shards: u16) -> io::Result<Self> {
        let listeners = bind_neighbours(shards)?;
        let address = listeners[0].local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let cpu_ns = Arc::new(AtomicU64::new(0));
        let (stop_seen, cpu_seen) = (stop.clone(), cpu_ns.clone());
        let (ready, readiness) = std::sync::mpsc::channel();
        let thread = Builder::new().name("answering".to_owned()).spawn(move || {
            let runtime = match ring::runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            runtime.block_on(serve(listeners, address, &stop_seen, &cpu_seen));
        })?;
        readiness.recv().map_err(|_| io::Error::other("the answering thread ended early"))??;
        Ok(Self { address, stop, thread: Some(thread), cpu_ns })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time that the server's thread has used so far, as of some milliseconds ago.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Ordering::Relaxed))
    }
}

impl Drop for AnsweringServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// Listeners on ports that follow one another.
pub(super) fn bind_neighbours(shards: u16) -> io::Result<Vec<StdListener>> {
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..BIND_ATTEMPTS {
        let first = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let base = first.local_addr()?.port();
        let bind = |shard: u16| {
            let port = base.checked_add(shard).ok_or(io::ErrorKind::AddrNotAvailable)?;
            StdListener::bind((Ipv4Addr::LOCALHOST, port))
        };
        match (1..shards).map(bind).collect::<io::Result<Vec<_>>>() {
            Ok(others) => return Ok(std::iter::once(first).chain(others).collect()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn serve(listeners: Vec<StdListener>, base: SocketAddr, stop: &AtomicBool, cpu_ns: &AtomicU64) {
    let shards = listeners.len() as u16;
    let sessions = Rc::new(Cell::new(0));
    for (shard, listener) in listeners.into_iter().enumerate() {
        let listener = TcpListener::from_std(listener);
        let topology = Topology {
            answer: Answer::Welcome,
            replica: 0,
            shard: shard as u16,
            shards,
            cluster: 1,
            view: 0,
            servers: 1,
            window: SESSION_WINDOW as u16,
            text: base.to_string(),
        }
        .encode();
        let sessions = sessions.clone();
        tokio_uring::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio_uring::spawn(answer(stream, topology.clone(), sessions.clone()));
            }
        });
    }
    while !stop.load(Ordering::Relaxed) {
        ring::sleep(STOP_POLL).await;
        cpu_ns.store(super::coordinator::thread_cpu_ns(), Ordering::Relaxed);
    }
}

/// Serves one connection until it ends or does not make sense.
async fn answer(stream: TcpStream, topology: Vec<u8>, sessions: Rc<Cell<u64>>) {
    // Without it an answer might wait for the next; with an error here the connection is broken anyway.
    let _ = stream.set_nodelay(true);
    let mut input = Vec::with_capacity(READ_SIZE);
    let mut output = Vec::with_capacity(READ_SIZE);
    let mut has_greeted = false;
    let mut version = 0;
    loop {
        let filled = input.len();
        let (read, slice) = stream.read(input.slice(filled..)).await;
        input = slice.into_inner();
        if !matches!(read, Ok(size) if size > 0) {
            return;
        }
        let mut consumed = 0;
        if !has_greeted {
            let Ok((hello, _)) = Hello::read_from_prefix(&input) else { continue };
            if hello.check().is_err() {
                return;
            }
            output.extend_from_slice(&topology);
            consumed = Hello::SIZE;
            has_greeted = true;
        }
        loop {
            match Request::parse(&input[consumed..]) {
                Ok(Some(request)) => {
                    consumed += request.size();
                    version += 1;
                    let version = match request.operation() {
                        Operation::Register => next(&sessions),
                        _ => version,
                    };
                    let parts = ReplyParts {
                        status: Status::Ok,
                        operation: request.operation(),
                        copies: 1,
                        sequence: request.sequence(),
                        version,
                    };
                    encode_reply(&parts, &[], &mut output);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        input.drain(..consumed);
        if input.len() == input.capacity() {
            input.reserve(READ_SIZE);
        }
        let (written, mut back) = stream.write_all(output).await;
        back.clear();
        output = back;
        if written.is_err() {
            return;
        }
    }
}

fn next(sessions: &Cell<u64>) -> u64 {
    sessions.set(sessions.get() + 1);
    sessions.get()
}
