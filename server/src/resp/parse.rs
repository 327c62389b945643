//! Commands out of the bytes of a connection, in place.
//!
//! Two forms: an array of bulk strings, as every client library sends it, and a line of words, as a person types it.
//! The texts of the errors are those of Redis; clients show them to people.

use super::{
    arguments::{Arguments, Span},
    numbers::integer,
};

/// Largest bulk string, in bytes. Keys and values have smaller bounds of their own, with errors that do not cost the
/// connection.
pub const BULK_SIZE_MAX: usize = 4 << 20;

/// Largest command, in bytes.
pub const COMMAND_SIZE_MAX: usize = 16 << 20;

/// Largest number of arguments of a command, as in Redis. [`COMMAND_SIZE_MAX`] is reached long before, and bounds the
/// memory.
const ARGUMENTS_MAX: i64 = i32::MAX as i64;

/// Places for arguments that are kept from one command to the next.
const SPANS_KEPT_MAX: usize = 4096;

/// Largest line, in bytes: a command of words, or the head of an array or a bulk string.
const LINE_SIZE_MAX: usize = 64 << 10;

/// Largest number of arguments of a command, and largest bulk string, before the password was given.
const UNAUTHENTICATED_ARGUMENTS_MAX: i64 = 10;
const UNAUTHENTICATED_BULK_SIZE_MAX: i64 = 16_384;

/// What stands at the start of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Less than a command. [`Parser::wanted`] says how much is known to be missing.
    Incomplete,
    /// No command, in this many bytes: an empty line or an empty array.
    Nothing(usize),
    /// A command, in this many bytes. [`Parser::arguments`] has it.
    Command(usize),
}

/// Why the bytes are no command. The connection is closed after this is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub Vec<u8>);

impl ProtocolError {
    fn new(text: &str) -> ProtocolError {
        ProtocolError(format!("Protocol error: {text}").into_bytes())
    }
}

/// Where a parser is in a command that has not arrived as a whole, so that no byte is looked at twice.
#[derive(Debug, Default)]
pub struct Parser {
    /// The arguments so far, from the start of the command.
    spans: Vec<Span>,
    /// Bulk strings that are still missing.
    missing: usize,
    /// Bytes of the command looked at.
    position: usize,
    /// Size of the command, as far as it is known.
    wanted: usize,
    /// The words of a line, without their quotes.
    words: Vec<u8>,
    is_line: bool,
}

impl Parser {
    /// Looks for a command at the start of `bytes`. When more has arrived after an incomplete one, the bytes must still
    /// begin where they did.
    ///
    /// # Errors
    ///
    /// If the bytes are no command and cannot become one.
    #[inline]
    pub fn parse(&mut self, bytes: &[u8], is_authenticated: bool) -> Result<Parsed, ProtocolError> {
        if self.missing == 0 {
            self.spans.clear();
            if self.spans.capacity() > SPANS_KEPT_MAX {
                self.spans = Vec::new();
            }
            self.position = 0;
            self.wanted = 0;
            match bytes.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.parse_line(bytes),
            }
            let Some((count, end)) = head(bytes, 0).map_err(|error| error.of_array())? else {
                return Ok(Parsed::Incomplete);
            };
            let count = count.filter(|&count| count <= ARGUMENTS_MAX);
            let count = count.ok_or_else(|| ProtocolError::new("invalid multibulk length"))?;
            if count > UNAUTHENTICATED_ARGUMENTS_MAX && !is_authenticated {
                return Err(ProtocolError::new("unauthenticated multibulk length"));
            }
            if count <= 0 {
                return Ok(Parsed::Nothing(end));
            }
            self.is_line = false;
            self.missing = count as usize;
            self.position = end;
        }
        while self.missing > 0 {
            let Some((size, begin)) = head(bytes, self.position).map_err(|error| error.of_bulk())? else {
                return self.incomplete(bytes.len());
            };
            if bytes[self.position] != b'$' {
                return Err(unexpected(bytes[self.position]));
            }
            let size = size.filter(|size| (0..=BULK_SIZE_MAX as i64).contains(size));
            let size = size.ok_or_else(|| ProtocolError::new("invalid bulk length"))?;
            if size > UNAUTHENTICATED_BULK_SIZE_MAX && !is_authenticated {
                return Err(ProtocolError::new("unauthenticated bulk length"));
            }
            let end = begin + size as usize;
            if bytes.len() < end + 2 {
                self.wanted = end + 2;
                return self.incomplete(bytes.len());
            }
            self.spans.push((begin as u32, end as u32));
            self.position = end + 2;
            self.missing -= 1;
        }
        Ok(Parsed::Command(self.position))
    }

    /// The command that [`Parser::parse`] has found at the start of `bytes`.
    #[inline]
    pub fn arguments<'a>(&'a self, bytes: &'a [u8]) -> Arguments<'a> {
        Arguments::new(if self.is_line { &self.words } else { bytes }, &self.spans)
    }

    /// Size of the command that has begun, in bytes, as far as it is known.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// What the parser takes of the memory beside the bytes themselves, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.spans.len() * size_of::<Span>() + self.words.len()
    }

    fn incomplete(&self, size: usize) -> Result<Parsed, ProtocolError> {
        if size.max(self.wanted) > COMMAND_SIZE_MAX {
            return Err(ProtocolError::new("too big request"));
        }
        Ok(Parsed::Incomplete)
    }

    fn parse_line(&mut self, bytes: &[u8]) -> Result<Parsed, ProtocolError> {
        let Some(end) = bytes.iter().take(LINE_SIZE_MAX + 2).position(|&byte| byte == b'\n') else {
            if bytes.len() > LINE_SIZE_MAX {
                return Err(ProtocolError::new("too big inline request"));
            }
            return Ok(Parsed::Incomplete);
        };
        let line = &bytes[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.is_line = true;
        self.words.clear();
        if !split_words(line, &mut self.words, &mut self.spans) {
            return Err(ProtocolError::new("unbalanced quotes in request"));
        }
        Ok(if self.spans.is_empty() { Parsed::Nothing(end + 1) } else { Parsed::Command(end + 1) })
    }
}

/// A head that is longer than it can be.
struct TooLong;

impl TooLong {
    fn of_array(self) -> ProtocolError {
        ProtocolError::new("too big mbulk count string")
    }

    fn of_bulk(self) -> ProtocolError {
        ProtocolError::new("too big bulk count string")
    }
}

fn unexpected(byte: u8) -> ProtocolError {
    // The byte as it is, whatever it is.
    ProtocolError([b"Protocol error: expected '$', got '", &[byte][..], b"'"].concat())
}

/// The number after the mark at `begin`, and where its line ends: `None` while it is not complete, a number of `None`
/// if it is none.
#[inline]
fn head(bytes: &[u8], begin: usize) -> Result<Option<(Option<i64>, usize)>, TooLong> {
    // What nearly every head is: a mark, one to five digits, an end of line.
    let mut number = 0;
    for (index, &byte) in bytes.iter().skip(begin + 1).take(6).enumerate() {
        match byte {
            b'0'..=b'9' if index == 0 || number > 0 => number = 10 * number + i64::from(byte - b'0'),
            b'\r' if index > 0 => {
                let end = begin + index + 3;
                return Ok((bytes.len() >= end).then_some((Some(number), end)));
            }
            _ => break,
        }
    }
    let rest = bytes.get(begin..).unwrap_or_default();
    let Some(size) = rest.iter().take(LINE_SIZE_MAX + 2).position(|&byte| byte == b'\r') else {
        return if rest.len() > LINE_SIZE_MAX { Err(TooLong) } else { Ok(None) };
    };
    if rest.len() < size + 2 {
        return Ok(None);
    }
    Ok(Some((rest.get(1..size).and_then(integer), begin + size + 2)))
}

/// Splits a line into words: at blanks, but not within quotes. Whether the quotes are balanced.
pub fn split_words(line: &[u8], words: &mut Vec<u8>, spans: &mut Vec<Span>) -> bool {
    // Redis reads it as a C string.
    let line = &line[..line.iter().position(|&byte| byte == 0).unwrap_or(line.len())];
    let is_blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C);
    let mut at = 0;
    loop {
        while at < line.len() && is_blank(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return true;
        }
        let begin = words.len() as u32;
        while at < line.len() && !is_blank(line[at]) {
            let end = match line[at] {
                b'"' => double_quoted(line, at + 1, words),
                b'\'' => single_quoted(line, at + 1, words),
                byte => {
                    words.push(byte);
                    at += 1;
                    continue;
                }
            };
            // A closing quote ends the word.
            match end {
                Some(end) if line.get(end).is_none_or(|&byte| is_blank(byte)) => at = end,
                _ => return false,
            }
        }
        spans.push((begin, words.len() as u32));
    }
}

fn double_quoted(line: &[u8], mut at: usize, words: &mut Vec<u8>) -> Option<usize> {
    loop {
        match (line.get(at)?, line.get(at + 1)) {
            (b'"', _) => return Some(at + 1),
            (b'\\', Some(b'x')) if hex(line, at + 2).is_some() => {
                words.push(hex(line, at + 2)?);
                at += 4;
            }
            (b'\\', Some(&escaped)) => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            (&byte, _) => {
                words.push(byte);
                at += 1;
            }
        }
    }
}

fn single_quoted(line: &[u8], mut at: usize, words: &mut Vec<u8>) -> Option<usize> {
    loop {
        match (line.get(at)?, line.get(at + 1)) {
            (b'\'', _) => return Some(at + 1),
            (b'\\', Some(b'\'')) => {
                words.push(b'\'');
                at += 2;
            }
            (&byte, _) => {
                words.push(byte);
                at += 1;
            }
        }
    }
}

fn hex(line: &[u8], at: usize) -> Option<u8> {
    let digits = line.get(at..at + 2)?;
    let value = |digit: u8| (digit as char).to_digit(16);
    Some((value(digits[0])? * 16 + value(digits[1])?) as u8)
}

/// What the fuzz target does with an input.
#[cfg(test)]
#[path = "../../../fuzz/entry/resp.rs"]
mod entry;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commands(bytes: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, String> {
        let mut parser = Parser::default();
        let (mut found, mut rest) = (Vec::new(), bytes);
        loop {
            match parser.parse(rest, true).map_err(|error| String::from_utf8_lossy(&error.0).into_owned())? {
                Parsed::Incomplete => return Ok(found),
                Parsed::Nothing(size) => rest = &rest[size..],
                Parsed::Command(size) => {
                    found.push(parser.arguments(rest).iter().map(<[u8]>::to_vec).collect());
                    rest = &rest[size..];
                }
            }
        }
    }

    fn words(line: &str) -> Vec<String> {
        let found = commands(line.as_bytes()).expect("balanced");
        found.concat().into_iter().map(|word| String::from_utf8(word).expect("text")).collect()
    }

    #[test]
    fn lines_are_split_as_redis_splits_them() {
        assert_eq!(words("  set  a\tb \r\n"), ["set", "a", "b"]);
        assert_eq!(words("set \"a b\" 'c d'\n"), ["set", "a b", "c d"]);
        assert_eq!(words("\"\\x41\\n\\\"\\q\" '\\'\\n'\n"), ["A\n\"q", "'\\n"]);
        assert_eq!(words("a\"b c\"\n"), ["ab c"]);
        assert_eq!(words("\"\"\n"), [""]);
        assert_eq!(words("\r\n\n  \r\nping\r\n"), ["ping"]);
        for line in ["\"a\n", "'a\n", "\"a\"b\n", "'a'b\n", "\"a\\\n"] {
            assert_eq!(commands(line.as_bytes()), Err("Protocol error: unbalanced quotes in request".into()), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_called_as_redis_calls_it() {
        let long = "1".repeat(LINE_SIZE_MAX + 1);
        for (bytes, error) in [
            ("*x\r\n".to_owned(), "invalid multibulk length"),
            ("*2147483648\r\n".into(), "invalid multibulk length"),
            ("*01\r\n".into(), "invalid multibulk length"),
            ("*1\r\n$-1\r\n".into(), "invalid bulk length"),
            ("*1\r\n$x\r\n".into(), "invalid bulk length"),
            ("*1\r\n$4194305\r\n".into(), "invalid bulk length"),
            ("*1\r\n:1\r\n".into(), "expected '$', got ':'"),
            (format!("*{long}"), "too big mbulk count string"),
            (format!("*1\r\n${long}"), "too big bulk count string"),
            (long.clone(), "too big inline request"),
        ] {
            assert_eq!(commands(bytes.as_bytes()), Err(format!("Protocol error: {error}")));
        }
        assert_eq!(commands(b"*2147483647\r\n$4\r\nping\r\n"), Ok(Vec::new()), "many arguments are to come");
        assert_eq!(commands(b"*-1\r\n*0\r\n*1\r\n$4\r\nping\r\n"), Ok(vec![vec![b"ping".to_vec()]]));
    }

    #[test]
    fn little_is_taken_from_a_stranger() {
        let refusal = |bytes: &[u8]| {
            Parser::default().parse(bytes, false).err().map(|error| String::from_utf8_lossy(&error.0).into_owned())
        };
        assert_eq!(refusal(b"*11\r\n").as_deref(), Some("Protocol error: unauthenticated multibulk length"));
        assert_eq!(refusal(b"*1\r\n$16385\r\n").as_deref(), Some("Protocol error: unauthenticated bulk length"));
        assert_eq!(refusal(b"*1\r\n$16384\r\n"), None);
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    /// Something that may stand in what a client sends: commands and pieces of them, heads at their bounds, lines,
    /// quotes.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let command = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..12);
        let sizes = prop_oneof![
            -2..20i64,
            prop::sample::select(vec![
                9999,
                10_000,
                16_384,
                16_385,
                1 << 20,
                (1 << 20) + 1,
                4 << 20,
                (4 << 20) + 1,
                i64::MAX
            ])
        ];
        let mark = prop::sample::select(b"*$:+-%".to_vec());
        let end = prop::sample::select(vec![&b"\r\n"[..], b"\n", b"\r", b"\r\r\n", b"", b" \r\n"]);
        let words = prop::sample::select(vec![
            "PING",
            "set",
            "\"a b\"",
            "'",
            "\"",
            "\\x41",
            "'a\\'b'",
            "\"\\xzz\"",
            " ",
            "\t",
            "\0",
        ]);
        prop_oneof![
            4 => command.prop_map(|command| encode(&command)),
            3 => (mark, sizes, end.clone()).prop_map(|(mark, size, end)| {
                [&[mark][..], size.to_string().as_bytes(), end].concat()
            }),
            2 => (prop::collection::vec(words, 0..6), end).prop_map(|(words, end)| {
                [words.join(" ").as_bytes(), end].concat()
            }),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        /// The fuzz target's entry, for where there is no fuzzer.
        #[test]
        fn commands_are_the_same_in_whatever_pieces_they_arrive(
            choice in any::<u8>(),
            pieces in prop::collection::vec(piece(), 0..8),
        ) {
            entry::check(&[&[choice][..], &pieces.concat()].concat());
        }
    }

    proptest! {
        #[test]
        fn commands_come_back_however_they_are_cut(
            sent in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..6), 1..6),
            cuts in prop::collection::vec(1..40usize, 1..80),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|command| encode(command)).collect();
            let mut parser = Parser::default();
            let (mut found, mut begin, mut end) = (Vec::new(), 0, 0);
            for cut in cuts.iter().cycle() {
                if let Parsed::Command(size) = parser.parse(&bytes[begin..end], true).expect("sound") {
                    found.push(parser.arguments(&bytes[begin..]).iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
                    begin += size;
                    continue;
                }
                if end == bytes.len() {
                    break;
                }
                end = (end + cut).min(bytes.len());
            }
            prop_assert_eq!(found, sent);
            prop_assert_eq!(begin, bytes.len());
        }

        #[test]
        fn bytes_that_are_no_command_do_no_harm(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$\r\n0123456789-\"'\\x ".to_vec())], 0..300),
        ) {
            let mut parser = Parser::default();
            let mut rest = &bytes[..];
            while let Ok(Parsed::Nothing(size) | Parsed::Command(size)) = parser.parse(rest, true) {
                prop_assert!(size > 0);
                let _ = parser.arguments(rest).iter().map(<[u8]>::len).sum::<usize>();
                rest = &rest[size..];
            }
        }
    }
}
