//! Requests without an answer yet, found by their sequence.

use crate::plan::{Op, OpKind};

/// A request that is to be sent or has been. Kept small, for thousands are in flight and each is touched twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// What it does.
    pub(super) op: Op,
    /// When the plan wanted it sent, in nanoseconds since the start of the run.
    pub(super) intended_ns: u64,
    /// [`UNSENT`] while it waits, then [`Asked::sent_ns`].
    sent_or_unsent_ns: u64,
    /// How long after that the generator took notice of it; four seconds at most, which is late enough.
    noticed_after_ns: u32,
    /// Whether it is a read-modify-write whose get has been answered.
    is_second_step: bool,
}

/// Later than any run lasts.
const UNSENT: u64 = u64::MAX;

impl Asked {
    /// A request that waits to be sent.
    #[inline]
    pub(super) fn new(op: Op, intended_ns: u64, noticed_ns: u64) -> Self {
        let noticed_after_ns = noticed_ns.saturating_sub(intended_ns).min(u64::from(u32::MAX)) as u32;
        Self { op, intended_ns, sent_or_unsent_ns: UNSENT, noticed_after_ns, is_second_step: false }
    }

    /// When the generator took notice of it.
    #[inline]
    pub(super) fn noticed_ns(&self) -> u64 {
        self.intended_ns + u64::from(self.noticed_after_ns)
    }

    /// When its first frame was handed to the kernel, if it was.
    #[inline]
    pub(super) fn sent_ns(&self) -> Option<u64> {
        (self.sent_or_unsent_ns != UNSENT).then_some(self.sent_or_unsent_ns)
    }

    /// A frame of it is handed to the kernel; the first one counts.
    #[inline]
    pub(super) fn mark_sent(&mut self, now_ns: u64) {
        self.sent_or_unsent_ns = self.sent_or_unsent_ns.min(now_ns);
    }

    /// The put of a read-modify-write whose get has been answered.
    #[inline]
    pub(super) fn second_step(self) -> Self {
        Self { is_second_step: true, ..self }
    }

    /// Whether its next frame is a write.
    #[inline]
    pub(super) fn is_write(&self) -> bool {
        match self.op.kind {
            OpKind::Read => false,
            OpKind::Update | OpKind::Insert | OpKind::Increment => true,
            OpKind::ReadModifyWrite => self.is_second_step,
        }
    }

    /// The moment that its time-out counts from.
    #[inline]
    pub(super) fn waits_since_ns(&self) -> u64 {
        self.sent_ns().unwrap_or_else(|| self.noticed_ns())
    }
}

/// A request that has a sequence. One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct InFlight {
    /// The request.
    pub(super) asked: Asked,
    /// Its sequence, which it keeps when it is sent again.
    pub(super) sequence: u64,
    /// For reads with an audit: the version that was acknowledged before the read was sent.
    pub(super) version_floor: u64,
}

const _: () = assert!(size_of::<Option<InFlight>>() == 64, "one cache line");

/// The requests of one session, in a ring indexed by sequence.
///
/// Between the oldest sequence without an answer and the newest there are never more than the ring holds, which keeps
/// the session inside the window that the servers remember answers for.
#[derive(Debug)]
pub(super) struct InFlightRing {
    slots: Vec<Option<InFlight>>,
    mask: u64,
    /// All sequences before this one are answered.
    oldest: u64,
    /// The next sequence to give out.
    next: u64,
}

impl InFlightRing {
    /// A ring for at least `capacity` sequences, rounded up to a power of two.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.next_power_of_two();
        // Sequences count from one.
        Self { slots: vec![None; capacity], mask: capacity as u64 - 1, oldest: 1, next: 1 }
    }

    /// Whether another sequence can be given out.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.next - self.oldest <= self.mask
    }

    /// Gives a sequence to a request.
    ///
    /// # Panics
    ///
    /// When there is no room.
    #[inline]
    pub(super) fn push(&mut self, asked: Asked, version_floor: u64) -> u64 {
        assert!(self.has_room(), "sequences run at most one ring ahead of the oldest answer");
        let sequence = self.next;
        self.slots[(sequence & self.mask) as usize] = Some(InFlight { asked, sequence, version_floor });
        self.next += 1;
        sequence
    }

    /// The request with this sequence, if it has no answer yet.
    #[inline]
    pub(super) fn get(&self, sequence: u64) -> Option<&InFlight> {
        self.slots[(sequence & self.mask) as usize].as_ref().filter(|slot| slot.sequence == sequence)
    }

    /// Takes the request with this sequence out: it has its answer, or is given up.
    #[inline]
    pub(super) fn take(&mut self, sequence: u64) -> Option<InFlight> {
        let slot = &mut self.slots[(sequence & self.mask) as usize];
        if slot.as_ref().is_none_or(|found| found.sequence != sequence) {
            return None;
        }
        let taken = slot.take();
        while self.oldest < self.next && self.slots[(self.oldest & self.mask) as usize].is_none() {
            self.oldest += 1;
        }
        taken
    }

    /// Sequences without an answer, oldest first.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        (self.oldest..self.next).filter(|&sequence| self.get(sequence).is_some())
    }

    /// The oldest request without an answer.
    pub(super) fn oldest(&self) -> Option<&InFlight> {
        self.get(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key_index: u64) -> Asked {
        let op = Op { kind: OpKind::Update, key_index, value_len: 1, nonce: 1 };
        Asked::new(op, 0, 0)
    }

    #[test]
    fn room_is_counted_from_the_oldest_answer() {
        let mut ring = InFlightRing::new(4);
        let sequences: Vec<u64> = (0..4).map(|key| ring.push(asked(key), 0)).collect();
        assert_eq!(sequences, [1, 2, 3, 4]);
        assert!(!ring.has_room());
        assert!(ring.take(3).is_some());
        assert!(!ring.has_room(), "the oldest is still without an answer");
        assert!(ring.take(1).is_some());
        assert!(ring.has_room());
        assert_eq!(ring.sequences().collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn an_answer_counts_once_and_only_for_its_own_sequence() {
        let mut ring = InFlightRing::new(2);
        let first = ring.push(asked(7), 0);
        assert!(ring.take(first + 2).is_none(), "same place, other sequence");
        assert!(ring.take(first).is_some_and(|slot| slot.asked.op.key_index == 7));
        assert!(ring.take(first).is_none());
        let later = (0..10)
            .map(|_| {
                let sequence = ring.push(asked(1), 0);
                ring.take(sequence);
                sequence
            })
            .last();
        assert_eq!(later, Some(11));
        assert!(ring.oldest().is_none());
    }
}
