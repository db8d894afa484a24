//! One topic: who is subscribed to it, and on which connections it is.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::Subscriber;
use super::agenda::Topic;
use super::handover::{Handover, PRELUDE, Side};
use crate::command::glob;
use crate::net::NodeAddr;
use crate::protocol::Topics;
use crate::topology::slot_of;

/// What the channels of keyspace notifications begin with. A node tells them only its own connections.
const EVENTS: [&[u8]; 2] = [b"__keyspace@", b"__keyevent@"];

/// Where a topic is subscribed, or is about to be.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) node: NodeAddr,
    /// The number of the connection.
    pub(super) line: u64,
    /// The number of the command that subscribes.
    pub(super) op: u64,
    /// Whether the node has confirmed it.
    pub(super) confirmed: bool,
    /// Whether it is among those that are counted.
    pub(super) counted: bool,
    pub(super) phase: Phase,
    /// Whether the node has had slots since.
    pub(super) served: bool,
}

/// Whether a connection is there to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Steady,
    /// It takes over from one that leaves.
    Arriving,
    Leaving,
}

/// One topic.
pub(super) struct Entry {
    pub(super) kind: Topics,
    pub(super) name: Bytes,
    pub(super) slot: u16,
    /// Whether keyspace notifications may come on it: then it is subscribed at every primary.
    pub(super) spread: bool,
    pub(super) subscribers: HashMap<u64, Rc<dyn Subscriber>>,
    pub(super) waiting: HashMap<u64, Rc<dyn Subscriber>>,
    pub(super) sources: Vec<Source>,
    /// The node whose plain messages count: every node has them.
    pub(super) home: Option<NodeAddr>,
    pub(super) handover: Option<Box<Handover>>,
    /// Whether it is subscribed wherever it is to be.
    pub(super) up: bool,
    /// The node that has ended it, and until when that one is not asked again: a replica would take it.
    pub(super) dropped: Option<(NodeAddr, Instant)>,
    /// Since when a shard's channel belongs to another node than the one on which it is heard.
    pub(super) belongs_elsewhere: Option<Instant>,
    /// The last thing that the cluster said against it.
    pub(super) trouble: Option<Bytes>,
    /// Since when messages may be missed.
    pub(super) lost_since: Option<Instant>,
    /// When it is looked at if nothing happens until then.
    pub(super) alarm: Option<Instant>,
}

impl Entry {
    pub(super) fn new(kind: Topics, name: Bytes) -> Self {
        let spread = match kind {
            Topics::Channels => is_event(&name),
            Topics::Patterns => EVENTS.iter().any(|prefix| glob::may_begin(&name, prefix)),
            Topics::Shards => false,
        };
        Entry {
            kind,
            slot: slot_of(&name),
            name,
            spread,
            subscribers: HashMap::new(),
            waiting: HashMap::new(),
            sources: Vec::new(),
            home: None,
            handover: None,
            up: false,
            dropped: None,
            belongs_elsewhere: None,
            trouble: None,
            lost_since: None,
            alarm: None,
        }
    }

    /// Whether a message on `channel` that came on this connection is to be delivered now.
    pub(super) fn accepts(&mut self, line: u64, channel: &[u8], frame: &[u8]) -> bool {
        let Some(source) = self.sources.iter().find(|source| source.line == line) else { return false };
        let event = self.spread && is_event(channel);
        let Some(handover) = &mut self.handover else {
            return event || self.home.as_ref() == Some(&source.node);
        };
        let now = Instant::now();
        let side = match (event, source.phase) {
            (true, Phase::Steady) if handover.is_cut() => return true,
            // A replica tells the events of its primary: of both one may be steady.
            (true, Phase::Steady) => Side::Old,
            (true, Phase::Arriving) => Side::New,
            (true, Phase::Leaving) => Side::Old,
            (false, _) if handover.from.is_none() => return self.home.as_ref() == Some(&source.node),
            (false, _) if handover.to == source.node && handover.is_early(now) => {
                handover.shown(frame);
                return false;
            }
            (false, _) if handover.to == source.node => Side::New,
            (false, _) if handover.from.as_ref() == Some(&source.node) => Side::Old,
            (false, _) => return false,
        };
        handover.take(side, line, frame, now)
    }

    pub(super) fn source_at(&self, node: &NodeAddr) -> Option<&Source> {
        self.sources.iter().find(|source| source.node == *node)
    }

    /// Whether a shard's channel may be asked for at its home. As long as another node of the shard tells it, that waits
    /// until what was told there has come to all: the new one would tell it again.
    pub(super) fn may_leave(&mut self, home: &NodeAddr, now: Instant) -> bool {
        let is_heard = self.up && self.sources.iter().any(|source| source.confirmed);
        if !is_heard || self.source_at(home).is_some() {
            self.belongs_elsewhere = None;
            return true;
        }
        now >= *self.belongs_elsewhere.get_or_insert(now) + PRELUDE
    }

    /// Whether the node has confirmed it.
    pub(super) fn is_at(&self, node: &NodeAddr) -> bool {
        self.source_at(node).is_some_and(|source| source.confirmed)
    }

    pub(super) fn topic(&self) -> Topic {
        (self.kind, self.name.clone())
    }

    /// The next time at which something becomes of it by itself.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let handover = self.handover.as_ref().map(|handover| handover.next(now));
        let late = |since| self.subscribers.values().map(move |subscriber| since + subscriber.patience());
        let dropped = self.dropped.as_ref().map(|(_, until)| *until);
        let may_ask = self.belongs_elsewhere.map(|since| since + PRELUDE);
        let times = self.lost_since.into_iter().flat_map(late).chain(handover).chain(dropped).chain(may_ask);
        times.filter(|time| *time > now).min()
    }

    /// Whether nobody wants it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.subscribers.is_empty() && self.waiting.is_empty()
    }

    /// Whether the loss of this connection, which it was subscribed on, means that messages are missed.
    pub(super) fn needs(&self, lost: &Source) -> bool {
        let is_home = self.home.as_ref() == Some(&lost.node);
        match &self.handover {
            _ if !lost.confirmed || !self.up => false,
            Some(handover) if lost.phase == Phase::Arriving => is_home || handover.is_alone(),
            Some(handover) if lost.phase == Phase::Leaving => !handover.is_safe(),
            _ => is_home || self.spread,
        }
    }
}

/// Whether a channel is one of keyspace notifications.
fn is_event(channel: &[u8]) -> bool {
    EVENTS.iter().any(|prefix| channel.starts_with(prefix))
}
