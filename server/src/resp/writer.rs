//! Answers in the Redis protocol, in the version that the client has chosen.

use std::io::Write;

/// Which version of the protocol a client is answered in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What every client speaks.
    #[default]
    Resp2,
    /// What `HELLO 3` asks for: with maps, sets, doubles, booleans, pushes and a null of its own.
    Resp3,
}

/// Appends answers to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Where to.
    pub out: &'a mut Vec<u8>,
    /// In which version. A command that changes it (HELLO, RESET) changes it here, too.
    pub version: Version,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, version: Version) -> Writer<'a> {
        Writer { out, version }
    }

    /// Whether the client speaks version 3.
    #[inline]
    pub fn is_resp3(&self) -> bool {
        self.version == Version::Resp3
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. It holds no line break.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.line(b'+', text.as_bytes());
    }

    /// An error. `text` begins with its code (`ERR ...`) and without the minus; line breaks at its end are dropped and
    /// others become spaces, as in Redis.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// An error whose text may hold what a client has sent.
    pub fn error_bytes(&mut self, text: &[u8]) {
        let end = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        let text = &text[..end];
        self.out.push(b'-');
        self.out.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// A string of any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// No value, where a string would stand.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(if self.is_resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No value, where an array would stand.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(if self.is_resp3() { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// Begins an array of `count` elements, which follow.
    pub fn array(&mut self, count: usize) {
        self.number(b'*', count as i64);
    }

    /// Begins a map of `count` pairs, which follow; in version 2 an array of twice as many elements.
    pub fn map(&mut self, count: usize) {
        if self.is_resp3() { self.number(b'%', count as i64) } else { self.number(b'*', 2 * count as i64) }
    }

    /// Begins a set of `count` elements, which follow; in version 2 an array.
    pub fn set(&mut self, count: usize) {
        self.number(if self.is_resp3() { b'~' } else { b'*' }, count as i64);
    }

    /// Begins what was not asked for, of `count` elements, which follow; in version 2 an array.
    pub fn push(&mut self, count: usize) {
        self.number(if self.is_resp3() { b'>' } else { b'*' }, count as i64);
    }

    /// A truth value; in version 2 the integer 1 or 0.
    pub fn boolean(&mut self, is_true: bool) {
        let text: &[u8] = match (self.is_resp3(), is_true) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        };
        self.out.extend_from_slice(text);
    }

    /// A floating-point number, as its shortest decimal text; in version 2 a string.
    pub fn double(&mut self, number: f64) {
        let text = match number {
            number if number.is_infinite() => if number > 0.0 { "inf" } else { "-inf" }.to_owned(),
            number if number.is_nan() => "nan".to_owned(),
            number => format!("{number}"),
        };
        if self.is_resp3() { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
    }

    /// A text for people, of a format of three letters (`txt`, `mkd`); in version 2 a string.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        debug_assert_eq!(format.len(), 3);
        if !self.is_resp3() {
            return self.bulk(text);
        }
        self.number(b'=', text.len() as i64 + 4);
        self.out.extend_from_slice(format.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// What is in the version's form already.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn line(&mut self, mark: u8, text: &[u8]) {
        self.out.push(mark);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn number(&mut self, mark: u8, number: i64) {
        self.out.push(mark);
        match number {
            0..=9 => self.out.push(b'0' + number as u8),
            10..=99 => self.out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]),
            100..=999 => self.out.extend_from_slice(&[
                b'0' + (number / 100) as u8,
                b'0' + (number / 10 % 10) as u8,
                b'0' + (number % 10) as u8,
            ]),
            number => write!(self.out, "{number}").expect("a vector takes everything"),
        }
        self.out.extend_from_slice(b"\r\n");
    }
}
