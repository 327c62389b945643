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

/// The checkpoint at `op` in a shard's folder.
pub fn checkpoint_path(shard_dir: &Path, op: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{op}"))
}

/// The same while it is being written.
pub fn temporary_path(shard_dir: &Path, op: u64) -> PathBuf {
    shard_dir.join(format!("{PREFIX}{op}{TEMPORARY_SUFFIX}"))
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

/// Gives a complete and synced checkpoint its final name, durably. After this, the superblock may point to it.
///
/// # Errors
///
/// What the disk says.
pub fn install(shard_dir: &Path, op: u64) -> io::Result<()> {
    fs::rename(temporary_path(shard_dir, op), checkpoint_path(shard_dir, op))?;
    sync_folder(shard_dir)
}

/// Removes every checkpoint file but the one at `keep_op`, the one in force (0: there is none). Returns how many.
///
/// # Errors
///
/// What the disk says.
pub fn remove_leftovers(shard_dir: &Path, keep_op: u64) -> io::Result<usize> {
    let keep = checkpoint_path(shard_dir, keep_op);
    let mut removed = 0;
    for entry in fs::read_dir(shard_dir)? {
        let entry = entry?;
        if is_checkpoint_name(&entry.file_name().to_string_lossy()) && entry.path() != keep {
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
    let digits = rest.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(rest);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
