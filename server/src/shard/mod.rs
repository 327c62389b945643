//! One shard: its thread, ring, journal, store, replica and connections.

mod setup;

pub use setup::*;
