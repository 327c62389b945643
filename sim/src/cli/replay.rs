//! `replay`: one seed again, with a transcript.

use anyhow::Context;
use lockstep_proto::mutant::Mutant;

use super::{ReplayArguments, version};
use crate::{
    plan::Plan,
    run::{choose_mutant, run_plan},
    shrink::shrink,
};

/// Runs a seed again. Returns whether it did not fail.
pub fn replay(arguments: &ReplayArguments) -> anyhow::Result<bool> {
    if let Some(name) = &arguments.mutant {
        let mutant = Mutant::ALL.iter().find(|mutant| mutant.name().eq_ignore_ascii_case(name));
        super::mutants::ensure_built_in()?;
        choose_mutant(Some(*mutant.with_context(|| format!("there is no variant {name}"))?));
    }
    let plan = Plan::of(arguments.seed);
    let run = run_plan(plan.clone(), arguments.trace);
    if arguments.trace && !arguments.shrink {
        run.lines.iter().for_each(|line| println!("{line}"));
    }
    let outcome = &run.outcome;
    println!(
        "seed {} of version {}: {} steps, {} operations, {} ops committed, {} views, trace hash {:016x}",
        arguments.seed,
        version(),
        outcome.steps,
        outcome.operations,
        outcome.committed,
        outcome.views,
        outcome.trace_hash
    );
    let Some(failure) = &outcome.failure else {
        println!("all is well");
        return Ok(true);
    };
    println!("fails: {:?}: {}", failure.check, failure.text);
    if arguments.shrink {
        println!("{}", shrink(plan, failure.check).report(arguments.seed));
    }
    Ok(false)
}
