//! Random batches, carried out by the store and by a naive model of it.

mod model;

use lockstep_store::Store;
use model::{Model, apply, assert_equal, batches, config};
use proptest::prelude::*;

const KEYS: u8 = 40;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(batches in batches(KEYS, 40), shards in 1u16..4, seed: u64) {
        let mut store = Store::new(config(seed, shards - 1, shards));
        let mut model = Model::new(shards - 1, shards);
        for batch in &batches {
            let (frames, expected) = model.apply_batch(batch);
            prop_assert_eq!(apply(&mut store, model.now_ns, &frames), expected);
            store.check().expect("a consistent store");
            prop_assert!(store.len() >= model.entries.len());
        }
        assert_equal(&store, &model, KEYS);
        // Reads do not wait for the sweep: later they see less, without a write in between.
        model.now_ns += 15 * model::MS;
        model.remove_expired();
        assert_equal(&store, &model, KEYS);
        // The sweep comes with every batch, an empty one too, until nothing is left to remove.
        for _ in 0..KEYS.div_ceil(16) {
            apply(&mut store, model.now_ns, &[]);
        }
        prop_assert_eq!(store.len(), model.entries.len());
        assert_equal(&store, &model, KEYS);
    }

    #[test]
    fn the_hash_seed_is_not_visible(batches in batches(KEYS, 30), seeds: [u64; 2]) {
        let mut stores = seeds.map(|seed| Store::new(config(seed, 0, 1)));
        let mut model = Model::new(0, 1);
        for batch in &batches {
            let (frames, _) = model.apply_batch(batch);
            let [left, right] = &mut stores;
            prop_assert_eq!(apply(left, model.now_ns, &frames), apply(right, model.now_ns, &frames));
            prop_assert_eq!(left.content_hash(), right.content_hash());
        }
        let mut cursor = Some((0, 0));
        while let Some(from) = cursor {
            let [left, right] = stores.each_ref().map(|store| model::scan(store, model.now_ns, from, 3, true));
            prop_assert_eq!(&left.items, &right.items);
            prop_assert_eq!(left.cursor, right.cursor);
            cursor = left.cursor;
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_content_hash_tells_different_contents_apart(batches in batches(KEYS, 20)) {
        let mut store = Store::new(config(1, 0, 1));
        let mut model = Model::new(0, 1);
        let mut seen: Vec<(_, u64, u128)> = Vec::new();
        for batch in &batches {
            // Without expiry the model knows exactly which entries are in the store.
            let mut batch = batch.clone();
            batch.elapsed_ms = 0;
            let (frames, _) = model.apply_batch(&batch);
            apply(&mut store, model.now_ns, &frames);
            let content = model.entries.clone();
            for (other, creations, hash) in &seen {
                let is_equal = *other == content && *creations == model.creations;
                prop_assert_eq!(is_equal, *hash == store.content_hash());
            }
            seen.push((content, model.creations, store.content_hash()));
        }
    }
}
