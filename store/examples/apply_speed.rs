//! How long the store takes for each request, and how much memory for each key.
//!
//! ```text
//! cargo run --release -p lockstep-store --example apply_speed -- [millions of keys, default 1] [value size, default 100]
//! ```
//!
//! Keys have 16 bytes. Requests come in batches of 500, each a valid frame out of a buffer, as they do out of a
//! prepare; the frames are made before the clock starts and viewed in place while it runs. The clock is the thread's
//! CPU time, which other programs on the machine disturb less.

use std::hint::black_box;

use lockstep_proto::{
    Operation,
    request::{Request, RequestParts, encode_request},
};
use lockstep_store::{CheckpointProgress, Loader, READS_AHEAD, Store, StoreConfig};
use rustix::time::{ClockId, clock_gettime};

/// The server's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 500;
const NOW_NS: u64 = 1_000_000_000;
const CONFIG: StoreConfig = StoreConfig { hash_seed: [11, 22, 33, 44], shard: 0, shards: 1, bytes_max: u64::MAX };

struct Stopwatch(u64);

impl Stopwatch {
    fn now_ns() -> u64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    fn start() -> Stopwatch {
        Stopwatch(Stopwatch::now_ns())
    }

    fn elapsed_ns(&self) -> u64 {
        Stopwatch::now_ns() - self.0
    }
}

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

/// Nanoseconds for each request: the median of portions of 25,000, and the tenth that was least disturbed.
struct Speed {
    median_ns: f64,
    best_tenth_ns: f64,
}

impl Speed {
    fn new(mut portions_ns: Vec<f64>) -> Speed {
        portions_ns.sort_by(f64::total_cmp);
        Speed { median_ns: portions_ns[portions_ns.len() / 2], best_tenth_ns: portions_ns[portions_ns.len() / 10] }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:6.1} ns (undisturbed {:.1} ns)", self.median_ns, self.best_tenth_ns)
    }
}

const PORTION: u64 = 25_000;

/// Applies `count` requests. Frames are made in portions, so that they take little memory.
fn apply(store: &mut Store, count: u64, mut next: impl FnMut(u64, &mut Vec<u8>)) -> Speed {
    let (mut results, mut frames, mut portions_ns) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..count).step_by(PORTION as usize) {
        frames.clear();
        (first..first + PORTION).for_each(|number| next(number, &mut frames));
        let start = Stopwatch::start();
        let mut rest = frames.as_slice();
        let mut batch: Vec<(u64, Request<'_>)> = Vec::with_capacity(BATCH);
        while let Some((request, behind)) = Request::parse_trusted(rest) {
            batch.push((first, request));
            rest = behind;
            if batch.len() == BATCH || rest.is_empty() {
                store.apply_batch(NOW_NS, &batch, &mut results);
                black_box(&results);
                batch.clear();
            }
        }
        portions_ns.push(start.elapsed_ns() as f64 / PORTION as f64);
    }
    Speed::new(portions_ns)
}

fn read(store: &Store, count: u64, is_prefetched: bool, mut next: impl FnMut(u64, &mut Vec<u8>)) -> Speed {
    let (mut frames, mut out, mut portions_ns) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..count).step_by(PORTION as usize) {
        frames.clear();
        (first..first + PORTION).for_each(|number| next(number, &mut frames));
        let mut requests = Vec::new();
        let mut rest = frames.as_slice();
        while let Some((request, behind)) = Request::parse_trusted(rest) {
            requests.push(request);
            rest = behind;
        }
        let start = Stopwatch::start();
        for group in requests.chunks(READS_AHEAD) {
            if is_prefetched {
                store.prefetch_reads(group);
            }
            out.clear();
            group.iter().for_each(|request| store.read(NOW_NS, request, &mut out));
            black_box(&out);
        }
        portions_ns.push(start.elapsed_ns() as f64 / PORTION as f64);
    }
    Speed::new(portions_ns)
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
        let start = Stopwatch::start();
        let progress = store.checkpoint_step(64 << 10, &mut piece);
        let step_ns = start.elapsed_ns();
        step_ns_max = step_ns_max.max(step_ns);
        write_ns += step_ns;
        bytes += piece.len();
        let start = Stopwatch::start();
        loader.push(&piece).expect("a valid stream");
        load_ns += start.elapsed_ns();
        if progress != CheckpointProgress::More {
            break;
        }
    }
    let start = Stopwatch::start();
    let (loaded, _) = loader.finish().expect("a whole stream");
    load_ns += start.elapsed_ns();
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

    let insert = apply(&mut store, keys, |number, out| frame(Operation::Put, number, &[], &value, out));
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
    println!("insert           {insert}");
    let mut random = |operation: Operation, arguments: &'static [u8], value: &'static [u8]| {
        let mut numbers = Numbers(numbers.below(u64::MAX));
        move |_: u64, out: &mut Vec<u8>| frame(operation, numbers.below(keys), arguments, value, out)
    };
    let value: &'static [u8] = Box::leak(value.into_boxed_slice());
    println!("overwrite        {}", apply(&mut store, count, random(Operation::Put, &[], value)));
    println!("get              {}", read(&store, count, false, random(Operation::Get, &[], &[])));
    println!("get, prefetched  {}", read(&store, count, true, random(Operation::Get, &[], &[])));
    println!("delete           {}", apply(&mut store, keys / 10, random(Operation::Delete, &[], &[])));
    println!("put again        {}", apply(&mut store, keys / 10, random(Operation::Put, &[], value)));
    let start = Stopwatch::start();
    black_box(store.content_hash());
    println!("content hash     {:6.1} ns/key", start.elapsed_ns() as f64 / store.len() as f64);
    store.checkpoint_begin();
    println!("overwrite, kept  {}", apply(&mut store, keys / 10, random(Operation::Put, &[], value)));
    store.checkpoint_abort();
    checkpoint_and_load(&mut store);
}
