//! Patterns as Redis matches them: `*`, `?`, `[a-z]`, `[^a]` and `\` in front of any of these.

/// Stars within stars beyond which nothing matches, so that no pattern can use up the stack.
const NESTING_MAX: usize = 1000;

/// Whether a text fits a pattern, to the letter of Redis: a text of no bytes fits the empty pattern only, not even `*`.
///
/// Takes time in proportion to the sizes' product at worst.
pub fn matches(pattern: &[u8], text: &[u8], ignores_case: bool) -> bool {
    matches_within(pattern, text, ignores_case, &mut { u64::MAX })
}

/// [`matches`], with a bound: each step is taken from `work`, and when nothing is left the answer is no.
pub fn matches_within(pattern: &[u8], text: &[u8], ignores_case: bool, work: &mut u64) -> bool {
    matches_from(pattern, text, ignores_case, &mut false, 0, work)
}

fn fold(byte: u8, ignores_case: bool) -> u8 {
    if ignores_case { byte.to_ascii_lowercase() } else { byte }
}

/// `is_hopeless` becomes true when the rest of the pattern fits nowhere in the rest of the text: stars before need not
/// try on.
fn matches_from(
    mut pattern: &[u8],
    mut text: &[u8],
    ignores_case: bool,
    is_hopeless: &mut bool,
    nesting: usize,
    work: &mut u64,
) -> bool {
    if nesting > NESTING_MAX {
        return false;
    }
    while let (Some(&first), Some(&byte)) = (pattern.first(), text.first()) {
        *work = work.saturating_sub(1);
        if *work == 0 {
            return false;
        }
        match first {
            b'*' => {
                while pattern.get(1) == Some(&b'*') {
                    pattern = &pattern[1..];
                }
                if pattern.len() == 1 {
                    return true;
                }
                while !text.is_empty() {
                    if matches_from(&pattern[1..], text, ignores_case, is_hopeless, nesting + 1, work) {
                        return true;
                    }
                    if *is_hopeless {
                        return false;
                    }
                    text = &text[1..];
                }
                *is_hopeless = true;
                return false;
            }
            b'?' => pattern = &pattern[1..],
            b'[' => {
                let (is_in, rest) = class(&pattern[1..], byte, ignores_case);
                *work = work.saturating_sub((pattern.len() - rest.len()) as u64);
                if !is_in {
                    return false;
                }
                pattern = rest;
            }
            _ => {
                if first == b'\\' && pattern.len() >= 2 {
                    pattern = &pattern[1..];
                }
                if fold(pattern[0], ignores_case) != fold(byte, ignores_case) {
                    return false;
                }
                pattern = &pattern[1..];
            }
        }
        text = &text[1..];
        if text.is_empty() {
            while pattern.first() == Some(&b'*') {
                pattern = &pattern[1..];
            }
            break;
        }
    }
    pattern.is_empty() && text.is_empty()
}

/// Whether a byte is in the class that begins behind a `[`, and the pattern behind the class. One that is not closed
/// ends with the pattern.
fn class(mut pattern: &[u8], byte: u8, ignores_case: bool) -> (bool, &[u8]) {
    let is_negated = pattern.first() == Some(&b'^');
    if is_negated {
        pattern = &pattern[1..];
    }
    let mut is_in = false;
    loop {
        match pattern {
            [] => break,
            [b'\\', escaped, rest @ ..] => {
                is_in |= *escaped == byte;
                pattern = rest;
            }
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [start, b'-', end, rest @ ..] => {
                // Redis compares them as signed bytes.
                let (start, end) = (*start as i8, *end as i8);
                let (low, high) = if start > end { (end, start) } else { (start, end) };
                let signed = |byte: i8| fold(byte as u8, ignores_case) as i8;
                is_in |= (signed(low)..=signed(high)).contains(&signed(byte as i8));
                pattern = rest;
            }
            [other, rest @ ..] => {
                is_in |= fold(*other, ignores_case) == fold(byte, ignores_case);
                pattern = rest;
            }
        }
    }
    (is_in != is_negated, pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let fits = [
            ("", ""),
            ("*", "a"),
            ("a*", "a"),
            ("a**", "a"),
            ("h?llo", "hello"),
            ("h*o", "ho"),
            ("[a-c]x", "bx"),
            ("[c-a]x", "bx"),
            ("[^a]x", "bx"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("[ab", "a"),
            ("a\\", "a\\"),
            ("*a*b", "xaxxb"),
            ("[a-]", "^"),
            ("[^]", "a"),
        ];
        for (pattern, text) in fits {
            assert!(matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        let misfits = [
            ("*", ""),
            ("**", ""),
            ("?", ""),
            ("a", "ab"),
            ("h?llo", "hllo"),
            ("[^a]x", "ax"),
            ("[a-c]", "d"),
            ("\\*", "a"),
            ("[a-]", "-"),
            ("x[]", "x"),
        ];
        for (pattern, text) in misfits {
            assert!(!matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        assert!(matches(b"HELLO[A-C]", b"hellob", true) && !matches(b"HELLO", b"hello", false));
    }

    #[test]
    fn a_pattern_made_to_hurt_ends_soon() {
        let pattern = b"a*".repeat(200);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &[b'a'; 20_000], false));
        assert!(!matches(&b"*?".repeat(100_000), &[b'a'; 150_000], false));
    }
}
