//! Moving slots by hand, step by step, as `redis-cli --cluster reshard` does it.

use super::{SOON, TestCluster, eventually};

impl TestCluster {
    /// Moves a slot with all its keys.
    #[track_caller]
    pub fn migrate_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_migration(slot, from, to);
        self.move_keys(slot, from, to);
        self.finish_migration(slot, from, to);
    }

    /// Opens the slot: the source answers ASK for keys that it does not have.
    #[track_caller]
    pub fn begin_migration(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.ask(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", self.node(from).id()]);
        self.ask(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", self.node(to).id()]);
    }

    /// Moves all keys that the source has in the slot; returns how many there were.
    #[track_caller]
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) -> usize {
        let mut moved = 0;
        loop {
            let keys = self.keys_in_slot(slot, from);
            if keys.is_empty() {
                return moved;
            }
            self.move_some_keys(from, to, &keys.iter().map(String::as_str).collect::<Vec<_>>());
            moved += keys.len();
        }
    }

    /// Moves these keys, which must all be in the open slot.
    #[track_caller]
    pub fn move_some_keys(&self, from: usize, to: usize, keys: &[&str]) {
        let port = self.node(to).port().to_string();
        let mut args = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
        if let Some(password) = &self.options().password {
            args.extend(["AUTH", password]);
        }
        args.push("KEYS");
        args.extend(keys);
        self.ask(from, &args);
    }

    /// Up to 100 keys that the node has in the slot.
    #[track_caller]
    pub fn keys_in_slot(&self, slot: u16, node: usize) -> Vec<String> {
        let reply = self.client(node).cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]);
        reply.items().iter().map(|key| key.text()).collect()
    }

    /// Closes the slot: the target owns it, and all running primaries are told at once.
    #[track_caller]
    pub fn finish_migration(&self, slot: u16, from: usize, to: usize) {
        let number = slot.to_string();
        let id = self.node(to).id().to_owned();
        self.ask(to, &["CLUSTER", "SETSLOT", &number, "NODE", &id]);
        self.ask(from, &["CLUSTER", "SETSLOT", &number, "NODE", &id]);
        for (i, node) in self.nodes().iter().enumerate() {
            if i != to && i != from && node.is_running() {
                // Replicas refuse it and learn it by gossip.
                let _ = node.call(&["CLUSTER", "SETSLOT", &number, "NODE", &id]);
            }
        }
    }

    /// Closes the slot without moving it: what an interrupted reshard is repaired with.
    #[track_caller]
    pub fn cancel_migration(&self, slot: u16, from: usize, to: usize) {
        for i in [from, to] {
            self.ask(i, &["CLUSTER", "SETSLOT", &slot.to_string(), "STABLE"]);
        }
    }

    /// Waits until every running node sees the slot at this node, and knows the epoch of its claim: a server that takes
    /// the slot next counts up from what it knows, and with less its claim would not hold.
    #[track_caller]
    pub fn await_owner(&self, slot: u16, owner: usize) {
        eventually(SOON, || {
            let claims = self.running().map(|node| {
                let view = node.view().unwrap_or_default();
                view.into_iter().find(|line| line.id == self.node(owner).id() && line.owns(slot))
            });
            let epochs: Option<Vec<u64>> = claims.map(|claim| claim.map(|line| line.epoch)).collect();
            epochs.is_some_and(|epochs| epochs.windows(2).all(|pair| pair[0] == pair[1]))
        });
    }
}
