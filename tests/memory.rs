//! What clients that do nothing cost.

#![allow(clippy::unwrap_used)]

mod support;

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
