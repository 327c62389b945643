//! The durable side of a shard: its folder, superblock and journal. The page about the bytes is `docs/disk-format.md`.
//!
//! What a running server does with its disk is split in two. *Where* a prepare goes and what may be overwritten is
//! decided by [`ring`], which does no I/O; the shard's event loop submits the writes to its ring. What happens while
//! nothing else runs, that is [`format`](mod@format), [`open`], [`recovery`] and [`inspect`], is plain synchronous I/O
//! through [`mod@file`].
//!
//! Begin with [`recovery`]: its first page says what the journal promises, and how torn is told from rotten.

pub mod file;
pub mod folder;
pub mod format;
pub mod inspect;
pub mod lock;
pub mod open;
pub mod recover;
pub mod recovery;
pub mod ring;
pub mod superblock;

#[cfg(test)]
pub(crate) mod fault;
