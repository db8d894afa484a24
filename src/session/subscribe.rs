//! What a client is subscribed to, what it may do meanwhile, and what it is told.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{spawn_local, yield_now};

use super::monitor::Monitoring;
use super::pending::State;
use super::planner::Planner;
use super::subscribing::{CHUNK, Command};
use super::{Order, Session};
use crate::command::{Listen, Local, Route, Spec};
use crate::config::Gap;
use crate::error::ErrorKind;
use crate::metrics::{Closed, Reached};
use crate::protocol::{Args, Protocol, Topics, write};
use crate::route::pubsub::{Messages, Subscriber, is_much_too_large};

/// What a subscription takes of memory besides its name, here and in the hub, where nobody else has it.
pub(super) const EACH: usize = 768;

/// What the hub has to be told of a client that leaves.
pub(super) type Leaving = Box<dyn Iterator<Item = (Topics, Bytes)>>;

/// What a client is subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// By [`Topics`].
    topics: [HashSet<Bytes>; 3],
    /// What they take of memory.
    bytes: usize,
    protocol: Protocol,
    /// The one command that is being carried out.
    pub(super) pending: Option<Command>,
    /// Since when its output has exceeded `pubsub_output_soft`, or 0.
    soft_since: u64,
    pub(super) monitoring: Monitoring,
    /// Messages that wait for the reply to a PUBLISH of its own, and its number.
    late: VecDeque<(u64, Vec<u8>)>,
    late_bytes: usize,
}

impl Subscriptions {
    pub(super) fn has(&self, kind: Topics, name: &[u8]) -> bool {
        self.topics[kind as usize].contains(name)
    }

    pub(super) fn insert(&mut self, kind: Topics, name: Bytes) {
        let bytes = name.len() + EACH;
        self.bytes += if self.topics[kind as usize].insert(name) { bytes } else { 0 };
    }

    pub(super) fn remove(&mut self, kind: Topics, name: &[u8]) -> bool {
        let topics = &mut self.topics[kind as usize];
        let was = topics.remove(name);
        self.bytes -= if was { name.len() + EACH } else { 0 };
        if is_much_too_large(topics.capacity(), topics.len()) {
            topics.shrink_to(2 * topics.len());
        }
        was
    }

    pub(super) fn names(&self, kind: Topics) -> impl Iterator<Item = &Bytes> {
        self.topics[kind as usize].iter()
    }

    /// Bytes of memory that they take, in the hub too.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.pending.as_ref().map_or(0, |command| command.bytes)
    }

    /// How many channels, patterns and channels of shards it is subscribed to.
    pub(super) fn counts(&self) -> [usize; 3] {
        [Topics::Channels, Topics::Patterns, Topics::Shards].map(|kind| self.topics[kind as usize].len())
    }

    /// As the replies count: channels of shards are counted alone.
    pub(super) fn count(&self, kind: Topics) -> usize {
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

    /// HELLO or RESET may have changed how the client is to be told, and answers this. RESET ends all subscriptions.
    #[cold]
    pub(super) fn changed(&mut self, spec: &'static Spec, reset: bool, reply: Bytes) {
        if !reset {
            let protocol = self.protocol;
            self.state.subscriptions.iter_mut().for_each(|own| own.speak(protocol));
            return self.answer(Some(spec), reply);
        }
        let mut leaving = self.session.end_subscriptions(self.state);
        if !self.session.forget_some(&mut leaving) {
            return self.answer(Some(spec), reply);
        }
        let (session, seq) = (self.session.clone(), self.expect(spec, 0, 0));
        spawn_local(async move {
            session.forget(leaving).await;
            let (backend, mut state) = (&session.worker.backend, session.state.borrow_mut());
            state.settle(seq, Some(reply), backend.clock.tick(), &backend.metrics);
            session.wakeup.wake();
        });
    }
}

impl Session {
    /// Ends all subscriptions: the client leaves, or resets its connection. Returns what the hub has to be told.
    pub(super) fn end_subscriptions(&self, state: &mut State) -> Leaving {
        let Some(mut own) = state.subscriptions.take() else { return Box::new(std::iter::empty()) };
        if own.monitoring != Monitoring::No {
            self.worker.monitor.leave(self.id);
        }
        let asked = own.pending.take().map(Command::asked);
        let topics = Topics::ALL.into_iter().zip(own.topics);
        let all = topics.flat_map(|(kind, names)| names.into_iter().map(move |name| (kind, name)));
        Box::new(asked.into_iter().flatten().chain(all))
    }

    /// Tells the hub of some; whether there may be more.
    fn forget_some(&self, leaving: &mut Leaving) -> bool {
        let hub = &self.worker.hub;
        (0..CHUNK).all(|_| leaving.next().inspect(|(kind, name)| hub.forget(*kind, name, self.id)).is_some())
    }

    /// Tells the hub of all of them.
    pub(super) async fn forget(&self, mut leaving: Leaving) {
        while self.forget_some(&mut leaving) {
            yield_now().await;
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

    fn settled(&self, kind: Topics, name: &[u8], error: Option<&Bytes>) {
        self.topic_settled(kind, name, error);
    }

    fn missed(&self, for_good: bool) {
        if for_good || self.settings.gap == Gap::Disconnect {
            self.order(Order::Close(Closed::PubsubGap));
        }
    }
}
