//! The interactive prompt.

use std::{env, fs, io, path::PathBuf};

use rustyline::{CompletionType, Config, Editor, error::ReadlineError, history::FileHistory};
use tokio::runtime::Runtime;

use super::{
    arguments::LineCommand,
    complete::Words,
    execute::{Stdin, execute},
    exit,
    failure::Failure,
    output::{Printer, has_color, is_dumb},
    script,
    session::Session,
};

/// Lines that the history keeps.
const HISTORY_SIZE: usize = 10_000;

/// Takes commands from a person until there are no more. Returns the exit code: an error at the prompt is no failure of
/// the program.
pub fn run(session: &mut Session, printer: &Printer, runtime: &Runtime) -> u8 {
    let mut editor = match editor() {
        Ok(editor) => editor,
        Err(error) => return exit::report(Err(Failure::Other(format!("cannot use this terminal: {error}"))), printer),
    };
    let history = history_path();
    if let Some(path) = &history {
        // A first session has no history yet; without one the prompt works all the same.
        let _ = editor.load_history(path);
    }
    // A terminal that cannot move its cursor has no line editing.
    let keys = if is_dumb() { "" } else { ", Tab to complete" };
    printer.note(&format!("Type `help` for the commands{keys}, Ctrl-D to leave."));
    let prompt = if has_color(&io::stdout()) { "\x1b[1mlockstep>\x1b[0m " } else { "lockstep> " };
    loop {
        match editor.readline(&("lockstep> ", prompt)) {
            Ok(line) => {
                let _ = editor.add_history_entry(line.as_str());
                if run_line(session, printer, runtime, &line) {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return exit::report(Err(Failure::Other(error.to_string())), printer),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        printer.note(&format!("the history could not be kept in {}: {error}", path.display()));
    }
    exit::OK
}

/// Runs a line; Ctrl-C stops waiting for its answer. Returns whether it asks to leave.
fn run_line(session: &mut Session, printer: &Printer, runtime: &Runtime, line: &str) -> bool {
    let command = match script::parse(line.as_bytes()) {
        Ok(Some(LineCommand::Ask(command))) => command,
        Ok(Some(LineCommand::Quit)) => return true,
        Ok(None) => return false,
        Err(failure) => {
            exit::report(Err(failure), printer);
            return false;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            result = execute(session, printer, command, Stdin::IsCommands) => {
                exit::report(result, printer);
            }
            _ = tokio::signal::ctrl_c() => printer.note("stopped waiting (a write may still be carried out)"),
        }
    });
    false
}

fn editor() -> rustyline::Result<Editor<Words, FileHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(HISTORY_SIZE)?
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Words::new()));
    Ok(editor)
}

/// Where the history is kept, as the XDG Base Directory Specification has it: `$XDG_STATE_HOME` or `~/.local/state`. `None` if
/// there is no such place.
fn history_path() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("lockstep");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}
