//! A pipeline means what it means on one server, also where commands go to all nodes or to none.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use support::{Action, Gate, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, tag_of};

const ROUNDS: usize = 30;

fn words(lines: &[String]) -> Vec<Vec<String>> {
    lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Writes to many slots, `between`, and more writes, in one pipeline; the replies.
fn around(client: &mut support::Client, before: &str, between: &[&str], after: &str) -> Vec<Value> {
    let each = |line: &str| (0..40).map(|i| line.replace('#', &i.to_string())).collect::<Vec<_>>();
    let mut lines = each(before);
    lines.extend(between.iter().map(|line| (*line).to_owned()));
    lines.extend(each(after));
    let replies = client.pipeline(&words(&lines));
    replies[40..40 + between.len()].to_vec()
}

#[test]
fn commands_for_all_shards_wait_for_what_is_before_them_and_hold_what_is_behind() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    for _ in 0..ROUNDS {
        assert_eq!(around(&mut client, "SET key# 1", &["DBSIZE"], "DEL key#"), [Value::Int(40)]);
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
        assert_eq!(around(&mut client, "SET old# 1", &["FLUSHALL"], "SET key# 2"), [Value::ok()]);
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(40));
        let found = &around(&mut client, "SET more# 1", &["KEYS more*", "FLUSHALL"], "PING")[0];
        assert_eq!(found.items().len(), 40);
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
    }
}

#[test]
fn a_script_that_was_loaded_is_there_for_the_next_command() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    for n in 0..ROUNDS {
        let script = format!("return redis.call('INCRBY', KEYS[1], {n})");
        let sha = client.cmd(&["SCRIPT", "LOAD", &script]).text();
        client.cmd(&["SCRIPT", "FLUSH"]);
        client.send(&["SCRIPT", "LOAD", &script]);
        for i in 0..20 {
            client.send(&["EVALSHA", &sha, "1", &format!("{n}-{i}")]);
        }
        client.send(&["SCRIPT", "EXISTS", &sha, "nosuch"]);
        assert_eq!(client.read_value(), Value::bulk(&sha));
        assert_eq!(client.read_values(20), vec![Value::Int(n as i64); 20]);
        assert_eq!(client.read_value(), Value::Array(vec![Value::Int(1), Value::Int(0)]));
    }
}

#[test]
fn who_gets_a_message_finds_what_was_written_before_it() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    let mut subscriber = cluster.client(0);
    subscriber.cmd(&["SUBSCRIBE", "news"]);
    let key = format!("{{{}}}k", tag_of(16_000));
    let mut reader = cluster.client(cluster.owner_of(16_000));
    let filler = "x".repeat(200_000);
    for n in 0..ROUNDS {
        let n = n.to_string();
        // The first takes the node a while.
        client.send(&["SET", &format!("{{{}}}filler", tag_of(16_000)), &filler]);
        client.send(&["SET", &key, &n]);
        client.send(&["PUBLISH", "news", &n]);
        client.send(&["PUBLISH", "news", "and more"]);
        assert_eq!(subscriber.read_value().items()[2], Value::bulk(&n));
        assert_eq!(reader.cmd(&["GET", &key]), Value::bulk(&n));
        assert_eq!(subscriber.read_value().items()[2], Value::bulk("and more"));
        assert_eq!(client.read_values(2), [Value::ok(), Value::ok()]);
        assert!(client.read_values(2).iter().all(|reply| matches!(reply, Value::Int(_))));
    }
}

/// Two nodes behind one worker, where APPEND waits for the gate and other commands get what `reply` says; a key of
/// either node.
fn with_slow_append(reply: fn(&[u8]) -> Action) -> (ScriptedCluster, Proxy, Gate, [String; 2]) {
    let cluster = ScriptedCluster::start(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let gate = Gate::new();
    let slow = gate.clone();
    cluster.script(move |_, args| match args[0].as_slice() {
        b"APPEND" => Action::Default.after(&slow),
        command => reply(command),
    });
    (cluster, proxy, gate, [format!("{{{}}}a", tag_of(0)), format!("{{{}}}b", tag_of(16_000))])
}

#[test]
fn a_message_in_a_transaction_waits_for_what_was_written_before_it() {
    let (cluster, proxy, gate, [a, b]) = with_slow_append(|command| match command {
        b"MULTI" => Action::ok(),
        b"SET" | b"PUBLISH" => Action::reply("+QUEUED\r\n"),
        b"EXEC" => Action::reply("*2\r\n+OK\r\n:1\r\n"),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    client.send_raw(format!("APPEND {a} 1\r\nMULTI\r\nSET {b} 1\r\nPUBLISH c m\r\nEXEC\r\n"));
    eventually(SOON, || cluster.texts() == [format!("APPEND {a} 1")]);
    let get = ["GET", &b];
    assert_eq!(proxy.connect().cmd(&get), Value::NullBulk);
    assert_eq!(cluster.texts(), [format!("APPEND {a} 1"), get.join(" ")]);
    gate.open();
    let executed = Value::Array(vec![Value::ok(), Value::Int(1)]);
    let queued = || Value::Simple("QUEUED".into());
    assert_eq!(client.read_values(5), [Value::Int(1), Value::ok(), queued(), queued(), executed]);
}

#[test]
fn a_script_without_keys_is_a_barrier() {
    let (cluster, proxy, gate, [a, b]) = with_slow_append(|command| match command {
        // Any node runs it.
        b"EVAL" => Action::ok(),
        _ => Action::Default,
    });
    let mut client = proxy.connect();
    client.send_raw(format!("APPEND {a} 1\r\nEVAL x 0\r\nSET {b} 1\r\n"));
    eventually(SOON, || cluster.texts() == [format!("APPEND {a} 1")]);
    // Another client's command goes through: nothing of the first is on its way behind the gate.
    assert_eq!(proxy.connect().cmd(&["GET", &b]), Value::NullBulk);
    gate.open();
    assert_eq!(client.read_values(3), [Value::Int(1), Value::ok(), Value::ok()]);
    let order: Vec<String> = cluster.texts().into_iter().filter(|text| !text.starts_with("GET")).collect();
    assert_eq!(order, [format!("APPEND {a} 1"), "EVAL x 0".to_owned(), format!("SET {b} 1")]);
}

#[test]
fn what_is_answered_here_keeps_its_place_and_holds_nothing() {
    let cluster = ScriptedCluster::start(2);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let gate = Gate::new();
    let slow = gate.clone();
    let a = format!("{{{}}}a", tag_of(0));
    let b = format!("{{{}}}b", tag_of(16_000));
    let late = a.clone();
    cluster.script(move |_, args| match args[1] == late.as_bytes() {
        true => Action::Default.after(&slow),
        false => Action::Default,
    });
    let mut client = proxy.connect();
    client.send_raw(format!("SET {a} 1\r\nPING\r\nECHO here\r\nNOSUCH\r\nGET\r\nSET {b} 2\r\nPING\r\n"));
    eventually(SOON, || cluster.stored(&b).as_deref() == Some("2"));
    gate.open();
    let replies = client.read_values(7);
    let pong = Value::Simple("PONG".into());
    assert_eq!(replies[..3], [Value::ok(), pong.clone(), Value::bulk("here")]);
    assert!(replies[3].text().starts_with("ERR unknown command") && replies[4].is_error(), "{replies:?}");
    assert_eq!(replies[5..], [Value::ok(), pong]);
}

#[test]
fn what_is_read_ahead_while_a_barrier_waits_is_planned_behind_it() {
    // What the proxy reads at once.
    const SCRATCH: usize = 64 * 1024;
    let cluster = ScriptedCluster::start(2);
    cluster.script(|_, args| if args[0] == b"EVAL" { Action::ok() } else { Action::Default });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen = format!("unix:{}", path.display());
    let args = ["--workers", "1", "--listen", &listen];
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let echo = |bytes: usize| [b"ECHO ", &vec![b'x'; bytes - 7][..], b"\r\n"].concat();
    let (barrier, behind) = (b"EVAL x 0\r\n", format!("SET {{{0}}}a 1\r\nGET {{{0}}}a\r\n", tag_of(0)));
    let mut before = echo(8192).repeat(7);
    before.extend(echo(SCRATCH - before.len() - barrier.len()));
    // All of it is there when the proxy reads: the first read ends with the barrier.
    proxy.signal("STOP");
    stream.write_all(&[&before[..], barrier, behind.as_bytes()].concat()).unwrap();
    proxy.signal("CONT");
    let mut replies = BufReader::new(stream).lines().map(|line| line.unwrap());
    assert_eq!(
        replies.by_ref().filter(|line| !line.starts_with(['$', 'x'])).take(2).collect::<Vec<_>>(),
        ["+OK"; 2]
    );
    assert_eq!([replies.next(), replies.next()], [Some("$1".to_owned()), Some("1".to_owned())]);
}
