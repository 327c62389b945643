//! About when a revision was applied, so that the age of a value can be told from its version.
//!
//! This is this process's own knowledge and no part of the replicated state: what was written before it began counts
//! from its beginning.

/// Samples beyond which those are given up that others stand in for.
const SAMPLES_MAX: usize = 4096;

/// A sample stands in for others as far away as its age divided by this. About two thousand samples then cover a
/// century.
const RESOLUTION: u64 = 128;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// A sample at most each second; the longer ago, the fewer.
#[derive(Debug, Default)]
pub(crate) struct WriteTimes {
    /// Revision and time in seconds, both ascending.
    samples: Vec<(u64, u64)>,
}

impl WriteTimes {
    /// Notes that requests up to `revision` were applied at `timestamp_ns`.
    #[inline]
    pub fn note(&mut self, revision: u64, timestamp_ns: u64) {
        let second = timestamp_ns / NS_PER_SECOND;
        if self.samples.last().is_none_or(|&(_, last)| last < second) {
            self.push(revision, second);
        }
    }

    #[cold]
    fn push(&mut self, revision: u64, second: u64) {
        if self.samples.len() == SAMPLES_MAX {
            let mut kept = second;
            self.samples.reverse();
            self.samples.retain(|&(_, at)| {
                let is_wanted = kept - at >= (second - at) / RESOLUTION;
                kept = if is_wanted { at } else { kept };
                is_wanted
            });
            self.samples.reverse();
        }
        self.samples.push((revision, second));
    }

    /// Whole seconds from the time at which `version` was applied to `now_ns`.
    pub fn seconds_since(&self, version: u64, now_ns: u64) -> u64 {
        let index = self.samples.partition_point(|&(revision, _)| revision <= version).saturating_sub(1);
        let second = self.samples.get(index).map_or(u64::MAX, |&(_, second)| second);
        (now_ns / NS_PER_SECOND).saturating_sub(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_version_is_that_of_its_batch() {
        let mut times = WriteTimes::default();
        assert_eq!(times.seconds_since(7, 5 * NS_PER_SECOND), 0, "nothing is known yet");
        for second in 100..200_000 {
            times.note(second * 10, second * NS_PER_SECOND);
            times.note(second * 10 + 5, second * NS_PER_SECOND + 1);
        }
        assert!(times.samples.len() <= SAMPLES_MAX);
        let now_ns = 200_000 * NS_PER_SECOND;
        assert_eq!(times.seconds_since(1_999_999, now_ns), 1);
        assert_eq!(times.seconds_since(1_999_900, now_ns), 10);
        let old = times.seconds_since(1_000_000, now_ns);
        assert!((100_000..101_000).contains(&old), "{old}");
        let oldest = times.seconds_since(1, now_ns);
        assert!((190_000..=199_900).contains(&oldest), "older than all that is known: {oldest}");
    }
}
