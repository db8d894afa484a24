//! Scripts and functions: a node that lacks a script which a client has shown gets it in silence.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use support::{Client, Proxy, SOON, TestCluster, Value, eventually, key};

const COUNT: &str = "return redis.call('INCR', KEYS[1])";
const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";
/// Counts, and then says what a server says of a script that it does not know.
const LIAR: &str =
    "redis.call('INCR', KEYS[1]) return redis.error_reply('NOSCRIPT No matching script. Please use EVAL.')";

fn start(primaries: usize) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(primaries);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    (cluster, proxy)
}

/// The hash by which a server knows a script; none of them learns it.
fn sha(cluster: &TestCluster, text: &str) -> String {
    cluster.client(0).cmd(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", text]).text()
}

fn forget(cluster: &TestCluster) {
    cluster.running().for_each(|node| drop(node.ask(&["SCRIPT", "FLUSH"]).unwrap()));
}

fn call(client: &mut Client, sha: &str, key: &str) -> Value {
    client.cmd(&["EVALSHA", sha, "1", key])
}

#[test]
fn a_script_that_was_shown_is_loaded_where_it_is_missing() {
    let (cluster, proxy) = start(3);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let count = sha(&cluster, COUNT);
    assert_eq!(call(&mut client, &count, "a"), Value::error(NOSCRIPT));
    assert_eq!(client.cmd(&["EVAL", COUNT, "1", "a"]), Value::Int(1));
    for slot in (0..16_384).step_by(1000) {
        assert_eq!(call(&mut other, &count, &key(slot, "k")), Value::Int(1));
        assert_eq!(call(&mut other, &count.to_uppercase(), &key(slot, "k")), Value::Int(2));
    }
    // Also one that only reads, one without keys, and those that SCRIPT LOAD has shown.
    let loaded = client.cmd(&["SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])"]).text();
    let keyless = client.cmd(&["SCRIPT", "LOAD", "return 'keyless'"]).text();
    forget(&cluster);
    for slot in (0..16_384).step_by(1000) {
        assert_eq!(client.cmd(&["EVALSHA_RO", &loaded, "1", &key(slot, "k")]), Value::bulk("2"));
        assert_eq!(client.cmd(&["EVALSHA", &keyless, "0"]), Value::bulk("keyless"));
    }
    // A script that is unknown here too, and one that no server can compile.
    let unknown = "0".repeat(40);
    assert_eq!(call(&mut client, &unknown, "a"), Value::error(NOSCRIPT));
    assert!(client.cmd(&["EVAL", "this is no Lua", "0"]).is_error());
    assert_eq!(call(&mut client, &sha(&cluster, "this is no Lua"), "a"), Value::error(NOSCRIPT));
}

#[test]
fn pipelined_calls_of_a_missing_script_run_once_each_and_in_order() {
    let (cluster, proxy) = start(1);
    let mut client = proxy.connect();
    // The second could make an error of its own, for all that the proxy knows.
    for text in [COUNT, "local err = 1 return redis.call('INCR', KEYS[1])"] {
        let count = client.cmd(&["SCRIPT", "LOAD", text]).text();
        for round in 0..5 {
            forget(&cluster);
            let calls = vec![vec!["EVALSHA".to_owned(), count.clone(), "1".into(), "n".into()]; 200];
            let replies = client.pipeline(&calls);
            let expected: Vec<Value> = (1..=200).map(|i| Value::Int(round * 200 + i)).collect();
            assert_eq!(replies, expected);
        }
        client.cmd(&["DEL", "n"]);
    }
}

#[test]
fn many_clients_that_miss_a_script_at_once_all_get_their_replies() {
    let (cluster, proxy) = start(3);
    let text = "local err = 1 return redis.call('INCR', KEYS[1])";
    let count = proxy.connect().cmd(&["SCRIPT", "LOAD", text]).text();
    let mut clients: Vec<Client> = (0..50).map(|_| proxy.connect()).collect();
    for round in 1..=20 {
        forget(&cluster);
        clients.iter_mut().for_each(|client| client.send(&["EVALSHA", &count, "1", "n"]));
        let mut replies: Vec<i64> = clients.iter_mut().map(|client| client.read_value().int()).collect();
        replies.sort_unstable();
        assert_eq!(replies, ((round - 1) * 50 + 1..=round * 50).collect::<Vec<i64>>());
    }
}

#[test]
fn a_script_that_says_so_itself_runs_once() {
    let (cluster, proxy) = start(1);
    let mut client = proxy.connect();
    let liar = client.cmd(&["SCRIPT", "LOAD", LIAR]).text();
    for i in 1..=20 {
        assert_eq!(call(&mut client, &liar, "n"), Value::error(NOSCRIPT));
        assert_eq!(client.cmd(&["GET", "n"]), Value::bulk(i.to_string()));
    }
    // Where it is missing it is loaded, runs, and says so.
    forget(&cluster);
    assert_eq!(call(&mut client, &liar, "n"), Value::error(NOSCRIPT));
    assert_eq!(client.cmd(&["GET", "n"]), Value::bulk("21"));
    let replies = client.pipeline(&vec![["EVALSHA", &liar, "1", "n"]; 50]);
    assert!(replies.iter().all(|reply| *reply == Value::error(NOSCRIPT)));
    assert_eq!(client.cmd(&["GET", "n"]), Value::bulk("71"));
}

#[test]
fn a_new_primary_and_a_half_moved_slot_get_the_script() {
    let (mut cluster, proxy) = start(2);
    let mut client = proxy.connect();
    let count = client.cmd(&["SCRIPT", "LOAD", COUNT]).text();
    let new = cluster.add_node();
    cluster.agree();
    for slot in [100, 101] {
        assert_eq!(call(&mut client, &count, &key(slot, "k")), Value::Int(1));
    }
    cluster.migrate_slot(100, cluster.owner_of(100), new);
    assert_eq!(call(&mut client, &count, &key(100, "k")), Value::Int(2));
    // The new one has it now; a slot that is on its way finds one that has forgotten it.
    forget(&cluster);
    cluster.begin_migration(101, cluster.owner_of(101), new);
    cluster.move_keys(101, cluster.owner_of(101), new);
    for i in 2..10 {
        assert_eq!(call(&mut client, &count, &key(101, "k")), Value::Int(i));
    }
    let parser = "local err = nil return redis.call('INCR', KEYS[1])";
    client.cmd(&["SCRIPT", "LOAD", parser]);
    let parser = sha(&cluster, parser);
    forget(&cluster);
    assert_eq!(call(&mut client, &parser, &key(101, "k")), Value::Int(10));
}

#[test]
fn a_failover_forgets_no_script() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    let count = clients[0].cmd(&["SCRIPT", "LOAD", COUNT]).text();
    for replica in 3..6 {
        cluster.failover(replica);
    }
    for slot in (0..16_384).step_by(2000) {
        for (client, i) in clients.iter_mut().zip(1..) {
            assert_eq!(call(client, &count, &key(slot, "k")), Value::Int(i));
        }
    }
}

#[test]
fn script_flush_forgets_and_exists_speaks_for_all_nodes() {
    let (cluster, proxy) = start(3);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let count = client.cmd(&["SCRIPT", "LOAD", COUNT]).text();
    let unknown = "0".repeat(40);
    let exists = ["SCRIPT", "EXISTS", &count, &unknown];
    assert_eq!(client.cmd(&exists), Value::Array(vec![Value::Int(1), Value::Int(0)]));
    cluster.ask(1, &["SCRIPT", "FLUSH"]);
    assert_eq!(client.cmd(&exists), Value::Array(vec![Value::Int(0), Value::Int(0)]));
    assert_eq!(client.cmd(&["SCRIPT", "FLUSH", "SYNC"]), Value::ok());
    for slot in (0..16_384).step_by(4000) {
        assert_eq!(call(&mut other, &count, &key(slot, "k")), Value::error(NOSCRIPT));
    }
    // And it is known again as soon as anybody shows it.
    assert_eq!(client.cmd(&["EVAL", COUNT, "1", "k"]), Value::Int(1));
    assert_eq!(call(&mut other, &count, &key(0, "k")), Value::Int(1));
    assert_eq!(call(&mut other, &count, &key(9000, "k")), Value::Int(1));
}

#[test]
fn the_script_that_was_needed_longest_ago_is_forgotten_first() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--script-cache", "64KiB"]).start();
    let mut client = proxy.connect();
    let script = |i: usize| format!("return {i} --{}", "x".repeat(8000));
    let shas: Vec<String> = (0..12).map(|i| client.cmd(&["SCRIPT", "LOAD", &script(i)]).text()).collect();
    forget(&cluster);
    assert_eq!(client.cmd(&["EVALSHA", &shas[11], "0"]), Value::Int(11));
    assert_eq!(client.cmd(&["EVALSHA", &shas[5], "0"]), Value::Int(5));
    assert_eq!(client.cmd(&["EVALSHA", &shas[0], "0"]), Value::error(NOSCRIPT));
    assert!(proxy.metric("slotmux_bound_reached_total{bound=\"script_cache\"}") >= 4.0);
}

#[test]
fn functions_are_changed_on_all_primaries_and_called_by_their_keys() {
    let (cluster, proxy) = start(3);
    let mut client = proxy.connect();
    let library = |name: &str| {
        format!(
            "#!lua name={name}\nredis.register_function{{function_name='{name}', callback=function(keys, args) return keys[1] or 'none' end, flags={{'no-writes'}}}}"
        )
    };
    let on_nodes = |expected: usize| {
        (0..3).all(|i| cluster.client(i).cmd(&["FUNCTION", "LIST"]).items().len() == expected)
    };
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", &library("first")]), Value::bulk("first"));
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", &library("second")]), Value::bulk("second"));
    assert!(on_nodes(2));
    assert!(client.cmd(&["FUNCTION", "LOAD", &library("first")]).text().contains("already exists"));
    for slot in (0..16_384).step_by(2000) {
        let key = key(slot, "k");
        assert_eq!(client.cmd(&["FCALL", "first", "1", &key]), Value::bulk(&key));
        assert_eq!(client.cmd(&["FCALL_RO", "second", "1", &key]), Value::bulk(&key));
        assert_eq!(client.cmd(&["FCALL", "first", "0"]), Value::bulk("none"));
    }
    assert_eq!(client.cmd(&["FUNCTION", "LIST"]).items().len(), 2);
    assert!(!client.cmd(&["FUNCTION", "STATS"]).is_error());
    let dump = match client.cmd(&["FUNCTION", "DUMP"]) {
        Value::Bulk(dump) => dump,
        other => panic!("{other:?}"),
    };
    assert_eq!(client.cmd(&["FUNCTION", "DELETE", "first"]), Value::ok());
    assert!(on_nodes(1));
    assert_eq!(client.cmd(&["FUNCTION", "FLUSH"]), Value::ok());
    assert!(on_nodes(0));
    assert_eq!(client.cmd(&[&b"FUNCTION"[..], b"RESTORE", &dump]), Value::ok());
    eventually(SOON, || on_nodes(2));
    assert_eq!(client.cmd(&["FCALL", "second", "1", "k"]), Value::bulk("k"));
}

#[test]
fn calls_follow_a_slot_that_moves_to_and_fro() {
    let (cluster, proxy) = start(3);
    let (done, slot) = (AtomicBool::new(false), 0);
    let name = key(slot, "n");
    let calls = thread::scope(|scope| {
        let call = || {
            let (mut client, mut calls) = (proxy.connect(), 0);
            while !done.load(Relaxed) {
                calls += 1;
                assert_eq!(client.cmd(&["EVAL", COUNT, "1", &name]), Value::Int(calls));
            }
            calls
        };
        let caller = scope.spawn(call);
        let work = scope.spawn(|| {
            for (from, to) in [(0, 1), (1, 0)].repeat(8) {
                cluster.migrate_slot(slot, from, to);
                // A server that gets a slot back before all know that it has left loses it.
                cluster.await_owner(slot, to);
            }
        });
        let worked = work.join();
        done.store(true, Relaxed);
        worked.unwrap();
        caller.join().unwrap()
    });
    assert!(calls > 0);
}
