//! Criterion benches of Lockstep: what its parts cost alone, and what the settings of batching do to a whole cluster.
//!
//! # What it is
//!
//! | bench | measures | one iteration is |
//! |---|---|---|
//! | `codec` | making and reading request and reply frames | 64 frames |
//! | `checksum` | the frame checksum, and the one of replica messages | one checksum |
//! | `store_apply` | overwrites in stores of 100 thousand and a million keys | one batch |
//! | `journal_append` | durable appends to a journal on the disk of the build, several in flight | one prepare |
//! | `batching` | three servers on loopback under load, over largest batch, linger, pipeline depth and gathering | one request |
//!
//! Requests are the same in all of them: puts with keys of 16 and values of 100 bytes. Throughput is always in requests
//! (or in bytes, for checksums), so that the benches can be set side by side.
//!
//! # How to run it
//!
//! ```text
//! cargo bench -p lockstep-benches                                      everything: about ten minutes
//! cargo bench -p lockstep-benches -- batching                          one group: about five minutes
//! cargo bench -p lockstep-benches -- batching/batch=64/linger=50us     what has this in its name
//! cargo bench -p lockstep-benches -- --save-baseline before            remembers the results
//! cargo bench -p lockstep-benches -- --baseline before                 compares with them
//! ```
//!
//! Nothing is set up for a bench that the filter leaves out: no store is filled, no journal is formatted and no cluster
//! is started. `journal_append` and `batching` write to `tmp` in the target folder and remove all of it when they are
//! done; if that folder is in memory, "durable" means nothing. `batching` has Cargo build the server first, unless
//! `LOCKSTEP_SERVER_BIN` names one.
//!
//! # What it is not
//!
//! Not the place to learn how fast Lockstep is for its users: that takes an open loop, with latency counted from the
//! intended time, and is the work of `lockstep-loadgen`. The closed loops here compare one build or one setting with
//! another, on one machine. They are also not tests: `cargo test` runs none of them.
//!
//! # Where to begin
//!
//! `benches/codec.rs` is the shortest. `benches/batching/main.rs` says what its two numbers mean. What they share is
//! [`requests`].

pub mod requests;

/// The allocator of the server and of the load generator, so that a part costs here what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
