//! What applications build on clients: transactions, optimistic locking, scripts, queues, streams and locks, with the
//! clients that people use.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Client, Commands, Connection, RedisResult, Script, Value};
use support::{Proxy, SOON, TestCluster, node_modules, python, script};

/// As long a script may take on a busy machine.
const LONGEST: Duration = Duration::from_secs(120);

fn start(args: &[&str]) -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).args(args).start();
    (cluster, proxy)
}

/// Runs a script with the proxy's address and more arguments; it must succeed.
#[track_caller]
fn run(mut program: Command, name: &str, proxy: &Proxy, args: &[&str]) {
    let (host, port) = proxy.addr().rsplit_once(':').unwrap();
    program.arg(script(name)).args([host, port]).args(args);
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    let pid = child.id();
    let (done, ended) = mpsc::sync_channel(1);
    thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(LONGEST) else {
        support::signal(pid, "KILL");
        panic!("{program:?} does not end");
    };
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.ends_with("done\n"), "{program:?}:\n{said}{complained}");
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", node_modules());
    command
}

#[test]
fn redis_py_does_what_applications_build_on_it() {
    let (_cluster, proxy) = start(&[]);
    for protocol in ["2", "3"] {
        let features = [
            "transactions",
            "uncrossed",
            "scripts",
            "streams",
            "blocking",
            "locks",
            "watches",
            "scans",
            "messages",
        ];
        run(Command::new(python()), "redis_py_features.py", &proxy, &[&[protocol], &features[..]].concat());
    }
}

#[test]
fn redis_py_needs_no_hash_tags_where_transactions_are_made_per_slot() {
    let (_cluster, proxy) = start(&["--cross-slot-transactions", "per_slot"]);
    for protocol in ["2", "3"] {
        let features = ["crossing", "transactions", "scripts", "locks", "watches"];
        run(Command::new(python()), "redis_py_features.py", &proxy, &[&[protocol], &features[..]].concat());
    }
}

#[test]
fn ioredis_does_what_applications_build_on_it() {
    let (_cluster, proxy) = start(&[]);
    let features = ["transactions", "watches", "scripts", "blocking", "streams", "scans", "messages"];
    run(node(), "ioredis_features.js", &proxy, &features);
}

#[test]
fn node_redis_does_what_applications_build_on_it() {
    let (_cluster, proxy) = start(&[]);
    for protocol in ["2", "3"] {
        let features = ["transactions", "watches", "scripts", "blocking", "streams", "scans", "messages"];
        run(node(), "node_redis_features.js", &proxy, &[&[protocol], &features[..]].concat());
    }
}

#[test]
fn bullmq_works_its_queues() {
    let (_cluster, proxy) = start(&[]);
    run(node(), "bullmq.js", &proxy, &[]);
}

#[test]
fn celery_works_its_tasks() {
    let (_cluster, proxy) = start(&[]);
    run(Command::new(python()), "celery_tasks.py", &proxy, &["tasks", "results", "control"]);
}

fn client(proxy: &Proxy, protocol: &str) -> Client {
    Client::open(format!("redis://{}/{protocol}", proxy.addr())).unwrap()
}

fn connection(proxy: &Proxy, protocol: &str) -> Connection {
    let connection = client(proxy, protocol).get_connection().unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    connection
}

#[test]
fn the_redis_crate_does_what_applications_build_on_it() {
    let (_cluster, proxy) = start(&[]);
    for protocol in ["", "?protocol=resp3"] {
        let mut connection = connection(&proxy, protocol);
        redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
        transactions(&mut connection).unwrap();
        optimistic_locking(&proxy, protocol);
        streams(&mut connection).unwrap();
        blocking(&proxy, protocol);
        messages(&proxy, protocol).unwrap();
    }
}

fn transactions(connection: &mut Connection) -> RedisResult<()> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    (0..100).for_each(|i| {
        pipe.set(format!("{{t}}{i}"), i).ignore().incr(format!("{{t}}{i}"), 1);
    });
    let counts: Vec<i64> = pipe.query(connection)?;
    assert!(counts.into_iter().eq(1..=100));
    let wrong: RedisResult<Value> =
        redis::pipe().atomic().set("{t}s", "v").lpush("{t}s", "x").query(connection);
    assert!(wrong.unwrap_err().to_string().contains("WRONGTYPE"));
    let crossing: RedisResult<Value> = redis::pipe().atomic().set("a", 1).set("b", 2).query(connection);
    assert!(crossing.unwrap_err().to_string().contains("cross_slot_transactions"));
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for i in 0..50 {
        assert_eq!(script.key(format!("script{i}")).arg(i).invoke::<i64>(connection)?, i);
    }
    Ok(())
}

fn optimistic_locking(proxy: &Proxy, protocol: &str) {
    const THREADS: i64 = 4;
    const EACH: i64 = 20;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut connection = connection(proxy, protocol);
                for _ in 0..EACH {
                    let key = "{lock}n";
                    let added: RedisResult<()> =
                        redis::transaction(&mut connection, &[key], |connection, pipe| {
                            let old: Option<i64> = connection.get(key)?;
                            pipe.set(key, old.unwrap_or(0) + 1).ignore().query(connection)
                        });
                    added.unwrap();
                }
            });
        }
    });
    assert_eq!(connection(proxy, protocol).get::<_, i64>("{lock}n").unwrap(), THREADS * EACH);
}

fn streams(connection: &mut Connection) -> RedisResult<()> {
    let () = connection.xgroup_create_mkstream("{s}s", "g", "$")?;
    let id: String = connection.xadd("{s}s", "*", &[("f", "v")])?;
    let options = StreamReadOptions::default().group("g", "c").block(5_000);
    let read: StreamReadReply = connection.xread_options(&["{s}s"], &[">"], &options)?;
    assert_eq!(read.keys[0].ids[0].id, id);
    assert_eq!(connection.xack::<_, _, _, i64>("{s}s", "g", &[&id])?, 1);
    let options = StreamReadOptions::default().block(100);
    let none: Option<StreamReadReply> = connection.xread_options(&["{s}s"], &["$"], &options)?;
    assert!(none.is_none_or(|read| read.keys.is_empty()));
    Ok(())
}

fn blocking(proxy: &Proxy, protocol: &str) {
    let (mut pusher, mut popper) = (connection(proxy, protocol), connection(proxy, protocol));
    let waits =
        thread::spawn(move || popper.blpop::<_, Option<(String, String)>>(&["{b}none", "{b}l"], 15.0));
    thread::sleep(Duration::from_millis(200));
    let () = pusher.rpush("{b}l", "x").unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), Some(("{b}l".to_owned(), "x".to_owned())));
    let begun = Instant::now();
    assert_eq!(pusher.blpop::<_, Option<(String, String)>>("{b}none", 0.2).unwrap(), None);
    assert!(begun.elapsed() >= Duration::from_millis(190));
}

fn messages(proxy: &Proxy, protocol: &str) -> RedisResult<()> {
    let (mut subscriber, mut publisher) = (connection(proxy, protocol), connection(proxy, protocol));
    let mut messages = subscriber.as_pubsub();
    messages.subscribe("news")?;
    messages.psubscribe("n*")?;
    assert_eq!(publisher.publish::<_, _, i64>("news", "x")?, 2);
    let mut patterns = Vec::new();
    for _ in 0..2 {
        let message = messages.get_message()?;
        assert_eq!((message.get_channel_name(), message.get_payload::<String>()?), ("news", "x".to_owned()));
        patterns.push(message.get_pattern::<Option<String>>()?);
    }
    patterns.sort();
    assert_eq!(patterns, [None, Some("n*".to_owned())]);
    // It unsubscribes when it goes, and the connection serves on.
    drop(messages);
    assert_eq!(subscriber.get::<_, Option<String>>("none")?, None);
    Ok(())
}

#[test]
fn the_redis_crate_works_with_async_connections_that_are_shared() {
    let (_cluster, proxy) = start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for protocol in ["", "?protocol=resp3"] {
        let client = client(&proxy, protocol);
        runtime.block_on(async {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            connection.set_response_timeout(SOON);
            let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
            shared(connection).await.unwrap();
        });
    }
}

async fn shared(mut connection: MultiplexedConnection) -> RedisResult<()> {
    let tasks = (0..50).map(|task: i64| {
        let mut connection = connection.clone();
        tokio::spawn(async move {
            let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
            for i in 0..20 {
                let key = format!("{{{task}}}{i}");
                let () = connection.set(&key, i).await?;
                let (one, two): (i64, i64) =
                    redis::pipe().atomic().incr(&key, 1).incr(&key, 1).query_async(&mut connection).await?;
                assert_eq!((one, two), (i + 1, i + 2));
                assert_eq!(
                    script.key(&key).arg(task).invoke_async::<i64>(&mut connection).await?,
                    i + 2 + task
                );
            }
            RedisResult::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap()?;
    }
    let mut pipe = redis::pipe();
    (0..1_000).for_each(|i| {
        pipe.hset(format!("h{}", i % 100), i, i).ignore();
    });
    let () = pipe.query_async(&mut connection).await?;
    let all: HashMap<i64, i64> = connection.hgetall("h7").await?;
    assert_eq!(all.len(), 10);
    let popped: Option<(String, String)> = connection.blpop("queue", 0.2).await?;
    assert_eq!(popped, None);
    Ok(())
}
