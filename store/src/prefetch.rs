//! Hints to the processor that memory will be needed soon: the only unsafe code of the store.
//!
//! A key that is touched once in a while is in none of the caches, so each step from hash to bucket to entry costs a
//! trip to memory. Asking for many of them before using the first lets the trips overlap.

/// Size of a cache line, in bytes.
const LINE: usize = 64;

/// Largest number of lines asked for at once: a longer entry is read in order, which the processor foresees itself.
const LINES_MAX: usize = 4;

/// Asks for the cache line in which `target` begins.
#[inline(always)]
pub(crate) fn prefetch<T>(target: &T) {
    prefetch_line(std::ptr::from_ref(target).cast());
}

/// Asks for the first cache lines of `bytes`.
#[inline(always)]
pub(crate) fn prefetch_bytes(bytes: &[u8]) {
    for start in (0..LINE * LINES_MAX).step_by(LINE) {
        if let Some(first) = bytes.get(start) {
            prefetch_line(first);
        }
    }
    // A block that does not begin at a line's start reaches into one line more.
    if let Some(last) = bytes.get(..LINE * LINES_MAX).unwrap_or(bytes).last() {
        prefetch_line(last);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch has no effect on the program's state and never faults, whatever the address; SSE, which it
    // needs, is part of x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch_line(_address: *const u8) {}
