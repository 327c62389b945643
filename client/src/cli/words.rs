//! From a line to its words: blanks separate, quotes and backslashes keep together.
//!
//! In single quotes everything stands for itself. In double quotes and outside of quotes a backslash gives the next
//! character a meaning: `\n`, `\r`, `\t`, `\0`, `\xNN`, and itself for everything else. `#` at the start of a word
//! begins a comment.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// The words of a line.
///
/// # Errors
///
/// What is wrong with the line: a quote that is not closed, or an incomplete escape.
pub fn split(line: &[u8]) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut rest = line.iter().copied();
    let mut word: Option<Vec<u8>> = None;
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => words.extend(word.take()),
            b'#' if word.is_none() => break,
            b'\'' => single_quoted(&mut rest, word.get_or_insert_default())?,
            b'"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            b'\\' => word.get_or_insert_default().push(escaped(&mut rest)?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words.into_iter().map(OsString::from_vec).collect())
}

fn single_quoted(rest: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), String> {
    for byte in rest {
        if byte == b'\'' {
            return Ok(());
        }
        word.push(byte);
    }
    Err("a single quote is not closed".to_owned())
}

fn double_quoted(rest: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), String> {
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return Ok(()),
            b'\\' => word.push(escaped(rest)?),
            other => word.push(other),
        }
    }
    Err("a double quote is not closed".to_owned())
}

fn escaped(rest: &mut impl Iterator<Item = u8>) -> Result<u8, String> {
    let Some(byte) = rest.next() else {
        return Err("a backslash at the end of the line escapes nothing".to_owned());
    };
    Ok(match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'0' => 0,
        b'x' => {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
            match (digit(), digit()) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err("\\x needs two hexadecimal digits".to_owned()),
            }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::output::escape;

    fn words(line: &str) -> Vec<Vec<u8>> {
        split(line.as_bytes()).unwrap().into_iter().map(OsString::into_vec).collect()
    }

    #[test]
    fn blanks_separate_and_quotes_keep_together() {
        assert_eq!(words("  put a\t'b c'  \"d e\"f\r\n"), ["put", "a", "b c", "d ef"].map(|word| word.as_bytes()));
        assert_eq!(words("put a ''"), [&b"put"[..], b"a", b""]);
        assert_eq!(words(r"put a b\ c"), [&b"put"[..], b"a", b"b c"]);
        assert!(words("   ").is_empty());
    }

    #[test]
    fn escapes_make_any_byte() {
        assert_eq!(words(r#""\x00\xFf\n\\\"" '\x00'"#), [&b"\x00\xff\n\\\""[..], b"\\x00"]);
    }

    #[test]
    fn a_hash_begins_a_comment_only_at_the_start_of_a_word() {
        assert_eq!(words("get a#b # why"), [&b"get"[..], b"a#b"]);
        assert!(words("# nothing").is_empty());
    }

    #[test]
    fn what_is_not_finished_is_refused() {
        for line in ["get 'a", "get \"a", "get a\\", "get \\x", "get \\x1", "get \\xg0", "get \"\\"] {
            assert!(split(line.as_bytes()).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_escaped_can_be_written_in_double_quotes(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let line = format!("\"{}\"", escape(&bytes).replace('"', "\\\""));
            prop_assert_eq!(split(line.as_bytes()).unwrap(), vec![OsString::from_vec(bytes)]);
        }

        #[test]
        fn any_line_is_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(words) = split(&bytes) {
                prop_assert!(words.iter().map(|word| word.len()).sum::<usize>() <= bytes.len());
            }
        }
    }
}
