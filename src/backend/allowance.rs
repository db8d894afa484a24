//! What those of a worker's tasks that have much to move may move between two looks at its sockets: each has short
//! turns, but many of them one upon the other would be before everybody else.

use std::cell::Cell;

use super::{BULK, Wakeup};

/// So many bytes all of them together,
const ALL: usize = BULK;
/// but at least so many each, that all get on.
const LEAST: usize = 16 * 1024;

/// Counts what was moved since the last look.
#[derive(Debug)]
pub struct Allowance {
    /// Counts the looks, from 1.
    look: Cell<u64>,
    used: Cell<usize>,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance { look: Cell::new(1), used: Cell::new(0) }
    }
}

impl Allowance {
    /// How many of so many bytes that wait the task of this wakeup may move now. Who has few does not ask.
    #[inline(always)]
    pub fn of(&self, waiting: usize, wakeup: &Wakeup) -> usize {
        if waiting < BULK { usize::MAX } else { self.left(wakeup) }
    }

    #[cold]
    fn left(&self, wakeup: &Wakeup) -> usize {
        if wakeup.has_waited_for(self.look.get()) {
            self.look.set(self.look.get() + 1);
            self.used.set(0);
        }
        ALL.saturating_sub(self.used.get()).max(LEAST)
    }

    /// Notes that `bytes` of so many that wait, or waited, were moved. True if the turn is to end with that.
    #[inline(always)]
    pub fn moved(&self, bytes: usize, waiting: usize) -> bool {
        waiting >= BULK && self.is_up(bytes)
    }

    #[cold]
    fn is_up(&self, bytes: usize) -> bool {
        self.used.set(self.used.get() + bytes);
        self.used.get() >= ALL
    }

    /// The number of the present look.
    pub(super) fn look(&self) -> u64 {
        self.look.get()
    }
}
