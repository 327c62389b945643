//! Chance, from a seed.

use std::ops::RangeInclusive;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// A stream of random numbers that follows from a seed. The same on every machine: no floating point is involved.
#[derive(Clone, Debug)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The stream for one purpose of a seed. Streams of other purposes do not change when more of this one is drawn.
    pub fn new(seed: u64, purpose: &str) -> Dice {
        let salt = lockstep_proto::checksum::checksum_64(purpose.as_bytes());
        Dice(Xoshiro256PlusPlus::seed_from_u64(seed ^ salt))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.any()) * u128::from(end)) >> 64) as u64
    }

    /// A number of the range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A delay: mostly in the lower eighth of the range.
    pub fn delay(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let width = range.end() - range.start();
        let width = if self.below(8) == 0 { width } else { width / 8 };
        range.start() + self.below(width + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_purpose_decide_the_stream() {
        let draw = |seed, purpose| (0..4).map(|_| Dice::new(seed, purpose).any()).collect::<Vec<_>>();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
        assert_ne!(draw(1, "network"), draw(1, "disk"));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut dice = Dice::new(7, "test");
        for _ in 0..1000 {
            assert!((3..=9).contains(&dice.within(3..=9)));
            assert!((100..=900).contains(&dice.delay(&(100..=900))));
            assert!(dice.below(5) < 5 && !dice.chance(0) && dice.chance(1000));
        }
    }
}
