//! Connections that one session has for itself for a while: for commands that wait at the node, and for watched
//! keys. They are links like the shared ones, given out one by one and given back; see [`Node::dedicated`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::health::NO_REPLY;
use super::link::{Link, NOT_WANTED};
use super::{Affinity, Down, Node, Purpose};
use crate::protocol::{Protocol, write};

/// A connection that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A dial for who has gone goes on, for whoever comes next, only while fewer connections lie ready.
const SPARE: usize = 8;
/// Who may not dial yet looks after this time whether a connection was given back.
const LOOK: Duration = Duration::from_millis(10);

/// What a session needs a connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A command that waits at the node until somebody else acts.
    Blocking,
    /// Watched keys: from a reserve of their own, so that who produces never waits for those who consume.
    Watching,
}

/// A connection of a session's own. Dropping it gives it back if nothing is on its way, and else closes it at once,
/// which ends what waits at the node.
#[derive(Debug)]
pub struct Dedicated {
    node: Rc<Node>,
    link: Rc<Link>,
    connection: Option<Connection>,
}

/// One connection and the right to have it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Rc<Link>,
    protocol: Protocol,
    database: u32,
    purpose: Use,
    since: Instant,
    _right: Option<OwnedSemaphorePermit>,
}

impl From<Use> for Purpose {
    fn from(purpose: Use) -> Self {
        match purpose {
            Use::Blocking => Purpose::Dedicated,
            Use::Watching => Purpose::Watching,
        }
    }
}

impl Node {
    /// A connection to this node for the caller alone. Waits in line, in the order of all that ask in this process,
    /// while all of `dedicated_per_node` are taken, and while the node may not be dialled for reasons of politeness:
    /// it is for the caller to give up.
    ///
    /// # Errors
    /// The node can't be connected to now.
    pub async fn dedicated(
        self: &Rc<Self>,
        protocol: Protocol,
        database: u32,
        purpose: Use,
    ) -> Result<Dedicated, Down> {
        if let Some(connection) = self.take_free(protocol, database, purpose) {
            return Ok(self.given(connection));
        }
        let line = self.backend().gate.line(self.addr(), purpose);
        let right = line.wait(&self.backend().metrics).await;
        let _turn = line.turn().await;
        loop {
            // Somebody may have given one back meanwhile.
            if let Some(connection) = self.take_free(protocol, database, purpose) {
                return Ok(self.given(connection));
            }
            match self.dial(protocol, database, purpose.into(), None) {
                Ok(link) => {
                    let (since, _right) = (Instant::now(), right);
                    return Ok(self.given(Connection { link, protocol, database, purpose, since, _right }));
                }
                Err(down) if down.since.is_some() => return Err(down),
                Err(down) => {
                    // Who may not dial yet is not helped by others that end their connections, but by one that they
                    // give back.
                    let _waiting = down.full.then(|| line.waits(&self.backend().metrics));
                    sleep(down.until.saturating_duration_since(Instant::now()).min(LOOK)).await;
                }
            }
        }
    }

    /// Ends what `own` waits for at this node, by the error UNBLOCKED. True if it was this that ended it, nothing if the
    /// node did not answer. Until it has, nobody else gets the connection, whose wait would end.
    ///
    /// Never by TIMEOUT: a server (Redis 7.0, blocked.c, `replyToBlockedClientTimedOut`) that has put a command off, as it
    /// does in a planned failover, crashes by that. By the error it keeps such a command; so nobody gets a connection
    /// again on which that ended a wait.
    pub async fn unblock(self: &Rc<Self>, own: &Link) -> Option<bool> {
        let (Some(id), Ok(link)) = (own.client_id(), self.link(Protocol::Resp2, Affinity::default())) else {
            return Some(false);
        };
        let (id, mut request) = (id.to_string(), Vec::new());
        let words = ["CLIENT", "UNBLOCK", &id, "ERROR"];
        write::request(&mut request, words.iter().map(|word| word.as_bytes()));
        own.unblocks.set(own.unblocks.get() + 1);
        let did = match link.call(request.into(), 0, false).await {
            Ok(answer) => *answer.reply == *b":1\r\n",
            Err(loss) if loss.sent => return None,
            Err(_) => false,
        };
        own.unblocks.set(own.unblocks.get() - u32::from(!did));
        Some(did)
    }

    fn take_free(&self, protocol: Protocol, database: u32, purpose: Use) -> Option<Connection> {
        let mut free = self.free.borrow_mut();
        free.retain(|connection| connection.link.takes_commands());
        let wanted = (protocol, database, purpose);
        let at = free.iter().rposition(|free| (free.protocol, free.database, free.purpose) == wanted)?;
        Some(free.swap_remove(at))
    }

    fn given(self: &Rc<Self>, connection: Connection) -> Dedicated {
        self.in_use.borrow_mut().insert(connection.link.id(), connection.link.clone());
        Dedicated { node: self.clone(), link: connection.link.clone(), connection: Some(connection) }
    }

    fn take_back(&self, connection: Connection) {
        let link = &connection.link;
        self.in_use.borrow_mut().remove(&link.id());
        if link.is_opening() {
            if self.free.borrow().len() >= SPARE {
                return link.end();
            }
            // Nothing was sent on it yet: whoever comes next need not dial.
            link.give_back(NOT_WANTED);
        }
        let on_way = link.queue.borrow().entries.iter().any(|entry| entry.receiver.is_some());
        let lives = link.takes_commands() && !link.is_given_up();
        let is_clean = lives && !on_way && link.unblocks.get() == 0;
        if !is_clean || self.is_retired() || self.somebody_waits() {
            return link.end();
        }
        self.free.borrow_mut().push(Connection { since: Instant::now(), ..connection });
    }

    /// Looks after the connections that sessions have for themselves: those that nobody has used for long, or that
    /// somebody in another worker waits for, are closed. Whoever waits at a node for long relies on the node's shared
    /// links to notice that it hangs, so that there must be one.
    pub(super) fn check_dedicated(self: &Rc<Self>, limit: u32, idle: u32) {
        let somebody_waits = self.somebody_waits();
        self.free.borrow_mut().retain(|free| {
            let stays = !somebody_waits && free.since.elapsed() < IDLE && free.link.takes_commands();
            if !stays {
                free.link.end();
            }
            stays
        });
        let in_use: Vec<Rc<Link>> = self.in_use.borrow().values().cloned().collect();
        if in_use.is_empty() {
            return;
        }
        let is_long = |since: Instant| since.elapsed() > self.backend().settings.link_timeout;
        if self.down_since().is_some_and(is_long) {
            self.give_up_dedicated();
        } else if self.is_retired() {
            // A node that lives says by itself that it serves the slot no more.
            in_use.iter().for_each(|link| _ = link.check(limit, idle));
        } else {
            _ = self.link(Protocol::Resp2, Affinity::default());
        }
    }

    /// The node does not answer: nobody waits there any longer.
    pub(super) fn give_up_dedicated(&self) {
        for link in self.in_use.borrow().values() {
            link.give_up(NO_REPLY);
        }
    }

    /// Ends the connections that lie ready.
    pub(super) fn end_free(&self) {
        self.free.take().iter().for_each(|free| free.link.end());
    }

    /// The connections of sessions on which nothing is on its way.
    pub(super) fn idle_in_use(&self) -> Vec<Rc<Link>> {
        let in_use = self.in_use.borrow();
        in_use.values().filter(|link| link.queue.borrow().entries.is_empty()).cloned().collect()
    }

    fn somebody_waits(&self) -> bool {
        [Use::Blocking, Use::Watching]
            .iter()
            .any(|purpose| self.backend().gate.waiting(self.addr(), *purpose))
    }
}

impl Dedicated {
    /// The connection.
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The node that it leads to.
    pub fn node(&self) -> &Rc<Node> {
        &self.node
    }

    /// Closes it: the node does so itself behind its last reply, or keeps a command that is not to be carried out.
    pub fn end(self) {
        self.link.end();
    }

    /// The protocol that is spoken on it, and the database that commands on it are about.
    pub fn speaks(&self) -> Option<(Protocol, u32)> {
        self.connection.as_ref().map(|connection| (connection.protocol, connection.database))
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.node.take_back(connection);
        }
    }
}
