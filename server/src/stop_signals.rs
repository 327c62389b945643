//! The signals that ask a program to stop.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for signals that ask this process to stop: SIGTERM, SIGINT, and SIGHUP, which is sent when a terminal is
/// closed. Like any program, one that was started with SIGHUP ignored (by `nohup`) goes on without its terminal.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Takes the signals over from now on. Wants a runtime.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn new() -> io::Result<StopSignals> {
        // Whoever takes a signal over also takes it from those that had it ignored, so it must be asked for before.
        let is_hangup_ignored = is_hangup_ignored_in(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_hangup_ignored { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for the first signal, and gives its name.
    pub async fn first(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }

    /// Waits for a signal from somebody for whom it takes too long, and gives its name. SIGHUP is none: when a terminal
    /// is closed, the kernel and the shell each send one.
    pub async fn further(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Whether a process of this `/proc/PID/status` ignores SIGHUP.
fn is_hangup_ignored_in(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    // The signal's number is 1, and the lowest bit is that of signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_tells_of_nohup() {
        let status =
            |mask: &str| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
        assert!(is_hangup_ignored_in(&status("0000000000001001")));
        assert!(!is_hangup_ignored_in(&status("0000000000001000")));
        assert!(!is_hangup_ignored_in("") && !is_hangup_ignored_in(&status("?")));
    }
}
