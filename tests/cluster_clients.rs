//! Clients that know of clusters: the proxy is their one node, which owns all slots.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use redis::Commands;
use redis::cluster::{ClusterClient, ClusterConnection, cluster_pipe};
use support::{
    Client, PlainServer, Proxy, SOON, TestCluster, eventually, node_modules, python, python_of_old, script,
    slot_of, talk,
};

const ID: &str = "(a node's id, of forty hexadecimal digits)";

/// A server that is a cluster of its own, and the proxy.
struct Setup {
    server: PlainServer,
    proxy: Proxy,
    _cluster: TestCluster,
}

impl Setup {
    fn start() -> Self {
        let cluster = TestCluster::primaries(3);
        let server = PlainServer::start(&["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]);
        let mut client = server.connect();
        client.cmd(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        eventually(SOON, || client.cmd(&["CLUSTER", "INFO"]).text().starts_with("cluster_state:ok"));
        Self { server, proxy: Proxy::start(&cluster.seeds()), _cluster: cluster }
    }
}

/// What an address answers, without what no two nodes share.
fn masked(addr: &str, request: &str) -> String {
    let id = Client::connect(addr).cmd(&["CLUSTER", "MYID"]).text();
    assert_eq!(id.len(), 40);
    let port = addr.rsplit_once(':').unwrap().1;
    let reply = String::from_utf8(talk(addr, request.as_bytes())).unwrap();
    // The bus has another port, in as many digits as it needs.
    let (front, back) = reply.split_once(" myself,").unwrap_or((&reply, ""));
    let front = front.split('@').next().unwrap();
    let reply = if back.is_empty() { reply.clone() } else { format!("{front} myself,{back}") };
    reply.replace(&id, ID).replace(&format!(":{port}"), "(port)")
}

#[test]
fn cluster_commands_are_answered_as_by_a_single_node() {
    let setup = Setup::start();
    let id = |addr: &str| Client::connect(addr).cmd(&["CLUSTER", "MYID"]).text();
    let (server, proxy) = (setup.server.addr(), setup.proxy.addr());
    for request in [
        "CLUSTER SLOTS",
        "CLUSTER SHARDS",
        "CLUSTER NODES",
        "CLUSTER INFO",
        "CLUSTER MYID",
        "CLUSTER KEYSLOT a",
        "CLUSTER KEYSLOT {a}b",
        "CLUSTER KEYSLOT",
        "CLUSTER REPLICAS (id)",
        "CLUSTER SLAVES (id)",
        "CLUSTER REPLICAS x",
        "CLUSTER SLAVES \"x\\r\\ny\"",
        "CLUSTER REPLICAS",
        "CLUSTER COUNTKEYSINSLOT 0",
        "CLUSTER COUNTKEYSINSLOT 16383",
        "CLUSTER COUNTKEYSINSLOT 16384",
        "CLUSTER COUNTKEYSINSLOT -1",
        "CLUSTER COUNTKEYSINSLOT a",
        "CLUSTER COUNTKEYSINSLOT",
        "CLUSTER GETKEYSINSLOT 0 1",
        "CLUSTER GETKEYSINSLOT 0 -1",
        "CLUSTER GETKEYSINSLOT 0 a",
        "CLUSTER GETKEYSINSLOT 16384 1",
        "CLUSTER GETKEYSINSLOT 0",
        "CLUSTER INFO a",
        "CLUSTER WHAT",
        "CLUSTER",
        "READONLY",
        "READWRITE",
        "ASKING",
        "READONLY a",
        "ASKING a",
        "SET a 1\r\nCLUSTER COUNTKEYSINSLOT 15495\r\nCLUSTER GETKEYSINSLOT 15495 9\r\nDEL a",
    ] {
        // RESP3 begins with a greeting, in which a node of a cluster says so.
        let greeting = "CLIENT REPLY SKIP\r\nHELLO 3\r\n";
        for begin in ["", greeting] {
            let ask = |addr| masked(addr, &format!("{begin}{}\r\n", request.replace("(id)", &id(addr))));
            assert_eq!(ask(proxy), ask(server), "{request}");
        }
    }
}

#[test]
fn what_writes_or_is_about_a_real_node_is_refused_by_name() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    for (command, name) in [
        ("CLUSTER MEET 127.0.0.1 7000", "cluster meet"),
        ("CLUSTER LINKS", "cluster links"),
        ("CLUSTER COUNT-FAILURE-REPORTS x", "cluster count-failure-reports"),
        ("CLUSTER FAILOVER", "cluster failover"),
        ("CLUSTER SETSLOT 1 STABLE", "cluster setslot"),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let expected = format!("ERR command '{name}' is not available through this proxy: ");
        assert!(client.cmd(&words).text().starts_with(&expected), "{command}");
    }
}

#[test]
fn keys_of_a_slot_are_those_of_its_owner() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    for name in ["a", "b", "c", "foo", "bar", "hello"] {
        let (slot, keys) = (slot_of(name).to_string(), [format!("{{{name}}}1"), format!("{{{name}}}2")]);
        let mut commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "v"]).collect();
        commands.push(vec!["CLUSTER", "COUNTKEYSINSLOT", &slot]);
        commands.push(vec!["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        let replies = client.pipeline(&commands);
        assert_eq!(replies[2].int(), 2, "{name}");
        let mut found: Vec<String> = replies[3].items().iter().map(support::Value::text).collect();
        found.sort();
        assert_eq!(found, keys);
    }
}

#[test]
fn a_listener_announces_what_it_is_told_to() {
    let cluster = TestCluster::primaries(3);
    let folder = tempfile::tempdir().unwrap();
    let (file, plain, told) =
        (folder.path().join("slotmux.yaml"), folder.path().join("plain"), folder.path().join("told"));
    let text = format!(
        "clusters:\n  main:\n    seeds: [{}]\nadmin: 127.0.0.1:0\nlisteners:\n  \
         - address: 127.0.0.1:0\n    announce: proxy.example.com:6400\n  - address: unix:{}\n  \
         - address: unix:{}\n    announce: '[2001:db8::1]:6401'\n",
        cluster.seeds().join(", "),
        plain.display(),
        told.display()
    );
    std::fs::write(&file, text).unwrap();
    let proxy = Proxy::with(&["--config", file.to_str().unwrap()], 3).start();
    let ask = |words: &[&str]| Client::connect(proxy.addr()).cmd(words);
    let node = ask(&["CLUSTER", "SLOTS"]).items()[0].items()[2].clone();
    assert_eq!((node.items()[0].text().as_str(), node.items()[1].int()), ("proxy.example.com", 6400));
    let nodes = ask(&["CLUSTER", "NODES"]).text();
    assert!(nodes.contains(" proxy.example.com:6400@16400 myself,master "), "{nodes}");

    let cli = |path: &Path, words: &[&str]| {
        let output = Command::new("redis-cli").arg("-s").arg(path).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(cli(&told, &["CLUSTER", "NODES"]).contains(" 2001:db8::1:6401@16401 myself,master "));
    assert_eq!(cli(&told, &["CLUSTER", "MYID"]).trim_end().len(), 40);
    for what in ["NODES", "SLOTS", "SHARDS"] {
        let said = cli(&plain, &["CLUSTER", what]);
        assert!(said.starts_with("ERR ") && said.contains("`announce: HOST:PORT`"), "{said}");
    }
    assert_eq!(cli(&plain, &["CLUSTER", "KEYSLOT", "a"]), "15495\n");
    assert_eq!(cli(&plain, &["CLUSTER", "MYID"]).trim_end().len(), 40);
}

/// Runs a client's script, which says `done`.
#[track_caller]
fn run(proxy: &Proxy, mut command: Command, name: &str, args: &[&str]) {
    let (host, port) = proxy.addr().rsplit_once(':').unwrap();
    let output = command.arg(script(name)).args([host, port]).args(args).output().unwrap();
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success() && output.stdout.ends_with(b"done\n"), "{command:?}:\n{said}");
    assert_eq!(Client::connect(proxy.addr()).cmd(&["FLUSHALL"]).text(), "OK");
}

#[test]
fn redis_py_and_its_predecessor_work() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    for protocol in ["2", "3"] {
        run(&proxy, Command::new(python()), "cluster_redis_py.py", &[protocol]);
    }
    let mut old = Command::new(python_of_old());
    old.args(["-W", "ignore::DeprecationWarning"]);
    run(&proxy, old, "cluster_of_old.py", &[]);
}

#[test]
fn ioredis_and_node_redis_work() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let node = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", node_modules());
        command
    };
    run(&proxy, node(), "cluster_ioredis.js", &[]);
    for protocol in ["2", "3"] {
        run(&proxy, node(), "cluster_node_redis.js", &[protocol]);
    }
}

#[test]
fn the_redis_crate_works() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    for query in ["", "?protocol=resp3"] {
        let client = ClusterClient::new([format!("redis://{}/{query}", proxy.addr())]).unwrap();
        let mut connection: ClusterConnection = client.get_connection().unwrap();
        let () = connection.set("s", "v").unwrap();
        assert_eq!(connection.get::<_, String>("s").unwrap(), "v");
        let pairs: Vec<(String, i64)> = (0..300).map(|i| (format!("k{i}"), i)).collect();
        let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
        let () = connection.mset(&pairs).unwrap();
        assert!(connection.mget::<_, Vec<i64>>(&keys).unwrap().into_iter().eq(0..300));
        let mut pipe = cluster_pipe();
        for key in &keys {
            pipe.incr(key, 1);
        }
        let counts: Vec<i64> = pipe.query(&mut connection).unwrap();
        assert!(counts.into_iter().eq(1..301));
        assert_eq!(connection.del::<_, i64>(&keys).unwrap(), 300);
    }
}

#[test]
fn redis_cli_works_with_its_option_for_clusters() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let (host, port) = proxy.addr().rsplit_once(':').unwrap();
    let cli = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-c", "-h", host, "-p", port]).args(words).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    for i in 0..20 {
        assert_eq!(cli(&["SET", &format!("k{i}"), &i.to_string()]), "OK\n");
        assert_eq!(cli(&["GET", &format!("k{i}")]), format!("{i}\n"));
    }
    assert_eq!(cli(&["MGET", "k1", "k2", "k3"]), "1\n2\n3\n");
    assert!(cli(&["CLUSTER", "NODES"]).contains("myself,master - 0 0 0 connected 0-16383"));
}
