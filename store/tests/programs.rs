//! Programs, carried out by the store and by a naive model of Redis.

mod commands;

use std::collections::BTreeSet;

use commands::{Answer, Call, Model, build, call, calls, int, key, query, transact};
use lockstep_proto::{
    Status,
    limits::REQUEST_BODY_SIZE_MAX,
    program::{ErrorCode, Opcode, flags},
};
use lockstep_store::{CheckpointProgress, Loader, Store, StoreConfig};
use proptest::prelude::*;

const KEYS: u8 = 8;
const EPOCH_MS: i64 = 1_700_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

fn store(seed: u64) -> Store {
    Store::new(StoreConfig { hash_seed: [seed, 1, 2, 3], shard: 0, shards: 1, bytes_max: u64::MAX })
}

fn ns(ms: i64) -> u64 {
    ms as u64 * NS_PER_MS
}

/// Batches: ms since the one before, programs, and whether the last program is run only if a key stays as it was
/// before.
type Batches = Vec<(i64, Vec<Vec<Call>>, Option<u8>)>;

fn batches(count: usize) -> impl Strategy<Value = Batches> {
    let program = proptest::collection::vec(calls(KEYS, EPOCH_MS), 1..5);
    let program = program.prop_filter("it fits a request", |calls| build(calls).size() < REQUEST_BODY_SIZE_MAX - 400);
    let programs = proptest::collection::vec(program, 0..4);
    let watched = prop_oneof![3 => Just(None), 1 => (0..KEYS).prop_map(Some)];
    proptest::collection::vec((0i64..12, programs, watched), 1..count)
}

fn check_against_model(store: &mut Store, model: &mut Model, batches: &Batches) -> Result<(), TestCaseError> {
    for (elapsed_ms, programs, watched) in batches {
        model.set_time(model.now_ms + elapsed_ms);
        let mut programs = programs.clone();
        if let (Some(watched), Some(last)) = (watched, programs.last_mut()) {
            let key = key(*watched);
            let (_, stamp) = query(store, ns(model.now_ms), &[call(Opcode::Stamp, &[&key])]);
            prop_assert_eq!(&stamp, &[Answer::Array(model.stamp(&key).to_vec())]);
            let [Answer::Integer(version), Answer::Integer(expiry)] = model.stamp(&key) else { unreachable!() };
            last.insert(0, call(Opcode::Check, &[&key, &int(version), &int(expiry)]));
        }
        let numbered: Vec<_> = (model.revision + 1..).zip(&programs).map(|(it, calls)| (it, build(calls))).collect();
        let answers = transact(store, ns(model.now_ms), &numbered);
        for (calls, (result, answers)) in programs.iter().zip(&answers) {
            let expected = model.run(calls, answers);
            prop_assert_eq!((result.status, result.version), (Status::Ok, model.revision));
            prop_assert_eq!(answers, &expected, "{:?}", calls);
        }
        store.check().expect("a consistent store");
    }
    for key in (0..KEYS).map(key) {
        let reads = [Opcode::Get, Opcode::Stamp, Opcode::Encoding].map(|opcode| call(opcode, &[&key]));
        let (status, answers) = query(store, ns(model.now_ms), &reads);
        prop_assert_eq!(status, Status::Ok);
        prop_assert_eq!(answers, model.clone().run(&reads, &[]));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn programs_do_what_the_model_of_redis_does(batches in batches(25), seed: u64) {
        let mut model = Model { now_ms: EPOCH_MS, revision: 10, ..Model::default() };
        check_against_model(&mut store(seed), &mut model, &batches)?;
    }

    #[test]
    fn a_store_restored_from_a_checkpoint_goes_on_alike(
        before in batches(12), during in batches(12), after in batches(6), has_flush: bool
    ) {
        let mut store_ = store(1);
        let mut model = Model { now_ms: EPOCH_MS, revision: 10, ..Model::default() };
        check_against_model(&mut store_, &mut model, &before)?;
        let (hash_at_cut, model_at_cut) = (store_.content_hash(), model.clone());
        store_.checkpoint_begin();
        let (mut stream, mut is_done) = (Vec::new(), false);
        for batch in &during {
            is_done = is_done || matches!(store_.checkpoint_step(300, &mut stream), CheckpointProgress::Done { .. });
            check_against_model(&mut store_, &mut model, &vec![batch.clone()])?;
        }
        if has_flush {
            let flush = (0, vec![vec![call(Opcode::Flush, &[])]], None);
            check_against_model(&mut store_, &mut model, &vec![flush])?;
            prop_assert!(store_.is_empty());
        }
        while !is_done {
            is_done = matches!(store_.checkpoint_step(300, &mut stream), CheckpointProgress::Done { .. });
        }
        store_.check().expect("a consistent store");
        let mut loader = Loader::new(StoreConfig { hash_seed: [9, 8, 7, 6], shard: 0, shards: 1, bytes_max: u64::MAX });
        stream.chunks(777).try_for_each(|piece| loader.push(piece)).expect("a good stream");
        let (mut restored, state_hash) = loader.finish().expect("a whole stream");
        prop_assert_eq!(state_hash, hash_at_cut);
        prop_assert_eq!(restored.content_hash(), hash_at_cut);
        // What the log holds beyond the cut leads to the same content.
        let mut model = model_at_cut;
        check_against_model(&mut restored, &mut model, &during)?;
        if has_flush {
            let flush = (0, vec![vec![call(Opcode::Flush, &[])]], None);
            check_against_model(&mut restored, &mut model, &vec![flush])?;
        }
        prop_assert_eq!(restored.content_hash(), store_.content_hash());
        check_against_model(&mut restored, &mut model, &after)?;
    }

    #[test]
    fn a_scan_returns_every_key_that_is_there_throughout(
        kept in 1usize..60, counts in proptest::collection::vec(1i64..9, 1..5), batches in batches(20)
    ) {
        let mut store = store(3);
        let names: BTreeSet<Vec<u8>> = (0..kept).map(|number| format!("kept-{number}").into_bytes()).collect();
        let sets: Vec<Call> = names.iter().map(|name| call(Opcode::Set, &[name, b"v"])).collect();
        let mut model = Model { now_ms: EPOCH_MS, revision: 1, ..Model::default() };
        check_against_model(&mut store, &mut model, &vec![(0, vec![sets], None)])?;
        let (mut seen, mut cursor, mut step) = (BTreeSet::new(), 0i64, 0);
        loop {
            let count = int(counts[step % counts.len()]);
            let scan = Call(Opcode::Scan, flags::MATCH, vec![int(cursor), count, b"k*".to_vec()]);
            let (_, answers) = query(&store, ns(model.now_ms), &[scan]);
            let [Answer::Array(parts)] = &answers[..] else { panic!("{answers:?}") };
            let [Answer::Bulk(next), Answer::Array(keys)] = &parts[..] else { panic!("{parts:?}") };
            for key in keys {
                let Answer::Bulk(key) = key else { panic!("{key:?}") };
                prop_assert!(model.objects.contains_key(key), "{:?} is not there any more", key);
                let is_new = seen.insert(key.clone());
                prop_assert!(is_new || !names.contains(key), "a key that stays is returned once");
            }
            cursor = String::from_utf8(next.clone()).unwrap().parse().unwrap();
            if cursor == 0 {
                break;
            }
            if let Some(batch) = batches.get(step) {
                check_against_model(&mut store, &mut model, &vec![batch.clone()])?;
            }
            step += 1;
        }
        prop_assert!(seen.is_superset(&names));
    }
}

#[test]
fn a_program_with_a_key_of_another_shard_changes_nothing() {
    let mut store = Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 2, bytes_max: u64::MAX });
    // bar is in slot 5061 and foo in slot 12182.
    let program = build(&[call(Opcode::Set, &[b"bar", b"1"]), call(Opcode::Set, &[b"foo", b"1"])]);
    let answers = transact(&mut store, ns(EPOCH_MS), &[(1, program)]);
    assert_eq!((answers[0].0.status, answers[0].1.len()), (Status::WrongShard, 0));
    assert!(store.is_empty());
    let (status, answers) = query(&store, ns(EPOCH_MS), &[call(Opcode::Get, &[b"bar"]), call(Opcode::Get, &[b"foo"])]);
    assert_eq!((status, answers.len()), (Status::WrongShard, 0));
}

#[test]
fn results_beyond_a_reply_are_an_error_and_the_effects_stand() {
    let mut store = store(1);
    let big = vec![b'x'; 1 << 20];
    let set = |key: &[u8]| build(&[call(Opcode::Set, &[key, &big])]);
    let now_ns = ns(EPOCH_MS);
    transact(&mut store, now_ns, &[(1, set(b"a")), (2, set(b"b")), (3, set(b"c")), (4, set(b"d"))]);
    let all: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    let (_, answers) = query(&store, now_ns, &[call(Opcode::MultiGet, &all), call(Opcode::MultiGet, &all[..3])]);
    assert_eq!(answers[0], Answer::Error(ErrorCode::ResultTooLarge));
    assert!(matches!(&answers[1], Answer::Array(values) if values.len() == 3));
    let take = build(&all.map(|key| call(Opcode::GetDelete, &[key])));
    let answers = transact(&mut store, now_ns, &[(5, take)]).remove(0).1;
    assert!(matches!(answers[2], Answer::Bulk(_)));
    assert_eq!(answers[3], Answer::Error(ErrorCode::ResultTooLarge));
    assert!(store.is_empty());
}

#[test]
fn keys_are_counted_listed_and_drawn_without_those_that_have_expired() {
    let mut store = store(1);
    let mut calls: Vec<Call> = (0..300).map(|it| call(Opcode::Set, &[format!("{{t}}{it}").as_bytes(), b"v"])).collect();
    for number in 0..299 {
        let key = format!("{{t}}{number}").into_bytes();
        calls.push(Call(Opcode::Expire, flags::RELATIVE, vec![key, int(10)]));
    }
    transact(&mut store, ns(EPOCH_MS), &[(1, build(&calls))]);
    let slot = int(lockstep_proto::slot::slot_of(b"{t}").into());
    let questions = [
        call(Opcode::KeyCount, &[]),
        call(Opcode::Keys, &[b"*9*"]),
        call(Opcode::RandomKey, &[&int(5)]),
        call(Opcode::SlotKeys, &[&slot, &int(1000)]),
        call(Opcode::SlotKeyCount, &[&slot]),
        call(Opcode::SlotKeyCount, &[&int(-1)]),
        call(Opcode::Keys, &[b"*"]),
    ];
    let last = || Answer::Bulk(b"{t}299".to_vec());
    let (_, answers) = query(&store, ns(EPOCH_MS + 10), &questions);
    assert_eq!(answers[..3], [Answer::Integer(1), Answer::Array(vec![last()]), last()]);
    assert_eq!(answers[3..6], [Answer::Array(vec![last()]), Answer::Integer(300), Answer::Integer(0)]);
    let (_, answers) = query(&store, ns(EPOCH_MS + 9), &questions);
    assert_eq!(answers[0], Answer::Integer(300));
    assert!(matches!(&answers[6], Answer::Array(keys) if keys.len() == 300));
    transact(&mut store, ns(EPOCH_MS + 11), &[(2, build(&[call(Opcode::Delete, &[b"{t}299"])]))]);
    let (_, answers) = query(&store, ns(EPOCH_MS + 11), &questions[..3]);
    assert_eq!(answers, [Answer::Integer(0), Answer::Array(vec![]), Answer::Nil]);
}

/// A small program could otherwise keep every replica busy for hours, and nothing else would be done meanwhile.
/// It answered nil where nearly all keys had expired and were not removed yet.
#[test]
fn the_last_key_is_drawn_among_any_number_that_have_expired() {
    let mut store = store(9);
    let lasting = |index: u32| if index == 49_000 { 0 } else { EPOCH_MS + 10 };
    for start in (0..50_000).step_by(1000) {
        let set = |index: u32| {
            let key = index.to_string();
            let set = call(Opcode::Set, &[key.as_bytes(), b"v"]);
            let expire = Call(Opcode::Expire, flags::ABSOLUTE, vec![key.into_bytes(), int(lasting(index))]);
            if lasting(index) == 0 { vec![set] } else { vec![set, expire] }
        };
        let program: Vec<Call> = (start..start + 1000).flat_map(set).collect();
        transact(&mut store, ns(EPOCH_MS), &[(u64::from(start) + 1, build(&program))]);
    }
    for draw in 0..20 {
        let (_, drawn) = query(&store, ns(EPOCH_MS + 10), &[call(Opcode::RandomKey, &[&int(draw)])]);
        assert_eq!(drawn, [Answer::Bulk(b"49000".to_vec())]);
    }
}

/// What a primary puts into the log so that expired keys go away by themselves.
#[test]
fn asking_for_a_later_expiry_before_1970_removes_expired_keys_and_changes_no_others() {
    let mut store = store(11);
    let [expired, lasting, plain, again] = [0, 1, 2, 3].map(key);
    let set = |key: &[u8]| call(Opcode::Set, &[key, b"v"]);
    let expire = |key: &[u8], ms: i64| Call(Opcode::Expire, flags::ABSOLUTE, vec![key.to_vec(), int(ms)]);
    let made = [
        vec![set(&expired), expire(&expired, EPOCH_MS + 5), set(&again), expire(&again, EPOCH_MS + 5)],
        vec![set(&lasting), expire(&lasting, EPOCH_MS + 50), set(&plain)],
    ];
    let numbered: Vec<_> = (1..).zip(made.iter().map(|calls| build(calls))).collect();
    transact(&mut store, ns(EPOCH_MS), &numbered);
    assert_eq!(store.expired_keys(ns(EPOCH_MS + 4)).count(), 0);
    let found: BTreeSet<Vec<u8>> = store.expired_keys(ns(EPOCH_MS + 5)).map(<[u8]>::to_vec).collect();
    assert_eq!(found, BTreeSet::from([expired.clone(), again.clone()]));
    // One of them is written again before the program's turn comes.
    let ask = |key: &Vec<u8>| Call(Opcode::Expire, flags::GT | flags::ABSOLUTE, vec![key.clone(), int(0)]);
    let asked = [&expired, &lasting, &plain, &again].map(ask);
    let programs = [(3, build(&[set(&again)])), (4, build(&asked))];
    let answers = transact(&mut store, ns(EPOCH_MS + 5), &programs);
    assert_eq!(answers[1].1, [0; 4].map(Answer::Integer), "no expiry is set");
    store.check().expect("a consistent store");
    let reads = [&lasting, &again].map(|key| call(Opcode::TimeToLive, &[key]));
    assert_eq!(query(&store, ns(EPOCH_MS + 5), &reads).1, [Answer::Integer(45), Answer::Integer(-1)]);
    assert_eq!(store.len(), 3);
}

#[test]
fn a_program_of_much_work_comes_to_its_end() {
    let mut store = store(1);
    let now_ns = ns(EPOCH_MS);
    let sets: Vec<Call> = (0..2000).map(|it| call(Opcode::Set, &[&format!("{it:0>300}").into_bytes(), b"v"])).collect();
    let big = vec![b'x'; 1 << 20];
    transact(&mut store, now_ns, &[(1, build(&sets)), (2, build(&[call(Opcode::Set, &[b"big", &big])]))]);
    let pattern = b"*0*0*0*0*x".repeat(100);
    let scan = Call(Opcode::Scan, flags::MATCH, vec![int(0), int(i64::MAX), pattern.clone()]);
    let walks =
        [call(Opcode::Keys, &[&pattern]), scan, call(Opcode::RandomKey, &[&int(7)]), call(Opcode::KeyCount, &[])];
    let float = call(Opcode::IncrementFloat, &[b"float", b"1e4932"]);
    transact(&mut store, now_ns, &[(2, build(&[call(Opcode::Set, &[b"float", b"-1e4931"])]))]);
    let copies = Call(Opcode::Copy, flags::REPLACE, vec![b"big".to_vec(), b"copy".to_vec()]);
    for calls in [
        vec![walks[0].clone(); 900],
        vec![walks[1].clone(); 900],
        vec![walks[2].clone(); 20_000],
        vec![copies; 20_000],
        vec![float; 16_000],
    ] {
        let count = calls.len();
        let begin = std::time::Instant::now();
        let answers = transact(&mut store, now_ns, &[(3, build(&calls))]).remove(0).1;
        assert!(begin.elapsed().as_secs() < 20, "{:?} took {:?}", calls[0].0, begin.elapsed());
        assert_eq!(answers.len(), count);
        assert_eq!(answers[count - 1], Answer::Error(ErrorCode::TooMuchWork), "{:?}", calls[0].0);
    }
    let (_, answers) = query(&store, now_ns, &walks);
    assert_eq!(answers[3], Answer::Integer(2003), "the next program has work of its own: {answers:?}");
    assert!(matches!(&answers[0], Answer::Array(keys) if keys.is_empty()));
}

/// What is too long to be a number is refused without being read; it used up the work of the whole program.
#[test]
fn increments_of_values_that_are_no_numbers_leave_a_program_its_work() {
    let mut store = store(1);
    let now_ns = ns(EPOCH_MS);
    transact(&mut store, now_ns, &[(1, build(&[call(Opcode::Set, &[b"big", &vec![b'e'; 1 << 20]])]))]);
    let mut calls = vec![call(Opcode::IncrementFloat, &[b"big", b"0.5"]); 100];
    calls.push(call(Opcode::KeyCount, &[]));
    let answers = transact(&mut store, now_ns, &[(2, build(&calls))]).remove(0).1;
    assert_eq!(answers[99..], [Answer::Error(ErrorCode::NotAFloat), Answer::Integer(1)]);
}
