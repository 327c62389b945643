//! Whole numbers as text, in the one form that counts as a number, here and in Redis: decimal, no sign but a minus, no
//! leading zeroes, no spaces, no `-0`.

use std::io::Write;

/// Most characters of a number.
pub const SIZE_MAX: usize = 20;

/// Writes a number into `text`, of which it returns the part that it takes.
pub fn write(number: i64, text: &mut [u8; SIZE_MAX]) -> &[u8] {
    let mut rest = &mut text[..];
    write!(rest, "{number}").expect("the longest number fits");
    let size = SIZE_MAX - rest.len();
    &text[..size]
}

/// Reads a number; `None` if `text` is not one, or is beyond 64 bits.
#[inline]
pub fn parse(text: &[u8]) -> Option<i64> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_one_form_of_a_number_is_read() {
        for number in [0, 1, -1, 10, 123_456, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1] {
            let mut text = [0; SIZE_MAX];
            let text = write(number, &mut text);
            assert_eq!((text, parse(text)), (number.to_string().as_bytes(), Some(number)));
        }
        let bad = [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "00",
            "01",
            "-0",
            "-01",
            "1a",
            "a",
            "1.0",
            "0x1",
            "1e3",
            "1\0",
            "9223372036854775808",
        ];
        for text in bad.into_iter().chain(["-9223372036854775809", "99999999999999999999"]) {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(&[0xFF, 0x31]), None);
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(number in any::<i64>(), text in "[-+ 0-9a]{0,21}") {
            prop_assert_eq!(parse(write(number, &mut [0; SIZE_MAX])), Some(number));
            let canonical = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
            prop_assert_eq!(parse(text.as_bytes()), canonical);
        }
    }
}
