//! How often a node is asked: the one place that keeps to it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::net::NodeAddr;

/// No node is asked more often than this: five times a second.
const PER_NODE: Duration = Duration::from_millis(200);
/// Addresses that were not asked lately are forgotten when there are more than this many.
const REMEMBERED: usize = 4096;

/// When each node was asked last. A node has one budget, by whatever address it is asked.
#[derive(Debug, Default)]
pub(super) struct Budget {
    asked: HashMap<NodeAddr, Instant>,
    /// Addresses that were asked, and those under which the cluster knows the nodes that answered there.
    same: HashMap<NodeAddr, NodeAddr>,
}

impl Budget {
    /// Takes a query of the node at `addr`; false if it was asked just now.
    pub(super) fn take(&mut self, addr: &NodeAddr, now: Instant) -> bool {
        if !self.is_free(addr, now) {
            return false;
        }
        if self.asked.len() > REMEMBERED {
            self.asked.retain(|_, at| now.duration_since(*at) < PER_NODE);
        }
        self.asked.insert(self.name(addr).clone(), now);
        true
    }

    /// Whether the node may be asked now.
    pub(super) fn is_free(&self, addr: &NodeAddr, now: Instant) -> bool {
        self.last(addr).is_none_or(|at| now.duration_since(at) >= PER_NODE)
    }

    /// When the node was asked last.
    pub(super) fn last(&self, addr: &NodeAddr) -> Option<Instant> {
        self.asked.get(self.name(addr)).copied()
    }

    /// Notes that who answers at `seed` is the node that the cluster knows as `addr`.
    pub(super) fn is_same(&mut self, seed: &NodeAddr, addr: &NodeAddr) {
        if self.name(seed) != addr {
            if self.same.len() > REMEMBERED {
                self.same.clear();
            }
            // Asked by both names: the one that was too early is made up for.
            let last = match (self.last(seed), self.last(addr)) {
                (Some(one), Some(other)) => Some(one.max(other) + PER_NODE),
                (one, other) => one.or(other),
            };
            self.same.insert(seed.clone(), addr.clone());
            self.asked.extend(last.map(|at| (addr.clone(), at)));
        }
    }

    fn name<'a>(&'a self, addr: &'a NodeAddr) -> &'a NodeAddr {
        self.same.get(addr).unwrap_or(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_at_most_five_times_a_second_by_whatever_name() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let (seed, addr) = (NodeAddr::new("localhost", 1), NodeAddr::new("127.0.0.1", 1));
        assert!(budget.take(&seed, start) && budget.take(&addr, start));
        budget.is_same(&seed, &addr);
        let mut taken = vec![start, start];
        for step in 1..1000 {
            let now = start + Duration::from_millis(step * 7);
            if budget.take(if step % 2 == 0 { &seed } else { &addr }, now) {
                taken.push(now);
            }
        }
        assert!(taken.len() > 30 && taken.windows(6).all(|w| w[5] - w[0] >= Duration::from_secs(1)));
        assert!(budget.take(&NodeAddr::new("127.0.0.1", 2), start));
    }
}
