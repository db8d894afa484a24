//! What the hub does in its own turns: subscribes each topic where it belongs, lets it go over when that changes, and
//! tells those who wait.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::entry::{Entry, Phase};
use super::handover::Handover;
use super::{Hub, State};
use crate::error::ClientError;
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::route::Routes;
use crate::topology::Cause;

/// How often topics are looked at that are not as they are to be.
const TICK: Duration = Duration::from_millis(20);

impl Hub {
    /// One turn. Returns when the next one is due, if anything is left to do by then.
    pub fn tend(self: &Rc<Self>, routes: &mut Routes) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        for event in self.events.take() {
            self.happened(&mut state, event, routes, now);
        }
        if std::mem::replace(&mut state.version, routes.version()) != routes.version() {
            let State { topics, busy, .. } = &mut *state;
            for entry in topics.iter_mut().flat_map(HashMap::values_mut) {
                entry.unreachable.clear();
                busy.insert((entry.kind, entry.name.clone()));
            }
        }
        for (kind, name) in std::mem::take(&mut state.busy) {
            let Some(mut entry) = state.topics[kind as usize].remove(&name) else { continue };
            let held = self.settle(&mut state, &mut entry, routes, now);
            if entry.is_abandoned() {
                self.leave_all(&mut state, &mut entry, None);
                continue;
            }
            state.topics[kind as usize].insert(name.clone(), entry);
            let State { topics, batch, .. } = &mut *state;
            held.iter().for_each(|frame| self.gather(topics, batch, kind, &name, frame));
            self.hand_out(topics, batch);
        }
        let next = (!state.busy.is_empty()).then(|| now + TICK);
        let unused = self.take_unused(&mut state, routes);
        drop(state);
        unused.iter().for_each(|link| link.retire());
        next
    }

    /// Brings a topic nearer to where it is to be, and notes if that needs another turn. What was held and is to be
    /// delivered now.
    fn settle(
        self: &Rc<Self>,
        state: &mut State,
        entry: &mut Entry,
        routes: &mut Routes,
        now: Instant,
    ) -> Vec<Bytes> {
        give_up_waiting(entry, now);
        let mut held = Vec::new();
        if entry.is_abandoned() {
            return held;
        }
        let again = (entry.kind, entry.name.clone());
        let Some(home) = home_of(entry, routes) else {
            routes.refresh(Cause::Uncovered, None);
            state.busy.insert(again);
            return held;
        };
        let mut wanted = vec![home.clone()];
        if entry.spread {
            wanted.extend(routes.primaries().filter(|node| **node != home).cloned());
        }
        begin_handover(entry, &home, &wanted, now);
        let may_ask = entry.handover.as_ref().is_none_or(|handover| handover.may_ask(now));
        for node in &wanted {
            if entry.source_at(node).is_none() && may_ask {
                self.ask(state, entry, node, routes);
            }
        }
        let there = |entry: &Entry| {
            let is_there = |node| entry.is_at(node) || entry.unreachable.contains(node);
            entry.is_at(&home) && wanted.iter().all(is_there)
        };
        // It may be wanted elsewhere by now.
        let moved = entry.handover.is_some();
        if let Some(handover) = &mut entry.handover {
            // The borrow of the entry's other parts.
            let mut handover = std::mem::replace(handover, Box::new(Handover::new(None, home.clone(), now)));
            if handover.to == home && there(entry) {
                handover.confirmed(now);
            }
            if handover.is_due(now) {
                held.extend(handover.cut(now).into_iter().map(|(_, frame)| frame));
                entry.home = Some(handover.to.clone());
            }
            let over = handover.is_over(now);
            entry.handover = (!over).then_some(handover);
        }
        if entry.handover.is_none() {
            entry.sources.iter_mut().for_each(|source| source.phase = Phase::Steady);
        }
        let stays = entry.handover.as_ref().is_some_and(|handover| !handover.is_cut());
        if !stays && (!entry.up || entry.is_at(&home)) {
            self.leave_others(state, entry, &wanted);
        }
        let up = entry.up || there(entry);
        self.turn(entry, up);
        if up {
            (entry.lost_since, entry.trouble) = (None, None);
            self.admit(entry);
        }
        let whole = entry.up && !moved && wanted.iter().all(|node| entry.is_at(node));
        if !whole {
            state.busy.insert(again);
        }
        held
    }

    /// Those who wait are subscribed now.
    fn admit(&self, entry: &mut Entry) {
        for waiting in std::mem::take(&mut entry.waiting) {
            let subscriber = waiting.subscriber;
            self.receivers.counts().clients(entry.kind, &entry.name, 1);
            entry.subscribers.insert(subscriber.id(), subscriber.clone());
            subscriber.settled(entry.kind, &entry.name, None);
        }
    }
}

/// Where a topic's messages are to come from.
fn home_of(entry: &Entry, routes: &Routes) -> Option<NodeAddr> {
    // One move after the other.
    if let Some(handover) = entry.handover.as_ref().filter(|handover| handover.is_cut()) {
        return Some(handover.to.clone());
    }
    let owner = routes.owner(entry.slot).map(|node| node.addr());
    if entry.kind != Topics::Patterns {
        return owner.cloned();
    }
    // Any primary has all plain messages: one that is there stays.
    let mut good = entry
        .home
        .iter()
        .chain(owner)
        .chain(routes.primaries())
        .filter(|node| routes.is_primary(node) && !entry.unreachable.contains(node));
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

/// Tells those who have waited for too long.
fn give_up_waiting(entry: &mut Entry, now: Instant) {
    if let Some(since) = entry.lost_since {
        let late = entry.subscribers.values().filter(|subscriber| now >= since + subscriber.patience());
        late.for_each(|subscriber| subscriber.missed(true));
    }
    let Entry { waiting, trouble, kind, name, .. } = entry;
    waiting.retain(|waiting| {
        if now < waiting.until {
            return true;
        }
        let own = || ClientError::ClusterDown { reason: "Hash slot not served".into() }.reply();
        let error = trouble.as_ref().map_or_else(own, |trouble| trouble.to_vec());
        waiting.subscriber.settled(*kind, name, Some(&error));
        false
    });
}
