//! Whole runs: the same seed is the same run, a bounded number of seeds is clean, and every kind of fault really happens.

use lockstep_sim::{
    groups::{Effect, GroupOptions},
    host::WALL_START_NS,
    plan::{Fault, MS, Plan},
    run::{run_plan, run_seed},
    shared::Counters,
    world::World,
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
    let mut walks = 0;
    for seed in 0..SEEDS {
        let outcome = run_seed(seed).outcome;
        if let Some(failure) = outcome.failure {
            panic!("seed {seed} fails: {:?}: {}; `lockstep-sim replay {seed} --trace`", failure.check, failure.text);
        }
        walks += outcome.walks;
    }
    assert!(walks >= SEEDS, "{walks} walks through all keys came to their end");
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

/// So many seeds have a log with a write of a group in it that is left out or moved.
const WITNESSES: usize = 20;

#[test]
fn a_log_with_a_write_left_out_or_moved_does_not_explain_what_clients_were_told() {
    // The search is to decide nothing, so that the log alone does.
    let options = GroupOptions { slack_ns: 2000 * MS, wall_start_ns: WALL_START_NS, steps_max: 1 };
    let (mut tried, mut found_missing, mut found_moved) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(Plan::of(seed), false);
        world.run();
        let carried = world.shared.facts.carried_out().expect("the log is that of its primaries");
        let witness = world.shared.groups.witness(&carried).expect("somebody has asked for everything");
        let explains = |witness: &[Effect]| world.shared.groups.check(&options, Some(witness)).is_ok();
        assert!(explains(&witness), "seed {seed}");
        if witness.len() < 10 || tried == WITNESSES {
            continue;
        }
        tried += 1;
        let at = witness.len() / 2;
        let mut missing = witness.clone();
        let effect = missing.remove(at);
        found_missing += usize::from(!explains(&missing));
        // At the end it is later than its answer, whatever it has told.
        let last = witness.last().expect("there are ten");
        let mut moved = missing.clone();
        moved.push(Effect { revision: last.revision + 1, time_ns: last.time_ns, ..effect });
        found_moved += usize::from(!explains(&moved));
    }
    assert_eq!(tried, WITNESSES, "clients work on groups in many seeds");
    // What had no answer, and nobody has seen, may be anywhere.
    assert!(found_missing >= WITNESSES * 3 / 4 && found_moved >= WITNESSES * 3 / 4, "{found_missing}, {found_moved}");
}
