//! The completed operations that the search has not placed yet, in the order of time.

use super::history::Operation;

const NONE: u32 = u32::MAX;

/// A doubly linked list of calls and returns. An operation may be placed next if its call comes before every return in
/// the list. Taking operations out and putting them back in the reverse order costs a few writes each.
#[derive(Debug)]
pub(super) struct Pending {
    /// Twice the operation's place for a call, and one more for a return; the list's head is the last.
    next: Vec<u32>,
    previous: Vec<u32>,
    head: u32,
}

/// An entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Call(u32),
    Return(u32),
}

impl Pending {
    /// All completed operations that may have had an effect or have seen something.
    pub(super) fn new(operations: &[Operation], is_placed: impl Fn(&Operation) -> bool) -> Pending {
        let mut order: Vec<(u64, bool, u32)> = Vec::with_capacity(operations.len() * 2);
        for (place, operation) in operations.iter().enumerate() {
            if is_placed(operation) {
                // At the same moment calls come first: such operations count as concurrent.
                order.push((operation.invoke_ns, false, place as u32));
                order.push((operation.return_ns, true, place as u32));
            }
        }
        order.sort_unstable();
        let head = operations.len() as u32 * 2;
        let mut list = Pending { next: vec![NONE; head as usize + 1], previous: vec![NONE; head as usize + 1], head };
        let mut last = head;
        for (_, is_return, place) in order {
            let entry = place * 2 + u32::from(is_return);
            list.next[last as usize] = entry;
            list.previous[entry as usize] = last;
            last = entry;
        }
        list
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next[self.head as usize] == NONE
    }

    pub(super) fn first(&self) -> Option<Entry> {
        self.entry(self.next[self.head as usize])
    }

    /// What follows a call. Also right for a call that was just taken out.
    pub(super) fn after_call(&self, place: u32) -> Option<Entry> {
        self.entry(self.next[place as usize * 2])
    }

    fn entry(&self, entry: u32) -> Option<Entry> {
        match entry {
            NONE => None,
            entry if entry % 2 == 0 => Some(Entry::Call(entry / 2)),
            entry => Some(Entry::Return(entry / 2)),
        }
    }

    pub(super) fn take_out(&mut self, place: u32) {
        self.unlink(place * 2 + 1);
        self.unlink(place * 2);
    }

    /// Undoes the latest [`take_out`](Self::take_out) that has not been undone.
    pub(super) fn put_back(&mut self, place: u32) {
        self.link(place * 2);
        self.link(place * 2 + 1);
    }

    fn unlink(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        self.next[previous as usize] = next;
        if next != NONE {
            self.previous[next as usize] = previous;
        }
    }

    fn link(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        self.next[previous as usize] = entry;
        if next != NONE {
            self.previous[next as usize] = entry;
        }
    }
}
