//! The configuration as used: typed, checked, and immutable once it is built.
//!
//! The command line and the file as written are texts (`args`, `file`); [`Invocation::parse`] makes a
//! [`Config`] of them and reports every mistake in one run.

mod args;
mod assemble;
mod bounds;
mod clusters;
mod demo;
mod file;
mod keys;
mod listeners;
mod mistakes;
mod read;
mod secret;
mod settings;

use std::ffi::OsString;
use std::sync::Arc;

use tracing_subscriber::filter::Targets;

use crate::net::{AddressMap, ListenAddr, NodeAddr};

pub use bounds::{BOUNDS, Bound, ClusterLimits, ProcessLimits, SessionLimits};
pub use demo::DemoOptions;
pub use mistakes::{EXIT_USAGE, Mistakes, Usage};
pub use secret::Secret;
pub use settings::{SETTINGS, Scope, Setting};

/// The user name that clients log in as, that of a server's `requirepass`.
pub const CLIENT_USER: &str = "default";

/// What one start of the program was asked to do.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// To serve.
    Serve(Config),
    /// To start a throwaway cluster and serve it; its one cluster has no seeds yet.
    Demo(DemoOptions, Config),
    /// To look at a file, in which nothing is wrong.
    Check {
        /// The file's name.
        file: String,
        /// What it says.
        config: Config,
    },
    /// To ask the admin port of the proxy that runs whether it is ready.
    Health(ListenAddr),
}

/// The proxy's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The clusters; at least one.
    pub clusters: Vec<Arc<ClusterConfig>>,
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Where metrics and health are served, if at all.
    pub admin: Option<ListenAddr>,
    /// Whether the metrics show each node's durations in buckets.
    pub per_node_histograms: bool,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Whether a worker may poll before it sleeps.
    pub spin: Spin,
    /// The bounds of the process.
    pub limits: ProcessLimits,
    /// What is logged.
    pub log: Targets,
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// What the configuration calls it; `default` for one that flags alone describe.
    pub name: Arc<str>,
    /// Nodes to learn it from; one that answers is enough. Never empty, but for a demo.
    pub seeds: Vec<NodeAddr>,
    /// What the proxy logs in to the nodes with.
    pub auth: Option<ClusterAuth>,
    /// Where nodes are dialled that announce another address.
    pub address_map: AddressMap,
    /// Shared links per worker, node and protocol version, at least one.
    pub connections_per_node: usize,
    /// Whether clients may administer the nodes.
    pub admin_commands: bool,
    /// What is kept for it at most.
    pub limits: ClusterLimits,
}

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where it is.
    pub addr: ListenAddr,
    /// The permissions of a Unix socket's file.
    pub mode: Option<u32>,
    /// The place in [`Config::clusters`] of the cluster that its clients are served from.
    pub cluster: usize,
    /// What holds for its clients.
    pub session: Arc<SessionConfig>,
}

/// What holds for the clients of one listener.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The passwords one of which a client must give; none are asked for if there are none.
    pub passwords: Vec<Secret>,
    /// Across what a client's commands keep their order.
    pub ordering: Ordering,
    /// The address that clients which know of clusters are to connect to, if not the one that they came to.
    pub announce: Option<NodeAddr>,
    /// What a write with an unknown outcome gets.
    pub on_indoubt: OnIndoubt,
    /// What a transaction over several slots becomes.
    pub across: CrossSlot,
    /// What becomes of a subscriber that may have missed messages.
    pub gap: Gap,
    /// The bounds of each client.
    pub limits: SessionLimits,
}

impl ClusterConfig {
    /// How many connections to a node so many workers share: links, one each for subscriptions, MONITOR and WAIT,
    /// and one over which the topology is asked.
    #[must_use]
    pub fn shared_connections(&self, workers: usize) -> usize {
        workers * (2 * self.connections_per_node + 3) + 1
    }
}

/// The proxy's own login at the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAuth {
    /// The ACL user; `None` is the server's default user.
    pub user: Option<String>,
    /// Its passwords, newest first; never empty.
    pub passwords: Vec<Secret>,
}

/// Across what the commands of one client connection keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// Commands on the same key.
    Key,
    /// All commands, across slots too.
    Connection,
}

/// What a client gets for a write that may have been executed, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIndoubt {
    /// The error INDOUBT.
    Error,
    /// Its connection is closed in the place of the reply, as a server that crashed does it.
    Disconnect,
}

/// What a transaction over several slots becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSlot {
    /// An error where the second slot comes in.
    Error,
    /// One transaction for each slot.
    PerSlot,
}

/// What becomes of a client that is subscribed to what a lost connection told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// It is closed: so it knows that it may have missed messages.
    Disconnect,
    /// It is subscribed again, and not told.
    Resubscribe,
}

/// Whether a worker polls for a moment before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// While that pays: an idle proxy sleeps.
    Auto,
    /// Never.
    Off,
}

impl Invocation {
    /// Reads the command line, with the program's name first, the environment, and the file that it names.
    ///
    /// # Errors
    /// `--help`, `--version`, or everything that is wrong.
    pub fn parse(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Usage> {
        let matches = args::command().try_get_matches_from(args).map_err(Usage::Clap)?;
        let mut mistakes = Mistakes::default();
        match assemble::invocation(&matches, &env, &mut mistakes) {
            Some(invocation) if mistakes.is_empty() => Ok(invocation),
            _ => Err(Usage::Mistakes(mistakes)),
        }
    }
}

impl Config {
    /// What it describes, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let names: Vec<&str> = self.clusters.iter().map(|cluster| &*cluster.name).collect();
        let serves = |listener: &ListenerConfig| format!("{} for {}", listener.addr, names[listener.cluster]);
        let listeners: Vec<String> = self.listeners.iter().map(serves).collect();
        format!("ok: {} workers; {}", self.workers, listeners.join(", "))
    }
}

impl SessionConfig {
    /// Whether a client that gives this user (if any) and password may come in. False without a
    /// client password: a server then says that none is set.
    #[must_use]
    pub fn admits(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let known = user.is_none_or(|user| user == CLIENT_USER.as_bytes());
        // All are compared, so that the time does not tell which one was near.
        self.passwords.iter().fold(false, |admitted, secret| admitted | secret.verify(password)) && known
    }
}

#[cfg(test)]
mod tests;
