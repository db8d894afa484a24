//! The values of labels: each label's are an enum, so that nothing that a client or a node says becomes one.

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
        /// The node has fewer replicas than it must have to take writes.
        NoReplicas = "noreplicas",
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
        /// A command for all shards, which no redirect corrects.
        AllShards = "all_shards",
    }
}

labelled! {
    /// What a request's time is spent on beyond the proxy's own work.
    Phase {
        /// Planned, and not yet written to the node.
        Queue = "queue",
        /// Written, and not yet answered.
        Node = "node",
        /// Held, redirected or waiting to be repeated.
        Redirect = "redirect",
    }
}

labelled! {
    /// Where a link is in its life.
    LinkState {
        /// It is being dialled.
        Opening = "opening",
        /// Commands are written to it.
        Up = "up",
        /// It ends when its last reply has come.
        Leaving = "leaving",
    }
}

labelled! {
    /// The code of a node's error, its first word; the labels are those words in lower case.
    ServerError {
        /// As a server means it, like all of these.
        Err = "err",
        /// As above.
        WrongType = "wrongtype",
        /// As above.
        Oom = "oom",
        /// As above.
        NoScript = "noscript",
        /// As above.
        NoPerm = "noperm",
        /// As above.
        Busy = "busy",
        /// As above.
        NotBusy = "notbusy",
        /// As above.
        BusyKey = "busykey",
        /// As above.
        BusyGroup = "busygroup",
        /// As above.
        NoGroup = "nogroup",
        /// As above.
        CrossSlot = "crossslot",
        /// As above.
        Moved = "moved",
        /// As above.
        Ask = "ask",
        /// As above.
        TryAgain = "tryagain",
        /// As above.
        ClusterDown = "clusterdown",
        /// As above.
        Loading = "loading",
        /// As above.
        ReadOnly = "readonly",
        /// As above.
        MasterDown = "masterdown",
        /// As above.
        NoAuth = "noauth",
        /// As above.
        ExecAbort = "execabort",
        /// As above.
        Misconf = "misconf",
        /// As above.
        NoReplicas = "noreplicas",
        /// As above.
        Unblocked = "unblocked",
        /// As above.
        Unkillable = "unkillable",
        /// A script's, a module's or a newer server's.
        Other = "other",
    }
}

impl ServerError {
    /// The code of an error reply, `-` included.
    #[must_use]
    pub fn of(reply: &[u8]) -> Self {
        let text = reply.strip_prefix(b"-").unwrap_or(reply);
        let code = text.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).next().unwrap_or_default();
        let known = Self::ALL.iter().find(|known| known.label().as_bytes().eq_ignore_ascii_case(code));
        known.copied().unwrap_or(Self::Other)
    }
}

labelled! {
    /// A bound that was reached: each is the one of that name in [`crate::config::BOUNDS`].
    #[allow(missing_docs)]
    Reached {
        CommandDeadline = "command_deadline",
        CommandTimeout = "command_timeout",
        MaxRequest = "max_request",
        MaxArguments = "max_arguments",
        InputHard = "input_hard",
        OutputSoft = "output_soft",
        OutputHard = "output_hard",
        OutputGrace = "output_grace",
        StallTimeout = "stall_timeout",
        ClientTimeout = "client_timeout",
        HandshakeTimeout = "handshake_timeout",
        SessionInFlight = "session_in_flight",
        PubsubOutputHard = "pubsub_output_hard",
        PubsubOutputSoft = "pubsub_output_soft",
        PubsubOutputGrace = "pubsub_output_grace",
        MaxHeldBytes = "max_held_bytes",
        LinkQueue = "link_queue",
        MaxReply = "max_reply",
        ScriptCache = "script_cache",
        LinkTimeout = "link_timeout",
        SlowlogLogSlowerThan = "slowlog_log_slower_than",
        SlowlogMaxLen = "slowlog_max_len",
        MaxConnectionsPerNode = "max_connections_per_node",
        /// See the bounds.
        DedicatedPerNode = "dedicated_per_node",
        ConnectTimeout = "connect_timeout",
        DrainTimeout = "drain_timeout",
        MaxMemory = "max_memory",
        MaxClients = "max_clients",
    }
}

labelled! {
    /// Why the proxy closed a client's connection.
    Closed {
        /// It exceeded `output_hard` and took no byte for `output_grace`.
        OutputHard = "output_hard",
        /// With `input_hard` and `output_soft` reached nothing moved for `stall_timeout`.
        StallTimeout = "stall_timeout",
        /// It sent and took nothing for `client_timeout`.
        ClientTimeout = "client_timeout",
        /// It did not log in within `handshake_timeout`.
        HandshakeTimeout = "handshake_timeout",
        /// The process exceeded `max_memory`, and this client had most of it.
        MaxMemory = "max_memory",
        /// `on_indoubt` is `disconnect`, and a write's outcome is unknown.
        Indoubt = "indoubt",
        /// CLIENT KILL.
        Killed = "killed",
        /// It listens, and its output exceeds `pubsub_output_hard`, or `pubsub_output_soft` for too long.
        PubsubOutput = "pubsub_output",
        /// It may have missed messages: a connection to a node was lost.
        PubsubGap = "pubsub_gap",
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
        /// Messages that several subscribers have still to take.
        Messages = "messages",
        /// What clients are subscribed to.
        Subscriptions = "subscriptions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_codes_become_labels() {
        for (reply, code) in [
            (&b"-ERR no such key\r\n"[..], ServerError::Err),
            (b"-WRONGTYPE Operation\r\n", ServerError::WrongType),
            (b"-EXECABORT\r\n", ServerError::ExecAbort),
            (b"-MYSCRIPT failed\r\n", ServerError::Other),
            (b"-\r\n", ServerError::Other),
        ] {
            assert_eq!(ServerError::of(reply), code, "{}", reply.escape_ascii());
        }
    }
}
