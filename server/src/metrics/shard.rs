//! The numbers of one shard.

use lockstep_proto::{
    Operation, Status,
    hello::{Answer, HelloError},
    limits::SERVERS_MAX,
    message::MessageError,
    request::FrameError,
};

use super::cells::{Counter, Gauge, Histogram, Scale};

/// How requests ended, in classes that a person watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// Done.
    Ok,
    /// The key does not exist.
    NotFound,
    /// A compare-and-set or increment that did not fit the present value.
    Conflict,
    /// Sent to a server that is not the primary, or to the wrong shard.
    Redirected,
    /// At a bound, starting or stopping: to be tried again.
    Refused,
    /// Unknown session or stale sequence.
    Session,
    /// Malformed.
    Malformed,
}

impl StatusClass {
    /// Every class.
    pub const ALL: [StatusClass; 7] = [
        StatusClass::Ok,
        StatusClass::NotFound,
        StatusClass::Conflict,
        StatusClass::Redirected,
        StatusClass::Refused,
        StatusClass::Session,
        StatusClass::Malformed,
    ];

    /// The class of a status.
    #[inline]
    pub const fn of(status: Status) -> StatusClass {
        match status {
            Status::Ok => StatusClass::Ok,
            Status::NotFound => StatusClass::NotFound,
            Status::VersionMismatch | Status::NotANumber => StatusClass::Conflict,
            Status::NotPrimary | Status::WrongShard => StatusClass::Redirected,
            Status::Busy | Status::Unavailable => StatusClass::Refused,
            Status::UnknownSession | Status::StaleSequence => StatusClass::Session,
            Status::BadRequest => StatusClass::Malformed,
        }
    }

    /// Value of the label `status`.
    pub const fn label(self) -> &'static str {
        match self {
            StatusClass::Ok => "ok",
            StatusClass::NotFound => "not_found",
            StatusClass::Conflict => "conflict",
            StatusClass::Redirected => "redirected",
            StatusClass::Refused => "refused",
            StatusClass::Session => "session",
            StatusClass::Malformed => "malformed",
        }
    }
}

/// Value of the label `operation`.
pub(super) const fn operation_label(operation: Operation) -> &'static str {
    match operation {
        Operation::Register => "register",
        Operation::Get => "get",
        Operation::Put => "put",
        Operation::Delete => "delete",
        Operation::CompareAndSet => "compare_and_set",
        Operation::Increment => "increment",
        Operation::Exists => "exists",
        Operation::MultiGet => "multi_get",
        Operation::MultiPut => "multi_put",
        Operation::Scan => "scan",
        Operation::Expire => "expire",
        Operation::TimeToLive => "time_to_live",
        Operation::Ping => "ping",
        Operation::Status => "status",
        Operation::MovePrimary => "move_primary",
        Operation::Transact => "transact",
        Operation::Query => "query",
    }
}

/// Why bytes from a client or another server were not accepted and their connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The first bytes are not a hello.
    NotLockstep,
    /// Another version of the protocol.
    Version,
    /// Another cluster, or another number of servers or shards.
    Cluster,
    /// Another shard.
    Shard,
    /// A checksum does not fit.
    Checksum,
    /// A size below or beyond its bound.
    Size,
    /// A field or body is not what it has to be.
    Malformed,
    /// As many connections as the server takes are open.
    Full,
    /// The server is stopping.
    Stopping,
    /// A second process under the id of a server that is connected.
    Identity,
    /// No hello for too long.
    Timeout,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [RejectReason; 11] = [
        RejectReason::NotLockstep,
        RejectReason::Version,
        RejectReason::Cluster,
        RejectReason::Shard,
        RejectReason::Checksum,
        RejectReason::Size,
        RejectReason::Malformed,
        RejectReason::Full,
        RejectReason::Stopping,
        RejectReason::Identity,
        RejectReason::Timeout,
    ];

    /// Value of the label `reason`.
    pub const fn label(self) -> &'static str {
        match self {
            RejectReason::NotLockstep => "not_lockstep",
            RejectReason::Version => "version",
            RejectReason::Cluster => "cluster",
            RejectReason::Shard => "shard",
            RejectReason::Checksum => "checksum",
            RejectReason::Size => "size",
            RejectReason::Malformed => "malformed",
            RejectReason::Full => "full",
            RejectReason::Stopping => "stopping",
            RejectReason::Identity => "identity",
            RejectReason::Timeout => "timeout",
        }
    }
}

impl From<FrameError> for RejectReason {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooSmall(_) | FrameError::TooLarge { .. } | FrameError::ValueSize(_) => RejectReason::Size,
            FrameError::Checksum => RejectReason::Checksum,
            _ => RejectReason::Malformed,
        }
    }
}

impl From<MessageError> for RejectReason {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Size(_) => RejectReason::Size,
            MessageError::HeaderChecksum | MessageError::BodyChecksum => RejectReason::Checksum,
            MessageError::Version(_) => RejectReason::Version,
            MessageError::Cluster(_) => RejectReason::Cluster,
            MessageError::Shard(_) => RejectReason::Shard,
            _ => RejectReason::Malformed,
        }
    }
}

impl From<HelloError> for RejectReason {
    fn from(error: HelloError) -> Self {
        match error {
            HelloError::Magic => RejectReason::NotLockstep,
            HelloError::Version(_) => RejectReason::Version,
            HelloError::Checksum => RejectReason::Checksum,
            HelloError::Field => RejectReason::Malformed,
        }
    }
}

impl RejectReason {
    /// The reason behind a refusing answer to a hello; `None` for a welcome.
    pub const fn of_answer(answer: Answer) -> Option<RejectReason> {
        match answer {
            Answer::Welcome => None,
            Answer::Malformed => Some(RejectReason::Malformed),
            Answer::Version => Some(RejectReason::Version),
            Answer::Cluster => Some(RejectReason::Cluster),
            Answer::Shard => Some(RejectReason::Shard),
            Answer::Full => Some(RejectReason::Full),
            Answer::Stopping => Some(RejectReason::Stopping),
            Answer::Identity => Some(RejectReason::Identity),
        }
    }
}

/// What a shard knows of one server of the cluster.
#[derive(Debug, Default)]
pub struct PeerMetrics {
    /// Ops by which its durable log is behind this shard's journal; 0 unless this server is the primary.
    pub lag_ops: Gauge,
    /// 1 when it is in the in-sync set.
    pub is_in_sync: Gauge,
    /// 1 when the connection to it is up.
    pub is_connected: Gauge,
    /// 1 when it needs ops that this journal no longer holds.
    pub is_behind: Gauge,
    /// Bytes sent to it.
    pub sent_bytes: Counter,
}

/// Everything that one shard counts. Written by the shard's thread only.
///
/// Aligned so that two shards never write to the same cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// The shard.
    pub shard: u16,
    /// This server's id. Its own entry in `peers` is not shown.
    pub replica: u8,
    requests: [[Counter; StatusClass::ALL.len()]; Operation::ALL.len()],
    rejected: [Counter; RejectReason::ALL.len()],

    /// Time from the arrival of a logged request to its reply, in nanoseconds.
    pub write_latency: Histogram,
    /// Time from the arrival of a read to its reply, in nanoseconds.
    pub read_latency: Histogram,

    /// Requests per prepare.
    pub batch_ops: Histogram,
    /// Bytes per prepare, header included.
    pub batch_bytes: Histogram,
    /// Prepares in flight when another one was closed.
    pub pipeline_depths: Histogram,
    /// Prepares in flight now.
    pub pipeline_depth: Gauge,
    /// Requests refused or sockets not read because the pipeline was full.
    pub busy: Counter,

    /// Turns of the event loop.
    pub turns: Counter,
    /// Operations handed to the ring for sockets and the journal: reads, writes, sends, accepts.
    pub ring_operations: Counter,
    /// Bytes received from clients and servers.
    pub received_bytes: Counter,
    /// Bytes sent to clients.
    pub reply_bytes: Counter,

    /// Time from the submission of a journal write to its durable completion, in nanoseconds.
    pub journal_write_latency: Histogram,
    /// Bytes written to the journal, padding included.
    pub journal_written_bytes: Counter,
    /// Bytes of the journal that hold prepares not yet below a durable checkpoint.
    pub journal_used_bytes: Gauge,
    /// Bytes of the journal that can be written.
    pub journal_free_bytes: Gauge,

    /// Time from begin to end of each checkpoint, in nanoseconds.
    pub checkpoint_duration: Histogram,
    /// 1 while a checkpoint is being written.
    pub checkpoint_active: Gauge,
    /// Op of the last durable checkpoint.
    pub checkpoint_op: Gauge,
    /// Size of the last durable checkpoint, in bytes.
    pub checkpoint_bytes: Gauge,

    /// Bytes of checkpoints sent to other servers.
    pub checkpoint_sent_bytes: Counter,
    /// Bytes received of a checkpoint that another server is sending; 0 while none is.
    pub checkpoint_received_bytes: Gauge,
    /// Checkpoints of other servers that have become this server's state.
    pub checkpoints_installed: Counter,
    /// Rotten prepares that were written again.
    pub repaired_prepares: Counter,
    /// Times that the state of a backup differed from this server's at the same op.
    pub state_hash_mismatches: Counter,

    /// Client connections.
    pub client_connections: Gauge,
    /// Memory that Redis clients hold beyond what every connection has, in bytes.
    pub client_memory_bytes: Gauge,
    /// Redis clients that were closed because all together held too much memory.
    pub evicted_clients: Counter,
    /// Replies that clients of the native protocol have not taken, beyond what every connection has, in bytes.
    pub reply_memory_bytes: Gauge,
    /// Clients of the native protocol that were closed because all together left too many replies untaken.
    pub evicted_connections: Counter,
    /// Requests of native clients that have begun, beyond what every connection has, in bytes.
    pub receive_memory_bytes: Gauge,
    /// Requests refused because those that have begun take too much memory together.
    pub refused_frames: Counter,
    /// Connections from and to other servers.
    pub server_connections: Gauge,
    /// Times that a client which waited for an answer was told that the server is there.
    pub keep_alives: Counter,
    /// Connections accepted so far.
    pub accepted_connections: Counter,
    /// Sessions in the table.
    pub sessions: Gauge,
    /// Sessions evicted because too many others were used since, in the whole life of the shard: part of its state.
    pub evicted_sessions: Gauge,
    /// Keys in the store.
    pub keys: Gauge,
    /// Keys of which it is noted what happens to them, because somebody watches.
    pub watched_keys: Gauge,
    /// Memory of the store, in bytes.
    pub store_bytes: Gauge,

    /// The view.
    pub view: Gauge,
    /// Times that the view has changed since the start.
    pub view_changes: Counter,
    /// 0 backup, 1 primary, 2 recovering.
    pub role: Gauge,
    /// 1 while this server may have acknowledged more than it holds.
    pub is_deficient: Gauge,
    /// Highest op in the journal.
    pub op: Gauge,
    /// Highest op known to be committed.
    pub commit: Gauge,
    /// Highest op applied to the store.
    pub applied: Gauge,
    /// Highest op of which it and all before are durable here.
    pub durable: Gauge,

    /// By server id. The entry of this server itself stays zero.
    pub peers: [PeerMetrics; SERVERS_MAX as usize],
    /// Number of servers, so that only those that exist are shown.
    pub servers: u8,
}

impl ShardMetrics {
    /// Numbers of a shard that has done nothing yet.
    pub fn new(shard: u16, replica: u8, servers: u8) -> Self {
        ShardMetrics {
            shard,
            replica,
            requests: Default::default(),
            rejected: Default::default(),
            write_latency: Histogram::new(Scale::LATENCY),
            read_latency: Histogram::new(Scale::LATENCY),
            batch_ops: Histogram::new(Scale::COUNT),
            batch_bytes: Histogram::new(Scale::SIZE),
            pipeline_depths: Histogram::new(Scale::DEPTH),
            pipeline_depth: Gauge::default(),
            busy: Counter::default(),
            turns: Counter::default(),
            ring_operations: Counter::default(),
            received_bytes: Counter::default(),
            reply_bytes: Counter::default(),
            journal_write_latency: Histogram::new(Scale::LATENCY),
            journal_written_bytes: Counter::default(),
            journal_used_bytes: Gauge::default(),
            journal_free_bytes: Gauge::default(),
            checkpoint_duration: Histogram::new(Scale::DURATION),
            checkpoint_active: Gauge::default(),
            checkpoint_op: Gauge::default(),
            checkpoint_bytes: Gauge::default(),
            checkpoint_sent_bytes: Counter::default(),
            checkpoint_received_bytes: Gauge::default(),
            checkpoints_installed: Counter::default(),
            repaired_prepares: Counter::default(),
            state_hash_mismatches: Counter::default(),
            client_connections: Gauge::default(),
            client_memory_bytes: Gauge::default(),
            evicted_clients: Counter::default(),
            keep_alives: Counter::default(),
            reply_memory_bytes: Gauge::default(),
            evicted_connections: Counter::default(),
            receive_memory_bytes: Gauge::default(),
            refused_frames: Counter::default(),
            server_connections: Gauge::default(),
            accepted_connections: Counter::default(),
            sessions: Gauge::default(),
            evicted_sessions: Gauge::default(),
            keys: Gauge::default(),
            watched_keys: Gauge::default(),
            store_bytes: Gauge::default(),
            view: Gauge::default(),
            view_changes: Counter::default(),
            role: Gauge::default(),
            is_deficient: Gauge::default(),
            op: Gauge::default(),
            commit: Gauge::default(),
            applied: Gauge::default(),
            durable: Gauge::default(),
            peers: Default::default(),
            servers,
        }
    }

    /// Counts `count` requests of one operation that ended alike.
    #[inline]
    pub fn count_requests(&self, operation: Operation, status: Status, count: u64) {
        self.requests[operation as usize - 1][StatusClass::of(status) as usize].add(count);
    }

    /// How many requests of one operation ended so.
    pub fn requests(&self, operation: Operation, class: StatusClass) -> u64 {
        self.requests[operation as usize - 1][class as usize].get()
    }

    /// Counts a connection closed, or not let in, because of what came over it.
    pub fn count_rejected(&self, reason: impl Into<RejectReason>) {
        self.rejected[reason.into() as usize].increment();
    }

    /// How many were rejected for one reason.
    pub fn rejected(&self, reason: RejectReason) -> u64 {
        self.rejected[reason as usize].get()
    }
}

// The arrays are indexed by wire value minus one.
const _: () = {
    let mut index = 0;
    while index < Operation::ALL.len() {
        assert!(Operation::ALL[index] as usize == index + 1);
        index += 1;
    }
};
