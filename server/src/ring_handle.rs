//! Entering a ring that belongs to tokio-uring.
//!
//! To submit and wait in one system call, the kernel must be told exactly how many entries are queued: told of more
//! than there are, it would not wait. tokio-uring does not say, so the number is read where the kernel reads it, in the
//! memory that the ring shares with it.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::null_mut,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed},
    },
};

use rustix::{
    io::Errno,
    io_uring::{IORING_OFF_SQ_RING, IoringEnterFlags, io_uring_enter, io_uring_params, io_uring_setup},
    mm::{MapFlags, ProtFlags, mmap},
    param::page_size,
};

/// The ring of the calling thread.
#[derive(Clone, Copy)]
pub struct RingHandle {
    fd: BorrowedFd<'static>,
    /// How many entries the kernel has taken, ever, modulo 2^32.
    head: &'static AtomicU32,
    /// How many entries have been queued, ever, modulo 2^32.
    tail: &'static AtomicU32,
}

/// What came of entering the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entered {
    /// All that was queued is submitted, and there is a completion if one was waited for.
    Done,
    /// The kernel was interrupted, or is short of memory or of room for completions, which taking some makes.
    TryAgain,
}

impl RingHandle {
    /// A handle for `fd`.
    ///
    /// # Errors
    ///
    /// If the ring's memory cannot be looked at, or is not laid out as the kernel lays out a ring of `entries`
    /// submission entries.
    ///
    /// # Safety
    ///
    /// `fd` must be a ring of the calling thread that is never closed.
    pub unsafe fn new(fd: BorrowedFd<'static>, entries: u32) -> io::Result<Self> {
        // The counters lie at the same place in each ring of a kernel, which it tells whoever makes one.
        let mut layout = io_uring_params::default();
        // SAFETY: the parameters are a local variable, and nothing is done with the new ring but to close it.
        drop(unsafe { io_uring_setup(1, &mut layout) }?);
        let offsets = layout.sq_off;
        let size = page_size();
        let is_within = |offset: u32| (offset as usize).is_multiple_of(4) && offset as usize + 4 <= size;
        if ![offsets.head, offsets.tail, offsets.ring_entries].into_iter().all(is_within) {
            return Err(io::Error::other("the ring's counters are not in its first page"));
        }
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let page = unsafe { mmap(null_mut(), size, ProtFlags::READ, MapFlags::SHARED, fd, IORING_OFF_SQ_RING) }?;
        // SAFETY: the page is never unmapped, each place is aligned and within it, and all that write there,
        // tokio-uring and the kernel, write these numbers as a whole.
        let at = |offset: u32| unsafe { &*page.byte_add(offset as usize).cast::<AtomicU32>() };
        if at(offsets.ring_entries).load(Relaxed) != entries {
            return Err(io::Error::other("the ring is not the one that was made"));
        }
        Ok(Self { fd, head: at(offsets.head), tail: at(offsets.tail) })
    }

    /// The number of entries that are queued and not yet submitted.
    pub fn queued(self) -> u32 {
        // The tail is moved by this thread only.
        self.tail.load(Relaxed).wrapping_sub(self.head.load(Acquire))
    }

    /// Submits all that is queued, without waiting.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, for a reason that will not pass.
    pub fn submit(self) -> io::Result<Entered> {
        match self.queued() {
            0 => Ok(Entered::Done),
            queued => self.enter(queued, 0, IoringEnterFlags::empty()),
        }
    }

    /// Submits all that is queued and waits until there is a completion that has not been taken.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, for a reason that will not pass.
    pub fn submit_and_wait(self) -> io::Result<Entered> {
        self.enter(self.queued(), 1, IoringEnterFlags::GETEVENTS)
    }

    fn enter(self, queued: u32, completions: u32, flags: IoringEnterFlags) -> io::Result<Entered> {
        // SAFETY: only entries are submitted that tokio-uring has queued, which keeps what they point to.
        match unsafe { io_uring_enter(self.fd, queued, completions, flags) } {
            Ok(taken) if taken == queued => Ok(Entered::Done),
            Ok(_) | Err(Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(Entered::TryAgain),
            Err(error) => Err(error.into()),
        }
    }
}
