//! Scans while keys come, change and go.

mod model;

use std::collections::BTreeMap;

use lockstep_proto::{Operation, Status, items::MultiGetItems, slot::shard_of_key};
use lockstep_store::{CheckpointProgress, Loader, Store};
use model::{MS, apply, config, read, read_frame, scan, scan_all, write_frame};
use proptest::prelude::*;

fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    write_frame(Operation::Put, false, key, &[], value)
}

/// The same content in a store with another seed, as after a restart or on another replica.
fn restart(mut store: Store, seed: u64) -> Store {
    let mut stream = Vec::new();
    store.checkpoint_begin();
    while store.checkpoint_step(1 << 20, &mut stream) == CheckpointProgress::More {}
    let mut loader = Loader::new(config(seed, 0, 1));
    loader.push(&stream).expect("a valid stream");
    loader.finish().expect("a whole stream").0
}

/// What happens between two steps of a scan.
#[derive(Clone, Debug)]
enum Event {
    Overwrite { key: u16, size: usize },
    Create { key: u16 },
    Remove { key: u16 },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0u16..600, 0usize..500).prop_map(|(key, size)| Event::Overwrite { key, size }),
        8 => (0u16..600).prop_map(|key| Event::Create { key }),
        8 => (0u16..600).prop_map(|key| Event::Remove { key }),
        1 => Just(Event::Restart),
    ]
}

/// Half of the keys share one slot, so that its list has several blocks.
fn stable_key(key: u16) -> Vec<u8> {
    if key.is_multiple_of(2) { format!("{{s}}stable-{key}") } else { format!("stable-{key}") }.into_bytes()
}

fn volatile_key(key: u16) -> Vec<u8> {
    if key.is_multiple_of(2) { format!("{{s}}volatile-{key}") } else { format!("volatile-{key}") }.into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_key_present_throughout_is_returned_once(
        events in proptest::collection::vec(proptest::collection::vec(event(), 0..40), 1..40),
        limits in proptest::collection::vec(1u32..120, 1..10),
    ) {
        let mut store = Store::new(config(1, 0, 1));
        for key in 0..600 {
            // Volatile keys lie between the stable ones, and half of them go away during the scan.
            apply(&mut store, MS, &[(1, put(&stable_key(key), b"x")), (1, put(&volatile_key(key), b"y"))]);
        }
        let mut times_seen = BTreeMap::new();
        let mut cursor = Some((0, 0));
        let mut step = 0;
        while let Some(from) = cursor {
            let scanned = scan(&store, MS, from, limits[step % limits.len()], true);
            for (key, _, _) in scanned.items {
                *times_seen.entry(key).or_insert(0) += 1;
            }
            cursor = scanned.cursor;
            for event in events.get(step).into_iter().flatten() {
                let frame = match event {
                    Event::Overwrite { key, size } => put(&stable_key(*key), &vec![7; *size]),
                    Event::Create { key } => put(&volatile_key(*key), b"new"),
                    Event::Remove { key } => write_frame(Operation::Delete, false, &volatile_key(*key), &[], &[]),
                    Event::Restart => {
                        store = restart(store, step as u64);
                        continue;
                    }
                };
                apply(&mut store, MS, &[(2, frame)]);
            }
            step += 1;
        }
        for key in 0..600 {
            prop_assert_eq!(times_seen.get(&stable_key(key)), Some(&1), "key {}", key);
        }
    }
}

#[test]
fn a_reply_ends_early_when_values_are_large_and_goes_on_at_the_next_key() {
    let mut store = Store::new(config(1, 0, 1));
    for key in 0..9 {
        apply(&mut store, MS, &[(1, put(format!("{{s}}{key}").as_bytes(), &vec![key; 1 << 20]))]);
    }
    let scanned = scan(&store, MS, (0, 0), 9, false);
    assert_eq!(scanned.items.len(), 1);
    assert!(scanned.cursor.is_some());
    assert_eq!(scan_all(&store, MS, 9).len(), 9);
    assert_eq!(scan(&store, MS, (0, 0), 9, true).items.len(), 9);
    let mut keys = Vec::new();
    for key in 0..9 {
        MultiGetItems::push(format!("{{s}}{key}").as_bytes(), &mut keys);
    }
    let (status, _, body) = read(&store, MS, &read_frame(Operation::MultiGet, &[], &keys));
    assert_eq!(status, Status::BadRequest);
    assert!(String::from_utf8_lossy(&body).contains("fewer keys"));
}

#[test]
fn a_scan_from_anywhere_ends() {
    let mut store = Store::new(config(1, 1, 3));
    let key = (0..).map(|number: u32| format!("k{number}")).find(|key| shard_of_key(key.as_bytes(), 3) == 1);
    let key = key.expect("one in three").into_bytes();
    apply(&mut store, MS, &[(1, put(&key, b"v"))]);
    // Before the shard's first slot: from its beginning. Behind its last: nothing.
    assert_eq!(scan_all(&store, MS, 1).len(), 1);
    assert_eq!(scan(&store, MS, (0, u64::MAX), 1, false).items.len(), 1);
    let scanned = scan(&store, MS, (16_383, 0), 1, false);
    assert!(scanned.items.is_empty() && scanned.cursor.is_none());
}
