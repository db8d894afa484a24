//! SLOWLOG: what took long, with the node that it was on.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use support::{Pair, Proxy, TestCluster, Value, in_both};

/// Some hundredths of a second, and more on a machine that has other things to do.
const SLOW: &str = "local n = 0 for i = 1, 5e6 do n = n + i end return 1";

#[test]
fn arguments_are_judged_as_by_a_server() {
    let pair = Pair::start(None);
    pair.compare_all(in_both(&[
        "SLOWLOG RESET\r\nSLOWLOG LEN",
        "SLOWLOG RESET\r\nSLOWLOG GET",
        "SLOWLOG RESET\r\nSLOWLOG GET -1",
        "SLOWLOG GET 0",
        "SLOWLOG GET x",
        "SLOWLOG GET -2",
        "SLOWLOG GET 1 2",
        "SLOWLOG LEN a",
        "SLOWLOG WHAT",
        "SLOWLOG",
    ]));
}

#[test]
fn a_slow_command_is_noted_with_its_node_and_its_client() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.cmd(&["CLIENT", "SETNAME", "me"]);
    let long = "x".repeat(200);
    let mut words = vec!["EVAL", SLOW, "1", "k", &long];
    words.resize(40, "a");
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    assert_eq!(client.cmd(&words).int(), 1);
    // Whichever worker is asked.
    let log = other.cmd(&["SLOWLOG", "GET", "-1"]);
    let entry = log.items().iter().find(|entry| entry.items()[3].items()[0] == Value::bulk("EVAL"));
    let entry = entry.expect("it is there").items().to_vec();
    assert_eq!(entry.len(), 6);
    assert!((before..before + 60).contains(&entry[1].int()), "{entry:?}");
    let (micros, args) = (entry[2].int(), entry[3].items());
    assert!(micros >= 10_000, "{entry:?}");
    assert_eq!(args.len(), 33);
    assert_eq!(args[4].text(), format!("{}... (72 more bytes)", "x".repeat(128)));
    assert_eq!(args[31].text(), "... (9 more arguments)");
    // The time on the node is nearly all of it.
    let place = args[32].text();
    let (on_node, node) = place.strip_prefix("... (").unwrap().split_once(" us on ").unwrap();
    assert!((10_000..=micros).contains(&on_node.parse::<i64>().unwrap()), "{place} of {micros}");
    assert!(cluster.seeds().iter().any(|seed| format!("{seed})") == node), "{place}");
    assert_eq!(entry[4].text(), client.local_addr().to_string());
    assert_eq!(entry[5].text(), "me");
    assert!(client.cmd(&["SLOWLOG", "LEN"]).int() >= 1);
    assert_eq!(other.cmd(&["SLOWLOG", "RESET"]), Value::ok());
    let silent = other.cmd(&["SLOWLOG", "GET", "-1"]);
    assert!(silent.items().iter().all(|entry| entry.items()[3].items()[0] != Value::bulk("EVAL")));
    assert!(proxy.metric("slotmux_bound_reached_total{bound=\"slowlog_log_slower_than\"}") >= 1.0);
}

#[test]
fn the_log_keeps_the_newest() {
    let cluster = TestCluster::primaries(3);
    let args = ["--slowlog-log-slower-than", "0s", "--slowlog-max-len", "3"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let mut client = proxy.connect();
    for i in 0..5 {
        client.cmd(&["SET", &format!("k{i}"), "v"]);
    }
    client.cmd(&["MGET", "k1", "k2", "k3", "k4"]);
    client.pipeline(&[vec!["MULTI"], vec!["SET", "a", "1"], vec!["EXEC"]]);
    let log = client.cmd(&["SLOWLOG", "GET"]);
    let of = |entry: &Value| (entry.items()[0].int(), entry.items()[3].items()[0].text().to_lowercase());
    let found: Vec<(i64, String)> = log.items().iter().map(of).collect();
    assert_eq!(found, [(6, "exec".into()), (5, "mget".into()), (4, "set".into())]);
    assert_eq!(client.cmd(&["SLOWLOG", "GET", "1"]).items().len(), 1);
    assert_eq!(client.cmd(&["SLOWLOG", "LEN"]).int(), 3);
    assert_eq!(proxy.metric("slotmux_bound_reached_total{bound=\"slowlog_max_len\"}"), 4.0);
}

#[test]
fn nothing_is_noted_where_that_is_off() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--slowlog-log-slower-than", "off"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["EVAL", SLOW, "1", "k"]).int(), 1);
    assert_eq!(client.cmd(&["SLOWLOG", "LEN"]).int(), 0);
}
