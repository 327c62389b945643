//! Arguments that commands have trouble with.

use rand::{Rng, RngExt, seq::IndexedRandom};

/// Integers at and beyond every border, and texts that are nearly integers.
const INTEGERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "10",
    "100",
    "-100",
    "255",
    "4294967295",
    "4294967296",
    "-2147483649",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "",
    " 1",
    "1 ",
    "+1",
    "01",
    "-0",
    "00",
    "1.0",
    "1e3",
    "0x10",
    "abc",
    "-",
    "1\0",
];

/// Numbers for INCRBYFLOAT.
const FLOATS: &[&str] = &[
    "0",
    "1",
    "-1",
    "0.1",
    "-0.1",
    "0.5",
    "1.5",
    "3.0e3",
    "5.0e3",
    "1e10",
    "1.5e-5",
    "-0",
    "-0.0",
    "3.14159265358979323846264338",
    "123456789.987654321",
    "0.000000000000000001",
    "1e17",
    "1e18",
    "1e20",
    "99999999999999999999",
    "1e100",
    "1e308",
    "1e400",
    "1e4932",
    "1e5000",
    "-1e5000",
    "1e-320",
    "1e-5000",
    "inf",
    "-inf",
    "infinity",
    "+inf",
    "nan",
    "",
    " ",
    " 1",
    "1 ",
    "+1",
    ".5",
    "5.",
    "1e",
    "1..2",
    "0x10",
    "0x1p3",
    "0x.8",
    "abc",
    "1,5",
    "1\0",
    "00012",
    "17179869184.000000001",
    "10.25",
    "200",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551616.5",
    "0.30000000000000000001",
];

/// Expiries that are refused, or in the past; none of them runs out while a test looks.
const EXPIRIES: &[&str] = &[
    "0",
    "-1",
    "-1000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "9223372036854775",
    "9223372036854776",
    "-9223372036854775",
    "-9223372036854776",
    "9223372035000000000",
    "9223370000000000000",
    "99999999999999999999",
    "",
    "abc",
    "1000.5",
    " 1000",
    "1000 ",
    "+1000",
    "01000",
    "1e3",
];

const PATTERNS: &[&str] = &[
    "*", "", "?", "a*", "*a", "*a*", "[ab]*", "[^a]*", "[a-c]", "[c-a]", "[a", "[", "\\*", "\\", "a\\", "**", "*?*",
    "h[ae]llo", "h?llo", "\\[x\\]", "[]", "[^]", "[\\]]", "*[", "*\\", "{*}*", "*[^-z]", "key:*", "*key*",
];

const KEYS: &[&str] = &["a", "b", "c", "d", "hello", "hallo", "key:1", "key:2", "[x]", "*", "A"];

const WORDS: &[&str] =
    &["", "x", "NX", "EX", "GET", "\r\n", "*1", "-1", "foo bar", "\0", "PX", "MATCH", "help", "string", "ON", "OFF"];

/// A text of any bytes.
pub fn binary(random: &mut impl Rng) -> Vec<u8> {
    (0..random.random_range(0..40)).map(|_| random.random()).collect()
}

/// One of a few keys, seldom a strange one. Keys of one `tag` are in one slot.
pub fn key(random: &mut impl Rng, tag: &str) -> Vec<u8> {
    let mut key = tag.as_bytes().to_vec();
    match random.random_range(0..100) {
        0..80 => key.extend_from_slice(KEYS[random.random_range(0..5)].as_bytes()),
        80..94 => key.extend_from_slice(KEYS.choose(random).unwrap().as_bytes()),
        94..96 => key.extend((0..random.random_range(1..4)).map(|_| random.random::<u8>())),
        96 => key.extend(vec![b'k'; random.random_range(200..5000)]),
        97 => key.extend_from_slice(b"with\r\nlines\0and zero"),
        // The empty key, if there is no tag.
        _ => {}
    }
    key
}

/// A value to store.
pub fn value(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..100) {
        0..25 => KEYS.choose(random).unwrap().as_bytes().to_vec(),
        25..50 => INTEGERS.choose(random).unwrap().as_bytes().to_vec(),
        50..65 => FLOATS.choose(random).unwrap().as_bytes().to_vec(),
        65..72 => random.random_range(-1000..1000i64).to_string().into_bytes(),
        72..80 => binary(random),
        // Around the length up to which Redis keeps a string in one piece.
        80..88 => vec![b'v'; random.random_range(42..47)],
        88..95 => vec![b'w'; random.random_range(0..300)],
        95..98 => vec![b'x'; random.random_range(1000..20_000)],
        98 => vec![b'y'; random.random_range(30_000..70_000)],
        _ => Vec::new(),
    }
}

/// An integer argument.
pub fn integer(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..10) {
        0..5 => random.random_range(-20..20i64).to_string().into_bytes(),
        _ => INTEGERS.choose(random).unwrap().as_bytes().to_vec(),
    }
}

/// An argument for INCRBYFLOAT.
pub fn float(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..10) {
        0..3 => format!("{:.4}", random.random_range(-1000.0..1000.0f64)).into_bytes(),
        3 => {
            format!("{:e}", random.random_range(-10.0..10.0f64) * 10f64.powi(random.random_range(-20..20))).into_bytes()
        }
        _ => FLOATS.choose(random).unwrap().as_bytes().to_vec(),
    }
}

/// An offset of SETRANGE, up to the length of the longest value and beyond, but seldom.
pub fn offset(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..40) {
        0..25 => random.random_range(0..60i64).to_string().into_bytes(),
        25 => random.random_range(1_048_560..1_048_590i64).to_string().into_bytes(),
        26..28 => random.random_range(1000..5000i64).to_string().into_bytes(),
        _ => INTEGERS.choose(random).unwrap().as_bytes().to_vec(),
    }
}

/// A time to live that does not run out during a test; `unit` is a second's length in what is asked for. No two are
/// alike, so that which of two is later does not depend on how fast the test runs.
pub fn time_to_live(random: &mut impl Rng, unit: i64) -> Vec<u8> {
    match random.random_range(0..3) {
        0 => EXPIRIES.choose(random).unwrap().as_bytes().to_vec(),
        _ => (random.random_range(1_000..1_000_000) * unit).to_string().into_bytes(),
    }
}

/// A point in time far ahead, or one of the strange ones.
pub fn time(random: &mut impl Rng, unit: i64) -> Vec<u8> {
    match random.random_range(0..3) {
        0 => EXPIRIES.choose(random).unwrap().as_bytes().to_vec(),
        _ => (random.random_range(4_000_000_000..9_000_000_000i64) * unit).to_string().into_bytes(),
    }
}

/// A glob.
pub fn pattern(random: &mut impl Rng, tag: &str) -> Vec<u8> {
    let pattern = PATTERNS.choose(random).unwrap();
    let tag = if random.random_ratio(1, 2) { tag } else { "" };
    [tag.as_bytes(), pattern.as_bytes()].concat()
}

/// Something where nothing of the kind is expected.
pub fn word(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..10) {
        0 => binary(random),
        1 => vec![b'z'; random.random_range(100..200)],
        _ => WORDS.choose(random).unwrap().as_bytes().to_vec(),
    }
}
