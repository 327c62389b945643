//! The load generator's program: see the library of the same name.

use std::io::Write;
use std::process::ExitCode;

use lockstep_loadgen::cli::Cli;
use lockstep_loadgen::commands::execute;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match execute(Cli::parse_checked(std::env::args_os()).unwrap_or_else(|error| error.exit())) {
        Ok(code) => code,
        Err(error) => {
            // The reason may be that nothing can be written there.
            let _ = writeln!(std::io::stderr(), "lockstep-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
