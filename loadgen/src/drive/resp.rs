//! RESP, as far as a load needs it: Lockstep's Redis front door, Redis and Valkey take the same requests.
//!
//! There are no sessions: a write whose connection breaks before its answer may or may not have happened, and is not
//! sent again. Answers come in the order of the requests, which is how they find them.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::limits::VALUE_SIZE_MAX;
use tokio_uring::net::TcpStream;

use super::RunSpec;
use super::handshake::{HandshakeError, exchange, open_stream, within};

/// What the servers under load speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Lockstep's own.
    #[default]
    Native,
    /// The Redis protocol.
    Resp,
}

/// The password of servers that speak RESP. It shows in no log and in no result.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

impl Password {
    /// A password of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(..)")
    }
}

/// How the servers are spoken to.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) protocol: Protocol,
    password: Option<Password>,
}

impl Access {
    pub(super) fn of(spec: &RunSpec) -> Self {
        Self { protocol: spec.protocol, password: spec.resp_password.clone() }
    }
}

/// The longest line that begins a reply: an error text.
const LINE_SIZE_MAX: usize = 64 * 1024;

/// A reply that a load can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RespReply<'a> {
    /// A line such as `+OK`.
    Simple(&'a [u8]),
    /// `-ERR ...`, without the sign.
    Error(&'a [u8]),
    /// `:7`.
    Integer(i64),
    /// A value.
    Bulk(&'a [u8]),
    /// No value.
    Null,
}

/// What is no reply that a load can get.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reply to what was asked: '{0}'")]
pub(super) struct RespError(String);

/// The reply at the beginning of `bytes`, and its size; `None` if it is not all there.
///
/// # Errors
///
/// When the bytes are none.
#[inline]
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(RespReply<'_>, usize)>, RespError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let wrong = || RespError(bytes[..bytes.len().min(80)].escape_ascii().to_string());
    let Some(end) = bytes.windows(2).take(LINE_SIZE_MAX).position(|two| two == b"\r\n") else {
        return if bytes.len() > LINE_SIZE_MAX { Err(wrong()) } else { Ok(None) };
    };
    let line = &bytes[1..end];
    let number = || std::str::from_utf8(line).ok().and_then(|text| text.parse::<i64>().ok()).ok_or_else(wrong);
    let reply = match kind {
        b'+' => RespReply::Simple(line),
        b'-' => RespReply::Error(line),
        b':' => RespReply::Integer(number()?),
        b'_' => RespReply::Null,
        b'$' if number()? < 0 => RespReply::Null,
        b'$' => {
            // What a server sends in answer to a workload is never larger than what the workload writes.
            let size = usize::try_from(number()?).ok().filter(|size| *size <= VALUE_SIZE_MAX).ok_or_else(wrong)?;
            let begin = end + 2;
            let Some(text) = bytes.get(begin..begin + size + 2) else { return Ok(None) };
            return Ok(Some((RespReply::Bulk(&text[..size]), begin + size + 2)));
        }
        _ => return Err(wrong()),
    };
    Ok(Some((reply, end + 2)))
}

/// Appends a command.
#[inline]
pub(super) fn encode(words: &[&[u8]], out: &mut Vec<u8>) {
    prefix(b'*', words.len(), out);
    for word in words {
        prefix(b'$', word.len(), out);
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn prefix(kind: u8, number: usize, out: &mut Vec<u8>) {
    out.push(kind);
    if number < 10 {
        out.push(b'0' + number as u8);
    } else {
        // A vector takes everything.
        let _ = write!(out, "{number}");
    }
    out.extend_from_slice(b"\r\n");
}

/// `WAIT replicas milliseconds`; nothing for no replicas.
pub(super) fn wait_command(replicas: u32, patience: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    if replicas > 0 {
        let milliseconds = patience.as_millis().clamp(1, i64::MAX as u128);
        let words = [replicas.to_string(), milliseconds.to_string()];
        encode(&[b"WAIT", words[0].as_bytes(), words[1].as_bytes()], &mut bytes);
    }
    bytes
}

/// Connects, says the password if there is one, and asks whether this server takes writes; connecting and the rest may
/// take `patience` each.
///
/// # Errors
///
/// When it cannot be reached, speaks something else, or refuses.
pub(super) async fn reach_resp(
    access: &Access,
    address: SocketAddr,
    patience: Duration,
) -> Result<(Rc<TcpStream>, bool), HandshakeError> {
    let stream = open_stream(address, patience).await?;
    let mut question = Vec::new();
    if let Some(Password(password)) = &access.password {
        encode(&[b"AUTH", password], &mut question);
    }
    encode(&[b"INFO", b"replication"], &mut question);
    let parse_role = |bytes: &[u8]| -> Result<_, HandshakeError> {
        let mut skipped = 0;
        if access.password.is_some() {
            match read_answer(bytes)? {
                None => return Ok(None),
                Some((RespReply::Error(text), _)) => return Err(HandshakeError::Password(lossy(text))),
                Some((_, size)) => skipped = size,
            }
        }
        let Some((reply, size)) = read_answer(&bytes[skipped..])? else { return Ok(None) };
        let text = match reply {
            RespReply::Bulk(text) => text,
            RespReply::Error(text) if text.starts_with(b"NOAUTH") => return Err(HandshakeError::Password(lossy(text))),
            RespReply::Error(text) => return Err(HandshakeError::Resp(lossy(text))),
            other => return Err(HandshakeError::Resp(format!("{other:?}"))),
        };
        let is_primary = text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == b"role:master");
        Ok(Some((is_primary, skipped + size)))
    };
    let is_primary = within(&stream, patience, exchange(&stream, question, parse_role)).await??;
    Ok((stream, is_primary))
}

/// How many shards a server in cluster mode says that there are; 1 if it is in no such mode. With more of them it
/// answers -MOVED to requests for most keys.
///
/// # Errors
///
/// When it does not answer.
pub(super) async fn ask_cluster_size(stream: &Rc<TcpStream>, patience: Duration) -> Result<u64, HandshakeError> {
    let mut question = Vec::new();
    encode(&[b"CLUSTER", b"INFO"], &mut question);
    let parse_size = |bytes: &[u8]| -> Result<_, HandshakeError> {
        let Some((reply, size)) = read_answer(bytes)? else { return Ok(None) };
        // Whatever else it answers, an error most likely, it is no Redis Cluster.
        let RespReply::Bulk(text) = reply else { return Ok(Some((1, size))) };
        let field = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"cluster_size:"));
        let shards = field.and_then(|digits| std::str::from_utf8(digits.trim_ascii()).ok()?.parse().ok());
        Ok(Some((shards.unwrap_or(1), size)))
    };
    within(stream, patience, exchange(stream, question, parse_size)).await?
}

fn read_answer(bytes: &[u8]) -> Result<Option<(RespReply<'_>, usize)>, HandshakeError> {
    parse(bytes).map_err(|error| HandshakeError::Resp(error.to_string()))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let all: &[(&[u8], RespReply<'_>)] = &[
            (b"+OK\r\n", RespReply::Simple(b"OK")),
            (b"-ERR no\r\n", RespReply::Error(b"ERR no")),
            (b":-12\r\n", RespReply::Integer(-12)),
            (b"$5\r\na\r\nbc\r\n", RespReply::Bulk(b"a\r\nbc")),
            (b"$0\r\n\r\n", RespReply::Bulk(b"")),
            (b"$-1\r\n", RespReply::Null),
            (b"_\r\n", RespReply::Null),
        ];
        for (bytes, reply) in all {
            assert_eq!(parse(bytes), Ok(Some((*reply, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{:?}", &bytes[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [&b"*1\r\n+OK\r\n"[..], b"hello\r\n", b":x\r\n", b"$99999999999\r\n", b"$x\r\n", b"\0\r\n"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[b'+'; LINE_SIZE_MAX + 2]).is_err(), "a line without end");
    }

    #[test]
    fn commands_carry_any_bytes() {
        let mut out = Vec::new();
        encode(&[b"SET", b"a\r\n", &[0; 12]], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\na\r\n\r\n$12\r\n\0\0\0\0\0\0\0\0\0\0\0\0\r\n");
        assert_eq!(wait_command(2, Duration::from_secs(1)), b"*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$4\r\n1000\r\n");
        assert_eq!(wait_command(0, Duration::from_secs(1)), b"");
    }
}
