//! What the hub does in its own turns: subscribes each topic where it belongs, lets it go over when that changes, and
//! tells those who wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::agenda::Lack;
use super::entry::{Entry, Phase, Source};
use super::handover::{Handover, Side};
use super::sources::ask_for_sign;
use super::wire::Event;
use super::{Hub, State, is_much_too_large};
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::route::Routes;
use crate::topology::Cause;

/// So many events and topics are looked at before others run.
const TURN: usize = 1000;

impl Hub {
    /// One turn. Returns when the next one is due, if anything is left to do by then: at once if that is not later
    /// than now.
    pub fn tend(self: &Rc<Self>, routes: &mut Routes) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let mut steps = 0;
        while steps < TURN
            && let Some(event) = self.next_event()
        {
            self.happened(&mut state, event, routes, now);
            steps += 1;
        }
        let State { agenda, topics, version, unreachable, .. } = &mut *state;
        if std::mem::replace(version, routes.version()) != routes.version() {
            agenda.look_at_all();
            unreachable.retain(|node| routes.known(node).is_some());
        }
        agenda.begin(now, TURN, || topics.iter().flat_map(HashMap::values).map(Entry::topic).collect());
        while steps < TURN
            && let Some((kind, name)) = state.agenda.next()
        {
            self.look_at(&mut state, kind, &name, routes, now);
            steps += 1;
        }
        let next = if self.events.borrow().is_empty() { state.agenda.due(now) } else { Some(now) };
        let unused = self.take_unused(&mut state, routes);
        if next.is_none_or(|next| next > now) {
            state.shrink();
            let events = &mut *self.events.borrow_mut();
            if is_much_too_large(events.capacity(), events.len()) {
                events.shrink_to(2 * events.len());
            }
        }
        drop(state);
        unused.iter().for_each(|link| link.retire());
        next
    }

    fn next_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    fn look_at(
        self: &Rc<Self>,
        state: &mut State,
        kind: Topics,
        name: &Bytes,
        routes: &mut Routes,
        now: Instant,
    ) {
        let Some(mut entry) = state.topics[kind as usize].remove(name) else { return };
        self.lose(state, &mut entry, now);
        give_up_lost(&entry, now);
        let held =
            if entry.is_abandoned() { VecDeque::new() } else { self.settle(state, &mut entry, routes, now) };
        if entry.is_abandoned() {
            state.agenda.forget(&entry.topic());
            self.leave_all(state, &mut entry, None);
            return;
        }
        if let Some(next) = entry.next(now)
            && entry.alarm.is_none_or(|alarm| alarm <= now || next < alarm)
        {
            entry.alarm = Some(next);
            state.agenda.at(next, entry.topic());
        }
        state.topics[kind as usize].insert(name.clone(), entry);
        let State { topics, batch, .. } = &mut *state;
        held.iter().for_each(|frame| self.gather(topics, batch, kind, name, frame));
        self.hand_out(topics, batch);
    }

    /// Brings a topic nearer to where it is to be. What was held and is to be delivered now.
    fn settle(
        self: &Rc<Self>,
        state: &mut State,
        entry: &mut Entry,
        routes: &mut Routes,
        now: Instant,
    ) -> VecDeque<Bytes> {
        let Some(home) = home_of(entry, routes, &state.unreachable, now) else {
            routes.refresh(Cause::Uncovered, None);
            state.agenda.wait(Lack::Owner, entry.topic(), now);
            return VecDeque::new();
        };
        if entry.dropped.as_ref().is_some_and(|(node, until)| *node == home && now < *until) {
            return VecDeque::new();
        }
        let mut wanted = vec![home.clone()];
        if entry.spread {
            entry.sources.iter_mut().for_each(|source| source.served |= routes.is_serving(&source.node));
            // One that has lost its slots may be a replica already, which tells what its primary does.
            let is_emptied =
                |node| entry.source_at(node).is_some_and(|s| s.served) && !routes.is_serving(node);
            wanted.extend(routes.primaries().filter(|node| **node != home && !is_emptied(node)).cloned());
        }
        let lacks = |node| entry.source_at(node).is_none() && !state.unreachable.contains(node);
        let comes = entry.spread && wanted.iter().any(lacks);
        for source in begin_handover(entry, &home, &wanted, comes, now) {
            self.leave(state, entry, &source, None);
        }
        let is_shard = entry.kind == Topics::Shards;
        let moves = entry.handover.is_some();
        let may_ask = match &entry.handover {
            Some(handover) => handover.may_ask(now),
            None => !is_shard || entry.may_leave(&home, now),
        };
        for node in &wanted {
            if entry.source_at(node).is_none() && may_ask {
                self.ask(state, entry, node, routes, now);
            }
        }
        // Of a shard's nodes one after the other is heard: what both tell would come twice.
        let replaces = is_shard && entry.source_at(&home).is_some();
        if replaces {
            entry.home = Some(home.clone());
        }
        if let Some(handover) = &mut entry.handover {
            handover.hung |= handover.from.as_ref().is_some_and(|from| routes.hangs(from));
            handover.asked = entry.sources.iter().any(|source| source.phase == Phase::Arriving);
            handover.trim(now);
        }
        let is_there = |node| entry.is_at(node) || state.unreachable.contains(node);
        let there = entry.is_at(&home) && wanted.iter().all(is_there);
        let held = self.go_over(state, entry, there.then_some(&home), routes, now);
        if entry.handover.is_none() {
            entry.sources.iter_mut().for_each(|source| source.phase = Phase::Steady);
        }
        let stays = entry.handover.as_ref().is_some_and(|handover| !handover.is_cut());
        if !stays && (!entry.up || replaces || entry.is_at(&home)) {
            let is_left = |source: &Source| match source.phase {
                // What else is not wanted any more goes over after this.
                phase if moves => phase == Phase::Leaving,
                _ => !wanted.contains(&source.node),
            };
            self.leave_those(state, entry, is_left);
        }
        let is_heard = !is_shard || entry.sources.iter().any(|source| source.confirmed);
        let up = there || entry.up && is_heard;
        if entry.up && !up {
            entry.lost_since = Some(now);
        }
        self.turn(entry, up);
        if up {
            (entry.lost_since, entry.trouble) = (None, None);
            self.admit(entry);
        }
        held
    }

    /// Goes on with a handover, if there is one. What was held and is to be delivered now.
    fn go_over(
        &self,
        state: &mut State,
        entry: &mut Entry,
        arrived: Option<&NodeAddr>,
        routes: &Routes,
        now: Instant,
    ) -> VecDeque<Bytes> {
        let mut held = VecDeque::new();
        let Some(mut handover) = entry.handover.take() else { return held };
        let arrives = arrived == Some(&handover.to) && !handover.is_safe() && !handover.is_early(now);
        if entry.spread && (arrives || handover.is_over(now)) {
            // Who was seen as a primary a moment ago may be a replica, which tells what its primary does.
            routes.refresh(Cause::Redirect, None);
        }
        if arrives {
            handover.confirmed(now);
        }
        if let Some(side) = handover.lacks_sign(now) {
            let is_asked = |source: &Source| match side {
                Side::Old => handover.from.as_ref() == Some(&source.node),
                Side::New => source.phase == Phase::Arriving || handover.to == source.node,
            };
            let asked = entry.sources.iter().filter(|source| is_asked(source));
            let ask = |source: &Source| ask_for_sign(state, entry.topic(), &source.node, source.line);
            handover.asked(asked.filter_map(ask).collect());
        }
        if handover.is_due(now) {
            if handover.may_miss() {
                entry.subscribers.values().for_each(|subscriber| subscriber.missed(false));
            }
            held = handover.cut(now);
            entry.home = Some(handover.to.clone());
        }
        if handover.is_over(now) {
            // It may be wanted elsewhere by now.
            state.agenda.push(entry.topic());
        } else {
            entry.handover = Some(handover);
        }
        held
    }

    /// Those who wait are subscribed now.
    fn admit(&self, entry: &mut Entry) {
        let clients = entry.waiting.len() as i64;
        if clients > 0 {
            self.receivers.counts().clients(entry.kind, &entry.name, clients);
        }
        for (id, subscriber) in std::mem::take(&mut entry.waiting) {
            entry.subscribers.insert(id, subscriber.clone());
            subscriber.settled(entry.kind, &entry.name, None);
        }
    }
}

impl State {
    /// Gives back memory after many have left.
    fn shrink(&mut self) {
        for topics in &mut self.topics {
            if is_much_too_large(topics.capacity(), topics.len()) {
                topics.shrink_to(2 * topics.len());
            }
        }
        self.agenda.shrink();
        if is_much_too_large(self.ops.capacity(), self.ops.len()) {
            self.ops.shrink_to(2 * self.ops.len());
        }
    }
}

/// Where a topic's messages are to come from.
fn home_of(
    entry: &Entry,
    routes: &Routes,
    unreachable: &HashSet<NodeAddr>,
    now: Instant,
) -> Option<NodeAddr> {
    if let Some(handover) = entry.handover.as_ref().filter(|handover| handover.is_decided(now)) {
        return Some(handover.to.clone());
    }
    let owner = routes.owner(entry.slot).map(|node| node.addr());
    if entry.kind != Topics::Patterns {
        return owner.cloned();
    }
    // Any primary has all plain messages: one that is there stays, while it is sure to be one.
    let mut good = entry
        .home
        .iter()
        .chain(owner)
        .chain(routes.primaries())
        .filter(|node| routes.is_serving(node) && !unreachable.contains(node));
    good.next().or(owner).cloned()
}

/// Notes where the topic is to be; if it is subscribed and that is another place, or one more, it goes over. Which
/// connections are to be left at once.
fn begin_handover(
    entry: &mut Entry,
    home: &NodeAddr,
    wanted: &[NodeAddr],
    comes: bool,
    now: Instant,
) -> Vec<Source> {
    if !entry.up {
        entry.home = Some(home.clone());
        return Vec::new();
    }
    if entry.kind == Topics::Shards {
        return Vec::new();
    }
    // One move after the other.
    if entry.handover.as_ref().is_some_and(|handover| handover.is_decided(now)) {
        return Vec::new();
    }
    let mut leaves = false;
    for source in &mut entry.sources {
        match (source.phase, wanted.contains(&source.node)) {
            // All that it told was delivered till now.
            (Phase::Leaving, true) => source.phase = Phase::Steady,
            (Phase::Steady, false) => (source.phase, leaves) = (Phase::Leaving, true),
            _ => {}
        }
    }
    // Nothing that these told was: the old ones go on telling all of it.
    let is_idle = |source: &mut Source| source.phase == Phase::Arriving && !wanted.contains(&source.node);
    let idle: Vec<Source> = entry.sources.extract_if(.., is_idle).collect();
    let moves = entry.home.as_ref() != Some(home);
    match &mut entry.handover {
        Some(handover) => {
            idle.iter().for_each(|source| handover.drop_held(source.line));
            if handover.to != *home {
                let to = entry.sources.iter().find(|source| source.node == handover.to);
                to.into_iter().for_each(|source| handover.drop_held(source.line));
                handover.turn(entry.home.clone(), home.clone(), now);
            } else if leaves || comes && handover.is_safe() {
                handover.begin_anew(now);
            }
        }
        // One more may take over from another that is still seen as a primary.
        None if moves || leaves || comes => {
            entry.handover = Some(Box::new(Handover::new(entry.home.clone(), home.clone(), now)));
        }
        None => {}
    }
    idle
}

/// Tells those who have waited for too long for what was lost to come back.
fn give_up_lost(entry: &Entry, now: Instant) {
    if let Some(since) = entry.lost_since {
        let late = entry.subscribers.values().filter(|subscriber| now >= since + subscriber.patience());
        late.for_each(|subscriber| subscriber.missed(true));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::handover::PRELUDE;
    use super::*;

    const EVENT: &[u8] = b"__keyspace@0__:k";

    fn node(name: &str) -> NodeAddr {
        NodeAddr::new(name, 1)
    }

    fn source(name: &str, line: u64, phase: Phase) -> Source {
        Source { node: node(name), line, op: line, confirmed: true, counted: true, phase, served: true }
    }

    /// A pattern of events, at its home `c` and at `a`, which fails over to `b`, which is subscribed there already.
    fn going_over(now: Instant) -> Entry {
        let mut entry = Entry::new(Topics::Patterns, Bytes::from("__key*"));
        (entry.up, entry.home) = (true, Some(node("c")));
        entry.sources = vec![source("a", 1, Phase::Steady), source("c", 2, Phase::Steady)];
        begin_handover(&mut entry, &node("c"), &[node("c"), node("b")], true, now);
        assert_eq!(entry.sources[0].phase, Phase::Leaving);
        entry.sources.push(source("b", 3, Phase::Arriving));
        entry
    }

    /// The nodes that a topic goes on with, by the first letters of their names.
    fn want(entry: &mut Entry, names: &str, now: Instant) -> Vec<NodeAddr> {
        let wanted: Vec<NodeAddr> = names.chars().map(|name| node(&name.to_string())).collect();
        let comes = wanted.iter().any(|node| entry.source_at(node).is_none());
        let left = begin_handover(entry, &node("c"), &wanted, comes, now);
        left.into_iter().map(|source| source.node).collect()
    }

    #[test]
    fn a_node_that_is_wanted_again_before_it_was_left_has_its_say_and_its_loss_is_one() {
        for confirmed in [false, true] {
            let now = Instant::now();
            let mut entry = going_over(now);
            if confirmed {
                entry.handover.as_mut().unwrap().confirmed(now);
                assert!(!entry.needs(&entry.sources[0]));
            }
            assert!(entry.accepts(1, EVENT, b"1") && !entry.accepts(3, EVENT, b"1"));
            assert!(!entry.accepts(3, EVENT, b"2"));
            // What the other one told is told by it too.
            assert_eq!(want(&mut entry, "ca", now), [node("b")]);
            assert!(entry.needs(&entry.sources[0]));
            assert!(entry.accepts(1, EVENT, b"2") && !entry.accepts(3, EVENT, b"2"));
            assert_eq!(entry.handover.as_mut().unwrap().cut(now), Vec::<Bytes>::new());
            assert!(entry.accepts(1, EVENT, b"3"));
        }
    }

    #[test]
    fn one_node_after_the_other_goes_over() {
        let now = Instant::now();
        let mut entry = going_over(now);
        entry.sources.push(source("d", 4, Phase::Steady));
        want(&mut entry, "cbd", now);
        entry.handover.as_mut().unwrap().confirmed(now);
        // Before the first one is left, it waits for the second.
        want(&mut entry, "cbe", now);
        assert!(!entry.handover.as_ref().unwrap().is_safe() && entry.sources[3].phase == Phase::Leaving);
        want(&mut entry, "cbd", now);
        entry.handover.as_mut().unwrap().confirmed(now);
        entry.handover.as_mut().unwrap().cut(now);
        // After that, the second one goes on till the first has gone over.
        assert_eq!(want(&mut entry, "cae", now), []);
        assert!(entry.sources[3].phase == Phase::Steady && entry.accepts(4, EVENT, b"event"));
        assert!(!entry.handover.as_ref().unwrap().may_ask(now) && entry.accepts(3, EVENT, b"other"));
    }

    #[test]
    fn what_a_replica_and_its_primary_tell_comes_once_while_both_are_seen_as_primaries() {
        let now = Instant::now();
        let mut entry = Entry::new(Topics::Patterns, Bytes::from("__key*"));
        (entry.up, entry.home) = (true, Some(node("c")));
        entry.sources = vec![source("a", 1, Phase::Steady), source("c", 2, Phase::Steady)];
        want(&mut entry, "cab", now);
        entry.sources.push(source("b", 3, Phase::Arriving));
        assert!(entry.accepts(1, EVENT, b"1") && !entry.accepts(3, EVENT, b"1"));
        want(&mut entry, "cb", now);
        assert!(!entry.accepts(3, EVENT, b"2") && entry.accepts(1, EVENT, b"2"));
        assert!(!entry.accepts(3, EVENT, b"3"));
        assert_eq!(entry.handover.as_mut().unwrap().cut(now), ["3"]);
    }

    #[test]
    fn what_one_that_was_there_tells_late_comes_once_where_it_becomes_the_home() {
        for (age, held) in [(Duration::ZERO, 0), (PRELUDE, 1)] {
            let now = Instant::now();
            let mut entry = Entry::new(Topics::Patterns, Bytes::from("*"));
            (entry.up, entry.home) = (true, Some(node("a")));
            entry.sources = vec![source("a", 1, Phase::Steady), source("c", 2, Phase::Steady)];
            assert!(entry.accepts(1, b"news", b"1"));
            begin_handover(&mut entry, &node("c"), &[node("c")], false, now - age);
            assert!(entry.accepts(1, b"news", b"2") && !entry.accepts(2, b"news", b"2"));
            assert!(!entry.accepts(2, b"news", b"1"));
            assert_eq!(entry.handover.as_mut().unwrap().cut(now).len(), held);
        }
    }
}
