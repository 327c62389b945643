//! A wake-up between tasks of one thread, without atomics.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

/// One task waits, others notify. A notification that comes while nobody waits is kept; several count as one.
#[derive(Default)]
pub struct LocalNotify {
    is_notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl LocalNotify {
    /// Wakes the waiting task, or lets the next wait return at once.
    pub fn notify(&self) {
        if !self.is_notified.replace(true)
            && let Some(waker) = self.waiter.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits for a notification. Only one task may wait at a time; a later one takes the place of an earlier one.
    pub async fn notified(&self) {
        poll_fn(|context| {
            if self.is_notified.replace(false) {
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

/// Several tasks wait, and all are woken.
#[derive(Default)]
pub struct LocalBroadcast {
    generation: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl LocalBroadcast {
    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.generation.set(self.generation.get() + 1);
        for waker in self.waiters.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Whether anybody waits.
    pub fn has_waiters(&self) -> bool {
        !self.waiters.borrow().is_empty()
    }

    /// Waits for the next [`LocalBroadcast::notify_all`].
    pub async fn notified(&self) {
        let generation = self.generation.get();
        poll_fn(|context| {
            if self.generation.get() != generation {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
