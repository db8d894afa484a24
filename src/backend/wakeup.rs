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
    /// Its place in line among those that have much to do.
    place: Cell<u64>,
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

    /// Lets the running task go on after the next look at the sockets, whoever wakes it: without one, many turns of a few
    /// tasks would come before anybody else's. To be called at the end of its turn.
    pub fn go_on(&self, cx: &mut Context<'_>) {
        self.scheduled.set(true);
        _ = pin!(yield_now()).poll(cx);
    }

    /// As [`Self::go_on`], for a task that has much to do: after as many looks as it takes until it is next in line.
    pub fn go_on_in_line(&self, cx: &Context<'_>, allowance: &Allowance) {
        self.scheduled.set(true);
        self.place.set(allowance.stand_in_line(self.place.get(), cx.waker()));
    }

    /// Where it stands in line, or has stood the last time.
    pub(super) fn place(&self) -> u64 {
        self.place.get()
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
