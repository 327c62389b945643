//! The few io_uring operations that tokio-uring has no method for.
//!
//! Each takes ownership of everything the kernel will look at and gives it back with the result. Dropping a returned
//! future does not cancel the operation; tokio-uring then keeps the data until the kernel is done with it.

use std::{future::Future, io, marker::PhantomData, os::fd::AsRawFd, rc::Rc, time::Duration};

use bytes::{Buf, Bytes};
use io_uring::{cqueue, opcode, squeue, types};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot, buf::IoBufMut};

struct GiveBack<D>(PhantomData<D>);

impl<D> OneshotOutputTransform for GiveBack<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, completion: cqueue::Entry) -> Self::Output {
        let result = completion.result();
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) };
        (result, data)
    }
}

/// Queues `entry`; it is submitted with everything else that this turn queues.
///
/// # Safety
///
/// Every pointer in `entry` must point into memory that `data` owns on the heap, and that stays where it is when `data`
/// itself is moved, until `data` is dropped; every file descriptor in it must stay open as long.
unsafe fn queue<D: Unpin + 'static>(data: D, entry: squeue::Entry) -> impl Future<Output = (io::Result<u32>, D)> {
    UnsubmittedOneshot::new(data, GiveBack(PhantomData), entry).submit()
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When it completes.
    Durable,
    /// Once the file is synced.
    Later,
}

/// Writes all of `bytes` at `offset` of `file`. Address, size and offset must be
/// multiples of what direct I/O on the file needs.
///
/// # Errors
///
/// What the kernel says; a short write is an error too, since part of a direct write is of no use.
pub async fn write_at(file: Rc<impl AsRawFd + 'static>, bytes: Bytes, offset: u64, sync: Sync) -> io::Result<()> {
    let size = bytes.len() as u32;
    let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.as_ptr(), size)
        .offset(offset)
        .rw_flags(match sync {
            Sync::Durable => libc::RWF_DSYNC,
            Sync::Later => 0,
        })
        .build();
    // SAFETY: `Bytes` keeps its storage at one address for as long as a handle to it lives, and the handle and the
    // descriptor's owner are handed to the operation.
    let (result, _) = unsafe { queue((file, bytes), entry) }.await;
    match result? {
        written if written == size => Ok(()),
        written => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("only {written} of {size} bytes could be written at offset {offset}: is there no space left?"),
        )),
    }
}

/// Reads `size` bytes at `offset` of `file` into `buffer`.
///
/// # Errors
///
/// What the kernel says; fewer bytes than asked for are an error too.
///
/// # Panics
///
/// If the buffer is smaller than `size`.
pub async fn read_at<B: IoBufMut + Unpin>(
    file: Rc<impl AsRawFd + 'static>,
    mut buffer: B,
    size: usize,
    offset: u64,
) -> io::Result<B> {
    assert!(buffer.bytes_total() >= size);
    let entry =
        opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.stable_mut_ptr(), size as u32).offset(offset).build();
    // SAFETY: `IoBufMut` promises a stable address while the buffer is owned by the operation, and the buffer has room
    // for `size` bytes.
    let (result, (_, buffer)) = unsafe { queue((file, buffer), entry) }.await;
    match result? as usize {
        read if read == size => Ok(buffer),
        read => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("short read: {read} of {size} bytes at offset {offset}"),
        )),
    }
}

/// Completes after `duration`, to the precision of the kernel's high-resolution timers.
pub async fn sleep(duration: Duration) {
    let time = Box::new(types::Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    let entry = opcode::Timeout::new(&raw const *time).build();
    // SAFETY: the boxed time stays where it is when the box is moved into the operation.
    let (_expired, _) = unsafe { queue(time, entry) }.await;
}

/// What is sent in one go, and what tells the kernel where it is: one send after another uses the same memory.
pub struct Gather {
    /// The pieces, in order.
    pub pieces: Vec<Bytes>,
    vectors: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
}

impl Gather {
    /// To send these pieces.
    pub fn of(pieces: Vec<Bytes>) -> Gather {
        // SAFETY: all zeroes is a valid `msghdr`: no name, no vectors, no control data.
        let message = Box::new(unsafe { std::mem::zeroed() });
        Gather { pieces, vectors: Vec::new(), message }
    }

    /// Lets the message be as many of the pieces as one operation takes.
    fn point(&mut self) -> *const libc::msghdr {
        let to_vector =
            |piece: &Bytes| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
        self.vectors.clear();
        self.vectors.extend(self.pieces.iter().take(PIECES_MAX).map(to_vector));
        self.message.msg_iov = self.vectors.as_mut_ptr();
        self.message.msg_iovlen = self.vectors.len();
        &raw const *self.message
    }
}

/// Largest number of pieces in one send: the kernel's `UIO_MAXIOV`.
const PIECES_MAX: usize = 1024;

/// Sends all pieces, in order, in as few operations as the kernel allows. Gives the memory back, without pieces.
///
/// # Errors
///
/// What the kernel says. How much was sent is then not known, and the connection is of no further use.
pub async fn send_all(socket: Rc<impl AsRawFd + 'static>, mut gather: Gather) -> io::Result<Gather> {
    gather.pieces.retain(|piece| !piece.is_empty());
    while !gather.pieces.is_empty() {
        let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), gather.point())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        // SAFETY: the message header is boxed, the vectors and the pieces are on the heap and owned by `gather`, and
        // `socket` keeps its descriptor open.
        let (result, (_, back)) = unsafe { queue((socket.clone(), gather), entry) }.await;
        gather = back;
        skip(&mut gather.pieces, result? as usize);
    }
    Ok(gather)
}

/// Drops the first `sent` bytes of the pieces.
fn skip(pieces: &mut Vec<Bytes>, mut sent: usize) {
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        if sent < piece.len() {
            piece.advance(sent);
            break;
        }
        sent -= piece.len();
        whole += 1;
    }
    pieces.drain(..whole);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn more_pieces_than_one_operation_takes_arrive_in_order_and_their_memory_serves_again() {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().expect("two ends");
        let piece = |i: usize| Bytes::from(vec![i as u8; i % 7]);
        let all: Vec<u8> = (0..3 * PIECES_MAX).map(piece).collect::<Vec<_>>().concat();
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            far.read_to_end(&mut received).map(|_| received)
        });
        tokio_uring::start(async {
            let near = Rc::new(near);
            let mut gather = Gather::of((0..3 * PIECES_MAX).map(piece).collect());
            for _ in 0..2 {
                gather = send_all(near.clone(), gather).await.expect("the other end reads");
                assert!(gather.pieces.is_empty());
                gather.pieces.extend((0..3 * PIECES_MAX).map(piece));
            }
        });
        let received = reader.join().expect("no panic").expect("it reads");
        assert!(received == [all.clone(), all].concat(), "{} bytes arrived", received.len());
    }

    #[test]
    fn skip_drops_whole_and_partial_pieces() {
        let pieces = || vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de"), Bytes::from_static(b"f")];
        for sent in 0..=6 {
            let mut rest = pieces();
            skip(&mut rest, sent);
            assert_eq!(rest.concat(), b"abcdef"[sent..].to_vec(), "{sent} bytes sent");
        }
    }
}
