//! What the commands of a program answer.

use crate::operation::byte_enum;

byte_enum! {
    /// A word that is answered as such.
    pub enum Word {
        /// The key does not exist.
        None = 0,
        /// The key holds a string.
        String = 1,
    }
}

impl Word {
    /// The word as Redis writes it.
    pub const fn text(self) -> &'static str {
        match self {
            Word::None => "none",
            Word::String => "string",
        }
    }
}

byte_enum! {
    /// Why one command of a program was not carried out.
    pub enum ErrorCode {
        /// The value, or an argument, is not a whole number of 64 bits.
        NotAnInteger = 1,
        /// The value, or an argument, is not a number.
        NotAFloat = 2,
        /// The sum leaves the range of 64 bits.
        Overflow = 3,
        /// The sum is not a finite number.
        NotFinite = 4,
        /// The value would become larger than the bound.
        StringTooLong = 5,
        /// The key does not exist.
        NoSuchKey = 6,
        /// The time of expiry of a GETEX is out of range.
        InvalidExpireTime = 7,
        /// The results do not fit one reply. What the program changes is changed.
        ResultTooLarge = 8,
        /// The command, or those before it in the program or batch, look at more keys than one turn may.
        TooMuchWork = 9,
    }
}

impl ErrorCode {
    /// The text as Redis writes it, without the leading minus.
    pub const fn text(self) -> &'static str {
        match self {
            ErrorCode::NotAnInteger => "ERR value is not an integer or out of range",
            ErrorCode::NotAFloat => "ERR value is not a valid float",
            ErrorCode::Overflow => "ERR increment or decrement would overflow",
            ErrorCode::NotFinite => "ERR increment would produce NaN or Infinity",
            ErrorCode::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            ErrorCode::NoSuchKey => "ERR no such key",
            ErrorCode::InvalidExpireTime => "ERR invalid expire time in 'getex' command",
            ErrorCode::ResultTooLarge => "ERR the reply is larger than this server's bound of 4194304 bytes",
            ErrorCode::TooMuchWork => "ERR too much to look at in one go: use SCAN, and smaller transactions",
        }
    }
}

const NIL: u8 = 0;
const OK: u8 = 1;
const INTEGER: u8 = 2;
const BULK: u8 = 3;
const WORD: u8 = 4;
const ARRAY: u8 = 5;
const ERROR: u8 = 6;
const ABORTED: u8 = 7;

/// One result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing is there.
    Nil,
    /// Done.
    Ok,
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(&'a [u8]),
    /// A word.
    Word(Word),
    /// Results in a row.
    Array(Items<'a>),
    /// The command was not carried out.
    Error(ErrorCode),
    /// A check failed and nothing of the program was carried out.
    Aborted,
}

/// The results of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The results in order. As many as [`Items::len`] says, unless the bytes are malformed.
    pub fn iter(&self) -> Results<'a> {
        Results(self.bytes)
    }
}

/// Results in order. Ends early if the bytes are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Results<'a>(&'a [u8]);

/// The results in the body of the reply to a transact or query: one per command, or `Aborted` alone.
pub fn results(body: &[u8]) -> Results<'_> {
    Results(body)
}

impl<'a> Results<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn take_size(&mut self) -> Option<usize> {
        self.take().map(|bytes| u32::from_le_bytes(*bytes) as usize)
    }

    fn take_bytes(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn take_value(&mut self) -> Option<Value<'a>> {
        let [tag] = *self.take()?;
        Some(match tag {
            NIL => Value::Nil,
            OK => Value::Ok,
            INTEGER => Value::Integer(i64::from_le_bytes(*self.take()?)),
            BULK => {
                let size = self.take_size()?;
                Value::Bulk(self.take_bytes(size)?)
            }
            WORD => Value::Word(Word::from_wire(self.take::<1>()?[0])?),
            ARRAY => {
                let (count, size) = (self.take_size()?, self.take_size()?);
                Value::Array(Items { count, bytes: self.take_bytes(size)? })
            }
            ERROR => Value::Error(ErrorCode::from_wire(self.take::<1>()?[0])?),
            ABORTED => Value::Aborted,
            _ => return None,
        })
    }
}

impl<'a> Iterator for Results<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let value = self.take_value();
        if value.is_none() {
            self.0 = &[];
        }
        value
    }
}

/// Appends results to the body of a reply, up to a bound.
///
/// What does not fit is left out, and [`ResultWriter::is_full`] says so from then on: whoever writes a result that may be large asks
/// now and then, and [`ResultWriter::end_command`] puts an error in the place of the whole result.
pub struct ResultWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Size of `out` that is not to be passed.
    end: usize,
    command: usize,
    is_full: bool,
}

/// Size of an error among the results, in bytes.
const ERROR_SIZE: usize = 2;

impl<'a> ResultWriter<'a> {
    /// Appends to `out` at most `size_max` bytes, results of `commands` commands.
    ///
    /// # Panics
    ///
    /// If that is not even enough for an error in the place of each.
    pub fn new(out: &'a mut Vec<u8>, size_max: usize, commands: usize) -> ResultWriter<'a> {
        let room = size_max.checked_sub(ERROR_SIZE * commands).expect("room for an error per command");
        let start = out.len();
        ResultWriter { out, end: start + room, command: start, is_full: false }
    }

    /// Whether something was left out since the last command ended.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Ends the result of one command.
    #[inline]
    pub fn end_command(&mut self) {
        if self.is_full {
            self.out.truncate(self.command);
            self.out.extend_from_slice(&[ERROR, ErrorCode::ResultTooLarge.to_wire()]);
            // The room for errors was set aside.
            self.end += ERROR_SIZE;
            self.is_full = false;
        }
        self.command = self.out.len();
    }

    #[inline]
    fn push(&mut self, head: &[u8], body: &[u8]) {
        if self.is_full || head.len() + body.len() > self.end - self.out.len() {
            self.is_full = true;
            return;
        }
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(body);
    }

    /// Nothing is there.
    pub fn nil(&mut self) {
        self.push(&[NIL], &[]);
    }

    /// Done.
    pub fn ok(&mut self) {
        self.push(&[OK], &[]);
    }

    /// A number.
    pub fn integer(&mut self, number: i64) {
        self.push(&[INTEGER], &number.to_le_bytes());
    }

    /// 1 or 0.
    pub fn boolean(&mut self, is_so: bool) {
        self.integer(i64::from(is_so));
    }

    /// Bytes, at most 4 GiB.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        let [a, b, c, d] = (bytes.len() as u32).to_le_bytes();
        self.push(&[BULK, a, b, c, d], bytes);
    }

    /// Bytes, or nil.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// A word.
    pub fn word(&mut self, word: Word) {
        self.push(&[WORD, word.to_wire()], &[]);
    }

    /// The command was not carried out.
    pub fn error(&mut self, error: ErrorCode) {
        self.push(&[ERROR, error.to_wire()], &[]);
    }

    /// The command was not carried out to its end: what it has answered so far is replaced.
    pub fn replace_by_error(&mut self, error: ErrorCode) {
        self.out.truncate(self.command);
        self.is_full = false;
        self.error(error);
    }

    /// A check failed.
    pub fn aborted(&mut self) {
        self.push(&[ABORTED], &[]);
    }

    /// Begins an array, whose items are what is pushed until [`ResultWriter::end_array`] gets the number that is returned.
    pub fn begin_array(&mut self) -> usize {
        self.push(&[ARRAY, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
        self.out.len()
    }

    /// Ends the array that was begun at `start`, of `count` items.
    pub fn end_array(&mut self, start: usize, count: usize) {
        if self.is_full {
            return;
        }
        let size = (self.out.len() - start) as u32;
        self.out[start - 8..start - 4].copy_from_slice(&(count as u32).to_le_bytes());
        self.out[start - 4..start].copy_from_slice(&size.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_result_is_read_as_it_was_written() {
        let mut out = b"before".to_vec();
        let mut writer = ResultWriter::new(&mut out, 1000, 8);
        writer.nil();
        writer.end_command();
        writer.ok();
        writer.end_command();
        writer.integer(-7);
        writer.end_command();
        writer.bulk(b"");
        writer.end_command();
        writer.word(Word::String);
        writer.end_command();
        let array = writer.begin_array();
        writer.bulk(b"a");
        let inner = writer.begin_array();
        writer.nil();
        writer.integer(i64::MIN);
        writer.end_array(inner, 2);
        writer.end_array(array, 2);
        writer.end_command();
        writer.error(ErrorCode::Overflow);
        writer.end_command();
        writer.aborted();
        writer.end_command();
        let values: Vec<Value<'_>> = results(&out[6..]).collect();
        let expected = [Value::Nil, Value::Ok, Value::Integer(-7), Value::Bulk(b""), Value::Word(Word::String)];
        assert_eq!(values[..5], expected);
        assert_eq!(values[6..], [Value::Error(ErrorCode::Overflow), Value::Aborted]);
        let Value::Array(items) = values[5] else { panic!("{:?}", values[5]) };
        assert_eq!((items.len(), items.iter().next()), (2, Some(Value::Bulk(b"a"))));
        let Some(Value::Array(items)) = items.iter().nth(1) else { panic!("an array in the array") };
        assert!(items.iter().eq([Value::Nil, Value::Integer(i64::MIN)]));
        for end in 6..out.len() {
            assert!(results(&out[6..end]).count() < 8);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_the_next_command_is_answered() {
        let mut out = Vec::new();
        let mut writer = ResultWriter::new(&mut out, 30, 3);
        writer.bulk(&[b'x'; 10]);
        writer.end_command();
        let array = writer.begin_array();
        writer.bulk(b"is cut off, and with it the array");
        assert!(writer.is_full());
        writer.integer(1);
        writer.end_array(array, 2);
        writer.end_command();
        assert!(!writer.is_full());
        writer.ok();
        writer.end_command();
        let expected = [Value::Bulk(&[b'x'; 10]), Value::Error(ErrorCode::ResultTooLarge), Value::Ok];
        assert!(results(&out).eq(expected));
        assert!(out.len() <= 30);
    }
}
