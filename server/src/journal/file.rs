//! The thin layer between the journal and the disk.
//!
//! Everything in [`crate::journal`] and [`crate::checkpoint`] that touches a disk synchronously (format, recovery,
//! repair, inspection) goes through [`BlockFile`] and [`FileLayer`], so that tests can put a disk underneath that fills
//! up, tears writes and loses them. The running server writes through its ring instead, to the descriptor of a
//! [`DirectFile`].

use std::{
    fs::File,
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use lockstep_proto::limits::SECTOR_SIZE;
use rustix::{
    fs::{FallocateFlags, Mode, OFlags},
    io::{Errno, ReadWriteFlags},
};

/// A file of sectors. Offsets and lengths are multiples of [`SECTOR_SIZE`], and so is the address of every buffer.
pub trait BlockFile {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    ///
    /// What the disk says; `UnexpectedEof` if the file ends before the buffer is full.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable only after [`BlockFile::sync`].
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes every write so far durable, and the file's size with it.
    ///
    /// # Errors
    ///
    /// What the disk says. It must not be retried: the kernel may have dropped what it could not write.
    fn sync(&self) -> io::Result<()>;

    /// Reserves `size` bytes of disk from the start of the file on, so that a disk that is too full says so at once.
    /// Only a first step: space is not known to be there before it has been written to.
    ///
    /// # Errors
    ///
    /// What the disk says; nothing if the file system cannot reserve.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Size of the file, in bytes.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn size(&self) -> io::Result<u64>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking only.
    Read,
    /// Looking and changing.
    ReadWrite,
}

/// Where files come from.
pub trait FileLayer {
    /// Its files.
    type File: BlockFile;

    /// Creates a file, readable and writable by its owner only.
    ///
    /// # Errors
    ///
    /// What the disk says; `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file that exists.
    ///
    /// # Errors
    ///
    /// What the disk says.
    fn open(&self, path: &Path, access: Access) -> io::Result<Self::File>;
}

/// The real disk, past the page cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirectFiles;

impl FileLayer for DirectFiles {
    type File = DirectFile;

    fn create(&self, path: &Path) -> io::Result<DirectFile> {
        DirectFile::open_with(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<DirectFile> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        DirectFile::open_with(path, flags)
    }
}

/// A file opened with `O_DIRECT`, or without it where the file system knows no direct I/O (some kernels' tmpfs).
///
/// Writes of the ring should carry `RWF_DSYNC`: the file is not opened with `O_DSYNC`.
#[derive(Debug)]
pub struct DirectFile {
    fd: OwnedFd,
    is_direct: bool,
}

impl DirectFile {
    fn open_with(path: &Path, flags: OFlags) -> io::Result<DirectFile> {
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            Ok(fd) => Ok(DirectFile { fd, is_direct: true }),
            Err(Errno::INVAL) => {
                // Some kernels create the file before they refuse the flag, so it must not count as somebody else's.
                let fd = rustix::fs::open(path, flags & !OFlags::EXCL, mode)?;
                tracing::warn!(
                    path = %path.display(),
                    "this file system has no direct I/O: writes go through the page cache, and latencies will not be those of a disk"
                );
                Ok(DirectFile { fd, is_direct: false })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether reads and writes bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }
}

impl AsFd for DirectFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for DirectFile {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<DirectFile> for OwnedFd {
    fn from(file: DirectFile) -> OwnedFd {
        file.fd
    }
}

impl BlockFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert_is_in_sectors(buffer.len(), offset);
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert_is_in_sectors(bytes.len(), offset);
        let mut done = 0;
        while done < bytes.len() {
            let slice = [IoSlice::new(&bytes[done..])];
            match rustix::io::pwritev2(&self.fd, &slice, offset + done as u64, ReadWriteFlags::empty()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }
}

fn assert_is_in_sectors(len: usize, offset: u64) {
    assert!(len.is_multiple_of(SECTOR_SIZE) && offset.is_multiple_of(SECTOR_SIZE as u64));
}

/// Makes the entries of a folder durable: files created in it, renamed or removed.
///
/// # Errors
///
/// What the disk says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
