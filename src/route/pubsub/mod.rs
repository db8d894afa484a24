//! What one worker's clients are subscribed to, on one connection to each node that they share.
//!
//! A topic (a channel, a pattern, a channel of a shard) has a *home*, the node whose messages count. A channel's is
//! its slot's owner, where PUBLISH goes too, so that its messages keep their order. The hub knows topics and
//! [`Subscriber`]s, not sessions. What happens on a link is only noted; [`Hub::tend`], its own task's turn, acts on it.

mod counts;
mod entry;
mod events;
mod handover;
mod messages;
mod sources;
mod upkeep;
mod wire;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::backend::Backend;
use crate::net::NodeAddr;
use crate::protocol::{Push, Topics};

pub use counts::{Counts, Receivers};
use entry::{Entry, Waiting};
pub(super) use messages::Batch;
pub use messages::Messages;
use wire::{Event, Line};

/// More is not gathered before it is handed out.
const MOST_GATHERED: usize = 64 * 1024;

/// Who subscribes. No call may lead back into the hub.
pub trait Subscriber {
    /// Its number, unique in the process.
    fn id(&self) -> u64;

    /// How long it waits for a subscription, and for one that was lost to come back.
    fn patience(&self) -> Duration;

    /// Messages of a topic.
    fn take(&self, kind: Topics, name: &[u8], messages: &Messages<'_>);

    /// What it waited for is there, a subscription or its end, or the error why not.
    fn settled(&self, kind: Topics, name: &[u8], error: Option<&[u8]>);

    /// Messages may have been missed; `for_good` if the subscription does not come back.
    fn missed(&self, for_good: bool);
}

/// What the clients of one worker are subscribed to.
pub struct Hub {
    backend: Rc<Backend>,
    receivers: Receivers,
    state: RefCell<State>,
    /// What has happened on links since the last turn.
    events: RefCell<Vec<Event>>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    /// By [`Topics`].
    topics: [HashMap<Bytes, Entry>; 3],
    lines: HashMap<NodeAddr, Line>,
    /// Commands on their way.
    ops: HashMap<u64, Op>,
    /// Numbers commands and lines; 0 is none.
    last: u64,
    /// Topics that are not as they are to be.
    busy: HashSet<(Topics, Bytes)>,
    /// The routes' version that they were subscribed by.
    version: u64,
    batch: Batch,
}

/// A command on its way to a node.
struct Op {
    kind: Topics,
    name: Bytes,
    node: NodeAddr,
    what: What,
}

enum What {
    Subscribe,
    /// Who waits for it; whether the connection was subscribed.
    Leave(Option<Rc<dyn Subscriber>>, bool),
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        write!(f, "Hub of {:?} topics", state.topics.each_ref().map(HashMap::len))
    }
}

impl Hub {
    /// Nobody is subscribed to anything yet.
    pub fn new(backend: Rc<Backend>, counts: Arc<Counts>) -> Rc<Self> {
        Rc::new(Hub {
            backend,
            receivers: Receivers::new(counts),
            state: RefCell::default(),
            events: RefCell::default(),
            notify: Notify::new(),
        })
    }

    /// How many receive what is published.
    pub fn receivers(&self) -> &Receivers {
        &self.receivers
    }

    /// Subscribes to a topic. True if that is done; otherwise [`Subscriber::settled`] says when it is, or why not.
    pub fn subscribe(&self, kind: Topics, name: &[u8], subscriber: &Rc<dyn Subscriber>) -> bool {
        let mut state = self.state.borrow_mut();
        let topics = &mut state.topics[kind as usize];
        if !topics.contains_key(name) {
            let name = Bytes::copy_from_slice(name);
            topics.insert(name.clone(), Entry::new(kind, name));
        }
        let Some(entry) = topics.get_mut(name) else { return false };
        if entry.up {
            self.receivers.counts().clients(kind, &entry.name, 1);
            entry.subscribers.insert(subscriber.id(), subscriber.clone());
            return true;
        }
        let until = Instant::now() + subscriber.patience();
        entry.waiting.push(Waiting { subscriber: subscriber.clone(), until });
        let topic = (kind, entry.name.clone());
        state.busy.insert(topic);
        self.notify.notify_one();
        false
    }

    /// Ends a subscription; no more messages come. How often [`Subscriber::settled`] will be called until no node
    /// has it any more.
    pub fn unsubscribe(&self, kind: Topics, name: &[u8], subscriber: &Rc<dyn Subscriber>) -> usize {
        let mut state = self.state.borrow_mut();
        if !self.remove(&mut state, kind, name, subscriber.id()) {
            return 0;
        }
        state.topics[kind as usize]
            .remove(name)
            .map_or(0, |mut entry| self.leave_all(&mut state, &mut entry, Some(subscriber)))
    }

    /// Ends a subscription, or the waiting for one, of a subscriber that is not there any more.
    pub fn forget(&self, kind: Topics, name: &[u8], subscriber: u64) {
        let mut state = self.state.borrow_mut();
        if self.remove(&mut state, kind, name, subscriber)
            && let Some(mut entry) = state.topics[kind as usize].remove(name)
        {
            self.leave_all(&mut state, &mut entry, None);
        }
    }

    /// Takes somebody out of a topic; true if nobody is left.
    fn remove(&self, state: &mut State, kind: Topics, name: &[u8], subscriber: u64) -> bool {
        let Some(entry) = state.topics[kind as usize].get_mut(name) else { return false };
        if entry.subscribers.remove(&subscriber).is_some() && entry.up {
            self.receivers.counts().clients(kind, &entry.name, -1);
        }
        entry.waiting.retain(|waiting| waiting.subscriber.id() != subscriber);
        entry.is_abandoned()
    }

    /// A topic is subscribed, or not any more. Its subscribers count only while it is: nobody else receives anything.
    /// They and connections that are new are counted at once, so that nobody sees the one without the other.
    fn turn(&self, entry: &mut Entry, up: bool) {
        let changed = std::mem::replace(&mut entry.up, up) != up;
        let mut fresh = Vec::new();
        for source in entry.sources.iter_mut().filter(|source| source.confirmed && !source.counted) {
            source.counted = true;
            fresh.push(&source.node);
        }
        let subscribers = entry.subscribers.len() as i64;
        let clients = if !changed {
            0
        } else if up {
            subscribers
        } else {
            -subscribers
        };
        if clients != 0 || !fresh.is_empty() {
            self.receivers.counts().subscribed(entry.kind, &entry.name, clients, &fresh);
        }
    }

    /// The routes have changed, or may have.
    pub fn routes_changed(&self) {
        self.notify.notify_one();
    }

    /// Waits until there is something to tend.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    /// A node has sent a message.
    fn message(&self, line: u64, push: &Push<'_>, frame: &[u8]) {
        let mut state = self.state.borrow_mut();
        let State { topics, batch, .. } = &mut *state;
        let Some(entry) = topics[push.kind as usize].get_mut(push.topic) else { return };
        if entry.accepts(line, push.channel, frame) {
            let name = entry.name.clone();
            self.gather(topics, batch, push.kind, &name, frame);
        }
    }

    /// Adds a message to those that are handed out together, which are all of one topic.
    fn gather(
        &self,
        topics: &[HashMap<Bytes, Entry>; 3],
        batch: &mut Batch,
        kind: Topics,
        name: &Bytes,
        frame: &[u8],
    ) {
        let same = batch.topic.as_ref().is_some_and(|(k, n)| *k == kind && n == name);
        if !same || batch.len() >= MOST_GATHERED {
            self.hand_out(topics, batch);
            batch.topic = Some((kind, name.clone()));
        }
        batch.push(frame);
    }

    fn hand_out(&self, topics: &[HashMap<Bytes, Entry>; 3], batch: &mut Batch) {
        let Some((kind, name)) = batch.topic.take() else { return };
        let Some(entry) = topics[kind as usize].get(&name) else { return batch.clear() };
        let subscribers = &entry.subscribers;
        batch.hand_out(&self.backend.metrics, subscribers.len(), |messages| {
            subscribers.values().for_each(|subscriber| subscriber.take(kind, &name, messages));
        });
    }
}
