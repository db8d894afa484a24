//! Where commands go: one slot, several slots, no slot, or nowhere, on a real cluster.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};

use slotmux::command::{Flags, Route, table};
use support::{Client, Proxy, SOON, TestCluster, Value, eventually, slot_of, tag_of};

const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// Three primaries and a proxy with one worker, so that all clients share its links.
fn start() -> (TestCluster, Proxy) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    (cluster, proxy)
}

fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}:{i}")).collect()
}

/// `NAME KEY…`, or with a value behind each key.
fn with_keys(name: &str, keys: &[String], values: bool) -> Vec<String> {
    let mut args = vec![name.to_owned()];
    for key in keys {
        args.push(key.clone());
        args.extend(values.then(|| format!("value of {key}")));
    }
    args
}

#[test]
fn a_key_is_kept_by_the_owner_of_its_slot() {
    let (cluster, proxy) = start();
    let mut client = proxy.connect();
    let mut nodes: Vec<Client> = (0..3).map(|i| cluster.client(i)).collect();
    let mut used = HashSet::new();
    let tagged = ["{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "", "a\r\nb", "\u{0}"];
    for key in keys("k", 60).into_iter().chain(tagged.map(str::to_owned)) {
        assert_eq!(client.cmd(&["SET", &key, "x"]), Value::ok());
        let owner = usize::from(slot_of(&key)) * 3 / 16_384;
        let owner = (0..3).find(|i| nodes[*i].cmd(&["EXISTS", &key]) == Value::Int(1)).unwrap_or(owner);
        assert_eq!(nodes[owner].cmd(&["GET", &key]), Value::bulk("x"), "{key:?}");
        assert_eq!(cluster.owner_of(slot_of(&key)), owner, "{key:?}");
        used.insert(owner);
    }
    assert_eq!(used.len(), 3);
    assert_eq!(proxy.metric("slotmux_redirects_total"), 0.0, "none had to be redirected");
}

#[test]
fn commands_of_several_slots_are_split_and_merged() {
    let (cluster, proxy) = start();
    let mut client = proxy.connect();
    for count in [1, 2, 17, 1000] {
        let keys = keys(&format!("n{count}"), count);
        assert_eq!(client.cmd(&with_keys("MSET", &keys, true)), Value::ok());
        let stored: i64 = (0..3).map(|i| cluster.client(i).cmd(&["DBSIZE"]).int()).sum();
        assert_eq!(stored, count as i64);

        // Some twice, some absent, in an order of their own.
        let mut asked: Vec<String> = keys.iter().rev().cloned().collect();
        asked.extend(keys.iter().step_by(3).cloned());
        asked.insert(asked.len() / 2, "absent".to_owned());
        let expected = asked.iter().map(|key| match key.as_str() {
            "absent" => Value::NullBulk,
            key => Value::Bulk(format!("value of {key}").into_bytes()),
        });
        let expected = Value::Array(expected.collect());
        assert_eq!(client.cmd(&with_keys("mget", &asked, false)), expected);

        let known = asked.len() as i64 - 1;
        for name in ["EXISTS", "Touch"] {
            assert_eq!(client.cmd(&with_keys(name, &asked, false)), Value::Int(known), "{name}");
        }
        let half = &keys[..count.div_ceil(2)];
        let both = [half, half].concat();
        assert_eq!(client.cmd(&with_keys("UNLINK", &both, false)), Value::Int(half.len() as i64));
        let left = (count - half.len()) as i64;
        assert_eq!(client.cmd(&with_keys("DEL", &asked, false)), Value::Int(left));
        assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
    }
}

#[test]
fn the_last_value_of_a_key_that_is_set_twice_stays() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    assert_eq!(client.cmd(&["MSET", "a", "1", "b", "2", "a", "3", "c", "4", "b", "5"]), Value::ok());
    assert_eq!(client.cmd(&["MGET", "a", "b", "c"]), Value::bulks(&["3", "5", "4"]));
}

#[test]
fn split_commands_answer_in_resp3_too() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    client.cmd(&["HELLO", "3"]);
    assert_eq!(client.cmd(&["MSET", "a", "1", "b", "2"]), Value::ok());
    let expected = Value::Array(vec![Value::bulk("1"), Value::Null, Value::bulk("2")]);
    assert_eq!(client.cmd(&["MGET", "a", "absent", "b"]), expected);
    assert_eq!(client.cmd(&["DEL", "a", "b", "absent"]), Value::Int(2));
}

#[test]
fn one_failing_part_is_the_whole_reply() {
    let (cluster, proxy) = start();
    let mut client = proxy.connect();
    // A key of each node's; the second node takes no more data.
    let keys: Vec<String> = [0, 8_000, 16_000].map(|slot| format!("{{{}}}k", tag_of(slot))).to_vec();
    assert_eq!(client.cmd(&with_keys("MSET", &keys, true)), Value::ok());
    cluster.ask(1, &["CONFIG", "SET", "maxmemory", "1"]);
    let replies = client.pipeline(&[
        with_keys("MSET", &keys, true),
        with_keys("MGET", &keys, false),
        with_keys("EXISTS", &keys, false),
        vec!["MSETNX".to_owned(), keys[1].clone(), "1".to_owned()],
        with_keys("DEL", &keys, false),
        with_keys("MGET", &keys, false),
        vec!["PING".to_owned()],
    ]);
    let oom = Value::error("OOM command not allowed when used memory > 'maxmemory'.");
    let values = keys.iter().map(|key| Value::Bulk(format!("value of {key}").into_bytes())).collect();
    let nulls = Value::Array(vec![Value::NullBulk; 3]);
    let pong = Value::Simple("PONG".to_owned());
    assert_eq!(replies, [oom.clone(), Value::Array(values), Value::Int(3), oom, Value::Int(3), nulls, pong]);
    // As on a server, MGET shows what is no string as absent.
    client.cmd(&["LPUSH", &keys[0], "x"]);
    client.cmd(&["SET", &keys[2], "x"]);
    let expected = Value::Array(vec![Value::NullBulk, Value::NullBulk, Value::bulk("x")]);
    assert_eq!(client.cmd(&with_keys("MGET", &keys, false)), expected);
}

#[test]
fn pairs_that_are_no_pairs_are_refused_as_a_whole() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let error = |name: &str| Value::Error(format!("ERR wrong number of arguments for '{name}' command"));
    assert_eq!(client.cmd(&["MSET", "a", "1", "b"]), error("mset"));
    assert_eq!(client.cmd(&["MSET", "{a}1", "1", "{a}2"]), error("mset"));
    assert_eq!(client.cmd(&["MSETNX", "{a}1", "1", "{a}2"]), error("msetnx"));
    assert_eq!(client.cmd(&["MSET", "a"]), error("mset"));
    assert_eq!(client.cmd(&["MGET"]), error("mget"));
    assert_eq!(client.cmd(&["DEL"]), error("del"));
    assert_eq!(client.cmd(&["DBSIZE"]), Value::Int(0));
}

#[test]
fn other_commands_need_one_slot_for_all_their_keys() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let crossing: [&[&str]; 16] = [
        &["MSETNX", "a", "1", "b", "2"],
        &["RENAME", "a", "b"],
        &["SINTER", "a", "b"],
        &["SUNIONSTORE", "d", "a", "b"],
        &["ZUNION", "2", "a", "b"],
        &["ZUNIONSTORE", "d", "2", "{d}a", "b"],
        &["LMOVE", "a", "b", "LEFT", "LEFT"],
        &["COPY", "a", "b"],
        &["SORT", "a", "STORE", "b"],
        &["GEORADIUS", "a", "1", "1", "1", "m", "STORE", "b"],
        &["BITOP", "AND", "d", "a", "b"],
        &["PFMERGE", "a", "b"],
        &["EVAL", "return 1", "2", "a", "b"],
        &["XREAD", "STREAMS", "a", "b", "0", "0"],
        &["LCS", "a", "b"],
        &["LMPOP", "2", "a", "b", "LEFT"],
    ];
    for args in crossing {
        assert_eq!(client.cmd(args), Value::error(CROSSSLOT), "{args:?}");
    }
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"crossslot\"}"), crossing.len() as f64);
    assert_eq!(client.cmd(&["MSETNX", "{t}a", "1", "{t}b", "2"]), Value::Int(1));
    assert_eq!(client.cmd(&["MSETNX", "{t}b", "1", "{t}c", "2"]), Value::Int(0));
    assert_eq!(client.cmd(&["RENAME", "{t}a", "{t}z"]), Value::ok());
    client.cmd(&["SADD", "{t}s", "m"]);
    assert_eq!(client.cmd(&["SUNIONSTORE", "{t}d", "{t}s", "{t}absent"]), Value::Int(1));
    let script = ["EVAL", "return redis.call('GET', KEYS[2])", "2", "{t}a", "{t}b"];
    assert_eq!(client.cmd(&script), Value::bulk("2"));
}

#[test]
fn what_concerns_all_keys_asks_every_shard() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let names = keys("all", 50);
    // In one pipeline: each waits for those before it.
    let mut pipeline: Vec<Vec<String>> =
        names.iter().map(|key| vec!["SET".to_owned(), key.clone(), "1".to_owned()]).collect();
    for line in ["DBSIZE", "KEYS all:*", "FLUSHALL", "DBSIZE", "SET after 1", "DBSIZE", "FLUSHDB", "DBSIZE"] {
        pipeline.push(line.split(' ').map(str::to_owned).collect());
    }
    let replies = client.pipeline(&pipeline);
    let tail = &replies[50..];
    assert_eq!(tail[0], Value::Int(50));
    let mut found: Vec<String> = tail[1].items().iter().map(Value::text).collect();
    let mut expected = names.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let zero = Value::Int(0);
    assert_eq!(tail[2..], [Value::ok(), zero.clone(), Value::ok(), Value::Int(1), Value::ok(), zero]);

    let sha = client.cmd(&["SCRIPT", "LOAD", "return KEYS[1]"]).text();
    for key in &names {
        assert_eq!(client.cmd(&["EVALSHA", &sha, "1", key]), Value::bulk(key));
    }
    let exist = Value::Array(vec![Value::Int(1), Value::Int(0)]);
    assert_eq!(client.cmd(&["SCRIPT", "EXISTS", &sha, &"0".repeat(40)]), exist);
    assert_eq!(client.cmd(&["EVAL", "return ARGV[1]", "0", "x"]), Value::bulk("x"));
}

#[test]
fn a_deep_pipeline_of_all_kinds_is_answered_in_order() {
    let (_cluster, proxy) = start();
    for protocol in ["2", "3"] {
        let mut client = proxy.connect();
        client.cmd(&["HELLO", protocol]);
        let (mut commands, mut expected) = (Vec::new(), Vec::new());
        let null = if protocol == "3" { Value::Null } else { Value::NullBulk };
        for i in 0..10_000usize {
            let text = i.to_string();
            let key = format!("{protocol}:{}", i % 700);
            let (command, reply): (Vec<&str>, Value) = match i % 8 {
                0 => (vec!["SET", &key, &text], Value::ok()),
                1 => (vec!["ECHO", &text], Value::bulk(&text)),
                2 => (vec!["EVAL", "return ARGV[1]", "1", &key, &text], Value::bulk(&text)),
                3 => (vec!["MGET", &key, "absent1", "absent2"], Value::Array(vec![])),
                4 => (vec!["GETRANGE", &text], {
                    Value::error("ERR wrong number of arguments for 'getrange' command")
                }),
                5 => (vec!["PING", &text], Value::bulk(&text)),
                6 if i % 504 == 6 => (vec!["SCRIPT", "EXISTS", "x"], Value::Array(vec![Value::Int(0)])),
                6 => (vec!["RENAME", &key, &text], Value::error(CROSSSLOT)),
                _ => (vec!["GET", "absent"], null.clone()),
            };
            commands.push(command.iter().map(|word| word.to_string()).collect::<Vec<_>>());
            expected.push(reply);
        }
        let replies = client.pipeline(&commands);
        for ((command, reply), expected) in commands.iter().zip(replies).zip(expected) {
            match &reply {
                // What it holds depends on the order of the commands on that key.
                Value::Array(items) if command[0] == "MGET" => {
                    assert_eq!(items[1..], [null.clone(), null.clone()])
                }
                reply if command[0] == "RENAME" && slot_of(&command[1]) == slot_of(&command[2]) => {
                    drop(reply.clone())
                }
                reply => assert_eq!(*reply, expected, "{command:?}"),
            }
        }
    }
}

#[test]
fn commands_on_one_key_take_effect_in_their_order() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let commands: Vec<Vec<String>> = (0..5_000)
        .map(|i| match i % 5 {
            4 => vec!["MSET".to_owned(), "k".to_owned(), "0".to_owned(), format!("other{i}"), "x".to_owned()],
            _ => vec!["INCR".to_owned(), "k".to_owned()],
        })
        .collect();
    for (i, reply) in client.pipeline(&commands).into_iter().enumerate() {
        let expected = if i % 5 == 4 { Value::ok() } else { Value::Int(i as i64 % 5 + 1) };
        assert_eq!(reply, expected, "{i}");
    }
}

#[test]
fn a_whole_pipeline_may_be_written_before_a_byte_is_read() {
    const GETS: usize = 200_000;
    const KEYS: usize = 100;
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let value = |key: usize| format!("{key:04}").repeat(1024);
    for key in 0..KEYS {
        assert_eq!(client.cmd(&["SET", &format!("key:{key}"), &value(key)]), Value::ok());
    }
    let mut stream = client.stream();
    let request = |key: usize| support::encode(&["GET", &format!("key:{}", key % KEYS)]);
    let requests: Vec<u8> = (0..GETS).flat_map(request).collect();
    stream.write_all(&requests).unwrap();
    let mut reply = vec![0; "$4096\r\n".len() + 4096 + 2];
    let expected: Vec<String> = (0..KEYS).map(|key| format!("$4096\r\n{}\r\n", value(key))).collect();
    let mut buffered = std::io::BufReader::with_capacity(1 << 20, stream);
    for i in 0..GETS {
        buffered.read_exact(&mut reply).unwrap();
        assert!(reply == expected[i % KEYS].as_bytes(), "reply {i}");
    }
    let resident = proxy.metric("process_resident_memory_bytes");
    assert!(resident < 200e6, "{resident} bytes are resident: replies wait with the nodes, not in the proxy");
}

#[test]
fn large_values_go_both_ways() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    for (name, size) in [("ten", 10_000_000), ("hundred", 100_000_000)] {
        let value: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
        let (small, key) = (format!("small:{name}"), name.as_bytes());
        client.send(&[b"SET", key, &value]);
        client.send(&["SET", &small, "1"]);
        assert_eq!(client.read_values(2), [Value::ok(), Value::ok()]);
        client.send(&[b"GET", key]);
        client.send(&["GET", &small]);
        let mut reader = std::io::BufReader::new(client.stream());
        let mut reply = vec![0; format!("${size}\r\n").len() + size as usize + 2 + "$1\r\n1\r\n".len()];
        reader.read_exact(&mut reply).unwrap();
        let expected = [format!("${size}\r\n").as_bytes(), &value[..], b"\r\n$1\r\n1\r\n"].concat();
        assert!(reply == expected, "the reply of {size} bytes differs");
    }
    // A large part of a split command stands in its place.
    client.send(&["MGET", "small:ten", "ten", "absent"]);
    let mut reply = vec![0; 10_000_000 + 29];
    std::io::BufReader::new(client.stream()).read_exact(&mut reply).unwrap();
    assert!(reply.starts_with(b"*3\r\n$1\r\n1\r\n$10000000\r\n\x00\x01\x02"));
    assert!(reply.ends_with(b"\r\n$-1\r\n"), "{}", reply[reply.len() - 20..].escape_ascii());
}

/// Calls of a command, right ones as far as its row tells them.
fn calls(name: &str, arity: i16) -> Vec<Vec<String>> {
    let words: Vec<String> = name.split(' ').map(str::to_owned).collect();
    let least = usize::from(arity.unsigned_abs());
    let counts = if arity < 0 { vec![least, least + 1, least + 3] } else { vec![least] };
    let fill = ["{x}a", "1"];
    let mut calls = Vec::new();
    for count in counts {
        for filler in fill {
            let mut call = words.clone();
            call.resize(count.max(words.len()), filler.to_owned());
            calls.push(call);
        }
    }
    calls
}

/// Calls that would change a link's state, or hold it up.
const DANGEROUS: [&str; 30] = [
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH {x}a",
    "UNWATCH",
    "SELECT 0",
    "SELECT 1",
    "SUBSCRIBE a",
    "PSUBSCRIBE *",
    "SSUBSCRIBE a",
    "MONITOR",
    "BLPOP {x}none 0",
    "BZMPOP 0 1 {x}none MIN",
    "XREAD BLOCK 0 STREAMS {x}none $",
    "XREAD COUNT 1 block 0 STREAMS {x}none $",
    "XREADGROUP GROUP g c BLOCK 0 STREAMS {x}none >",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT TRACKING ON",
    "CLIENT PAUSE 10000",
    "CLIENT NO-EVICT ON",
    "CLIENT KILL TYPE normal",
    "SCRIPT DEBUG YES",
    "ASKING",
    "READONLY",
    "WAIT 3 0",
    "DEBUG SLEEP 5",
    "SHUTDOWN NOSAVE",
    "FAILOVER",
    "CLUSTER RESET",
];

#[test]
fn no_command_of_one_client_changes_what_another_one_gets() {
    let (cluster, proxy) = start();
    for protocol in ["2", "3"] {
        let (mut actor, mut watcher) = (proxy.connect(), proxy.connect());
        for client in [&mut actor, &mut watcher] {
            client.cmd(&["HELLO", protocol]);
        }
        let tags = [0, 8_000, 16_000].map(tag_of);
        let rows = table().filter(|row| !row.container).flat_map(|row| calls(row.name, row.arity));
        let dangerous = DANGEROUS.iter().map(|line| line.split(' ').map(str::to_owned).collect());
        for (i, call) in rows.chain(dangerous).enumerate() {
            actor.send(&call);
            // Each call is looked at by itself: its transaction, if it begins one, ends behind the marker.
            if call[0].eq_ignore_ascii_case("multi") {
                actor.send(&["DISCARD"]);
                assert_eq!(actor.read_value(), Value::ok(), "{call:?}");
            }
            let name = call[0].to_lowercase();
            let waits = |word: &String| word.eq_ignore_ascii_case("block");
            let row = slotmux::command::find(call[0].as_bytes());
            let may_wait = row.is_some_and(|row| matches!(row.route, Route::Blocking | Route::Replicas));
            if may_wait || call.iter().any(waits) {
                // It may wait for ever: its client goes, and others must not notice that either.
                actor = proxy.connect();
                actor.cmd(&["HELLO", protocol]);
            } else if name.ends_with("subscribe") || name == "monitor" {
                // A RESP2 subscriber may not ask for a marker, and what is shown would come between.
                actor.send(&["RESET"]);
                while actor.read_value() != Value::Simple("RESET".to_owned()) {}
                actor.cmd(&["HELLO", protocol]);
            } else if call[0] == "quit" {
                assert_eq!(actor.read_to_end_raw(), b"+OK\r\n");
                actor = proxy.connect();
            } else {
                let marker = format!("behind {i}");
                actor.send(&["ECHO", &marker]);
                let replies = actor.read_values(2);
                assert_eq!(replies[1], Value::bulk(&marker), "{call:?} has one reply: {:?}", replies[0]);
            }
            if call[0] == "hello" || call[0] == "reset" || call[0] == "quit" {
                actor.cmd(&["HELLO", protocol]);
            }
            for tag in &tags {
                let text = format!("{tag} {i}");
                watcher.send(&["EVAL", "return ARGV[1]", "1", &format!("{{{tag}}}w"), &text]);
            }
            for tag in &tags {
                assert_eq!(watcher.read_value(), Value::Bulk(format!("{tag} {i}").into_bytes()), "{call:?}");
            }
        }
    }
    // The last one that waited may have gone only just now.
    let is_clean = |link: &str| {
        [" flags=N ", " db=0 ", " sub=0 ", " psub=0 ", " multi=-1 "].iter().all(|f| link.contains(f))
    };
    eventually(SOON, || {
        (0..3).all(|node| {
            let listed = cluster.client(node).cmd(&["CLIENT", "LIST", "TYPE", "normal"]).text();
            listed.lines().filter(|line| line.contains(" name=slotmux-")).all(is_clean)
        })
    });
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let (_cluster, proxy) = start();
    let mut client = proxy.connect();
    let mut refused = 0;
    for row in table().filter(|row| !row.container) {
        let Route::Refused(reason) = row.route else { continue };
        if row.flags.has(Flags::ONLY_SENTINEL) {
            continue; // Unknown to a node of a cluster.
        }
        for call in calls(row.name, row.arity) {
            let text = format!("ERR command '{}' is not available through this proxy: {reason}", row.name);
            let name = row.name;
            assert_eq!(client.cmd(&call), Value::Error(text), "{name}");
            refused += 1;
        }
    }
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"refused\"}"), f64::from(refused));
}
