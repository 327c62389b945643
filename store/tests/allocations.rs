//! What requests cost in allocations: nothing, once the store has the memory that their batch needs.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use lockstep_proto::{
    Operation,
    program::{Builder, Opcode},
    request::{Request, RequestParts, encode_request},
};
use lockstep_store::{Store, StoreConfig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: memory comes from the system's allocator and goes back to it; the count beside it has no destructor and
// allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the memory is the system's, of this layout.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BATCH: u64 = 200;

/// Allocations of this thread while `act` runs.
fn allocations_of(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

fn store() -> Store {
    Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: u64::MAX })
}

/// A batch of requests for keys 0 to [`BATCH`], whose arguments and values `body` makes.
fn batch(operation: Operation, arguments: &[u8], value: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut frames = Vec::new();
    for number in 0..BATCH {
        let key = format!("key {number:04}");
        let value = value(key.as_bytes());
        let is_program = matches!(operation, Operation::Transact | Operation::Query);
        let key = if is_program { &[] } else { key.as_bytes() };
        let session = u64::from(operation.is_logged() && !is_program);
        let parts = RequestParts { operation, flags: 0, session, sequence: 1, key, arguments, value: &value };
        encode_request(&parts, &mut frames);
    }
    frames
}

fn requests(mut frames: &[u8]) -> Vec<(u64, Request<'_>)> {
    let mut requests = Vec::new();
    while let Some((request, rest)) = Request::parse_trusted(frames) {
        requests.push((requests.len() as u64 + 1, request));
        frames = rest;
    }
    assert_eq!(requests.len() as u64, BATCH, "every frame is a request");
    requests
}

fn program(opcode: Opcode, arguments: &[&[u8]]) -> Vec<u8> {
    let mut program = Builder::new();
    program.command(opcode, arguments);
    program.as_bytes().to_vec()
}

#[test]
fn writes_to_keys_that_exist_allocate_nothing() {
    let value = |_: &[u8]| vec![b'x'; 100];
    let cases = [
        ("put", batch(Operation::Put, &[], value)),
        ("increment", batch(Operation::Increment, &1i64.to_le_bytes(), |_| Vec::new())),
        ("SET", batch(Operation::Transact, &[], |key| program(Opcode::Set, &[key, &[b'x'; 100]]))),
        ("INCRBY", batch(Operation::Transact, &[], |key| program(Opcode::Increment, &[key, &1i64.to_le_bytes()]))),
    ];
    for (name, frames) in &cases {
        let (mut store, mut results, requests) = (store(), Vec::new(), requests(frames));
        store.apply_batch(1, &requests, &mut results);
        let allocations = allocations_of(|| store.apply_batch(2, &requests, &mut results));
        assert_eq!(allocations, 0, "{name}");
        assert_eq!(store.len() as u64, BATCH, "{name}");
    }
}

#[test]
fn reads_allocate_nothing_where_their_replies_have_room() {
    let mut store = store();
    let frames = batch(Operation::Put, &[], |_| vec![b'x'; 100]);
    store.apply_batch(1, &requests(&frames), &mut Vec::new());
    let mut replies = Vec::with_capacity(1 << 20);
    for (name, frames) in [
        ("get", batch(Operation::Get, &[], |_| Vec::new())),
        ("GET", batch(Operation::Query, &[], |key| program(Opcode::Get, &[key]))),
    ] {
        let requests: Vec<Request<'_>> = requests(&frames).into_iter().map(|(_, request)| request).collect();
        let allocations = allocations_of(|| {
            store.prefetch_reads(&requests);
            requests.iter().for_each(|request| store.read(2, request, &mut replies));
        });
        assert_eq!(allocations, 0, "{name}");
        assert!(replies.len() as u64 > BATCH * 100, "{name} finds the values");
        replies.clear();
    }
}
