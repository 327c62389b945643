//! Intended times of requests, open loop: they do not wait for answers.

use std::fmt;
use std::str::FromStr;

use rand_xoshiro::rand_core::Rng;

use super::{PlanRng, Stream, stream_rng, unit_float};

/// How requests are spaced in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent arrivals with exponential gaps: what many unrelated users look like. Bursts included.
    #[default]
    Poisson,
    /// Equal gaps. Shows the least queueing that a rate can have.
    Uniform,
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "uniform" => Ok(Self::Uniform),
            _ => Err(format!("'{text}' is no arrival process: use poisson or uniform")),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Poisson => "poisson",
            Self::Uniform => "uniform",
        })
    }
}

/// The intended times of one thread's share of the requests, in nanoseconds from the start of the run, never
/// decreasing.
///
/// The shares of all threads together have the whole rate: Poisson processes add up to a Poisson process, and uniform
/// arrivals are dealt to the threads in turn.
#[derive(Debug, Clone)]
pub struct ArrivalPlan {
    arrivals: Arrivals,
    rng: PlanRng,
    gap_ns: f64,
    next_ns: f64,
    index: u64,
    first_ns: f64,
    end_ns: u64,
}

impl ArrivalPlan {
    /// Arrivals of thread `thread` of `threads` at `rate` requests per second in total, from 0 up to `end_ns`,
    /// exclusive.
    ///
    /// # Panics
    ///
    /// When `rate` is not a positive number or `thread >= threads`; the command line has refused both before.
    pub fn new(arrivals: Arrivals, rate: f64, thread: usize, threads: usize, seed: u64, end_ns: u64) -> Self {
        assert!(rate.is_finite() && rate > 0.0, "a rate is a positive number of requests per second");
        assert!(thread < threads, "thread {thread} of {threads}");
        let gap_all_ns = 1e9 / rate;
        let mut plan = Self {
            arrivals,
            rng: stream_rng(seed, Stream::Arrivals, thread),
            gap_ns: gap_all_ns * threads as f64,
            next_ns: 0.0,
            index: 0,
            first_ns: gap_all_ns * thread as f64,
            end_ns,
        };
        plan.step();
        plan
    }

    /// The next intended time without taking it; `None` when the plan has ended.
    #[inline]
    pub fn peek(&self) -> Option<u64> {
        let next_ns = self.next_ns as u64;
        (next_ns < self.end_ns).then_some(next_ns)
    }

    /// The mean time between two requests of this thread, in ns.
    pub fn mean_gap_ns(&self) -> u64 {
        self.gap_ns as u64
    }

    #[inline]
    fn step(&mut self) {
        match self.arrivals {
            Arrivals::Poisson => {
                // 1 - u is in (0, 1], so the logarithm is finite.
                let gap = -(1.0 - unit_float(self.rng.next_u64())).ln();
                self.next_ns += gap * self.gap_ns;
            }
            // Multiplied rather than summed, so that rounding does not drift over a long run.
            Arrivals::Uniform => {
                self.next_ns = self.first_ns + self.index as f64 * self.gap_ns;
                self.index += 1;
            }
        }
    }
}

impl Iterator for ArrivalPlan {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        let next_ns = self.peek()?;
        self.step();
        Some(next_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn uniform_arrivals_of_all_threads_interleave_evenly() {
        let mut times: Vec<u64> =
            (0..3).flat_map(|thread| ArrivalPlan::new(Arrivals::Uniform, 1000.0, thread, 3, 1, SECOND_NS)).collect();
        times.sort_unstable();
        assert_eq!(times.len(), 1000);
        assert!(times.windows(2).all(|pair| pair[1].abs_diff(pair[0]).abs_diff(1_000_000) <= 1));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_the_exponential() {
        let times: Vec<u64> = ArrivalPlan::new(Arrivals::Poisson, 100_000.0, 0, 1, 3, 2 * SECOND_NS).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 10_000.0 - 1.0).abs() < 0.02, "mean gap {mean} ns");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "an exponential's deviation equals its mean");
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        let plan = |seed| ArrivalPlan::new(Arrivals::Poisson, 5000.0, 1, 2, seed, SECOND_NS).collect::<Vec<_>>();
        assert_eq!(plan(9), plan(9));
        assert_ne!(plan(9), plan(10));
    }

    proptest! {
        #[test]
        fn times_never_decrease_and_end_in_time(
            rate in 1.0f64..1e6, threads in 1usize..8, seed: u64, poisson: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Uniform };
            let end_ns = SECOND_NS / 50;
            for thread in 0..threads {
                let mut last = 0;
                for time in ArrivalPlan::new(arrivals, rate, thread, threads, seed, end_ns) {
                    prop_assert!(time >= last && time < end_ns);
                    last = time;
                }
            }
        }
    }
}
