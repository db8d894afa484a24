//! Commands that administer the nodes, and those that ask about them.

#![allow(clippy::unwrap_used)]

mod support;

use support::{
    Client, ClusterOptions, PlainServer, Proxy, SOON, TestCluster, Value, encode, eventually, key, tag_of,
};

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
        "CLUSTER FORGET x",
        "CLUSTER MEET 127.0.0.1 1",
        "CLUSTER SETSLOT 1 STABLE",
        "CLUSTER DELSLOTS 1",
        "CLUSTER DELSLOTSRANGE 1 2",
        "CLUSTER FLUSHSLOTS",
        "CLUSTER BUMPEPOCH",
        "CLUSTER SET-CONFIG-EPOCH 1",
        "DEBUG SLEEP 0",
        "SHUTDOWN NOSAVE",
        "REPLICAOF NO ONE",
        "SLAVEOF NO ONE",
        "FAILOVER",
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
fn what_one_node_alone_may_do_is_refused_with_the_setting_too() {
    let (cluster, proxy) = start(&["--admin-commands"]);
    let mut client = proxy.connect();
    let before = cluster.ask(0, &["CLUSTER", "INFO"]);
    for (command, reason) in [
        ("CLUSTER FAILOVER", "one node is meant"),
        ("CLUSTER FAILOVER TAKEOVER", "one node is meant"),
        ("CLUSTER RESET HARD", "one node is meant"),
        ("CLUSTER REPLICATE x", "one node is meant"),
        ("CLUSTER ADDSLOTS 1", "a slot has one owner"),
        ("CLUSTER ADDSLOTSRANGE 1 2", "a slot has one owner"),
        ("SCRIPT KILL", "ask the node"),
    ] {
        let text = line(&mut client, command).text();
        assert!(text.contains("is not available through this proxy: "), "{command}: {text}");
        assert!(text.contains(reason), "{command}: {text}");
    }
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".into()));
    let epoch = |info: &str| info.lines().find(|line| line.contains("current_epoch")).map(str::to_owned);
    assert_eq!(epoch(&cluster.ask(0, &["CLUSTER", "INFO"])), epoch(&before));
}

#[test]
fn debug_reaches_every_node_on_a_connection_of_its_own() {
    let (cluster, proxy) = start(&["--admin-commands"]);
    let mut client = proxy.connect();
    let there = key(0, "there");
    assert_eq!(client.cmd(&["SET", &there, "x"]), Value::ok());
    assert_eq!(line(&mut client, "DEBUG SLEEP 0"), Value::ok());
    assert_eq!(line(&mut client, "DEBUG SET-ACTIVE-EXPIRE 1"), Value::ok());
    for i in 0..6 {
        let stats = cluster.ask(i, &["INFO", "commandstats"]);
        assert!(stats.contains("cmdstat_debug:calls=2,"), "{stats}");
    }
    // What the connection that commands share was used for last.
    let connections = cluster.ask(0, &["CLIENT", "LIST"]);
    let last = |command: &str| {
        let is_proxys = |line: &&str| line.contains("name=slotmux-") && line.contains(command);
        connections.lines().filter(is_proxys).count()
    };
    assert!(last("cmd=set ") == 1 && last("cmd=debug ") == 1, "{connections}");

    // A key is at its owner alone, and at the owner's replica.
    let found = client.cmd(&["DEBUG", "OBJECT", &there]).text();
    assert!(found.contains("encoding:embstr"), "{found}");
    assert_eq!(line(&mut client, "DEBUG OBJECT nowhere"), Value::error("ERR no such key"));
    for command in
        ["DEBUG JMAP", "DEBUG ERROR words", "DEBUG ERROR", "DEBUG STRINGMATCH-LEN 1 a", "DEBUG HELP"]
    {
        assert_eq!(line(&mut client, command), line(&mut cluster.client(0), command), "{command}");
    }
    assert_eq!(line(&mut client, "MULTI"), Value::ok());
    let text = line(&mut client, "DEBUG SLEEP 0").text();
    assert!(
        text.starts_with("ERR command 'debug' is not available through this proxy: it goes to several"),
        "{text}"
    );
    assert_eq!(line(&mut client, "SHUTDOWN"), Value::error("ERR Command not allowed inside a transaction"));
    assert!(line(&mut client, "EXEC").text().starts_with("EXECABORT "));
}

#[test]
fn what_the_nodes_refuse_is_passed_on_word_for_word() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).arg("--admin-commands").start();
    let (mut client, mut node) = (proxy.connect(), cluster.client(0));
    for command in [
        "DEBUG SLEEP 0",
        "REPLICAOF NO ONE",
        "REPLICAOF 127.0.0.1 1",
        "SLAVEOF NO ONE",
        "FAILOVER",
        "FAILOVER ABORT",
        "SHUTDOWN ABORT",
        "SHUTDOWN SAVE NOSAVE",
        "SHUTDOWN nonsense",
        "CLUSTER SET-CONFIG-EPOCH 7",
        "CLUSTER FORGET nobody",
        "CLUSTER MEET nonsense 1",
        "CLUSTER SETSLOT 1 nonsense",
        "CLUSTER SETSLOT x STABLE",
        "CLUSTER DELSLOTS 16384",
    ] {
        let expected = line(&mut node, command);
        assert!(expected.is_error(), "{command}: {expected:?}");
        assert_eq!(line(&mut client, command), expected, "{command}");
    }
}

fn knows(cluster: &TestCluster, i: usize, id: &str) -> bool {
    cluster.node(i).view().unwrap().iter().any(|line| line.id == id)
}

#[test]
fn a_node_that_is_to_be_forgotten_is_not_asked_itself() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).arg("--admin-commands").start();
    let replica = cluster.node(3).id();
    assert_eq!(proxy.connect().cmd(&["CLUSTER", "FORGET", replica]), Value::ok());
    assert!([0, 1, 2, 4, 5].into_iter().all(|i| !knows(&cluster, i, replica)));
}

#[test]
fn changes_of_the_cluster_reach_the_nodes_that_they_are_for() {
    let mut cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).arg("--admin-commands").start();
    let mut client = proxy.connect();
    // Slots: of interest to primaries only.
    let (slot, owner) = (77, cluster.owner_of(77));
    cluster.begin_migration(slot, owner, (owner + 1) % 3);
    assert_eq!(line(&mut client, "CLUSTER SETSLOT 77 STABLE"), Value::ok());
    for i in 0..3 {
        assert!(cluster.node(i).view().unwrap().iter().all(|line| line.open.is_empty()));
    }
    assert!(line(&mut client, "CLUSTER BUMPEPOCH").text().contains("BUMPED"));
    assert_eq!(line(&mut client, "CLUSTER SAVECONFIG"), Value::ok());
    assert_eq!(client.cmd(&["SET", &tag_of(slot), "x"]), Value::ok());

    let new = cluster.start_node();
    let port = cluster.node(new).port().to_string();
    assert_eq!(client.cmd(&["CLUSTER", "MEET", "127.0.0.1", &port]), Value::ok());
    let id = cluster.node(new).id().to_owned();
    eventually(SOON, || (0..6).all(|i| knows(&cluster, i, &id)));
    cluster.kill9(new);
    assert_eq!(client.cmd(&["CLUSTER", "FORGET", &id]), Value::ok());
    assert!((0..6).all(|i| !knows(&cluster, i, &id)));
}

#[test]
fn slots_can_be_taken_from_all_nodes() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).arg("--admin-commands").start();
    let mut client = proxy.connect();
    let owner = cluster.owner_of(77);
    assert_eq!(line(&mut client, "CLUSTER DELSLOTS 77"), Value::ok());
    for i in 0..3 {
        assert!(cluster.node(i).view().unwrap().iter().all(|line| !line.owns(77)));
    }
    cluster.ask(owner, &["CLUSTER", "ADDSLOTS", "77"]);
    cluster.settle();
    // Only where there are no keys.
    let keys = (0..3).map(|i| key([0, 8000, 16_000][i], "k"));
    keys.for_each(|key| assert_eq!(client.cmd(&["SET", &key, "x"]), Value::ok()));
    let refusal = line(&mut cluster.client(0), "CLUSTER FLUSHSLOTS");
    assert!(refusal.is_error());
    assert_eq!(line(&mut client, "CLUSTER FLUSHSLOTS"), refusal);
}

#[test]
fn shutdown_ends_the_nodes_and_the_clients_connection_and_the_proxy_serves_again() {
    let request = [encode(&["SHUTDOWN", "NOSAVE"]), encode(&["PING"])].concat();
    let server = PlainServer::start(&[]);
    let mut plain = server.connect();
    plain.send_raw(&request);
    assert_eq!(plain.read_to_end_raw(), b"");

    let (cluster, proxy) = start(&["--admin-commands"]);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.send_raw([encode(&["ECHO", "earlier"]), request].concat());
    assert_eq!(client.read_to_end_raw(), b"$7\r\nearlier\r\n");
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
    eventually(SOON, || cluster.running().count() == 0);
    assert_eq!(other.cmd(&["PING"]), Value::Simple("PONG".into()));

    (0..6).for_each(|i| cluster.restart(i));
    cluster.settle();
    for slot in [0, 8000, 16_000] {
        assert_eq!(other.cmd(&["SET", &key(slot, "k"), "x"]), Value::ok());
    }
    eventually(SOON, || line(&mut other, "DEBUG SLEEP 0") == Value::ok());

    // Nodes that crash say nothing either.
    let mut client = proxy.connect();
    client.send(&["DEBUG", "SEGFAULT"]);
    assert_eq!(client.read_to_end_raw(), b"");
    eventually(SOON, || cluster.running().count() == 0);
}

#[test]
fn a_node_that_ends_alone_leaves_an_order_in_doubt() {
    let (cluster, proxy) = start(&["--admin-commands"]);
    let mut client = proxy.connect();
    // So that there are connections.
    assert_eq!(line(&mut client, "DEBUG SLEEP 0"), Value::ok());
    // It gets the order, and never answers.
    cluster.stop(4);
    client.send(&["DEBUG", "SLEEP", "0"]);
    eventually(SOON, || {
        let ran = |i| cluster.ask(i, &["INFO", "commandstats"]).contains("cmdstat_debug:calls=2,");
        [0, 1, 2, 3, 5].into_iter().all(ran)
    });
    cluster.kill9(4);
    let (text, node) = (client.read_value().text(), cluster.node(4).addr());
    assert!(text.starts_with(&format!("INDOUBT the connection to node {node} was lost")), "{text}");
    let text = line(&mut client, "DEBUG SLEEP 0").text();
    assert!(text.starts_with(&format!("ERR node {node} can't be reached")), "{text}");
    // Once the others take it for failed, it is left out.
    eventually(SOON, || line(&mut client, "DEBUG SLEEP 0") == Value::ok());
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
