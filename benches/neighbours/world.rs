//! The cluster, the proxy, and which CPU they have.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::{Pid, setpriority_process};
use slotmux::demo::{Cluster, ClusterOptions, Node};

use crate::{
    Result,
    keys::{fill, get, keys_in},
    options::Options,
    process::Program,
    reply::Expected,
};

/// The CPU of the proxy.
const PROXY_CPU: usize = 0;

/// The CPU of everything else.
const LOAD_CPU: usize = 1;

/// The number of primaries.
pub(crate) const NODES: usize = 3;

/// As `nice` counts.
const LOWEST_PRIORITY: i32 = 19;

/// After how long a silent node counts as failed: a stopped one is both within a window.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);

/// A node counts as well again only after twice its timeout.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the watched clients ask for, on each node.
const KEYS: usize = 64;
const VALUE: usize = 64;

/// For whatever still goes on after a load or a stop.
const REST: Duration = Duration::from_secs(1);

/// The cluster, and what is on it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    slots: Vec<Vec<RangeInclusive<u16>>>,
    keys: Vec<Vec<String>>,
}

/// Where clients connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// At the proxy on this port.
    Proxy(u16),
    /// At the node that owns their keys.
    Direct,
}

impl World {
    /// Starts the cluster, and sets the watched clients' keys.
    pub(crate) fn start() -> Result<Self> {
        move_to_cpu(LOAD_CPU)?;
        eprintln!("starting a cluster of three primaries");
        let server_args = ["--enable-debug-command", "yes"].map(str::to_owned).to_vec();
        let cluster = Cluster::start(ClusterOptions {
            primaries: NODES,
            replicas_per_primary: 0,
            node_timeout: NODE_TIMEOUT,
            require_full_coverage: false,
            server_args,
            patience: PATIENCE,
            ..ClusterOptions::default()
        })?;
        let own = |node: &Node| -> Result<Vec<RangeInclusive<u16>>> {
            let line = node.view()?.into_iter().find(|line| line.is("myself"));
            Ok(line.ok_or("a node does not know itself")?.slots)
        };
        let slots = cluster.nodes().iter().map(own).collect::<Result<Vec<_>>>()?;
        let keys = slots.iter().map(|slots| keys_in(slots, "watched", KEYS)).collect();
        let world = Self { cluster, slots, keys };
        for node in 0..NODES {
            fill(world.addr(Place::Direct, node), &world.keys[node], VALUE)?;
        }
        Ok(world)
    }

    /// Starts a proxy.
    pub(crate) fn proxy(&self, options: &Options) -> Result<Program> {
        let command = options.proxy.replace("{seeds}", &self.cluster.seeds().join(","));
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        Program::start(&words, PROXY_CPU)
    }

    /// Where a client connects that wants a node's keys.
    pub(crate) fn addr(&self, place: Place, node: usize) -> SocketAddr {
        let port = match place {
            Place::Proxy(port) => port,
            Place::Direct => self.cluster.nodes()[node].port(),
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// The slots of a node.
    pub(crate) fn slots(&self, node: usize) -> &[RangeInclusive<u16>] {
        &self.slots[node]
    }

    /// The requests for the watched clients' keys on a node.
    pub(crate) fn requests(&self, node: usize) -> Vec<Vec<u8>> {
        self.keys[node].iter().map(|key| get(key)).collect()
    }

    /// The reply to each of these.
    pub(crate) fn expected() -> Expected {
        Expected::bulk(VALUE)
    }

    /// Lets everybody else go first on the CPU that a node shares with all, as if it had a machine of its own: the work
    /// that a load gives it is not to keep other nodes waiting.
    pub(crate) fn step_back(&self, node: usize) -> Result<()> {
        let pid = Pid::from_raw(self.cluster.nodes()[node].pid() as i32);
        setpriority_process(pid, LOWEST_PRIORITY)?;
        Ok(())
    }

    /// Returns when nothing that went before is still going on: every node sees all well.
    pub(crate) fn rest(&self) -> Result<()> {
        self.cluster.settle()?;
        thread::sleep(REST);
        Ok(())
    }
}

/// Binds this process, and with it every child and thread from here on, to a CPU.
fn move_to_cpu(cpu: usize) -> Result<()> {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", &cpu.to_string(), &pid]).output()?;
    if !moved.status.success() {
        return Err(format!("two CPUs are needed: {}", String::from_utf8_lossy(&moved.stderr).trim()).into());
    }
    Ok(())
}
