//! Making a data folder.
//!
//! Every byte of the journal is written once here, with zeroes. On common file systems a file that was only reserved
//! turns each first write into a change of metadata, and a synced write would wait for that too; after this, a
//! journal write touches nothing but its own sectors.
//!
//! The superblock of shard 0 is written last of all, and everything before it is durable by then. So a folder is
//! formatted if and only if that superblock is there.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use lockstep_proto::{limits::COUNTER_MAX, superblock::Superblock};
use zerocopy::{
    FromZeros,
    little_endian::{U16, U64, U128},
};

use super::{
    file::{BlockFile, DirectFiles, FileLayer, sync_folder},
    folder::{
        FolderError, Identity, JOURNAL_NAME, LOCK_NAME, SUPERBLOCK_NAME, check_journal_size, io_error, shard_path,
    },
    lock::FolderLock,
    superblock,
};
use crate::buffers::Pool;

/// Zeroes are written in pieces of this size, in bytes.
const ZEROES_SIZE: usize = 4 << 20;

/// Revision of the first request of a new log. Not 0: version 0 of a key stands for "does not exist".
pub const FIRST_REVISION: u64 = 1;

/// How far formatting has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatProgress {
    /// Bytes written, over all shards.
    pub written: u64,
    /// Bytes to be written, over all shards.
    pub total: u64,
}

/// Makes a data folder, durably: creates it if needed, and in it a journal and a superblock for every shard.
///
/// `journal_size` is per shard, in bytes. `progress` is called after every few megabytes.
///
/// # Errors
///
/// If a setting is out of range, the folder has anything in it, or the disk refuses. What was created by then is
/// removed again, so that the next attempt finds the place as this one did.
pub fn format_folder(
    dir: &Path,
    identity: &Identity,
    journal_size: u64,
    progress: &mut dyn FnMut(FormatProgress),
) -> Result<(), FolderError> {
    format_folder_on(&DirectFiles, dir, identity, journal_size, progress)
}

/// [`format_folder`] on any layer of files.
///
/// # Errors
///
/// As [`format_folder`].
pub fn format_folder_on<L: FileLayer>(
    files: &L,
    dir: &Path,
    identity: &Identity,
    journal_size: u64,
    progress: &mut dyn FnMut(FormatProgress),
) -> Result<(), FolderError> {
    make_folder(files, dir, identity, journal_size, &Origin::NewCluster, progress)
}

/// What a folder is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A server of a new cluster: nothing has ever been acknowledged.
    NewCluster,
    /// A server that takes part in its cluster already and has lost its disk: what it has acknowledged is not known.
    LostDisk {
        /// Tells it from all folders that this server had before: higher than all of theirs.
        incarnation: u64,
    },
}

/// Makes a folder for a new cluster or in place of a lost one.
///
/// # Errors
///
/// As [`format_folder`].
pub(crate) fn make_folder<L: FileLayer>(
    files: &L,
    dir: &Path,
    identity: &Identity,
    journal_size: u64,
    origin: &Origin,
    progress: &mut dyn FnMut(FormatProgress),
) -> Result<(), FolderError> {
    identity.check()?;
    check_journal_size(journal_size)?;
    let is_new = !check_is_empty(dir)?;
    if is_new {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    }
    let lock = match FolderLock::create(dir) {
        // Somebody else was faster: what is in there now is theirs, and must not be removed.
        Err(FolderError::Io { reason, .. }) if reason.kind() == ErrorKind::AlreadyExists => {
            return Err(FolderError::AlreadyFormatted(dir.to_owned()));
        }
        result => result?,
    };
    let result = fill(files, dir, identity, journal_size, origin, progress);
    if result.is_err() {
        remove_traces(dir, identity.shards, is_new);
    }
    drop(lock);
    result
}

/// Whether there is an empty folder (true) or nothing at all (false).
fn check_is_empty(dir: &Path) -> Result<bool, FolderError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(FolderError::NotAFolder(dir.to_owned()));
        }
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    if dir.join(LOCK_NAME).exists() {
        return Err(FolderError::AlreadyFormatted(dir.to_owned()));
    }
    for entry in entries {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        // The root of a fresh file system is as good as an empty folder.
        if name != "lost+found" {
            return Err(FolderError::NotEmpty { dir: dir.to_owned(), entry: name.to_string_lossy().into_owned() });
        }
    }
    Ok(true)
}

fn fill<L: FileLayer>(
    files: &L,
    dir: &Path,
    identity: &Identity,
    journal_size: u64,
    origin: &Origin,
    progress: &mut dyn FnMut(FormatProgress),
) -> Result<(), FolderError> {
    let total = journal_size * u64::from(identity.shards);
    for shard in 0..identity.shards {
        let path = shard_path(dir, shard);
        fs::create_dir(&path).map_err(io_error("create", &path))?;
        let before = journal_size * u64::from(shard);
        let path = path.join(JOURNAL_NAME);
        let file = files.create(&path).map_err(io_error("create", &path))?;
        write_zeroes(&file, journal_size, &mut |written| progress(FormatProgress { written: before + written, total }))
            .map_err(io_error("write", &path))?;
    }
    for shard in (0..identity.shards).rev() {
        let shard_dir = shard_path(dir, shard);
        let path = shard_dir.join(SUPERBLOCK_NAME);
        let file = files.create(&path).map_err(io_error("create", &path))?;
        let superblock = first_superblock(identity, shard, journal_size, origin);
        superblock::write(&file, &superblock).map_err(io_error("write", &path))?;
        sync_folder(&shard_dir).map_err(io_error("sync", &shard_dir))?;
    }
    sync_folder(dir).map_err(io_error("sync", dir))?;
    let parent = fs::canonicalize(dir).map_err(io_error("find", dir))?.parent().map(Path::to_owned);
    let parent = parent.unwrap_or_else(|| PathBuf::from("/"));
    sync_folder(&parent).map_err(io_error("sync", &parent))
}

fn write_zeroes(file: &impl BlockFile, size: u64, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
    file.allocate(size)?;
    // New memory is zero.
    let zeroes = Pool::new(0).take(ZEROES_SIZE);
    let mut written = 0;
    while written < size {
        let piece = (size - written).min(zeroes.len() as u64) as usize;
        file.write_at(&zeroes[..piece], written)?;
        written += piece as u64;
        progress(written);
    }
    file.sync()
}

/// The superblock of a shard's new folder.
pub fn first_superblock(identity: &Identity, shard: u16, journal_size: u64, origin: &Origin) -> Superblock {
    let mut superblock = Superblock::new_zeroed();
    superblock.cluster = U128::new(identity.cluster);
    superblock.replica = identity.replica;
    superblock.servers = identity.servers;
    superblock.shard = U16::new(shard);
    superblock.shards = U16::new(identity.shards);
    superblock.sequence = U64::new(1);
    superblock.journal_size = U64::new(journal_size);
    superblock.checkpoint_revision = U64::new(FIRST_REVISION);
    let incarnation = match *origin {
        Origin::NewCluster => FIRST_INCARNATION,
        Origin::LostDisk { incarnation } => {
            superblock.is_recovering = 1;
            superblock.vouch_op = U64::new(COUNTER_MAX);
            incarnation
        }
    };
    superblock.incarnations[usize::from(identity.replica)] = U64::new(incarnation);
    superblock.seal();
    superblock
}

/// Incarnation of a folder made by `format`.
const FIRST_INCARNATION: u64 = 1;

/// Removes what [`fill`] may have made. Errors are not reported: the first one is what the user must see.
fn remove_traces(dir: &Path, shards: u16, is_new: bool) {
    for shard in 0..shards {
        let _ = fs::remove_dir_all(shard_path(dir, shard));
    }
    let _ = fs::remove_file(dir.join(LOCK_NAME));
    if is_new {
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
