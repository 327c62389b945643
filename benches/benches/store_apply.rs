//! Overwrites of keys at random. A store of 100 thousand keys mostly fits the caches of a server's CPU, one of a
//! million does not. An iteration is a batch: what one prepare brings.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_benches::requests::{puts_at_random, puts_in_order, view};
use lockstep_proto::request::Request;
use lockstep_store::{Store, StoreConfig, WriteResult};

/// Some moment: no key here expires.
const TIMESTAMP_NS: u64 = 1_700_000_000_000_000_000;

const STORES: [(&str, u64); 2] = [("100k", 100_000), ("1M", 1_000_000)];

const BATCHES: [usize; 3] = [1, 64, 512];

/// How many different requests are made before they come round again: a multiple of every batch, and enough that the
/// same entries are not met again soon.
const REQUESTS: u64 = 1 << 17;

/// A store, and the revision that the next request gets.
struct Machine {
    store: Store,
    revision: u64,
    results: Vec<WriteResult>,
}

impl Machine {
    /// With keys 0 to `keys - 1` in it.
    fn filled(keys: u64) -> Machine {
        let store = Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: u64::MAX });
        let mut machine = Machine { store, revision: 1, results: Vec::new() };
        let frames = puts_in_order(keys);
        let mut requests: Vec<_> = view(&frames).into_iter().map(|request| (0, request)).collect();
        requests.chunks_mut(4096).for_each(|batch| machine.apply(batch));
        assert_eq!(machine.store.len() as u64, keys);
        machine
    }

    #[inline]
    fn apply(&mut self, batch: &mut [(u64, Request<'_>)]) {
        for (revision, _) in batch.iter_mut() {
            *revision = self.revision;
            self.revision += 1;
        }
        self.store.apply_batch(TIMESTAMP_NS, batch, &mut self.results);
        black_box(&self.results);
    }
}

fn overwrites(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store_apply");
    for (name, keys) in STORES {
        // Made by the first bench of the store that the filter lets through.
        let frames = OnceCell::new();
        let mut machine = None;
        for batch in BATCHES {
            let mut requests: Option<Vec<(u64, Request<'_>)>> = None;
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(format!("keys={name}"), format!("batch={batch}")), |bencher| {
                let frames = frames.get_or_init(|| puts_at_random(REQUESTS, keys));
                let requests =
                    requests.get_or_insert_with(|| view(frames).into_iter().map(|request| (0, request)).collect());
                let machine = machine.get_or_insert_with(|| Machine::filled(keys));
                let mut start = 0;
                bencher.iter(|| {
                    machine.apply(&mut requests[start..start + batch]);
                    start = (start + batch) % REQUESTS as usize;
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = overwrites
}
criterion_main!(benches);
