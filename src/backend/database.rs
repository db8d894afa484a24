//! The databases besides database 0, which some clusters have: each has a link of its own to a node, opened on first
//! use, which ends when nobody has used it for long.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::link::Link;
use super::{Down, Node, Purpose};
use crate::protocol::Protocol;

/// A link that nobody has used for so long ends.
const IDLE: Duration = Duration::from_secs(60);
/// A node that does not have a database is not asked for one again before this time.
const REFUSED: Duration = Duration::from_millis(500);

/// Which of a node's links a session uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Counts the sessions of a worker: they are dealt out to the links to database 0.
    pub session: u32,
    /// The database that its commands are about.
    pub database: u32,
}

/// One link, and when it was used last, by the worker's clock.
#[derive(Debug)]
pub(super) struct DatabaseLink {
    pub(super) link: Rc<Link>,
    database: u32,
    protocol: Protocol,
    used: Cell<u64>,
}

impl Node {
    /// The link to a database that is not 0; all sessions of the worker share it.
    #[cold]
    pub(super) fn link_to_database(
        self: &Rc<Self>,
        protocol: Protocol,
        database: u32,
    ) -> Result<Rc<Link>, Down> {
        let now = self.backend().clock.now();
        let mut links = self.databases.borrow_mut();
        let is_it = |link: &DatabaseLink| link.database == database && link.protocol == protocol;
        if let Some(found) = links.iter().find(|found| is_it(found) && found.link.takes_commands()) {
            found.used.set(now);
            return Ok(found.link.clone());
        }
        let link = self.dial(protocol, database, Purpose::Database, None)?;
        links.push(DatabaseLink { link: link.clone(), database, protocol, used: Cell::new(now) });
        Ok(link)
    }

    /// The node has no such database, or does not let the proxy use it.
    pub(super) fn database_refused(&self, link: &Link, database: u32, text: &str) {
        let now = Instant::now();
        let since = self.database_down.get().and_then(|down| down.since);
        if since.is_none() {
            tracing::warn!(node = %self.addr(), database, text, "a node does not have a database that another has");
        }
        self.database_down.set(Some(Down { until: now + REFUSED, since: since.or(Some(now)) }));
        link.close("the node does not have the database");
    }

    /// Lets links end that nobody uses.
    pub(super) fn check_databases(&self) {
        let now = self.backend().clock.now();
        self.databases.borrow_mut().retain(|own| {
            if u128::from(now.saturating_sub(own.used.get())) > IDLE.as_nanos() {
                own.link.retire();
            }
            !own.link.is_closed()
        });
    }
}
