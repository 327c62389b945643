//! What is shown, and how.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use serde_json::{Map, Value, json};

use super::arguments::Format;

/// What follows a value that is printed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailing {
    /// A newline: more follows, or a person reads it.
    Newline,
    /// Nothing: the output is the value.
    Nothing,
}

/// Prints answers on standard output and everything else on standard error.
pub struct Printer {
    format: Format,
    trailing: Trailing,
}

impl Printer {
    /// A printer for one format.
    pub fn new(format: Format, trailing: Trailing) -> Self {
        Printer { format, trailing }
    }

    /// Whether answers are JSON objects.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints a value as it is.
    pub fn value(&self, value: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(value)?;
        if self.trailing == Trailing::Newline {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Prints a line of text.
    pub fn line(&self, line: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{line}")
    }

    /// Prints one answer as a JSON object on a line of its own.
    pub fn json(&self, object: &Value) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{object}")
    }

    /// Prints whichever of the two the format asks for.
    pub fn answer(&self, text: &str, object: &Value) -> io::Result<()> {
        if self.is_json() { self.json(object) } else { self.line(text) }
    }

    /// Says something that is no answer.
    pub fn note(&self, text: &str) {
        // When standard error is closed, there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Says what went wrong.
    pub fn error(&self, text: &str) {
        let (on, off) = if has_color(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(io::stderr(), "{on}error:{off} {text}");
    }
}

/// Whether colour is welcome on a stream: a terminal that can do it, and no NO_COLOR.
pub fn has_color(stream: &impl IsTerminal) -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_unwanted && !is_dumb()
}

/// Whether the terminal says that it only takes lines of text.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}

/// Bytes as text that fits on one line and can be told apart: control bytes, backslashes and what is not UTF-8 are written
/// as in the prompt's double quotes.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                control if control.is_control() => {
                    let mut encoded = [0; 4];
                    control.encode_utf8(&mut encoded).bytes().for_each(|byte| push_hex_escape(byte, &mut text));
                }
                other => text.push(other),
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_hex_escape(byte, &mut text));
    }
    text
}

fn push_hex_escape(byte: u8, text: &mut String) {
    let _ = write!(text, "\\x{byte:02x}");
}

/// The answer about a key that does not exist.
pub fn missing(key: &[u8]) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key);
    object.insert("value".to_owned(), Value::Null);
    object.into()
}

/// Adds bytes to a JSON object: as `name` if they are UTF-8, else in hexadecimal as `name_hex`.
pub fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), json!(text)),
        Err(_) => {
            let mut hex = String::with_capacity(2 * bytes.len());
            for byte in bytes {
                let _ = write!(hex, "{byte:02x}");
            }
            object.insert(format!("{name}_hex"), json!(hex))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_fits_on_one_line_and_loses_nothing() {
        assert_eq!(escape("a\tb\nc\\d é".as_bytes()), "a\\tb\\nc\\\\d é");
        assert_eq!(escape(b"\xff\x00\x1b[0m"), "\\xff\\x00\\x1b[0m");
        assert_eq!(escape("\u{9b}x".as_bytes()), "\\xc2\\x9bx");
    }

    #[test]
    fn json_holds_text_as_it_is_and_other_bytes_in_hexadecimal() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", "é".as_bytes());
        put_bytes(&mut object, "value", b"\xff\x01");
        assert_eq!(Value::from(object), json!({"key": "é", "value_hex": "ff01"}));
    }
}
