//! WATCH: a changed key makes EXEC answer nil, and so does whatever might hide a change.

#![allow(clippy::unwrap_used)]

mod support;

use std::thread;

use support::{Client, Proxy, SOON, TestCluster, Value, encode, eventually, key};

const SLOT: u16 = 100;
const OTHER: u16 = 16_000;

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).args(args).start();
    (cluster, proxy)
}

/// MULTI, one command, EXEC: EXEC's reply.
#[track_caller]
fn exec(client: &mut Client, command: &[&str]) -> Value {
    let replies = client.pipeline(&[&["MULTI"][..], command, &["EXEC"]]);
    assert_eq!(replies[..2], [Value::ok(), Value::Simple("QUEUED".to_owned())]);
    replies[2].clone()
}

fn done() -> Value {
    Value::Array(vec![Value::ok()])
}

#[test]
fn a_key_that_another_client_changed_makes_exec_answer_nil() {
    let (_cluster, proxy) = start(&[]);
    let (name, second) = (key(SLOT, "k"), key(SLOT, "second"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    for (protocol, nil) in [("2", Value::NullArray), ("3", Value::Null)] {
        client.cmd(&["HELLO", protocol]);
        assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &name, "1"]), done(), "nobody changed it");
        assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
        assert_eq!(other.cmd(&["SET", &name, "2"]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &name, "3"]), nil);
        assert_eq!(exec(&mut client, &["SET", &name, "4"]), done(), "EXEC has ended the watch");
        // A second key on the same connection; the client's own change counts too.
        assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
        assert_eq!(client.cmd(&["WATCH", &second, &name]), Value::ok());
        assert_eq!(client.cmd(&["SET", &second, "1"]), Value::ok());
        assert_eq!(client.pipeline(&[["MULTI"], ["EXEC"]]), [Value::ok(), nil.clone()]);
        assert_eq!(client.pipeline(&[["MULTI"], ["EXEC"]]), [Value::ok(), Value::Array(Vec::new())]);
        for end in [&[&["UNWATCH"][..]][..], &[&["MULTI"], &["DISCARD"]]] {
            assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
            assert_eq!(other.cmd(&["SET", &name, "5"]), Value::ok());
            assert!(client.pipeline(end).iter().all(|reply| *reply == Value::ok()));
            assert_eq!(exec(&mut client, &["SET", &name, "6"]), done());
        }
    }
}

#[test]
fn what_the_proxy_answers_takes_its_place_in_a_watched_transaction() {
    let (_cluster, proxy) = start(&[]);
    let (name, mut client) = (key(SLOT, "k"), proxy.connect());
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    let replies =
        client.pipeline(&[&["MULTI"][..], &["PING"], &["SET", &name, "1"], &["ECHO", "e"], &["EXEC"]]);
    let expected = vec![Value::Simple("PONG".to_owned()), Value::ok(), Value::bulk("e")];
    assert_eq!(replies[4], Value::Array(expected));
    client.cmd(&["WATCH", &name]);
    client.cmd(&["SET", &name, "2"]);
    assert_eq!(client.pipeline(&[["MULTI"], ["PING"], ["EXEC"]])[2], Value::NullArray);
}

#[test]
fn keys_of_several_slots_get_a_clear_error() {
    let (_cluster, proxy) = start(&["--cross-slot-transactions", "per_slot"]);
    let (here, there, mut client) = (key(SLOT, "k"), key(OTHER, "k"), proxy.connect());
    let refused =
        Value::error("CROSSSLOT Watched keys and those of their transaction must hash to the same slot");
    assert_eq!(client.cmd(&["WATCH", &here, &there]), refused);
    assert_eq!(client.cmd(&["WATCH", &here]), Value::ok());
    assert_eq!(client.cmd(&["WATCH", &there]), refused);
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", &there, "1"], &["EXEC"]]);
    assert_eq!(replies[1], refused);
    assert!(replies[2].text().starts_with("EXECABORT "));
}

#[test]
fn a_watched_slot_that_moves_makes_exec_answer_nil() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (there, absent, mut client) = (key(SLOT, "there"), key(SLOT, "absent"), proxy.connect());
    assert_eq!(client.cmd(&["SET", &there, "1"]), Value::ok());
    for (name, (from, to)) in [(&there, (from, to)), (&absent, (to, from))] {
        assert_eq!(client.cmd(&["WATCH", name]), Value::ok());
        cluster.migrate_slot(SLOT, from, to);
        cluster.await_owner(SLOT, to);
        assert_eq!(exec(&mut client, &["SET", name, "2"]), Value::NullArray, "{name}");
        assert_eq!(client.cmd(&["WATCH", name]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", name, "3"]), done(), "{name}: at the new owner");
    }
}

#[test]
fn watching_goes_on_in_a_half_moved_slot() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (name, mut client, mut other) = (key(SLOT, "absent"), proxy.connect(), proxy.connect());
    cluster.begin_migration(SLOT, from, to);
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    assert_eq!(exec(&mut client, &["SET", &name, "1"]), done());
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    assert_eq!(other.cmd(&["SET", &name, "2"]), Value::ok());
    assert_eq!(exec(&mut client, &["SET", &name, "3"]), Value::NullArray);
    cluster.cancel_migration(SLOT, from, to);
}

#[test]
fn a_key_that_was_set_at_the_target_of_a_slot_that_opened_later_makes_exec_answer_nil() {
    let (cluster, proxy) = start(&[]);
    let (from, to) = (cluster.owner_of(SLOT), cluster.owner_of(OTHER));
    let (there, absent, other_key) = (key(SLOT, "there"), key(SLOT, "absent"), key(SLOT, "other"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    for (protocol, nil) in [("2", Value::NullArray), ("3", Value::Null)] {
        client.cmd(&["HELLO", protocol]);
        assert_eq!(client.cmd(&["SET", &there, "1"]), Value::ok());
        assert_eq!(client.cmd(&["WATCH", &absent]), Value::ok());
        assert_eq!(client.cmd(&["WATCH", &there, &absent]), Value::ok());
        cluster.begin_migration(SLOT, from, to);
        assert_eq!(other.cmd(&["SET", &absent, "theirs"]), Value::ok());
        assert_eq!(cluster.keys_in_slot(SLOT, to), [absent.as_str()]);
        assert_eq!(exec(&mut client, &["SET", &there, "2"]), nil);
        // Keys that are all still at the source say themselves whether they were changed.
        assert_eq!(client.cmd(&["WATCH", &there]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &there, "3"]), done());
        assert_eq!(client.cmd(&["WATCH", &there]), Value::ok());
        assert_eq!(other.cmd(&["SET", &there, "4"]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &there, "5"]), nil);
        // Watched at the target, and the transaction is about another key.
        assert_eq!(client.cmd(&["WATCH", &absent]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &absent, "6"]), done());
        assert_eq!(other.cmd(&["DEL", &absent]), Value::Int(1));
        cluster.cancel_migration(SLOT, from, to);
        assert_eq!(client.cmd(&["WATCH", &absent]), Value::ok());
        assert_eq!(exec(&mut client, &["SET", &other_key, "7"]), done());
        assert_eq!(client.cmd(&["DEL", &other_key, &there]), Value::Int(2));
    }
}

#[test]
fn a_client_that_sends_no_more_gets_what_it_asked_for() {
    let (cluster, proxy) = start(&["--workers", "1"]);
    let (name, owner) = (key(SLOT, "k"), cluster.owner_of(SLOT));
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    cluster.stop(owner);
    let written = proxy.metric("slotmux_node_written_bytes_total");
    let words: [&[&str]; 5] = [&["MULTI"], &["SET", &name, "1"], &["EXEC"], &["WATCH", &name], &["UNWATCH"]];
    client.send_raw(words.iter().flat_map(|words| encode(words)).collect::<Vec<u8>>());
    client.finish_sending();
    eventually(SOON, || proxy.metric("slotmux_node_written_bytes_total") > written);
    // That EXEC is on its way is seen before the end, or in the same turn: a round later the end has been, too.
    thread::sleep(std::time::Duration::from_millis(1200));
    cluster.cont(owner);
    assert_eq!(client.read_to_end_raw(), b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n+OK\r\n");
    assert_eq!(proxy.connect().cmd(&["GET", &name]), Value::bulk("1"));
}

#[test]
fn a_lost_node_makes_exec_answer_nil_and_behind_exec_the_outcome_is_unknown() {
    let cluster = TestCluster::start();
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(SLOT);
    let (name, mut early, mut late) = (key(SLOT, "k"), proxy.connect(), proxy.connect());
    for client in [&mut early, &mut late] {
        assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
    }
    cluster.stop(owner);
    let written = proxy.metric("slotmux_node_written_bytes_total");
    late.pipeline(&[&["MULTI"][..], &["SET", &name, "1"]]);
    late.send(&["EXEC"]);
    eventually(SOON, || proxy.metric("slotmux_node_written_bytes_total") > written);
    cluster.kill9(owner);
    let text = late.read_value().text();
    assert!(text.starts_with("INDOUBT "), "{text}");
    assert_eq!(exec(&mut early, &["SET", &name, "2"]), Value::NullArray);
    eventually(SOON, || early.cmd(&["WATCH", &name]) == Value::ok());
    assert_eq!(exec(&mut early, &["SET", &name, "3"]), done());
}

#[test]
fn optimistic_locking_counts_right_on_a_few_connections() {
    let (cluster, proxy) = start(&[]);
    let name = key(SLOT, "n");
    let client = |times: usize| {
        let mut client = proxy.connect();
        let mut done = 0;
        while done < times {
            assert_eq!(client.cmd(&["WATCH", &name]), Value::ok());
            let n: u64 = match client.cmd(&["GET", &name]) {
                Value::NullBulk => 0,
                value => value.text().parse().unwrap(),
            };
            if exec(&mut client, &["SET", &name, &(n + 1).to_string()]) == self::done() {
                done += 1;
            }
        }
    };
    thread::scope(|scope| (0..8).for_each(|_| _ = scope.spawn(|| client(50))));
    assert_eq!(proxy.connect().cmd(&["GET", &name]), Value::bulk("400"));
    let listed = cluster.client(cluster.owner_of(SLOT)).cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
    let links = listed.lines().filter(|line| line.contains(" name=slotmux-")).count();
    assert!(links <= 8 + 4, "connections are used again: {links}");
}
