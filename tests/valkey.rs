//! What redis-server 7.0 does not have, on a real Valkey 9: slots that move at once with all their keys, a table for
//! each slot, newer commands, other words. Its databases are in `databases.rs`.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{
    Client, ClusterOptions, Done, Mix, Proxy, SOON, TestCluster, Value, eventually, key, valkey_server,
};

/// Slots that move at once.
const SLOTS: std::ops::Range<u16> = 0..500;
const TAGS: usize = 8;
const MOVES: usize = 8;
/// So many keys are there while they are scanned.
const KEYS: usize = 3000;

fn start(replicas: usize) -> (TestCluster, Proxy) {
    let server = Some(valkey_server().to_owned());
    let options = ClusterOptions { replicas_per_primary: replicas, server, ..Default::default() };
    let cluster = TestCluster::with(options);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    (cluster, proxy)
}

/// Moves all the slots at once to another primary, as the servers do it by themselves.
fn move_at_once(cluster: &TestCluster, from: usize, to: usize) {
    let mut source = cluster.client(from);
    let (first, last) = (SLOTS.start.to_string(), (SLOTS.end - 1).to_string());
    let call = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", &first, &last, "NODE", cluster.node(to).id()];
    // The source has to know that it is the owner.
    eventually(SOON, || source.cmd(&call) == Value::ok());
    cluster.await_owner(SLOTS.start, to);
}

/// Scans to the end; `between` is called after each page.
fn scan(client: &mut Client, mut between: impl FnMut(usize)) -> HashSet<String> {
    let (mut cursor, mut found) = ("0".to_owned(), HashSet::new());
    for number in 0.. {
        let page = client.cmd(&["SCAN", &cursor, "COUNT", "100"]);
        found.extend(page.items()[1].items().iter().map(Value::text));
        cursor = page.items()[0].text();
        assert!(cursor.parse::<u64>().unwrap() < 1 << 53 && number < KEYS);
        if cursor == "0" {
            break;
        }
        between(number);
    }
    found
}

#[test]
fn a_range_of_slots_that_moves_at_once_under_load_is_not_noticed() {
    let (cluster, proxy) = start(0);
    // Tags in the range, and others.
    let tags =
        |range: std::ops::Range<u16>| range.step_by(70).map(|slot| key(slot, "").replace(['{', '}'], ""));
    let tags = tags(SLOTS).chain(tags(9_000..9_210)).take(TAGS).collect();
    let mix = Mix { clients: 4, tags, conflicts: true };
    let work = |done: &AtomicUsize| {
        for number in 0..MOVES {
            move_at_once(&cluster, number % 2, (number + 1) % 2);
            let before = done.load(Ordering::Relaxed);
            eventually(SOON, || done.load(Ordering::Relaxed) > before + 20);
        }
    };
    let ((), Done { pipelines, refused, slowest, .. }) = mix.under(&proxy, work);
    println!("{MOVES} moves under {pipelines} pipelines, the slowest of which took {slowest:?}");
    assert_eq!(refused, 0);
    assert!(proxy.metric("slotmux_redirects_total") > 0.0, "nothing was redirected");
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn who_waits_for_a_stream_or_a_list_follows_its_slot() {
    let (cluster, proxy) = start(0);
    let (stream, list, mut other) = (key(0, "s"), key(0, "l"), proxy.connect());
    assert_eq!(other.cmd(&["XGROUP", "CREATE", &stream, "g", "$", "MKSTREAM"]), Value::ok());
    let calls = [
        &["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", &stream, ">"][..],
        &["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"],
        &["BLPOP", &list, "0"],
    ];
    let mut clients = calls.map(|call| {
        let mut client = proxy.connect();
        client.send(call);
        client
    });
    eventually(SOON, || cluster.waiting(0) == 3);
    move_at_once(&cluster, 0, 1);
    eventually(SOON, || cluster.waiting(1) == 3);
    // Slot by slot it moves back, and what was there is deleted at its source.
    cluster.migrate_slot(0, 1, 0);
    eventually(SOON, || cluster.waiting(0) == 3);
    other.cmd(&["XADD", &stream, "1-1", "f", "v"]);
    other.cmd(&["RPUSH", &list, "v"]);
    for client in &mut clients {
        assert!(!client.read_value().is_error());
    }
    assert_eq!(proxy.metric("slotmux_errors_total") + proxy.metric("slotmux_server_errors_total"), 0.0);
}

#[test]
fn every_key_is_scanned_while_slots_move_and_a_failover_goes_on() {
    let (cluster, proxy) = start(1);
    let mut client = proxy.connect();
    let keys: HashSet<String> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    for name in &keys {
        assert_eq!(client.cmd(&["SET", name, "x"]), Value::ok());
    }
    assert_eq!(scan(&mut client, |_| ()), keys);
    let found = scan(&mut client, |number| match number {
        3 => move_at_once(&cluster, 0, 1),
        7 => cluster.failover(4),
        11 => {
            move_at_once(&cluster, 4, 2);
            cluster.failover(3);
        }
        _ => (),
    });
    assert_eq!(found, keys);
}

#[test]
fn a_script_is_loaded_where_it_is_missing() {
    let (cluster, proxy) = start(0);
    let mut client = proxy.connect();
    let sha = client.cmd(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"]).text();
    cluster.running().for_each(|node| drop(node.ask(&["SCRIPT", "FLUSH"]).unwrap()));
    for slot in [0, 8_000, 16_000] {
        assert_eq!(client.cmd(&["EVALSHA", &sha, "1", &key(slot, "k")]), Value::Int(1));
    }
    let unknown = ["EVALSHA", &"0".repeat(40), "0"];
    assert_eq!(client.cmd(&unknown), cluster.client(0).cmd(&unknown));
}

#[test]
fn newer_commands_are_learned() {
    let (cluster, proxy) = start(0);
    let mut client = proxy.connect();
    let until = Instant::now() + SOON;
    while client.cmd(&["HSETEX", "h", "EX", "100", "FIELDS", "1", "f", "v"]) != Value::Int(1) {
        assert!(Instant::now() < until, "{:?}", client.cmd(&["HSETEX", "h"]));
        std::thread::sleep(Duration::from_millis(5));
    }
    for slot in [0, 8_000, 16_000] {
        let name = key(slot, "k");
        assert_eq!(client.cmd(&["SET", &name, "v"]), Value::ok());
        assert_eq!(client.cmd(&["DELIFEQ", &name, "other"]), Value::Int(0));
        assert_eq!(client.cmd(&["DELIFEQ", &name, "v"]), Value::Int(1));
    }
    let exec = client.pipeline(&[&["MULTI"][..], &["HGETEX", "h", "PERSIST", "FIELDS", "1", "f"], &["EXEC"]]);
    assert_eq!(exec[2], Value::Array(vec![Value::bulks(&["v"])]));
    assert_eq!(client.cmd(&["DELIFEQ", "k"]), cluster.client(0).cmd(&["DELIFEQ", "k"]));
}

#[test]
fn it_says_of_itself_what_its_nodes_say() {
    let (cluster, proxy) = start(0);
    let (mut client, mut direct) = (proxy.connect(), cluster.client(0));
    let field = |client: &mut Client, name: &str| {
        let info = client.cmd(&["INFO", "server"]).text();
        info.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    for name in ["redis_version:", "valkey_version:", "server_name:"] {
        assert_eq!(field(&mut client, name), field(&mut direct, name));
    }
    let expected = direct.cmd(&["HELLO"]);
    eventually(SOON, || client.cmd(&["HELLO"]).items()[..4] == expected.items()[..4]);
}
