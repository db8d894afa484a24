//! Sessions whose commands or replies are large go over a link of their own to each node, so that these do not stand
//! before everybody's small ones.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Session;
use super::pending::State;
use super::planner::Planner;
use crate::backend::{Affinity, Apart, BULK, Down, Link, Node, Ticket};
use crate::protocol::Protocol;
use crate::topology::SLOTS;

/// A session without anything large for so long is like all others again, and so is a slot.
const OVER: u64 = Duration::from_secs(10).as_nanos() as u64;

/// A client that has had so few replies is not known for small ones: while a large one comes on the link that most
/// sessions share, it is taken for another that asks for the like,
const KNOWN: u64 = 8;
/// and for no longer than this, unless it does.
const BRIEF: u64 = Duration::from_millis(500).as_nanos() as u64;

/// The slots that a large reply came from lately: another one is to be expected.
#[derive(Debug, Default)]
pub(super) struct LargeSlots {
    /// Whether there are any.
    any: Cell<bool>,
    /// A bit for each slot: those of the present while, and of the one before.
    bits: RefCell<[Vec<u64>; 2]>,
    /// When the present while began.
    since: Cell<u64>,
}

impl LargeSlots {
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.get()
    }

    fn contains(&self, slot: u16) -> bool {
        let (word, bit) = (usize::from(slot) / 64, slot % 64);
        self.bits.borrow().iter().any(|bits| bits.get(word).is_some_and(|word| word >> bit & 1 == 1))
    }

    fn insert(&self, slot: u16, now: u64) {
        if !self.any.replace(true) {
            self.since.set(now);
        }
        let bits = &mut self.bits.borrow_mut()[0];
        bits.resize(SLOTS / 64, 0);
        bits[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    /// Forgets what is long ago.
    pub(super) fn age(&self, now: u64) {
        if self.any() && now.saturating_sub(self.since.get()) > OVER {
            let mut bits = self.bits.borrow_mut();
            bits.rotate_right(1);
            bits[0] = Vec::new();
            self.any.set(!bits[1].is_empty());
            self.since.set(now);
        }
    }
}

impl Planner<'_> {
    /// A session that has had something large, and waits for nothing, takes the links that are meant for it.
    #[cold]
    pub(super) fn choose_links(&mut self) {
        let bulk = self.now.saturating_sub(self.state.large_at) < OVER;
        if !bulk {
            self.state.large_at = 0;
        }
        self.session.set_bulk(bulk);
    }

    /// A command comes whose bytes were taken out of the input.
    #[cold]
    pub(super) fn note_command(&mut self, len: usize) {
        if len >= BULK {
            self.become_bulk(self.now);
        }
    }

    /// A command comes on a slot while some are known for large replies.
    #[cold]
    pub(super) fn note_slot(&mut self, slot: u16) {
        let is_clogged = |node: &Rc<Node>| node.is_clogged(self.protocol, self.session.affinity.get());
        if self.session.worker.large.contains(slot) {
            self.become_bulk(self.now);
        } else if self.state.base() < KNOWN && self.routes.owner(slot).is_some_and(is_clogged) {
            self.become_bulk(self.now.saturating_sub(OVER - BRIEF));
        }
    }

    fn become_bulk(&mut self, at: u64) {
        self.state.large_at = at.max(1);
        if !self.session.is_bulk() {
            if !self.state.is_idle() {
                self.state.watch();
            }
            self.session.set_bulk(true);
        }
    }
}

impl Session {
    /// A large reply comes.
    pub(super) fn note_reply(&self, state: &mut State, ticket: Ticket) {
        let now = self.worker.backend.clock.now();
        self.worker.large.insert(state.slot(ticket), now);
        state.large_at = now.max(1);
    }

    fn set_bulk(&self, bulk: bool) {
        let affinity = self.affinity.get();
        self.affinity.set(Affinity { apart: Apart { bulk, ..affinity.apart }, ..affinity });
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.affinity.get().apart.bulk
    }

    /// The session's link to a node. The one for what is large may not be there: then the session is like all others for
    /// now, [`is_bulk`](Self::is_bulk) says so, and what is on its way has to be watched.
    ///
    /// # Errors
    /// There is none, and none may be dialled yet.
    pub(super) fn link_to(&self, node: &Rc<Node>, protocol: Protocol) -> Result<Rc<Link>, Down> {
        let link = node.link(protocol, self.affinity.get());
        if link.is_ok() || !self.is_bulk() {
            return link;
        }
        self.set_bulk(false);
        node.link(protocol, self.affinity.get())
    }
}
