//! The generator's ring: how it is set up, and how it sleeps.

use std::io;
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, types};
use tokio_uring::{OneshotOutputTransform, Runtime, UnsubmittedOneshot};

/// Submissions that fit the ring before it has to be handed to the kernel within a turn.
const ENTRIES: u32 = 1024;

/// How long a ring is asked for again while there is no memory for it: the kernel takes a ring's pages from what is
/// free at that very moment, and does not wait until its page cache has given way.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(3);

/// A ring for the calling thread: with the flags that make completions cheap, or without them where the kernel is too
/// old for them (before 6.0).
///
/// # Errors
///
/// When this kernel or container offers no io_uring, or no memory for it for some time.
pub(super) fn runtime() -> io::Result<Runtime> {
    let start = Instant::now();
    loop {
        match make_runtime() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && start.elapsed() < MEMORY_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn make_runtime() -> io::Result<Runtime> {
    let mut fast = tokio_uring::uring_builder();
    fast.setup_coop_taskrun().setup_single_issuer().setup_cqsize(4 * ENTRIES);
    let built = Runtime::new(tokio_uring::builder().entries(ENTRIES).uring_builder(&fast));
    match built {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let mut plain = tokio_uring::uring_builder();
            plain.setup_cqsize(4 * ENTRIES);
            Runtime::new(tokio_uring::builder().entries(ENTRIES).uring_builder(&plain))
        }
        other => other,
    }
}

struct Discard;

impl OneshotOutputTransform for Discard {
    type Output = ();
    type StoredData = Box<types::Timespec>;

    fn transform_oneshot_output(self, _time: Self::StoredData, _expired: cqueue::Entry) {}
}

/// Sleeps for `duration` on the ring's own high-resolution timer: tokio's clock ticks in milliseconds, which is coarser
/// than the gaps between requests.
pub(super) async fn sleep(duration: Duration) {
    let time = Box::new(types::Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos()));
    let entry = opcode::Timeout::new(&raw const *time).build();
    // The boxed time stays where it is and is owned by the operation until the kernel has completed it, also when the
    // future is dropped.
    UnsubmittedOneshot::new(time, Discard, entry).submit().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_takes_at_least_its_time() {
        let runtime = runtime().expect("a ring");
        runtime.block_on(async {
            for micros in [1, 50, 300, 2000] {
                let begin = Instant::now();
                sleep(Duration::from_micros(micros)).await;
                assert!(begin.elapsed() >= Duration::from_micros(micros));
            }
        });
    }

    #[test]
    fn the_best_of_many_short_sleeps_is_precise() {
        let runtime = runtime().expect("a ring");
        // Other processes may delay any one wake-up, not all of them.
        let best = runtime.block_on(async {
            let mut best = Duration::MAX;
            let deadline = Instant::now() + Duration::from_secs(30);
            while best >= Duration::from_micros(300) && Instant::now() < deadline {
                let begin = Instant::now();
                sleep(Duration::from_micros(200)).await;
                best = best.min(begin.elapsed());
            }
            best
        });
        assert!(best < Duration::from_micros(300), "{best:?}");
    }
}
