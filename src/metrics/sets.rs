//! The sets of cells: one for each worker, one for the control thread.

use super::cells::{Counter, Gauge, Histogram};
use crate::error::ErrorKind;

macro_rules! labelled {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $label:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $kind,)*
        }

        impl $name {
            /// Every value, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The value of the metric's label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$kind => $label,)* }
            }

            /// The place in [`ALL`](Self::ALL).
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labelled! {
    /// What a node said, or did, that made the proxy plan a command again.
    Redirect {
        /// The slot belongs to another node.
        Moved = "moved",
        /// This key is being asked for at another node.
        Ask = "ask",
        /// Some keys of the command have moved and others have not.
        TryAgain = "tryagain",
        /// The node sees the cluster, or the slot, as down.
        ClusterDown = "clusterdown",
        /// The node still reads its data set.
        Loading = "loading",
        /// The node is a replica.
        ReadOnly = "readonly",
        /// The node is a replica that lost its primary.
        MasterDown = "masterdown",
        /// The connection was lost or could not be opened.
        Lost = "lost",
    }
}

labelled! {
    /// Why a connection to a node could not be opened.
    DialFailure {
        /// Nobody listens.
        Refused = "refused",
        /// `connect_timeout` passed.
        Timeout = "timeout",
        /// The node refused the login: NOAUTH, WRONGPASS, NOPERM, DENIED.
        Auth = "auth",
        /// The node has no connection left.
        MaxClients = "max_clients",
        /// Anything else.
        Other = "other",
    }
}

labelled! {
    /// How a refresh of the topology ended.
    Refresh {
        /// The table changed.
        Changed = "changed",
        /// It is as it was.
        Unchanged = "unchanged",
        /// No node gave a usable answer.
        Failed = "failed",
    }
}

labelled! {
    /// Why the topology is asked for.
    Cause {
        /// The proxy has just started, or knows no cluster yet.
        Start = "start",
        /// Nobody asked for so long: it is time to look.
        Periodic = "periodic",
        /// MOVED or ASK, or a node that is not known.
        Redirect = "redirect",
        /// CLUSTERDOWN, READONLY, or a slot without an owner.
        Uncovered = "uncovered",
        /// A link was lost or refused.
        Connection = "connection",
    }
}

/// What one worker counts. That worker's thread alone writes it.
#[derive(Debug)]
#[repr(align(128))] // Two workers' counts never share a cache line, or the pair that is fetched together.
pub struct WorkerMetrics {
    /// Clients connected.
    pub clients: Gauge,
    /// Connections taken over from the acceptor.
    pub connections: Counter,
    /// Time from a request's framing to its reply's last byte, by command family.
    pub latency: Box<[Histogram]>,
    /// Errors that the proxy gave, by [`ErrorKind::index`].
    pub errors: [Counter; ErrorKind::ALL.len()],
    /// Errors of nodes that were passed on.
    pub server_errors: Counter,
    /// By [`Redirect::index`].
    pub redirects: [Counter; Redirect::ALL.len()],
    /// Commands that were sent once more.
    pub replays: Counter,
    /// Commands that wait for a slot's owner or for a retry.
    pub held: Gauge,
    /// The bytes of those.
    pub held_bytes: Gauge,
    /// Commands dropped because their client left.
    pub abandoned: Counter,
    /// Commands that wait for a node's reply.
    pub in_flight: Gauge,
    /// Bytes read from clients.
    pub bytes_in: Counter,
    /// Bytes written to clients.
    pub bytes_out: Counter,
    /// Attempts to open a connection to a node.
    pub dials: Counter,
    /// By [`DialFailure::index`].
    pub dial_failures: [Counter; DialFailure::ALL.len()],
    /// Open shared connections to nodes.
    pub links: Gauge,
}

impl WorkerMetrics {
    pub(super) fn new(families: usize) -> Self {
        Self {
            clients: Gauge::default(),
            connections: Counter::default(),
            latency: (0..families).map(|_| Histogram::default()).collect(),
            errors: Default::default(),
            server_errors: Counter::default(),
            redirects: Default::default(),
            replays: Counter::default(),
            held: Gauge::default(),
            held_bytes: Gauge::default(),
            abandoned: Counter::default(),
            in_flight: Gauge::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            dials: Counter::default(),
            dial_failures: Default::default(),
            links: Gauge::default(),
        }
    }
}

/// What the control thread counts. It alone writes it.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    /// Connections closed at `max_clients`.
    pub rejected: Counter,
    /// Failed calls of `accept`.
    pub accept_errors: Counter,
    /// The version of the published table; 0 before the first.
    pub topology_version: Gauge,
    /// Slots without an owner in it.
    pub slots_uncovered: Gauge,
    /// By [`Refresh::index`].
    pub refreshes: [Counter; Refresh::ALL.len()],
    /// The same by [`Cause::index`].
    pub refreshes_by_cause: [Counter; Cause::ALL.len()],
    /// 1 while none of the nodes that were asked says that the cluster is well.
    pub cluster_down: Gauge,
    /// 1 while the nodes refuse every slot because one of them has no owner.
    pub refuses_all: Gauge,
    /// Seeds that are no part of the cluster.
    pub foreign_seeds: Gauge,
}
