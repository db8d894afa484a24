//! What is large, a command of very many keys or a value of megabytes, is served, and others are served beside it.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, Proxy, TestCluster, Value, encode, key, slot_of};

const KEYS: usize = 100_000;

fn words<'a>(command: &'a str, words: impl Iterator<Item = &'a String>) -> Vec<u8> {
    let words: Vec<&str> = std::iter::once(command).chain(words.map(String::as_str)).collect();
    encode(&words)
}

#[test]
fn a_command_of_very_many_keys_keeps_its_place_among_others() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    // 500 words are planned at once; the last ones share a slot.
    let names =
        |count: usize, tag: &str| -> Vec<String> { (0..count).map(|i| format!("{tag}k{i}")).collect() };
    for keys in [names(499, ""), names(500, ""), names(KEYS, ""), names(KEYS, "{t}")] {
        let pairs: Vec<String> = keys.iter().flat_map(|key| [key.clone(), format!("v{key}")]).collect();
        let first = &keys[0];
        let pipeline = [
            words("MSET", pairs.iter()),
            encode(&["SET", first, "later"]),
            words("MGET", keys.iter()),
            words("EXISTS", keys.iter()),
            encode(&["PING"]),
            words("MSET", pairs[1..].iter()),
            words("DEL", keys.iter()),
            encode(&["DBSIZE"]),
        ];
        client.send_raw(pipeline.concat());
        assert_eq!(client.read_value(), Value::ok());
        assert_eq!(client.read_value(), Value::ok());
        let values = client.read_value();
        let expected = keys.iter().map(|key| if key == first { "later".into() } else { format!("v{key}") });
        assert!(values.items().iter().map(Value::text).eq(expected));
        assert_eq!(client.read_value(), Value::Int(keys.len() as i64));
        assert_eq!(client.read_value(), Value::Simple("PONG".into()));
        assert_eq!(client.read_value(), Value::error("ERR wrong number of arguments for 'mset' command"));
        assert_eq!(client.read_value(), Value::Int(keys.len() as i64));
        assert_eq!(client.read_value(), Value::Int(0));
    }
}

#[test]
fn others_are_served_while_a_command_of_very_many_keys_is_planned() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let names: Vec<String> = (0..KEYS).map(|i| format!("k{i}")).collect();
    let request = words("EXISTS", names.iter());
    // How long the command took, and how long the longest wait of the other client was meanwhile.
    let mut run = || {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let longest = scope.spawn(|| {
                let mut longest = Duration::ZERO;
                while !done.load(Relaxed) {
                    let begun = Instant::now();
                    assert_eq!(other.cmd(&["PING"]), Value::Simple("PONG".into()));
                    longest = longest.max(begun.elapsed());
                }
                longest
            });
            let begun = Instant::now();
            client.send_raw(&request);
            assert_eq!(client.read_value(), Value::Int(0));
            let took = begun.elapsed();
            done.store(true, Relaxed);
            (took, longest.join().unwrap())
        })
    };
    // Planned in one go it is four fifths; a busy machine may let anybody wait, but not each time.
    let runs: Vec<_> = (0..20).map(|_| run()).collect();
    assert!(runs.iter().any(|(took, longest)| *longest < *took * 2 / 3), "{runs:?}");
}

#[test]
fn very_many_keys_are_found_while_their_slots_move() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    let names: Vec<String> = (0..KEYS / 5).map(|i| format!("k{i}")).collect();
    let pairs: Vec<String> = names.iter().flat_map(|key| [key.clone(), key.clone()]).collect();
    client.send_raw(words("MSET", pairs.iter()));
    assert_eq!(client.read_value(), Value::ok());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let request = words("MGET", names.iter());
            while !over.load(Relaxed) {
                client.send_raw(&request);
                assert!(client.read_value().items().iter().map(Value::text).eq(names.iter().cloned()));
            }
        });
        for name in names.iter().take(12) {
            let slot = slot_of(name);
            let at = cluster.owner_of(slot);
            cluster.migrate_slot(slot, at, (at + 1) % 3);
            cluster.await_owner(slot, (at + 1) % 3);
        }
        over.store(true, Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn very_many_keys_are_found_where_several_slots_are_half_moved() {
    let cluster = TestCluster::primaries(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    let mut names: Vec<String> = (0..KEYS / 5).map(|i| format!("k{i}")).collect();
    // The last of these are still to be sent when the first are answered.
    let slots = [1, 2000, 4000, 6000, 7000, 8000];
    let in_slot = |slot: u16| (0..6).map(move |i| key(slot, &format!("half{i}")));
    names.extend(slots.into_iter().flat_map(in_slot));
    let pairs: Vec<String> = names.iter().flat_map(|key| [key.clone(), key.clone()]).collect();
    client.send_raw(words("MSET", pairs.iter()));
    assert_eq!(client.read_value(), Value::ok());
    for slot in slots {
        cluster.begin_migration(slot, 0, 1);
        let keys: Vec<String> = in_slot(slot).step_by(2).collect();
        cluster.move_some_keys(0, 1, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let count = Value::Int(names.len() as i64);
    for _ in 0..5 {
        client.send_raw([words("MGET", names.iter()), words("EXISTS", names.iter())].concat());
        assert!(client.read_value().items().iter().map(Value::text).eq(names.iter().cloned()));
        assert_eq!(client.read_value(), count);
    }
    client.send_raw(words("UNLINK", names.iter()));
    assert_eq!(client.read_value(), count);
    assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
}

#[test]
fn large_and_small_values_come_in_the_order_of_their_keys() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, names) = (proxy.connect(), (0..300).map(|i| format!("{{t{}}}k{i}", i % 70)));
    let (names, lengths): (Vec<String>, _) = (names.collect(), [1, 20_000, 100, 300_000, 70_000]);
    let value = |i: usize| format!("{i} ").repeat(lengths[i % lengths.len()] / 3);
    let pairs: Vec<String> = names.iter().enumerate().flat_map(|(i, key)| [key.clone(), value(i)]).collect();
    let mget = words("MGET", names.iter().chain([&"none".to_owned()]).chain(&names[..9]));
    client.send_raw([words("MSET", pairs.iter()), mget.clone(), encode(&["PING"]), mget].concat());
    assert_eq!(client.read_value(), Value::ok());
    for is_last in [false, true] {
        let values = client.read_value();
        let values = values.items();
        assert_eq!((values.len(), &values[300]), (310, &Value::NullBulk));
        assert!(values[..300].iter().map(Value::text).eq((0..300).map(value)));
        assert!(values[301..].iter().map(Value::text).eq((0..9).map(value)));
        if !is_last {
            assert_eq!(client.read_value(), Value::Simple("PONG".into()));
        }
    }
}

/// The last commands of the proxy's connections at a node, the one for the topology left out.
fn last_commands(admin: &mut Client) -> Vec<String> {
    let list = admin.cmd(&["CLIENT", "LIST"]).text();
    let ours = list.lines().filter(|line| line.contains(" name=slotmux"));
    let command = |line: &str| line.split(" cmd=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let mut all: Vec<String> =
        ours.map(command).filter(|last| !last.starts_with("cluster") && last != "hello").collect();
    all.sort();
    all
}

/// A proxy, a key with a large value, and what its node says.
fn with_large_value(args: &[&str]) -> (TestCluster, Proxy, String, Client) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).args(args).start();
    let large = key(slot_of("x"), "large");
    let mut node = cluster.client(cluster.owner_of(slot_of("x")));
    assert_eq!(node.cmd(&["SET", &large, &"v".repeat(1 << 20)]), Value::ok());
    (cluster, proxy, large, node)
}

#[test]
fn large_replies_and_commands_take_connections_of_their_own() {
    let (_cluster, proxy, large, mut node) = with_large_value(&[]);
    // Another slot of the node: who asks for a key beside a large one is expected to get the like.
    let small = key(slot_of("x") - 1, "small");
    let (mut reads, mut writes, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
    (0..8).for_each(|_| assert_eq!(other.cmd(&["EXISTS", &small]), Value::Int(0)));
    assert_eq!(reads.cmd(&["GET", &large]).text().len(), 1 << 20);
    assert_eq!(reads.cmd(&["STRLEN", &large]), Value::Int(1 << 20));
    assert_eq!(other.cmd(&["EXISTS", &small]), Value::Int(0));
    assert_eq!(last_commands(&mut node), ["exists", "strlen"]);
    assert_eq!(writes.cmd(&["SET", &large, &"w".repeat(1 << 20)]), Value::ok());
    assert_eq!(other.cmd(&["TTL", &small]), Value::Int(-2));
    assert_eq!(last_commands(&mut node), ["set", "ttl"]);
    // A client that comes later is sent there with its first command on that slot.
    assert_eq!(proxy.connect().cmd(&["GETRANGE", &large, "0", "0"]), Value::bulk("w"));
    assert_eq!(last_commands(&mut node), ["getrange", "ttl"]);
}

#[test]
fn where_there_is_no_room_for_another_connection_large_replies_come_as_all_others_do() {
    let (_cluster, proxy, large, mut node) = with_large_value(&["--max-connections-per-node", "6"]);
    let mut client = proxy.connect();
    for _ in 0..5 {
        let pipeline =
            [encode(&["GET", &large]), encode(&["INCR", &format!("{{{large}}}n")]), encode(&["GET", &large])];
        client.send_raw(pipeline.concat());
        assert_eq!(client.read_value().text().len(), 1 << 20);
        assert!(matches!(client.read_value(), Value::Int(_)));
        assert_eq!(client.read_value().text().len(), 1 << 20);
    }
    assert_eq!(last_commands(&mut node), ["get"]);
}
