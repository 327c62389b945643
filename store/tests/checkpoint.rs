//! Checkpoints taken in steps while batches are applied, and what a loader makes of them and of damaged ones.

mod model;

use lockstep_proto::{Operation, limits::WIRE_VERSION};
use lockstep_store::{CheckpointProgress, LoadError, Loader, Store};
use model::{MS, Model, apply, assert_equal, batches, config, write_frame};
use proptest::prelude::*;

const KEYS: u8 = 40;

fn write_out(store: &mut Store) -> Vec<u8> {
    let mut stream = Vec::new();
    store.checkpoint_begin();
    while store.checkpoint_step(1 << 16, &mut stream) == CheckpointProgress::More {}
    stream
}

fn load(stream: &[u8], seed: u64, piece_sizes: &[usize]) -> Result<(Store, u128), LoadError> {
    let mut loader = Loader::new(config(seed, 0, 1));
    let mut rest = stream;
    for &size in piece_sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        loader.push(piece)?;
        rest = behind;
    }
    loader.finish()
}

/// A store with a few keys of every kind, and its stream.
fn sample() -> Vec<u8> {
    let mut store = Store::new(config(1, 0, 1));
    for key in 0..20 {
        let ttl = if key % 3 == 0 { 1000u64.to_le_bytes().to_vec() } else { vec![] };
        let frame = write_frame(Operation::Put, !ttl.is_empty(), &model::key_bytes(key), &ttl, &[key; 30]);
        apply(&mut store, MS, &[(key.into(), frame)]);
    }
    write_out(&mut store)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_checkpoint_is_the_state_at_its_cut_and_goes_on_like_the_original(
        batches in batches(KEYS, 60),
        begin_at in 0usize..30,
        aborts in proptest::collection::vec(0usize..30, 0..3),
        budgets in proptest::collection::vec(0usize..5000, 1..10),
        piece_sizes in proptest::collection::vec(1usize..3000, 1..10),
        seed: u64,
    ) {
        let mut store = Store::new(config(1, 0, 1));
        let mut model = Model::new(0, 1);
        let mut stream = Vec::new();
        let mut cut = None;
        let mut after_cut = Vec::new();
        let mut done = None;
        for (number, batch) in batches.iter().enumerate() {
            if number < begin_at && aborts.contains(&number) {
                store.checkpoint_abort();
                store.checkpoint_begin();
            }
            if number == begin_at {
                store.checkpoint_abort();
                store.checkpoint_begin();
                cut = Some((model.clone(), store.content_hash()));
            }
            let (frames, expected) = model.apply_batch(batch);
            prop_assert_eq!(apply(&mut store, model.now_ns, &frames), expected);
            if cut.is_some() {
                after_cut.push((model.now_ns, frames));
            }
            if done.is_none() && store.checkpoint_is_active() {
                let mut ignored = Vec::new();
                let out = if cut.is_some() { &mut stream } else { &mut ignored };
                if let CheckpointProgress::Done { state_hash } = store.checkpoint_step(budgets[number % budgets.len()], out)
                    && cut.is_some()
                {
                    done = Some(state_hash);
                }
            }
        }
        let Some((model_at_cut, hash_at_cut)) = cut else { return Ok(()) };
        while done.is_none() {
            if let CheckpointProgress::Done { state_hash } = store.checkpoint_step(1000, &mut stream) {
                done = Some(state_hash);
            }
        }
        prop_assert!(!store.checkpoint_is_active());
        prop_assert_eq!(done, Some(hash_at_cut));
        let (mut loaded, state_hash) = load(&stream, seed, &piece_sizes).expect("a valid stream");
        prop_assert_eq!((state_hash, loaded.content_hash()), (hash_at_cut, hash_at_cut));
        assert_equal(&loaded, &model_at_cut, KEYS);
        for (now_ns, frames) in &after_cut {
            apply(&mut loaded, *now_ns, frames);
        }
        prop_assert_eq!(loaded.content_hash(), store.content_hash());
        assert_equal(&loaded, &model, KEYS);
        // The stream was not disturbed by the aborted ones before it, nor does it disturb the next.
        let (again, _) = load(&write_out(&mut store), seed, &piece_sizes).expect("a valid stream");
        prop_assert_eq!(again.content_hash(), store.content_hash());
    }

    #[test]
    fn any_change_of_a_byte_is_noticed(at in any::<proptest::sample::Index>(), change in 1u8.., pieces in 1usize..200) {
        let mut stream = sample();
        let at = at.index(stream.len());
        stream[at] ^= change;
        prop_assert!(load(&stream, 1, &[pieces]).is_err());
    }

    #[test]
    fn a_cut_off_or_continued_stream_is_refused(at in any::<proptest::sample::Index>(), more in 1usize..100) {
        let mut stream = sample();
        prop_assert!(load(&stream[..at.index(stream.len())], 1, &[50]).is_err());
        stream.resize(stream.len() + more, 0);
        prop_assert_eq!(load(&stream, 1, &[50]).err(), Some(LoadError::Damaged("something follows the trailer")));
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..500), kept in 0usize..100) {
        let sample = sample();
        let mut stream = sample[..kept].to_vec();
        stream.extend_from_slice(&noise);
        prop_assert!(load(&stream, 1, &[7]).is_err());
    }
}

#[test]
fn a_stream_of_another_shard_is_refused() {
    let mut store = Store::new(config(1, 1, 3));
    let stream = write_out(&mut store);
    assert_eq!(load(&stream, 1, &[9]).err(), Some(LoadError::Shard { shard: 1, shards: 3 }));
}

#[test]
fn a_stream_of_another_format_is_refused_by_number() {
    let mut stream = sample();
    stream[8..10].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    let error = load(&stream, 1, &[9]).err().expect("that is the version of something else");
    assert_eq!(error, LoadError::Version(WIRE_VERSION));
    assert_eq!(error.to_string(), "checkpoint format version 3 is not supported (this build uses 2)");
}

#[test]
fn an_entry_that_comes_twice_is_refused() {
    let stream = sample();
    // The first entry lies behind the stream's header; its sizes are known: 32 + key + 30.
    let key_size = u16::from_le_bytes([stream[32 + 28], stream[32 + 29]]) as usize;
    let entry = &stream[32..32 + 32 + key_size + 30];
    let doubled = [&stream[..32], entry, entry, &stream[32 + entry.len()..]].concat();
    assert_eq!(load(&doubled, 1, &[64]).err(), Some(LoadError::Damaged("a key is there twice")));
}

#[test]
fn an_error_stays() {
    let mut loader = Loader::new(config(1, 0, 1));
    assert_eq!(loader.push(&[7; 40]), Err(LoadError::Magic));
    assert_eq!(loader.push(&sample()), Err(LoadError::Magic));
    assert_eq!(loader.finish().err(), Some(LoadError::Magic));
    assert_eq!(Loader::new(config(1, 0, 1)).finish().err(), Some(LoadError::Truncated));
}

#[test]
fn marks_of_thousands_of_aborted_checkpoints_hide_nothing() {
    let put = |key: &str| (1, write_frame(Operation::Put, false, key.as_bytes(), &[], b"value"));
    let mut store = Store::new(config(1, 0, 1));
    apply(&mut store, MS, &[put("early"), put("late")]);
    // Marks are numbered up to 2047: after so many, the number that the first checkpoint left on its key comes again.
    for number in 0..5000 {
        store.checkpoint_begin();
        if number == 0 {
            apply(&mut store, MS, &[put("early")]);
        }
        if number % 500 == 0 {
            apply(&mut store, MS, &[put("late")]);
        }
        store.checkpoint_abort();
        if number % 2047 < 2 || number % 100 == 0 {
            let mut aside = Vec::new();
            store.checkpoint_begin();
            while store.checkpoint_step(1 << 16, &mut aside) == CheckpointProgress::More {}
            assert_eq!(load(&aside, 1, &[4096]).expect("a valid stream").0.len(), 2);
        }
    }
}

#[test]
fn steps_keep_to_their_budget_and_memory_comes_back() {
    let mut store = Store::new(config(1, 0, 1));
    let put = |key: u32, byte: u8| {
        (u64::from(key), write_frame(Operation::Put, false, format!("key-{key}").as_bytes(), &[], &[byte; 100]))
    };
    let frames: Vec<_> = (0..20_000).map(|key| put(key, 1)).collect();
    apply(&mut store, MS, &frames);
    let memory_before = store.memory_bytes();
    let hash_before = store.content_hash();
    store.checkpoint_begin();
    // Everything changes before the first step.
    let frames: Vec<_> = (0..20_000).map(|key| put(key, 2)).collect();
    apply(&mut store, MS, &frames);
    let mut stream = Vec::new();
    loop {
        let start = stream.len();
        let progress = store.checkpoint_step(10_000, &mut stream);
        assert!(stream.len() - start <= 10_000 + 200, "{}", stream.len() - start);
        if let CheckpointProgress::Done { state_hash } = progress {
            assert_eq!(state_hash, hash_before);
            break;
        }
    }
    let (loaded, state_hash) = load(&stream, 2, &[4096]).expect("a valid stream");
    assert_eq!((loaded.len(), state_hash), (20_000, hash_before));
    assert!(store.memory_bytes().entries <= memory_before.entries + (2 << 20));
}
