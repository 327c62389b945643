//! Disks of a bounded size, for servers whose disk is to be filled.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const FILLER: &str = "filler";
static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

/// A file system in memory with a bound, mounted for one server.
#[derive(Debug)]
pub(super) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `size` bytes at `path`, which is made.
    pub(super) fn mount(path: PathBuf, size: u64) -> io::Result<Self> {
        fs::create_dir(&path)?;
        let options = CString::new(format!("size={size}")).expect("digits hold no zero byte");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes until there is no room left, and gives how many bytes that took.
    pub(super) fn fill(&self) -> io::Result<u64> {
        let mut filler = File::create(self.path.join(FILLER))?;
        let mut written = 0;
        loop {
            match filler.write(&PIECE) {
                Ok(len) => written += len as u64,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(written),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room again.
    pub(super) fn free(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is being killed may not have let go of its files yet.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}
