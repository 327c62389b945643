//! Ctrl-C, and a terminal that is closed.

use std::thread::Builder;
use std::{fs, io};

use tokio::signal::unix::{SignalKind, signal};

use super::tell;
use crate::drive::StopFlag;

/// A flag that the first Ctrl-C (or SIGTERM) sets; the second ends the program at once. Children die with it, as they
/// are told to by the kernel. SIGHUP, which comes when the terminal is closed, sets the flag too, unless it is ignored
/// (`nohup`), but never ends the program at once: the kernel and the shell each send one.
///
/// # Errors
///
/// When the signal handlers cannot be set up.
pub(super) fn stop_on_signals() -> io::Result<StopFlag> {
    let flag = StopFlag::default();
    let set = flag.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Whoever takes a signal over also takes it from those that had it ignored, so it must be asked for before.
    let hears_hangups = !is_hangup_ignored_in(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let (mut interrupts, mut terminations, mut hangups) = {
        let _context = runtime.enter();
        let hangups = hears_hangups.then(|| signal(SignalKind::hangup())).transpose()?;
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, hangups)
    };
    let wait = move || {
        runtime.block_on(async move {
            loop {
                let hangup = async {
                    match &mut hangups {
                        Some(hangups) => hangups.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let is_impatient = tokio::select! {
                    _ = interrupts.recv() => true,
                    _ = terminations.recv() => true,
                    _ = hangup => false,
                };
                if set.is_set() && !is_impatient {
                    continue;
                }
                if set.is_set() {
                    std::process::exit(130);
                }
                set.set();
                tell::note("stopping; what was measured is kept (once more to end at once)");
            }
        });
    };
    Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(flag)
}

/// Whether a process of this `/proc/PID/status` ignores SIGHUP, signal 1, whose bit is the lowest.
fn is_hangup_ignored_in(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_tells_of_nohup() {
        assert!(is_hangup_ignored_in("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!is_hangup_ignored_in("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
    }
}
