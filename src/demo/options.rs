//! What kind of cluster to start, and how that is said to a server.

use std::{path::PathBuf, time::Duration};

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The number of primaries; the slots are dealt out evenly in their order.
    pub primaries: usize,
    /// The number of replicas that each primary gets.
    pub replicas_per_primary: usize,
    /// `cluster-node-timeout`: after how long a silent node counts as failed.
    pub node_timeout: Duration,
    /// `cluster-require-full-coverage`: whether all nodes refuse all slots while one slot has no owner.
    pub require_full_coverage: bool,
    /// The password of the nodes, also between each other.
    pub password: Option<String>,
    /// The server binary; by default the first `redis-server`, else the first `valkey-server`, of the `PATH`.
    pub server: Option<PathBuf>,
    /// More arguments for every server: `["--maxmemory", "10mb"]`.
    pub server_args: Vec<String>,
    /// How long starting, restarting and adding may take.
    pub patience: Duration,
}

impl Default for ClusterOptions {
    /// Three primaries with a replica each, quick to notice a failure.
    fn default() -> Self {
        Self {
            primaries: 3,
            replicas_per_primary: 1,
            node_timeout: Duration::from_secs(2),
            require_full_coverage: false,
            password: None,
            server: None,
            server_args: Vec::new(),
            patience: Duration::from_secs(30),
        }
    }
}

impl ClusterOptions {
    /// The servers' command line, but for the port.
    pub(super) fn arguments(&self) -> Vec<String> {
        let timeout = self.node_timeout.as_millis().to_string();
        let coverage = if self.require_full_coverage { "yes" } else { "no" };
        let mut args: Vec<String> = [
            ["--bind", "127.0.0.1"],
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", "nodes.conf"],
            ["--cluster-node-timeout", &timeout],
            ["--cluster-require-full-coverage", coverage],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--repl-diskless-sync", "yes"],
            ["--repl-diskless-sync-delay", "0"],
            ["--daemonize", "no"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        if let Some(password) = &self.password {
            args.extend(["--requirepass", password, "--masterauth", password].map(str::to_owned));
        }
        args.extend(self.server_args.iter().cloned());
        args
    }
}
