//! WATCH against a model: random clients of both shards, pipelined or not, that watch, write, give up, and go; and
//! clients at the same time. No change of a watched key is missed, none is imagined, and in the end nobody is counted
//! as watching any more.

mod harness;
#[path = "redis/talk.rs"]
#[allow(dead_code, reason = "made for another test")]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use harness::{Cluster, Spec, wait_for};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use talk::{ask, client, open, pipeline, sharded, start};
use wire::Connection;

/// Keys of either shard.
const TAGS: [&str; 2] = ["{foo}", "{bar}"];
const KEYS_OF_SHARD: usize = 3;

const CLIENTS: usize = 5;
const SEQUENCES: u64 = 60;
const BATCHES: usize = 60;

const CROSS_SLOT: &str = "-CROSSSLOT Keys in request don't hash to the same slot";

/// A key by its number: those of a shard follow each other.
fn name(key: usize) -> String {
    format!("{}{}", TAGS[key / KEYS_OF_SHARD], key % KEYS_OF_SHARD)
}

/// What the server should know.
#[derive(Default)]
struct Model {
    existing: BTreeSet<usize>,
    /// Which client watches which keys, and whether each was touched since.
    watched: [BTreeMap<usize, bool>; CLIENTS],
}

impl Model {
    fn touch(&mut self, key: usize) {
        self.watched.iter_mut().filter_map(|watched| watched.get_mut(&key)).for_each(|is_touched| *is_touched = true);
    }

    fn set(&mut self, key: usize) {
        self.existing.insert(key);
        self.touch(key);
    }

    fn delete(&mut self, key: usize) -> bool {
        let was_there = self.existing.remove(&key);
        if was_there {
            self.touch(key);
        }
        was_there
    }

    fn watch(&mut self, client: usize, key: usize) {
        self.watched[client].entry(key).or_insert(false);
    }

    /// What EXEC answers for a transaction with `SET key`, and its effect.
    fn execute(&mut self, client: usize, key: usize) -> &'static str {
        let watched = std::mem::take(&mut self.watched[client]);
        if watched.keys().any(|other| other / KEYS_OF_SHARD != key / KEYS_OF_SHARD) {
            return CROSS_SLOT;
        }
        if watched.values().any(|is_touched| *is_touched) {
            return "*-1";
        }
        self.set(key);
        "*[+OK]"
    }
}

/// Adds a few commands of `client`, and the answers they must have.
fn step(
    model: &mut Model,
    client: usize,
    random: &mut impl RngExt,
    lines: &mut Vec<String>,
    answers: &mut Vec<String>,
) {
    let key = random.random_range(0..TAGS.len() * KEYS_OF_SHARD);
    let named = name(key);
    let mut say = |line: String, answer: &str| {
        lines.push(line);
        answers.push(answer.to_owned());
    };
    match random.random_range(0..13) {
        0..3 => {
            let neighbour = key / KEYS_OF_SHARD * KEYS_OF_SHARD + random.random_range(0..KEYS_OF_SHARD);
            model.watch(client, key);
            model.watch(client, neighbour);
            say(format!("watch {named} {}", name(neighbour)), "+OK");
        }
        3..5 => {
            model.set(key);
            say(format!("set {named} v"), "+OK");
        }
        5..7 => {
            let answer = if model.delete(key) { ":1" } else { ":0" };
            say(format!("del {named}"), answer);
        }
        7 => {
            // Again as it was.
            let was_there = model.delete(key);
            if was_there {
                model.set(key);
                say(format!("del {named}"), ":1");
                say(format!("set {named} v"), "+OK");
            } else {
                model.set(key);
                model.delete(key);
                say(format!("set {named} v"), "+OK");
                say(format!("del {named}"), ":1");
            }
        }
        8..11 => {
            say("multi".into(), "+OK");
            say(format!("set {named} v"), "+QUEUED");
            let answer = model.execute(client, key);
            say("exec".into(), answer);
        }
        11 => {
            model.watched[client].clear();
            match random.random_range(0..4) {
                0 => say("unwatch".into(), "+OK"),
                1 => say("reset".into(), "+RESET"),
                2 => {
                    say("multi".into(), "+OK");
                    say("discard".into(), "+OK");
                }
                _ => {
                    say("multi".into(), "+OK");
                    say("get".into(), "-ERR wrong number of arguments for 'get' command");
                    say("exec".into(), "-EXECABORT Transaction discarded because of previous errors.");
                }
            }
        }
        _ => say(format!("exists {named}"), if model.existing.contains(&key) { ":1" } else { ":0" }),
    }
}

fn watched(cluster: &Cluster, id: u8) -> Option<f64> {
    let of = |shard| cluster.metric(id, "lockstep_watched_keys", &[&format!("shard=\"{shard}\"")]);
    Some(of(0)? + of(1)?)
}

/// Once nobody watches, a turn of each shard is enough to forget.
fn wait_until_nobody_is_counted(cluster: &Cluster, id: u8, when: &str) {
    wait_for(&format!("no watched keys {when}"), || {
        let mut other = client(cluster, id);
        TAGS.iter().for_each(|tag| assert_eq!(ask(&mut other, &format!("set {tag}n 1")), "+OK"));
        (watched(cluster, id)? == 0.0).then_some(())
    });
}

/// One server that does not wait for a disk.
fn quick() -> Spec {
    sharded(1).with(&["--durability=memory"])
}

#[test]
fn random_clients_are_told_exactly_what_a_model_says() {
    let (cluster, id) = start(quick());
    for seed in 0..SEQUENCES {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        assert_eq!(ask(&mut client(&cluster, id), "flushall"), "+OK");
        let mut model = Model::default();
        let connect = |number: usize| open(&cluster, id, (number % 2) as u16).expect("the server listens");
        let mut clients: Vec<Connection> = (0..CLIENTS).map(connect).collect();
        let mut history = Vec::new();
        for _ in 0..BATCHES {
            let number = random.random_range(0..CLIENTS);
            if random.random_ratio(1, 20) {
                // It is gone at once; what it watched must be forgotten some time.
                clients[number] = connect(number + random.random_range(0..2));
                model.watched[number].clear();
                history.push(format!("{number}: (connects anew)"));
            }
            let (mut lines, mut answers) = (Vec::new(), Vec::new());
            for _ in 0..*[1, 1, 2, 4].choose(&mut random).expect("there are some") {
                step(&mut model, number, &mut random, &mut lines, &mut answers);
            }
            history.push(format!("{number}: {}", lines.join("; ")));
            let found = pipeline(&mut clients[number], &lines);
            assert_eq!(found, answers, "seed {seed}:\n{}", history.join("\n"));
        }
        if random.random_bool(0.5) {
            clients.iter_mut().for_each(|client| assert_eq!(ask(client, "unwatch"), "+OK"));
            wait_until_nobody_is_counted(&cluster, id, &format!("after seed {seed}"));
        } else {
            drop(clients);
            wait_until_nobody_is_counted(&cluster, id, &format!("after the clients of seed {seed} have gone"));
        }
    }
}

const THREADS: usize = 4;
const INCREMENTS: usize = 150;

/// No thread needs nearly as many, whoever gets in its way.
const ATTEMPTS_MAX: usize = 100 * INCREMENTS;

/// Counters that are read, and written back in a transaction: one change that is not seen, and a sum is too small.
#[test]
fn clients_at_the_same_time_overwrite_nothing_that_they_have_not_seen() {
    let (cluster, id) = start(quick());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut random = Xoshiro256PlusPlus::seed_from_u64(thread as u64);
                let mut connection = open(cluster, id, (thread % 2) as u16).expect("the server listens");
                let (mut done, mut attempts) = (0, 0);
                while done < INCREMENTS {
                    attempts += 1;
                    assert!(attempts <= ATTEMPTS_MAX, "{done} of {INCREMENTS} after {attempts} attempts");
                    let counter = format!("{}counter", TAGS[done % 2]);
                    assert_eq!(ask(&mut connection, &format!("watch {counter}")), "+OK");
                    let value = ask(&mut connection, &format!("get {counter}"));
                    let value: usize = value.trim_start_matches('$').trim_matches('"').parse().unwrap_or(0);
                    match random.random_range(0..10) {
                        0 => assert_eq!(ask(&mut connection, "unwatch"), "+OK"),
                        1 => connection = open(cluster, id, (thread % 2) as u16).expect("the server listens"),
                        _ => {
                            let lines = ["multi".to_owned(), format!("set {counter} {}", value + 1), "exec".to_owned()];
                            match &*pipeline(&mut connection, &lines)[2] {
                                "*[+OK]" => done += 1,
                                answer => assert_eq!(answer, "*-1"),
                            }
                        }
                    }
                }
            });
        }
    });
    let each = (THREADS * INCREMENTS / 2).to_string();
    for tag in TAGS {
        assert_eq!(ask(&mut client(&cluster, id), &format!("get {tag}counter")), format!("$\"{each}\""));
    }
    wait_until_nobody_is_counted(&cluster, id, "after all have gone");
}
