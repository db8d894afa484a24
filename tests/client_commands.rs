//! CLIENT LIST, INFO, KILL, PAUSE and their kin, over all workers of the process.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::{Client, Pair, Proxy, SOON, TestCluster, Value, eventually, in_both};

/// A client and its number.
struct Known {
    client: Client,
    id: i64,
    name: String,
}

/// A proxy with several workers and two clients on each.
struct Setup {
    proxy: Proxy,
    clients: Vec<Known>,
    _cluster: TestCluster,
}

impl Setup {
    fn start() -> Self {
        let cluster = TestCluster::primaries(3);
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "3"]).start();
        let connect = |i| {
            let (mut client, name) = (proxy.connect(), format!("client-{i}"));
            assert_eq!(client.cmd(&["CLIENT", "SETNAME", &name]), Value::ok());
            Known { id: client.cmd(&["CLIENT", "ID"]).int(), client, name }
        };
        let clients = (0..6).map(connect).collect();
        Self { proxy, clients, _cluster: cluster }
    }

    /// Asks by the client at this place.
    #[track_caller]
    fn ask(&mut self, by: usize, words: &[&str]) -> Value {
        self.clients[by].client.cmd(words)
    }

    fn id(&self, at: usize) -> String {
        self.clients[at].id.to_string()
    }

    fn addr(&self, at: usize) -> String {
        self.clients[at].client.local_addr().to_string()
    }
}

/// The fields of each line.
fn lines(reply: &Value) -> Vec<BTreeMap<String, String>> {
    let field = |field: &str| field.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap();
    reply.text().lines().map(|line| line.split(' ').map(field).collect()).collect()
}

#[track_caller]
fn has_ended(client: &mut Client) {
    assert_eq!(client.read_to_end_raw(), b"");
}

#[test]
fn arguments_are_judged_as_by_a_server() {
    let pair = Pair::start(None);
    pair.compare_all(in_both(&[
        "CLIENT LIST ID 1 2 x",
        "CLIENT LIST ID",
        "CLIENT LIST ID 0",
        "CLIENT LIST ID 99999999 99999998",
        "CLIENT LIST TYPE",
        "CLIENT LIST TYPE x",
        "CLIENT LIST TYPE \"x\\r\\ny\"",
        "CLIENT LIST TYPE pubsub",
        "CLIENT LIST TYPE MASTER",
        "CLIENT LIST TYPE replica",
        "CLIENT LIST TYPE normal x",
        "CLIENT LIST what",
        "CLIENT INFO a",
        "CLIENT KILL",
        "CLIENT KILL a",
        "CLIENT KILL 1.1.1.1:1",
        "CLIENT KILL ID",
        "CLIENT KILL ID x",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID -1",
        "CLIENT KILL ID 99999999",
        "CLIENT KILL ID 99999999 TYPE",
        "CLIENT KILL ID 99999999 SKIPME yes ADDR a LADDR b TYPE pubsub USER default",
        "CLIENT KILL TYPE x",
        "CLIENT KILL TYPE pubsub",
        "CLIENT KILL TYPE slave",
        "CLIENT KILL USER x",
        "CLIENT KILL SKIPME x",
        "CLIENT KILL ADDR x",
        "CLIENT KILL ADDR x LADDR y",
        "CLIENT KILL what x",
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 0 WRITE",
        "CLIENT PAUSE 1 x",
        "CLIENT PAUSE x x",
        "CLIENT PAUSE 1 WRITE x",
        "CLIENT pause 1 WRITE x",
        "CLIENT PAUSE 10 WRITE\r\nPING\r\nGET absent",
        "CLIENT UNPAUSE",
        "CLIENT UNPAUSE a",
        "CLIENT NO-EVICT",
        "CLIENT NO-EVICT x",
        "CLIENT NO-EVICT ON",
        "CLIENT NO-EVICT off",
        "CLIENT GETREDIR",
        "CLIENT GETREDIR a",
        "CLIENT TRACKINGINFO",
        "CLIENT UNBLOCK",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 99999999",
        "CLIENT UNBLOCK 99999999 x",
        "CLIENT UNBLOCK x x",
        "CLIENT UNBLOCK 99999999 ERROR x",
        "CLIENT UNBLOCK 99999999 TIMEOUT",
        "CLIENT UNBLOCK 99999999 ERROR",
        "CLIENT REPLY SKIP\r\nCLIENT LIST\r\nPING",
        "PING a\r\nCLIENT LIST ID 0\r\nPING b\r\nCLIENT KILL ID 99999999\r\nSET a 1\r\nCLIENT UNBLOCK 99999999\r\nGET a",
    ]));
}

#[test]
fn a_line_has_a_servers_fields() {
    let pair = Pair::start(None);
    let names = |client: &mut Client, words: &[&str]| -> Vec<String> {
        let text = client.cmd(words).text();
        assert!(text.ends_with('\n'), "{text}");
        text.lines()
            .next()
            .unwrap()
            .split(' ')
            .map(|field| field.split_once('=').unwrap().0.to_owned())
            .collect()
    };
    let (mut server, mut proxy) = (pair.server.connect(), pair.proxy.connect());
    for words in [&["CLIENT", "INFO"][..], &["CLIENT", "LIST"]] {
        assert_eq!(names(&mut proxy, words), names(&mut server, words));
    }
    for client in [&mut server, &mut proxy] {
        client.cmd(&["HELLO", "3", "SETNAME", "me"]);
        client.cmd(&["CLIENT", "NO-EVICT", "ON"]);
        let info = lines(&client.cmd(&["CLIENT", "INFO"])).remove(0);
        for (field, value) in [
            ("addr", client.local_addr().to_string()),
            ("laddr", client.stream().peer_addr().unwrap().to_string()),
            ("name", "me".into()),
            ("flags", "e".into()),
            ("db", "0".into()),
            ("sub", "0".into()),
            ("multi", "-1".into()),
            ("cmd", "client|info".into()),
            ("user", "default".into()),
            ("redir", "-1".into()),
            ("resp", "3".into()),
        ] {
            assert_eq!(info[field], value, "{field}");
        }
    }
}

#[test]
fn all_clients_are_listed_whatever_their_worker() {
    let mut setup = Setup::start();
    for by in 0..6 {
        let listed = lines(&setup.ask(by, &["CLIENT", "LIST"]));
        assert_eq!(listed.len(), 6);
        for (at, line) in listed.iter().enumerate() {
            // In the order in which they came.
            assert_eq!((&line["id"], &line["name"]), (&setup.id(at), &setup.clients[at].name));
            assert_eq!((&line["addr"], &line["laddr"]), (&setup.addr(at), &setup.proxy.addr().to_owned()));
            let command = if at <= by { "client|list" } else { "client|id" };
            assert_eq!(line["cmd"], command);
        }
    }
    let (first, last) = (setup.id(0), setup.id(5));
    let some = lines(&setup.ask(2, &["CLIENT", "LIST", "ID", &last, "99999999", &first, &last]));
    let ids: Vec<&String> = some.iter().map(|line| &line["id"]).collect();
    assert_eq!(ids, [&last, &first], "each once");
    assert_eq!(lines(&setup.ask(3, &["CLIENT", "LIST", "TYPE", "normal"])).len(), 6);

    setup.ask(1, &["MULTI"]);
    setup.ask(1, &["SET", "a", "1"]);
    setup.ask(1, &["GET", "a"]);
    setup.ask(2, &["HELLO", "3"]);
    let listed = lines(&setup.ask(0, &["CLIENT", "LIST"]));
    assert_eq!((&*listed[1]["flags"], &*listed[1]["multi"], &*listed[1]["cmd"]), ("x", "2", "get"));
    assert_eq!((&*listed[2]["flags"], &*listed[2]["multi"], &*listed[2]["resp"]), ("N", "-1", "3"));
    setup.ask(2, &["RESET"]);
    let line = lines(&setup.ask(0, &["CLIENT", "LIST", "ID", &setup.clients[2].id.to_string()])).remove(0);
    assert_eq!((&*line["name"], &*line["resp"]), ("", "2"));
    eventually(SOON, || lines(&setup.ask(0, &["CLIENT", "LIST"])).iter().any(|line| line["idle"] != "0"));
}

#[test]
fn a_name_has_a_bound() {
    let mut setup = Setup::start();
    let (longest, longer) = ("n".repeat(1024), "n".repeat(1025));
    let refused = Value::error("ERR Client names have at most 1024 bytes at this proxy");
    assert_eq!(setup.ask(0, &["CLIENT", "SETNAME", &longest]), Value::ok());
    assert_eq!(setup.ask(0, &["CLIENT", "SETNAME", &longer]), refused);
    assert_eq!(setup.ask(0, &["HELLO", "2", "SETNAME", &longer]), refused);
    assert_eq!(setup.ask(0, &["CLIENT", "GETNAME"]), Value::bulk(&longest));
}

#[test]
fn a_client_that_is_asked_for_very_often_is_listed_once() {
    let mut setup = Setup::start();
    let (first, last) = (setup.id(0), setup.id(5));
    let mut request = vec!["CLIENT", "LIST", "ID", &last];
    request.extend(vec![&*first; 500_000]);
    assert_eq!(lines(&setup.ask(1, &request)).len(), 2);
}

#[test]
fn clients_are_killed_whatever_their_worker() {
    let mut setup = Setup::start();
    let (one, two, three) = (setup.id(1), setup.addr(2), setup.addr(3));
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "ID", &one]).int(), 1);
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "ADDR", &two]).int(), 1);
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", &three]), Value::ok());
    for at in [1, 2, 3] {
        has_ended(&mut setup.clients[at].client);
    }
    eventually(SOON, || lines(&setup.ask(0, &["CLIENT", "LIST"])).len() == 3);
    assert!(setup.ask(0, &["CLIENT", "KILL", &three]).is_error());
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "ID", &one]).int(), 0);
    // Not that old yet.
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "MAXAGE", "100000", "SKIPME", "no"]).int(), 0);
    let me = setup.id(0);
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "ID", &me]).int(), 0);
    let laddr = setup.proxy.addr().to_owned();
    assert_eq!(
        setup.ask(0, &["CLIENT", "KILL", "LADDR", &laddr, "TYPE", "normal", "USER", "default"]).int(),
        2
    );
    has_ended(&mut setup.clients[4].client);
    has_ended(&mut setup.clients[5].client);
    // What comes behind is not carried out, as by a server.
    let client = &mut setup.clients[0].client;
    client.send_raw(format!("CLIENT KILL ID {me} SKIPME no\r\nSET after 1\r\n"));
    assert_eq!(client.read_to_end_raw(), b":1\r\n");
    let mut other = setup.proxy.connect();
    assert_eq!(other.cmd(&["GET", "after"]), Value::NullBulk);
    let addr = other.local_addr().to_string();
    other.send_raw(format!("CLIENT KILL {addr}\r\n"));
    assert_eq!(other.read_to_end_raw(), b"+OK\r\n");
    eventually(SOON, || setup.proxy.metric("slotmux_clients_closed_total{reason=\"killed\"}") == 5.0);
}

#[test]
fn a_pause_of_writes_holds_those_of_all_clients_in_their_order() {
    let mut setup = Setup::start();
    assert_eq!(setup.ask(0, &["CLIENT", "PAUSE", "100000", "WRITE"]), Value::ok());
    // It gets neither shorter nor weaker.
    assert_eq!(setup.ask(0, &["CLIENT", "PAUSE", "1", "WRITE"]), Value::ok());
    let brief = Duration::from_millis(100);
    for (i, known) in setup.clients.iter_mut().enumerate().skip(1) {
        assert_eq!(known.client.cmd(&["GET", "a"]), Value::NullBulk);
        let (key, id) = (format!("k{i}"), i.to_string());
        known.client.send(&["APPEND", "all", &id]);
        // Nothing overtakes it.
        known.client.send(&["GET", &key]);
        known.client.send(&["SET", &key, "1"]);
        known.client.send(&["GET", &key]);
        known.client.expect_silence(if i == 5 { brief } else { Duration::from_millis(1) });
    }
    // One that does not wait any more is not followed by what it wanted.
    let mut gone = setup.proxy.connect();
    gone.send(&["SET", "gone", "1"]);
    gone.finish_sending();
    has_ended(&mut gone);
    assert_eq!(setup.ask(0, &["GET", "all"]), Value::NullBulk);
    assert_eq!(setup.ask(0, &["CLIENT", "UNPAUSE"]), Value::ok());
    for known in &mut setup.clients[1..] {
        assert!(known.client.read_value().int() >= 1);
        assert_eq!(known.client.read_values(3), [Value::NullBulk, Value::ok(), Value::bulk("1")]);
    }
    let mut all: Vec<u8> = setup.ask(0, &["GET", "all"]).text().into_bytes();
    all.sort_unstable();
    assert_eq!(all, b"12345");
    assert_eq!(setup.ask(0, &["GET", "gone"]), Value::NullBulk);
}

#[test]
fn a_pause_of_all_ends_by_itself() {
    const LENGTH: Duration = Duration::from_millis(400);
    let mut setup = Setup::start();
    setup.ask(2, &["MULTI"]);
    setup.ask(2, &["SET", "m", "1"]);
    let begun = Instant::now();
    assert_eq!(setup.ask(0, &["CLIENT", "PAUSE", "400"]), Value::ok());
    for known in &mut setup.clients {
        known.client.send(&["PING"]);
    }
    // Also one that comes during it.
    let mut new = setup.proxy.connect();
    assert_eq!(new.cmd(&["PING"]).text(), "PONG");
    assert!(begun.elapsed() >= LENGTH);
    for (at, known) in setup.clients.iter_mut().enumerate() {
        assert_eq!(known.client.read_value().text(), if at == 2 { "QUEUED" } else { "PONG" });
    }
    // EXEC of what was queued before is a write.
    let begun = Instant::now();
    assert_eq!(setup.ask(0, &["CLIENT", "PAUSE", "300", "WRITE"]), Value::ok());
    assert_eq!(setup.ask(2, &["EXEC"]).items().len(), 2);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn clients_that_wait_are_shown_unblocked_and_killed_whatever_their_worker() {
    let mut setup = Setup::start();
    for known in &mut setup.clients[1..4] {
        known.client.send(&["BLPOP", "queue", "0"]);
    }
    let blocked = |setup: &mut Setup| -> Vec<String> {
        let listed = lines(&setup.ask(0, &["CLIENT", "LIST"]));
        let waits = |line: &&BTreeMap<String, String>| line["flags"] == "b" && line["cmd"] == "blpop";
        listed.iter().filter(waits).map(|line| line["name"].clone()).collect()
    };
    eventually(SOON, || blocked(&mut setup) == ["client-1", "client-2", "client-3"]);
    let [one, two, three, four] = [1, 2, 3, 4].map(|at| setup.id(at));
    // Just before it is at the node nothing could end its wait there.
    eventually(SOON, || setup.ask(0, &["CLIENT", "UNBLOCK", &one]).int() == 1);
    assert_eq!(setup.clients[1].client.read_value(), Value::NullArray);
    eventually(SOON, || setup.ask(5, &["CLIENT", "UNBLOCK", &two, "ERROR"]).int() == 1);
    let error = setup.clients[2].client.read_value();
    assert!(error.text().starts_with("UNBLOCKED client unblocked via CLIENT UNBLOCK"), "{error:?}");
    assert_eq!(setup.ask(0, &["CLIENT", "UNBLOCK", &four]).int(), 0);
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "ID", &three]).int(), 1);
    has_ended(&mut setup.clients[3].client);
    eventually(SOON, || setup.proxy.metric("slotmux_clients") == 5.0);
    // Nobody takes it: the node has seen that the last one left.
    eventually(SOON, || {
        setup.ask(0, &["RPUSH", "queue", "x"]);
        setup.ask(0, &["LPOP", "queue"]) == Value::bulk("x")
    });
}

#[test]
fn subscribers_are_shown_and_killed_by_their_type() {
    let mut setup = Setup::start();
    for (at, words) in [(1, &["SUBSCRIBE", "a", "b"][..]), (2, &["PSUBSCRIBE", "p*"]), (3, &["MONITOR"])] {
        setup.clients[at].client.send(words);
        // A confirmation for each channel.
        setup.clients[at].client.read_values((words.len() - 1).max(1));
    }
    let listed = lines(&setup.ask(0, &["CLIENT", "LIST"]));
    let shown = |at: usize| ["flags", "sub", "psub", "ssub"].map(|field| listed[at][field].clone());
    assert_eq!(shown(0), ["N", "0", "0", "0"]);
    assert_eq!(shown(1), ["P", "2", "0", "0"]);
    assert_eq!(shown(2), ["P", "0", "1", "0"]);
    assert_eq!(shown(3), ["O", "0", "0", "0"]);
    assert_eq!(lines(&setup.ask(0, &["CLIENT", "LIST", "TYPE", "pubsub"])).len(), 2);
    assert_eq!(setup.ask(0, &["CLIENT", "KILL", "TYPE", "pubsub"]).int(), 2);
    has_ended(&mut setup.clients[1].client);
    has_ended(&mut setup.clients[2].client);
    eventually(SOON, || lines(&setup.ask(0, &["CLIENT", "LIST"])).len() == 4);
}

#[test]
fn clients_of_another_cluster_are_nobodys_business() {
    let clusters = [TestCluster::primaries(1), TestCluster::primaries(1)];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slotmux.yaml");
    let text = format!(
        "clusters:\n  a:\n    seeds: [{}]\n  b:\n    seeds: [{}]\nadmin: 127.0.0.1:0\nlisteners:\n  \
         - address: 127.0.0.1:0\n    cluster: a\n  - address: 127.0.0.1:0\n    cluster: b\n",
        clusters[0].seeds()[0],
        clusters[1].seeds()[0],
    );
    std::fs::write(&file, text).unwrap();
    let proxy = Proxy::with(&["--config", file.to_str().unwrap()], 2).start();
    let [mut a, mut b] = [0, 1].map(|at| Client::connect(&*proxy.addrs()[at]));
    for client in [&mut a, &mut b] {
        assert_eq!(client.cmd(&["PING"]).text(), "PONG");
    }
    let id = b.cmd(&["CLIENT", "ID"]).int().to_string();
    assert_eq!(lines(&a.cmd(&["CLIENT", "LIST"])).len(), 1);
    assert_eq!(a.cmd(&["CLIENT", "KILL", "ID", &id]).int(), 0);
    assert_eq!(a.cmd(&["CLIENT", "PAUSE", "100000"]), Value::ok());
    assert_eq!(b.cmd(&["SET", "k", "v"]), Value::ok());
}
