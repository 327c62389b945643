//! The `lockstep` command line: one command and out, or a prompt.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    let arguments = cli::arguments::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lockstep: cannot start: {error}");
            return ExitCode::from(cli::exit::UNAVAILABLE);
        }
    };
    ExitCode::from(cli::run(arguments, &runtime))
}
