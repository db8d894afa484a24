//! SCAN: every key that is there throughout is returned, whatever the cluster does meanwhile, and it ends.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, ClusterOptions, PlainServer, Proxy, SOON, TestCluster, Value, eventually, key};

const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
/// A slot stays half-moved for so many pages, but not for longer than this.
const HALF: (usize, Duration) = (500, Duration::from_millis(100));
/// More pages than any of these scans has, if it ends.
const PAGES: usize = 200_000;

fn proxy(cluster: &TestCluster) -> Proxy {
    Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start()
}

/// Sets this many keys, and returns them.
fn fill(client: &mut Client, count: usize) -> HashSet<String> {
    let keys: Vec<String> = (0..count).map(|i| format!("key:{i}")).collect();
    for some in keys.chunks(500) {
        let sets: Vec<[&str; 3]> = some.iter().map(|key| ["SET", key, "x"]).collect();
        assert!(client.pipeline(&sets).iter().all(|reply| *reply == Value::ok()));
    }
    keys.into_iter().collect()
}

fn page(client: &mut Client, cursor: &str, options: &[&str]) -> (String, Vec<String>) {
    let reply = client.cmd(&[&["SCAN", cursor], options].concat());
    let Value::Array(parts) = &reply else { panic!("{reply:?}") };
    let keys = parts[1].items().iter().map(Value::text).collect();
    (parts[0].text(), keys)
}

/// Scans to the end; `between` is called after each page with its number.
fn scan(client: &mut Client, options: &[&str], mut between: impl FnMut(usize, &mut Client)) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    for number in 0..PAGES {
        let (next, keys) = page(client, &cursor, options);
        assert!(next.parse::<u64>().unwrap() < 1 << 53);
        found.extend(keys);
        if next == "0" {
            return found;
        }
        cursor = next;
        between(number, client);
    }
    panic!("it does not end");
}

fn set(found: Vec<String>) -> HashSet<String> {
    found.into_iter().collect()
}

/// Moves slots to and fro between two nodes until it is told to stop; how many.
fn keep_moving(cluster: &TestCluster, pages: &AtomicUsize, stop: &AtomicBool) -> usize {
    let slots: Vec<u16> = (0..4).zip(3000..3004).flat_map(|(one, other)| [one, other]).collect();
    for turn in 0.. {
        for (i, slot) in slots.iter().enumerate() {
            if stop.load(Relaxed) {
                return turn * slots.len() + i;
            }
            let (from, to) = (turn % 2, 1 - turn % 2);
            cluster.begin_migration(*slot, from, to);
            let keys = cluster.keys_in_slot(*slot, from);
            let half: Vec<&str> = keys.iter().step_by(2).map(String::as_str).collect();
            cluster.move_some_keys(from, to, &half);
            let (before, since) = (pages.load(Relaxed), Instant::now());
            while pages.load(Relaxed) < before + HALF.0 && since.elapsed() < HALF.1 {
                thread::yield_now();
            }
            cluster.move_keys(*slot, from, to);
            cluster.finish_migration(*slot, from, to);
        }
    }
    unreachable!()
}

#[test]
fn every_key_comes_once_when_nothing_changes() {
    let cluster = TestCluster::primaries(3);
    let (one, two) = (proxy(&cluster), proxy(&cluster));
    let mut client = one.connect();
    assert_eq!(scan(&mut client, &[], |_, _| {}), Vec::<String>::new());
    let keys = fill(&mut client, 3000);
    for count in ["1", "10", "1000"] {
        let found = scan(&mut client, &["COUNT", count], |_, _| {});
        assert_eq!((found.len(), set(found)), (keys.len(), keys.clone()), "COUNT {count}");
    }
    // Pages may be asked of any proxy in turn, and in RESP3.
    let mut clients = [one.connect(), two.connect(), two.connect()];
    clients[2].cmd(&["HELLO", "3"]);
    let (mut cursor, mut found, mut turn) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let (next, some) = page(&mut clients[turn % 3], &cursor, &["COUNT", "50"]);
        found.extend(some);
        turn += 1;
        if next == "0" {
            break;
        }
        cursor = next;
    }
    assert_eq!((found.len(), set(found)), (keys.len(), keys.clone()));
    assert!(turn > 50);
    // A pipeline means what it means on one server.
    let replies =
        client.pipeline(&[vec!["FLUSHALL"], vec!["SET", "a", "1"], vec!["SCAN", "0", "COUNT", "9"]]);
    assert_eq!(replies[..2], [Value::ok(), Value::ok()]);
    assert_eq!(set(scan(&mut client, &[], |_, _| {})), HashSet::from(["a".to_owned()]));
}

#[test]
fn options_and_errors_are_a_servers() {
    let cluster = TestCluster::primaries(2);
    let (proxy, plain) = (proxy(&cluster), PlainServer::start(&[]));
    let (mut client, mut server) = (proxy.connect(), plain.connect());
    fill(&mut client, 300);
    client.cmd(&["RPUSH", "list", "x"]);
    assert_eq!(scan(&mut client, &["TYPE", "list"], |_, _| {}), ["list"]);
    assert_eq!(scan(&mut client, &["TYPE", "nonsense"], |_, _| {}), Vec::<String>::new());
    assert_eq!(scan(&mut client, &["MATCH", "key:1?", "COUNT", "1"], |_, _| {}).len(), 10);
    assert_eq!(scan(&mut client, &["match", "LIST", "type", "LIST"], |_, _| {}), Vec::<String>::new());
    for bad in [
        &["SCAN", "abc"][..],
        &["SCAN", " 0"],
        &["SCAN", "18446744073709551616"],
        &["SCAN", "0", "COUNT", "0"],
        &["SCAN", "0", "COUNT", "x"],
        &["SCAN", "0", "COUNT", "-1"],
        &["SCAN", "0", "COUNT"],
        &["SCAN", "0", "NONSENSE", "1"],
        &["SCAN", "0", "MATCH"],
        &["SCAN"],
        &["SCAN", "x", "COUNT", "0"],
    ] {
        let reply = client.cmd(bad);
        assert_eq!(reply, server.cmd(bad), "{bad:?}");
        assert!(reply.is_error(), "{bad:?}");
    }
    // A cursor that nobody gave leads somewhere, and to an end.
    for cursor in ["1", "-1", "9007199254740991", "123456789012345", "18446744073709551615"] {
        let (mut cursor, mut pages) = (cursor.to_owned(), 0);
        while cursor != "0" && pages < 1000 {
            cursor = page(&mut client, &cursor, &[]).0;
            pages += 1;
        }
        assert!(pages < 1000);
    }
}

#[test]
fn slots_that_move_to_and_fro_lose_no_key() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let mut keys = fill(&mut client, 1000);
    // Keys in the very slots that move, from the range's beginning and from its midst.
    for slot in (0..4).chain(3000..3004) {
        keys.extend((0..20).map(|i| key(slot, &format!("moving:{i}"))));
    }
    let sets: Vec<[&str; 3]> = keys.iter().map(|key| ["SET", key, "x"]).collect();
    client.pipeline(&sets);
    let (pages, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let mover = scope.spawn(|| keep_moving(&cluster, &pages, &stop));
        for (count, times) in [("1", 1), ("10", 3), ("1000", 5)] {
            for _ in 0..times {
                let missing: Vec<_> = {
                    let found = set(scan(&mut client, &["COUNT", count], |_, _| {
                        pages.fetch_add(1, Relaxed);
                    }));
                    keys.difference(&found).cloned().collect()
                };
                stop.store(!missing.is_empty(), Relaxed);
                assert!(missing.is_empty(), "COUNT {count}: {missing:?}");
            }
        }
        stop.store(true, Relaxed);
        assert!(mover.join().unwrap() > 5);
    });
}

#[test]
fn a_half_moved_slot_is_scanned_on_both_nodes() {
    let cluster = TestCluster::primaries(2);
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let mut keys = fill(&mut client, 500);
    let own: Vec<String> = (0..40).map(|i| key(1000, &format!("half:{i}"))).collect();
    for key in &own {
        client.cmd(&["SET", key, "x"]);
    }
    keys.extend(own.iter().cloned());
    cluster.begin_migration(1000, 0, 1);
    let half: Vec<&str> = own[..20].iter().map(String::as_str).collect();
    cluster.move_some_keys(0, 1, &half);
    for count in ["1", "10", "1000"] {
        let found = scan(&mut client, &["COUNT", count], |_, _| {});
        assert_eq!((found.len() >= keys.len(), set(found)), (true, keys.clone()), "COUNT {count}");
    }
    // What moves while the slot is scanned is found where it goes.
    let mut rest: Vec<&str> = own[20..].iter().map(String::as_str).collect();
    let found = scan(&mut client, &["COUNT", "5"], |number, _| {
        if number % 3 == 0
            && let Some(key) = rest.pop()
        {
            cluster.move_some_keys(0, 1, &[key]);
        }
    });
    assert_eq!(set(found), keys);
    // Another proxy, which has seen nothing of this, finds all too; also once the move is finished half way.
    let other = Proxy::start(&cluster.seeds());
    let mut other = other.connect();
    let found = scan(&mut client, &["COUNT", "7"], |number, _| {
        if number == 20 {
            cluster.move_keys(1000, 0, 1);
            cluster.finish_migration(1000, 0, 1);
        }
    });
    assert_eq!(set(found), keys);
    assert_eq!(set(scan(&mut other, &["COUNT", "7"], |_, _| {})), keys);
}

#[test]
fn a_failover_in_the_middle_loses_no_key() {
    let cluster = TestCluster::start();
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let keys = fill(&mut client, 2000);
    for replica in 3..6 {
        assert_eq!(client.cmd(&["GET", "key:0"]), Value::bulk("x"));
        cluster.settle();
        eventually(SOON, || {
            let sizes: i64 = (3..6).map(|i| cluster.client(i).cmd(&["DBSIZE"]).int()).sum();
            sizes >= 2000
        });
        let found = scan(&mut client, &["COUNT", "20"], |number, _| {
            if number == 20 + 30 * (replica - 3) {
                cluster.failover(replica);
            }
        });
        assert_eq!(set(found), keys);
    }
}

#[test]
fn a_restart_in_the_middle_loses_no_key() {
    let options = ClusterOptions { primaries: 3, replicas_per_primary: 0, ..Default::default() };
    let options = ClusterOptions { server_args: SAFE.map(str::to_owned).to_vec(), ..options };
    let cluster = TestCluster::with(options);
    let proxy = proxy(&cluster);
    let mut client = proxy.connect();
    let keys = fill(&mut client, 2000);
    let found = scan(&mut client, &["COUNT", "20"], |number, _| {
        if number == 25 {
            cluster.kill9(0);
            cluster.restart(0);
        }
    });
    let missing: Vec<_> = keys.difference(&set(found)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
}
