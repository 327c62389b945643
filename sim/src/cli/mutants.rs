//! `mutants`: every deliberately wrong variant, until a check finds it.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, ensure};
use comfy_table::{Table, presets};
use lockstep_proto::mutant::Mutant;

use super::{MutantArguments, run::Batch};
use crate::{facts::Check, run::Run};

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
        None if arguments.quick => QUICK.to_vec(),
        None => Mutant::ALL.iter().copied().filter(|mutant| !RARE.contains(mutant)).collect(),
    };
    let start = Instant::now();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["variant", "found by", "after seeds", "what was seen"]);
    let (mut survivors, mut seeds_used) = (Vec::new(), 0);
    for mutant in chosen {
        let kill = hunt(mutant, arguments);
        let (check, seeds, text) = match &kill {
            Some(kill) => (format!("{:?}", kill.check), (kill.seed + 1).to_string(), first_words(&kill.text)),
            None => ("NOT FOUND".to_string(), format!("> {}", arguments.seeds_max), mutant.wrong().to_string()),
        };
        eprintln!("{}: {check} after {seeds} seeds", mutant.name());
        table.add_row([mutant.name().to_string(), check, seeds, text]);
        seeds_used = seeds_used.max(kill.as_ref().map_or(arguments.seeds_max, |kill| kill.seed + 1));
        if kill.is_none() {
            survivors.push(mutant.name());
        }
    }
    println!("{table}");
    let is_clean = arguments.no_control || control(arguments, seeds_used);
    println!("{} s in all", start.elapsed().as_secs());
    if arguments.only.is_none() {
        let rare: Vec<&str> = RARE.iter().map(|mutant| mutant.name()).collect();
        println!("not hunted, too rare for chance alone: {}", rare.join(", "));
    }
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

/// The same seeds on the unmodified code. Returns whether none fails.
fn control(arguments: &MutantArguments, seeds: u64) -> bool {
    let batch = Batch::new(0..seeds, None);
    let failed = Mutex::new(Vec::new());
    batch.run(arguments.jobs, None, &|seed, run: Run| {
        if run.outcome.failure.is_some() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        println!("the unmodified code: {seeds} seeds clean");
    } else {
        println!("the unmodified code fails, too: seeds {failed:?}");
    }
    failed.is_empty()
}

fn first_words(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(90).collect()
}

/// The variants that are found quickest.
const QUICK: &[Mutant] = &[
    Mutant::AckBeforeDurable,
    Mutant::ViewFenceSkipped,
    Mutant::LogViewFenceSkipped,
    Mutant::CommitQuorumTooSmall,
    Mutant::ViewQuorumTooSmall,
    Mutant::VoteOfOldLogView,
    Mutant::TailNotTruncated,
    Mutant::ApplyUncommitted,
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
];

/// Variants that need a chain of events which chance alone does not bring about within 2,000 seeds. They are hunted only by
/// name.
const RARE: &[Mutant] = &[
    Mutant::RoundOfOldViewConfirmed,
    Mutant::UnverifiedTrusted,
    Mutant::ParentUnchecked,
    Mutant::ApplyUnverified,
    Mutant::StaleIncarnationCounts,
    Mutant::RecoverFromOne,
    Mutant::GhostsNotErased,
];
