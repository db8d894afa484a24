//! Seeds that are no part of the cluster: of another one, or removed from this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::membership::Selection;
use super::view::View;
use crate::net::NodeAddr;

/// A seed that is no part of the cluster for less than this may be about to join it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The seeds that were found to be outside.
#[derive(Debug, Default)]
pub(super) struct Outsiders {
    seeds: HashMap<NodeAddr, Outsider>,
}

#[derive(Debug)]
struct Outsider {
    /// The id of the node that answered.
    id: Option<Arc<str>>,
    since: Instant,
    warned: bool,
}

impl Outsiders {
    /// Takes over what a refresh found of `seeds`, and says so of those that stay outside, once of each.
    pub(super) fn update(&mut self, selection: &Selection<'_>, seeds: &[NodeAddr], now: Instant) {
        for view in &selection.counted {
            self.seeds.remove(&view.from);
        }
        for view in selection.outsiders.iter().filter(|view| seeds.contains(&view.from)) {
            let id = view.myself().map(|node| node.id.clone());
            let new = || Outsider { id: id.clone(), since: now, warned: false };
            let seed = self.seeds.entry(view.from.clone()).or_insert_with(new);
            if seed.id != id {
                *seed = new();
            }
            let is_late = now.duration_since(seed.since) >= PATIENCE;
            if is_late && !std::mem::replace(&mut seed.warned, true) {
                tracing::warn!(
                    seed = %view.from,
                    "a seed is a node of another cluster, or was removed from this one: what it says is left out; \
                     take it out of the seeds"
                );
            }
        }
    }

    /// Whether the node that gave this view is known to be outside.
    pub(super) fn has(&self, view: &View) -> bool {
        self.seeds.get(&view.from).is_some_and(|seed| seed.id == view.myself().map(|node| node.id.clone()))
    }

    /// Whether this seed is known to be outside.
    pub(super) fn has_seed(&self, seed: &NodeAddr) -> bool {
        self.seeds.contains_key(seed)
    }

    /// The seeds of which it is not certain yet; one that does not answer any more is waited for no longer.
    pub(super) fn doubtful(&self) -> impl Iterator<Item = &NodeAddr> {
        let is_doubtful = |seed: &Outsider| !seed.warned && seed.since.elapsed() < 4 * PATIENCE;
        self.seeds.iter().filter(move |(_, seed)| is_doubtful(seed)).map(|(addr, _)| addr)
    }

    /// When to look again, if any is doubtful.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.doubtful().next().map(|_| PATIENCE)
    }

    /// All of them, sorted.
    pub(super) fn list(&self) -> Vec<NodeAddr> {
        let mut seeds: Vec<NodeAddr> = self.seeds.keys().cloned().collect();
        seeds.sort_unstable();
        seeds
    }
}
