//! Whole runs: the same seed is the same run, a bounded number of seeds is clean, and every kind of fault really happens.

use lockstep_sim::{
    plan::{Fault, Plan},
    run::{run_plan, run_seed},
    shared::Counters,
};

/// Seeds that the tests run: few, because tests are built to be debugged. CI runs thousands with the optimised program.
const SEEDS: u64 = 60;

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let (first, second) = (run_seed(seed).outcome, run_seed(seed).outcome);
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!((first.steps, first.virtual_ns), (second.steps, second.virtual_ns), "seed {seed}");
    }
}

#[test]
fn a_transcript_does_not_change_the_run() {
    let seed = 4;
    let with = run_plan(Plan::of(seed), true);
    assert!(!with.lines.is_empty());
    assert_eq!(with.outcome.trace_hash, run_seed(seed).outcome.trace_hash);
}

#[test]
fn different_seeds_are_different_runs() {
    let mut hashes: Vec<u64> = (0..20).map(|seed| run_seed(seed).outcome.trace_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 20);
}

#[test]
fn seeds_are_clean() {
    for seed in 0..SEEDS {
        let outcome = run_seed(seed).outcome;
        if let Some(failure) = outcome.failure {
            panic!("seed {seed} fails: {:?}: {}; `lockstep-sim replay {seed} --trace`", failure.check, failure.text);
        }
    }
}

#[test]
fn every_kind_of_fault_really_happens() {
    let mut counters = Counters::default();
    let mut seed = 0;
    // A clock's rate has no moment at which it happens: that it is drawn is enough.
    let is_missing = |counters: &Counters| {
        Fault::ALL.iter().copied().find(|&fault| fault != Fault::ClockSkew && counters.of(fault) == 0)
    };
    while let Some(missing) = is_missing(&counters) {
        assert!(seed < 20 * SEEDS, "{} does not happen", missing.name());
        counters.merge(&run_seed(seed).outcome.counters);
        seed += 1;
    }
}
