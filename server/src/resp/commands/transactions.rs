//! MULTI, EXEC, DISCARD, WATCH, UNWATCH: what they are is in [`crate::resp::transaction`].

use crate::resp::{
    arguments::Arguments,
    context::{Action, Context, TransactionStep},
};

/// MULTI.
pub fn multi<'a>(_: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    Action::Transaction(TransactionStep::Begin)
}

/// EXEC.
pub fn exec<'a>(_: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    Action::Transaction(TransactionStep::Execute)
}

/// DISCARD.
pub fn discard<'a>(_: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    Action::Transaction(TransactionStep::Discard)
}

/// WATCH.
pub fn watch<'a>(_: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    Action::Transaction(TransactionStep::Watch(arguments.from(1)))
}

/// UNWATCH.
pub fn unwatch<'a>(_: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    Action::Transaction(TransactionStep::Unwatch)
}
