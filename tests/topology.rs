//! Who owns which slot, learned from real clusters that are not as they should be.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use slotmux::topology::names;
use support::{Bus, ClusterOptions, Proxy, SOON, TestCluster, Value, eventually, tag_of};

const LOW: u16 = 100;
const HIGH: u16 = 16_000;

fn key(slot: u16, name: &str) -> String {
    format!("{{{}}}{name}", tag_of(slot))
}

fn proxy(cluster: &TestCluster) -> Proxy {
    Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start()
}

/// How many shared connections of the proxy a node has.
fn links(cluster: &TestCluster, node: usize) -> usize {
    let list = cluster.ask(node, &["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains("name=slotmux-") && !line.contains("slotmux-topology")).count()
}

/// The node's folder.
fn folder(cluster: &TestCluster, node: usize) -> PathBuf {
    let dir = cluster.client(node).cmd(&["CONFIG", "GET", "dir"]).items()[1].text();
    PathBuf::from(dir)
}

fn set_on_all(cluster: &TestCluster, name: &str, value: &str) {
    (0..cluster.nodes().len()).for_each(|i| _ = cluster.ask(i, &["CONFIG", "SET", name, value]));
}

/// Waits until all nodes say of every node what `part` wants to read in its line.
fn await_lines(cluster: &TestCluster, part: impl Fn(usize) -> String) {
    eventually(SOON, || {
        (0..cluster.nodes().len()).all(|asked| {
            let text = cluster.ask(asked, &["CLUSTER", "NODES"]);
            (0..cluster.nodes().len()).all(|i| {
                let line = text.lines().find(|line| line.starts_with(cluster.node(i).id()));
                line.is_some_and(|line| line.contains(&part(i)) && !line.contains("disconnected"))
            })
        })
    });
}

#[test]
fn a_primary_that_is_cut_off_is_left_and_never_listened_to_again() {
    let cluster = TestCluster::start();
    let bus = Bus::relay(&cluster);
    let (old, new) = (0, 3);
    // The worst case: it goes on answering reads.
    cluster.ask(old, &["CONFIG", "SET", "cluster-allow-reads-when-down", "yes"]);
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "old"]), Value::ok());
    bus.cut(old);
    eventually(SOON, || {
        let view = cluster.node(new).view().unwrap();
        view.iter().any(|line| line.is("myself") && line.owns(LOW))
    });
    eventually(SOON, || cluster.ask(old, &["CLUSTER", "INFO"]).contains("cluster_state:fail"));
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "new"]), Value::ok());
    assert_eq!(cluster.ask(old, &["GET", &key(LOW, "a")]), "old");
    let refreshes = || proxy.metric("slotmux_topology_refreshes_total");
    let (before, version) = (refreshes(), proxy.metric("slotmux_topology_version"));
    cluster.ask(old, &["CONFIG", "RESETSTAT"]);
    // Links that end make it ask again and again.
    while refreshes() < before + 20.0 {
        cluster.ask(1, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for _ in 0..20 {
            assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("new"));
            assert_eq!(proxy.connect().cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
            _ = client.cmd(&["GET", &key(8_000, "a")]);
        }
    }
    assert_eq!(proxy.metric("slotmux_topology_version"), version);
    let asked = cluster.ask(old, &["INFO", "commandstats"]);
    assert!(asked.contains("cmdstat_cluster|nodes") && !asked.contains("cmdstat_get"), "{asked}");
    assert_eq!(proxy.metric("slotmux_cluster_down"), 0.0);
    // A proxy that starts now does not fall for it either, if it is the first that it asks.
    let seeds = [cluster.node(old).addr()];
    let late = Proxy::for_seeds(&seeds).args(&["--workers", "1"]).start();
    for _ in 0..20 {
        assert_eq!(late.connect().cmd(&["GET", &key(LOW, "a")]), Value::bulk("new"));
    }
    bus.heal();
    eventually(SOON, || cluster.node(old).view().unwrap().iter().any(|l| l.is("myself") && !l.is("master")));
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("new"));
}

#[test]
fn a_removed_node_that_comes_back_with_its_old_configuration_changes_nothing() {
    let cluster = TestCluster::start();
    let (old, new) = (0, 3);
    let copy = fs::read(folder(&cluster, old).join("nodes.conf")).unwrap();
    let folder = folder(&cluster, old);
    let mut seeds = cluster.seeds();
    let proxy = Proxy::for_seeds(&seeds).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    cluster.failover(new);
    cluster.kill9(old);
    for i in 1..6 {
        cluster.ask(i, &["CLUSTER", "FORGET", cluster.node(old).id()]);
    }
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "2"]), Value::ok());
    fs::write(folder.join("nodes.conf"), copy).unwrap();
    cluster.restart(old);
    // It names the members, and believes itself one of them.
    assert!(cluster.ask(old, &["CLUSTER", "NODES"]).contains(cluster.node(1).id()));
    seeds.truncate(2);
    let late = Proxy::for_seeds(&seeds).args(&["--workers", "1"]).start();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Refreshes, all the time.
            while !over.load(Ordering::Relaxed) {
                cluster.ask(1, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let refreshes = || proxy.metric("slotmux_topology_refreshes_total");
        let before = refreshes();
        let mut late = late.connect();
        while refreshes() < before + 20.0 {
            for client in [&mut client, &mut late] {
                assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("2"));
                _ = client.cmd(&["GET", &key(8_000, "a")]);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(links(&cluster, old), 0);
}

#[test]
fn nodes_that_refuse_all_slots_for_one_are_reported_and_those_that_do_not_serve_the_others() {
    for full in [true, false] {
        let options = ClusterOptions {
            replicas_per_primary: 0,
            require_full_coverage: full,
            ..ClusterOptions::default()
        };
        let cluster = TestCluster::with(options);
        let proxy = proxy(&cluster);
        let mut client = proxy.connect();
        assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
        cluster.kill9(2);
        let lost = |i: usize| cluster.node(i).view().unwrap().iter().any(|line| line.is("fail"));
        eventually(SOON, || lost(0) && lost(1));
        let refuses = |i: usize| cluster.ask(i, &["CLUSTER", "INFO"]).contains("cluster_state:fail");
        eventually(SOON, || (0..2).all(|i| refuses(i) == full));
        // Somebody wants the lost slots, again and again.
        let mut other = proxy.connect();
        other.send(&["GET", &key(HIGH, "a")]);
        client.send(&["GET", &key(LOW, "a")]);
        let metric = |name: &str| proxy.metric(name) == 1.0;
        if full {
            eventually(SOON, || metric("slotmux_cluster_refuses_all") && metric("slotmux_cluster_down"));
            let log = proxy.log();
            assert_eq!(log.matches("cluster-require-full-coverage no").count(), 1, "{log}");
            set_on_running(&cluster, "cluster-require-full-coverage", "no");
            eventually(SOON, || !metric("slotmux_cluster_refuses_all") && !metric("slotmux_cluster_down"));
        }
        assert_eq!(client.read_value(), Value::bulk("1"));
        assert!(!metric("slotmux_cluster_down"));
        assert!(full || !proxy.log().contains("full-coverage"));
    }
}

fn set_on_running(cluster: &TestCluster, name: &str, value: &str) {
    let running = (0..cluster.nodes().len()).filter(|i| cluster.node(*i).is_running());
    running.for_each(|i| _ = cluster.ask(i, &["CONFIG", "SET", name, value]));
}

#[test]
fn commands_sent_before_the_cluster_is_up_are_answered_once_it_is() {
    let cluster = TestCluster::start();
    (0..6).for_each(|i| cluster.kill9(i));
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let keys: Vec<String> = (0..50).map(|i| key(i * 300, "a")).collect();
    keys.iter().for_each(|key| client.send(&["INCR", key]));
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 50.0);
    thread::scope(|scope| {
        (0..6).for_each(|i| {
            _ = scope.spawn({
                let cluster = &cluster;
                move || cluster.restart(i)
            })
        })
    });
    assert_eq!(client.read_values(50), vec![Value::Int(1); 50]);
}

#[test]
fn a_cluster_that_is_formed_under_the_eyes_of_the_proxy_is_served_once_it_is_whole() {
    let cluster = TestCluster::primaries(3);
    (0..3).for_each(|i| _ = cluster.ask(i, &["CLUSTER", "RESET"]));
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let keys: Vec<String> = (0..50).map(|i| key(i * 300, "a")).collect();
    keys.iter().for_each(|key| client.send(&["INCR", key]));
    eventually(SOON, || proxy.log().contains("of no cluster that serves slots"));
    // As redis-cli does it: slots first, and the nodes meet last. Until then each is a cluster of its own.
    for (i, (first, last)) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().enumerate() {
        cluster.ask(i, &["CLUSTER", "ADDSLOTSRANGE", first, last]);
    }
    eventually(SOON, || proxy.metric("slotmux_topology_version") >= 1.0);
    for i in 1..3 {
        cluster.ask(i, &["CLUSTER", "MEET", "127.0.0.1", &cluster.node(0).port().to_string()]);
    }
    assert_eq!(client.read_values(50), vec![Value::Int(1); 50]);
    assert!(!proxy.log().contains("a seed is a node of another cluster"), "{}", proxy.log());
    eventually(SOON, || proxy.metric("slotmux_foreign_seeds") == 0.0);
}

#[test]
fn a_redirect_may_name_a_host_or_none_at_all() {
    let cluster = TestCluster::primaries(2);
    set_on_all(&cluster, "cluster-announce-hostname", "localhost");
    await_lines(&cluster, |_| ",localhost".to_owned());
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let mut slots = LOW..;
    for (preferred, said) in [("ip", "127.0.0.1"), ("hostname", "localhost"), ("unknown-endpoint", "")] {
        set_on_all(&cluster, "cluster-preferred-endpoint-type", preferred);
        let slot = slots.next().unwrap();
        assert_eq!(client.cmd(&["SET", &key(slot, "a"), preferred]), Value::ok());
        cluster.migrate_slot(slot, 0, 1);
        let moved = cluster.client(0).cmd(&["GET", &key(slot, "a")]);
        assert_eq!(moved.text(), format!("MOVED {slot} {said}:{}", cluster.node(1).port()));
        let redirects = proxy.metric("slotmux_redirects_total{kind=\"moved\"}");
        assert_eq!(client.cmd(&["GET", &key(slot, "a")]), Value::bulk(preferred));
        assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"moved\"}"), redirects + 1.0);
    }
    assert_eq!(links(&cluster, 1), 1, "one node, by whatever name");
    // The servers' own words for it are understood.
    let reply = |command: &str| {
        let mut client = cluster.client(0);
        client.send(&["CLUSTER", command]);
        client.send(&["QUIT"]);
        client.read_to_end_raw().strip_suffix(b"+OK\r\n").unwrap().to_vec()
    };
    for names in [names::shards(&reply("SHARDS")).unwrap(), names::slots(&reply("SLOTS")).unwrap()] {
        for node in cluster.nodes() {
            let named = &names[node.id()];
            assert_eq!((&*named.hosts[0], named.port), ("localhost", Some(node.port())));
            assert!(named.hosts.iter().any(|host| &**host == "127.0.0.1"));
        }
    }
}

#[test]
fn a_cluster_on_ipv6_is_served() {
    let options = ClusterOptions {
        replicas_per_primary: 0,
        server_args: vec!["--bind".into(), "127.0.0.1 ::1".into()],
        ..ClusterOptions::default()
    };
    let cluster = TestCluster::with(options);
    set_on_all(&cluster, "cluster-announce-ip", "::1");
    await_lines(&cluster, |i| format!(" ::1:{}@", cluster.node(i).port()));
    let seed = format!("[::1]:{}", cluster.node(2).port());
    let proxy = Proxy::for_seeds(&[seed]).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    for slot in [LOW, 8_000, HIGH] {
        assert_eq!(client.cmd(&["SET", &key(slot, "a"), "1"]), Value::ok());
    }
    cluster.migrate_slot(LOW, 0, 1);
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    let list = cluster.ask(0, &["CLIENT", "LIST"]);
    assert!(
        list.lines().any(|line| line.contains("laddr=[::1]:") && line.contains("name=slotmux-")),
        "{list}"
    );
}

#[test]
fn the_plain_ports_of_a_cluster_with_tls_are_used() {
    let certificates = tempfile::tempdir().unwrap();
    let (certificate, private) = certificate(certificates.path());
    let mut args =
        vec!["--tls-cert-file".to_owned(), certificate.clone(), "--tls-key-file".to_owned(), private];
    args.extend(["--tls-ca-cert-file".to_owned(), certificate]);
    let options = ClusterOptions { replicas_per_primary: 0, server_args: args, ..ClusterOptions::default() };
    let cluster = TestCluster::with(options);
    // The nodes talk TLS to each other: TLS ports are what they know each other by.
    for (i, node) in cluster.nodes().iter().enumerate() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        cluster.ask(i, &["CONFIG", "SET", "tls-port", &port.to_string()]);
        cluster.ask(i, &["CONFIG", "SET", "tls-cluster", "yes"]);
        cluster.ask(i, &["CONFIG", "SET", "cluster-announce-bus-port", &(node.port() + 10_000).to_string()]);
    }
    await_lines(&cluster, |i| format!(" 127.0.0.1:{}@", cluster.node(i).port()));
    eventually(SOON, || {
        (0..3).all(|i| {
            let shards = cluster.client(i).cmd(&["CLUSTER", "SHARDS"]);
            let nodes = shards.items().iter().flat_map(|shard| shard.items()[3].items());
            nodes.filter(|node| node.items().iter().any(|field| field.text() == "tls-port")).count() == 3
        })
    });
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    for slot in [LOW, 8_000, HIGH] {
        assert_eq!(client.cmd(&["SET", &key(slot, "a"), "1"]), Value::ok());
    }
    // An empty slot: keys would have to be moved over TLS.
    cluster.begin_migration(LOW + 1, 0, 1);
    cluster.finish_migration(LOW + 1, 0, 1);
    assert_eq!(client.cmd(&["SET", &key(LOW + 1, "a"), "1"]), Value::ok());
    assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"moved\"}"), 1.0);
    assert_eq!((0..3).map(|i| links(&cluster, i)).collect::<Vec<_>>(), [1; 3]);
}

/// A certificate and its key, as files.
fn certificate(folder: &Path) -> (String, String) {
    let file = |name| folder.join(name).to_str().unwrap().to_owned();
    let (certificate, private) = (file("cert.pem"), file("key.pem"));
    let args = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost";
    let made = Command::new("openssl")
        .args(args.split(' '))
        .args(["-keyout", &private, "-out", &certificate])
        .output()
        .expect("openssl starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, private)
}
