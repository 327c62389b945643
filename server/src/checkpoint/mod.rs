//! Checkpoint files: the state of a shard at one op, from which the journal goes on.
//!
//! A checkpoint is written strictly from front to back, while the shard goes on working: a header sector, chunks of at
//! most 1 MiB with a checksum each, a trailer sector. Nothing in it is written twice, so the same bytes can be streamed
//! to another server as they are made. The superblock holds size and checksum of the whole file and thereby vouches for
//! every byte of it; the checksum of a chunk lets a reader use what it has read before it has seen the end.
//!
//! A checkpoint comes into force in this order, each step durable before the next: the file under its temporary name;
//! the rename and the folder's entry; the superblock that points to it. Only then may journal space below it be reused
//! and the checkpoint before it be removed. A crash in between leaves the old checkpoint in force and a leftover, which
//! [`install::remove_leftovers`] clears away at the next start.
//!
//! [`writer`] and [`reader`] know nothing of what is in the stream: the store and the sessions do.

pub mod install;
pub mod layout;
pub mod reader;
pub mod removal;
pub mod writer;

#[cfg(test)]
mod tests;
