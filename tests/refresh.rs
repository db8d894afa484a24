//! Whom the refresher asks, how often, and to whom it listens.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use slotmux::backend::{DialGate, GateLimits};
use slotmux::metrics::{Cause, Metrics, Shape};
use slotmux::net::{AddressMap, NodeAddr};
use slotmux::topology::{Options, Refresh, Shared};
use support::{Action, Proxy, SOON, ScriptedCluster, Value, eventually, nobody, tag_of};

const LOW: u16 = 100;

fn key(slot: u16, name: &str) -> String {
    format!("{{{}}}{name}", tag_of(slot))
}

/// Lets a refresher run on a thread of its own for as long as the process lives.
fn refresher(options: Options) -> (Arc<Shared>, Arc<Metrics>) {
    let metrics = Metrics::new(Shape { clusters: vec!["main".into()], ..Shape::default() });
    let refresh = Refresh::new(
        options,
        DialGate::new(GateLimits { most: 100, shared: 10, dedicated: 10, dedicated_in_all: 10 }),
        metrics.clusters()[0].clone(),
    );
    let shared = refresh.shared();
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(refresh.run());
    });
    (shared, metrics)
}

fn seeds(seeds: &[String]) -> Vec<NodeAddr> {
    seeds.iter().map(|seed| seed.parse().unwrap()).collect()
}

/// When each node was asked for the topology.
fn queries(cluster: &ScriptedCluster) -> Vec<Vec<Instant>> {
    let mut queries = vec![Vec::new(); cluster.nodes().len()];
    for command in cluster.log().iter().filter(|command| command.text() == "CLUSTER NODES") {
        queries[command.node].push(command.at);
    }
    queries
}

fn assert_at_most_five_a_second(queries: &[Vec<Instant>]) {
    // A query is noted where it is read, which on a busy machine is later for one and sooner for the next. That
    // the budget is exact is a test of its own.
    for (few, least) in [(6, 850), (11, 1_850)] {
        for (node, times) in queries.iter().enumerate() {
            let lengths = times.windows(few).map(|window| window[few - 1] - window[0]);
            let shortest = lengths.min().unwrap_or(Duration::MAX);
            assert!(shortest > Duration::from_millis(least), "node {node}: {few} queries in {shortest:?}");
        }
    }
}

#[test]
fn a_storm_of_redirects_and_failing_queries_asks_no_node_more_than_five_times_a_second() {
    let cluster = ScriptedCluster::start(3);
    // One node sends everybody astray, and one refuses every second query, or ends its connection.
    cluster.node(0).script({
        let to = cluster.node(1).addr();
        move |_, args| {
            let key = String::from_utf8_lossy(&args[1]).into_owned();
            Action::error(&format!("MOVED {} {to}", support::slot_of(key)))
        }
    });
    cluster.node(1).script({
        let to = cluster.node(0).addr();
        move |_, args| {
            let key = String::from_utf8_lossy(&args[1]).into_owned();
            Action::error(&format!("MOVED {} {to}", support::slot_of(key)))
        }
    });
    let mut turn = 0;
    cluster.node(2).control(move |_, args| {
        turn += u32::from(args[0] == b"CLUSTER");
        match turn % 5 {
            1 => Action::error("LOADING Redis is loading the dataset in memory"),
            3 => Action::Close,
            _ => Action::Default,
        }
    });
    // The same nodes by other names, one that is dead, and one that is somebody else.
    let dead = nobody();
    let other = ScriptedCluster::start(1);
    let mut names: Vec<String> =
        cluster.seeds().iter().map(|seed| seed.replace("127.0.0.1", "localhost")).collect();
    names.extend([dead, other.seeds().remove(0)]);
    let proxy = Proxy::for_seeds(&names).args(&["--workers", "4", "--command-deadline", "4s"]).start();
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        (0..20).for_each(|slot| client.send(&["GET", &key(slot * 500 + i as u16, "a")]));
    }
    clients.iter_mut().for_each(|client| drop(client.read_values(20)));
    let queries = queries(&cluster);
    assert!(queries[..2].iter().all(|times| times.len() > 8), "they are asked a lot: {queries:?}");
    assert_at_most_five_a_second(&queries);
    assert_at_most_five_a_second(&self::queries(&other));
}

#[test]
fn a_cluster_that_never_answers_is_asked_no_more_often() {
    let cluster = ScriptedCluster::start(2);
    for node in cluster.nodes() {
        node.control(|_, args| match args[0] == b"CLUSTER" {
            true => Action::error("ERR This instance has cluster support disabled"),
            false => Action::Default,
        });
    }
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2", "--command-deadline", "3s"]).start();
    let mut client = proxy.connect();
    (0..50).for_each(|i| client.send(&["GET", &format!("k{i}")]));
    client.read_values(50);
    let queries = queries(&cluster);
    assert!(queries.iter().all(|times| times.len() > 3));
    assert_at_most_five_a_second(&queries);
    assert!(proxy.metric("slotmux_topology_refresh_causes_total{cause=\"start\"}") >= 1.0);
}

#[test]
fn a_seed_of_another_cluster_is_noticed_and_never_merged() {
    let (cluster, other) = (ScriptedCluster::start(2), ScriptedCluster::start(2));
    // Its epochs are higher: they must not win.
    other.edit(|topology| topology.nodes.iter_mut().for_each(|node| node.epoch += 100));
    let names = [cluster.seeds(), other.seeds()].concat();
    let proxy = Proxy::for_seeds(&names).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    for i in 0..30 {
        assert_eq!(client.cmd(&["SET", &key(i * 500, "a"), "1"]), Value::ok());
    }
    eventually(SOON, || proxy.metric("slotmux_foreign_seeds") == 2.0);
    eventually(SOON, || proxy.log().matches("a seed is a node of another cluster").count() == 2);
    for seed in other.seeds() {
        assert_eq!(proxy.log().matches(&format!("seed={seed}")).count(), 1, "{}", proxy.log());
    }
    // Not even when all of the cluster is down.
    cluster.nodes().iter().for_each(|node| node.down());
    let failed = || proxy.metric("slotmux_topology_refreshes_total{outcome=\"failed\"}");
    client.send(&["GET", &key(500, "a")]);
    eventually(SOON, || failed() >= 5.0);
    assert_eq!(proxy.metric("slotmux_topology_version"), 1.0);
    cluster.nodes().iter().for_each(|node| node.up());
    assert_eq!(client.read_value(), Value::bulk("1"));
    assert!(other.commands().is_empty());
}

#[test]
fn a_cluster_that_was_made_anew_at_the_same_addresses_is_taken_over() {
    let cluster = ScriptedCluster::start(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()[..1]).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    cluster.edit(|topology| {
        for node in &mut topology.nodes {
            node.id = node.id.replacen('0', "f", 1);
            node.epoch = 0;
        }
        topology.assign(0..=5_000, 2);
    });
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    eventually(SOON, || proxy.metric("slotmux_topology_version") == 2.0);
    assert!(proxy.log().contains("taking it over"), "{}", proxy.log());
    assert_eq!(proxy.metric("slotmux_foreign_seeds"), 0.0);
}

#[test]
fn a_seed_that_joins_another_cluster_is_not_followed_while_ones_own_answers() {
    let (own, other) = (ScriptedCluster::start(1), ScriptedCluster::start(1));
    let there = other.topology();
    // It knows nobody and has nothing: a node that was reset.
    other.edit(|topology| topology.uncover(0..=16_383));
    let names = [own.node(0).addr(), other.node(0).addr()];
    let proxy = Proxy::for_seeds(&names).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    other.edit(|topology| *topology = there);
    let asked = || proxy.metric("slotmux_topology_refreshes_total");
    let before = asked();
    eventually(SOON, || {
        // Makes it ask, again and again.
        client.cmd(&["DBSIZE"]);
        asked() > before + 20.0
    });
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    assert!(!proxy.log().contains("taking it over"), "{}", proxy.log());
}

#[test]
fn a_removed_node_has_no_say_even_as_the_first_seed() {
    let cluster = ScriptedCluster::start(3);
    // It believes that it still owns what node 0 took over from it, and that its word is the latest.
    let mut old = cluster.topology();
    old.nodes[2].epoch = 50;
    old.assign(0..=16_383, 2);
    cluster.set_view(2, Some(old));
    cluster.edit(|topology| {
        topology.assign(10_000..=16_383, 0);
        topology.nodes[2].hidden = true;
    });
    let names = [2, 0, 1].map(|i| cluster.node(i).addr());
    for names in [&names[..], &names[..1]] {
        cluster.clear_log();
        let proxy = Proxy::for_seeds(names).args(&["--workers", "1"]).start();
        let mut client = proxy.connect();
        for i in 0..30 {
            assert_eq!(client.cmd(&["SET", &key(i * 500, "a"), "1"]), Value::ok());
        }
        assert!(cluster.commands().iter().all(|command| command.node != 2));
        eventually(SOON, || proxy.metric("slotmux_foreign_seeds") == 1.0);
        assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"moved\"}"), 0.0);
    }
}

#[test]
fn a_node_in_a_minority_that_took_over_by_force_is_not_followed_while_others_are_well() {
    let mut cluster = ScriptedCluster::start(2);
    let replica = cluster.add_node(Some(0));
    let mut minority = cluster.topology();
    minority.fail_over(replica);
    minority.failed = true;
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    cluster.set_view(replica, Some(minority));
    let asked = || cluster.log().iter().filter(|c| c.node == replica && c.text() == "CLUSTER NODES").count();
    let before = asked();
    cluster.node(1).script(|_, _| Action::error("CLUSTERDOWN The cluster is down"));
    let mut other = proxy.connect();
    other.send(&["GET", &key(16_000, "a")]);
    eventually(SOON, || asked() >= before + 5);
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    assert_eq!(proxy.metric("slotmux_topology_version"), 1.0);
    // Once it is part of the majority again its epoch wins.
    cluster.set_view(replica, None);
    cluster.edit(|topology| topology.fail_over(replica));
    eventually(SOON, || proxy.metric("slotmux_topology_version") == 2.0);
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    assert_eq!(cluster.commands().last().unwrap().node, replica);
}

#[test]
fn nodes_behind_an_address_map_are_dialled_where_it_says() {
    let cluster = ScriptedCluster::start(3);
    let mut address_map = AddressMap::default();
    // One by its address, one by its host name; one by its host, with the port as it is.
    cluster.edit(|topology| {
        for (i, node) in topology.nodes.iter_mut().enumerate() {
            node.host = format!("203.0.113.{i}");
            node.hostname = Some(format!("node-{i}"));
        }
    });
    let port = |i: usize| cluster.node(i).port();
    address_map.add(&format!("203.0.113.0:{0}=localhost:{0}", port(0))).unwrap();
    address_map.add(&format!("node-1:{0}=127.0.0.1:{0}", port(1))).unwrap();
    address_map.add("203.0.113.2=127.0.0.1").unwrap();
    let (shared, _) =
        refresher(Options { seeds: seeds(&cluster.seeds()[2..]), address_map, ..Options::default() });
    let asked = |i: usize| queries(&cluster)[i].len();
    eventually(SOON, || {
        shared.ask(Cause::Uncovered, None);
        (0..3).all(|i| asked(i) > 1)
    });
    let table = shared.snapshot().unwrap().table.clone();
    for (i, dialled) in ["localhost", "127.0.0.1", "127.0.0.1"].into_iter().enumerate() {
        let dialled = NodeAddr::new(dialled, port(i));
        for name in [format!("203.0.113.{i}"), format!("node-{i}")] {
            assert_eq!(table.known.get(&NodeAddr::new(name, port(i))), Some(&dialled));
        }
        assert!(table.shard_at(&dialled).is_some());
    }
}

/// It alone looks after seeds outside of the table.
#[test]
fn the_periodic_refresh_is_made_also_while_refreshes_are_wished_for_all_the_time() {
    let cluster = ScriptedCluster::start(1);
    let (shared, metrics) = refresher(Options { seeds: seeds(&cluster.seeds()), ..Options::default() });
    eventually(4 * SOON, || {
        shared.ask(Cause::Uncovered, None);
        metrics.clusters()[0].refreshes_by_cause[Cause::Periodic.index()].value() > 0
    });
}

#[test]
fn a_refresh_is_one_query_and_further_names_are_asked_of_one_node_when_there_are_new_nodes() {
    let mut cluster = ScriptedCluster::start(3);
    let (shared, metrics) = refresher(Options { seeds: seeds(&cluster.seeds()), ..Options::default() });
    let count = |text: &str| cluster.log().iter().filter(|c| c.text() == text).count();
    let refreshed = |times: u64| {
        let count = || metrics.clusters()[0].refreshes_by_cause[Cause::Uncovered.index()].value();
        let until = count() + times;
        eventually(SOON, || {
            shared.ask(Cause::Uncovered, None);
            count() >= until
        });
    };
    refreshed(6);
    // The scripted nodes know neither: each is tried once, and then not before there are new nodes.
    assert_eq!((count("CLUSTER SHARDS"), count("CLUSTER SLOTS")), (1, 1));
    assert_eq!(shared.snapshot().unwrap().members.len(), 3);
    cluster.add_node(Some(1));
    let count = |text: &str| cluster.log().iter().filter(|c| c.text() == text).count();
    refreshed(6);
    assert_eq!((count("CLUSTER SHARDS"), count("CLUSTER SLOTS")), (1, 2));
    assert_at_most_five_a_second(&queries(&cluster));
    let snapshot = shared.snapshot().unwrap();
    let facts = snapshot.shards();
    assert_eq!((facts.len(), facts.iter().map(|facts| facts.replicas.len()).sum::<usize>()), (3, 1));
    assert_eq!(snapshot.version, 2, "a replica's address is new");
}

#[test]
fn members_are_asked_again_after_nobody_answered_whatever_became_of_the_seeds() {
    let cluster = ScriptedCluster::start(3);
    // Addresses that no node has any more; they are more than are asked at once.
    let mut seeds: Vec<String> = (0..8).map(|_| nobody()).collect();
    seeds.push(cluster.node(2).addr());
    let proxy = Proxy::for_seeds(&seeds).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    let refreshes =
        |outcome| proxy.metric(&format!("slotmux_topology_refreshes_total{{outcome=\"{outcome}\"}}"));
    cluster.edit(|topology| {
        topology.assign(10_000..=16_383, 0);
        topology.nodes[2].hidden = true;
    });
    let before = refreshes("changed");
    eventually(SOON, || refreshes("changed") > before);
    (0..3).for_each(|node| cluster.node(node).down());
    let before = refreshes("failed");
    eventually(SOON, || refreshes("failed") > before + 2.0);
    (0..2).for_each(|node| cluster.node(node).up());
    let before = refreshes("changed");
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    eventually(SOON, || refreshes("changed") > before);
}
