//! What clients that do nothing cost.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, Proxy, SOON, TestCluster, Value, eventually};

/// As many as there are by default, and the load has the other end of each.
const CLIENTS: usize = 10_000;
const MOST_EACH: f64 = 8.0 * 1024.0;

#[test]
fn idle_clients_cost_little() {
    slotmux::server::raise_open_files();
    let cluster = TestCluster::primaries(1);
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--max-clients", "10001"]).start();
    let resident = || proxy.metric("process_resident_memory_bytes");
    let mut first = proxy.connect();
    let long = "v".repeat(2000);
    assert_eq!(first.cmd(&["SET", "k", &long]), Value::ok());
    let before = resident();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    let gets = vec![["GET", "k"]; 10];
    for client in &mut clients {
        assert_eq!(client.pipeline(&gets), vec![Value::bulk(&long); 10]);
    }
    eventually(SOON, || (resident() - before) / (CLIENTS as f64) < MOST_EACH);
    println!("{:.0} bytes for each of {CLIENTS} idle clients", (resident() - before) / CLIENTS as f64);
    drop(clients);
    eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
}

#[test]
fn ten_thousand_subscribers_of_one_channel_cost_little_and_one_connection() {
    slotmux::server::raise_open_files();
    let cluster = TestCluster::primaries(3);
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2", "--max-clients", "10001"]).start();
    let resident = || proxy.metric("process_resident_memory_bytes");
    let mut publisher = proxy.connect();
    assert_eq!(publisher.cmd(&["PUBLISH", "news", "nobody"]), Value::Int(0));
    let before = resident();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["SUBSCRIBE", "news"]).items()[2], Value::Int(1));
    }
    for text in ["short".to_owned(), "long".repeat(5_000)] {
        assert_eq!(publisher.cmd(&["PUBLISH", "news", &text]), Value::Int(CLIENTS as i64));
        for client in &mut clients {
            assert_eq!(client.read_value(), Value::bulks(&["message", "news", &text]));
        }
    }
    let each = || (resident() - before) / CLIENTS as f64;
    eventually(SOON, || each() < MOST_EACH);
    println!("{:.0} bytes for each of {CLIENTS} subscribers", each());
    // For either worker one for commands and one that listens, and one for the topology.
    let connections = |node: usize| {
        let list = cluster.client(node).cmd(&["CLIENT", "LIST"]).text();
        let own: Vec<String> =
            list.lines().filter(|line| line.contains(" name=slotmux")).map(str::to_owned).collect();
        (own.len(), own.iter().filter(|line| line.contains(" sub=1 ")).count())
    };
    let home = cluster.owner_of(support::slot_of("news"));
    assert!((0..3).all(|node| connections(node).0 <= 5));
    assert_eq!((0..3).map(connections).map(|(_, subscribed)| subscribed).sum::<usize>(), 2);
    assert_eq!(connections(home).1, 2);
    drop(clients);
    eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
    eventually(SOON, || connections(home).1 == 0);
    assert_eq!(proxy.metric("slotmux_memory_bytes{owner=\"messages\"}"), 0.0);
}

#[test]
fn what_clients_are_subscribed_to_counts_and_who_has_most_goes_first() {
    const NAMES: usize = 20_000;
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2", "--max-memory", "64MiB"]).start();
    let kept = || proxy.metric("slotmux_memory_bytes{owner=\"subscriptions\"}");
    let subscribe = |who: usize, count: usize| {
        let mut client = proxy.connect();
        let names = (0..count).map(|i| format!("{who}:{i:0200}"));
        let words: Vec<String> = std::iter::once("SUBSCRIBE".to_owned()).chain(names).collect();
        client.send(&words);
        client
    };
    let mut modest = subscribe(0, 100);
    modest.read_values(100);
    let mut clients: Vec<Client> = (1..3).map(|who| subscribe(who, NAMES)).collect();
    clients.iter_mut().for_each(|client| drop(client.read_values(NAMES)));
    assert!(kept() > 2.0 * 200.0 * NAMES as f64);
    // Together they are more than may be kept.
    let closed = || proxy.metric("slotmux_clients_closed_total{reason=\"max_memory\"}");
    assert_eq!(closed(), 0.0);
    clients.extend((3..7).map(|who| subscribe(who, NAMES)));
    eventually(SOON, || closed() >= 1.0 && kept() < (64 << 20) as f64);
    assert_eq!(proxy.connect().cmd(&["PUBLISH", &format!("0:{:0200}", 7), "x"]), Value::Int(1));
    assert_eq!(modest.read_value().items()[2], Value::bulk("x"));
    drop((modest, clients));
    eventually(SOON, || kept() == 0.0);
}

#[test]
fn tables_of_topics_shrink_after_many_have_left() {
    const NAMES: usize = 100_000;
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let resident = || proxy.metric("process_resident_memory_bytes");
    let words: Vec<String> =
        std::iter::once("SUBSCRIBE".to_owned()).chain((0..NAMES).map(|i| format!("{i:0100}"))).collect();
    assert_eq!(proxy.connect().cmd(&["SET", "k", "v"]), Value::ok());
    let before = resident();
    let mut client = proxy.connect();
    client.send(&words);
    client.read_values(NAMES);
    let each = (resident() - before) / NAMES as f64;
    let kept = proxy.metric("slotmux_memory_bytes{owner=\"subscriptions\"}") / NAMES as f64;
    println!("{each:.0} bytes for each of {NAMES} subscriptions, of which {kept:.0} are in the account");
    client.reset();
    eventually(SOON, || resident() <= before + 20e6);
}

#[test]
fn large_values_in_both_directions_leave_nothing_behind() {
    const VALUE: usize = 100_000_000;
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let resident = || proxy.metric("process_resident_memory_bytes");
    assert_eq!(proxy.connect().cmd(&["SET", "k", "v"]), Value::ok());
    let (before, value) = (resident(), vec![b'v'; VALUE]);
    // The connections stay: nothing is given back by their end.
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    let mut most = 0.0f64;
    for client in &mut clients {
        assert_eq!(client.cmd(&[&b"SET"[..], b"large", &value]), Value::ok());
        client.send(&["GET", "large"]);
        client.read_exact_raw("$100000000\r\n".len());
        most = most.max(resident());
        assert!(client.read_exact_raw(VALUE + 2).starts_with(b"vvvv"));
    }
    let begun = Instant::now();
    eventually(Duration::from_secs(5), || resident() <= 1.2 * before + 10e6);
    println!(
        "{:.0} MB before, {:.0} MB at most, {:.0} MB after {:.1?}",
        before / 1e6,
        most / 1e6,
        resident() / 1e6,
        begun.elapsed()
    );
}

#[test]
fn a_client_that_never_reads_holds_what_its_bounds_say_and_not_twice_that() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", "k", &"v".repeat(4096)]), Value::ok());
    let resident = || proxy.metric("process_resident_memory_bytes");
    let before = resident();
    let block = support::encode(&["GET", "k"]).repeat(1000);
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    while client.stream().write_all(&block).is_ok() {}
    // `input_hard` and `output_soft`, and what is in flight.
    let grown = resident() - before;
    println!("{:.0} MB more than before", grown / 1e6);
    // The debug build's allocator pads.
    assert!(grown > 64e6 && grown < 90e6, "{:.0} MB more than before", grown / 1e6);
    client.reset();
    eventually(SOON, || resident() <= 1.2 * before + 10e6);
}

#[test]
fn a_client_that_reads_more_slowly_than_it_asks_costs_no_more_than_its_bounds() {
    const VALUE: usize = 4096;
    const READS: usize = 20_000;
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", "k", &"v".repeat(VALUE)]), Value::ok());
    let resident = || proxy.metric("process_resident_memory_bytes");
    let (before, mut most) = (resident(), 0.0f64);
    let mut writer = client.stream().try_clone().unwrap();
    let get = support::encode(&["GET", "k"]);
    thread::spawn(move || {
        for _ in 0..READS {
            writer.write_all(&get).unwrap();
        }
    });
    let reply = VALUE + "$4096\r\n\r\n".len();
    for _ in 0..READS / 20 {
        client.read_exact_raw(20 * reply);
        // All that may be forwarded before more is read has been answered.
        eventually(SOON, || proxy.metric("slotmux_in_flight_requests") == 0.0);
        most = most.max(resident());
    }
    // Unread replies up to `output_soft`, twice that where a buffer grows, and what is in flight.
    assert!(most - before < 24e6, "{:.0} MB more than before", (most - before) / 1e6);
}
