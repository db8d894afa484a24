//! The cluster is administered with `redis-cli --cluster` while the proxy serves, and no client can tell.

#![allow(clippy::unwrap_used)]

mod support;

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Done, Mix, PlainServer, Proxy, TestCluster, Value, tag_of};

/// For so many seconds slots move to and fro, thousands of them under 50 clients; without it one short round is run.
const SECONDS: &str = "SLOTMUX_MOVING_SECONDS";

/// Runs `redis-cli --cluster`; what it said.
#[track_caller]
fn redis_cli(args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.arg("--cluster").args(args).output().unwrap();
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success() && !said.contains("[ERR]"), "{command:?}:\n{said}");
    said
}

/// The same when the nodes agree, which it needs, at the first node.
#[track_caller]
fn administer(cluster: &TestCluster, action: &str, args: &[&str]) -> String {
    cluster.agree();
    redis_cli(&[&[action, &*cluster.node(0).addr()], args].concat())
}

/// Tags of the first slots of each of three primaries, `n` in all: `redis-cli` moves these first.
fn tags_of_first(n: u16) -> Vec<String> {
    let firsts = [0, 16_384 / 3, 16_384 * 2 / 3].into_iter().flat_map(|first| first..first + n / 3);
    firsts.map(tag_of).collect()
}

/// Adds a new node, an empty primary unless the arguments say otherwise, and returns its number.
#[track_caller]
fn add_node(cluster: &mut TestCluster, args: &[&str]) -> usize {
    cluster.agree();
    let new = cluster.start_node();
    let (addr, known) = (cluster.node(new).addr(), cluster.node(0).addr());
    redis_cli(&[&["add-node", &addr, &known], args].concat());
    cluster.agree();
    new
}

/// Gives its slots to the others and removes it.
#[track_caller]
fn remove_node(cluster: &TestCluster, node: usize) {
    let id = cluster.node(node).id();
    administer(cluster, "rebalance", &["--cluster-weight", &format!("{id}=0")]);
    assert_eq!(slots_of(cluster, node), 0);
    administer(cluster, "del-node", &[id]);
    cluster.kill9(node);
    cluster.agree();
}

fn slots_of(cluster: &TestCluster, node: usize) -> usize {
    cluster.agree();
    let view = cluster.node(node).view().unwrap();
    view.iter().find(|line| line.is("myself")).unwrap().slot_count()
}

#[track_caller]
fn assert_unnoticed(proxy: &Proxy, done: &Done) {
    println!(
        "{} commands in {} pipelines, the slowest {:?}; {} redirects",
        done.commands,
        done.pipelines,
        done.slowest,
        proxy.metric("slotmux_redirects_total")
    );
    assert_eq!(done.refused, 0);
    assert!(proxy.metric("slotmux_redirects_total") > 0.0, "nothing was redirected");
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
    assert_eq!(proxy.metric("slotmux_server_errors_total"), 0.0);
}

#[test]
fn slots_move_to_and_fro_and_nodes_come_and_go() {
    let seconds = env::var(SECONDS).ok().map(|seconds| seconds.parse().unwrap());
    let (clients, slots) = if seconds.is_some() { (50, 4096) } else { (20, 300) };
    let length = Duration::from_secs(seconds.unwrap_or(0));
    let mut cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mix = Mix { clients, tags: tags_of_first(slots.min(1200)), conflicts: false };
    let ((), done) = mix.under(&proxy, |_| {
        let begun = Instant::now();
        let mut rounds = 0;
        while rounds == 0 || begun.elapsed() < length {
            let new = add_node(&mut cluster, &[]);
            let (to, count) = (cluster.node(new).id().to_owned(), slots.to_string());
            let there =
                ["--cluster-from", "all", "--cluster-to", &to, "--cluster-slots", &count, "--cluster-yes"];
            administer(&cluster, "reshard", &there);
            // It rounds each node's share.
            assert!(slots_of(&cluster, new) + 3 > usize::from(slots));
            remove_node(&cluster, new);
            rounds += 1;
            println!("{slots} slots were there and back {rounds} times in {:?}", begun.elapsed());
        }
    });
    assert_unnoticed(&proxy, &done);
}

#[test]
fn weights_imports_calls_and_replicas_are_not_noticed() {
    const IMPORTED: usize = 2000;
    let mut cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let other = PlainServer::start(&[]);
    let pairs: Vec<(String, String)> =
        (0..IMPORTED).map(|i| (format!("imported:{i}"), i.to_string())).collect();
    let mset: Vec<&str> =
        ["MSET"].into_iter().chain(pairs.iter().flat_map(|(key, value)| [&**key, &**value])).collect();
    assert_eq!(other.connect().cmd(&mset), Value::ok());
    let mix = Mix { clients: 20, tags: tags_of_first(300), conflicts: false };
    let ((), done) = mix.under(&proxy, |_| {
        let new = add_node(&mut cluster, &[]);
        let weight = format!("{}=0.05", cluster.node(new).id());
        administer(&cluster, "rebalance", &["--cluster-use-empty-masters", "--cluster-weight", &weight]);
        assert!((200..400).contains(&slots_of(&cluster, new)));

        let said = administer(&cluster, "call", &["DBSIZE"]);
        assert_eq!(said.matches("127.0.0.1:").count(), 4, "{said}");
        assert!(administer(&cluster, "call", &["CONFIG", "GET", "maxmemory"]).contains("maxmemory"));

        administer(&cluster, "import", &["--cluster-from", other.addr(), "--cluster-copy"]);
        let keys = pairs.iter().map(|(key, _)| &**key);
        let mget: Vec<&str> = ["MGET"].into_iter().chain(keys).collect();
        let values: Vec<&str> = pairs.iter().map(|(_, value)| &**value).collect();
        assert_eq!(proxy.connect().cmd(&mget), Value::bulks(&values));
        assert_eq!(other.connect().cmd(&["DBSIZE"]), Value::Int(IMPORTED as i64));
        remove_node(&cluster, new);

        let id = cluster.node(0).id().to_owned();
        let replica = add_node(&mut cluster, &["--cluster-slave", "--cluster-master-id", &id]);
        for promoted in [replica, 0] {
            cluster.agree();
            cluster.failover(promoted);
        }
        administer(&cluster, "del-node", &[cluster.node(replica).id()]);
        cluster.kill9(replica);
        cluster.agree();
    });
    assert_unnoticed(&proxy, &done);
}
