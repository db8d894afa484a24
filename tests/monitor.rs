//! MONITOR: one stream of what all primaries execute.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::{Client, Proxy, SOON, TestCluster, Value, eventually, key};

/// Slots of the three primaries.
const SLOTS: [u16; 3] = [0, 8_000, 16_000];
const QUIET: Duration = Duration::from_millis(150);

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(args).start();
    (cluster, proxy)
}

/// How many of the cluster's connections monitor.
fn monitoring(cluster: &TestCluster) -> usize {
    let count = |node| {
        let list = cluster.client(node).cmd(&["CLIENT", "LIST"]).text();
        list.lines().filter(|line| line.contains(" flags=O")).count()
    };
    (0..3).map(count).sum()
}

/// The commands of the next lines.
#[track_caller]
fn commands(client: &mut Client, lines: usize) -> Vec<String> {
    let command = |line: Value| {
        let Value::Simple(line) = line else { panic!("{line:?}") };
        let (time, rest) = line.split_once(" [0 127.0.0.1:").unwrap();
        assert!(time.parse::<f64>().unwrap() > 1e9);
        rest.split_once("] ").unwrap().1.to_owned()
    };
    let mut commands: Vec<String> = client.read_values(lines).into_iter().map(command).collect();
    commands.sort();
    commands
}

#[test]
fn commands_of_all_clients_on_all_primaries_are_shown() {
    let (cluster, proxy) = start(&["--workers", "2"]);
    let mut writer = proxy.connect();
    for protocol in ["2", "3"] {
        let mut monitors: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
        for monitor in &mut monitors {
            monitor.cmd(&["HELLO", protocol]);
            assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
        }
        // One for each worker and primary.
        eventually(SOON, || monitoring(&cluster) == 6);
        let mut expected = Vec::new();
        for slot in SLOTS {
            let name = key(slot, "k");
            assert_eq!(writer.cmd(&["SET", &name, "a \"b\""]), Value::ok());
            expected.push(format!("\"SET\" \"{name}\" \"a \\\"b\\\"\""));
        }
        assert_eq!(writer.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
        assert!(matches!(cluster.client(0).cmd(&["CLUSTER", "INFO"]), Value::Bulk(_) | Value::Verbatim(..)));
        expected.sort();
        for monitor in &mut monitors {
            assert_eq!(commands(monitor, 3), expected);
            monitor.expect_silence(QUIET);
        }
        let [one, two, three] = &mut monitors[..] else { panic!("three") };
        // As on a server: what touches no keys goes on, and a second MONITOR has no reply.
        one.send(&["MONITOR"]);
        assert_eq!(one.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
        let refused = Value::error("ERR Replica can't interact with the keyspace");
        for words in
            [&["GET", "x"][..], &["SET", "x", "y"], &["PUBLISH", "x", "y"], &["EVAL", "return 1", "0"]]
        {
            assert_eq!(one.cmd(words), refused, "{words:?}");
        }
        assert_eq!(one.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
        assert_eq!(two.cmd(&["QUIT"]), Value::ok());
        assert_eq!(writer.cmd(&["SET", &key(SLOTS[0], "k"), "v"]), Value::ok());
        assert_eq!(commands(three, 1).len(), 1);
        assert_eq!(one.cmd(&["GET", "x"]), Value::NullBulk);
        assert_eq!(commands(three, 1), ["\"GET\" \"x\""]);
        drop(monitors);
        eventually(SOON, || monitoring(&cluster) == 0);
    }
}

#[test]
fn a_primary_that_is_added_or_takes_over_is_shown_too() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut writer, mut monitor) = (proxy.connect(), proxy.connect());
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    let primary = cluster.owner_of(SLOTS[0]);
    let replica = (primary + 3) % 6;
    cluster.failover(replica);
    let (name, mut tries) = (key(SLOTS[0], "k"), 0);
    let mut node = cluster.client(replica);
    eventually(SOON, || {
        assert_eq!(writer.cmd(&["GET", &name]), Value::NullBulk);
        tries += 1;
        node.cmd(&["CLIENT", "LIST"]).text().lines().any(|line| line.contains(" flags=O"))
    });
    assert_eq!(writer.cmd(&["SET", &name, "v"]), Value::ok());
    let wanted = format!("\"SET\" \"{name}\" \"v\"");
    while commands(&mut monitor, 1) != [wanted.clone()] {}
}

#[test]
fn a_primary_that_was_busy_is_shown_once_it_is_not() {
    let (cluster, proxy) = start(&[]);
    let (mut admin, mut script) = (cluster.client(0), cluster.client(0));
    assert_eq!(admin.cmd(&["CONFIG", "SET", "busy-reply-threshold", "10"]), Value::ok());
    script.send(&["EVAL", "while true do end", "0"]);
    eventually(SOON, || admin.cmd(&["PING"]).is_error());
    let mut watcher = proxy.connect();
    assert_eq!(watcher.cmd(&["MONITOR"]), Value::ok());
    assert_eq!(admin.cmd(&["SCRIPT", "KILL"]), Value::ok());
    eventually(SOON, || monitoring(&cluster) == 3);
}

#[test]
fn who_does_not_read_what_is_shown_is_closed() {
    let (_cluster, proxy) = start(&["--workers", "1", "--pubsub-output-hard", "256KiB"]);
    let (mut writer, mut monitor) = (proxy.connect(), proxy.connect());
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    let value = "x".repeat(100_000);
    eventually(SOON, || {
        assert_eq!(writer.cmd(&["SET", "k", &value]), Value::ok());
        proxy.metric("slotmux_clients_closed_total{reason=\"pubsub_output\"}") == 1.0
    });
    monitor.read_to_end_raw();
}

#[test]
fn who_comes_and_goes_costs_no_connection_each_time() {
    let (cluster, proxy) = start(&["--workers", "1"]);
    let dials = || proxy.metric("slotmux_node_dials_total");
    let watch = || {
        let mut monitor = proxy.connect();
        assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
        monitor.reset();
        eventually(SOON, || proxy.metric("slotmux_clients") == 0.0);
    };
    watch();
    let before = dials();
    (0..20).for_each(|_| watch());
    // On a machine that has been asleep for seconds the connections may have ended in between.
    assert!(dials() - before < 20.0, "{} dials for 20 clients", dials() - before);
    // In the end they go.
    eventually(SOON, || monitoring(&cluster) == 0);
}
