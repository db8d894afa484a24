//! One worker's routing table: the snapshot, and what the nodes have said since.

mod shards;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Link, Node};
use crate::net::NodeAddr;
use crate::topology::{Cause, NO_SHARD, SLOTS, Shard, Shared, Snapshot, Table};

/// A primary that lacks replicas while commands wait for it says so at least so often.
const AWAITED: Duration = Duration::from_secs(1);

/// Who owns a slot, according to a MOVED that no snapshot has confirmed or refuted yet.
#[derive(Clone, Copy, Debug)]
struct Overlay {
    /// An index into the nodes.
    node: u16,
    at: Instant,
}

/// What was made of a MOVED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The slot's owner is noted: commands may go there now.
    Noted,
    /// No node of the cluster has named that address yet: wait for a refresh.
    Unknown,
}

/// Slot → node, one load and one compare on the hot path; everything else is for when it changes.
#[derive(Debug)]
pub struct Routes {
    backend: Rc<Backend>,
    shared: Arc<Shared>,
    /// Goes up with every change.
    version: u64,
    /// Goes up with every new table.
    tables: u64,
    table: Option<Arc<Table>>,
    /// When the nodes whose views are in the table were asked.
    asked: HashMap<NodeAddr, Instant>,
    /// For each slot an index into `nodes`, or [`NO_SHARD`].
    owners: Box<[u16]>,
    nodes: Vec<Rc<Node>>,
    /// Which of them own slots in the table.
    serving: Vec<bool>,
    /// Where each of them is in `nodes`.
    index: HashMap<NodeAddr, u16>,
    /// Nodes without slots whose last replies are still to come.
    leaving: Vec<Rc<Node>>,
    overlay: HashMap<u16, Overlay>,
    /// Primaries that lack replicas, and when they first and last said so.
    lacking: HashMap<NodeAddr, (Instant, Instant)>,
    /// Slots seen to be moving (ASK, TRYAGAIN) since that time.
    open: HashMap<u16, Instant>,
    /// Slots that have no owner, and since when; of before the first table there is only `begun`.
    uncovered: HashMap<u16, Instant>,
    begun: Instant,
}

impl Routes {
    /// Routes to nowhere yet.
    pub fn new(backend: Rc<Backend>, shared: Arc<Shared>) -> Self {
        Routes {
            backend,
            shared,
            version: 1,
            tables: 0,
            table: None,
            asked: HashMap::new(),
            owners: vec![NO_SHARD; SLOTS].into(),
            nodes: Vec::new(),
            serving: Vec::new(),
            index: HashMap::new(),
            leaving: Vec::new(),
            overlay: HashMap::new(),
            lacking: HashMap::new(),
            open: HashMap::new(),
            uncovered: HashMap::new(),
            begun: Instant::now(),
        }
    }

    /// Changes with every change of the routes: a session compares it once a turn.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes with every new table, not with a MOVED.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Whether `node` was asked after `at`, and its view is in the table.
    pub fn has_asked(&self, node: &NodeAddr, at: Instant) -> bool {
        self.asked.get(node).is_some_and(|asked| *asked > at)
    }

    /// The node that owns `slot`.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<&Rc<Node>> {
        self.nodes.get(usize::from(self.owners[usize::from(slot)]))
    }

    /// What the table says of the shard whose primary is at `addr`.
    pub fn shard_at(&self, addr: &NodeAddr) -> Option<&Shard> {
        self.table.as_ref()?.shard_at(addr)
    }

    /// Since when `slot`, which has no owner, has had none.
    pub fn uncovered_since(&self, slot: u16) -> Instant {
        self.uncovered.get(&slot).copied().unwrap_or(self.begun)
    }

    /// Whether `slot` is being moved, as far as is known.
    pub fn is_open(&self, slot: u16) -> bool {
        self.open.contains_key(&slot) || self.table.as_ref().is_some_and(|table| table.open.contains(&slot))
    }

    /// Whether any slot is being moved.
    #[inline]
    pub fn any_open(&self) -> bool {
        !self.open.is_empty() || self.table.as_ref().is_some_and(|table| !table.open.is_empty())
    }

    /// The node at `addr`, if the cluster has named that address.
    pub fn node(&mut self, addr: &NodeAddr) -> Option<Rc<Node>> {
        let addr = self.known(addr)?.clone();
        let index = self.index_of(&addr);
        self.nodes.get(usize::from(index)).cloned()
    }

    /// The node at `addr`, if any slot leads to it, or may.
    pub fn routed(&self, addr: &NodeAddr) -> Option<&Rc<Node>> {
        self.nodes.get(usize::from(*self.index.get(addr)?))
    }

    /// Whether the node at `addr`, which may have left the routes, hangs.
    pub fn hangs(&self, addr: &NodeAddr) -> bool {
        let mut nodes = self.routed(addr).into_iter().chain(&self.leaving);
        nodes.any(|node| node.addr() == addr && node.hangs())
    }

    /// The index of the node at `addr`, which is made if it is not there.
    fn index_of(&mut self, addr: &NodeAddr) -> u16 {
        match self.index.get(addr) {
            Some(index) => *index,
            None => self.add(Node::new(addr.clone(), self.backend.clone())),
        }
    }

    fn add(&mut self, node: Rc<Node>) -> u16 {
        let index = self.nodes.len() as u16;
        self.index.insert(node.addr().clone(), index);
        self.nodes.push(node);
        index
    }

    /// Asks for a refresh.
    pub fn refresh(&self, cause: Cause, node: Option<&NodeAddr>) {
        self.shared.ask(cause, node);
    }

    /// The address by which the cluster knows a node, if it does.
    pub fn known(&self, addr: &NodeAddr) -> Option<&NodeAddr> {
        self.table.as_ref()?.known.get(addr)
    }

    /// Notes that `asked` said that `slot` is owned by `to`, and asks for a refresh.
    pub fn moved(&mut self, slot: u16, to: &NodeAddr, asked: &NodeAddr) -> Moved {
        let Some(addr) = self.known(to).cloned() else {
            // Only nodes that the cluster names are connected to: who sent the redirect knows of it.
            self.refresh(Cause::Redirect, Some(asked));
            return Moved::Unknown;
        };
        // Who sent the redirect names the other one: nodes that are new are not known everywhere yet.
        self.refresh(Cause::Redirect, Some(&addr));
        self.refresh(Cause::Redirect, Some(asked));
        let node = self.index_of(&addr);
        if self.owners[usize::from(slot)] != node {
            self.owners[usize::from(slot)] = node;
            self.version += 1;
        }
        self.overlay.insert(slot, Overlay { node, at: Instant::now() });
        Moved::Noted
    }

    /// Lets another link take the place of one that leads to the wrong node.
    ///
    /// That is a change of the routes: sessions with commands on the old link must wait for them before
    /// they use the new one.
    pub fn replace(&mut self, link: &Link) {
        link.retire();
        self.version += 1;
        self.refresh(Cause::Redirect, Some(link.addr()));
    }

    /// Notes that `slot` is being moved. If that is new, other workers hear of it by a refresh: who waits at its owner
    /// has to look elsewhere.
    pub fn opened(&mut self, slot: u16) {
        if !self.is_open(slot)
            && let Some(owner) = self.owner(slot)
        {
            self.refresh(Cause::Redirect, Some(owner.addr()));
        }
        self.open.insert(slot, Instant::now());
    }

    /// Since when the primary at `addr`, which says so now, lacks replicas. Where commands wait it is asked all the time:
    /// it has had some meanwhile if it has not said so for a second, or for `long` where nobody waits for it any more.
    pub fn lacks_replicas(&mut self, addr: &NodeAddr, long: Duration) -> Instant {
        let now = Instant::now();
        let (since, last) = self.lacking.entry(addr.clone()).or_insert((now, now));
        let is_long = last.duration_since(*since) + AWAITED > long;
        let patience = if is_long { long } else { AWAITED };
        if now.duration_since(*last) > patience {
            *since = now;
        }
        *last = now;
        *since
    }

    /// Takes over what a refresh found. True if the routes changed.
    pub fn install(&mut self, snapshot: &Snapshot) -> bool {
        self.asked.extend(snapshot.asked.iter().cloned());
        self.asked.retain(|addr, _| snapshot.table.known.contains_key(addr));
        let same = self.table.as_ref().is_some_and(|table| Arc::ptr_eq(table, &snapshot.table));
        let overlays = self.overlay.len();
        // A burst of MOVED names few nodes for many slots.
        let mut named: Vec<Option<Named>> = self.nodes.iter().map(|_| None).collect();
        let nodes = &self.nodes;
        self.overlay.retain(|slot, overlay| {
            let at = usize::from(overlay.node);
            let named = named[at].get_or_insert_with(|| Named::new(nodes[at].addr(), snapshot));
            !refutes(snapshot, *slot, overlay.at, named)
        });
        // Only a slot's owner knows whether it is still being moved.
        let asked = &self.asked;
        self.open.retain(|slot, at| {
            let owner = snapshot.table.owner(*slot).and_then(|shard| asked.get(&shard.addr));
            owner.is_none_or(|asked| *asked <= *at)
        });
        if same && overlays == self.overlay.len() {
            return false;
        }
        self.table = Some(snapshot.table.clone());
        self.lacking.retain(|addr, _| snapshot.table.known.contains_key(addr));
        self.rebuild(&snapshot.table);
        self.version += 1;
        if !same {
            self.tables += 1;
            // Commands that wait for a node that is being dialled may have a better place to go.
            self.nodes.iter().for_each(|node| node.give_back_unsent());
        }
        true
    }

    fn rebuild(&mut self, table: &Table) {
        // Nodes that stay keep their links; a thousand of them must be sorted out within a millisecond.
        let index = std::mem::take(&mut self.index);
        let mut before: Vec<Option<Rc<Node>>> = self.nodes.drain(..).map(Some).collect();
        let mut places = vec![NO_SHARD; before.len()];
        let of_shards = table.shards.iter().filter_map(|shard| index.get(&shard.addr).copied());
        let stay: Vec<u16> = of_shards.chain(self.overlay.values().map(|overlay| overlay.node)).collect();
        for at in stay.into_iter().map(usize::from) {
            if let Some(node) = before[at].take() {
                places[at] = self.add(node);
            }
        }
        for node in before.into_iter().flatten() {
            node.retire();
            self.leaving.push(node);
        }
        let indices: Vec<u16> = table.shards.iter().map(|shard| self.index_of(&shard.addr)).collect();
        for (owner, shard) in self.owners.iter_mut().zip(&table.owners) {
            *owner = indices.get(usize::from(*shard)).copied().unwrap_or(NO_SHARD);
        }
        self.serving = vec![false; self.nodes.len()];
        for owner in self.owners.iter().filter(|owner| **owner != NO_SHARD) {
            self.serving[usize::from(*owner)] = true;
        }
        for (slot, overlay) in &mut self.overlay {
            overlay.node = places[usize::from(overlay.node)];
            self.owners[usize::from(*slot)] = overlay.node;
        }
        let owners = &self.owners;
        self.uncovered.retain(|slot, _| owners[usize::from(*slot)] == NO_SHARD);
        let now = Instant::now();
        for (slot, _) in (0..).zip(owners.iter()).filter(|(_, owner)| **owner == NO_SHARD) {
            self.uncovered.entry(slot).or_insert(now);
        }
    }

    /// Looks after the links, also those of nodes that are leaving; see [`Node::check`].
    pub fn check_links(&mut self, limit: u32, idle: u32) {
        self.leaving.retain(|node| node.has_links());
        self.nodes.iter().chain(&self.leaving).for_each(|node| node.check(limit, idle));
    }
}

/// What a snapshot has of a node that MOVED named.
struct Named<'a> {
    shard: Option<&'a Shard>,
    /// When the node was asked, if its view is in the snapshot.
    asked: Option<Instant>,
    is_known: bool,
}

impl<'a> Named<'a> {
    fn new(addr: &NodeAddr, snapshot: &'a Snapshot) -> Self {
        let is_known = snapshot.table.known.contains_key(addr);
        Named { shard: snapshot.table.shard_at(addr), asked: snapshot.asked_at(addr), is_known }
    }
}

/// Whether a snapshot knows better than a MOVED of that time: it agrees, or it has the later word of the node that
/// MOVED named, or of an owner whose claim is not older. What third nodes say may be from before the move.
fn refutes(snapshot: &Snapshot, slot: u16, moved: Instant, named: &Named<'_>) -> bool {
    let is_later = |asked: Option<Instant>| asked.is_some_and(|at| at > moved);
    if !snapshot.asked.iter().any(|(_, at)| *at > moved) {
        return false;
    }
    let gone = !named.is_known || is_later(named.asked);
    match snapshot.table.owner(slot) {
        Some(owner) if named.shard.is_some_and(|shard| shard.id == owner.id) => true,
        Some(owner) => {
            let is_older = named.shard.is_some_and(|shard| owner.epoch < shard.epoch);
            gone || (!is_older && is_later(snapshot.asked_at(&owner.addr)))
        }
        None => gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::AddressMap;
    use crate::topology::merge::merge;
    use crate::topology::names::Names;
    use crate::topology::view::{Info, View, parse};

    const BEFORE: &str = "a 127.0.0.1:1@11 master - 0 0 7 connected 0-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 slave b 0 0 2 connected\n";

    /// Whether views that these nodes gave after a MOVED of slot 0 to node `to` undo it.
    fn undone(to: u16, views: &[(u16, &str)]) -> bool {
        let node = |port| NodeAddr::new("127.0.0.1", port);
        let view = |port: u16, text: &str| {
            let nodes = parse(text, &node(port), &AddressMap::default()).unwrap();
            View { from: node(port), asked: Instant::now(), info: Info::default(), nodes }
        };
        let before = merge(None, &[&view(1, BEFORE)], &Names::new());
        let at = Instant::now();
        let views: Vec<View> = views.iter().map(|(port, text)| view(*port, text)).collect();
        let views: Vec<&View> = views.iter().collect();
        let snapshot = merge(Some(&before), &views, &Names::new());
        refutes(&snapshot, 0, at, &Named::new(&node(to), &snapshot))
    }

    #[test]
    fn only_a_later_word_of_who_must_know_undoes_a_moved() {
        // A third node has not heard of the move, or of the failover, yet.
        assert!(!undone(2, &[(3, BEFORE)]));
        assert!(!undone(3, &[(2, BEFORE)]));
        // The node that MOVED named, or the owner itself, says otherwise; or the node has gone.
        assert!(undone(2, &[(2, BEFORE)]));
        assert!(undone(2, &[(1, BEFORE)]));
        let without_b = BEFORE.lines().next().unwrap();
        assert!(undone(
            2,
            &[(3, &format!("{without_b}\nc 127.0.0.1:3@13 myself,master - 0 0 3 connected\n"))]
        ));
        // Also when it says that nobody owns the slot.
        assert!(undone(2, &[(2, &BEFORE.replace(" 0-8000", " 1-8000"))]));
        // And one that agrees takes the overlay's place.
        let moved =
            BEFORE.replace(" 0-8000", " 1-8000").replace("0 0 2 connected 8001", "0 0 8 connected 0 8001");
        assert!(undone(2, &[(3, &moved)]));
    }
}
