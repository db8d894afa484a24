//! Many proxies in front of one cluster: what each of them may ask of a node stays within its rates.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{Client, ClusterOptions, Proxy, SOON, TestCluster, Value, eventually, key};

const PROXIES: usize = 50;
/// What README states: so many dials, and questions about the topology, a node gets in a second from one proxy.
const DIALS: f64 = 10.0;
const QUESTIONS: f64 = 5.0;
const SLOTS: [u16; 3] = [0, 8_000, 16_000];

/// How often a node was asked CLUSTER NODES.
fn questions(cluster: &TestCluster, node: usize) -> f64 {
    let info = cluster.client(node).cmd(&["INFO", "commandstats"]).text();
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_cluster|nodes:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn fifty_proxies_stay_polite_while_a_primary_is_down() {
    let cluster =
        TestCluster::with(ClusterOptions { node_timeout: Duration::from_secs(4), ..Default::default() });
    let proxies: Vec<Proxy> = (0..PROXIES)
        .map(|_| Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--spin", "off"]).start())
        .collect();
    let mut clients: Vec<Client> = proxies.iter().map(Proxy::connect).collect();
    let names = SLOTS.map(|slot| key(slot, "k"));
    for client in &mut clients {
        let sets = names.each_ref().map(|name| ["SET", name, "v"]);
        assert_eq!(client.pipeline(&sets), [Value::ok(), Value::ok(), Value::ok()]);
    }
    let dead = format!("slotmux_node_dials_total{{node=\"{}\"}}", cluster.node(0).addr());
    let dials = || proxies.iter().map(|proxy| proxy.metric(&dead)).fold(0.0, f64::max);
    cluster.kill9(0);
    let (begun, dialled) = (Instant::now(), dials());
    let asked: Vec<f64> = (1..6).map(|node| questions(&cluster, node)).collect();
    // What is sent from now on was not sent to the node that has ended.
    eventually(SOON, || proxies.iter().all(|proxy| proxy.metric("slotmux_node_links_lost_total") >= 1.0));
    for client in &mut clients {
        client.send(&["SET", &names[0], "w"]);
    }
    for client in &mut clients {
        assert_eq!(client.read_value(), Value::ok());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let most_dials = (dials() - dialled) / seconds;
    // The questions of this test are none of CLUSTER NODES.
    let most = (1..6).zip(asked).map(|(node, before)| (questions(&cluster, node) - before) / seconds);
    let most = most.fold(0.0, f64::max);
    println!(
        "{seconds:.1} s without the primary: at most {most_dials:.1} dials a second of a proxy to it, and {most:.0} \
         questions a second to a node from all {PROXIES}"
    );
    assert!(most_dials <= DIALS * (1.0 + 1.0 / seconds), "{most_dials}");
    assert!(most <= QUESTIONS * PROXIES as f64, "{most}");
    for client in &mut clients {
        let gets = names.each_ref().map(|name| ["GET", name]);
        assert_eq!(client.pipeline(&gets)[0], Value::bulk("w"));
    }
}
