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

struct Gather {
    pieces: Vec<Bytes>,
    vectors: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
}

/// Largest number of pieces in one send: the kernel's `UIO_MAXIOV`.
const PIECES_MAX: usize = 1024;

/// Sends all pieces, in order, in as few operations as the kernel allows.
///
/// # Errors
///
/// What the kernel says. How much was sent is then not known, and the connection is of no further use.
pub async fn send_all(socket: Rc<impl AsRawFd + 'static>, mut pieces: Vec<Bytes>) -> io::Result<()> {
    pieces.retain(|piece| !piece.is_empty());
    while !pieces.is_empty() {
        let rest = pieces.split_off(pieces.len().min(PIECES_MAX));
        let mut vectors: Vec<libc::iovec> = pieces
            .iter()
            .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
            .collect();
        // SAFETY: all zeroes is a valid `msghdr`: no name, no vectors, no control data.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len();
        let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const *message)
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        let gather = Gather { pieces, vectors, message };
        // SAFETY: the message header is boxed, the vectors and the pieces are on the heap and owned by `gather`, and
        // `socket` keeps its descriptor open.
        let (result, (_, gather)) = unsafe { queue((socket.clone(), gather), entry) }.await;
        let sent = result? as usize;
        pieces = gather.pieces;
        drop((gather.vectors, gather.message));
        skip(&mut pieces, sent);
        pieces.extend(rest);
    }
    Ok(())
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
    use super::*;

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
