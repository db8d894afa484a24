//! Sending what is held, as soon as it may go: in order, inside its deadline, and never in the way of
//! another slot.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::entry::Progress;
use super::gather::Gather;
use super::lanes::{Held, Lanes, Next, Touched};
use super::noscript::Before;
use super::pending::State;
use super::recover::backoff;
use super::{Room, Session};
use crate::backend::{Down, Link, Node, Reply, Ticket};
use crate::command::Route;
use crate::error::ClientError;
use crate::metrics::{Reached, ServerError};
use crate::protocol::Protocol;
use crate::route::Routes;
use crate::topology::Cause;

/// As often a refresh is asked for again that is to confirm a redirect.
const CONFIRM: Duration = Duration::from_millis(100);
/// What a node said of a slot so shortly before confirms its redirect, too: a slot may stay open for hours.
const RECENT: Duration = Duration::from_secs(1);

/// Who waits for room on a link looks so often whether there is some on another, if it needs that too.
const ROOM: Duration = Duration::from_millis(250);

/// What a client is told while the cluster is not known: the log says why.
pub(super) const NO_TABLE: &str = "No node of the cluster tells this proxy who owns the slots";

/// What to do with the first held command of a lane.
enum Step {
    /// It goes down this link.
    Send(Rc<Link>),
    /// It, and all behind it, wait until this time of the worker's clock.
    Wait(u64),
    /// They wait for a reply that is on its way.
    WaitForReply,
    /// It gets this error.
    Fail(Failure),
    /// What looked like a redirect was its own reply.
    OwnReply,
}

enum Failure {
    /// The cluster's last error, or else this.
    Cluster(ClientError),
    /// A later command took effect.
    Forbidden,
}

impl Session {
    /// Sends what is held and may go. Returns the time of the worker's clock at which to look again.
    #[cold]
    pub(super) fn pump(
        self: &Rc<Self>,
        state: &mut State,
        routes: &mut Routes,
        protocol: Protocol,
    ) -> Option<u64> {
        let mut lanes = state.lanes.take()?;
        if self.room.get() == Room::Told {
            self.room.set(Room::Here);
        }
        let now = self.worker.backend.clock.tick();
        let mut due: Option<u64> = None;
        let (bulk, mut sent) = (self.is_bulk(), false);
        for slot in lanes.holding() {
            while let Some(first) = lanes.lane(slot).first_held().map(|held| held.ticket)
                && !state.cut
            {
                let started = state.get(first.seq).map_or(0, |pending| pending.started);
                let step = self.step(&mut lanes, routes, slot, protocol, started, now);
                match step {
                    Step::WaitForReply => break,
                    Step::Wait(until) => {
                        due = Some(due.map_or(until, |due| due.min(until)));
                        break;
                    }
                    Step::Send(link) => {
                        let Some(mut held) = lanes.release(slot) else { break };
                        if self.spread(state, &mut lanes, routes, &held) {
                            due = Some(now);
                            continue;
                        }
                        let alone =
                            held.alone || (routes.is_open(slot) && self.has_several_keys(&held.request));
                        state.set_link(held.ticket, link.id());
                        if !state.get(held.ticket.seq).is_some_and(|pending| pending.only_reads()) {
                            state.wrote |= link.bit();
                        }
                        let earlier = state.earlier(held.ticket);
                        self.send_held(&link, &mut held, earlier);
                        lanes.sent(slot, held.ticket, link.id(), held.history, alone);
                        sent = true;
                    }
                    Step::Fail(failure) => {
                        let Some(held) = lanes.release(slot) else { break };
                        self.fail(state, held, failure);
                    }
                    Step::OwnReply => {
                        let Some(held) = lanes.release(slot) else { break };
                        let reply = held.history.error.unwrap_or_default();
                        let backend = &self.worker.backend;
                        backend.metrics.server_error(state.command(held.ticket), ServerError::of(&reply));
                        state.complete(held.ticket, Reply::Large(reply), now, &backend.metrics);
                    }
                }
            }
        }
        if sent || (bulk && !self.is_bulk()) {
            lanes.until = state.next_seq();
        }
        state.lanes = Some(lanes);
        due
    }

    /// Makes a part for every shard of a command that is meant for all, if it was held before any was known.
    fn spread(&self, state: &mut State, lanes: &mut Lanes, routes: &Routes, held: &Held) -> bool {
        let Some(pending) = state.get(held.ticket.seq) else { return false };
        let (Some(spec), Progress::Waiting) = (pending.spec, &pending.progress) else { return false };
        if spec.route != Route::AllShards {
            return false;
        }
        let slots = routes.shard_slots();
        let mut gather = Gather::new(spec.merge, Vec::new(), slots.len());
        for slot in slots {
            let ticket = Ticket { seq: held.ticket.seq, part: gather.add(slot, 0) };
            lanes.hold(slot, self.held(ticket, held.request.clone(), 0));
        }
        pending.progress = Progress::Parts(Box::new(gather));
        true
    }

    fn step(
        self: &Rc<Self>,
        lanes: &mut Lanes,
        routes: &mut Routes,
        slot: u16,
        protocol: Protocol,
        started: u64,
        now: u64,
    ) -> Step {
        let lane = lanes.lane(slot);
        let Some(held) = lane.first_held() else { return Step::WaitForReply };
        let ticket = held.ticket;
        if held.history.tries > 0 && lane.has_later_on_way(ticket) {
            return Step::WaitForReply;
        }
        let way = lane.way();
        let Some(held) = lane.first_held() else { return Step::WaitForReply };
        if held.forbidden {
            return Step::Fail(Failure::Forbidden);
        }
        let deadline = started + self.settings.limits.command_deadline.as_nanos() as u64;
        let expired = now >= deadline;
        let tables = routes.tables();
        let new_table = held.tables != u64::MAX && held.tables != tables;
        if held.tables == u64::MAX {
            held.tables = tables;
        }
        match confirmed(held, routes, slot) {
            Some(true) => {}
            Some(false) => return Step::OwnReply,
            None if expired => return Step::OwnReply,
            None => return Step::Wait((now + CONFIRM.as_nanos() as u64).min(deadline)),
        }
        if now < held.not_before && !new_table && !expired {
            return Step::Wait(held.not_before.min(deadline));
        }
        self.settle_doubt(held);
        if let Before::Exists(doubt) = &held.before {
            let link = self.worker.backend.link(doubt.link).filter(|link| link.takes_commands());
            return match link {
                Some(link) if way.allows(link.id()) => Step::Send(link),
                Some(_) => Step::WaitForReply,
                None => Step::OwnReply,
            };
        }
        let tried = held.history.tries > 0;
        let target = target(held, routes, slot);
        let Some(node) = target else {
            routes.refresh(Cause::Uncovered, None);
            let long = routes.owner(slot).is_none() && self.is_long(routes.uncovered_since(slot));
            let reason = if tables == 0 { NO_TABLE } else { "Hash slot not served" };
            return self.wait_or_fail(held, expired || long, now, deadline, tables, reason);
        };
        match self.link_to(&node, protocol) {
            Ok(link) if expired && (tried || link.is_opening()) => {
                self.wait_or_fail(held, true, now, deadline, tables, "The node does not answer")
            }
            Ok(link) if link.is_opening() && node.down_since().is_some_and(|since| self.is_long(since)) => {
                self.wait_or_fail(held, true, now, deadline, tables, "The node has been down for long")
            }
            Ok(link) if link.is_full() && expired => {
                self.wait_or_fail(held, true, now, deadline, tables, "The node is too far behind")
            }
            Ok(link) if link.is_full() => {
                self.wait_for_room(&link);
                Step::Wait((now + ROOM.as_nanos() as u64).min(deadline))
            }
            Ok(link) if way.allows(link.id()) => Step::Send(link),
            Ok(_) => Step::WaitForReply,
            Err(Down { since, until, .. }) => {
                routes.refresh(Cause::Connection, None);
                let long = since.is_some_and(|since| self.is_long(since));
                // A target of ASK that is down may have a successor, which the owner learns of.
                held.next = Next::Owner;
                held.not_before = now + until.saturating_duration_since(Instant::now()).as_nanos() as u64;
                self.wait_or_fail(held, expired || long, now, deadline, tables, "The node is down")
            }
        }
    }

    /// Whether something has lasted for longer than a whole deadline: then waiting helps nobody.
    pub(super) fn is_long(&self, since: Instant) -> bool {
        since.elapsed() > self.settings.limits.command_deadline
    }

    fn wait_for_room(self: &Rc<Self>, link: &Link) {
        if self.room.replace(Room::Awaited) != Room::Awaited {
            self.worker.backend.metrics.reached[Reached::LinkQueue.index()].add(1);
            link.wait_for_room(self.clone());
        }
    }

    fn wait_or_fail(
        &self,
        held: &mut Held,
        fail: bool,
        now: u64,
        deadline: u64,
        tables: u64,
        reason: &'static str,
    ) -> Step {
        if fail {
            let passed = &self.worker.backend.metrics.reached[Reached::CommandDeadline.index()];
            passed.add(u64::from(now >= deadline));
            let error = ClientError::ClusterDown { reason: reason.into() };
            return Step::Fail(Failure::Cluster(error));
        }
        held.history.tries += 1;
        held.tables = tables;
        // Not sooner than the node may be dialled, and not so often that it costs.
        held.not_before = held.not_before.max(now + backoff(held.history.tries));
        Step::Wait(held.not_before.min(deadline))
    }

    fn send_held(self: &Rc<Self>, link: &Link, held: &mut Held, earlier: u32) {
        let request = self.request_of(link, held);
        if earlier > 0 {
            self.load_scripts(link, &request);
        }
        if matches!(held.next, Next::Ask(_)) {
            link.push_asking();
        }
        if held.history.sent {
            self.worker.backend.metrics.replays.add(1);
        }
        link.push_block(self.clone(), held.ticket, request, earlier);
    }

    /// Answers a held command with the cluster's last error, word for word, or with the proxy's own. What may not be
    /// repeated for the sake of order gets that: who follows a MOVED would overtake just as well.
    fn fail(&self, state: &mut State, held: Held, failure: Failure) {
        let backend = &self.worker.backend;
        let (error, told) = match failure {
            Failure::Cluster(error) => (error, held.history.error),
            Failure::Forbidden => (ClientError::OrderConflict, None),
        };
        backend.metrics.error(state.command(held.ticket), error.kind());
        let reply = told.unwrap_or_else(|| error.reply().into());
        state.complete(held.ticket, Reply::Large(reply), backend.clock.now(), &backend.metrics);
    }

    /// Until when a turn may sleep.
    pub(super) fn instant(&self, nanos: u64) -> Instant {
        self.worker.backend.clock.instant(nanos).max(Instant::now() + Duration::from_micros(100))
    }

    fn has_several_keys(&self, request: &[u8]) -> bool {
        let touched = Touched::by(request, &self.worker.topology.learned());
        touched.is_some_and(|touched| touched.keys.len() > 1)
    }
}

/// Whether the cluster says itself what a reply that may be a script's own said; nothing if that is not known yet.
fn confirmed(held: &mut Held, routes: &Routes, slot: u16) -> Option<bool> {
    let Some(unconfirmed) = &mut held.unconfirmed else { return Some(true) };
    let is_open = routes.is_open(slot);
    unconfirmed.was_open |= is_open;
    let is_owner = |addr| routes.owner(slot).is_some_and(|node| node.addr() == addr);
    let is_at = is_owner(routes.known(&unconfirmed.to).unwrap_or(&unconfirmed.to));
    let is_asked = matches!(held.next, Next::Ask(_)) && unconfirmed.was_open;
    let is_so = is_at || is_asked;
    let early = unconfirmed.at.checked_sub(RECENT).filter(|_| is_so).unwrap_or(unconfirmed.at);
    let (from, epoch) = &unconfirmed.from;
    // Who sent it knows, too, that the slot is none of its own: the other one may have gone since.
    let witnesses = [&unconfirmed.witness, from];
    let are_there = || witnesses.iter().filter(|node| routes.known(node).is_some());
    if are_there().count() > 0 && !are_there().any(|node| routes.has_asked(node, early)) {
        are_there().for_each(|node| routes.refresh(Cause::Redirect, Some(node)));
        return None;
    }
    if !is_so {
        if is_owner(from) && routes.shard_at(from).map(|shard| shard.epoch) == *epoch {
            if !unconfirmed.was_open {
                return Some(false);
            }
            if is_open {
                // The source may hear that a slot has moved before the target does: they are asked anew.
                unconfirmed.at = Instant::now();
                return None;
            }
        }
        // The slot has gone on since then, or to and fro.
        held.next = Next::Owner;
    }
    held.unconfirmed = None;
    Some(true)
}

/// The node that a held command goes to.
fn target(held: &mut Held, routes: &mut Routes, slot: u16) -> Option<Rc<Node>> {
    if let Next::Ask(addr) = &held.next {
        if let Some(node) = routes.node(addr) {
            return Some(node);
        }
        // It has left the cluster since: the owner says anew where the key is.
        held.next = Next::Owner;
    }
    routes.owner(slot).cloned()
}
