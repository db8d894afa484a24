//! What the refresher and the workers share.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::{mpsc, watch};

use super::Cause;
use super::snapshot::Snapshot;
use crate::command::Learned;
use crate::net::NodeAddr;

/// As many requests for a refresh may wait; more say nothing new.
const REQUESTS: usize = 256;

/// A wish for a refresh, if possible of a certain node.
pub(super) type Wish = (Cause, Option<NodeAddr>);

/// What a node calls itself in the reply to HELLO.
#[derive(Clone, Debug)]
pub struct ServerName {
    /// `redis`, or `valkey`.
    pub product: String,
    /// Its version, as `7.0.15`.
    pub version: String,
}

/// What the refresher and the workers share.
#[derive(Debug)]
pub struct Shared {
    pub(super) snapshot: ArcSwapOption<Snapshot>,
    pub(super) server: ArcSwapOption<ServerName>,
    pub(super) learned: ArcSwap<Learned>,
    wishes: mpsc::Sender<Wish>,
    published: watch::Receiver<u64>,
}

impl Shared {
    /// Nothing is known yet; with the refresher's ends of the channels.
    pub(super) fn new() -> (Self, mpsc::Receiver<Wish>, watch::Sender<u64>) {
        let (sender, wishes) = mpsc::channel(REQUESTS);
        let (publish, published) = watch::channel(0);
        let (snapshot, server) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        let learned = ArcSwap::default();
        (Shared { snapshot, server, learned, wishes: sender, published }, wishes, publish)
    }

    /// The latest snapshot, once there is one.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// What a node said it is, once one did.
    pub fn server_name(&self) -> Option<Arc<ServerName>> {
        self.server.load_full()
    }

    /// The commands beside the table's that the nodes have told of; not for the path of those that the table has.
    pub fn learned(&self) -> Guard<Arc<Learned>> {
        self.learned.load()
    }

    /// Counts the published snapshots: to wait for the next one.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.clone()
    }

    /// Asks for a refresh, if possible of `node`; returns at once and never fails: when as many
    /// requests wait already, one more says nothing new.
    pub fn ask(&self, cause: Cause, node: Option<&NodeAddr>) {
        _ = self.wishes.try_send((cause, node.cloned()));
    }
}
