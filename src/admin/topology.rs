//! The topology as JSON.

use serde_json::{Value, json};

use super::State;
use crate::metrics::ClusterMetrics;
use crate::topology::{Shared, Table};

/// The page: `{"clusters": […]}`, one for each cluster of the configuration; see [`cluster`].
pub(super) fn page(state: &State) -> String {
    let clusters = state.metrics.clusters().iter().zip(&state.topologies);
    let clusters: Vec<Value> = clusters.map(|(metrics, shared)| cluster(metrics, shared)).collect();
    format!("{}\n", json!({ "clusters": clusters }))
}

/// A cluster's name, the version and age of its table, and the table: without shards until there is one.
fn cluster(metrics: &ClusterMetrics, shared: &Shared) -> Value {
    let snapshot = shared.snapshot();
    let table = snapshot.as_ref().map(|snapshot| &*snapshot.table);
    json!({
        "name": &*metrics.name,
        "version": metrics.topology_version.value(),
        "age_seconds": metrics.age(),
        "cluster_down": metrics.cluster_down.value() != 0,
        "slots_uncovered": metrics.slots_uncovered.value(),
        "open_slots": table.map(open_slots).unwrap_or_default(),
        "shards": table.map(shards).unwrap_or_default(),
    })
}

/// Slots that are being moved, in their order.
fn open_slots(table: &Table) -> Vec<u16> {
    let mut open: Vec<u16> = table.open.iter().copied().collect();
    open.sort_unstable();
    open
}

/// Each primary and its slots as `[first, last]`.
fn shards(table: &Table) -> Vec<Value> {
    let mut ranges: Vec<Vec<[u16; 2]>> = vec![Vec::new(); table.shards.len()];
    for (slot, owner) in (0..).zip(table.owners.iter()) {
        let Some(ranges) = ranges.get_mut(usize::from(*owner)) else { continue };
        match ranges.last_mut() {
            Some([_, last]) if *last + 1 == slot => *last = slot,
            _ => ranges.push([slot, slot]),
        }
    }
    let shard = |(shard, slots): (&crate::topology::Shard, Vec<[u16; 2]>)| json!({ "id": &*shard.id, "primary": shard.addr.to_string(), "epoch": shard.epoch, "slots": slots });
    table.shards.iter().zip(ranges).map(shard).collect()
}
