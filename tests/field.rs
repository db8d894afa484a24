//! What people's first pages about a proxy do, with clients of today and of old.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use support::{Proxy, SOON, TestCluster, eventually, python, python_of_old, script};

#[track_caller]
fn run(python: &Path, name: &str, proxy: &Proxy) -> Output {
    let (host, port) = proxy.addr().rsplit_once(':').unwrap();
    let mut command = Command::new(python);
    command.args(["-W", "ignore::DeprecationWarning"]).arg(script(name)).args([host, port]);
    let output = command.output().unwrap();
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success(), "{command:?}:\n{said}");
    output
}

#[test]
fn strict_redis_does_what_tutorials_do() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    for python in [python(), python_of_old()] {
        assert_eq!(run(python, "field_strict_redis.py", &proxy).stdout, b"done\n");
    }
}

/// A connection for each command: one inline line, 32 bytes read at once, closed.
fn once(proxy: &Proxy, line: &str) -> String {
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut reply = [0; 32];
    let length = stream.read(&mut reply).unwrap();
    String::from_utf8_lossy(&reply[..length]).into_owned()
}

#[test]
fn a_connection_for_each_inline_command_leaves_nothing_behind() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    let resident = || proxy.metric("process_resident_memory_bytes");
    let load = || {
        thread::scope(|scope| {
            for me in 0..THREADS {
                let proxy = &proxy;
                scope.spawn(move || {
                    for i in 0..ROUNDS {
                        assert_eq!(once(proxy, &format!("SET foo:{me} {i}\r\n")), "+OK\r\n");
                        let value = i.to_string();
                        let expected = format!("${}\r\n{value}\r\n", value.len());
                        assert_eq!(once(proxy, &format!("GET foo:{me}\r\n")), expected);
                        let counted: usize = once(proxy, "INCR n\r\n")[1..].trim_end().parse().unwrap();
                        assert!(counted > i);
                    }
                });
            }
        });
        eventually(SOON, || proxy.metric("slotmux_clients") == 0.0);
    };
    // The links to the nodes, and what a worker keeps for good.
    load();
    let (files, memory) = (descriptors(), resident());
    load();
    assert_eq!(once(&proxy, "GET n\r\n"), "$4\r\n2400\r\n");
    // The connection of that line, or of a scrape, may still be closing.
    eventually(SOON, || descriptors() <= files);
    let more = resident() - memory;
    assert!(more < 2e6, "{more} bytes more after {} connections", THREADS * ROUNDS * 3);
}
