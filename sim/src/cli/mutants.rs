//! `mutants`: every deliberately wrong variant, until a check finds it.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, ensure};
use comfy_table::{Table, presets};
use lockstep_proto::mutant::Mutant;

use super::{MutantArguments, run::Batch};
use crate::{
    facts::Check,
    run::{Run, run_story},
    stories::{STORIES, Story},
};

/// How a variant was found.
struct Kill {
    seed: u64,
    check: Check,
    text: String,
}

/// Says how to get a program that has the variants in it, if this one has not.
pub(super) fn ensure_built_in() -> anyhow::Result<()> {
    ensure!(
        cfg!(feature = "mutants"),
        "this build has no wrong variants in it: `cargo run --profile sim -p lockstep-sim --features mutants -- mutants`"
    );
    Ok(())
}

/// Runs the variants. Returns whether all were found, and the unmodified code was not found wrong.
pub fn mutants(arguments: &MutantArguments) -> anyhow::Result<bool> {
    ensure_built_in()?;
    let chosen: Vec<Mutant> = match &arguments.only {
        Some(name) => {
            let found = Mutant::ALL.iter().find(|mutant| mutant.name().eq_ignore_ascii_case(name));
            vec![*found.with_context(|| format!("there is no variant {name}"))?]
        }
        None if arguments.quick => {
            let told = STORIES.iter().map(|story| story.mutant);
            QUICK.iter().copied().chain(told.filter(|_| !arguments.no_stories)).collect()
        }
        None => Mutant::ALL.to_vec(),
    };
    let start = Instant::now();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["variant", "found by", "after", "what was seen"]);
    let (mut survivors, mut seeds_used) = (Vec::new(), 0);
    for mutant in chosen {
        let story = STORIES.iter().find(|story| story.mutant == mutant).filter(|_| !arguments.no_stories);
        let (row, seeds) = match story {
            Some(story) => (run_story(story, Some(mutant)).map(|text| told(story, &text)), 0),
            None => {
                let kill = hunt(mutant, arguments);
                let seeds = kill.as_ref().map_or(arguments.seeds_max, |kill| kill.seed + 1);
                (
                    kill.map(|kill| [format!("{:?}", kill.check), format!("{seeds} seeds"), first_words(&kill.text)]),
                    seeds,
                )
            }
        };
        seeds_used = seeds_used.max(seeds);
        let [check, after, text] = row.unwrap_or_else(|| {
            survivors.push(mutant.name());
            let tried = story.map_or(format!("{seeds} seeds"), |story| format!("scenario {}", story.name));
            ["NOT FOUND".to_string(), tried, mutant.wrong().to_string()]
        });
        eprintln!("{}: {check} after {after}", mutant.name());
        table.add_row([mutant.name().to_string(), check, after, text]);
    }
    println!("{table}");
    let is_clean = arguments.no_control || control(arguments, seeds_used);
    println!("{} s in all", start.elapsed().as_secs());
    if !survivors.is_empty() {
        println!("not found: {}", survivors.join(", "));
    }
    Ok(survivors.is_empty() && is_clean)
}

/// The lowest seed that finds a variant.
fn hunt(mutant: Mutant, arguments: &MutantArguments) -> Option<Kill> {
    let batch = Batch::new(0..arguments.seeds_max, None);
    let kill: Mutex<Option<Kill>> = Mutex::new(None);
    batch.run(arguments.jobs, Some(mutant), &|seed, run: Run| {
        let Some(failure) = run.outcome.failure else { return };
        batch.stop();
        let mut kill = kill.lock().unwrap_or_else(PoisonError::into_inner);
        if kill.as_ref().is_none_or(|kill| seed < kill.seed) {
            *kill = Some(Kill { seed, check: failure.check, text: failure.text });
        }
    });
    kill.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// How a scenario has failed: with the check that it names first, if it was a check of the simulator.
fn told(story: &Story, text: &str) -> [String; 3] {
    let line = text.lines().next().unwrap_or_default();
    let (check, seen) = match line.split_once(": ") {
        Some((check, seen)) if check.chars().all(char::is_alphanumeric) => (check, seen),
        _ => ("Assertion", line),
    };
    [check.to_string(), format!("scenario {}", story.name), first_words(seen)]
}

/// The same seeds, and all scenarios, on the unmodified code. Returns whether none fails.
fn control(arguments: &MutantArguments, seeds: u64) -> bool {
    for story in STORIES {
        if let Some(text) = run_story(story, None) {
            println!("the unmodified code fails, too: scenario {}: {}", story.name, first_words(&text));
            return false;
        }
    }
    let batch = Batch::new(0..seeds, None);
    let failed = Mutex::new(Vec::new());
    batch.run(arguments.jobs, None, &|seed, run: Run| {
        if run.outcome.failure.is_some() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        println!("the unmodified code: {seeds} seeds and {} scenarios clean", STORIES.len());
    } else {
        println!("the unmodified code fails, too: seeds {failed:?}");
    }
    failed.is_empty()
}

fn first_words(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(90).collect()
}

/// The variants that seeds find quickest; scenarios take no time.
const QUICK: &[Mutant] = &[
    Mutant::AckBeforeDurable,
    Mutant::ViewFenceSkipped,
    Mutant::LogViewFenceSkipped,
    Mutant::CommitQuorumTooSmall,
    Mutant::ViewQuorumTooSmall,
    Mutant::VoteOfOldLogView,
    Mutant::TailNotTruncated,
    Mutant::ApplyUncommitted,
    Mutant::ApplyOutOfOrder,
    Mutant::ReadsWithoutRound,
    Mutant::ReadsBeforeViewStart,
    Mutant::RestartedPrimaryGoesOn,
    Mutant::RecoveredVouches,
    Mutant::ReuseJournalEarly,
    Mutant::CheckpointMixesOps,
    Mutant::CheckpointDropsSessions,
    Mutant::CheckpointOffsetWrong,
    Mutant::DuplicateRunsAgain,
    Mutant::EvictsTheOldest,
    Mutant::ExpiryIgnored,
    Mutant::CompareAndSetBlind,
    Mutant::CheckpointNotAtCut,
    Mutant::WatchIgnored,
    Mutant::AbortedRunsFirst,
    Mutant::OwnClockAtApply,
    Mutant::OfferedTwice,
    Mutant::WriteOvertakesReads,
    Mutant::IfEqualBlind,
    Mutant::LaterIgnored,
    Mutant::ScanSkips,
    Mutant::SumTruncated,
    Mutant::WholeSeconds,
];
