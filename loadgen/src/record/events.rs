//! What happened beside the requests: connections lost, servers killed, clusters started.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Seconds since the log was opened.
    pub at_s: f64,
    /// A short word for its kind, such as `connection-lost`.
    pub kind: String,
    /// A sentence for people.
    pub text: String,
}

/// A list of events that many threads add to; clones share it. Never used per request.
#[derive(Debug, Clone)]
pub struct EventLog {
    opened: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

/// More events than this tell nothing new, and a flood of them must not fill the memory.
const EVENTS_MAX: usize = 10_000;

impl EventLog {
    /// An empty log that counts time from now.
    pub fn new() -> Self {
        Self { opened: Instant::now(), events: Arc::default() }
    }

    /// Adds an event; the ten-thousandth is the last.
    pub fn add(&self, kind: &str, text: impl Into<String>) {
        let at_s = self.opened.elapsed().as_secs_f64();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() < EVENTS_MAX {
            events.push(Event { at_s, kind: kind.to_owned(), text: text.into() });
        }
    }

    /// All events so far.
    pub fn snapshot(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}
