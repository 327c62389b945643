//! A disk that is soon full.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::scratch_folder;

/// A file system of a few megabytes, in memory.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this test may not mount.
    pub fn mount(size: &str) -> Option<SmallDisk> {
        let folder = tempfile::Builder::new().prefix("lockstep-small-").tempdir_in(scratch_folder()).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).stderr(Stdio::null());
        mount.status().ok()?.success().then_some(SmallDisk(folder))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it up with a file of this name.
    pub fn fill(&self, name: &str) {
        // The write is cut short or fails when nothing is left, which is what is wanted.
        let _ = std::fs::write(self.path().join(name), vec![1; 64 << 20]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
