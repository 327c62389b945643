//! The shard's two clocks, read together once per turn.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How often the wall clock is looked at again, in ns.
const RESYNC_INTERVAL_NS: u64 = 1_000_000_000;

/// A monotonic clock, and a wall clock that never runs backwards.
///
/// Expiry is decided by the timestamps of prepares and, for reads, by this wall clock. A key that a read saw expired
/// must not be there again for the write that follows, so the wall clock goes on from the monotonic one and is only
/// ever corrected forwards.
pub struct Clock {
    start: Instant,
    wall_start_ns: u64,
    resynced_ns: u64,
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since the shard was started, in ns.
    pub monotonic_ns: u64,
    /// Time since 1970, in ns.
    pub wall_ns: u64,
}

impl Clock {
    /// A clock whose wall time begins at the host's, or at `wall_ns_min` if the host's is behind: the last timestamp in
    /// the log.
    pub fn new(wall_ns_min: u64) -> Clock {
        Clock { start: Instant::now(), wall_start_ns: host_wall_ns().max(wall_ns_min), resynced_ns: 0 }
    }

    /// Reads both clocks.
    pub fn now(&mut self) -> Now {
        let monotonic_ns = self.start.elapsed().as_nanos() as u64;
        if monotonic_ns - self.resynced_ns >= RESYNC_INTERVAL_NS {
            self.resynced_ns = monotonic_ns;
            let wall_start_ns = host_wall_ns().saturating_sub(monotonic_ns);
            self.wall_start_ns = self.wall_start_ns.max(wall_start_ns);
        }
        Now { monotonic_ns, wall_ns: self.wall_start_ns + monotonic_ns }
    }
}

fn host_wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_does_not_run_backwards_and_starts_after_the_log() {
        let ahead = host_wall_ns() + 3_600_000_000_000;
        let mut clock = Clock::new(ahead);
        let mut last = clock.now();
        assert!(last.wall_ns >= ahead);
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now.wall_ns >= last.wall_ns && now.monotonic_ns >= last.monotonic_ns);
            last = now;
        }
    }
}
