//! What becomes of topics when something happens on a connection.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use super::entry::Entry;
use super::wire::Event;
use super::{Hub, Op, State, What};
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::route::{Routes, Signal};
use crate::topology::Cause;

impl Hub {
    /// Takes note of what happened on a connection.
    pub(super) fn happened(&self, state: &mut State, event: Event, routes: &mut Routes, now: Instant) {
        match event {
            Event::Answered { op, error } => {
                if let Some(what) = state.ops.remove(&op) {
                    self.answered(state, op, what, error, routes);
                }
            }
            Event::Unanswered { op } => {
                let Some(what) = state.ops.remove(&op) else { return };
                if let What::Leave(..) = what.what {
                    return self.left(&what);
                }
                let Some(entry) = state.topics[what.kind as usize].get_mut(&what.name) else { return };
                let before = entry.sources.len();
                entry.sources.retain(|source| source.op != op);
                if entry.sources.len() < before {
                    entry.note_unreachable(&what.node);
                    state.busy.insert((what.kind, what.name));
                }
            }
            Event::Dropped { line, name } => {
                let Some(entry) = state.topics[Topics::Shards as usize].get_mut(&name) else { return };
                let Some(at) = entry.sources.iter().position(|source| source.line == line) else { return };
                let source = entry.sources.remove(at);
                if source.counted {
                    self.count_out(entry, &source);
                }
                if entry.home.as_ref() == Some(&source.node) {
                    self.turn(entry, false);
                }
                routes.refresh(Cause::Redirect, Some(&source.node));
                state.busy.insert((Topics::Shards, name));
            }
            Event::Ended { line, node } => self.ended(state, line, &node, routes, now),
        }
    }

    fn answered(&self, state: &mut State, op: u64, what: Op, error: Option<Bytes>, routes: &mut Routes) {
        if let What::Leave(..) = what.what {
            return self.left(&what);
        }
        let Op { kind, name, node, .. } = what;
        let Some(entry) = state.topics[kind as usize].get_mut(&name) else { return };
        let Some(at) = entry.sources.iter().position(|source| source.op == op) else { return };
        state.busy.insert((kind, name));
        let Some(error) = error else {
            entry.sources[at].confirmed = true;
            entry.unreachable.retain(|unreachable| *unreachable != node);
            return;
        };
        entry.sources.remove(at);
        match Signal::parse(&error, &node) {
            Some(Signal::Moved { slot, to }) => {
                routes.moved(slot, &to, &node);
            }
            Some(_) => routes.refresh(Cause::Uncovered, Some(&node)),
            None => return self.refuse(entry, &error),
        }
        entry.trouble = Some(error);
    }

    /// A node has ended a subscription that was to be ended.
    fn left(&self, op: &Op) {
        let What::Leave(subscriber, counted) = &op.what else { return };
        if *counted {
            self.receivers.counts().connections(op.kind, &op.name, &op.node, -1);
        }
        if let Some(subscriber) = subscriber {
            subscriber.settled(op.kind, &op.name, None);
        }
    }

    fn ended(&self, state: &mut State, line: u64, node: &NodeAddr, routes: &Routes, now: Instant) {
        if state.lines.get(node).is_some_and(|there| there.id == line) {
            state.lines.remove(node);
        }
        let State { topics, busy, .. } = state;
        let mut lost = false;
        for entry in topics.iter_mut().flat_map(HashMap::values_mut) {
            let Some(at) = entry.sources.iter().position(|source| source.line == line) else { continue };
            let source = entry.sources.remove(at);
            lost = true;
            busy.insert((entry.kind, entry.name.clone()));
            if source.counted {
                self.count_out(entry, &source);
            }
            if entry.needs(&source) {
                entry.lost_since = Some(now);
                self.turn(entry, false);
                (entry.home, entry.handover) = (None, None);
                entry.subscribers.values().for_each(|subscriber| subscriber.missed(false));
            } else if let Some(handover) = &mut entry.handover {
                handover.lost(&source.node, now);
            }
        }
        if lost {
            routes.refresh(Cause::Connection, None);
        }
    }

    /// The cluster does not want it: nobody is subscribed.
    fn refuse(&self, entry: &mut Entry, error: &[u8]) {
        for waiting in std::mem::take(&mut entry.waiting) {
            waiting.subscriber.settled(entry.kind, &entry.name, Some(error));
        }
        self.turn(entry, false);
        entry.subscribers.values().for_each(|subscriber| subscriber.missed(true));
    }
}
