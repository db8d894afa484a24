//! The cluster as the proxy knows it: immutable, and merged from the views of nodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::slots::SLOTS;
use super::view::Health;
use crate::net::NodeAddr;

/// Marks a slot that no shard owns.
pub const NO_SHARD: u16 = u16::MAX;

/// A primary and what it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The primary's node id.
    pub id: Arc<str>,
    /// Where the primary is dialled.
    pub addr: NodeAddr,
    /// The config epoch of its claims.
    pub epoch: u64,
}

/// Who owns which slot. Two tables are equal when nothing that matters to the data path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// For each slot the index of its shard, or [`NO_SHARD`].
    pub owners: Box<[u16]>,
    /// All primaries, those without slots too, in the order of their ids.
    pub shards: Vec<Shard>,
    /// The index of each shard by its primary's address.
    pub by_addr: HashMap<NodeAddr, u16>,
    /// Every address by which a node of the cluster may be called, and where that node is dialled: as announced,
    /// by host name and as mapped; replicas too.
    pub known: HashMap<NodeAddr, NodeAddr>,
    /// Slots that are being moved.
    pub open: HashSet<u16>,
}

impl Table {
    /// The shard that owns `slot`.
    pub fn owner(&self, slot: u16) -> Option<&Shard> {
        self.shards.get(usize::from(self.owners[usize::from(slot)]))
    }

    /// The shard whose primary is dialled at `addr`.
    pub fn shard_at(&self, addr: &NodeAddr) -> Option<&Shard> {
        self.by_addr.get(addr).map(|index| &self.shards[usize::from(*index)])
    }

    /// How many slots have another owner than in `before`.
    pub fn moved_since(&self, before: &Table) -> usize {
        let id = |table: &Table, slot: usize| table.owner(slot as u16).map(|shard| shard.id.clone());
        (0..SLOTS).filter(|slot| id(self, *slot) != id(before, *slot)).count()
    }

    /// How many slots have an owner.
    pub fn covered(&self) -> usize {
        self.owners.iter().filter(|owner| **owner != NO_SHARD).count()
    }
}

/// A node of the cluster, for display and for telling clusters apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node's id.
    pub id: Arc<str>,
    /// Where it is dialled.
    pub addr: NodeAddr,
    /// Its announced host name.
    pub hostname: Option<Arc<str>>,
    /// Where it stands, if it tells.
    pub zone: Option<Arc<str>>,
    /// Whether it owns, or may own, slots.
    pub primary: bool,
    /// The id of the primary that it copies.
    pub replica_of: Option<Arc<str>>,
    /// Its config epoch, or its primary's.
    pub epoch: u64,
    /// How its peers find it.
    pub health: Health,
}

/// What the nodes say of the cluster as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// At least one node that was asked finds it well.
    #[default]
    Well,
    /// None does.
    Down,
    /// None does because a slot has no owner: `cluster-require-full-coverage` is `yes`.
    Refusing,
}

impl State {
    /// For people and pages.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Down => "down",
            Self::Refusing => "refusing",
        }
    }
}

/// What a refresh found, and whom it asked when.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The table; the same `Arc` as before when nothing changed.
    pub table: Arc<Table>,
    /// Counts the tables, from 1.
    pub version: u64,
    /// The nodes whose views are in it, as they are dialled, and when each was asked.
    pub asked: Vec<(NodeAddr, Instant)>,
    /// Every node of the cluster, by its id.
    pub members: BTreeMap<Arc<str>, Member>,
    /// How the cluster is.
    pub state: State,
    /// Seeds that are no part of the cluster.
    pub foreign: Vec<NodeAddr>,
}

/// A shard, as a page shows it.
#[derive(Clone, Debug)]
pub struct ShardFacts<'a> {
    /// Its id, primary and epoch.
    pub shard: &'a Shard,
    /// The primary as a member; `None` if nobody names it just now.
    pub primary: Option<&'a Member>,
    /// The slots that it owns, as inclusive ranges.
    pub slots: Vec<(u16, u16)>,
    /// Those of them that are being moved.
    pub open: Vec<u16>,
    /// Its replicas.
    pub replicas: Vec<&'a Member>,
}

impl Snapshot {
    /// When the node at `addr` was asked, if its view is in this snapshot.
    pub fn asked_at(&self, addr: &NodeAddr) -> Option<Instant> {
        self.asked.iter().find(|(asked, _)| asked == addr).map(|(_, at)| *at)
    }

    /// All shards in the order of the table. Made anew at each call: for pages, not for the data path.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardFacts<'_>> {
        let facts = |shard| ShardFacts {
            shard,
            primary: self.members.get(&shard.id),
            slots: Vec::new(),
            open: Vec::new(),
            replicas: Vec::new(),
        };
        let mut shards: Vec<ShardFacts<'_>> = self.table.shards.iter().map(facts).collect();
        for (slot, owner) in (0u16..).zip(&self.table.owners) {
            let Some(shard) = shards.get_mut(usize::from(*owner)) else { continue };
            match shard.slots.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => shard.slots.push((slot, slot)),
            }
            if self.table.open.contains(&slot) {
                shard.open.push(slot);
            }
        }
        for member in self.members.values() {
            let shard = member.replica_of.as_ref().and_then(|primary| {
                let index = self.table.shards.binary_search_by(|shard| shard.id.cmp(primary)).ok()?;
                shards.get_mut(index)
            });
            if let Some(shard) = shard {
                shard.replicas.push(member);
            }
        }
        shards
    }
}
