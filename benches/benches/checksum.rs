//! Checksums: 64 bits over what follows the header of a client frame, 128 bits over prepares and pieces of checkpoints.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
// Brings in the allocator.
use lockstep_benches as _;
use lockstep_proto::checksum::{checksum_64, checksum_128};

/// The header of a frame under its checksum, the body of a put (16 + 100 bytes), and that of a large one.
const FRAME_SIZES: [usize; 3] = [24, 116, 1040];

/// A prepare of few requests, of many, and the largest pieces.
const MESSAGE_SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31) as u8).collect()
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for size in FRAME_SIZES {
        let bytes = bytes(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("64_bits", size), |bencher| {
            bencher.iter(|| checksum_64(black_box(&bytes)));
        });
    }
    for size in MESSAGE_SIZES {
        let bytes = bytes(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("128_bits", size), |bencher| {
            bencher.iter(|| checksum_128(black_box(&bytes)));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = checksums
}
criterion_main!(benches);
