//! What each command does.

mod bench;
mod calibrate;
mod compare;
mod failover;
mod matrix;
mod progress;
mod report;
mod run;
mod stop;
mod sweep;
mod tell;
mod watchman;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// As it should.
    Good,
    /// What was measured is not as it must be: acknowledged writes were lost or doubled, or a bound was not kept.
    Wrong,
    /// What was measured is void.
    Void,
    /// Ctrl-C; what had been measured is kept.
    Stopped,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Good => Self::SUCCESS,
            Ending::Wrong => Self::FAILURE,
            Ending::Void => Self::from(3),
            Ending::Stopped => Self::from(130),
        }
    }
}

/// Does what the command line says. Exit codes: 0 when all went well, 1 when it failed, also when acknowledged writes
/// were lost or doubled, 3 when what was measured is void, 130 when it was interrupted.
///
/// # Errors
///
/// When the command could not be done; the error says what to change.
pub fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let ending = match cli.command {
        Command::Run(command) => run::run(&command)?,
        Command::Load(command) => run::load(&command)?,
        Command::Sweep(command) => sweep::sweep(&command)?,
        Command::Matrix(command) => matrix::matrix(&command)?,
        Command::Failover(command) => failover::failover(&command)?,
        Command::Calibrate(command) => calibrate::calibrate(&command)?,
        Command::Compare(command) => compare::compare(&command)?,
        Command::Report(command) => report::report(&command)?,
    };
    Ok(ending.into())
}
