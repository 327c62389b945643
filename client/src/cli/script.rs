//! Many commands, one per line, and nobody to ask.

use std::io::{BufRead, Read};

use clap::{Parser, error::ErrorKind};
use lockstep_proto::limits::REQUEST_SIZE_MAX;
use tokio::runtime::Runtime;

use super::{
    arguments::{Line, LineCommand},
    execute::{Stdin, execute},
    exit,
    failure::Failure,
    output::Printer,
    session::Session,
    words,
};

/// Longest line: the largest request, with every byte written as four.
const LINE_SIZE_MAX: usize = 4 * REQUEST_SIZE_MAX;

/// What follows from a line.
pub enum Outcome {
    /// Nothing special; the exit code of the command.
    Done(u8),
    /// The end was asked for.
    Quit,
}

/// Runs the commands of a file or pipe to its end. Returns the exit code of the first one that failed.
pub fn run(session: &mut Session, printer: &Printer, runtime: &Runtime, mut input: impl BufRead) -> u8 {
    let mut code = exit::OK;
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(LINE_SIZE_MAX as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) => return code,
            Ok(_) => {}
            Err(error) => return exit::report(Err(error.into()), printer),
        }
        if line.len() > LINE_SIZE_MAX {
            // What is left of the line must not be taken for commands.
            return exit::report(Err(Failure::Usage("a line is longer than any request can be".to_owned())), printer);
        }
        match run_line(session, printer, runtime, &line) {
            Outcome::Done(exit::OK) => {}
            Outcome::Done(failed) if code == exit::OK => code = failed,
            Outcome::Done(_) => {}
            Outcome::Quit => return code,
        }
    }
}

/// Runs one line.
pub fn run_line(session: &mut Session, printer: &Printer, runtime: &Runtime, line: &[u8]) -> Outcome {
    let command = match parse(line) {
        Ok(Some(LineCommand::Ask(command))) => command,
        Ok(Some(LineCommand::Quit)) => return Outcome::Quit,
        Ok(None) => return Outcome::Done(exit::OK),
        Err(failure) => return Outcome::Done(exit::report(Err(failure), printer)),
    };
    let result = runtime.block_on(execute(session, printer, command, Stdin::IsCommands));
    Outcome::Done(exit::report(result, printer))
}

/// The command on a line; `None` if there is none, or if it was a question about the commands, which is answered here.
pub fn parse(line: &[u8]) -> Result<Option<LineCommand>, Failure> {
    let words = words::split(line).map_err(Failure::Usage)?;
    if words.is_empty() {
        return Ok(None);
    }
    match Line::try_parse_from(words) {
        Ok(line) => Ok(Some(line.command)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print()?;
            Ok(None)
        }
        Err(error) => {
            let text = error.to_string();
            Err(Failure::Usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()))
        }
    }
}
