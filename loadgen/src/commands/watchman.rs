//! Ends a run early when it has no sense any more.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::drive::StopFlag;
use crate::record::EventLog;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Does `work` with a flag that is set as soon as `stop` is, or fewer than `needed` of `servers` are left; gives what
/// `work` gave and the names of the servers that ended by themselves, as `ended` tells them.
///
/// Arrivals go on while a server is down, as its users would. But with no quorum left a load would only wait out the
/// time-out of every one of its requests.
pub(super) fn watched<T>(
    stop: &StopFlag,
    servers: usize,
    needed: usize,
    events: &EventLog,
    look: impl Fn() -> Vec<String> + Sync,
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
                for server in look() {
                    if !ended.contains(&server) {
                        events.add("server-ended", format!("{server} has ended"));
                        ended.push(server);
                    }
                }
                if stop.is_set() || servers.saturating_sub(ended.len()) < needed {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Waits for the flag as a run would.
    fn run(flag: &StopFlag) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !flag.is_set() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        flag.is_set()
    }

    fn one_ended() -> Vec<String> {
        vec!["server 1".to_owned()]
    }

    #[test]
    fn a_lost_quorum_ends_the_run_and_the_server_is_named() {
        let events = EventLog::new();
        let (stopped, ended) = watched(&StopFlag::default(), 2, 2, &events, one_ended, |flag| run(&flag));
        assert!(stopped);
        assert_eq!(ended, ["server 1"]);
        assert_eq!(events.snapshot()[0].kind, "server-ended");
    }

    #[test]
    fn a_lost_server_is_noted_once_and_the_run_goes_on_with_the_others() {
        let events = EventLog::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        let until_noted = |flag: StopFlag| {
            while events.snapshot().is_empty() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            flag.is_set()
        };
        let (stopped, ended) = watched(&StopFlag::default(), 2, 1, &events, one_ended, until_noted);
        assert!(!stopped);
        assert_eq!((ended, events.snapshot().len()), (vec!["server 1".to_owned()], 1));
    }

    #[test]
    fn a_stop_is_passed_on() {
        let stop = StopFlag::default();
        stop.set();
        let (stopped, ended) = watched(&stop, 1, 1, &EventLog::new(), Vec::new, |flag| run(&flag));
        assert!(stopped && ended.is_empty());
    }

    #[test]
    fn work_that_ends_by_itself_is_not_disturbed() {
        let (stopped, ended) = watched(&StopFlag::default(), 1, 1, &EventLog::new(), Vec::new, |flag| flag.is_set());
        assert!(!stopped && ended.is_empty());
    }
}
