//! A server's data folder: its names, who it belongs to, and what can be wrong with it.
//!
//! ```text
//! D/LOCK                        locked while a server or a format runs
//! D/shard-000/superblock        four copies, one per sector
//! D/shard-000/journal           the ring
//! D/shard-000/checkpoint-<op>   at most one when the server is stopped
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use lockstep_proto::{
    limits::{SECTOR_SIZE, SERVERS_MAX, SHARDS_MAX},
    superblock::Superblock,
};
use thiserror::Error;

use super::superblock::SuperblockReadError;

/// Smallest journal, in bytes: room for a handful of the largest prepares.
pub const JOURNAL_SIZE_MIN: u64 = 16 << 20;

/// Largest journal, in bytes.
pub const JOURNAL_SIZE_MAX: u64 = 1 << 40;

/// Name of the file that is locked.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// Name of the superblock file in a shard's folder.
pub(crate) const SUPERBLOCK_NAME: &str = "superblock";

/// Name of the journal file in a shard's folder.
pub(crate) const JOURNAL_NAME: &str = "journal";

/// The folder of one shard.
pub fn shard_path(dir: &Path, shard: u16) -> PathBuf {
    dir.join(format!("shard-{shard:03}"))
}

/// Whom a data folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster: [`lockstep_proto::checksum::cluster_id`] of its name.
    pub cluster: u128,
    /// The server's id.
    pub replica: u8,
    /// Number of servers.
    pub servers: u8,
    /// Number of shards.
    pub shards: u16,
}

impl Identity {
    /// The identity that a superblock states.
    pub fn of(superblock: &Superblock) -> Identity {
        Identity {
            cluster: superblock.cluster.get(),
            replica: superblock.replica,
            servers: superblock.servers,
            shards: superblock.shards.get(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), FolderError> {
        let what = if self.cluster == 0 {
            "cluster id 0 is reserved: choose another cluster name".to_owned()
        } else if !(1..=SERVERS_MAX).contains(&self.servers) {
            format!("{} servers: 1 to {SERVERS_MAX} are possible", self.servers)
        } else if self.replica >= self.servers {
            format!("server id {}: with {} servers ids go from 0 to {}", self.replica, self.servers, self.servers - 1)
        } else if !(1..=SHARDS_MAX).contains(&self.shards) {
            format!("{} shards: 1 to {SHARDS_MAX} are possible", self.shards)
        } else {
            return Ok(());
        };
        Err(FolderError::Setting(what))
    }
}

pub(crate) fn check_journal_size(size: u64) -> Result<(), FolderError> {
    if (JOURNAL_SIZE_MIN..=JOURNAL_SIZE_MAX).contains(&size) && size.is_multiple_of(SECTOR_SIZE as u64) {
        return Ok(());
    }
    Err(FolderError::Setting(format!(
        "journal size {size}: it must be a multiple of {SECTOR_SIZE} from {JOURNAL_SIZE_MIN} to {JOURNAL_SIZE_MAX} bytes"
    )))
}

/// What is wrong with a data folder. Every message is one line that names the thing and the remedy.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A setting out of its range.
    #[error("{0}")]
    Setting(String),
    /// The system refused something.
    #[error("cannot {what} {path}: {reason}{}", remedy(reason))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said. It is in the message, and therefore no `source`, which would be shown behind it once
        /// more.
        reason: io::Error,
    },
    /// There is none.
    #[error("data folder {0} does not exist: make it with `lockstep-server format --data-dir {0} ...`")]
    Missing(PathBuf),
    /// Something else has that name.
    #[error("{0} is not a folder: give the data folder that `lockstep-server format` has made")]
    NotAFolder(PathBuf),
    /// No data of ours in it.
    #[error("data folder {0} is not formatted: run `lockstep-server format --data-dir {0} ...` once")]
    NotFormatted(PathBuf),
    /// A format that did not end, or files that were deleted.
    #[error(
        "data folder {dir} is incomplete, {missing} is missing: if formatting was interrupted, delete the folder and \
         format again; if files were deleted, make a new one with `lockstep-server recover`"
    )]
    Incomplete {
        /// The folder.
        dir: PathBuf,
        /// What is not there.
        missing: PathBuf,
    },
    /// Formatting would destroy something.
    #[error("data folder {0} is formatted already: to start over, delete it first (its data will be lost)")]
    AlreadyFormatted(PathBuf),
    /// Recovering would throw data away.
    #[error(
        "data folder {0} is whole: start the server with it; `recover` is for a folder that is lost (to give up what is in this \
         one, move it away first)"
    )]
    Whole(PathBuf),
    /// A damaged folder is in the way, and the system does not let it be moved.
    #[error(
        "data folder {0} is damaged and cannot be moved aside, because it is a mount point: move what is in it away first"
    )]
    NotMovable(PathBuf),
    /// Formatting would mix with something.
    #[error("folder {dir} is not empty, it holds {entry}: give an empty or a new folder")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
        /// The first thing found in it.
        entry: String,
    },
    /// Somebody else uses it.
    #[error("data folder {dir} is in use by another process{}: stop that one first, or give another folder", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The other process, if it left its id.
        pid: Option<u32>,
    },
    /// The superblock cannot be used.
    #[error("{path}: {reason}")]
    Superblock {
        /// The superblock file.
        path: PathBuf,
        /// Why.
        reason: SuperblockReadError,
    },
    /// A folder of another cluster, server or shape.
    #[error("{path} belongs to {field} {found}, not {expected}: {remedy}")]
    Foreign {
        /// The folder, or the shard's folder.
        path: PathBuf,
        /// Which part of the identity differs.
        field: &'static str,
        /// What the folder says.
        found: String,
        /// What was asked for.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The journal file does not have the size that the superblock states.
    #[error(
        "{path} is {found} bytes large, but the superblock says {expected}: the file was cut off or replaced; if it cannot be \
         restored, make a new folder with `lockstep-server recover`"
    )]
    JournalSize {
        /// The journal file.
        path: PathBuf,
        /// Its size, in bytes.
        found: u64,
        /// The size in the superblock, in bytes.
        expected: u64,
    },
}

impl FolderError {
    /// Whether this user may not do what was tried.
    pub(crate) fn is_permission(&self) -> bool {
        matches!(self, FolderError::Io { reason, .. } if reason.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The same, where a folder of another cluster is named by the number that its superblock has, with the name that
    /// was asked for.
    #[must_use]
    pub fn with_cluster_name(mut self, name: &str) -> FolderError {
        if let FolderError::Foreign { field: CLUSTER_FIELD, expected, .. } = &mut self {
            *expected = format!("`{name}`, which is {expected}");
        }
        self
    }
}

/// What differs if a folder is one of another cluster.
pub(crate) const CLUSTER_FIELD: &str = "cluster";

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as the user who owns the folder)",
        io::ErrorKind::StorageFull => " (free some space or choose a smaller journal)",
        io::ErrorKind::ReadOnlyFilesystem => " (give a folder on a file system that can be written)",
        _ => "",
    }
}

/// Names what was tried, on which path, for an error of the system.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |reason| FolderError::Io { what, path, reason }
}
