//! Opening a data folder: is it ours, is it whole, does nobody else use it.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use lockstep_proto::{limits::SECTOR_SIZE, superblock::Superblock};

use super::{
    file::{Access, BlockFile, DirectFile, DirectFiles, FileLayer},
    folder::{CLUSTER_FIELD, FolderError, Identity, JOURNAL_NAME, SUPERBLOCK_NAME, io_error, shard_path},
    lock::FolderLock,
    superblock::{self, SuperblockReadError, SuperblockReading},
};
use crate::checkpoint::{self, install::checkpoint_path};

/// What the caller knows about the folder that it means. `None` takes what the folder says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub cluster: Option<u128>,
    /// The server's id.
    pub replica: Option<u8>,
    /// Number of servers.
    pub servers: Option<u8>,
    /// Number of shards.
    pub shards: Option<u16>,
    /// Size of each journal, in bytes.
    pub journal_size: Option<u64>,
}

/// A data folder that is ours, locked.
#[derive(Debug)]
pub struct OpenedFolder {
    /// Must be kept for as long as anything of the folder is used.
    pub lock: FolderLock,
    /// Whom the folder belongs to.
    pub identity: Identity,
    /// The shards, by number. Each can go to a thread of its own.
    pub shards: Vec<OpenedShard>,
}

/// The files of one shard. Superblock copies have been repaired and leftovers of checkpoints removed.
#[derive(Debug)]
pub struct OpenedShard {
    /// The shard's folder.
    pub dir: PathBuf,
    /// The superblock.
    pub superblock: Superblock,
    /// Superblock copies that were out of date or damaged, and have been rewritten.
    pub repaired_copies: usize,
    /// The superblock file.
    pub superblock_file: DirectFile,
    /// The journal file.
    pub journal: DirectFile,
}

impl OpenedShard {
    /// The checkpoint to load before the journal is read back; `None` if there has been none.
    pub fn checkpoint_path(&self) -> Option<PathBuf> {
        match self.superblock.checkpoint.get() {
            0 => None,
            op => Some(checkpoint_path(&self.dir, op)),
        }
    }
}

/// Opens and locks a formatted data folder.
///
/// # Errors
///
/// If it is missing, not formatted, damaged, locked, or not the expected one.
pub fn open_folder(dir: &Path, expected: &Expected) -> Result<OpenedFolder, FolderError> {
    match fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(FolderError::Missing(dir.to_owned())),
        Err(error) => return Err(io_error("open", dir)(error)),
        Ok(metadata) if !metadata.is_dir() => return Err(FolderError::NotAFolder(dir.to_owned())),
        Ok(_) => {}
    }
    let lock = FolderLock::acquire(dir)?;
    let first = open_shard(dir, 0, expected)?;
    let identity = Identity::of(&first.superblock);
    let same = expect_same(&first.superblock);
    let mut shards = vec![first];
    for shard in 1..identity.shards {
        shards.push(open_shard(dir, shard, &same)?);
    }
    Ok(OpenedFolder { lock, identity, shards })
}

fn open_shard(dir: &Path, shard: u16, expected: &Expected) -> Result<OpenedShard, FolderError> {
    let shard_dir = shard_path(dir, shard);
    let (superblock_file, reading) = read_superblock(dir, shard, Access::ReadWrite)?;
    let superblock = reading.superblock;
    // Nothing is changed in a folder before it is known to be ours.
    check_expected(if shard == 0 { dir } else { &shard_dir }, &superblock, expected)?;
    let journal = open_journal(dir, &shard_dir, &superblock, Access::ReadWrite)?;
    let path = shard_dir.join(SUPERBLOCK_NAME);
    superblock::repair(&superblock_file, &reading).map_err(io_error("repair", &path))?;
    checkpoint::install::remove_leftovers(&shard_dir, superblock.checkpoint.get())
        .map_err(io_error("clean up", &shard_dir))?;
    let repaired_copies = (0..reading.copies.len()).filter(|&copy| !reading.is_current(copy)).count();
    Ok(OpenedShard { dir: shard_dir, superblock, repaired_copies, superblock_file, journal })
}

/// Opens and reads a superblock, and checks that it is the one of this shard.
pub(crate) fn read_superblock(
    dir: &Path,
    shard: u16,
    access: Access,
) -> Result<(DirectFile, SuperblockReading), FolderError> {
    let shard_dir = shard_path(dir, shard);
    let path = shard_dir.join(SUPERBLOCK_NAME);
    let missing = || match shard {
        // Shard 0's superblock is the last thing that formatting writes.
        0 if !shard_dir.exists() => FolderError::NotFormatted(dir.to_owned()),
        _ => FolderError::Incomplete { dir: dir.to_owned(), missing: path.clone() },
    };
    let file = match DirectFiles.open(&path, access) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
        result => result.map_err(io_error("open", &path))?,
    };
    let reading = match superblock::read(&file) {
        Err(SuperblockReadError::NotFormatted) => return Err(missing()),
        result => result.map_err(|reason| FolderError::Superblock { path: path.clone(), reason })?,
    };
    let found = reading.superblock.shard.get();
    if found != shard {
        return Err(FolderError::Foreign {
            path: shard_dir,
            field: "shard",
            found: found.to_string(),
            expected: shard.to_string(),
            remedy: "folders of shards must not be renamed or copied",
        });
    }
    Ok((file, reading))
}

/// Opens the journal, and checks that it has the size and the place in it that the superblock states.
pub(crate) fn open_journal(
    dir: &Path,
    shard_dir: &Path,
    superblock: &Superblock,
    access: Access,
) -> Result<DirectFile, FolderError> {
    let path = shard_dir.join(JOURNAL_NAME);
    let file = match DirectFiles.open(&path, access) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(FolderError::Incomplete { dir: dir.to_owned(), missing: path });
        }
        result => result.map_err(io_error("open", &path))?,
    };
    let found = file.size().map_err(io_error("read the size of", &path))?;
    let expected = superblock.journal_size.get();
    let is_in_sectors =
        [expected, superblock.journal_offset.get()].iter().all(|place| place.is_multiple_of(SECTOR_SIZE as u64));
    if found != expected || !is_in_sectors {
        return Err(FolderError::JournalSize { path, found, expected });
    }
    Ok(file)
}

fn check_expected(dir: &Path, superblock: &Superblock, expected: &Expected) -> Result<(), FolderError> {
    let found = Identity::of(superblock);
    let hex = |cluster: u128| format!("{cluster:032x}");
    let journal_size = superblock.journal_size.get();
    let checks = [
        (
            CLUSTER_FIELD,
            hex(found.cluster),
            expected.cluster.map(hex),
            "give the data folder of this cluster, or the name of that one",
        ),
        (
            "server",
            found.replica.to_string(),
            expected.replica.map(|replica| replica.to_string()),
            "each server must have a data folder of its own",
        ),
        (
            "a cluster whose number of servers is",
            found.servers.to_string(),
            expected.servers.map(|servers| servers.to_string()),
            "list every server, this one included, in --peers; the number cannot be changed after format",
        ),
        (
            "a cluster whose number of shards is",
            found.shards.to_string(),
            expected.shards.map(|shards| shards.to_string()),
            "the number cannot be changed after format",
        ),
        (
            "a server whose journal size is",
            journal_size.to_string(),
            expected.journal_size.map(|size| size.to_string()),
            "the size cannot be changed after format",
        ),
    ];
    for (field, found, expected, remedy) in checks {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(FolderError::Foreign { path: dir.to_owned(), field, found, expected, remedy });
        }
    }
    Ok(())
}

/// What every further shard of the same server must say.
fn expect_same(first: &Superblock) -> Expected {
    let identity = Identity::of(first);
    Expected {
        cluster: Some(identity.cluster),
        replica: Some(identity.replica),
        servers: Some(identity.servers),
        shards: Some(identity.shards),
        journal_size: Some(first.journal_size.get()),
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
