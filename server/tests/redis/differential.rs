//! The same random sequences on two servers.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::{
    agreement::Agreement,
    grammar::{Action, Keys, Sequence, Step, generate},
    peer::Redis,
    sequence::Runner,
    tools::find_or_skip,
    wire::{Answer, shown},
};

/// So many different differences are enough for one run.
const DIFFERENCES_MAX: usize = 25;

/// Attempts to make a sequence shorter or simpler.
const SHRINKS_MAX: usize = 400;

/// Characters of an answer that are shown.
const ANSWER_SHOWN_MAX: usize = 1000;

/// Two servers that should answer alike.
pub struct Pair {
    /// The one that is right.
    pub left: Runner,
    /// The one in question.
    pub right: Runner,
}

/// A sequence that two servers answer differently.
pub struct Difference {
    /// Where it came from.
    pub seed: u64,
    /// Shrunk.
    pub sequence: Sequence,
    /// The first step with different answers.
    pub at: usize,
    /// The answers to it.
    pub answers: (Answer, Answer),
}

impl Difference {
    /// Differences with the same signature probably have the same cause.
    fn signature(&self) -> String {
        let kind = |answer: &Answer| match answer {
            Ok(reply) if reply.is_error() => shown(reply.text().unwrap_or_default()),
            Ok(reply) => char::from(reply.kind).to_string(),
            Err(broken) => format!("{broken:?}"),
        };
        let words = match &self.sequence.steps[self.at].action {
            Action::Command(command) => command[..command.len().min(2)].to_ascii_uppercase_all(),
            Action::ScanAll(_) => "SCAN".to_string(),
            Action::Pause(_) => String::new(),
        };
        let name = words.split(' ').next().unwrap_or_default();
        let is_container = matches!(name, "CLIENT" | "CONFIG" | "COMMAND" | "OBJECT" | "PUBSUB" | "SLOWLOG" | "MEMORY");
        let name = if is_container { &words } else { name };
        format!("{name} {} {}", kind(&self.answers.0), kind(&self.answers.1))
    }
}

trait Upper {
    fn to_ascii_uppercase_all(&self) -> String;
}

impl Upper for [Vec<u8>] {
    fn to_ascii_uppercase_all(&self) -> String {
        self.iter().map(|word| shown(word).to_ascii_uppercase()).collect::<Vec<_>>().join(" ")
    }
}

/// A step as one would type it.
fn typed(step: &Step) -> String {
    let words = |command: &[Vec<u8>]| {
        let is_plain = |word: &&Vec<u8>| !word.is_empty() && word.iter().all(|byte| byte.is_ascii_graphic());
        let quoted = |word: &Vec<u8>| match Some(word).filter(is_plain) {
            Some(word) => shown(word),
            None => format!("\"{}\"", shown(word)),
        };
        command.iter().map(quoted).collect::<Vec<_>>().join(" ")
    };
    let what = match &step.action {
        Action::Command(command) => words(command),
        Action::ScanAll(options) => format!("(SCAN from beginning to end) {}", words(options)),
        Action::Pause(time) => format!("(wait {time:?})"),
    };
    if step.connection == 0 { what } else { format!("(other connection) {what}") }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.sequence.is_pipelined { ", pipelined" } else { "" };
        writeln!(out, "seed {}{how}:", self.seed)?;
        for step in &self.sequence.steps[..=self.at] {
            writeln!(out, "    {}", typed(step))?;
        }
        let brief = |answer: &Answer| {
            let text = format!("{answer:?}");
            text.chars().take(ANSWER_SHOWN_MAX).collect::<String>()
        };
        writeln!(out, "  redis says {}", brief(&self.answers.0))?;
        write!(out, "  ours says  {}", brief(&self.answers.1))
    }
}

impl Pair {
    /// The first step of the sequence that the two answer differently.
    pub fn first_difference(&mut self, sequence: &Sequence) -> Option<(usize, (Answer, Answer))> {
        let left = self.left.run(sequence);
        let right = self.right.run(sequence);
        let mut agreement = Agreement::default();
        let answers = sequence.steps.iter().zip(left.into_iter().zip(right));
        let mut differing =
            answers.enumerate().filter(|(_, (step, (left, right)))| !agreement.holds(step, left, right));
        differing.next().map(|(at, (_, answers))| (at, answers))
    }

    /// Runs the sequence of a seed.
    pub fn compare(&mut self, seed: u64, keys: Keys) -> Option<Difference> {
        let sequence = generate(seed, keys);
        let (at, answers) = self.first_difference(&sequence)?;
        Some(Difference { seed, sequence, at, answers })
    }

    /// Takes away what the difference does not need.
    pub fn shrink(&mut self, mut difference: Difference) -> Difference {
        let mut tries = 0;
        let mut has_shrunk = true;
        while has_shrunk && tries < SHRINKS_MAX {
            has_shrunk = false;
            difference.sequence.steps.truncate(difference.at + 1);
            for candidate in smaller(&difference.sequence) {
                tries += 1;
                if let Some((at, answers)) = self.first_difference(&candidate) {
                    difference = Difference { seed: difference.seed, sequence: candidate, at, answers };
                    has_shrunk = true;
                    break;
                }
                if tries >= SHRINKS_MAX {
                    break;
                }
            }
        }
        difference
    }
}

/// Sequences that are a little smaller: the greatest steps first.
fn smaller(sequence: &Sequence) -> Vec<Sequence> {
    let mut candidates = Vec::new();
    let steps = &sequence.steps;
    if sequence.is_pipelined {
        candidates.push(Sequence { is_pipelined: false, steps: steps.clone() });
    }
    let mut push = |steps: Vec<Step>| candidates.push(Sequence { steps, is_pipelined: sequence.is_pipelined });
    for size in [steps.len() / 2, steps.len() / 4, 1] {
        for at in (0..steps.len()).step_by(size.max(1)) {
            // The last one is the one in question.
            let end = (at + size).min(steps.len() - 1);
            if at < end {
                push([&steps[..at], &steps[end..]].concat());
            }
        }
    }
    if steps.iter().any(|step| step.connection == 1) && steps.iter().all(|step| step.connection == 1) {
        push(steps.iter().map(|step| Step { connection: 0, ..step.clone() }).collect());
    }
    for (at, step) in steps.iter().enumerate() {
        let Action::Command(command) = &step.action else { continue };
        let mut replace = |command: Vec<Vec<u8>>| {
            let mut steps = steps.clone();
            steps[at].action = Action::Command(command);
            push(steps);
        };
        for word in (1..command.len()).rev() {
            let mut shorter = command.clone();
            shorter.remove(word);
            replace(shorter);
        }
        for (word, text) in command.iter().enumerate().skip(1) {
            let simple: &[&[u8]] = &[b"a", b"1"];
            let half = &text[..text.len() / 2];
            let options =
                simple.iter().copied().chain([half]).filter(|other| other.len() < text.len() && !other.is_empty());
            for other in options {
                let mut simpler = command.clone();
                simpler[word] = other.to_vec();
                replace(simpler);
            }
        }
    }
    candidates
}

/// Runs the sequences of `seeds` on pairs of servers, one per thread, and says what differed.
pub fn differences(seeds: Range<u64>, keys: Keys, pairs: Vec<Pair>) -> Vec<Difference> {
    let next = AtomicU64::new(seeds.start);
    let (mut found, mut known) = (Vec::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        for mut pair in pairs {
            let (sender, next, end) = (sender.clone(), &next, seeds.end);
            scope.spawn(move || {
                let mut seen = BTreeSet::new();
                while seen.len() < DIFFERENCES_MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let Some(difference) = pair.compare(seed, keys) else { continue };
                    if seen.insert(difference.signature()) {
                        let _ = sender.send(pair.shrink(difference));
                    }
                }
            });
        }
        drop(sender);
        for difference in receiver {
            if known.insert(difference.signature()) {
                found.push(difference);
            }
        }
    });
    found
}

/// A number from the environment, for longer runs than usual and for a seed that has failed.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seeds to run: `LOCKSTEP_REDIS_SEQUENCES` of them from `LOCKSTEP_REDIS_SEED` on.
pub fn seeds(usual: u64) -> Range<u64> {
    let first = setting("LOCKSTEP_REDIS_SEED", 0);
    first..first + setting("LOCKSTEP_REDIS_SEQUENCES", usual)
}

/// Fails, with all that was found, if anything was.
pub fn expect_none(what: &str, seeds: &Range<u64>, begun: Instant, found: &[Difference]) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what}: seeds {seeds:?} in {seconds:.1} s, {} differences", found.len());
    let mut report = String::new();
    for difference in found {
        writeln!(report, "{difference}\n").unwrap();
    }
    assert!(found.is_empty(), "{what}: {} differences\n{report}", found.len());
}

fn pair_of(left: &Redis, right: &Redis) -> Pair {
    Pair { left: Runner::new(vec![left.address]), right: Runner::new(vec![right.address]) }
}

#[test]
fn redis_agrees_with_itself() {
    let Some(program) = find_or_skip("redis_agrees_with_itself", "redis-server") else { return };
    let (left, right) = (Redis::start(&program, &[]), Redis::start(&program, &[]));
    for keys in [Keys::Any, Keys::OneSlot, Keys::Spread] {
        let (begun, seeds) = (Instant::now(), seeds(300));
        let found = differences(seeds.clone(), keys, vec![pair_of(&left, &right)]);
        expect_none(&format!("redis and redis, {keys:?}"), &seeds, begun, &found);
    }
}

#[test]
fn a_server_that_differs_is_found_out_and_the_sequence_shrunk() {
    let Some(program) = find_or_skip("a_server_that_differs_is_found_out_and_the_sequence_shrunk", "redis-server")
    else {
        return;
    };
    let left = Redis::start(&program, &[]);
    let right = Redis::start(&program, &["--rename-command", "STRLEN", ""]);
    let found = differences(0..500, Keys::Any, vec![pair_of(&left, &right)]);
    assert!(!found.is_empty(), "nothing was found");
    for difference in &found {
        let steps = &difference.sequence.steps;
        assert_eq!(steps.len(), 1, "{difference}");
        assert!(typed(&steps[0]).to_ascii_uppercase().contains("STRLEN"), "{difference}");
    }
}
