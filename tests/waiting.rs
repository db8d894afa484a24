//! Waiting out what passes by itself, inside the deadline; and commands of several keys in an open slot.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{
    Action, Gate, HIGH, LOW, SOON, ScriptedCluster, Value, eventually, eventually_some, key, sum, tag_of,
};

const TRYAGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";
const PASSING: [&str; 7] = [
    TRYAGAIN,
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN The cluster is down and only accepts read commands",
    "CLUSTERDOWN Hash slot not served",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
];

#[test]
fn what_passes_by_itself_is_waited_out_in_order() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let next: Arc<Mutex<Vec<&str>>> = Arc::default();
    let errors = next.clone();
    cluster.node(0).script(move |_, _| match errors.lock().unwrap().pop() {
        Some(error) => Action::error(error),
        None => Action::Default,
    });
    let mut client = proxy.connect();
    for error in PASSING {
        *next.lock().unwrap() = vec![error; 5];
        let a = key(LOW, "a");
        let commands: Vec<Vec<&str>> =
            vec![vec!["SET", &a, "1"], vec!["APPEND", &a, "2"], vec!["APPEND", &a, "3"], vec!["GET", &a]];
        let replies = client.pipeline(&commands);
        assert_eq!(replies, [Value::ok(), Value::Int(2), Value::Int(3), Value::bulk("123")], "{error}");
    }
}

#[test]
fn at_the_deadline_the_client_gets_the_clusters_last_error_word_for_word() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "150ms"]);
    let mut client = proxy.connect();
    for error in PASSING {
        cluster.node(0).script(move |_, _| Action::error(error));
        let begun = Instant::now();
        assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::error(error));
        assert!(begun.elapsed() >= Duration::from_millis(150), "{error}");
    }
}

#[test]
fn held_commands_are_not_in_the_way_of_another_slot_of_the_same_client() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let gate = Gate::new();
    let open = gate.clone();
    let held = key(LOW, "held");
    cluster.node(0).script(move |_, args| match args[1] == held.as_bytes() && !open.is_open() {
        true => Action::error("CLUSTERDOWN Hash slot not served"),
        false => Action::Default,
    });
    let mut client = proxy.connect();
    for n in 0..10 {
        client.send(&["SET", &key(LOW, "held"), &n.to_string()]);
        client.send(&["SET", &key(LOW + 1, "other"), &n.to_string()]);
        client.send(&["SET", &key(HIGH, "other"), &n.to_string()]);
    }
    eventually(SOON, || cluster.stored(&key(LOW + 1, "other")).as_deref() == Some("9"));
    eventually(SOON, || cluster.stored(&key(HIGH, "other")).as_deref() == Some("9"));
    assert_eq!(cluster.stored(&key(LOW, "held")), None);
    // And other clients do not notice at all.
    assert_eq!(proxy.connect().cmd(&["GET", &key(LOW + 1, "other")]), Value::bulk("9"));
    gate.open();
    assert_eq!(client.read_values(30), vec![Value::ok(); 30]);
    assert_eq!(cluster.stored(&key(LOW, "held")).unwrap(), "9");
}

#[test]
fn a_slot_without_an_owner_is_waited_for_and_later_answered_at_once() {
    let cluster = ScriptedCluster::start(2);
    // Long enough for two refreshes on a busy machine.
    let proxy = cluster.proxy(&["--command-deadline", "3s"]);
    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    let mut client = proxy.connect();
    let down = Value::error("CLUSTERDOWN Hash slot not served");
    client.send(&["GET", &key(LOW, "a")]);
    eventually(SOON, || proxy.metric("slotmux_slots_uncovered") == 1.0);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    assert_eq!(client.read_value(), Value::NullBulk);

    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), down);
    eventually(SOON, || {
        let begun = Instant::now();
        (0..20).for_each(|_| assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), down));
        begun.elapsed() < Duration::from_secs(2)
    });
    // Another slot that has just lost its owner gets its whole deadline.
    cluster.edit(|topology| topology.uncover(HIGH..=HIGH));
    client.send(&["GET", &key(HIGH, "a")]);
    eventually(SOON, || proxy.metric("slotmux_slots_uncovered") == 2.0);
    cluster.edit(|topology| topology.assign(HIGH..=HIGH, 1));
    assert_eq!(client.read_value(), Value::NullBulk);
    // And the first is served again as soon as it has an owner.
    cluster.edit(|topology| topology.assign(LOW..=LOW, 0));
    eventually(SOON, || client.cmd(&["GET", &key(LOW, "a")]) == Value::NullBulk);
}

#[test]
fn what_only_waited_does_not_count_as_sent_once_more() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    let (mut sent, mut waiting) = (proxy.connect(), proxy.connect());
    sent.send(&["GET", &key(LOW, "a")]);
    eventually(SOON, || proxy.metric("slotmux_slots_uncovered") == 1.0);
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 1.0);
    waiting.send(&["GET", &key(LOW, "b")]);
    let replays = eventually_some(SOON, || {
        let page = proxy.metrics();
        (sum(&page, "slotmux_held_requests") == 2.0).then(|| sum(&page, "slotmux_replays_total"))
    });
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    assert_eq!((sent.read_value(), waiting.read_value()), (Value::NullBulk, Value::NullBulk));
    assert_eq!(proxy.metric("slotmux_replays_total"), replays + 1.0);
}

/// Plays a half-moved slot: keys whose name ends in `s` are at the source, `t` at the target, others nowhere.
fn half_moved(cluster: &ScriptedCluster) {
    let ask = format!("ASK {LOW} {}", cluster.node(1).addr());
    cluster.edit(|topology| topology.open(LOW, 1));
    cluster.script(move |conn, args| {
        let step = if args[0] == b"MSET" { 2 } else { 1 };
        let last = if args[0] == b"SET" || args[0] == b"APPEND" { 2 } else { args.len() };
        let keys: Vec<&Vec<u8>> = args[1..last].iter().step_by(step).collect();
        let here = if conn.node == 0 { b's' } else { b't' };
        let there = keys.iter().filter(|key| key.last() == Some(&here)).count();
        match (there == keys.len(), conn.node) {
            _ if !args[1].starts_with(format!("{{{}}}", tag_of(LOW)).as_bytes()) => Action::Default,
            (true, _) => Action::Default,
            (false, 0) if there == 0 => Action::error(&ask),
            (false, 1) if keys.len() == 1 => Action::Default,
            (false, _) => Action::error(TRYAGAIN),
        }
    });
}

#[test]
fn commands_of_several_keys_are_asked_key_by_key_in_a_half_moved_slot() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "5s"]);
    half_moved(&cluster);
    let k = |name: &str| key(LOW, name);
    for name in ["1s", "2t", "3s", "4t"] {
        cluster.store(&k(name), name);
    }
    let mut client = proxy.connect();
    let other = key(HIGH, "x");
    cluster.store(&other, "x");
    let mget = ["MGET", &k("2t"), &k("1s"), &k("5"), &other, &k("2t")];
    let values = [Value::bulk("2t"), Value::bulk("1s"), Value::NullBulk, Value::bulk("x"), Value::bulk("2t")];
    assert_eq!(client.cmd(&mget), Value::Array(values.to_vec()));
    for (command, replies) in [("EXISTS", [3, 3]), ("TOUCH", [3, 3]), ("DEL", [3, 0]), ("UNLINK", [0, 0])] {
        for reply in replies {
            let args = [command, &k("1s"), &k("2t"), &k("5"), &k("4t")];
            assert_eq!(client.cmd(&args), Value::Int(reply), "{command}");
        }
    }
    assert!(cluster.commands().iter().all(|command| command.args.len() != 2 || command.args[1] != b"5"));
}

#[test]
fn what_must_be_whole_waits_for_the_slot_and_is_not_torn() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "2s"]);
    half_moved(&cluster);
    let mset = ["MSET", &key(LOW, "1s"), "1", &key(LOW, "2t"), "1"];
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&mset), Value::error(TRYAGAIN));
    assert_eq!(cluster.stored(&key(LOW, "1s")), None);
    cluster.clear_log();
    client.send(&mset);
    eventually(SOON, || cluster.commands().len() > 3);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    cluster.script(|_, _| Action::Default);
    assert_eq!(client.read_value(), Value::ok());
}

#[test]
fn a_command_is_not_repeated_after_a_later_one_on_its_key_was_executed() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    half_moved(&cluster);
    let (a, b) = (key(LOW, "as"), key(LOW, "bt"));
    let mut client = proxy.connect();
    let mset = vec!["MSET", &a, "1", &b, "1"];
    let commands = [mset.clone(), vec!["SET", &a, "2"], vec!["GET", &a]];
    let replies = client.pipeline(&commands);
    let refused = "TRYAGAIN this command was not executed, and a later one of this connection on the same key was, or may \
                   have been: it is not sent again behind it";
    assert_eq!(replies, [Value::error(refused), Value::ok(), Value::bulk("2")]);
    assert_eq!(cluster.count(&mset.join(" ")), 1);
    // Now the slot is known to be open: what follows waits, and nothing has to be refused.
    client.send(&mset);
    client.send(&["APPEND", &a, "2"]);
    let other = key(LOW + 1, "x");
    client.send(&["SET", &other, "3"]);
    eventually(SOON, || cluster.stored(&other).as_deref() == Some("3"));
    eventually(SOON, || cluster.count(&mset.join(" ")) > 4);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    cluster.script(|_, _| Action::Default);
    assert_eq!(client.read_values(3), [Value::ok(), Value::Int(2), Value::ok()]);
    assert_eq!(cluster.stored(&a).unwrap(), "12");
}

#[test]
fn a_command_that_shares_no_key_with_what_was_executed_is_repeated() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    half_moved(&cluster);
    let (a, b, c) = (key(LOW, "as"), key(LOW, "bt"), key(LOW, "cs"));
    let mut client = proxy.connect();
    client.send(&["MSET", &a, "1", &b, "1"]);
    client.send(&["SET", &c, "2"]);
    eventually(SOON, || cluster.stored(&c).as_deref() == Some("2"));
    eventually(SOON, || cluster.commands().iter().filter(|command| command.args[0] == b"MSET").count() > 3);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    cluster.script(|_, _| Action::Default);
    assert_eq!(client.read_values(2), [Value::ok(), Value::ok()]);
}

#[test]
fn a_command_of_very_many_keys_in_a_half_moved_slot_holds_nobody_up() {
    const KEYS: usize = 6000;
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    half_moved(&cluster);
    let name = |i: usize| key(LOW, &format!("{i}{}", if i.is_multiple_of(2) { "t" } else { "s" }));
    let mut mget = vec!["MGET".to_owned()];
    mget.extend((0..KEYS).map(name));
    let mut client = proxy.connect();
    client.send(&mget);
    let mut other = proxy.connect();
    let mut slowest = Duration::ZERO;
    client.patience(Duration::from_millis(5));
    while client.stream().peek(&mut [0]).is_err() {
        let begun = Instant::now();
        assert_eq!(other.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
        slowest = slowest.max(begun.elapsed());
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
    client.patience(SOON);
    assert_eq!(client.read_value(), Value::Array(vec![Value::NullBulk; KEYS]));
}

#[test]
fn what_waits_for_an_owner_is_bounded_and_what_has_one_does_not_notice() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--max-held-bytes", "64KiB"]);
    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    let (lost, owned) = (key(LOW, "a"), key(HIGH, "a"));
    let mut first = proxy.connect();
    for _ in 0..70 {
        first.send(&["SET", &lost, &"v".repeat(1000)]);
    }
    eventually(SOON, || proxy.metric("slotmux_held_bytes") >= 65_536.0);
    eventually(SOON, || proxy.metric("slotmux_slots_uncovered") == 1.0);
    for client in [&mut proxy.connect(), &mut proxy.connect()] {
        client.patience(Duration::from_secs(5));
        let reply = client.cmd(&["SET", &lost, "1"]);
        assert!(reply.text().starts_with("CLUSTERDOWN "), "{reply:?}");
        assert_eq!(client.cmd(&["SET", &owned, "1"]), Value::ok());
    }
    // Nor are the first one's own commands elsewhere held up.
    first.send(&["SET", &owned, "2"]);
    eventually(SOON, || cluster.stored(&owned).as_deref() == Some("2"));
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    assert_eq!(first.read_values(71), vec![Value::ok(); 71]);
}
