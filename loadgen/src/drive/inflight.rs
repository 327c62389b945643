//! Requests without an answer yet, found by their sequence.

use crate::plan::Op;

/// A request that is to be sent or has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// What it does.
    pub(super) op: Op,
    /// When the plan wanted it sent, in nanoseconds since the start of the run.
    pub(super) intended_ns: u64,
    /// When the generator took notice of it.
    pub(super) noticed_ns: u64,
    /// When its first frame was handed to the kernel; `None` while it waits.
    pub(super) sent_ns: Option<u64>,
    /// Whether it is a read-modify-write whose get has been answered.
    pub(super) is_second_step: bool,
}

/// A request that has a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    /// The request.
    pub(super) asked: Asked,
    /// Its sequence, which it keeps when it is sent again.
    pub(super) sequence: u64,
    /// For reads with an audit: the version that was acknowledged before the read was sent.
    pub(super) version_floor: u64,
}

/// The requests of one session, in a ring indexed by sequence.
///
/// Between the oldest sequence without an answer and the newest there are never more than the ring holds, which keeps the
/// session inside the window that the servers remember answers for.
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
    use crate::plan::OpKind;

    fn asked(key_index: u64) -> Asked {
        let op = Op { kind: OpKind::Update, key_index, value_len: 1, nonce: 1 };
        Asked { op, intended_ns: 0, noticed_ns: 0, sent_ns: None, is_second_step: false }
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
