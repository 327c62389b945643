//! Every byte layout of Lockstep, on the wire and on disk.
//!
//! This crate is the one place where bytes get a meaning. It holds fixed-layout structures with `zerocopy` derives, their
//! checksums, the codec of client frames and replica messages, and the way from a key to its slot and shard. Nothing here
//! does I/O, allocates on the hot path, reads a clock or draws a random number.
//!
//! # What it is
//!
//! - [`limits`]: the bounds that every frame obeys. A byte string outside of them is refused before anything is allocated.
//! - [`checksum`]: XXH3, in 64 bits for client frames and in 128 bits for everything that reaches a disk.
//! - [`slot`]: key → slot → shard, as Redis Cluster computes it.
//! - [`operation`]: what a client can ask for ([`Operation`]) and what it can be told ([`Status`]).
//! - [`request`] and [`reply`]: client frames. A request frame is journalled, replicated and applied as the very bytes that
//!   arrived.
//! - [`items`]: the bodies of the frames that carry several keys, and of scans and status answers.
//! - [`program`]: several commands on one shard's keys as one request, as the Redis front door asks for them.
//! - [`message`]: the 256-byte header of replica messages. A prepare on the wire is a prepare on the disk.
//! - [`hello`]: the first bytes of every connection, and the topology in answer.
//! - [`superblock`]: the durable root of a shard.
//! - [`decoder`]: frames out of a byte stream that is handed over in arbitrary pieces.
//! - [`mutant`]: switches for deliberately wrong variants, which the simulator must find. Without the cargo feature
//!   `mutants` all of them are off, and cost nothing.
//!
//! # What it is not
//!
//! It knows no protocol rule: when a message is sent and what it changes is `lockstep-replica`'s to say, and what an
//! operation does to the data is `lockstep-store`'s.
//!
//! # Where to begin
//!
//! Read [`request::RequestHeader`] and [`message::MessageHeader`]; `docs/protocol.md` has the same layouts as tables, and a
//! test holds the two together. All integers are little-endian and all structures have an alignment of one, so a
//! structure can be viewed in place anywhere in a receive buffer.

pub mod checksum;
pub mod decoder;
pub mod hello;
pub mod items;
mod layout;
pub mod limits;
pub mod message;
pub mod mutant;
pub mod operation;
pub mod program;
pub mod reply;
pub mod request;
mod shape;
pub mod slot;
pub mod superblock;

#[cfg(test)]
mod protocol_page;

pub use layout::{Field, Layout};
pub use operation::{Operation, Status};

/// Every fixed layout, in the order of `docs/protocol.md`.
pub const LAYOUTS: &[Layout] = &[
    hello::Hello::LAYOUT,
    hello::TopologyHeader::LAYOUT,
    request::RequestHeader::LAYOUT,
    reply::ReplyHeader::LAYOUT,
    items::ScanArguments::LAYOUT,
    items::ScanReplyHeader::LAYOUT,
    items::StatusBody::LAYOUT,
    items::PeerStatus::LAYOUT,
    program::CommandHeader::LAYOUT,
    message::MessageHeader::LAYOUT,
    superblock::Superblock::LAYOUT,
];
