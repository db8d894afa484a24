//! Waking a task of the same worker, cheaply.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::task::yield_now;

/// A task's waker that is kept over its turns; waking it again before it ran costs one comparison.
#[derive(Debug, Default)]
pub struct Wakeup {
    waker: RefCell<Option<Waker>>,
    scheduled: Cell<bool>,
}

impl Wakeup {
    /// To be called at the beginning of the task's turn.
    #[inline]
    pub fn begin(&self, cx: &Context<'_>) {
        self.scheduled.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Lets the running task go on after a look at the sockets: without one, many turns of a few tasks that have much to
    /// do would come before anybody else's.
    pub fn go_on(cx: &mut Context<'_>) {
        _ = pin!(yield_now()).poll(cx);
    }

    /// Makes the task run (again).
    #[inline]
    pub fn wake(&self) {
        if !self.scheduled.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}
