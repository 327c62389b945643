//! What a replica tells about itself.

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows the primary's log.
    Backup,
    /// It orders requests.
    Primary,
    /// It has not joined a view yet.
    Recovering,
}

/// What a replica knows of another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Which server.
    pub replica: u8,
    /// Highest op known to be durable there, with all before; 0 when not known.
    pub durable: u64,
    /// Whether messages can be sent to it.
    pub is_connected: bool,
    /// Whether it is in the in-sync set.
    pub is_in_sync: bool,
    /// Whether it needs ops that the journal no longer holds.
    pub is_behind: bool,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// What it is doing.
    pub role: Role,
    /// The view it is in, or trying to begin.
    pub view: u64,
    /// The last view in which its log was normal.
    pub log_view: u64,
    /// Highest op in its log.
    pub op: u64,
    /// Highest op of which it and all before are durable here.
    pub durable: u64,
    /// Highest op known to be committed.
    pub commit: u64,
    /// Highest op given out to be applied.
    pub applied: u64,
    /// Prepares closed and not yet answered.
    pub pipeline: u32,
    /// Whether it has heard nothing of its view's primary for too long.
    pub is_suspecting: bool,
    /// The in-sync set, a bit per server, as the primary has it or last told this backup.
    pub in_sync: u8,
    /// Every server's state, this one's included, by id.
    pub peers: Vec<PeerState>,
}
