//! WAIT: how many replicas have what this client wrote, though its writes share a connection with others'.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Proxy, SOON, TestCluster, Value, eventually, eventually_some, key};

const SLOT: u16 = 100;
const OTHER: u16 = 16_000;

/// The replica of a primary.
fn replica_of(cluster: &TestCluster, primary: usize) -> usize {
    let id = cluster.node(primary).id();
    eventually_some(SOON, || {
        let view = cluster.node(primary).view().ok()?;
        let line = view.into_iter().find(|line| line.primary.as_deref() == Some(id))?;
        (0..6).find(|i| cluster.node(*i).id() == line.id)
    })
}

#[test]
fn a_healthy_replica_counts_and_a_stopped_one_does_not() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(SLOT);
    let (replica, mut client) = (replica_of(&cluster, owner), proxy.connect());
    let write = |slot| ["SET".to_owned(), key(slot, "k"), "v".to_owned()];
    eventually(SOON, || {
        client.cmd(&write(SLOT));
        client.cmd(&["WAIT", "1", "100"]) == Value::Int(1)
    });
    for _ in 0..50 {
        assert_eq!(client.cmd(&write(SLOT)), Value::ok());
        assert_eq!(client.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
    }
    cluster.stop(replica);
    assert_eq!(client.cmd(&write(SLOT)), Value::ok());
    let begun = Instant::now();
    assert_eq!(client.cmd(&["WAIT", "1", "100"]), Value::Int(0));
    assert!((Duration::from_millis(100)..Duration::from_secs(5)).contains(&begun.elapsed()));
    // Who wrote elsewhere does not wait for it; who wrote to both gets the smaller count.
    let mut elsewhere = proxy.connect();
    assert_eq!(elsewhere.cmd(&write(OTHER)), Value::ok());
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
    assert_eq!(elsewhere.cmd(&["GET", &key(SLOT, "k")]), Value::bulk("v"));
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "1000"]), Value::Int(1), "what it read does not count");
    assert_eq!(elsewhere.cmd(&write(SLOT)), Value::ok());
    assert_eq!(elsewhere.cmd(&["WAIT", "1", "50"]), Value::Int(0));
    // While it waits the replica comes back.
    client.send(&["WAIT", "1", "0"]);
    cluster.cont(replica);
    assert_eq!(client.read_value(), Value::Int(1));
}

#[test]
fn what_was_written_on_a_connection_of_the_clients_own_counts_too() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let slots = [SLOT, 8_000, OTHER];
    for slot in slots {
        let mut client = proxy.connect();
        eventually(SOON, || {
            client.cmd(&["SET", &key(slot, "k"), "v"]);
            client.cmd(&["WAIT", "1", "100"]) == Value::Int(1)
        });
    }
    for slot in slots {
        let (name, list) = (key(slot, "k"), key(slot, "list"));
        let replica = replica_of(&cluster, cluster.owner_of(slot));
        let exec = |client: &mut support::Client| {
            assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
            client.pipeline(&[&["MULTI"][..], &["SET", &name, "w"], &["EXEC"]]);
        };
        let pop = |client: &mut support::Client| {
            assert_eq!(proxy.connect().cmd(&["RPUSH", &list, "x"]), Value::Int(1));
            assert_eq!(client.cmd(&["BLPOP", &list, "1"]), Value::bulks(&[&list, "x"]));
        };
        for write in [&exec as &dyn Fn(&mut support::Client), &pop] {
            let mut client = proxy.connect();
            write(&mut client);
            assert_eq!(client.cmd(&["WAIT", "1", "2000"]), Value::Int(1));
            cluster.stop(replica);
            write(&mut client);
            assert_eq!(client.cmd(&["WAIT", "1", "50"]), Value::Int(0), "slot {slot}");
            cluster.cont(replica);
            assert_eq!(client.cmd(&["WAIT", "1", "0"]), Value::Int(1));
        }
    }
}

#[test]
fn a_healthy_cluster_answers_at_once_also_while_somebody_listens() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut monitor, mut subscriber, mut client) = (proxy.connect(), proxy.connect(), proxy.connect());
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    assert_eq!(subscriber.cmd(&["SUBSCRIBE", "c"]).items()[2], Value::Int(1));
    eventually(SOON, || client.cmd(&["WAIT", "1", "100"]) == Value::Int(1));
    let begun = Instant::now();
    for i in 0..100 {
        let mut fresh = proxy.connect();
        assert_eq!(fresh.cmd(&["WAIT", "1", "1000"]), Value::Int(1), "nothing was written");
        let here = [["SET".to_owned(), key(SLOT, "k"), i.to_string()]];
        let there = [["SET".to_owned(), key(OTHER, "k"), i.to_string()]];
        let writes = if i % 2 == 0 { here.to_vec() } else { [here, there].concat() };
        client.pipeline(&writes);
        assert_eq!(client.cmd(&["WAIT", "1", "1000"]), Value::Int(1));
        assert!(client.cmd(&["WAIT", "0", "0"]).int() <= 1);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let shown: Vec<String> = (0..100).map(|_| monitor.read_value().text()).collect();
    assert!(shown.iter().all(|line| line.contains(" [0 ")), "{shown:?}");
}

#[test]
fn who_waits_for_replicas_is_unblocked_and_in_nobodys_way() {
    let cluster = TestCluster::start();
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2", "--dedicated-per-node", "2"]).start();
    let (mut waits, mut other) = (proxy.connect(), proxy.connect());
    let id = waits.cmd(&["CLIENT", "ID"]).int().to_string();
    let unblocked = Value::error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
    for (how, reply) in [("TIMEOUT", Value::Int(1)), ("ERROR", unblocked)] {
        assert_eq!(waits.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
        eventually(SOON, || waits.cmd(&["WAIT", "1", "100"]) == Value::Int(1));
        waits.send(&["WAIT", "9", "0"]);
        let listed = |client: &mut support::Client| client.cmd(&["CLIENT", "LIST", "ID", &id]).text();
        eventually(SOON, || listed(&mut other).contains(" flags=b "));
        assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", &id, how]), Value::Int(1));
        let got = waits.read_value();
        // It may not have counted yet.
        assert!(got == reply || (how == "TIMEOUT" && got == Value::Int(0)), "{got:?}");
        assert_eq!(other.cmd(&["CLIENT", "UNBLOCK", &id, how]), Value::Int(0));
    }
    let mut many: Vec<_> = (0..50).map(|_| proxy.connect()).collect();
    for client in &mut many {
        client.pipeline(&[["SET", &key(SLOT, "k"), "v"]]);
        client.send(&["WAIT", "9", "0"]);
    }
    // The one connection for watched keys is free.
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(other.cmd(&["WATCH", &key(SLOT, "k")]), Value::ok());
        assert_eq!(other.cmd(&["UNWATCH"]), Value::ok());
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_planned_failover_shows_no_error() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (owner, mut client) = (cluster.owner_of(SLOT), proxy.connect());
    let replica = replica_of(&cluster, owner);
    assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
    client.send(&["WAIT", "9", "0"]);
    let asks = || cluster.client(owner).cmd(&["INFO", "commandstats"]).text().contains("cmdstat_wait");
    eventually(SOON, asks);
    cluster.failover(replica);
    assert_eq!(client.read_value(), Value::Int(0), "what it wrote was at a node that is a replica now");
    eventually(SOON, || {
        assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
        client.cmd(&["WAIT", "1", "100"]) == Value::Int(1)
    });
}

#[test]
fn a_new_primary_whose_replicas_have_not_found_it_yet_is_waited_for() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (owner, name) = (cluster.owner_of(SLOT), key(SLOT, "k"));
    let replica = replica_of(&cluster, owner);
    let ask_for = |i, replicas| _ = cluster.ask(i, &["CONFIG", "SET", "min-replicas-to-write", replicas]);
    (0..6).for_each(|i| ask_for(i, "1"));
    eventually(SOON, || !cluster.client(owner).cmd(&["SET", &name, "v"]).is_error());
    cluster.await_copy(replica);
    // It is given none for as long as the test looks.
    ask_for(replica, "2");
    let (mut clients, done) = ([proxy.connect(), proxy.connect()], AtomicBool::new(false));
    let write = |client: &mut support::Client| {
        while !done.load(Ordering::Relaxed) {
            assert_eq!(client.cmd(&["SET", &name, "v"]), Value::ok());
            let block = [&["MULTI"][..], &["SET", &name, "v"], &["EXEC"]];
            assert_eq!(client.pipeline(&block)[2], Value::Array(vec![Value::ok()]));
        }
    };
    thread::scope(|scope| {
        let writers = clients.each_mut().map(|client| scope.spawn(|| write(client)));
        cluster.failover(replica);
        let waits = || proxy.metric("slotmux_redirects_total{kind=\"noreplicas\"}") > 10.0;
        eventually(SOON, || waits() || writers.iter().any(|writer| writer.is_finished()));
        ask_for(replica, "1");
        done.store(true, Ordering::Relaxed);
    });
    // Where one lacks its replica for longer than a whole deadline, clients are told at once.
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--command-deadline", "2s"]).start();
    cluster.kill9(replica_of(&cluster, cluster.owner_of(OTHER)));
    let (mut client, write) = (proxy.connect(), ["SET", &key(OTHER, "k"), "v"]);
    eventually(SOON, || client.cmd(&write).is_error());
    let refused = Value::error("NOREPLICAS Not enough good replicas to write.");
    for _ in 0..5 {
        assert_eq!(client.cmd(&write), refused);
    }
    assert!(proxy.metric("slotmux_bound_reached_total{bound=\"command_deadline\"}") <= 1.0);
    assert!(proxy.metric("slotmux_server_errors_total{command=\"set\",code=\"noreplicas\"}") >= 5.0);
    // A script hears of it itself, and may have done something about it.
    let proxy = Proxy::for_seeds(&cluster.seeds()).start();
    let (mut client, mut ears) = (proxy.connect(), proxy.connect());
    let alerts = key(OTHER, "alerts");
    assert_eq!(ears.cmd(&["SUBSCRIBE", &alerts]).items()[0], Value::bulk("subscribe"));
    let script = "redis.call('PUBLISH', ARGV[1], 'refused'); return redis.pcall('SET', KEYS[1], 'v')";
    assert_eq!(client.cmd(&["EVAL", script, "1", &key(OTHER, "k"), &alerts]), refused);
    client.cmd(&["PUBLISH", &alerts, "last"]);
    let heard = ears.read_values(2);
    let texts: Vec<&Value> = heard.iter().map(|message| &message.items()[2]).collect();
    assert_eq!(texts, [&Value::bulk("refused"), &Value::bulk("last")]);
}

#[test]
fn a_stop_gives_a_wait_a_moment() {
    let cluster = TestCluster::start();
    let replica = replica_of(&cluster, cluster.owner_of(SLOT));
    // A busy machine may take longer than the second that it has.
    let is_answered = (0..5).any(|_| {
        let mut proxy = Proxy::for_seeds(&cluster.seeds()).start();
        let mut client = proxy.connect();
        cluster.stop(replica);
        assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
        client.send(&["WAIT", "1", "0"]);
        eventually(SOON, || proxy.metric("slotmux_in_flight_requests") == 1.0);
        proxy.signal("TERM");
        thread::sleep(Duration::from_millis(100));
        cluster.cont(replica);
        let reply = client.read_to_end_raw();
        assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0));
        reply == b":1\r\n"
    });
    assert!(is_answered);
}

#[test]
fn a_wait_whose_node_is_lost_answers_zero() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (owner, mut client) = (cluster.owner_of(SLOT), proxy.connect());
    assert_eq!(client.cmd(&["SET", &key(SLOT, "k"), "v"]), Value::ok());
    client.send(&["WAIT", "2", "0"]);
    let asks = || cluster.client(owner).cmd(&["INFO", "commandstats"]).text().contains("cmdstat_wait");
    eventually(SOON, asks);
    cluster.kill9(owner);
    assert_eq!(client.read_value(), Value::Int(0));
}
