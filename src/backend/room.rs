//! A link that holds as much as `link_queue` lets it takes no commands of those who have none on it, until half of what it
//! holds is answered.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Receiver;
use super::link::Link;

/// Whether there is room on a link, and who waits for it.
pub(super) struct Room {
    limit: usize,
    full: Cell<bool>,
    waiting: RefCell<Vec<Rc<dyn Receiver>>>,
}

impl Room {
    /// Of so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Room { limit, full: Cell::default(), waiting: RefCell::default() }
    }

    /// So many bytes are held now.
    #[inline]
    pub(super) fn taken(&self, kept: usize) {
        if kept >= self.limit {
            self.full.set(true);
        }
    }

    /// So many bytes are still held.
    #[cold]
    pub(super) fn left(&self, kept: usize) {
        if kept <= self.limit / 2 {
            self.tell();
        }
    }

    /// There is room; those who wait are told in the order in which they came.
    pub(super) fn tell(&self) {
        self.full.set(false);
        self.waiting.take().iter().for_each(|waiting| waiting.has_room());
    }
}

impl Link {
    /// Whether those who have no commands on it are to wait.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.room.full.get()
    }

    /// Has `receiver` told once, as soon as there is room.
    pub fn wait_for_room(&self, receiver: Rc<dyn Receiver>) {
        self.room.waiting.borrow_mut().push(receiver);
    }
}
