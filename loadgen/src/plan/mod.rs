//! What will be asked for, and when: decided before the first request is sent, from a seed.
//!
//! A plan has three parts that share nothing but the seed:
//!
//! - [`ArrivalPlan`]: the *intended* time of each request. Latency is counted from there, so that a server that stalls
//!   is charged for every request that should have been sent meanwhile.
//! - [`OpStream`]: what each request is: its kind, its key and the length of its value. No allocation, some tens of
//!   nanoseconds per operation.
//! - [`ValueMaker`]: the bytes of a value, made so that a later read can tell whether they are the bytes of that key.
//!
//! The same seed, thread count and settings give the same plan on any machine.

mod arrivals;
mod key_bytes;
mod keys;
mod stream;
mod values;
mod workload;

pub use arrivals::{ArrivalPlan, Arrivals};
pub use key_bytes::{KEY_LEN_MAX, KEY_LEN_MIN, KeyLayout, ParseKeyLayoutError};
pub(crate) use keys::KEYS_MAX;
pub use keys::{KeyChooser, KeyDistribution};
pub use stream::{COUNTERS, Op, OpKind, OpStream, StreamSpec};
pub(crate) use stream::{counter_index, counter_number};
pub use values::{VALUE_HEADER_LEN, ValueFault, ValueMaker, ValueSizes};
pub use workload::{Mix, Workload};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

/// The generator behind every plan: small, fast, and the same on every machine.
pub(crate) type PlanRng = Xoshiro256PlusPlus;

/// Which part of a plan a stream of random numbers feeds. Separate streams keep, say, the arrivals the same when only
/// the key distribution changes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Arrivals = 1,
    Operations = 2,
    MatrixOrder = 3,
}

/// A generator for one stream of one thread.
pub(crate) fn stream_rng(seed: u64, stream: Stream, thread: usize) -> PlanRng {
    let lane = (stream as u64) << 32 | thread as u64;
    PlanRng::seed_from_u64(mix64(seed ^ mix64(lane)))
}

/// A bijection on 64-bit words whose output bits all depend on all input bits: the finaliser of SplitMix64.
#[inline]
pub(crate) fn mix64(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A float in `0.0..1.0` with 53 random bits.
#[inline]
pub(crate) fn unit_float(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A number in `0..bound` without a division; the bias is below `bound / 2^64`.
#[inline]
pub(crate) fn below(word: u64, bound: u64) -> u64 {
    ((u128::from(word) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::Rng;

    #[test]
    fn streams_and_threads_differ_and_repeat() {
        let first = |seed, stream, thread| stream_rng(seed, stream, thread).next_u64();
        assert_eq!(first(7, Stream::Arrivals, 0), first(7, Stream::Arrivals, 0));
        assert_ne!(first(7, Stream::Arrivals, 0), first(8, Stream::Arrivals, 0));
        assert_ne!(first(7, Stream::Arrivals, 0), first(7, Stream::Arrivals, 1));
        assert_ne!(first(7, Stream::Arrivals, 0), first(7, Stream::Operations, 0));
    }

    #[test]
    fn bounded_numbers_stay_within_their_bound() {
        for bound in [1, 2, 3, 1000, u64::from(u32::MAX)] {
            assert_eq!(below(0, bound), 0);
            assert_eq!(below(u64::MAX, bound), bound - 1);
        }
        assert!(unit_float(u64::MAX) < 1.0);
        assert_eq!(unit_float(0), 0.0);
    }
}
