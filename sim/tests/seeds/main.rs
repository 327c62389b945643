//! Whole runs: the same seed is the same run, a bounded number of seeds is clean, and every kind of fault really
//! happens.

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

/// So many seeds have a log in which a write is left out or moved.
const WITNESSES: usize = 20;

/// Whether what clients were told is explained by an order of effects.
type Explains<'a> = &'a dyn Fn(&[Effect]) -> bool;

/// Leaves a write of a log out, and moves it to the end. Returns for each whether what clients were told is explained
/// by it.
fn tamper(witness: &[Effect], explains: Explains<'_>) -> [bool; 2] {
    let mut missing = witness.to_vec();
    let effect = missing.remove(witness.len() / 2);
    // At the end it is later than its answer, whatever it has told.
    let last = witness.last().expect("it is not empty");
    let mut moved = missing.clone();
    moved.push(Effect { revision: last.revision + 1, time_ns: last.time_ns, ..effect });
    [explains(&missing), explains(&moved)]
}

#[test]
fn a_log_with_a_write_left_out_or_moved_does_not_explain_what_clients_were_told() {
    // The search is to decide nothing, so that the log alone does.
    let options = GroupOptions { slack_ns: 2000 * MS, wall_start_ns: WALL_START_NS, steps_max: 1 };
    // Of groups, and of single keys: how many were tried, and how many of them were not explained with a write left
    // out, or moved.
    let mut counts = [[0; 3]; 2];
    for seed in 0..SEEDS {
        let mut world = World::new(Plan::of(seed), false);
        world.run();
        let carried = world.shared.facts.carried_out().expect("the log is that of its primaries");
        let (groups, singles) = (&world.shared.groups, &world.shared.singles);
        let of_groups = groups.witness(&carried).expect("somebody has asked for everything");
        let of_singles = singles.witness_of_sessions(&carried);
        let explains_groups = |witness: &[Effect]| groups.check(&options, Some(witness)).is_ok();
        let explains_singles = |witness: &[Effect]| singles.follow(&options, witness).is_ok();
        let both: [(&[Effect], Explains<'_>); 2] = [(&of_groups, &explains_groups), (&of_singles, &explains_singles)];
        for ((witness, explains), [tried, missing, moved]) in both.into_iter().zip(&mut counts) {
            assert!(explains(witness), "seed {seed}");
            if witness.len() < 10 || *tried == WITNESSES {
                continue;
            }
            let [is_missing_explained, is_moved_explained] = tamper(witness, explains);
            *tried += 1;
            *missing += usize::from(!is_missing_explained);
            *moved += usize::from(!is_moved_explained);
        }
    }
    // What had no answer, and nobody has seen, may be anywhere; and what has done nothing may be missing. Of single
    // keys that is much: compare-and-sets of versions that are gone, and increments of what is no number.
    let [[groups, missing_of_groups, _], [singles, missing_of_singles, _]] = counts;
    assert_eq!([groups, singles], [WITNESSES; 2]);
    assert!(counts.iter().all(|[.., moved]| *moved >= WITNESSES * 3 / 4), "{counts:?}");
    assert!(missing_of_groups >= WITNESSES * 3 / 4 && missing_of_singles >= WITNESSES / 3, "{counts:?}");
}
