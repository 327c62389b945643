//! One direction of one connection: a queue of stamped pieces.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

/// A direction stops reading when this much is under way, and lets TCP slow the sender down.
pub(super) const QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What was read at one time, or the end of the stream.
#[derive(Debug)]
enum Piece {
    Data { bytes: Vec<u8>, written: usize },
    End,
}

/// The queue of one direction.
#[derive(Debug, Default)]
pub(super) struct Line {
    pieces: VecDeque<Piece>,
    queued_bytes: usize,
    due: usize,
    ended: bool,
    blocked: bool,
}

impl Line {
    /// Whether the source should be watched for more.
    pub(super) fn wants_input(&self) -> bool {
        !self.ended && self.queued_bytes < QUEUED_BYTES_MAX
    }

    /// Whether the sink refused bytes that are due.
    pub(super) fn wants_output(&self) -> bool {
        self.blocked
    }

    /// Whether the stream has ended and all of it has been passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.pieces.is_empty()
    }

    #[cfg(test)]
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Reads what has arrived and says how many pieces it made; the caller calls [`release`](Self::release) as many
    /// times when their time has come.
    pub(super) fn fill(&mut self, source: &mut TcpStream, scratch: &mut [u8]) -> io::Result<usize> {
        let mut made = 0;
        while self.wants_input() {
            match source.read(scratch) {
                Ok(0) => {
                    self.ended = true;
                    self.pieces.push_back(Piece::End);
                    made += 1;
                }
                Ok(len) => {
                    self.queued_bytes += len;
                    self.pieces.push_back(Piece::Data { bytes: scratch[..len].to_vec(), written: 0 });
                    made += 1;
                    // A short read means that the socket is empty: the next one would only say so.
                    if len < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    }

    /// The oldest piece that was not due yet is due now.
    pub(super) fn release(&mut self) {
        self.due += 1;
    }

    /// Writes all pieces that are due, as far as the sink takes them.
    pub(super) fn flush(&mut self, sink: &mut TcpStream) -> io::Result<()> {
        self.blocked = false;
        while self.due > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            match piece {
                Piece::End => match sink.shutdown(Shutdown::Write) {
                    // The other side may have closed everything before.
                    Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                    _ => {}
                },
                Piece::Data { bytes, written } => match sink.write(&bytes[*written..]) {
                    Ok(len) => {
                        *written += len;
                        self.queued_bytes -= len;
                        if *written < bytes.len() {
                            continue;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.blocked = true;
                        return Ok(());
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                },
            }
            self.pieces.pop_front();
            self.due -= 1;
        }
        Ok(())
    }
}
