//! Values that can be checked when they are read back.

use std::fmt;
use std::str::FromStr;

use super::{below, mix64};

/// A value at least this long carries its key index and the nonce of the write; a shorter one is checked by pattern
/// alone.
pub const VALUE_HEADER_LEN: usize = 16;
/// The largest value that the server's default limits accept.
pub(crate) const VALUE_LEN_MAX: u32 = 1024 * 1024;

/// Lengths of values, in bytes: one length, or any in a range with equal likelihood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ValueSizes {
    /// The shortest.
    pub min: u32,
    /// The longest.
    pub max: u32,
}

impl ValueSizes {
    /// Values that all have `len` bytes.
    pub fn fixed(len: u32) -> Self {
        Self { min: len, max: len }
    }

    #[inline]
    pub(crate) fn draw(&self, word: u64) -> u32 {
        self.min + below(word, u64::from(self.max - self.min) + 1) as u32
    }

    /// Whether all values have one length.
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }
}

impl FromStr for ValueSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if min <= max && max <= VALUE_LEN_MAX => Ok(Self { min, max }),
            _ => {
                Err(format!("'{text}' is no value size: use bytes (100) or a range (64..1024), up to {VALUE_LEN_MAX}"))
            }
        }
    }
}

impl fmt::Display for ValueSizes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_fixed() { write!(out, "{}", self.min) } else { write!(out, "{}..{}", self.min, self.max) }
    }
}

/// Why a value that was read is not one that was written under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    /// It belongs to another key.
    #[error("the value carries the key index {found}, asked for was {asked}")]
    OtherKey {
        /// The key index asked for.
        asked: u64,
        /// The key index that the value carries.
        found: u64,
    },
    /// Its bytes are damaged, of another length than written, or come from another seed.
    #[error("the value's bytes differ from what was written from byte {at} on")]
    Damaged {
        /// The first wrong byte.
        at: usize,
    },
}

/// Makes and checks values: a header of key index and nonce, then an eight-byte pattern that depends on seed, key,
/// nonce and length. A few nanoseconds for a hundred bytes, either way.
#[derive(Debug, Clone, Copy)]
pub struct ValueMaker {
    seed: u64,
}

impl ValueMaker {
    /// Values of the runs with this seed. A load and the runs on what it loaded must agree on it.
    pub fn new(seed: u64) -> Self {
        Self { seed: mix64(seed) }
    }

    /// Fills `out` with the value that write `nonce` puts under key `key_index`.
    #[inline]
    pub fn fill(&self, key_index: u64, nonce: u64, out: &mut [u8]) {
        let len = out.len();
        let Some((header, body)) = out.split_first_chunk_mut::<VALUE_HEADER_LEN>() else {
            fill_pattern(self.pattern(key_index, 0, len), out);
            return;
        };
        header[..8].copy_from_slice(&key_index.to_le_bytes());
        header[8..].copy_from_slice(&nonce.to_le_bytes());
        fill_pattern(self.pattern(key_index, nonce, len), body);
    }

    /// Checks a value read under `key_index` and gives the nonce of the write that made it (zero for a value too short
    /// to carry one).
    ///
    /// # Errors
    ///
    /// Says what is wrong with the value.
    #[inline]
    pub fn check(&self, key_index: u64, value: &[u8]) -> Result<u64, ValueFault> {
        let Some((header, body)) = value.split_first_chunk::<VALUE_HEADER_LEN>() else {
            return check_pattern(self.pattern(key_index, 0, value.len()), value, 0);
        };
        let (found, nonce) = header.split_at(8);
        let found = u64::from_le_bytes(found.try_into().expect("eight bytes"));
        let nonce = u64::from_le_bytes(nonce.try_into().expect("eight bytes"));
        if found != key_index {
            return Err(ValueFault::OtherKey { asked: key_index, found });
        }
        check_pattern(self.pattern(key_index, nonce, value.len()), body, VALUE_HEADER_LEN)?;
        Ok(nonce)
    }

    #[inline]
    fn pattern(&self, key_index: u64, nonce: u64, len: usize) -> [u8; 8] {
        mix64(self.seed ^ key_index ^ nonce.rotate_left(32) ^ ((len as u64) << 44)).to_le_bytes()
    }
}

#[inline]
fn fill_pattern(pattern: [u8; 8], out: &mut [u8]) {
    let (words, rest) = out.as_chunks_mut::<8>();
    words.fill(pattern);
    rest.copy_from_slice(&pattern[..rest.len()]);
}

#[inline]
fn check_pattern(pattern: [u8; 8], bytes: &[u8], at: usize) -> Result<u64, ValueFault> {
    let (words, rest) = bytes.as_chunks::<8>();
    // Differences are gathered without branches, which lets the compiler compare many words at once.
    let word = u64::from_le_bytes(pattern);
    let difference = words.iter().fold(0, |sum, found| sum | (u64::from_le_bytes(*found) ^ word));
    if difference == 0 && rest == &pattern[..rest.len()] {
        return Ok(0);
    }
    let wrong = bytes.iter().zip(pattern.iter().cycle()).position(|(found, expected)| found != expected);
    Err(ValueFault::Damaged { at: at + wrong.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(key_index: u64, nonce: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        ValueMaker::new(1).fill(key_index, nonce, &mut bytes);
        bytes
    }

    #[test]
    fn sizes_are_read_from_text() {
        assert_eq!("100".parse(), Ok(ValueSizes::fixed(100)));
        assert_eq!("64..1024".parse(), Ok(ValueSizes { min: 64, max: 1024 }));
        for bad in ["", "x", "10..", "..10", "20..10", "0..99999999", "-1"] {
            assert!(bad.parse::<ValueSizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_reach_both_ends_of_their_range() {
        let sizes = ValueSizes { min: 10, max: 13 };
        assert_eq!((sizes.draw(0), sizes.draw(u64::MAX)), (10, 13));
        assert_eq!(ValueSizes::fixed(7).draw(u64::MAX), 7);
    }

    #[test]
    fn a_value_of_another_key_is_named() {
        let fault = ValueMaker::new(1).check(8, &value(9, 0, 100));
        assert_eq!(fault, Err(ValueFault::OtherKey { asked: 8, found: 9 }));
    }

    proptest! {
        #[test]
        fn what_was_written_checks(key_index: u64, nonce: u64, len in 0usize..300) {
            let expected = if len < VALUE_HEADER_LEN { 0 } else { nonce };
            prop_assert_eq!(ValueMaker::new(1).check(key_index, &value(key_index, nonce, len)), Ok(expected));
        }

        #[test]
        fn a_flipped_bit_is_found(key_index: u64, nonce: u64, len in 17usize..300, bit: usize) {
            let mut bytes = value(key_index, nonce, len);
            let bit = bit % (len * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ValueMaker::new(1).check(key_index, &bytes).is_err());
        }

        #[test]
        fn a_truncated_value_is_found(key_index: u64, nonce: u64, len in 25usize..300, cut in 1usize..8) {
            let bytes = value(key_index, nonce, len);
            prop_assert!(ValueMaker::new(1).check(key_index, &bytes[..len - cut]).is_err());
        }

        #[test]
        fn a_value_of_another_seed_is_found(key_index: u64, nonce: u64, len in 24usize..300) {
            prop_assert!(ValueMaker::new(2).check(key_index, &value(key_index, nonce, len)).is_err());
        }
    }
}
