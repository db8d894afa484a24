//! Whole shards: where commands go that have no key.

use super::Routes;
use crate::net::NodeAddr;
use crate::topology::{NO_SHARD, SLOTS};

/// As many slots are drawn to find one whose owner answers.
const DRAWS: usize = 16;

impl Routes {
    /// A slot of every shard that owns one: each names its shard until the table changes.
    pub fn shard_slots(&self) -> Vec<u16> {
        let (mut slots, mut seen, mut last) = (Vec::new(), vec![false; self.nodes.len()], NO_SHARD);
        for (slot, overlay) in &self.overlay {
            // MOVED to a node that is no primary in the table: it has taken its whole shard over.
            if !self.is_primary(self.nodes[usize::from(overlay.node)].addr())
                && let Some(deposed) = self.table.as_ref().and_then(|table| table.owner(*slot))
                && let Some(index) = self.index.get(&deposed.addr)
            {
                seen[usize::from(*index)] = true;
            }
        }
        for (slot, owner) in (0..).zip(&self.owners) {
            // Ranges are long: mostly it is the owner of the slot before.
            if *owner != last
                && let Some(seen) = seen.get_mut(usize::from(*owner))
            {
                if !std::mem::replace(seen, true) {
                    slots.push(slot);
                }
                last = *owner;
            }
        }
        slots
    }

    /// A slot that has an owner, at random; if possible of one that answers.
    pub fn any_slot(&self) -> Option<u16> {
        let answers = |slot: u16| self.owner(slot).is_some_and(|node| node.is_answering());
        let draws = (0..DRAWS).filter_map(|_| self.covered_slot());
        let mut found = None;
        for slot in draws {
            found = Some(slot);
            if answers(slot) {
                break;
            }
        }
        found
    }

    fn covered_slot(&self) -> Option<u16> {
        let start = fastrand::usize(..SLOTS);
        (0..SLOTS)
            .map(|i| (start + i) % SLOTS)
            .find(|slot| self.owners[*slot] != NO_SHARD)
            .map(|slot| slot as u16)
    }

    /// All primaries, those without slots too.
    pub fn primaries(&self) -> impl Iterator<Item = &NodeAddr> {
        self.table.iter().flat_map(|table| &table.shards).map(|shard| &shard.addr)
    }

    /// Whether the node at `addr` is one of them.
    pub fn is_primary(&self, addr: &NodeAddr) -> bool {
        self.table.as_ref().is_some_and(|table| table.by_addr.contains_key(addr))
    }

    /// Whether the node at `addr` is a primary with slots. One without any may be about to be removed.
    pub fn is_serving(&self, addr: &NodeAddr) -> bool {
        let node = self.index.get(addr).map(|index| usize::from(*index));
        self.is_primary(addr) && node.and_then(|node| self.serving.get(node)).is_some_and(|serves| *serves)
    }
}
