//! What `/metrics` shows: right values, and labels that nobody can forge.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use slotmux::command::{Family, NAMES};
use slotmux::metrics::{DECLARED, Per};
use support::{
    Action, Client, Gate, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, sum, tag_of,
};

const LOW: u16 = 100;
const HIGH: u16 = 16_000;

fn key(slot: u16, name: &str) -> String {
    format!("{{{}}}{name}", tag_of(slot))
}

fn proxy(cluster: &ScriptedCluster) -> Proxy {
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    for slot in [LOW, HIGH] {
        assert_eq!(client.cmd(&["GET", &key(slot, "warm")]), Value::NullBulk);
    }
    proxy
}

/// How many commands of clients a node has received.
fn received(cluster: &ScriptedCluster, node: usize) -> f64 {
    cluster.commands().iter().filter(|command| command.node == node).count() as f64
}

fn phase(proxy: &Proxy, phase: &str) -> f64 {
    proxy.metric(&format!("slotmux_request_phase_seconds_total{{phase=\"{phase}\"}}"))
}

#[test]
fn requests_and_errors_are_counted_by_command() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok()));
    let client = &mut clients[0];
    let script =
        |text: &str| vec!["EVAL".to_owned(), format!("return redis.error_reply('{text}')"), "0".to_owned()];
    for wrong in [
        vec!["LPUSH".to_owned(), "k".to_owned(), "x".to_owned()],
        vec!["HGET".to_owned(), "k".to_owned(), "x".to_owned()],
        vec!["hget".to_owned(), "k".to_owned(), "y".to_owned()],
        script("OOM of its own"),
        script("FORGED\" 1"),
        vec!["GET".to_owned()],
        vec!["MSET".to_owned(), "k".to_owned()],
        vec!["MSETNX".to_owned(), "a".to_owned(), "1".to_owned(), "b".to_owned(), "2".to_owned()],
        vec!["CONFIG".to_owned(), "NOSUCH".to_owned()],
        vec!["SYNC".to_owned()],
        vec!["SELECT".to_owned(), "seven".to_owned()],
        vec!["AUTH".to_owned(), "nobody".to_owned(), "x".to_owned()],
        vec!["FORGED\"} 1\nforged_total{command=\"get".to_owned()],
    ] {
        assert!(client.cmd(&wrong).is_error(), "{wrong:?}");
    }
    let page = proxy.metrics();
    for (row, count) in [
        ("requests_total{command=\"set\"}", 4.0),
        ("requests_total{command=\"hget\"}", 2.0),
        ("requests_total{command=\"mset\"}", 1.0),
        ("requests_total{command=\"other\"}", 1.0),
        ("requests_total", 17.0),
        ("server_errors_total{command=\"lpush\",code=\"wrongtype\"}", 1.0),
        ("server_errors_total{command=\"hget\",code=\"wrongtype\"}", 2.0),
        ("server_errors_total{command=\"eval\",code=\"oom\"}", 1.0),
        ("server_errors_total{command=\"eval\",code=\"other\"}", 1.0),
        ("server_errors_total", 5.0),
        ("errors_total{command=\"get\",kind=\"wrong_arity\"}", 1.0),
        ("errors_total{command=\"mset\",kind=\"wrong_arity\"}", 1.0),
        ("errors_total{command=\"msetnx\",kind=\"crossslot\"}", 1.0),
        ("errors_total{command=\"config\",kind=\"unknown_command\"}", 1.0),
        ("errors_total{command=\"sync\",kind=\"refused\"}", 1.0),
        ("errors_total{command=\"select\",kind=\"bad_argument\"}", 1.0),
        ("errors_total{command=\"auth\",kind=\"wrongpass\"}", 1.0),
        ("errors_total{command=\"other\",kind=\"unknown_command\"}", 1.0),
        ("errors_total", 8.0),
        ("request_duration_seconds_count", 16.0),
        ("request_duration_seconds_count{family=\"hash\"}", 2.0),
    ] {
        assert_eq!(sum(&page, &format!("slotmux_{row}")), count, "{row} in\n{page}");
    }
    assert!(!page.to_lowercase().contains("forged"), "{page}");
}

#[test]
fn an_error_is_the_proxys_or_a_nodes_also_where_a_task_carries_the_command_out() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds())
        .args(&["--workers", "1", "--admin-commands", "--command-deadline", "2s"])
        .start();
    eventually(SOON, || proxy.get("/readyz").0 == 200);
    let mut client = proxy.connect();
    let low = key(LOW, "k");
    assert_eq!(client.cmd(&["SET", &low, "v"]), Value::ok());
    let fail = |client: &mut Client, commands: &[&[&str]]| {
        for command in commands {
            assert!(client.cmd(command).is_error(), "{command:?}");
        }
    };
    fail(&mut client, &[&["BLPOP", &low, "1"], &["CONFIG", "SET", "maxmemory-samples", "x"]]);
    fail(&mut client, &[&["SCAN", "0", "COUNT", "x"], &["SCAN", "x"]]);
    cluster.kill9(cluster.owner_of(LOW));
    fail(&mut client, &[&["BLPOP", &low, "0"], &["WATCH", &low], &["RANDOMKEY"]]);
    let page = proxy.metrics();
    for (metric, expected) in [
        ("server_errors_total{command=\"blpop\",code=\"wrongtype\"}", 1.0),
        ("server_errors_total{command=\"config set\"}", 1.0),
        ("server_errors_total{command=\"scan\"}", 1.0),
        ("server_errors_total", 3.0),
        ("errors_total{command=\"scan\",kind=\"bad_argument\"}", 1.0),
        ("errors_total{command=\"blpop\",kind=\"clusterdown\"}", 1.0),
        ("errors_total{command=\"watch\",kind=\"clusterdown\"}", 1.0),
        ("errors_total{command=\"randomkey\",kind=\"clusterdown\"}", 1.0),
        ("errors_total", 4.0),
    ] {
        assert_eq!(sum(&page, &format!("slotmux_{metric}")), expected, "{metric}\n{page}");
    }
}

#[test]
fn a_nodes_time_is_from_the_write_to_the_reply_and_counts_requests_only() {
    let cluster = ScriptedCluster::start(2);
    let proxy = proxy(&cluster);
    let rows = [0, 1].map(|node| format!("{{cluster=\"default\",node=\"{}\"}}", cluster.node(node).addr()));
    let of = |what: &str, node: usize| proxy.metric(&format!("slotmux_node_{what}{}", rows[node]));
    let (before, redirect) =
        ((of("duration_seconds_sum", 0), phase(&proxy, "node")), phase(&proxy, "redirect"));
    cluster.node(0).script(|_, args| match &*args[0] {
        b"GET" => Action::Default.delayed(Duration::from_millis(50)),
        _ => Action::Default,
    });
    // Asked for one after the other, so the last waits for all: 50 + 100 + … + 400 ms.
    let reads: Vec<[String; 2]> = (0..8).map(|i| ["GET".to_owned(), key(LOW, &i.to_string())]).collect();
    let began = Instant::now();
    proxy.connect().pipeline(&reads);
    let all = began.elapsed().as_secs_f64();
    let (sum, phased) = (of("duration_seconds_sum", 0) - before.0, phase(&proxy, "node") - before.1);
    assert!(sum >= 36.0 * 0.05 && sum <= 8.0 * all, "{sum} s of {all} s");
    assert!((sum - phased).abs() < 0.001, "{sum} {phased}");
    let longest = of("duration_max_seconds", 0);
    assert!(longest >= 0.4 && longest <= all, "{longest} s of {all} s");
    assert!(of("duration_max_seconds", 1) < 0.4);
    assert_eq!(phase(&proxy, "redirect"), redirect);

    // ASKING is no request, and what is sent again is one more.
    let replays = proxy.metric("slotmux_replays_total");
    cluster.node(0).script(|_, args| match (&*args[0], args.len()) {
        (b"SET", _) => Action::error("TRYAGAIN Multiple keys request during rehashing of slot"),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    client.send(&["SET", &key(LOW, "t"), "1"]);
    eventually(SOON, || proxy.metric("slotmux_redirects_total{kind=\"tryagain\"}") >= 2.0);
    cluster.edit(|topology| topology.open(LOW, 1));
    let ask = format!("ASK {LOW} {}", cluster.node(1).addr());
    cluster.node(0).script(move |_, args| match &*args[0] {
        b"SET" => Action::error(&ask),
        _ => Action::Default,
    });
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"ask\"}"), 1.0);
    assert_eq!(cluster.count("ASKING"), 1);
    for node in [0, 1] {
        assert_eq!(of("duration_seconds_count", node), received(&cluster, node), "node {node}");
        assert_eq!((of("in_flight_requests", node), of("queued_bytes", node)), (0.0, 0.0));
        assert!(of("read_bytes_total", node) > 10.0 && of("written_bytes_total", node) > 30.0);
    }
    let redirects = proxy.metric("slotmux_redirects_total");
    assert_eq!(redirects, proxy.metric("slotmux_replays_total") - replays, "each was sent once more");
}

#[test]
fn a_node_that_does_not_read_lets_requests_queue() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    let before = phase(&proxy, "queue");
    cluster.stop(0);
    // More than the sockets' own buffers hold.
    let value = "v".repeat(1_000_000);
    let writers: Vec<_> = (0..14)
        .map(|_| {
            let (mut client, bytes) = (proxy.connect(), support::encode(&["SET", "k", &value]));
            std::thread::spawn(move || {
                client.send_raw(&bytes);
                client.read_value()
            })
        })
        .collect();
    eventually(SOON, || proxy.metric("slotmux_node_in_flight_requests") == 14.0);
    let queued = Instant::now();
    assert!(proxy.metric("slotmux_node_queued_bytes") > 14_000_000.0);
    eventually(SOON, || queued.elapsed() > Duration::from_millis(400));
    cluster.cont(0);
    writers.into_iter().for_each(|writer| assert_eq!(writer.join().unwrap(), Value::ok()));
    let waited = phase(&proxy, "queue") - before;
    // Large commands wait for a connection of their own, too, for up to connect_timeout.
    assert!(waited >= 0.4 && waited < 14.0 * queued.elapsed().as_secs_f64() + 14.0 * 3.0, "{waited} s");
    assert!(proxy.metric("slotmux_node_duration_max_seconds") >= 0.4);
    assert_eq!(proxy.metric("slotmux_node_queued_bytes"), 0.0);
}

#[test]
fn what_is_held_counts_as_redirected_for_as_long_as_it_is() {
    let cluster = ScriptedCluster::start(2);
    let proxy = proxy(&cluster);
    let gate = Gate::new();
    let open = gate.clone();
    cluster.node(0).script(move |_, _| match open.is_open() {
        true => Action::Default,
        false => Action::error("CLUSTERDOWN Hash slot not served"),
    });
    let (redirect, node) = (phase(&proxy, "redirect"), phase(&proxy, "node"));
    let mut clients: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&["SET", &key(LOW, "a"), "1"]));
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 2.0);
    let held = Instant::now();
    eventually(SOON, || held.elapsed() > Duration::from_secs(2));
    eventually(SOON, || proxy.metric("slotmux_held_bytes") > 60.0);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_value(), Value::ok()));
    let (redirect, node) = (phase(&proxy, "redirect") - redirect, phase(&proxy, "node") - node);
    // Nearly all of it: asking once more takes well below a millisecond.
    assert!(redirect > 0.5 && redirect > 3.0 * node, "{redirect} s, {node} s on the node");
    assert!(proxy.metric("slotmux_redirects_total{kind=\"clusterdown\"}") >= 4.0);
    assert_eq!(proxy.metric("slotmux_held_requests"), 0.0);
}

#[test]
fn links_and_dials_are_those_of_their_node_whose_rows_go_with_it() {
    let cluster = ScriptedCluster::start(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
    let read = |clients: &mut Vec<Client>, slot: u16| {
        clients
            .iter_mut()
            .for_each(|client| assert_eq!(client.cmd(&["GET", &key(slot, "a")]), Value::NullBulk));
    };
    read(&mut clients, LOW);
    read(&mut clients, HIGH);
    let node = |what: &str, node: usize, more: &str| {
        proxy.metric(&format!("slotmux_node_{what}{{node=\"{}\"{more}}}", cluster.node(node).addr()))
    };
    assert_eq!(
        (node("links", 0, ",state=\"up\""), node("dials_total", 0, "")),
        (2.0, 2.0),
        "one for each worker"
    );
    assert_eq!((node("links", 1, ",state=\"up\""), node("dials_total", 1, "")), (0.0, 0.0), "on first use");
    cluster.node(0).down();
    eventually(SOON, || node("links_lost_total", 0, "") == 2.0);
    clients[0].send(&["GET", &key(LOW, "a")]);
    eventually(SOON, || node("dial_failures_total", 0, ",kind=\"refused\"") >= 2.0);
    assert_eq!((node("dial_failures_total", 2, ""), node("links_lost_total", 2, "")), (0.0, 0.0));
    assert!(node("dials_total", 0, "") >= 4.0 && phase(&proxy, "redirect") > 0.0);
    assert_eq!((node("links", 0, ",state=\"up\""), node("links", 2, ",state=\"up\"")), (0.0, 2.0));

    // Its slots go to the last node, and it to nobody knows where.
    cluster.edit(|topology| {
        topology.assign(0..=8000, 2);
        topology.nodes[0].hidden = true;
    });
    assert_eq!(clients[0].read_value(), Value::NullBulk);
    let row = format!("node=\"{}\"", cluster.node(0).addr());
    eventually(SOON, || !proxy.metrics().contains(&row));
    assert!(proxy.metrics().contains(&cluster.node(2).addr()));
}

#[test]
fn the_topologys_age_and_the_causes_of_refreshes_are_shown() {
    let cluster = ScriptedCluster::start(2);
    let proxy = proxy(&cluster);
    let cause = |cause: &str| {
        proxy.metric(&format!(
            "slotmux_topology_refresh_causes_total{{cluster=\"default\",cause=\"{cause}\"}}"
        ))
    };
    let age = || proxy.metric("slotmux_topology_age_seconds{cluster=\"default\"}");
    assert!(cause("start") >= 1.0 && cause("redirect") == 0.0);
    assert_eq!(proxy.metric("slotmux_shards"), 2.0);
    for node in cluster.nodes() {
        node.control(|_, args| if args[0] == b"CLUSTER" { Action::Silent } else { Action::Default });
    }
    // A wish for another cause may have come first.
    let mut slots = LOW..8_000;
    let mut client = proxy.connect();
    eventually(SOON, || {
        let slot = slots.next().unwrap();
        cluster.edit(|topology| topology.assign(slot..=slot, 1));
        assert_eq!(client.cmd(&["SET", &key(slot, "a"), "1"]), Value::ok());
        cause("redirect") >= 1.0
    });
    eventually(SOON, || proxy.metric("slotmux_topology_refreshes_total{outcome=\"failed\"}") >= 1.0);
    assert!(age() >= 1.9, "{}", age());
    for node in cluster.nodes() {
        node.control(|_, _| Action::Default);
    }
    eventually(SOON, || age() < 1.0);
    assert!(proxy.metric("slotmux_topology_version") >= 2.0);
}

#[test]
fn two_clusters_are_told_apart() {
    let (one, two) = (ScriptedCluster::start(1), ScriptedCluster::start(2));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.yaml");
    let text = format!(
        "admin: 127.0.0.1:0\nworkers: 1\nclusters:\n  one: {{ seeds: [\"{}\"] }}\n  two: {{ seeds: [\"{}\"] }}\n\
         listeners:\n  - {{ address: \"127.0.0.1:0\", cluster: one }}\n  - {{ address: \"127.0.0.1:0\", cluster: two }}\n",
        one.node(0).addr(),
        two.node(0).addr()
    );
    std::fs::write(&file, text).unwrap();
    let proxy = Proxy::with(&["--config", file.to_str().unwrap()], 2).start();
    let mut client = Client::connect(&*proxy.addrs()[1]);
    assert_eq!(client.cmd(&["GET", &key(HIGH, "a")]), Value::NullBulk);
    assert_eq!(proxy.metric("slotmux_shards{cluster=\"one\"}"), 1.0);
    assert_eq!(proxy.metric("slotmux_shards{cluster=\"two\"}"), 2.0);
    assert_eq!(proxy.metric("slotmux_node_duration_seconds_count{cluster=\"one\"}"), 0.0);
    let row =
        format!("slotmux_node_duration_seconds_count{{cluster=\"two\",node=\"{}\"}}", two.node(1).addr());
    assert_eq!(proxy.metric(&row), 1.0);
}

#[test]
fn the_process_is_described() {
    let cluster = ScriptedCluster::start(1);
    let proxy = proxy(&cluster);
    let fds = proxy.metric("process_open_fds");
    let clients: Vec<Client> = (0..20).map(|_| proxy.connect()).collect();
    eventually(SOON, || proxy.metric("process_open_fds") >= fds + 15.0);
    assert!(proxy.metric("process_max_fds") > fds + 20.0);
    let cpu = proxy.metric("process_cpu_seconds_total");
    assert!(cpu > 0.0 && cpu < 1000.0, "{cpu}");
    drop(clients);
}

/// How many rows of a page are always there, and how many are declared, by what they are counted for. The others
/// must be as rare as declared.
fn always_there(page: &str, histograms: bool) -> ([usize; 3], [usize; 3]) {
    let (mut found, mut declared) = ([0; 3], [0; 3]);
    let mut rest: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
    for metric in DECLARED {
        let series = metric.series(Family::ALL.len(), NAMES.len(), histograms);
        let is_row = |line: &&str| {
            let name = line.split(['{', ' ']).next().unwrap();
            name.strip_prefix(metric.name)
                .is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let (rows, others): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(is_row);
        rest = others;
        if series.rare {
            assert!(rows.len() <= series.rows, "{}", metric.name);
            assert!(rows.iter().all(|row| !row.ends_with(" 0")), "{rows:?}");
        } else {
            found[series.per as usize] += rows.len();
            declared[series.per as usize] += series.rows;
        }
    }
    assert!(rest.is_empty(), "not declared: {rest:?}");
    (found, declared)
}

#[test]
fn there_are_as_many_series_as_the_readme_says() {
    let cluster = TestCluster::start();
    for histograms in [false, true] {
        let mut args = vec!["--workers", "2"];
        args.extend(histograms.then_some("--per-node-histograms"));
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
        for protocol in ["2", "3"] {
            let mut clients: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
            for client in &mut clients {
                client.cmd(&["HELLO", protocol]);
                for slot in [LOW, 8_000, HIGH] {
                    client.cmd(&["SET", &key(slot, "k"), "v"]);
                    client.cmd(&["LPUSH", &key(slot, "k"), "v"]);
                }
                client.cmd(&["NOSUCH"]);
            }
        }
        let page = proxy.metrics();
        let (found, mut declared) = always_there(&page, histograms);
        // The proxy sends nothing to the three replicas.
        declared[Per::Node as usize] *= 3;
        assert_eq!(found, declared, "{page}");
        let bucket = "slotmux_node_duration_seconds_bucket{cluster=\"default\",node=";
        assert_eq!(page.contains(bucket), histograms);
        let count = sum(&page, "slotmux_node_duration_seconds_count");
        assert_eq!(count, 48.0);
        assert!(!histograms || sum(&page, "slotmux_node_duration_seconds_bucket{le=\"+Inf\"}") == count);
    }
}
