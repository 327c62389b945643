//! `run`: many seeds on several threads.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lockstep_proto::mutant::Mutant;

use super::{RunArguments, progress::Progress, version};
use crate::{
    plan::{Fault, Plan},
    run::{Run, choose_mutant, run_plan},
    shared::Counters,
    shrink::shrink,
};

/// Seeds to be run by several threads until something says stop.
pub struct Batch {
    next: AtomicU64,
    end: u64,
    deadline: Option<Instant>,
    is_stopped: AtomicBool,
}

impl Batch {
    /// These seeds, until a deadline if there is one.
    pub fn new(seeds: Range<u64>, deadline: Option<Instant>) -> Batch {
        Batch { next: AtomicU64::new(seeds.start), end: seeds.end, deadline, is_stopped: AtomicBool::new(false) }
    }

    /// The next seed; `None` when there is nothing more to do.
    pub fn next(&self) -> Option<u64> {
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late || self.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < self.end)
    }

    /// Nothing more is to be done.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Runs seeds on `jobs` threads and gives each result to `take`.
    pub fn run(&self, jobs: u8, mutant: Option<Mutant>, take: &(impl Fn(u64, Run) + Sync)) {
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    choose_mutant(mutant);
                    while let Some(seed) = self.next() {
                        take(seed, run_plan(Plan::of(seed), false));
                    }
                });
            }
        });
    }
}

/// Seeds that are listed at most.
const LISTED_MAX: usize = 10;

#[derive(Default)]
struct Totals {
    seeds: u64,
    steps: u64,
    operations: u64,
    unknown: u64,
    committed: u64,
    undecided: Vec<u64>,
    by_witness: u64,
    walks: u64,
    views: u64,
    virtual_ns: u64,
    counters: Counters,
    failed: Vec<u64>,
}

/// Runs seeds. Returns whether none failed.
pub fn run(arguments: &RunArguments) -> anyhow::Result<bool> {
    let start = Instant::now();
    let deadline = arguments.minutes.map(|minutes| start + Duration::from_secs_f64(minutes * 60.0));
    let batch = Batch::new(arguments.seeds.clone(), deadline);
    let progress = Progress::new(arguments.seeds.end - arguments.seeds.start);
    let totals = Mutex::new(Totals::default());
    batch.run(arguments.jobs, None, &|seed, run| {
        let is_repeatable = !arguments.check_determinism
            || run_plan(Plan::of(seed), false).outcome.trace_hash == run.outcome.trace_hash;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(seed, &run);
        if !is_repeatable {
            progress.print(&format!("seed {seed} of version {}: two runs differ", version()));
        }
        if run.outcome.failure.is_some() || !is_repeatable {
            totals.failed.push(seed);
            if totals.failed.len() >= arguments.failures.max(1) {
                batch.stop();
            }
            tell(seed, &run, arguments, &progress);
        }
        progress.advance(totals.failed.len());
    });
    progress.finish();
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.print(start.elapsed());
    Ok(totals.failed.is_empty())
}

fn tell(seed: u64, run: &Run, arguments: &RunArguments, progress: &Progress) {
    let Some(failure) = &run.outcome.failure else { return };
    progress.print(&format!("seed {seed} of version {} fails: {:?}: {}", version(), failure.check, failure.text));
    if arguments.no_shrink {
        return;
    }
    let shortest = shrink(Plan::of(seed), failure.check);
    progress.print(&shortest.report(seed));
}

impl Totals {
    fn add(&mut self, seed: u64, run: &Run) {
        let outcome = &run.outcome;
        self.seeds += 1;
        self.steps += outcome.steps;
        self.operations += outcome.operations;
        self.unknown += outcome.unknown;
        self.committed += outcome.committed;
        self.undecided.extend(outcome.is_undecided.then_some(seed));
        self.by_witness += u64::from(outcome.by_witness);
        self.walks += outcome.walks;
        self.views += outcome.views;
        self.virtual_ns += outcome.virtual_ns;
        self.counters.merge(&outcome.counters);
    }

    fn print(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let faults: Vec<String> =
            Fault::ALL.iter().map(|&fault| format!("{} {}", fault.name(), self.counters.of(fault))).collect();
        println!("faults: {}", faults.join(", "));
        println!(
            "{} operations ({} with unknown outcome; {} histories judged by the log alone, {} too hard to judge), {} walks, {} ops committed, {} views, {:.0} s of virtual time, {} steps",
            self.operations,
            self.unknown,
            self.by_witness,
            self.undecided.len(),
            self.walks,
            self.committed,
            self.views,
            self.virtual_ns as f64 / 1e9,
            self.steps
        );
        if !self.undecided.is_empty() {
            let mut listed = self.undecided.clone();
            listed.sort_unstable();
            listed.truncate(LISTED_MAX);
            println!("too hard to judge, among others: {listed:?}");
        }
        println!(
            "{} seeds in {seconds:.1} s: {:.0} seeds/s; {} failed{}",
            self.seeds,
            self.seeds as f64 / seconds,
            self.failed.len(),
            if self.failed.is_empty() { String::new() } else { format!(": {:?}", self.failed) }
        );
    }
}
