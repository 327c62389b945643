//! Numbers that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning thread may call this: additions of two threads could swallow each other.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds one. Only the owning thread may call this.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// The present count.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the present value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Sets the present value to 1 or 0.
    #[inline]
    pub fn set_flag(&self, is_set: bool) {
        self.set(u64::from(is_set));
    }

    /// The present value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, and how its numbers are shown.
#[derive(Debug)]
pub struct Scale {
    /// Upper bounds, inclusive, ascending, in the unit in which values are recorded. A last bucket without a bound
    /// follows.
    pub bounds: &'static [u64],
    /// How many recorded units make one shown unit: 1e9 when nanoseconds are recorded and seconds are shown.
    pub divisor: f64,
}

/// Six steps a decade: fine enough to read a p99 to within a quarter.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

const fn log_spaced<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [0; N];
    let mut decade = first;
    let mut index = 0;
    while index < N {
        bounds[index] = decade * STEPS[index % STEPS.len()] / 10;
        if index % STEPS.len() == STEPS.len() - 1 {
            decade *= 10;
        }
        index += 1;
    }
    bounds
}

const fn powers_of_two<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [0; N];
    let mut index = 0;
    while index < N {
        bounds[index] = first << index;
        index += 1;
    }
    bounds
}

static LATENCY_BOUNDS: [u64; 37] = log_spaced(10_000);
static DURATION_BOUNDS: [u64; 31] = log_spaced(1_000_000);
static COUNT_BOUNDS: [u64; 18] = powers_of_two(1);
static SIZE_BOUNDS: [u64; 14] = powers_of_two(512);
static DEPTH_BOUNDS: [u64; 9] = powers_of_two(1);

impl Scale {
    /// 10 µs to 10 s, recorded in nanoseconds, shown in seconds.
    pub const LATENCY: Scale = Scale { bounds: &LATENCY_BOUNDS, divisor: 1e9 };
    /// 1 ms to 100 s, recorded in nanoseconds, shown in seconds.
    pub const DURATION: Scale = Scale { bounds: &DURATION_BOUNDS, divisor: 1e9 };
    /// 1 to 131,072.
    pub const COUNT: Scale = Scale { bounds: &COUNT_BOUNDS, divisor: 1.0 };
    /// 512 bytes to 4 MiB.
    pub const SIZE: Scale = Scale { bounds: &SIZE_BOUNDS, divisor: 1.0 };
    /// 1 to 256.
    pub const DEPTH: Scale = Scale { bounds: &DEPTH_BOUNDS, divisor: 1.0 };
}

/// Counts of values by size, in fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    buckets: Box<[Counter]>,
    sum: Counter,
}

impl Histogram {
    /// A histogram of nothing so far.
    pub fn new(scale: Scale) -> Self {
        let buckets = (0..=scale.bounds.len()).map(|_| Counter::default()).collect();
        Histogram { scale, buckets, sum: Counter::default() }
    }

    /// Records one value, in the scale's recorded unit. Only the owning thread may call this.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records `count` equal values at the cost of one. Only the owning thread may call this.
    #[inline]
    pub fn record_n(&self, value: u64, count: u64) {
        let index = self.scale.bounds.partition_point(|&bound| bound < value);
        self.buckets[index].add(count);
        self.sum.add(value.wrapping_mul(count));
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Sum of all values, in the scale's recorded unit.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// Upper bound, as shown, and count of each bucket, the unbounded one last; and the sum, as shown.
    pub(super) fn snapshot(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = self.scale.bounds.iter().map(|&bound| bound as f64 / self.scale.divisor);
        let buckets = bounds.chain([f64::INFINITY]).zip(self.buckets.iter().map(Counter::get)).collect();
        (buckets, self.sum() as f64 / self.scale.divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_ascend_and_end_where_documented() {
        for bounds in [&LATENCY_BOUNDS[..], &DURATION_BOUNDS, &COUNT_BOUNDS, &SIZE_BOUNDS, &DEPTH_BOUNDS] {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        }
        assert_eq!((LATENCY_BOUNDS[0], LATENCY_BOUNDS.last()), (10_000, Some(&10_000_000_000)));
        assert_eq!((DURATION_BOUNDS[0], DURATION_BOUNDS.last()), (1_000_000, Some(&100_000_000_000)));
        assert_eq!((COUNT_BOUNDS[0], COUNT_BOUNDS.last()), (1, Some(&131_072)));
        assert_eq!((SIZE_BOUNDS[0], SIZE_BOUNDS.last()), (512, Some(&(4 << 20))));
        assert_eq!((DEPTH_BOUNDS[0], DEPTH_BOUNDS.last()), (1, Some(&256)));
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(Scale::DEPTH);
        histogram.record(0);
        histogram.record(1);
        histogram.record(2);
        histogram.record_n(3, 5);
        histogram.record(256);
        histogram.record(257);
        let (buckets, sum) = histogram.snapshot();
        let filled: Vec<(f64, u64)> = buckets.into_iter().filter(|&(_, count)| count > 0).collect();
        assert_eq!(filled, [(1.0, 2), (2.0, 1), (4.0, 5), (256.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(sum, 531.0);
        assert_eq!(histogram.count(), 10);
    }

    #[test]
    fn nanoseconds_are_shown_as_seconds() {
        let histogram = Histogram::new(Scale::LATENCY);
        histogram.record_n(1_500_000, 2);
        let (buckets, sum) = histogram.snapshot();
        assert!(buckets.contains(&(0.0015, 2)), "{buckets:?}");
        assert_eq!(sum, 0.003);
    }
}
