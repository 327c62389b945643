//! What must have taken effect before what: an operation that was answered before another was asked for, and an earlier
//! one of the same connection.

use std::collections::HashMap;

use super::{Kind, Operated};

/// What every order of effects must keep to.
pub(super) struct Precedence<'a> {
    operations: &'a [Operated],
    pub(super) kinds: Vec<Kind>,
    /// Answered operations by the time of their answers.
    pub(super) by_return: Vec<u32>,
    /// The answered operation before on the same connection.
    before: Vec<Option<u32>>,
}

impl<'a> Precedence<'a> {
    pub(super) fn new(operations: &'a [Operated]) -> Precedence<'a> {
        let kinds: Vec<Kind> = operations.iter().map(Operated::kind).collect();
        let is_answered = |place: u32| matches!(kinds[place as usize], Kind::Logged(_) | Kind::Somewhere | Kind::Pure);
        let (mut last, mut before) = (HashMap::new(), Vec::with_capacity(operations.len()));
        for (place, operated) in (0u32..).zip(operations) {
            before.push(operated.connection.and_then(|connection| last.get(&connection).copied()));
            if let Some(connection) = operated.connection.filter(|_| is_answered(place)) {
                last.insert(connection, place);
            }
        }
        let mut by_return: Vec<u32> = (0..operations.len() as u32).filter(|&place| is_answered(place)).collect();
        by_return.sort_by_key(|&place| operations[place as usize].return_ns);
        Precedence { operations, kinds, by_return, before }
    }

    /// The operation that was answered first, of those that are not placed.
    pub(super) fn overdue(&self, is_placed: impl Fn(u32) -> bool) -> Option<u32> {
        self.by_return.iter().copied().find(|&place| !is_placed(place))
    }

    /// Whether an operation may be next, where `overdue` was answered first of those that are not placed: nothing that
    /// is not placed was answered before it was asked for, or asked for before it on its connection.
    pub(super) fn may_be_next(&self, place: u32, overdue: u32, is_placed: impl Fn(u32) -> bool) -> bool {
        let bound_ns = self.operations[overdue as usize].return_ns;
        self.operations[place as usize].invoke_ns <= bound_ns && self.before[place as usize].is_none_or(is_placed)
    }
}
