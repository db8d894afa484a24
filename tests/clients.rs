//! Clients as people use them.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use redis::{Commands, RedisError};
use support::{Proxy, TestCluster, node_modules, python};

/// A cluster and a proxy on an address that a second one can take over.
struct Setup {
    cluster: TestCluster,
    proxy: Option<Proxy>,
    host: &'static str,
    port: String,
}

impl Setup {
    fn start() -> Self {
        // Nobody else binds a port of this address of the machine's own.
        let host = "127.0.0.2";
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port().to_string();
        let mut setup = Self { cluster: TestCluster::primaries(3), proxy: None, host, port };
        setup.restart();
        setup
    }

    fn restart(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            assert_eq!(proxy.stop().code(), Some(0));
        }
        let listen = self.addr();
        self.proxy = Some(Proxy::for_seeds(&self.cluster.seeds()).args(&["--listen", &listen]).start());
    }

    fn addr(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Runs a client's script, which asks for a restart of the proxy in its middle.
    #[track_caller]
    fn run(&mut self, mut script: Command) {
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if line == "restart" {
                self.restart();
                child.stdin.as_ref().unwrap().write_all(b"restarted\n").unwrap();
            }
            said.push(line);
        }
        assert!(child.wait().unwrap().success(), "{script:?}");
        assert_eq!(said, ["restart", "done"]);
    }

    fn redis_cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-h", self.host, "-p", &self.port]).args(args);
        command
    }
}

fn node(setup: &Setup, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", node_modules()).arg(support::script(script));
    command.args([setup.host, &setup.port]).args(args);
    command
}

/// Feeds a command, which must succeed; what it printed.
#[track_caller]
fn output(mut command: Command, input: &str) -> String {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // On a thread: it may print before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_cli_speaks_both_protocols() {
    let setup = Setup::start();
    for protocol in ["-2", "-3"] {
        let cli = |args: &[&str]| output(setup.redis_cli(&[&[protocol], args].concat()), "");
        assert_eq!(cli(&["FLUSHALL"]), "OK\n");
        assert_eq!(cli(&["SET", "k", "a b"]), "OK\n");
        assert_eq!(cli(&["GET", "k"]), "a b\n");
        assert_eq!(cli(&["MSET", "a", "1", "b", "2", "c", "3"]), "OK\n");
        assert_eq!(cli(&["MGET", "a", "c"]), "1\n3\n");
        assert_eq!(cli(&["--no-raw", "HSET", "h", "f", "v"]), "(integer) 1\n");
        assert_eq!(cli(&["-r", "3", "INCR", "n"]), "1\n2\n3\n");
        let info = cli(&["INFO", "server", "cluster"]);
        assert!(info.starts_with("# Server\r\nredis_version:"), "{info}");
        assert!(info.trim_end().ends_with("# Cluster\r\ncluster_enabled:0"), "{info}");
        assert!(cli(&["INFO"]).contains("loading:0\r\n"));
        assert_eq!(cli(&["INFO", "nothing"]).trim_end(), "");
        assert_eq!(cli(&["--no-raw", "MULTI"]), "OK\n");
        assert_eq!(output(setup.redis_cli(&[protocol, "-x", "SET", "x"]), "from stdin"), "OK\n");
        let script = "SET s 1\nINCR s\n\nGET \"s\"\nnonsense\nPING\n";
        let expected = "OK\n2\n2\nERR unknown command 'nonsense', with args beginning with: \n\nPONG\n";
        assert_eq!(output(setup.redis_cli(&[protocol]), script), expected);
    }
    assert_eq!(output(setup.redis_cli(&["--eval", "/dev/stdin", "k", ",", "x"]), "return ARGV[1]"), "x\n");
}

#[test]
fn redis_cli_loads_by_mass_insertion() {
    let setup = Setup::start();
    let resp: String = (0..20_000)
        .map(|i| String::from_utf8(support::encode(&["SET", &format!("key:{i}"), &i.to_string()])).unwrap())
        .collect();
    let said = output(setup.redis_cli(&["--pipe"]), &resp);
    assert!(said.contains("errors: 0, replies: 20000"), "{said}");
    let inline: String = (0..5_000).map(|i| format!("INCR key:{i}\r\nLPUSH key:{i} x\r\n")).collect();
    let mut pipe = setup.redis_cli(&["--pipe"]);
    let said = {
        // Errors make it fail at the end, as they should.
        let mut child =
            pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(inline.as_bytes()));
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        writer.join().unwrap().unwrap();
        said
    };
    assert!(said.contains("errors: 5000, replies: 10000"), "{said}");
    assert_eq!(output(setup.redis_cli(&["DBSIZE"]), ""), "20000\n");
    assert_eq!(output(setup.redis_cli(&["MGET", "key:0", "key:4999", "key:19999"]), ""), "1\n5000\n19999\n");
}

#[test]
fn redis_benchmark_runs_all_that_is_there() {
    let setup = Setup::start();
    let tests = "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset";
    for more in [&["-P", "1"][..], &["-P", "32"], &["-P", "16", "--threads", "2"]] {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", setup.host, "-p", &setup.port, "-n", "2000", "-c", "20", "-r", "1000", "--csv"]);
        let said = output_of(command.args(["-t", tests]).args(more));
        for test in
            ["PING_INLINE", "PING_MBULK", "SET", "GET", "SPOP", "ZPOPMIN", "LRANGE_100", "MSET (10 keys)"]
        {
            assert!(said.contains(&format!("\"{test}")), "{test} is missing in:\n{said}");
        }
    }
}

#[track_caller]
fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_py_works() {
    let mut setup = Setup::start();
    for protocol in ["2", "3"] {
        let mut command = Command::new(python());
        command.arg(support::script("redis_py.py")).args([setup.host, &setup.port, protocol]);
        setup.run(command);
    }
}

#[test]
fn ioredis_works() {
    let mut setup = Setup::start();
    let command = node(&setup, "ioredis.js", &[]);
    setup.run(command);
}

#[test]
fn node_redis_works() {
    let mut setup = Setup::start();
    for protocol in ["2", "3"] {
        let command = node(&setup, "node_redis.js", &[protocol]);
        setup.run(command);
    }
}

#[test]
fn the_redis_crate_works() {
    let mut setup = Setup::start();
    for query in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://{}/{query}", setup.addr())).unwrap();
        let mut connection = client.get_connection().unwrap();
        the_crates_calls(&mut connection).unwrap();
        setup.restart();
        assert!(connection.get::<_, String>("s").is_err(), "its connection has ended");
        let mut connection = client.get_connection().unwrap();
        assert_eq!(connection.get::<_, String>("s").unwrap(), "v");
    }
}

fn the_crates_calls(connection: &mut redis::Connection) -> Result<(), RedisError> {
    redis::cmd("FLUSHALL").exec(connection)?;
    redis::cmd("CLIENT").arg("SETNAME").arg("crate").exec(connection)?;
    assert_eq!(redis::cmd("CLIENT").arg("GETNAME").query::<String>(connection)?, "crate");
    let () = connection.set("s", "v")?;
    assert_eq!(connection.get::<_, Option<String>>("absent")?, None);
    assert_eq!(connection.rpush::<_, _, i64>("l", &["a", "b"])?, 2);
    assert_eq!(connection.lrange::<_, Vec<String>>("l", 0, -1)?, ["a", "b"]);
    let () = connection.hset_multiple("h", &[("a", 1), ("b", 2)])?;
    assert_eq!(connection.hgetall::<_, std::collections::BTreeMap<String, i64>>("h")?.len(), 2);
    let () = connection.zadd("z", "m", 2.5)?;
    assert_eq!(connection.zrange_withscores::<_, Vec<(String, f64)>>("z", 0, -1)?, [("m".to_owned(), 2.5)]);
    let pairs: Vec<(String, i64)> = (0..500).map(|i| (format!("k{i}"), i)).collect();
    let () = connection.mset(&pairs)?;
    let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
    let values: Vec<i64> = connection.mget(&keys)?;
    assert!(values.into_iter().eq(0..500));
    assert_eq!(connection.del::<_, i64>(&keys)?, 500);
    let mut pipeline = redis::pipe();
    for i in 0..2_000 {
        pipeline.incr(format!("n{}", i % 100), 1);
    }
    let counts: Vec<i64> = pipeline.query(connection)?;
    assert!(counts.into_iter().eq((0..2_000).map(|i| i / 100 + 1)));
    let script = redis::Script::new("return redis.call('GET', KEYS[1]) * ARGV[1]");
    assert_eq!(script.key("n7").arg(2).invoke::<i64>(connection)?, 40);
    let wrong = connection.lpush::<_, _, i64>("s", "x").unwrap_err();
    assert!(wrong.to_string().contains("WRONGTYPE"), "{wrong}");
    Ok(())
}
