//! The cluster as the proxy knows it: immutable, and merged from the views of nodes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::slots::SLOTS;
use super::view::ViewNode;
use crate::net::NodeAddr;

/// Marks a slot that no shard owns.
pub const NO_SHARD: u16 = u16::MAX;

/// A primary and what it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The primary's node id.
    pub id: Arc<str>,
    /// Where the primary is.
    pub addr: NodeAddr,
    /// The config epoch of its claims.
    pub epoch: u64,
}

/// Who owns which slot. Two tables are equal when nothing that matters to the data path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// For each slot the index of its shard, or [`NO_SHARD`].
    pub owners: Box<[u16]>,
    /// All primaries, those without slots too.
    pub shards: Vec<Shard>,
    /// Every address that a node of the cluster names, replicas and host names too.
    pub known: HashMap<NodeAddr, NodeAddr>,
    /// Slots that are being moved.
    pub open: HashSet<u16>,
}

impl Table {
    /// The shard that owns `slot`.
    pub fn owner(&self, slot: u16) -> Option<&Shard> {
        self.shards.get(usize::from(self.owners[usize::from(slot)]))
    }

    /// How many slots have another owner than in `before`.
    pub fn moved_since(&self, before: &Table) -> usize {
        let owner = |table: &Table, slot: usize| table.owner(slot as u16).map(|shard| shard.id.clone());
        (0..SLOTS).filter(|slot| owner(self, *slot) != owner(before, *slot)).count()
    }

    /// How many slots have an owner.
    pub fn covered(&self) -> usize {
        self.owners.iter().filter(|owner| **owner != NO_SHARD).count()
    }
}

/// What a refresh found, and whom it asked when.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The table; the same `Arc` as before when nothing changed.
    pub table: Arc<Table>,
    /// The nodes whose views are in it, and when each was asked.
    pub asked: Vec<(NodeAddr, Instant)>,
}

/// A node's view, and where it came from.
#[derive(Clone, Debug)]
pub struct View {
    /// The node that was asked,
    pub from: NodeAddr,
    /// when,
    pub asked: Instant,
    /// and what it said.
    pub nodes: Vec<ViewNode>,
}

/// The best claim to a slot so far.
#[derive(Clone)]
struct Claim {
    id: Arc<str>,
    epoch: u64,
}

/// Merges views into what was known: per slot the claim with the highest config epoch wins.
///
/// A view takes a slot away from its present owner only by a claim of an epoch that is not lower, or
/// by naming that owner, at no lower epoch than known, without the slot. So an older view never undoes
/// a newer one. A node that is in no view any more keeps nothing.
pub fn merge(current: Option<&Arc<Table>>, views: &[View]) -> Snapshot {
    let views = current.map_or_else(|| views.iter().collect(), |table| of_this_cluster(table, views));
    if let (Some(table), true) = (current, views.is_empty()) {
        return Snapshot { table: table.clone(), asked: Vec::new() };
    }
    let mut claims: Vec<Option<Claim>> = vec![None; SLOTS];
    if let Some(table) = current {
        for (slot, claim) in claims.iter_mut().enumerate() {
            *claim = table.owner(slot as u16).map(|shard| Claim { id: shard.id.clone(), epoch: shard.epoch });
        }
    }
    let named: HashSet<&str> = views.iter().flat_map(|view| &view.nodes).map(|node| &*node.id).collect();
    for view in &views {
        apply(&mut claims, &named, view);
    }
    let table = build(current, &claims, &views);
    let table = match current {
        Some(current) if **current == table => current.clone(),
        _ => Arc::new(table),
    };
    Snapshot { table, asked: views.iter().map(|view| (view.from.clone(), view.asked)).collect() }
}

/// The views of nodes that are still part of the cluster: they name an owner of slots beside themselves. A
/// node that was taken out, or that lost its memory, knows only itself, and its view would empty the table.
/// If there is no other, those that claim slots count: the cluster was made anew.
fn of_this_cluster<'a>(table: &Table, views: &'a [View]) -> Vec<&'a View> {
    let owning: HashSet<u16> = table.owners.iter().copied().filter(|owner| *owner != NO_SHARD).collect();
    let owners: HashSet<&str> = owning.iter().map(|owner| &*table.shards[usize::from(*owner)].id).collect();
    if owners.is_empty() {
        return views.iter().collect();
    }
    let names_an_owner = |node: &ViewNode| owners.contains(&*node.id) && (!node.myself || owners.len() == 1);
    let part: Vec<&View> = views.iter().filter(|view| view.nodes.iter().any(names_an_owner)).collect();
    if !part.is_empty() {
        return part;
    }
    views.iter().filter(|view| view.nodes.iter().any(|node| !node.slots.is_empty())).collect()
}

/// Takes over what `view` knows better; `everywhere` are the nodes that any view of this refresh names.
fn apply(claims: &mut [Option<Claim>], everywhere: &HashSet<&str>, view: &View) {
    let mut claimed: Vec<Option<&ViewNode>> = vec![None; SLOTS];
    for node in view.nodes.iter().filter(|node| node.primary) {
        for slot in node.slots.iter().flat_map(|(first, last)| *first..=*last) {
            claimed[usize::from(slot)] = Some(node);
        }
    }
    let named: HashMap<&str, &ViewNode> = view.nodes.iter().map(|node| (&*node.id, node)).collect();
    for (claim, new) in claims.iter_mut().zip(claimed) {
        let keeps = match (&*claim, new) {
            (None, _) => false,
            (Some(old), Some(new)) if old.id == new.id => new.epoch < old.epoch,
            (Some(old), Some(new)) => new.epoch < old.epoch && everywhere.contains(&*old.id),
            (Some(old), None) => match named.get(&*old.id) {
                Some(node) => node.primary && node.epoch < old.epoch,
                None => everywhere.contains(&*old.id),
            },
        };
        if !keeps {
            *claim = new.map(|node| Claim { id: node.id.clone(), epoch: node.epoch });
        }
    }
}

/// The table of the winning claims.
fn build(current: Option<&Arc<Table>>, claims: &[Option<Claim>], views: &[&View]) -> Table {
    let mut shards: Vec<Shard> = Vec::new();
    let mut index: HashMap<Arc<str>, u16> = HashMap::new();
    let claimed: HashSet<&Arc<str>> = claims.iter().flatten().map(|claim| &claim.id).collect();
    let mut add = |id: &Arc<str>, addr: &NodeAddr, epoch: u64| match index.get(id) {
        Some(at) => shards[usize::from(*at)].epoch = shards[usize::from(*at)].epoch.max(epoch),
        None if shards.len() < usize::from(NO_SHARD) => {
            index.insert(id.clone(), shards.len() as u16);
            shards.push(Shard { id: id.clone(), addr: addr.clone(), epoch });
        }
        None => {}
    };
    for node in views.iter().flat_map(|view| &view.nodes) {
        if node.primary || claimed.contains(&node.id) {
            add(&node.id, &node.addr, node.epoch);
        }
    }
    for shard in current.iter().flat_map(|table| &table.shards) {
        if claimed.contains(&shard.id) {
            add(&shard.id, &shard.addr, shard.epoch);
        }
    }
    // The order must not depend on who was asked, or equal tables would differ.
    shards.sort_by(|a, b| a.id.cmp(&b.id));
    let index: HashMap<&str, u16> =
        shards.iter().enumerate().map(|(i, shard)| (&*shard.id, i as u16)).collect();
    let owner = |claim: &Option<Claim>| claim.as_ref().and_then(|c| index.get(&*c.id).copied());
    let owners = claims.iter().map(|claim| owner(claim).unwrap_or(NO_SHARD)).collect();
    let mut known = HashMap::new();
    for node in views.iter().flat_map(|view| &view.nodes) {
        known.insert(node.addr.clone(), node.addr.clone());
        if let Some(alias) = &node.alias {
            known.insert(alias.clone(), node.addr.clone());
        }
    }
    let mut table = Table { owners, shards, known, open: HashSet::new() };
    table.open =
        views.iter().flat_map(|view| &view.nodes).flat_map(|node| node.open.iter().copied()).collect();
    // Only its owner tells that a slot is not open any more.
    for slot in current.iter().flat_map(|table| &table.open) {
        if table.owner(*slot).is_some_and(|shard| views.iter().all(|view| view.from != shard.addr)) {
            table.open.insert(*slot);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::view::parse;
    use super::*;

    fn view(lines: &str) -> View {
        let from = NodeAddr::new("127.0.0.1", 1);
        let nodes = parse(lines, &from).unwrap();
        View { from, asked: Instant::now(), nodes }
    }

    fn owner(snapshot: &Snapshot, slot: u16) -> Option<String> {
        snapshot.table.owner(slot).map(|shard| shard.id.to_string())
    }

    const BEFORE: &str = "a 127.0.0.1:1@11 master - 0 0 1 connected 0-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\n";
    const MOVED: &str = "a 127.0.0.1:1@11 master - 0 0 1 connected 1-8000\nb 127.0.0.1:2@12 master - 0 0 3 connected 0 8001-16383\n";

    #[test]
    fn an_older_view_never_undoes_a_newer_one() {
        let first = merge(None, &[view(BEFORE)]);
        assert_eq!(owner(&first, 0).unwrap(), "a");
        let moved = merge(Some(&first.table), &[view(MOVED)]);
        assert_eq!(owner(&moved, 0).unwrap(), "b");
        let stale = merge(Some(&moved.table), &[view(BEFORE)]);
        assert_eq!(owner(&stale, 0).unwrap(), "b");
        for views in [[view(BEFORE), view(MOVED)], [view(MOVED), view(BEFORE)]] {
            assert_eq!(owner(&merge(Some(&first.table), &views), 0).unwrap(), "b");
        }
    }

    #[test]
    fn equal_tables_are_the_same() {
        let first = merge(None, &[view(BEFORE)]);
        let again = merge(Some(&first.table), &[view(BEFORE)]);
        assert!(Arc::ptr_eq(&first.table, &again.table));
    }

    #[test]
    fn a_failover_moves_all_slots_and_the_old_primary_stays_known() {
        let first = merge(None, &[view(BEFORE)]);
        let after = "a 127.0.0.1:1@11 slave c 0 0 4 connected\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\nc 127.0.0.1:3@13 master - 0 0 4 connected 0-8000\n";
        let after = merge(Some(&first.table), &[view(after)]);
        assert_eq!(owner(&after, 5).unwrap(), "c");
        assert!(after.table.known.contains_key(&NodeAddr::new("127.0.0.1", 1)));
        assert_eq!(after.table.shards.len(), 2);
    }

    #[test]
    fn slots_that_were_given_up_have_no_owner() {
        let first = merge(None, &[view(BEFORE)]);
        let after = "a 127.0.0.1:1@11 master - 0 0 1 connected 1-8000\nb 127.0.0.1:2@12 master - 0 0 2 connected 8001-16383\n";
        let after = merge(Some(&first.table), &[view(after)]);
        assert_eq!((owner(&after, 0), after.table.covered()), (None, SLOTS - 1));
    }

    #[test]
    fn a_node_that_knows_only_itself_takes_nothing_away() {
        let first = merge(None, &[view(BEFORE)]);
        let alone = "b 127.0.0.1:2@12 myself,master - 0 0 0 connected\n";
        let after = merge(Some(&first.table), &[view(alone)]);
        assert!(Arc::ptr_eq(&first.table, &after.table) && after.asked.is_empty());
        for views in [[view(alone), view(BEFORE)], [view(BEFORE), view(alone)]] {
            assert_eq!(merge(Some(&first.table), &views).table.covered(), SLOTS);
            assert_eq!(merge(None, &views).table.covered(), SLOTS);
        }
    }

    #[test]
    fn a_view_that_lacks_a_new_node_does_not_take_its_slots_away() {
        let first = merge(None, &[view(BEFORE)]);
        let new =
            format!("{MOVED}c 127.0.0.1:3@13 master - 0 0 9 connected 5\n").replace("1-8000", "1-4 6-8000");
        for views in [[view(BEFORE), view(&new)], [view(&new), view(BEFORE)]] {
            assert_eq!(owner(&merge(Some(&first.table), &views), 5).unwrap(), "c");
        }
    }

    #[test]
    fn a_cluster_that_was_made_anew_is_taken_over() {
        let first = merge(None, &[view(BEFORE)]);
        let anew = "x 127.0.0.1:1@11 myself,master - 0 0 1 connected 0-16383\n";
        assert_eq!(owner(&merge(Some(&first.table), &[view(anew)]), 5).unwrap(), "x");
        let alone = merge(None, &[view(anew)]);
        assert_eq!(merge(Some(&alone.table), &[view(anew)]).table.covered(), SLOTS);
    }
}
