//! Finds a shard's primary again, once for all connections of a thread.
//!
//! Sixteen connections that each looked for themselves would keep busy the very servers that are about to agree on a
//! new primary. So they wait here while one of them looks: all servers are asked at once, round after round, and
//! whoever calls itself the primary of the highest view heard of is taken.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::handshake::{Heard, meet, shard_address};
use super::notify::{Broadcast, Notify};
use super::resp::Access;
use super::ring;

/// How long one server may take to accept and to answer a hello before it is asked anew.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two rounds, at least and at most; in between it is a sixteenth of how long the search has lasted.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// Pause between two looks while the present primary owes answers, at least and at most; in between it is an eighth of
/// how long it has been in doubt.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long nothing must have been in doubt for the next doubt to be a new one: with a cluster that is slow, every
/// request raises one.
const CALM: Duration = Duration::from_secs(1);

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
    access: Access,
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
    look_pace: LookPace,
}

/// When to look for another primary although there is one.
#[derive(Default)]
struct LookPace {
    since: Option<Instant>,
    last_at: Option<Instant>,
    next_look_at: Option<Instant>,
}

impl LookPace {
    /// The primary owes an answer for long. Whether it is time to look for another one; the next time is then set.
    /// `chance`, from 0 to 1, spreads those of many threads and processes.
    fn is_look_due(&mut self, now: Instant, chance: f64) -> bool {
        if self.last_at.replace(now).is_some_and(|last_at| now.saturating_duration_since(last_at) >= CALM) {
            *self = Self { last_at: Some(now), ..Self::default() };
        }
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let is_due = self.next_look_at.is_none_or(|at| now >= at);
        if is_due {
            self.next_look_at = Some(now + spread((elapsed / 8).clamp(LOOK_PAUSE.0, LOOK_PAUSE.1), chance));
        }
        is_due
    }
}

/// The pause between two rounds of a search that has lasted for `elapsed`.
fn round_pause(elapsed: Duration, chance: f64) -> Duration {
    spread((elapsed / 16).clamp(ROUND_PAUSE.0, ROUND_PAUSE.1), chance)
}

/// From a half of `pause`, with a `chance` of 0, to all of it, with 1.
fn spread(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.5 + chance / 2.0)
}

fn chance() -> f64 {
    rand::random_range(0.0..=1.0)
}

impl Scout {
    /// A scout for a shard whose primary is known.
    pub(super) fn new(access: Access, (shard, shards): (u16, u16), servers: Vec<SocketAddr>, primary: Primary) -> Self {
        let state = State {
            is_pending: vec![false; servers.len()],
            servers,
            view: primary.view,
            primary: Some(primary),
            is_searching: false,
            out_since: None,
            has_found_in_vain: false,
            look_pace: LookPace::default(),
        };
        Self {
            access,
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
        round_pause(elapsed, chance())
    }

    /// The primary owes an answer for suspiciously long: looks, every now and then, whether there is another one.
    pub(super) fn doubt(self: &Rc<Self>) {
        let now = Instant::now();
        {
            let mut state = self.state.borrow_mut();
            if state.is_searching || !state.look_pace.is_look_due(now, chance()) {
                return;
            }
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
                let met = meet(&scout.access, address, place, PROBE_TIMEOUT).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// When looks are made, in ms after the first one, if the primary is in doubt at every one of `doubts_ms`.
    fn looks_ms(
        doubt: &mut LookPace,
        start: Instant,
        doubts_ms: impl IntoIterator<Item = u64>,
        chance: f64,
    ) -> Vec<u64> {
        let is_due = |ms: &u64| doubt.is_look_due(start + Duration::from_millis(*ms), chance);
        doubts_ms.into_iter().filter(is_due).collect()
    }

    #[test]
    fn looks_are_as_frequent_as_a_failover_needs_and_then_ever_rarer() {
        let start = Instant::now();
        let looks = looks_ms(&mut LookPace::default(), start, 0..60_000, 1.0);
        assert_eq!(looks[..9], [0, 20, 40, 60, 80, 100, 120, 140, 160]);
        let pauses: Vec<u64> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted() && pauses.ends_with(&[1000, 1000]), "{pauses:?}");
        assert!(looks.len() < 100, "{}", looks.len());
        let hasty = looks_ms(&mut LookPace::default(), start, 0..60_000, 0.0);
        assert!(hasty.len() > looks.len() && hasty.len() < 200, "{}", hasty.len());
        assert_eq!(hasty[hasty.len() - 1] - hasty[hasty.len() - 2], 500);
    }

    #[test]
    fn a_slow_cluster_is_one_doubt_and_a_calm_time_ends_it() {
        let start = Instant::now();
        let mut doubt = LookPace::default();
        // Each request is in doubt for 50 ms, and answered.
        let doubts = (0..30_000).filter(|ms| ms % 200 < 50);
        let looks = looks_ms(&mut doubt, start, doubts, 1.0);
        assert!(looks.len() < 60, "{}", looks.len());
        let calm = start + Duration::from_millis(31_100);
        assert_eq!(looks_ms(&mut doubt, calm, 0..61, 1.0), [0, 20, 40, 60]);
    }

    #[test]
    fn rounds_of_a_search_are_a_sixteenth_of_its_time_apart_up_to_a_second() {
        let ms = Duration::from_millis;
        assert_eq!(round_pause(ms(0), 1.0), ms(1));
        assert_eq!(round_pause(ms(320), 1.0), ms(20));
        assert_eq!(round_pause(ms(320), 0.0), ms(10));
        assert_eq!(round_pause(ms(3_600_000), 1.0), ms(1000));
    }
}
