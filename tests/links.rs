//! Lost, hung and refused connections: what is repeated, what is in doubt, and who does not notice.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{Action, Gate, HIGH, LOW, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, key};

fn in_doubt(cluster: &ScriptedCluster, node: usize) -> Value {
    Value::error(&format!(
        "INDOUBT the connection to node {} was lost after the command was sent; whether it was executed is \
         unknown",
        cluster.node(node).addr()
    ))
}

/// Does this once, to the first command of that name.
fn once(cluster: &ScriptedCluster, name: &'static str, action: impl Fn() -> Action + Send + 'static) {
    let mut done = false;
    cluster.node(0).script(move |_, args| match args[0] == name.as_bytes() && !done {
        true => {
            done = true;
            action()
        }
        false => Action::Default,
    });
}

#[test]
fn a_write_that_was_sent_is_in_doubt_and_never_sent_again() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let losses: [fn() -> Action; 4] = [
        || Action::CloseAfterReading,
        || Action::Reset,
        || Action::Close,
        || Action::Many(vec![Action::reply("$100\r\nhalf a"), Action::CloseAfterReading]),
    ];
    let mut client = proxy.connect();
    let other = key(LOW, "other");
    for (i, loss) in losses.into_iter().enumerate() {
        let set = ["APPEND", &key(LOW, "a"), &i.to_string()];
        once(&cluster, "APPEND", loss);
        assert_eq!(client.cmd(&set), in_doubt(&cluster, 0));
        assert_eq!(client.cmd(&["SET", &other, &i.to_string()]), Value::ok());
        assert_eq!(cluster.count(&set.join(" ")), 1);
    }
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"indoubt\"}"), 4.0);
}

#[test]
fn what_only_reads_is_asked_again_in_silence() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    cluster.store(&key(LOW, "a"), "1");
    for loss in [|| Action::CloseAfterReading, || Action::Reset, || Action::reply("$3\r\n1")] {
        once(&cluster, "GET", move || Action::Many(vec![loss(), Action::CloseAfterReading]));
        let mut client = proxy.connect();
        let (get, get_other) = (vec!["GET".into(), key(LOW, "a")], vec!["GET".into(), key(LOW + 1, "b")]);
        let replies = client.pipeline(&[get.clone(), get_other, get]);
        assert_eq!(replies, [Value::bulk("1"), Value::NullBulk, Value::bulk("1")]);
    }
}

#[test]
fn a_read_is_not_repeated_behind_a_write_that_may_have_been_executed() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    cluster.store(&key(LOW, "a"), "old");
    cluster.store(&key(LOW, "b"), "old");
    once(&cluster, "GET", || Action::CloseAfterReading);
    let (a, b) = (key(LOW, "a"), key(LOW, "b"));
    let commands: [Vec<&str>; 3] = [vec!["GET", &a], vec!["GET", &b], vec!["SET", &a, "new"]];
    let replies = proxy.connect().pipeline(&commands);
    assert!(replies[0].is_error() && !replies[0].text().starts_with("INDOUBT"), "{replies:?}");
    assert_eq!(replies[1..], [Value::bulk("old"), in_doubt(&cluster, 0)]);
    assert_eq!(cluster.count(&format!("GET {a}")), 1);
}

#[test]
fn what_was_not_sent_waits_for_the_node() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let read = proxy.metric("slotmux_node_links{state=\"up\"}");
    cluster.node(0).down();
    eventually(SOON, || proxy.metric("slotmux_node_links{state=\"up\"}") < read);
    let mut client = proxy.connect();
    let commands: Vec<[String; 3]> =
        (0..50).map(|i| ["APPEND".into(), key(LOW, "a"), format!("{i},")]).collect();
    for command in &commands {
        client.send(command);
    }
    eventually(SOON, || proxy.metric("slotmux_node_dial_failures_total") > 2.0);
    cluster.node(0).up();
    assert!(client.read_values(50).iter().all(|reply| matches!(reply, Value::Int(_))));
    let all: String = (0..50).map(|i| format!("{i},")).collect();
    assert_eq!(cluster.stored(&key(LOW, "a")).unwrap(), all);
}

#[test]
fn a_link_given_up_in_doubt_is_killed_at_the_node_before_anything_else() {
    let cluster = ScriptedCluster::start(2);
    let names: Mutex<HashMap<u64, String>> = Mutex::default();
    cluster.node(0).control(move |conn, args| {
        let word = |i: usize| args.get(i).map(|arg| String::from_utf8_lossy(arg).into_owned());
        let mut names = names.lock().unwrap();
        match (word(1).as_deref(), word(2).as_deref()) {
            (Some("SETNAME"), Some(name)) => _ = names.insert(conn.id, name.to_owned()),
            (Some("LIST"), Some("ID")) => {
                let id: u64 = word(3).unwrap().parse().unwrap();
                return Action::bulk(format!("id={id} name={} age=9\n", names[&id]));
            }
            _ => {}
        }
        Action::Default
    });
    let proxy = cluster.proxy(&["--link-timeout", "1s"]);
    let stopped = Gate::new();
    let gate = stopped.clone();
    once(&cluster, "SET", move || Action::Silent.after(&gate));
    let mut client = proxy.connect();
    let (a, begun) = (key(LOW, "a"), Instant::now());
    let replies = client.pipeline(&[["SET", &a, "1"], ["SET", &a, "2"]]);
    assert_eq!(replies, [in_doubt(&cluster, 0), in_doubt(&cluster, 0)]);
    // link_timeout and two rounds, and what a busy machine takes.
    let within = Duration::from_secs(1)..Duration::from_millis(1_500) + SOON / 4;
    assert!(within.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(client.cmd(&["SET", &a, "3"]), Value::ok());
    stopped.open();
    assert_eq!(client.cmd(&["GET", &a]), Value::bulk("3"));
    // The second one lay unread in the old connection: it must not be executed after the third.
    eventually(SOON, || cluster.node(0).open() <= 2);
    assert_eq!(cluster.count(&format!("SET {a} 2")), 0);
    let log = cluster.log();
    let old = log.iter().find(|command| command.text() == format!("SET {a} 1")).unwrap().conn;
    let new = log.iter().find(|command| command.text() == format!("SET {a} 3")).unwrap().conn;
    let texts: Vec<String> =
        log.iter().filter(|command| command.conn == new).map(support::Recorded::text).collect();
    let kill = texts.iter().position(|text| *text == format!("CLIENT KILL ID {old}")).expect("a kill");
    let first = texts.iter().position(|text| text.starts_with("SET ")).unwrap();
    assert!(kill < first, "{texts:?}");
}

#[test]
fn a_link_given_up_in_doubt_is_killed_by_the_links_that_are_there_already() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--link-timeout", "1s"]);
    let a = key(LOW, "a");
    // The node's RESP3 link is open before the RESP2 link is given up.
    let mut other = proxy.connect();
    other.cmd(&["HELLO", "3"]);
    assert_eq!(other.cmd(&["GET", &a]), Value::NullBulk);
    let stopped = Gate::new();
    let gate = stopped.clone();
    once(&cluster, "SET", move || Action::Silent.after(&gate));
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &a, "1"]), in_doubt(&cluster, 0));
    client.cmd(&["HELLO", "3"]);
    assert_eq!(client.cmd(&["SET", &a, "2"]), Value::ok());
    stopped.open();
    let log = cluster.log();
    let text = |command: &support::Recorded| command.text();
    let old = log.iter().find(|command| text(command) == format!("SET {a} 1")).unwrap().conn;
    let new = log.iter().find(|command| text(command) == format!("SET {a} 2")).unwrap().conn;
    let texts: Vec<String> = log.iter().filter(|command| command.conn == new).map(text).collect();
    let kill = texts.iter().position(|text| text.starts_with(&format!("CLIENT KILL ID {old} ADDR ")));
    let later = texts.iter().position(|text| *text == format!("SET {a} 2"));
    assert!(kill.is_some() && kill < later, "{texts:?}");
}

#[test]
fn a_healthy_link_is_not_given_up_by_a_short_timeout() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--link-timeout", "1s"]);
    cluster.node(0).script(|_, _| Action::Default.delayed(Duration::from_millis(100)));
    let mut client = proxy.connect();
    // Replies are due at most of the checks, but none for longer than a tenth of a second.
    for n in 0..40 {
        assert_eq!(client.cmd(&["SET", &key(LOW, "a"), &n.to_string()]), Value::ok());
    }
}

#[test]
fn a_proxy_that_got_no_time_does_not_blame_the_nodes() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--link-timeout", "2s"]);
    let gate = Gate::new();
    let late = gate.clone();
    cluster.node(0).script(move |_, _| Action::Default.after(&late));
    let mut client = proxy.connect();
    client.send(&["SET", &key(LOW, "a"), "1"]);
    eventually(SOON, || cluster.commands().len() == 1);
    proxy.signal("STOP");
    let stopped = Instant::now();
    eventually(SOON, || stopped.elapsed() > Duration::from_secs(4));
    proxy.signal("CONT");
    assert_eq!(proxy.connect().cmd(&["GET", &key(HIGH, "b")]), Value::NullBulk);
    gate.open();
    assert_eq!(client.read_value(), Value::ok());
}

#[test]
fn a_hung_node_that_left_the_cluster_does_not_keep_its_commands_for_ever() {
    let cluster = ScriptedCluster::start(3);
    let proxy = cluster.proxy(&["--link-timeout", "1s"]);
    let gate = Gate::new();
    let hung = gate.clone();
    cluster.node(0).script(move |_, _| Action::Silent.after(&hung));
    let mut client = proxy.connect();
    client.send(&["SET", &key(LOW, "a"), "1"]);
    eventually(SOON, || cluster.commands().len() == 1);
    let before = proxy.metric("slotmux_topology_version");
    cluster.edit(|topology| {
        topology.assign(0..=8000, 1);
        topology.nodes[0].primary = Some(1);
    });
    let mut other = proxy.connect();
    other.send(&["GET", "nobody"]);
    // Anything that asks for a refresh.
    cluster.node(2).script(|_, _| Action::error("CLUSTERDOWN The cluster is down"));
    other.send(&["GET", &key(HIGH, "x")]);
    eventually(SOON, || proxy.metric("slotmux_topology_version") > before);
    assert_eq!(client.read_value(), in_doubt(&cluster, 0));
    gate.open();
}

/// Sixty workers at ten dials a second would need six.
#[test]
fn the_workers_of_a_large_machine_do_not_wait_for_each_others_dials() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--workers", "60", "--max-connections-per-node", "400"]);
    let mut clients: Vec<_> = (0..60).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
    }
    let up = format!("slotmux_node_links{{node=\"{}\",state=\"up\"}}", cluster.node(0).addr());
    let begun = Instant::now();
    for client in &mut clients {
        client.send(&["GET", &key(LOW, "a")]);
    }
    for client in &mut clients {
        assert_eq!(client.read_value(), Value::NullBulk);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(proxy.metric(&up) >= 50.0, "{} of the workers were needed", proxy.metric(&up));
}

/// Only a link whose number at the node is known can be killed before a later write.
#[test]
fn a_link_that_was_opened_while_its_node_was_busy_introduces_itself_later() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let owner = cluster.owner_of(LOW);
    let (mut admin, mut script) = (cluster.client(owner), cluster.client(owner));
    assert_eq!(admin.cmd(&["CONFIG", "SET", "busy-reply-threshold", "10"]), Value::ok());
    script.send(&["EVAL", "while true do end", "0"]);
    eventually(SOON, || admin.cmd(&["PING"]).is_error());
    let mut client = proxy.connect();
    assert!(client.cmd(&["GET", &key(LOW, "k")]).text().starts_with("BUSY "));
    assert_eq!(admin.cmd(&["SCRIPT", "KILL"]), Value::ok());
    eventually(SOON, || {
        let listed = admin.cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
        listed.lines().any(|line| line.contains(" name=slotmux-") && !line.contains("-topology"))
    });
    assert_eq!(client.cmd(&["GET", &key(LOW, "k")]), Value::NullBulk);
}

#[test]
fn a_node_that_takes_no_connection_is_dialled_at_most_ten_times_a_second() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "10s"]);
    let dials: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = dials.clone();
    cluster.node(0).control(move |conn, args| {
        if args[1] == b"SETNAME" && conn.node == 0 {
            seen.lock().unwrap().push(Instant::now());
            return Action::Reset;
        }
        Action::Default
    });
    cluster.node(0).drop_connections();
    let mut clients: Vec<_> = (0..5).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&["GET", &key(LOW, "a")]);
    }
    eventually(SOON, || dials.lock().unwrap().len() >= 14);
    // The other node is as fast as ever.
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(proxy.connect().cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    let dials = dials.lock().unwrap().clone();
    // A dial is counted when it begins, and seen a moment later.
    let slack = Duration::from_millis(100);
    assert!(dials.windows(11).all(|w| w[10] - w[0] + slack >= Duration::from_secs(1)), "{dials:?}");
    cluster.node(0).control(|_, _| Action::Default);
    for client in &mut clients {
        assert_eq!(client.read_value(), Value::NullBulk);
    }
}

#[test]
fn a_long_dead_node_is_answered_for_at_once_until_a_probe_finds_it() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&["--command-deadline", "300ms", "--connect-timeout", "4s"]);
    let hang = Gate::new();
    let mut client = proxy.connect();
    for refused in [true, false] {
        if refused {
            cluster.node(0).down();
        } else {
            // It accepts and says nothing, as a machine that is overloaded does.
            let gate = hang.clone();
            cluster.node(0).control(move |_, _| Action::Default.after(&gate));
            cluster.node(0).drop_connections();
        }
        eventually(SOON, || client.cmd(&["GET", &key(LOW, "a")]).is_error());
        let begun = Instant::now();
        eventually(SOON, || {
            let asked = Instant::now();
            assert!(client.cmd(&["GET", &key(LOW, "a")]).text().starts_with("CLUSTERDOWN "));
            begun.elapsed() > Duration::from_millis(300) && asked.elapsed() < Duration::from_millis(100)
        });
        // Now nobody waits any more, not even while a probe is under way.
        let begun = Instant::now();
        for _ in 0..100 {
            assert!(client.cmd(&["GET", &key(LOW, "a")]).text().starts_with("CLUSTERDOWN "));
        }
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert_eq!(client.cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
        if refused {
            cluster.node(0).up();
        } else {
            hang.open();
        }
        eventually(SOON, || client.cmd(&["GET", &key(LOW, "a")]) == Value::NullBulk);
    }
}

#[test]
fn a_hung_node_slows_nobody_else() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let gate = Gate::new();
    let hung = gate.clone();
    cluster.node(0).script(move |_, _| Action::Default.after(&hung));
    let mut stuck: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut stuck {
        client.send(&["SET", &key(LOW, "a"), "1"]);
        client.send(&["SET", &key(HIGH, "b"), "1"]);
    }
    eventually(SOON, || cluster.count(&format!("SET {} 1", key(HIGH, "b"))) == 20);
    let begun = Instant::now();
    let mut client = proxy.connect();
    for _ in 0..200 {
        assert_eq!(client.cmd(&["GET", &key(HIGH, "b")]), Value::bulk("1"));
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    gate.open();
    for client in &mut stuck {
        assert_eq!(client.read_values(2), [Value::ok(), Value::ok()]);
    }
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_replies() {
    let cluster = ScriptedCluster::start(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    cluster.script(|_, _| Action::Default.delayed(Duration::from_millis(20)));
    for _ in 0..3 {
        let mut client = proxy.connect();
        let (a, b) = (key(LOW, "a"), key(HIGH, "b"));
        client.send_raw(format!("SET {a} 1\r\nSET {b} 2\r\nMGET {a} {b}\r\nPING\r\nDBSIZE"));
        client.send_raw("\r\n");
        client.finish_sending();
        let replies = String::from_utf8(client.read_to_end_raw()).unwrap();
        assert!(replies.starts_with("+OK\r\n+OK\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n+PONG\r\n"), "{replies:?}");
    }
}

#[test]
fn what_waits_for_a_moment_is_sent_for_a_client_that_closes_its_sending_side() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let mut refused = 0;
    cluster.node(0).script(move |_, _| {
        refused += 1;
        if refused > 3 {
            Action::Default
        } else {
            Action::error("TRYAGAIN Multiple keys request during rehashing")
        }
    });
    let mut client = proxy.connect();
    client.send(&["SET", &key(LOW, "a"), "1"]);
    client.send(&["GET", &key(LOW, "a")]);
    client.finish_sending();
    assert_eq!(client.read_to_end_raw(), b"+OK\r\n$1\r\n1\r\n");
}

#[test]
fn what_is_held_is_dropped_with_a_client_that_gave_up() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let gate = Gate::new();
    let open = gate.clone();
    cluster.node(0).script(move |_, _| match open.is_open() {
        true => Action::Default,
        false => Action::error("CLUSTERDOWN Hash slot not served"),
    });
    let mut client = proxy.connect();
    client.send(&["SET", &key(HIGH, "b"), "1"]);
    client.send(&["SET", &key(LOW, "a"), "1"]);
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 1.0);
    client.finish_sending();
    assert_eq!(client.read_to_end_raw(), b"+OK\r\n");
    assert_eq!(proxy.metric("slotmux_abandoned_requests_total"), 1.0);
    assert_eq!(proxy.metric("slotmux_held_requests"), 0.0);
    gate.open();
    assert_eq!(proxy.connect().cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
}

#[test]
fn clients_that_leave_in_mid_pipeline_do_not_shift_the_replies_of_others() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let mut stay: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
    for round in 0..30 {
        let mut leave: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for n in 0..10 {
            for (i, client) in leave.iter_mut().chain(&mut stay).enumerate() {
                let slot = if n % 2 == 0 { LOW } else { HIGH };
                client.send(&["SET", &key(slot, &format!("{i}")), &format!("{round}-{i}-{n}")]);
                client.send(&["GET", &key(slot, &format!("{i}"))]);
            }
        }
        for (i, client) in leave.into_iter().enumerate() {
            if i % 2 == 0 {
                client.reset();
            }
        }
        for (i, client) in stay.iter_mut().enumerate() {
            for n in 0..10 {
                let value = Value::bulk(format!("{round}-{}-{n}", i + 4));
                assert_eq!(client.read_values(2), [Value::ok(), value]);
            }
        }
    }
}
