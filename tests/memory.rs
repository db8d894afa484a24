//! What clients that do nothing cost.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::thread;

use support::{Client, Proxy, SOON, TestCluster, Value, eventually};

const CLIENTS: usize = 1_000;
/// Measured: 1.7 KB, also with the debug build.
const MOST_EACH: f64 = 8.0 * 1024.0;

#[test]
fn idle_clients_cost_little() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let resident = || proxy.metric("process_resident_memory_bytes");
    let mut first = proxy.connect();
    assert_eq!(first.cmd(&["SET", "k", "v"]), Value::ok());
    let before = resident();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    }
    eventually(SOON, || (resident() - before) / (CLIENTS as f64) < MOST_EACH);
    println!("{:.0} bytes for each of {CLIENTS} idle clients", (resident() - before) / CLIENTS as f64);
    drop(clients);
    eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
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
