//! What becomes of topics when something happens on a connection.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::agenda::Lack;
use super::entry::{Entry, Source};
use super::wire::Event;
use super::{Hub, Op, State, What};
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::route::{Routes, Signal};
use crate::topology::Cause;

/// Who has the slot of a channel that a node has ended is learnt by then.
const LEARNT: Duration = Duration::from_secs(1);

/// What a node says while a script keeps it from everything else.
const BUSY: &[u8] = b"-BUSY ";

/// A node that refuses this connection while it has others is asked again after this time.
const REFUSED: Duration = Duration::from_millis(500);

impl Hub {
    /// Takes note of what happened on a connection.
    pub(super) fn happened(&self, state: &mut State, event: Event, routes: &mut Routes, now: Instant) {
        match event {
            Event::Answered { op, error } => {
                let Some(what) = state.ops.remove(&op) else { return };
                state.unreachable.remove(&what.node);
                state.agenda.is_there(&Lack::Connection(what.node.clone()));
                self.answered(state, op, what, error, routes, now);
            }
            Event::Unanswered { op } => {
                let Some(what) = state.ops.remove(&op) else { return };
                match what.what {
                    What::Leave(..) => return self.left(&what),
                    What::Sign => return signed(state, op, what, false, now),
                    What::Subscribe => {}
                }
                let Some(entry) = state.topics[what.kind as usize].get_mut(&what.name) else { return };
                entry.sources.retain(|source| source.op != op);
                state.agenda.push(entry.topic());
            }
            Event::Dropped { line, name } => {
                let Some(entry) = state.topics[Topics::Shards as usize].get_mut(&name) else { return };
                // One that is not confirmed yet is newer than what has ended.
                let is_it = |source: &Source| source.line == line && source.confirmed;
                let Some(at) = entry.sources.iter().position(is_it) else { return };
                let source = entry.sources.remove(at);
                if source.counted {
                    self.count_out(entry, &source);
                }
                if entry.home.as_ref() == Some(&source.node) {
                    self.turn(entry, false);
                    entry.lost_since.get_or_insert(now);
                }
                entry.dropped = Some((source.node.clone(), now + LEARNT));
                state.agenda.push(entry.topic());
                state.not_used(&source.node, line);
                routes.refresh(Cause::Redirect, Some(&source.node));
            }
            Event::Ended { line, node, opened } => {
                let ended = state.lines.get(&node).is_some_and(|there| there.id == line);
                let used = if ended { state.lines.remove(&node).map_or(0, |line| line.uses) } else { 0 };
                if !opened {
                    // Of a node that takes no connection at all its links know when it may be tried again.
                    let refused = routes.node(&node).is_some_and(|node| node.down_since().is_none());
                    let next = if refused { now + REFUSED } else { now };
                    state.agenda.retry(Lack::Connection(node.clone()), Some(next));
                    if refused {
                        state.avoid(&node);
                    }
                } else if used > 0 || !ended {
                    state.agenda.look_at_all();
                    routes.refresh(Cause::Connection, None);
                }
            }
        }
    }

    fn answered(
        &self,
        state: &mut State,
        op: u64,
        what: Op,
        error: Option<Bytes>,
        routes: &mut Routes,
        now: Instant,
    ) {
        match what.what {
            What::Leave(..) => {
                state.not_used(&what.node, what.line);
                return self.left(&what);
            }
            What::Sign => return signed(state, op, what, true, now),
            What::Subscribe => {}
        }
        let Op { kind, name, node, line, .. } = what;
        let Some(entry) = state.topics[kind as usize].get_mut(&name) else { return };
        let Some(at) = entry.sources.iter().position(|source| source.op == op) else { return };
        let Some(error) = error else {
            entry.sources[at].confirmed = true;
            if entry.trouble.take().is_some() {
                state.agenda.is_there(&Lack::Consent(node));
            }
            return state.agenda.push((kind, name));
        };
        entry.sources.remove(at);
        let tables = routes.version();
        // A script ends: who was subscribed before is not to lose it for that.
        let passes = error.starts_with(BUSY) && !entry.subscribers.is_empty();
        let signal = Signal::parse(&error, &node);
        let stays = passes || signal.is_some();
        match signal {
            Some(Signal::Moved { slot, to }) => _ = routes.moved(slot, &to, &node),
            Some(_) => routes.refresh(Cause::Uncovered, Some(&node)),
            None if passes => {}
            None => self.refuse(entry, &error),
        }
        if stays {
            entry.trouble = Some(error);
        }
        if entry.trouble.is_some() && tables == routes.version() {
            state.agenda.wait(Lack::Consent(node.clone()), (kind, name), now);
        } else {
            state.agenda.push((kind, name));
        }
        state.not_used(&node, line);
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

    /// Takes out of a topic the connections that have ended.
    pub(super) fn lose(&self, state: &State, entry: &mut Entry, now: Instant) {
        let is_gone =
            |source: &mut Source| state.lines.get(&source.node).is_none_or(|line| line.id != source.line);
        let lost: Vec<Source> = entry.sources.extract_if(.., is_gone).collect();
        for source in lost {
            if source.counted {
                self.count_out(entry, &source);
            }
            if entry.needs(&source) {
                entry.lost_since = Some(now);
                self.turn(entry, false);
                (entry.home, entry.handover) = (None, None);
                entry.subscribers.values().for_each(|subscriber| subscriber.missed(false));
            } else if let Some(handover) = &mut entry.handover {
                handover.lost(&source, now);
            }
        }
    }

    /// The cluster does not want it: nobody is subscribed.
    fn refuse(&self, entry: &mut Entry, error: &Bytes) {
        for subscriber in std::mem::take(&mut entry.waiting).into_values() {
            subscriber.settled(entry.kind, &entry.name, Some(error));
        }
        self.turn(entry, false);
        entry.subscribers.values().for_each(|subscriber| subscriber.missed(true));
    }
}

/// A sign of life that a topic's handover may wait for.
fn signed(state: &mut State, op: u64, what: Op, lives: bool, now: Instant) {
    let Some(entry) = state.topics[what.kind as usize].get_mut(&what.name) else { return };
    if let Some(handover) = &mut entry.handover {
        handover.signed(op, lives, now);
    }
    state.agenda.push((what.kind, what.name));
}

impl State {
    /// A node can't be connected to: whoever lacks that connection may find another node.
    pub(super) fn avoid(&mut self, node: &NodeAddr) {
        if self.unreachable.insert(node.clone()) {
            self.agenda.release(&Lack::Connection(node.clone()));
        }
    }

    /// A topic is not subscribed on this connection any more.
    fn not_used(&mut self, node: &NodeAddr, line: u64) {
        if let Some(there) = self.lines.get_mut(node).filter(|there| there.id == line) {
            there.uses = there.uses.saturating_sub(1);
        }
    }
}
