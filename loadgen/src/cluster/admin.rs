//! A GET on a server's admin port.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Answers longer than this are cut off; metrics are some tens of kilobytes.
const ANSWER_LEN_MAX: u64 = 8 * 1024 * 1024;

/// Asks `address` for `path` and gives the status code and the body.
///
/// # Errors
///
/// When there is no answer within `timeout` per read, or it is not HTTP.
pub fn get(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // HTTP/1.0 without keep-alive: the answer comes unchunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{address} does not speak HTTP")))
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next()?.strip_prefix("HTTP/")?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Serves one connection with a fixed answer and gives back what was asked.
    fn serve(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            // All of it: closing a connection with unread bytes would reset it and throw the answer away.
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request comes");
                asked.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).expect("it is taken");
            String::from_utf8_lossy(&asked).into_owned()
        });
        (address, server)
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn status_and_body_are_told_apart() {
        let (address, server) = serve("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nrecovering\r\n\r\nshard 1\n");
        let (status, body) = get(address, "/healthz", TIMEOUT).expect("an answer comes");
        assert_eq!((status, body.as_str()), (503, "recovering\r\n\r\nshard 1\n"));
        assert!(server.join().expect("the server ends").starts_with("GET /healthz HTTP/1.0\r\n"));
    }

    #[test]
    fn something_that_is_not_http_is_an_error() {
        let (address, server) = serve("SSH-2.0-what\r\n\r\n");
        assert_eq!(get(address, "/", TIMEOUT).expect_err("not HTTP").kind(), io::ErrorKind::InvalidData);
        server.join().expect("the server ends");
    }
}
