//! Links besides those that nearly all sessions share: one for each database besides database 0, which some clusters
//! have, and one for sessions whose commands or replies are large, so that they do not stand before everybody's small
//! ones. Each is opened on first use; one for a database ends when nobody has used it for long.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::link::{Link, Queue};
use super::{Allowance, Down, Node, Purpose};
use crate::protocol::Protocol;

/// A command or a reply is large from so many bytes on: a node and a network have a fraction of a millisecond to do with it.
pub const BULK: usize = 256 * 1024;
/// As many commands are on the node at a time if their replies are small.
const MOST_AT_ONCE: usize = 256;
/// A link to a database that nobody has used for so long ends.
const IDLE: Duration = Duration::from_secs(60);
/// A node that did not give one is not asked for one again before this time.
const REFUSED: Duration = Duration::from_millis(500);

/// Which of a node's links a session uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Counts the sessions of a worker: they are dealt out to the links that most of them share.
    pub session: u32,
    /// Which one apart from those, if any.
    pub apart: Apart,
}

/// A link apart from those that most sessions share; the default is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// The database that its commands are about.
    pub database: u32,
    /// Whether it is for large commands and replies.
    pub bulk: bool,
}

/// One link, and when it was used last, by the worker's clock.
#[derive(Debug)]
pub(super) struct ApartLink {
    pub(super) link: Rc<Link>,
    apart: Apart,
    protocol: Protocol,
    used: Cell<u64>,
}

impl Apart {
    /// Whether it is one of them.
    #[inline(always)]
    pub(super) fn is_any(self) -> bool {
        self.database != 0 || self.bulk
    }
}

impl Link {
    /// How many bytes may be written now. What is large is asked for piece by piece: a node carries out all commands that
    /// it has read from a connection before it looks at others.
    #[inline]
    pub(super) fn may_write(&self, queue: &Queue) -> usize {
        let window = self.window.get();
        if window == 0 {
            return usize::MAX;
        }
        let all: usize = queue.entries.iter().take(window).map(|entry| entry.len as usize).sum();
        all.saturating_sub(queue.send.written_unanswered() as usize)
    }

    /// How many of so many bytes may be moved in this turn. What others wait behind is not held back.
    #[inline(always)]
    pub(super) fn may_move(&self, waiting: usize) -> usize {
        if self.window.get() == 0 { usize::MAX } else { Allowance::of_link(waiting) }
    }

    /// Takes note of the length of a reply: behind a large one the next command goes alone, behind others twice as many.
    #[inline]
    pub(super) fn note_length(&self, len: usize) {
        let window = self.window.get();
        if window > 0 {
            self.window.set(if len >= BULK { 1 } else { MOST_AT_ONCE.min(2 * window) });
        }
    }
}

impl Node {
    /// Whether the link for this affinity is reading a large reply, for which others wait.
    pub fn is_clogged(&self, protocol: Protocol, affinity: Affinity) -> bool {
        let link = self.slots[self.place(protocol, affinity)].link.borrow();
        !affinity.apart.is_any() && link.as_ref().is_some_and(|link| link.reading() >= BULK)
    }

    /// Where the link is that nearly all sessions of this affinity share.
    #[inline(always)]
    pub(super) fn place(&self, protocol: Protocol, affinity: Affinity) -> usize {
        let per_protocol = self.slots.len() / 2;
        let which = if per_protocol == 1 { 0 } else { affinity.session as usize % per_protocol };
        match protocol {
            Protocol::Resp2 => which,
            Protocol::Resp3 => per_protocol + which,
        }
    }

    /// The link apart; all sessions of the worker that want the same share it.
    #[cold]
    pub(super) fn link_apart(self: &Rc<Self>, protocol: Protocol, apart: Apart) -> Result<Rc<Link>, Down> {
        let now = self.backend().clock.now();
        let mut links = self.apart.borrow_mut();
        let is_it = |own: &ApartLink| own.apart == apart && own.protocol == protocol;
        if let Some(found) = links.iter().find(|found| is_it(found) && found.link.takes_commands()) {
            found.used.set(now);
            return Ok(found.link.clone());
        }
        let purpose = if apart.bulk { Purpose::Bulk } else { Purpose::Database };
        let link = self.dial(protocol, apart.database, purpose, None)?;
        link.window.set(usize::from(apart.bulk));
        links.push(ApartLink { link: link.clone(), apart, protocol, used: Cell::new(now) });
        Ok(link)
    }

    /// The node has no such database, or does not let the proxy use it.
    pub(super) fn database_refused(&self, link: &Link, database: u32, text: &str) {
        let now = Instant::now();
        let since = self.database_down.get().and_then(|down| down.since);
        if since.is_none() {
            tracing::warn!(node = %self.addr(), database, text, "a node does not have a database that another has");
        }
        self.database_down.set(Some(Down { until: now + REFUSED, since: since.or(Some(now)), full: false }));
        link.close("the node does not have the database");
    }

    /// The node, which has others, does not give one for what is large.
    pub(super) fn bulk_refused(&self) {
        self.bulk_down.set(Some(Down { until: Instant::now() + REFUSED, since: None, full: false }));
    }

    pub(super) fn is_bulk(&self, link: &Link) -> bool {
        self.apart.borrow().iter().any(|own| own.apart.bulk && own.link.id() == link.id())
    }

    /// Lets links to databases end that nobody uses: who has many of them leaves most of them behind.
    pub(super) fn check_apart(&self) {
        let now = self.backend().clock.now();
        self.apart.borrow_mut().retain(|own| {
            let is_unused = own.apart.database != 0 && own.link.queue.borrow().entries.is_empty();
            if is_unused && u128::from(now.saturating_sub(own.used.get())) > IDLE.as_nanos() {
                own.link.retire();
            }
            !own.link.is_closed()
        });
    }
}
