//! Nothing of one client reaches another: whatever one sends, the others' replies stay what they were, and the shared
//! connections to the nodes stay as they were made.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use slotmux::command::{Spec, table};
use support::{Client, Proxy, SOON, TestCluster, encode, eventually};

/// What stands for every argument in turn: numbers, a key, and the words that change a connection.
const WORDS: [&str; 8] = ["1", "0", "k", "OFF", "ON", "SKIP", "3", "*"];
/// An answer that has not come by then will not: the command blocks, or silenced its client. On a busy machine a command
/// may take longer; then it is cut off, and another client begins.
const PATIENCE: Duration = Duration::from_millis(50);
const CLEAR: &str = "redis.call('DEL', KEYS[1]) return 'gone'";
const MARKER: &str = "here ends what this command did";

/// Who sends everything, and does not care for what comes back.
struct Intruder {
    addr: String,
    hello: Vec<u8>,
    stream: Option<TcpStream>,
}

impl Intruder {
    fn new(proxy: &Proxy, protocol: &str) -> Self {
        Self { addr: proxy.addr().to_owned(), hello: encode(&["HELLO", protocol]), stream: None }
    }

    /// Sends the requests, and waits until they were carried out.
    fn send(&mut self, requests: &[Vec<&str>]) {
        if self.try_send(requests).is_none() {
            self.stream = None;
        }
    }

    /// None if the connection is of no use any more.
    fn try_send(&mut self, requests: &[Vec<&str>]) -> Option<()> {
        let mut bytes = Vec::new();
        if self.stream.is_none() {
            self.stream = Some(TcpStream::connect(&self.addr).unwrap());
            bytes.extend_from_slice(&self.hello);
        }
        let stream = self.stream.as_mut()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        requests.iter().for_each(|request| bytes.extend(encode(request)));
        bytes.extend(encode(&["PING", MARKER]));
        stream.write_all(&bytes).ok()?;
        let (mut got, mut chunk) = (Vec::new(), [0; 65_536]);
        let marker = MARKER.as_bytes();
        loop {
            let count = match stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            got.extend_from_slice(&chunk[..count]);
            if got.windows(marker.len()).any(|window| window == marker) {
                return Some(());
            }
        }
    }
}

/// Who does the same again and again, on keys of all nodes.
struct Watcher {
    client: Client,
    requests: Vec<u8>,
    expected: Vec<u8>,
}

impl Watcher {
    fn new(proxy: &Proxy, name: &str, protocol: &str) -> Self {
        let mut client = proxy.connect();
        client.cmd(&["HELLO", protocol, "SETNAME", name]);
        let mut requests = Vec::new();
        for i in 0..4 {
            let [string, number, hash, list] = ["s", "n", "h", "l"].map(|kind| format!("{name}:{kind}:{i}"));
            for words in [
                &["SET", &string, name][..],
                &["GET", &string],
                &["SET", &number, "5"],
                &["INCR", &number],
                // Both may have gone with all keys.
                &["EVAL", CLEAR, "1", &hash],
                &["EVAL", CLEAR, "1", &list],
                &["HSET", &hash, "f", name],
                &["HGETALL", &hash],
                &["RPUSH", &list, "a", "b"],
                &["LPOP", &list],
                &["LPUSH", &string, "x"],
                &["GET", "absent"],
                &["MGET", &string, &number, "absent"],
                &["EVAL", "return {KEYS[1], ARGV[1], 7}", "1", &string, name],
                &["CLIENT", "GETNAME"],
                &["PING", name],
                &["ECHO", name],
            ] {
                requests.extend(encode(words));
            }
        }
        let mut watcher = Self { client, requests, expected: Vec::new() };
        watcher.expected = watcher.replies();
        // Not what a first time makes different.
        for _ in 0..2 {
            watcher.watch("nothing at all");
        }
        watcher
    }

    /// The replies, up to the one that ends them.
    fn replies(&mut self) -> Vec<u8> {
        self.client.send_raw(&self.requests);
        self.client.send_raw(encode(&["PING", MARKER]));
        let end = format!("{MARKER}\r\n").into_bytes();
        let mut bytes = Vec::new();
        while !bytes.ends_with(&end) {
            bytes.extend(self.client.read_exact_raw(1));
        }
        bytes
    }

    #[track_caller]
    fn watch(&mut self, after: &str) {
        self.client.send_raw(&self.requests);
        self.client.send_raw(encode(&["PING", MARKER]));
        let got = self.client.read_exact_raw(self.expected.len());
        let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
        assert!(got == self.expected, "after {after}:\n{}\ninstead of\n{}", show(&got), show(&self.expected));
    }
}

/// The requests that a row of the table stands for: of each number of arguments that makes sense, each word.
fn requests(spec: &'static Spec) -> Vec<Vec<&'static str>> {
    let name: Vec<&str> = spec.name.split(' ').collect();
    let least = usize::from(spec.arity.unsigned_abs()).max(name.len());
    let most = if spec.arity < 0 { least + 2 } else { least };
    let mut all = Vec::new();
    for length in least..=most {
        for word in WORDS {
            let mut request = name.clone();
            request.resize(length, word);
            all.push(request);
            if length == name.len() {
                break;
            }
        }
    }
    // A key, and then words.
    for word in ["OFF", "1"] {
        let mut request = name.clone();
        request.push("k");
        if request.len() < most {
            request.resize(most, word);
            all.push(request);
        }
    }
    all
}

/// Of each connection of the proxy to a node what must not change, by the node and the connection's number.
fn connections(cluster: &TestCluster) -> BTreeMap<(String, String), BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for seed in cluster.seeds() {
        let text = Client::connect(&*seed).cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
        for line in text.lines() {
            let fields = line.split(' ').filter_map(|field| field.split_once('='));
            let fields: BTreeMap<String, String> =
                fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let kept = ["name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp"];
            let fixed = kept.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?.clone())));
            found.insert((seed.clone(), fields["id"].clone()), fixed.collect());
        }
    }
    found
}

#[test]
fn no_command_changes_what_other_clients_are_answered() {
    let cluster = TestCluster::primaries(3);
    // All clients share the same few connections.
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let mut watchers = [("one", "2"), ("two", "2"), ("three", "3")]
        .map(|(name, protocol)| Watcher::new(&proxy, name, protocol));
    let before = connections(&cluster);
    let links = proxy.metric("slotmux_node_links_lost_total");
    for protocol in ["2", "3"] {
        let mut intruder = Intruder::new(&proxy, protocol);
        for spec in table() {
            for request in requests(spec) {
                intruder.send(std::slice::from_ref(&request));
                let [multi, exec] = ["MULTI", "EXEC"].map(|word| vec![word]);
                intruder.send(&[multi, request.clone(), exec]);
                for watcher in &mut watchers {
                    watcher.watch(&request.join(" "));
                }
            }
        }
    }
    drop(watchers);
    // The nodes' side of it: the connections that were there are, and nothing about them has changed.
    assert_eq!(proxy.metric("slotmux_node_links_lost_total"), links);
    let (after, shared) = (connections(&cluster), |one: &(String, String)| before.contains_key(one));
    for (connection, state) in &before {
        // Of those that this test made itself only the proxy's are still there.
        if let Some(now) = after.get(connection) {
            assert_eq!(now, state, "{connection:?}");
        }
    }
    assert!(after.keys().filter(|connection| shared(connection)).count() >= 6, "{after:#?}");
    eventually(SOON, || proxy.metric("slotmux_clients") == 0.0);
}
