//! Every bound takes effect: what the client sees, what is counted, and that others on the same worker go on.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Action, Client, Gate, Proxy, SOON, ScriptedCluster, TestCluster, Value, encode, eventually, tag_of,
};

const LOW: u16 = 100;
const HIGH: u16 = 16_000;
const MB: usize = 1 << 20;

fn key(slot: u16, name: &str) -> String {
    format!("{{{}}}{name}", tag_of(slot))
}

fn proxy<S: AsRef<str>>(seeds: &[S], args: &[&str]) -> Proxy {
    Proxy::for_seeds(seeds).args(&["--workers", "1"]).args(args).start()
}

/// A scripted cluster of two nodes, which both have a link, and a proxy in front of it.
fn scripted(args: &[&str]) -> (ScriptedCluster, Proxy) {
    let cluster = ScriptedCluster::start(2);
    let proxy = proxy(&cluster.seeds(), args);
    let mut client = proxy.connect();
    for slot in [LOW, HIGH] {
        // The first may take longer than a small bound allows.
        eventually(SOON, || client.cmd(&["GET", &key(slot, "warm")]) == Value::NullBulk);
    }
    cluster.clear_log();
    (cluster, proxy)
}

/// A real server with a value of this many bytes under the key `big`.
fn with_value(len: usize) -> TestCluster {
    let cluster = TestCluster::primaries(1);
    assert_eq!(cluster.client(0).cmd(&[&b"SET"[..], b"big", &vec![b'v'; len]]), Value::ok());
    cluster
}

fn reached(proxy: &Proxy, bound: &str) -> f64 {
    proxy.metric(&format!("slotmux_bound_reached_total{{bound=\"{bound}\"}}"))
}

fn used(proxy: &Proxy, bound: &str) -> f64 {
    proxy.metric(&format!("slotmux_bound_used_ratio{{bound=\"{bound}\"}}"))
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("slotmux_clients_closed_total{{reason=\"{reason}\"}}"))
}

/// Bytes of memory that the process has, `VmRSS`, or had at its peak, `VmHWM`.
fn resident(proxy: &Proxy, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

fn kept(proxy: &Proxy, owner: &str) -> f64 {
    proxy.metric(&format!("slotmux_memory_bytes{{owner=\"{owner}\"}}"))
}

/// Writes the same request until the proxy takes no more for a second, or closes: then true.
fn write_on(client: &Client, request: &[u8]) -> bool {
    let (mut stream, block) = (client.stream(), request.repeat(100));
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    loop {
        match stream.write_all(&block) {
            Ok(()) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// Whether the proxy has closed the connection; what came before is thrown away.
fn is_closed(client: &mut Client) -> bool {
    client.patience(Duration::from_millis(100));
    let mut bytes = vec![0; MB];
    loop {
        match client.stream().read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn a_client_beyond_output_hard_that_takes_nothing_is_closed_and_a_slow_one_is_not() {
    const VALUE: usize = 4 * MB;
    let cluster = with_value(VALUE);
    let proxy = proxy(&cluster.seeds(), &["--output-hard", "1MiB", "--output-grace", "3s"]);
    let (mut deaf, mut slow, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
    let gets = vec![["GET", "big"]; 24];
    for client in [&deaf, &slow] {
        let mut stream = client.stream();
        stream.write_all(&gets.iter().flat_map(|get| encode(get)).collect::<Vec<u8>>()).unwrap();
    }
    let (begun, mut got) = (Instant::now(), 0);
    while closed(&proxy, "output_hard") == 0.0 || begun.elapsed() < Duration::from_millis(7500) {
        got += slow.read_exact_raw(64 * 1024).len();
        assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
        // Slowly, so that there is always something left to take.
        std::thread::sleep(Duration::from_millis(10));
        assert!(begun.elapsed() < 2 * SOON);
    }
    let reply = VALUE + format!("${VALUE}\r\n\r\n").len();
    slow.read_exact_raw(24 * reply - got);
    assert_eq!(slow.cmd(&["GET", "k"]), Value::bulk("v"));
    assert!(is_closed(&mut deaf));
    assert_eq!((closed(&proxy, "output_hard"), reached(&proxy, "output_grace")), (1.0, 1.0));
    assert_eq!(reached(&proxy, "output_hard"), 2.0);
    eventually(SOON, || kept(&proxy, "client_output") < 1e6 && used(&proxy, "output_hard") < 0.5);
    assert!(proxy.log().contains("output_hard"), "{}", proxy.log());
}

#[test]
fn a_client_that_writes_without_reading_is_closed_when_nothing_moves() {
    let cluster = with_value(16 * 1024);
    let bounds = ["--input-hard", "64KiB", "--output-soft", "16KiB", "--stall-timeout", "500ms"];
    let proxy = proxy(&cluster.seeds(), &bounds);
    let (deaf, mut other) = (proxy.connect(), proxy.connect());
    eventually(SOON, || {
        assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
        write_on(&deaf, &encode(&["GET", "big"]))
    });
    assert_eq!((closed(&proxy, "stall_timeout"), reached(&proxy, "stall_timeout")), (1.0, 1.0));
    assert!(reached(&proxy, "input_hard") >= 1.0 && reached(&proxy, "output_soft") >= 1.0);
    eventually(SOON, || kept(&proxy, "client_input") == 0.0);
}

#[test]
fn who_is_silent_for_client_timeout_is_closed_and_who_waits_is_not() {
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--client-timeout", "3s"]);
    let [mut silent, mut half, mut subscriber, mut blocked, mut monitor] = [(); 5].map(|()| proxy.connect());
    assert_eq!(silent.cmd(&["SET", "k", "v"]), Value::ok());
    half.send_raw("*2\r\n$3\r\nGET\r\n$1");
    assert_eq!(subscriber.cmd(&["SUBSCRIBE", "news"]).items()[2], Value::Int(1));
    assert_eq!(monitor.cmd(&["MONITOR"]), Value::ok());
    blocked.send(&["BLPOP", "list", "0"]);
    eventually(SOON, || is_closed(&mut silent) && is_closed(&mut half));
    assert_eq!((closed(&proxy, "client_timeout"), reached(&proxy, "client_timeout")), (2.0, 2.0));
    assert_eq!(proxy.connect().cmd(&["RPUSH", "list", "x"]), Value::Int(1));
    assert_eq!(blocked.read_value(), Value::bulks(&["list", "x"]));
    assert_eq!(proxy.connect().cmd(&["PUBLISH", "news", "x"]), Value::Int(1));
    assert_eq!(subscriber.read_value(), Value::bulks(&["message", "news", "x"]));
    while !monitor.read_value().text().contains("RPUSH") {}
}

#[test]
fn who_does_not_log_in_within_handshake_timeout_is_closed() {
    let cluster = TestCluster::primaries(1);
    let seeds = cluster.seeds();
    let proxy = Proxy::for_seeds(&seeds).args(&["--handshake-timeout", "2s"]);
    let proxy = proxy.env("SLOTMUX_CLIENT_PASSWORD", "secret").start();
    let (mut stranger, mut known, mut again) = (proxy.connect(), proxy.connect(), proxy.connect());
    for client in [&mut known, &mut again] {
        assert_eq!(client.cmd(&["AUTH", "secret"]), Value::ok());
    }
    assert!(stranger.cmd(&["AUTH", "guess"]).is_error());
    eventually(SOON, || is_closed(&mut stranger));
    // The time begins anew where a client has to log in again.
    assert_eq!(again.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
    assert_eq!(again.cmd(&["AUTH", "secret"]), Value::ok());
    assert_eq!(again.cmd(&["RESET"]), Value::Simple("RESET".to_owned()));
    eventually(SOON, || is_closed(&mut again));
    assert_eq!(closed(&proxy, "handshake_timeout"), 2.0);
    known.patience(SOON);
    assert_eq!(known.cmd(&["SET", "k", "v"]), Value::ok());
}

#[test]
fn a_client_at_both_bounds_that_begins_to_read_gets_all_its_replies() {
    const GETS: usize = 8000;
    let cluster = with_value(16 * 1024);
    let bounds = ["--input-hard", "64KiB", "--output-soft", "16KiB"];
    let proxy = proxy(&cluster.seeds(), &bounds);
    let mut client = proxy.connect();
    let writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let mut writer = writer;
        (0..GETS).for_each(|_| writer.write_all(&encode(&["GET", "big"])).unwrap());
    });
    eventually(SOON, || reached(&proxy, "input_hard") >= 1.0 && used(&proxy, "input_hard") >= 1.0);
    let reply = 16 * 1024 + "$16384\r\n\r\n".len();
    (0..GETS).for_each(|_| drop(client.read_exact_raw(reply)));
    writing.join().unwrap();
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".into()));
    assert_eq!(closed(&proxy, "stall_timeout"), 0.0);
    assert!(reached(&proxy, "output_soft") >= 1.0);
    eventually(SOON, || used(&proxy, "input_hard") < 0.1);
}

#[test]
fn replies_that_came_early_count_towards_output_soft() {
    let (cluster, proxy) = scripted(&["--output-soft", "64KiB"]);
    let (first, early) = (key(LOW, "first"), key(HIGH, "early"));
    cluster.store(&early, &"v".repeat(30_000));
    let gate = Gate::new();
    let open = gate.clone();
    cluster.node(0).script(move |_, _| Action::bulk("first").after(&open));
    let mut client = proxy.connect();
    client.send(&["GET", &first]);
    let asked = || cluster.count(&format!("GET {early}"));
    for count in 1..=3 {
        client.send(&["GET", &early]);
        eventually(SOON, || asked() == count && kept(&proxy, "early_replies") >= 30_000.0 * count as f64);
    }
    for _ in 0..5 {
        client.send(&["GET", &early]);
    }
    eventually(SOON, || reached(&proxy, "output_soft") == 1.0);
    assert_eq!(proxy.connect().cmd(&["GET", &early]).text().len(), 30_000);
    assert_eq!(asked(), 4);
    gate.open();
    assert_eq!(client.read_value(), Value::bulk("first"));
    assert!(client.read_values(8).iter().all(|value| value.text().len() == 30_000));
    eventually(SOON, || kept(&proxy, "early_replies") == 0.0);
}

#[test]
fn a_clients_leaving_is_noticed_also_while_it_is_not_read() {
    let cluster = with_value(16 * 1024);
    let proxy = proxy(&cluster.seeds(), &["--input-hard", "64KiB", "--output-soft", "16KiB"]);
    let (deaf, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.cmd(&["PING"]), Value::Simple("PONG".into()));
    assert!(!write_on(&deaf, &encode(&["GET", "big"])));
    assert_eq!(proxy.metric("slotmux_clients"), 2.0);
    deaf.reset();
    eventually(SOON, || proxy.metric("slotmux_clients") == 1.0);
    assert_eq!((kept(&proxy, "client_input"), kept(&proxy, "client_output")), (0.0, 0.0));
}

#[test]
fn what_is_held_for_a_client_that_left_is_dropped_also_while_it_is_not_read() {
    let (cluster, proxy) = scripted(&["--input-hard", "64KiB", "--session-in-flight", "16"]);
    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    let client = proxy.connect();
    assert!(!write_on(&client, &encode(&["SET", &key(LOW, "a"), &"v".repeat(1000)])));
    assert_eq!(proxy.metric("slotmux_held_requests"), 16.0);
    assert!(kept(&proxy, "held") > 16_000.0 && reached(&proxy, "session_in_flight") == 1.0);
    eventually(SOON, || used(&proxy, "session_in_flight") == 1.0);
    client.reset();
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 0.0);
    assert_eq!((kept(&proxy, "held"), proxy.metric("slotmux_abandoned_requests_total")), (0.0, 16.0));
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    assert_eq!(proxy.connect().cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
}

#[test]
fn over_max_memory_the_largest_unread_output_goes_first() {
    const VALUE: usize = 4 * MB;
    let cluster = with_value(VALUE);
    let args = ["--max-memory", "80MiB", "--output-hard", "1GiB", "--workers", "2"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let (mut small, mut large, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
    (0..6).for_each(|_| small.send(&["GET", "big"]));
    eventually(SOON, || kept(&proxy, "client_output") > 14e6);
    (0..24).for_each(|_| large.send(&["GET", "big"]));
    eventually(SOON, || {
        assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
        closed(&proxy, "max_memory") >= 1.0
    });
    let reply = VALUE + format!("${VALUE}\r\n\r\n").len();
    small.read_exact_raw(6 * reply);
    assert_eq!(small.cmd(&["GET", "k"]), Value::bulk("v"));
    assert!(is_closed(&mut large));
    assert_eq!((closed(&proxy, "max_memory"), reached(&proxy, "max_memory")), (1.0, 1.0));
    eventually(SOON, || used(&proxy, "max_memory") < 0.1);
}

#[test]
fn many_clients_that_never_read_large_values_stay_near_max_memory() {
    const VALUE: usize = 5_000_000;
    const BOUND: f64 = 67_108_864.0;
    let cluster = TestCluster::primaries(2);
    let proxy = proxy(&cluster.seeds(), &["--max-memory", "64MiB", "--workers", "2"]);
    let (mut client, value) = (proxy.connect(), "v".repeat(VALUE));
    let keys: Vec<String> = (0..4).map(|i| format!("k{i}")).collect();
    for key in &keys {
        assert_eq!(client.cmd(&["SET", key, &value]), Value::ok());
    }
    let before = resident(&proxy, "VmRSS");
    let mut readers: Vec<Client> = (0..100).map(|_| proxy.connect()).collect();
    for (reader, key) in readers.iter_mut().zip(keys.iter().cycle()) {
        reader.send(&["GET", key]);
    }
    eventually(4 * SOON, || {
        assert_eq!(client.cmd(&["GET", "small"]), Value::NullBulk, "others are served");
        closed(&proxy, "max_memory") > 10.0
            && proxy.metric("slotmux_in_flight_requests") == 0.0
            && used(&proxy, "max_memory") <= 1.0
    });
    // What the README says of a container's limit.
    let more = resident(&proxy, "VmHWM") - before;
    assert!(more < 2.0 * BOUND + 67_108_864.0, "{:.0} MB more than before", more / 1e6);
}

#[test]
fn one_client_that_never_reads_stays_below_max_memory_on_one_worker() {
    let cluster = with_value(64 * 1024);
    let bounds = ["--max-memory", "16MiB", "--output-soft", "256KiB"];
    let proxy = proxy(&cluster.seeds(), &bounds);
    let (deaf, mut other) = (proxy.connect(), proxy.connect());
    let before = proxy.metric("process_resident_memory_bytes");
    assert!(write_on(&deaf, &encode(&["GET", "big"])), "it is not closed");
    let resident = proxy.metric("process_resident_memory_bytes") - before;
    assert_eq!(closed(&proxy, "max_memory"), 1.0);
    assert!(resident < 40e6, "{resident}");
    assert_eq!(other.cmd(&["SET", "k", "v"]), Value::ok());
    eventually(SOON, || proxy.metric("slotmux_memory_bytes") < 1e6);
}

#[test]
fn where_no_output_is_worth_it_the_largest_input_goes() {
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--max-memory", "8MiB"]);
    let (mut large, mut small) = (proxy.connect(), proxy.connect());
    small.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n");
    small.send_raw(vec![b'v'; 90_000]);
    large.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nl\r\n$100000000\r\n");
    large.stream().set_write_timeout(Some(SOON)).unwrap();
    assert!(large.stream().write_all(&vec![b'v'; 99_000_000]).is_err());
    assert!(is_closed(&mut large));
    assert_eq!(closed(&proxy, "max_memory"), 1.0);
    small.send_raw(vec![b'v'; 10_000]);
    small.send_raw(b"\r\n");
    assert_eq!(small.read_value(), Value::ok());
}

#[test]
fn what_is_only_announced_takes_no_memory() {
    let cluster = with_value(4 * MB);
    let proxy = proxy(&cluster.seeds(), &["--max-memory", "64MiB"]);
    let announcing: Vec<Client> = (0..200).map(|_| proxy.connect()).collect();
    for client in &announcing {
        client.stream().write_all(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nsome of it").unwrap();
    }
    let sent = 200.0 * 40.0;
    eventually(SOON, || kept(&proxy, "client_input") >= sent);
    assert!(kept(&proxy, "client_input") < 2.0 * sent);
    let mut other = proxy.connect();
    for _ in 0..10 {
        assert_eq!(other.cmd(&["GET", "big"]).text().len(), 4 * MB);
    }
    assert_eq!((closed(&proxy, "max_memory"), reached(&proxy, "max_memory")), (0.0, 0.0));
}

#[test]
fn where_inputs_fill_the_memory_they_go_and_no_output() {
    const WRITERS: usize = 60;
    let cluster = with_value(4 * MB);
    let proxy = proxy(&cluster.seeds(), &["--max-memory", "48MiB", "--output-hard", "1GiB"]);
    let mut deaf = proxy.connect();
    (0..2).for_each(|_| deaf.send(&["GET", "big"]));
    eventually(SOON, || kept(&proxy, "client_output") > 4e6);
    let mut writers: Vec<Client> = (0..WRITERS).map(|_| proxy.connect()).collect();
    let begun = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n";
    for writer in &mut writers {
        let mut stream = writer.stream();
        // Those who were here first may go before the last are.
        _ = stream.write_all(begun).and_then(|()| stream.write_all(&vec![b'v'; MB]));
    }
    eventually(SOON, || closed(&proxy, "max_memory") >= 1.0 && used(&proxy, "max_memory") <= 1.0);
    let reply = 4 * MB + format!("${}\r\n\r\n", 4 * MB).len();
    deaf.read_exact_raw(2 * reply);
    assert_eq!(deaf.cmd(&["SET", "k", "v"]), Value::ok());
}

/// Lets a node hang, and others send it commands until one has to wait outside of its connection.
fn hang(cluster: &ScriptedCluster, proxy: &Proxy, set: &[u8]) -> (Gate, Vec<Client>) {
    let (gate, mut clients) = (Gate::new(), Vec::new());
    let open = gate.clone();
    cluster.node(0).script(move |_, _| Action::ok().after(&open));
    eventually(SOON, || {
        let mut client = proxy.connect();
        client.send_raw(set);
        clients.push(client);
        proxy.metric("slotmux_held_requests") > 0.0
    });
    (gate, clients)
}

#[test]
fn commands_for_a_node_that_hangs_wait_outside_of_its_full_connection() {
    let (cluster, proxy) = scripted(&["--link-queue", "64KiB"]);
    let (low, high) = (key(LOW, "a"), key(HIGH, "b"));
    let set = encode(&["SET", &low, &"v".repeat(10_000)]);
    let (gate, mut clients) = hang(&cluster, &proxy, &set);
    let (taken, held) = (kept(&proxy, "link_requests"), proxy.metric("slotmux_held_requests"));
    for _ in 0..100 {
        let mut client = proxy.connect();
        client.send_raw([&set[..], &encode(&["SET", &high, "1"])].concat());
        clients.push(client);
    }
    eventually(SOON, || proxy.metric("slotmux_held_requests") == held + 100.0);
    assert!(kept(&proxy, "link_requests") < taken + 1000.0);
    assert_eq!(proxy.connect().cmd(&["SET", &high, "2"]), Value::ok());
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_value(), Value::ok());
    }
    assert_eq!(proxy.metric("slotmux_held_requests"), 0.0);
}

#[test]
fn who_waits_for_a_node_that_hangs_goes_before_the_clients_of_others() {
    let (cluster, proxy) = scripted(&["--link-queue", "64KiB", "--max-memory", "16MiB"]);
    let (low, high) = (key(LOW, "a"), key(HIGH, "b"));
    // Larger than what any of them has.
    let mut other = proxy.connect();
    let request = encode(&["SET", &high, &"v".repeat(MB)]);
    other.send_raw(&request[..MB / 2]);
    eventually(SOON, || kept(&proxy, "client_input") >= MB as f64 / 2.0);
    let set = encode(&["SET", &low, &"v".repeat(60_000)]);
    let (gate, _first) = hang(&cluster, &proxy, &set);
    let mut clients: Vec<Client> = (0..400).map(|_| proxy.connect()).collect();
    // Some are closed meanwhile.
    clients.iter_mut().for_each(|client| _ = client.stream().write_all(&set));
    eventually(SOON, || closed(&proxy, "max_memory") >= 50.0 && used(&proxy, "max_memory") <= 1.0);
    other.send_raw(&request[MB / 2..]);
    assert_eq!(other.read_value(), Value::ok());
    gate.open();
    assert_eq!(proxy.connect().cmd(&["SET", &low, "1"]), Value::ok());
}

#[test]
fn a_busy_node_serves_all_whatever_some_send() {
    const WRITERS: usize = 6;
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--link-queue", "64KiB"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (proxy, over) = (&proxy, &over);
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let set = encode(&["SET", &format!("w{writer}"), &"v".repeat(4000)]).repeat(200);
                let mut client = proxy.connect();
                client.send_raw(&set);
                while !over.load(Relaxed) {
                    client.send_raw(&set);
                    assert_eq!(client.read_values(200), vec![Value::ok(); 200]);
                }
            });
        }
        eventually(SOON, || reached(proxy, "link_queue") >= 1.0);
        // None of these waits for the others to end.
        let mut small = proxy.connect();
        (0..100).for_each(|_| assert!(!small.cmd(&["STRLEN", "w0"]).is_error()));
        over.store(true, Relaxed);
    });
    assert_eq!(proxy.metric("slotmux_errors_total"), 0.0);
}

#[test]
fn a_reply_that_would_exceed_max_memory_is_not_kept_and_its_link_stays() {
    let cluster = with_value(40 * MB);
    let proxy = proxy(&cluster.seeds(), &["--max-memory", "16MiB"]);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let refused = "ERR the command was executed, but its reply exceeds this proxy's max_memory";
    let lost = || proxy.metric("slotmux_node_links_lost_total");
    for i in 1..=5 {
        client.send(&["GET", "big"]);
        client.send(&["INCR", "behind"]);
        (0..20).for_each(|_| other.send(&["INCR", "others"]));
        assert_eq!(client.read_values(2), [Value::error(refused), Value::Int(i)]);
        let counted: Vec<Value> = (20 * i - 19..=20 * i).map(Value::Int).collect();
        assert_eq!(other.read_values(20), counted);
    }
    assert_eq!((closed(&proxy, "max_memory"), reached(&proxy, "max_memory"), lost()), (0.0, 5.0, 0.0));
    eventually(SOON, || kept(&proxy, "link_replies") == 0.0);
}

#[test]
fn a_reply_larger_than_max_reply_is_refused_before_it_is_read() {
    let (cluster, proxy) = scripted(&["--max-reply", "1MiB"]);
    let refused = "ERR the command was executed, but its reply exceeds this proxy's max_reply";
    let array = ":1\r\n".repeat(300_000);
    let replies =
        ["$2000000\r\nsome of it", &format!("*9000000\r\n{array}"), "*2\r\n$1\r\na\r\n$1048576\r\nb"];
    for (i, reply) in replies.into_iter().enumerate() {
        let reply = reply.to_owned();
        let (hung, name) = (key(LOW, "a"), key(LOW, "b"));
        let mut done = false;
        cluster.node(0).script(move |_, args| match args[1] == hung.as_bytes() && !done {
            true => {
                done = true;
                Action::reply(&reply)
            }
            false => Action::Default,
        });
        let mut client = proxy.connect();
        let replies = client.pipeline(&[["GET", &key(LOW, "a")], ["GET", &name], ["GET", &key(HIGH, "c")]]);
        assert_eq!(replies, [Value::error(refused), Value::NullBulk, Value::NullBulk]);
        assert_eq!(reached(&proxy, "max_reply"), (i + 1) as f64);
    }
}

#[test]
fn a_line_without_an_end_ends_the_link_and_costs_little() {
    let (cluster, proxy) = scripted(&[]);
    let hung = key(LOW, "a");
    let mut done = false;
    cluster.node(0).script(move |_, args| match args[1] == hung.as_bytes() && !done {
        true => {
            done = true;
            Action::reply("+endless".repeat(1 << 20))
        }
        false => Action::Default,
    });
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk, "it is asked again");
    assert!(proxy.log().contains("garbage from the node"));
    eventually(SOON, || kept(&proxy, "link_replies") == 0.0);
}

#[test]
fn command_timeout_answers_the_client_and_leaves_the_shared_link_alone() {
    let (cluster, proxy) = scripted(&["--command-timeout", "1s"]);
    let gate = Gate::new();
    let open = gate.clone();
    let node = cluster.node(0).addr();
    cluster.node(0).script(move |_, args| match args[1].ends_with(b"slow") {
        true => Action::bulk(args[0].as_slice()).after(&open),
        false => Action::Default,
    });
    let accepted = cluster.node(0).accepted();
    let (slow, a, high) = (key(LOW, "slow"), key(LOW, "a"), key(HIGH, "b"));
    let in_doubt = Value::error(&format!(
        "INDOUBT node {node} gave no reply within command_timeout; whether the command was executed, or will be, \
         is unknown"
    ));
    let timeout = Value::error(&format!("TIMEOUT node {node} gave no reply within command_timeout"));
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    let commands: [Vec<&str>; 6] = [
        vec!["GET", &high],
        vec!["SET", &slow, "1"],
        vec!["GET", &slow],
        vec!["MGET", &high, &slow],
        vec!["DEL", &high, &slow],
        vec!["SET", &high, "2"],
    ];
    let replies = client.pipeline(&commands);
    let expected = [Value::NullBulk, in_doubt.clone(), timeout.clone(), timeout, in_doubt, Value::ok()];
    assert_eq!(replies, expected);
    assert_eq!(other.cmd(&["GET", &high]), Value::bulk("2"));
    assert_eq!(reached(&proxy, "command_timeout"), 4.0);
    // Late replies are nobody's: what is asked now gets its own.
    client.send(&["SET", &a, "3"]);
    client.send(&["GET", &a]);
    gate.open();
    assert_eq!(client.read_values(2), [Value::ok(), Value::bulk("3")]);
    for _ in 0..50 {
        assert_eq!(client.cmd(&["GET", &a]), Value::bulk("3"));
    }
    assert_eq!(cluster.node(0).accepted(), accepted, "the link was given up");
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"timeout\"}"), 2.0);
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"indoubt\"}"), 2.0);
}

#[test]
fn what_command_timeout_finds_held_was_not_executed_and_says_so() {
    let (cluster, proxy) = scripted(&["--command-timeout", "200ms"]);
    let tryagain = "TRYAGAIN Multiple keys request during rehashing of slot";
    let (low, high, lost) = (key(LOW, "a"), key(HIGH, "b"), key(HIGH + 1, "c"));
    cluster.node(0).script(move |_, _| Action::error(tryagain));
    cluster.edit(|topology| topology.uncover(HIGH + 1..=HIGH + 1));
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["SET", &lost, "1"]), Value::error("CLUSTERDOWN Hash slot not served"));
    eventually(SOON, || proxy.metric("slotmux_slots_uncovered") == 1.0);
    eventually(SOON, || {
        let replies = client.pipeline(&[["SET", &low, "1"], ["SET", &lost, "2"], ["SET", &high, "1"]]);
        assert_eq!(replies[2], Value::ok());
        // The second was never sent.
        assert!(replies[1].text().starts_with("CLUSTERDOWN No node could serve"), "{replies:?}");
        // The first may have been on its way to the node just then.
        assert!(
            replies[0] == Value::error(tryagain) || replies[0].text().starts_with("INDOUBT "),
            "{replies:?}"
        );
        replies[0] == Value::error(tryagain)
    });
    assert_eq!(cluster.count(&format!("SET {lost} 2")), 0);
    cluster.script(|_, _| Action::Default);
    assert_eq!(client.cmd(&["GET", &low]), Value::NullBulk);
    assert_eq!(proxy.metric("slotmux_held_requests"), 0.0);
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"indoubt\"}"), 0.0);
}

#[test]
fn a_real_node_that_goes_on_after_command_timeout_executes_the_write_on_the_same_link() {
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--command-timeout", "300ms"]);
    let mut client = proxy.connect();
    eventually(SOON, || client.cmd(&["SET", "k", "1"]) == Value::ok());
    cluster.stop(0);
    assert!(client.cmd(&["SET", "k", "2"]).text().starts_with("INDOUBT node "));
    assert!(client.cmd(&["GET", "k"]).text().starts_with("TIMEOUT node "));
    cluster.cont(0);
    eventually(SOON, || client.cmd(&["GET", "k"]) == Value::bulk("2"));
    assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"lost\"}"), 0.0);
}

#[test]
fn with_on_indoubt_disconnect_the_connection_ends_in_the_place_of_the_reply() {
    let (cluster, proxy) = scripted(&["--on-indoubt", "disconnect"]);
    let gate = Gate::new();
    let open = gate.clone();
    cluster.store(&key(HIGH, "a"), "before");
    cluster.node(1).script(move |_, _| Action::Default.after(&open));
    cluster.node(0).script(|_, _| Action::CloseAfterReading);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    for command in [&["GET", &key(HIGH, "a")][..], &["SET", &key(LOW, "b"), "1"], &["GET", &key(HIGH, "a")]] {
        client.send(command);
    }
    eventually(SOON, || proxy.metric("slotmux_errors_total{kind=\"indoubt\"}") == 1.0);
    client.expect_silence(Duration::from_millis(50));
    gate.open();
    assert_eq!(client.read_to_end_raw(), b"$6\r\nbefore\r\n");
    assert_eq!(closed(&proxy, "indoubt"), 1.0);
    // Whoever has no write in doubt keeps the connection.
    assert_eq!(other.cmd(&["GET", &key(HIGH, "a")]), Value::bulk("before"));
    cluster.script(|_, _| Action::Default);
    eventually(SOON, || other.cmd(&["SET", &key(LOW, "b"), "2"]) == Value::ok());
}

#[test]
fn with_on_indoubt_disconnect_a_read_before_a_split_write_in_doubt_is_repeated_and_answered() {
    let (cluster, proxy) = scripted(&["--on-indoubt", "disconnect"]);
    let (first, second, read) = (key(LOW, "a"), key(LOW + 1, "b"), key(LOW + 1, "c"));
    cluster.store(&read, "before");
    let mut lost = false;
    cluster.node(0).script(move |_, _| {
        if std::mem::replace(&mut lost, true) { Action::Default } else { Action::CloseAfterReading }
    });
    let mut client = proxy.connect();
    client.send_raw([encode(&["GET", &read]), encode(&["MSET", &first, "1", &second, "2"])].concat());
    assert_eq!(client.read_to_end_raw(), b"$6\r\nbefore\r\n");
    assert_eq!(closed(&proxy, "indoubt"), 1.0);
}

#[test]
fn with_on_indoubt_disconnect_a_timed_out_write_ends_the_connection_too_and_what_is_held_behind_it_is_dropped()
 {
    let (cluster, proxy) = scripted(&["--on-indoubt", "disconnect", "--command-timeout", "200ms"]);
    let slow = key(LOW, "slow");
    cluster.node(0).script(|_, _| Action::Silent);
    cluster.edit(|topology| topology.uncover(HIGH..=HIGH));
    let mut client = proxy.connect();
    client.send(&["SET", &slow, "1"]);
    client.send(&["SET", &key(HIGH, "b"), "1"]);
    assert_eq!(client.read_to_end_raw(), b"");
    assert_eq!((closed(&proxy, "indoubt"), proxy.metric("slotmux_held_requests")), (1.0, 0.0));
    cluster.edit(|topology| topology.assign(HIGH..=HIGH, 1));
    eventually(SOON, || proxy.connect().cmd(&["GET", &key(HIGH, "b")]) == Value::NullBulk);
}

#[test]
fn bounds_of_a_request_close_the_connection_and_are_counted() {
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--max-request", "1KiB", "--max-arguments", "16"]);
    let mut other = proxy.connect();
    let long = "v".repeat(2000);
    let many = vec!["a"; 16];
    let requests: [(Vec<&str>, &str, &str); 2] = [
        (vec!["SET", "k", &long], "max_request", "request larger than max_request"),
        ([vec!["DEL"], many].concat(), "max_arguments", "invalid multibulk length"),
    ];
    for (i, (request, bound, text)) in requests.iter().enumerate() {
        let mut client = proxy.connect();
        client.send(&["SET", "k", "v"]);
        client.send(request);
        let replies = String::from_utf8(client.read_to_end_raw()).unwrap();
        assert!(replies.starts_with("+OK\r\n-ERR Protocol error: ") && replies.contains(text), "{replies}");
        assert_eq!((reached(&proxy, bound), closed(&proxy, "protocol")), (1.0, (i + 1) as f64));
        assert_eq!(other.cmd(&["GET", "k"]), Value::bulk("v"));
    }
}

#[test]
fn max_clients_is_a_servers_own_text_and_those_inside_go_on() {
    let cluster = TestCluster::primaries(1);
    let proxy = proxy(&cluster.seeds(), &["--max-clients", "2"]);
    let (mut one, mut two) = (proxy.connect(), proxy.connect());
    for client in [&mut one, &mut two] {
        assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".into()));
    }
    eventually(SOON, || used(&proxy, "max_clients") == 1.0);
    assert_eq!(proxy.connect().read_to_end_raw(), b"-ERR max number of clients reached\r\n");
    assert_eq!(reached(&proxy, "max_clients"), 1.0);
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"max_clients\"}"), 1.0);
    assert_eq!(one.cmd(&["SET", "k", "v"]), Value::ok());
    drop(two);
    eventually(SOON, || used(&proxy, "max_clients") == 0.5);
    assert_eq!(proxy.connect().cmd(&["GET", "k"]), Value::bulk("v"));
}

#[test]
fn bounds_of_what_waits_are_counted_and_others_go_on() {
    let args = ["--max-held-bytes", "64KiB", "--command-deadline", "2s", "--link-queue", "64KiB"];
    let (cluster, proxy) = scripted(&args);
    let (low, high) = (key(LOW, "a"), key(HIGH, "b"));
    let mut other = proxy.connect();
    // A slot without an owner.
    cluster.edit(|topology| topology.uncover(LOW..=LOW));
    let mut client = proxy.connect();
    let value = "v".repeat(10_000);
    (0..10).for_each(|_| client.send(&["SET", &low, &value]));
    eventually(SOON, || {
        proxy.metric("slotmux_held_bytes") >= 65_536.0 && used(&proxy, "max_held_bytes") >= 1.0
    });
    assert!(proxy.connect().cmd(&["SET", &low, "1"]).text().starts_with("CLUSTERDOWN "));
    assert!(reached(&proxy, "max_held_bytes") >= 1.0);
    assert_eq!(other.cmd(&["SET", &high, "1"]), Value::ok());
    // Nor are those refused who need another connection to a node that is well.
    let mut third = proxy.connect();
    third.send(&["HELLO", "3"]);
    third.send(&["SET", &high, "1"]);
    assert_eq!(third.read_values(2)[1], Value::ok());
    assert!(client.read_values(10).iter().all(|reply| reply.text().starts_with("CLUSTERDOWN")));
    assert!(reached(&proxy, "command_deadline") >= 1.0);
    cluster.edit(|topology| topology.assign(LOW..=LOW, 0));
    eventually(SOON, || client.cmd(&["SET", &low, "1"]) == Value::ok());
    // A node that does not answer.
    let gate = Gate::new();
    let open = gate.clone();
    cluster.node(0).script(move |_, _| Action::ok().after(&open));
    let before = reached(&proxy, "link_queue");
    (0..10).for_each(|_| client.send(&["SET", &low, &value]));
    eventually(SOON, || reached(&proxy, "link_queue") == before + 1.0 && used(&proxy, "link_queue") >= 1.0);
    assert!(kept(&proxy, "link_requests") >= 65_536.0);
    assert_eq!(other.cmd(&["SET", &high, "1"]), Value::ok());
    gate.open();
    assert_eq!(client.read_values(10), vec![Value::ok(); 10]);
    eventually(SOON, || kept(&proxy, "link_requests") == 0.0);
}

#[test]
fn bounds_of_links_are_counted_and_others_go_on() {
    let args = ["--link-timeout", "1s", "--connect-timeout", "500ms", "--command-deadline", "3s"];
    let cluster = TestCluster::primaries(3);
    let proxy = proxy(&cluster.seeds(), &args);
    let (low, high) = (key(LOW, "a"), key(HIGH, "b"));
    let mut client = proxy.connect();
    for key in [&low, &high] {
        assert_eq!(client.cmd(&["SET", key, "1"]), Value::ok());
    }
    let node = cluster.owner_of(LOW);
    cluster.stop(node);
    assert!(client.cmd(&["SET", &low, "2"]).text().starts_with("INDOUBT "));
    assert_eq!(reached(&proxy, "link_timeout"), 1.0);
    assert!(client.cmd(&["SET", &low, "3"]).is_error());
    assert!(reached(&proxy, "connect_timeout") >= 1.0);
    assert_eq!(proxy.connect().cmd(&["GET", &high]), Value::bulk("1"));
    cluster.cont(node);
}
