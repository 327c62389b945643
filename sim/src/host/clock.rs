//! A server's clocks: one that counts from its start, at a rate of its own, and one for the time of day.

/// Time of day when a simulation begins, in ns since 1970.
pub const WALL_START_NS: u64 = 1_700_000_000_000_000_000;

/// The clocks of one server.
#[derive(Clone, Debug)]
pub struct SimClock {
    /// Per mille of true time.
    rate: u64,
    offset_ns: u64,
    started_ns: u64,
    wall_floor_ns: u64,
}

impl SimClock {
    /// Clocks of a server whose time of day is ahead by `offset_ns` at first.
    pub fn new(rate: u64, offset_ns: u64) -> SimClock {
        SimClock { rate, offset_ns, started_ns: 0, wall_floor_ns: 0 }
    }

    /// A process starts; its time of day never falls below `wall_floor_ns`.
    pub fn start(&mut self, now_ns: u64, wall_floor_ns: u64) {
        self.started_ns = now_ns;
        self.wall_floor_ns = wall_floor_ns;
    }

    /// Time since the process started, in its own ns.
    pub fn monotonic_ns(&self, now_ns: u64) -> u64 {
        (now_ns - self.started_ns) * self.rate / 1000
    }

    /// The true time at which [`SimClock::monotonic_ns`] reaches `monotonic_ns`.
    pub fn true_ns(&self, monotonic_ns: u64) -> u64 {
        self.started_ns.saturating_add(monotonic_ns.saturating_mul(1000).div_ceil(self.rate))
    }

    /// The time of day as the process sees it: it never runs backwards within a process.
    pub fn wall_ns(&mut self, now_ns: u64) -> u64 {
        let wall_ns = WALL_START_NS + self.offset_ns + now_ns;
        self.wall_floor_ns = self.wall_floor_ns.max(wall_ns);
        self.wall_floor_ns
    }

    /// Somebody sets the time of day.
    pub fn set_offset(&mut self, offset_ns: u64) {
        self.offset_ns = offset_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_of_a_slow_clock_fires_late_but_not_early() {
        for rate in [900, 1000, 1100] {
            let mut clock = SimClock::new(rate, 0);
            clock.start(1_000_007, 0);
            let at_ns = clock.true_ns(123_457);
            assert!(clock.monotonic_ns(at_ns) >= 123_457 && clock.monotonic_ns(at_ns - 2) < 123_457);
        }
    }

    #[test]
    fn the_time_of_day_does_not_run_backwards() {
        let mut clock = SimClock::new(1000, 500);
        let before = clock.wall_ns(10);
        clock.set_offset(0);
        assert_eq!(clock.wall_ns(11), before);
        assert_eq!(clock.wall_ns(1000), WALL_START_NS + 1000);
    }
}
