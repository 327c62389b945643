//! A run from beginning to end, its panics caught.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    sync::Once,
};

use lockstep_proto::mutant::Mutant;

use crate::{
    facts::{Check, Failure},
    plan::Plan,
    stories::Story,
    world::{Outcome, World},
};

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_CAUGHT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Makes panics of runs into failures instead of lines on the terminal.
fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                return before(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PANIC.set(Some(format!("{text} ({place})")));
        }));
    });
}

/// A run, with its transcript if that was asked for.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// What happened, line by line.
    pub lines: Vec<String>,
}

/// Carries out a plan.
pub fn run_plan(plan: Plan, is_traced: bool) -> Run {
    install_hook();
    let mut world = World::new(plan, is_traced);
    IS_CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    IS_CAUGHT.set(false);
    let mut outcome = world.outcome();
    if result.is_err() {
        let text = PANIC.take().unwrap_or_default();
        outcome.failure = Some(Failure { check: Check::Assertion, text, at_ns: world.shared.now_ns });
    }
    Run { outcome, lines: world.shared.trace.take_lines() }
}

/// Lets a scenario happen, with a wrong variant of the code or without. Returns what it panicked with, if it did.
pub fn run_story(story: &Story, mutant: Option<Mutant>) -> Option<String> {
    install_hook();
    choose_mutant(mutant);
    IS_CAUGHT.set(true);
    let result = catch_unwind(story.tell);
    IS_CAUGHT.set(false);
    choose_mutant(None);
    result.err().map(|_| PANIC.take().unwrap_or_default())
}

/// Carries out the plan of a seed.
pub fn run_seed(seed: u64) -> Run {
    run_plan(Plan::of(seed), false)
}

/// Makes runs of this thread use a deliberately wrong variant of the code. Does nothing without the feature `mutants`.
pub fn choose_mutant(mutant: Option<Mutant>) {
    #[cfg(feature = "mutants")]
    lockstep_proto::mutant::choose(mutant);
    #[cfg(not(feature = "mutants"))]
    let _ = mutant;
}
