//! SUBSCRIBE and its kin: what a client is subscribed to, and what it may do meanwhile.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::dispatch::Planner;
use super::monitor::Monitoring;
use super::pending::State;
use super::{Order, Session};
use crate::backend::{Reply, Ticket};
use crate::command::{Listen, Local, Route, Spec};
use crate::config::Gap;
use crate::error::ErrorKind;
use crate::metrics::{Closed, Reached};
use crate::protocol::{Args, Protocol, Topics, write};
use crate::route::pubsub::{Messages, Subscriber};

/// What a client is subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// By [`Topics`].
    topics: [HashSet<Bytes>; 3],
    protocol: Protocol,
    /// The one command that waits for nodes.
    pending: Option<Command>,
    /// Since when its output has exceeded `pubsub_output_soft`, or 0.
    soft_since: u64,
    pub(super) monitoring: Monitoring,
    /// Messages that wait for the reply to a PUBLISH of its own, and its number.
    late: VecDeque<(u64, Vec<u8>)>,
    late_bytes: usize,
}

/// A SUBSCRIBE or UNSUBSCRIBE, a step for each topic that it names.
#[derive(Debug)]
struct Command {
    seq: u64,
    kind: Topics,
    subscribes: bool,
    steps: Vec<Step>,
    /// What is still to be settled, of all steps.
    left: usize,
}

#[derive(Debug)]
struct Step {
    /// None where there is nothing to unsubscribe from.
    name: Option<Bytes>,
    /// How many subscriptions are left then; of a SUBSCRIBE it is counted later.
    count: usize,
    error: Option<Bytes>,
}

impl Subscriptions {
    fn has(&self, kind: Topics, name: &[u8]) -> bool {
        self.topics[kind as usize].contains(name)
    }

    /// How many channels, patterns and channels of shards it is subscribed to.
    pub(super) fn counts(&self) -> [usize; 3] {
        [Topics::Channels, Topics::Patterns, Topics::Shards].map(|kind| self.topics[kind as usize].len())
    }

    /// As the replies count: channels of shards are counted alone.
    fn count(&self, kind: Topics) -> usize {
        let len = |kind: Topics| self.topics[kind as usize].len();
        match kind {
            Topics::Shards => len(Topics::Shards),
            Topics::Channels | Topics::Patterns => len(Topics::Channels) + len(Topics::Patterns),
        }
    }

    /// Whether it is told nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.monitoring == Monitoring::No && !self.is_subscribed()
    }

    fn is_subscribed(&self) -> bool {
        self.topics.iter().any(|topics| !topics.is_empty())
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The version of the protocol that the client speaks now.
    pub(super) fn speak(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }
}

impl Command {
    fn new(seq: u64, kind: Topics, subscribes: bool) -> Self {
        Command { seq, kind, subscribes, steps: Vec::new(), left: 0 }
    }

    fn add(&mut self, name: Option<Bytes>, count: usize, waits: usize) {
        self.steps.push(Step { name, count, error: None });
        self.left += waits;
    }
}

impl Planner<'_> {
    /// Refuses, or answers in its own way, what a RESP2 client may not send while it is subscribed. False if there is
    /// nothing about it.
    #[cold]
    pub(super) fn is_restricted(&mut self, spec: &'static Spec, route: Route, args: &Args<'_>) -> bool {
        let is_subscribed = self.state.subscriptions.as_ref().is_some_and(|own| own.is_subscribed());
        if self.protocol == Protocol::Resp3 || !is_subscribed {
            return self.is_for_others(spec);
        }
        let mut reply = Vec::new();
        match route {
            Route::Listen(Listen::Subscribe(_) | Listen::Unsubscribe(_)) => return false,
            Route::Local(Local::Quit | Local::Reset) => return false,
            Route::Local(Local::Ping) if args.len() <= 2 => {
                write::array(&mut reply, 2);
                write::bulk(&mut reply, b"pong");
                write::bulk(&mut reply, if args.len() == 2 { args.get(1) } else { b"" });
                self.answer(Some(spec), reply.into());
            }
            Route::Local(Local::Ping) => return false,
            _ => {
                let text = format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                     in this context",
                    spec.name.replace(' ', "|")
                );
                write::error(&mut reply, text);
                self.reject(spec, route, ErrorKind::Refused, reply);
            }
        }
        true
    }

    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE.
    pub(super) fn subscribe(&mut self, kind: Topics, spec: &'static Spec, args: &Args<'_>) {
        let subscriber: Rc<dyn Subscriber> = self.session.clone();
        let hub = &self.session.worker.hub;
        let (seq, protocol) = (self.state.next_seq(), self.protocol);
        let own = self.state.subscriptions.get_or_insert_default();
        own.speak(protocol);
        let mut command = Command::new(seq, kind, true);
        let mut asked = HashSet::new();
        for name in args.iter().skip(1) {
            let known = own.has(kind, name) || !asked.insert(name);
            let waits = !known && !hub.subscribe(kind, name, &subscriber);
            command.add(Some(Bytes::copy_from_slice(name)), 0, usize::from(waits));
        }
        self.begin(spec, command);
    }

    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, kind: Topics, spec: &'static Spec, args: &Args<'_>) {
        let subscriber: Rc<dyn Subscriber> = self.session.clone();
        let hub = &self.session.worker.hub;
        let (seq, protocol) = (self.state.next_seq(), self.protocol);
        let own = self.state.subscriptions.get_or_insert_default();
        own.speak(protocol);
        let names: Vec<Bytes> = match args.len() {
            1 => own.topics[kind as usize].iter().cloned().collect(),
            _ => args.iter().skip(1).map(Bytes::copy_from_slice).collect(),
        };
        let mut command = Command::new(seq, kind, false);
        for name in names {
            let was = own.topics[kind as usize].remove(&name);
            let waits = if was { hub.unsubscribe(kind, &name, &subscriber) } else { 0 };
            command.add(Some(name), own.count(kind), waits);
        }
        if command.steps.is_empty() {
            command.add(None, own.count(kind), 0);
        }
        self.begin(spec, command);
    }

    fn begin(&mut self, spec: &'static Spec, command: Command) {
        let waits = command.left > 0;
        let seq = self.expect(spec, 0, 0);
        if let Some(pending) = self.state.get(seq) {
            // CLIENT REPLY does not concern what is a push.
            pending.silent = false;
        }
        if let Some(own) = &mut self.state.subscriptions {
            own.pending = Some(command);
        }
        if !waits {
            self.session.finish(self.state);
        }
    }

    /// HELLO or RESET may have changed how the client is to be told.
    #[cold]
    pub(super) fn changed(&mut self, reset: bool) {
        if reset {
            self.session.end_subscriptions(self.state);
        } else if let Some(own) = &mut self.state.subscriptions {
            own.speak(self.protocol);
        }
    }
}

impl Session {
    /// All that the command asked for is settled: answers it.
    fn finish(&self, state: &mut State) {
        let Some(own) = &mut state.subscriptions else { return };
        let Some(command) = own.pending.take() else { return };
        let Command { seq, kind, subscribes, steps, .. } = command;
        let mut reply = Vec::new();
        for Step { name, mut count, error } in steps {
            if let Some(error) = error {
                reply.extend_from_slice(&error);
                continue;
            }
            let word = if subscribes { kind.subscribe() } else { kind.unsubscribe() };
            if let (true, Some(name)) = (subscribes, &name) {
                own.topics[kind as usize].insert(name.clone());
                count = own.count(kind);
            }
            reply.extend_from_slice(if own.protocol == Protocol::Resp3 { b">3\r\n" } else { b"*3\r\n" });
            write::bulk(&mut reply, word.as_bytes());
            match &name {
                Some(name) => write::bulk(&mut reply, name),
                None => write::null(&mut reply, own.protocol),
            }
            write::integer(&mut reply, count as i64);
        }
        if own.is_empty() {
            state.subscriptions = None;
        }
        let backend = &self.worker.backend;
        let (ticket, now) = (Ticket { seq, part: 0 }, backend.clock.now());
        state.complete(ticket, Reply::Large(reply.into()), now, &backend.metrics);
    }

    /// Ends all subscriptions: the client leaves, or resets its connection.
    pub(super) fn end_subscriptions(&self, state: &mut State) {
        let Some(own) = state.subscriptions.take() else { return };
        if own.monitoring != Monitoring::No {
            self.worker.monitor.leave(self.id);
        }
        let pending = own.pending.iter().filter(|command| command.subscribes);
        let asked = pending.flat_map(|command| command.steps.iter().map(|step| (command.kind, &step.name)));
        for (kind, name) in asked {
            name.iter().for_each(|name| self.worker.hub.forget(kind, name, self.id));
        }
        for kind in Topics::ALL {
            own.topics[kind as usize].iter().for_each(|name| self.worker.hub.forget(kind, name, self.id));
        }
    }

    /// What waited for the reply to a PUBLISH that is there now goes behind it.
    #[inline]
    pub(super) fn tell_late(&self, state: &mut State) {
        let base = state.base();
        let State { subscriptions: Some(own), out, .. } = state else { return };
        while let Some((_, bytes)) = own.late.pop_front_if(|(seq, _)| *seq < base) {
            own.late_bytes -= bytes.len();
            out.push(bytes.into());
        }
    }

    /// Whether its output has been too large for too long, which only who is told unasked can be blamed for.
    pub(super) fn listens_too_slowly(&self, state: &mut State, now: u64) -> bool {
        let (unread, limits) = (state.out.len(), &self.settings.limits);
        let Some(own) = &mut state.subscriptions else { return false };
        let reached = &self.worker.backend.metrics.reached;
        if unread <= limits.pubsub_output_soft {
            own.soft_since = 0;
        } else if own.soft_since == 0 {
            own.soft_since = now.max(1);
            reached[Reached::PubsubOutputSoft.index()].add(1);
        } else if u128::from(now - own.soft_since) >= limits.pubsub_output_grace.as_nanos() {
            reached[Reached::PubsubOutputGrace.index()].add(1);
            return true;
        }
        false
    }

    /// Adds to the client's output what it is told unasked. It is closed if that is more than it may have.
    pub(super) fn tell(&self, state: &mut State, protocol: Protocol, messages: &Messages<'_>) {
        let publish = if protocol == Protocol::Resp3 { state.last_publish() } else { None };
        let Some(own) = &mut state.subscriptions else { return };
        match (publish.or(own.late.back().map(|(seq, _)| *seq)), messages.shared(protocol)) {
            // Its own message comes behind the reply, as on a server since 7.2.
            (Some(seq), _) => {
                let mut bytes = Vec::new();
                messages.copy_to(protocol, &mut bytes);
                own.late_bytes += bytes.len();
                own.late.push_back((seq, bytes));
            }
            (None, Some(bytes)) => state.out.share(bytes),
            (None, None) => messages.copy_to(protocol, state.out.tail()),
        }
        self.wakeup.wake();
        let late = state.subscriptions.as_ref().map_or(0, |own| own.late_bytes);
        let over = state.out.len() + late > self.settings.limits.pubsub_output_hard;
        if over && !matches!(self.order.get(), Order::Close(_)) {
            self.worker.backend.metrics.reached[Reached::PubsubOutputHard.index()].add(1);
            self.order(Order::Close(Closed::PubsubOutput));
        }
    }
}

impl Subscriber for Session {
    fn id(&self) -> u64 {
        self.id
    }

    fn patience(&self) -> Duration {
        self.settings.limits.command_deadline
    }

    fn take(&self, kind: Topics, name: &[u8], messages: &Messages<'_>) {
        let mut state = self.state.borrow_mut();
        let Some(own) = &state.subscriptions else { return };
        let protocol = own.protocol;
        // Not before the client has read that it is subscribed.
        if own.pending.is_some() && !own.has(kind, name) {
            return;
        }
        self.tell(&mut state, protocol, messages);
    }

    fn settled(&self, kind: Topics, name: &[u8], error: Option<&[u8]>) {
        let mut state = self.state.borrow_mut();
        let Some(command) = state.subscriptions.as_mut().and_then(|own| own.pending.as_mut()) else { return };
        if command.kind != kind {
            return;
        }
        if let Some(error) = error {
            let same = command.steps.iter_mut().filter(|step| step.name.as_deref() == Some(name));
            same.for_each(|step| step.error = Some(Bytes::copy_from_slice(error)));
        }
        command.left = command.left.saturating_sub(1);
        if command.left == 0 {
            self.finish(&mut state);
            self.wakeup.wake();
        }
    }

    fn missed(&self, for_good: bool) {
        if for_good || self.settings.gap == Gap::Disconnect {
            self.order(Order::Close(Closed::PubsubGap));
        }
    }
}
