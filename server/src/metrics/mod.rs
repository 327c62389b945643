//! What a server counts about itself, and how it is told.
//!
//! [`ShardMetrics`] belongs to one shard: its thread writes, the admin thread reads. No number is ever written by two
//! threads, so a plain load and store do for an addition, and neither side takes a lock. [`ServerCollector`] turns the
//! numbers of all shards into OpenMetrics text; [`ShardStatus`] is the same shard told as one consistent picture, for
//! `/status`.

mod cells;
mod classic;
mod collector;
mod process;
mod shard;
mod status;
#[cfg(test)]
mod tests;

pub use cells::{Counter, Gauge, Histogram, Scale};
pub use classic::classic;
pub use collector::{ServerCollector, encode};
pub use process::ProcessUsage;
pub use shard::{PeerMetrics, RejectReason, ShardMetrics, StatusClass};
pub use status::{PeerSnapshot, ReportedStatus, Role, ShardStatus, StatusCell, TransferSnapshot};
