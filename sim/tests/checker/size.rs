//! Thousands of operations on one key. What is asserted is how much the search does, not how long it takes.

use lockstep_sim::checker::{CheckOptions, Failure};

use super::random::{Lie, Shape, generate};

#[test]
fn thousands_of_operations_on_one_key_take_little_more_than_a_step_each() {
    for (keys, unknown, steps_per_operation) in [(1, 0, 1), (1, 3, 2), (2, 10, 100)] {
        let shape = Shape { seed: 7, clients: 48, operations: 10_000, keys, unknown, lie: Lie::None };
        let (history, _) = generate(&shape);
        let report = history.check(&CheckOptions::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.operations >= 10_000);
        let steps_max = steps_per_operation * report.operations as u64;
        assert!(report.steps <= steps_max, "{} steps with {unknown} in 100 unknown", report.steps);
    }
}

#[test]
fn a_violation_among_thousands_of_operations_is_decided_and_made_small() {
    let lie = Lie::LosesPut;
    let (history, lies) = generate(&Shape { seed: 3, clients: 48, operations: 6_000, keys: 1, unknown: 2, lie });
    assert_eq!(lies, 1);
    match history.check(&CheckOptions::default()) {
        Err(Failure::Violation(violation)) => assert!(violation.operations.len() <= 8, "{violation}"),
        other => panic!("not found: {other:?}"),
    }
}
