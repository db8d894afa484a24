//! Subscribing a topic at a node, and leaving it there.

use std::collections::HashMap;
use std::rc::Rc;

use super::entry::{Entry, Phase, Source};
use super::wire::{Line, Wire};
use super::{Hub, Op, State, Subscriber, What};
use crate::backend::{Link, Ticket};
use crate::net::NodeAddr;
use crate::protocol::write;
use crate::route::Routes;
use crate::topology::Cause;

impl Hub {
    /// Subscribes a topic at a node, if that may be connected to.
    pub(super) fn ask(
        self: &Rc<Self>,
        state: &mut State,
        entry: &mut Entry,
        node: &NodeAddr,
        routes: &mut Routes,
    ) {
        if !state.lines.get(node).is_some_and(|line| line.link.takes_commands()) {
            state.last += 1;
            let wire = Rc::new(Wire { hub: self.clone(), node: node.clone(), line: state.last });
            match routes.node(node).map(|node| node.listen(wire.clone())) {
                Some(Ok(link)) => {
                    state.lines.insert(node.clone(), Line { id: state.last, link, wire });
                }
                Some(Err(down)) if down.since.is_none() => return,
                _ => {
                    // Another node may take its place at any time.
                    routes.refresh(Cause::Connection, None);
                    return entry.note_unreachable(node);
                }
            }
        }
        let Some(line) = state.lines.get(node) else { return };
        state.last += 1;
        let (op, phase) =
            (state.last, if entry.handover.is_some() { Phase::Arriving } else { Phase::Steady });
        send(line, op, entry.kind.subscribe(), &entry.name);
        let source =
            Source { node: node.clone(), line: line.id, op, confirmed: false, counted: false, phase };
        entry.sources.push(source);
        let (kind, name) = (entry.kind, entry.name.clone());
        state.ops.insert(op, Op { kind, name, node: node.clone(), what: What::Subscribe });
    }

    pub(super) fn leave_others(&self, state: &mut State, entry: &mut Entry, wanted: &[NodeAddr]) {
        let mut at = 0;
        while let Some(source) = entry.sources.get(at) {
            if wanted.contains(&source.node) {
                at += 1;
            } else {
                let source = entry.sources.remove(at);
                self.leave(state, entry, &source, None);
            }
        }
    }

    /// Ends all of a topic's subscriptions; how many nodes were asked to.
    pub(super) fn leave_all(
        &self,
        state: &mut State,
        entry: &mut Entry,
        subscriber: Option<&Rc<dyn Subscriber>>,
    ) -> usize {
        let sources = std::mem::take(&mut entry.sources);
        sources.iter().filter(|source| self.leave(state, entry, source, subscriber)).count()
    }

    /// Ends a topic's subscription at one node; false if the connection has ended.
    fn leave(
        &self,
        state: &mut State,
        entry: &Entry,
        source: &Source,
        subscriber: Option<&Rc<dyn Subscriber>>,
    ) -> bool {
        let line = state.lines.get(&source.node).filter(|line| line.id == source.line);
        let Some(line) = line.filter(|line| line.link.takes_commands()) else {
            if source.counted {
                self.count_out(entry, source);
            }
            return false;
        };
        state.last += 1;
        send(line, state.last, entry.kind.unsubscribe(), &entry.name);
        let what = What::Leave(subscriber.cloned(), source.counted);
        let (kind, name, node) = (entry.kind, entry.name.clone(), source.node.clone());
        state.ops.insert(state.last, Op { kind, name, node, what });
        true
    }

    /// A connection is not subscribed any more.
    pub(super) fn count_out(&self, entry: &Entry, source: &Source) {
        self.receivers.counts().connections(entry.kind, &entry.name, &source.node, -1);
    }

    /// The connections to nodes that are no primaries any more, and that nothing is subscribed on.
    pub(super) fn take_unused(&self, state: &mut State, routes: &Routes) -> Vec<Rc<Link>> {
        let State { lines, topics, ops, .. } = state;
        let uses = |line: u64, node: &NodeAddr| {
            let entries = topics.iter().flat_map(HashMap::values);
            entries.flat_map(|entry| &entry.sources).any(|source| source.line == line)
                || ops.values().any(|op| op.node == *node)
        };
        let unused = lines.extract_if(|node, line| !routes.is_primary(node) && !uses(line.id, node));
        unused.map(|(_, line)| line.link).collect()
    }
}

/// Sends one command about one topic, so that its answer is one.
fn send(line: &Line, op: u64, command: &str, name: &[u8]) {
    let mut request = Vec::new();
    write::request(&mut request, [command.as_bytes(), name].into_iter());
    line.link.push(line.wire.clone(), Ticket { seq: op, part: 0 }, &request);
}
