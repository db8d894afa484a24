//! A throwaway cluster of real servers: for `slotmux demo`, the tests and the benchmarks.
//!
//! Each node is a `redis-server` (or `valkey-server`) process of its own, on free ports of 127.0.0.1, with its
//! files in one temporary folder. The cluster is built with the commands of the cluster specification, so nothing
//! but the server binary is needed. Dropping a [`Cluster`] ends every process and removes the folder; if this
//! process is killed before it can do so, a guard does (`guard.rs`).

mod client;
mod error;
mod guard;
mod machine;
mod node;
mod options;
mod view;

use std::{
    fmt::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

pub use client::Reply;
pub use error::DemoError;
pub use node::Node;
pub use options::ClusterOptions;
pub use view::NodeLine;

use guard::Guard;
use machine::{Folder, find_server};
use node::POLL;

/// The number of hash slots of every cluster.
const SLOTS: usize = 16_384;

/// A running cluster; see the module.
pub struct Cluster {
    // The order matters when it is dropped: first the servers end, then the folder goes, then the guard.
    nodes: Vec<Node>,
    folder: Folder,
    guard: Guard,
    binary: PathBuf,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts the servers and builds the cluster; returns when every node sees every slot served, every other
    /// node healthy, and every replica in sync. Nodes are numbered from 0: first the primaries in the order of
    /// their slots, then the replicas, in the order of their primaries.
    pub fn start(options: ClusterOptions) -> Result<Self, DemoError> {
        let binary = match &options.server {
            Some(path) => path.clone(),
            None => find_server().ok_or(DemoError::NoServer)?,
        };
        let folder = Folder::create()?;
        let guard = Guard::start(&folder.0)?;
        let mut cluster = Self { nodes: Vec::new(), folder, guard, binary, options };
        let until = Instant::now() + cluster.options.patience;
        let count = cluster.options.primaries * (1 + cluster.options.replicas_per_primary);
        for _ in 0..count {
            cluster.spawn()?;
        }
        for node in &mut cluster.nodes {
            node.ready(&cluster.guard, until)?;
        }
        cluster.form()?;
        Ok(cluster)
    }

    /// `127.0.0.1:port` of each node.
    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(Node::addr).collect()
    }

    /// The nodes, in the order of [`start`](Self::start), then those that were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What the cluster was started with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The temporary folder, with one folder per node that holds its `server.log`.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// A line for each node, with address, role and process, as the cluster was built.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let role = match self.primary_index(i) {
                None if i < self.options.primaries => {
                    let slots = share(i, self.options.primaries);
                    format!("primary of slots {} to {}", slots.start(), slots.end())
                }
                None => "without slots".to_owned(),
                Some(primary) => format!("replica of {}", self.nodes[primary].addr()),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}  {role}  (process {})", node.addr(), node.pid());
        }
        text
    }

    /// Starts one more server, which no other knows yet; returns its number.
    pub fn start_node(&mut self) -> Result<usize, DemoError> {
        let until = Instant::now() + self.options.patience;
        self.spawn()?;
        let index = self.nodes.len() - 1;
        self.nodes[index].ready(&self.guard, until)?;
        Ok(index)
    }

    /// Starts one more server and introduces it to the others, as a primary without slots; returns its number
    /// when the cluster has [settled](Self::settle).
    pub fn add_node(&mut self) -> Result<usize, DemoError> {
        let index = self.start_node()?;
        for node in self.nodes[..index].iter().filter(|node| node.is_running()) {
            meet(&self.nodes[index], node)?;
        }
        // A new node refuses all slots until it has heard of every owner, so its own view counts, too.
        self.settle()?;
        Ok(index)
    }

    /// Starts a killed node again, as the same node on the same port, and waits until it answers.
    pub fn restart(&self, index: usize) -> Result<(), DemoError> {
        self.nodes[index].restart(&self.guard, Instant::now() + self.options.patience)
    }

    /// The same on other ports.
    pub fn restart_elsewhere(&self, index: usize) -> Result<(), DemoError> {
        self.nodes[index].restart_elsewhere(&self.guard, Instant::now() + self.options.patience)
    }

    /// Waits until every running node sees every slot served and every running node healthy.
    pub fn settle(&self) -> Result<(), DemoError> {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.is_running()).collect();
        self.wait("cluster_state:ok with all slots, nodes and replicas, on every node", || {
            running.iter().all(|node| self.is_settled(node, &running))
        })
    }

    fn is_settled(&self, node: &Node, running: &[&Node]) -> bool {
        let (Ok(info), Ok(view)) = (node.ask(&["CLUSTER", "INFO"]), node.view()) else { return false };
        let Ok(replication) = node.ask(&["INFO", "replication"]) else { return false };
        let healthy = |id: &str| view.iter().any(|line| line.id == id && line.is_healthy());
        info.contains("cluster_state:ok")
            && view.iter().map(NodeLine::slot_count).sum::<usize>() == SLOTS
            && running.iter().all(|other| healthy(other.id()))
            && !replication.contains("master_link_status:down")
    }

    fn spawn(&mut self) -> Result<(), DemoError> {
        let folder = self.folder.0.join(format!("node-{}", self.nodes.len()));
        self.nodes.push(Node::spawn(&self.options, &self.binary, folder, &self.guard)?);
        Ok(())
    }

    /// Makes one cluster of the servers.
    fn form(&self) -> Result<(), DemoError> {
        let primaries = self.options.primaries;
        for (i, node) in self.nodes.iter().enumerate() {
            // Epochs that differ from the start save the nodes the work of resolving their collisions.
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()])?;
            if i < primaries {
                let slots = share(i, primaries);
                let (from, to) = (slots.start().to_string(), slots.end().to_string());
                node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from, &to])?;
            }
            // Everybody meets everybody at once: to wait for gossip takes seconds.
            for other in &self.nodes[..i] {
                meet(node, other)?;
            }
        }
        self.wait("every node knows every other", || {
            self.nodes.iter().all(|node| {
                let Ok(view) = node.view() else { return false };
                view.len() == self.nodes.len() && view.iter().all(NodeLine::is_healthy)
            })
        })?;
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(primary) = self.primary_index(i) {
                node.ask(&["CLUSTER", "REPLICATE", self.nodes[primary].id()])?;
            }
        }
        self.wait("every node knows the replicas, and they are in sync", || {
            self.nodes.iter().all(|node| self.sees_replicas(node))
        })?;
        self.settle()
    }

    /// Whether `node` sees all replicas at their primaries and, if it is a replica itself, has its copy.
    fn sees_replicas(&self, node: &Node) -> bool {
        let (Ok(view), Ok(replication)) = (node.view(), node.ask(&["INFO", "replication"])) else {
            return false;
        };
        (0..self.nodes.len()).all(|i| {
            let Some(primary) = self.primary_index(i) else { return true };
            let (id, primary) = (self.nodes[i].id(), self.nodes[primary].id());
            view.iter().any(|line| line.id == id && line.primary.as_deref() == Some(primary))
                && (node.id() != id || replication.contains("master_link_status:up"))
        })
    }

    /// The number of the primary that node `i` was made a replica of.
    fn primary_index(&self, i: usize) -> Option<usize> {
        let ClusterOptions { primaries, replicas_per_primary, .. } = self.options;
        (primaries..primaries * (1 + replicas_per_primary))
            .contains(&i)
            .then(|| (i - primaries) / replicas_per_primary)
    }

    fn wait(&self, what: &str, condition: impl Fn() -> bool) -> Result<(), DemoError> {
        let after = self.options.patience;
        let until = Instant::now() + after;
        while !condition() {
            if Instant::now() > until {
                return Err(DemoError::Timeout { what: what.to_owned(), after });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn meet(node: &Node, other: &Node) -> Result<String, DemoError> {
    node.ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()])
}

/// The slots of primary `i` of `n`.
fn share(i: usize, n: usize) -> RangeInclusive<usize> {
    i * SLOTS / n..=(i + 1) * SLOTS / n - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_cover_every_slot_once() {
        for n in [1, 2, 3, 5, 7, 16] {
            let slots: Vec<usize> = (0..n).flat_map(|i| share(i, n)).collect();
            assert!(slots.iter().copied().eq(0..SLOTS), "{n} primaries");
        }
    }

    #[test]
    fn a_missing_binary_is_named() {
        let options = ClusterOptions { server: Some("/nowhere/redis-server".into()), ..Default::default() };
        let error = Cluster::start(options).err().expect("there is no such binary").to_string();
        assert!(error.starts_with("cannot start /nowhere/redis-server: "), "{error}");
    }
}
