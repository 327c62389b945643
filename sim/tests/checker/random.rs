//! Long histories of a store that is right, and of one that is wrong in a known way.

use std::collections::BTreeMap;

use lockstep_sim::checker::{Answer, Call, CheckOptions, Failure, History};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// How the store errs, once, at about the middle of the history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    None,
    /// A put is answered, but not carried out.
    LosesPut,
    /// An increment is carried out twice.
    DoublesIncrement,
    /// A read is answered from before the latest answered write.
    ReadsStale,
    /// A compare-and-set succeeds on the wrong version.
    IgnoresVersion,
}

/// What a history is made of.
pub struct Shape {
    pub seed: u64,
    pub clients: u32,
    pub operations: usize,
    pub keys: u32,
    /// Of 100 operations, how many get no answer.
    pub unknown: u32,
    pub lie: Lie,
}

#[derive(Clone, Debug)]
enum Ask {
    Put(Vec<u8>),
    Delete,
    Cas(Vec<u8>),
    Add(i64),
    Get,
    Exists,
}

#[derive(Clone, Debug)]
struct Planned {
    client: u32,
    key: u32,
    invoke: u64,
    effect: u64,
    end: Option<u64>,
    ask: Ask,
}

type Entry = Option<(Vec<u8>, u64)>;

/// Makes a history; the second number is how often the store erred.
pub fn generate(shape: &Shape) -> (History, usize) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(shape.seed);
    let mut planned = plan(shape, &mut random);
    planned.sort_by_key(|planned| planned.effect);
    let (mut history, mut store, mut revision, mut lies) = (History::new(), BTreeMap::<u32, Entry>::new(), 0, 0);
    // What a key held before its latest change, and since when it holds what it holds.
    let mut earlier = BTreeMap::<u32, (Entry, u64)>::new();
    let middle = planned.len() / 2;
    for (index, Planned { client, key, invoke, effect, end, ask }) in planned.into_iter().enumerate() {
        // A compare-and-set expects what the key holds, or not quite.
        let entry = store.entry(key).or_default();
        let version = entry.as_ref().map_or(0, |entry| entry.1);
        let expected = if random.random_ratio(1, 2) { version } else { random.random_range(0..revision + 1) };
        let call = match &ask {
            Ask::Put(value) => Call::Put { value, ttl_ms: None },
            Ask::Delete => Call::Delete,
            Ask::Cas(value) => Call::CompareAndSet { expected, value, ttl_ms: None },
            Ask::Add(delta) => Call::Increment { delta: *delta },
            Ask::Get => Call::Get,
            Ask::Exists => Call::Exists,
        };
        let id = history.invoke(client, invoke, format!("key-{key}").as_bytes(), call);
        if end.is_none() && random.random_ratio(1, 3) {
            continue;
        }
        let may_lie = |lie| shape.lie == lie && lies == 0 && index > middle && end.is_some();
        let before = entry.clone();
        let mut write = |value: Option<Vec<u8>>| {
            revision += random.random_range(1..4);
            *entry = value.map(|value| (value, revision));
            revision
        };
        let shown: Entry;
        let answer = match ask {
            Ask::Put(_) if may_lie(Lie::LosesPut) => {
                lies += 1;
                Answer::Written { version: revision + 1 }
            }
            Ask::Put(value) => Answer::Written { version: write(Some(value)) },
            Ask::Delete if before.is_none() => Answer::NotFound,
            Ask::Delete => Answer::Written { version: write(None) },
            Ask::Cas(value) if expected != version && version != 0 && may_lie(Lie::IgnoresVersion) => {
                lies += 1;
                Answer::Written { version: write(Some(value)) }
            }
            Ask::Cas(_) if expected != version => Answer::Mismatch { version },
            Ask::Cas(value) => Answer::Written { version: write(Some(value)) },
            Ask::Add(delta) => match sum_of(&before, delta) {
                None => Answer::NotANumber { version },
                Some(sum) if may_lie(Lie::DoublesIncrement) => {
                    lies += 1;
                    let version = write(Some((sum + delta).to_string().into_bytes()));
                    Answer::Summed { sum, version }
                }
                Some(sum) => Answer::Summed { sum, version: write(Some(sum.to_string().into_bytes())) },
            },
            Ask::Get => {
                shown = match earlier.get(&key) {
                    Some((old, since)) if *since < invoke && *old != before && may_lie(Lie::ReadsStale) => {
                        lies += 1;
                        old.clone()
                    }
                    _ => before.clone(),
                };
                shown.as_ref().map_or(Answer::NotFound, |(value, version)| Answer::Found { value, version: *version })
            }
            Ask::Exists if before.is_none() => Answer::NotFound,
            Ask::Exists => Answer::Exists { version },
        };
        if *entry != before {
            // Only an answered write is known to have been at work before a later read was asked for.
            earlier.insert(key, (before, end.unwrap_or(u64::MAX)));
        }
        debug_assert!(invoke <= effect);
        if let Some(end) = end {
            history.complete(id, end, answer);
        }
    }
    // In the end every key is read.
    for (key, entry) in store {
        let id = history.invoke(0, u64::MAX - 9, format!("key-{key}").as_bytes(), Call::Get);
        let answer =
            entry.as_ref().map_or(Answer::NotFound, |(value, version)| Answer::Found { value, version: *version });
        history.complete(id, u64::MAX - 8, answer);
    }
    (history, lies)
}

fn sum_of(entry: &Entry, delta: i64) -> Option<i64> {
    let Some((value, _)) = entry else { return Some(delta) };
    std::str::from_utf8(value).ok()?.parse::<i64>().ok()?.checked_add(delta)
}

fn plan(shape: &Shape, random: &mut Xoshiro256PlusPlus) -> Vec<Planned> {
    let mut now = vec![0; shape.clients as usize];
    let mut planned = Vec::new();
    for number in 0..shape.operations {
        let client = random.random_range(0..shape.clients);
        let clock = &mut now[client as usize];
        let invoke = *clock + random.random_range(1..20);
        let mut effect = invoke + random.random_range(0..30);
        let end = effect + random.random_range(0..30);
        *clock = end;
        let is_unknown = random.random_range(0..100) < shape.unknown;
        if is_unknown && random.random_ratio(1, 2) {
            effect += random.random_range(0..2000);
        }
        let key = random.random_range(0..shape.keys);
        // Counters are incremented, and set now and then; the others hold values that are mostly unique.
        let is_counter = key % 2 == 1;
        let value = if is_counter { number % 7 } else { number }.to_string();
        let value = if is_counter { value } else { format!("v{value}") }.into_bytes();
        let ask = match random.random_range(0..20) {
            0..4 if is_counter => Ask::Get,
            4 if is_counter => Ask::Put(value),
            5 if is_counter => Ask::Delete,
            6..20 if is_counter => Ask::Add(1),
            0..8 => Ask::Get,
            8 => Ask::Exists,
            9 => Ask::Delete,
            10..13 => Ask::Cas(value),
            _ => Ask::Put(value),
        };
        planned.push(Planned { client, key, invoke, effect, end: (!is_unknown).then_some(end), ask });
    }
    planned
}

#[test]
fn what_a_right_store_answers_is_right() {
    for seed in 0..300 {
        let shape = Shape {
            seed,
            clients: 3 + seed as u32 % 20,
            operations: 400,
            keys: 4,
            unknown: (seed % 4 * 8) as u32,
            lie: Lie::None,
        };
        let (history, _) = generate(&shape);
        if let Err(failure) = history.check(&CheckOptions::default()) {
            panic!("seed {seed}: {failure}");
        }
    }
}

#[test]
fn one_lie_among_hundreds_of_answers_is_found_and_shown_with_few_operations() {
    for lie in [Lie::LosesPut, Lie::DoublesIncrement, Lie::ReadsStale, Lie::IgnoresVersion] {
        let (mut told, mut found, mut shown) = (0, 0, 0);
        for seed in 0..60 {
            let (history, lies) = generate(&Shape { seed, clients: 6, operations: 400, keys: 4, unknown: 3, lie });
            told += lies;
            match history.check(&CheckOptions::default()) {
                Ok(_) => {}
                Err(Failure::Violation(violation)) => {
                    found += 1;
                    assert_eq!(lies, 1, "seed {seed}: {violation}");
                    shown += violation.operations.len();
                }
                Err(undecided) => panic!("seed {seed}: {undecided}"),
            }
        }
        // Some lies cannot be noticed: what was lost would have been overwritten unseen, or an increment of unknown outcome
        // stands for the second half of a doubled one.
        assert!(told >= 50 && found * 10 >= told * 6, "{lie:?}: {found} of {told} found");
        assert!(shown <= found * 9, "{lie:?}: {shown} lines for {found} violations");
    }
}
