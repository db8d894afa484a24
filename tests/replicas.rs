//! WAIT: how many replicas have what this client wrote, though its writes share a connection with others'.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Proxy, SOON, TestCluster, Value, eventually, key};

const SLOT: u16 = 100;
const OTHER: u16 = 16_000;

/// The replica of a primary.
fn replica_of(cluster: &TestCluster, primary: usize) -> usize {
    let view = cluster.node(primary).view().unwrap();
    let id = cluster.node(primary).id();
    let line = view.iter().find(|line| line.primary.as_deref() == Some(id)).unwrap();
    (0..6).find(|i| cluster.node(*i).id() == line.id).unwrap()
}

#[test]
fn a_healthy_replica_counts_and_a_stopped_one_does_not() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(SLOT);
    let (replica, mut client) = (replica_of(&cluster, owner), proxy.connect());
    let write = |slot| ["SET".to_owned(), key(slot, "k"), "v".to_owned()];
    eventually(SOON, || {
        client.cmd(&write(SLOT));
        client.cmd(&["WAIT", "1", "100"]) == Value::Int(1)
    });
    for _ in 0..50 {
        assert_eq!(client.cmd(&write(SLOT)), Value::ok());
        assert_eq!(client.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
    }
    cluster.stop(replica);
    assert_eq!(client.cmd(&write(SLOT)), Value::ok());
    let begun = Instant::now();
    assert_eq!(client.cmd(&["WAIT", "1", "100"]), Value::Int(0));
    assert!((Duration::from_millis(100)..Duration::from_secs(5)).contains(&begun.elapsed()));
    // Who wrote elsewhere does not wait for it; who wrote to both gets the smaller count.
    let mut elsewhere = proxy.connect();
    assert_eq!(elsewhere.cmd(&write(OTHER)), Value::ok());
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
    assert_eq!(elsewhere.cmd(&["GET", &key(SLOT, "k")]), Value::bulk("v"));
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "1000"]), Value::Int(1), "what it read does not count");
    assert_eq!(elsewhere.cmd(&write(SLOT)), Value::ok());
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "50"]), Value::Int(0));
    // While it waits the replica comes back.
    client.send(&["WAIT", "1", "0"]);
    cluster.cont(replica);
    assert_eq!(client.read_value(), Value::Int(1));
}

#[test]
fn a_wait_whose_node_is_lost_answers_zero() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (owner, mut client) = (cluster.owner_of(SLOT), proxy.connect());
    assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
    client.send(&["WAIT", "2", "0"]);
    let asks = || cluster.client(owner).cmd(&["INFO", "commandstats"]).text().contains("cmdstat_wait");
    eventually(SOON, asks);
    cluster.kill9(owner);
    assert_eq!(client.read_value(), Value::Int(0));
}
