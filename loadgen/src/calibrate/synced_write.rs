//! A synced 4 KiB write: the least that making one small prepare durable costs here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{IoUring, opcode, types};

use crate::record::latency_histogram;

/// The size of one write.
const WRITE_LEN: usize = 4096;
/// The file's size: far more than a drive's own cache line, far less than anyone minds.
const FILE_LEN: u64 = 64 * 1024 * 1024;
const WARMUP_WRITES: usize = 20;

/// A write's memory, aligned as O_DIRECT demands.
#[repr(C, align(4096))]
struct Block([u8; WRITE_LEN]);

/// Measures single writes with O_DIRECT and RWF_DSYNC through io_uring, one after the other over a file that was
/// written before, in a temporary file in `folder`, for `duration`; in nanoseconds.
///
/// # Errors
///
/// When `folder` cannot be written, its file system has no O_DIRECT, or there is no io_uring.
pub fn synced_writes(folder: &Path, duration: Duration) -> io::Result<Histogram<u64>> {
    write_for(&prepared_file(folder)?, duration)
}

/// Measures as [`synced_writes`] does, with `writers` threads at once, each with a file of its own on the same disk.
/// Returns the writes of all.
///
/// # Errors
///
/// As for [`synced_writes`].
pub fn synced_writes_at_once(folder: &Path, duration: Duration, writers: usize) -> io::Result<Histogram<u64>> {
    // All files first: making one is work for the disk, too.
    let files = (0..writers).map(|_| prepared_file(folder)).collect::<io::Result<Vec<File>>>()?;
    std::thread::scope(|scope| {
        let writing: Vec<_> = files.iter().map(|file| scope.spawn(move || write_for(file, duration))).collect();
        let mut latencies = latency_histogram();
        for writer in writing {
            let written = writer.join().map_err(|_| io::Error::other("a measuring thread ended early"))??;
            latencies.add(written).map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(latencies)
    })
}

fn write_for(file: &File, duration: Duration) -> io::Result<Histogram<u64>> {
    let mut ring = ring()?;
    // Never freed: should the ring fail with a write in flight, the kernel may still read these bytes.
    let block: &'static Block = Box::leak(Box::new(Block([0xa5; WRITE_LEN])));
    let mut latencies = latency_histogram();
    let mut offset = 0;
    for _ in 0..WARMUP_WRITES {
        write_block(&mut ring, file, block, offset)?;
        offset += WRITE_LEN as u64;
    }
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let sent = Instant::now();
        write_block(&mut ring, file, block, offset)?;
        latencies.saturating_record(sent.elapsed().as_nanos() as u64);
        offset = (offset + WRITE_LEN as u64) % FILE_LEN;
    }
    Ok(latencies)
}

/// A file without a name, written once from end to end and synced, so that no extent has to be allocated or converted
/// while measuring.
fn prepared_file(folder: &Path) -> io::Result<File> {
    let explain =
        |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what} in {}: {error}", folder.display()));
    let named = tempfile::NamedTempFile::new_in(folder).map_err(|error| explain("cannot make a file", error))?;
    let zeroes = vec![0; 1024 * 1024];
    let mut plain = named.as_file();
    for _ in 0..FILE_LEN / zeroes.len() as u64 {
        plain.write_all(&zeroes).map_err(|error| explain("cannot write a file", error))?;
    }
    plain.sync_all().map_err(|error| explain("cannot sync a file", error))?;
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(named.path());
    direct.map_err(|error| explain("the file system refuses O_DIRECT; choose a folder on a disk (--data-root)", error))
}

fn ring() -> io::Result<IoUring> {
    // The flags that the server's rings have; older kernels know none of them.
    let tuned = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(8);
    tuned.or_else(|_| IoUring::new(8)).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("no io_uring here ({error}); it needs Linux 5.15 or later, and leave to use it"),
        )
    })
}

fn write_block(ring: &mut IoUring, file: &File, block: &'static Block, offset: u64) -> io::Result<()> {
    let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), block.0.as_ptr(), WRITE_LEN as u32)
        .offset(offset)
        .rw_flags(libc::RWF_DSYNC)
        .build();
    // SAFETY: the block is never freed, and the kernel keeps its own reference to the file from the submission on.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("the submission queue is full"))?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(completion) = ring.completion().next() {
            return match completion.result() {
                result if result == WRITE_LEN as i32 => Ok(()),
                result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                result => Err(io::Error::other(format!("{result} of {WRITE_LEN} bytes were written"))),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_measured_and_leave_nothing_behind() {
        let folder = tempfile::tempdir_in(crate::cluster::data_root_default()).expect("a temporary folder");
        let latencies = synced_writes(folder.path(), Duration::from_millis(50)).expect("the disk takes direct writes");
        assert!(!latencies.is_empty() && latencies.min() > 0);
        assert_eq!(std::fs::read_dir(folder.path()).expect("it can be listed").count(), 0);
    }

    #[test]
    fn the_writes_of_all_writers_are_counted() {
        let folder = tempfile::tempdir_in(crate::cluster::data_root_default()).expect("a temporary folder");
        let latencies = synced_writes_at_once(folder.path(), Duration::ZERO, 3).expect("the disk takes direct writes");
        assert!(latencies.is_empty(), "no time was given");
        // A busy disk may take that long for a single write.
        let has_many = [50, 500, 5000].into_iter().any(|time_ms| {
            let time = Duration::from_millis(time_ms);
            let latencies = synced_writes_at_once(folder.path(), time, 2).expect("and again");
            latencies.len() > 2 && latencies.min() > 0
        });
        assert!(has_many, "two writers write more than twice");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = synced_writes(Path::new("/nowhere/at/all"), Duration::ZERO).expect_err("it is not there");
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
