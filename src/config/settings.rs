//! Every setting that is no bound has a row: where it stands in a file, its flag, its default and what it does.
//! The command line, its help and the README's table come from these rows.

/// What a setting is one of: the process has one, each cluster has one, or each listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top of a file.
    Process,
    /// In a cluster's section.
    Cluster,
    /// In a listener's section.
    Listener,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Where in a file it may stand.
    pub scope: Scope,
    /// Its key there.
    pub key: &'static str,
    /// Its flag, without the two hyphens, if it has one.
    pub flag: Option<&'static str>,
    /// What stands in the help for the flag's value; nothing for a flag that has none.
    pub value: &'static str,
    /// The default, as one would write it; empty if there is none.
    pub default: &'static str,
    /// What it does; the help text.
    pub what: &'static str,
    /// Whether a file may give it at the top too, for all clusters or listeners that have none of their own.
    pub general: bool,
}

impl Setting {
    /// Its place in a file: `workers`, `clusters.NAME.seeds`, `listeners[].address`.
    #[must_use]
    pub fn path(&self) -> String {
        match self.scope {
            Scope::Process => self.key.to_owned(),
            Scope::Cluster => format!("clusters.NAME.{}", self.key),
            Scope::Listener => format!("listeners[].{}", self.key),
        }
    }
}

macro_rules! settings {
    ($($constant:ident: $scope:ident $key:literal, $flag:expr, $value:literal, $default:literal, $what:literal $(, $general:ident)?;)*) => {
        $(pub(super) const $constant: Setting = Setting {
            scope: Scope::$scope, key: $key, flag: $flag, value: $value, default: $default, what: $what,
            general: [$(stringify!($general).len() > 0,)? false][0],
        };)*
        /// The rows of the table.
        pub const SETTINGS: &[Setting] = &[$($constant),*];
    };
}

settings! {
    SEEDS: Cluster "seeds", Some("seeds"), "HOST:PORT,…", "",
        "Nodes of the cluster; until one of them has answered, clients wait; required";
    LISTEN: Listener "address", Some("listen"), "ADDRESS", "127.0.0.1:6379",
        "Where clients connect: `HOST:PORT`, `[V6]:PORT` or `unix:/path`; the flag may be repeated; port 0 takes a \
         free one";
    LISTEN_CLUSTER: Listener "cluster", None, "", "the only one",
        "The name of the cluster that its clients are served from";
    LISTEN_MODE: Listener "mode", None, "", "as the umask has it",
        "Who may connect to a Unix socket, as `0660`";
    ANNOUNCE: Listener "announce", None, "", "",
        "The address that clients for clusters are told to connect to, `HOST:PORT`, where it is not the one that they \
         came to: behind a load balancer or NAT, or on a Unix socket";
    ADMIN: Process "admin", Some("admin"), "ADDRESS", "127.0.0.1:9400",
        "Where `/metrics`, `/healthz`, `/readyz` and `/topology` are served; `off` serves none";
    PER_NODE_HISTOGRAMS: Process "metrics.per_node_histograms", Some("per-node-histograms"), "", "false",
        "Show how long each node takes in buckets, not only the sum, the number and the longest: 20 series more per node";
    WORKERS: Process "workers", Some("workers"), "N", "one per core", "Worker threads";
    CONNECTIONS_PER_NODE: Cluster "connections_per_node", Some("connections-per-node"), "N", "1",
        "Shared connections per worker, node and protocol version", general;
    ORDERING: Listener "ordering", Some("ordering"), "ACROSS", "key",
        "Across what a client's commands keep their order: `key`, or `connection` for its whole pipeline", general;
    ON_INDOUBT: Listener "on_indoubt", Some("on-indoubt"), "HOW", "error",
        "What a client gets for a write with an unknown outcome: `error`, or `disconnect`: its connection is closed there, \
         after the replies to earlier commands", general;
    CROSS_SLOT_TRANSACTIONS: Listener "cross_slot_transactions", Some("cross-slot-transactions"), "HOW", "error",
        "What MULTI does with keys of several slots: `error`, or `per_slot`: a transaction for each slot, atomic for that slot \
         alone", general;
    PUBSUB_GAP: Listener "pubsub_gap", Some("pubsub-gap"), "HOW", "disconnect",
        "What becomes of a subscriber when messages may be missed, because a connection to a node was lost: `disconnect`, as \
         when a server crashes, or `resubscribe` in silence", general;
    SPIN: Process "spin", Some("spin"), "HOW", "auto",
        "Poll for a moment before sleeping while that pays: `auto`; `off` never does";
    LOG_LEVEL: Process "log_level", Some("log-level"), "LEVEL", "info",
        "What to log on stderr: error, warn, info, debug, trace, or per module `info,slotmux::topology=debug`";
    ADDRESS_MAP: Cluster "address_map", Some("address-map"), "FROM=TO,…", "",
        "Where nodes are dialled that announce another address: of a node, `10.0.0.1:6379=192.0.2.7:16379`, or of a host, whose \
         ports stay, `10.0.0.1=192.0.2.7`; in a file a list";
    ADMIN_COMMANDS: Cluster "admin_commands", Some("admin-commands"), "", "false",
        "Let clients administer the nodes: CONFIG SET, ACL SETUSER, SHUTDOWN and others go to all of them", general;
    CLUSTER_PASSWORDS: Cluster "passwords", Some("cluster-password-file"), "FILE", "",
        "The nodes' passwords, newest first: each is tried until one is taken. In a file's list a text, `${NAME}` of the \
         environment, or `file: PATH`; the flag names a file and may be repeated; or set SLOTMUX_CLUSTER_PASSWORD";
    CLUSTER_USER: Cluster "user", Some("cluster-user"), "NAME", "",
        "The nodes' ACL user; or set SLOTMUX_CLUSTER_USER";
    CLIENT_PASSWORDS: Listener "passwords", Some("client-password-file"), "FILE", "",
        "The passwords one of which clients must give, written as the nodes'; or set SLOTMUX_CLIENT_PASSWORD";
    UNPROTECTED: Listener "unprotected", Some("unprotected"), "", "false",
        "Let other machines connect without a client password";
}
