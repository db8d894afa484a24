//! Merging what nodes say: per slot the claim with the highest config epoch wins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::names::Names;
use super::slots::SLOTS;
use super::snapshot::{Member, NO_SHARD, Shard, Snapshot, State, Table};
use super::view::{Health, View, ViewNode};
use crate::net::NodeAddr;

/// Nobody's number.
const NOBODY: u32 = u32::MAX;

/// Merges the views that count into what was known `before`.
///
/// Per slot the claim with the highest config epoch wins. Of equal ones the claimer's own goes first, then a majority
/// decides: after a planned failover others may claim the slots for the old primary with the new one's epoch for a
/// second, as what a replica publishes has the epoch of its primary. A claim of a node that says itself, at no lower
/// epoch, that the slot is not its own, does not count. What was known gives way to a claim of a higher epoch, and to
/// a claimer's own of an equal one; to less only by the owner's own word, or if a view that is not older does not name
/// the owner. So an older view never undoes a newer one.
pub fn merge(before: Option<&Snapshot>, views: &[&View], names: &Names) -> Snapshot {
    let nodes = Numbers::of(before, views);
    let ballots: Vec<Ballot> = views.iter().map(|view| Ballot::new(view, &nodes)).collect();
    let claims = elect(before.map(|before| &*before.table), &ballots, &nodes);
    let members = members(before, views, &nodes, &claims, names);
    let mut table = shards(&claims, &members, &nodes);
    table.known = known(before, views, &members, names);
    table.open = open(before, views, &table);
    let (table, version) = match before {
        Some(before) if *before.table == table => (before.table.clone(), before.version),
        before => (Arc::new(table), before.map_or(1, |before| before.version + 1)),
    };
    let asked = views.iter().map(|view| {
        let member = view.myself().and_then(|node| members.get(&node.id));
        (member.map_or(&view.from, |member| &member.addr).clone(), view.asked)
    });
    let state = match () {
        () if views.iter().any(|view| !view.info.is_down) => State::Well,
        () if views.iter().any(|view| view.wants_full_coverage()) => State::Refusing,
        () => State::Down,
    };
    let (asked, foreign) = (asked.collect(), Vec::new());
    Snapshot { table, version, asked, members, state, foreign }
}

/// The nodes that anybody names, numbered: ids are compared 16,384 times over.
struct Numbers {
    ids: Vec<Arc<str>>,
    index: HashMap<Arc<str>, u32>,
}

impl Numbers {
    fn of(before: Option<&Snapshot>, views: &[&View]) -> Self {
        let mut numbers = Numbers { ids: Vec::new(), index: HashMap::new() };
        let known = before.iter().flat_map(|before| &before.table.shards).map(|shard| &shard.id);
        for id in known.chain(views.iter().flat_map(|view| &view.nodes).map(|node| &node.id)) {
            if !numbers.index.contains_key(id) {
                numbers.index.insert(id.clone(), numbers.ids.len() as u32);
                numbers.ids.push(id.clone());
            }
        }
        numbers
    }
}

/// A view, by numbers.
struct Ballot {
    epoch: u64,
    myself: u32,
    /// Who owns each slot.
    owners: Vec<u32>,
    /// By the nodes' numbers; `None` for those that it does not name.
    epochs: Vec<Option<u64>>,
}

impl Ballot {
    fn new(view: &View, nodes: &Numbers) -> Self {
        let number = |node: &ViewNode| nodes.index.get(&node.id).copied().unwrap_or(NOBODY);
        let (mut owners, mut epochs) = (vec![NOBODY; SLOTS], vec![None; nodes.ids.len()]);
        for node in &view.nodes {
            epochs[number(node) as usize] = Some(node.epoch);
            for (first, last) in node.slots.iter().filter(|_| node.primary) {
                owners[usize::from(*first)..=usize::from(*last)].fill(number(node));
            }
        }
        Ballot { epoch: view.epoch(), myself: view.myself().map_or(NOBODY, number), owners, epochs }
    }

    /// What it says of the epoch of the node with this number.
    fn epoch_of(&self, id: u32) -> Option<u64> {
        self.epochs.get(id as usize).copied().flatten()
    }

    /// The claim to `slot`: whose, and of which epoch.
    fn claim(&self, slot: usize) -> Option<Claim> {
        let id = self.owners[slot];
        self.epoch_of(id).map(|epoch| Claim { id, epoch })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim {
    id: u32,
    epoch: u64,
}

/// The winning claim to each slot.
fn elect(before: Option<&Table>, ballots: &[Ballot], nodes: &Numbers) -> Vec<Option<Claim>> {
    let mut own: Vec<Option<&Ballot>> = vec![None; nodes.ids.len()];
    for ballot in ballots.iter().filter(|ballot| ballot.myself != NOBODY) {
        own[ballot.myself as usize] = Some(ballot);
    }
    // The owner itself says that it is not the owner.
    let denied = |slot: usize, claim: Claim| {
        own[claim.id as usize].is_some_and(|own| {
            own.owners[slot] != claim.id && own.epoch_of(claim.id).is_some_and(|epoch| epoch >= claim.epoch)
        })
    };
    let numbers: Vec<u32> = (before.iter().flat_map(|table| &table.shards))
        .map(|shard| nodes.index.get(&shard.id).copied().unwrap_or(NOBODY))
        .collect();
    let known = |slot: usize| {
        let shard = usize::from(before?.owners[slot]);
        numbers.get(shard).map(|id| Claim { id: *id, epoch: before.map_or(0, |t| t.shards[shard].epoch) })
    };
    (0..SLOTS)
        .map(|slot| {
            let known = known(slot);
            let votes = |claim: Claim| ballots.iter().filter(|b| b.claim(slot) == Some(claim)).count();
            let is_own = |claim: Claim| own[claim.id as usize].is_some_and(|b| b.claim(slot) == Some(claim));
            let rank = |claim: Claim| {
                let is_known = known.is_some_and(|known| known.id == claim.id);
                (is_own(claim), votes(claim), is_known, Reverse(&nodes.ids[claim.id as usize]))
            };
            let (mut best, mut late): (Option<Claim>, Option<Claim>) = (None, None);
            let mut disagree = false;
            for claim in ballots.iter().filter_map(|ballot| ballot.claim(slot)) {
                if denied(slot, claim) {
                    disagree |= late.is_some_and(|late| late.id != claim.id);
                    late = late.filter(|late| late.epoch >= claim.epoch).or(Some(claim));
                    continue;
                }
                let wins = best.is_none_or(|best| {
                    claim.epoch > best.epoch
                        || claim.epoch == best.epoch && claim.id != best.id && rank(claim) > rank(best)
                });
                if wins {
                    best = Some(claim);
                }
            }
            // Source and target were asked right before and after the slot moved: each says that it is the other's.
            best = best.or(late.filter(|_| disagree));
            match known {
                Some(known) if !denied(slot, known) => yields(known, best, is_own, ballots),
                _ => best,
            }
        })
        .collect()
}

/// What becomes of a claim that was known when `best` is the best that the views have.
fn yields(
    known: Claim,
    best: Option<Claim>,
    is_own: impl Fn(Claim) -> bool,
    ballots: &[Ballot],
) -> Option<Claim> {
    let outranks = match best {
        Some(best) if best.id == known.id => {
            return Some(Claim { epoch: known.epoch.max(best.epoch), ..known });
        }
        Some(best) => best.epoch > known.epoch || best.epoch == known.epoch && is_own(best),
        None => false,
    };
    let is_named = |ballot: &Ballot| ballot.epoch_of(known.id).is_some();
    let is_fresh = |ballot: &&Ballot| ballot.epoch >= known.epoch;
    let is_gone = match best {
        Some(_) => !ballots.iter().any(is_named) && ballots.iter().any(|ballot| is_fresh(&ballot)),
        None => ballots.iter().filter(is_fresh).any(|ballot| !is_named(ballot)),
    };
    if outranks || is_gone { best } else { Some(known) }
}

/// Every node that a view names, and the owners that are kept.
fn members(
    before: Option<&Snapshot>,
    views: &[&View],
    nodes: &Numbers,
    claims: &[Option<Claim>],
    names: &Names,
) -> BTreeMap<Arc<str>, Member> {
    // A node's own word of where it is goes first; then nothing changes while anybody agrees.
    let rank = |node: &ViewNode| {
        let is_known = before.and_then(|b| b.members.get(&node.id)).is_some_and(|m| m.addr == node.addr);
        match (node.guessed, node.myself, is_known) {
            (false, true, _) => 0,
            (false, false, true) => 1,
            (false, false, false) => 2,
            (true, ..) => 3,
        }
    };
    let mut found: HashMap<&Arc<str>, (&ViewNode, &ViewNode, Health)> = HashMap::new();
    for node in views.iter().flat_map(|view| &view.nodes) {
        let entry = found.entry(&node.id).or_insert((node, node, Health::Good));
        if (node.epoch, node.myself) > (entry.0.epoch, entry.0.myself) {
            entry.0 = node;
        }
        if (rank(node), &node.addr) < (rank(entry.1), &entry.1.addr) {
            entry.1 = node;
        }
        entry.2 = entry.2.max(node.health);
    }
    let mut members: BTreeMap<Arc<str>, Member> = found
        .into_iter()
        .map(|(id, (said, placed, health))| {
            let member = Member {
                id: id.clone(),
                addr: placed.addr.clone(),
                hostname: said.alias.as_ref().map(|alias| alias.host.clone()),
                zone: names.get(id).and_then(|named| named.zone.clone()),
                primary: said.primary,
                replica_of: said.replica_of.clone(),
                epoch: said.epoch,
                health,
            };
            (id.clone(), member)
        })
        .collect();
    let owning: HashSet<u32> = claims.iter().flatten().map(|claim| claim.id).collect();
    for id in owning.iter().map(|owner| &nodes.ids[*owner as usize]) {
        if let Some(member) = before.and_then(|before| before.members.get(id)) {
            members.entry(id.clone()).or_insert_with(|| member.clone());
        }
    }
    members
}

/// The table of the winning claims, but for what is known and open.
fn shards(claims: &[Option<Claim>], members: &BTreeMap<Arc<str>, Member>, nodes: &Numbers) -> Table {
    let mut epochs: HashMap<&Arc<str>, u64> = HashMap::new();
    for claim in claims.iter().flatten() {
        let epoch = epochs.entry(&nodes.ids[claim.id as usize]).or_default();
        *epoch = claim.epoch.max(*epoch);
    }
    // In the order of their ids: it must not depend on who was asked, or equal tables would differ.
    let shards: Vec<Shard> = members
        .values()
        .filter(|member| member.primary || epochs.contains_key(&member.id))
        .take(usize::from(NO_SHARD))
        .map(|member| {
            let claimed = epochs.get(&member.id).copied();
            let epoch = claimed.unwrap_or(0).max(if member.primary { member.epoch } else { 0 });
            Shard { id: member.id.clone(), addr: member.addr.clone(), epoch }
        })
        .collect();
    let mut index = vec![NO_SHARD; nodes.ids.len()];
    for (at, shard) in (0u16..).zip(&shards) {
        if let Some(number) = nodes.index.get(&shard.id) {
            index[*number as usize] = at;
        }
    }
    let owners =
        claims.iter().map(|claim| claim.map_or(NO_SHARD, |claim| index[claim.id as usize])).collect();
    // A dead node's address may be another one's now: who owns slots goes first.
    let mut by_addr: Vec<(&Shard, u16)> = shards.iter().zip(0u16..).collect();
    by_addr.sort_by_key(|(shard, _)| epochs.contains_key(&shard.id));
    let by_addr = by_addr.into_iter().map(|(shard, at)| (shard.addr.clone(), at)).collect();
    Table { owners, shards, by_addr, known: HashMap::new(), open: HashSet::new() }
}

/// Every address by which a node may be called. One that had its address before is to be found by it, unless
/// somebody else has it now, who is well.
fn known(
    before: Option<&Snapshot>,
    views: &[&View],
    members: &BTreeMap<Arc<str>, Member>,
    names: &Names,
) -> HashMap<NodeAddr, NodeAddr> {
    let mut known = HashMap::new();
    let named: HashSet<&Arc<str>> = views.iter().flat_map(|view| &view.nodes).map(|node| &node.id).collect();
    for kept in members.values().filter(|member| !named.contains(&member.id)) {
        let aliases =
            before.iter().flat_map(|before| &before.table.known).filter(|(_, to)| **to == kept.addr);
        known.extend(aliases.map(|(from, to)| (from.clone(), to.clone())));
        known.insert(kept.addr.clone(), kept.addr.clone());
    }
    for ill in [true, false] {
        for node in views.iter().flat_map(|view| &view.nodes) {
            let Some(member) = members.get(&node.id).filter(|m| (m.health != Health::Good) == ill) else {
                continue;
            };
            if node.guessed && node.addr != member.addr {
                continue;
            }
            for addr in [Some(&node.addr), node.announced.as_ref(), node.alias.as_ref()].into_iter().flatten()
            {
                known.insert(addr.clone(), member.addr.clone());
            }
            let port = node.announced.as_ref().unwrap_or(&node.addr).port;
            for host in names.get(&node.id).iter().flat_map(|named| &named.hosts) {
                let alias = NodeAddr { host: host.clone(), port };
                known.entry(alias).or_insert_with(|| member.addr.clone());
            }
        }
    }
    known
}

/// The slots that are being moved.
fn open(before: Option<&Snapshot>, views: &[&View], table: &Table) -> HashSet<u16> {
    let mut open: HashSet<u16> =
        views.iter().flat_map(|view| &view.nodes).flat_map(|node| node.open.iter().copied()).collect();
    // Only its owner tells that a slot is not open any more.
    let told: HashSet<&Arc<str>> =
        views.iter().filter_map(|view| view.myself()).map(|node| &node.id).collect();
    let kept = before.iter().flat_map(|before| &before.table.open).copied();
    open.extend(kept.filter(|slot| table.owner(*slot).is_some_and(|shard| !told.contains(&shard.id))));
    open
}

#[cfg(test)]
mod tests;
