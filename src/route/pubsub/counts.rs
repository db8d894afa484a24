//! Who of this process's clients is subscribed to what, and which of its connections are, so that numbers which the
//! nodes tell can be told in clients.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::is_much_too_large;
use crate::command::glob;
use crate::net::NodeAddr;
use crate::protocol::Topics;

/// A worker remembers the corrections of so many channels.
const REMEMBERED: usize = 1024;

/// What all workers are subscribed to at one cluster. The lock is taken when somebody subscribes or leaves, and when
/// a number is asked for after that.
#[derive(Debug, Default)]
pub struct Counts {
    /// Goes up with every change; 0 while nobody has ever subscribed.
    version: AtomicU64,
    topics: Mutex<[HashMap<Bytes, Count>; 3]>,
}

#[derive(Debug, Default)]
struct Count {
    clients: i64,
    /// The workers' connections that are subscribed, by node: few.
    connections: Vec<(NodeAddr, i64)>,
}

impl Counts {
    /// Adds clients to a topic, or takes them away.
    pub(super) fn clients(&self, kind: Topics, name: &Bytes, change: i64) {
        self.change(kind, name, |count| count.clients += change);
    }

    /// So many more clients, or fewer, and connections to these nodes are subscribed to a topic now.
    pub(super) fn subscribed(&self, kind: Topics, name: &Bytes, clients: i64, nodes: &[&NodeAddr]) {
        self.change(kind, name, |count| {
            count.clients += clients;
            nodes.iter().for_each(|node| count.connect(node, 1));
        });
    }

    /// A connection to `node` is subscribed to a topic now, or not any more.
    pub(super) fn connections(&self, kind: Topics, name: &Bytes, node: &NodeAddr, change: i64) {
        self.change(kind, name, |count| count.connect(node, change));
    }

    fn change(&self, kind: Topics, name: &Bytes, change: impl FnOnce(&mut Count)) {
        let mut topics = self.lock();
        let topics = &mut topics[kind as usize];
        let count = topics.entry(name.clone()).or_default();
        change(count);
        if count.clients == 0 && count.connections.is_empty() {
            topics.remove(name);
            if is_much_too_large(topics.capacity(), topics.len()) {
                topics.shrink_to(2 * topics.len());
            }
        }
        self.version.fetch_add(1, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, [HashMap<Bytes, Count>; 3]> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to add to the number of subscribers that all nodes have together.
    pub(crate) fn beyond_all(&self, kind: Topics, name: &[u8]) -> i64 {
        let topics = self.lock();
        let count = topics[kind as usize].get(name);
        count.map_or(0, |count| count.clients - count.connections.iter().map(|(_, count)| count).sum::<i64>())
    }

    /// What to add to the number of patterns that all nodes have together: each node counts a pattern once.
    pub(crate) fn beyond_patterns(&self) -> i64 {
        let topics = self.lock();
        topics[Topics::Patterns as usize].values().map(Count::beyond_unique).sum()
    }

    /// What to add to the number of receivers that `node` gave for a message.
    fn beyond(&self, kind: Topics, channel: &[u8], node: &NodeAddr) -> i64 {
        let topics = self.lock();
        let of = |count: &Count| count.clients - count.connections_to(node);
        let own = topics[kind as usize].get(channel).map_or(0, of);
        if kind == Topics::Shards {
            return own;
        }
        let patterns = topics[Topics::Patterns as usize].iter();
        own + patterns.filter(|(name, _)| glob::matches(name, channel, true)).map(|(_, c)| of(c)).sum::<i64>()
    }
}

impl Count {
    fn connect(&mut self, node: &NodeAddr, change: i64) {
        let at = self.connections.iter().position(|(known, _)| known == node).unwrap_or_else(|| {
            self.connections.reserve_exact(1);
            self.connections.push((node.clone(), 0));
            self.connections.len() - 1
        });
        self.connections[at].1 += change;
        if self.connections[at].1 == 0 {
            self.connections.remove(at);
        }
    }

    fn connections_to(&self, node: &NodeAddr) -> i64 {
        self.connections.iter().find(|(known, _)| known == node).map_or(0, |(_, count)| *count)
    }

    fn beyond_unique(&self) -> i64 {
        i64::from(self.clients > 0) - self.connections.len() as i64
    }
}

/// One worker's view of the counts, by which a message costs no lock while nobody comes or goes.
#[derive(Debug)]
pub struct Receivers {
    counts: Arc<Counts>,
    version: Cell<u64>,
    known: RefCell<HashMap<(Topics, NodeAddr, Bytes), i64>>,
}

impl Receivers {
    pub(super) fn new(counts: Arc<Counts>) -> Self {
        Receivers { counts, version: Cell::new(0), known: RefCell::default() }
    }

    /// Whether any client of the process has ever subscribed: until then no number needs to be changed.
    #[inline]
    #[must_use]
    pub fn any(&self) -> bool {
        self.counts.version.load(Relaxed) != 0
    }

    /// What to add to the number of receivers that `node` gives for a message.
    #[must_use]
    pub fn beyond(&self, kind: Topics, channel: &[u8], node: &NodeAddr) -> i64 {
        let version = self.counts.version.load(Relaxed);
        let mut known = self.known.borrow_mut();
        if self.version.replace(version) != version || known.len() >= REMEMBERED {
            known.clear();
        }
        let key = (kind, node.clone(), Bytes::copy_from_slice(channel));
        *known.entry(key).or_insert_with(|| self.counts.beyond(kind, channel, node))
    }

    /// The counts of all workers.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_replaced_by_clients() {
        let counts = Arc::new(Counts::default());
        let receivers = Receivers::new(counts.clone());
        let (one, two) = (NodeAddr::new("a", 1), NodeAddr::new("a", 2));
        let receive = |node: &NodeAddr, told| told + receivers.beyond(Topics::Channels, b"news", node);
        assert!(!receivers.any());
        assert_eq!(receive(&one, 3), 3);
        let (channel, pattern) = (Bytes::from("news"), Bytes::from("n*"));
        counts.clients(Topics::Channels, &channel, 10);
        counts.connections(Topics::Channels, &channel, &one, 2);
        counts.clients(Topics::Patterns, &pattern, 1);
        counts.connections(Topics::Patterns, &pattern, &two, 1);
        assert!(receivers.any());
        // One of the three is no connection of this process; the pattern's home is another node.
        assert_eq!((receive(&one, 3), receive(&two, 1)), (12, 11));
        assert_eq!(counts.beyond_all(Topics::Channels, b"news"), 8);
        assert_eq!(counts.beyond_patterns(), 0);
        counts.clients(Topics::Channels, &channel, -10);
        counts.connections(Topics::Channels, &channel, &one, -2);
        assert_eq!((receive(&one, 1), counts.beyond_all(Topics::Channels, b"news")), (2, 0));
    }
}
