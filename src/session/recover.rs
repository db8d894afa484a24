//! What becomes of a command that the cluster did not execute, or whose link was lost.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::entry::{Pending, Progress};
use super::gather::Gather;
use super::lanes::{Held, History, Next, Touched, Unconfirmed};
use super::noscript::Before;
use super::pending::State;
use super::{Order, Session};
use crate::backend::{Link, Loss, Reply, Request, Ticket};
use crate::command::{Merge, Route, resolve};
use crate::config::OnIndoubt;
use crate::error::ClientError;
use crate::metrics::Redirect;
use crate::net::NodeAddr;
use crate::protocol::{RequestFramer, RequestLimits};
use crate::route::plan::Groups;
use crate::route::{Moved, Signal};
use crate::topology::Cause;

/// So many redirects of one command are followed at once; nodes that send it round and round are asked
/// more slowly.
const PROMPT: u32 = 3;
/// The first wait is about this long,
const BACKOFF_FIRST: Duration = Duration::from_millis(2);
/// and no wait is longer: it adds to the latency of a command whose slot is free again.
pub(super) const BACKOFF_MOST: Duration = Duration::from_millis(50);

/// A wait that doubles with every try, jittered by half, in nanoseconds.
pub(super) fn backoff(tries: u32) -> u64 {
    let most = BACKOFF_FIRST.saturating_mul(1 << tries.min(10)).min(BACKOFF_MOST);
    most.mul_f64(0.5 + fastrand::f64() / 2.0).as_nanos() as u64
}

impl Session {
    /// Looks at an error reply. True if the command was not executed and is held now to be sent again.
    #[cold]
    pub(super) fn redirected(
        &self,
        state: &mut State,
        ticket: Ticket,
        reply: &[u8],
        request: Request<'_>,
    ) -> bool {
        let from = request.link().addr().clone();
        if self.script_told(state, ticket, Some(reply)) {
            return true;
        }
        let slot = state.slot(ticket);
        let Some(signal) = self.signal(reply, request.link(), slot) else {
            return self.is_unknown_script(state, ticket, reply, request);
        };
        let Some(spec) = state.get(ticket.seq).and_then(|pending| pending.spec) else { return false };
        // Scripts, functions and modules can answer with such a text of their own making.
        let may_be_own = spec.is_foreign();
        if may_be_own && !signal.is_exact(reply) {
            return false;
        }
        // No refresh can tell a node that has gone from its address from a script that makes it up.
        if may_be_own && matches!(&signal, Signal::Moved { to, .. } if *to == from) {
            return false;
        }
        self.worker.backend.metrics.redirects[kind(&signal) as usize].add(1);
        let mut history = state.lanes().back(slot, ticket);
        history.tries += 1;
        history.sent = true;
        history.error = Some(Bytes::copy_from_slice(reply));
        if signal == Signal::TryAgain && self.split(state, ticket, slot, request.bytes(), &history) {
            return true;
        }
        let unconfirmed = if may_be_own { self.unconfirmed(&signal, &from, slot) } else { None };
        let (next, wait) = match &unconfirmed {
            // It must not send other commands astray.
            Some(Unconfirmed { to, .. }) if matches!(signal, Signal::Ask { .. }) => {
                (Next::Ask(to.clone()), 0)
            }
            Some(_) => (Next::Owner, 0),
            None => self.follow(&signal, request.link(), history.tries),
        };
        let alone = !matches!(signal, Signal::Moved { .. } | Signal::Ask { .. });
        let held = Held { history, next, unconfirmed, alone, ..self.held(ticket, request.to_bytes(), wait) };
        state.hold(slot, held);
        true
    }

    /// What the cluster says in a reply to a command for `slot`, if it is not the command's own.
    pub(super) fn signal(&self, reply: &[u8], link: &Link, slot: u16) -> Option<Signal> {
        let mut signal = Signal::parse(reply, link.addr())?;
        if signal == Signal::NoReplicas {
            let long = self.settings.limits.command_deadline;
            let since = self.worker.routes.borrow_mut().lacks_replicas(link.addr(), long);
            if self.is_long(since) {
                return None;
            }
        }
        // A redirect may call a node by its host name; everybody else calls it by its address.
        if let Signal::Moved { to, .. } | Signal::Ask { to, .. } = &mut signal
            && let Some(known) = self.worker.routes.borrow().known(to)
        {
            *to = known.clone();
        }
        match &signal {
            Signal::Moved { slot: s, .. } | Signal::Ask { slot: s, .. } if *s != slot => None,
            _ => Some(signal),
        }
    }

    /// What has to be confirmed about a redirect by `from` that may be a script's own words, and by whom.
    fn unconfirmed(&self, signal: &Signal, from: &NodeAddr, slot: u16) -> Option<Unconfirmed> {
        let routes = self.worker.routes.borrow();
        let (to, witness) = match signal {
            Signal::Moved { to, .. } => (to, routes.known(to).unwrap_or(from)),
            Signal::Ask { to, .. } => (to, from),
            _ => return None,
        };
        let epoch = routes.shard_at(from).map(|shard| shard.epoch);
        let (from, at) = ((from.clone(), epoch), Instant::now());
        let was_open = routes.is_open(slot);
        Some(Unconfirmed { to: to.clone(), was_open, from, witness: witness.clone(), at })
    }

    /// Where to go after `signal`, and how long to wait before (nanoseconds).
    pub(super) fn follow(&self, signal: &Signal, link: &Link, tries: u32) -> (Next, u64) {
        let from = link.addr();
        let mut routes = self.worker.routes.borrow_mut();
        let prompt = if tries <= PROMPT { 0 } else { backoff(tries - PROMPT) };
        match signal {
            Signal::Moved { to, .. } if to == from => {
                // The connection leads to somebody else than who has that address now.
                routes.replace(link);
                (Next::Owner, backoff(tries))
            }
            Signal::Moved { slot, to } => match routes.moved(*slot, to, from) {
                Moved::Noted => (Next::Owner, prompt),
                Moved::Unknown => (Next::Owner, backoff(tries + 4)),
            },
            Signal::Ask { slot, to } => {
                routes.opened(*slot);
                if routes.node(to).is_some() {
                    return (Next::Ask(to.clone()), prompt);
                }
                routes.refresh(Cause::Redirect, Some(from));
                (Next::Owner, backoff(tries + 4))
            }
            Signal::TryAgain => {
                routes.refresh(Cause::Redirect, Some(from));
                (Next::Owner, backoff(tries))
            }
            Signal::NoReplicas => (Next::Owner, backoff(tries)),
            Signal::ClusterDown | Signal::ReadOnly => {
                routes.refresh(Cause::Uncovered, None);
                (Next::Owner, backoff(tries))
            }
            Signal::Loading | Signal::MasterDown => {
                routes.refresh(Cause::Connection, None);
                (Next::Owner, backoff(tries))
            }
        }
    }

    /// A command of several keys in a half-moved slot is asked key by key, if it is of the kind that may
    /// be: then each key is found where it is. True if it was.
    fn split(&self, state: &mut State, ticket: Ticket, slot: u16, request: &[u8], history: &History) -> bool {
        self.worker.routes.borrow_mut().opened(slot);
        let Some(spec) = state.get(ticket.seq).and_then(|pending| pending.spec) else { return false };
        // MSET is not: it would be torn where it is whole today.
        if spec.route != Route::Split || spec.merge == Merge::AllSucceeded {
            return false;
        }
        let mut framer = RequestFramer::default();
        let Ok(Some(_)) = framer.next(request, &RequestLimits::NONE) else { return false };
        let args = framer.args(request);
        let Some(groups) = resolve(&args).ok().and_then(|spec| Groups::of(spec, &args).ok()) else {
            return false;
        };
        if groups.keys() < 2 {
            return false;
        }
        let Some(pending) = state.get(ticket.seq) else { return false };
        let gather = gather_of(pending, spec.merge, groups.keys());
        let parts: Vec<u32> = std::iter::once(ticket.part).chain(gather.split(ticket.part)).collect();
        for (key, part) in groups.iter().flatten().zip(parts) {
            let mut one = Vec::new();
            groups.write(&args, std::slice::from_ref(key), &mut one);
            let ticket = Ticket { seq: ticket.seq, part };
            let held = Held { history: history.clone(), ..self.held(ticket, one.into(), 0) };
            state.hold(slot, held);
        }
        true
    }

    /// A command to be held for `wait` nanoseconds.
    pub(super) fn held(&self, ticket: Ticket, request: Bytes, wait: u64) -> Held {
        Held {
            ticket,
            request,
            next: Next::Owner,
            not_before: self.worker.backend.clock.tick() + wait,
            tables: u64::MAX,
            history: History::default(),
            unconfirmed: None,
            before: Before::Nothing,
            forbidden: false,
            touched: OnceCell::new(),
            alone: false,
        }
    }

    /// A command's link ended. True if it was a write that may have been executed.
    pub(super) fn lost_on_way(&self, state: &mut State, ticket: Ticket, loss: &Loss, request: &[u8]) -> bool {
        let slot = state.slot(ticket);
        // Answered before, or dropped with those that were held before it: as when the whole client has gone.
        let Some(spec) = state.get(ticket.seq).and_then(|pending| pending.spec) else {
            state.lanes.iter_mut().for_each(|lanes| lanes.back_late(ticket));
            return loss.sent;
        };
        if self.script_told(state, ticket, None) {
            return false;
        }
        let mut history = state.lanes().back(slot, ticket);
        self.worker.topology.ask(Cause::Connection, None);
        let backend = &self.worker.backend;
        let learned = self.worker.topology.learned();
        let reads_only =
            || spec.is_readonly() || Touched::by(request, &learned).is_some_and(|touched| touched.reads_only);
        if loss.sent && !reads_only() {
            let error = ClientError::Indoubt { node: loss.node.clone() };
            state.lanes().took_effect(slot, ticket, request, &learned);
            if let Some(text) = self.in_doubt(state, ticket.seq, &error) {
                state.complete(ticket, Reply::Small(&text), backend.clock.tick(), &backend.metrics);
            }
            return true;
        }
        backend.metrics.redirects[Redirect::Lost as usize].add(1);
        history.tries += 1;
        history.sent |= loss.sent;
        let wait = backoff(history.tries);
        state.hold(slot, Held { history, ..self.held(ticket, Bytes::copy_from_slice(request), wait) });
        false
    }

    /// What to answer to a command whose outcome is unknown; nothing if the connection is closed there.
    pub(super) fn in_doubt(&self, state: &mut State, seq: u64, error: &ClientError) -> Option<Vec<u8>> {
        let backend = &self.worker.backend;
        let command = state.get(seq).and_then(|pending| pending.spec).map(|spec| spec.id);
        backend.metrics.error(command, error.kind());
        if self.settings.on_indoubt == OnIndoubt::Disconnect {
            state.settle(seq, None, backend.clock.now(), &backend.metrics);
            self.order(Order::Finish);
            return None;
        }
        Some(error.reply())
    }

    /// A command that is being watched was answered with its own result, or with anything if the client has its reply.
    #[cold]
    pub(super) fn watched_answer(&self, state: &mut State, ticket: Ticket, request: &[u8]) {
        let slot = state.slot(ticket);
        let is_late = state.get(ticket.seq).is_none();
        if let Some(lanes) = &mut state.lanes {
            if is_late {
                return lanes.back_late(ticket);
            }
            lanes.back(slot, ticket);
            lanes.took_effect(slot, ticket, request, &self.worker.topology.learned());
        }
    }
}

/// The parts of a command; one that was not cut becomes a single part with all its keys.
fn gather_of(pending: &mut Pending, how: Merge, keys: usize) -> &mut Gather {
    if !matches!(pending.progress, Progress::Parts(_)) {
        let mut gather = Gather::new(how, vec![0; keys], keys);
        gather.add(pending.slot, pending.link);
        pending.progress = Progress::Parts(Box::new(gather));
    }
    match &mut pending.progress {
        Progress::Parts(gather) => gather,
        _ => unreachable!("made just above"),
    }
}

pub(super) fn kind(signal: &Signal) -> Redirect {
    match signal {
        Signal::Moved { .. } => Redirect::Moved,
        Signal::Ask { .. } => Redirect::Ask,
        Signal::TryAgain => Redirect::TryAgain,
        Signal::ClusterDown => Redirect::ClusterDown,
        Signal::Loading => Redirect::Loading,
        Signal::MasterDown => Redirect::MasterDown,
        Signal::ReadOnly => Redirect::ReadOnly,
        Signal::NoReplicas => Redirect::NoReplicas,
    }
}
