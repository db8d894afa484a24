//! What the proxy makes of what single nodes say of the cluster.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{Action, Gate, HIGH, LOW, Proxy, SOON, ScriptedCluster, Value, eventually, key};

#[test]
fn a_node_that_knows_only_itself_does_not_empty_the_table() {
    let cluster = ScriptedCluster::start(3);
    cluster.edit(|topology| topology.assign(5000..=16383, 0));
    let proxy = Proxy::for_seeds(&[cluster.node(2).addr()]).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
    // As after CLUSTER RESET, or without its nodes.conf.
    let mut alone = cluster.topology();
    alone.uncover(0..=16383);
    alone.nodes[0].hidden = true;
    alone.nodes[1].hidden = true;
    cluster.set_view(2, Some(alone));
    let refreshes = proxy.metric("slotmux_topology_refreshes_total");
    let asked = cluster.log().iter().filter(|c| c.node == 2 && c.args[0] == b"CLUSTER").count();
    let mut left = 40;
    cluster.node(0).script(move |_, _| {
        left -= 1;
        if left > 0 { Action::error("CLUSTERDOWN The cluster is down") } else { Action::Default }
    });
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
    let now = || cluster.log().iter().filter(|c| c.node == 2 && c.args[0] == b"CLUSTER").count();
    assert!(proxy.metric("slotmux_topology_refreshes_total") > refreshes && now() > asked);
    assert_eq!(proxy.metric("slotmux_slots_uncovered"), 0.0);
    assert_eq!(proxy.metric("slotmux_topology_version"), 1.0);
}

#[test]
fn a_script_follows_its_slot_to_a_node_that_is_called_by_its_host_name() {
    let cluster = ScriptedCluster::start(2);
    cluster.edit(|topology| topology.nodes[1].hostname = Some("localhost".into()));
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    let moved = format!("MOVED {LOW} localhost:{}", cluster.node(1).port());
    cluster.script(move |conn, _| if conn.node == 0 { Action::error(&moved) } else { Action::ok() });
    assert_eq!(client.cmd(&["EVAL", "…", "1", &key(LOW, "a")]), Value::ok());
}

#[test]
fn a_slow_node_is_connected_to_although_the_table_changes_all_the_time() {
    let cluster = ScriptedCluster::start(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
    cluster.node(0).control(|_, args| match args[0] == b"CLIENT" && args[1] == b"SETNAME" {
        true => Action::Default.delayed(Duration::from_millis(600)),
        false => Action::Default,
    });
    // Something that asks for a refresh again and again.
    cluster.node(1).script(|_, args| match args[1] == key(HIGH, "down").as_bytes() {
        true => Action::error("CLUSTERDOWN Hash slot not served"),
        false => Action::Default,
    });
    proxy.connect().send(&["GET", &key(HIGH, "down")]);
    let mut other = proxy.connect();
    other.send(&["GET", &key(HIGH, "down")]);
    let before = proxy.metric("slotmux_topology_version");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (cluster, proxy, ended) = (&cluster, &proxy, &over);
        scope.spawn(move || {
            for round in 0.. {
                let seen = proxy.metric("slotmux_topology_version");
                cluster.edit(|topology| topology.assign(9000..=9000, round % 2));
                eventually(SOON, || proxy.metric("slotmux_topology_version") > seen);
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut client = proxy.connect();
        client.patience(Duration::from_secs(4));
        let reply =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.cmd(&["GET", &key(LOW, "a")])));
        over.store(true, Ordering::Relaxed);
        assert_eq!(reply.unwrap(), Value::NullBulk);
    });
    assert!(proxy.metric("slotmux_topology_version") > before + 2.0);
}

#[test]
fn a_fan_out_from_before_the_cluster_was_known_goes_to_every_shard() {
    let cluster = ScriptedCluster::start(3);
    let known = Gate::new();
    for node in cluster.nodes() {
        let known = known.clone();
        node.control(move |_, args| match args[0] == b"CLUSTER" {
            true => Action::Default.after(&known),
            false => Action::Default,
        });
    }
    cluster.script(|_, args| if args[0] == b"FLUSHALL" { Action::ok() } else { Action::Default });
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    client.send(&["FLUSHALL"]);
    client.send(&["GET", &key(LOW, "a")]);
    eventually(SOON, || proxy.metric("slotmux_held_requests") >= 1.0);
    known.open();
    assert_eq!(client.read_values(2), [Value::ok(), Value::NullBulk]);
    let mut nodes: Vec<usize> =
        cluster.commands().iter().filter(|c| c.args[0] == b"FLUSHALL").map(|c| c.node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [0, 1, 2]);
}

#[test]
fn an_endless_answer_ends_its_query_and_nothing_else() {
    let cluster = ScriptedCluster::start(2);
    // Just below what is read of an answer, and far beyond; by its length, and as a line that does not end.
    for (head, len) in [("$16777300\r\n", 16_777_200), ("$99999999\r\n", 17 << 20), ("+", 17 << 20)] {
        let answer = [head.as_bytes(), &vec![b'x'; len]].concat();
        cluster.node(1).control(move |_, args| match args[0] == b"CLUSTER" {
            true => Action::reply(&answer),
            false => Action::Default,
        });
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
        assert_eq!(proxy.connect().cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
        eventually(SOON, || proxy.metric("slotmux_topology_refreshes_total") >= 1.0);
        assert_eq!(proxy.connect().cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
    }
}

#[test]
fn an_endless_answer_in_a_handshake_is_not_read_to_its_end() {
    let cluster = ScriptedCluster::start(2);
    let endless = [b"+", &*vec![b'x'; 1 << 20]].concat();
    cluster.node(0).control(move |_, args| match args[0] == b"CLIENT" {
        true => Action::reply(&endless),
        false => Action::Default,
    });
    let args = ["--workers", "1", "--connect-timeout", "1m", "--command-deadline", "1s"];
    let proxy = Proxy::for_seeds(&[cluster.node(1).addr()]).args(&args).start();
    assert!(proxy.connect().cmd(&["GET", &key(LOW, "a")]).is_error());
    assert!(proxy.metric("slotmux_node_dial_failures_total{kind=\"other\"}") >= 1.0);
    assert_eq!(proxy.connect().cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
}
