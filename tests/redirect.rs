//! MOVED and ASK: where a command goes next, and what the proxy makes of the table.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use support::{
    Action, Gate, HIGH, LOW, Proxy, SOON, ScriptedCluster, Value, encode, eventually, key, slot_of,
};

fn hang_refreshes(cluster: &ScriptedCluster) {
    for node in cluster.nodes() {
        node.control(|_, args| if args[0] == b"CLUSTER" { Action::Silent } else { Action::Default });
    }
}

fn nodes_of(cluster: &ScriptedCluster, text: &str) -> Vec<usize> {
    cluster.commands().iter().filter(|command| command.text() == text).map(|command| command.node).collect()
}

#[test]
fn a_moved_slot_is_used_at_once_without_waiting_for_a_refresh() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    hang_refreshes(&cluster);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    assert_eq!(one.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
    assert_eq!(two.cmd(&["GET", &key(LOW, "a")]), Value::bulk("1"));
    assert_eq!(nodes_of(&cluster, &format!("SET {} 1", key(LOW, "a"))), [0, 1]);
    assert_eq!(nodes_of(&cluster, &format!("GET {}", key(LOW, "a"))), [1]);
    // Only that one slot was noted.
    assert_eq!(one.cmd(&["GET", &key(LOW + 1, "a")]), Value::NullBulk);
    assert_eq!(nodes_of(&cluster, &format!("GET {}", key(LOW + 1, "a"))), [0]);
}

#[test]
fn a_large_request_is_redirected_whole() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let mut client = proxy.connect();
    for (n, slot) in [15_000, 20_000, 40_000, 100_000, 1_000_000].into_iter().zip(LOW..) {
        cluster.edit(|topology| topology.assign(slot..=slot, 1));
        let value = "v".repeat(n);
        assert_eq!(client.cmd(&["SET", &key(slot, "a"), &value]), Value::ok());
        assert_eq!(cluster.stored(&key(slot, "a")).unwrap(), value);
        assert_eq!(nodes_of(&cluster, &format!("SET {} {value}", key(slot, "a"))), [0, 1]);
    }
}

#[test]
fn a_burst_of_moved_asks_for_few_refreshes_and_keeps_the_order_of_replies() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let before = proxy.metric("slotmux_topology_refreshes_total");
    cluster.edit(|topology| topology.assign(0..=8000, 1));
    let commands: Vec<[String; 3]> =
        (0..200).map(|i| ["SET".into(), key(LOW + i, "a"), i.to_string()]).collect();
    let mut client = proxy.connect();
    assert_eq!(client.pipeline(&commands), vec![Value::ok(); 200]);
    let reads: Vec<[String; 2]> = (0..200).map(|i| ["GET".into(), key(LOW + i, "a")]).collect();
    let values: Vec<Value> = (0..200).map(|i: u16| Value::bulk(i.to_string())).collect();
    assert_eq!(client.pipeline(&reads), values);
    let refreshes = proxy.metric("slotmux_topology_refreshes_total") - before;
    // One or two on a machine that is not busy; each takes a tenth of a second at least.
    assert!(refreshes <= 20.0, "{refreshes} refreshes");
    for command in &commands {
        assert_eq!(nodes_of(&cluster, &command.join(" ")), [0, 1]);
    }
}

#[test]
fn a_node_that_is_not_known_yet_is_confirmed_by_a_refresh_first() {
    let mut cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let new = cluster.add_node(None);
    cluster.edit(|topology| {
        topology.nodes[new].hidden = true;
        topology.assign(LOW..=LOW, new);
    });
    let before = proxy.metric("slotmux_topology_refreshes_total");
    let mut client = proxy.connect();
    client.send(&["SET", &key(LOW, "a"), "1"]);
    eventually(SOON, || proxy.metric("slotmux_topology_refreshes_total") > before + 2.0);
    assert_eq!(cluster.node(new).accepted(), 0);
    cluster.edit(|topology| topology.nodes[new].hidden = false);
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(nodes_of(&cluster, &format!("SET {} 1", key(LOW, "a"))).last(), Some(&new));
}

#[test]
fn a_node_that_nobody_names_gets_no_connection_and_no_password() {
    let cluster = ScriptedCluster::start(2);
    let stranger = ScriptedCluster::start(1);
    let (moved, ask) = (
        format!("MOVED {LOW} {}", stranger.node(0).addr()),
        format!("ASK {HIGH} {}", stranger.node(0).addr()),
    );
    let builder = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1", "--command-deadline", "400ms"]);
    let proxy = builder.env("SLOTMUX_CLUSTER_PASSWORD", "secret").start();
    let mut client = proxy.connect();
    for slot in [LOW, HIGH] {
        // The first may take longer than the deadline.
        eventually(SOON, || client.cmd(&["GET", &key(slot, "warm")]) == Value::NullBulk);
    }
    let errors = (moved.clone(), ask.clone());
    cluster.script(move |conn, _| Action::error(if conn.node == 0 { &errors.0 } else { &errors.1 }));
    // At the deadline the client gets what the cluster said last.
    assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::error(&moved));
    assert_eq!(client.cmd(&["SET", &key(HIGH, "a"), "1"]), Value::error(&ask));
    assert_eq!(stranger.node(0).accepted(), 0);
    assert!(cluster.count("AUTH secret") > 0);
}

#[test]
fn moved_to_the_node_itself_opens_another_connection_to_it() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let stale = AtomicU64::new(0);
    let itself = cluster.node(0).addr();
    cluster.node(0).script(move |conn, _| {
        _ = stale.compare_exchange(0, conn.id, Ordering::Relaxed, Ordering::Relaxed);
        match stale.load(Ordering::Relaxed) == conn.id {
            true => Action::error(&format!("MOVED {LOW} {itself}")),
            false => Action::Default,
        }
    });
    let mut client = proxy.connect();
    let sets: Vec<[String; 3]> = (0..20).map(|i| ["SET".into(), key(LOW, "a"), i.to_string()]).collect();
    assert_eq!(client.pipeline(&sets), vec![Value::ok(); 20]);
    let commands = cluster.commands();
    assert_eq!(commands.len(), 40);
    assert!(commands[..20].iter().all(|command| command.conn == commands[0].conn));
    assert!(commands[20..].iter().all(|command| command.conn == commands[20].conn));
    assert_eq!(cluster.stored(&key(LOW, "a")).unwrap(), "19");
}

#[test]
fn a_connection_that_is_replaced_for_one_client_keeps_the_order_of_others() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let (first, second) = (Gate::new(), Gate::new());
    let (gates, itself) = ((first.clone(), second.clone()), cluster.node(0).addr());
    let done = AtomicBool::new(false);
    cluster.node(0).script(move |_, args| {
        if args[1] != key(LOW, "moved").as_bytes() || done.swap(true, Ordering::Relaxed) {
            return Action::Default;
        }
        // What is behind it on this connection is read only after the second gate.
        Action::Many(vec![
            Action::error(&format!("MOVED {LOW} {itself}")).after(&gates.0),
            Action::reply("").after(&gates.1),
        ])
    });
    let (mut a, mut b) = (proxy.connect(), proxy.connect());
    a.send(&["GET", &key(LOW, "moved")]);
    eventually(SOON, || cluster.commands().len() == 1);
    let read = proxy.metric("slotmux_client_read_bytes_total");
    b.send(&["SET", &key(LOW + 1, "b"), "1"]);
    eventually(SOON, || proxy.metric("slotmux_client_read_bytes_total") > read);
    first.open();
    assert_eq!(a.read_value(), Value::NullBulk);
    // Now there is a new connection, while b's first command is still on the old one.
    b.send(&["SET", &key(LOW + 1, "b"), "2"]);
    b.send(&["GET", &key(HIGH, "b")]);
    eventually(SOON, || cluster.count(&format!("GET {}", key(HIGH, "b"))) == 1);
    assert_eq!(a.cmd(&["GET", &key(LOW, "again")]), Value::NullBulk);
    second.open();
    assert_eq!(b.read_values(3), [Value::ok(), Value::ok(), Value::NullBulk]);
    assert_eq!(cluster.stored(&key(LOW + 1, "b")).unwrap(), "2");
}

#[test]
fn an_empty_host_is_the_one_that_was_asked() {
    for host in ["", "?"] {
        let cluster = ScriptedCluster::start(2);
        let proxy = cluster.proxy(&[]);
        hang_refreshes(&cluster);
        let port = cluster.node(1).port();
        let moved = format!("MOVED {LOW} {host}:{port}");
        cluster.node(0).script(move |_, _| Action::error(&moved));
        cluster.node(1).script(|_, _| Action::ok());
        assert_eq!(proxy.connect().cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
        assert_eq!(nodes_of(&cluster, &format!("SET {} 1", key(LOW, "a"))), [0, 1]);
    }
}

#[test]
fn ask_sends_asking_and_the_command_back_to_back_and_the_table_stays() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let ask = format!("ASK {LOW} {}", cluster.node(1).addr());
    cluster.edit(|topology| topology.open(LOW, 1));
    cluster.node(0).script(move |_, args| match slot_of(&args[1]) == LOW {
        true => Action::error(&ask),
        false => Action::Default,
    });
    let mut clients: Vec<_> = (0..8).map(|_| proxy.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        for n in 0..50 {
            client.send(&["SET", &key(LOW, &format!("{i}")), &n.to_string()]);
            client.send(&["SET", &key(HIGH, &format!("{i}")), &n.to_string()]);
        }
    }
    for client in &mut clients {
        assert_eq!(client.read_values(100), vec![Value::ok(); 100]);
    }
    for (i, _) in clients.iter().enumerate() {
        assert_eq!(cluster.stored(&key(LOW, &format!("{i}"))).unwrap(), "49");
    }
    let log: Vec<_> = cluster.commands().into_iter().filter(|c| slot_of(&c.args[1]) == LOW).collect();
    assert!(log.iter().all(|command| command.asking == (command.node == 1)));
    // Each was asked for at the source first: the table stays as it is.
    assert_eq!(log.iter().filter(|command| command.node == 0).count(), 400);
    assert_eq!(log.iter().filter(|command| command.node == 1).count(), 400);
    let others: Vec<_> = cluster.commands().into_iter().filter(|c| slot_of(&c.args[1]) == HIGH).collect();
    assert!(others.iter().all(|command| !command.asking));
}

#[test]
fn a_script_may_answer_with_a_redirect_of_its_own_making() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&[]);
    let other = cluster.node(2).addr();
    let answers = [
        format!("MOVED {LOW} {other}"),
        format!("MOVED {LOW} {}", cluster.node(0).addr()),
        format!("MOVED {} {other}", LOW + 1),
        format!("ASK {LOW} {other}"),
        format!("MOVED {LOW} {other} script: 0123, on @user_script:1."),
        "TRYAGAIN Multiple keys request during rehashing of slot script: 0123, on @user_script:1.".into(),
        "TRYAGAIN my own".into(),
        "CLUSTERDOWN of my own".into(),
        "READONLY as I say".into(),
    ];
    let next = Arc::new(Mutex::new(String::new()));
    let answer = next.clone();
    cluster.script(move |_, args| match args[0].as_slice() {
        b"EVAL" => Action::error(&answer.lock().unwrap()),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    for answer in answers {
        cluster.clear_log();
        next.lock().unwrap().clone_from(&answer);
        let reply = client.cmd(&["EVAL", "…", "1", &key(LOW, "a")]);
        assert_eq!(reply, Value::error(&answer));
        // It may have written: it is not repeated.
        assert_eq!(nodes_of(&cluster, &format!("EVAL … 1 {}", key(LOW, "a"))), [0], "{answer}");
        // And it does not send others to where it says.
        assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
        assert_eq!(nodes_of(&cluster, &format!("GET {}", key(LOW, "a"))), [0], "{answer}");
    }
}

#[test]
fn a_script_follows_its_slot() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    let moved = format!("MOVED {LOW} {}", cluster.node(1).addr());
    cluster.script(move |conn, _| if conn.node == 0 { Action::error(&moved) } else { Action::ok() });
    assert_eq!(proxy.connect().cmd(&["EVAL", "…", "1", &key(LOW, "a")]), Value::ok());
    assert_eq!(nodes_of(&cluster, &format!("EVAL … 1 {}", key(LOW, "a"))), [0, 1]);
}

#[test]
fn a_script_follows_its_key_out_of_an_open_slot() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&["--command-deadline", "5s"]);
    cluster.edit(|topology| topology.open(LOW, 1));
    let ask = format!("ASK {LOW} {}", cluster.node(1).addr());
    cluster.script(move |conn, _| if conn.node == 0 { Action::error(&ask) } else { Action::ok() });
    let mut client = proxy.connect();
    for _ in 0..5 {
        assert_eq!(client.cmd(&["EVAL", "…", "1", &key(LOW, "a")]), Value::ok());
    }
    // It is not confirmed anew for each call, but once in a while.
    let asked = || cluster.count("CLUSTER NODES");
    let before = asked();
    for _ in 0..50 {
        assert_eq!(client.cmd(&["EVAL", "…", "1", &key(LOW, "a")]), Value::ok());
    }
    assert!(asked() - before < 25, "{}", asked() - before);
}

#[test]
fn a_script_is_repeated_though_its_slot_is_closed_again_before_that_is_confirmed() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&[]);
    let (name, gate) = (key(LOW, "a"), Gate::new());
    cluster.edit(|topology| topology.open(LOW, 1));
    let (late, ask) = (gate.clone(), format!("ASK {LOW} {}", cluster.node(1).addr()));
    let asked = AtomicBool::new(false);
    cluster.node(0).script(move |_, args| match &*args[0] {
        b"EVAL" if asked.swap(true, Ordering::Relaxed) => Action::ok(),
        b"EVAL" => Action::error(&ask).after(&late),
        _ => Action::error(&ask),
    });
    let moved = format!("MOVED {LOW} {}", cluster.node(0).addr());
    cluster.node(1).script(move |_, args| match &*args[0] {
        b"EVAL" => Action::error(&moved),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["GET", &name]), Value::NullBulk);
    let eval = ["EVAL", "…", "1", &name];
    client.send(&eval);
    eventually(SOON, || cluster.count(&eval.join(" ")) > 0);
    // What the node said more than a second before confirms nothing.
    thread::sleep(Duration::from_millis(1_200));
    cluster.edit(|topology| topology.nodes.iter_mut().for_each(|node| node.migrating.clear()));
    cluster.edit(|topology| topology.nodes.iter_mut().for_each(|node| node.importing.clear()));
    gate.open();
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(nodes_of(&cluster, &eval.join(" ")), [0, 1, 0]);
}

#[test]
fn a_script_waits_while_the_source_alone_has_heard_that_its_slot_has_moved() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&[]);
    cluster.edit(|topology| topology.open(HIGH, 1));
    // What older tools do: they tell the nodes one by one, in any order.
    let mut told = cluster.topology();
    told.owners[usize::from(HIGH)] = Some(1);
    told.nodes[2].migrating.clear();
    cluster.set_view(2, Some(told));
    let moved = format!("MOVED {HIGH} {}", cluster.node(1).addr());
    cluster.script(move |conn, _| if conn.node == 2 { Action::error(&moved) } else { Action::ok() });
    let (mut client, eval) = (proxy.connect(), ["EVAL", "…", "1", &key(HIGH, "a")]);
    let before = cluster.count("CLUSTER NODES");
    client.send(&eval);
    eventually(SOON, || cluster.count("CLUSTER NODES") > before + 8);
    cluster.edit(|topology| topology.assign(HIGH..=HIGH, 1));
    cluster.set_view(2, None);
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(nodes_of(&cluster, &eval.join(" ")), [2, 1]);
}

#[test]
fn what_a_script_says_sends_no_other_command_astray() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    hang_refreshes(&cluster);
    let moved = format!("MOVED {LOW} {}", cluster.node(1).addr());
    cluster.script(move |_, args| match args[0].as_slice() {
        b"EVAL" => Action::error(&moved),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    client.send(&["EVAL", "…", "1", &key(LOW, "a")]);
    eventually(SOON, || proxy.metric("slotmux_redirects_total") == 1.0);
    assert_eq!(proxy.connect().cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
    assert_eq!(nodes_of(&cluster, &format!("GET {}", key(LOW, "a"))), [0]);
}

#[test]
fn a_command_that_waits_to_ask_a_node_which_leaves_goes_back_to_the_owner() {
    let mut cluster = ScriptedCluster::start(3);
    let seeds = cluster.seeds();
    let leaving = cluster.add_node(None);
    let proxy = Proxy::for_seeds(&seeds).args(&["--workers", "1"]).start();
    let there = || proxy.get("/topology").1.contains(&cluster.node(leaving).addr());
    eventually(SOON, there);
    let (gate, asked) = (Gate::new(), AtomicBool::new(false));
    let (late, ask) = (gate.clone(), format!("ASK {LOW} {}", cluster.node(leaving).addr()));
    cluster.node(0).script(move |_, args| match &*args[0] {
        b"GET" => Action::Default.after(&late),
        _ if asked.swap(true, Ordering::Relaxed) => Action::Default,
        _ => Action::error(&ask),
    });
    let mut client = proxy.connect();
    // The SET is not sent again before the reply to what was sent behind it.
    let get = ["GET", &key(LOW, "b")];
    client.send_raw([encode(&["SET", &key(LOW, "a"), "1"]), encode(&get)].concat());
    eventually(SOON, || cluster.count(&get.join(" ")) > 0);
    cluster.edit(|topology| topology.nodes[leaving].hidden = true);
    let mut slots = 7000..;
    eventually(SOON, || {
        // A redirect between the others makes the proxy look.
        let slot = slots.next().unwrap();
        cluster.edit(|topology| topology.assign(slot..=slot, 2));
        assert_eq!(proxy.connect().cmd(&["SET", &key(slot, "a"), "1"]), Value::ok());
        !there()
    });
    gate.open();
    assert_eq!(client.read_values(2), [Value::ok(), Value::NullBulk]);
    assert_eq!(nodes_of(&cluster, &format!("SET {} 1", key(LOW, "a"))), [0, 0]);
}

#[test]
fn a_scripts_redirect_to_a_node_that_has_gone_since_is_confirmed_by_who_sent_it() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&[]);
    let (name, gone) = (key(LOW, "a"), cluster.node(1).addr());
    cluster.script(|_, args| if args[0] == b"EVAL" { Action::int(7) } else { Action::Default });
    let mut client = proxy.connect();
    let mut eval = || client.cmd(&["EVAL", "return 7", "1", &name]);
    assert_eq!(eval(), Value::Int(7));
    cluster.node(0).script(move |_, args| match args[0].as_slice() {
        b"EVAL" => Action::error(&format!("MOVED {LOW} {gone}")),
        _ => Action::Default,
    });
    cluster.node(1).down();
    cluster.edit(|topology| topology.assign(LOW..=LOW, 2));
    assert_eq!(eval(), Value::Int(7));
}
