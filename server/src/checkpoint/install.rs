//! Names of checkpoint files, and how one comes into force.
//!
//! Everything in here waits for the disk. A shard's event loop must not: it calls these from a thread of their own, or
//! submits the same steps to its ring.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::journal::file::{DirectFile, DirectFiles, FileLayer, sync_folder};

const PREFIX: &str = "checkpoint-";
const TEMPORARY_SUFFIX: &str = ".tmp";
const RECEIVED_SUFFIX: &str = ".received";

/// The checkpoint at `op` in a shard's folder.
pub fn checkpoint_path(shard_dir: &Path, op: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{op}"))
}

/// The same while it is being written.
pub fn temporary_path(shard_dir: &Path, op: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{op}{TEMPORARY_SUFFIX}"))
}

/// The same while it is being received from another server.
pub fn received_path(shard_dir: &Path, op: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{op}{RECEIVED_SUFFIX}"))
}

/// Creates the file for a checkpoint that is about to be received, in place of a leftover with the same name.
///
/// # Errors
///
/// What the disk says.
pub fn create_received(shard_dir: &Path, op: u64) -> io::Result<DirectFile> {
    let path = received_path(shard_dir, op);
    remove_if_there(&path)?;
    DirectFiles.create(&path)
}

/// Gives a received checkpoint, complete, verified and synced, its final name, durably.
///
/// # Errors
///
/// What the disk says.
pub fn install_received(shard_dir: &Path, op: u64) -> io::Result<()> {
    fs::rename(received_path(shard_dir, op), checkpoint_path(shard_dir, op))?;
    sync_folder(shard_dir)
}

/// Removes what has been received of a checkpoint, if there is anything.
///
/// # Errors
///
/// What the disk says.
pub fn remove_received(shard_dir: &Path, op: u64) -> io::Result<()> {
    remove_if_there(&received_path(shard_dir, op))
}

/// Creates the file for a new checkpoint, in place of a leftover with the same name.
///
/// # Errors
///
/// What the disk says.
pub fn create_temporary(shard_dir: &Path, op: u64) -> io::Result<DirectFile> {
    let path = temporary_path(shard_dir, op);
    remove_if_there(&path)?;
    DirectFiles.create(&path)
}

/// Takes the name of the complete checkpoint at `op` away, which another one has replaced: its file has that of one
/// that was never completed, and is to be written over. Returns false if it has been removed by somebody else.
///
/// # Errors
///
/// What the disk says.
pub fn retire(shard_dir: &Path, op: u64) -> io::Result<bool> {
    match fs::rename(checkpoint_path(shard_dir, op), temporary_path(shard_dir, op)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

/// Gives the file of the retired or never completed checkpoint at `spare_op` to the one at `op` that is about to be
/// written. Returns false if it has been removed by somebody else.
///
/// # Errors
///
/// What the disk says.
pub fn reuse(shard_dir: &Path, spare_op: u64, op: u64) -> io::Result<bool> {
    match fs::rename(temporary_path(shard_dir, spare_op), temporary_path(shard_dir, op)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

/// Removes what was written of the checkpoint at `op`, if there is anything.
///
/// # Errors
///
/// What the disk says.
pub fn remove_temporary(shard_dir: &Path, op: u64) -> io::Result<()> {
    remove_if_there(&temporary_path(shard_dir, op))
}

/// Gives a complete and synced checkpoint its final name, durably. After this, the superblock may point to it.
///
/// # Errors
///
/// What the disk says.
pub fn install(shard_dir: &Path, op: u64) -> io::Result<()> {
    fs::rename(temporary_path(shard_dir, op), checkpoint_path(shard_dir, op))?;
    sync_folder(shard_dir)
}

/// Removes every checkpoint file but the one at `keep_op`, the one in force (0: there is none), those that were never
/// completed included: to be done before anything new is begun. Returns how many.
///
/// # Errors
///
/// What the disk says.
pub fn remove_leftovers(shard_dir: &Path, keep_op: u64) -> io::Result<usize> {
    let keep = checkpoint_path(shard_dir, keep_op);
    remove_where(shard_dir, |path, _| path != keep)
}

/// Removes every complete checkpoint below the one at `keep_op`. What is being written or received stays. Returns how
/// many.
///
/// # Errors
///
/// What the disk says.
pub fn remove_older(shard_dir: &Path, keep_op: u64) -> io::Result<usize> {
    remove_where(shard_dir, |_, op| op.is_some_and(|op| op < keep_op))
}

/// Removes the checkpoint files of which this is true: the path, and the op of a complete one.
fn remove_where(shard_dir: &Path, is_to_go: impl Fn(&Path, Option<u64>) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(shard_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let op = name.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok());
        if is_checkpoint_name(&name) && is_to_go(&entry.path(), op) {
            remove_if_there(&entry.path())?;
            removed += 1;
        }
    }
    if removed > 0 {
        sync_folder(shard_dir)?;
    }
    Ok(removed)
}

/// Whether a file is one that we make, and not something that a person has put beside them.
fn is_checkpoint_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let digits =
        [TEMPORARY_SUFFIX, RECEIVED_SUFFIX].iter().find_map(|suffix| rest.strip_suffix(suffix)).unwrap_or(rest);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
