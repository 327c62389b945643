//! What the shards of a server send each other: commands for keys that another shard owns, and their answers.
//!
//! What a turn has for another shard is one parcel, handed over under one lock and with at most one wake-up. The
//! receiving shard waits for it with a read on its ring.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use lockstep_proto::Status;
use rustix::event::{EventfdFlags, eventfd};

use crate::shard::connections::ConnectionRef;

/// Bytes of commands that may wait in a shard's mailbox; whoever has more for it waits.
pub const WAITING_BYTES_MAX: usize = 32 << 20;

/// A command for another shard.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who asks, in the shard that the parcel is from.
    pub connection: ConnectionRef,
    /// The number that the answer is to carry.
    pub sequence: u64,
    /// Where its request ends in the parcel's bytes.
    pub end: usize,
    /// Of a program that begins with checks: the revisions at which their keys were looked at.
    pub revisions: Box<[u64]>,
}

/// An answer for another shard.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Who has asked, in the shard that the parcel is for.
    pub connection: ConnectionRef,
    /// The number of what was asked.
    pub sequence: u64,
    /// How it ended.
    pub status: Status,
    /// Number of durable copies of a write.
    pub copies: u8,
    /// The revision that a program was carried out at, or has seen last.
    pub revision: u64,
    /// Where its body ends in the parcel's bytes.
    pub end: usize,
}

/// Something else that another shard is told.
#[derive(Debug)]
pub enum Notice {
    /// How a command of this connection ends will not be known: close it.
    Cut(ConnectionRef),
    /// Close all connections of the front door: this server has lost the primary's role.
    CutAll,
    /// Close this connection: `CLIENT KILL`.
    Kill(ConnectionRef),
    /// A message for listeners.
    Deliver(super::pubsub::Delivery),
    /// Begin a checkpoint.
    Checkpoint,
    /// Let another server become primary.
    MovePrimary(Option<u8>),
}

/// What one shard has for another after a turn.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The shard that sends it.
    pub from: u16,
    /// Requests of the asks, then bodies of the answers.
    pub ask_bytes: Vec<u8>,
    /// Commands.
    pub asks: Vec<Ask>,
    /// Bodies of the answers.
    pub answer_bytes: Vec<u8>,
    /// Answers.
    pub answers: Vec<Answer>,
    /// Op up to which the sender has applied its log: no write among the answers is of a later one.
    pub applied: u64,
    /// Everything else.
    pub notices: Vec<Notice>,
}

impl Parcel {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.answers.is_empty() && self.notices.is_empty()
    }
}

/// Where a shard gets its parcels.
#[derive(Debug)]
pub struct Mailbox {
    parcels: Mutex<Vec<Parcel>>,
    wake: OwnedFd,
    /// Bytes of commands that the shard has not taken in yet.
    waiting_bytes: AtomicUsize,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    ///
    /// If the kernel has no event descriptor left.
    pub fn new() -> io::Result<Mailbox> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Mailbox { parcels: Mutex::default(), wake, waiting_bytes: AtomicUsize::new(0) })
    }

    /// Whether commands may be put in.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes.load(Relaxed) < WAITING_BYTES_MAX
    }

    /// Puts a parcel in and wakes the shard, unless it is awake or about to be.
    pub fn post(&self, parcel: Parcel) {
        self.waiting_bytes.fetch_add(parcel.ask_bytes.len(), Relaxed);
        let mut parcels = self.lock();
        let was_empty = parcels.is_empty();
        parcels.push(parcel);
        drop(parcels);
        if was_empty {
            // Fails only if the counter would overflow, and then the shard is woken anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Tells a shard something, from any thread.
    pub fn notify(&self, notice: Notice) {
        self.post(Parcel { notices: vec![notice], ..Parcel::default() });
    }

    /// Takes all parcels out.
    pub fn take(&self) -> Vec<Parcel> {
        std::mem::take(&mut *self.lock())
    }

    /// Notes that so many bytes of commands have been taken in.
    pub fn taken(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Parcel>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Mailbox {
    /// Readable, as 8 bytes, when a parcel has come.
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_come_out_in_order_and_the_shard_is_woken_once() {
        let mailbox = Mailbox::new().expect("an event descriptor");
        mailbox.post(Parcel { from: 1, ask_bytes: vec![0; 10], ..Parcel::default() });
        mailbox.notify(Notice::CutAll);
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&mailbox, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
        let parcels = mailbox.take();
        assert_eq!(
            parcels.iter().map(|parcel| (parcel.from, parcel.notices.len())).collect::<Vec<_>>(),
            [(1, 0), (0, 1)]
        );
        assert!(mailbox.take().is_empty());
        mailbox.waiting_bytes.store(WAITING_BYTES_MAX, Relaxed);
        assert!(!mailbox.has_room());
        mailbox.taken(10);
        assert!(mailbox.has_room());
    }
}
