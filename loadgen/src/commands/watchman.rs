//! Ends a run early when it has no sense any more.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::drive::StopFlag;
use crate::record::{EventLog, ProcessRef};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Does `work` with a flag that is set as soon as `stop` is, or fewer than `needed` of `servers` are left; gives what
/// `work` gave and the names of the servers that ended.
///
/// Arrivals go on while a server is down, as its users would. But with no quorum left a load would only wait out the
/// time-out of every one of its requests.
pub(super) fn watched<T>(
    stop: &StopFlag,
    servers: &[ProcessRef],
    needed: usize,
    events: &EventLog,
    work: impl FnOnce(StopFlag) -> T,
) -> (T, Vec<String>) {
    let run_stop = StopFlag::default();
    let ended = Mutex::new(Vec::new());
    let (done, is_done) = channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Owned by this thread, so that it notices at once when the other end is dropped.
            let is_done = is_done;
            while is_done.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let mut ended = ended.lock().expect("nobody panics with the lock");
                for server in servers.iter().filter(|server| has_ended(server.pid)) {
                    if !ended.contains(&server.name) {
                        events.add("server-ended", format!("{} has ended", server.name));
                        ended.push(server.name.clone());
                    }
                }
                if stop.is_set() || servers.len() - ended.len() < needed {
                    run_stop.set();
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
    fn a_lost_quorum_ends_the_run_and_the_server_is_named() {
        let mut child = Command::new("true").spawn().expect("true can be started");
        let servers = [ProcessRef::own("server 0"), ProcessRef::process("server 1", child.id())];
        let events = EventLog::new();
        let (stopped, ended) = watched(&StopFlag::default(), &servers, 2, &events, |flag| run(&flag));
        assert!(stopped);
        assert_eq!(ended, ["server 1"]);
        assert_eq!(events.snapshot()[0].kind, "server-ended");
        child.wait().expect("it has ended");
    }

    #[test]
    fn a_lost_server_is_noted_and_the_run_goes_on_with_the_others() {
        let mut child = Command::new("true").spawn().expect("true can be started");
        let servers = [ProcessRef::own("server 0"), ProcessRef::process("server 1", child.id())];
        let events = EventLog::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        let until_noted = |flag: StopFlag| {
            while events.snapshot().is_empty() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            flag.is_set()
        };
        let (stopped, ended) = watched(&StopFlag::default(), &servers, 1, &events, until_noted);
        assert!(!stopped);
        assert_eq!(ended, ["server 1"]);
        child.wait().expect("it has ended");
    }

    #[test]
    fn a_stop_is_passed_on() {
        let stop = StopFlag::default();
        stop.set();
        let servers = [ProcessRef::own("server 0")];
        let (stopped, ended) = watched(&stop, &servers, 1, &EventLog::new(), |flag| run(&flag));
        assert!(stopped && ended.is_empty());
    }

    #[test]
    fn work_that_ends_by_itself_is_not_disturbed() {
        let servers = [ProcessRef::own("server 0")];
        let (stopped, ended) = watched(&StopFlag::default(), &servers, 1, &EventLog::new(), |flag| flag.is_set());
        assert!(!stopped && ended.is_empty());
    }
}
