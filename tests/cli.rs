//! The program as a user starts it: exit codes, what it prints, and how it stops.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn slotmux() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slotmux"));
    for name in ["SLOTMUX_CLUSTER_PASSWORD", "SLOTMUX_CLUSTER_USER", "SLOTMUX_CLIENT_PASSWORD"] {
        command.env_remove(name);
    }
    command
}

fn output(line: &str) -> Output {
    slotmux().args(line.split_whitespace()).output().unwrap()
}

/// A running proxy; killed if the test fails before it stops by itself.
struct Proxy {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Proxy {
    fn start(line: &str) -> Self {
        Self::start_by(slotmux(), line)
    }

    fn start_by(mut program: Command, line: &str) -> Self {
        let args = line.split_whitespace().chain(["--seeds", "127.0.0.1:1", "--workers", "2"]);
        let piped = program.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = piped.unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        Self { child, stdout, stderr }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let help = output("--help");
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for flag in ["--seeds", "--listen", "--admin", "--workers", "--command-deadline", "demo"] {
        assert!(text.contains(flag), "{flag} is missing in:\n{text}");
    }
    let version = output("--version");
    assert_eq!(version.status.code(), Some(0));
    let expected = format!("slotmux {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
}

#[test]
fn bad_usage_lists_every_mistake_and_exits_with_64() {
    let unknown = output("--no-such-flag");
    assert_eq!(unknown.status.code(), Some(64));
    let wrong = output("--listen 6379 --workers 0 --command-deadline soon");
    assert_eq!(wrong.status.code(), Some(64));
    let text = String::from_utf8(wrong.stderr).unwrap();
    for flag in [
        "--seeds: name at least one node",
        "--listen: `6379`",
        "--workers: `0`",
        "--command-deadline: `soon`",
    ] {
        assert!(text.contains(flag), "{flag} is missing in:\n{text}");
    }
}

#[test]
fn an_open_listener_needs_a_password_or_the_word_for_it() {
    let refused = output("--seeds 127.0.0.1:1 --listen 0.0.0.0:0");
    assert_eq!(refused.status.code(), Some(64));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("no client password is set") && text.contains("--unprotected"), "{text}");

    let mut open = Proxy::start("--listen 0.0.0.0:0 --unprotected --admin off");
    assert!(open.line().starts_with("listening on 0.0.0.0:"));
}

#[test]
fn a_port_that_is_taken_exits_with_1_and_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let failed = output(&format!("--seeds 127.0.0.1:1 --admin off --listen {addr}"));
    assert_eq!(failed.status.code(), Some(1));
    let text = String::from_utf8(failed.stderr).unwrap();
    assert!(text.contains(&format!("cannot listen on {addr}: another process already does")), "{text}");
}

#[test]
fn ports_are_printed_and_both_signals_stop_it_with_0() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s.sock");
        let flags = format!("--listen 127.0.0.1:0 --listen unix:{} --admin 127.0.0.1:0", socket.display());
        let mut proxy = Proxy::start(&flags);
        let client_addr = proxy.line().strip_prefix("listening on ").unwrap().to_owned();
        assert_eq!(proxy.line(), format!("listening on unix:{}", socket.display()));
        let admin_addr = proxy.line().strip_prefix("admin on ").unwrap().to_owned();

        let mut client = TcpStream::connect(client_addr).unwrap();
        let mut admin = TcpStream::connect(admin_addr).unwrap();
        admin.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut page = String::new();
        admin.read_to_string(&mut page).unwrap();
        assert!(page.ends_with("\r\n\r\nok\n"), "{page}");

        let stopped = Instant::now();
        proxy.signal(signal);
        assert_eq!(proxy.exit_code(), Some(0), "{signal}");
        assert!(stopped.elapsed() < Duration::from_secs(8), "an idle client does not hold it up");
        assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0, "and is closed");
        assert!(!socket.exists(), "the socket's file is removed");
    }
}

#[test]
fn it_serves_on_when_nobody_reads_its_output() {
    let mut proxy = Proxy::start("--listen 127.0.0.1:0 --admin off --max-clients 1");
    let addr = proxy.line().strip_prefix("listening on ").unwrap().to_owned();
    drop(std::mem::replace(&mut proxy.stderr, closed_stderr()));
    let first = TcpStream::connect(&addr).unwrap();
    // The refusal is logged, on a stderr that is closed.
    let mut text = String::new();
    TcpStream::connect(&addr).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "-ERR max number of clients reached\r\n");
    drop(first);
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn it_goes_on_after_running_out_of_descriptors() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_slotmux")]);
    let mut proxy = Proxy::start_by(shell, "--listen 127.0.0.1:0 --admin 127.0.0.1:0");
    let addr = proxy.line().strip_prefix("listening on ").unwrap().to_owned();
    let admin = proxy.line().strip_prefix("admin on ").unwrap().to_owned();
    let mut log = BufReader::new(&mut proxy.stderr);
    let mut wait_for = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the log ended before `{text}`");
        }
    };
    wait_for("the limit of open files is too low");
    let scrapers: Vec<_> = (0..60).map(|_| TcpStream::connect(&admin).unwrap()).collect();
    wait_for("the admin listener cannot accept");
    // One may get the descriptor that a dial had for a moment.
    let waiting: Vec<_> = (0..4).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    wait_for("acceptor: cannot accept; trying again");
    drop(scrapers);
    wait_for("accepting again");
    // Clients alone leave some over: the last ones are told that there is no room.
    let clients: Vec<_> = (0..60).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    wait_for("max_clients reached");
    drop((waiting, clients));
    let mut page = String::new();
    let mut scraper = TcpStream::connect(&admin).unwrap();
    scraper.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    scraper.read_to_string(&mut page).unwrap();
    assert!(page.ends_with("ok\n"), "{page}");
    let mut client = TcpStream::connect(&addr).unwrap();
    client.write_all(b"PING\r\n").unwrap();
    let mut pong = [0; 7];
    client.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}

/// Somebody else's stderr, to put in the place of one that is to be closed.
fn closed_stderr() -> ChildStderr {
    let mut child = Command::new("true").stderr(Stdio::piped()).spawn().unwrap();
    child.wait().unwrap();
    child.stderr.take().unwrap()
}
