//! The bus of a real cluster, led through relays of the test, so that nodes can be cut off from their peers while
//! clients still reach them.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{SOON, TestCluster, eventually};

/// A server's bus port is its client port and this much.
const BUS_OFFSET: u16 = 10_000;
/// Where a bus packet has its sender's id, and how long that is.
const SENDER: std::ops::Range<usize> = 40..80;

/// Relays in front of the bus ports of all nodes.
pub struct Bus(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ids: Vec<String>,
    cut: Option<usize>,
    connections: Vec<Connection>,
}

/// One connection over the bus, from one node to another.
struct Connection {
    ends: [usize; 2],
    streams: [TcpStream; 2],
}

impl Bus {
    /// Leads the bus of a running cluster through relays; returns when every node knows them.
    #[track_caller]
    pub fn relay(cluster: &TestCluster) -> Self {
        let ids = cluster.nodes().iter().map(|node| node.id().to_owned()).collect();
        let state = Arc::new(Mutex::new(State { ids, ..State::default() }));
        let mut ports = Vec::new();
        for (i, node) in cluster.nodes().iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("it is bound").port();
            let (state, bus) = (state.clone(), node.port() + BUS_OFFSET);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let state = state.clone();
                    thread::spawn(move || relay(stream, bus, i, &state));
                }
            });
            cluster.ask(i, &["CONFIG", "SET", "cluster-announce-bus-port", &port.to_string()]);
            ports.push(format!("{}@{port}", node.addr()));
        }
        eventually(SOON, || {
            let knows = |i| {
                let view = cluster.ask(i, &["CLUSTER", "NODES"]);
                ports.iter().all(|port| view.contains(port)) && !view.contains("disconnected")
            };
            (0..ports.len()).all(knows)
        });
        Self(state)
    }

    /// Cuts a node off from all others.
    pub fn cut(&self, node: usize) {
        let mut state = lock(&self.0);
        state.cut = Some(node);
        for connection in state.connections.iter().filter(|connection| connection.ends.contains(&node)) {
            connection.streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
        state.connections.retain(|connection| !connection.ends.contains(&node));
    }

    /// Lets everybody reach everybody again.
    pub fn heal(&self) {
        lock(&self.0).cut = None;
    }
}

/// Carries one connection to node `to`, as long as nobody cuts it.
fn relay(mut from: TcpStream, bus: u16, to: usize, state: &Mutex<State>) {
    let mut first = vec![0; SENDER.end];
    if from.read_exact(&mut first).is_err() {
        return;
    }
    let Ok(mut other) = TcpStream::connect((Ipv4Addr::LOCALHOST, bus)) else { return };
    {
        let mut state = lock(state);
        let sender = String::from_utf8_lossy(&first[SENDER]).into_owned();
        let sender = state.ids.iter().position(|id| *id == sender).unwrap_or(to);
        if state.cut.is_some_and(|cut| cut == to || cut == sender) {
            return;
        }
        let streams = [from.try_clone().expect("it is open"), other.try_clone().expect("it is open")];
        state.connections.push(Connection { ends: [sender, to], streams });
    }
    let (mut from_too, mut other_too) =
        (from.try_clone().expect("it is open"), other.try_clone().expect("it is open"));
    let back = thread::spawn(move || {
        drop(std::io::copy(&mut other_too, &mut from_too));
        drop(from_too.shutdown(Shutdown::Both));
    });
    if other.write_all(&first).is_ok() {
        drop(std::io::copy(&mut from, &mut other));
    }
    drop(other.shutdown(Shutdown::Both));
    drop(back.join());
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
