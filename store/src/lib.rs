//! The key-value state machine of Lockstep: what a committed request does to the data, and what a read sees.
//!
//! Every replica applies the same requests in the same order, with the timestamp that the primary put into the prepare,
//! and so every replica holds the same data. This crate has no I/O, no clock, no threads and no randomness of its own;
//! the hash seed it is given is not visible in anything it answers, scans, hashes or writes out.
//!
//! # What it is
//!
//! - [`Store::apply_batch`] carries out the requests of one prepare. [`Store::read`] answers a read with a whole reply
//!   frame.
//! - [`Store::checkpoint_begin`] and [`Store::checkpoint_step`] write out the state as it was at one moment, piece by
//!   piece, while requests go on being applied. [`Loader`] reads such a stream back.
//! - [`Store::content_hash`] is one number for the whole content, for comparing replicas.
//!
//! # What it is not
//!
//! It knows nothing of sessions, so it would execute a repeated request again; `lockstep-replica`'s sessions stand
//! before it. It does not know which requests are committed, nor who may read what when.
//!
//! # How it is built
//!
//! | file | what is in it |
//! |---|---|
//! | `store` | the parts put together, and the ways to add, change and remove one entry that keep them consistent |
//! | `entry` | an entry's bytes: 32-byte header, key, value |
//! | `slab` | memory for entries, and the 32-bit handles that say where one is |
//! | `table` | from a key's hash to its handle |
//! | `slots` | the keys of each slot in the order of their creation |
//! | `apply` | requests that write |
//! | `ahead` | memory asked for ahead of its use |
//! | `read` | requests that read |
//! | `program` | the commands of programs, with the semantics of Redis |
//! | `glob` | patterns of keys, as Redis matches them |
//! | `decimal` | whole numbers as text |
//! | `expiry` | times of expiry, beyond what nanoseconds can say too |
//! | `watched` | the keys that clients watch, and what has touched them |
//! | `write_times` | about when a revision was applied |
//! | `checkpoint`, `load`, `hash` | the state as a stream, and as a number |
//! | `prefetch` | the only unsafe code: hints to the processor |
//!
//! # The rules that replicas agree on
//!
//! - A key's version is the revision of the request that wrote its value: its place in the log counted in requests. It
//!   is unique to that write. Giving or taking a time-to-live is not a write of the value and leaves the version alone.
//! - A key gets a creation number when it comes into being, counted up in the store. An overwrite keeps it; a key that
//!   was removed or has expired and is written again gets a new one. Scans go slot by slot in this order, so a cursor
//!   (slot, creation number) stays valid across overwrites, removals, failover and restart, and a key that exists
//!   throughout a scan is returned exactly once.
//! - A key whose expiry is at or before a request's timestamp does not exist for that request. It is removed by the
//!   next write that comes across it, or else by the sweep that comes before each batch and takes the longest expired
//!   first. Until then it counts in [`Store::len`] and in the content hash, on every replica alike.
//!
//! # Where to begin
//!
//! Read [`Store`], then `store.rs` and `apply.rs`.

mod ahead;
mod apply;
mod checkpoint;
pub mod decimal;
mod entry;
mod expiry;
pub mod glob;
mod hash;
mod load;
mod prefetch;
mod program;
mod read;
mod slab;
mod slots;
mod store;
mod table;
mod watched;
mod write_times;

pub use ahead::READS_AHEAD;
pub use apply::{SWEEP_PER_BATCH, WriteResult};
pub use checkpoint::CheckpointProgress;
pub use load::{LoadError, Loader};
pub use store::{MemoryUse, STORE_BYTES_MAX, Store, StoreConfig};
