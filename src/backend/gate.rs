//! How often a node may be dialled, and how many connections it gets from this process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::NodeAddr;

/// A node gets at most this many dials,
const DIALS: usize = 10;
/// within this time, from the whole process: a fleet that lost a node must not be what keeps it down.
const WINDOW: Duration = Duration::from_secs(1);
/// Addresses that were not dialled lately are forgotten when there are more than this many.
const REMEMBERED: usize = 4096;
/// Who finds all connections taken asks again after this time.
const FULL: Duration = Duration::from_millis(100);

/// Places that commands leave free: one refresher asks each cluster.
const FOR_TOPOLOGY: usize = 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Commands of clients.
    Commands,
    /// Questions about the topology: one place is always left for it.
    Topology,
}

/// Counts the dials and the connections to each node of a cluster, for the whole process. A lock is no matter here:
/// dials are rare.
#[derive(Debug)]
pub struct DialGate {
    most: usize,
    nodes: Mutex<HashMap<NodeAddr, Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    dials: VecDeque<Instant>,
    /// By [`Purpose`].
    connections: [usize; 2],
}

/// No connection may be opened now.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// From when on to try again.
    pub until: Instant,
    /// Whether all connections to the node are taken; otherwise it was dialled too often lately.
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
    /// A gate that lets at most `most` connections to a node exist at a time, of every kind together.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, nodes: Mutex::default() })
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
        let counts = nodes.entry(addr.clone()).or_default();
        let taken = match purpose {
            Purpose::Commands => counts.connections[Purpose::Commands as usize] + FOR_TOPOLOGY,
            Purpose::Topology => counts.total(),
        };
        if taken >= self.most {
            return Err(Refused { until: now + FULL, full: true });
        }
        let dials = &mut counts.dials;
        match dials.front() {
            Some(first) if dials.len() >= DIALS && now.duration_since(*first) < WINDOW => {
                return Err(Refused { until: *first + WINDOW, full: false });
            }
            Some(_) if dials.len() >= DIALS => _ = dials.pop_front(),
            _ => {}
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

    /// How many a node may have.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeAddr, Counts>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
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
    fn a_node_is_dialled_at_most_ten_times_in_any_second() {
        let gate = DialGate::new(5);
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
    fn a_node_has_no_more_connections_than_declared_and_one_is_kept_for_the_topology() {
        let gate = DialGate::new(3);
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
}
