//! Sessions whose commands or replies are large go over a link of their own to each node, so that these do not stand
//! before everybody's small ones.

use std::rc::Rc;
use std::time::Duration;

use super::Session;
use super::dispatch::Planner;
use super::pending::State;
use crate::backend::{Affinity, Apart, BULK, Down, Link, Node};
use crate::protocol::Protocol;

/// A session without anything large for so long is like all others again.
const OVER: u64 = Duration::from_secs(10).as_nanos() as u64;

impl State {
    /// Takes note of the length of a command or a reply.
    #[inline]
    pub(super) fn note_length(&mut self, len: usize, now: u64) {
        if len >= BULK {
            self.large_at = now.max(1);
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

    /// A large command comes.
    #[cold]
    pub(super) fn note_command(&mut self, len: usize) {
        self.state.note_length(len, self.now);
        if self.state.large_at != 0 && self.state.is_idle() {
            self.choose_links();
        }
    }
}

impl Session {
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
