//! Log lines: where they go and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Sends log lines to standard error from now on: `info` and above, or what the variable `LOCKSTEP_LOG` says in the
/// syntax of `tracing`'s filters, such as `debug` or `lockstep_server=trace`.
///
/// Standard output is left to what a command prints for its caller. Lines that cannot be written are lost.
///
/// # Errors
///
/// If the filter cannot be understood.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("LOCKSTEP_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            anyhow::anyhow!("the variable LOCKSTEP_LOG is `{text}`: {error}; write for example `debug`")
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // What cannot be written, because a disk is full, a terminal was closed or the reader of a pipe has ended, is lost.
    // It must not be complained about to standard error, for that cannot be written either, and such a complaint is a
    // panic.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
