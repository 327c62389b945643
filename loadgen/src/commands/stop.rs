//! Ctrl-C.

use std::io;
use std::thread::Builder;

use tokio::signal::unix::{SignalKind, signal};

use crate::drive::StopFlag;

/// A flag that the first Ctrl-C (or SIGTERM) sets; the second ends the program at once. Children die with it, as they are
/// told to by the kernel.
///
/// # Errors
///
/// When the signal handlers cannot be set up.
pub(super) fn stop_on_signals() -> io::Result<StopFlag> {
    let flag = StopFlag::default();
    let set = flag.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupts, mut terminations) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                if set.is_set() {
                    std::process::exit(130);
                }
                set.set();
                eprintln!("stopping; what was measured is kept (once more to end at once)");
            }
        });
    };
    Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(flag)
}
