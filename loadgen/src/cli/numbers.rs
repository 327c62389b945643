//! Numbers as people write them.

use std::time::Duration;

/// A count with an optional k, M or G (thousands), such as 100k or 1_000_000.
///
/// # Errors
///
/// Says what a count looks like.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no count: use a whole number, such as 5000, 100k or 10M");
    let digits = text.replace('_', "");
    let (digits, factor) = match digits.as_bytes().last() {
        Some(b'k' | b'K') => (&digits[..digits.len() - 1], 1_000),
        Some(b'm' | b'M') => (&digits[..digits.len() - 1], 1_000_000),
        Some(b'g' | b'G') => (&digits[..digits.len() - 1], 1_000_000_000),
        _ => (&digits[..], 1u64),
    };
    // Half a million may be written as 0.5M, as long as the result is whole.
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    match digits.parse::<f64>() {
        Ok(number) if number >= 0.0 && number * (factor as f64) < 1e18 && (number * factor as f64).fract() == 0.0 => {
            Ok((number * factor as f64) as u64)
        }
        _ => Err(wrong()),
    }
}

/// A duration with its unit, such as 500us, 1ms or 1m30s.
///
/// # Errors
///
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("'{text}' is no duration: use a number and its unit, such as 500us, 10ms, 5s or 2m"))
}

/// A number of bytes with an optional unit, such as 1048576, 64KiB or 1MB.
///
/// # Errors
///
/// Says what a size looks like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("'{text}' is no size: use bytes or a unit, such as 4096, 64KiB or 1MiB"))
}

/// A share from 0 to 1.
///
/// # Errors
///
/// Says what a share looks like.
pub fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("'{text}' is no share: use a number from 0 to 1, such as 0.9")),
    }
}

/// Far above what any generator sends. What was due and not sent is written down at the end all the same, one by one, so a
/// rate without a bound would be an end that does not come.
const RATE_MAX: f64 = 1e8;

/// A rate per second.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is no rate: use requests per second, above 0 and up to 100M, such as 5000 or 20k");
    let rate = match text.parse::<f64>() {
        Ok(rate) => rate,
        Err(_) => parse_count(text).map_err(|_| wrong())? as f64,
    };
    if rate > 0.0 && rate <= RATE_MAX { Ok(rate) } else { Err(wrong()) }
}

/// Rates of a sweep, ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates(pub Vec<f64>);

/// A list of rates, or a range in equal ratios.
pub(super) fn parse_rates(text: &str) -> Result<Rates, String> {
    let wrong = || format!("'{text}' are no rates: use a list (5k,20k,80k) or a range with steps (5k..320k:7)");
    let mut rates = match text.split_once("..") {
        None => text.split(',').map(parse_rate).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?,
        Some((from, rest)) => {
            let (to, steps) = rest.split_once(':').ok_or_else(wrong)?;
            let (from, to) = (parse_rate(from).map_err(|_| wrong())?, parse_rate(to).map_err(|_| wrong())?);
            let steps = steps.parse::<u32>().ok().filter(|steps| (2..=100).contains(steps)).ok_or_else(wrong)?;
            let ratio = (to / from).powf(1.0 / f64::from(steps - 1));
            // Whole numbers are easier to read, but a rate below one must not become none.
            let readable = |rate: f64| if rate < 1.0 { rate } else { rate.round() };
            (0..steps).map(|step| readable(from * ratio.powi(step as i32))).collect()
        }
    };
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    Ok(Rates(rates))
}

/// Numbers of servers, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCounts(pub Vec<usize>);

/// A range, both ends included, or a list.
pub(super) fn parse_server_counts(text: &str) -> Result<ServerCounts, String> {
    let wrong = || format!("'{text}' are no numbers of servers: use a range (1..5) or a list (1,3,5), from 1 to 7");
    let one = |text: &str| text.parse::<usize>().ok().filter(|count| (1..=7).contains(count)).ok_or_else(wrong);
    let mut counts = match text.split_once("..") {
        Some((from, to)) => (one(from)?..=one(to)?).collect::<Vec<_>>(),
        None => text.split(',').map(one).collect::<Result<Vec<_>, _>>()?,
    };
    counts.sort_unstable();
    counts.dedup();
    if counts.is_empty() { Err(wrong()) } else { Ok(ServerCounts(counts)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_have_thousands() {
        assert_eq!(parse_count("5000"), Ok(5000));
        assert_eq!(parse_count("1_000_000"), Ok(1_000_000));
        assert_eq!(parse_count("100k"), Ok(100_000));
        assert_eq!(parse_count("0.5M"), Ok(500_000));
        for bad in ["", "k", "-1", "1.5", "1e3x", "99999999999999999999", "99999999999999999G"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("100"), Ok(100));
        assert!(parse_size("many").is_err());
    }

    #[test]
    fn a_rate_has_a_bound() {
        assert_eq!(parse_rate("100M"), Ok(1e8));
        assert!(parse_rate("1e9").is_err() && parse_rate("0").is_err());
    }

    #[test]
    fn rate_ranges_grow_in_equal_ratios() {
        assert_eq!(parse_rates("1k..8k:4"), Ok(Rates(vec![1000.0, 2000.0, 4000.0, 8000.0])));
        assert_eq!(parse_rates("20k,5k,5000"), Ok(Rates(vec![5000.0, 20_000.0])));
        assert_eq!(parse_rates("0.25..4:5"), Ok(Rates(vec![0.25, 0.5, 1.0, 2.0, 4.0])), "none of them is 0");
        for bad in ["", "0", "1k..8k", "1k..8k:1", "1k..x:4", ",", "inf", "nan"] {
            assert!(parse_rates(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_counts_are_ranges_or_lists() {
        assert_eq!(parse_server_counts("1..3"), Ok(ServerCounts(vec![1, 2, 3])));
        assert_eq!(parse_server_counts("5,1,5"), Ok(ServerCounts(vec![1, 5])));
        for bad in ["", "0..3", "3..1", "1..8", "1-3"] {
            assert!(parse_server_counts(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,20}") {
            let _ = (parse_count(&text), parse_duration(&text), parse_size(&text), parse_share(&text));
            let _ = (parse_rate(&text), parse_rates(&text), parse_server_counts(&text));
        }
    }
}
