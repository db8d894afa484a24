//! What a hostile or broken surrounding does to the proxy: it serves on, and keeps nothing of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::{
    Action, Client, Gate, Proxy, ProxyBuilder, SOON, ScriptedCluster, TestCluster, Value, eventually, key,
    sum,
};

/// As many connections come and go, or what `CHURN` says: a hundred thousand take some minutes.
const CHURN: usize = 6_000;
const SLOW: usize = 5_000;
/// A client's own connection to a node is closed when nobody has needed it for so long.
const IDLE: Duration = Duration::from_secs(60);
/// So many connections that a proxy's clients share may be there that were not at first: each worker's to each node,
/// for commands and for topics.
const SPARE: usize = 24;
/// What the allocator may keep of what came and went.
const MORE: f64 = 16.0 * 1024.0 * 1024.0;

fn proxy(cluster: &TestCluster) -> ProxyBuilder {
    Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"])
}

/// Descriptors that a process has open.
fn descriptors(proxy: &Proxy) -> usize {
    fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count()
}

fn resident(proxy: &Proxy) -> f64 {
    proxy.metric("process_resident_memory_bytes")
}

/// Sets how many descriptors a process may have.
fn limit_descriptors(proxy: &Proxy, most: usize) {
    let pid = proxy.pid().to_string();
    let status =
        Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")]).status().unwrap();
    assert!(status.success());
}

/// Seconds of processor time that a process has used.
fn processor_seconds(proxy: &Proxy) -> f64 {
    proxy.metric("process_cpu_seconds_total")
}

fn assert_serves(client: &mut Client) {
    for slot in [0, 8_000, 16_000] {
        assert_eq!(client.cmd(&["SET", &key(slot, "k"), "v"]), Value::ok());
        assert_eq!(client.cmd(&["GET", &key(slot, "k")]), Value::bulk("v"));
    }
}

#[test]
fn when_descriptors_run_out_those_inside_are_served_and_accepting_goes_on_later() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster).start();
    let mut inside = proxy.connect();
    assert_serves(&mut inside);
    // Asking for metrics takes a descriptor, too.
    let page = TcpStream::connect(proxy.admin_addr()).unwrap();
    limit_descriptors(&proxy, descriptors(&proxy));
    let mut waiting: Vec<Client> = (0..20).map(|_| proxy.connect()).collect();
    for client in &mut waiting {
        client.send(&["PING"]);
    }
    for _ in 0..50 {
        assert_serves(&mut inside);
    }
    eventually(SOON, || proxy.log().contains("cannot accept"));
    limit_descriptors(&proxy, 1024);
    for client in &mut waiting {
        assert_eq!(client.read_value(), Value::Simple("PONG".into()));
    }
    drop(page);
    assert!(proxy.metric("slotmux_accept_errors_total") > 0.0);
    // It did not run in circles meanwhile.
    assert!(processor_seconds(&proxy) < 5.0, "{}", processor_seconds(&proxy));
}

#[test]
fn clients_that_wait_leave_descriptors_for_all_others() {
    let cluster = TestCluster::primaries(3);
    let mut limited = Command::new("prlimit");
    limited.args(["--nofile=700:700", env!("CARGO_BIN_EXE_slotmux")]);
    let proxy = Proxy::by(limited, &cluster.seeds()).args(&["--workers", "2"]).start();
    let mut inside = proxy.connect();
    assert_serves(&mut inside);
    let mut waiting: Vec<Client> = (0..200).map(|_| proxy.connect()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&["BLPOP", &key([0, 8_000, 16_000][number % 3], "list"), "0"]);
    }
    eventually(SOON, || proxy.metric("slotmux_in_flight_requests") == waiting.len() as f64);
    assert!(descriptors(&proxy) < 500, "{}", descriptors(&proxy));
    // New links find descriptors, and so do those who look.
    for node in 0..3 {
        cluster.client(node).cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    eventually(SOON, || inside.cmd(&["SET", &key(8_000, "k"), "v"]) == Value::ok());
    assert_serves(&mut inside);
}

#[test]
fn nodes_that_close_idle_connections_cost_nobody_an_error() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster).start();
    let mut client = proxy.connect();
    for node in 0..3 {
        assert_eq!(cluster.client(node).cmd(&["CONFIG", "SET", "timeout", "1"]), Value::ok());
    }
    for _ in 0..3 {
        assert_serves(&mut client);
        eventually(SOON, || proxy.metric("slotmux_node_links{state=\"up\"}") == 0.0);
    }
    assert_serves(&mut client);
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn a_full_disk_under_the_log_stops_nothing() {
    let cluster = TestCluster::start();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let proxy = proxy(&cluster).args(&["--log-level", "trace"]).log_to(full).start();
    let mut client = proxy.connect();
    assert_serves(&mut client);
    cluster.failover(3);
    assert_serves(&mut client);
    cluster.kill9(1);
    assert!(proxy.connect().cmd(&["NO", "SUCH"]).is_error());
    assert_eq!(client.cmd(&["GET", &key(16_000, "k")]), Value::bulk("v"));
    assert_eq!(proxy.stop().code(), Some(0));
}

#[test]
fn a_jumping_clock_is_not_noticed() {
    let library = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = library.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let library: PathBuf = library.into_iter().find(|path| path.exists()).expect("libfaketime is installed");
    let folder = tempfile::tempdir().unwrap();
    let (file, next) = (folder.path().join("time"), folder.path().join("next"));
    let jump = |to: &str| {
        File::create(&next).unwrap().write_all(to.as_bytes()).unwrap();
        fs::rename(&next, &file).unwrap();
    };
    jump("+0");
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster)
        .args(&["--command-timeout", "10s", "--link-timeout", "5s", "--slowlog-log-slower-than", "0s"])
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut client = proxy.connect();
    let mut subscriber = proxy.connect();
    assert_eq!(subscriber.cmd(&["SUBSCRIBE", "news"]).items()[2], Value::Int(1));
    let mut blocked = proxy.connect();
    blocked.send(&["BLPOP", "list", "0"]);
    for to in ["+10d", "-10d", "+0", "-40y", "+30y"] {
        jump(to);
        for _ in 0..20 {
            assert_serves(&mut client);
        }
        assert_eq!(client.cmd(&["PUBLISH", "news", to]), Value::Int(1));
        assert_eq!(subscriber.read_value(), Value::bulks(&["message", "news", to]));
        blocked.expect_silence(Duration::from_millis(20));
    }
    // The clock did jump.
    let noted = client.cmd(&["SLOWLOG", "GET", "1"]).items()[0].items()[1].clone();
    let thirty_years_on = SystemTime::now() + Duration::from_secs(29 * 365 * 86_400);
    let at_least = thirty_years_on.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!(matches!(noted, Value::Int(at) if at > at_least), "{noted:?}");
    assert_eq!(client.cmd(&["RPUSH", "list", "x"]), Value::Int(1));
    assert_eq!(blocked.read_value(), Value::bulks(&["list", "x"]));
    assert_eq!(proxy.metric("slotmux_node_links_lost_total") + proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn thousands_of_half_requests_keep_nobody_from_being_served() {
    slotmux::server::raise_open_files();
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster).args(&["--max-clients", "6000", "--client-timeout", "15s"]).start();
    let mut client = proxy.connect();
    assert_serves(&mut client);
    let (before, open) = (resident(&proxy), descriptors(&proxy));
    let halves = ["*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nx", "*2", "GET k", "*1000000\r\n$1\r\n"];
    let mut slow: Vec<Client> = (0..SLOW).map(|_| proxy.connect()).collect();
    for (number, client) in slow.iter_mut().enumerate() {
        client.send_raw(halves[number % halves.len()]);
    }
    eventually(SOON, || proxy.metric("slotmux_clients") == SLOW as f64 + 1.0);
    // They go on, as slowly as they can: a byte at a time.
    for _ in 0..2 {
        slow.iter_mut().for_each(|client| client.send_raw("x"));
        assert_serves(&mut client);
    }
    assert_eq!(proxy.metric("slotmux_clients"), SLOW as f64 + 1.0);
    let each = (resident(&proxy) - before) / SLOW as f64;
    assert!(each < 16.0 * 1024.0, "{each} bytes for each");
    eventually(3 * SOON, || {
        assert_serves(&mut client);
        proxy.metric("slotmux_clients") == 1.0
    });
    eventually(SOON, || descriptors(&proxy) <= open);
}

#[test]
fn clients_that_come_and_go_in_mid_pipeline_leave_nothing_behind() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster).start();
    let mut watcher = proxy.connect();
    assert_serves(&mut watcher);
    let open = descriptors(&proxy);
    let mut churn = |rounds: usize| {
        for number in 0..rounds {
            let mut client = proxy.connect();
            let (name, other) = (key((number % 16_384) as u16, "c"), key((number * 7 % 16_384) as u16, "d"));
            let mut pipeline: Vec<Vec<&str>> = vec![vec!["SET", &name, "v"]; 20];
            pipeline.extend([vec!["MGET", &name, &other], vec!["GET", &other]]);
            match number % 8 {
                0 => pipeline.push(vec!["BLPOP", "never", "0"]),
                1 => pipeline.extend([vec!["WATCH", &name], vec!["MULTI"], vec!["SET", &name, "w"]]),
                2 => pipeline.push(vec!["SUBSCRIBE", &name]),
                3 => pipeline.extend([vec!["SCAN", "0"], vec!["DBSIZE"]]),
                4 => pipeline.push(vec!["EVAL", "return redis.call('GET', KEYS[1])", "1", &name]),
                6 => pipeline.push(vec!["MONITOR"]),
                _ => (),
            }
            for command in &pipeline {
                client.send(command);
            }
            if number % 3 == 0 {
                client.send_raw("*3\r\n$3\r\nSET\r\n");
            }
            match number % 2 {
                0 => client.reset(),
                _ => drop(client),
            }
        }
        assert_serves(&mut watcher);
        eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
    };
    let connections = std::env::var("CHURN").map_or(CHURN, |text| text.parse().unwrap());
    churn(CHURN / 4);
    let before = resident(&proxy);
    churn(connections);
    // Connections of clients' own stay for a minute, to be used again.
    eventually(IDLE + SOON, || descriptors(&proxy) <= open + SPARE);
    let now = resident(&proxy);
    println!("{connections} connections: {before} bytes before, {now} after");
    assert!(now < before + MORE, "{before} to {now}");
    for gauge in ["slotmux_in_flight_requests", "slotmux_held_requests", "slotmux_waiting_for_connection"] {
        assert_eq!(proxy.metric(gauge), 0.0, "{gauge}");
    }
}

#[test]
fn clients_that_begin_to_wait_and_leave_keep_nobody_from_watching() {
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster).start();
    let mut client = proxy.connect();
    assert_serves(&mut client);
    let over = AtomicBool::new(false);
    let mut took = Vec::new();
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    flood(&proxy);
                }
            });
        }
        eventually(SOON, || proxy.metric("slotmux_abandoned_requests_total") > 1_000.0);
        for number in 0..12 {
            let (name, begun) = (key(number * 1000, "w"), Instant::now());
            let mut watcher = proxy.connect();
            assert_eq!(watcher.cmd(&["WATCH", &name]), Value::ok());
            let replies = watcher.pipeline(&[&["MULTI"][..], &["SET", &name, "v"], &["EXEC"]]);
            assert_eq!(replies[2], Value::Array(vec![Value::ok()]));
            assert_serves(&mut client);
            took.push(begun.elapsed());
        }
    });
    took.sort();
    assert!(took[took.len() / 2] < Duration::from_secs(2), "{took:?}");
    // On a machine that does much besides a handshake may take longer than connect_timeout.
    let page = proxy.metrics();
    let late = sum(&page, r#"slotmux_node_dial_failures_total{kind="timeout"}"#);
    let failed = ["slotmux_errors_total", "slotmux_node_dial_failures_total"];
    assert_eq!(failed.map(|name| sum(&page, name)), [0.0, late]);
    eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
}

/// A node that serves its links, and does about each further handshake what it is told.
fn reluctant(args: &[&str], about: impl Fn() -> Action + Send + 'static) -> (ScriptedCluster, Proxy, Client) {
    let cluster = ScriptedCluster::start(1);
    cluster.script(|_, args| match &args[0][..] {
        b"BLPOP" => Action::reply("*2\r\n$1\r\nl\r\n$1\r\nx\r\n"),
        _ => Action::Default,
    });
    let proxy = cluster.proxy(&[&["--workers", "1"], args].concat());
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    cluster.node(0).control(move |_, args| match &args[0][..] {
        b"CLIENT" => about(),
        _ => Action::Default,
    });
    (cluster, proxy, client)
}

#[test]
fn a_dial_for_who_has_gone_serves_who_comes_and_nothing_is_sent_for_the_former() {
    let gate = Gate::new();
    let slow = gate.clone();
    let about = move || Action::Default.after(&slow);
    let (cluster, proxy, mut client) = reluctant(&["--connect-timeout", "1m"], about);
    let begin = || {
        let mut clients: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| client.send(&["BLPOP", "l", "0"]));
        eventually(SOON, || proxy.metric("slotmux_in_flight_requests") == 5.0);
        clients
    };
    let gone = begin();
    eventually(SOON, || cluster.node(0).open() >= 5);
    let dials = proxy.metric("slotmux_node_dials_total");
    gone.into_iter().for_each(Client::reset);
    eventually(SOON, || proxy.metric("slotmux_in_flight_requests") == 0.0);
    let stay = begin();
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(proxy.metric("slotmux_node_dials_total"), dials);
    gate.open();
    for mut client in stay {
        assert_eq!(client.read_value(), Value::bulks(&["l", "x"]));
    }
    assert_eq!(cluster.count("BLPOP l 0"), 5);
}

#[test]
fn a_node_without_time_for_one_more_connection_is_not_down() {
    let (cluster, proxy, mut client) = reluctant(&["--connect-timeout", "100ms"], || Action::Silent);
    let (mut waiting, before) = (proxy.connect(), proxy.log().len());
    let failures = || proxy.metric("slotmux_node_dial_failures_total");
    let failed = failures();
    waiting.send(&["BLPOP", "l", "0"]);
    eventually(SOON, || failures() > failed + 2.0);
    assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
    assert!(!proxy.log()[before..].contains("can't be connected to"), "{}", proxy.log());
    cluster.node(0).control(|_, _| Action::Default);
    assert_eq!(waiting.read_value(), Value::bulks(&["l", "x"]));
}

/// Clients that begin to wait and leave at once; not before most of those before them were noticed.
fn flood(proxy: &Proxy) {
    let clients: Vec<Client> = (0..60).map(|_| proxy.connect()).collect();
    for (number, mut client) in clients.into_iter().enumerate() {
        client.send(&["BLPOP", &key((number * 250) as u16, "l"), "0"]);
        match number % 2 {
            0 => client.reset(),
            _ => drop(client),
        }
    }
    eventually(SOON, || proxy.metric("slotmux_clients") < 500.0);
}

/// Sets a flag when it is dropped, also by a failed assertion, so that threads in a scope end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
