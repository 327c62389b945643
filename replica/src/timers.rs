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
    /// Not primary: suspect the view's primary.
    View,
    /// Ask again for pieces of a checkpoint.
    Transfer,
    /// Ask again for what has rotted.
    Repair,
}

const COUNT: usize = 6;

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

    /// When the timer was due, if it has fired; it is stopped then.
    pub(crate) fn take_expired(&mut self, timer: Timer, now_ns: u64) -> Option<u64> {
        self.0[timer as usize].take_if(|deadline_ns| *deadline_ns <= now_ns)
    }

    pub(crate) fn next_timeout_ns(&self) -> Option<u64> {
        self.0.iter().flatten().min().copied()
    }
}
