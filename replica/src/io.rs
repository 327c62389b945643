//! The conversation between a replica and its host.

use bytes::Bytes;
use lockstep_proto::message::MessageHeader;
use thiserror::Error;

use crate::{record::ViewRecord, status::Role};

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
        /// If the journal should hold the op, but what it holds is damaged: the checksum of the header that was there.
        rotten: Option<u128>,
    },
    /// The journal has dropped everything below this op.
    JournalTrimmed {
        /// The lowest op that it still holds, or will hold next.
        first_op: u64,
    },
    /// The superblock with this record is durable: the answer to [`Output::PersistView`], in the order asked.
    ViewDurable(ViewRecord),
    /// Messages to this server can be sent from now on; what was sent before may be lost.
    PeerConnected(u8),
    /// Messages to this server are lost from now on.
    PeerDisconnected(u8),
    /// Everything that has arrived so far has been handed over: a batch may be closed now.
    TurnEnd,
    /// An administrator, or a server that is about to stop, wants another server to be primary. Answered by
    /// [`Output::HandoverEnded`].
    Handover {
        /// Which one; `None` for the backup that has caught up best.
        to: Option<u8>,
    },
    /// Enough journal has been used: at the primary, this asks all replicas for a checkpoint at the next op
    /// ([`lockstep_proto::message::FLAG_CHECKPOINT`] in its prepare). Nothing happens at a backup.
    CheckpointDue,
    /// A checkpoint of this server is in force.
    CheckpointDurable {
        /// The last op that it holds.
        op: u64,
        /// Content hash of the state.
        state_hash: u128,
    },
    /// The answer to [`Output::ReadCheckpoint`].
    CheckpointRead {
        /// For whom it was asked.
        peer: u8,
        /// The checkpoint's op: also if the newest was asked for.
        op: u64,
        /// Where the bytes begin in the file.
        offset: u64,
        /// Size of the file, in bytes.
        size: u64,
        /// At most [`lockstep_proto::limits::CHECKPOINT_CHUNK_SIZE_MAX`] bytes; `None` if there is no such checkpoint
        /// (any more).
        bytes: Option<Bytes>,
    },
    /// The bytes of an [`Output::WriteCheckpoint`] have been taken: the next ones may follow.
    CheckpointWritten {
        /// The checkpoint's op.
        op: u64,
        /// Where the bytes began.
        offset: u64,
    },
    /// The answer to [`Output::InstallCheckpoint`]: the checkpoint is whole and in force, the state is what it says,
    /// and the journal is empty and begins at the op after it.
    CheckpointInstalled {
        /// The last op that it holds.
        op: u64,
        /// Checksum of that op's header.
        checksum: u128,
        /// Revision of the first request after it.
        revision: u64,
        /// Timestamp of the prepare at it.
        timestamp_ns: u64,
        /// Content hash of the state.
        state_hash: u128,
    },
    /// The other answer to [`Output::InstallCheckpoint`]: what was received is damaged, and has been removed.
    CheckpointRejected {
        /// The checkpoint's op.
        op: u64,
    },
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
    /// Write a prepare over what the journal holds of it and cannot be read: it has the same header.
    RepairJournal {
        /// Its op.
        op: u64,
        /// The prepare, padded to whole sectors.
        message: Bytes,
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
    /// Make this record durable, behind everything that was asked for before, and say when it is.
    PersistView(ViewRecord),
    /// This server's role has changed.
    RoleChanged(Role),
    /// The primary's in-sync set has changed.
    InSyncChanged {
        /// The set, a bit per server.
        mask: u8,
    },
    /// A backup needs an op that the journal no longer holds. Said once for each op that it needs, until it has caught
    /// up: a checkpoint at that op or a later one is of use to it.
    BackupBehind {
        /// The backup.
        peer: u8,
        /// The op it needs.
        op: u64,
    },
    /// The primary says that its journal no longer holds what this backup needs: it will fetch a checkpoint. Said once.
    Behind {
        /// The op that is needed.
        op: u64,
        /// Where the primary's journal begins.
        first_op: u64,
        /// The primary's newest checkpoint.
        checkpoint_op: u64,
    },
    /// Read a piece of this server's checkpoint for another server. Its file is to be kept for as long as that one goes
    /// on asking.
    ReadCheckpoint {
        /// For whom; comes back with the answer.
        peer: u8,
        /// The checkpoint's op; 0: the newest one.
        op: u64,
        /// Where in the file to begin, in bytes.
        offset: u64,
    },
    /// Keep a piece of another server's checkpoint. Pieces come in order and without gaps; one at offset 0 begins anew,
    /// and whatever was kept of another one is to be dropped.
    WriteCheckpoint {
        /// The checkpoint's op.
        op: u64,
        /// Where in the file the bytes belong.
        offset: u64,
        /// Size of the whole file, in bytes.
        size: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// All pieces have been handed over: check the file, make it this server's checkpoint, begin the journal anew
    /// behind it, and take its state for this server's state. What was handed out to be applied before is older, and is
    /// of no interest then.
    InstallCheckpoint {
        /// The checkpoint's op.
        op: u64,
        /// Size of the file, in bytes.
        size: u64,
    },
    /// The answer to [`Input::Handover`].
    HandoverEnded {
        /// Whether this server is no longer the primary.
        is_done: bool,
    },
    /// Checkpoints of the same op differ, and no majority says which is right. An alarm.
    HashMismatch {
        /// The checkpoint's op.
        op: u64,
        /// The backup whose state differs from this primary's.
        peer: u8,
        /// This server's content hash.
        own_hash: u128,
        /// The backup's.
        peer_hash: u128,
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
    /// What the superblock says.
    pub record: ViewRecord,
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
    /// Op of the durable checkpoint; 0 if there is none.
    pub checkpoint_op: u64,
    /// Content hash of the state at the checkpoint.
    pub checkpoint_hash: u128,
}

impl Recovered {
    /// What a freshly formatted server starts from.
    pub fn fresh() -> Recovered {
        Recovered { revision: 1, journal_first_op: 1, ..Recovered::default() }
    }
}
