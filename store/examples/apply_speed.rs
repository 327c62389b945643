//! How long the store takes for each request, and how much memory for each key.
//!
//! ```text
//! cargo run --release -p lockstep-store --example apply_speed -- [millions of keys, default 1] [value size, default 100]
//! ```
//!
//! Keys have 16 bytes. Requests come in batches of 500, each a valid frame out of a buffer, as they do out of a prepare;
//! the frames are made before the clock starts and viewed in place while it runs.

use std::{hint::black_box, time::Instant};

use lockstep_proto::{
    Operation,
    request::{Request, RequestParts, encode_request},
};
use lockstep_store::{CheckpointProgress, Loader, Store, StoreConfig};

const BATCH: usize = 500;
const NOW_NS: u64 = 1_000_000_000;
const CONFIG: StoreConfig = StoreConfig { hash_seed: [11, 22, 33, 44], shard: 0, shards: 1 };

/// A generator of numbers with no pattern that matters here.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        ((u128::from(self.0 ^ self.0 >> 29) * u128::from(bound)) >> 64) as u64
    }
}

fn frame(operation: Operation, key: u64, arguments: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let key = format!("user{key:012}");
    let session = u64::from(operation.is_logged());
    let parts = RequestParts { operation, flags: 0, session, sequence: 1, key: key.as_bytes(), arguments, value };
    encode_request(&parts, out);
}

/// Applies `count` requests; returns nanoseconds for each. Frames are made in portions, so that they take little memory.
fn apply(store: &mut Store, count: u64, mut next: impl FnMut(u64, &mut Vec<u8>)) -> f64 {
    const PORTION: u64 = 100_000;
    let (mut results, mut frames) = (Vec::new(), Vec::new());
    let mut elapsed_ns = 0;
    let mut number = 0;
    while number < count {
        frames.clear();
        let end = count.min(number + PORTION);
        (number..end).for_each(|number| next(number, &mut frames));
        let start = Instant::now();
        let mut rest = frames.as_slice();
        let mut batch: Vec<(u64, Request<'_>)> = Vec::with_capacity(BATCH);
        while let Some((request, behind)) = Request::parse_trusted(rest) {
            batch.push((number, request));
            rest = behind;
            if batch.len() == BATCH || rest.is_empty() {
                store.apply_batch(NOW_NS, &batch, &mut results);
                black_box(&results);
                batch.clear();
            }
        }
        elapsed_ns += start.elapsed().as_nanos();
        number = end;
    }
    elapsed_ns as f64 / count as f64
}

fn read(store: &Store, count: u64, is_prefetched: bool, mut next: impl FnMut(u64, &mut Vec<u8>)) -> f64 {
    let mut frames = Vec::new();
    (0..count).for_each(|number| next(number, &mut frames));
    let mut requests = Vec::new();
    let mut rest = frames.as_slice();
    while let Some((request, behind)) = Request::parse_trusted(rest) {
        requests.push(request);
        rest = behind;
    }
    let mut out = Vec::new();
    let start = Instant::now();
    for group in requests.chunks(32) {
        if is_prefetched {
            store.prefetch_reads(group);
        }
        out.clear();
        group.iter().for_each(|request| store.read(NOW_NS, request, &mut out));
        black_box(&out);
    }
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Resident memory of this process, in bytes, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn checkpoint_and_load(store: &mut Store) {
    let mut loader = Loader::new(StoreConfig { hash_seed: [5, 6, 7, 8], ..CONFIG });
    let mut piece = Vec::new();
    let (mut write_ns, mut load_ns, mut step_ns_max, mut bytes) = (0, 0, 0, 0);
    store.checkpoint_begin();
    loop {
        piece.clear();
        let start = Instant::now();
        let progress = store.checkpoint_step(64 << 10, &mut piece);
        let step_ns = start.elapsed().as_nanos();
        step_ns_max = step_ns_max.max(step_ns);
        write_ns += step_ns;
        bytes += piece.len();
        let start = Instant::now();
        loader.push(&piece).expect("a valid stream");
        load_ns += start.elapsed().as_nanos();
        if progress != CheckpointProgress::More {
            break;
        }
    }
    let start = Instant::now();
    let (loaded, _) = loader.finish().expect("a whole stream");
    load_ns += start.elapsed().as_nanos();
    let keys = loaded.len() as f64;
    println!(
        "checkpoint       {:6.1} ns/key, {:.2} GB/s, longest step of 64 KiB {:.0} us",
        write_ns as f64 / keys,
        bytes as f64 / write_ns as f64,
        step_ns_max as f64 / 1e3
    );
    println!("load             {:6.1} ns/key", load_ns as f64 / keys);
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<f64>().ok());
    let keys = (arguments.next().unwrap_or(1.0) * 1e6) as u64;
    let value = vec![b'v'; arguments.next().unwrap_or(100.0) as usize];
    let count = 2_000_000;
    let mut numbers = Numbers(1);
    let mut store = Store::new(CONFIG);
    let resident_before = resident_bytes();

    let insert_ns = apply(&mut store, keys, |number, out| frame(Operation::Put, number, &[], &value, out));
    println!("{keys} keys of 16 bytes, values of {} bytes", value.len());
    let memory = store.memory_bytes();
    let per_key = |bytes: usize| bytes as f64 / store.len() as f64;
    println!(
        "memory           {:6.1} bytes/key: entries {:.1}, table {:.1}, slots {:.1}",
        per_key(memory.total()),
        per_key(memory.entries),
        per_key(memory.table),
        per_key(memory.slots)
    );
    if let (Some(before), Some(now)) = (resident_before, resident_bytes()) {
        println!("resident         {:6.1} bytes/key, {:.3} GB", per_key((now - before) as usize), now as f64 / 1e9);
    }
    println!("insert           {insert_ns:6.1} ns");
    let mut random = |operation: Operation, arguments: &'static [u8], value: &'static [u8]| {
        let mut numbers = Numbers(numbers.below(u64::MAX));
        move |_: u64, out: &mut Vec<u8>| frame(operation, numbers.below(keys), arguments, value, out)
    };
    let value: &'static [u8] = Box::leak(value.into_boxed_slice());
    println!("overwrite        {:6.1} ns", apply(&mut store, count, random(Operation::Put, &[], value)));
    println!("get              {:6.1} ns", read(&store, count, false, random(Operation::Get, &[], &[])));
    println!("get, prefetched  {:6.1} ns", read(&store, count, true, random(Operation::Get, &[], &[])));
    println!("delete           {:6.1} ns", apply(&mut store, keys / 10, random(Operation::Delete, &[], &[])));
    println!("put again        {:6.1} ns", apply(&mut store, keys / 10, random(Operation::Put, &[], value)));
    let start = Instant::now();
    black_box(store.content_hash());
    println!("content hash     {:6.1} ns/key", start.elapsed().as_nanos() as f64 / store.len() as f64);
    store.checkpoint_begin();
    println!("overwrite, kept  {:6.1} ns", apply(&mut store, keys / 10, random(Operation::Put, &[], value)));
    store.checkpoint_abort();
    checkpoint_and_load(&mut store);
}
