//! INCRBYFLOAT's arithmetic: C's `long double`, as it is on the machines that Redis runs on most: x87 extended
//! precision, with 64 bits of significand.
//!
//! Texts are read as `strtold` reads them, sums are rounded to the nearest, ties to even, and are printed as
//! `printf("%.17Lf")` does, less the zeroes at the end. Every server comes to the same bytes, whatever its processor.

use lockstep_proto::{
    mutant::{self, Mutant},
    program::ErrorCode,
};
use rustc_apfloat::{Float, Round, Status, StatusAnd, ieee::X87DoubleExtended};

/// Texts of this size or more are no numbers to Redis.
const TEXT_SIZE_END: usize = 5 * 1024;

/// Digits behind the point.
const FRACTION_DIGITS: usize = 17;

/// Bits of a significand.
const PRECISION: i32 = 64;

/// Decimal digits in a part of a large number.
const PART_DIGITS: usize = 18;
const PART: u64 = 1_000_000_000_000_000_000;

/// The sum of two numbers that are given as texts.
pub(super) fn add(left: &[u8], right: &[u8]) -> Result<String, ErrorCode> {
    let left = parse(left).ok_or(ErrorCode::NotAFloat)?;
    let right = parse(right).ok_or(ErrorCode::NotAFloat)?;
    let round = if mutant::is(Mutant::SumTruncated) { Round::TowardZero } else { Round::NearestTiesToEven };
    let sum = left.add_r(right, round).value;
    if sum.is_finite() { Ok(print(sum)) } else { Err(ErrorCode::NotFinite) }
}

/// How many steps of a nanosecond an addition takes at most, about. It depends on nothing but what was added.
pub(super) fn steps(texts: &[&[u8]], sum: &Result<String, ErrorCode>) -> u64 {
    const LEAST: u64 = 2_500;
    const PER_DIGIT: u64 = 100;
    /// A power of ten may have thousands of digits that are nowhere to be seen.
    const PER_EXPONENT: u64 = 30_000;
    // What is too long for a number is refused unread.
    let read = || texts.iter().filter(|text| text.len() < TEXT_SIZE_END);
    let digits = read().map(|text| text.len()).sum::<usize>() + sum.as_ref().map_or(0, String::len);
    let exponents = read().filter(|text| text.iter().any(|byte| b"eEpP".contains(byte))).count();
    LEAST + PER_DIGIT * digits as u64 + PER_EXPONENT * exponents as u64
}

/// Reads a whole text as a number. Infinity is one; what is too large or too small for any other is not.
fn parse(text: &[u8]) -> Option<X87DoubleExtended> {
    if text.len() >= TEXT_SIZE_END {
        return None;
    }
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let magnitude = if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
        X87DoubleExtended::INFINITY
    } else {
        let mut digits = normal_form(digits)?;
        if digits.starts_with("0x") && !digits.contains('p') {
            digits.push_str("p0");
        }
        let StatusAnd { status, value } = X87DoubleExtended::from_str_r(&digits, Round::NearestTiesToEven).ok()?;
        if !value.is_finite() || (value.is_zero() && status != Status::OK) {
            return None;
        }
        value
    };
    Some(if is_negative { -magnitude } else { magnitude })
}

/// The text of a number without sign in lower case, if it is one: decimal or, behind `0x`, hexadecimal digits with at
/// most one point, at least one digit, and an exponent, of which at least one digit is there if its letter is.
fn normal_form(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?.to_ascii_lowercase();
    let (digits, is_digit, letter): (_, fn(&u8) -> bool, _) = match text.strip_prefix("0x") {
        Some(digits) => (digits, u8::is_ascii_hexdigit, 'p'),
        None => (text.as_str(), u8::is_ascii_digit, 'e'),
    };
    let (significand, exponent) = match digits.split_once(letter) {
        Some((significand, exponent)) => (significand, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = significand.split_once('.').unwrap_or((significand, ""));
    let is_significand = whole.bytes().chain(fraction.bytes()).all(|byte| is_digit(&byte));
    if !is_significand || whole.len() + fraction.len() == 0 {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
    }
    Some(text)
}

/// The number with 17 digits behind the point, less the zeroes at the end.
fn print(number: X87DoubleExtended) -> String {
    let bits = number.to_bits();
    let significand = bits as u64;
    let exponent = (bits >> 64 & 0x7FFF) as i32;
    // A denormal number has the exponent of the smallest normal one.
    let shift = exponent.max(1) - 0x3FFF - (PRECISION - 1);
    let mut text =
        if shift >= 0 { print_whole(significand, shift as usize) } else { print_fraction(significand, -shift) };
    if number.is_negative() && text != "0" {
        text.insert(0, '-');
    }
    text
}

/// `significand / 2^shift`, with `shift` from 1 on.
fn print_fraction(significand: u64, shift: i32) -> String {
    let whole = if shift < PRECISION { significand >> shift } else { 0 };
    let rest = u128::from(if shift < PRECISION { significand & ((1 << shift) - 1) } else { significand });
    // 17 digits are 57 bits, so the product has at most 121.
    let scaled = rest * 10u128.pow(FRACTION_DIGITS as u32);
    let mut fraction = if shift < 128 { scaled >> shift } else { 0 };
    let is_up = match shift {
        ..128 => {
            let (lost, half) = (scaled & ((1 << shift) - 1), 1u128 << (shift - 1));
            lost > half || (lost == half && fraction % 2 == 1)
        }
        _ => false,
    };
    fraction += u128::from(is_up);
    let carry = u128::from(fraction == 10u128.pow(FRACTION_DIGITS as u32));
    if carry == 1 {
        fraction = 0;
    }
    let text = format!("{}.{fraction:0FRACTION_DIGITS$}", u128::from(whole) + carry);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `significand * 2^shift`.
fn print_whole(significand: u64, shift: usize) -> String {
    // Parts of 18 decimal digits each, the lowest first.
    let mut parts = vec![significand % PART, significand / PART];
    let mut rest = shift;
    while rest > 0 {
        let step = rest.min(60);
        let mut carry = 0u128;
        for part in &mut parts {
            let product = (u128::from(*part) << step) + carry;
            *part = (product % u128::from(PART)) as u64;
            carry = product / u128::from(PART);
        }
        while carry > 0 {
            parts.push((carry % u128::from(PART)) as u64);
            carry /= u128::from(PART);
        }
        rest -= step;
    }
    let text: String = parts.iter().rev().map(|part| format!("{part:0PART_DIGITS$}")).collect();
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis() {
        // Each was answered by Redis 7.0.15 on x86-64.
        let cases: &[(&str, &str, &str)] = &[
            ("0", "0.1", "0.1"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-1", "0.5", "-0.5"),
            ("0", "-0", "0"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "1e-18", "0"),
            ("0", "0x1p-1", "0.5"),
            ("0", "0x.8", "0.5"),
            ("1", "1e18", "1000000000000000001"),
            ("0", "5.", "5"),
            ("0", "+.5", "0.5"),
        ];
        for &(left, right, sum) in cases {
            assert_eq!(add(left.as_bytes(), right.as_bytes()).as_deref(), Ok(sum), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        let texts = [
            "", " ", " 1", "1 ", "1e", "1e+", "e1", ".", "-", "+-1", "--1", "0x", "0xg", "0x1p", "1.2.3", "nan",
            "NaN(1)", "1_0", "1,5", "abc", "infinit", "1e5000", "-1e5000", "1e-5000", "1\0", "é",
        ];
        for text in texts {
            assert_eq!(add(b"0", text.as_bytes()), Err(ErrorCode::NotAFloat), "{text:?}");
        }
        assert_eq!(add(&[b'1'; TEXT_SIZE_END], b"0"), Err(ErrorCode::NotAFloat));
        for text in ["inf", "-INF", "+Infinity"] {
            assert_eq!(add(b"0", text.as_bytes()), Err(ErrorCode::NotFinite), "{text:?}");
        }
        assert_eq!(add(b"1e4932", b"1.1e4932"), Err(ErrorCode::NotFinite));
        assert!(add(&[b'0'; TEXT_SIZE_END - 1], b"1").is_ok());
    }
}
