//! A reader of RESP2 and RESP3 of the tests' own, so that a mistake in the server's code is not made twice.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// One reply, as it was on the wire: two are equal if, and only if, their bytes are.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The first byte.
    pub kind: u8,
    /// The rest.
    pub body: Body,
}

/// What follows the first byte of a reply.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// One line.
    Line(Vec<u8>),
    /// A length, and so many bytes.
    Bulk(Vec<u8>),
    /// The length -1.
    Null,
    /// A count, and so many replies (twice as many for a map).
    Items(Vec<Reply>),
}

impl Reply {
    /// The text of a line or bulk.
    pub fn text(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Line(text) | Body::Bulk(text) => Some(text),
            Body::Null | Body::Items(_) => None,
        }
    }

    /// The number of an integer reply.
    pub fn integer(&self) -> Option<i64> {
        if self.kind != b':' {
            return None;
        }
        std::str::from_utf8(self.text()?).ok()?.parse().ok()
    }

    /// What an array, set, push or map holds.
    pub fn items(&self) -> Option<&[Reply]> {
        match &self.body {
            Body::Items(items) => Some(items),
            _ => None,
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }
}

/// Like redis-cli shows it, with the first byte, so that kinds can be told apart.
impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = char::from(self.kind);
        match &self.body {
            Body::Line(text) => write!(out, "{kind}{}", shown(text)),
            Body::Bulk(text) => write!(out, "{kind}\"{}\"", shown(text)),
            Body::Null => write!(out, "{kind}-1"),
            Body::Items(items) => write!(out, "{kind}{items:?}"),
        }
    }
}

/// Bytes as a person can read them; the middle of a long text is left out.
pub fn shown(text: &[u8]) -> String {
    if text.len() <= 200 {
        return text.escape_ascii().to_string();
    }
    let (begin, end) = (&text[..80], &text[text.len() - 20..]);
    format!("{}...({} bytes)...{}", begin.escape_ascii(), text.len(), end.escape_ascii())
}

/// A request as clients send it.
pub fn encode(command: &[Vec<u8>], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for argument in command {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The server has closed the connection.
    Closed,
    /// Nothing came for a long time.
    Silent,
    /// What came is no RESP.
    Nonsense(String),
}

/// A reply, or why there is none.
pub type Answer = Result<Reply, Broken>;

/// A connection to a server that speaks RESP.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    consumed: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// As the socket says.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, input: Vec::new(), consumed: 0 })
    }

    /// Sends bytes. That the other side has closed shows when its answer is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next reply.
    ///
    /// # Errors
    ///
    /// When there is none, and why.
    pub fn receive(&mut self) -> Answer {
        loop {
            let mut at = self.consumed;
            if let Some(reply) = parse(&self.input, &mut at).map_err(Broken::Nonsense)? {
                self.consumed = at;
                if self.consumed > 64 * 1024 || self.consumed == self.input.len() {
                    self.input.drain(..self.consumed);
                    self.consumed = 0;
                }
                return Ok(reply);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Broken::Closed),
                Ok(size) => self.input.extend_from_slice(&chunk[..size]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Broken::Silent);
                }
                Err(_) => return Err(Broken::Closed),
            }
        }
    }

    /// The next reply, if it comes within `patience`.
    ///
    /// # Errors
    ///
    /// When there is none, and why.
    #[allow(dead_code, reason = "the tests of the front door use it")]
    pub fn receive_within(&mut self, patience: Duration) -> Answer {
        let _ = self.stream.set_read_timeout(Some(patience));
        let answer = self.receive();
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        answer
    }

    /// Sends one command and reads one reply.
    ///
    /// # Errors
    ///
    /// When there is none, and why.
    pub fn ask(&mut self, words: &[&str]) -> Answer {
        let command: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut bytes = Vec::new();
        encode(&command, &mut bytes);
        self.send(&bytes);
        self.receive()
    }
}

/// The reply that begins at `at`, which is moved behind it; `None` if it is not all there.
///
/// # Errors
///
/// If it is no RESP: in words.
pub fn parse(input: &[u8], at: &mut usize) -> Result<Option<Reply>, String> {
    let Some(&kind) = input.get(*at) else { return Ok(None) };
    let line = &input[*at + 1..];
    let Some(length) = line.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = &line[..length];
    *at += 1 + length + 2;
    let number = || -> Result<i64, String> {
        let text = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        text.ok_or_else(|| format!("no length: {}{}", char::from(kind), shown(line)))
    };
    let body = match kind {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Body::Line(line.to_vec()),
        b'$' | b'!' | b'=' | b'*' if number()? < 0 => Body::Null,
        b'$' | b'!' | b'=' => {
            let end = *at + number()? as usize;
            let Some(text) = input.get(*at..end + 2) else { return Ok(None) };
            if !text.ends_with(b"\r\n") {
                return Err(format!("a bulk does not end where it says: {}", shown(text)));
            }
            *at = end + 2;
            Body::Bulk(text[..text.len() - 2].to_vec())
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let count = number()? * if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            let mut items = Vec::new();
            for _ in 0..count {
                let Some(item) = parse(input, at)? else { return Ok(None) };
                items.push(item);
            }
            Body::Items(items)
        }
        _ => return Err(format!("no RESP: {}{}", char::from(kind).escape_default(), shown(line))),
    };
    Ok(Some(Reply { kind, body }))
}
