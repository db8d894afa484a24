//! Commands that wait at a node: on a connection of their own, across whatever happens to the cluster.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Action, Client, Gate, LOW, Proxy, SOON, ScriptedCluster, TestCluster, Value, encode, eventually, key,
};

const SLOT: u16 = 100;
const OTHER: u16 = 16_000;

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).args(args).start();
    (cluster, proxy)
}

fn links(cluster: &TestCluster, node: usize) -> usize {
    let listed = cluster.client(node).cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
    listed.lines().filter(|line| line.contains(" name=slotmux-")).count()
}

/// Connections to a node that clients have watched on and given back.
fn ready(cluster: &TestCluster, node: usize) -> usize {
    let listed = cluster.client(node).cmd(&["CLIENT", "LIST"]).text();
    listed.lines().filter(|line| line.contains(" name=slotmux-") && line.contains(" cmd=unwatch ")).count()
}

/// The id of the first entry of the first stream that was read.
fn entry_id(read: &Value) -> Value {
    read.items()[0].items()[1].items()[0].items()[0].clone()
}

fn list(items: &[&str]) -> Value {
    Value::bulks(items)
}

/// Each blocking command, what another client sends, and the reply.
fn calls() -> Vec<(Vec<String>, Vec<String>, Value)> {
    let name = |text: &str| key(SLOT, text);
    let words = |line: &str| {
        line.split(' ').map(|word| word.strip_prefix('@').map_or(word.to_owned(), name)).collect::<Vec<_>>()
    };
    let pushed = |reply: Value, call: &str, push: &str| (words(call), words(push), reply);
    vec![
        pushed(list(&[&name("a"), "1"]), "BLPOP @none @a 0", "RPUSH @a 1"),
        pushed(list(&[&name("b"), "1"]), "BRPOP @b 10.5", "RPUSH @b 1"),
        pushed(Value::bulk("1"), "BLMOVE @c @c2 LEFT RIGHT 0", "RPUSH @c 1"),
        pushed(Value::bulk("1"), "BRPOPLPUSH @d @d2 0", "RPUSH @d 1"),
        pushed(
            Value::Array(vec![Value::bulk(name("e")), list(&["1"])]),
            "BLMPOP 0 2 @none @e LEFT",
            "RPUSH @e 1",
        ),
        pushed(list(&[&name("f"), "m", "1"]), "BZPOPMIN @f 0", "ZADD @f 1 m"),
        pushed(list(&[&name("g"), "m", "1"]), "BZPOPMAX @g 0", "ZADD @g 1 m"),
        pushed(
            Value::Array(vec![Value::bulk(name("h")), Value::Array(vec![list(&["m", "1"])])]),
            "BZMPOP 0 1 @h MIN",
            "ZADD @h 1 m",
        ),
        pushed(
            Value::Array(vec![Value::Array(vec![
                Value::bulk(name("i")),
                Value::Array(vec![Value::Array(vec![Value::bulk("5-1"), list(&["f", "v"])])]),
            ])]),
            "XREAD COUNT 1 BLOCK 0 STREAMS @i $",
            "XADD @i 5-1 f v",
        ),
    ]
}

#[test]
fn each_waits_for_what_another_client_sends_and_hinders_nobody() {
    let (cluster, proxy) = start(&[]);
    let owner = cluster.owner_of(SLOT);
    let mut other = proxy.connect();
    for (call, push, reply) in calls() {
        let mut client = proxy.connect();
        client.send(&call);
        client.send(&["PING"]);
        eventually(SOON, || cluster.waiting(owner) == 1);
        assert_eq!(other.cmd(&["GET", &key(SLOT, "x")]), Value::NullBulk, "others go on");
        assert!(!other.cmd(&push).is_error());
        assert_eq!(client.read_value(), reply, "{call:?}");
        assert_eq!(client.read_value(), Value::Simple("PONG".to_owned()));
    }
    // One after the other they used the same connection.
    assert!(links(&cluster, owner) <= 6, "{}", links(&cluster, owner));
}

#[test]
fn a_group_reads_what_comes_and_what_is_there_is_given_at_once() {
    let (cluster, proxy) = start(&[]);
    let (name, mut client, mut other) = (key(SLOT, "s"), proxy.connect(), proxy.connect());
    assert_eq!(other.cmd(&["XGROUP", "CREATE", &name, "g", "$", "MKSTREAM"]), Value::ok());
    client.send(&["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", &name, ">"]);
    eventually(SOON, || cluster.waiting(cluster.owner_of(SLOT)) == 1);
    other.cmd(&["XADD", &name, "7-1", "f", "v"]);
    assert_eq!(entry_id(&client.read_value()), Value::bulk("7-1"));
    let replies = client.pipeline(&[
        &["RPUSH", &key(SLOT, "l"), "1", "2"][..],
        &["BLPOP", &key(SLOT, "l"), "0"],
        &["BLPOP", &key(SLOT, "l"), "0"],
        &["BLPOP", &key(SLOT, "l"), "0.01"],
        &["SET", &key(SLOT, "after"), "1"],
    ]);
    let popped = |item: &str| list(&[&key(SLOT, "l"), item]);
    assert_eq!(replies, [Value::Int(2), popped("1"), popped("2"), Value::NullArray, Value::ok()]);
}

#[test]
fn errors_and_timeouts_are_a_servers_own() {
    let (_cluster, proxy) = start(&[]);
    let server = support::PlainServer::start(&[]);
    for protocol in ["2", "3"] {
        let (mut plain, mut client) = (server.connect(), proxy.connect());
        for line in [
            "BLPOP k x",
            "BLPOP k -1",
            "BLPOP k 0.02",
            "BLPOP k",
            "BLPOP k inf",
            "BLPOP k 1e19",
            "BLPOP k 10000000000000000000",
            "BLMPOP 1e19 1 k LEFT",
            "XREAD BLOCK 9300000000000000000 STREAMS s 0",
            "BRPOPLPUSH {k}a {k}b x",
            "BLMOVE {k}a {k}b LEFT RIGHT 0.02",
            "BLMOVE {k}a {k}b UP RIGHT 0",
            "BLMPOP 0.02 1 k LEFT",
            "BLMPOP 0 0 k LEFT",
            "BLMPOP x 1 k LEFT",
            "BZPOPMIN k 0.02",
            "BZMPOP 0.02 1 k MIN",
            "XREAD BLOCK 20 STREAMS k $",
            "XREAD BLOCK -1 STREAMS k $",
            "XREAD BLOCK x STREAMS k $",
            "XREADGROUP GROUP g c BLOCK 20 STREAMS k >",
            "SET k v",
            "BLPOP k 0",
            "XREAD BLOCK 0 STREAMS k $",
            "BZPOPMIN k 0",
            "DEL k",
            "WAIT x 1",
            "WAIT 0 x",
            "WAIT 0 -1",
            "WAIT 0 0",
            "WAIT 1 20",
        ] {
            for client in [&mut plain, &mut client] {
                client.send(&["HELLO", protocol]);
                client.read_value();
                client.send_raw(format!("{line}\r\n"));
            }
            assert_eq!(client.read_value(), plain.read_value(), "{line}");
        }
    }
    let mut client = proxy.connect();
    let refused = Value::error("CROSSSLOT Keys in request don't hash to the same slot");
    assert_eq!(client.cmd(&["BLPOP", &key(SLOT, "a"), &key(OTHER, "a"), "0"]), refused);
}

#[test]
fn a_client_that_leaves_ends_its_wait_and_pops_nothing() {
    let (cluster, proxy) = start(&[]);
    let (name, owner) = (key(SLOT, "l"), cluster.owner_of(SLOT));
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| {
        client.finish_sending();
        assert_eq!(client.read_to_end_raw(), b"");
    }];
    for leave in leave {
        let mut client = proxy.connect();
        client.send(&["BLPOP", &name, "0"]);
        eventually(SOON, || cluster.waiting(owner) == 1);
        leave(client);
        eventually(SOON, || cluster.waiting(owner) == 0);
        assert_eq!(proxy.connect().cmd(&["RPUSH", &name, "1"]), Value::Int(1));
        assert_eq!(proxy.connect().cmd(&["LPOP", &name]), Value::bulk("1"));
    }
    assert_eq!(proxy.metric("slotmux_abandoned_requests_total"), 3.0);
}

#[test]
fn a_client_that_leaves_is_noticed_at_once() {
    let (cluster, proxy) = start(&[]);
    let (name, owner) = (key(SLOT, "l"), cluster.owner_of(SLOT));
    let leave: [fn(Client) -> Option<Client>; 3] = [
        |client| (drop(client), None).1,
        |client| (client.reset(), None).1,
        |mut client| (client.finish_sending(), Some(client)).1,
    ];
    let mut took = Duration::ZERO;
    for round in 0..30 {
        let mut client = proxy.connect();
        client.send(&["BLPOP", &name, "0"]);
        eventually(SOON, || cluster.waiting(owner) == 1);
        // Those that have just begun to wait are ended in another way than the others.
        thread::sleep(Duration::from_millis(if round % 2 == 0 { 0 } else { 120 }));
        let begun = Instant::now();
        let _client = leave[round % 3](client);
        eventually(SOON, || cluster.waiting(owner) == 0);
        took += begun.elapsed();
    }
    assert!(took < 30 * Duration::from_millis(200), "{took:?}");
}

#[test]
fn what_is_there_for_a_client_that_sends_no_more_is_given_to_it() {
    let (_cluster, proxy) = start(&[]);
    let (name, mut other) = (key(SLOT, "l"), proxy.connect());
    for i in 0..30 {
        assert_eq!(other.cmd(&["RPUSH", &name, "1"]), Value::Int(1));
        let mut client = proxy.connect();
        let waits = [encode(&["BLPOP", &name, "0"]), encode(&["BLPOP", &name, "0"])].concat();
        client.send_raw(&waits[..if i % 2 == 0 { waits.len() } else { waits.len() / 2 }]);
        client.finish_sending();
        assert_eq!(client.read_value(), list(&[&name, "1"]));
        assert_eq!(client.read_to_end_raw(), b"", "the second one waits for nobody");
    }
    assert_eq!(other.cmd(&["LLEN", &name]), Value::Int(0));
}

#[test]
fn who_waits_in_a_slot_that_moves_is_served_at_the_new_owner() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (name, stream) = (key(SLOT, "l"), key(SLOT, "s"));
    let (mut client, mut reader) = (proxy.connect(), proxy.connect());
    let mut other = proxy.connect();
    other.cmd(&["XADD", &stream, "1-1", "f", "v"]);
    client.send(&["BLPOP", &name, "0"]);
    reader.send(&["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"]);
    eventually(SOON, || cluster.waiting(from) == 2);
    cluster.migrate_slot(SLOT, from, to);
    eventually(SOON, || cluster.waiting(to) == 2);
    other.cmd(&["RPUSH", &name, "1"]);
    other.cmd(&["XADD", &stream, "1-2", "f", "v"]);
    assert_eq!(client.read_value(), list(&[&name, "1"]));
    assert_eq!(entry_id(&reader.read_value()), Value::bulk("1-2"));
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn who_reads_from_a_group_follows_its_stream_and_is_told_when_it_is_gone() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (stream, mut client, mut other) = (key(SLOT, "s"), proxy.connect(), proxy.connect());
    let read = ["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", &stream, ">"];
    assert_eq!(other.cmd(&["XGROUP", "CREATE", &stream, "g", "$", "MKSTREAM"]), Value::ok());
    client.send(&read);
    eventually(SOON, || cluster.waiting(from) == 1);
    // A server of 7.0 tells those who wait that their stream is deleted, as soon as it is at the target.
    cluster.migrate_slot(SLOT, from, to);
    eventually(SOON, || cluster.waiting(to) == 1);
    other.cmd(&["XADD", &stream, "1-1", "f", "v"]);
    assert_eq!(entry_id(&client.read_value()), Value::bulk("1-1"));
    assert_eq!(proxy.metric("slotmux_errors_total") + proxy.metric("slotmux_server_errors_total"), 0.0);
    client.send(&read);
    eventually(SOON, || cluster.waiting(to) == 1);
    assert_eq!(other.cmd(&["DEL", &stream]), Value::Int(1));
    assert_eq!(client.read_value(), Value::error("UNBLOCKED the stream key no longer exists"));
}

#[test]
fn an_entry_that_comes_while_a_stream_has_no_reader_is_not_missed() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (stream, mut reader) = (key(SLOT, "s"), proxy.connect());
    proxy.connect().cmd(&["XADD", &stream, "1-1", "f", "v"]);
    reader.send(&["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"]);
    eventually(SOON, || cluster.waiting(from) == 1);
    // The reader is told only some time later that its slot has moved.
    cluster.migrate_slot(SLOT, from, to);
    assert_eq!(cluster.client(to).cmd(&["XADD", &stream, "1-2", "f", "v"]), Value::bulk("1-2"));
    assert_eq!(entry_id(&reader.read_value()), Value::bulk("1-2"));
}

#[test]
fn who_reads_several_streams_from_their_ends_sees_no_old_entry_in_a_half_moved_slot() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (one, two) = (key(SLOT, "one"), key(SLOT, "two"));
    let (mut reader, mut other) = (proxy.connect(), proxy.connect());
    for stream in [&one, &two] {
        assert_eq!(other.cmd(&["XADD", stream, "1-1", "f", "old"]), Value::bulk("1-1"));
    }
    cluster.begin_migration(SLOT, from, to);
    cluster.move_some_keys(from, to, &[&two]);
    reader.send(&["XREAD", "BLOCK", "0", "STREAMS", &one, &two, "$", "$"]);
    eventually(SOON, || proxy.metric("slotmux_redirects_total{kind=\"tryagain\"}") > 2.0);
    cluster.move_keys(SLOT, from, to);
    cluster.finish_migration(SLOT, from, to);
    eventually(SOON, || cluster.waiting(to) == 1);
    assert_eq!(other.cmd(&["XADD", &one, "1-2", "f", "new"]), Value::bulk("1-2"));
    let read = reader.read_value();
    assert_eq!(entry_id(&read), Value::bulk("1-2"), "{read:?}");
}

#[test]
fn who_waits_in_a_half_moved_slot_gets_what_is_pushed_at_the_target() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (name, mut client) = (key(SLOT, "l"), proxy.connect());
    client.send(&["BLPOP", &name, "0"]);
    eventually(SOON, || cluster.waiting(from) == 1);
    cluster.begin_migration(SLOT, from, to);
    // The push shows that the slot is open; it goes to the target, which tells nobody at the source.
    assert_eq!(proxy.connect().cmd(&["RPUSH", &name, "1"]), Value::Int(1));
    assert_eq!(client.read_value(), list(&[&name, "1"]));
    // And one that begins to wait now waits at the target.
    client.send(&["BLPOP", &name, "0"]);
    eventually(SOON, || cluster.waiting(to) == 1);
    assert_eq!(proxy.connect().cmd(&["RPUSH", &name, "2"]), Value::Int(1));
    assert_eq!(client.read_value(), list(&[&name, "2"]));
    cluster.finish_migration(SLOT, from, to);
}

#[test]
fn who_has_waited_for_longer_than_the_deadline_has_it_anew_when_the_slot_opens() {
    let (cluster, proxy) = start(&["--command-deadline", "5s"]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (one, two) = (key(SLOT, "one"), key(SLOT, "two"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.send(&["BLPOP", &one, &two, "0"]);
    eventually(SOON, || cluster.waiting(from) == 1);
    thread::sleep(Duration::from_millis(5_200));
    cluster.begin_migration(SLOT, from, to);
    // Shows that the slot is open; of two keys the target says TRYAGAIN.
    assert_eq!(other.cmd(&["GET", &one]), Value::NullBulk);
    eventually(SOON, || proxy.metric("slotmux_redirects_total{kind=\"tryagain\"}") > 2.0);
    cluster.finish_migration(SLOT, from, to);
    eventually(SOON, || cluster.waiting(to) == 1);
    assert_eq!(other.cmd(&["RPUSH", &two, "1"]), Value::Int(1));
    assert_eq!(client.read_value(), list(&[&two, "1"]));
}

#[test]
fn who_waits_survives_a_failover_and_a_timeout_counts_on() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(SLOT);
    let replica = (0..6).find(|i| {
        *i != owner
            && cluster.node(owner).view().unwrap().iter().any(|line| {
                line.id == cluster.node(*i).id() && line.primary.as_deref() == Some(cluster.node(owner).id())
            })
    });
    let replica = replica.unwrap();
    let (name, mut client, mut brief) = (key(SLOT, "l"), proxy.connect(), proxy.connect());
    client.send(&["BLPOP", &name, "0"]);
    let begun = Instant::now();
    brief.send(&["BLPOP", &key(SLOT, "never"), "4"]);
    eventually(SOON, || cluster.waiting(owner) == 2);
    let brief = thread::spawn(move || (brief.read_value(), begun.elapsed().as_secs_f64()));
    cluster.failover(replica);
    eventually(SOON, || cluster.waiting(replica) >= 1);
    assert_eq!(proxy.connect().cmd(&["RPUSH", &name, "1"]), Value::Int(1));
    assert_eq!(client.read_value(), list(&[&name, "1"]));
    let (reply, after) = brief.join().unwrap();
    assert_eq!(reply, Value::NullArray);
    assert!((3.9..20.0).contains(&after), "{after} s");
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn a_write_that_waited_at_a_node_that_died_is_in_doubt_and_a_read_waits_on() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (owner, stream) = (cluster.owner_of(SLOT), key(SLOT, "s"));
    let (mut writer, mut reader) = (proxy.connect(), proxy.connect());
    writer.send(&["BLPOP", &key(SLOT, "l"), "0"]);
    reader.send(&["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"]);
    eventually(SOON, || cluster.waiting(owner) == 2);
    cluster.kill9(owner);
    let text = writer.read_value().text();
    assert!(text.starts_with("INDOUBT the connection to node 127.0.0.1:"), "{text}");
    eventually(2 * SOON, || !proxy.connect().cmd(&["XADD", &stream, "*", "f", "v"]).is_error());
    assert_eq!(reader.read_value().items()[0].items()[0], Value::bulk(&stream));
}

#[test]
fn a_node_that_hangs_is_given_up_by_those_who_wait_there() {
    let (cluster, proxy) = start(&["--link-timeout", "1s", "--workers", "1"]);
    let (owner, mut client) = (cluster.owner_of(SLOT), proxy.connect());
    client.send(&["BLPOP", &key(SLOT, "l"), "0"]);
    eventually(SOON, || cluster.waiting(owner) == 1);
    cluster.stop(owner);
    // A shared link finds out: by a command, or by its own PING a while later.
    let mut other = proxy.connect();
    other.send(&["GET", &key(SLOT, "k")]);
    let text = client.read_value().text();
    assert!(text.starts_with("INDOUBT "), "{text}");
    cluster.cont(owner);
}

#[test]
fn a_node_that_is_not_reached_ends_a_wait_at_the_deadline() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "4s", "--connect-timeout", "1500ms"]);
    // It accepts, and never answers.
    cluster.node(0).control(|_, _| Action::Silent);
    cluster.node(0).drop_connections();
    let mut client = proxy.connect();
    client.send(&["BLPOP", &key(LOW, "l"), "0"]);
    let text = client.read_value().text();
    assert!(text.starts_with("CLUSTERDOWN The node "), "{text}");
}

#[test]
fn a_node_that_hangs_is_noticed_by_a_links_own_ping() {
    let (cluster, proxy) = start(&["--link-timeout", "1s", "--workers", "1"]);
    let (owner, mut client) = (cluster.owner_of(SLOT), proxy.connect());
    assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
    client.send(&["BLPOP", &key(SLOT, "l"), "0"]);
    eventually(SOON, || cluster.waiting(owner) == 1);
    cluster.stop(owner);
    let begun = Instant::now();
    let text = client.read_value().text();
    assert!(text.starts_with("INDOUBT "), "{text}");
    // A PING every ten seconds, link_timeout and two rounds; and what a busy machine takes.
    assert!(begun.elapsed() < Duration::from_millis(11_500) + SOON / 4, "{:?}", begun.elapsed());
    cluster.cont(owner);
}

#[test]
fn over_the_bound_they_wait_in_line_and_watching_never_waits_for_them() {
    let (cluster, proxy) = start(&["--dedicated-per-node", "4", "--workers", "2"]);
    let (name, owner) = (key(SLOT, "l"), cluster.owner_of(SLOT));
    // One of the four is for WATCH.
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(&["BLPOP", &name, "0"]);
        eventually(SOON, || cluster.waiting(owner) == i + 1);
    }
    let mut late: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    for (i, client) in late.iter_mut().enumerate() {
        client.send(&["BLPOP", &name, "0"]);
        eventually(SOON, || proxy.metric("slotmux_waiting_for_connection") == (i + 1) as f64);
    }
    let begun = Instant::now();
    assert_eq!(
        proxy.connect().cmd(&["BLPOP", &name, "0.3"]),
        Value::NullArray,
        "its own timeout ends it in line"
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let mut watcher = proxy.connect();
    assert_eq!(watcher.cmd(&["WATCH", &name]), Value::ok());
    let replies = watcher.pipeline(&[&["MULTI"][..], &["GET", &key(SLOT, "x")], &["EXEC"]]);
    assert_eq!(replies[2], Value::Array(vec![Value::NullBulk]));
    let mut pusher = proxy.connect();
    for i in 0..6 {
        assert!(!pusher.cmd(&["RPUSH", &name, &i.to_string()]).is_error());
    }
    let mut popped: Vec<String> =
        clients.iter_mut().chain(&mut late).map(|client| client.read_value().items()[1].text()).collect();
    assert_eq!(popped[..3], ["0", "1", "2"], "first come, first served");
    popped.sort();
    assert_eq!(popped, ["0", "1", "2", "3", "4", "5"]);
    assert!(proxy.metric("slotmux_bound_reached_total{bound=\"dedicated_per_node\"}") >= 4.0);
}

#[test]
fn who_stood_in_line_for_longer_than_the_deadline_has_it_anew_at_the_node() {
    let cluster = ScriptedCluster::start(1);
    // One of the two is for WATCH.
    let proxy = cluster.proxy(&["--command-deadline", "1s", "--dedicated-per-node", "2"]);
    let (gate, mut calls) = (Gate::new(), 0);
    let first = gate.clone();
    cluster.node(0).script(move |_, args| {
        calls += usize::from(args[0] == b"BLPOP");
        match (args[0].as_slice(), calls) {
            (b"BLPOP", 1) => Action::reply_after(&first, "*2\r\n$1\r\nk\r\n$1\r\n1\r\n"),
            (b"BLPOP", 2) => Action::error("CLUSTERDOWN The cluster is down"),
            (b"BLPOP", _) => Action::reply("*2\r\n$1\r\nk\r\n$1\r\n2\r\n"),
            _ => Action::Default,
        }
    });
    let [mut one, mut other] = [proxy.connect(), proxy.connect()];
    one.send(&["BLPOP", "k", "0"]);
    eventually(SOON, || cluster.count("BLPOP k 0") == 1);
    other.send(&["BLPOP", "k", "0"]);
    eventually(SOON, || proxy.metric("slotmux_waiting_for_connection") == 1.0);
    other.expect_silence(Duration::from_secs(2));
    gate.open();
    assert_eq!(one.read_value(), list(&["k", "1"]));
    assert_eq!(other.read_value(), list(&["k", "2"]));
}

#[test]
fn a_connection_that_the_node_is_about_to_close_is_not_used_again() {
    let cluster = ScriptedCluster::start(1);
    let mut times = 0..;
    cluster.script(move |_, args| match &args[0][..] {
        b"BLPOP" if times.next() == Some(0) => Action::error(
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        ),
        b"BLPOP" => Action::reply("*2\r\n$1\r\nl\r\n$1\r\nx\r\n"),
        _ => Action::Default,
    });
    let proxy = cluster.proxy(&[]);
    assert_eq!(proxy.connect().cmd(&["BLPOP", "l", "0"]), list(&["l", "x"]));
    let commands = cluster.commands();
    let conns: Vec<u64> =
        commands.iter().filter(|c| c.text() == "BLPOP l 0").map(|command| command.conn).collect();
    assert!(conns.len() == 2 && conns[0] != conns[1], "{conns:?}");
}

#[test]
fn connections_that_lie_ready_give_way_where_a_node_may_have_no_more() {
    // Of 32 eleven are for what is shared, and of the rest two for WATCH.
    let (cluster, proxy) = start(&["--max-connections-per-node", "32"]);
    let (name, owner) = (key(SLOT, "l"), cluster.owner_of(SLOT));
    let mut clients: Vec<Client> = (0..38).map(|_| proxy.connect()).collect();
    // Every other one is the same worker's, and all of its connections wait at the same time.
    for (i, client) in clients.iter_mut().step_by(2).enumerate() {
        client.send(&["BLPOP", &name, "0"]);
        eventually(SOON, || cluster.waiting(owner) == i + 1);
    }
    let mut pusher = proxy.connect();
    for client in clients.iter_mut().step_by(2) {
        assert_eq!(pusher.cmd(&["RPUSH", &name, "x"]), Value::Int(1));
        assert_eq!(client.read_value(), list(&[&name, "x"]));
    }
    assert_eq!(pusher.cmd(&["RPUSH", &name, "y", "z"]), Value::Int(2));
    // Neither is nothing to be had, nor does it take until the others have been unused for a minute.
    assert_eq!(clients[1].cmd(&["BLPOP", &name, "5"]), list(&[&name, "y"]));
    assert_eq!(clients[3].cmd(&["BLPOP", &name, "0"]), list(&[&name, "z"]));
    assert_eq!(proxy.metric("slotmux_waiting_for_connection"), 0.0);
}

#[test]
fn connections_that_lie_ready_end_when_a_write_to_their_node_is_in_doubt() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--link-timeout", "1s"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
    eventually(SOON, || ready(&cluster, 0) == 1);
    assert_eq!(client.cmd(&["SET", "k", "0"]), Value::ok());
    cluster.stop(0);
    assert!(client.cmd(&["SET", "k", "1"]).text().starts_with("INDOUBT "));
    cluster.cont(0);
    eventually(SOON, || ready(&cluster, 0) == 0);
    // The next one is opened, and ends the old connection before anything else.
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    assert_eq!(
        client.pipeline(&[&["MULTI"][..], &["SET", "k", "2"], &["EXEC"]])[2],
        Value::Array(vec![Value::ok()])
    );
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("2"));
}

#[test]
fn many_waits_that_were_left_cost_the_next_connection_a_few_questions() {
    const CLIENTS: usize = 300;
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&["BLPOP", "q", "0"]));
    eventually(SOON, || cluster.waiting(0) == CLIENTS);
    drop(clients);
    eventually(SOON, || cluster.waiting(0) == 0);
    let mut node = cluster.client(0);
    node.cmd(&["CONFIG", "RESETSTAT"]);
    // A connection that is not there yet.
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["WATCH", "k"]), Value::ok());
    let stats = node.cmd(&["INFO", "commandstats"]).text();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_client|list:calls=")).unwrap();
    let calls: usize = calls.split(',').next().unwrap().parse().unwrap();
    assert!((1..20).contains(&calls), "{stats}");
}

#[test]
fn connections_that_lie_ready_end_with_the_role_of_their_node() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(support::slot_of("q"));
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["WATCH", "q"]), Value::ok());
    assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
    eventually(SOON, || ready(&cluster, owner) == 1);
    let replica = (owner + 3) % 6;
    cluster.await_copy(replica);
    cluster.failover(replica);
    assert_eq!(client.cmd(&["SET", "q", "v"]), Value::ok());
    // Long before the minute is over for which an unused connection stays; the table may be looked at anew after 30 s.
    eventually(2 * SOON, || ready(&cluster, owner) == 0);
}

#[test]
fn a_stop_ends_what_waits() {
    let (cluster, proxy) = start(&[]);
    let mut client = proxy.connect();
    client.send(&["BLPOP", &key(SLOT, "l"), "0"]);
    eventually(SOON, || cluster.waiting(cluster.owner_of(SLOT)) == 1);
    let begun = Instant::now();
    assert!(proxy.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(client.read_to_end_raw(), b"");
}

#[test]
fn a_stop_loses_no_element_that_was_popped() {
    const CLIENTS: usize = 40;
    let (cluster, proxy) = start(&[]);
    let (name, pushed) = (key(SLOT, "l"), 100_000);
    let mut direct = cluster.client(cluster.owner_of(SLOT));
    for _ in 0..pushed / 1000 {
        assert!(!direct.cmd(&[&["RPUSH", &name][..], &["x"; 1000]].concat()).is_error());
    }
    let request = encode(&["BLPOP", &name, "0"]);
    let reply = [b"*2\r\n", &encode(&[&name])[4..], b"$1\r\nx\r\n"].concat();
    let popped = thread::scope(|scope| {
        let consumers: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        let consumers = consumers.into_iter().map(|client| {
            let (request, reply) = (&request, &reply);
            scope.spawn(move || {
                let (mut stream, mut popped, mut input) = (client.stream(), 0, vec![0; reply.len()]);
                while stream.write_all(request).and_then(|()| stream.read_exact(&mut input)).is_ok() {
                    assert_eq!(input.escape_ascii().to_string(), reply.escape_ascii().to_string());
                    popped += 1;
                }
                popped
            })
        });
        let consumers: Vec<_> = consumers.collect();
        eventually(SOON, || direct.cmd(&["LLEN", &name]).int() < pushed - 2_000);
        assert!(proxy.stop().success());
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum::<i64>()
    });
    assert!((2_000..pushed).contains(&popped), "{popped}");
    assert_eq!(popped + direct.cmd(&["LLEN", &name]).int(), pushed);
}

#[test]
fn client_unblock_ends_a_wait_at_a_node_and_in_line() {
    let (cluster, proxy) = start(&["--dedicated-per-node", "2", "--workers", "1"]);
    let mut other = proxy.connect();
    let unblocked = Value::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    for (how, reply) in [("TIMEOUT", Value::NullArray), ("ERROR", unblocked)] {
        let (mut waits, mut in_line) = (proxy.connect(), proxy.connect());
        let ids = [&mut waits, &mut in_line].map(|client| client.cmd(&["CLIENT", "ID"]).int().to_string());
        waits.send(&["BLPOP", &key(SLOT, "l"), "0"]);
        eventually(SOON, || cluster.waiting(cluster.owner_of(SLOT)) == 1);
        in_line.send(&["BLPOP", &key(SLOT, "l"), "0"]);
        eventually(SOON, || proxy.metric("slotmux_waiting_for_connection") == 1.0);
        for (client, id) in [(&mut in_line, &ids[1]), (&mut waits, &ids[0])] {
            assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", id, how]), Value::Int(1));
            assert_eq!(client.read_value(), reply);
            assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", id, how]), Value::Int(0));
            assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
        }
    }
    // One error was the proxy's own, the other one the node's.
    assert_eq!(proxy.metric("slotmux_errors_total"), 1.0);
    assert_eq!(proxy.metric("slotmux_errors_total{command=\"blpop\",kind=\"unblocked\"}"), 1.0);
    assert_eq!(proxy.metric("slotmux_server_errors_total"), 1.0);
}

#[test]
fn a_wait_that_a_node_has_put_off_is_ended_without_harm() {
    let (cluster, proxy) = start(&[]);
    let (owner, name) = (cluster.owner_of(SLOT), key(SLOT, "l"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let id = client.cmd(&["CLIENT", "ID"]).int().to_string();
    // As in a planned failover: a server whose client is unblocked by TIMEOUT meanwhile crashes.
    cluster.ask(owner, &["CLIENT", "PAUSE", "60000", "WRITE"]);
    client.send(&["BLPOP", &name, "0"]);
    eventually(SOON, || cluster.waiting(owner) == 1);
    assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", &id, "TIMEOUT"]), Value::Int(1));
    assert_eq!(client.read_value(), Value::NullArray);
    client.send(&["BLPOP", &name, "0"]);
    client.finish_sending();
    assert_eq!(client.read_to_end_raw(), b"");
    eventually(SOON, || cluster.waiting(owner) == 0);
    cluster.ask(owner, &["CLIENT", "UNPAUSE"]);
    assert_eq!(other.cmd(&["RPUSH", &name, "1"]), Value::Int(1));
    assert_eq!(other.cmd(&["LLEN", &name]), Value::Int(1), "nobody waits for it any more");
}

#[test]
fn an_unblock_whose_answer_is_lost_holds_up_nobody() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--link-timeout", "1s", "--workers", "1"]);
    let (mut waits, mut admin, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
    let id = waits.cmd(&["CLIENT", "ID"]).int().to_string();
    let (call, ask) = (["BLPOP", &key(LOW, "l"), "0"], ["CLIENT", "UNBLOCK", &id, "TIMEOUT"]);
    let asked = Arc::new(AtomicBool::new(false));
    let unblocked = asked.clone();
    cluster.node(0).script(|_, args| if args[0] == b"BLPOP" { Action::Silent } else { Action::Default });
    cluster.node(0).control(move |_, args| match args.get(1).map(Vec::as_slice) {
        Some(b"UNBLOCK") => {
            unblocked.store(true, Ordering::Relaxed);
            Action::Silent
        }
        _ => Action::Default,
    });
    waits.send(&call);
    eventually(SOON, || cluster.count(&call.join(" ")) > 0);
    admin.send(&ask);
    eventually(SOON, || asked.load(Ordering::Relaxed));
    // The node leaves the table, and ends.
    cluster.edit(|topology| {
        topology.assign(0..=16_383, 1);
        topology.nodes[0].hidden = true;
    });
    cluster.node(0).down();
    assert!(waits.read_value().is_error(), "what it waited for is in doubt");
    assert_eq!(admin.read_value(), Value::Int(0));
    assert_eq!(other.cmd(&["GET", &key(LOW, "k")]), Value::NullBulk);
}

#[test]
fn an_unblock_that_comes_late_meets_nobody_else() {
    const CALLS: usize = 60;
    let (cluster, proxy) = start(&["--workers", "1"]);
    let (name, next) = (key(SLOT, "l"), key(SLOT, "next"));
    let owner = cluster.owner_of(SLOT);
    let mut node = cluster.client(owner);
    let (mut busy, mut admin, mut asks) = (proxy.connect(), proxy.connect(), proxy.connect());
    let (mut waits, mut second) = (proxy.connect(), proxy.connect());
    for client in [&mut busy, &mut waits, &mut second] {
        assert_eq!(client.cmd(&["GET", &next]), Value::NullBulk);
    }
    let id = waits.cmd(&["CLIENT", "ID"]).int().to_string();
    waits.send(&["BLPOP", &name, "0"]);
    eventually(SOON, || cluster.waiting(owner) == 1);
    // The shared connection has a queue, of which the node reads a little at a time.
    let (long, filler) = ("for i = 1, 300000 do end return 1", "x".repeat(9000));
    let call = encode(&["EVAL", long, "1", &next, &filler]);
    cluster.stop(owner);
    busy.send_raw(call.repeat(CALLS));
    eventually(SOON, || proxy.metric("slotmux_in_flight_requests") >= 20.0);
    admin.send(&["CLIENT", "UNBLOCK", &id]);
    // Answered behind that one by the same worker.
    assert_eq!(asks.cmd(&["CLIENT", "UNBLOCK", "1000000"]), Value::Int(0));
    cluster.cont(owner);
    assert_eq!(node.cmd(&["LPUSH", &name, "1"]), Value::Int(1));
    let got = waits.read_value();
    second.send(&["BLPOP", &next, "0"]);
    assert_eq!(busy.read_values(CALLS), vec![Value::Int(1); CALLS]);
    let unblocked = admin.read_value();
    let expected = if got == Value::NullArray { Value::Int(1) } else { Value::Int(0) };
    assert_eq!(unblocked, expected, "{got:?}");
    assert_eq!(proxy.connect().cmd(&["RPUSH", &next, "2"]), Value::Int(1));
    assert_eq!(second.read_value(), list(&[&next, "2"]), "nobody unblocked it");
}

#[test]
fn connections_are_handed_on_where_more_are_wanted_than_may_be_dialled_in_a_second() {
    const CLIENTS: usize = 700;
    slotmux::server::raise_open_files();
    let (cluster, proxy) = start(&["--workers", "1"]);
    let name = key(SLOT, "l");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    let mut direct = cluster.client(cluster.owner_of(SLOT));
    let dials = || proxy.metric("slotmux_node_dials_total");
    for _ in 0..5 {
        assert!(!direct.cmd(&[&["RPUSH", &name][..], &["x"; CLIENTS]].concat()).is_error());
        clients.iter_mut().for_each(|client| client.send(&["BLPOP", &name, "0"]));
        clients.iter_mut().for_each(|client| assert_eq!(client.read_value(), list(&[&name, "x"])));
    }
    assert!(dials() < CLIENTS as f64 + 10.0, "{} dials for {CLIENTS} clients", dials());
}

#[test]
fn a_thousand_clients_wait_on_as_many_connections_as_are_declared() {
    const CLIENTS: usize = 1000;
    slotmux::server::raise_open_files();
    let (cluster, proxy) = start(&[]);
    let (name, owner) = (key(SLOT, "l"), cluster.owner_of(SLOT));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&["BLPOP", &name, "0"]));
    // Of dedicated_per_node an eighth is for WATCH; the others wait in line.
    let at_node = 1024 - 1024 / 8;
    eventually(2 * SOON, || cluster.waiting(owner) == at_node);
    eventually(SOON, || proxy.metric("slotmux_waiting_for_connection") == (CLIENTS - at_node) as f64);
    // Besides them there are those that the two workers share.
    let most = at_node + 8;
    assert!((at_node..=most).contains(&links(&cluster, owner)), "{}", links(&cluster, owner));
    let items: Vec<String> = (0..CLIENTS).map(|i| i.to_string()).collect();
    let mut push = vec!["RPUSH", &name];
    push.extend(items.iter().map(String::as_str));
    assert!(!proxy.connect().cmd(&push).is_error());
    let popped = clients.iter_mut().map(|client| client.read_value().items()[1].text());
    assert_eq!(popped.collect::<HashSet<_>>().len(), CLIENTS, "each element once");
    assert_eq!(proxy.connect().cmd(&["LLEN", &name]), Value::Int(0));
    assert!(links(&cluster, owner) <= most);
}
