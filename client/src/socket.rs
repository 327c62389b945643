//! One connection to one server: hello, topology, then frames in both directions.

use std::time::Duration;

use lockstep_proto::{
    Operation, Status,
    decoder::StreamDecoder,
    hello::{Answer, Hello, Topology},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use zerocopy::IntoBytes;

use crate::error::{Failure, FailureKind};

/// Bytes taken from the kernel at one time. At most this much is held beyond one incomplete reply.
pub(crate) const PIECE_SIZE: usize = 64 << 10;

/// A connection on which the server has said welcome.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) address: String,
    pub(crate) stream: TcpStream,
    pub(crate) topology: Topology,
    /// Holds what came after the topology.
    pub(crate) decoder: StreamDecoder,
}

impl Socket {
    /// Connects, says hello and waits for the topology, all within `connect_timeout`.
    pub(crate) async fn open(address: &str, hello: Hello, connect_timeout: Duration) -> Result<Socket, Failure> {
        let deadline = Instant::now() + connect_timeout;
        let stream = match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(FailureKind::Connect(error.to_string()).at(address)),
            Err(_) => return Err(FailureKind::ConnectTimeout(connect_timeout).at(address)),
        };
        match timeout_at(deadline, Socket::greet(stream, address, hello)).await {
            Ok(result) => result.map_err(|kind| kind.at(address)),
            Err(_) => Err(FailureKind::HelloTimeout(connect_timeout).at(address)),
        }
    }

    async fn greet(mut stream: TcpStream, address: &str, hello: Hello) -> Result<Socket, FailureKind> {
        // Frames are coalesced here already; the kernel's waiting for more would only add to the latency.
        stream.set_nodelay(true)?;
        stream.write_all(hello.as_bytes()).await?;
        let mut decoder = StreamDecoder::new();
        let mut piece = [0; 1024];
        let topology = loop {
            let size = stream.read(&mut piece).await?;
            if size == 0 {
                return Err(FailureKind::Closed);
            }
            decoder.push(&piece[..size]);
            if let Some(topology) = decoder.next_with(Topology::parse)? {
                break topology;
            }
        };
        if topology.answer != Answer::Welcome {
            return Err(FailureKind::Hello { answer: topology.answer, message: topology.text });
        }
        Ok(Socket { address: address.to_owned(), stream, topology, decoder })
    }
}

/// An answer to the one question of a connection.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: Status,
    pub(crate) body: Vec<u8>,
}

impl Socket {
    /// Sends one request and waits for its reply; the connection has then done its duty.
    pub(crate) async fn exchange(mut self, frame: &[u8], operation: Operation) -> Result<Response, FailureKind> {
        self.stream.write_all(frame).await?;
        let mut piece = [0; 4096];
        loop {
            while let Some(reply) = self.decoder.next_reply()? {
                if reply.is_keep_alive() {
                    continue;
                }
                if reply.operation() != operation {
                    let got = reply.operation();
                    let message = format!("reply to {got:?} where one to {operation:?} was due");
                    return Err(FailureKind::Protocol(message));
                }
                return Ok(Response { status: reply.status(), body: reply.body().to_vec() });
            }
            let size = self.stream.read(&mut piece).await?;
            if size == 0 {
                return Err(FailureKind::Closed);
            }
            self.decoder.push(&piece[..size]);
        }
    }
}

/// Frames on their way to the kernel: many requests, one write.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

/// Beyond this many bytes no further request is encoded until the kernel has taken some. Large enough for a write to be
/// worth its system call, small enough to keep many large values from being held twice.
const OUTGOING_MAX: usize = 256 << 10;

impl Outgoing {
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() - self.written < OUTGOING_MAX
    }

    /// Where to append frames.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(2 * OUTGOING_MAX);
            self.written = 0;
        }
        &mut self.bytes
    }

    /// What the kernel has not taken yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The kernel has taken `size` more bytes.
    pub(crate) fn advance(&mut self, size: usize) {
        self.written += size;
        assert!(self.written <= self.bytes.len());
        // A peer that always takes a little less than there is must not make the buffer grow for ever.
        if self.written > OUTGOING_MAX {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_bytes_leave_in_order_and_the_buffer_stays_small_when_they_are_taken_bit_by_bit() {
        let mut outgoing = Outgoing::default();
        let (mut put, mut taken) = (0u8, 0u8);
        for _ in 0..200_000 {
            if outgoing.has_room() {
                for _ in 0..16 {
                    outgoing.buffer().push(put);
                    put = put.wrapping_add(1);
                }
            }
            let size = outgoing.rest().len().min(15);
            for &byte in &outgoing.rest()[..size] {
                assert_eq!(byte, taken);
                taken = taken.wrapping_add(1);
            }
            outgoing.advance(size);
            assert!(outgoing.bytes.len() <= 2 * OUTGOING_MAX + 16);
        }
    }
}
