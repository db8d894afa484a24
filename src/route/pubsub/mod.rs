//! What one worker's clients are subscribed to, on one connection to each node that they share.
//!
//! A topic (a channel, a pattern, a channel of a shard) has a *home*, the node whose messages count. A channel's is
//! its slot's owner, where PUBLISH goes too, so that its messages keep their order. The hub knows topics and
//! [`Subscriber`]s, not sessions. What happens on a link is only noted; [`Hub::tend`], its own task's turn, acts on it.

mod agenda;
mod counts;
mod delivered;
mod entry;
mod events;
mod handover;
mod messages;
mod sources;
mod upkeep;
mod wire;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::backend::Backend;
use crate::error::ClientError;
use crate::net::NodeAddr;
use crate::protocol::{Push, Topics};

use agenda::Agenda;
pub use counts::{Counts, Receivers};
use entry::Entry;
pub(super) use messages::Batch;
pub use messages::Messages;
use wire::{Event, Line};

/// No table is made smaller than this.
const SMALL: usize = 1024;
/// More is not gathered before it is handed out.
const MOST_GATHERED: usize = 64 * 1024;

/// Who subscribes. No call may lead back into the hub.
pub trait Subscriber {
    /// Its number, unique in the process.
    fn id(&self) -> u64;

    /// How long it waits for a subscription that was lost to come back.
    fn patience(&self) -> Duration;

    /// Messages of a topic.
    fn take(&self, kind: Topics, name: &[u8], messages: &Messages<'_>);

    /// What it waited for is there, a subscription or its end, or the error why not.
    fn settled(&self, kind: Topics, name: &[u8], error: Option<&Bytes>);

    /// Messages may have been missed; `for_good` if the subscription does not come back.
    fn missed(&self, for_good: bool);
}

/// What the clients of one worker are subscribed to.
pub struct Hub {
    backend: Rc<Backend>,
    receivers: Receivers,
    state: RefCell<State>,
    /// What has happened on links since the last turn.
    events: RefCell<VecDeque<Event>>,
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
    /// Topics that are not as they are to be, or may not be.
    agenda: Agenda,
    /// Nodes that the last try to connect to has failed for.
    unreachable: HashSet<NodeAddr>,
    /// The routes' version that they were subscribed by.
    version: u64,
    batch: Batch,
}

/// A command on its way to a node.
struct Op {
    kind: Topics,
    name: Bytes,
    node: NodeAddr,
    line: u64,
    what: What,
}

impl Op {
    fn leaves_shard(&self) -> bool {
        self.kind == Topics::Shards && matches!(self.what, What::Leave(..))
    }
}

enum What {
    Subscribe,
    /// Show that the connection lives.
    Sign,
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

    /// Subscribes to a topic. True if [`Subscriber::settled`] will say when that is done, or why not; otherwise it is
    /// done, or has been asked for before.
    pub fn subscribe(&self, kind: Topics, name: &Bytes, subscriber: &Rc<dyn Subscriber>) -> bool {
        let mut state = self.state.borrow_mut();
        let State { topics, agenda, .. } = &mut *state;
        let entry = topics[kind as usize].entry(name.clone());
        let entry = entry.or_insert_with_key(|name| Entry::new(kind, name.clone()));
        if entry.up {
            if entry.subscribers.insert(subscriber.id(), subscriber.clone()).is_none() {
                self.receivers.counts().clients(kind, &entry.name, 1);
            }
            return false;
        }
        agenda.push(entry.topic());
        self.notify.notify_one();
        entry.waiting.insert(subscriber.id(), subscriber.clone()).is_none()
    }

    /// Somebody does not wait for a topic any more: what the cluster says against it, if it has waited till now.
    pub fn give_up(&self, kind: Topics, name: &Bytes, subscriber: u64) -> Option<Bytes> {
        let mut state = self.state.borrow_mut();
        let entry = state.topics[kind as usize].get_mut(name)?;
        entry.waiting.remove(&subscriber)?;
        let own = || ClientError::ClusterDown { reason: "Hash slot not served".into() }.reply().into();
        let error = entry.trouble.clone().unwrap_or_else(own);
        if entry.is_abandoned() {
            self.end(&mut state, kind, name, None);
        }
        Some(error)
    }

    /// Ends a subscription; no more messages come. How often [`Subscriber::settled`] will be called until no node
    /// has it any more.
    pub fn unsubscribe(&self, kind: Topics, name: &Bytes, subscriber: &Rc<dyn Subscriber>) -> usize {
        let mut state = self.state.borrow_mut();
        if !self.remove(&mut state, kind, name, subscriber.id()) {
            return 0;
        }
        self.end(&mut state, kind, name, Some(subscriber))
    }

    /// Ends a subscription, or the waiting for one, of a subscriber that is not there any more.
    pub fn forget(&self, kind: Topics, name: &Bytes, subscriber: u64) {
        let mut state = self.state.borrow_mut();
        if self.remove(&mut state, kind, name, subscriber) {
            self.end(&mut state, kind, name, None);
        }
    }

    /// Takes somebody out of a topic; true if nobody is left.
    fn remove(&self, state: &mut State, kind: Topics, name: &Bytes, subscriber: u64) -> bool {
        let Some(entry) = state.topics[kind as usize].get_mut(name) else { return false };
        if entry.subscribers.remove(&subscriber).is_some() && entry.up {
            self.receivers.counts().clients(kind, &entry.name, -1);
        }
        entry.waiting.remove(&subscriber);
        entry.is_abandoned()
    }

    /// Nobody wants a topic any more; how many nodes were told.
    fn end(
        &self,
        state: &mut State,
        kind: Topics,
        name: &Bytes,
        subscriber: Option<&Rc<dyn Subscriber>>,
    ) -> usize {
        let Some(mut entry) = state.topics[kind as usize].remove(name) else { return 0 };
        state.agenda.forget(&entry.topic());
        self.leave_all(state, &mut entry, subscriber)
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
        let State { topics, batch, agenda, .. } = &mut *state;
        let Some(entry) = topics[push.kind as usize].get_mut(push.topic) else { return };
        if entry.accepts(line, push.channel, frame) {
            let name = entry.name.clone();
            self.gather(topics, batch, push.kind, &name, frame);
        } else if entry.handover.as_ref().is_some_and(|handover| handover.is_full()) {
            agenda.push(entry.topic());
            self.notify.notify_one();
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

/// Whether a table of topics, or of what happens to them, is to be made smaller: there may have been very many.
pub fn is_much_too_large(capacity: usize, len: usize) -> bool {
    capacity > SMALL.max(8 * len)
}
