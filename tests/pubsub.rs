//! Channels and patterns: as on one server, whatever becomes of the nodes.

#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Action, Client, ClusterOptions, Gate, PlainServer, Proxy, SOON, ScriptedCluster, TestCluster, Value,
    encode, eventually, eventually_some,
};

/// What a server says of it within this time is all of it.
const QUIET: Duration = Duration::from_millis(60);

/// Everything that comes until nothing does for a while.
fn drain(client: &mut Client) -> Vec<u8> {
    client.patience(QUIET);
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match client.stream().read(&mut chunk) {
            Ok(0) => return [&got[..], b"(closed)"].concat(),
            Ok(n) => got.extend_from_slice(&chunk[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return got,
            Err(error) => panic!("{error}"),
        }
    }
}

/// As many bytes, and then as many as there are.
fn read_as_much(client: &mut Client, expected: &[u8]) -> Vec<u8> {
    client.patience(SOON);
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    while got.len() < expected.len() {
        match client.stream().read(&mut chunk) {
            Ok(0) => return [&got[..], b"(closed)"].concat(),
            Ok(n) => got.extend_from_slice(&chunk[..n]),
            Err(error) => return [&got[..], format!("({error})").as_bytes()].concat(),
        }
    }
    got
}

/// Clients of both sides, by their numbers, do the same and must see the same.
struct Both {
    server: Vec<Client>,
    proxy: Vec<Client>,
}

impl Both {
    fn connect(server: &PlainServer, proxy: &Proxy, clients: usize, hello: &str) -> Self {
        let say_hello = |mut client: Client| {
            assert!(!client.cmd(&["HELLO", hello]).is_error());
            client
        };
        Both {
            server: (0..clients).map(|_| say_hello(Client::connect(server.addr()))).collect(),
            proxy: (0..clients).map(|_| say_hello(proxy.connect())).collect(),
        }
    }

    #[track_caller]
    fn step(&mut self, who: usize, line: &str) {
        let bytes = format!("{line}\r\n");
        self.server[who].send_raw(&bytes);
        self.proxy[who].send_raw(&bytes);
        for (i, (server, proxy)) in self.server.iter_mut().zip(&mut self.proxy).enumerate() {
            let expected = drain(server);
            let got = read_as_much(proxy, &expected);
            let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
            assert_eq!(show(&got), show(&expected), "client {i} after {who}: {line}");
        }
    }

    fn end(mut self) {
        for proxy in &mut self.proxy {
            proxy.expect_silence(QUIET);
        }
    }
}

fn setting() -> (TestCluster, Proxy, PlainServer) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    (cluster, proxy, PlainServer::start(&[]))
}

/// Who does what.
const SEQUENCE: &[(usize, &str)] = &[
    (0, "UNSUBSCRIBE"),
    (0, "PUNSUBSCRIBE"),
    (0, "SUNSUBSCRIBE"),
    (0, "UNSUBSCRIBE a b"),
    (0, "PUNSUBSCRIBE x"),
    (0, "SUNSUBSCRIBE a"),
    (0, "GET nothing"),
    (0, "SUBSCRIBE"),
    (0, "SUBSCRIBE a a"),
    (0, "SUBSCRIBE a"),
    (1, "PUBLISH a one"),
    (0, "SUBSCRIBE b c d"),
    (0, "PSUBSCRIBE p* [a-b]"),
    (1, "PUBLISH a two"),
    (1, "PUBLISH pa three"),
    (1, "PUBLISH nobody x"),
    (0, "SSUBSCRIBE a s"),
    (1, "SPUBLISH a four"),
    (1, "SPUBLISH b nobody"),
    (0, "PING"),
    (0, "PING x"),
    (0, "PING a b"),
    (0, "GET"),
    (0, "FOO bar"),
    (2, "SUBSCRIBE a"),
    (2, "PSUBSCRIBE *"),
    (1, "PUBLISH a five"),
    (1, "PUBSUB NUMSUB a b nobody"),
    (1, "PUBSUB NUMSUB"),
    (1, "PUBSUB NUMPAT"),
    (1, "PUBSUB CHANNELS c*"),
    (1, "PUBSUB CHANNELS nobody*"),
    (1, "PUBSUB SHARDCHANNELS s"),
    (1, "PUBSUB SHARDNUMSUB a s x"),
    (0, "UNSUBSCRIBE a"),
    (1, "PUBLISH a six"),
    (1, "PUBSUB NUMSUB a"),
    (2, "UNSUBSCRIBE a"),
    (1, "PUBSUB NUMSUB a"),
    (1, "PUBLISH a seven"),
    (2, "PUNSUBSCRIBE *"),
    (2, "GET nothing"),
    (1, "PUBSUB NUMPAT"),
    (0, "UNSUBSCRIBE b x c"),
    (0, "PUNSUBSCRIBE p*"),
    (0, "PUNSUBSCRIBE [a-b]"),
    (0, "UNSUBSCRIBE"),
    (0, "SUNSUBSCRIBE a"),
    (0, "SUNSUBSCRIBE"),
    (0, "GET nothing"),
    (1, "PUBSUB NUMPAT"),
    (1, "PUBLISH a nobody"),
    (1, "PUBSUB CHANNELS"),
    (2, "SUBSCRIBE a"),
    (2, "RESET"),
    (2, "GET nothing"),
    (1, "PUBLISH a nobody"),
    (2, "SUBSCRIBE a"),
    (2, "QUIT"),
    (1, "PUBSUB NUMSUB a"),
];

#[test]
fn subscribers_see_what_a_server_would_tell_them() {
    let (_cluster, proxy, server) = setting();
    for hello in ["2", "3"] {
        let mut both = Both::connect(&server, &proxy, 3, hello);
        SEQUENCE.iter().for_each(|(who, line)| both.step(*who, line));
        both.server.pop();
        both.proxy.pop();
        both.end();
    }
}

#[test]
fn a_resp2_subscriber_may_do_little_else() {
    let (_cluster, proxy, server) = setting();
    let mut both = Both::connect(&server, &proxy, 1, "2");
    both.step(0, "SUBSCRIBE a");
    for line in [
        "GET x",
        "PUBLISH a x",
        "SPUBLISH a x",
        "MULTI",
        "HELLO 3",
        "HELLO",
        "CLIENT ID",
        "CLIENT REPLY OFF",
        "PUBSUB NUMSUB a",
        "CONFIG GET x",
        "AUTH x",
        "SELECT 0",
        "ECHO x",
        "PING",
        "SET a b\r\nPING\r\nPUBLISH a b\r\nUNSUBSCRIBE a\r\nGET a\r\nSUBSCRIBE b\r\nGET b",
        "SUNSUBSCRIBE",
        "UNSUBSCRIBE",
        "ECHO x",
    ] {
        both.step(0, line);
    }
    both.end();
}

#[test]
fn a_resp3_subscriber_goes_on_as_ever() {
    let (_cluster, proxy, server) = setting();
    let mut both = Both::connect(&server, &proxy, 2, "3");
    for (who, line) in [
        (0, "SUBSCRIBE a"),
        (0, "SET k v"),
        (0, "GET k"),
        (0, "PING"),
        (0, "MULTI"),
        (0, "GET k"),
        (1, "PUBLISH a x"),
        (0, "EXEC"),
        (0, "HELLO 2 SETNAME x y"),
        (1, "PUBLISH a y"),
        (0, "GET k"),
    ] {
        both.step(who, line);
    }
    both.end();
}

#[test]
fn what_ends_a_connection_ends_its_subscriptions() {
    let (cluster, proxy, _server) = setting();
    let mut admin = proxy.connect();
    let mut nodes: Vec<Client> = (0..3).map(|i| cluster.client(i)).collect();
    let mut numsub = || admin.cmd(&["PUBSUB", "NUMSUB", "a"]).items()[1].int();
    let mut subscriber = proxy.connect();
    subscriber.cmd(&["SUBSCRIBE", "a"]);
    let mut other = proxy.connect();
    other.cmd(&["SUBSCRIBE", "a"]);
    assert_eq!(numsub(), 2);
    drop(subscriber);
    eventually(SOON, || numsub() == 1);
    other.reset();
    eventually(SOON, || numsub() == 0);
    eventually(SOON, || {
        nodes.iter_mut().all(|node| node.cmd(&["PUBSUB", "CHANNELS"]) == Value::Array(Vec::new()))
    });
}

#[test]
fn many_topics_at_once_are_confirmed_in_order() {
    let (_cluster, proxy, _server) = setting();
    let mut client = proxy.connect();
    let names: Vec<String> = (0..3000).map(|i| format!("channel:{i}")).collect();
    let words = |word: &str| [vec![word.to_owned()], names.clone()].concat();
    client.send(&words("SUBSCRIBE"));
    for (i, name) in names.iter().enumerate() {
        let expected = [Value::bulk("subscribe"), Value::bulk(name), Value::Int(i as i64 + 1)];
        assert_eq!(client.read_value(), Value::Array(expected.to_vec()));
    }
    let mut publisher = proxy.connect();
    let publish: Vec<[&str; 3]> = names.iter().map(|name| ["PUBLISH", name.as_str(), "x"]).collect();
    assert_eq!(publisher.pipeline(&publish), vec![Value::Int(1); names.len()]);
    let mut got: Vec<String> = (0..names.len()).map(|_| client.read_value().items()[1].text()).collect();
    got.sort();
    let mut all = names.clone();
    all.sort();
    assert_eq!(got, all);
    client.send(&["UNSUBSCRIBE"]);
    let mut left: Vec<String> = (0..names.len()).map(|_| client.read_value().items()[1].text()).collect();
    left.sort();
    assert_eq!(left, all);
    assert_eq!(client.cmd(&["ECHO", "x"]), Value::bulk("x"));
}

/// Publishes numbers until it is told to stop; how many.
fn numbers(proxy: &Proxy, channel: &str, stop: &AtomicBool) -> usize {
    let mut publisher = proxy.connect();
    let mut count = 0;
    while !stop.load(Relaxed) {
        publisher.send_raw(encode(&["PUBLISH", channel, &count.to_string()]));
        assert!(matches!(publisher.read_value(), Value::Int(_)));
        count += 1;
        if count % 8 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    count
}

/// Reads the numbers below `count`, each once. Those of a channel are in order; between two nodes a pattern's may
/// overtake each other while their publisher changes the node.
#[track_caller]
fn read_numbers(client: &mut Client, count: usize, in_order: bool) {
    let mut got = Vec::with_capacity(count);
    for _ in 0..count {
        got.push(client.read_value().items().last().unwrap().text().parse::<usize>().unwrap());
    }
    client.expect_silence(QUIET);
    if !in_order {
        got.sort_unstable();
    }
    let wrong = got.iter().enumerate().position(|(i, number)| i != *number);
    let around = |at: usize| &got[at.saturating_sub(5)..count.min(at + 20)];
    assert!(wrong.is_none(), "… {:?} … of {count}", around(wrong.unwrap()));
}

/// Does the work while numbers are published; all subscribers get each once.
fn under_numbers(proxy: &Proxy, channel: &str, subscriptions: &[[&str; 2]], work: impl FnOnce() + Send) {
    let mut subscribers: Vec<Client> = Vec::new();
    for words in subscriptions {
        let mut client = proxy.connect();
        client.cmd(words);
        subscribers.push(client);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let numbers = scope.spawn(|| numbers(proxy, channel, &stop));
        let worker = scope.spawn(work);
        let done = worker.join();
        stop.store(true, Relaxed);
        let count = numbers.join().unwrap();
        done.unwrap();
        assert!(count > 100, "{count} messages");
        for (client, words) in subscribers.iter_mut().zip(subscriptions) {
            read_numbers(client, count, words[0] == "SUBSCRIBE");
        }
    });
}

#[test]
fn no_message_is_lost_or_doubled_while_slots_move() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let slot = support::slot_of("news");
    let key = support::key(slot, "k");
    let mut client = proxy.connect();
    under_numbers(
        &proxy,
        "news",
        &[["SUBSCRIBE", "news"], ["PSUBSCRIBE", "n*"], ["PSUBSCRIBE", "*"]],
        || {
            let mut at = cluster.owner_of(slot);
            for _ in 0..6 {
                let to = (at + 1) % 3;
                cluster.migrate_slot(slot, at, to);
                // Lets the proxy see that it moved.
                assert_eq!(client.cmd(&["SET", &key, "v"]), Value::ok());
                let mut node = cluster.client(to);
                eventually(SOON, || node.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int() == 1);
                let mut old = cluster.client(at);
                eventually(SOON, || old.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int() == 0);
                at = to;
            }
        },
    );
}

#[test]
fn a_pattern_leaves_a_primary_that_has_no_slots_any_more() {
    // It is about to be removed, and hears nothing from then on; otherwise it would become a replica by itself.
    let server_args = ["--cluster-allow-replica-migration", "no"].map(str::to_owned).to_vec();
    let mut cluster =
        TestCluster::with(ClusterOptions { replicas_per_primary: 0, server_args, ..Default::default() });
    let spare = cluster.add_node();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let slot = support::slot_of("news");
    let (key, owner) = (support::key(slot, "k"), cluster.owner_of(slot));
    let (mut client, mut node) = (proxy.connect(), cluster.client(spare));
    eventually(SOON, || proxy.metric("slotmux_shards") == 4.0);
    let version = proxy.metric("slotmux_topology_version");
    cluster.migrate_slot(slot, owner, spare);
    assert_eq!(client.cmd(&["SET", &key, "v"]), Value::ok());
    eventually(SOON, || proxy.metric("slotmux_topology_version") > version);
    let mut subscriber = proxy.connect();
    subscriber.cmd(&["PSUBSCRIBE", "{news}*"]);
    assert_eq!(node.cmd(&["PUBSUB", "NUMPAT"]), Value::Int(1));
    cluster.migrate_slot(slot, spare, owner);
    assert_eq!(client.cmd(&["SET", &key, "v"]), Value::ok());
    eventually(SOON, || node.cmd(&["PUBSUB", "NUMPAT"]) == Value::Int(0));
    assert_eq!(client.cmd(&["PUBLISH", "{news}x", "still here"]), Value::Int(1));
    assert_eq!(subscriber.read_value().items()[3], Value::bulk("still here"));
}

#[test]
fn no_message_is_lost_or_doubled_if_the_new_home_takes_no_connection_for_a_while() {
    let cluster = TestCluster::primaries(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let slot = support::slot_of("news");
    let home = cluster.owner_of(slot);
    let (mut subscriber, mut client) = (proxy.connect(), proxy.connect());
    let (mut old, mut new) = (cluster.client(home), cluster.client(1 - home));
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    let mut published = 0;
    let mut publish_until = |done: &mut dyn FnMut() -> bool| {
        eventually(SOON, || {
            for _ in 0..10 {
                old.cmd(&["PUBLISH", "news", &published.to_string()]);
                published += 1;
            }
            done()
        });
    };
    // The proxy has a link to the new home already.
    let there = (0..1000).map(|i| format!("k{i}")).find(|k| cluster.owner_of(support::slot_of(k)) != home);
    assert_eq!(client.cmd(&["GET", &there.unwrap()]), Value::NullBulk);
    cluster.begin_migration(slot, home, 1 - home);
    assert_eq!(new.cmd(&["CONFIG", "SET", "maxclients", "1"]), Value::ok());
    let (number, id) = (slot.to_string(), cluster.node(1 - home).id());
    for node in [&mut new, &mut cluster.client(home)] {
        assert_eq!(node.cmd(&["CLUSTER", "SETSLOT", &number, "NODE", id]), Value::ok());
    }
    // Lets the proxy see that it moved.
    assert_eq!(client.cmd(&["SET", &support::key(slot, "k"), "v"]), Value::ok());
    // Long enough for the first messages to be forgotten.
    let failures = || proxy.metric("slotmux_node_dial_failures_total");
    let before = failures();
    publish_until(&mut || failures() >= before + 6.0);
    assert_eq!(new.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int(), 0);
    assert_eq!(new.cmd(&["CONFIG", "SET", "maxclients", "1000"]), Value::ok());
    let numsub = |node: &mut Client| node.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int();
    publish_until(&mut || numsub(&mut new) == 1);
    let mut left = cluster.client(home);
    publish_until(&mut || numsub(&mut left) == 0);
    publish_until(&mut || true);
    read_numbers(&mut subscriber, published, true);
}

#[test]
fn no_message_is_lost_or_doubled_in_a_planned_failover() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let slot = support::slot_of("news");
    let key = support::key(slot, "k");
    let mut client = proxy.connect();
    under_numbers(
        &proxy,
        "news",
        &[["SUBSCRIBE", "news"], ["PSUBSCRIBE", "n*"], ["PSUBSCRIBE", "*"]],
        || {
            for _ in 0..2 {
                let primary = cluster.owner_of(slot);
                let replica = (primary + 3) % 6;
                cluster.failover(replica);
                assert_eq!(client.cmd(&["SET", &key, "v"]), Value::ok());
                let mut node = cluster.client(replica);
                eventually(SOON, || node.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int() == 1);
                let mut old = cluster.client(primary);
                eventually(SOON, || old.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int() == 0);
                cluster.agree();
                cluster.await_copy(primary);
            }
        },
    );
}

#[test]
fn shard_channels_follow_their_slot_in_silence() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let slot = support::slot_of("news");
    let (mut subscriber, mut publisher) = (proxy.connect(), proxy.connect());
    subscriber.cmd(&["SSUBSCRIBE", "news"]);
    let mut at = cluster.owner_of(slot);
    for round in 0..4 {
        let to = (at + 1) % 3;
        cluster.migrate_slot(slot, at, to);
        eventually(SOON, || {
            publisher.cmd(&["SPUBLISH", "other{news}", "x"]);
            shardnumsub(&cluster, to) == 1
        });
        let text = round.to_string();
        assert_eq!(publisher.cmd(&["SPUBLISH", "news", &text]), Value::Int(1));
        assert_eq!(subscriber.read_value(), Value::bulks(&["smessage", "news", &text]));
        at = to;
    }
}

/// How many connections a node has that are subscribed to `news` as a channel of a shard.
fn shardnumsub(cluster: &TestCluster, node: usize) -> i64 {
    cluster.client(node).cmd(&["PUBSUB", "SHARDNUMSUB", "news"]).items()[1].int()
}

/// Clients on as many workers that are subscribed to `news` at a replica, which takes that: the proxy has not noticed
/// that it failed over. Who it was, who took over, and the clients.
fn subscribed_at_a_replica(
    cluster: &TestCluster,
    proxy: &Proxy,
    workers: usize,
) -> (usize, usize, Vec<Client>) {
    eventually_some(Duration::from_secs(60), || {
        let old = cluster.owner_of(support::slot_of("news"));
        let new = (old + 3) % 6;
        cluster.await_copy(new);
        cluster.failover(new);
        cluster.agree();
        let mut clients: Vec<Client> = (0..workers).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| _ = client.cmd(&["SSUBSCRIBE", "news"]));
        (shardnumsub(cluster, old) == workers as i64).then_some((old, new, clients))
    })
}

#[test]
fn a_shards_messages_come_once_and_in_order_after_a_planned_failover() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let (old, new, mut subscribers) = subscribed_at_a_replica(&cluster, &proxy, 2);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut node = cluster.client(new);
            for batch in (0..).take_while(|_: &usize| !stop.load(Relaxed)) {
                let numbers = (batch * 50..(batch + 1) * 50).map(|number| number.to_string());
                node.pipeline(
                    &numbers.map(|number| ["SPUBLISH".into(), "news".into(), number]).collect::<Vec<_>>(),
                );
            }
            node.cmd(&["SPUBLISH", "news", "over"]);
        });
        // Lets it notice.
        assert_eq!(proxy.connect().cmd(&["SET", "{news}", "v"]), Value::ok());
        eventually(SOON, || [old, new].map(|i| shardnumsub(&cluster, i)) == [0, 2]);
        stop.store(true, Relaxed);
        publisher.join().unwrap();
    });
    for client in &mut subscribers {
        let text = |value: Value| value.items()[2].text();
        let got: Vec<usize> = std::iter::from_fn(|| text(client.read_value()).parse().ok()).collect();
        assert!(!got.is_empty() && got.is_sorted_by(|one, next| one < next), "{got:?}");
    }
}

#[test]
fn a_shards_old_node_is_heard_while_the_new_one_takes_no_connection() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (_, new, mut subscribers) = subscribed_at_a_replica(&cluster, &proxy, 1);
    let (mut client, mut node) = (proxy.connect(), cluster.client(new));
    assert_eq!(node.cmd(&["CONFIG", "SET", "maxclients", "1"]), Value::ok());
    // Lets the proxy see who the new primary is.
    client.send(&["SET", "{news}", "v"]);
    let mut published = 0;
    let mut hears = |node: &mut Client| {
        published += 1;
        let text = published.to_string();
        node.cmd(&["SPUBLISH", "news", &text]);
        assert_eq!(subscribers[0].read_value(), Value::bulks(&["smessage", "news", &text]));
    };
    let failures = || proxy.metric("slotmux_node_dial_failures_total");
    let before = failures();
    eventually(SOON, || {
        hears(&mut node);
        failures() >= before + 6.0
    });
    assert_eq!(node.cmd(&["CONFIG", "SET", "maxclients", "1000"]), Value::ok());
    assert_eq!(client.read_value(), Value::ok());
    eventually(SOON, || shardnumsub(&cluster, new) == 1);
    hears(&mut node);
    assert_eq!(client.cmd(&["SPUBLISH", "news", "all"]), Value::Int(1));
}

#[test]
fn a_connection_outlives_a_shard_channel_that_both_ends_leave_at_once() {
    let cluster = ScriptedCluster::start(1);
    // The slot goes elsewhere: the node ends the subscription, and refuses to end what there is no more.
    let told = |what: &str, n: i64| format!(">3\r\n${}\r\n{what}\r\n$4\r\nnews\r\n:{n}\r\n", what.len());
    cluster.script(move |_, args| match &args[0][..] {
        b"ssubscribe" => Action::reply(told("ssubscribe", 1)),
        b"sunsubscribe" => Action::reply(told("sunsubscribe", 0) + "-MOVED 12182 127.0.0.1:1\r\n"),
        _ => Action::Default,
    });
    let proxy = cluster.proxy(&["--workers", "1"]);
    let mut client = proxy.connect();
    for _ in 0..3 {
        for (word, n) in [("ssubscribe", 1), ("sunsubscribe", 0)] {
            let reply = Value::Array(vec![Value::bulk(word), Value::bulk("news"), Value::Int(n)]);
            assert_eq!(client.cmd(&[word, "news"]), reply);
        }
    }
    // At once: the answers to both are on their way.
    client.pipeline(&[["SSUBSCRIBE", "news"], ["SUNSUBSCRIBE", "news"], ["SSUBSCRIBE", "news"]]);
    assert_eq!(client.cmd(&["PING"]).items()[0], Value::bulk("pong"));
    assert_eq!(proxy.metric("slotmux_node_links_lost_total"), 0.0);
}

#[test]
fn a_connection_outlives_a_node_that_refuses_to_end_a_shards_channel() {
    let cluster = TestCluster::primaries(1);
    assert_eq!(cluster.client(0).cmd(&["ACL", "SETUSER", "default", "-sunsubscribe"]), Value::ok());
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    other.cmd(&["SUBSCRIBE", "talk"]);
    for _ in 0..3 {
        client.pipeline(&[["SSUBSCRIBE", "news"], ["SUNSUBSCRIBE", "news"], ["SSUBSCRIBE", "more"]]);
        assert_eq!(client.cmd(&["SUNSUBSCRIBE", "more"]).items()[2], Value::Int(0));
    }
    assert_eq!(proxy.connect().cmd(&["PUBLISH", "talk", "x"]), Value::Int(1));
    assert_eq!(other.read_value(), Value::bulks(&["message", "talk", "x"]));
    assert_eq!(proxy.metric("slotmux_node_links_lost_total"), 0.0);
}

#[test]
fn a_connection_outlives_a_channel_that_is_left_while_the_node_is_busy() {
    let cluster = TestCluster::primaries(1);
    let mut node = cluster.client(0);
    assert_eq!(node.cmd(&["CONFIG", "SET", "busy-reply-threshold", "50"]), Value::ok());
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    other.cmd(&["SUBSCRIBE", "talk"]);
    client.pipeline(&[["SSUBSCRIBE", "news"], ["SSUBSCRIBE", "more"]]);
    let mut script = cluster.client(0);
    script.send(&["EVAL", "while true do end", "0"]);
    eventually(SOON, || node.cmd(&["PING"]).text().starts_with("BUSY "));
    assert_eq!(client.cmd(&["SUNSUBSCRIBE", "news"]).items()[2], Value::Int(1));
    assert_eq!(client.cmd(&["SUNSUBSCRIBE", "more"]).items()[2], Value::Int(0));
    assert_eq!(node.cmd(&["SCRIPT", "KILL"]), Value::ok());
    assert!(script.read_value().is_error());
    let stats = node.cmd(&["INFO", "commandstats"]).text();
    let refused = |line: &str| line.starts_with("cmdstat_sunsubscribe:") && line.contains("rejected_calls=2");
    assert!(stats.lines().any(refused), "{stats}");
    assert_eq!(proxy.connect().cmd(&["PUBLISH", "talk", "x"]), Value::Int(1));
    assert_eq!(other.read_value(), Value::bulks(&["message", "talk", "x"]));
    assert_eq!(proxy.metric("slotmux_node_links_lost_total"), 0.0);
}

#[test]
fn a_pattern_goes_to_another_node_if_its_own_takes_no_more_connections() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, mut subscriber) = (proxy.connect(), proxy.connect());
    // Its slot's node has a connection already, and takes no second one.
    assert_eq!(client.cmd(&["SET", "p*", "v"]), Value::ok());
    let mut node = cluster.client(cluster.owner_of(support::slot_of("p*")));
    assert_eq!(node.cmd(&["CONFIG", "SET", "maxclients", "1"]), Value::ok());
    assert_eq!(
        subscriber.cmd(&["PSUBSCRIBE", "p*"]),
        Value::Array(vec![Value::bulk("psubscribe"), Value::bulk("p*"), Value::Int(1)])
    );
    assert_eq!(client.cmd(&["SET", "p*", "w"]), Value::ok());
    assert_eq!(client.cmd(&["PUBLISH", "pq", "x"]), Value::Int(1));
    assert_eq!(subscriber.read_value(), Value::bulks(&["pmessage", "p*", "pq", "x"]));
}

/// What others published meanwhile may not have reached it, also if it answers again.
#[test]
fn who_listens_at_a_node_that_hangs_is_told_when_others_give_it_up() {
    let cluster = ScriptedCluster::start(1);
    let proxy = cluster.proxy(&["--workers", "1", "--link-timeout", "1s"]);
    cluster.script(|_, args| match &args[0][..] {
        b"subscribe" => Action::reply(b">3\r\n$9\r\nsubscribe\r\n$4\r\ntalk\r\n:1\r\n"),
        b"GET" => Action::Silent,
        _ => Action::Default,
    });
    let (mut subscriber, mut other) = (proxy.connect(), proxy.connect());
    subscriber.cmd(&["SUBSCRIBE", "talk"]);
    cluster.node(0).control(|_, args| if args[0] == b"PING" { Action::Silent } else { Action::Default });
    other.send(&["GET", "k"]);
    assert_eq!(subscriber.read_to_end_raw(), b"");
    assert_eq!(proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_gap\"}"), 1.0);
}

#[test]
fn who_listens_at_a_node_that_puts_writes_off_for_longer_than_link_timeout_goes_on_listening() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--link-timeout", "1s"]).start();
    let [mut subscriber, mut writer] = [(); 2].map(|()| proxy.connect());
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    cluster.ask(0, &["CLIENT", "PAUSE", "60000", "WRITE"]);
    assert!(writer.cmd(&["SET", "k", "v"]).text().starts_with("INDOUBT "));
    subscriber.expect_silence(Duration::from_secs(1));
    cluster.ask(0, &["CLIENT", "UNPAUSE"]);
    assert_eq!(writer.cmd(&["PUBLISH", "news", "x"]), Value::Int(1));
    assert_eq!(subscriber.read_value(), Value::bulks(&["message", "news", "x"]));
}

/// As for one that hangs, where the slot is elsewhere before anybody is given up, and the old node answers again.
#[test]
fn who_listens_at_a_node_that_has_hung_is_told_when_the_slot_goes_elsewhere() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--workers", "1", "--link-timeout", "20s"]);
    let slot = support::slot_of("talk");
    let to = usize::from(cluster.owner_addr(slot) == cluster.node(0).addr());
    let awake = Gate::new();
    let [gate, of_control] = [awake.clone(), awake.clone()];
    cluster.script(move |_, args| match &args[0][..] {
        b"subscribe" => Action::reply(b">3\r\n$9\r\nsubscribe\r\n$4\r\ntalk\r\n:1\r\n"),
        b"GET" => Action::Default.after(&gate),
        // Lets the proxy look.
        b"SET" => Action::error("CLUSTERDOWN Hash slot not served"),
        _ => Action::Default,
    });
    let key = support::key(if slot > 8_191 { 0 } else { 16_383 }, "k");
    let [mut subscriber, mut other, mut mover, mut monitor] = [(); 4].map(|()| proxy.connect());
    subscriber.cmd(&["SUBSCRIBE", "talk"]);
    cluster.node(1 - to).control(move |_, _| Action::Default.after(&of_control));
    // Connections that are only being opened say nothing about the node.
    monitor.send(&["MONITOR"]);
    other.send(&["GET", "{talk}"]);
    eventually(SOON, || cluster.count("GET {talk}") == 1);
    // More than two rounds, which take a second each.
    subscriber.expect_silence(Duration::from_secs(4));
    cluster.edit(|topology| topology.assign(slot..=slot, to));
    mover.send(&["SET", &key, "v"]);
    // It answers once the other home is being listened to.
    eventually(SOON, || cluster.count("subscribe talk") == 2);
    awake.open();
    assert_eq!(other.read_value(), Value::NullBulk);
    assert_eq!(subscriber.read_to_end_raw(), b"");
    assert_eq!(proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_gap\"}"), 1.0);
}

#[test]
fn who_listens_at_a_node_that_puts_writes_off_for_long_misses_nothing_when_the_slot_goes_elsewhere() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let slot = support::slot_of("news");
    let (from, key) = (cluster.owner_of(slot), support::key(slot, "k"));
    let to = (from + 1) % 3;
    let [mut subscriber, mut writer, mut client] = [(); 3].map(|()| proxy.connect());
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    // As a primary does while it fails over.
    cluster.ask(from, &["CLIENT", "PAUSE", "6000", "WRITE"]);
    writer.send(&["SET", &key, "v"]);
    // More than two rounds, which take a second each.
    subscriber.expect_silence(Duration::from_secs(4));
    cluster.migrate_slot(slot, from, to);
    // Lets the proxy look.
    cluster.await_owner(slot, to);
    client.cmd(&["GET", &key]);
    let mut node = cluster.client(to);
    eventually(SOON, || node.cmd(&["PUBSUB", "NUMSUB", "news"]).items()[1].int() == 1);
    assert_eq!(writer.read_value(), Value::ok());
    subscriber.expect_silence(Duration::from_secs(1));
    assert_eq!(client.cmd(&["PUBLISH", "news", "x"]), Value::Int(1));
    assert_eq!(subscriber.read_value(), Value::bulks(&["message", "news", "x"]));
}

#[test]
fn a_shards_channel_follows_its_slot_to_a_node_that_the_table_calls_a_replica() {
    let mut cluster = ScriptedCluster::start(1);
    let replica = cluster.add_node(Some(0));
    let [there, slot] = [cluster.node(replica).addr(), support::slot_of("news").to_string()];
    cluster.script(move |conn, args| match &args[0][..] {
        b"ssubscribe" => Action::reply(b">3\r\n$10\r\nssubscribe\r\n$4\r\nnews\r\n:1\r\n"),
        b"subscribe" => Action::reply(b">3\r\n$9\r\nsubscribe\r\n$4\r\ntalk\r\n:1\r\n"),
        b"SET" if conn.node == replica => Action::reply(b"+OK\r\n"),
        b"SET" => Action::error(&format!("MOVED {slot} {there}")),
        _ => Action::Default,
    });
    let proxy = cluster.proxy(&["--workers", "1"]);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.cmd(&["SSUBSCRIBE", "news"]);
    // Nobody tells the topology any more: the table stays as it is.
    cluster.nodes().iter().for_each(|node| {
        node.control(|_, args| if args[0] == b"CLUSTER" { Action::Silent } else { Action::Default });
    });
    assert_eq!(other.cmd(&["SET", "{news}", "v"]), Value::ok());
    // Lets the subscriptions be looked at.
    other.cmd(&["SUBSCRIBE", "talk"]);
    let at = |text: &str| {
        let commands = cluster.commands();
        commands
            .iter()
            .find(|command| command.node == replica && command.text() == text)
            .map(|command| command.at)
    };
    eventually(SOON, || at("ssubscribe news").is_some());
    // What the old node told may come to the new one a moment later, which would tell it again.
    assert!(at("ssubscribe news") >= at("SET {news} v").map(|at| at + Duration::from_millis(240)));
}

#[test]
fn channels_of_a_node_that_accepts_and_does_not_answer_cost_nothing_while_they_wait() {
    let cluster = TestCluster::primaries(3);
    let args = ["--workers", "1", "--connect-timeout", "60s", "--command-deadline", "60s"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let names = tagged("tag", 2);
    let stopped = cluster.owner_of(support::slot_of("tag"));
    cluster.stop(stopped);
    let mut clients: Vec<Client> = names.iter().map(|_| proxy.connect()).collect();
    let dials = || proxy.metric("slotmux_node_dials_total");
    let before = dials();
    clients[0].send(&["SUBSCRIBE", &names[0]]);
    eventually(SOON, || dials() > before);
    // In a later turn than that in which the connection was asked for.
    clients[1].send(&["SUBSCRIBE", &names[1]]);
    let waiting = cpu(&proxy, || thread::sleep(Duration::from_secs(1)));
    assert!(waiting < 0.5, "{waiting} s of CPU in a second");
    cluster.cont(stopped);
    for (client, name) in clients.iter_mut().zip(&names) {
        assert_eq!(client.read_value().items()[1], Value::bulk(name));
    }
}

/// A cluster whose nodes fail over soon, and a proxy in front of it.
fn failing(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(args).start();
    (cluster, proxy)
}

#[test]
fn a_subscriber_that_may_have_missed_something_is_closed() {
    let (cluster, proxy) = failing(&[]);
    let home = cluster.owner_of(support::slot_of("news"));
    let other =
        (0..1000).map(|i| format!("c{i}")).find(|name| cluster.owner_of(support::slot_of(name)) != home);
    let other = other.unwrap();
    let (mut lost, mut kept) = (proxy.connect(), proxy.connect());
    lost.cmd(&["SUBSCRIBE", "news"]);
    kept.cmd(&["SUBSCRIBE", &other]);
    cluster.kill9(home);
    assert_eq!(lost.read_to_end_raw(), b"");
    assert_eq!(proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_gap\"}"), 1.0);
    proxy.connect().cmd(&["PUBLISH", &other, "x"]);
    assert_eq!(kept.read_value(), Value::bulks(&["message", &other, "x"]));
    // A new one is subscribed as soon as there is a primary.
    let mut again = proxy.connect();
    assert_eq!(again.cmd(&["SUBSCRIBE", "news"]).items()[0], Value::bulk("subscribe"));
    assert_eq!(proxy.connect().cmd(&["PUBLISH", "news", "x"]), Value::Int(1));
    assert_eq!(again.read_value(), Value::bulks(&["message", "news", "x"]));
}

#[test]
fn a_subscriber_is_closed_if_its_channel_went_elsewhere_while_the_old_node_hung() {
    let (cluster, proxy) = failing(&["--link-timeout", "60s"]);
    let slot = support::slot_of("news");
    let home = cluster.owner_of(slot);
    let mut subscriber = proxy.connect();
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    cluster.stop(home);
    let replica = (home + 3) % 6;
    assert_eq!(cluster.ask(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    // Only the node that hangs tells this one, and it will not.
    assert_eq!(cluster.client(replica).cmd(&["PUBLISH", "news", "missed"]), Value::Int(0));
    assert_eq!(subscriber.read_to_end_raw(), b"");
    assert_eq!(proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_gap\"}"), 1.0);
    cluster.cont(home);
}

#[test]
fn a_subscriber_is_subscribed_again_in_silence_if_wanted() {
    let (cluster, proxy) = failing(&["--pubsub-gap", "resubscribe"]);
    let home = cluster.owner_of(support::slot_of("news"));
    let mut subscriber = proxy.connect();
    for words in [["SUBSCRIBE", "news"], ["PSUBSCRIBE", "n*"], ["SSUBSCRIBE", "news"]] {
        subscriber.cmd(&words);
    }
    cluster.kill9(home);
    let mut publisher = proxy.connect();
    eventually(SOON, || publisher.cmd(&["PUBLISH", "news", "x"]).int() >= 2);
    eventually(SOON, || publisher.cmd(&["SPUBLISH", "news", "y"]).int() == 1);
    let deadline = Instant::now() + SOON;
    let (mut seen, mut shard) = (0, false);
    while Instant::now() < deadline && !(seen >= 2 && shard) {
        let message = subscriber.read_value();
        match message.items()[0].text().as_str() {
            "smessage" => shard = true,
            "message" | "pmessage" => seen += 1,
            other => panic!("{other}"),
        }
    }
    assert!(seen >= 2 && shard);
}

/// Publishes until a subscriber that reads nothing is closed, while another one reads all.
fn drown(args: &[&str], bounds: &[&str]) {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(args).start();
    let (mut slow, mut quick, mut publisher) = (proxy.connect(), proxy.connect(), proxy.connect());
    for client in [&mut slow, &mut quick] {
        client.cmd(&["SUBSCRIBE", "news"]);
    }
    let text = "x".repeat(100_000);
    let closed = || proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_output\"}");
    eventually(SOON, || {
        // Who is just going may be missing from the node's number and not yet from the proxy's.
        publisher.cmd(&["PUBLISH", "news", &text]).int();
        assert_eq!(quick.read_value(), Value::bulks(&["message", "news", &text]));
        closed() == 1.0
    });
    // What it has not read yet is cut short.
    let got = slow.read_to_end_raw();
    assert!(!got.is_empty());
    eventually(SOON, || publisher.cmd(&["PUBLISH", "news", "last"]) == Value::Int(1));
    assert_eq!(proxy.metric("slotmux_clients"), 2.0);
    for bound in bounds {
        assert!(proxy.metric(&format!("slotmux_bound_reached_total{{bound=\"{bound}\"}}")) >= 1.0, "{bound}");
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_as_a_server_does_it() {
    drown(&["--pubsub-output-hard", "1MiB"], &["pubsub_output_hard"]);
    let soft =
        ["--pubsub-output-soft", "64KiB", "--pubsub-output-grace", "2s", "--pubsub-output-hard", "1GiB"];
    drown(&soft, &["pubsub_output_soft", "pubsub_output_grace"]);
}

#[test]
fn ones_own_message_comes_behind_the_reply() {
    let (_cluster, proxy, _server) = setting();
    let mut client = proxy.connect();
    client.cmd(&["HELLO", "3"]);
    client.cmd(&["SUBSCRIBE", "a"]);
    for _ in 0..200 {
        client.send_raw(
            [encode(&["GET", "x"]), encode(&["PUBLISH", "a", "m"]), encode(&["GET", "y"])].concat(),
        );
        let mut published = false;
        let mut replies = client.read_values(4);
        for reply in &replies {
            published |= *reply == Value::Int(1);
            assert!(published || !matches!(reply, Value::Push(_)), "{replies:?}");
        }
        replies.retain(|reply| matches!(reply, Value::Push(_)));
        assert_eq!(replies, [Value::Push(["message", "a", "m"].map(Value::bulk).to_vec())]);
    }
}

#[test]
fn messages_come_also_where_replies_are_not_wanted() {
    let (_cluster, proxy, server) = setting();
    for hello in ["2", "3"] {
        let mut both = Both::connect(&server, &proxy, 2, hello);
        for (who, line) in [
            (0, "CLIENT REPLY OFF"),
            (0, "SUBSCRIBE a"),
            (1, "PUBLISH a x"),
            (0, "PING"),
            (0, "UNSUBSCRIBE a"),
            (0, "GET nothing"),
            (0, "CLIENT REPLY ON"),
            (0, "GET nothing"),
        ] {
            both.step(who, line);
        }
        both.end();
    }
    let mut client = proxy.connect();
    for words in [["SUBSCRIBE", "a"], ["PSUBSCRIBE", "b*"], ["SSUBSCRIBE", "c"]] {
        client.cmd(&words);
    }
    let list = proxy.connect().cmd(&["CLIENT", "LIST", "TYPE", "pubsub"]).text();
    assert!(
        list.lines().count() == 1 && list.contains(" flags=P ") && list.contains(" sub=1 psub=1 ssub=1 "),
        "{list}"
    );
}

/// Names of channels in the slot of a tag.
fn tagged(tag: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("c{i}{{{tag}}}")).collect()
}

fn subscribe(names: &[String]) -> Vec<u8> {
    let words: Vec<&str> = std::iter::once("SUBSCRIBE").chain(names.iter().map(String::as_str)).collect();
    encode(&words)
}

#[test]
fn others_are_served_while_very_many_topics_are_subscribed() {
    const NAMES: usize = 100_000;
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut subscriber, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    let names: Vec<String> = (0..NAMES).map(|i| format!("channel:{i}")).collect();
    let done = AtomicBool::new(false);
    // What others get meanwhile is counted, not timed: each turn of the work is bounded.
    let answered = |other: &mut Client| {
        let mut answered = 0;
        while !done.load(Relaxed) {
            assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
            answered += 1;
        }
        answered
    };
    let served = thread::scope(|scope| {
        let served = scope.spawn(|| answered(&mut other));
        subscriber.send_raw(subscribe(&names));
        for (i, name) in names.iter().enumerate() {
            let expected = [Value::bulk("subscribe"), Value::bulk(name), Value::Int(i as i64 + 1)];
            assert_eq!(subscriber.read_value(), Value::Array(expected.to_vec()));
        }
        done.store(true, Relaxed);
        served.join().unwrap()
    });
    // Each of the names goes through three turns of a thousand: asked for, sent, answered.
    assert!(served > NAMES / 1000, "{served} requests were served meanwhile");
    done.store(false, Relaxed);
    let mut admin = proxy.connect();
    let served = thread::scope(|scope| {
        let served = scope.spawn(|| answered(&mut other));
        subscriber.reset();
        eventually(SOON, || admin.cmd(&["PUBSUB", "CHANNELS"]) == Value::Array(Vec::new()));
        done.store(true, Relaxed);
        served.join().unwrap()
    });
    assert!(served > 10, "{served} requests were served while it left");
    assert_eq!(proxy.metric("slotmux_memory_bytes{owner=\"subscriptions\"}"), 0.0);
}

#[test]
fn reset_ends_very_many_subscriptions_and_unsubscribing_confirms_each() {
    let (_cluster, proxy, _server) = setting();
    let names: Vec<String> = (0..2500).map(|i| format!("channel:{i}")).collect();
    let (mut client, mut admin) = (proxy.connect(), proxy.connect());
    for _ in 0..2 {
        client.send_raw(subscribe(&names));
        assert_eq!(client.read_values(names.len()).last().unwrap().items()[2], Value::Int(2500));
        assert_eq!(client.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
        assert_eq!(client.cmd(&["ECHO", "x"]), Value::bulk("x"));
        eventually(SOON, || admin.cmd(&["PUBSUB", "CHANNELS"]) == Value::Array(Vec::new()));
        // Twice the same name is one subscription.
        client.send_raw(subscribe(&[&names[..], &names[..]].concat()));
        assert_eq!(client.read_values(2 * names.len()).last().unwrap().items()[2], Value::Int(2500));
        assert_eq!(admin.cmd(&["PUBLISH", &names[7], "x"]), Value::Int(1));
        assert_eq!(client.read_value(), Value::bulks(&["message", &names[7], "x"]));
        client.send(&["UNSUBSCRIBE"]);
        assert_eq!(client.read_values(names.len()).last().unwrap().items()[2], Value::Int(0));
        assert_eq!(admin.cmd(&["PUBLISH", &names[7], "x"]), Value::Int(0));
    }
}

/// CPU seconds of the proxy while something is done.
fn cpu(proxy: &Proxy, work: impl FnOnce()) -> f64 {
    let before = proxy.metric("process_cpu_seconds_total");
    work();
    proxy.metric("process_cpu_seconds_total") - before
}

#[test]
fn a_topic_costs_the_same_however_many_there_are() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let cost = |count: usize| {
        let mut client = proxy.connect();
        let names = tagged("tag", count);
        let cost = cpu(&proxy, || {
            client.send_raw(subscribe(&names));
            client.read_values(names.len());
        });
        client.reset();
        let mut node = cluster.client(cluster.owner_of(support::slot_of("tag")));
        eventually(SOON, || node.cmd(&["PUBSUB", "CHANNELS"]) == Value::Array(Vec::new()));
        cost
    };
    let (few, many) = (cost(20_000), cost(80_000));
    println!("{few:.2} s of CPU for 20,000 topics, {many:.2} s for 80,000");
    // Sixteen times as much if each one looked at all others.
    assert!(many < 9.0 * few, "{few} and {many} s");
}

#[test]
fn channels_of_a_dead_shard_get_an_error_each() {
    const NAMES: usize = 20_000;
    let cluster = TestCluster::primaries(3);
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--command-deadline", "2s"]).start();
    let dead = cluster.owner_of(support::slot_of("tag"));
    let mut subscriber = proxy.connect();
    assert_eq!(subscriber.cmd(&["GET", "{tag}"]), Value::NullBulk);
    cluster.kill9(dead);
    subscriber.send_raw(subscribe(&tagged("tag", NAMES)));
    for _ in 0..NAMES {
        assert!(subscriber.read_value().is_error());
    }
    assert_eq!(subscriber.cmd(&["ECHO", "x"]), Value::bulk("x"));
}

/// CPU seconds of the proxy, for each look at its metrics, while it tries in vain to subscribe to so many channels of a
/// dead shard; after that they come back with the node.
fn cpu_of_waiting(channels: usize) -> f64 {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds())
        .args(&["--workers", "1", "--pubsub-gap", "resubscribe", "--command-deadline", "60s"])
        .start();
    let dead = cluster.owner_of(support::slot_of("tag"));
    let (mut subscriber, names) = (proxy.connect(), tagged("tag", channels));
    subscriber.send_raw(subscribe(&names));
    subscriber.read_values(names.len());
    cluster.kill9(dead);
    let looks = Cell::new(0.0);
    let failures = || {
        looks.set(looks.get() + 1.0);
        proxy.metric("slotmux_node_dial_failures_total")
    };
    let after = |more: f64| {
        let before = failures();
        eventually(SOON, || failures() >= before + more);
    };
    after(3.0);
    looks.set(0.0);
    let waiting = cpu(&proxy, || after(10.0)) / looks.get();
    cluster.restart(dead);
    let mut node = cluster.client(dead);
    eventually(SOON, || node.cmd(&["PUBSUB", "CHANNELS"]).items().len() == channels);
    let publish = ["PUBLISH", &names[0], "x"];
    eventually(SOON, || proxy.connect().cmd(&publish) == Value::Int(1));
    assert_eq!(subscriber.read_value(), Value::bulks(&["message", &names[0], "x"]));
    waiting
}

#[test]
fn channels_of_a_dead_shard_cost_nothing_while_they_wait() {
    let (few, many) = (cpu_of_waiting(1), cpu_of_waiting(20_000));
    println!("{few} s of CPU for each look while one channel waits, {many} s while 20,000 do");
    // Most of it is for the metrics, which are looked at all the time.
    assert!(many < 2.5 * few, "{few} and {many} s");
}

#[test]
fn who_leaves_as_soon_as_it_has_a_message_is_among_its_receivers() {
    const SUBSCRIBERS: usize = 16;
    const ROUNDS: usize = 100;
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut publisher = proxy.connect();
    let step = Barrier::new(SUBSCRIBERS + 1);
    thread::scope(|scope| {
        for _ in 0..SUBSCRIBERS {
            let mut client = proxy.connect();
            let step = &step;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let subscribed = client.cmd(&["SUBSCRIBE", "news"]);
                    step.wait();
                    let message = client.read_value();
                    let left = client.cmd(&["UNSUBSCRIBE", "news"]);
                    // No panic before all have come here: the others would wait for ever.
                    step.wait();
                    assert_eq!(subscribed.items().len(), 3);
                    assert_eq!(message.items()[2].text(), "x");
                    assert_eq!(left.items()[2], Value::Int(0));
                }
            });
        }
        let counted = (0..ROUNDS).map(|_| {
            step.wait();
            let counted = publisher.cmd(&["PUBLISH", "news", "x"]);
            step.wait();
            counted
        });
        let counted: Vec<Value> = counted.collect();
        assert_eq!(counted, vec![Value::Int(SUBSCRIBERS as i64); ROUNDS]);
        assert_eq!(publisher.cmd(&["PUBLISH", "news", "x"]), Value::Int(0));
    });
}
