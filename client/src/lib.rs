//! Client library of Lockstep, a replicated, durable, linearizable key-value store.
//!
//! # What it is
//!
//! An async client for any tokio program. A [`Client`] is a handle that can be cloned and shared freely; behind it
//! there is one task and one connection per shard, over which the requests of all callers are pipelined.
//!
//! ```no_run
//! use lockstep_client::{Client, ClientOptions};
//!
//! # async fn example() -> Result<(), lockstep_client::Error> {
//! let client = Client::connect(["127.0.0.1:7000"], ClientOptions::new()).await?;
//! let written = client.put("user:7", "Ada").await?;
//! let entry = client.get("user:7").await?.expect("was just written");
//! assert_eq!((&entry.value[..], entry.version), (&b"Ada"[..], written.version));
//! # Ok(())
//! # }
//! ```
//!
//! What it promises:
//!
//! - **At most once.** A write whose answer is lost is sent again under the same session and sequence; the server then
//!   gives the first answer. A write is never carried out twice, however often it is sent.
//! - **A failover is latency.** When the primary dies, falls silent or gives way, requests wait until the next one is
//!   found and go there, under the same session; they fail only when their timeout passes first.
//! - **Errors say what is known.** [`Error::outcome`] tells "not executed" from "outcome unknown".
//! - **Bounds.** Requests and bytes in flight are bounded per shard; beyond the bounds callers wait.
//! - **Cancelling is safe.** A caller may drop a request's future at any point. A write that was already sent may then
//!   still be carried out.
//!
//! # What it is not
//!
//! It holds no cache and reads from primaries only: every read is linearizable. It does not encrypt.
//!
//! # Where to begin reading
//!
//! From a call down to the bytes:
//!
//! - [`stub`](Client): the typed operations; `scan`, `status` and `move_primary` are stubs of their own.
//! - `handle`: [`Client`] itself, and the bounds that a call passes.
//! - `link`: one shard's task, a loop over calls, bytes in, bytes out and time. `attempts` decides what becomes of a
//!   request when it is answered, refused, overdue or cut off; `flight` and `session` keep what is unanswered, and the
//!   window of sequences.
//! - `socket`: hello, topology and frames on one connection. `topology`: finding the cluster. `search`: finding a
//!   shard's primary, the first time and after a failover.
//! - `timer`: when to look again, how long to pause, when to stop repeating.

mod attempts;
mod call;
mod config;
mod error;
mod flight;
mod handle;
mod link;
mod move_primary;
mod scan;
mod search;
mod session;
mod socket;
mod status;
mod stub;
mod timer;
mod topology;

pub use config::ClientOptions;
pub use error::{Error, Failure, FailureKind, Outcome};
pub use handle::Client;
pub use move_primary::Moved;
pub use scan::{Scan, ScanContent, ScanCursor, ScanEntry, ScanPage};
pub use status::{PeerReport, ReplicaRole, ReplicaStatus, ServerStatus, Transfer};
pub use stub::{Entry, Incremented, Ttl, Written};
pub use topology::Cluster;
