//! Histories whose truth a person can see.

use lockstep_sim::checker::{CheckOptions, Failure, History};

use super::recorder::{Ask, Op, Told, assert_bad, assert_good, cas, found, history, op, put, unknown};

const MS: u64 = 1_000_000;

#[test]
fn nothing_at_all_is_right() {
    assert!(History::new().check(&CheckOptions::default()).is_ok());
    assert_good(&[unknown(1, 0, Ask::Get), unknown(1, 1, put("a"))]);
}

#[test]
fn a_concurrent_read_may_see_either_side_of_a_write() {
    let write = op(1, 10..20, put("a"), Told::Ok(1));
    assert_good(&[write.clone(), op(2, 11..12, Ask::Get, Told::None)]);
    assert_good(&[write.clone(), op(2, 11..12, Ask::Get, found("a", 1))]);
    // Once seen, it stays seen.
    let text = assert_bad(&[write, op(2, 11..12, Ask::Get, found("a", 1)), op(3, 13..14, Ask::Get, Told::None)]);
    assert!(text.contains("lost"), "{text}");
}

#[test]
fn an_acknowledged_write_that_is_missing_is_shown_with_the_read_that_missed_it_and_nothing_else() {
    let mut operations = Vec::new();
    for number in 0..50 {
        operations.push(op(1, number * 10..number * 10 + 5, put(&format!("v{number}")), Told::Ok(number + 1)));
        operations.push(op(2, number * 10 + 6..number * 10 + 8, Ask::Get, found(&format!("v{number}"), number + 1)));
    }
    assert_good(&operations);
    operations.push(op(3, 600..610, Ask::Get, found("v48", 49)));
    let text = assert_bad(&operations);
    assert!(text.contains("stale") && text.contains("\"v49\"") && text.lines().count() <= 4, "{text}");
}

#[test]
fn a_value_that_nobody_wrote_is_bad() {
    let text = assert_bad(&[op(1, 0..5, put("a"), Told::Ok(1)), op(2, 6..7, Ask::Get, found("b", 2))]);
    assert!(text.contains("nothing that was asked for"), "{text}");
    assert_bad(&[op(1, 0..5, put("a"), Told::Ok(1)), op(2, 6..7, Ask::Get, found("b", 1))]);
    assert_bad(&[op(2, 6..7, Ask::Get, found("b", 1)), unknown(1, 8, put("b"))]);
}

#[test]
fn a_write_of_unknown_outcome_may_happen_at_any_later_time_or_never_but_once() {
    let lost = unknown(1, 0, put("x"));
    let write = op(2, 10..20, put("a"), Told::Ok(5));
    let later = |version| op(2, 30..40, Ask::Get, found("x", version));
    assert_good(&[lost.clone(), write.clone(), later(9)]);
    assert_good(&[lost.clone(), write.clone(), op(2, 30..40, Ask::Get, found("a", 5))]);
    // Not twice, with another write in between.
    let between = op(2, 50..60, put("b"), Told::Ok(10));
    let again = op(2, 70..80, Ask::Get, found("x", 11));
    assert_bad(&[lost.clone(), write.clone(), later(9), between.clone(), again.clone()]);
    assert_good(&[lost.clone(), unknown(3, 1, put("x")), write, later(9), between, again]);
}

#[test]
fn a_write_of_unknown_outcome_gets_no_version_that_was_past_when_it_was_asked_for() {
    let other_key = Op { key: "other", ..op(3, 0..10, put("o"), Told::Ok(20)) };
    let read = op(2, 30..40, Ask::Get, found("x", 15));
    assert_good(&[unknown(1, 20, put("x")), read.clone()]);
    assert_bad(&[other_key, unknown(1, 20, put("x")), read]);
}

#[test]
fn versions_follow_time_across_the_keys_of_a_shard() {
    let first = op(1, 0..10, put("a"), Told::Ok(7));
    let other = |version| Op { key: "other", ..op(2, 11..20, put("b"), Told::Ok(version)) };
    assert_good(&[first.clone(), other(8)]);
    let text = assert_bad(&[first.clone(), other(6)]);
    assert!(text.contains("not higher") && text.contains("\"other\"") && text.contains("\"k\""), "{text}");
    assert!(assert_bad(&[first.clone(), other(7)]).contains("same version"));
    // Another shard has another log.
    let history = super::recorder::history(&[first, other(6)]);
    assert!(history.check(&CheckOptions { shards: 64, ..CheckOptions::default() }).is_ok());
}

#[test]
fn a_version_is_not_seen_before_its_write_is_asked_for() {
    let text = assert_bad(&[op(1, 0..5, Ask::Exists, Told::Exists(3)), op(2, 6..9, put("a"), Told::Ok(3))]);
    assert!(text.contains("before its write was asked for"), "{text}");
}

#[test]
fn an_increment_that_is_counted_twice_is_named() {
    let add = |from: u64, sum, version| op(1, from..from + 5, Ask::Add(1), Told::Sum(sum, version));
    assert_good(&[add(0, 1, 1), add(10, 2, 2), op(1, 20..21, Ask::Get, found("2", 2))]);
    let text = assert_bad(&[add(0, 1, 1), add(10, 3, 3)]);
    assert!(text.contains("1 too high, as if an increment was carried out twice"), "{text}");
    let text = assert_bad(&[add(0, 1, 1), add(10, 1, 3)]);
    assert!(text.contains("1 too low, as if an increment was lost"), "{text}");
    // An increment whose answer was lost may be counted once.
    assert_good(&[unknown(2, 1, Ask::Add(1)), add(0, 1, 1), add(10, 3, 3)]);
    assert_bad(&[unknown(2, 1, Ask::Add(1)), add(0, 1, 1), add(10, 4, 4)]);
    assert_bad(&[unknown(2, 12, Ask::Add(1)), add(0, 1, 1), add(6, 3, 3), add(20, 4, 4)]);
    // There must be room for it in the log.
    assert_bad(&[unknown(2, 1, Ask::Add(1)), add(0, 1, 1), add(10, 3, 2)]);
}

#[test]
fn many_increments_of_unknown_outcome_are_counted_out() {
    let mut operations: Vec<Op> = (0..40).map(|client| unknown(client, u64::from(client), Ask::Add(1))).collect();
    operations.push(op(99, 100..110, Ask::Add(1), Told::Sum(31, 60)));
    operations.push(op(99, 120..130, Ask::Add(1), Told::Sum(41, 80)));
    assert_good(&operations);
    operations.push(op(99, 140..150, Ask::Add(1), Told::Sum(44, 90)));
    assert_bad(&operations);
}

#[test]
fn compare_and_set_succeeds_only_on_its_version() {
    let write = op(1, 0..5, put("a"), Told::Ok(3));
    assert_good(&[write.clone(), op(1, 6..9, cas(3, "b"), Told::Ok(4)), op(1, 10..11, Ask::Get, found("b", 4))]);
    assert_good(&[write.clone(), op(1, 6..9, cas(2, "b"), Told::Mismatch(3))]);
    assert_bad(&[write.clone(), op(1, 6..9, cas(2, "b"), Told::Ok(4))]);
    assert_bad(&[write.clone(), op(1, 6..9, cas(3, "b"), Told::Mismatch(3))]);
    assert_bad(&[write.clone(), op(1, 6..9, cas(0, "b"), Told::Ok(4))]);
    assert_good(&[op(1, 6..9, cas(0, "b"), Told::Ok(4)), op(1, 10..19, cas(9, "c"), Told::Mismatch(4))]);
    // Two that expect the same cannot both succeed.
    assert_bad(&[write.clone(), op(1, 6..20, cas(3, "b"), Told::Ok(4)), op(2, 6..20, cas(3, "c"), Told::Ok(5))]);
    // One of unknown outcome may explain what is seen, but only on its version.
    assert_good(&[write.clone(), unknown(1, 6, cas(3, "b")), op(1, 10..11, Ask::Get, found("b", 4))]);
    assert_bad(&[write.clone(), unknown(1, 6, cas(2, "b")), op(1, 10..11, Ask::Get, found("b", 4))]);
    // The version that it expects may be that of another one of unknown outcome.
    let chain = [unknown(2, 0, put("x")), write, unknown(1, 6, cas(7, "b")), op(1, 10..11, Ask::Get, found("b", 9))];
    assert_good(&chain);
}

#[test]
fn deletes_are_told_from_lost_writes() {
    let write = op(1, 0..5, put("a"), Told::Ok(3));
    let missing = op(2, 20..30, Ask::Get, Told::None);
    assert_bad(&[write.clone(), missing.clone()]);
    assert_good(&[write.clone(), op(1, 6..9, Ask::Delete, Told::Ok(4)), missing.clone()]);
    assert_good(&[write.clone(), unknown(3, 6, Ask::Delete), missing.clone()]);
    assert_bad(&[write.clone(), missing.clone(), unknown(3, 31, Ask::Delete)]);
    assert_bad(&[write, unknown(3, 6, Ask::Delete), missing.clone(), op(2, 40..50, Ask::Get, found("a", 3))]);
    assert_bad(&[op(1, 6..9, Ask::Delete, Told::Ok(4))]);
    assert_good(&[unknown(1, 0, put("a")), op(1, 6..9, Ask::Delete, Told::Ok(4)), missing]);
}

#[test]
fn numbers_and_other_values_are_told_apart() {
    let text = op(1, 0..5, put("01"), Told::Ok(3));
    assert_good(&[text.clone(), op(1, 6..9, Ask::Add(1), Told::NotANumber(3))]);
    assert_bad(&[text, op(1, 6..9, Ask::Add(1), Told::Sum(2, 4))]);
    let number = op(1, 0..5, put("-7"), Told::Ok(3));
    assert_good(&[number.clone(), op(1, 6..9, Ask::Add(2), Told::Sum(-5, 4))]);
    assert_bad(&[number, op(1, 6..9, Ask::Add(2), Told::NotANumber(0))]);
    let most = op(1, 0..5, put(&i64::MAX.to_string()), Told::Ok(3));
    assert_good(&[most, op(1, 6..9, Ask::Add(1), Told::NotANumber(0))]);
}

#[test]
fn a_key_with_a_time_to_live_goes_when_it_is_over_and_not_before() {
    let write = op(1, 10..20, Ask::PutFor("a".to_owned(), 1), Told::Ok(3));
    let gone = |at: u64| op(2, at..at + 1, Ask::Get, Told::None);
    let there = |at: u64| op(2, at..at + 1, Ask::Get, found("a", 3));
    assert_good(&[write.clone(), there(30), gone(10 + MS), gone(30 + MS)]);
    assert_bad(&[write.clone(), gone(MS)]);
    assert_bad(&[write.clone(), there(21 + MS)]);
    assert_bad(&[write.clone(), gone(15 + MS), there(17 + MS)]);
    assert_good(&[write.clone(), op(1, 25..30, Ask::Ttl, Told::Remaining(0))]);
    assert_good(&[write.clone(), op(1, 25..30, Ask::Ttl, Told::Remaining(1))]);
    assert_bad(&[write.clone(), op(1, 25..30, Ask::Ttl, Told::Remaining(5))]);
    assert_bad(&[write.clone(), op(1, 25..30, Ask::Ttl, Told::Persistent)]);
    // Whose time-to-live it was may show only later.
    let lost = unknown(1, 10, Ask::PutFor("a".to_owned(), 1));
    assert_good(&[lost, op(2, 20..25, Ask::Ttl, Told::Remaining(1)), there(30)]);
    // Taken away, it stays.
    let keep = op(1, 21..25, Ask::Expire(None), Told::Ok(3));
    assert_good(&[write.clone(), keep.clone(), there(5 * MS), op(1, 6 * MS..7 * MS, Ask::Ttl, Told::Persistent)]);
    assert_bad(&[write.clone(), keep, gone(5 * MS)]);
    // Whether it was taken away may be unknown.
    assert_good(&[write.clone(), unknown(1, 21, Ask::Expire(None)), there(5 * MS)]);
    assert_good(&[write, unknown(1, 21, Ask::Expire(None)), gone(5 * MS)]);
    // An increment keeps it, a put drops it.
    let number = op(1, 10..20, Ask::PutFor("1".to_owned(), 1), Told::Ok(3));
    let add = op(1, 21..22, Ask::Add(1), Told::Sum(2, 4));
    assert_good(&[number.clone(), add.clone(), gone(2 * MS), op(1, 3 * MS..4 * MS, Ask::Add(1), Told::Sum(1, 5))]);
    assert_bad(&[number.clone(), add, op(1, 3 * MS..4 * MS, Ask::Add(1), Told::Sum(3, 5))]);
    assert_bad(&[number, op(1, 21..22, put("x"), Told::Ok(4)), gone(2 * MS)]);
}

#[test]
fn an_operation_that_was_refused_has_done_nothing() {
    use lockstep_sim::checker::{Answer, Call};
    let mut history = History::new();
    let refused = history.invoke(1, 0, b"k", Call::Put { value: b"a", ttl_ms: None });
    history.complete(refused, 5, Answer::Refused);
    assert!(history.check(&CheckOptions::default()).is_ok());
    let read = history.invoke(1, 10, b"k", Call::Get);
    history.complete(read, 15, Answer::Found { value: b"a", version: 1 });
    assert!(history.check(&CheckOptions::default()).is_err());
}

#[test]
fn a_violation_counts_although_another_key_takes_too_long() {
    let steps_max = 2;
    let options = CheckOptions { steps_max, ..CheckOptions::default() };
    let slow = |key| Op { key, ..op(1, 0..1, put("a"), Told::Ok(1)) };
    let longer = |key, version: u64| Op { key, ..op(1, version * 10..version * 10 + 5, put("a"), Told::Ok(version)) };
    let wrong = Op { key: "wrong", ..op(2, 50..60, Ask::Get, found("never written", 90)) };
    let hard = [slow("slow"), longer("slow", 2), longer("slow", 3), longer("other", 4), longer("other", 5)];
    match history(&hard).check(&options) {
        Err(Failure::Undecided { key, steps }) => assert_eq!((&key[..], steps), (&b"slow"[..], steps_max)),
        other => panic!("it takes more steps than that: {other:?}"),
    }
    let all = [&hard[..], &[wrong]].concat();
    match history(&all).check(&options) {
        Err(Failure::Violation(violation)) => assert_eq!(violation.key, b"wrong"),
        other => panic!("the last key is wrong: {other:?}"),
    }
}
