//! Subscribing a topic at a node, and leaving it there.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::agenda::{Lack, Topic};
use super::entry::{Entry, Phase, Source};
use super::wire::{Line, Wire};
use super::{Hub, Op, State, Subscriber, What};
use crate::backend::{Link, PING, Ticket};
use crate::net::NodeAddr;
use crate::protocol::{Topics, write};
use crate::route::Routes;
use crate::topology::Cause;

/// A node is not tried again before.
const SHORTEST: Duration = Duration::from_millis(20);

impl Hub {
    /// Subscribes a topic at a node, or lets it wait until that can be connected to.
    pub(super) fn ask(
        self: &Rc<Self>,
        state: &mut State,
        entry: &mut Entry,
        node: &NodeAddr,
        routes: &mut Routes,
        now: Instant,
    ) {
        let is_there = match state.lines.get(node).map(|line| &line.link) {
            Some(link) if link.takes_commands() => link.is_up(),
            _ => self.connect(state, node, routes, now),
        };
        let Some(line) = state.lines.get_mut(node).filter(|_| is_there) else {
            let lack = Lack::Connection(node.clone());
            if state.lines.get(node).is_some_and(|line| line.link.is_opening()) {
                // It is being tried: what comes of that is an event.
                state.agenda.retry(lack.clone(), None);
            }
            // Of those that wait for a connection one alone is sent on it, so that only that one comes back.
            return state.agenda.wait(lack, entry.topic(), now);
        };
        if entry.kind == Topics::Shards && entry.up && !line.link.is_up() {
            // It is heard where it is until the connection is there.
            let line = line.id;
            ask_for_sign(state, entry.topic(), node, line);
            return state.agenda.wait(Lack::Connection(node.clone()), entry.topic(), now);
        }
        state.last += 1;
        let (op, phase) =
            (state.last, if entry.handover.is_some() { Phase::Arriving } else { Phase::Steady });
        send(line, op, entry.kind.subscribe(), &entry.name, &[]);
        line.uses += 1;
        let source = Source {
            node: node.clone(),
            line: line.id,
            op,
            confirmed: false,
            counted: false,
            phase,
            served: false,
        };
        entry.sources.reserve_exact(1);
        entry.sources.push(source);
        let (kind, name) = (entry.kind, entry.name.clone());
        state.ops.insert(op, Op { kind, name, node: node.clone(), line: line.id, what: What::Subscribe });
    }

    /// Begins to connect to a node. False if that is not to be done now.
    fn connect(
        self: &Rc<Self>,
        state: &mut State,
        node: &NodeAddr,
        routes: &mut Routes,
        now: Instant,
    ) -> bool {
        let lack = Lack::Connection(node.clone());
        if state.agenda.is_early(&lack, now) {
            return false;
        }
        state.last += 1;
        let (hub, line, opened, left) = (self.clone(), state.last, Cell::new(false), Cell::new(0));
        let wire = Rc::new(Wire { hub, node: node.clone(), line, opened, left });
        let down = match routes.node(node).map(|node| node.listen(wire.clone())) {
            Some(Ok(link)) => {
                state.lines.insert(node.clone(), Line { id: line, link, wire, uses: 0 });
                state.agenda.retry(lack, None);
                return true;
            }
            Some(Err(down)) => Some(down),
            None => None,
        };
        let until = down.map_or(now, |down| down.until).max(now + SHORTEST);
        state.agenda.retry(lack, Some(until));
        if down.is_none_or(|down| down.since.is_some()) {
            // Another node may take its place at any time.
            routes.refresh(Cause::Connection, None);
            state.avoid(node);
        }
        false
    }

    /// Ends a topic's subscriptions on those connections.
    pub(super) fn leave_those(
        &self,
        state: &mut State,
        entry: &mut Entry,
        is_left: impl Fn(&Source) -> bool,
    ) {
        let sources: Vec<Source> = entry.sources.extract_if(.., |source| is_left(source)).collect();
        for source in sources {
            self.leave(state, entry, &source, None);
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
    pub(super) fn leave(
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
        // A node that loses the slot says the same unasked, and answers with an error then: the PING shows the end.
        let end = if entry.kind == Topics::Shards { PING } else { &[] };
        send(line, state.last, entry.kind.unsubscribe(), &entry.name, end);
        let what = What::Leave(subscriber.cloned(), source.counted);
        let (kind, name, node) = (entry.kind, entry.name.clone(), source.node.clone());
        state.ops.insert(state.last, Op { kind, name, node, line: source.line, what });
        true
    }

    /// A connection is not subscribed any more.
    pub(super) fn count_out(&self, entry: &Entry, source: &Source) {
        self.receivers.counts().connections(entry.kind, &entry.name, &source.node, -1);
    }

    /// The open connections to nodes that are no primaries any more, and that nothing is subscribed on.
    pub(super) fn take_unused(&self, state: &mut State, routes: &Routes) -> Vec<Rc<Link>> {
        let is_unused = |node: &NodeAddr, line: &mut Line| {
            line.uses == 0 && line.link.is_up() && !routes.is_primary(node)
        };
        let unused = state.lines.extract_if(is_unused);
        unused.map(|(_, line)| line.link).collect()
    }
}

/// Sends one command about one topic, so that its answer is one, and what shows its end if that is not the answer.
fn send(line: &Line, op: u64, command: &str, name: &[u8], end: &[u8]) {
    let mut request = Vec::new();
    write::request(&mut request, [command.as_bytes(), name].into_iter());
    request.extend_from_slice(end);
    line.link.push(line.wire.clone(), Ticket { seq: op, part: 0 }, &request);
}

/// Asks the node of a connection to show that it lives; the command's number, if it can be asked.
pub(super) fn ask_for_sign(
    state: &mut State,
    (kind, name): Topic,
    node: &NodeAddr,
    line: u64,
) -> Option<u64> {
    let there = state.lines.get(node).filter(|there| there.id == line && there.link.takes_commands())?;
    state.last += 1;
    there.link.push(there.wire.clone(), Ticket { seq: state.last, part: 0 }, PING);
    state.ops.insert(state.last, Op { kind, name, node: node.clone(), line, what: What::Sign });
    Some(state.last)
}
