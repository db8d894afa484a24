//! How often a node may be dialled, and how many connections it gets from this process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::Use;
use crate::metrics::{Reached, WorkerMetrics};
use crate::net::NodeAddr;

/// A node gets at most this many dials, or, as long as it takes them, as many as it may have shared connections: the
/// workers of a large machine are not to wait for each other when a replica was promoted.
const DIALS: usize = 10;
/// So many are for connections of single sessions, as long as it takes them: a thousand clients that begin to wait
/// are not to take minutes.
const DIALS_DEDICATED: usize = 500;
/// The time in which it gets them, from the whole process: a fleet that lost a node must not be what keeps it down.
const WINDOW: Duration = Duration::from_secs(1);
/// Addresses that were not dialled lately are forgotten when there are more than this many.
const REMEMBERED: usize = 4096;
/// Who finds all connections taken, or does not know yet whether the node takes any, asks again after this time.
const FULL: Duration = Duration::from_millis(100);

/// Places that commands leave free: one refresher asks each cluster.
const FOR_TOPOLOGY: usize = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Commands of clients.
    Commands,
    /// To make replicas acknowledge what they have.
    Acknowledge,
    /// A command of one client that waits for others; such connections leave room for all that is shared.
    Dedicated,
    /// Keys that one client watches; they leave that room, too.
    Watching,
    /// Commands about a database besides database 0; they leave that room, too.
    Database,
    /// Large commands and replies; they leave that room, too.
    Bulk,
    /// Questions about the topology: one place is always left for it.
    Topology,
}

/// Counts the dials and the connections to each node of a cluster, for the whole process. A lock is no matter here:
/// dials are rare.
#[derive(Debug)]
pub struct DialGate {
    limits: GateLimits,
    nodes: Mutex<HashMap<NodeAddr, Counts>>,
    lines: Mutex<HashMap<NodeAddr, [Line; 2]>>,
    /// When `dedicated_in_all` was last reached.
    crowded: Mutex<Option<Instant>>,
}

/// How many connections a node may have from the process.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Of every kind together.
    pub most: usize,
    /// For what is shared; connections of single sessions leave them free.
    pub shared: usize,
    /// Those of single sessions, of which an eighth is for watched keys.
    pub dedicated: usize,
    /// Those of all nodes together: as many as the open files allow.
    pub dedicated_in_all: usize,
}

/// Sessions that wait for a connection of their own to one node, first come first served: the places, how many wait for
/// one, and whose turn it is to dial.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Semaphore>, Arc<AtomicUsize>, Arc<Semaphore>);

#[derive(Debug, Default)]
struct Counts {
    dials: VecDeque<Instant>,
    /// Those for connections of single sessions, by [`Use`]: who consumes does not keep others from watching.
    dedicated: [VecDeque<Instant>; 2],
    /// The last dial succeeded.
    is_up: bool,
    /// By [`Purpose`].
    connections: [usize; 7],
}

/// No connection may be opened now.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// From when on to try again.
    pub until: Instant,
    /// Whether all connections to the node are taken; otherwise it was dialled too often lately.
    pub full: bool,
}

/// A node that has no link and may not be dialled yet.
#[derive(Clone, Copy, Debug)]
pub struct Down {
    /// From when on it may be dialled.
    pub until: Instant,
    /// Since when every dial has failed, if one has.
    pub since: Option<Instant>,
    /// Whether all connections to it are taken.
    pub full: bool,
}

/// The right to have one connection to a node, given back when it is dropped: after the connection was closed.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<DialGate>,
    addr: NodeAddr,
    purpose: Purpose,
}

impl DialGate {
    /// A gate that lets only so many connections to each node exist at a time.
    #[must_use]
    pub fn new(limits: GateLimits) -> Arc<Self> {
        let (nodes, lines, crowded) = Default::default();
        Arc::new(Self { limits, nodes, lines, crowded })
    }

    /// Where sessions wait for connections of their own to a node.
    pub(super) fn line(&self, addr: &NodeAddr, purpose: Use) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() > REMEMBERED {
            lines.retain(|_, [one, other]| Arc::strong_count(&one.0) + Arc::strong_count(&other.0) > 2);
        }
        let GateLimits { most, shared, dedicated, .. } = self.limits;
        // No more places than the gate has room for: who has a place is not counted as waiting.
        let own = most.saturating_sub(shared);
        let dedicated = dedicated.min(own);
        let watching = (dedicated / 8).max(1);
        let blocking = dedicated.saturating_sub(watching).min(own - own / 8).max(1);
        let line = |places: usize| {
            let turn = Arc::new(Semaphore::new(1));
            Line(Arc::new(Semaphore::new(places)), Arc::default(), turn)
        };
        let both = lines.entry(addr.clone()).or_insert_with(|| [line(blocking), line(watching)]);
        both[purpose as usize].clone()
    }

    /// Whether any session waits for a connection of its own to this node, or to any if there are too many in all.
    pub(super) fn waiting(&self, addr: &NodeAddr, purpose: Use) -> bool {
        let crowded = *self.crowded.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is refused asks again.
        if crowded.is_some_and(|since| since.elapsed() < 2 * FULL) {
            return true;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(addr).is_some_and(|lines| lines[purpose as usize].1.load(Relaxed) > 0)
    }

    /// A dial to `addr` succeeded or failed.
    pub(super) fn dialled(&self, addr: &NodeAddr, is_up: bool) {
        if let Some(counts) = self.lock().get_mut(addr) {
            counts.is_up = is_up;
        }
    }

    /// Takes a dial to `addr` at `now` and a connection, or tells when to ask again.
    ///
    /// # Errors
    /// Why not, and when to try again.
    pub fn take(
        self: &Arc<Self>,
        addr: &NodeAddr,
        purpose: Purpose,
        now: Instant,
    ) -> Result<Permit, Refused> {
        let mut nodes = self.lock();
        if nodes.len() > REMEMBERED {
            nodes.retain(|_, counts| counts.total() > 0 || counts.was_dialled(now));
        }
        // An eighth is for those who watch: who waits in a blocking command may take no more than the rest.
        let room = |most: usize| if purpose == Purpose::Dedicated { most - most / 8 } else { most };
        let is_dedicated = matches!(purpose, Purpose::Dedicated | Purpose::Watching);
        if is_dedicated
            && nodes.values().map(Counts::dedicated).sum::<usize>() >= room(self.limits.dedicated_in_all)
        {
            *self.crowded.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
            return Err(Refused { until: now + FULL, full: false });
        }
        let counts = nodes.entry(addr.clone()).or_default();
        let taken = match purpose {
            Purpose::Commands | Purpose::Acknowledge => {
                counts.total() - counts.connections[Purpose::Topology as usize] + FOR_TOPOLOGY
            }
            Purpose::Dedicated | Purpose::Watching | Purpose::Database | Purpose::Bulk => {
                let own = [Purpose::Dedicated, Purpose::Watching, Purpose::Database, Purpose::Bulk];
                own.iter().map(|own| counts.connections[*own as usize]).sum::<usize>() + self.limits.shared
            }
            Purpose::Topology => counts.total(),
        };
        let own = self.limits.most.saturating_sub(self.limits.shared);
        let is_reserved =
            purpose == Purpose::Dedicated && counts.connections[Purpose::Dedicated as usize] >= room(own);
        if taken >= self.limits.most || is_reserved {
            return Err(Refused { until: now + FULL, full: true });
        }
        let (dials, most) = match purpose {
            Purpose::Dedicated if counts.is_up => (&mut counts.dedicated[0], DIALS_DEDICATED),
            Purpose::Watching if counts.is_up => (&mut counts.dedicated[1], DIALS_DEDICATED / 4),
            _ if counts.is_up => (&mut counts.dials, self.limits.shared.max(DIALS)),
            _ => (&mut counts.dials, DIALS),
        };
        while dials.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            dials.pop_front();
        }
        if let Some(first) = dials.len().checked_sub(most).and_then(|i| dials.get(i)) {
            let until = *first + WINDOW;
            let until = if counts.is_up { until } else { until.min(now + FULL) };
            return Err(Refused { until, full: false });
        }
        dials.push_back(now);
        counts.connections[purpose as usize] += 1;
        Ok(Permit { gate: self.clone(), addr: addr.clone(), purpose })
    }

    /// How many connections the node has that has most of them.
    #[must_use]
    pub fn most_connected(&self) -> usize {
        self.lock().values().map(Counts::total).max().unwrap_or(0)
    }

    /// How many connections of single sessions the node has that has most of them.
    #[must_use]
    pub fn most_dedicated(&self) -> usize {
        self.lock().values().map(Counts::dedicated).max().unwrap_or(0)
    }

    /// How many connections of single sessions a node may have.
    #[must_use]
    pub fn dedicated(&self) -> usize {
        self.limits.dedicated
    }

    /// How many a node may have.
    #[must_use]
    pub fn most(&self) -> usize {
        self.limits.most
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeAddr, Counts>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Waits for a place, counted as waiting. None is given only if the line were closed, which nobody does.
    pub(super) async fn wait(&self, metrics: &WorkerMetrics) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.0.clone().try_acquire_owned() {
            return Some(place);
        }
        metrics.reached[Reached::DedicatedPerNode.index()].add(1);
        let _waiting = self.waits(metrics);
        self.0.clone().acquire_owned().await.ok()
    }

    /// Somebody waits for a connection as long as this is there.
    pub(super) fn waits<'a>(&'a self, metrics: &'a WorkerMetrics) -> Waiting<'a> {
        self.1.fetch_add(1, Relaxed);
        metrics.waiting.add(1);
        Waiting(&self.1, metrics)
    }

    /// Waits for the turn to dial, so that those who wait for that do not all try at the same moment.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.2.acquire().await.ok()
    }
}

/// One session in a line.
pub(super) struct Waiting<'a>(&'a AtomicUsize, &'a WorkerMetrics);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
        self.1.waiting.sub(1);
    }
}

impl Counts {
    fn dedicated(&self) -> usize {
        self.connections[Purpose::Dedicated as usize] + self.connections[Purpose::Watching as usize]
    }

    fn total(&self) -> usize {
        self.connections.iter().sum()
    }

    fn was_dialled(&self, now: Instant) -> bool {
        self.dials.back().is_some_and(|last| now.duration_since(*last) < WINDOW)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(counts) = self.gate.lock().get_mut(&self.addr) {
            counts.connections[self.purpose as usize] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_takes_none_is_dialled_at_most_ten_times_in_any_second() {
        let gate = DialGate::new(GateLimits { most: 5, shared: 5, dedicated: 0, dedicated_in_all: 0 });
        let (addr, other) = (NodeAddr::new("a", 1), NodeAddr::new("b", 1));
        let start = Instant::now();
        let mut taken: Vec<Instant> = Vec::new();
        for step in 0..400 {
            let now = start + Duration::from_millis(step * 10);
            match gate.take(&addr, Purpose::Commands, now) {
                Ok(_) => taken.push(now),
                Err(refused) => assert!(refused.until > now && !refused.full),
            }
        }
        assert_eq!(taken.len(), 40);
        assert!(taken.windows(11).all(|w| w[10] - w[0] >= WINDOW));
        assert!(gate.take(&other, Purpose::Commands, start).is_ok());
    }

    #[test]
    fn a_node_that_takes_them_gets_a_dial_for_each_shared_connection() {
        let gate = DialGate::new(GateLimits { most: 99, shared: 30, dedicated: 0, dedicated_in_all: 0 });
        let (addr, start) = (NodeAddr::new("a", 1), Instant::now());
        let dials = |now| {
            let taken = std::iter::from_fn(|| gate.take(&addr, Purpose::Commands, now).ok());
            taken.take(99).count()
        };
        let refused = || gate.take(&addr, Purpose::Commands, start).unwrap_err().until;
        assert_eq!(dials(start), DIALS);
        assert_eq!(refused(), start + FULL);
        gate.dialled(&addr, true);
        assert_eq!(dials(start), 30 - DIALS);
        assert_eq!(refused(), start + WINDOW);
        gate.dialled(&addr, false);
        assert_eq!(dials(start), 0);
        assert_eq!(dials(start + WINDOW), DIALS);
    }

    #[test]
    fn a_node_has_no_more_connections_than_declared_and_one_is_kept_for_the_topology() {
        let gate = DialGate::new(GateLimits { most: 3, shared: 3, dedicated: 0, dedicated_in_all: 0 });
        let (addr, now) = (NodeAddr::new("a", 1), Instant::now());
        let take = |purpose| gate.take(&addr, purpose, now);
        let held = [take(Purpose::Commands).unwrap(), take(Purpose::Commands).unwrap()];
        assert!(take(Purpose::Commands).unwrap_err().full);
        let topology = take(Purpose::Topology).unwrap();
        assert!(take(Purpose::Topology).is_err());
        assert_eq!(gate.most_connected(), 3);
        drop((held, topology));
        assert!(gate.most_connected() == 0 && take(Purpose::Commands).is_ok());
    }

    #[test]
    fn who_consumes_leaves_dials_to_who_watches() {
        let gate = DialGate::new(GateLimits { most: 5, shared: 1, dedicated: 4, dedicated_in_all: 9999 });
        let (addr, now) = (NodeAddr::new("a", 1), Instant::now());
        let take = |purpose| gate.take(&addr, purpose, now).map(drop);
        assert!(take(Purpose::Commands).is_ok());
        gate.dialled(&addr, true);
        for _ in 0..DIALS_DEDICATED {
            take(Purpose::Dedicated).unwrap();
        }
        assert!(take(Purpose::Dedicated).is_err() && take(Purpose::Watching).is_ok());
    }

    #[test]
    fn who_is_refused_since_there_are_too_many_in_all_waits_for_those_of_any_node() {
        let gate = DialGate::new(GateLimits { most: 9, shared: 1, dedicated: 8, dedicated_in_all: 1 });
        let (addr, other, now) = (NodeAddr::new("a", 1), NodeAddr::new("b", 1), Instant::now());
        let _taken = gate.take(&addr, Purpose::Watching, now).unwrap();
        assert!(!gate.waiting(&addr, Use::Blocking));
        assert!(gate.take(&other, Purpose::Watching, now).is_err());
        assert!(gate.waiting(&addr, Use::Blocking));
    }

    #[test]
    fn who_consumes_leaves_connections_to_who_watches() {
        let now = Instant::now();
        for limits in [(20, 9999), (9999, 16)] {
            let (most, dedicated_in_all) = limits;
            let gate = DialGate::new(GateLimits { most, shared: 4, dedicated: 9999, dedicated_in_all });
            let addr = NodeAddr::new("a", 1);
            assert!(gate.take(&addr, Purpose::Commands, now).is_ok());
            gate.dialled(&addr, true);
            let take = |purpose| gate.take(&addr, purpose, now);
            let taken: Vec<Permit> = (0..14).map(|_| take(Purpose::Dedicated).unwrap()).collect();
            assert!(take(Purpose::Dedicated).is_err());
            let watching = [take(Purpose::Watching).unwrap(), take(Purpose::Watching).unwrap()];
            assert!(take(Purpose::Watching).is_err());
            drop((taken, watching));
            assert!(take(Purpose::Dedicated).is_ok());
        }
    }
}
