//! INFO of the cluster as of one server.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Client, Proxy, SOON, TestCluster, Value, eventually, key};

fn info(client: &mut Client, sections: &[&str]) -> String {
    client.cmd(&[&["INFO"], sections].concat()).text()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

fn sections(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# ")).collect()
}

#[test]
fn the_primaries_are_one_server() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let (mut client, _other) = (proxy.connect(), proxy.connect());
    for slot in (0..16_000).step_by(100) {
        client.cmd(&["SET", &key(slot, "k"), "x", "EX", "1000"]);
    }
    let text = info(&mut client, &[]);
    let server = cluster.client(0).cmd(&["INFO"]).text();
    let mut expected = sections(&server);
    expected.push("Slotmux");
    assert_eq!(sections(&text), expected);
    for (name, value) in [
        ("redis_version", field(&server, "redis_version")),
        ("redis_mode", "standalone".into()),
        ("role", "master".into()),
        ("connected_slaves", "3".into()),
        ("cluster_enabled", "0".into()),
        ("loading", "0".into()),
        ("connected_clients", "2".into()),
        ("maxclients", "10000".into()),
        ("slotmux_version", env!("CARGO_PKG_VERSION").into()),
        ("slotmux_cluster_state", "well".into()),
        ("slotmux_slots_covered", "16384".into()),
        ("slotmux_shards_answering", "3".into()),
    ] {
        assert_eq!(field(&text, name), value, "{name}");
    }
    assert!(field(&text, "db0").starts_with("keys=160,expires=160,avg_ttl="), "{text}");
    let used: u64 = (0..3)
        .map(|i| field(&cluster.ask(i, &["INFO", "memory"]), "used_memory").parse::<u64>().unwrap())
        .sum();
    let told: u64 = field(&text, "used_memory").parse().unwrap();
    assert!(told > used / 2 && told < used * 2, "{told} {used}");
    assert!(field(&text, "used_memory_human").ends_with('M'));
    assert!(!text.contains("slave0:"));
    let all = info(&mut client, &["all"]);
    assert!(field(&all, "cmdstat_set").starts_with("calls=160,"), "{all}");
    assert!(sections(&info(&mut client, &["everything"])).contains(&"Modules"));
    assert_eq!(sections(&info(&mut client, &["keyspace", "SERVER", "nonsense"])), ["Server", "Keyspace"]);
    assert_eq!(sections(&info(&mut client, &["slotmux"])), ["Slotmux"]);
    assert_eq!(client.cmd(&["INFO", "nonsense"]), Value::bulk(""));
    client.cmd(&["HELLO", "3"]);
    let Value::Verbatim(kind, text) = client.cmd(&["INFO", "replication"]) else { panic!() };
    let text = String::from_utf8(text).unwrap();
    assert_eq!((kind.as_str(), field(&text, "connected_slaves")), ("txt", "3".into()));
    assert_eq!(sections(&text), ["Replication"]);
}

#[test]
fn a_shard_that_does_not_answer_delays_it_for_a_second() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    for slot in [0, 8000, 16_000] {
        client.cmd(&["SET", &key(slot, "k"), "x"]);
    }
    cluster.stop(1);
    let begun = Instant::now();
    let text = info(&mut client, &[]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((field(&text, "loading"), field(&text, "slotmux_shards_answering")), ("0".into(), "2".into()));
    cluster.cont(1);
    eventually(SOON, || field(&info(&mut client, &[]), "slotmux_shards_answering") == "3");
}

#[test]
fn it_is_there_when_no_node_answers() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    eventually(SOON, || field(&info(&mut client, &[]), "slotmux_shards_answering") == "1");
    cluster.kill9(0);
    let text = info(&mut client, &[]);
    assert_eq!((field(&text, "loading"), field(&text, "redis_version")), ("0".into(), "7.0.15".into()));
    assert_eq!(field(&text, "redis_mode"), "standalone");
}
