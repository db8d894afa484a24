//! SUBSCRIBE, UNSUBSCRIBE and their kin: they may name very many topics, so they are carried out bit by bit.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use super::pending::State;
use super::planner::Planner;
use super::subscribe::EACH;
use crate::backend::{Reply, Ticket};
use crate::command::Spec;
use crate::protocol::{Args, Protocol, Topics, write};
use crate::route::pubsub::Subscriber;

/// So many topics are seen to before others run.
pub(super) const CHUNK: usize = 1000;
/// What a step takes of memory besides the topic's name.
const STEP: usize = 64;

/// A SUBSCRIBE or UNSUBSCRIBE: the hub is told of each name, then what it asks for is awaited, then each is confirmed.
#[derive(Debug)]
pub(super) struct Command {
    seq: u64,
    kind: Topics,
    subscribes: bool,
    /// Names that the hub has not been told of yet,
    names: VecDeque<Bytes>,
    /// and those that it has, in the same order, until they are confirmed.
    steps: VecDeque<Step>,
    /// How often the hub has still to say that something is settled.
    left: usize,
    /// What it said against names.
    errors: HashMap<Bytes, Bytes>,
    /// What all of it takes of memory.
    pub(super) bytes: usize,
    all_settled: Rc<Notify>,
    /// Carries out what is not done at once.
    task: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Step {
    /// None where there is nothing to unsubscribe from.
    name: Option<Bytes>,
    /// How many subscriptions are left then; of a SUBSCRIBE it is counted later.
    count: usize,
}

impl Command {
    /// What the hub may think that the client wants because of this.
    pub(super) fn asked(self) -> impl Iterator<Item = (Topics, Bytes)> {
        let (kind, steps) = (self.kind, if self.subscribes { self.steps } else { VecDeque::new() });
        steps.into_iter().filter_map(move |step| Some((kind, step.name?)))
    }

    fn is_settled(&self) -> bool {
        self.names.is_empty() && self.left == 0
    }

    fn cost(&self, name: &Bytes) -> usize {
        name.len() + if self.subscribes { EACH } else { STEP }
    }
}

impl Planner<'_> {
    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE.
    pub(super) fn subscribe(&mut self, kind: Topics, spec: &'static Spec, args: &Args<'_>) {
        let names = args.iter().skip(1).map(Bytes::copy_from_slice).collect();
        self.begin(kind, true, names, spec);
    }

    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, kind: Topics, spec: &'static Spec, args: &Args<'_>) {
        let own = self.state.subscriptions.get_or_insert_default();
        let names = match args.len() {
            1 => own.names(kind).cloned().collect(),
            _ => args.iter().skip(1).map(Bytes::copy_from_slice).collect(),
        };
        self.begin(kind, false, names, spec);
    }

    fn begin(&mut self, kind: Topics, subscribes: bool, names: VecDeque<Bytes>, spec: &'static Spec) {
        let seq = self.expect(spec, 0, 0);
        if let Some(pending) = self.state.get(seq) {
            // CLIENT REPLY does not concern what is a push.
            pending.silent = false;
        }
        let own = self.state.subscriptions.get_or_insert_default();
        own.speak(self.protocol);
        let (steps, errors, all_settled) = Default::default();
        let mut command = Command {
            seq,
            kind,
            subscribes,
            names,
            steps,
            left: 0,
            errors,
            bytes: 0,
            all_settled,
            task: None,
        };
        if command.names.is_empty() {
            command.steps.push_back(Step { name: None, count: own.count(kind) });
        }
        command.bytes = command.names.iter().map(|name| command.cost(name)).sum();
        own.pending = Some(command);
        let more = self.session.ask_some(self.state);
        if more || !self.session.confirm_at_once(self.state) {
            self.session.go_on(self.state);
        }
    }
}

impl Session {
    /// Lets a task carry out the rest of the command.
    fn go_on(self: &Rc<Self>, state: &mut State) {
        let Some(command) = pending(state) else { return };
        let until = command.subscribes.then(|| Instant::now() + self.patience());
        let (session, settled) = (self.clone(), command.all_settled.clone());
        command.task = Some(AbortOnDropHandle::new(spawn_local(async move {
            while session.ask_some(&mut session.state.borrow_mut()) {
                yield_now().await;
            }
            if !session.is_settled() {
                let late = match until {
                    Some(until) => timeout_at(until, settled.notified()).await.is_err(),
                    None => {
                        settled.notified().await;
                        false
                    }
                };
                let mut from = 0;
                while late && !session.is_settled() && session.give_up_some(&mut from) {
                    yield_now().await;
                }
            }
            while session.confirm_some(&mut session.state.borrow_mut()) {
                session.wakeup.wake();
                yield_now().await;
            }
            session.wakeup.wake();
        })));
    }

    /// Tells the hub of some more names; true if not of all.
    fn ask_some(self: &Rc<Self>, state: &mut State) -> bool {
        let Some(own) = &mut state.subscriptions else { return false };
        let Some(mut command) = own.pending.take() else { return false };
        let (hub, subscriber, kind) = (&self.worker.hub, self.clone() as Rc<dyn Subscriber>, command.kind);
        for _ in 0..CHUNK {
            let Some(name) = command.names.pop_front() else { break };
            let mut count = 0;
            if !command.subscribes {
                let was = own.remove(kind, &name);
                command.left += if was { hub.unsubscribe(kind, &name, &subscriber) } else { 0 };
                count = own.count(kind);
            } else if !own.has(kind, &name) && !command.errors.contains_key(&name) {
                command.left += usize::from(hub.subscribe(kind, &name, &subscriber));
            }
            command.steps.push_back(Step { name: Some(name), count });
        }
        let more = !command.names.is_empty();
        own.pending = Some(command);
        more
    }

    fn is_settled(&self) -> bool {
        pending(&mut self.state.borrow_mut()).is_none_or(|command| command.is_settled())
    }

    /// Gives some up that have not been subscribed in time; true if not all of them.
    fn give_up_some(&self, from: &mut usize) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(command) = pending(&mut state) else { return false };
        let Command { steps, errors, kind, .. } = command;
        for name in steps.iter().skip(*from).take(CHUNK).filter_map(|step| step.name.as_ref()) {
            if let Some(error) = self.worker.hub.give_up(*kind, name, self.id) {
                errors.insert(name.clone(), error);
            }
        }
        *from += CHUNK;
        *from < steps.len()
    }

    /// The hub says that something the command waits for is settled.
    pub(super) fn topic_settled(&self, kind: Topics, name: &[u8], error: Option<&Bytes>) {
        let mut state = self.state.borrow_mut();
        let Some(command) = pending(&mut state).filter(|command| command.kind == kind) else { return };
        if let Some(error) = error {
            command.errors.insert(Bytes::copy_from_slice(name), error.clone());
        }
        command.left = command.left.saturating_sub(1);
        if command.is_settled() && self.confirm_at_once(&mut state) {
            self.wakeup.wake();
        }
    }

    /// Answers the command if all is settled and that is little to do; the task does it otherwise.
    fn confirm_at_once(&self, state: &mut State) -> bool {
        let Some(command) = pending(state).filter(|command| command.is_settled()) else { return false };
        if command.steps.len() > CHUNK {
            command.all_settled.notify_one();
            return false;
        }
        !self.confirm_some(state)
    }

    /// Confirms some of what the command asked for; true if not all. Nothing else is answered before it.
    fn confirm_some(&self, state: &mut State) -> bool {
        let State { subscriptions: Some(own), out, .. } = &mut *state else { return false };
        let Some(mut command) = own.pending.take() else { return false };
        let (kind, out) = (command.kind, out.tail());
        for _ in 0..CHUNK {
            let Some(Step { name, mut count }) = command.steps.pop_front() else { break };
            if let Some(name) = &name {
                command.bytes -= command.cost(name);
                if let Some(error) = command.errors.get(name) {
                    out.extend_from_slice(error);
                    continue;
                }
            }
            let word = if command.subscribes { kind.subscribe() } else { kind.unsubscribe() };
            if let (true, Some(name)) = (command.subscribes, &name) {
                own.insert(kind, name.clone());
                count = own.count(kind);
            }
            out.extend_from_slice(if own.protocol() == Protocol::Resp3 { b">3\r\n" } else { b"*3\r\n" });
            write::bulk(out, word.as_bytes());
            match &name {
                Some(name) => write::bulk(out, name),
                None => write::null(out, own.protocol()),
            }
            write::integer(out, count as i64);
        }
        if !command.steps.is_empty() {
            own.pending = Some(command);
            return true;
        }
        if own.is_empty() {
            state.subscriptions = None;
        }
        let backend = &self.worker.backend;
        let (ticket, now) = (Ticket { seq: command.seq, part: 0 }, backend.clock.now());
        state.complete(ticket, Reply::Small(b""), now, &backend.metrics);
        false
    }
}

fn pending(state: &mut State) -> Option<&mut Command> {
    state.subscriptions.as_mut()?.pending.as_mut()
}
