//! When a node is asked for its commands, and what is learned from its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;
use super::view::View;
use crate::command::{Catalog, Learned};
use crate::net::NodeAddr;

/// The commands are asked for again after this long, though nobody came or went: a module may have been loaded, or
/// nodes restarted with another version.
const AGAIN: Duration = Duration::from_secs(300);

/// What the nodes told of their commands.
#[derive(Debug, Default)]
pub(super) struct Commands {
    catalog: Catalog,
    /// Of which nodes and primaries the commands were asked for, and when.
    of: Option<(Vec<Arc<str>>, Instant)>,
    /// Answers, which count only if their node is of the cluster.
    heard: Vec<(NodeAddr, Vec<u8>)>,
    /// Whether any answer has counted.
    has_learned: bool,
    /// Whether it was logged that there are too many.
    warned: bool,
}

impl Commands {
    /// Whether the next query is to ask for them.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.heard.is_empty() && self.of.as_ref().is_none_or(|(_, asked)| now.duration_since(*asked) > AGAIN)
    }

    /// Whether nothing has been learned yet: then all that are asked are asked for them, since some may be dead.
    pub(super) fn is_first(&self) -> bool {
        !self.has_learned
    }

    /// Takes a whole reply to COMMAND.
    pub(super) fn heard(&mut self, from: NodeAddr, reply: Vec<u8>) {
        self.heard.push((from, reply));
    }

    /// Learns from what was heard, if a node told it whose view counts. `None` if there is nothing new.
    pub(super) fn learn(&mut self, counted: &[&View], snapshot: &Snapshot) -> Option<Learned> {
        let nodes = nodes(snapshot);
        if self.of.as_ref().is_some_and(|(asked, _)| *asked != nodes) {
            self.of = None;
        }
        let counts = |from: &NodeAddr| counted.iter().any(|view| view.from == *from);
        let (from, reply) = std::mem::take(&mut self.heard).into_iter().find(|(from, _)| counts(from))?;
        self.has_learned = true;
        self.of = Some((nodes, Instant::now()));
        let learned = self.catalog.learn(&reply);
        if learned.is_none() {
            let reply = String::from_utf8_lossy(&reply[..reply.len().min(200)]);
            tracing::info!(node = %from, %reply, "a node does not tell its commands");
        }
        if self.catalog.is_full() && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(node = %from, "the nodes have more commands than are learned; others stay unknown");
        }
        learned
    }
}

/// All nodes of the cluster, then all primaries: a change of either may bring other commands.
fn nodes(snapshot: &Snapshot) -> Vec<Arc<str>> {
    let primaries = snapshot.table.shards.iter().map(|shard| &shard.id);
    snapshot.members.keys().chain(primaries).cloned().collect()
}
