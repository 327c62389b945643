//! The bytes of a key, from its index.

use std::fmt;
use std::str::FromStr;

/// The shortest key: eight hexadecimal digits, enough for four billion keys.
pub const KEY_LEN_MIN: usize = 8;
/// The longest key, as the server allows.
pub const KEY_LEN_MAX: usize = lockstep_proto::limits::KEY_SIZE_MAX;

/// How a key index becomes bytes: its hexadecimal digits at the end, the letter `k` before them. Sorted keys are in
/// index order, and no key contains a `{tag}`, so keys spread over all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyLayout {
    len: usize,
}

/// A key size that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no key size: use a number of bytes from {KEY_LEN_MIN} to {KEY_LEN_MAX}")]
pub struct ParseKeyLayoutError {
    text: String,
}

impl KeyLayout {
    /// Keys of `len` bytes; `None` outside of [`KEY_LEN_MIN`]`..=`[`KEY_LEN_MAX`].
    pub fn new(len: usize) -> Option<Self> {
        (KEY_LEN_MIN..=KEY_LEN_MAX).contains(&len).then_some(Self { len })
    }

    /// Bytes per key.
    #[expect(clippy::len_without_is_empty, reason = "a key is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes the key of `index` over `out`.
    ///
    /// # Panics
    ///
    /// When `out` is not [`len`](Self::len) bytes long.
    #[inline]
    pub fn write(&self, index: u64, out: &mut [u8]) {
        assert_eq!(out.len(), self.len, "the buffer of a key is as long as the key");
        let digits = hex_digits(index);
        if let Some(prefix_len) = self.len.checked_sub(16) {
            let (prefix, tail) = out.split_at_mut(prefix_len);
            prefix.fill(b'k');
            tail.copy_from_slice(&digits);
        } else {
            debug_assert!(self.len * 4 >= 64 - index.leading_zeros() as usize, "the index fits the key");
            out.copy_from_slice(&digits[16 - self.len..]);
        }
    }
}

impl Default for KeyLayout {
    fn default() -> Self {
        Self { len: 16 }
    }
}

impl FromStr for KeyLayout {
    type Err = ParseKeyLayoutError;

    fn from_str(text: &str) -> Result<Self, ParseKeyLayoutError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| ParseKeyLayoutError { text: text.to_owned() })
    }
}

impl fmt::Display for KeyLayout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.len)
    }
}

/// Sixteen lower-case hexadecimal digits, most significant first; a few word operations for each half.
#[inline]
fn hex_digits(index: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&hex_half((index >> 32) as u32));
    digits[8..].copy_from_slice(&hex_half(index as u32));
    digits
}

#[inline]
fn hex_half(word: u32) -> [u8; 8] {
    // Spread the eight nibbles over eight bytes, then turn all of them into digits at once: a nibble above nine carries
    // into bit four when six is added, and that bit selects the distance from '9' to 'a'.
    let mut spread = u64::from(word);
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(len: usize, index: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        KeyLayout::new(len).expect("a usable size").write(index, &mut bytes);
        bytes
    }

    #[test]
    fn keys_are_digits_after_a_prefix() {
        assert_eq!(key(16, 0xdead_beef), b"00000000deadbeef");
        assert_eq!(key(8, 0x12ab), b"000012ab");
        assert_eq!(key(20, u64::MAX), b"kkkkffffffffffffffff");
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        assert!(KeyLayout::new(KEY_LEN_MIN - 1).is_none());
        assert!(KeyLayout::new(KEY_LEN_MAX + 1).is_none());
        assert!("sixteen".parse::<KeyLayout>().is_err());
        assert_eq!("32".parse::<KeyLayout>().map(|layout| layout.len()), Ok(32));
    }

    proptest! {
        #[test]
        fn digits_are_those_of_the_index(index: u64) {
            prop_assert_eq!(key(16, index), format!("{index:016x}").into_bytes());
        }

        #[test]
        fn keys_sort_like_their_indexes(a: u32, b: u32, len in 8usize..40) {
            prop_assert_eq!(key(len, a.into()).cmp(&key(len, b.into())), a.cmp(&b));
        }
    }
}
