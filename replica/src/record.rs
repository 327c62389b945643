//! What a replica must never forget: the part of the superblock that is the protocol's.

use lockstep_proto::limits::{COUNTER_MAX, SERVERS_MAX};

/// A [`ViewRecord::vouch_op`] that says: what this server may have acknowledged is not known.
pub const VOUCH_UNKNOWN: u64 = COUNTER_MAX;

/// What must be durable before a replica speaks of it: fields of the superblock, under the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewRecord {
    /// The view: nothing is promised in an earlier one any more.
    pub view: u64,
    /// The last view in which the log was normal.
    pub log_view: u64,
    /// Highest op that this server may have acknowledged in `log_view` although it has lost it: 0 if there is none,
    /// [`VOUCH_UNKNOWN`] if it cannot tell. Set by the host before it drops anything that was durable; cleared by the
    /// replica.
    pub vouch_op: u64,
    /// Highest known incarnation of each server, the own one included. An incarnation is a number that a data folder is
    /// given when it is made, and that only goes up; 0 if nothing is known of a server.
    pub incarnations: [u64; SERVERS_MAX as usize],
    /// Whether the folder was made by `recover` and does not know yet which view to join.
    pub is_recovering: bool,
}
