//! The space of a checkpoint that is no longer needed is given back little by little.
//!
//! To free hundreds of megabytes at once keeps the file system, and with it every write to the journal, waiting for
//! tens of milliseconds. So the file loses its name while it is open, which is quick, and is then shortened step by
//! step. After a crash the file system frees the rest by itself.

use std::{cell::Cell, io, thread, time::Duration};

use crate::journal::file::{BlockFile, DirectFile};

/// Bytes given back at a time.
const STEP_BYTES: u64 = 1 << 20;

/// Most steps while a checkpoint waits for it.
const STEPS_MAX: u64 = 100;

/// Pause after each step.
const PAUSE: Duration = Duration::from_millis(10);

/// An open file that gives its space back gently when it is dropped, if it has been removed by then.
#[derive(Debug)]
pub struct RemovableFile {
    /// `None` only while it is dropped.
    file: Option<DirectFile>,
    size: u64,
    is_removed: Cell<bool>,
}

impl RemovableFile {
    /// Takes over a file of `size` bytes.
    pub fn new(file: DirectFile, size: u64) -> RemovableFile {
        RemovableFile { file: Some(file), size, is_removed: Cell::new(false) }
    }

    /// The file itself, to be used for something else.
    pub fn into_inner(mut self) -> DirectFile {
        self.file.take().expect("it is not being dropped")
    }

    /// The file has no name any more.
    pub fn note_removed(&self) {
        self.is_removed.set(true);
    }
}

impl std::os::fd::AsRawFd for RemovableFile {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_ref().expect("it is not being dropped").as_raw_fd()
    }
}

impl Drop for RemovableFile {
    fn drop(&mut self) {
        let Some(file) = self.file.take().filter(|_| self.is_removed.get() && self.size > STEP_BYTES) else { return };
        let size = self.size;
        // Without a thread, or where it cannot be shortened, closing the file frees it all at once.
        let _ = thread::Builder::new()
            .name("space".to_string())
            .spawn(move || shorten_in_steps(&file, size, 0, STEP_BYTES));
    }
}

/// Gives back what a file has beyond `size` bytes, in about a second at most.
///
/// # Errors
///
/// What the disk says.
pub fn shorten(file: &DirectFile, size: u64) -> io::Result<()> {
    let excess = file.size()?.saturating_sub(size);
    shorten_in_steps(file, size + excess, size, STEP_BYTES.max(excess / STEPS_MAX))
}

fn shorten_in_steps(file: &DirectFile, mut size: u64, to: u64, step: u64) -> io::Result<()> {
    while size > to {
        size = size.saturating_sub(step).max(to);
        rustix::fs::ftruncate(file, size)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;
    use crate::journal::file::{Access, DirectFiles, FileLayer};

    fn is_empty_in_time(file: &DirectFile) -> bool {
        let start = Instant::now();
        while file.size().expect("the file is open") > 0 {
            if start.elapsed() > Duration::from_secs(30) {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn only_a_removed_file_gives_its_space_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        let size = 5 * STEP_BYTES;
        DirectFiles.create(&path).and_then(|file| file.allocate(size)).expect("a file");
        let open = || DirectFiles.open(&path, Access::ReadWrite).expect("the file is there");
        let observer = open();

        drop(RemovableFile::new(open(), size));
        assert_eq!(observer.size().expect("the file is open"), size);

        let file = RemovableFile::new(open(), size);
        fs::remove_file(&path).expect("the file is there");
        file.note_removed();
        assert_eq!(observer.size().expect("the file is open"), size, "it may still be read");
        drop(file);
        assert!(is_empty_in_time(&observer));
    }

    #[test]
    fn a_file_that_is_too_long_is_shortened_and_one_that_is_not_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = DirectFiles.create(&folder.path().join("file")).expect("a file");
        file.allocate(3 * STEP_BYTES + 4096).expect("the disk has room");
        shorten(&file, STEP_BYTES).expect("it can be shortened");
        assert_eq!(file.size().expect("the file is open"), STEP_BYTES);
        shorten(&file, 2 * STEP_BYTES).expect("there is nothing to do");
        assert_eq!(file.size().expect("the file is open"), STEP_BYTES);
    }
}
