//! The ring of a shard's thread, and whether this host lets us have one.

use std::{future::Future, io};

use rustix::io::Errno;

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
    let Err(error) = io_uring::IoUring::new(8) else {
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

/// Runs `future` on a ring of the calling thread's own, until it is done.
///
/// The ring is used by one thread only and its completions wait for that thread's next system call, which saves the
/// kernel an interruption of the thread for each: measured, a third of the CPU per request. Kernels before 6.0
/// know neither flag and get a plain ring.
///
/// # Errors
///
/// If the kernel does not give out a ring.
pub fn start<F: Future>(future: F) -> io::Result<F::Output> {
    // Dropping tokio-uring's driver frees the memory of operations in flight before it cancels them, and the kernel goes on
    // writing there: seen as a crash when a client connected while a server was ending. A ring is made once per thread
    // and lasts as long as the process does, so it is left alone.
    let runtime = std::mem::ManuallyDrop::new(runtime()?);
    Ok(runtime.block_on(future))
}

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
    use super::*;

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

    #[test]
    fn a_future_on_the_ring_can_wait_for_the_kernel_and_for_a_timer() {
        let done = start(async {
            tokio_uring::no_op().await?;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            io::Result::Ok(42)
        });
        assert_eq!(done.expect("a ring").expect("a completion"), 42);
    }
}
