//! The ring of a shard's thread, and whether this host lets us have one.

use std::{
    future::Future,
    io,
    mem::ManuallyDrop,
    os::fd::{BorrowedFd, RawFd},
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use tracing::info;

use crate::{park, ring_handle::RingHandle};

/// Submission queue entries of a shard's ring: more than one turn submits, so that a turn is one system call.
const ENTRIES: u32 = 1024;

/// Completion queue entries: every operation that can be outstanding at once, so that the queue does not overflow.
const COMPLETIONS: u32 = 4096;

const DISABLED_FILE: &str = "/proc/sys/kernel/io_uring_disabled";

/// Checks that io_uring can be used, by making a ring and giving it back.
///
/// # Errors
///
/// One line that says what forbids it and what to change.
pub fn check_available() -> anyhow::Result<()> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Err(error) = once_there_is_memory(|| io_uring::IoUring::new(8)) else {
        return Ok(());
    };
    let disabled = std::fs::read_to_string(DISABLED_FILE).ok();
    anyhow::bail!(explain(&error, disabled.as_deref().map(str::trim)))
}

fn explain(error: &io::Error, disabled: Option<&str>) -> String {
    let cause = match (Errno::from_io_error(error), disabled) {
        (Some(Errno::PERM | Errno::ACCESS), Some("2")) => {
            "kernel.io_uring_disabled is 2 on this host, which forbids it to everyone; run `sysctl kernel.io_uring_disabled=0`"
        }
        (Some(Errno::PERM | Errno::ACCESS), Some("1")) => {
            "kernel.io_uring_disabled is 1 on this host, which allows it to privileged processes and to the group in \
             kernel.io_uring_group only; join that group or run `sysctl kernel.io_uring_disabled=0`"
        }
        (Some(Errno::PERM | Errno::ACCESS), _) => {
            "a seccomp filter forbids it, as container runtimes do by default; allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile"
        }
        (Some(Errno::NOSYS), _) => {
            "this kernel does not have it, or a seccomp filter hides it; use Linux 5.15 or later, and allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's seccomp profile"
        }
        (Some(Errno::NOMEM), _) => {
            "the memory that this user may lock is used up; raise the limit (`ulimit -l`, LimitMEMLOCK= in a systemd unit)"
        }
        (Some(Errno::MFILE | Errno::NFILE), _) => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused to make a ring",
    };
    format!("io_uring cannot be used: {cause} ({error})")
}

/// Runs `future` on a ring of the calling thread's own, until it is done. The thread waits as [`park`] says, and before
/// it waits it looks for completions for `busy_poll`.
///
/// # Errors
///
/// If the kernel does not give out a ring, or does not let the thread enter it.
///
/// # Panics
///
/// If `future` panics.
pub fn start<F: Future + 'static>(busy_poll: Duration, future: F) -> io::Result<F::Output> {
    let (runtime, ring) = make_ring()?;
    // Dropping tokio-uring's driver frees the memory of operations in flight before it cancels them, and the kernel
    // goes on writing there: seen as a crash when a client connected while a server was ending. A ring is made once per
    // thread and lasts as long as the process does, so it is left alone.
    let runtime = ManuallyDrop::new(runtime);
    let Some(ring) = ring else {
        info!("this host does not show a thread its ring (is /proc there?): it waits in epoll, at more system calls");
        return Ok(runtime.block_on(future));
    };
    #[expect(clippy::disallowed_methods, reason = "outside of the set of tasks that `park` waits for")]
    let task = async move { tokio_uring::spawn(park::run(ring, busy_poll, future)).await };
    runtime.block_on(task).unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

/// Held while a ring is made, so that a new one can be told from the others.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long a ring is asked for again while there is no memory for it.
///
/// The kernel takes all pages of a ring at once from what is free at that very moment, and does not wait until its page
/// cache has given way. Likewise, memory that this user may lock is free again only some time after the process that
/// had it has ended.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(3);

/// Calls `make` again for a while as long as it says that there is no memory.
fn once_there_is_memory<T>(mut make: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match make() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOMEM) && start.elapsed() < MEMORY_TIMEOUT => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// A runtime, and its ring if that can be told from all others and looked into; if not, the thread has to wait as
/// tokio-uring does.
fn make_ring() -> io::Result<(tokio_uring::Runtime, Option<RingHandle>)> {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // tokio-uring does not give out the descriptor of its ring: it is the one ring that was not there before.
    let before = open_rings();
    let runtime = once_there_is_memory(runtime)?;
    let mut new = open_rings();
    new.retain(|fd| !before.contains(fd));
    let [fd] = new[..] else {
        return Ok((runtime, None));
    };
    // SAFETY: this thread has just made the ring, and `start` never drops the runtime that would close it.
    let ring = unsafe { RingHandle::new(BorrowedFd::borrow_raw(fd), ENTRIES) };
    Ok((runtime, ring.ok()))
}

/// The descriptors of this process's rings; none if the host does not show them.
fn open_rings() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let is_ring =
        |path: &Path| std::fs::read_link(path).is_ok_and(|target| target == Path::new("anon_inode:[io_uring]"));
    entries
        .flatten()
        .filter(|entry| is_ring(&entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The ring is used by one thread only and its completions wait for that thread's next system call, which saves the
/// kernel an interruption of the thread for each: measured, a third of the CPU per request. Kernels before 6.0
/// know neither flag and get a plain ring.
fn runtime() -> io::Result<tokio_uring::Runtime> {
    let mut plain = tokio_uring::uring_builder();
    plain.setup_cqsize(COMPLETIONS);
    let mut cooperative = plain.clone();
    cooperative.setup_coop_taskrun().setup_single_issuer();
    let build = |ring: &io_uring::Builder| {
        let mut builder = tokio_uring::builder();
        tokio_uring::Runtime::new(builder.entries(ENTRIES).uring_builder(ring))
    };
    match build(&cooperative) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => build(&plain),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd,
        task::{Context, Waker},
    };

    use super::*;
    use crate::{ring, ring_handle::Entered};

    #[test]
    fn each_reason_names_what_to_change() {
        let text = |errno: Errno, disabled| explain(&errno.into(), disabled);
        assert!(text(Errno::PERM, Some("2")).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(text(Errno::PERM, Some("1")).contains("kernel.io_uring_group"));
        assert!(text(Errno::PERM, Some("0")).contains("seccomp"));
        assert!(text(Errno::PERM, None).contains("seccomp"));
        assert!(text(Errno::NOSYS, None).contains("Linux 5.15"));
        assert!(text(Errno::NOMEM, Some("0")).contains("ulimit -l"));
        assert!(text(Errno::MFILE, Some("0")).contains("ulimit -n"));
        for errno in [Errno::PERM, Errno::NOSYS, Errno::NOMEM, Errno::INVAL] {
            assert!(!text(errno, None).contains('\n'));
        }
    }

    /// A server that was started while the page cache had nearly all memory ended at once.
    #[test]
    fn a_moment_without_memory_for_a_ring_was_the_end_of_a_server() {
        let mut answers = vec![Ok(7), Err(Errno::NOMEM), Err(Errno::NOMEM)];
        let made = once_there_is_memory(|| answers.pop().expect("it stops at once").map_err(io::Error::from));
        assert_eq!((made.expect("there was memory in the end"), answers.len()), (7, 0));
        let mut attempts = 0;
        let refused = once_there_is_memory(|| {
            attempts += 1;
            Err::<(), _>(io::Error::from(Errno::PERM))
        });
        assert_eq!((Errno::from_io_error(&refused.expect_err("it is forbidden")), attempts), (Some(Errno::PERM), 1));
    }

    #[test]
    fn a_future_on_the_ring_can_wait_for_the_kernel_and_for_a_timer() {
        let done = start(Duration::ZERO, async {
            tokio_uring::no_op().await?;
            ring::sleep(Duration::from_millis(1)).await;
            io::Result::Ok(42)
        });
        assert_eq!(done.expect("a ring").expect("a completion"), 42);
    }

    #[test]
    fn where_the_ring_cannot_be_told_tokio_urings_own_waiting_does() {
        let runtime = ManuallyDrop::new(runtime().expect("a ring"));
        runtime.block_on(async {
            tokio_uring::no_op().await.expect("it cannot fail");
            ring::sleep(Duration::from_millis(1)).await;
        });
    }

    #[test]
    fn the_handle_sees_what_tokio_uring_has_queued() {
        let (runtime, ring) = make_ring().expect("a ring");
        let runtime = ManuallyDrop::new(runtime);
        let ring = ring.expect("a ring that can be told from others");
        runtime.block_on(async {
            assert_eq!(ring.queued(), 0);
            let mut operations: Vec<_> = (0..3).map(|_| Box::pin(tokio_uring::no_op())).collect();
            let mut context = Context::from_waker(Waker::noop());
            assert!(operations.iter_mut().all(|operation| operation.as_mut().poll(&mut context).is_pending()));
            assert_eq!(ring.queued(), 3);
            assert_eq!(ring.submit_and_wait().expect("it is open"), Entered::Done);
            assert_eq!(ring.queued(), 0);
            for operation in operations {
                operation.await.expect("it cannot fail");
            }
        });
    }

    #[test]
    fn a_handle_for_a_ring_of_another_size_is_refused() {
        let ring = ManuallyDrop::new(io_uring::IoUring::new(8).expect("a ring"));
        // SAFETY: the ring is this thread's and never closed.
        let handle = |entries| unsafe { RingHandle::new(BorrowedFd::borrow_raw(ring.as_raw_fd()), entries) };
        assert!(handle(8).is_ok());
        assert!(handle(16).is_err());
    }
}
