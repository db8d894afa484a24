//! How many connections a node gets from one proxy: a declared number, so that a fleet can be planned.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use support::{Client, Proxy, SOON, ScriptedCluster, TestCluster, Value, encode, eventually};

/// Two workers, two links each for either version of the protocol, one for subscriptions, one for MONITOR and one for
/// WAIT, and one connection for the topology.
const MOST: usize = 2 * (2 * 2 + 3) + 1;
const ARGS: [&str; 6] = ["--workers", "2", "--connections-per-node", "2", "--max-connections-per-node", "15"];

/// The proxy's connections in a node's CLIENT LIST: they have names.
fn listed(admin: &mut Client) -> usize {
    let list = admin.cmd(&["CLIENT", "LIST"]).text();
    list.lines().filter(|line| line.contains(" name=slotmux")).count()
}

/// Clients of both versions in turns (links are chosen by a client's number), so many that every link is used.
fn clients(proxy: &Proxy) -> Vec<Client> {
    let client = |i: usize| {
        let mut client = proxy.connect();
        assert!(!client.cmd(&["HELLO", if i % 8 < 4 { "2" } else { "3" }]).is_error());
        client
    };
    (0..32).map(client).collect()
}

#[test]
fn a_node_never_has_more_connections_than_declared_whatever_is_killed() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&ARGS).start();
    let mut clients = clients(&proxy);
    let keys: Vec<String> = (0..50).map(|i| format!("k{i}")).collect();
    for client in &mut clients {
        for key in &keys {
            assert!(!client.cmd(&["GET", key]).is_error());
        }
    }
    // Two on each worker, which takes clients in turns; such a pattern is one for all primaries.
    let mut listeners: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    for (i, client) in listeners.iter_mut().enumerate() {
        let what: &[&str] = if i < 2 { &["PSUBSCRIBE", "*"] } else { &["MONITOR"] };
        assert!(!client.cmd(what).is_error());
    }
    // And one on each worker waits for replicas of every node.
    for client in &mut clients[..2] {
        assert!(keys.iter().all(|key| client.cmd(&["SET", key, "v"]) == Value::ok()));
        assert_eq!(client.cmd(&["WAIT", "1", "50"]), Value::Int(0));
    }
    let mut admins: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
    // The topology's connection comes with the first refresh that asks that node: a third of the nodes each.
    eventually(SOON, || admins.iter_mut().map(listed).max() == Some(MOST));
    let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (i, mut client) in clients.into_iter().enumerate() {
            let (over, keys) = (&over, &keys);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    for key in keys {
                        assert!(!client.cmd(&["GET", key]).is_error(), "client {i}");
                    }
                }
            });
        }
        // Dials are bounded by the second; kills come faster.
        for _ in 0..60 {
            for admin in &mut admins {
                assert!(admin.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).int() >= 0);
                most.fetch_max(listed(admin), Relaxed);
            }
        }
        over.store(true, Relaxed);
    });
    assert!(most.load(Relaxed) <= MOST, "{most:?} connections at a node");
    let log = proxy.log();
    assert!(log.contains("a link ended"), "{log}");
}

#[test]
fn who_finds_all_connections_taken_waits_for_one() {
    let cluster = ScriptedCluster::start(1);
    // 1 × (2 × 1 + 3) + 1: all of them are there, so that a new link has no place while an old one is leaving.
    let args = ["--workers", "1", "--max-connections-per-node", "6"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let mut clients = clients(&proxy);
    for client in &mut clients {
        assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    }
    cluster.script(|_, args| match &args[0][..] {
        b"MONITOR" => support::Action::ok(),
        b"WAIT" => support::Action::reply(":0\r\n"),
        b"psubscribe" => support::Action::reply(">3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"),
        _ => support::Action::Default,
    });
    let mut listeners: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
    for (client, what) in listeners.iter_mut().zip([&["MONITOR"][..], &["PSUBSCRIBE", "*"]]) {
        assert!(!client.cmd(what).is_error());
    }
    assert_eq!(clients[0].cmd(&["WAIT", "1", "50"]), Value::Int(0));
    eventually(SOON, || cluster.node(0).open() == 6);
    // A MOVED to the node itself makes the proxy open another link beside the one that is leaving.
    let gate = support::Gate::new();
    let (held, moved) = (gate.clone(), format!("MOVED {} {}", support::slot_of("k"), cluster.node(0).addr()));
    let mut first = true;
    cluster.script(move |_, args| match &args[0][..] {
        b"GET" => support::Action::bulk("late").after(&held),
        b"INCR" if std::mem::take(&mut first) => support::Action::error(&moved),
        _ => support::Action::Default,
    });
    clients[0].send_raw([encode(&["INCR", "k"]), encode(&["GET", "other"])].concat());
    let reached = "slotmux_bound_reached_total{bound=\"max_connections_per_node\"}";
    eventually(SOON, || proxy.metric(reached) >= 1.0);
    assert!(cluster.node(0).open() <= 6);
    gate.open();
    assert_eq!(clients[0].read_values(2), [Value::Int(1), Value::bulk("late")]);
}
