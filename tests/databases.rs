//! SELECT in front of a cluster that has several databases, as Valkey's since version 9 may.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use support::{Client, ClusterOptions, Proxy, SOON, TestCluster, Value, eventually, key, valkey_server};

const SLOTS: [u16; 3] = [0, 8_000, 16_000];
const QUIET: Duration = Duration::from_millis(100);

/// Three primaries with three databases, and a proxy with two workers.
fn start(replicas: usize, args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::with(ClusterOptions {
        replicas_per_primary: replicas,
        server: Some(valkey_server().to_owned()),
        server_args: ["--cluster-databases", "3", "--notify-keyspace-events", "KEA"]
            .map(str::to_owned)
            .into(),
        ..Default::default()
    });
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).args(args).start();
    (cluster, proxy)
}

fn selected(proxy: &Proxy, database: &str) -> Client {
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SELECT", database]), Value::ok());
    client
}

/// Connections of the proxy to a node that have this database selected.
fn links(cluster: &TestCluster, node: usize, database: u32) -> usize {
    let listed = cluster.client(node).cmd(&["CLIENT", "LIST"]).text();
    let is_one = |line: &&str| line.contains(" name=slotmux-") && line.contains(&format!(" db={database} "));
    listed.lines().filter(is_one).count()
}

#[test]
fn a_transaction_of_keys_that_were_watched_in_another_database_is_not_carried_out() {
    let (_cluster, proxy) = start(0, &[]);
    let (name, other) = (key(SLOTS[0], "k"), key(SLOTS[0], "other"));
    let mut client = proxy.connect();
    for databases in [["0", "1"], ["1", "0"]] {
        client.cmd(&["SELECT", databases[0]]);
        assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
        client.cmd(&["SELECT", databases[1]]);
        let exec = client.pipeline(&[&["MULTI"][..], &["SET", &other, "v"], &["EXEC"]]).pop();
        assert_eq!(exec, Some(Value::NullArray));
        for database in ["0", "1"] {
            assert_eq!(selected(&proxy, database).cmd(&["EXISTS", &other]), Value::Int(0));
        }
    }
    // One that watches in the database in which it goes on is.
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    let exec = client.pipeline(&[&["MULTI"][..], &["SET", &other, "v"], &["EXEC"]]).pop();
    assert_eq!(exec, Some(Value::Array(vec![Value::ok()])));
}

#[test]
fn each_database_has_keys_of_its_own() {
    let (cluster, proxy) = start(0, &[]);
    let mut clients = ["0", "1", "2"].map(|database| selected(&proxy, database));
    for (database, client) in clients.iter_mut().enumerate() {
        for slot in SLOTS {
            assert_eq!(client.cmd(&["SET", &key(slot, "k"), &database.to_string()]), Value::ok());
        }
        assert_eq!(client.cmd(&["SET", &format!("only{database}"), "v"]), Value::ok());
    }
    for (database, client) in clients.iter_mut().enumerate() {
        let names = SLOTS.map(|slot| key(slot, "k"));
        let expected = Value::bulks(&[&*database.to_string(); 3]);
        assert_eq!(client.cmd(&["MGET", &names[0], &names[1], &names[2]]), expected);
        let script = "redis.call('APPEND', KEYS[1], '+') return redis.call('GET', KEYS[1])";
        let text = format!("{database}+");
        assert_eq!(client.cmd(&["EVAL", script, "1", &names[0]]), Value::bulk(&text));
        let exec = client.pipeline(&[&["MULTI"][..], &["GET", &names[0]], &["EXEC"]]).pop();
        assert_eq!(exec, Some(Value::bulks(&[&text])));
        // What is about the whole keyspace is about that of the database.
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(4));
        let all: HashSet<String> = names.into_iter().chain([format!("only{database}")]).collect();
        let keys: HashSet<String> = client.cmd(&["KEYS", "*"]).items().iter().map(Value::text).collect();
        assert_eq!(keys, all);
        let (mut cursor, mut scanned) = ("0".to_owned(), HashSet::new());
        loop {
            let page = client.cmd(&["SCAN", &cursor, "COUNT", "1000"]);
            scanned.extend(page.items()[1].items().iter().map(Value::text));
            cursor = page.items()[0].text();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(scanned, all);
        assert!(all.contains(&client.cmd(&["RANDOMKEY"]).text()));
        let line = client.cmd(&["CLIENT", "INFO"]).text();
        assert!(line.contains(&format!(" db={database} ")), "{line}");
    }
    let info = clients[0].cmd(&["INFO", "keyspace"]).text();
    for database in 0..3 {
        assert!(info.contains(&format!("db{database}:keys=4,")), "{info}");
    }
    assert_eq!(clients[1].cmd(&["FLUSHDB"]), Value::ok());
    assert_eq!(clients.each_mut().map(|client| client.cmd(&["DBSIZE"]).int()), [4, 0, 4]);
    assert_eq!(clients[2].cmd(&["MOVE", "only2", "1"]), Value::Int(1));
    assert_eq!(clients[1].cmd(&["GET", "only2"]), Value::bulk("v"));
    assert_eq!(clients[1].cmd(&["COPY", "only2", "only2", "DB", "0"]), Value::Int(1));
    assert_eq!(clients[0].cmd(&["GET", "only2"]), Value::bulk("v"));
    // At most one link for each worker, node, protocol and database.
    for node in 0..3 {
        assert!((1..=2).contains(&links(&cluster, node, 1)), "{}", links(&cluster, node, 1));
    }
}

#[test]
fn a_pipeline_selects_in_its_order() {
    let (_cluster, proxy) = start(0, &[]);
    let mut client = proxy.connect();
    let mut commands: Vec<[&str; 3]> = Vec::new();
    for number in ["1", "2", "0", "1"] {
        commands.push(["SELECT", number, ""]);
        commands.extend([["APPEND", "k", number], ["APPEND", "other", number]]);
    }
    let commands: Vec<&[&str]> =
        commands.iter().map(|words| if words[0] == "SELECT" { &words[..2] } else { &words[..] }).collect();
    let lengths: Vec<Value> = client.pipeline(&commands);
    let one = [Value::ok(), Value::Int(1), Value::Int(1)];
    let expected: Vec<Value> = [&one[..], &one, &one, &[Value::ok(), Value::Int(2), Value::Int(2)]].concat();
    assert_eq!(lengths, expected);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("11"));
    // Within MULTI only the database that is selected already.
    let queued =
        client.pipeline(&[&["MULTI"][..], &["SELECT", "1"], &["SELECT", "2"], &["GET", "k"], &["EXEC"]]);
    let replies = queued.last().unwrap().items();
    assert_eq!((&replies[0], &replies[2]), (&Value::ok(), &Value::bulk("11")));
    assert!(replies[1].text().contains("not available within MULTI"), "{replies:?}");
    assert_eq!(client.cmd(&["RESET"]), Value::Simple("RESET".into()));
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("0"));
}

#[test]
fn what_a_database_is_not_says_the_server_itself() {
    let (cluster, proxy) = start(0, &[]);
    let (mut client, mut direct) = (selected(&proxy, "2"), cluster.client(0));
    for number in ["3", "16", "-1", "2147483647", "a", "1.5", "", "99999999999"] {
        let reply = client.cmd(&["SELECT", number]);
        assert!(reply.is_error(), "{number}: {reply:?}");
        assert_eq!(reply, direct.cmd(&["SELECT", number]), "{number}");
    }
    // It is where it was, and so is the next client that gets the same connection.
    assert_eq!(client.cmd(&["SET", "k", "2"]), Value::ok());
    assert_eq!(selected(&proxy, "2").cmd(&["GET", "k"]), Value::bulk("2"));
    assert_eq!(proxy.connect().cmd(&["GET", "k"]), Value::NullBulk);
}

#[test]
fn connections_of_a_clients_own_are_in_its_database() {
    let (_cluster, proxy) = start(0, &[]);
    let (mut zero, mut one, mut other) = (proxy.connect(), selected(&proxy, "1"), selected(&proxy, "1"));
    let name = key(SLOTS[1], "list");
    for client in [&mut zero, &mut one] {
        client.send(&["BLPOP", &name, "0"]);
        client.expect_silence(QUIET);
    }
    assert_eq!(other.cmd(&["RPUSH", &name, "x"]), Value::Int(1));
    assert_eq!(one.read_value(), Value::bulks(&[&name, "x"]));
    zero.expect_silence(QUIET);
    assert_eq!(one.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(proxy.connect().cmd(&["SET", "k", "zero"]), Value::ok());
    assert_eq!(
        one.pipeline(&[&["MULTI"][..], &["SET", "k", "one"], &["EXEC"]])[2],
        Value::Array(vec![Value::ok()])
    );
    assert_eq!(one.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(other.cmd(&["SET", "k", "two"]), Value::ok());
    assert_eq!(one.pipeline(&[&["MULTI"][..], &["SET", "k", "three"], &["EXEC"]])[2], Value::NullArray);
    assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("two"));
    // It has waited in database 0 all the time.
    assert_eq!(proxy.connect().cmd(&["RPUSH", &name, "y"]), Value::Int(1));
    assert_eq!(zero.read_value(), Value::bulks(&[&name, "y"]));
}

#[test]
fn keyspace_notifications_tell_their_database() {
    let (_cluster, proxy) = start(0, &[]);
    let mut subscriber = proxy.connect();
    assert_eq!(subscriber.cmd(&["PSUBSCRIBE", "__keyspace@1__:*"]).items()[2], Value::Int(1));
    for slot in SLOTS {
        let name = key(slot, "k");
        assert_eq!(proxy.connect().cmd(&["SET", &name, "zero"]), Value::ok());
        assert_eq!(selected(&proxy, "1").cmd(&["SET", &name, "one"]), Value::ok());
        let channel = format!("__keyspace@1__:{name}");
        assert_eq!(subscriber.read_value(), Value::bulks(&["pmessage", "__keyspace@1__:*", &channel, "set"]));
    }
    subscriber.expect_silence(QUIET);
}

#[test]
fn moves_and_failovers_are_quiet_in_every_database() {
    let (cluster, proxy) = start(1, &[]);
    let mut clients = ["0", "1", "2"].map(|database| selected(&proxy, database));
    let name = key(SLOTS[0], "list");
    let mut pushed = [0; 3];
    let mut push = |database: usize| {
        pushed[database] += 1;
        let element = format!("{database}:{}", pushed[database]);
        assert_eq!(clients[database].cmd(&["RPUSH", &name, &element]), Value::Int(pushed[database]));
    };
    (0..3).for_each(&mut push);
    let replica = 3 + cluster.owner_of(SLOTS[0]);
    cluster.failover(replica);
    (0..3).for_each(&mut push);
    let (from, to) = (cluster.owner_of(SLOTS[0]), cluster.owner_of(SLOTS[1]));
    // The server moves the slot with all its databases by itself.
    let mut direct = cluster.client(from);
    let call = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "10", "NODE", cluster.node(to).id()];
    assert_eq!(direct.cmd(&call), Value::ok());
    eventually(SOON, || {
        // One database only: Valkey 9.1 itself mixes up those that are written to meanwhile.
        push(1);
        cluster.owner_of(SLOTS[0]) == to
    });
    (0..3).for_each(&mut push);
}
