//! Passwords: the nodes', which the proxy shows, and the clients', which it asks for.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{ClusterOptions, Proxy, ProxyBuilder, SOON, TestCluster, Value, encode, eventually};

const NOAUTH: &str = "NOAUTH Authentication required.";

fn cluster_with_password() -> TestCluster {
    TestCluster::with(ClusterOptions {
        primaries: 3,
        replicas_per_primary: 0,
        password: Some("the nodes' own".to_owned()),
        ..Default::default()
    })
}

fn proxy_for(cluster: &TestCluster) -> ProxyBuilder {
    Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"])
}

/// All keys are served, in both versions of the protocol.
#[track_caller]
fn assert_serves(proxy: &Proxy) {
    for protocol in ["2", "3"] {
        let mut client = proxy.connect();
        client.cmd(&["HELLO", protocol]);
        for i in 0..20 {
            assert_eq!(client.cmd(&["SET", &format!("k{i}"), protocol]), Value::ok());
        }
    }
}

#[test]
fn the_nodes_password_comes_from_a_file_or_the_environment() {
    let cluster = cluster_with_password();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    // As an editor leaves it.
    std::fs::write(&file, "the nodes' own\n").unwrap();
    assert_serves(&proxy_for(&cluster).args(&["--cluster-password-file", file.to_str().unwrap()]).start());
    assert_serves(&proxy_for(&cluster).env("SLOTMUX_CLUSTER_PASSWORD", "the nodes' own").start());
}

#[test]
fn a_password_may_be_of_any_bytes() {
    let cluster = TestCluster::primaries(3);
    let password = b"\xff\x00 \xc3";
    for node in 0..3 {
        let set: [&[u8]; 4] = [b"CONFIG", b"SET", b"requirepass", password];
        assert_eq!(cluster.client(node).cmd(&set), Value::ok());
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, password).unwrap();
    assert_serves(&proxy_for(&cluster).args(&["--cluster-password-file", file.to_str().unwrap()]).start());
}

#[test]
fn the_nodes_may_know_the_proxy_as_a_user() {
    let cluster = cluster_with_password();
    for node in 0..3 {
        cluster.ask(node, &["ACL", "SETUSER", "proxy", "on", ">its own", "~*", "&*", "+@all"]);
        // The default user may do nothing any more.
        cluster
            .ask(node, &["ACL", "SETUSER", "narrow", "on", ">its own", "~k*", "+@string", "+cluster|nodes"]);
    }
    let with_user = |user: &str| {
        proxy_for(&cluster).env("SLOTMUX_CLUSTER_PASSWORD", "its own").args(&["--cluster-user", user]).start()
    };
    assert_serves(&with_user("proxy"));
    assert_serves(
        &proxy_for(&cluster)
            .env("SLOTMUX_CLUSTER_PASSWORD", "its own")
            .env("SLOTMUX_CLUSTER_USER", "proxy")
            .start(),
    );
    // One that may do little: it can't name its connections, and what it may not do is a node's own error.
    let narrow = with_user("narrow");
    assert_serves(&narrow);
    let mut client = narrow.connect();
    assert!(client.cmd(&["LPUSH", "k", "v"]).text().starts_with("NOPERM "));
    assert!(client.cmd(&["GET", "other"]).text().starts_with("NOPERM "));
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
}

#[test]
fn a_wrong_password_for_the_nodes_is_told_in_the_log_and_at_the_deadline() {
    let cluster = cluster_with_password();
    let wrong = [
        (proxy_for(&cluster).env("SLOTMUX_CLUSTER_PASSWORD", "guessed"), "WRONGPASS"),
        (proxy_for(&cluster), "NOAUTH"),
    ];
    for (builder, word) in wrong {
        let proxy = builder.args(&["--command-deadline", "1s"]).start();
        let mut client = proxy.connect();
        let asked = Instant::now();
        let reply = client.cmd(&["GET", "k"]).text();
        assert!(reply.starts_with("CLUSTERDOWN "), "{reply}");
        assert!(asked.elapsed() >= Duration::from_millis(900), "not before the deadline");
        eventually(SOON, || proxy.log().contains(word));
        let log = proxy.log();
        assert!(log.contains("no node tells the topology"), "{log}");
        assert!(!log.contains("guessed"), "a password has no place in the log: {log}");
        assert!(log.lines().count() < 10, "told once, not at each attempt: {log}");
        assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
        assert_eq!(proxy.get("/readyz").0, 503);
        assert_eq!(proxy.get("/healthz").0, 200);
    }
}

#[test]
fn nodes_that_ask_for_no_password_any_more_are_served_on() {
    let cluster = cluster_with_password();
    let proxy = proxy_for(&cluster).env("SLOTMUX_CLUSTER_PASSWORD", "the nodes' own").start();
    assert_serves(&proxy);
    for node in 0..3 {
        // New connections, whose AUTH a node without a password refuses, work as well.
        let mut admin = cluster.client(node);
        assert_eq!(admin.cmd(&["CONFIG", "SET", "requirepass", ""]), Value::ok());
        assert!(admin.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).int() > 0);
    }
    let mut client = proxy.connect();
    for i in 0..20 {
        assert_eq!(client.cmd(&["GET", &format!("k{i}")]), Value::bulk("3"));
    }
}

#[test]
fn clients_must_give_their_own_password() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy_for(&cluster).env("SLOTMUX_CLIENT_PASSWORD", "secret").start();
    let denied = Value::error(NOAUTH);
    let wrong = Value::error("WRONGPASS invalid username-password pair or user is disabled.");
    let mut client = proxy.connect();
    for args in [
        &["GET", "k"][..],
        &["PING"],
        &["CLIENT", "ID"],
        &["FLUSHALL"],
        &["COMMAND"],
        &["MULTI"],
        &["EVAL", "return 1", "0"],
    ] {
        assert_eq!(client.cmd(args), denied, "{args:?}");
    }
    assert_eq!(client.cmd(&["AUTH", "guess"]), wrong);
    assert_eq!(client.cmd(&["AUTH", "nobody", "secret"]), wrong);
    assert_eq!(client.cmd(&["HELLO", "3", "AUTH", "default", "guess"]), wrong);
    assert_eq!(client.cmd(&["GET", "k"]), denied);
    assert_eq!(client.cmd(&["AUTH", "secret"]), Value::ok());
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    // A failed attempt takes nothing away; RESET does.
    assert_eq!(client.cmd(&["AUTH", "guess"]), wrong);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(client.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
    assert_eq!(client.cmd(&["GET", "k"]), denied);
    assert!(matches!(client.cmd(&["HELLO", "3", "AUTH", "default", "secret"]), Value::Map(_)));
    assert_eq!(client.cmd(&["GET", "absent"]), Value::Null);
    assert_eq!(client.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
    assert_eq!(client.cmd(&["GET", "k"]), denied, "and RESP2 is back");
    assert_eq!(client.cmd(&["QUIT"]), Value::ok());

    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"wrongpass\"}"), 4.0);
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"noauth\"}"), 10.0);
}

#[test]
fn what_is_pipelined_behind_auth_finds_it_done() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy_for(&cluster).env("SLOTMUX_CLIENT_PASSWORD", "secret").start();
    let mut client = proxy.connect();
    let commands: [&[&str]; 6] = [
        &["SET", "k", "0"],
        &["AUTH", "secret"],
        &["SET", "k", "1"],
        &["RESET"],
        &["SET", "k", "2"],
        &["AUTH", "secret"],
    ];
    let denied = Value::error(NOAUTH);
    let replies = client.pipeline(&commands);
    assert_eq!(
        replies,
        [denied.clone(), Value::ok(), Value::ok(), Value::Simple("RESET".to_owned()), denied, Value::ok()]
    );
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("1"));
}

#[test]
fn a_stranger_can_not_make_the_proxy_hold_much() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy_for(&cluster).env("SLOTMUX_CLIENT_PASSWORD", "secret").start();
    let error = |text: &str| format!("-ERR Protocol error: {text}\r\n").into_bytes();
    let mut client = proxy.connect();
    client.send_raw(encode(&["a"; 11]));
    assert_eq!(client.read_to_end_raw(), error("unauthenticated multibulk length"));
    let mut client = proxy.connect();
    client.send_raw("*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(client.read_to_end_raw(), error("unauthenticated bulk length"));
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"protocol\"}"), 2.0);
}
