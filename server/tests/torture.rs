//! Random faults until time is up: `make torture MINUTES=30`. Each story is a cluster of its own and a few faults that
//! follow from a seed; the seed decides who is hit and what clients ask, but not how processes and network interleave.

mod harness;

use std::time::{Duration, Instant, SystemTime};

use harness::{
    Spec,
    story::{Fault, Story},
};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

#[test]
#[ignore = "runs for LOCKSTEP_TORTURE_MINUTES (10); one story again: LOCKSTEP_TORTURE_SEED"]
fn random_stories_until_time_is_up() {
    let begun = Instant::now();
    let minutes = number("LOCKSTEP_TORTURE_MINUTES").unwrap_or(10);
    let only = number("LOCKSTEP_TORTURE_SEED");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut seed = only.unwrap_or(now.as_millis() as u64);
    let mut stories = 0;
    while begun.elapsed() < Duration::from_secs(minutes * 60) {
        tell(begun, seed);
        stories += 1;
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    println!("{stories} stories in {} s, all well", begun.elapsed().as_secs());
}

fn tell(begun: Instant, seed: u64) {
    let say = |what: &str| println!("{:>5} s  seed {seed}: {what}", begun.elapsed().as_secs());
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut spec = Spec::of(*[3, 3, 3, 4, 5].choose(&mut random).unwrap());
    if random.random_ratio(2, 3) {
        spec = spec.with(&["--checkpoint-every", "1MiB"]);
    }
    spec = spec.with(&["--ack", ["majority", "all"].choose(&mut random).unwrap()]);
    spec.shards = random.random_range(1..3);
    let clients = random.random_range(4..12);
    say(&format!("{} servers, {} shards, {clients} clients, {}", spec.servers, spec.shards, spec.options.join(" ")));
    let mut story = Story::begin(spec, clients, seed);
    for _ in 0..random.random_range(3..8) {
        let fault = *Fault::ALL.choose(&mut random).unwrap();
        say(&format!("{fault:?}"));
        story.suffer(fault);
    }
    say(&story.end());
}
