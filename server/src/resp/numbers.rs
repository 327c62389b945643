//! Numbers as Redis reads them out of arguments.

/// A whole number.
pub use lockstep_store::decimal::parse as integer;

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
    fn a_time_to_wait_is_not_negative_and_ends() {
        let now_ns = 5_000_000;
        assert_eq!(timeout_ms(b"100", now_ns), Ok(100));
        assert_eq!(timeout_ms(b"-1", now_ns), Err(TimeoutError::Negative));
        assert_eq!(timeout_ms(b"x", now_ns), Err(TimeoutError::NotANumber));
        assert_eq!(timeout_ms(b"9223372036854775802", now_ns), Ok(i64::MAX as u64 - 5));
        assert_eq!(timeout_ms(b"9223372036854775803", now_ns), Err(TimeoutError::OutOfRange));
    }
}
