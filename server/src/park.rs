//! How a shard's thread waits: in its ring, and nowhere else.
//!
//! tokio-uring waits in epoll, where each completion interrupts the thread by a signal: the wait ends with nothing, the
//! ring is entered with nothing to submit, and epoll is asked again. [`run`] instead enters the ring once, to submit
//! what a turn has queued and to stay there until something has completed, which needs no signal. epoll is then asked
//! once, without waiting, because that is what makes tokio-uring take the completions.
//!
//! To wait there, it must be known that no task can run. So the tasks are in a set of their own, which is polled with a
//! waker of our own: [`Bell`]. Wake-ups from other threads ring it too; if the thread is in the ring by then, through
//! an eventfd that the ring reads. Tasks that tokio puts off ring no bell until its driver has been asked, which would
//! be too late; [`spawn`] and [`run`] see to it that it puts off none.
//!
//! What tokio waits for itself, its timers and its sockets, wakes nobody here: [`crate::ring`] has what is needed.

use std::{
    future::Future,
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, OwnedFd},
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

use rustix::event::{EventfdFlags, eventfd};
use tokio::task::{JoinHandle, LocalSet, unconstrained};

use crate::{
    ring,
    ring_handle::{Entered, RingHandle},
};

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

/// Spawns a task on the calling thread's set. For what [`run`] runs, this stands in for `tokio_uring::spawn`.
///
/// tokio gives a task a budget of operations on its channels and puts it off when that is spent. A shard's tasks have
/// no budget: nearly all that they wait for is the ring or [`crate::notify`], which know of none, and to be put off
/// would be to miss the bell. For the same reason a shard's task never calls `tokio::task::yield_now`.
///
/// # Panics
///
/// Outside of a tokio-uring runtime.
#[expect(clippy::disallowed_methods, reason = "the one place from which tasks are spawned")]
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio_uring::spawn(unconstrained(future))
}

/// Runs `future` and all that it spawns by [`spawn`], in the context of a tokio-uring runtime, until `future` is done.
/// What it has spawned is then neither run nor dropped any more, for the sake of operations that are still in flight.
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
#[expect(clippy::disallowed_methods, reason = "the first tasks of the set, and this loop's own turn of tokio")]
pub async fn run<F: Future + 'static>(ring: RingHandle, busy_poll: Duration, future: F) -> io::Result<F::Output> {
    let bell = Arc::new(Bell::new()?);
    let waker = Waker::from(bell.clone());
    let tasks = ManuallyDrop::new(LocalSet::new());
    tasks.spawn_local(unconstrained(listen(bell.clone())));
    let main = tasks.spawn_local(unconstrained(future));
    let mut all = pin!(unconstrained(tasks.run_until(main)));
    let mut idle_since = None;
    loop {
        let is_rung = bell.is_rung.swap(false, SeqCst);
        if is_rung {
            idle_since = None;
            if let Poll::Ready(result) = all.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(result.unwrap_or_else(|error| resume_unwind(error.into_panic())));
            }
        }
        let may_wait =
            busy_poll.is_zero() || !is_rung && idle_since.get_or_insert_with(Instant::now).elapsed() >= busy_poll;
        let entered = if may_wait { submit_and_wait(ring, &bell)? } else { ring.submit()? };
        if entered == Entered::TryAgain {
            bell.is_rung.store(true, SeqCst);
        }
        // Has tokio ask epoll, which sees the completions, and lets tokio-uring's own task take them before this goes
        // on.
        tokio::task::yield_now().await;
    }
}

/// Submits all that is queued, and waits for a completion unless the bell has been rung.
fn submit_and_wait(ring: RingHandle, bell: &Bell) -> io::Result<Entered> {
    bell.is_waiting.store(true, SeqCst);
    let entered = if bell.is_rung.load(SeqCst) { ring.submit() } else { ring.submit_and_wait() };
    bell.is_waiting.store(false, SeqCst);
    entered
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
                    spawn(async move {
                        for _ in 0..number % 7 {
                            tokio_uring::no_op().await.expect("it cannot fail");
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

    /// tokio would put the task off after 128 messages, and no completion comes that would wake it.
    #[test]
    fn a_task_that_has_much_to_take_from_a_channel_is_not_put_off() {
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let sum = uring::start(Duration::ZERO, async {
                let (sender, mut receiver) = mpsc::unbounded_channel();
                (0..1000_u64).for_each(|number| sender.send(number).expect("it is open"));
                drop(sender);
                let take = spawn(async move {
                    let mut sum = 0;
                    while let Some(number) = receiver.recv().await {
                        sum += number;
                    }
                    sum
                });
                take.await.expect("no panic")
            });
            done.send(sum)
        });
        let sum = wait.recv_timeout(Duration::from_secs(60)).expect("it ends");
        assert_eq!(sum.expect("a ring"), 499_500);
    }

    #[test]
    fn tasks_that_never_rest_do_not_keep_out_what_completes_later() {
        let done = uring::start(Duration::ZERO, async {
            spawn(async {
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
