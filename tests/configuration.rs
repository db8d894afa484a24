//! A configuration file as a user writes it: checked, and served with several clusters and listeners.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Output;

use support::{Client, Proxy, SOON, TestCluster, Value, eventually};

fn slotmux(args: &[&str]) -> Output {
    Proxy::command().args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn written(folder: &Path, yaml: &str) -> String {
    let file = folder.join("slotmux.yaml");
    std::fs::write(&file, yaml).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn check_says_what_a_file_describes_or_all_that_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let good = written(folder.path(), "workers: 2\nclusters: { main: { seeds: [\"a:1\"] } }\n");
    let checked = slotmux(&["check", &good]);
    assert_eq!(checked.status.code(), Some(0));
    assert_eq!(stdout(&checked), format!("{good}: ok: 2 workers; 127.0.0.1:6379 for main\n"));

    let bad = written(folder.path(), "worker: 2\nclusters: { main: { seeds: [\"a\"] } }\n");
    for args in [&["check", &bad][..], &["--config", &bad]] {
        let refused = slotmux(args);
        assert_eq!((refused.status.code(), stdout(&refused)), (Some(64), String::new()));
        let said = String::from_utf8(refused.stderr).unwrap();
        let missing = "clusters.main.seeds[0]: `a` is no address: the port is missing, write HOST:PORT";
        for line in ["worker: there is no such key; is `workers` meant?", missing] {
            assert!(said.contains(&format!("error: {bad}: {line}\n")), "{line} is missing in:\n{said}");
        }
    }
}

#[test]
fn each_listener_serves_its_cluster_by_its_own_settings() {
    let (one, two) = (TestCluster::primaries(3), TestCluster::primaries(3));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("two.sock");
    let yaml = format!(
        "admin: 127.0.0.1:0\nworkers: 2\nclusters:\n  one: {{ seeds: {:?} }}\n  two: {{ seeds: {:?} }}\nlisteners:\n\
         - {{ address: 127.0.0.1:0, cluster: one, max_arguments: 16 }}\n\
         - {{ address: 127.0.0.1:0, cluster: two, passwords: [\"${{NEW}}\", old] }}\n\
         - {{ address: unix:{}, cluster: two, mode: \"0640\" }}\n",
        one.seeds(),
        two.seeds(),
        socket.display()
    );
    let file = written(folder.path(), &yaml);
    let proxy = Proxy::with(&["--config", &file], 3).env("NEW", "fresh").start();
    let [first, second, third] = proxy.addrs() else { panic!("{:?}", proxy.addrs()) };
    assert_eq!(*third, format!("unix:{}", socket.display()));

    let (mut one_client, mut two_client) = (Client::connect(first), Client::connect(second));
    assert_eq!(two_client.cmd(&["GET", "k"]), Value::error("NOAUTH Authentication required."));
    for password in ["old", "fresh"] {
        assert_eq!(two_client.cmd(&["AUTH", password]), Value::ok());
    }
    for i in 0..100 {
        let key = format!("k{i}");
        assert_eq!(one_client.cmd(&["SET", &key, "one"]), Value::ok());
        assert_eq!(two_client.cmd(&["SET", &key, "two"]), Value::ok());
        assert_eq!(one_client.cmd(&["GET", &key]), Value::bulk("one"));
    }
    assert_eq!(
        (one_client.cmd(&["DBSIZE"]), two_client.cmd(&["DBSIZE"])),
        (Value::Int(100), Value::Int(100))
    );
    one_client.send(&["x"; 17]);
    assert_eq!(one_client.read_value(), Value::error("ERR Protocol error: invalid multibulk length"));
    assert!(two_client.cmd(&["MGET"; 17]).items().len() == 16, "the bound is the first listener's own");

    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o640);
    let mut local = UnixStream::connect(&socket).unwrap();
    local.write_all(b"GET k7\r\n").unwrap();
    let mut reply = [0; 9];
    local.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"$3\r\ntwo\r\n");
}

#[test]
fn a_cluster_that_is_down_concerns_its_own_clients_alone() {
    let one = TestCluster::primaries(3);
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "admin: 127.0.0.1:0\ncommand_deadline: 300ms\nclusters: {{ one: {{ seeds: {:?} }}, none: {{ seeds: [\"127.0.0.1:1\"] }} }}\n\
         listeners: [{{ address: 127.0.0.1:0, cluster: one }}, {{ address: 127.0.0.1:0, cluster: none }}]\n",
        one.seeds(),
    );
    let proxy = Proxy::with(&["--config", &written(folder.path(), &yaml)], 2).start();
    let [first, second] = proxy.addrs() else { panic!("{:?}", proxy.addrs()) };
    eventually(SOON, || Client::connect(first).cmd(&["SET", "k", "v"]) == Value::ok());
    let down = Client::connect(second).cmd(&["GET", "k"]).text();
    assert!(down.starts_with("CLUSTERDOWN "), "{down}");
    assert_eq!(Client::connect(first).cmd(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(proxy.get("/readyz").0, 200, "commands for the other one wait");
}

#[test]
fn health_tells_whether_the_proxy_is_ready() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let health = |admin: &str| {
        let output = slotmux(&["health", "--admin", admin]);
        (output.status.code(), stdout(&output))
    };
    eventually(SOON, || health(proxy.admin_addr()).0 == Some(0));
    assert_eq!(health(proxy.admin_addr()).1, "ready: ok\n");
    let waiting = Proxy::start(&["127.0.0.1:1"]);
    assert_eq!(health(waiting.admin_addr()), (Some(1), "not ready: no slot table yet\n".to_owned()));
    let gone = proxy.admin_addr().to_owned();
    assert_eq!(proxy.stop().code(), Some(0));
    let (code, said) = health(&gone);
    assert!(code == Some(1) && said.starts_with(&format!("not running: {gone} does not answer: ")), "{said}");
}
