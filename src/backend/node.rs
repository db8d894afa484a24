//! A node as one worker sees it: its links, and when it may be dialled again.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::apart::ApartLink;
use super::connection::Connection;
use super::gate::{Down, Refused};
use super::handshake::{self, DialError};
use super::health::NO_REPLY;
use super::link::{Link, NOT_WANTED, OldLink, State};
use super::share::Share;
use super::{Affinity, Backend, Listener, Permit, Purpose, Settings, dedicated};
use crate::metrics::{DialFailure, LinkState, NodeCells, Reached};
use crate::net::{NodeAddr, set_linger_zero};
use crate::protocol::Protocol;

/// The first wait after a failed dial is up to this long,
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// and no wait is longer: a node that comes back is to be found within a second.
const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// A node and this worker's links to it.
#[derive(Debug)]
pub struct Node {
    addr: NodeAddr,
    backend: Rc<Backend>,
    metrics: NodeCells,
    pub(super) slots: Vec<Slot>,
    /// Those for other databases than 0, and for what is large,
    pub(super) apart: RefCell<Vec<ApartLink>>,
    /// and when a node may be asked again that does not have a database,
    pub(super) database_down: Cell<Option<Down>>,
    /// or one that gave none for what is large.
    pub(super) bulk_down: Cell<Option<Down>>,
    /// Links that were replaced before their last reply had come.
    leaving: RefCell<Vec<Rc<Link>>>,
    /// Links that listen. They live for as long as who listens wants it, also when the node is not wanted any more.
    pub(super) listening: RefCell<Vec<Rc<Link>>>,
    /// Links that ended with writes in doubt: to be killed at the node before anything else is sent there.
    old: RefCell<Vec<OldLink>>,
    failures: Cell<u32>,
    down: Cell<Option<Down>>,
    retired: Cell<bool>,
    /// Connections that sessions had for themselves and gave back,
    pub(super) free: RefCell<Vec<dedicated::Connection>>,
    /// and those that they have.
    pub(super) in_use: RefCell<HashMap<u32, Rc<Link>>>,
    /// The one on which its replicas are made to acknowledge.
    pub(super) acknowledging: RefCell<Option<Rc<Link>>>,
}

/// One place for a link: the link that is there now.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) link: RefCell<Option<Rc<Link>>>,
}

/// Takes a link that ends out of [`Backend::links`].
struct Registered {
    backend: Rc<Backend>,
    link: u32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.backend.links.borrow_mut().remove(&self.link);
    }
}

thread_local! {
    /// Links are counted per worker, which is a thread.
    static NEXT_LINK: Cell<u32> = const { Cell::new(1) };
    /// And the shared ones among them.
    static NEXT_SHARED: Cell<u32> = const { Cell::new(0) };
}

impl Node {
    /// A node without links; they are opened on first use.
    pub fn new(addr: NodeAddr, backend: Rc<Backend>) -> Rc<Self> {
        let slots = (0..2 * backend.settings.connections_per_node).map(|_| Slot::default()).collect();
        let (failures, down, retired) = (Cell::new(0), Cell::new(None), Cell::new(false));
        let (leaving, listening, old) = (RefCell::default(), RefCell::default(), RefCell::default());
        let metrics = backend.metrics.node(&backend.settings.cluster, &addr);
        let (free, in_use) = (RefCell::default(), RefCell::default());
        let (apart, database_down, bulk_down) = (RefCell::default(), Cell::default(), Cell::default());
        Rc::new(Node {
            addr,
            backend,
            metrics,
            slots,
            apart,
            database_down,
            bulk_down,
            leaving,
            listening,
            old,
            failures,
            down,
            retired,
            free,
            in_use,
            acknowledging: RefCell::default(),
        })
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Where it is.
    pub fn addr(&self) -> &NodeAddr {
        &self.addr
    }

    /// The link for a session: always the same one for the same affinity, while it lives.
    ///
    /// # Errors
    /// There is none and none may be dialled yet.
    #[inline(always)]
    pub fn link(self: &Rc<Self>, protocol: Protocol, affinity: Affinity) -> Result<Rc<Link>, Down> {
        if affinity.apart.is_any() {
            return self.link_apart(protocol, affinity.apart);
        }
        let slot = self.place(protocol, affinity);
        if let Some(link) = &*self.slots[slot].link.borrow()
            && link.takes_commands()
        {
            return Ok(link.clone());
        }
        self.open(protocol, slot)
    }

    /// Opens a link of its own on which the node speaks unasked, in RESP3.
    ///
    /// # Errors
    /// None may be dialled yet.
    pub fn listen(self: &Rc<Self>, listener: Rc<dyn Listener>) -> Result<Rc<Link>, Down> {
        let link = self.dial(Protocol::Resp3, 0, Purpose::Commands, Some(listener))?;
        self.listening.borrow_mut().push(link.clone());
        Ok(link)
    }

    /// Starts to open a link in its place.
    #[cold]
    fn open(self: &Rc<Self>, protocol: Protocol, slot: usize) -> Result<Rc<Link>, Down> {
        let link = self.dial(protocol, 0, Purpose::Commands, None)?;
        let before = self.slots[slot].link.replace(Some(link.clone()));
        self.leaving.borrow_mut().extend(before.filter(|link| !link.is_closed()));
        Ok(link)
    }

    pub(super) fn dial(
        self: &Rc<Self>,
        protocol: Protocol,
        database: u32,
        purpose: Purpose,
        listener: Option<Rc<dyn Listener>>,
    ) -> Result<Rc<Link>, Down> {
        let now = Instant::now();
        if self.retired.get() {
            return Err(Down { until: now + BACKOFF_FIRST, since: Some(now), full: false });
        }
        let since = self.down.get().and_then(|down| down.since);
        let no_database = self.database_down.get().filter(|_| database != 0);
        let no_bulk = self.bulk_down.get().filter(|_| purpose == Purpose::Bulk);
        let mut reasons = [self.down.get(), no_database, no_bulk].into_iter().flatten();
        if let Some(down) = reasons.find(|down| down.until > now) {
            return Err(down);
        }
        let permit = self.backend.gate.take(&self.addr, purpose, now);
        let permit = permit.map_err(|Refused { until, full }| {
            let reached = &self.backend.metrics.reached[Reached::MaxConnectionsPerNode.index()];
            reached.add(u64::from(full));
            Down { until, since, full }
        })?;
        let id = NEXT_LINK.replace(NEXT_LINK.get().wrapping_add(1));
        let name = format!("slotmux-{:08x}-{id}", fastrand::u32(..));
        let bit = match purpose {
            Purpose::Dedicated | Purpose::Watching | Purpose::Acknowledge => 0,
            _ if listener.is_some() => 0,
            _ => 1 << (NEXT_SHARED.replace(NEXT_SHARED.get().wrapping_add(1)) % u64::BITS),
        };
        let link = Link::new(id, bit, self.addr.clone(), name, listener, self.backend.clone());
        self.metrics.dials.inc();
        self.backend.links.borrow_mut().insert(id, Rc::downgrade(&link));
        tokio::task::spawn_local(self.clone().run(link.clone(), protocol, database, permit));
        Ok(link)
    }

    /// A link's whole life. The permit is given back behind it, when the connection is closed.
    async fn run(self: Rc<Self>, link: Rc<Link>, protocol: Protocol, database: u32, _permit: Permit) {
        let _registered = Registered { backend: self.backend.clone(), link: link.id() };
        let Settings { credentials, connect_timeout, .. } = &self.backend.settings;
        let share = Share::new(self.metrics.clone());
        let old = |killed: &HashSet<u64>| OldLink::besides(&self.old.borrow(), killed);
        let (credentials, limit) = (credentials.as_ref(), *connect_timeout);
        let opening = handshake::open(&self.addr, protocol, database, credentials, &link.name, old, limit);
        let mut opening = pin!(opening);
        // Nobody is dialled for who has gone.
        let opened = poll_fn(|cx| {
            link.wakeup.begin(cx);
            if link.is_closed() { Poll::Ready(None) } else { opening.as_mut().poll(cx).map(Some) }
        });
        let Some(opened) = opened.await else { return };
        let opened = match opened {
            Ok(opened) => opened,
            Err(DialError::Database(text)) => return self.database_refused(&link, database, &text),
            Err(error) => return self.dial_failed(&link, &error),
        };
        self.backend.gate.dialled(&self.addr, true);
        self.old.borrow_mut().retain(|old| !opened.killed.contains(&old.client_id));
        if self.failures.replace(0) > 0 {
            tracing::info!(node = %self.addr, "connected again");
        }
        self.down.set(None);
        if database != 0 {
            self.database_down.set(None);
        }
        if link.state.get() != State::Opening {
            return;
        }
        link.state.set(State::Up);
        match opened.told {
            Some(told) => link.note(told),
            None if link.listener.is_some() => {}
            None => _ = tokio::task::spawn_local(link.clone().introduce_later()),
        }
        share.state(LinkState::Up);
        let mut connection = Connection::new(link.clone(), self.backend.clone(), opened.stream, share);
        let reason = poll_fn(|cx| connection.poll(cx)).await;
        let done = link.state.get() == State::Retired && link.queue.borrow().entries.is_empty();
        let done = done || reason == NOT_WANTED;
        self.metrics.links_lost.add(u64::from(!done));
        let in_doubt = link.close(reason);
        link.tell(&self.backend.memory, 0);
        if in_doubt {
            // The node must neither read nor execute what is in doubt, now or after it goes on.
            _ = set_linger_zero(&connection.stream);
            if let Some(client_id) = link.client_id() {
                // A later command of the same client may go down a link that is there already.
                if let Ok(addr) = connection.stream.local_addr() {
                    let addr = addr.to_string();
                    let others = self.links().chain(self.idle_in_use()).filter(|other| other.is_up());
                    others.for_each(|other| other.push_kill(client_id, &addr));
                }
                self.end_free();
                self.old.borrow_mut().push(OldLink { client_id, name: link.name.clone() });
            }
        }
        if !self.retired.get() && reason != NOT_WANTED {
            tracing::info!(node = %self.addr, reason, "a link ended");
        }
    }

    fn dial_failed(&self, link: &Link, error: &DialError) {
        self.metrics.dial_failures[error.kind().index()].inc();
        if error.kind() == DialFailure::Timeout {
            self.backend.metrics.reached[Reached::ConnectTimeout.index()].add(1);
        }
        // A node that serves others may have no time, or no room, for one more.
        let is_bulk = self.is_bulk(link);
        if (link.bit() == 0 || is_bulk) && self.links().any(|other| other.is_up()) {
            if is_bulk {
                self.bulk_refused();
            }
            link.close("the node can't be connected to");
            return;
        }
        self.backend.gate.dialled(&self.addr, false);
        let now = Instant::now();
        let failures = self.failures.replace(self.failures.get().saturating_add(1));
        let most = BACKOFF_MOST.min(BACKOFF_FIRST.saturating_mul(1 << failures.min(10)));
        let until = now + most.mul_f64(fastrand::f64());
        let since = self.down.get().and_then(|down| down.since).unwrap_or(now);
        self.down.set(Some(Down { until, since: Some(since), full: false }));
        if failures == 0 && !self.retired.get() {
            tracing::warn!(node = %self.addr, %error, "a node can't be connected to; trying on");
        }
        link.close("the node can't be connected to");
    }

    /// Whether nothing speaks against it: it can be dialled, and no reply is overdue.
    pub fn is_answering(&self) -> bool {
        self.down.get().is_none() && self.links().all(|link| !link.is_opening() && !link.is_overdue())
    }

    /// Since when every dial has failed, if the last one did.
    pub fn down_since(&self) -> Option<Instant> {
        self.down.get().and_then(|down| down.since)
    }

    /// Gives back the commands that wait for links which are still being dialled: another node may
    /// serve them by now. The dialling goes on: tables may change faster than a distant node answers.
    pub fn give_back_unsent(&self) {
        for link in self.links().filter(|link| link.is_opening()) {
            link.give_back("the topology changed");
        }
    }

    /// Lets all links end once their replies have come, and opens none any more.
    pub fn retire(&self) {
        self.retired.set(true);
        self.links().for_each(|link| link.retire());
        self.end_free();
    }

    /// See [`Link::check`].
    pub fn check(self: &Rc<Self>, limit: u32, idle: u32) {
        self.leaving.borrow_mut().retain(|link| !link.is_closed());
        self.listening.borrow_mut().retain(|link| !link.is_closed());
        let listening = self.listening.borrow().clone();
        let given_up =
            self.links().chain(listening.iter().cloned()).filter(|link| link.check(limit, idle)).count();
        if given_up > 0 {
            self.give_up_dedicated();
            // Other nodes have cut their connections to one that hangs: what was told on them did not reach it.
            listening.iter().filter(|link| link.is_overdue()).for_each(|link| link.give_up(NO_REPLY));
        }
        self.ping_listening();
        self.check_dedicated(limit, idle);
        self.check_apart();
        self.backend.metrics.reached[Reached::LinkTimeout.index()].add(given_up as u64);
    }

    /// Whether any link has not ended.
    pub fn has_links(&self) -> bool {
        let mut links = self.links().chain(self.listening.borrow().clone());
        !self.in_use.borrow().is_empty() || links.any(|link| !link.is_closed())
    }

    pub(super) fn links(&self) -> impl Iterator<Item = Rc<Link>> {
        let mut links = self.leaving.borrow().clone();
        links.extend(self.slots.iter().filter_map(|slot| slot.link.borrow().clone()));
        links.extend(self.acknowledging.borrow().clone());
        links.extend(self.apart.borrow().iter().map(|own| own.link.clone()));
        links.into_iter()
    }
}
