//! What a link takes. Who has commands on it that holds `link_queue` plans no more of them; who has none adds one, so that
//! all get on. If the node has been silent for a moment then, or a link holds four times as much, such a command waits
//! outside: a node that hangs is not to fill the memory with one of everybody's.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Receiver;
use super::link::Link;

/// A node that keeps up sends something more often.
const SILENT: u64 = Duration::from_millis(50).as_nanos() as u64;

/// Whether there is room on a link, and who waits for it. Times are the worker's clock's.
pub(super) struct Room {
    limit: usize,
    over: Cell<bool>,
    full: Cell<bool>,
    full_at: Cell<u64>,
    /// When something was read last.
    pub(super) read_at: Cell<u64>,
    waiting: RefCell<Vec<Rc<dyn Receiver>>>,
}

impl Room {
    /// Of so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        let (over, full, full_at, read_at) = Default::default();
        Room { limit, over, full, full_at, read_at, waiting: RefCell::default() }
    }

    /// So many bytes are held now.
    #[inline]
    pub(super) fn taken(&self, kept: usize, now: u64) {
        if kept >= self.limit {
            self.exceeded(kept, now);
        }
    }

    #[cold]
    fn exceeded(&self, kept: usize, now: u64) {
        self.over.set(true);
        let is_silent = now.saturating_sub(self.read_at.get()) >= SILENT;
        if (is_silent || kept >= self.limit.saturating_mul(4)) && !self.full.replace(true) {
            self.full_at.set(now);
        }
    }

    /// So many bytes are still held.
    #[cold]
    pub(super) fn left(&self, kept: usize) {
        self.over.set(kept >= self.limit);
        let is_read = self.read_at.get() > self.full_at.get();
        if self.full.get() && is_read && kept <= self.limit.saturating_mul(2) {
            self.tell();
        }
    }

    /// Nothing is held any more.
    pub(super) fn emptied(&self) {
        self.over.set(false);
        self.tell();
    }

    /// There is room; those who wait are told in the order in which they came.
    fn tell(&self) {
        self.full.set(false);
        self.waiting.take().iter().for_each(|waiting| waiting.has_room());
    }
}

impl Link {
    /// Whether those who have commands on it are to plan no more.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.room.over.get()
    }

    /// Whether those who have none are to wait, too.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.room.full.get()
    }

    /// Has `receiver` told once, as soon as there is room.
    pub fn wait_for_room(&self, receiver: Rc<dyn Receiver>) {
        self.room.waiting.borrow_mut().push(receiver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_full_if_its_node_is_silent_or_far_behind_until_it_has_caught_up() {
        let room = Room::new(100);
        let state = || (room.over.get(), room.full.get());
        room.read_at.set(SILENT);
        room.taken(99, 3 * SILENT);
        assert_eq!(state(), (false, false));
        room.taken(100, 2 * SILENT - 1);
        assert_eq!(state(), (true, false));
        room.taken(100, 2 * SILENT);
        assert_eq!(state(), (true, true));
        room.left(100);
        assert_eq!(state(), (true, true), "nothing has been read");
        room.read_at.set(2 * SILENT + 1);
        room.left(100);
        assert_eq!(state(), (true, false));
        room.taken(400, 2 * SILENT + 2);
        room.read_at.set(2 * SILENT + 3);
        room.left(201);
        assert_eq!(state(), (true, true));
        room.left(99);
        assert_eq!(state(), (false, false));
        room.taken(400, 3 * SILENT);
        assert_eq!(state(), (true, true));
        room.emptied();
        assert_eq!(state(), (false, false));
    }
}
