//! What one shard's link has sent, or is about to, and has no answer to yet.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    call::Call,
    error::Outcome,
    session::{Lookup, Window},
};

/// Reads, pings and registers have no session and so no window. They are numbered apart from the writes, from here on,
/// so that a write that takes long does not hold them up.
const UNLOGGED_FIRST: u64 = 1 << 62;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be encoded as soon as there is a connection with room.
    Queued,
    /// Encoded for the present connection, perhaps not written yet.
    Sent(Instant),
    /// Refused for now; to be queued again at this instant.
    Paused(Instant),
}

/// A request with a number.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) call: Call,
    /// The session under which it was numbered; 0 without one.
    pub(crate) session: u64,
    pub(crate) state: State,
    /// How often it was encoded.
    pub(crate) attempts: u32,
    /// An earlier attempt got no answer, so it may have been carried out whatever becomes of the present one.
    pub(crate) is_in_doubt: bool,
}

impl InFlight {
    pub(crate) fn new(call: Call, session: u64) -> Self {
        InFlight { call, session, state: State::Queued, attempts: 0, is_in_doubt: false }
    }

    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.state, State::Sent(_))
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let may_be_executed = self.is_in_doubt || self.is_sent();
        if self.call.operation().is_logged() && may_be_executed { Outcome::Unknown } else { Outcome::NotExecuted }
    }

    /// When to send it again although the connection is up.
    pub(crate) fn resend_at(&self, sent_at: Instant, attempt_timeout: Duration) -> Instant {
        sent_at + attempt_timeout.saturating_mul(1 << self.attempts.saturating_sub(1).min(10))
    }
}

/// Everything in flight, by number.
#[derive(Debug)]
pub(crate) struct Flight {
    writes: Window<InFlight>,
    unlogged: BTreeMap<u64, InFlight>,
    unlogged_next: u64,
}

impl Flight {
    pub(crate) fn new(window: usize) -> Self {
        Flight { writes: Window::new(window), unlogged: BTreeMap::new(), unlogged_next: UNLOGGED_FIRST }
    }

    pub(crate) fn resize_window(&mut self, window: usize) {
        self.writes.resize(window);
    }

    pub(crate) fn has_room_for_write(&self) -> bool {
        self.writes.has_room()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.unlogged.is_empty()
    }

    /// When the oldest request that a caller waits for, and that is out, was sent.
    pub(crate) fn oldest_sent_at(&mut self) -> Option<Instant> {
        let sent_at = |(_, entry): (u64, &mut InFlight)| match entry.state {
            State::Sent(at) if entry.call.reply.is_some() => Some(at),
            _ => None,
        };
        self.iter_mut().filter_map(sent_at).min()
    }

    /// Numbers a request. The caller has made sure that the window has room for a write.
    pub(crate) fn insert(&mut self, call: Call, session: u64) -> u64 {
        let entry = InFlight::new(call, session);
        if session != 0 {
            return self.writes.push(entry);
        }
        let sequence = self.unlogged_next;
        self.unlogged_next += 1;
        self.unlogged.insert(sequence, entry);
        sequence
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Lookup<&mut InFlight> {
        if sequence < UNLOGGED_FIRST {
            return self.writes.get_mut(sequence);
        }
        match self.unlogged.get_mut(&sequence) {
            Some(entry) => Lookup::Outstanding(entry),
            None if sequence < self.unlogged_next => Lookup::Settled,
            None => Lookup::Unused,
        }
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<InFlight> {
        if sequence < UNLOGGED_FIRST { self.writes.remove(sequence) } else { self.unlogged.remove(&sequence) }
    }

    /// Writes in the order of their sequences, then everything else.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut InFlight)> {
        let unlogged = self.unlogged.iter_mut().map(|(&sequence, entry)| (sequence, entry));
        self.writes.iter_mut().chain(unlogged)
    }

    /// Takes out what `is_wanted` names.
    pub(crate) fn take_if(&mut self, mut is_wanted: impl FnMut(&InFlight) -> bool) -> Vec<InFlight> {
        let wanted: Vec<u64> =
            self.iter_mut().filter(|(_, entry)| is_wanted(entry)).map(|(sequence, _)| sequence).collect();
        wanted.into_iter().filter_map(|sequence| self.remove(sequence)).collect()
    }
}
