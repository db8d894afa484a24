//! Keyspace notifications: each node tells its own, and a subscriber hears those of all.

#![allow(clippy::unwrap_used)]

mod support;

use std::thread;
use std::time::Duration;

use support::{Client, ClusterOptions, Proxy, SOON, TestCluster, Value, eventually, key};

/// Slots of the three primaries.
const SLOTS: [u16; 3] = [0, 8_000, 16_000];
const QUIET: Duration = Duration::from_millis(150);

fn notify(cluster: &TestCluster, nodes: std::ops::Range<usize>) {
    nodes.for_each(|node| {
        cluster.ask(node, &["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
    });
}

fn message(pattern: Option<&str>, channel: &str, text: &str) -> Value {
    match pattern {
        Some(pattern) => Value::bulks(&["pmessage", pattern, channel, text]),
        None => Value::bulks(&["message", channel, text]),
    }
}

/// Sets a key and expects that to be told once.
#[track_caller]
fn set_and_hear(writer: &mut Client, subscriber: &mut Client, pattern: &str, name: &str) {
    assert_eq!(writer.cmd(&["SET", name, "v"]), Value::ok());
    let expected = message(Some(pattern), &format!("__keyspace@0__:{name}"), "set");
    assert_eq!(subscriber.read_value(), expected);
}

#[test]
fn they_come_from_all_primaries_each_once_and_plain_messages_come_once_too() {
    let cluster = TestCluster::primaries(3);
    notify(&cluster, 0..3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut writer = proxy.connect();
    let names = SLOTS.map(|slot| key(slot, "k"));
    for pattern in ["__keyspace@0__:*", "__key*", "*", "[_]_keyspace@?__:{*"] {
        let mut subscriber = proxy.connect();
        assert_eq!(subscriber.cmd(&["PSUBSCRIBE", pattern]).items()[2], Value::Int(1));
        for name in &names {
            assert_eq!(writer.cmd(&["SET", name, "v"]), Value::ok());
            let mut channels = vec![format!("__keyspace@0__:{name}")];
            channels.extend((pattern.len() < 7).then(|| "__keyevent@0__:set".to_owned()));
            for channel in channels {
                let text = if channel.contains("event") { name } else { "set" };
                assert_eq!(subscriber.read_value(), message(Some(pattern), &channel, text));
            }
        }
        writer.cmd(&["PUBLISH", "news", "plain"]);
        if pattern == "*" {
            assert_eq!(subscriber.read_value(), message(Some("*"), "news", "plain"));
        }
        subscriber.expect_silence(QUIET);
    }
    let mut subscriber = proxy.connect();
    subscriber.cmd(&["SUBSCRIBE", "__keyevent@0__:del"]);
    for name in &names {
        assert_eq!(writer.cmd(&["DEL", name]), Value::Int(1));
        assert_eq!(subscriber.read_value(), message(None, "__keyevent@0__:del", name));
    }
    subscriber.expect_silence(QUIET);
}

#[test]
fn they_come_from_a_primary_that_is_added_later() {
    let mut cluster = TestCluster::primaries(3);
    notify(&cluster, 0..3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut writer, mut subscriber) = (proxy.connect(), proxy.connect());
    subscriber.cmd(&["PSUBSCRIBE", "__keyspace@0__:*"]);
    let new = cluster.add_node();
    notify(&cluster, new..new + 1);
    let name = key(SLOTS[0], "k");
    cluster.migrate_slot(SLOTS[0], cluster.owner_of(SLOTS[0]), new);
    // Lets the proxy see it.
    assert_eq!(writer.cmd(&["GET", &name]), Value::NullBulk);
    let mut node = cluster.client(new);
    eventually(SOON, || node.cmd(&["PUBSUB", "NUMPAT"]) == Value::Int(1));
    for name in [&name, &key(SLOTS[1], "k"), &key(SLOTS[2], "k")] {
        set_and_hear(&mut writer, &mut subscriber, "__keyspace@0__:*", name);
    }
    subscriber.expect_silence(QUIET);
}

#[test]
fn none_is_lost_or_doubled_in_a_planned_failover() {
    let cluster =
        TestCluster::with(ClusterOptions { primaries: 3, replicas_per_primary: 1, ..Default::default() });
    notify(&cluster, 0..6);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut writer, mut subscriber) = (proxy.connect(), proxy.connect());
    subscriber.cmd(&["PSUBSCRIBE", "__keyspace@0__:*"]);
    let primary = cluster.owner_of(SLOTS[0]);
    let replica = (primary + 3) % 6;
    let mut node = cluster.client(replica);
    let mut written = 0;
    // Until the new primary is subscribed, and the old one is not any more.
    let mut old = cluster.client(primary);
    thread::scope(|scope| {
        scope.spawn(|| cluster.failover(replica));
        eventually(2 * SOON, || {
            for slot in SLOTS {
                assert_eq!(writer.cmd(&["SET", &key(slot, &written.to_string()), "v"]), Value::ok());
            }
            written += 1;
            let patterns = [&mut node, &mut old].map(|node| node.cmd(&["PUBSUB", "NUMPAT"]));
            patterns == [Value::Int(1), Value::Int(0)]
        });
    });
    for slot in SLOTS {
        assert_eq!(writer.cmd(&["SET", &key(slot, &written.to_string()), "v"]), Value::ok());
    }
    written += 1;
    let mut heard: Vec<String> =
        (0..3 * written).map(|_| subscriber.read_value().items()[2].text()).collect();
    subscriber.expect_silence(QUIET);
    let mut expected: Vec<String> = SLOTS
        .iter()
        .flat_map(|slot| (0..written).map(|i| format!("__keyspace@0__:{}", key(*slot, &i.to_string()))))
        .collect();
    heard.sort();
    expected.sort();
    assert_eq!(heard, expected);
}
