//! A cluster that plays by a script: nodes are threads of the test, and a closure answers.
//!
//! Each node does by itself what a test seldom cares about: the handshake (HELLO, AUTH, CLIENT …), CLUSTER NODES
//! from a topology that all nodes share and the test may edit, and a small store behind GET, SET and their like,
//! with MOVED for slots of other nodes. A script sees every other command first and says what happens.

mod builtin;
mod conn;
mod node;
mod topology;

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub use conn::{Conn, take_request};
pub use node::ScriptedNode;
pub use topology::{Topology, TopologyNode};

use super::{Proxy, SOON, Value, eventually, key};

/// A slot of node 0 and one of the last node, however many primaries a cluster has.
pub const LOW: u16 = 100;
pub const HIGH: u16 = 16_000;

/// What a node does about a command.
pub enum Action {
    /// What the node would do without a script.
    Default,
    /// Sends these bytes: a whole reply, a part of one, or several.
    Reply(Vec<u8>),
    /// Waits, with the rest of the connection's commands behind it, and then goes on.
    After(When, Box<Action>),
    /// Sends nothing.
    Silent,
    /// Closes at once; the peer sees RST if it sent more than was read.
    Close,
    /// Reads what the peer sends until it pauses, answers nothing and closes: always a clean end.
    CloseAfterReading,
    /// Closes with RST.
    Reset,
    /// All of these, in order.
    Many(Vec<Action>),
}

impl Action {
    pub fn reply(bytes: impl AsRef<[u8]>) -> Self {
        Self::Reply(bytes.as_ref().to_vec())
    }

    pub fn ok() -> Self {
        Self::reply("+OK\r\n")
    }

    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        Self::Reply([format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    pub fn int(n: i64) -> Self {
        Self::Reply(format!(":{n}\r\n").into_bytes())
    }

    /// An error; the text comes without the dash.
    pub fn error(text: &str) -> Self {
        Self::Reply(format!("-{text}\r\n").into_bytes())
    }

    /// Replies when the gate opens.
    pub fn reply_after(gate: &Gate, bytes: impl AsRef<[u8]>) -> Self {
        Self::reply(bytes).after(gate)
    }

    /// Does the same when the gate opens.
    pub fn after(self, gate: &Gate) -> Self {
        Self::After(When::Open(gate.clone()), Box::new(self))
    }

    /// Does the same a while later.
    pub fn delayed(self, by: Duration) -> Self {
        Self::After(When::Later(by), Box::new(self))
    }
}

/// What [`Action::After`] waits for.
pub enum When {
    Open(Gate),
    Later(Duration),
}

/// Closed until it is opened; clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *lock(&self.0.0)
    }

    pub fn wait(&self) {
        let open = lock(&self.0.0);
        drop(self.0.1.wait_while(open, |open| !*open).unwrap_or_else(PoisonError::into_inner));
    }
}

/// A command that a node received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The number of the node.
    pub node: usize,
    /// The number of the connection: unique in the cluster.
    pub conn: u64,
    pub args: Vec<Vec<u8>>,
    /// ASKING came right before it, on the same connection.
    pub asking: bool,
    /// It is one of those that a script does not see: the handshake, CLUSTER …
    pub control: bool,
    /// When it was read.
    pub at: Instant,
}

impl Recorded {
    /// The command as a line: `SET a 1`.
    pub fn text(&self) -> String {
        let words: Vec<_> = self.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        words.join(" ")
    }
}

/// What all nodes share.
struct Shared {
    topology: Mutex<Topology>,
    views: Mutex<HashMap<usize, Topology>>,
    log: Mutex<Vec<Recorded>>,
    store: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    connections: Mutex<u64>,
}

/// Several scripted nodes with one topology, one store and one log of what they received.
pub struct ScriptedCluster {
    shared: Arc<Shared>,
    nodes: Vec<ScriptedNode>,
}

impl ScriptedCluster {
    /// `n` primaries that share the slots evenly, with epochs from 1.
    pub fn start(n: usize) -> Self {
        let shared = Arc::new(Shared {
            topology: Mutex::new(Topology::default()),
            views: Mutex::default(),
            log: Mutex::default(),
            store: Mutex::default(),
            connections: Mutex::default(),
        });
        let nodes: Vec<_> = (0..n).map(|i| ScriptedNode::start(i, shared.clone())).collect();
        let ports: Vec<u16> = nodes.iter().map(ScriptedNode::port).collect();
        *lock(&shared.topology) = Topology::even(&ports);
        Self { shared, nodes }
    }

    /// Adds a node without slots and returns its number: a primary, or a replica of `primary`.
    pub fn add_node(&mut self, primary: Option<usize>) -> usize {
        let index = self.nodes.len();
        self.nodes.push(ScriptedNode::start(index, self.shared.clone()));
        let port = self.nodes[index].port();
        lock(&self.shared.topology).add(port, primary);
        index
    }

    pub fn node(&self, i: usize) -> &ScriptedNode {
        &self.nodes[i]
    }

    pub fn nodes(&self) -> &[ScriptedNode] {
        &self.nodes
    }

    /// `127.0.0.1:port` of each node.
    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(ScriptedNode::addr).collect()
    }

    /// A proxy with one worker, whose links to the first and the last node are open; the log is empty.
    #[track_caller]
    pub fn proxy(&self, args: &[&str]) -> Proxy {
        let proxy = Proxy::for_seeds(&self.seeds()).args(&["--workers", "1"]).args(args).start();
        let mut client = proxy.connect();
        for slot in [LOW, HIGH] {
            // The first may take longer than a short deadline allows.
            eventually(SOON, || client.cmd(&["GET", &key(slot, "warm")]) == Value::NullBulk);
        }
        self.clear_log();
        proxy
    }

    /// The address of the node that owns the slot.
    pub fn owner_addr(&self, slot: u16) -> String {
        let owner = lock(&self.shared.topology).owner(slot).expect("the slot has an owner");
        self.nodes[owner].addr()
    }

    /// Lets one closure answer for all nodes; [`Conn::node`] tells them apart.
    pub fn script(&self, script: impl FnMut(&Conn, &[Vec<u8>]) -> Action + Send + 'static) {
        let script = Arc::new(Mutex::new(script));
        for node in &self.nodes {
            let script = script.clone();
            node.script(move |conn, args| lock(&script)(conn, args));
        }
    }

    /// Changes the topology: what CLUSTER NODES says, and where the default answers MOVED.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Topology) -> T) -> T {
        change(&mut lock(&self.shared.topology))
    }

    /// The topology as it is now: to keep it as somebody's outdated view.
    pub fn topology(&self) -> Topology {
        lock(&self.shared.topology).clone()
    }

    /// Lets one node tell a story of its own, or the common one again.
    pub fn set_view(&self, node: usize, view: Option<Topology>) {
        let mut views = lock(&self.shared.views);
        match view {
            Some(view) => drop(views.insert(node, view)),
            None => drop(views.remove(&node)),
        }
    }

    /// Everything received so far, in order of arrival.
    pub fn log(&self) -> Vec<Recorded> {
        lock(&self.shared.log).clone()
    }

    /// What was received without handshakes, CLUSTER and the like.
    pub fn commands(&self) -> Vec<Recorded> {
        self.log().into_iter().filter(|command| !command.control).collect()
    }

    /// [`commands`](Self::commands) as lines.
    pub fn texts(&self) -> Vec<String> {
        self.commands().iter().map(Recorded::text).collect()
    }

    /// How many commands with this text were received, control commands too.
    pub fn count(&self, text: &str) -> usize {
        self.log().iter().filter(|command| command.text() == text).count()
    }

    pub fn clear_log(&self) {
        lock(&self.shared.log).clear();
    }

    /// The value that the store has for a key.
    pub fn stored(&self, key: &str) -> Option<String> {
        let store = lock(&self.shared.store);
        store.get(key.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn store(&self, key: &str, value: &str) {
        lock(&self.shared.store).insert(key.into(), value.into());
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A script that panics fails its test elsewhere; the other threads go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
