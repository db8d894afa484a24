//! The nodes' password is changed under load, on every node, and no client can tell: the proxy has a list of
//! passwords, newest first.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;

use support::{Client, ClusterOptions, Mix, Proxy, SOON, TestCluster, Value, eventually, tag_of, take_over};

const OLD: &str = "the old one";
const NEW: &str = "the new one";

/// A proxy that has both passwords, the new one first.
fn proxy_for(cluster: &TestCluster) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.yaml");
    let yaml = format!(
        "workers: 2\nadmin: 127.0.0.1:0\nclusters: {{ main: {{ seeds: {:?}, passwords: [\"${{NEW}}\", \"${{OLD}}\"] }} }}\n\
         listeners: [{{ address: 127.0.0.1:0 }}]\n",
        cluster.seeds(),
    );
    std::fs::write(&file, yaml).unwrap();
    let builder = Proxy::with(&["--config", file.to_str().unwrap()], 1);
    builder.env("NEW", NEW).env("OLD", OLD).start()
}

fn logged_in(cluster: &TestCluster, node: usize, password: &str) -> Client {
    let mut client = Client::connect(cluster.node(node).addr());
    assert_eq!(client.cmd(&["AUTH", password]), Value::ok());
    client
}

/// First how the replicas log in, then what is asked of them, node by node.
fn change_password(cluster: &TestCluster, from: &str, to: &str) {
    for setting in ["masterauth", "requirepass"] {
        for node in 0..cluster.nodes().len() {
            let mut client = logged_in(cluster, node, from);
            assert_eq!(client.cmd(&["CONFIG", "SET", setting, to]), Value::ok());
        }
    }
    for node in 0..cluster.nodes().len() {
        let refused = Client::connect(cluster.node(node).addr()).cmd(&["AUTH", from]);
        assert!(refused.text().starts_with("WRONGPASS "), "{refused:?}");
    }
}

/// New links to every shard log in: those of RESP3 are not open before the first such client asks.
fn assert_new_links(proxy: &Proxy) {
    let mut client = proxy.connect();
    client.cmd(&["HELLO", "3"]);
    for slot in [100, 8_000, 16_000] {
        let key = format!("{{{}}}new", tag_of(slot));
        assert_eq!(client.cmd(&["SET", &key, "1"]), Value::ok());
    }
}

/// A planned failover, by the node's own word: the cluster's controls know the old password only.
fn fail_over(cluster: &TestCluster, replica: usize, primary: usize, password: &str) {
    let role = |node| logged_in(cluster, node, password).cmd(&["ROLE"]);
    let ask = || logged_in(cluster, replica, password).cmd(&["CLUSTER", "FAILOVER"]).text();
    take_over(ask, || role(replica).items()[0].text() == "master");
    // It logs in at the new primary with `masterauth`.
    eventually(SOON, || {
        let role = role(primary);
        role.items()[0].text() == "slave" && role.items()[3].text() == "connected"
    });
}

#[test]
fn a_password_is_changed_on_every_node_under_load() {
    let options = ClusterOptions { password: Some(OLD.to_owned()), ..Default::default() };
    let cluster = TestCluster::with(options);
    let proxy = proxy_for(&cluster);
    let tags = (0..500).map(|n| format!("t{n}")).collect();
    let mix = Mix { clients: 20, tags, conflicts: false };
    let ((), done) = mix.under(&proxy, |pipelines| {
        let goes_on = || {
            let before = pipelines.load(Ordering::Relaxed);
            eventually(SOON, || pipelines.load(Ordering::Relaxed) > before + 200);
        };
        goes_on();
        change_password(&cluster, OLD, NEW);
        goes_on();
        assert_new_links(&proxy);
        // One that starts now.
        assert_new_links(&proxy_for(&cluster));
        fail_over(&cluster, 3, 0, NEW);
        goes_on();
        // And back: any password of the list will do, and the cluster's own controls work again.
        change_password(&cluster, NEW, OLD);
        goes_on();
        assert_new_links(&proxy_for(&cluster));
        cluster.agree();
    });
    assert_eq!(done.refused, 0);
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn links_that_were_closed_are_opened_again_whatever_the_password_is_by_now() {
    let options =
        ClusterOptions { password: Some(OLD.to_owned()), replicas_per_primary: 0, ..Default::default() };
    let cluster = TestCluster::with(options);
    let proxy = proxy_for(&cluster);
    let mut admins: Vec<Client> = (0..3).map(|node| cluster.client(node)).collect();
    // Changed, and then taken away; in between some nodes have the one and some the other.
    for password in [NEW, ""] {
        for admin in &mut admins {
            assert_eq!(admin.cmd(&["CONFIG", "SET", "requirepass", password]), Value::ok());
            assert!(admin.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).int() >= 0);
            assert_new_links(&proxy);
        }
    }
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}
