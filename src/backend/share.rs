//! What one link adds to its node's gauges.

use std::cell::Cell;

use crate::metrics::{LinkState, NodeCells};

/// A link's part of its node's gauges; dropping it takes the part out again.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) node: NodeCells,
    state: Cell<LinkState>,
    requests: Cell<i64>,
    bytes: Cell<i64>,
}

impl Share {
    /// That of a link which is being opened.
    pub(super) fn new(node: NodeCells) -> Self {
        node.links[LinkState::Opening.index()].add(1);
        Share { node, state: Cell::new(LinkState::Opening), requests: Cell::new(0), bytes: Cell::new(0) }
    }

    /// The link is in another state.
    pub(super) fn state(&self, state: LinkState) {
        self.node.links[self.state.replace(state).index()].sub(1);
        self.node.links[state.index()].add(1);
    }

    /// The link holds so many requests of so many bytes.
    #[inline]
    pub(super) fn holds(&self, requests: usize, bytes: usize) {
        let (requests, bytes) = (requests as i64, bytes as i64);
        self.node.in_flight.add(requests - self.requests.replace(requests));
        self.node.queued_bytes.add(bytes - self.bytes.replace(bytes));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.holds(0, 0);
        self.node.links[self.state.get().index()].sub(1);
    }
}
