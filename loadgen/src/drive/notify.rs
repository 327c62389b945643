//! Wake-ups between tasks of one thread, without atomics.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// One task waits, others notify. A notification that comes while nobody waits is kept; several count as one.
#[derive(Default)]
pub(super) struct Notify {
    is_set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    /// Wakes the waiting task, or lets its next wait return at once.
    #[inline]
    pub(super) fn set(&self) {
        if !self.is_set.replace(true)
            && let Some(waker) = self.waiter.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Waits until it is set, and clears it. Only one task may wait.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.is_set.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            if !waiter.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waiter = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Any number of tasks wait for the next notification.
#[derive(Default)]
pub(super) struct Broadcast {
    count: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Broadcast {
    /// Wakes all tasks that wait.
    pub(super) fn notify_all(&self) {
        self.count.set(self.count.get() + 1);
        self.waiters.take().into_iter().for_each(Waker::wake);
    }

    /// Waits for the first notification after this call.
    pub(super) async fn wait(&self) {
        let before = self.count.get();
        poll_fn(|context| {
            if self.count.get() != before {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
