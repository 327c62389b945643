//! Sizes and times as people write them.

use std::time::Duration;

use bytesize::ByteSize;

/// Reads `64KiB`, `2MB`, `4096`.
///
/// # Errors
///
/// A text for a person, with examples.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse().map_err(|_| {
        format!("`{text}` is not a size; write a number of bytes or a number with a unit, such as 64KiB, 2MiB or 1GiB")
    })?;
    Ok(size.as_u64())
}

/// Reads `50us`, `1ms`, `2s`, `0`.
///
/// # Errors
///
/// A text for a person, with examples.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time; write a number with a unit, such as 50us, 10ms or 2s"))
}

/// A size as it is said in messages: `512 MiB`.
pub fn show_size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

/// A time as it is said in messages: `50ms`.
pub fn show_time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A number of things as it is said in messages: `1 shard`, `3 shards`.
pub fn count_of(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_and_decimal_units_and_none() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64KiB"), Ok(64 << 10));
        assert_eq!(parse_size("2 MiB"), Ok(2 << 20));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
    }

    #[test]
    fn a_wrong_size_or_time_is_answered_with_examples() {
        for text in ["", "x", "-1", "12parsecs"] {
            assert!(parse_size(text).expect_err(text).contains("such as 64KiB"), "{text}");
        }
        for text in ["", "5", "x", "-1s", "1 fortnight"] {
            assert!(parse_time(text).expect_err(text).contains("such as 50us"), "{text}");
        }
    }

    #[test]
    fn times_take_units_and_a_bare_zero() {
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        assert_eq!(parse_time("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_time("1ms 500us"), Ok(Duration::from_micros(1500)));
    }
}
