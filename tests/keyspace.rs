//! Commands about all keys, as on one server.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use support::{Client, ClusterOptions, Proxy, TestCluster, Value, encode, key, slot_of};

fn start() -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    (cluster, proxy)
}

/// Sets this many keys of the slot.
fn fill(client: &mut Client, slot: u16, count: usize) {
    let keys: Vec<String> = (0..count).map(|i| key(slot, &format!(":{i}"))).collect();
    for keys in keys.chunks(500) {
        let sets: Vec<[&str; 3]> = keys.iter().map(|key| ["SET", key, "x"]).collect();
        assert!(client.pipeline(&sets).iter().all(|reply| *reply == Value::ok()));
    }
}

#[test]
fn a_random_key_is_any_key_with_the_same_chance() {
    let (cluster, proxy) = start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["RANDOMKEY"]), Value::NullBulk);
    // One shard has keys, two have none.
    fill(&mut client, 10_000, 1);
    for _ in 0..50 {
        assert_eq!(client.cmd(&["RANDOMKEY"]), Value::bulk(key(10_000, ":0")));
    }
    let sizes = [(0, 100), (10_000, 1000), (16_000, 10_000)];
    sizes.iter().for_each(|(slot, count)| fill(&mut client, *slot, *count));
    assert_eq!(
        (0..3).map(|i| cluster.client(i).cmd(&["DBSIZE"]).int()).collect::<Vec<_>>(),
        [100, 1000, 10_000]
    );
    let mut drawn: HashMap<u16, usize> = HashMap::new();
    let draws: Vec<u8> = encode(&["RANDOMKEY"]).repeat(1000);
    let mut clients: Vec<Client> = (0..10).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send_raw(&draws));
    for reply in clients.iter_mut().flat_map(|client| client.read_values(1000)) {
        *drawn.entry(slot_of(reply.text())).or_default() += 1;
    }
    for (slot, count) in sizes {
        let (share, fair) = (drawn[&slot] as f64 / 10_000.0, count as f64 / 11_100.0);
        assert!((share - fair).abs() < 0.05, "{share} instead of {fair}: {drawn:?}");
    }
    client.cmd(&["HELLO", "3"]);
    assert!(matches!(client.cmd(&["RANDOMKEY"]), Value::Bulk(_)));
    assert_eq!(client.cmd(&["FLUSHALL"]), Value::ok());
    assert_eq!(client.cmd(&["RANDOMKEY"]), Value::Null);
}

#[test]
fn keys_are_counted_listed_and_flushed_on_all_shards() {
    let (cluster, proxy) = start();
    let mut client = proxy.connect();
    for flush in
        [&["FLUSHALL"][..], &["FLUSHALL", "ASYNC"], &["FLUSHALL", "SYNC"], &["FLUSHDB"], &["FLUSHDB", "SYNC"]]
    {
        for slot in (0..16_000).step_by(1000) {
            fill(&mut client, slot, 2);
        }
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(32));
        let keys = client.cmd(&["KEYS", "*"]);
        assert_eq!(keys.items().iter().map(Value::text).collect::<HashSet<_>>().len(), 32);
        assert_eq!(client.cmd(&["KEYS", &key(5000, ":?")]).items().len(), 2);
        assert_eq!(client.cmd(flush), Value::ok());
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
        assert!((0..3).all(|i| cluster.client(i).cmd(&["DBSIZE"]) == Value::Int(0)), "{flush:?}");
    }
    assert!(client.cmd(&["FLUSHALL", "NONSENSE"]).text().starts_with("ERR syntax error"));
    let refused = client.cmd(&["SWAPDB", "0", "1"]).text();
    assert!(refused.starts_with("ERR command 'swapdb' is not available"), "{refused}");
}

#[test]
fn what_combines_keys_of_several_slots_is_refused() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    for line in [
        "SUNION a b",
        "SINTER a b",
        "SDIFF a b",
        "SINTERCARD 2 a b",
        "ZUNION 2 a b",
        "ZINTER 2 a b",
        "ZDIFF 2 a b",
        "ZINTERCARD 2 a b",
        "PFCOUNT a b",
        "PFMERGE a b",
        "RENAME a b",
        "RENAMENX a b",
        "SUNIONSTORE a b",
        "SINTERSTORE a b",
        "SDIFFSTORE a b",
        "ZUNIONSTORE a 1 b",
        "ZINTERSTORE a 1 b",
        "ZDIFFSTORE a 1 b",
        "ZRANGESTORE a b 0 1",
        "GEOSEARCHSTORE a b FROMLONLAT 0 0 BYRADIUS 1 m",
        "GEORADIUS a 0 0 1 m STORE b",
        "SORT a STORE b",
        "BITOP AND a b",
        "COPY a b",
        "LMOVE a b LEFT LEFT",
        "SMOVE a b x",
        "MSETNX a 1 b 1",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = client.cmd(&words);
        assert_eq!(reply, Value::error("CROSSSLOT Keys in request don't hash to the same slot"), "{line}");
    }
    assert!(!client.cmd(&["SUNION", "{t}a", "{t}b"]).is_error());
}

#[test]
fn a_shard_counts_once_while_it_fails_over() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let names: Vec<String> = (0..16_384).step_by(40).map(|slot| key(slot, "k")).collect();
    let mut client = proxy.connect();
    for name in &names {
        assert_eq!(client.cmd(&["SET", name, "x"]), Value::ok());
    }
    assert_eq!(client.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let read = || {
            let mut client = proxy.connect();
            while !done.load(Relaxed) {
                for name in &names {
                    assert_eq!(client.cmd(&["GET", name]), Value::bulk("x"));
                }
                // The servers want their share of the machine.
                thread::sleep(Duration::from_millis(5));
            }
        };
        let count = || {
            let mut client = proxy.connect();
            while !done.load(Relaxed) {
                assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(names.len() as i64));
                assert_eq!(client.cmd(&["KEYS", "*"]).items().len(), names.len());
                let info = client.cmd(&["INFO", "keyspace"]).text();
                assert!(info.contains(&format!("db0:keys={},", names.len())), "{info}");
            }
        };
        let clients = [scope.spawn(read), scope.spawn(count)];
        let work = scope.spawn(|| {
            for replica in [3, 4, 5, 0, 1, 2] {
                cluster.settle();
                cluster.failover(replica);
            }
        });
        let worked = work.join();
        done.store(true, Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        worked.unwrap();
    });
}

#[test]
fn what_any_shard_can_answer_is_not_asked_of_one_that_hangs() {
    let cluster = TestCluster::with(ClusterOptions {
        replicas_per_primary: 0,
        node_timeout: Duration::from_secs(60),
        ..Default::default()
    });
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--link-timeout", "60s"]).start();
    let mut client = proxy.connect();
    for slot in [0, 8_000, 16_000] {
        assert_eq!(client.cmd(&["SET", &key(slot, "k"), "x"]), Value::ok());
    }
    cluster.stop(1);
    // Somebody waits there, and so it is seen that nothing comes.
    let mut waiting = proxy.connect();
    waiting.send(&["GET", &key(8_000, "k")]);
    waiting.expect_silence(Duration::from_secs(4));
    for _ in 0..30 {
        assert_eq!(client.cmd(&["EVAL", "return 1", "0"]), Value::Int(1));
        assert_eq!(client.cmd(&["CONFIG", "GET", "maxmemory"]).items().len(), 2);
    }
    cluster.cont(1);
    assert_eq!(waiting.read_value(), Value::bulk("x"));
}
