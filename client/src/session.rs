//! At-most-once execution: the session of a shard, and the window of its sequences in flight.
//!
//! A server remembers, per session, the answers of the last [`SESSION_WINDOW`] sequences, and gives the stored answer
//! to a write that comes again. That holds only as long as the client never has a sequence outstanding that is older
//! than the newest one by a window or more; [`Window`] sees to it.

use std::collections::VecDeque;

use lockstep_proto::limits::SESSION_WINDOW;

/// How far the client has got with opening a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// No write was asked for yet, or the server has forgotten the session.
    None,
    /// A register is in flight.
    Registering,
    /// The number to put into every write.
    Open(u64),
}

/// The sequences from the oldest unanswered one to the newest one, with what is kept for each.
///
/// Sequences count up from 1 and are never used twice, not even when the session is replaced.
#[derive(Debug)]
pub(crate) struct Window<T> {
    /// The sequence of the first slot.
    oldest: u64,
    /// `None`: answered or given up, but an older one is not. The first slot is never `None`.
    slots: VecDeque<Option<T>>,
    size_max: usize,
}

/// What a window knows about a sequence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    /// It waits for an answer.
    Outstanding(T),
    /// It was answered or given up.
    Settled,
    /// It was never used.
    Unused,
}

impl<T> Window<T> {
    /// A window as large as a server takes, or smaller.
    pub(crate) fn new(size_max: usize) -> Self {
        Window { oldest: 1, slots: VecDeque::new(), size_max: size_max.clamp(1, SESSION_WINDOW) }
    }

    /// Follows what the server says about its window. Sequences that are already out are not called back.
    pub(crate) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max.clamp(1, SESSION_WINDOW);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() < self.size_max
    }

    /// Gives the next sequence to `entry`.
    ///
    /// # Panics
    ///
    /// If there is no room.
    pub(crate) fn push(&mut self, entry: T) -> u64 {
        assert!(self.has_room(), "a sequence beyond the session's window");
        let sequence = self.oldest + self.slots.len() as u64;
        self.slots.push_back(Some(entry));
        debug_assert!(sequence - self.oldest < SESSION_WINDOW as u64);
        sequence
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Lookup<&mut T> {
        if sequence == 0 {
            return Lookup::Unused;
        }
        let Some(offset) = sequence.checked_sub(self.oldest) else {
            return Lookup::Settled;
        };
        match usize::try_from(offset).ok().and_then(|offset| self.slots.get_mut(offset)) {
            None => Lookup::Unused,
            Some(None) => Lookup::Settled,
            Some(Some(entry)) => Lookup::Outstanding(entry),
        }
    }

    /// Settles a sequence and lets the window move on.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<T> {
        let offset = usize::try_from(sequence.checked_sub(self.oldest)?).ok()?;
        let entry = self.slots.get_mut(offset)?.take();
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.oldest += 1;
        }
        entry
    }

    /// What is outstanding, oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let oldest = self.oldest;
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(move |(offset, slot)| slot.as_mut().map(|entry| (oldest + offset as u64, entry)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_count_up_from_one() {
        let mut window = Window::new(4);
        assert_eq!((window.push('a'), window.push('b')), (1, 2));
    }

    #[test]
    fn the_oldest_unanswered_sequence_holds_the_window() {
        let mut window = Window::new(3);
        (0..3).for_each(|entry| assert_eq!(window.push(entry), entry + 1));
        assert!(!window.has_room());
        assert_eq!(window.remove(2), Some(1));
        assert_eq!(window.remove(3), Some(2));
        assert!(!window.has_room());
        assert_eq!(window.remove(1), Some(0));
        assert!(window.is_empty());
        assert_eq!(window.push(9), 4);
    }

    #[test]
    fn a_sequence_is_outstanding_then_settled_and_unused_before() {
        let mut window = Window::new(3);
        assert_eq!(window.get_mut(0), Lookup::Unused);
        assert_eq!(window.get_mut(1), Lookup::Unused);
        window.push('a');
        window.push('b');
        assert_eq!(window.get_mut(2), Lookup::Outstanding(&mut 'b'));
        window.remove(2);
        assert_eq!(window.get_mut(2), Lookup::Settled);
        window.remove(1);
        assert_eq!(window.get_mut(1), Lookup::Settled);
        assert_eq!(window.get_mut(3), Lookup::Unused);
        assert_eq!(window.get_mut(u64::MAX), Lookup::Unused);
        assert_eq!(window.remove(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn no_sequence_is_ever_a_window_ahead_of_the_oldest_outstanding_one(
            size_max in 1usize..=300,
            steps in prop::collection::vec(any::<(bool, u16)>(), 1..2000),
        ) {
            let mut window = Window::new(size_max);
            let mut outstanding = std::collections::BTreeSet::new();
            let mut newest = 0;
            for (is_push, choice) in steps {
                if is_push && window.has_room() {
                    let sequence = window.push(());
                    prop_assert_eq!(sequence, newest + 1);
                    newest = sequence;
                    outstanding.insert(sequence);
                    prop_assert!(newest - outstanding.first().unwrap() < size_max.min(SESSION_WINDOW) as u64);
                } else if !outstanding.is_empty() {
                    let &sequence = outstanding.iter().nth(choice as usize % outstanding.len()).unwrap();
                    outstanding.remove(&sequence);
                    prop_assert_eq!(window.remove(sequence), Some(()));
                    prop_assert_eq!(window.remove(sequence), None);
                }
                prop_assert_eq!(window.iter_mut().map(|(sequence, _)| sequence).collect::<Vec<_>>(),
                    outstanding.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(window.is_empty(), outstanding.is_empty());
            }
        }
    }
}
