//! Numbers as Redis reads them out of arguments.

/// Why a time to wait is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutError {
    /// Not a whole number, or beyond its range.
    NotANumber,
    /// Below zero.
    Negative,
    /// Its end cannot be counted in milliseconds since 1970.
    OutOfRange,
}

impl TimeoutError {
    /// The error as Redis says it.
    pub const fn text(self) -> &'static str {
        match self {
            TimeoutError::NotANumber => "ERR timeout is not an integer or out of range",
            TimeoutError::Negative => "ERR timeout is negative",
            TimeoutError::OutOfRange => "ERR timeout is out of range",
        }
    }
}

/// The error about an argument that is not a whole number.
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// A whole number in its only form: no plus sign, no leading zeroes, no spaces, no `-0`.
#[inline]
pub fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let is_plain = match digits {
        [b'0'] => !is_negative,
        [b'1'..=b'9', ..] => digits.len() <= 19,
        _ => false,
    };
    if !is_plain {
        return None;
    }
    let mut number: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits fit.
        number = number * 10 + u64::from(digit - b'0');
    }
    match is_negative {
        false => i64::try_from(number).ok(),
        true if number == 1 << 63 => Some(i64::MIN),
        true => i64::try_from(number).ok().map(|number| -number),
    }
}

/// A time to wait from now on, in milliseconds. `now_ns` is the time since 1970.
///
/// # Errors
///
/// If it is not one.
pub fn timeout_ms(text: &[u8], now_ns: u64) -> Result<u64, TimeoutError> {
    let timeout = integer(text).ok_or(TimeoutError::NotANumber)?;
    let timeout_ms = u64::try_from(timeout).map_err(|_| TimeoutError::Negative)?;
    let longest_ms = i64::MAX as u64 - now_ns / 1_000_000;
    if timeout_ms <= longest_ms { Ok(timeout_ms) } else { Err(TimeoutError::OutOfRange) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_of_a_number_is_read() {
        for number in [0, 1, -1, 10, 123_456, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        let bad =
            ["", "-", "+1", " 1", "1 ", "01", "-0", "-01", "1a", "a", "9223372036854775808", "-9223372036854775809"];
        for text in bad.into_iter().chain(["99999999999999999999", "1.0", "0x1", "1e3"]) {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(integer(b"1\0"), None);
    }

    #[test]
    fn a_time_to_wait_is_not_negative_and_ends() {
        let now_ns = 5_000_000;
        assert_eq!(timeout_ms(b"100", now_ns), Ok(100));
        assert_eq!(timeout_ms(b"-1", now_ns), Err(TimeoutError::Negative));
        assert_eq!(timeout_ms(b"x", now_ns), Err(TimeoutError::NotANumber));
        assert_eq!(timeout_ms(b"9223372036854775802", now_ns), Ok(i64::MAX as u64 - 5));
        assert_eq!(timeout_ms(b"9223372036854775803", now_ns), Err(TimeoutError::OutOfRange));
    }
}
