//! Finds a shard's primary again, once for all connections of a thread.
//!
//! Sixteen connections that each looked for themselves would keep busy the very servers that are about to agree on a new
//! primary. So they wait here while one of them looks: all servers are asked at once, round after round, and whoever
//! calls itself the primary of the highest view heard of is taken.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::handshake::{Heard, meet, shard_address};
use super::notify::{Broadcast, Notify};
use super::resp::Protocol;
use super::ring;

/// How long one server may take to accept and to answer a hello before it is asked anew.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two rounds, at least and at most; in between it is a sixteenth of how long the search has lasted.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Pause between two looks while the present primary owes answers.
const DOUBT_PAUSE: Duration = Duration::from_millis(20);

/// A server that calls itself the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) server: usize,
    pub(super) view: u64,
    /// Where it serves the shard.
    pub(super) address: SocketAddr,
}

/// The search for one shard's primary.
pub(super) struct Scout {
    protocol: Protocol,
    shard: u16,
    shards: u16,
    state: RefCell<State>,
    news: Notify,
    found: Broadcast,
    /// Whether answers have stopped; checked for each read, so outside of the state.
    is_out: Cell<bool>,
}

struct State {
    servers: Vec<SocketAddr>,
    is_pending: Vec<bool>,
    /// The highest view heard of.
    view: u64,
    /// Whoever was found last and has not been lost since.
    primary: Option<Primary>,
    is_searching: bool,
    out_since: Option<Instant>,
    /// Whether a primary was found since answers have stopped: it did not serve.
    has_found_in_vain: bool,
    next_doubt_at: Option<Instant>,
}

impl Scout {
    /// A scout for a shard whose primary is known.
    pub(super) fn new(
        protocol: Protocol,
        (shard, shards): (u16, u16),
        servers: Vec<SocketAddr>,
        primary: Primary,
    ) -> Self {
        let state = State {
            is_pending: vec![false; servers.len()],
            servers,
            view: primary.view,
            primary: Some(primary),
            is_searching: false,
            out_since: None,
            has_found_in_vain: false,
            next_doubt_at: None,
        };
        Self {
            protocol,
            shard,
            shards,
            state: RefCell::new(state),
            news: Notify::default(),
            found: Broadcast::default(),
            is_out: Cell::new(false),
        }
    }

    /// Whoever is the primary as far as is known.
    pub(super) fn primary(&self) -> Option<Primary> {
        self.state.borrow().primary
    }

    /// A server spoke of this view.
    pub(super) fn hear_of(&self, view: u64) {
        let mut state = self.state.borrow_mut();
        state.view = state.view.max(view);
        if state.primary.is_some_and(|primary| primary.view < state.view) {
            state.primary = None;
        }
    }

    /// The connection to a primary is gone, or it does not serve. Nothing happens if another has been found since.
    pub(super) fn lost(&self, primary: Primary) {
        let mut state = self.state.borrow_mut();
        self.is_out.set(true);
        state.out_since.get_or_insert_with(Instant::now);
        if state.primary.is_some_and(|known| known.view <= primary.view) {
            state.primary = None;
        }
    }

    /// A request was answered.
    #[inline]
    pub(super) fn answered(&self) {
        if self.is_out.replace(false) {
            let mut state = self.state.borrow_mut();
            state.out_since = None;
            state.has_found_in_vain = false;
        }
    }

    /// Waits until there is a primary. `None` once `is_over`.
    pub(super) async fn find(self: &Rc<Self>, is_over: &Cell<bool>) -> Option<Primary> {
        while !is_over.get() {
            if let Some(primary) = self.primary() {
                return Some(primary);
            }
            if std::mem::replace(&mut self.state.borrow_mut().is_searching, true) {
                self.found.wait().await;
                continue;
            }
            self.search(is_over).await;
            self.state.borrow_mut().is_searching = false;
            self.found.notify_all();
        }
        None
    }

    async fn search(self: &Rc<Self>, is_over: &Cell<bool>) {
        if self.state.borrow().has_found_in_vain {
            ring::sleep(self.pause()).await;
        }
        let mut round_at = Instant::now();
        while !is_over.get() && self.primary().is_none() {
            let now = Instant::now();
            if now >= round_at {
                self.ask_all();
                let pause = self.pause();
                round_at = now + pause;
                let scout = self.clone();
                tokio_uring::spawn(async move {
                    ring::sleep(pause).await;
                    scout.news.set();
                });
            }
            self.news.wait().await;
        }
        self.state.borrow_mut().has_found_in_vain = true;
    }

    fn pause(&self) -> Duration {
        let since = self.state.borrow().out_since;
        let elapsed = since.map_or(Duration::ZERO, |since| since.elapsed());
        (elapsed / 16).clamp(ROUND_PAUSE.0, ROUND_PAUSE.1)
    }

    /// The primary owes an answer for suspiciously long: looks, every now and then, whether there is another one.
    pub(super) fn doubt(self: &Rc<Self>) {
        let now = Instant::now();
        {
            let mut state = self.state.borrow_mut();
            if state.is_searching || state.next_doubt_at.is_some_and(|at| now < at) {
                return;
            }
            state.next_doubt_at = Some(now + DOUBT_PAUSE);
        }
        self.ask_all();
    }

    /// Asks every server that does not owe an answer to an earlier question.
    fn ask_all(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        for server in 0..state.servers.len() {
            if std::mem::replace(&mut state.is_pending[server], true) {
                continue;
            }
            let scout = self.clone();
            let address = shard_address(state.servers[server], self.shard);
            tokio_uring::spawn(async move {
                let place = (scout.shard, scout.shards);
                let met = meet(scout.protocol, address, place, PROBE_TIMEOUT).await;
                scout.take_in(server, address, met.ok().map(|(_, heard)| heard));
            });
        }
    }

    fn take_in(&self, server: usize, address: SocketAddr, heard: Option<Heard>) {
        let mut state = self.state.borrow_mut();
        state.is_pending[server] = false;
        let Some(Heard { view, is_primary }) = heard else { return };
        state.view = state.view.max(view);
        let is_newer = state.primary.is_none_or(|known| known.view < view);
        if is_primary && is_newer && view >= state.view {
            state.primary = Some(Primary { server, view, address });
            self.news.set();
        }
    }
}
