//! Making and reading frames. An iteration is a run of 64 frames that lie end to end, as they do in a receive buffer.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lockstep_benches::requests::{push_put, puts_in_order};
use lockstep_proto::{
    Operation, Status,
    reply::{Reply, ReplyParts, encode_reply},
    request::Request,
};

const FRAMES: u64 = 64;

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/request");
    group.throughput(Throughput::Elements(FRAMES));
    let frames = puts_in_order(FRAMES);
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(frames.len());
        bencher.iter(|| {
            out.clear();
            (0..FRAMES).for_each(|index| push_put(index + 1, index, &mut out));
            black_box(&out);
        });
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(&frames[..]);
            while !rest.is_empty() {
                let request = Request::parse(rest).expect("a valid frame").expect("a whole frame");
                rest = &rest[black_box(request).size()..];
            }
        });
    });
    group.bench_function("parse_trusted", |bencher| {
        bencher.iter(|| {
            let mut frames = black_box(&frames[..]);
            while !frames.is_empty() {
                let (request, rest) = Request::parse_trusted(frames).expect("a whole frame");
                black_box(request);
                frames = rest;
            }
        });
    });
}

fn encode_replies(out: &mut Vec<u8>) {
    out.clear();
    for sequence in 1..=FRAMES {
        let parts =
            ReplyParts { status: Status::Ok, operation: Operation::Put, copies: 2, sequence, version: sequence + 7 };
        encode_reply(black_box(&parts), &[], out);
    }
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec/reply");
    group.throughput(Throughput::Elements(FRAMES));
    let mut frames = Vec::new();
    encode_replies(&mut frames);
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(frames.len());
        bencher.iter(|| {
            encode_replies(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            let mut rest = black_box(&frames[..]);
            while !rest.is_empty() {
                let reply = Reply::parse(rest).expect("a valid frame").expect("a whole frame");
                rest = &rest[black_box(reply).size()..];
            }
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = requests, replies
}
criterion_main!(benches);
