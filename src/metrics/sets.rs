//! The sets of cells: one for each worker, one for the control thread.

use super::cells::{Counter, Gauge, Histogram};
use crate::error::ErrorKind;

macro_rules! labelled {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $label:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A bound that was reached; the labels are the bounds' names.
    Reached {
        /// See [`crate::config::BOUNDS`], as for all of these.
        CommandDeadline = "command_deadline",
        /// As above.
        CommandTimeout = "command_timeout",
        /// As above.
        MaxRequest = "max_request",
        /// As above.
        MaxArguments = "max_arguments",
        /// As above.
        InputHard = "input_hard",
        /// As above.
        OutputSoft = "output_soft",
        /// As above.
        OutputHard = "output_hard",
        /// As above.
        OutputGrace = "output_grace",
        /// As above.
        StallTimeout = "stall_timeout",
        /// As above.
        SessionInFlight = "session_in_flight",
        /// As above.
        MaxHeldBytes = "max_held_bytes",
        /// As above.
        LinkQueue = "link_queue",
        /// As above.
        MaxReply = "max_reply",
        /// As above.
        LinkTimeout = "link_timeout",
        /// As above.
        ConnectTimeout = "connect_timeout",
        /// As above.
        DrainTimeout = "drain_timeout",
        /// As above.
        MaxMemory = "max_memory",
        /// As above.
        MaxClients = "max_clients",
    }
}

/// The bounds that have a level, which is shown as a share of the bound.
pub const LEVELS: &[Reached] = &[
    Reached::InputHard,
    Reached::OutputSoft,
    Reached::OutputHard,
    Reached::SessionInFlight,
    Reached::MaxHeldBytes,
    Reached::LinkQueue,
    Reached::MaxMemory,
    Reached::MaxClients,
];

labelled! {
    /// Why the proxy closed a client's connection.
    Closed {
        /// It exceeded `output_hard` and took no byte for `output_grace`.
        OutputHard = "output_hard",
        /// With `input_hard` and `output_soft` reached nothing moved for `stall_timeout`.
        StallTimeout = "stall_timeout",
        /// The process exceeded `max_memory`, and this client had most of it.
        MaxMemory = "max_memory",
        /// `on_indoubt` is `disconnect`, and a write's outcome is unknown.
        Indoubt = "indoubt",
        /// What it sent is no request, or exceeds a limit.
        Protocol = "protocol",
    }
}

labelled! {
    /// Whose bytes are kept.
    Owner {
        /// What was read from clients and is not planned yet.
        ClientInput = "client_input",
        /// Replies that their clients have still to take.
        ClientOutput = "client_output",
        /// Replies that wait for those to earlier commands, and parts of replies.
        EarlyReplies = "early_replies",
        /// Requests of commands that are held.
        Held = "held",
        /// Requests kept for nodes until their replies come.
        LinkRequests = "link_requests",
        /// Replies that nodes have not sent in full.
        LinkReplies = "link_replies",
    }
}

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
    /// Attempts to open a connection to a node.
    pub dials: Counter,
    /// By [`DialFailure::index`].
    pub dial_failures: [Counter; DialFailure::ALL.len()],
    /// Open shared connections to nodes.
    pub links: Gauge,
    /// How often each bound was reached, by [`Reached::index`].
    pub reached: [Counter; Reached::ALL.len()],
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
            kept: Kept::default(),
            used: Default::default(),
            closed: Default::default(),
            abandoned: Counter::default(),
            in_flight: Gauge::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            dials: Counter::default(),
            dial_failures: Default::default(),
            links: Gauge::default(),
            reached: Default::default(),
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
    /// How often each bound was reached that this thread keeps, by [`Reached::index`].
    pub reached: [Counter; Reached::ALL.len()],
}
