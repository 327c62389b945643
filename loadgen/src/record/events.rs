//! What happened beside the requests: connections lost, servers killed, clusters started.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Seconds since the measured part began; negative for what was before.
    pub at_s: f64,
    /// A short word for its kind, such as `connection-lost`.
    pub kind: String,
    /// A sentence for people.
    pub text: String,
}

/// A list of events that many threads add to; clones share it. Never used per request.
#[derive(Debug, Clone)]
pub struct EventLog {
    list: Arc<Mutex<EventList>>,
}

#[derive(Debug)]
struct EventList {
    zero: Instant,
    events: Vec<(Instant, String, String)>,
}

/// More events than this tell nothing new, and a flood of them must not fill the memory.
const EVENTS_MAX: usize = 10_000;

impl EventLog {
    /// An empty log that counts time from now.
    pub fn new() -> Self {
        Self { list: Arc::new(Mutex::new(EventList { zero: Instant::now(), events: Vec::new() })) }
    }

    /// Counts time from `zero` instead, also for what is in the log already.
    pub fn count_from(&self, zero: Instant) {
        self.lock().zero = zero;
    }

    /// Adds an event; the ten-thousandth is the last.
    pub fn add(&self, kind: &str, text: impl Into<String>) {
        let now = Instant::now();
        let mut list = self.lock();
        if list.events.len() < EVENTS_MAX {
            list.events.push((now, kind.to_owned(), text.into()));
        }
    }

    /// All events so far.
    pub fn snapshot(&self) -> Vec<Event> {
        let list = self.lock();
        let at_s = |at: Instant| match at.checked_duration_since(list.zero) {
            Some(after) => after.as_secs_f64(),
            None => -(list.zero - at).as_secs_f64(),
        };
        let event = |(at, kind, text): &(Instant, String, String)| Event {
            at_s: at_s(*at),
            kind: kind.clone(),
            text: text.clone(),
        };
        list.events.iter().map(event).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, EventList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_before_the_measured_part_has_a_negative_time() {
        let events = EventLog::new();
        events.add("early", "x");
        events.count_from(Instant::now() + Duration::from_secs(10));
        events.clone().add("late", "y");
        let [early, late] = &events.snapshot()[..] else { panic!("two events") };
        assert!(early.at_s <= late.at_s && late.at_s < -9.0, "{early:?} {late:?}");
    }
}
