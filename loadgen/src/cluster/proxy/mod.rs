//! A link with a fixed delay between two servers, in user space, that can be cut.
//!
//! On one small machine more servers also means less CPU for each, and a latency that grows with their number may only
//! show that. A delay that dwarfs the CPU time brings the effect of distribution out. The proxy stands between servers
//! only; clients connect directly.
//!
//! One thread carries all links. Every piece of data is stamped when it arrives and leaves a fixed time later, in
//! order; pieces do not wait for each other's delay, so bandwidth is not reduced. A `timerfd` wakes the thread, for it
//! is exact to some tens of microseconds where a sleep or a runtime's timer wheel is not.

mod line;
mod poller;
mod relay;

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
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
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    tid: u32,
}

/// What the proxy's thread is told.
#[derive(Debug)]
struct Control {
    /// Wakes the thread.
    wake: OwnedFd,
    orders: Mutex<Orders>,
}

#[derive(Debug, Default, Clone)]
struct Orders {
    is_over: bool,
    /// The routes, by their place, on which nothing is passed on.
    cut: BTreeSet<usize>,
}

impl Control {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        // An event counter takes any non-zero word; it can only refuse when it is full, and then it wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn orders(&self) -> Orders {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LinkProxy {
    /// Carries all `routes`, each direction delayed by `delay` (a round trip takes twice as long).
    ///
    /// # Errors
    ///
    /// When the kernel gives no epoll, timer or thread.
    pub fn start(routes: Vec<Route>, delay: Duration) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = Arc::new(Control { wake, orders: Mutex::default() });
        let mut relay = Relay::new(routes, delay, control.clone())?;
        let (tell_tid, hear_tid) = mpsc::channel();
        let thread = std::thread::Builder::new().name("link-proxy".to_owned()).spawn(move || {
            let _ = tell_tid.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
            if let Err(error) = relay.run() {
                eprintln!("the link proxy has stopped: {error}");
            }
        })?;
        let tid = hear_tid.recv().map_err(|_| io::Error::other("the link proxy's thread ended at once"))?;
        Ok(Self { control, thread: Some(thread), tid })
    }

    /// Cuts these routes, and no others: bytes wait where they are, in either direction, and new connections get no
    /// further than here. When a route is mended, what has waited goes on its way, as TCP would have it.
    pub fn cut(&self, routes: impl IntoIterator<Item = usize>) {
        let cut = routes.into_iter().collect();
        self.control.order(|orders| orders.cut = cut);
    }

    /// Its thread, for CPU accounting.
    pub fn process(&self) -> ProcessRef {
        ProcessRef { name: "link proxy".to_owned(), pid: std::process::id(), tid: Some(self.tid) }
    }
}

impl Drop for LinkProxy {
    fn drop(&mut self) {
        self.control.order(|orders| orders.is_over = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
