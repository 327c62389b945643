//! How a shard's thread waits: in its ring, and nowhere else.
//!
//! tokio-uring waits in epoll, where each completion interrupts the thread by a signal: the wait ends with nothing, the
//! ring is entered with nothing to submit, and epoll is asked again. [`run`] instead enters the ring and stays there until
//! something has completed, which needs no signal. epoll is then asked once, without waiting, because that is what makes
//! tokio-uring take the completions.
//!
//! To wait there, it must be known that no task can run. So the tasks are in a set of their own, which is polled with a
//! waker of our own: [`Bell`]. Wake-ups from other threads ring it too; if the thread is in the ring by then, through an
//! eventfd that the ring reads.
//!
//! What tokio waits for itself, its timers and its sockets, wakes nobody here: [`crate::ring`] has what is needed.

use std::{
    future::Future,
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
    io_uring::{IoringEnterFlags, io_uring_enter},
};
use tokio::task::LocalSet;

use crate::ring;

/// How long the bell is not listened to after a failure to do so.
const LISTEN_PAUSE: Duration = Duration::from_millis(1);

/// Wakes the set of tasks of a thread that may be waiting in its ring.
///
/// One of two sides always sees the other: the thread says that it waits and then looks whether the bell was rung, the
/// ringer rings and then looks whether the thread waits.
struct Bell {
    /// Rung, and not answered yet by polling the tasks. It begins rung: the tasks are to be polled a first time.
    is_rung: AtomicBool,
    is_waiting: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { is_rung: AtomicBool::new(true), is_waiting: AtomicBool::new(false), event })
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Rung already: whoever did it has seen to the rest.
        if !self.is_rung.swap(true, SeqCst) && self.is_waiting.load(SeqCst) {
            // The counter of an eventfd overflows after 2^64 - 1 rings; there is no other way to fail.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

struct BellOf(Arc<Bell>);

impl AsRawFd for BellOf {
    fn as_raw_fd(&self) -> i32 {
        self.0.event.as_raw_fd()
    }
}

/// Keeps a read of the bell's eventfd in the ring, so that a ring of the bell is a completion.
async fn listen(bell: Arc<Bell>) {
    let event = Rc::new(BellOf(bell));
    let mut count = vec![0; size_of::<u64>()];
    loop {
        count = match ring::read_at(event.clone(), count, size_of::<u64>(), 0).await {
            Ok(count) => count,
            // Short of memory, most likely. What was rung meanwhile is still in the counter.
            Err(_) => {
                ring::sleep(LISTEN_PAUSE).await;
                vec![0; size_of::<u64>()]
            }
        };
    }
}

/// The ring of the calling thread.
#[derive(Clone, Copy)]
pub struct RingHandle {
    fd: BorrowedFd<'static>,
    entries: u32,
}

impl RingHandle {
    /// # Safety
    ///
    /// `fd` must be a ring of the calling thread that has `entries` submission entries and is never closed.
    pub unsafe fn new(fd: BorrowedFd<'static>, entries: u32) -> Self {
        Self { fd, entries }
    }

    /// Submits all that is queued, without waiting. Whether the kernel has taken it; if not, it is to be tried again.
    fn submit(self) -> io::Result<bool> {
        self.enter(self.entries, 0)
    }

    /// Waits until there is a completion that has not been taken. A call of its own: told to submit more than there is, the
    /// kernel would not wait.
    fn wait(self) -> io::Result<()> {
        self.enter(0, 1).map(drop)
    }

    /// Whether the kernel has done it; if not, it is worth another try.
    fn enter(self, submit: u32, completions: u32) -> io::Result<bool> {
        let flags = if completions > 0 { IoringEnterFlags::GETEVENTS } else { IoringEnterFlags::empty() };
        // SAFETY: only entries are submitted that tokio-uring has queued, which keeps what they point to.
        match unsafe { io_uring_enter(self.fd, submit, completions, flags) } {
            Ok(_) => Ok(true),
            // Interrupted, or short of memory or of room for completions, which taking some makes.
            Err(Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs `future` and all that it spawns, in the context of a tokio-uring runtime, until `future` is done. What it has
/// spawned is then neither run nor dropped any more, for the sake of operations that are still in flight.
///
/// When there is nothing to do, the thread goes on looking for completions for `busy_poll` before it waits for them.
///
/// # Errors
///
/// If the kernel refuses to let the thread enter its ring.
///
/// # Panics
///
/// If `future` panics.
pub async fn run<F: Future + 'static>(ring: RingHandle, busy_poll: Duration, future: F) -> io::Result<F::Output> {
    let bell = Arc::new(Bell::new()?);
    let waker = Waker::from(bell.clone());
    let tasks = ManuallyDrop::new(LocalSet::new());
    tasks.spawn_local(listen(bell.clone()));
    let main = tasks.spawn_local(future);
    let mut all = pin!(tasks.run_until(main));
    let mut idle_since = None;
    loop {
        if bell.is_rung.swap(false, SeqCst) {
            idle_since = None;
            if let Poll::Ready(result) = all.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(result.unwrap_or_else(|error| resume_unwind(error.into_panic())));
            }
            if !ring.submit()? {
                bell.is_rung.store(true, SeqCst);
            }
        } else if busy_poll.is_zero() || idle_since.get_or_insert_with(Instant::now).elapsed() >= busy_poll {
            bell.is_waiting.store(true, SeqCst);
            if !bell.is_rung.load(SeqCst) {
                ring.wait()?;
            }
            bell.is_waiting.store(false, SeqCst);
        }
        // Has tokio ask epoll, which sees the completions, and lets tokio-uring's own task take them before this goes on.
        // It also wakes the tasks that tokio has put off, because they have yielded or run for too long: they ring no bell
        // until then, which is why this comes between polling the tasks and waiting.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::uring;

    #[test]
    fn wake_ups_from_other_threads_arrive_while_the_thread_waits() {
        for busy_poll in [Duration::ZERO, Duration::from_micros(50)] {
            let (ask, mut asked) = mpsc::channel::<oneshot::Sender<u32>>(1);
            let shard = std::thread::spawn(move || {
                uring::start(busy_poll, async move {
                    let mut count = 0;
                    while let Some(answer) = asked.recv().await {
                        count += 1;
                        answer.send(count).expect("somebody waits");
                    }
                    count
                })
            });
            for round in 1..=1000 {
                let (answer, answered) = oneshot::channel();
                ask.blocking_send(answer).expect("the thread runs");
                assert_eq!(answered.blocking_recv(), Ok(round));
            }
            drop(ask);
            assert_eq!(shard.join().expect("no panic").expect("a ring"), 1000);
        }
    }

    #[test]
    fn more_tasks_than_run_in_one_go_all_run_while_timers_and_operations_complete() {
        let sum = uring::start(Duration::ZERO, async {
            let tasks: Vec<_> = (0..1000_u64)
                .map(|number| {
                    tokio_uring::spawn(async move {
                        for _ in 0..number % 7 {
                            tokio_uring::no_op().await.expect("it cannot fail");
                            tokio::task::yield_now().await;
                        }
                        ring::sleep(Duration::from_micros(number % 50)).await;
                        number
                    })
                })
                .collect();
            let mut sum = 0;
            for task in tasks {
                sum += task.await.expect("no panic");
            }
            sum
        });
        assert_eq!(sum.expect("a ring"), 499_500);
    }

    #[test]
    fn tasks_that_never_rest_do_not_keep_out_what_completes_later() {
        let done = uring::start(Duration::ZERO, async {
            tokio_uring::spawn(async {
                loop {
                    tokio_uring::no_op().await.expect("it cannot fail");
                }
            });
            let (mut writer, reader) = std::os::unix::net::UnixStream::pair().expect("two sockets");
            let other = std::thread::spawn(move || std::io::Write::write_all(&mut writer, b"x").expect("it is open"));
            ring::sleep(Duration::from_millis(2)).await;
            let read = ring::read_at(Rc::new(reader), vec![0; 1], 1, 0).await.expect("a byte");
            other.join().expect("no panic");
            read
        });
        assert_eq!(done.expect("a ring"), b"x");
    }

    #[test]
    fn threads_that_start_at_once_each_find_their_own_ring() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| uring::start(Duration::ZERO, ring::sleep(Duration::from_millis(2)))))
            .collect();
        for thread in threads {
            thread.join().expect("no panic").expect("a ring");
        }
    }

    #[test]
    #[should_panic(expected = "as it must")]
    fn a_panic_of_the_future_is_a_panic_of_the_thread() {
        let _ = uring::start(Duration::ZERO, async {
            tokio_uring::no_op().await.expect("it cannot fail");
            panic!("as it must");
        });
    }
}
