//! The sums of INCRBYFLOAT: decimal texts, added as numbers with 64 bits of significand.
//!
//! Everything is computed exactly, as fractions of whole numbers of any size, and rounded where the processor would
//! round: when a text is read, when two numbers are added, and when the sum is written with 17 digits behind the point.
//! Slow, and as unlike the store's way as can be. Only what is drawn is known here: decimal texts, with an exponent or
//! without, and infinity.

use std::cmp::Ordering;

use lockstep_proto::program::ErrorCode;

/// Bits of a significand.
const PRECISION: u64 = 64;

/// Digits behind the point that are written.
const FRACTION_DIGITS: usize = 17;

/// The largest exponent of ten that a text may have here. Values of the simulator have no more digits than that,
/// either, and so keep far away from what is too large or too small for such a number.
const EXPONENT_MAX: i64 = 2000;

/// A whole number of any size: digits to the base 2^32, the lowest first, none of them a leading zero.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole(Vec<u32>);

impl Whole {
    fn of(number: u64) -> Whole {
        Whole(vec![number as u32, (number >> 32) as u32]).trimmed()
    }

    fn trimmed(mut self) -> Whole {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> u64 {
        self.0.last().map_or(0, |last| self.0.len() as u64 * 32 - u64::from(last.leading_zeros()))
    }

    fn times_plus(mut self, factor: u32, more: u32) -> Whole {
        let mut carry = u64::from(more);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = carry as u32;
            carry >>= 32;
        }
        self.0.push(carry as u32);
        self.trimmed()
    }

    fn times_power_of_ten(self, exponent: u64) -> Whole {
        (0..exponent).fold(self, |number, _| number.times_plus(10, 0))
    }

    fn shifted(self, bits: u64) -> Whole {
        let mut digits = vec![0; (bits / 32) as usize];
        digits.extend(self.times_plus(1 << (bits % 32), 0).0);
        Whole(digits).trimmed()
    }

    fn plus(&self, other: &Whole) -> Whole {
        let (mut sum, mut carry) = (Vec::new(), 0);
        for place in 0..=self.0.len().max(other.0.len()) {
            let digit = |number: &Whole| u64::from(number.0.get(place).copied().unwrap_or(0));
            carry += digit(self) + digit(other);
            sum.push(carry as u32);
            carry >>= 32;
        }
        Whole(sum).trimmed()
    }

    /// `other` is no larger.
    fn minus(&self, other: &Whole) -> Whole {
        let (mut difference, mut borrowed) = (Vec::new(), 0);
        for (place, digit) in self.0.iter().enumerate() {
            let taken = i64::from(other.0.get(place).copied().unwrap_or(0)) + borrowed;
            let left = i64::from(*digit) - taken;
            borrowed = i64::from(left < 0);
            difference.push(left as u32);
        }
        Whole(difference).trimmed()
    }

    fn compare(&self, other: &Whole) -> Ordering {
        let by_size = self.0.len().cmp(&other.0.len());
        by_size.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// The quotient, a bit after the other, and what is left.
    fn divided_by(&self, divisor: &Whole) -> (Whole, Whole) {
        let (mut quotient, mut rest) = (Whole::of(0), Whole::of(0));
        for place in (0..self.bits()).rev() {
            let bit = self.0[(place / 32) as usize] >> (place % 32) & 1;
            rest = rest.times_plus(2, bit);
            let fits = rest.compare(divisor) != Ordering::Less;
            if fits {
                rest = rest.minus(divisor);
            }
            quotient = quotient.times_plus(2, u32::from(fits));
        }
        (quotient, rest)
    }

    /// The quotient, rounded to the nearest; of two that are as near, to the even one.
    fn rounded_quotient(&self, divisor: &Whole) -> Whole {
        let (quotient, rest) = self.divided_by(divisor);
        let is_odd = quotient.0.first().is_some_and(|digit| digit % 2 == 1);
        let is_up = match rest.times_plus(2, 0).compare(divisor) {
            Ordering::Less => false,
            Ordering::Equal => is_odd,
            Ordering::Greater => true,
        };
        quotient.times_plus(1, u32::from(is_up))
    }

    fn to_decimal(&self) -> String {
        let (mut digits, mut rest) = (Vec::new(), self.clone());
        while !rest.is_zero() {
            let mut carry = 0;
            for digit in rest.0.iter_mut().rev() {
                carry = carry << 32 | u64::from(*digit);
                *digit = (carry / 10) as u32;
                carry %= 10;
            }
            rest = rest.trimmed();
            digits.push(b'0' + carry as u8);
        }
        digits.iter().rev().map(|digit| char::from(*digit)).collect()
    }
}

/// A number that the processor can have: `significand * 2^exponent`, with no more bits of significand than
/// [`PRECISION`].
#[derive(Clone, Debug)]
struct Number {
    is_negative: bool,
    significand: Whole,
    exponent: i64,
}

/// The nearest number to a fraction.
fn nearest(is_negative: bool, numerator: &Whole, denominator: &Whole) -> Number {
    if numerator.is_zero() {
        return Number { is_negative, significand: Whole::of(0), exponent: 0 };
    }
    // The quotient has as many bits as it should, or one more.
    let mut exponent = numerator.bits() as i64 - denominator.bits() as i64 - PRECISION as i64;
    loop {
        let (up, down) = (exponent.min(0).unsigned_abs(), exponent.max(0) as u64);
        let significand = numerator.clone().shifted(up).rounded_quotient(&denominator.clone().shifted(down));
        // Where rounding has made one bit more of it, it is a power of two, and nothing is lost with that bit.
        if significand.bits() <= PRECISION {
            return Number { is_negative, significand, exponent };
        }
        exponent += 1;
    }
}

/// What a text says.
enum Parsed {
    Finite(Number),
    Infinite,
}

fn parse(text: &[u8]) -> Option<Parsed> {
    let text = str::from_utf8(text).ok()?.to_ascii_lowercase();
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    if text == "inf" || text == "infinity" {
        return Some(Parsed::Infinite);
    }
    let (significand, exponent) = match text.split_once('e') {
        Some((significand, exponent)) => {
            let digits = exponent.trim_start_matches(['+', '-']);
            if exponent.len() - digits.len() > 1 || digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
                return None;
            }
            (significand, exponent.parse::<i64>().expect("an exponent that is drawn is small"))
        }
        None => (text, 0),
    };
    let (whole, fraction) = significand.split_once('.').unwrap_or((significand, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let exponent = exponent - fraction.len() as i64;
    assert!(exponent.abs() + digits.len() as i64 <= EXPONENT_MAX, "no such numbers are drawn");
    let number = digits.bytes().fold(Whole::of(0), |number, digit| number.times_plus(10, u32::from(digit - b'0')));
    let numerator = number.times_power_of_ten(exponent.max(0) as u64);
    let denominator = Whole::of(1).times_power_of_ten(exponent.min(0).unsigned_abs());
    Some(Parsed::Finite(nearest(is_negative, &numerator, &denominator)))
}

fn sum(left: &Number, right: &Number) -> Number {
    let exponent = left.exponent.min(right.exponent);
    let [large, small] =
        [left, right].map(|number| number.significand.clone().shifted((number.exponent - exponent) as u64));
    let (is_negative, magnitude) = match (left.is_negative == right.is_negative, large.compare(&small)) {
        (true, _) => (left.is_negative, large.plus(&small)),
        (false, Ordering::Less) => (right.is_negative, small.minus(&large)),
        (false, _) => (left.is_negative, large.minus(&small)),
    };
    let (up, down) = (exponent.max(0) as u64, exponent.min(0).unsigned_abs());
    nearest(is_negative, &magnitude.shifted(up), &Whole::of(1).shifted(down))
}

fn write(number: &Number) -> String {
    let (up, down) = (number.exponent.max(0) as u64, number.exponent.min(0).unsigned_abs());
    let scaled = number.significand.clone().shifted(up).times_power_of_ten(FRACTION_DIGITS as u64);
    let digits = scaled.rounded_quotient(&Whole::of(1).shifted(down)).to_decimal();
    let digits = format!("{digits:0>width$}", width = FRACTION_DIGITS + 1);
    let (whole, fraction) = digits.split_at(digits.len() - FRACTION_DIGITS);
    let text = format!("{whole}.{fraction}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if number.is_negative && text != "0" { format!("-{text}") } else { text.to_owned() }
}

/// The sum of two numbers that are given as texts, as text.
pub(super) fn add(left: &[u8], right: &[u8]) -> Result<String, ErrorCode> {
    let (left, right) = (parse(left).ok_or(ErrorCode::NotAFloat)?, parse(right).ok_or(ErrorCode::NotAFloat)?);
    match (left, right) {
        (Parsed::Finite(left), Parsed::Finite(right)) => Ok(write(&sum(&left, &right))),
        _ => Err(ErrorCode::NotFinite),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis_on_a_processor_with_extended_precision() {
        let cases = [
            ("0", "0.1", "0.1"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-1", "0.5", "-0.5"),
            ("0", "-0", "0"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "-1e-18", "0"),
            ("1", "1e18", "1000000000000000001"),
            ("0", "5.", "5"),
            ("0", "+.5", "0.5"),
            // More than 64 bits: to the nearest, and of two as near, to the even one.
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("36893488147419103232", "2", "36893488147419103232"),
            ("36893488147419103232", "6", "36893488147419103240"),
        ];
        for (left, right, expected) in cases {
            assert_eq!(add(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_decimal_number_is_not_added_to() {
        for text in ["", " 1", "1e", "1e+-1", "e1", ".", "-", "--1", "1.2.3", "1:1", "nan"] {
            assert_eq!(add(b"0", text.as_bytes()), Err(ErrorCode::NotAFloat), "{text:?}");
        }
        assert_eq!(add(b"-inf", b"1"), Err(ErrorCode::NotFinite));
    }

    #[test]
    fn numbers_of_any_size_are_divided_as_those_of_a_processor_are() {
        let mut dice = crate::dice::Dice::new(1, "division");
        for _ in 0..2000 {
            let [left, right] = [0; 2].map(|_| (u128::from(dice.any()) * u128::from(dice.any())) >> dice.below(127));
            let whole = |number: u128| Whole::of((number >> 64) as u64).shifted(64).plus(&Whole::of(number as u64));
            let divisor = right.max(1);
            let (quotient, rest) = whole(left).divided_by(&whole(divisor));
            assert_eq!((quotient, rest), (whole(left / divisor), whole(left % divisor)));
            assert_eq!(whole(left).to_decimal(), if left == 0 { String::new() } else { left.to_string() });
            assert_eq!(whole(left).compare(&whole(right)), left.cmp(&right));
        }
    }
}
