//! Which nodes have a say: those of this cluster, and of them those that find it well.

use std::collections::HashSet;

use super::snapshot::{NO_SHARD, Snapshot};
use super::view::View;
use crate::net::NodeAddr;

/// What was made of the views of one refresh.
#[derive(Debug, Default)]
pub struct Selection<'a> {
    /// The views that count.
    pub counted: Vec<&'a View>,
    /// The views of nodes that are no part of the cluster: of another one, or removed.
    pub outsiders: Vec<&'a View>,
    /// The cluster was made anew: nothing that was known holds any more.
    pub anew: bool,
}

/// Chooses the views that count, where `before` is what was known.
///
/// - A view is of this cluster if it names an owner of slots beside the node itself: a node that lost its memory
///   knows only itself.
/// - Its node must be named by another one that was asked, or be known if there is no other: a removed node that
///   comes back with its old `nodes.conf` names the members, but none of them names it.
/// - Nodes that say `cluster_state:fail` do not count while any other says that the cluster is well.
/// - Without anything known, and when no node of the cluster answers any more but seeds that `is_foreign` does
///   not know tell of another one, the cluster of the first seed that answers, in their order, counts.
pub fn select<'a>(
    before: Option<&Snapshot>,
    views: &'a [View],
    seeds: &[NodeAddr],
    is_foreign: impl Fn(&View) -> bool,
) -> Selection<'a> {
    let mut selection = match before {
        Some(before) => {
            let (ours, others): (Vec<_>, Vec<_>) = views.iter().partition(is_ours(before));
            if ours.is_empty() {
                let from_seed = |view: &&View| seeds.contains(&view.from) && !is_foreign(view);
                let first = first_cluster(others.into_iter().filter(from_seed).collect(), seeds);
                Selection { anew: !first.counted.is_empty(), ..first }
            } else {
                vouched(Some(before), ours, others)
            }
        }
        None => first_cluster(views.iter().collect(), seeds),
    };
    if selection.counted.iter().any(|view| !view.info.is_down) {
        selection.counted.retain(|view| !view.info.is_down);
    }
    selection
}

/// Whether a view is of the cluster that is known.
fn is_ours(before: &Snapshot) -> impl Fn(&&View) -> bool {
    let table = &before.table;
    let owning: HashSet<u16> = table.owners.iter().copied().filter(|owner| *owner != NO_SHARD).collect();
    let mut ids: HashSet<&str> = owning.iter().map(|owner| &*table.shards[usize::from(*owner)].id).collect();
    if ids.is_empty() {
        ids.extend(before.members.keys().map(|id| &**id));
    }
    move |view| view.nodes.iter().any(|node| ids.contains(&*node.id) && (!node.myself || ids.len() == 1))
}

/// The views of the cluster of the first seed that knows of slots.
fn first_cluster<'a>(mut views: Vec<&'a View>, seeds: &[NodeAddr]) -> Selection<'a> {
    views.sort_by_key(|view| seeds.iter().position(|seed| *seed == view.from).unwrap_or(usize::MAX));
    let Some(first) = views.iter().find(|view| view.has_slots()) else { return Selection::default() };
    let mut ids: HashSet<&str> = first.nodes.iter().map(|node| &*node.id).collect();
    let mut ours = Vec::new();
    loop {
        let is_ours = |view: &&View| view.nodes.iter().any(|node| ids.contains(&*node.id));
        let (more, others): (Vec<_>, Vec<_>) = views.into_iter().partition(is_ours);
        if more.is_empty() {
            return vouched(None, ours, others);
        }
        ids.extend(more.iter().flat_map(|view| &view.nodes).map(|node| &*node.id));
        ours.extend(more);
        views = others;
    }
}

/// Takes those away from `ours` whose nodes nobody else names.
fn vouched<'a>(before: Option<&Snapshot>, ours: Vec<&'a View>, others: Vec<&'a View>) -> Selection<'a> {
    let is_known = |id: &str| before.is_none_or(|before| before.members.contains_key(id));
    let named: Vec<(Option<&str>, HashSet<&str>)> = ours
        .iter()
        .map(|view| {
            let names = view.nodes.iter().filter(|node| !node.myself).map(|node| &*node.id).collect();
            (view.myself().map(|node| &*node.id), names)
        })
        .collect();
    let counts = |view: &&View| {
        let Some(id) = view.myself().map(|node| &*node.id) else { return true };
        let mut voices = named
            .iter()
            .filter(|(voice, _)| voice.is_some_and(|voice| voice != id && is_known(voice)))
            .peekable();
        match voices.peek() {
            None => is_known(id),
            Some(_) => voices.any(|(_, names)| names.contains(id)),
        }
    };
    let (counted, mut outsiders): (Vec<_>, Vec<_>) = ours.into_iter().partition(counts);
    // A node that knows nobody and nothing is of no cluster, not of another one.
    outsiders.extend(others.into_iter().filter(|view| view.has_slots() || view.nodes.len() > 1));
    Selection { counted, outsiders, anew: false }
}
