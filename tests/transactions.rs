//! MULTI … EXEC through the proxy: in one piece, across redirects, and never on a neighbour's account.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{Client, Proxy, SOON, TestCluster, Value, eventually, key, slot_of};

const SLOT: u16 = 100;
const OTHER: u16 = 16_000;

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).args(args).start();
    (cluster, proxy)
}

fn queued() -> Value {
    Value::Simple("QUEUED".to_owned())
}

fn array(items: Vec<Value>) -> Value {
    Value::Array(items)
}

/// MULTI, these commands and EXEC in one pipeline: EXEC's reply.
#[track_caller]
fn exec(client: &mut Client, commands: &[&[&str]]) -> Value {
    let all: Vec<&[&str]> =
        [&["MULTI"][..]].iter().chain(commands).chain(&[&["EXEC"][..]]).copied().collect();
    let mut replies = client.pipeline(&all);
    let last = replies.pop().unwrap();
    assert_eq!(replies.remove(0), Value::ok());
    assert_eq!(replies, vec![queued(); commands.len()]);
    last
}

#[test]
fn a_moved_slots_transaction_is_executed_once_at_its_new_owner() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (list, mut client) = (key(SLOT, "list"), proxy.connect());
    let push = [&["RPUSH", &list, "x"][..], &["LLEN", &list]];
    assert_eq!(exec(&mut client, &push), array(vec![Value::Int(1), Value::Int(1)]));
    cluster.migrate_slot(SLOT, from, to);
    assert_eq!(exec(&mut client, &push), array(vec![Value::Int(2), Value::Int(2)]));
    assert_eq!(client.cmd(&["LLEN", &list]), Value::Int(2));
    assert!(proxy.metric("slotmux_redirects_total{kind=\"moved\"}") >= 1.0);
}

#[test]
fn one_asking_covers_a_transaction_in_a_half_moved_slot() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (here, there, mut client) = (key(SLOT, "here"), key(SLOT, "there"), proxy.connect());
    assert_eq!(client.cmd(&["SET", &here, "1"]), Value::ok());
    cluster.begin_migration(SLOT, from, to);
    let both = [&["INCR", &there][..], &["INCR", &there], &["GET", &there]];
    let expected = array(vec![Value::Int(1), Value::Int(2), Value::bulk("2")]);
    assert_eq!(exec(&mut client, &both), expected, "all of it at the target");
    assert_eq!(exec(&mut client, &[&["INCR", &here]]), array(vec![Value::Int(2)]), "at the source");
    // Keys on both sides: it waits until the slot has moved.
    client.send(&["MULTI"]);
    client.send(&["INCR", &here]);
    client.send(&["INCR", &there]);
    client.send(&["EXEC"]);
    assert_eq!(client.read_values(3), [Value::ok(), queued(), queued()]);
    eventually(SOON, || proxy.metric("slotmux_redirects_total{kind=\"tryagain\"}") > 0.0);
    cluster.move_keys(SLOT, from, to);
    cluster.finish_migration(SLOT, from, to);
    assert_eq!(client.read_value(), array(vec![Value::Int(3), Value::Int(3)]));
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn money_is_neither_made_nor_lost_while_slots_move() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let accounts = [key(SLOT, "a"), key(SLOT, "b")];
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["MSET", &accounts[0], "1000", &accounts[1], "1000"]), Value::ok());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = |from: usize| {
            let mut client = proxy.connect();
            let (one, other) = (&accounts[from], &accounts[1 - from]);
            let mut transfers = 0;
            while !done.load(Ordering::Relaxed) {
                let reply = exec(&mut client, &[&["DECRBY", one, "7"], &["INCRBY", other, "7"]]);
                let (one, other) = (reply.items()[0].int(), reply.items()[1].int());
                assert_eq!(one + other, 2000);
                transfers += 1;
            }
            transfers
        };
        let workers: Vec<_> = [0, 1, 0, 1].map(|from| scope.spawn(move || work(from))).into();
        for _ in 0..6 {
            for (from, to) in [(from, to), (to, from)] {
                cluster.migrate_slot(SLOT, from, to);
                // A server that gets a slot back before all know that it has left loses it.
                cluster.await_owner(SLOT, to);
            }
        }
        done.store(true, Ordering::Relaxed);
        let transfers: Vec<i32> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert!(transfers.iter().all(|transfers| *transfers > 0), "{transfers:?}");
    });
    let sum: i64 = client
        .cmd(&["MGET", &accounts[0], &accounts[1]])
        .items()
        .iter()
        .map(|v| v.text().parse::<i64>().unwrap())
        .sum();
    assert_eq!(sum, 2000);
    assert!(proxy.metric("slotmux_redirects_total") > 0.0, "nothing was redirected");
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn a_transaction_whose_node_dies_behind_exec_is_in_doubt_and_one_that_only_reads_is_repeated() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(SLOT);
    let name = key(SLOT, "k");
    let (mut writer, mut reader) = (proxy.connect(), proxy.connect());
    assert_eq!(writer.cmd(&["SET", &name, "1"]), Value::ok());
    let replicated = || cluster.client(owner).cmd(&["WAIT", "1", "100"]) == Value::Int(1);
    eventually(SOON, replicated);
    cluster.stop(owner);
    for (client, command) in [(&mut writer, "INCR"), (&mut reader, "GET")] {
        let sent = proxy.metric("slotmux_node_written_bytes_total");
        client.pipeline(&[&["MULTI"][..], &[command, &name]]);
        client.send(&["EXEC"]);
        eventually(SOON, || proxy.metric("slotmux_node_written_bytes_total") > sent);
    }
    cluster.kill9(owner);
    let text = writer.read_value().text();
    assert!(text.starts_with("INDOUBT the connection to node 127.0.0.1:"), "{text}");
    assert_eq!(reader.read_value(), array(vec![Value::bulk("1")]));
}

#[test]
fn keys_of_two_slots_are_refused_when_they_are_queued() {
    let (_cluster, proxy) = start(&[]);
    let mut client = proxy.connect();
    let replies = client.pipeline(&[
        &["MULTI"][..],
        &["SET", &key(SLOT, "a"), "1"],
        &["SET", &key(OTHER, "a"), "1"],
        &["EXEC"],
        &["EXISTS", &key(SLOT, "a"), &key(OTHER, "a")],
    ]);
    let refused = replies[2].text();
    assert!(refused.starts_with("CROSSSLOT ") && refused.contains("cross_slot_transactions"), "{refused}");
    let aborted = Value::error("EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(replies[3..], [aborted, Value::Int(0)]);
}

#[test]
fn per_slot_makes_a_transaction_for_each_slot_and_one_reply() {
    for protocol in ["2", "3"] {
        let (_cluster, proxy) = start(&["--cross-slot-transactions", "per_slot"]);
        let mut client = proxy.connect();
        client.cmd(&["HELLO", protocol]);
        let keys: Vec<String> = (0..50).map(|i| format!("k{i}")).collect();
        let mut commands: Vec<Vec<&str>> = Vec::new();
        for key in &keys {
            commands.push(vec!["SET", key, key]);
            commands.push(vec!["GET", key]);
        }
        commands.insert(7, vec!["ECHO", "between"]);
        commands.insert(0, vec!["PING"]);
        let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
        let mut expected: Vec<Value> = keys.iter().flat_map(|key| [Value::ok(), Value::bulk(key)]).collect();
        expected.insert(7, Value::bulk("between"));
        expected.insert(0, Value::Simple("PONG".to_owned()));
        assert_eq!(exec(&mut client, &commands), array(expected));
        let across = client.pipeline(&[&["MULTI"][..], &["MGET", "k1", "k2"], &["EXEC"]]);
        assert!(across[1].text().starts_with("CROSSSLOT ") && across[2].text().starts_with("EXECABORT "));
    }
}

#[test]
fn what_a_node_refuses_to_queue_aborts_with_the_nodes_reason() {
    let (cluster, proxy) = start(&[]);
    let owner = cluster.owner_of(SLOT);
    let (name, mut client) = (key(SLOT, "k"), proxy.connect());
    assert_eq!(client.cmd(&["SET", &name, "1"]), Value::ok());
    cluster.ask(owner, &["CONFIG", "SET", "maxmemory", "1"]);
    let text = exec(&mut client, &[&["GET", &name], &["SET", &name, "2"]]).text();
    let reason = "EXECABORT Transaction discarded because of: OOM command not allowed when used memory";
    assert!(text.starts_with(reason), "{text}");
    cluster.ask(owner, &["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(exec(&mut client, &[&["GET", &name]]), array(vec![Value::bulk("1")]));
}

#[test]
fn what_does_not_belong_into_a_transaction_is_refused_by_name_and_reaches_no_node() {
    let (cluster, proxy) = start(&[]);
    let (mut client, mut neighbour) = (proxy.connect(), proxy.connect());
    let name = key(SLOT, "k");
    for line in [
        "DBSIZE",
        "FLUSHALL",
        "KEYS *",
        "SCAN 0",
        "SCRIPT LOAD x",
        "HELLO 3",
        "AUTH x",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "MONITOR",
        "WAIT 1 0",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let replies = client.pipeline(&[&["MULTI"][..], &["SET", &name, "1"], &words, &["EXEC"], &["PING"]]);
        let refused = replies[2].text();
        let command = words[0].to_lowercase();
        assert!(refused.starts_with("ERR command '") && refused.contains(&command), "{line}: {refused}");
        assert!(replies[3].text().starts_with("EXECABORT "), "{line}");
        assert_eq!(replies[4], Value::Simple("PONG".to_owned()), "{line}");
        assert_eq!(neighbour.cmd(&["GET", &name]), Value::NullBulk, "{line}");
    }
    let listed = cluster.client(cluster.owner_of(SLOT)).cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
    for link in listed.lines().filter(|line| line.contains(" name=slotmux-")) {
        assert!(link.contains(" multi=-1 ") && link.contains(" flags=N "), "{link}");
    }
}

#[test]
fn a_large_transaction_is_one_piece_and_a_larger_one_is_refused() {
    let (_cluster, proxy) = start(&["--max-request", "2MiB"]);
    let (name, mut client) = (key(SLOT, "k"), proxy.connect());
    let value = "v".repeat(600_000);
    let sets: Vec<[&str; 3]> = vec![["SET", &name, &value]; 3];
    let commands: Vec<&[&str]> = sets.iter().map(<[&str; 3]>::as_slice).collect();
    assert_eq!(exec(&mut client, &commands), array(vec![Value::ok(); 3]));
    assert_eq!(client.cmd(&["STRLEN", &name]), Value::Int(600_000));
    client.send(&["MULTI"]);
    for command in commands.iter().chain(&commands) {
        client.send(command);
    }
    client.send(&["EXEC"]);
    let replies = client.read_values(8);
    assert_eq!(replies[4].text(), "ERR the transaction exceeds this proxy's max_request or max_arguments");
    assert!(replies[7].text().starts_with("EXECABORT "));
    eventually(SOON, || proxy.metric("slotmux_memory_bytes") < 1e5);
}

#[test]
fn a_transaction_keeps_its_place_among_the_clients_other_commands() {
    let (_cluster, proxy) = start(&[]);
    let mut client = proxy.connect();
    let keys = [key(SLOT, "a"), key(OTHER, "b"), key(8000, "c")];
    assert!(keys.iter().map(slot_of).all(|slot| [SLOT, OTHER, 8000].contains(&slot)));
    let (mut commands, mut expected) = (Vec::new(), Vec::new());
    for n in 1..200i64 {
        for name in &keys {
            commands.push(vec!["INCR", name]);
            expected.push(Value::Int(3 * n - 2));
            commands.extend([vec!["MULTI"], vec!["INCR", name], vec!["EXEC"]]);
            expected.extend([Value::ok(), queued(), array(vec![Value::Int(3 * n - 1)])]);
            commands.push(vec!["INCR", name]);
            expected.push(Value::Int(3 * n));
        }
        // Without keys it waits for all that came before, and holds what follows.
        let publish = ["PUBLISH", "c", "m"];
        commands.extend([vec!["MULTI"], publish.to_vec(), vec!["EXEC"]]);
        expected.extend([Value::ok(), queued(), array(vec![Value::Int(0)])]);
    }
    assert_eq!(client.pipeline(&commands), expected);
}

#[test]
fn a_script_that_the_node_lacks_is_loaded_before_the_transaction_that_calls_it() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (name, mut client) = (key(SLOT, "n"), proxy.connect());
    let sha = client.cmd(&["SCRIPT", "LOAD", "return redis.call('INCR', KEYS[1])"]).text();
    let call = ["EVALSHA", &sha, "1", &name];
    assert_eq!(exec(&mut client, &[&call]), array(vec![Value::Int(1)]));
    cluster.ask(from, &["SCRIPT", "FLUSH"]);
    assert_eq!(exec(&mut client, &[&call, &call]), array(vec![Value::Int(2), Value::Int(3)]));
    // Across ASK: the script goes before ASKING, which is for the very next command.
    cluster.ask(to, &["SCRIPT", "FLUSH"]);
    cluster.begin_migration(SLOT, from, to);
    cluster.move_keys(SLOT, from, to);
    assert_eq!(exec(&mut client, &[&call]), array(vec![Value::Int(4)]));
    cluster.finish_migration(SLOT, from, to);
    for node in [from, to] {
        cluster.ask(node, &["SCRIPT", "FLUSH"]);
    }
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    assert_eq!(exec(&mut client, &[&call]), array(vec![Value::Int(5)]));
    assert_eq!(proxy.metric("slotmux_server_errors_total"), 0.0);
}

#[test]
fn what_the_proxy_answers_itself_within_a_transaction_is_bounded() {
    let (_cluster, proxy) = start(&["--output-soft", "64KiB"]);
    let mut client = proxy.connect();
    let refused =
        "EXECABORT Transaction discarded because of: what this proxy answers itself exceeds its output_soft";
    let docs: Vec<&[&str]> = vec![&["COMMAND"]; 20];
    assert_eq!(exec(&mut client, &[&[&["SET", "k", "1"][..]], &docs[..]].concat()), Value::error(refused));
    assert_eq!(client.cmd(&["GET", "k"]), Value::NullBulk, "nothing of it was executed");
    // What is no longer than the requests is not in the way.
    let long = "v".repeat(100_000);
    let echo = ["ECHO", &*long];
    let echoes: Vec<&[&str]> = vec![&echo; 3];
    assert_eq!(exec(&mut client, &echoes), array(vec![Value::bulk(&long); 3]));
    assert_eq!(exec(&mut client, &docs[..1]).items().len(), 1);
    // Here the proxy does not ask a node for the documentation.
    let documented = exec(&mut client, &[&["COMMAND", "DOCS", "get"]]);
    let fields = Value::bulks(&["summary", "", "since", "1.0.0", "group", "string"]);
    assert_eq!(documented, array(vec![array(vec![Value::bulk("get"), fields])]));
}

#[test]
fn a_pause_of_writes_lets_a_transaction_pass_that_only_reads() {
    let (_cluster, proxy) = start(&[]);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.cmd(&["CLIENT", "PAUSE", "100000", "WRITE"]), Value::ok());
    assert_eq!(exec(&mut client, &[&["GET", "k"], &["PING"]]).items().len(), 2);
    assert_eq!(other.cmd(&["CLIENT", "UNPAUSE"]), Value::ok());
}
