//! What those of a worker's tasks that have much to move may move between two looks at its sockets: each has short
//! turns, but many of them one upon the other would be before everybody else.

use std::cell::Cell;

use super::{BULK, Wakeup};

/// So many bytes all of them together,
const ALL: usize = BULK / 2;
/// but at least so many each, that all get on.
const LEAST: usize = 4 * 1024;

/// Shares it out among as many as asked between the last two looks.
#[derive(Debug)]
pub struct Allowance {
    /// Counts the looks, from 1.
    look: Cell<u64>,
    asked: Cell<usize>,
    share: Cell<usize>,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance { look: Cell::new(1), asked: Cell::new(0), share: Cell::new(ALL) }
    }
}

impl Allowance {
    /// How many of so many bytes that wait the task of this wakeup may move now. Who has few does not ask.
    #[inline(always)]
    pub fn of(&self, waiting: usize, wakeup: &Wakeup) -> usize {
        if waiting < BULK { usize::MAX } else { self.share(wakeup) }
    }

    /// How many bytes the task of this wakeup, which has much to move, may move now.
    #[cold]
    pub fn share(&self, wakeup: &Wakeup) -> usize {
        if wakeup.has_waited_for(self.look.get()) {
            self.look.set(self.look.get() + 1);
            self.share.set((ALL / self.asked.replace(0).max(1)).max(LEAST));
        }
        self.asked.set(self.asked.get() + 1);
        self.share.get()
    }

    /// The number of the present look.
    pub(super) fn look(&self) -> u64 {
        self.look.get()
    }
}
