//! One process per data folder.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use rustix::{fs::FlockOperation, io::Errno};

use super::folder::{FolderError, LOCK_NAME, io_error};

/// An exclusive lock on a data folder. Released when dropped, and by the system when the process ends in whatever way.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks a formatted folder.
    ///
    /// # Errors
    ///
    /// If it is not formatted, cannot be opened, or another process has it.
    pub fn acquire(dir: &Path) -> Result<FolderLock, FolderError> {
        let path = dir.join(LOCK_NAME);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(FolderError::NotFormatted(dir.to_owned()));
            }
            result => result.map_err(io_error("open", &path))?,
        };
        FolderLock::lock(dir, file)
    }

    /// Creates the lock file of a folder that is about to be formatted, and locks it.
    pub(crate) fn create(dir: &Path) -> Result<FolderLock, FolderError> {
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("create", &path))?;
        FolderLock::lock(dir, file)
    }

    fn lock(dir: &Path, mut file: File) -> Result<FolderLock, FolderError> {
        let path = dir.join(LOCK_NAME);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(FolderError::Locked { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(errno) => return Err(io_error("lock", &path)(errno.into())),
        }
        // For the message of whoever comes second; the lock itself is the system's.
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(io_error("write", &path))?;
        Ok(FolderLock { _file: file })
    }

    /// Whether some process has the folder locked now.
    pub(crate) fn is_held(dir: &Path) -> bool {
        let Ok(file) = File::open(dir.join(LOCK_NAME)) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
