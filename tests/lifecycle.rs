//! A run from its start to its end: before the cluster is there, with some of it, and stopping under load.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{Client, Proxy, SOON, TestCluster, Value, eventually, nobody, tag_of};

/// A script that keeps a node busy for about this many milliseconds.
fn slow(millis: u32, slot: u16) -> Vec<String> {
    let script = "local t = redis.call('TIME') local function now() local x = redis.call('TIME') \
                  return (x[1] - t[1]) * 1000 + (x[2] - t[2]) / 1000 end \
                  while now() < tonumber(ARGV[1]) do end return 'done'";
    let key = format!("{{{}}}k", tag_of(slot));
    ["EVAL", script, "1", &key, &millis.to_string()].map(str::to_owned).to_vec()
}

/// The links of the proxies to a node, as lines of its CLIENT LIST.
fn links(cluster: &TestCluster, node: usize) -> Vec<String> {
    let listed = cluster.client(node).cmd(&["CLIENT", "LIST"]).text();
    let is_link = |line: &&str| line.contains(" name=slotmux-") && !line.contains(" name=slotmux-topology");
    listed.lines().filter(is_link).map(str::to_owned).collect()
}

fn busy(proxy: &Proxy, commands: f64) -> bool {
    proxy.metric("slotmux_in_flight_requests") == commands
}

#[test]
fn replies_in_flight_are_delivered_before_it_stops() {
    let cluster = TestCluster::primaries(3);
    for name in ["TERM", "INT"] {
        let mut proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.connect()).collect();
        let mut idle = proxy.connect();
        assert_eq!(idle.cmd(&["SET", "k", "v"]), Value::ok());
        // The first keeps the node from the others.
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(&slow(if i == 0 { 1_500 } else { 100 }, 0));
            client.send(&["GET", "k"]);
        }
        eventually(SOON, || busy(&proxy, 8.0));
        let stopped = Instant::now();
        proxy.signal(name);
        for client in &mut clients {
            let expected = b"$4\r\ndone\r\n$1\r\nv\r\n";
            assert_eq!(
                client.read_to_end_raw().escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        }
        assert_eq!(idle.read_to_end_raw(), b"", "who waits for nothing is closed");
        assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0), "{name}");
        assert!(
            stopped.elapsed() < Duration::from_secs(8),
            "not by the drain timeout: {:?}",
            stopped.elapsed()
        );
        assert!(Client::try_connect(proxy.addr()).is_none(), "nobody listens any more");
    }
}

#[test]
fn no_new_client_is_taken_while_it_stops() {
    let cluster = TestCluster::primaries(3);
    let mut proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    client.send(&slow(1_500, 0));
    eventually(SOON, || busy(&proxy, 1.0));
    proxy.signal("TERM");
    eventually(SOON, || Client::try_connect(proxy.addr()).is_none());
    assert_eq!(proxy.get("/healthz").0, 200, "the admin port is open to the end");
    assert_eq!(proxy.get("/readyz"), (503, "draining\n".to_owned()), "a balancer sends nobody here");
    assert_eq!(client.read_value(), Value::bulk("done"));
    assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_stop_waits_no_longer_than_the_drain_timeout() {
    let cluster = TestCluster::primaries(3);
    let mut proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--drain-timeout", "300ms"]).start();
    let mut client = proxy.connect();
    client.send(&slow(2_000, 0));
    eventually(SOON, || busy(&proxy, 1.0));
    let stopped = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0));
    let took = stopped.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(1_800), "{took:?}");
    assert_eq!(client.read_to_end_raw(), b"");
    assert!(proxy.log().contains("the drain timeout passed"), "{}", proxy.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let cluster = TestCluster::primaries(3);
    let mut proxy = Proxy::for_seeds(&cluster.seeds()).start();
    let mut client = proxy.connect();
    client.send(&slow(2_000, 0));
    eventually(SOON, || busy(&proxy, 1.0));
    let stopped = Instant::now();
    proxy.signal("TERM");
    eventually(SOON, || proxy.log().contains("stopping"));
    proxy.signal("INT");
    assert_eq!(proxy.wait(SOON).unwrap().code(), Some(1));
    assert!(stopped.elapsed() < Duration::from_millis(1_800), "{:?}", stopped.elapsed());
}

#[test]
fn it_may_start_before_the_cluster_does() {
    let cluster = TestCluster::primaries(1);
    cluster.kill9(0);
    let proxy = Proxy::start(&cluster.seeds());
    assert_eq!(proxy.get("/healthz").0, 200);
    assert_eq!(proxy.get("/readyz").0, 503);
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
    client.send(&["SET", "k", "v"]);
    client.send(&["GET", "k"]);
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 2.0);
    cluster.restart(0);
    assert_eq!(client.read_values(2), [Value::ok(), Value::bulk("v")]);
    assert_eq!(proxy.get("/readyz").0, 200);
    assert!(proxy.log().contains("no node tells the topology"), "{}", proxy.log());
    assert!(proxy.log().contains("the topology is known again"), "{}", proxy.log());
    assert_eq!(proxy.metric("slotmux_slots_uncovered"), 0.0);
}

#[test]
fn one_seed_that_answers_is_enough() {
    let cluster = TestCluster::primaries(3);
    let dead = nobody();
    // Accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    for position in 0..4 {
        let mut seeds = vec![dead.clone(), silent.clone(), "no-such-host.invalid:6379".to_owned()];
        let alive = cluster.seeds().swap_remove(position % 3).replace("127.0.0.1", "localhost");
        seeds.insert(position, alive);
        let proxy = Proxy::start(&seeds);
        let mut client = proxy.connect();
        for i in 0..10 {
            assert_eq!(client.cmd(&["SET", &format!("k{i}"), "v"]), Value::ok());
        }
        assert_eq!(proxy.get("/readyz").0, 200);
    }
}

#[test]
fn links_are_opened_on_first_use_one_for_each_worker_node_and_protocol() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    eventually(SOON, || proxy.get("/readyz").0 == 200);
    let mut client = proxy.connect();
    client.cmd(&["PING"]);
    let opened = |node| links(&cluster, node).len();
    assert_eq!([opened(0), opened(1), opened(2)], [0, 0, 0]);

    let (first, last) = (format!("{{{}}}k", tag_of(0)), format!("{{{}}}k", tag_of(16_000)));
    client.cmd(&["SET", &first, "v"]);
    assert_eq!([opened(0), opened(1), opened(2)], [1, 0, 0]);
    let mut others: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
    others.iter_mut().for_each(|client| drop(client.cmd(&["GET", &first])));
    assert_eq!([opened(0), opened(1), opened(2)], [1, 0, 0], "all clients share it");
    client.cmd(&["GET", &last]);
    assert_eq!([opened(0), opened(1), opened(2)], [1, 0, 1]);

    others[0].cmd(&["HELLO", "3"]);
    assert_eq!(others[0].cmd(&["GET", "absent{}"]), Value::Null);
    others[0].cmd(&["GET", &first]);
    assert_eq!(opened(0), 2);
    let names: HashSet<String> = links(&cluster, 0)
        .iter()
        .filter_map(|line| line.split(' ').find(|word| word.starts_with("name=")).map(str::to_owned))
        .collect();
    assert_eq!(names.len(), 2, "each has a name of its own: {names:?}");
    let expected: usize = (0..3).map(opened).sum();
    assert_eq!(proxy.metric("slotmux_node_links{state=\"up\"}"), expected as f64);
    // Servers from 7.0 on show the protocol.
    let versions: Vec<&str> = ["resp=2", "resp=3"].to_vec();
    for version in versions {
        let shown = links(&cluster, 0);
        assert!(!shown[0].contains("resp=") || shown.iter().any(|line| line.contains(version)), "{shown:?}");
    }
}

#[test]
fn more_links_are_used_where_the_configuration_says_so() {
    let cluster = TestCluster::primaries(1);
    let args = ["--workers", "2", "--connections-per-node", "3"];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let mut clients: Vec<Client> = (0..24).map(|_| proxy.connect()).collect();
    for round in 0..3 {
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.cmd(&["SET", &format!("k{i}"), &round.to_string()]), Value::ok());
        }
    }
    assert_eq!(links(&cluster, 0).len(), 6);
    assert_eq!(proxy.metric("slotmux_node_links{state=\"up\"}"), 6.0);
}

#[test]
fn a_socket_file_and_several_ports_serve_the_same() {
    let cluster = TestCluster::primaries(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let socket = format!("unix:{}", path.display());
    let proxy =
        Proxy::for_seeds(&cluster.seeds()).args(&["--listen", "127.0.0.1:0", "--listen", &socket]).start();
    assert_eq!(proxy.addrs().len(), 3);
    assert_eq!(proxy.addrs()[2], socket);
    assert_eq!(Client::connect(&*proxy.addrs()[1]).cmd(&["SET", "k", "v"]), Value::ok());
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET k\r\nQUIT\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "$1\r\nv\r\n+OK\r\n");
    assert_eq!(proxy.connect().cmd(&["GET", "k"]), Value::bulk("v"));
    proxy.stop();
    assert!(!path.exists());
}

#[test]
fn clients_beyond_the_limit_are_told_so_and_those_within_are_served() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2", "--max-clients", "3"]).start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok()));
    let mut refused = proxy.connect();
    assert_eq!(refused.read_to_end_raw(), b"-ERR max number of clients reached\r\n");
    assert_eq!(clients[0].cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(proxy.metric("slotmux_connections_rejected_total"), 1.0);
    drop(clients.pop());
    eventually(SOON, || proxy.metric("slotmux_clients") == 2.0);
    assert_eq!(proxy.connect().cmd(&["GET", "k"]), Value::bulk("v"));
}

#[test]
fn who_closes_its_sending_side_gets_all_its_replies() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    // Before that commands wait, and whoever leaves is not waited for.
    eventually(SOON, || proxy.get("/readyz").0 == 200);
    let mut client = proxy.connect();
    let sets: String = (0..500).map(|i| format!("SET k{i} {i}\r\n")).collect();
    client.send_raw(format!("{sets}MGET k0 k499\r\nDBSIZE\r\nEVAL \"return 'slow'\" 0\r\nGET"));
    client.finish_sending();
    let expected = format!("{}*2\r\n$1\r\n0\r\n$3\r\n499\r\n:500\r\n$4\r\nslow\r\n", "+OK\r\n".repeat(500));
    assert_eq!(String::from_utf8(client.read_to_end_raw()).unwrap(), expected);
    eventually(SOON, || proxy.metric("slotmux_clients") == 0.0);
}

#[test]
fn the_metrics_count_what_was_done() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let mut client = proxy.connect();
    client.pipeline(&[["SET", "k", "v"], ["SET", "l", "w"], ["GETSET", "k", "x"]]);
    client.cmd(&["LPUSH", "k", "x"]);
    client.cmd(&["NOSUCH"]);
    client.cmd(&["GET"]);
    assert_eq!(proxy.metric("slotmux_requests_total{command=\"set\"}"), 2.0);
    assert_eq!(proxy.metric("slotmux_requests_total{command=\"lpush\"}"), 1.0);
    assert_eq!(proxy.metric("slotmux_server_errors_total"), 1.0, "WRONGTYPE came from a node");
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"unknown_command\"}"), 1.0);
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"wrong_arity\"}"), 1.0);
    assert_eq!(proxy.metric("slotmux_in_flight_requests"), 0.0);
    assert_eq!(proxy.metric("slotmux_clients"), 1.0);
    assert_eq!(proxy.metric("slotmux_topology_version"), 1.0);
    assert!(proxy.metric("slotmux_request_duration_seconds_count{family=\"string\"}") >= 3.0);
    assert!(proxy.metric("slotmux_client_read_bytes_total") > 100.0);
    assert!(proxy.metric("slotmux_client_written_bytes_total") > 30.0);
}

#[test]
fn replies_are_delivered_also_to_a_client_that_goes_on_sending_while_it_stops() {
    let cluster = TestCluster::primaries(1);
    let mut proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let script = "redis.call('incr', KEYS[1]) return string.rep('x', 4096)";
    let mut client = proxy.connect();
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(65_536).unwrap();
    let mut writer = client.stream().try_clone().unwrap();
    let request = support::encode(&["EVAL", script, "1", "count"]);
    // It sends until nothing more fits into the sockets, and reads nothing.
    let sender =
        std::thread::spawn(move || while std::io::Write::write_all(&mut writer, &request).is_ok() {});
    let mut node = cluster.client(0);
    let mut before = Value::NullBulk;
    eventually(SOON, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = node.cmd(&["GET", "count"]);
        std::mem::replace(&mut before, now.clone()) == now && now != Value::NullBulk
    });
    proxy.signal("TERM");
    eventually(SOON, || proxy.log().contains("stopping"));
    let replies = client.read_to_end_raw().len() / (4096 + "$4096\r\n\r\n".len());
    assert_eq!(node.cmd(&["GET", "count"]), Value::bulk(replies.to_string()));
    client.stream().shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(proxy.wait(SOON).unwrap().code(), Some(0));
    sender.join().unwrap();
}
