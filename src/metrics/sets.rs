//! The sets of cells: one for each worker, one for the control thread, one for each cluster.

use std::sync::Arc;
use std::time::Instant;

use super::cells::{Counter, Gauge, Histogram};
use super::commands::ByCommand;
use super::labels::{Cause, Closed, Owner, Phase, Reached, Redirect, Refresh, ServerError};
use super::nodes::{NodeCells, Nodes};
use crate::error::ErrorKind;
use crate::net::NodeAddr;

/// The bounds that have a level, which is shown as a share of the bound.
pub const LEVELS: &[Reached] = &[
    Reached::InputHard,
    Reached::OutputSoft,
    Reached::OutputHard,
    Reached::SessionInFlight,
    Reached::MaxHeldBytes,
    Reached::LinkQueue,
    Reached::MaxConnectionsPerNode,
    Reached::DedicatedPerNode,
    Reached::MaxMemory,
    Reached::MaxClients,
];

/// What one worker keeps, by owner and in all.
#[derive(Debug, Default)]
pub struct Kept {
    by_owner: [Gauge; Owner::ALL.len()],
    all: Gauge,
}

impl Kept {
    /// Adds bytes, or takes them away. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, owner: Owner, bytes: i64) {
        self.by_owner[owner as usize].add(bytes);
        self.all.add(bytes);
    }

    /// Bytes of one owner.
    #[must_use]
    pub fn of(&self, owner: Owner) -> &Gauge {
        &self.by_owner[owner as usize]
    }

    /// Bytes of all owners.
    #[inline]
    #[must_use]
    pub fn all(&self) -> i64 {
        self.all.value()
    }
}

/// What one worker counts. That worker's thread alone writes it.
#[derive(Debug)]
#[repr(align(128))] // Two workers' counts never share a cache line, or the pair that is fetched together.
pub struct WorkerMetrics {
    /// What its clock counts from.
    pub begun: Instant,
    index: usize,
    workers: usize,
    nodes: Arc<Nodes>,
    /// Clients connected.
    pub clients: Gauge,
    /// Connections taken over from the acceptor.
    pub connections: Counter,
    /// Time from a request's framing to its reply's last byte, by command family.
    pub latency: Box<[Histogram]>,
    /// Requests answered, by command; the last is what names none.
    pub requests: Box<[Counter]>,
    /// Errors that the proxy gave, by [`ErrorKind::index`].
    pub(super) errors: ByCommand<{ ErrorKind::ALL.len() }>,
    /// Errors of nodes that were passed on, by [`ServerError::index`].
    pub(super) server_errors: ByCommand<{ ServerError::ALL.len() }>,
    /// Nanoseconds that requests spent, by [`Phase::index`].
    pub phase_nanos: [Counter; Phase::ALL.len()],
    /// By [`Redirect::index`].
    pub redirects: [Counter; Redirect::ALL.len()],
    /// Commands that were sent once more.
    pub replays: Counter,
    /// Commands that wait for a slot's owner or for a retry.
    pub held: Gauge,
    /// Sessions that wait in line for a connection of their own.
    pub waiting: Gauge,
    /// Bytes kept.
    pub kept: Kept,
    /// How much of each bound in [`LEVELS`] is in use, in millionths, by [`Reached::index`].
    pub used: [Gauge; Reached::ALL.len()],
    /// Client connections that were closed, by [`Closed::index`].
    pub closed: [Counter; Closed::ALL.len()],
    /// Commands dropped because their client left.
    pub abandoned: Counter,
    /// Commands that wait for a node's reply.
    pub in_flight: Gauge,
    /// Bytes read from clients.
    pub bytes_in: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// How often each bound was reached, by [`Reached::index`].
    pub reached: [Counter; Reached::ALL.len()],
}

impl WorkerMetrics {
    pub(super) fn new(
        begun: Instant,
        (index, workers): (usize, usize),
        nodes: Arc<Nodes>,
        families: usize,
        commands: usize,
    ) -> Self {
        Self {
            begun,
            index,
            workers,
            nodes,
            clients: Gauge::default(),
            connections: Counter::default(),
            latency: (0..families).map(|_| Histogram::default()).collect(),
            requests: (0..=commands).map(|_| Counter::default()).collect(),
            errors: ByCommand::new(commands),
            server_errors: ByCommand::new(commands),
            phase_nanos: Default::default(),
            redirects: Default::default(),
            replays: Counter::default(),
            held: Gauge::default(),
            waiting: Gauge::default(),
            kept: Kept::default(),
            used: Default::default(),
            closed: Default::default(),
            abandoned: Counter::default(),
            in_flight: Gauge::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            reached: Default::default(),
        }
    }

    /// Counts an error that the proxy gave; `command` is the command's place in the table, if it is one.
    pub fn error(&self, command: Option<u16>, kind: ErrorKind) {
        self.errors.count(command, kind.index());
    }

    /// Counts a node's error that is passed on; `command` as in [`error`](Self::error).
    pub fn server_error(&self, command: Option<u16>, code: ServerError) {
        self.server_errors.count(command, code.index());
    }

    /// This worker's cells of a node; they are shown until no worker holds that node's.
    #[must_use]
    pub fn node(&self, cluster: &Arc<str>, addr: &NodeAddr) -> NodeCells {
        self.nodes.cells(cluster, addr, self.index, self.workers)
    }
}

/// What the control thread counts. It alone writes it.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    /// Connections closed at `max_clients`.
    pub rejected: Counter,
    /// Failed calls of `accept`.
    pub accept_errors: Counter,
    /// How often each bound was reached that this thread keeps, by [`Reached::index`].
    pub reached: [Counter; Reached::ALL.len()],
}

/// What is known of one cluster's topology. The control thread alone writes it.
#[derive(Debug)]
pub struct ClusterMetrics {
    /// What the configuration calls it.
    pub name: Arc<str>,
    begun: Instant,
    /// When a refresh last got an answer, in nanoseconds since `begun`.
    answered: Gauge,
    /// The version of the published table; 0 before the first.
    pub topology_version: Gauge,
    /// Primaries in it.
    pub shards: Gauge,
    /// Slots without an owner in it.
    pub slots_uncovered: Gauge,
    /// 1 while none of the nodes that were asked says that the cluster is well.
    pub cluster_down: Gauge,
    /// 1 while the nodes refuse every slot because one of them has no owner.
    pub refuses_all: Gauge,
    /// Seeds that are no part of the cluster.
    pub foreign_seeds: Gauge,
    /// By [`Refresh::index`].
    pub refreshes: [Counter; Refresh::ALL.len()],
    /// The same by [`Cause::index`].
    pub refreshes_by_cause: [Counter; Cause::ALL.len()],
}

impl ClusterMetrics {
    pub(super) fn new(name: Arc<str>, begun: Instant) -> Self {
        Self {
            name,
            begun,
            answered: Gauge::default(),
            topology_version: Gauge::default(),
            shards: Gauge::default(),
            slots_uncovered: Gauge::default(),
            cluster_down: Gauge::default(),
            refuses_all: Gauge::default(),
            foreign_seeds: Gauge::default(),
            refreshes: Default::default(),
            refreshes_by_cause: Default::default(),
        }
    }

    /// Notes that a refresh has got an answer.
    pub fn answered(&self) {
        self.answered.set(self.begun.elapsed().as_nanos() as i64);
    }

    /// Seconds since a refresh got an answer, or since the start if none has.
    #[must_use]
    pub fn age(&self) -> f64 {
        (self.begun.elapsed().as_nanos() as i64 - self.answered.value()).max(0) as f64 / 1e9
    }
}
