//! The conversation between a replica and its host.

use bytes::Bytes;
use lockstep_proto::message::MessageHeader;
use thiserror::Error;

use crate::status::Role;

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message from another server. The host has checked header and body (`MessageHeader::check`, `check_body`, and
    /// `check_requests` for a prepare). A prepare's bytes may be longer than the message: padded for the journal.
    Message(Bytes),
    /// A prepare handed out by [`Output::WriteJournal`] is durable.
    JournalWritten {
        /// Its op.
        op: u64,
        /// The checksum of its header. After a truncation, the same op may be written again with another prepare.
        checksum: u128,
    },
    /// The answer to [`Output::ReadJournal`]; `None` if the journal no longer holds the op.
    JournalRead {
        /// For whom it was asked.
        peer: u8,
        /// The op.
        op: u64,
        /// The prepare.
        message: Option<Bytes>,
    },
    /// The journal has dropped everything below this op.
    JournalTrimmed {
        /// The lowest op that it still holds, or will hold next.
        first_op: u64,
    },
    /// The superblock with this view and log_view is durable: the answer to [`Output::PersistView`].
    ViewDurable {
        /// The view.
        view: u64,
        /// The log_view.
        log_view: u64,
    },
    /// Messages to this server can be sent from now on; what was sent before may be lost.
    PeerConnected(u8),
    /// Messages to this server are lost from now on.
    PeerDisconnected(u8),
    /// Everything that has arrived so far has been handed over: a batch may be closed now.
    TurnEnd,
    /// Time has passed. Needed once [`crate::Replica::next_timeout_ns`] is reached; harmless at any time.
    Tick,
}

/// What a replica wants done. To be carried out in the order given.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message to another server. May be lost; the first `header.size` bytes are the message.
    Send {
        /// To whom.
        to: u8,
        /// The message.
        message: Bytes,
    },
    /// Write a prepare to the journal, and say when it is durable. Writes may be in flight side by side.
    WriteJournal {
        /// Its op.
        op: u64,
        /// The prepare, padded to whole sectors by the pool it comes from.
        message: Bytes,
    },
    /// Drop everything above this op from the journal, after all writes handed out before and before anything handed
    /// out later. It must be durable before a view is persisted that was asked for later.
    TruncateJournal {
        /// The last op to keep.
        op: u64,
    },
    /// Read a prepare back, for a backup that lags.
    ReadJournal {
        /// For whom; comes back with the answer.
        peer: u8,
        /// The op.
        op: u64,
    },
    /// Apply a prepare: once for each op, in order. At the primary the requests in it are to be answered now: they are
    /// committed, and the ack policy is met.
    Apply {
        /// The prepare.
        message: Bytes,
        /// On how many servers it is known to be durable. 0 at a backup.
        copies: u8,
    },
    /// Reads with this ticket or an earlier one may be answered from the state after every `Apply` given out so far.
    ReadsConfirmed {
        /// The ticket.
        ticket: u64,
    },
    /// Make view and log_view durable, and say when they are.
    PersistView {
        /// The view.
        view: u64,
        /// The last view in which the log was normal.
        log_view: u64,
    },
    /// This server's role has changed.
    RoleChanged(Role),
    /// The primary's in-sync set has changed.
    InSyncChanged {
        /// The set, a bit per server.
        mask: u8,
    },
    /// A backup needs an op that the journal no longer holds. Said once, until it has caught up.
    BackupBehind {
        /// The backup.
        peer: u8,
        /// The op it needs.
        op: u64,
    },
    /// The primary says that its journal no longer holds what this backup needs. Said once.
    Behind {
        /// The op that is needed.
        op: u64,
        /// Where the primary's journal begins.
        first_op: u64,
    },
    /// Something has happened that cannot happen among servers and disks that work. The process must end.
    Fatal {
        /// What, for a person.
        reason: String,
    },
}

/// Why a request cannot be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another server is the primary.
    #[error("not the primary of view {view}")]
    NotPrimary {
        /// The view.
        view: u64,
    },
    /// Batch and pipeline are full. There will be room once a prepare has been answered.
    #[error("the pipeline is full")]
    Busy,
    /// This server has not joined a view yet.
    #[error("not part of a view yet")]
    Recovering,
}

/// What a replica starts from: what its host found on the disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The durable view.
    pub view: u64,
    /// The durable log_view.
    pub log_view: u64,
    /// Highest op that the journal shows to be committed: `commit` of its last header, or the checkpoint's op. The host
    /// has applied everything up to it.
    pub commit: u64,
    /// Checksum of the header of the prepare at `commit`; 0 when that is 0.
    pub commit_checksum: u128,
    /// Timestamp of the prepare at `commit`.
    pub commit_timestamp_ns: u64,
    /// Revision of the first request after `commit`; 1 when that is 0.
    pub revision: u64,
    /// Headers of the last prepares up to `commit`, in order, as far back as the journal goes and no further than it is
    /// useful: [`crate::Replica`] keeps what it needs.
    pub headers: Vec<MessageHeader>,
    /// The prepares after `commit`, in order.
    pub suffix: Vec<Bytes>,
    /// The lowest op in the journal, or the next one if it is empty.
    pub journal_first_op: u64,
}

impl Recovered {
    /// What a freshly formatted server starts from.
    pub fn fresh() -> Recovered {
        Recovered { revision: 1, journal_first_op: 1, ..Recovered::default() }
    }
}
