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
        // Whoever waits for something else as well is polled again and again, and is to stand in the list once.
        let mut listed: Option<Waker> = None;
        poll_fn(|context| {
            if self.generation.get() != generation {
                return Poll::Ready(());
            }
            if !listed.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                listed = Some(context.waker().clone());
                self.waiters.borrow_mut().push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::Arc,
        task::{Context, Wake},
    };

    use super::*;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn who_is_polled_often_while_it_waits_stands_in_the_list_once() {
        let broadcast = LocalBroadcast::default();
        let mut waiting = pin!(broadcast.notified());
        // The table of `Waker::noop` may have another address in each unit that is compiled, and then wakes another
        // than itself.
        let waker = Waker::from(Arc::new(Nobody));
        let mut context = Context::from_waker(&waker);
        for _ in 0..100 {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(broadcast.waiters.borrow().len(), 1);
        broadcast.notify_all();
        assert!(waiting.as_mut().poll(&mut context).is_ready());
        assert!(!broadcast.has_waiters());
    }
}
