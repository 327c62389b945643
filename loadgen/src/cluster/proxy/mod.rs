//! A link with a fixed delay between two servers, in user space.
//!
//! On one small machine more servers also means less CPU for each, and a latency that grows with their number may only
//! show that. A delay that dwarfs the CPU time brings the effect of distribution out. The proxy stands between servers
//! only; clients connect directly.
//!
//! One thread carries all links. Every piece of data is stamped when it arrives and leaves a fixed time later, in order;
//! pieces do not wait for each other's delay, so bandwidth is not reduced. A `timerfd` wakes the thread, for it is exact to
//! some tens of microseconds where a sleep or a runtime's timer wheel is not.

mod line;
mod poller;
mod relay;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use crate::record::ProcessRef;
use relay::Relay;

/// One address that is listened on, and where its connections lead.
#[derive(Debug)]
pub struct Route {
    /// Accepts connections from the dialling server.
    pub listener: TcpListener,
    /// The real address.
    pub target: SocketAddr,
}

/// A running proxy; dropping it closes all its connections.
#[derive(Debug)]
pub struct LinkProxy {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    tid: u32,
}

impl LinkProxy {
    /// Carries all `routes`, each direction delayed by `delay` (a round trip takes twice as long).
    ///
    /// # Errors
    ///
    /// When the kernel gives no epoll, timer or thread.
    pub fn start(routes: Vec<Route>, delay: Duration) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut relay = Relay::new(routes, delay, &stop)?;
        let (tell_tid, hear_tid) = mpsc::channel();
        let thread = std::thread::Builder::new().name("link-proxy".to_owned()).spawn(move || {
            let _ = tell_tid.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
            if let Err(error) = relay.run() {
                eprintln!("the link proxy has stopped: {error}");
            }
        })?;
        let tid = hear_tid.recv().map_err(|_| io::Error::other("the link proxy's thread ended at once"))?;
        Ok(Self { stop, thread: Some(thread), tid })
    }

    /// Its thread, for CPU accounting.
    pub fn process(&self) -> ProcessRef {
        ProcessRef { name: "link proxy".to_owned(), pid: std::process::id(), tid: Some(self.tid) }
    }
}

impl Drop for LinkProxy {
    fn drop(&mut self) {
        // An event counter takes any non-zero word; it can only refuse when it is full, and then it wakes as well.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
