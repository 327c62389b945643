//! The table of client sessions: what makes a request that is sent again take effect once.
//!
//! A client registers, and is told its session: the revision of the register request, that is, its place in the log
//! counted in requests. From then on it numbers its requests 1, 2, 3, … and may have up to [`SESSION_WINDOW`] of them
//! in flight. The table remembers the answers of a session's last requests, so a request that arrives again, after a
//! timeout or at another primary, is given its first answer.
//!
//! The table is part of the replicated state. The host asks it at *apply*, in log order, at the primary and at every
//! backup alike, and writes it into checkpoints. So everything here follows from the log alone: there is no clock, and
//! no order that depends on memory or on a hash.
//!
//! # Why a request takes effect at most once
//!
//! Take a request (session, sequence) that [`Sessions::begin`] called [`Begin::New`], so that it was carried out. When
//! it comes again,
//!
//! - its answer is still there: [`Begin::Duplicate`]. Or it is only about to be carried out, in the same batch:
//!   [`Begin::InProgress`];
//! - its answer is gone because a sequence higher by [`SESSION_WINDOW`] or more was begun: then its sequence is at or
//!   below the highest one minus the window, and all of those are [`Begin::Stale`], used or not. The highest never
//!   falls. Answers are given up for no other reason while the session lives;
//! - its session was evicted: [`Begin::Unknown`], now and for ever. An evicted number cannot come back, because a
//!   session is a revision, revisions only grow, and `register` refuses one that is not above all before it.
//!
//! In no case is it called new again. What is lost with an eviction is only the knowledge whether the request was
//! carried out, and the client is told just that.
//!
//! # Which session is evicted
//!
//! When the table is full, `register` evicts the session with the smallest (op that used it last, session). A request
//! must cost nothing for this, so sessions are not kept in that order. A heap holds for each session a *lower bound* of
//! its last op: the last op at the time it was pushed. `register` looks at the top; if that session was used since, its
//! bound is raised and the next top is looked at. A top whose bound is exact is smaller than the bounds of all others,
//! hence than their last ops. Each raise is paid for by a use since the one before, and costs O(log n).
//!
//! **All replicas of a shard must have the same bound on the number of sessions**: with different ones they evict
//! differently, and their states part. The bound is written with the table, and [`Sessions::decode`] refuses another
//! one.

mod checkpoint;
mod codec;
#[cfg(test)]
mod tests;
mod window;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    mem::size_of,
};

pub use checkpoint::SessionsProgress;
pub use codec::SessionsError;
use lockstep_proto::{
    Status,
    limits::SESSION_WINDOW,
    mutant::{self, Mutant},
};
use window::{Slot, Window};

/// The answer to a request, as the table keeps it: all of a write's reply that does not follow from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReply {
    /// How the request ended.
    pub status: Status,
    /// Version of the key, as in the reply.
    pub version: u64,
    /// An increment's sum, the bits of an `i64`; else 0.
    pub value: u64,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It was never seen: carry it out, then call [`Sessions::finish`].
    New,
    /// It was begun and is not finished: the same request twice in one batch. Finish the first, then ask again.
    InProgress,
    /// It was carried out before, with this answer.
    Duplicate(StoredReply),
    /// The session does not exist: it was never registered, or it was evicted.
    Unknown,
    /// The sequence is below the session's window.
    Stale,
}

/// The sessions of one shard.
pub struct Sessions {
    sessions_max: usize,
    /// Ascending. A session that was evicted leaves its number and an empty place in `windows` until half are such, so
    /// that an eviction does not move all that follow.
    numbers: Vec<u64>,
    /// The session at the same index of `numbers`; `None` when it was evicted.
    windows: Vec<Option<Box<Window>>>,
    /// For each session in the table, a lower bound of its last op. See the module's page.
    idle: BinaryHeap<Reverse<(u64, u64)>>,
    /// Where the last lookup ended: requests of one session come in runs.
    recent: usize,
    evicted_total: u64,
    slots_total: usize,
    checkpoint: Option<Box<checkpoint::Checkpoint>>,
}

impl Sessions {
    /// An empty table that holds up to `sessions_max` sessions.
    ///
    /// # Panics
    ///
    /// If `sessions_max` is 0.
    pub fn new(sessions_max: usize) -> Sessions {
        assert!(sessions_max > 0, "a table must hold at least one session");
        Sessions {
            sessions_max,
            numbers: Vec::new(),
            windows: Vec::new(),
            idle: BinaryHeap::new(),
            recent: 0,
            evicted_total: 0,
            slots_total: 0,
            checkpoint: None,
        }
    }

    /// Opens a session, used last by `op`. If the table is full, the session that was unused for longest goes.
    ///
    /// # Panics
    ///
    /// If `session` is not above every session registered before: the host gives revisions, and those only grow. After
    /// reading a table from a file, [`Sessions::check_within`] makes sure of it.
    pub fn register(&mut self, session: u64, op: u64) {
        // The newest session is always in the table, because only registering a newer one evicts.
        assert!(self.numbers.last().is_none_or(|&newest| newest < session), "session {session} is not a new one");
        assert!(session > 0, "a session is a revision, and these start at 1");
        if self.len() == self.sessions_max {
            self.evict();
        }
        self.insert(session, Window::new(op));
    }

    fn insert(&mut self, session: u64, window: Window) {
        self.slots_total += window.slots_len();
        self.idle.push(Reverse((window.last_op, session)));
        self.numbers.push(session);
        self.windows.push(Some(Box::new(window)));
    }

    /// Says what is to be done with a request that `op` carries, and notes that `op` used its session.
    ///
    /// `op` is not below that of any earlier call. Sequences start at 1; 0 is stale.
    #[inline]
    pub fn begin(&mut self, session: u64, sequence: u64, op: u64) -> Begin {
        let Some(window) = find(&self.numbers, &mut self.windows, &mut self.recent, session) else {
            return Begin::Unknown;
        };
        debug_assert!(window.last_op <= op, "the log is applied in order");
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.keep(session, window);
        }
        window.last_op = op;
        let slots_before = window.slots_len();
        let begin = window.begin(sequence);
        self.slots_total += window.slots_len() - slots_before;
        begin
    }

    /// Keeps the answer of a request that [`Sessions::begin`] called new.
    ///
    /// Does nothing if there is no place for it any more: its session was evicted, or later requests of the same batch
    /// have moved the window past it. Both make the request unrepeatable too.
    ///
    /// # Panics
    ///
    /// If the request has an answer already: it would have been carried out twice.
    #[inline]
    pub fn finish(&mut self, session: u64, sequence: u64, reply: StoredReply) {
        if let Some(window) = find(&self.numbers, &mut self.windows, &mut self.recent, session) {
            window.finish(sequence, reply);
        }
    }

    /// Number of sessions in the table.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether no session is in the table.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Number of sessions evicted since the shard was formatted.
    pub fn evicted_total(&self) -> u64 {
        self.evicted_total
    }

    /// Memory in use, in bytes. At most about `SESSION_WINDOW` × 32 bytes for each session that has been busy.
    pub fn memory_bytes(&self) -> u64 {
        let places = self.numbers.capacity() * size_of::<u64>()
            + self.windows.capacity() * size_of::<Option<Box<Window>>>()
            + self.idle.capacity() * size_of::<Reverse<(u64, u64)>>();
        (places + self.len() * size_of::<Window>() + self.slots_total * size_of::<Slot>()) as u64
    }

    fn evict(&mut self) {
        loop {
            let mut top = self.idle.peek_mut().expect("a full table is not empty");
            let Reverse((bound, session)) = *top;
            let at = self.numbers.binary_search(&session).expect("every session in the heap is in the table");
            let window = self.windows[at].as_ref().expect("a session in the heap was not evicted");
            assert!(bound <= window.last_op);
            if bound < window.last_op && !mutant::is(Mutant::EvictsTheOldest) {
                *top = Reverse((window.last_op, session));
                continue;
            }
            if let Some(checkpoint) = &mut self.checkpoint {
                checkpoint.keep(session, window);
            }
            PeekMut::pop(top);
            self.slots_total -= window.slots_len();
            self.windows[at] = None;
            self.evicted_total += 1;
            break;
        }
        if self.len() * 2 < self.numbers.len() {
            self.compact();
        }
    }

    /// Removes the places of evicted sessions.
    fn compact(&mut self) {
        let mut is_live = self.windows.iter().map(Option::is_some);
        self.numbers.retain(|_| is_live.next().expect("there are as many windows as numbers"));
        self.windows.retain(Option::is_some);
        assert_eq!(self.numbers.len(), self.len());
        assert_eq!(self.windows.len(), self.len());
    }

    /// The sessions in the table, ascending.
    fn iter(&self) -> impl Iterator<Item = (u64, &Window)> {
        self.numbers.iter().zip(&self.windows).filter_map(|(&number, window)| Some((number, window.as_deref()?)))
    }
}

/// The window of a session. A free function, so that the table's other fields stay usable beside the answer.
#[inline]
fn find<'a>(
    numbers: &[u64],
    windows: &'a mut [Option<Box<Window>>],
    recent: &mut usize,
    session: u64,
) -> Option<&'a mut Window> {
    if numbers.get(*recent) != Some(&session) {
        *recent = numbers.binary_search(&session).ok()?;
    }
    windows[*recent].as_deref_mut()
}

// The table is sized and documented by these.
const _: () = assert!(size_of::<Slot>() == 32 && SESSION_WINDOW == 256);
