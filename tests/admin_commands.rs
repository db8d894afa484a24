//! Commands that administer the nodes, and those that ask about them.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Client, ClusterOptions, Proxy, TestCluster, Value, key};

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let server_args = ["--enable-debug-command", "yes"].map(str::to_owned).to_vec();
    let cluster = TestCluster::with(ClusterOptions { server_args, ..Default::default() });
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).args(args).start();
    (cluster, proxy)
}

fn line(client: &mut Client, line: &str) -> Value {
    client.cmd(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn without_the_setting_they_are_refused_by_name() {
    let (_cluster, proxy) = start(&[]);
    let mut client = proxy.connect();
    for command in [
        "CONFIG SET maxmemory 0",
        "CONFIG RESETSTAT",
        "CONFIG REWRITE",
        "ACL SETUSER x on",
        "ACL DELUSER x",
        "ACL LOAD",
        "ACL SAVE",
        "SAVE",
        "BGSAVE",
        "BGREWRITEAOF",
        "MODULE LOAD x",
        "MODULE UNLOAD x",
        "MODULE LIST",
        "CLUSTER SAVECONFIG",
    ] {
        let text = line(&mut client, command).text();
        assert!(
            text.contains("is not available through this proxy") && text.contains("admin_commands"),
            "{text}"
        );
        let name = command.split(' ').next().unwrap().to_lowercase();
        assert!(text.starts_with(&format!("ERR command '{name}")), "{text}");
    }
}

#[test]
fn what_is_about_single_nodes_is_refused_with_the_setting_too() {
    let (_cluster, proxy) = start(&["--admin-commands"]);
    let mut client = proxy.connect();
    for command in [
        "DEBUG SLEEP 0",
        "SHUTDOWN",
        "REPLICAOF NO ONE",
        "SLAVEOF NO ONE",
        "FAILOVER",
        "CLUSTER FAILOVER",
        "CLUSTER RESET",
        "CLUSTER ADDSLOTS 1",
        "CLUSTER SETSLOT 1 STABLE",
        "SCRIPT KILL",
    ] {
        let text = line(&mut client, command).text();
        assert!(text.contains("is not available through this proxy"), "{command}: {text}");
    }
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".into()));
}

#[test]
fn with_it_they_reach_every_node_replicas_too() {
    let (cluster, proxy) = start(&["--admin-commands"]);
    let mut client = proxy.connect();
    let everywhere = |command: &[&str], expected: &str| {
        let expected = format!("{:?}", Value::bulk(expected));
        (0..6).all(|i| format!("{:?}", cluster.client(i).cmd(command)).contains(&expected))
    };
    assert_eq!(line(&mut client, "CONFIG SET maxmemory-samples 9 slowlog-max-len 77"), Value::ok());
    assert!(everywhere(&["CONFIG", "GET", "maxmemory-samples"], "9"));
    assert!(everywhere(&["CONFIG", "GET", "slowlog-max-len"], "77"));
    let refused = line(&mut client, "CONFIG SET maxmemory-samples nonsense").text();
    assert!(refused.starts_with("ERR CONFIG SET failed"), "{refused}");
    assert_eq!(line(&mut client, "CONFIG RESETSTAT"), Value::ok());
    assert!(line(&mut client, "CONFIG REWRITE").text().contains("without a config file"));
    assert_eq!(line(&mut client, "ACL SETUSER alice on nopass"), Value::ok());
    assert!(everywhere(&["ACL", "GETUSER", "alice"], "flags"));
    assert_eq!(line(&mut client, "ACL DELUSER alice"), Value::Int(1));
    assert_eq!(line(&mut client, "SAVE"), Value::ok());
    assert_eq!(line(&mut client, "CLUSTER SAVECONFIG"), Value::ok());
    assert_eq!(line(&mut client, "MODULE LIST"), Value::Array(vec![]));
    assert!(line(&mut client, "MODULE LOAD /nowhere.so").is_error());
    assert!(!line(&mut client, "BGSAVE").is_error());
}

#[test]
fn secrets_of_the_nodes_are_never_shown() {
    let cluster = TestCluster::with(ClusterOptions {
        primaries: 1,
        replicas_per_primary: 0,
        password: Some("a-secret-password".into()),
        ..Default::default()
    });
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).env("SLOTMUX_CLUSTER_PASSWORD", "a-secret-password").start();
    let mut client = proxy.connect();
    for version in ["2", "3"] {
        client.cmd(&["HELLO", version]);
        let known = client.cmd(&["CONFIG", "GET", "maxmemory"]);
        match known {
            Value::Array(pair) => assert_eq!(pair, [Value::bulk("maxmemory"), Value::bulk("0")]),
            Value::Map(pairs) => assert_eq!(pairs, [(Value::bulk("maxmemory"), Value::bulk("0"))]),
            other => panic!("{other:?}"),
        }
        for pattern in ["*", "requirepass", "REQUIREPASS", "*pass*", "master*", "tls-*", "r*s"] {
            let reply = format!("{:?}", client.cmd(&["CONFIG", "GET", "port", pattern, "masterauth"]));
            let bytes = format!("{:?}", Value::bulk("a-secret-password"));
            assert!(!reply.contains(&bytes), "{pattern}: {reply}");
            for name in
                ["requirepass", "masterauth", "masteruser", "tls-key-file-pass", "tls-client-key-file-pass"]
            {
                assert!(!reply.contains(&format!("{:?}", Value::bulk(name))), "{pattern}: {name}");
            }
        }
    }
    assert!(client.cmd(&["CONFIG", "GET"]).is_error());
}

#[test]
fn questions_about_keys_and_nodes_are_answered() {
    let (cluster, proxy) = start(&[]);
    let mut client = proxy.connect();
    for slot in [0, 8000, 16_000] {
        let key = key(slot, "k");
        client.cmd(&["SET", &key, "some value"]);
        assert!(client.cmd(&["MEMORY", "USAGE", &key]).int() > 10);
        assert_eq!(client.cmd(&["OBJECT", "ENCODING", &key]), Value::bulk("embstr"));
        assert_eq!(client.cmd(&["OBJECT", "REFCOUNT", &key]), Value::Int(1));
        assert!(client.cmd(&["OBJECT", "IDLETIME", &key]).int() < 100);
        assert!(client.cmd(&["OBJECT", "FREQ", &key]).is_error());
    }
    assert_eq!(line(&mut client, "MEMORY PURGE"), Value::ok());
    assert!(!line(&mut client, "MEMORY DOCTOR").is_error());
    assert!(!line(&mut client, "MEMORY STATS").items().is_empty());
    assert!(!line(&mut client, "MEMORY MALLOC-STATS").is_error());
    assert_eq!(line(&mut client, "TIME").items().len(), 2);
    let last = (0..3).map(|i| cluster.client(i).cmd(&["LASTSAVE"]).int()).max().unwrap();
    assert_eq!(line(&mut client, "LASTSAVE"), Value::Int(last));
    assert_eq!(line(&mut client, "LATENCY RESET"), Value::Int(0));
    assert_eq!(line(&mut client, "LATENCY LATEST"), Value::Array(vec![]));
    assert_eq!(line(&mut client, "LATENCY HISTORY command"), Value::Array(vec![]));
    for command in ["LATENCY DOCTOR", "LATENCY HISTOGRAM", "ACL CAT", "ACL GENPASS", "FUNCTION STATS"] {
        assert!(!line(&mut client, command).is_error(), "{command}");
    }
    for i in 0..3 {
        cluster.ask(i, &["CONFIG", "SET", "latency-monitor-threshold", "1"]);
        cluster.ask(i, &["DEBUG", "SLEEP", "0.01"]);
    }
    assert_eq!(line(&mut client, "LATENCY HISTORY command").items().len(), 3);
    assert_eq!(line(&mut client, "LATENCY RESET"), Value::Int(3));
}
