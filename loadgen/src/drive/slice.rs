//! How the scheduler treats a generating thread.

use std::mem::size_of;
use std::time::Duration;

/// A turn on the CPU that is far shorter than the scheduler's own of about three milliseconds.
const SLICE: Duration = Duration::from_micros(100);

/// Asks for short turns on the CPU for the calling thread, which brings them sooner: a generator stands for clients on
/// other machines, and must not wait for the end of a server's turn to send what is due. Its share of the CPU stays
/// what it is.
///
/// Kernels before 6.12 know no such wish. Nothing depends on it, so a refusal is no error.
pub(super) fn ask_for_short_slices() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of the structure as its first field says, and keeps no reference to it.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}
