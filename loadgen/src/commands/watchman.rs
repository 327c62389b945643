//! Ends a run early when it has no sense any more.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::drive::StopFlag;
use crate::record::{EventLog, ProcessRef};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Does `work` with a flag that is set as soon as `stop` is, or one of `servers` has ended; gives what `work` gave and
/// the name of the server that ended first.
///
/// Without this, a load whose servers are gone would wait out the time-out of every one of its requests.
pub(super) fn watched<T>(
    stop: &StopFlag,
    servers: &[ProcessRef],
    events: &EventLog,
    work: impl FnOnce(StopFlag) -> T,
) -> (T, Option<String>) {
    let run_stop = StopFlag::default();
    let ended = Mutex::new(None);
    let (done, is_done) = channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Owned by this thread, so that it notices at once when the other end is dropped.
            let is_done = is_done;
            while is_done.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if stop.is_set() {
                    run_stop.set();
                } else if let Some(server) = servers.iter().find(|server| has_ended(server.pid)) {
                    events.add("server-ended", format!("{} has ended", server.name));
                    *ended.lock().expect("nobody panics with the lock") = Some(server.name.clone());
                    run_stop.set();
                    return;
                }
            }
        });
        let result = work(run_stop.clone());
        drop(done);
        result
    });
    (result, ended.into_inner().expect("nobody panics with the lock"))
}

/// Whether a child has ended, waited for or not.
fn has_ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    /// Waits for the flag as a run would.
    fn run(flag: &StopFlag) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !flag.is_set() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        flag.is_set()
    }

    #[test]
    fn a_server_that_ends_ends_the_run_and_is_named() {
        let mut child = Command::new("true").spawn().expect("true can be started");
        let servers = [ProcessRef::own("server 0"), ProcessRef::process("server 1", child.id())];
        let events = EventLog::new();
        let (stopped, ended) = watched(&StopFlag::default(), &servers, &events, |flag| run(&flag));
        assert!(stopped);
        assert_eq!(ended.as_deref(), Some("server 1"));
        assert_eq!(events.snapshot()[0].kind, "server-ended");
        child.wait().expect("it has ended");
    }

    #[test]
    fn a_stop_is_passed_on() {
        let stop = StopFlag::default();
        stop.set();
        let (stopped, ended) = watched(&stop, &[ProcessRef::own("server 0")], &EventLog::new(), |flag| run(&flag));
        assert!(stopped && ended.is_none());
    }

    #[test]
    fn work_that_ends_by_itself_is_not_disturbed() {
        let servers = [ProcessRef::own("server 0")];
        let (stopped, ended) = watched(&StopFlag::default(), &servers, &EventLog::new(), |flag| flag.is_set());
        assert!(!stopped && ended.is_none());
    }
}
