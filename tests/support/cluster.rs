//! A real cluster with the controls of a test.

use std::{
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use slotmux::demo::{Cluster, ClusterOptions, Node, NodeLine};

use super::{Client, SOON, eventually, eventually_some, signal};

/// A cluster of real servers. Nodes have the numbers that [`Cluster::start`] gives them: with the defaults 0 to 2
/// are primaries, 3 to 5 their replicas. All controls take `&self`, so that they work while load threads run.
pub struct TestCluster(Cluster);

impl TestCluster {
    /// Three primaries with a replica each.
    pub fn start() -> Self {
        Self::with(ClusterOptions::default())
    }

    /// Primaries without replicas: faster to start.
    pub fn primaries(n: usize) -> Self {
        Self::with(ClusterOptions { primaries: n, replicas_per_primary: 0, ..Default::default() })
    }

    #[track_caller]
    pub fn with(options: ClusterOptions) -> Self {
        Self(Cluster::start(options).unwrap_or_else(|error| panic!("{error}")))
    }

    pub fn node(&self, i: usize) -> &Node {
        &self.0.nodes()[i]
    }

    /// A raw connection to a node, authenticated where it needs that.
    pub fn client(&self, i: usize) -> Client {
        let mut client = Client::connect(self.node(i).addr());
        if let Some(password) = &self.options().password {
            assert!(!client.cmd(&["AUTH", password]).is_error());
        }
        client
    }

    /// How many clients wait at a node.
    #[track_caller]
    pub fn waiting(&self, i: usize) -> usize {
        let info = self.client(i).cmd(&["INFO", "clients"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        line.and_then(|count| count.trim().parse().ok()).expect("INFO counts them")
    }

    /// Kills a node with SIGKILL.
    pub fn kill9(&self, i: usize) {
        self.node(i).kill();
    }

    /// Stops a node with SIGSTOP: it accepts connections, through the kernel, and never answers.
    pub fn stop(&self, i: usize) {
        signal(self.node(i).pid(), "STOP");
    }

    /// Lets a stopped node go on.
    pub fn cont(&self, i: usize) {
        signal(self.node(i).pid(), "CONT");
    }

    /// Starts a killed node again and waits until it answers.
    #[track_caller]
    pub fn restart(&self, i: usize) {
        self.0.restart(i).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until every running node sees a whole and healthy cluster.
    #[track_caller]
    pub fn settle(&self) {
        self.0.settle().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until the cluster is [settled](Self::settle) and every running node says the same of it, with no slot
    /// open: only then does `redis-cli --cluster` do anything.
    #[track_caller]
    pub fn agree(&self) {
        self.settle();
        eventually(SOON, || {
            let views = self.running().map(|node| {
                let mut view = node.view().unwrap_or_default();
                view.sort_by(|one, other| one.id.cmp(&other.id));
                let line = |line: NodeLine| (line.id, line.primary, line.slots, line.open);
                view.into_iter().map(line).collect::<Vec<_>>()
            });
            let views: Vec<_> = views.collect();
            views.windows(2).all(|pair| pair[0] == pair[1])
                && views[0].iter().all(|(.., open)| open.is_empty())
                && views[0].len() == views.len()
        });
    }

    /// A planned failover: the replica takes over, and the call returns when all running nodes know it.
    #[track_caller]
    pub fn failover(&self, replica: usize) {
        let ask = || self.node(replica).call(&["CLUSTER", "FAILOVER"]).expect("the replica answers").text();
        take_over(ask, || self.is_primary_everywhere(replica));
    }

    /// Waits until a replica has what its primary has: only then may it take over.
    #[track_caller]
    pub fn await_copy(&self, replica: usize) {
        eventually(SOON, || self.ask(replica, &["INFO", "replication"]).contains("master_link_status:up"));
    }

    /// Waits until all running nodes see this node as a primary that owns slots.
    #[track_caller]
    pub fn await_primary(&self, i: usize) {
        eventually(SOON, || self.is_primary_everywhere(i));
    }

    fn is_primary_everywhere(&self, i: usize) -> bool {
        self.running().all(|node| {
            let view = node.view().unwrap_or_default();
            view.iter().any(|line| line.id == self.node(i).id() && line.is("master") && line.slot_count() > 0)
        })
    }

    /// The number of the node that owns the slot: by what the nodes say of themselves, the highest epoch wins.
    #[track_caller]
    pub fn owner_of(&self, slot: u16) -> usize {
        eventually_some(SOON, || {
            let claims = self.0.nodes().iter().enumerate().filter(|(_, node)| node.is_running());
            claims
                .filter_map(|(i, node)| {
                    let view = node.view().ok()?;
                    let own = view.into_iter().find(|line| line.is("myself") && line.owns(slot))?;
                    Some((own.epoch, i))
                })
                .max()
                .map(|(_, i)| i)
        })
    }

    /// The nodes that run, and are not stopped for all we know.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.0.nodes().iter().filter(|node| node.is_running())
    }

    /// Starts a node that no other knows yet, and returns its number.
    #[track_caller]
    pub fn start_node(&mut self) -> usize {
        self.0.start_node().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Adds a node, a primary without slots, and returns its number.
    #[track_caller]
    pub fn add_node(&mut self) -> usize {
        self.0.add_node().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends a command to a node; an error fails the test.
    #[track_caller]
    pub fn ask(&self, i: usize, args: &[&str]) -> String {
        self.node(i).ask(args).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

/// Lets a replica take over: `ask` does that, and returns its answer, until `done`.
#[track_caller]
pub fn take_over(ask: impl Fn() -> String, done: impl Fn() -> bool) {
    assert_eq!(ask(), "OK");
    let (begun, mut asked) = (Instant::now(), Instant::now());
    while !done() {
        assert!(begun.elapsed() < SOON, "it does not take over");
        // A server gives it up by itself after five seconds, as it may on a busy machine. Where it has taken over, and
        // not all know it yet, it refuses.
        if asked.elapsed() > Duration::from_secs(7) {
            ask();
            asked = Instant::now();
        }
        thread::sleep(Duration::from_millis(10));
    }
}
