//! The command line's parts: what can be written ([`arguments`], [`words`]), what is done about it ([`execute`]), what
//! is shown ([`output`], [`status_table`]), and the two ways of taking many commands ([`prompt`], [`script`]).

pub mod arguments;
mod complete;
mod execute;
pub mod exit;
mod failure;
mod output;
mod prompt;
mod script;
mod session;
mod status_table;
mod words;

use std::io::{self, IsTerminal};

use arguments::Arguments;
use output::{Printer, Trailing};
use session::Session;
use tokio::runtime::Runtime;

/// Does what the arguments say. Returns the exit code.
pub fn run(arguments: Arguments, runtime: &Runtime) -> u8 {
    let mut session = Session::new(&arguments);
    let Some(command) = arguments.command else {
        let printer = Printer::new(arguments.output, Trailing::Newline);
        return if io::stdin().is_terminal() {
            prompt::run(&mut session, &printer, runtime)
        } else {
            script::run(&mut session, &printer, runtime, io::stdin().lock())
        };
    };
    // A value goes into a file or a pipe as it is; on a terminal the shell's prompt should not stick to it.
    let trailing = if io::stdout().is_terminal() { Trailing::Newline } else { Trailing::Nothing };
    let printer = Printer::new(arguments.output, trailing);
    let result = runtime.block_on(execute::execute(&mut session, &printer, command, execute::Stdin::IsValue));
    exit::report(result, &printer)
}
