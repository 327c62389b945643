//! The requests that all benches use.

use lockstep_proto::{
    Operation,
    request::{Request, RequestParts, encode_request},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

/// Size of each key, in bytes.
pub const KEY_SIZE: usize = 16;

/// Size of each value, in bytes.
pub const VALUE_SIZE: usize = 100;

/// The session of every request.
const SESSION: u64 = 1;

/// The same every time, so that two runs do the same.
const SEED: u64 = 1;

/// The key with this number.
pub fn key(index: u64) -> [u8; KEY_SIZE] {
    let text = format!("{index:0KEY_SIZE$x}");
    text.as_bytes().try_into().expect("64 bits are 16 hexadecimal digits")
}

/// Appends a put of the key with this number.
pub fn push_put(sequence: u64, index: u64, out: &mut Vec<u8>) {
    let (key, value) = (key(index), [index as u8; VALUE_SIZE]);
    let parts = RequestParts {
        operation: Operation::Put,
        flags: 0,
        session: SESSION,
        sequence,
        key: &key,
        arguments: &[],
        value: &value,
    };
    encode_request(&parts, out);
}

/// `count` puts end to end, of the keys 0 and up.
pub fn puts_in_order(count: u64) -> Vec<u8> {
    let mut frames = Vec::new();
    (0..count).for_each(|index| push_put(index + 1, index, &mut frames));
    frames
}

/// `count` puts end to end, each of one of the first `keys` keys, chosen evenly.
pub fn puts_at_random(count: u64, keys: u64) -> Vec<u8> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut frames = Vec::new();
    (1..=count).for_each(|sequence| push_put(sequence, random.next_u64() % keys, &mut frames));
    frames
}

/// Views frames that lie end to end.
///
/// # Panics
///
/// If there is anything but whole frames.
pub fn view(mut frames: &[u8]) -> Vec<Request<'_>> {
    let mut requests = Vec::new();
    while !frames.is_empty() {
        let (request, rest) = Request::parse_trusted(frames).expect("frames that were just made are whole");
        requests.push(request);
        frames = rest;
    }
    requests
}
