//! `lockstep-sim`: runs seeds, replays one, and runs deliberately wrong variants until a check finds them.

use std::process::ExitCode;

use clap::Parser;
use lockstep_sim::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lockstep-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}
