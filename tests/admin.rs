//! Readiness and the topology on the admin port.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value as Json, json};
use support::{ClusterOptions, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, tag_of};

fn topology(proxy: &Proxy) -> Json {
    let (status, body) = proxy.get("/topology");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn a_lost_shard_is_shown_and_makes_nobody_unready() {
    let options =
        ClusterOptions { replicas_per_primary: 0, require_full_coverage: true, ..Default::default() };
    let cluster = TestCluster::with(options);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    eventually(SOON, || proxy.get("/readyz") == (200, "ok\n".to_owned()));
    cluster.kill9(0);
    let mut client = proxy.connect();
    client.send(&["SET", &format!("{{{}}}k", tag_of(0)), "v"]);
    // Until the other nodes refuse all slots.
    eventually(SOON, || {
        assert_eq!(proxy.get("/readyz").0, 200);
        cluster.ask(1, &["CLUSTER", "INFO"]).contains("cluster_state:fail")
    });
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 1.0);
    assert!(proxy.metric("slotmux_node_dial_failures_total{kind=\"refused\"}") > 0.0);
    assert_eq!(proxy.get("/readyz").0, 200);
    cluster.restart(0);
    assert_eq!(client.read_value(), Value::ok());
}

#[test]
fn a_cluster_that_gave_all_its_slots_up_makes_nobody_unready() {
    let cluster = ScriptedCluster::start(2);
    cluster.edit(|topology| topology.uncover(0..=16_383));
    let proxy = Proxy::start(&cluster.seeds());
    eventually(SOON, || proxy.metric("slotmux_topology_refreshes_total") >= 2.0);
    assert_eq!(proxy.get("/readyz"), (503, "no slot table yet\n".to_owned()));
    let mut client = proxy.connect();
    client.send(&["SET", "k", "v"]);
    cluster.edit(|topology| topology.assign(0..=16_383, 0));
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(proxy.get("/readyz").0, 200);
    cluster.edit(|topology| topology.uncover(0..=16_383));
    client.send(&["SET", "k", "w"]);
    eventually(SOON, || proxy.metric("slotmux_redirects_total{kind=\"clusterdown\"}") >= 1.0);
    let refreshes = proxy.metric("slotmux_topology_refreshes_total");
    eventually(SOON, || proxy.metric("slotmux_topology_refreshes_total") >= refreshes + 2.0);
    assert_eq!(proxy.get("/readyz").0, 200);
}

#[test]
fn the_topology_is_told_as_json() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    eventually(SOON, || proxy.get("/readyz").0 == 200);
    let page = topology(&proxy);
    let [found] = &page["clusters"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!((found["name"].as_str(), found["version"].as_u64()), (Some("default"), Some(1)));
    assert!(found["age_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!((found["slots_uncovered"].as_u64(), found["state"].as_str()), (Some(0), Some("well")));
    let shards = found["shards"].as_array().unwrap();
    for (node, slots) in [(0, [0, 5_460]), (1, [5_461, 10_921]), (2, [10_922, 16_383])] {
        let node = cluster.node(node);
        let shard = shards.iter().find(|shard| shard["id"] == node.id()).unwrap();
        assert_eq!(shard["primary"], node.addr(), "{page}");
        assert_eq!((&shard["slots"], &shard["open_slots"]), (&json!([slots]), &json!([])), "{page}");
        assert!(shard["epoch"].as_u64().unwrap() >= 1);
    }

    let key = |name: &str| format!("{{{}}}{name}", tag_of(100));
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key("a"), "v"]), Value::ok());
    cluster.begin_migration(100, 0, 1);
    // TRYAGAIN lets the proxy refresh its table.
    let mut waiting = proxy.connect();
    waiting.send(&["MSETNX", &key("a"), "1", &key("b"), "2"]);
    eventually(SOON, || {
        let shards = topology(&proxy)["clusters"][0]["shards"].clone();
        shards.as_array().unwrap().iter().any(|shard| shard["open_slots"] == json!([100]))
    });
    cluster.move_keys(100, 0, 1);
    cluster.finish_migration(100, 0, 1);
    assert_eq!(waiting.read_value(), Value::Int(0));
    assert_eq!(client.cmd(&["GET", &key("a")]), Value::bulk("v"));
    eventually(SOON, || {
        let shards = topology(&proxy)["clusters"][0]["shards"].clone();
        let of = |node: usize| {
            let id = cluster.node(node).id();
            shards.as_array().unwrap().iter().find(|shard| shard["id"] == id).unwrap()["slots"].clone()
        };
        of(0) == json!([[0, 99], [101, 5_460]]) && of(1) == json!([[100, 100], [5_461, 10_921]])
    });
}

#[test]
fn what_a_node_says_cannot_break_out_of_the_json() {
    let cluster = ScriptedCluster::start(1);
    let id = "a\"}],\\";
    cluster.edit(|topology| topology.nodes[0].id = id.to_owned());
    let proxy = Proxy::start(&cluster.seeds());
    eventually(SOON, || topology(&proxy)["clusters"][0]["shards"][0]["id"] == id);
}
