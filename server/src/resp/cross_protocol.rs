//! Browsers that are made to talk to the front door.
//!
//! A web page can have the browser of whoever opens it send HTTP requests to ports of that host. Lines of their heads
//! are unknown commands here and would be answered with errors, and lines of their bodies would be carried out. No HTTP
//! request with a body comes without `POST` or `Host:`, and no Redis client says either, so that a connection that does
//! is closed, as by Redis.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tracing::warn;

/// Time between two warnings at least, in ns: whoever tries may try often.
const WARNING_INTERVAL_NS: u64 = 60_000_000_000;

/// When there was a warning last.
#[derive(Debug, Default)]
pub struct CrossProtocolGuard {
    warned_ns: AtomicU64,
}

/// Whether a command of this name is the beginning of an HTTP request.
pub fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

impl CrossProtocolGuard {
    /// Warns that the connection from `peer` is closed, if that is due. `now_ns` is the time since 1970.
    pub fn warn(&self, now_ns: u64, peer: SocketAddr) {
        if self.is_due(now_ns) {
            warn!(
                %peer,
                "possible attack: a connection to the Redis port said POST or Host:, as a browser does that a web page sends here; \
                 it was closed (said once a minute at most)"
            );
        }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        let warned_ns = self.warned_ns.load(Relaxed);
        let is_due = warned_ns.abs_diff(now_ns) > WARNING_INTERVAL_NS;
        // Of several shards at once, one warns.
        is_due && self.warned_ns.compare_exchange(warned_ns, now_ns, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_warning_a_minute_and_no_more() {
        let guard = CrossProtocolGuard::default();
        let begin_ns = 1_700_000_000_000_000_000;
        let due = [0, 1, WARNING_INTERVAL_NS, WARNING_INTERVAL_NS + 1, WARNING_INTERVAL_NS + 2];
        assert_eq!(due.map(|after_ns| guard.is_due(begin_ns + after_ns)), [true, false, false, true, false]);
    }
}
