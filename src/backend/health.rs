//! Noticing that the node of a link hangs.

use super::Node;
use super::link::{Link, State};

/// Why a link is given up, and those who only wait at a node that does not answer others.
pub(super) const NO_REPLY: &str = "no reply within link_timeout";
/// Room for so many commands on their way is kept.
const FEW: usize = 1024;
/// So many rounds are too many for one long command to be all that keeps a node.
const HANGS: u32 = 2;

impl Node {
    /// Whether it has owed replies on a link for more than two rounds, and sent none there, and nothing to those who
    /// listen: one that only puts writes off, as while it fails over, answers these.
    pub fn hangs(&self) -> bool {
        self.links().any(|link| link.was_due.get() && link.silent.get() >= HANGS)
            && self.listening.borrow().iter().filter(|link| link.is_up()).all(|link| link.is_overdue())
    }

    /// Asks those links of a node for a sign of life that only listen, while it owes replies on others.
    pub(super) fn ping_listening(&self) {
        if self.links().any(|link| link.was_due.get()) {
            let listening = self.listening.borrow();
            let quiet = listening.iter().filter(|link| link.is_up() && !link.was_due.get());
            quiet.for_each(|link| link.push_ping());
        }
    }
}

impl Link {
    /// Whether a reply has been due for a whole health check, and nothing came.
    pub fn is_overdue(&self) -> bool {
        self.was_due.get() && self.silent.get() > 0
    }

    /// The node has sent something.
    #[inline]
    pub(super) fn note_read(&self, now: u64) {
        self.read_since.set(true);
        self.room.read_at.set(now);
    }

    /// To be called regularly: gives the link up after `limit` calls without a byte though replies
    /// are due; pings it after `idle` calls without any, so that the node's `timeout` never meets a
    /// command. True if it was given up.
    pub fn check(&self, limit: u32, idle: u32) -> bool {
        if self.state.get() == State::Opening || self.state.get() == State::Closed {
            return false;
        }
        let due = {
            let entries = &mut self.queue.borrow_mut().entries;
            // There may have been very many.
            entries.shrink_to(FEW);
            !entries.is_empty()
        };
        if self.read_since.replace(false) || due != self.was_due.replace(due) {
            self.silent.set(0);
            return false;
        }
        self.silent.set(self.silent.get() + 1);
        if due && self.silent.get() >= limit {
            self.wakeup.wake();
            return self.give_up.replace(Some(NO_REPLY)).is_none();
        }
        if !due && self.silent.get() >= idle && self.state.get() == State::Up {
            self.push_ping();
        }
        false
    }
}
