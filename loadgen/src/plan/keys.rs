//! Which key is asked for next.

use std::fmt;
use std::str::FromStr;

use rand_distr::Distribution;
use rand_xoshiro::rand_core::Rng;

use super::{PlanRng, below, unit_float};

/// The skew that YCSB uses by default.
const THETA_DEFAULT: f64 = 0.99;
/// The largest key count: products of a rank and the scrambling step then fit 64 bits.
pub(crate) const KEYS_MAX: u64 = u32::MAX as u64;

/// How requests are spread over the keys.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyDistribution {
    /// Every key as likely as any other.
    Uniform,
    /// The key of rank r with a likelihood that falls as r^-theta. Ranks are scattered over the key space, so that the
    /// hot keys neither are neighbours nor share a shard.
    Zipfian {
        /// The skew: 0.99 in YCSB, larger is more skewed. Above zero.
        theta: f64,
    },
    /// Zipfian over age: the newest keys are the hottest.
    Latest {
        /// The skew, as in [`KeyDistribution::Zipfian`].
        theta: f64,
    },
    /// One key after the other, starting over at the end. Each thread takes every n-th key.
    Sequential,
}

impl FromStr for KeyDistribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, parameter) = match text.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (text, None),
        };
        match (name, parameter) {
            ("uniform", None) => Ok(Self::Uniform),
            ("sequential", None) => Ok(Self::Sequential),
            ("zipfian", _) => Ok(Self::Zipfian { theta: parse_theta(parameter)? }),
            ("latest", _) => Ok(Self::Latest { theta: parse_theta(parameter)? }),
            _ => Err(format!(
                "'{text}' is no key distribution: use uniform, zipfian[:theta], latest[:theta] or sequential"
            )),
        }
    }
}

fn parse_theta(parameter: Option<&str>) -> Result<f64, String> {
    let Some(parameter) = parameter else { return Ok(THETA_DEFAULT) };
    match parameter.parse::<f64>() {
        Ok(theta) if theta > 0.0 && theta <= 10.0 => Ok(theta),
        _ => Err(format!("'{parameter}' is no skew: use a number above 0 and up to 10, such as 0.99")),
    }
}

impl fmt::Display for KeyDistribution {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => out.write_str("uniform"),
            Self::Zipfian { theta } => write!(out, "zipfian:{theta}"),
            Self::Latest { theta } => write!(out, "latest:{theta}"),
            Self::Sequential => out.write_str("sequential"),
        }
    }
}

/// Chooses key indexes for one thread.
#[derive(Debug, Clone)]
pub struct KeyChooser {
    rule: Rule,
    count: u64,
    thread: u64,
    threads: u64,
}

#[derive(Debug, Clone)]
enum Rule {
    Uniform,
    Zipfian { ranks: Ranks, scatter: Scatter },
    Latest { ranks: Ranks },
    Sequential { next: u64 },
}

impl KeyChooser {
    /// A chooser over keys `0..count` for thread `thread` of `threads`.
    ///
    /// # Panics
    ///
    /// When `count` is zero or above four billion, or `thread >= threads`.
    pub fn new(distribution: KeyDistribution, count: u64, thread: usize, threads: usize) -> Self {
        assert!((1..=KEYS_MAX).contains(&count), "{count} keys");
        assert!(thread < threads, "thread {thread} of {threads}");
        let rule = match distribution {
            KeyDistribution::Uniform => Rule::Uniform,
            KeyDistribution::Zipfian { theta } => {
                Rule::Zipfian { ranks: Ranks::new(count, theta), scatter: Scatter::new(count) }
            }
            KeyDistribution::Latest { theta } => Rule::Latest { ranks: Ranks::new(count, theta) },
            KeyDistribution::Sequential => Rule::Sequential { next: thread as u64 % count },
        };
        Self { rule, count, thread: thread as u64, threads: threads as u64 }
    }

    /// The next key index, when this thread has inserted `inserted` keys of its own so far.
    #[inline]
    pub(crate) fn next(&mut self, rng: &mut PlanRng, inserted: u64) -> u64 {
        match &mut self.rule {
            Rule::Uniform => below(rng.next_u64(), self.count),
            Rule::Zipfian { ranks, scatter } => scatter.place(ranks.next(rng)),
            Rule::Latest { ranks } => {
                let age = ranks.next(rng);
                match age.checked_sub(inserted) {
                    None => self.inserted_index(inserted - 1 - age),
                    Some(age_base) => self.count - 1 - age_base,
                }
            }
            Rule::Sequential { next } => {
                let index = *next;
                *next = (*next + self.threads) % self.count;
                index
            }
        }
    }

    /// The index of this thread's `nth` inserted key: past the loaded keys, interleaved with those of the other
    /// threads, so that no two threads insert the same key and none has to ask.
    #[inline]
    pub(crate) fn inserted_index(&self, nth: u64) -> u64 {
        self.count + nth * self.threads + self.thread
    }
}

/// Draws ranks `0..count` with likelihood proportional to `(rank + 1)^-theta`.
#[derive(Debug, Clone)]
enum Ranks {
    /// The closed form of Gray et al., "Quickly generating billion-record synthetic databases", which YCSB uses too:
    /// one power per draw. Needs a theta below one.
    Gray { count: u64, zeta: f64, second: f64, eta: f64, alpha: f64 },
    /// Rejection-inversion, for a theta of one and above.
    Rejection { zipf: rand_distr::Zipf<f64>, count: u64 },
}

impl Ranks {
    fn new(count: u64, theta: f64) -> Self {
        if theta < 1.0 {
            let zeta = generalized_harmonic(count, theta);
            let second = 1.0 + 0.5f64.powf(theta);
            let eta = (1.0 - (2.0 / count as f64).powf(1.0 - theta)) / (1.0 - second / zeta);
            Self::Gray { count, zeta, second, eta, alpha: 1.0 / (1.0 - theta) }
        } else {
            let zipf = rand_distr::Zipf::new(count as f64, theta).expect("count and theta are positive");
            Self::Rejection { zipf, count }
        }
    }

    #[inline]
    fn next(&self, rng: &mut PlanRng) -> u64 {
        let (rank, count) = match self {
            Self::Gray { count, zeta, second, eta, alpha } => {
                let unit = unit_float(rng.next_u64());
                let scaled = unit * zeta;
                let rank = if scaled < 1.0 {
                    0
                } else if scaled < *second {
                    1
                } else {
                    (*count as f64 * (eta * unit - eta + 1.0).powf(*alpha)) as u64
                };
                (rank, *count)
            }
            Self::Rejection { zipf, count } => (zipf.sample(rng) as u64 - 1, *count),
        };
        // Rounding may reach the end of the range.
        rank.min(count - 1)
    }
}

/// The sum of `i^-theta` for `i` in `1..=count`: term by term at first, the rest by the Euler-Maclaurin formula, so
/// that a billion keys need no billion powers.
fn generalized_harmonic(count: u64, theta: f64) -> f64 {
    let split = count.min(1000);
    let head: f64 = (1..split).map(|i| (i as f64).powf(-theta)).sum();
    let (from, to) = (split as f64, count as f64);
    let integral =
        if theta == 1.0 { (to / from).ln() } else { (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta) };
    let ends = (from.powf(-theta) + to.powf(-theta)) / 2.0;
    let slopes = theta / 12.0 * (from.powf(-theta - 1.0) - to.powf(-theta - 1.0));
    head + integral + ends + slopes
}

/// A bijection of ranks to key indexes that puts neighbouring ranks far apart: a walk around the key space in steps of
/// the golden section.
#[derive(Debug, Clone)]
struct Scatter {
    step: u64,
    count: u64,
}

impl Scatter {
    fn new(count: u64) -> Self {
        let mut step = ((count as f64 * 0.618_033_988_749_895) as u64).max(1);
        while greatest_common_divisor(step, count) != 1 {
            step += 1;
        }
        Self { step, count }
    }

    #[inline]
    fn place(&self, rank: u64) -> u64 {
        (rank + 1) * self.step % self.count
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::{Stream, stream_rng};
    use super::*;
    use proptest::prelude::*;

    fn draw(distribution: KeyDistribution, count: u64, draws: usize) -> Vec<u64> {
        let mut chooser = KeyChooser::new(distribution, count, 0, 1);
        let mut rng = stream_rng(5, Stream::Operations, 0);
        (0..draws).map(|_| chooser.next(&mut rng, 0)).collect()
    }

    fn shares(indexes: &[u64], count: u64) -> Vec<f64> {
        let mut shares = vec![0.0; count as usize];
        for &index in indexes {
            shares[index as usize] += 1.0 / indexes.len() as f64;
        }
        shares
    }

    #[test]
    fn harmonic_sums_match_the_term_by_term_sum() {
        for theta in [0.2, 0.5, 0.99, 1.0, 1.5] {
            for count in [1u64, 2, 999, 1000, 1001, 200_000] {
                let exact: f64 = (1..=count).map(|i| (i as f64).powf(-theta)).sum();
                let quick = generalized_harmonic(count, theta);
                assert!((quick / exact - 1.0).abs() < 1e-9, "{count} terms, theta {theta}: {quick} and {exact}");
            }
        }
    }

    #[test]
    fn zipfian_ranks_have_their_likelihoods() {
        for theta in [0.7, 0.99, 1.2] {
            let count = 1000;
            let mut ordered = shares(&draw(KeyDistribution::Zipfian { theta }, count, 400_000), count);
            ordered.sort_by(|a, b| b.total_cmp(a));
            let total = generalized_harmonic(count, theta);
            for rank in [0usize, 1] {
                let expected = ((rank + 1) as f64).powf(-theta) / total;
                assert!((ordered[rank] / expected - 1.0).abs() < 0.05, "theta {theta} rank {rank}: {}", ordered[rank]);
            }
            // The closed form is an approximation past the second rank: check the mass of the first tenth instead.
            let tenth: f64 = ordered[..100].iter().sum();
            let expected = generalized_harmonic(100, theta) / total;
            assert!((tenth / expected - 1.0).abs() < 0.05, "theta {theta}: {tenth} and {expected}");
        }
    }

    #[test]
    fn hot_keys_are_no_neighbours() {
        let count = 10_000;
        let shares = shares(&draw(KeyDistribution::Zipfian { theta: 0.99 }, count, 100_000), count);
        let mut hottest: Vec<u64> = (0..count).collect();
        hottest.sort_by(|&a, &b| shares[b as usize].total_cmp(&shares[a as usize]));
        for (position, &a) in hottest[..8].iter().enumerate() {
            assert!(hottest[..position].iter().all(|&b| a.abs_diff(b) > 100), "{:?}", &hottest[..8]);
        }
    }

    #[test]
    fn uniform_choice_reaches_every_key_about_equally() {
        let shares = shares(&draw(KeyDistribution::Uniform, 50, 100_000), 50);
        assert!(shares.iter().all(|share| (share * 50.0 - 1.0).abs() < 0.1));
    }

    #[test]
    fn latest_prefers_what_was_inserted_last() {
        let mut chooser = KeyChooser::new(KeyDistribution::Latest { theta: 0.99 }, 1000, 1, 4);
        let mut rng = stream_rng(5, Stream::Operations, 0);
        let draws: Vec<u64> = (0..10_000).map(|_| chooser.next(&mut rng, 10)).collect();
        let newest = chooser.inserted_index(9);
        assert_eq!(newest, 1000 + 9 * 4 + 1);
        let hits = |index| draws.iter().filter(|&&drawn| drawn == index).count();
        assert!(hits(newest) > 1000 && hits(newest) > hits(chooser.inserted_index(5)));
        assert!(draws.iter().all(|&index| index < 1000 || (index - 1000) % 4 == 1), "only this thread's own inserts");
    }

    #[test]
    fn sequential_threads_share_out_the_keys() {
        let mut seen: Vec<u64> = (0..3)
            .flat_map(|thread| {
                let mut chooser = KeyChooser::new(KeyDistribution::Sequential, 12, thread, 3);
                let mut rng = stream_rng(1, Stream::Operations, thread);
                (0..4).map(move |_| chooser.next(&mut rng, 0)).collect::<Vec<_>>()
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn distributions_are_read_from_text() {
        assert_eq!("zipfian".parse(), Ok(KeyDistribution::Zipfian { theta: 0.99 }));
        assert_eq!("zipfian:1.2".parse(), Ok(KeyDistribution::Zipfian { theta: 1.2 }));
        assert_eq!("latest:0.5".parse(), Ok(KeyDistribution::Latest { theta: 0.5 }));
        for bad in ["", "zipf", "zipfian:", "zipfian:0", "zipfian:nan", "zipfian:-1", "uniform:2", "latest:inf"] {
            assert!(bad.parse::<KeyDistribution>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_index_is_in_range(count in 1u64..5000, theta in 0.05f64..3.0, seed: u64) {
            let mut rng = stream_rng(seed, Stream::Operations, 0);
            for distribution in [
                KeyDistribution::Uniform,
                KeyDistribution::Zipfian { theta },
                KeyDistribution::Latest { theta },
                KeyDistribution::Sequential,
            ] {
                let mut chooser = KeyChooser::new(distribution, count, 0, 1);
                for _ in 0..64 {
                    prop_assert!(chooser.next(&mut rng, 0) < count);
                }
            }
        }

        #[test]
        fn scattering_is_one_to_one(count in 1u64..3000) {
            let scatter = Scatter::new(count);
            let mut places: Vec<u64> = (0..count).map(|rank| scatter.place(rank)).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len() as u64, count);
        }
    }
}
