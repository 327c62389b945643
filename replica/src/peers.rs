//! What a primary knows of each backup, and what it sends to it next.

use std::collections::VecDeque;

use crate::{config::WINDOW_BYTES, hashes::Checkpoint, read_ahead::ReadAhead};

/// A backup, as its primary sees it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) is_connected: bool,
    /// Highest op that it holds durably, in this view's log and as a member of this view: what counts as its vote.
    pub(crate) acked: u64,
    /// Highest op that it is known to have, whether it counts or not: what need not be sent.
    pub(crate) received: u64,
    /// The next op to send.
    pub(crate) next: u64,
    /// Prepares on their way: op and size in bytes.
    in_flight: VecDeque<(u64, usize)>,
    in_flight_bytes: usize,
    /// The last prepare sent and the checksum of its header: what a heartbeat proves.
    pub(crate) last_sent: Option<(u64, u128)>,
    /// What is read from the journal for it, from `next` on.
    pub(crate) reads: ReadAhead,
    /// An op that is being read from the journal because its own copy has rotted.
    pub(crate) repairing: Option<u64>,
    /// Its newest checkpoint, as far as it has told.
    pub(crate) checkpoint: Checkpoint,
    /// Whether it has answered in this view.
    pub(crate) has_joined: bool,
    pub(crate) is_in_sync: bool,
    /// Whether it needs what the journal no longer holds.
    pub(crate) is_behind: bool,
    /// The highest op that it needs for which the host was told so.
    pub(crate) behind_op: u64,
    /// The last read round that it confirmed.
    pub(crate) round: u64,
    pub(crate) last_heard_ns: u64,
    pub(crate) last_progress_ns: u64,
    /// When it was last told that a view has begun.
    pub(crate) last_start_view_ns: Option<u64>,
}

impl Peer {
    /// A backup of which nothing is known in this view.
    pub(crate) fn new(is_connected: bool, now_ns: u64) -> Peer {
        Peer {
            is_connected,
            acked: 0,
            received: 0,
            next: 1,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            last_sent: None,
            reads: ReadAhead::default(),
            repairing: None,
            checkpoint: Checkpoint::default(),
            has_joined: false,
            is_in_sync: true,
            is_behind: false,
            behind_op: 0,
            round: 0,
            last_heard_ns: now_ns,
            last_progress_ns: now_ns,
            last_start_view_ns: None,
        }
    }

    /// Whether another prepare may be sent before it answers.
    pub(crate) fn has_window(&self, window_ops: usize) -> bool {
        self.in_flight.len() < window_ops && (self.in_flight.is_empty() || self.in_flight_bytes < WINDOW_BYTES)
    }

    /// Notes that the next prepare is on its way.
    pub(crate) fn sent(&mut self, op: u64, checksum: u128, size: usize) {
        assert_eq!(op, self.next, "prepares are sent in order");
        self.last_sent = Some((op, checksum));
        self.in_flight.push_back((op, size));
        self.in_flight_bytes += size;
        self.next += 1;
    }

    /// It says that it has everything up to `op`, which may be less than it said before: who is ended while it joins
    /// the view joins again when it is started, and drops what it cannot know to be of the view.
    pub(crate) fn says_it_has(&mut self, op: u64) {
        if op < self.received {
            self.received = op;
            self.rewind(op);
        }
        self.has_received(op);
    }

    /// It has everything up to `op`.
    pub(crate) fn has_received(&mut self, op: u64) {
        self.received = self.received.max(op);
        while let Some(&(sent, size)) = self.in_flight.front()
            && sent <= op
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= size;
        }
        self.next = self.next.max(self.received + 1);
        self.reads.drop_below(self.next);
    }

    /// Starts over behind `op`: what was sent after it is lost, or was not accepted.
    pub(crate) fn rewind(&mut self, op: u64) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.last_sent = None;
        self.reads.clear();
        self.next = op + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_opens_again_as_prepares_are_received() {
        let mut peer = Peer::new(true, 0);
        for op in 1..=3 {
            assert!(peer.has_window(3));
            peer.sent(op, 0, 100);
        }
        assert!(!peer.has_window(3));
        peer.has_received(2);
        assert!(peer.has_window(3));
        assert_eq!((peer.next, peer.in_flight_bytes), (4, 100));
        peer.rewind(2);
        assert_eq!((peer.next, peer.in_flight_bytes), (3, 0));
    }

    /// With `strict` and a full pipeline, nothing that came later could show it what it lacked, and all stood still.
    #[test]
    fn who_had_more_before_it_was_started_again_was_never_sent_it_again() {
        let mut peer = Peer::new(true, 0);
        (1..=3).for_each(|op| peer.sent(op, 0, 100));
        peer.says_it_has(3);
        assert_eq!((peer.received, peer.next), (3, 4));
        peer.says_it_has(1);
        assert_eq!((peer.received, peer.next, peer.in_flight.len()), (1, 2, 0));
        peer.sent(2, 0, 100);
        peer.says_it_has(2);
        assert_eq!((peer.received, peer.next, peer.in_flight_bytes), (2, 3, 0));
    }

    #[test]
    fn a_window_lets_one_prepare_of_any_size_through() {
        let mut peer = Peer::new(true, 0);
        assert!(peer.has_window(10));
        peer.sent(1, 0, WINDOW_BYTES + 1);
        assert!(!peer.has_window(10), "the bytes are used up");
        peer.has_received(1);
        assert!(peer.has_window(10));
    }
}
