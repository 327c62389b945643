//! What a replica waits for, as data.

/// The timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Primary: say that we are alive, and look at who is not.
    Heartbeat,
    /// Primary: close the open batch.
    Linger,
    /// Say again what was not answered: a view change, a join, a read round.
    Resend,
}

const COUNT: usize = 3;

/// When each timer fires.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimerTable([Option<u64>; COUNT]);

impl TimerTable {
    pub(crate) fn set(&mut self, timer: Timer, deadline_ns: u64) {
        self.0[timer as usize] = Some(deadline_ns);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Whether the timer has fired; it is stopped if so.
    pub(crate) fn take_expired(&mut self, timer: Timer, now_ns: u64) -> bool {
        let deadline = &mut self.0[timer as usize];
        let is_expired = deadline.is_some_and(|deadline_ns| deadline_ns <= now_ns);
        if is_expired {
            *deadline = None;
        }
        is_expired
    }

    pub(crate) fn next_timeout_ns(&self) -> Option<u64> {
        self.0.iter().flatten().min().copied()
    }
}
