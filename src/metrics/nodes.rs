//! What is counted for each node: every worker has cells of its own in a row that they share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::cells::{Counter, Gauge, Histogram, Longest};
use super::labels::{DialFailure, LinkState};
use crate::net::NodeAddr;

/// What one worker counts of one node. That worker's thread alone writes it.
#[derive(Debug, Default)]
#[repr(align(128))] // Two workers' counts never share a cache line, or the pair that is fetched together.
pub struct NodeMetrics {
    /// Links, by [`LinkState::index`].
    pub links: [Gauge; LinkState::ALL.len()],
    /// Attempts to open a link.
    pub dials: Counter,
    /// By [`DialFailure::index`].
    pub dial_failures: [Counter; DialFailure::ALL.len()],
    /// Links that ended otherwise than by the proxy's own wish.
    pub links_lost: Counter,
    /// Bytes read from links.
    pub read_bytes: Counter,
    /// Bytes written to links.
    pub written_bytes: Counter,
    /// Requests on links, queued or written.
    pub in_flight: Gauge,
    /// Their bytes.
    pub queued_bytes: Gauge,
    /// Time from a request's write to its reply.
    pub(super) answered: Histogram,
    pub(super) longest: Longest,
}

impl NodeMetrics {
    /// Counts `requests` replies, at least one, that were read at `now`: the first was waited for for `longest` nanoseconds
    /// since its request's write, and all of them for `sum`.
    pub fn answered(&self, now: u64, requests: u64, longest: u64, sum: u64) {
        self.answered.record_all(sum, requests);
        self.longest.record(now, longest);
    }
}

/// A node's counts by all workers. It is there until the last of them lets go, so that its sums never fall while it is.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) cluster: Arc<str>,
    pub(super) node: String,
    pub(super) workers: Box<[NodeMetrics]>,
}

/// One worker's hold on its cells of a node.
#[derive(Clone, Debug)]
pub struct NodeCells {
    row: Arc<Row>,
    worker: usize,
}

impl Deref for NodeCells {
    type Target = NodeMetrics;

    #[inline]
    fn deref(&self) -> &NodeMetrics {
        &self.row.workers[self.worker]
    }
}

/// The rows of all nodes. The lock is taken when a worker meets a node, and by a scrape.
#[derive(Debug, Default)]
pub(super) struct Nodes(Mutex<Vec<Weak<Row>>>);

impl Nodes {
    /// The cells of one of `workers` workers; the row is made if no worker has it.
    pub(super) fn cells(
        &self,
        cluster: &Arc<str>,
        addr: &NodeAddr,
        worker: usize,
        workers: usize,
    ) -> NodeCells {
        let node = addr.to_string();
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|row| row.strong_count() > 0);
        let same = |row: &Arc<Row>| row.cluster == *cluster && row.node == node;
        if let Some(row) = rows.iter().filter_map(Weak::upgrade).find(same) {
            return NodeCells { row, worker };
        }
        let workers = (0..workers).map(|_| NodeMetrics::default()).collect();
        let row = Arc::new(Row { cluster: cluster.clone(), node, workers });
        rows.push(Arc::downgrade(&row));
        NodeCells { row, worker }
    }

    /// All rows, in the order of their labels.
    pub(super) fn rows(&self) -> Vec<Arc<Row>> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = rows.iter().filter_map(Weak::upgrade).collect();
        rows.sort_by(|a, b| (&a.cluster, &a.node).cmp(&(&b.cluster, &b.node)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_whole_until_the_last_worker_lets_go() {
        let (nodes, cluster, addr) = (Nodes::default(), Arc::from("main"), NodeAddr::new("a", 1));
        let one = nodes.cells(&cluster, &addr, 0, 2);
        let two = nodes.cells(&cluster, &addr, 1, 2);
        one.dials.inc();
        two.dials.inc();
        drop(one);
        let sum =
            || nodes.rows().iter().flat_map(|row| &row.workers).map(|cells| cells.dials.value()).sum::<u64>();
        assert_eq!(sum(), 2);
        nodes.cells(&cluster, &addr, 0, 2).dials.inc();
        assert_eq!(sum(), 3, "who comes back goes on counting");
        drop(two);
        assert!(nodes.rows().is_empty());
    }
}
