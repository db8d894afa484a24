//! The topology as JSON.

use serde_json::{Value, json};

use super::State;
use crate::metrics::ClusterMetrics;
use crate::topology::snapshot::{Member, ShardFacts};
use crate::topology::{Shared, State as Condition};

/// The page: `{"clusters": […]}`, one for each cluster of the configuration; see [`cluster`].
pub(super) fn page(state: &State) -> String {
    let clusters = state.metrics.clusters().iter().zip(&state.topologies);
    let clusters: Vec<Value> = clusters.map(|(metrics, shared)| cluster(metrics, shared)).collect();
    format!("{}\n", json!({ "clusters": clusters }))
}

/// A cluster's name, how it is, the version and age of its table, and its shards: none until there is a table.
fn cluster(metrics: &ClusterMetrics, shared: &Shared) -> Value {
    let snapshot = shared.snapshot();
    let snapshot = snapshot.as_deref();
    let foreign: Vec<String> =
        snapshot.iter().flat_map(|snapshot| &snapshot.foreign).map(ToString::to_string).collect();
    json!({
        "name": &*metrics.name,
        "version": metrics.topology_version.value(),
        "age_seconds": metrics.age(),
        "state": snapshot.map_or("unknown", |snapshot| Condition::label(snapshot.state)),
        "slots_uncovered": metrics.slots_uncovered.value(),
        "foreign_seeds": foreign,
        "shards": snapshot.map(|snapshot| snapshot.shards().iter().map(shard).collect::<Vec<_>>()),
    })
}

/// A shard's slots as `[first, last]`, those that are being moved, and its nodes.
fn shard(facts: &ShardFacts<'_>) -> Value {
    let slots: Vec<[u16; 2]> = facts.slots.iter().map(|(first, last)| [*first, *last]).collect();
    json!({
        "id": &*facts.shard.id,
        "primary": facts.shard.addr.to_string(),
        "epoch": facts.shard.epoch,
        "slots": slots,
        "open_slots": facts.open,
        "health": facts.primary.map(|primary| primary.health.label()),
        "hostname": facts.primary.and_then(|primary| primary.hostname.as_deref()),
        "zone": facts.primary.and_then(|primary| primary.zone.as_deref()),
        "replicas": facts.replicas.iter().map(|replica| member(replica)).collect::<Vec<_>>(),
    })
}

fn member(member: &Member) -> Value {
    json!({
        "id": &*member.id,
        "address": member.addr.to_string(),
        "hostname": member.hostname.as_deref(),
        "zone": member.zone.as_deref(),
        "health": member.health.label(),
    })
}
