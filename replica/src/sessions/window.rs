//! The last requests of one session.

use lockstep_proto::{
    limits::SESSION_WINDOW,
    mutant::{self, Mutant},
};

use super::{Begin, StoredReply};

/// Length of the window, as a sequence.
const WINDOW: u64 = SESSION_WINDOW as u64;

/// Slots of a window that has just been used for the first time.
const SLOTS_MIN: usize = 8;

const _: () = assert!(SLOTS_MIN.is_power_of_two() && SESSION_WINDOW.is_power_of_two() && SLOTS_MIN <= SESSION_WINDOW);

/// A request and its answer.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    /// 0 when the slot was never used.
    sequence: u64,
    /// `None` while the request is in progress.
    reply: Option<StoredReply>,
}

/// The window of a session: a ring of slots, indexed by sequence modulo its length.
///
/// The ring starts small and doubles until no two sequences that are both in the window fall on the same slot, at the
/// latest at `SESSION_WINDOW`. So the sessions of clients that come, ask a few things and go take little memory. Its
/// length is not visible in what the window answers.
pub(super) struct Window {
    /// Op that used the session last.
    pub(super) last_op: u64,
    /// Highest sequence begun; 0 before the first. The window is the `SESSION_WINDOW` sequences up to it.
    highest: u64,
    slots: Vec<Slot>,
}

impl Window {
    /// The window of a session without requests.
    pub(super) fn new(last_op: u64) -> Window {
        Window { last_op, highest: 0, slots: Vec::new() }
    }

    /// Highest sequence begun; 0 before the first.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Length of the ring.
    #[inline]
    pub(super) fn slots_len(&self) -> usize {
        self.slots.len()
    }

    /// Where `sequence` is in the ring, which must not be empty.
    #[inline]
    fn index(&self, sequence: u64) -> usize {
        debug_assert!(self.slots.len().is_power_of_two());
        sequence as usize & (self.slots.len() - 1)
    }

    #[inline]
    pub(super) fn begin(&mut self, sequence: u64) -> Begin {
        // As long as the window begins at 1 the left side is 0, and only the impossible sequence 0 is stale.
        let window = if mutant::is(Mutant::SessionWindowOfOne) { 1 } else { WINDOW };
        if self.highest.saturating_sub(window) >= sequence {
            return Begin::Stale;
        }
        let highest = self.highest.max(sequence);
        loop {
            if self.slots.is_empty() {
                self.grow(highest);
            }
            let at = self.index(sequence);
            let slot = &mut self.slots[at];
            if slot.sequence == sequence {
                if mutant::is(Mutant::DuplicateRunsAgain) && slot.reply.take().is_some() {
                    return Begin::New;
                }
                return slot.reply.map_or(Begin::InProgress, Begin::Duplicate);
            }
            if slot.sequence == 0 || is_below_window(slot.sequence, highest) {
                *slot = Slot { sequence, reply: None };
                self.highest = highest;
                return Begin::New;
            }
            // In a ring as long as the window, two sequences on the same slot are never both in the window.
            assert!(self.slots.len() < SESSION_WINDOW);
            self.grow(highest);
        }
    }

    #[inline]
    pub(super) fn finish(&mut self, sequence: u64, reply: StoredReply) {
        if self.slots.is_empty() {
            return;
        }
        let at = self.index(sequence);
        let slot = &mut self.slots[at];
        if slot.sequence == sequence {
            assert!(slot.reply.is_none(), "request {sequence} is answered twice");
            slot.reply = Some(reply);
        }
    }

    /// Doubles the ring, and leaves behind what is not in the window that ends at `highest`.
    #[cold]
    fn grow(&mut self, highest: u64) {
        let len = (self.slots.len() * 2).max(SLOTS_MIN);
        assert!(len <= SESSION_WINDOW);
        // Sequences that differ modulo the old length differ modulo its double: none is overwritten.
        let small = std::mem::replace(&mut self.slots, vec![Slot::default(); len]);
        for slot in small {
            if slot.sequence > 0 && !is_below_window(slot.sequence, highest) {
                let at = self.index(slot.sequence);
                self.slots[at] = slot;
            }
        }
    }

    /// The requests in the window, the highest first: how far each is below the highest, and its answer.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, Option<StoredReply>)> {
        let ages = if self.slots.is_empty() { 0 } else { WINDOW.min(self.highest) };
        (0..ages).filter_map(|age| {
            let slot = &self.slots[self.index(self.highest - age)];
            (slot.sequence == self.highest - age).then_some((age as u8, slot.reply))
        })
    }
}

/// Whether `sequence` is below the window that ends at `highest`.
#[inline]
fn is_below_window(sequence: u64, highest: u64) -> bool {
    highest.saturating_sub(WINDOW) >= sequence
}
