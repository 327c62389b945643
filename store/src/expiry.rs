//! Times of expiry: nanoseconds since 1970, as far as these go.
//!
//! A Redis client may ask for any time that milliseconds in 63 bits can say, which is far beyond what 63 bits of
//! nanoseconds reach (the year 2262). What lies beyond is kept in milliseconds with the top bit set. Such a number is
//! larger than every time in nanoseconds, and two of them compare as the times do, so whoever only compares need not
//! know.

const NS_PER_MS: u64 = 1_000_000;

/// Set in a number of milliseconds.
const IS_MS: u64 = 1 << 63;

/// The expiry at this time, in ms since 1970. A time before that is in the past like any other.
pub(crate) fn from_ms(ms: i64) -> u64 {
    let ms = ms.max(0) as u64;
    match ms.checked_mul(NS_PER_MS) {
        // Zero would stand for no expiry.
        Some(ns) if ns < IS_MS => ns.max(1),
        _ => IS_MS | ms,
    }
}

/// The time of an expiry, in ms since 1970, rounded up.
pub(crate) fn to_ms(expiry_ns: u64) -> i64 {
    if expiry_ns & IS_MS != 0 { (expiry_ns & !IS_MS) as i64 } else { expiry_ns.div_ceil(NS_PER_MS) as i64 }
}

/// Milliseconds from now to a later expiry, rounded up.
pub(crate) fn remaining_ms(expiry_ns: u64, now_ns: u64) -> u64 {
    if expiry_ns & IS_MS != 0 {
        (expiry_ns & !IS_MS) - now_ns / NS_PER_MS
    } else {
        (expiry_ns - now_ns).div_ceil(NS_PER_MS)
    }
}

/// The time in whole milliseconds, as Redis tells it.
pub(crate) fn now_ms(now_ns: u64) -> i64 {
    (now_ns / NS_PER_MS) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_compare_as_the_times_do_and_come_back_in_ms() {
        let times = [1, 2, 1000, 9_223_372_036_854, 9_223_372_036_855, 9_223_372_036_856, i64::MAX - 1, i64::MAX];
        for (index, &ms) in times.iter().enumerate() {
            assert_eq!(to_ms(from_ms(ms)), ms);
            for &earlier in &times[..index] {
                assert!(from_ms(earlier) < from_ms(ms), "{earlier} {ms}");
            }
            assert_eq!(remaining_ms(from_ms(ms), 1_000_000), ms as u64 - 1);
        }
        assert_eq!([i64::MIN, -1, 0].map(from_ms), [1; 3]);
        assert_eq!((to_ms(1_000_001), remaining_ms(1_000_001, 1)), (2, 1));
    }
}
