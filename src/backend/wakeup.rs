//! Waking a task of the same worker, cheaply.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::task::yield_now;

use super::Allowance;

/// A task's waker that is kept over its turns; waking it again before it ran costs one comparison.
#[derive(Debug, Default)]
pub struct Wakeup {
    waker: RefCell<Option<Waker>>,
    scheduled: Cell<bool>,
    /// The look at the sockets behind which the task goes on, or 0.
    waits_for: Cell<u64>,
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

    /// Lets the running task go on after a look at the sockets, whoever wakes it: without one, many turns of a few tasks
    /// that have much to do would come before anybody else's. To be called at the end of its turn.
    pub fn go_on(&self, cx: &mut Context<'_>, allowance: &Allowance) {
        self.scheduled.set(true);
        self.waits_for.set(allowance.look());
        _ = pin!(yield_now()).poll(cx);
    }

    /// Whether the task has gone on behind this look; true but once.
    pub(super) fn has_waited_for(&self, look: u64) -> bool {
        self.waits_for.replace(0) == look
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
