//! What the hub does in its own turns: subscribes each topic where it belongs, lets it go over when that changes, and
//! tells those who wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::agenda::Lack;
use super::entry::{Entry, Phase};
use super::handover::Handover;
use super::wire::Event;
use super::{Hub, State};
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::route::Routes;
use crate::topology::Cause;

/// So many events and topics are looked at before others run.
const TURN: usize = 1000;
/// A table that has become much too large is made smaller, unless it is as small as this.
const SMALL: usize = 1024;

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
        let State { agenda, topics, version, .. } = &mut *state;
        if std::mem::replace(version, routes.version()) != routes.version() {
            agenda.look_at_all();
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
        let Some(home) = home_of(entry, routes, &state.unreachable) else {
            routes.refresh(Cause::Uncovered, None);
            state.agenda.wait(Lack::Owner, entry.topic(), now);
            return VecDeque::new();
        };
        let mut wanted = vec![home.clone()];
        if entry.spread {
            wanted.extend(routes.primaries().filter(|node| **node != home).cloned());
        }
        begin_handover(entry, &home, &wanted, now);
        let may_ask = entry.handover.as_ref().is_none_or(|handover| handover.may_ask(now));
        for node in &wanted {
            if entry.source_at(node).is_none() && may_ask {
                self.ask(state, entry, node, routes, now);
            }
        }
        if let Some(handover) = &mut entry.handover {
            handover.asked = entry.sources.iter().any(|source| source.phase == Phase::Arriving);
            handover.trim(now);
        }
        let is_there = |node| entry.is_at(node) || state.unreachable.contains(node);
        let there = entry.is_at(&home) && wanted.iter().all(is_there);
        let held = self.go_over(state, entry, there.then_some(&home), now);
        if entry.handover.is_none() {
            entry.sources.iter_mut().for_each(|source| source.phase = Phase::Steady);
        }
        let up = entry.up || there;
        let stays = entry.handover.as_ref().is_some_and(|handover| !handover.is_cut());
        if !stays && (!entry.up || entry.is_at(&home)) {
            self.leave_others(state, entry, &wanted);
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
        now: Instant,
    ) -> VecDeque<Bytes> {
        let mut held = VecDeque::new();
        let Some(mut handover) = entry.handover.take() else { return held };
        if arrived == Some(&handover.to) && handover.confirmed(now) {
            handover.sign = self.ask_for_sign(state, entry, handover.from.as_ref());
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
            if topics.capacity() > SMALL.max(8 * topics.len()) {
                topics.shrink_to(2 * topics.len());
            }
        }
        if self.ops.capacity() > SMALL.max(8 * self.ops.len()) {
            self.ops.shrink_to(2 * self.ops.len());
        }
    }
}

/// Where a topic's messages are to come from.
fn home_of(entry: &Entry, routes: &Routes, unreachable: &HashSet<NodeAddr>) -> Option<NodeAddr> {
    // One move after the other.
    if let Some(handover) = entry.handover.as_ref().filter(|handover| handover.is_cut()) {
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

/// Notes where the topic is to be; if it is subscribed and that is another place, it goes over.
fn begin_handover(entry: &mut Entry, home: &NodeAddr, wanted: &[NodeAddr], now: Instant) {
    if !entry.up || entry.kind == Topics::Shards {
        entry.home = Some(home.clone());
        return;
    }
    let moves = entry.home.as_ref() != Some(home);
    let mut leaves = false;
    for source in entry.sources.iter_mut().filter(|source| !wanted.contains(&source.node)) {
        source.phase = Phase::Leaving;
        leaves = true;
    }
    match &entry.handover {
        Some(handover) if handover.to == *home => {}
        None if !moves && !leaves => {}
        _ => {
            let handover = Handover::new(entry.home.clone(), home.clone(), now);
            entry.handover = Some(Box::new(handover));
        }
    }
}

/// Tells those who have waited for too long for what was lost to come back.
fn give_up_lost(entry: &Entry, now: Instant) {
    if let Some(since) = entry.lost_since {
        let late = entry.subscribers.values().filter(|subscriber| now >= since + subscriber.patience());
        late.for_each(|subscriber| subscriber.missed(true));
    }
}
