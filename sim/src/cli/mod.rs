//! The command line.

mod mutants;
mod progress;
mod replay;
mod run;

use std::ops::Range;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};

pub use self::run::Batch;

/// Simulates whole clusters, each from one seed, and checks that they keep their promises.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds; the exit code is 1 if one of them fails.
    Run(RunArguments),
    /// Run one seed again.
    Replay(ReplayArguments),
    /// Run deliberately wrong variants of the code until a check finds them; the exit code is 1 if one is not found.
    Mutants(MutantArguments),
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// The seeds: a range, or a single one.
    #[arg(long, value_name = "A..B", default_value = "0..1000", value_parser = parse_seeds)]
    seeds: Range<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Stop after this many minutes, wherever that is.
    #[arg(long)]
    minutes: Option<f64>,
    /// Run each seed twice and compare what happened.
    #[arg(long)]
    check_determinism: bool,
    /// Go on after this many seeds have failed.
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Do not look for a shorter run that fails in the same way.
    #[arg(long)]
    no_shrink: bool,
}

/// Arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// The seed.
    seed: u64,
    /// Print what happens, line by line.
    #[arg(long)]
    trace: bool,
    /// Look for the shortest run that fails in the same way, and print that.
    #[arg(long)]
    shrink: bool,
    /// Run a deliberately wrong variant, by its name.
    #[arg(long)]
    mutant: Option<String>,
}

/// Arguments of `mutants`.
#[derive(Clone, Debug, Args)]
pub struct MutantArguments {
    /// Only the half of them that is found quickest.
    #[arg(long)]
    quick: bool,
    /// Seeds after which a variant counts as not found.
    #[arg(long, default_value_t = 2000)]
    seeds_max: u64,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Only this one, by its name.
    #[arg(long)]
    only: Option<String>,
    /// Hunt by seeds only, also what scenarios are meant for.
    #[arg(long)]
    no_stories: bool,
    /// Do not run the same seeds on the unmodified code afterwards.
    #[arg(long)]
    no_control: bool,
}

impl Cli {
    /// Does what was asked for. Returns whether all was well.
    ///
    /// # Errors
    ///
    /// If it cannot be done.
    pub fn run(self) -> anyhow::Result<bool> {
        ensure!(
            cfg!(panic = "unwind"),
            "this build ends at the first failed assertion: build it with `cargo run --profile sim -p lockstep-sim`"
        );
        match self.command {
            Command::Run(arguments) => run::run(&arguments),
            Command::Replay(arguments) => replay::replay(&arguments),
            Command::Mutants(arguments) => mutants::mutants(&arguments),
        }
    }
}

fn parse_seeds(text: &str) -> anyhow::Result<Range<u64>> {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().context("not a number");
    let seeds = match text.split_once("..") {
        Some((start, end)) => number(start)?..number(end)?,
        None => {
            let seed = number(text)?;
            seed..seed + 1
        }
    };
    ensure!(!seeds.is_empty(), "there is no seed in {text}");
    Ok(seeds)
}

/// The version that failures are told with: of the package, and the commit of the checkout it was built from, if there is
/// one.
pub(crate) fn version() -> String {
    let commit = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=10"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    match commit {
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_or_one() {
        assert_eq!(parse_seeds("3..10").unwrap(), 3..10);
        assert_eq!(parse_seeds("1_000").unwrap(), 1000..1001);
        for text in ["", "a", "5..5", "7..2", "1..b"] {
            assert!(parse_seeds(text).is_err(), "{text}");
        }
    }
}
