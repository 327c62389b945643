//! Replica messages: a 256-byte header, then a body.
//!
//! 256 bytes, not 128: the fields of normal operation alone take 144, view change needs more, and nothing is gained by
//! a smaller header, since a prepare on disk is padded to a sector and a prepare on the wire carries many requests.
//!
//! **Wire bytes are disk bytes**: a backup journals a prepare as it received it, and sends it on from the journal as it
//! is. A prepare's body is the request frames of its batch, end to end. The checksum of the header covers the checksum of
//! the body and the checksum of the parent, so the last header of a log vouches for the whole log before it.

use thiserror::Error;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use crate::{
    checksum::checksum_128,
    layout::layout,
    limits::{
        BATCH_OPS_MAX, CHECKPOINT_CHUNK_SIZE_MAX, COUNTER_MAX, DISK_FORMAT_VERSION, MESSAGE_SIZE_MAX, SERVERS_MAX,
    },
    operation::byte_enum,
    request::{Request, RequestHeader},
};

byte_enum! {
    /// What a replica message says.
    pub enum Command {
        /// Primary → backup: here is the next entry of the log. The only message with a life on disk.
        Prepare = 1,
        /// Backup → primary: I hold everything up to `op` durably; `parent` is the checksum of that op's header.
        PrepareOk = 2,
        /// Primary → backup: I am alive, this is committed, and please confirm read round `round`.
        Heartbeat = 3,
        /// Backup → primary: I am alive in your view and confirm read round `round`; durable up to `op`.
        HeartbeatOk = 4,
        /// Any → any: I miss the log from `op` on.
        RequestPrepare = 5,
        /// Whoever was asked for `op` → who asked: my journal begins at `commit` only; my newest checkpoint is at
        /// `checkpoint`.
        Behind = 6,
        /// New primary → all: I want to begin view `view`; send me your log's end.
        StartViewChange = 7,
        /// Any → new primary: my log's end; the body is the headers of my last prepares.
        DoViewChange = 8,
        /// New primary → all: view `view` has begun with the log up to `op`; the body is the headers of its last prepares.
        StartView = 9,
        /// Any → all: I am in view `view` and do not hear its primary. From the primary itself: I do not serve it any more.
        Suspect = 10,
        /// Primary → all: everything is in order, leave view `view` for view `op`, whose primary is to take over.
        Handover = 11,
        /// Wiped server → all: I know nothing; this is my incarnation. What are your views?
        Recovery = 12,
        /// Any → wiped server: these are my durable view and log_view; I know your incarnation, durably.
        RecoveryResponse = 13,
        /// Any → any: send me your checkpoint at `op` (0: the newest one) from byte `offset` on.
        RequestCheckpoint = 14,
        /// Any → any: a piece of the file of my checkpoint at `op`, which has `total_size` bytes; 0: I do not have it.
        CheckpointChunk = 15,
        /// Primary → backup: your state at op `checkpoint` differs from that of a majority.
        Diverged = 16,
    }
}

/// Flag of a prepare: every replica is to make a checkpoint of the state after it.
pub const FLAG_CHECKPOINT: u8 = 1;

/// Flag of a message whose sender's folder was formatted and has never been part of a view.
pub const FLAG_FRESH: u8 = 2;

layout! {
    /// Header of a replica message.
    pub struct MessageHeader: 256 {
        0 checksum: U128 = "XXH3-128 of the header from byte 16 to 256.",
        16 checksum_body: U128 = "XXH3-128 of the body; of no bytes when there is none.",
        32 parent: U128 = "Prepare: checksum of the header of the prepare before it. PrepareOk: of the header of `op`.",
        48 cluster: U128 = "The cluster.",
        64 size: U32 = "Size of the message, this header included, in bytes.",
        68 version: U16 = "Version of the on-disk format: prepares lie in the journal as they were sent.",
        70 command: u8 = "What the message says: a `Command`.",
        71 replica: u8 = "Who made it: for a prepare the primary that ordered it, else the sender.",
        72 view: U64 = "The view in which it was made.",
        80 op: U64 = "Position in the log. What it means is said at each `Command`.",
        88 commit: U64 = "Highest op that the sender knew to be committed when it made the message.",
        96 timestamp_ns: U64 = "Prepare: the primary's wall clock, ns since 1970, never running backwards. Decides expiry.",
        104 revision: U64 = "Prepare: log position, in requests, of the first request of the batch: its version.",
        112 request_count: U32 = "Prepare: number of requests in the body.",
        116 shard: U16 = "The shard, a replication group of its own.",
        118 in_sync: u8 = "From a primary: the in-sync set, a bit per server.",
        119 flags: u8 = "Prepare: `FLAG_CHECKPOINT`. From a server that has never been in a view: `FLAG_FRESH`. Else zero.",
        120 round: U64 = "Heartbeat, Prepare: the read round to confirm. HeartbeatOk: the round confirmed.",
        128 log_view: U64 = "View change: the last view in which the sender's log was normal.",
        136 checkpoint: U64 = "Op of the sender's last durable checkpoint.",
        144 vouch_op: U64 = "DoViewChange: highest op that the sender may have acknowledged in its log_view and lost. StartView: the end of the primary's log.",
        152 nonce: U64 = "A number that comes back in the answer: HeartbeatOk and StartView; Recovery and RecoveryResponse.",
        160 state_hash: U128 = "PrepareOk, HeartbeatOk, Diverged: content hash of the sender's state at `checkpoint`.",
        176 incarnations: [U64; 7] = "View change, recovery and PrepareOk: highest incarnation of each server that the sender knows, its own included.",
        232 offset: U64 = "RequestCheckpoint, CheckpointChunk: where in the checkpoint's file, in bytes.",
        240 total_size: U64 = "CheckpointChunk: size of the checkpoint's file, in bytes.",
        248 reserved: [u8; 8] = "Zero.",
    }
}

/// Why a replica message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The size is below the header's or beyond the bound.
    #[error("message size {0} is out of range")]
    Size(u32),
    /// The checksum of the header does not fit.
    #[error("checksum of the header does not match")]
    HeaderChecksum,
    /// The checksum of the body does not fit.
    #[error("checksum of the body does not match")]
    BodyChecksum,
    /// Another version of the on-disk format.
    #[error("messages of on-disk format version {0} are not supported (this build uses {DISK_FORMAT_VERSION})")]
    Version(u16),
    /// No such command.
    #[error("unknown command {0}")]
    UnknownCommand(u8),
    /// Another cluster.
    #[error("cluster {0:032x} is not ours")]
    Cluster(u128),
    /// Another shard.
    #[error("shard {0} is not ours")]
    Shard(u16),
    /// A server that does not exist.
    #[error("replica {0} does not exist")]
    Replica(u8),
    /// Bits that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A number that counting does not reach: beyond [`COUNTER_MAX`].
    #[error("a counter of {0} is out of range")]
    Counter(u64),
    /// A body where the command has none, or one that is not made of its requests or of whole headers.
    #[error("the body does not have the shape its command needs")]
    Body,
}

impl MessageHeader {
    /// A header with everything that does not depend on the command; checksums are set by [`MessageHeader::seal`].
    pub fn new(command: Command, cluster: u128, shard: u16, replica: u8, view: u64) -> MessageHeader {
        let mut header = MessageHeader::new_zeroed();
        header.command = command.to_wire();
        header.cluster = U128::new(cluster);
        header.shard = U16::new(shard);
        header.replica = replica;
        header.view = U64::new(view);
        header.version = U16::new(DISK_FORMAT_VERSION);
        header.size = U32::new(MessageHeader::SIZE as u32);
        header
    }

    fn new_zeroed() -> MessageHeader {
        zerocopy::FromZeros::new_zeroed()
    }

    /// Sets size and checksums for `body`. The last thing done to a header.
    ///
    /// # Panics
    ///
    /// If the message would be larger than [`MESSAGE_SIZE_MAX`].
    pub fn seal(&mut self, body: &[u8]) {
        let size = MessageHeader::SIZE + body.len();
        assert!(size <= MESSAGE_SIZE_MAX);
        self.size = U32::new(size as u32);
        self.checksum_body = U128::new(checksum_128(body));
        self.checksum = U128::new(self.header_checksum());
    }

    /// The checksum that the header should have.
    pub fn header_checksum(&self) -> u128 {
        checksum_128(&self.as_bytes()[16..])
    }

    /// The command. `None` if it is not known, which [`MessageHeader::check`] rules out.
    pub fn command(&self) -> Option<Command> {
        Command::from_wire(self.command)
    }

    /// Size of the body, in bytes. Bounded once the header has passed [`MessageHeader::check`].
    pub fn body_size(&self) -> usize {
        (self.size.get() as usize).saturating_sub(MessageHeader::SIZE)
    }

    /// Checks all that a header alone can tell, before a byte of the body is waited for.
    ///
    /// # Errors
    ///
    /// If the header is damaged, foreign or out of bounds.
    pub fn check(&self, cluster: u128, shard: u16) -> Result<Command, MessageError> {
        // The size comes before the checksum: it says how long to wait for the rest, whoever sent it.
        let size = self.size.get();
        if !(MessageHeader::SIZE..=MESSAGE_SIZE_MAX).contains(&(size as usize)) {
            return Err(MessageError::Size(size));
        }
        if self.header_checksum() != self.checksum.get() {
            return Err(MessageError::HeaderChecksum);
        }
        if self.version.get() != DISK_FORMAT_VERSION {
            return Err(MessageError::Version(self.version.get()));
        }
        let command = self.command().ok_or(MessageError::UnknownCommand(self.command))?;
        if self.cluster.get() != cluster {
            return Err(MessageError::Cluster(self.cluster.get()));
        }
        if self.shard.get() != shard {
            return Err(MessageError::Shard(self.shard.get()));
        }
        if self.replica >= SERVERS_MAX {
            return Err(MessageError::Replica(self.replica));
        }
        if self.flags & !(FLAG_CHECKPOINT | FLAG_FRESH) != 0
            || self.reserved != [0; 8]
            || self.in_sync >> SERVERS_MAX != 0
        {
            return Err(MessageError::Reserved);
        }
        let counters = [
            self.view,
            self.op,
            self.commit,
            self.timestamp_ns,
            self.revision,
            self.round,
            self.log_view,
            self.checkpoint,
            self.vouch_op,
            self.offset,
            self.total_size,
        ];
        if let Some(counter) = counters.iter().chain(&self.incarnations).find(|counter| counter.get() > COUNTER_MAX) {
            return Err(MessageError::Counter(counter.get()));
        }
        if !self.is_body_plausible(command) {
            return Err(MessageError::Body);
        }
        Ok(command)
    }

    /// Whether a body of this size can be what the command needs.
    fn is_body_plausible(&self, command: Command) -> bool {
        let body_size = self.body_size();
        let request_count = self.request_count.get() as usize;
        if request_count > BATCH_OPS_MAX {
            return false;
        }
        match command {
            Command::Prepare => {
                self.op.get() > 0 && request_count > 0 && body_size >= request_count * RequestHeader::SIZE
            }
            Command::DoViewChange | Command::StartView => body_size.is_multiple_of(MessageHeader::SIZE),
            Command::PrepareOk
            | Command::Heartbeat
            | Command::HeartbeatOk
            | Command::RequestPrepare
            | Command::Behind
            | Command::StartViewChange
            | Command::Suspect
            | Command::Handover
            | Command::Recovery
            | Command::RecoveryResponse
            | Command::RequestCheckpoint
            | Command::Diverged => body_size == 0,
            Command::CheckpointChunk => {
                // A chunk lies within its file, and is empty only if there is no such file.
                let end = self.offset.get() + body_size as u64;
                body_size <= CHECKPOINT_CHUNK_SIZE_MAX
                    && end <= self.total_size.get()
                    && (body_size > 0 || self.total_size.get() == 0)
            }
        }
    }

    /// Checks the body against the header.
    ///
    /// # Errors
    ///
    /// If size or checksum differ.
    pub fn check_body(&self, body: &[u8]) -> Result<(), MessageError> {
        if body.len() != self.body_size() || checksum_128(body) != self.checksum_body.get() {
            return Err(MessageError::BodyChecksum);
        }
        Ok(())
    }

    /// Checks that the body of a prepare is what its header says: that many requests, all of them for the log, end to end.
    ///
    /// Whoever takes a prepare in from a peer asks this once, so that whoever applies it later need not be afraid of it. The
    /// requests' own checksums are not computed again: [`MessageHeader::check_body`] covers them.
    ///
    /// # Errors
    ///
    /// If the body is anything else. The header must be that of a prepare.
    pub fn check_requests(&self, body: &[u8]) -> Result<(), MessageError> {
        let mut rest = body;
        for _ in 0..self.request_count.get() {
            let (request, after) = Request::parse_trusted(rest).ok_or(MessageError::Body)?;
            if !request.operation().is_logged() {
                return Err(MessageError::Body);
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(MessageError::Body) }
    }

    /// Views the header at the start of `bytes`; `None` while it is not complete.
    pub fn view(bytes: &[u8]) -> Option<&MessageHeader> {
        MessageHeader::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }
}
