//! The same bytes to a plain server and to the proxy: the same bytes come back.

// The lists of requests are long.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

use support::{Client, Pair, encode, in_both, talk};

#[test]
fn requests_are_framed_and_refused_as_a_server_does() {
    let pair = Pair::start(None);
    let long = |byte: u8, len: usize| vec![byte; len];
    let mut all: Vec<Vec<u8>> = [
        // Inline.
        "PING\r\n",
        "PING\n",
        "\r\nPING\r\n",
        "\n\n\nPING\n",
        "   PING   \r\n",
        "\tPING\r\n",
        "ping\r\n",
        "PING \"a b\"\r\n",
        "PING 'a b'\r\n",
        "PING \"a\\x41\\n\\r\\t\\a\\b\\q\\\"\"\r\n",
        "PING 'it\\'s'\r\n",
        "PING \"unbalanced\r\nPING\r\n",
        "PING 'unbalanced\r\n",
        "PING \"a\"b\r\n",
        "PING 'a'b\r\n",
        "PING a\"b\"\r\n",
        "PING \"\"\r\n",
        "PING ''\r\n",
        "\"PING\"\r\n",
        "\"\"\r\n",
        "PING \"\\xzz\"\r\n",
        "PING \"\\x4\"\r\n",
        "PING a b c\r\n",
        "PING\r",
        "PING",
        "PING\0\r\n",
        "PING a\0b\r\n",
        "\0\r\n",
        "PING \x0b a\r\n",
        "PING\r\r\n",
        "set k \"a b\"\r\nget k\r\n",
        "get absent\r\n",
        "+OK\r\n",
        "-ERR\r\n",
        ":1\r\n",
        "$4\r\nPING\r\n",
        "HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        "\u{e9}\r\n",
        "PING \u{e9}\r\n",
        // Counts.
        "*0\r\nPING\r\n",
        "*-1\r\nPING\r\n",
        "*-10\r\nPING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "*\r\n",
        "*a\r\n",
        "*1a\r\n",
        "*+1\r\n",
        "* 1\r\n",
        "*1 \r\n",
        "*01\r\n$4\r\nPING\r\n",
        "*00\r\n",
        "*-0\r\n",
        "*--1\r\n",
        "*1.0\r\n",
        "*2147483648\r\n",
        "*9223372036854775807\r\n",
        "*9223372036854775808\r\n",
        "*-9223372036854775808\r\n",
        "*99999999999999999999\r\n",
        "*1\0\r\n",
        "*\0\r\n",
        "*1\n$4\nPING\n",
        "*1\n\r\n",
        "*1\r$4\r\nPING\r\n",
        "*1\rX$4\r\nPING\r\n",
        // Lengths.
        "*1\r\n$-5\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$a\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$+4\r\n",
        "*1\r\n$04\r\nPING\r\n",
        "*1\r\n$4 \r\nPING\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n$9223372036854775808\r\n",
        "*1\r\n$0\r\n\r\n",
        "*2\r\n$4\r\nPING\r\n$0\r\n\r\n",
        "*1\r\n$4\r\nPINGxxPING\r\n",
        "*1\r\n$4\r\nPING\n\nPING\r\n",
        "*1\r\n$3\r\nPING\r\n",
        "*1\r\n$5\r\nPING\r\n",
        "*1\r\n$4\rXPING\r\n",
        "*1\r\n$4\0\r\nPING\r\n",
        "*1\r\n$\0\r\n",
        // Another byte than a bulk's.
        "*3\r\n:1\r\n",
        "*3\r\n:1",
        "*1\r\nPING\r\n",
        "*1\r\n+PING\r\n",
        "*1\r\n\r\n",
        "*1\r\n\n\r\n",
        "*1\r\n\0\r\n",
        "*1\r\n*1\r\n",
        "*1\r\n \r\n",
        "*2\r\n$4\r\nPING\r\n%1\r\n",
        "*1\r\n\u{e9}\r\n",
        "*1\r\n'\r\n",
        "*1\r\n\x7f\r\n",
        // Behind a good one, and in front of one.
        "PING\r\n*1\r\n$-5\r\nPING\r\n",
        "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
        "QUIT\r\nPING\r\n",
        "quit now\r\n",
        "*2\r\n$4\r\nECHO\r\n$4\r\na\r\nb\r\n",
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\0\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    all.push(b"\xff\xfe\r\n".to_vec());
    all.push(b"*1\r\n\xff\r\n".to_vec());
    all.push(b"*1\r\n$2\r\n\xff\xfe\r\n".to_vec());
    all.push(b"PING \xff\r\n".to_vec());
    // Lines without an end: 64 KiB are still no mistake.
    for (start, fill) in
        [("", b'a'), ("PING ", b'a'), ("*", b'1'), ("*1\r\n$", b'1'), ("*1\r\n", b'$'), ("\"", b'a'), ("", 0)]
    {
        for len in [65_530, 65_536, 65_537, 65_600, 70_000, 200_000] {
            all.push([start.as_bytes(), &long(fill, len)].concat());
            all.push([start.as_bytes(), &long(fill, len), b"\r\nPING\r\n"].concat());
        }
    }
    pair.compare_all(all);
}

#[test]
fn what_is_answered_here_is_answered_in_a_servers_words() {
    let pair = Pair::start(None);
    pair.compare_all(in_both(&[
        "PING",
        "ping hello",
        "PING a b",
        "ECHO",
        "ECHO a",
        "ECHO a b",
        "QUIT a b",
        "SELECT",
        "SELECT 0",
        "SELECT a",
        "SELECT 00",
        "SELECT 1.0",
        "SELECT 99999999999",
        "SELECT 4294967296",
        "SELECT -99999999999",
        "SELECT 99999999999999999999",
        "SELECT \"\"",
        "SELECT 0 0",
        "HELLO a",
        "HELLO 1",
        "HELLO 4",
        "HELLO 2.0",
        "HELLO -3",
        "HELLO 03",
        "HELLO \"\"",
        "HELLO 99999999999999999999",
        "HELLO 3 AUTH",
        "HELLO 3 AUTH a",
        "HELLO 3 AUTH default",
        "HELLO 3 AUTH default any",
        "HELLO 3 AUTH nobody any",
        "HELLO 3 SETNAME",
        "HELLO 3 SETNAME \"a b\"",
        "HELLO 3 setname ok\r\nCLIENT GETNAME",
        "HELLO 3 WHAT",
        "HELLO 3 AUTH nobody any SETNAME x\r\nCLIENT GETNAME",
        "HELLO 3 SETNAME x WHAT\r\nCLIENT GETNAME",
        "HELLO 3 SETNAME x SETNAME y\r\nCLIENT GETNAME",
        "HELLO 2 SETNAME \"\"\r\nCLIENT GETNAME",
        "HELLO 3 \"WHAT\\x00\\xff\"",
        "HELLO 3 \"WH\\nAT\"",
        "HELLO AUTH default any",
        "HELLO 3 AUTH default any SETNAME z AUTH\r\nCLIENT GETNAME",
        "AUTH",
        "AUTH any",
        "AUTH default any",
        "AUTH nobody any",
        "AUTH a b c",
        "AUTH \"\"",
        "RESET",
        "RESET a",
        "CLIENT SETNAME a\r\nRESET\r\nCLIENT GETNAME",
        "HELLO 3\r\nRESET\r\nGET absent",
        "CLIENT",
        "CLIENT GETNAME",
        "CLIENT GETNAME a",
        "CLIENT SETNAME",
        "CLIENT SETNAME a\r\nCLIENT GETNAME",
        "CLIENT SETNAME \"\"\r\nCLIENT GETNAME",
        "CLIENT SETNAME \"a b\"",
        "CLIENT SETNAME \"a\\nb\"",
        "CLIENT SETNAME \"\\xff\"",
        "CLIENT SETNAME a\r\nCLIENT SETNAME \"b c\"\r\nCLIENT GETNAME",
        "CLIENT SETNAME ~!\r\nCLIENT GETNAME",
        "CLIENT WHAT",
        "CLIENT \"WH\\r\\nAT\" a",
        "CLIENT ID a",
        "CLIENT\r\nPING",
        "ACL WHOAMI",
        "ACL WHOAMI a",
        "ACL WHAT",
        "ACL CAT",
        "ACL CAT what",
        "ACL CAT a b",
        "ACL GENPASS 0",
        "ACL GENPASS what",
        "COMMAND GETKEYSANDFLAGS mset a 1 b 2",
        "COMMAND GETKEYSANDFLAGS set a b GET",
        "COMMAND GETKEYSANDFLAGS what a",
        "COMMAND LIST FILTERBY ACLCAT what",
        "COMMAND WHAT",
        "COMMAND COUNT a",
        "COMMAND INFO get",
        "COMMAND INFO what",
        "COMMAND INFO get what append",
        "COMMAND INFO GET|SET",
        "COMMAND INFO config|get",
        "COMMAND INFO client|id xread migrate",
        "COMMAND GETKEYS",
        "COMMAND GETKEYS get a",
        "COMMAND GETKEYS mset a 1 b 2",
        "COMMAND GETKEYS what a",
        "COMMAND GETKEYS eval x 2 a b c",
        "COMMAND DOCS what",
        "COMMAND DOCS get config|set what xadd",
        "COMMAND DOCS set\r\nMULTI\r\nEXEC",
        "COMMAND LIST a",
        "COMMAND LIST FILTERBY PATTERN xrea[d]",
        "COMMAND LIST FILTERBY MODULE none",
        "COMMAND LIST FILTERBY what a",
        "COMMAND HELP",
        "COMMAND GETKEYSANDFLAGS get a",
        "READONLY a",
        "READWRITE a",
    ]));
}

#[test]
fn commands_that_are_not_right_get_a_servers_error() {
    let pair = Pair::start(None);
    let long = "x".repeat(300);
    let mut lines: Vec<String> = [
        "what",
        "WHAT a b",
        "what \"a b\" \"c\\r\\nd\"",
        "\"wh\\x00at\" a",
        "\"\\xff\\xfe\" \"\\xff\"",
        "\"\" a",
        "\" \" a",
        "what \"\" \"\"",
        "get",
        "get a b",
        "set a",
        "lpush a",
        "config",
        "config what",
        "object",
        "object what k",
        "object encoding",
        "xinfo what",
        "xgroup",
        "memory",
        "memory usage",
        "script",
        "script what",
        "function",
        "latency",
        "slowlog",
        "pubsub",
        "acl",
        "cluster",
        "module",
        "exec a",
        "multi a",
        "discard a",
        "watch",
        "subscribe",
        "blpop a",
        "eval a",
        "eval a x k",
        "eval a -1 k",
        "eval a 2 k",
        "eval \"return 1\" a",
        "zunion 0 a",
        "zunion a a",
        "zunion -1 a",
        "zunionstore d 0 a",
        "zunionstore d x a",
        "lmpop 0 a LEFT",
        "xread STREAMS",
        "xread STREAMS a",
        "xread STREAMS a b 0",
        "xread COUNT a STREAMS a 0",
        "xread what a b c",
        "sort a what",
        "sort a STORE",
        "migrate a",
        "georadius a 1 1 1",
        "mset a 1 b",
        "msetnx a 1 b",
        "mset a",
        "bitop NOT {d} {d}a {d}b",
        "sintercard 0 a",
        "sintercard x a",
        "fcall f 1 k",
        "fcall f a k",
        "evalsha abc 1 k",
        "QUIT1",
        "GETGET a",
        "client|id",
        "config|get a",
        "get|set a",
        "eval \"return 1\" 0",
        "eval \"return redis.error_reply('X y')\" 0",
        "eval \"return {1,2,{3,'a'}}\" 1 k",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.extend([
        long.clone(),
        format!("{long} a"),
        format!("what {long}"),
        format!("what {} {}", &long[..100], &long[..100]),
        format!("what {}", "a ".repeat(100)),
        format!("config {long}"),
        format!("what {} b c", &long[..123]),
    ]);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    pair.compare_all(in_both(&lines));
    // POST and Host: end the connection, as a browser was made to send them.
    pair.compare_all([
        "POST / HTTP/1.1\r\nHost: a\r\n\r\nPING\r\n",
        "Host: a\r\nPING\r\n",
        "post\r\nPING\r\n",
    ]);
}

#[test]
fn every_type_answers_as_on_one_server() {
    let pair = Pair::start(None);
    let lines = [
        "SET s 1",
        "SET s 2 NX",
        "SET s 2 XX GET",
        "SET s 2 EX 0",
        "SET s 2 what",
        "GET s",
        "GETDEL s",
        "GET s",
        "APPEND s abc",
        "STRLEN s",
        "SETRANGE s 1 x",
        "GETRANGE s 0 -1",
        "INCR s",
        "INCR n",
        "INCRBYFLOAT n 1.5",
        "GETEX n PERSIST",
        "SETEX e 0 a",
        "SETEX e 100 a",
        "TTL e",
        "PERSIST e",
        "EXPIRE e 100 XX",
        "TYPE s",
        "TYPE absent",
        "OBJECT ENCODING s",
        "OBJECT ENCODING absent",
        "LPUSH s x",
        "SETBIT b 7 1",
        "BITCOUNT b",
        "BITPOS b 1",
        "BITFIELD b GET u4 0 INCRBY u2 0 1",
        "GETBIT b 7",
        "LPUSH l a b c",
        "LRANGE l 0 -1",
        "LINDEX l 9",
        "LPOP l 2",
        "LPOP absent",
        "LPOP absent 1",
        "RPUSHX absent a",
        "LINSERT l BEFORE x y",
        "LSET l 9 a",
        "LPOS l c",
        "LMPOP 1 absent LEFT",
        "GET l",
        "INCR l",
        "HSET h a 1 b 2",
        "HGET h a",
        "HGET h x",
        "HMGET h a x",
        "HGETALL h",
        "HGETALL absent",
        "HINCRBYFLOAT h a 0.5",
        "HSETNX h a 1",
        "HKEYS h",
        "HRANDFIELD absent 1",
        "HSCAN h 0",
        "HSTRLEN h a",
        "HDEL h a b c",
        "SADD st a b c",
        "SISMEMBER st a",
        "SMISMEMBER st a x",
        "SCARD st",
        "SMEMBERS absent",
        "SPOP absent",
        "SPOP absent 1",
        "SSCAN absent 0",
        "SINTERCARD 1 st",
        "ZADD z 1 a 2.5 b inf c",
        "ZADD z NX GT 1 a",
        "ZSCORE z b",
        "ZSCORE z c",
        "ZSCORE z x",
        "ZMSCORE z a x",
        "ZRANGE z 0 -1 WITHSCORES",
        "ZINCRBY z 1 a",
        "ZADD z INCR 1 a",
        "ZRANK z b",
        "ZRANK z x",
        "ZPOPMIN z",
        "ZPOPMIN absent",
        "ZRANDMEMBER absent",
        "ZRANGEBYSCORE z a b",
        "ZUNION 1 z WITHSCORES",
        "GEOADD g 13.361389 38.115556 p",
        "GEOPOS g p x",
        "GEODIST g p p",
        "GEOHASH g p",
        "GEOSEARCH g FROMMEMBER p BYRADIUS 1 m",
        "PFADD p a b",
        "PFCOUNT p",
        "XADD x 1-1 f v",
        "XADD x 1-1 f v",
        "XADD x 2-1 f v",
        "XLEN x",
        "XRANGE x - +",
        "XREAD STREAMS x 0",
        "XREAD STREAMS absent 0",
        "XREAD COUNT 1 STREAMS x 1",
        "XGROUP CREATE x g 0",
        "XGROUP CREATE x g 0",
        "XREADGROUP GROUP g c STREAMS x >",
        "XREADGROUP GROUP what c STREAMS x >",
        "XACK x g 1-1",
        "XPENDING x g",
        "XINFO STREAM absent",
        "XINFO GROUPS x",
        "XAUTOCLAIM x g c 0 0",
        "XDEL x 1-1",
        "COPY s s",
        "RENAME absent absent",
        "RENAMENX s s",
        "DUMP absent",
        "RESTORE r 0 abc",
        "SORT l",
        "SORT_RO l",
        "LCS s s",
        "LCS s s IDX",
        "MGET s n absent l",
        "MSET m1 1 m2 2",
        "MSETNX {m}1 1 {m}2 2",
        "EXISTS s s n",
        "DEL s s n",
        "UNLINK absent",
        "TOUCH b h",
        "EVAL \"return redis.call('GET', KEYS[1])\" 1 l",
        "EVAL \"return redis.pcall('GET', KEYS[1])\" 1 l",
        "EVAL \"return 3.9\" 1 k",
        "EVAL \"return {1,false,'a'}\" 1 k",
        "EVAL \"return {ok='fine'}\" 1 k",
        "EVAL \"syntax\" 1 k",
        "EVAL \"redis.setresp(3) return redis.call('ZSCORE', KEYS[1], 'b')\" 1 z",
        "EVAL \"redis.setresp(3) return redis.call('HGETALL', KEYS[1])\" 1 h",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 k",
        "EVAL_RO \"return redis.call('SET', KEYS[1], 1)\" 1 k",
        "PUBLISH c m",
        "SPUBLISH c m",
        "EXPIRETIME absent",
        "DBSIZE",
        "FLUSHALL what",
        "FLUSHALL",
        "DBSIZE",
        "SCRIPT LOAD \"return 1\"",
        "SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db x",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "RANDOMKEY",
        "LOLWUT VERSION 1",
        "FUNCTION LOAD \"what\"",
        "FUNCTION DELETE what",
        "KEYS *",
        "OBJECT HELP",
        "XINFO HELP",
        "CONFIG HELP",
    ];
    for protocol in ["2", "3"] {
        let hello = format!("HELLO {protocol}\r\n").into_bytes();
        // One by one on one connection each, so that the first difference is named, and in one pipeline.
        let (mut server, mut proxy) = (Client::connect(pair.server.addr()), pair.proxy.connect());
        for client in [&mut server, &mut proxy] {
            client.send_raw(&hello);
            client.read_value();
        }
        for line in lines {
            let line = format!("{line}\r\n");
            server.send_raw(&line);
            proxy.send_raw(&line);
            assert_eq!(proxy.read_value(), server.read_value(), "{line}");
        }
        let all = [&hello[..], lines.join("\r\n").as_bytes(), b"\r\n"].concat();
        pair.compare_all([all]);
    }
}

/// Lines of one connection each.
const TRANSACTIONS: [&[&str]; 34] = [
    &["MULTI", "SET k 1", "INCR k", "GET k", "EXEC", "GET k"],
    &["MULTI", "EXEC"],
    &["MULTI", "PING", "ECHO hello", "EXEC"],
    &["MULTI", "PING", "SET k 1", "ECHO hello", "GET k", "EXEC"],
    &["MULTI", "SET k 1", "DISCARD", "GET k", "EXEC"],
    &["MULTI", "MULTI", "SET k 1", "EXEC"],
    &["MULTI", "WATCH k", "SET k 1", "EXEC"],
    &["EXEC"],
    &["DISCARD"],
    &["MULTI x"],
    &["EXEC x"],
    &["DISCARD x"],
    &["WATCH"],
    &["UNWATCH x"],
    &["MULTI", "NOPE a b", "SET k 2", "EXEC", "GET k"],
    &["MULTI", "GET", "SET k 2", "EXEC", "GET k"],
    &["MULTI", "CONFIG NOPE", "EXEC"],
    &["MULTI", "EXEC x", "SET k 3", "EXEC", "GET k"],
    &["MULTI", "DISCARD x", "EXEC"],
    &["MULTI", "MULTI x", "EXEC"],
    &["MULTI", "SAVE", "EXEC"],
    &["MULTI", "SYNC", "EXEC"],
    &["MULTI", "SET k v", "INCR k", "GET k", "EXEC", "DEL k"],
    &["MULTI", "INCR k", "HGET k f", "EXEC", "DEL k"],
    &["MULTI", "MSET {k}1 a {k}2 b", "MGET {k}1 {k}2 {k}3", "DEL {k}1 {k}2", "EXEC"],
    &["MULTI", "MSET k 1 k", "EXEC"],
    &["MULTI", "PUBLISH c m", "EVAL \"return {1,ARGV[1]}\" 0 a", "EXEC"],
    &["MULTI", "SET k 1", "EVAL \"return redis.call('get',KEYS[1])\" 1 k", "PUBLISH c m", "DEL k", "EXEC"],
    &["MULTI", "UNWATCH", "SET k 1", "EXEC", "DEL k"],
    &["MULTI", "SET k 1", "RESET", "EXEC", "GET k"],
    &["MULTI", "SET k 1", "QUIT", "EXEC"],
    &["MULTI", "SELECT 0", "CLIENT SETNAME me", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME"],
    &["MULTI", "SELECT a", "COMMAND COUNT x", "EXEC"],
    &["MULTI", "LPUSH l a b c", "LRANGE l 0 -1", "SORT l ALPHA", "DEL l", "OBJECT ENCODING l", "EXEC"],
];

#[test]
fn transactions_are_a_servers_own() {
    let pair = Pair::start(None);
    let all: Vec<String> = TRANSACTIONS.iter().map(|lines| lines.join("\r\n")).collect();
    pair.compare_all(in_both(&all.iter().map(String::as_str).collect::<Vec<_>>()));
    // And one by one, each reply before the next request.
    for lines in TRANSACTIONS {
        let (mut server, mut proxy) = (Client::connect(pair.server.addr()), pair.proxy.connect());
        for line in lines {
            for client in [&mut server, &mut proxy] {
                client.send_raw(format!("{line}\r\n"));
            }
            assert_eq!(proxy.read_value(), server.read_value(), "{line} of {lines:?}");
            if *line == "QUIT" {
                break;
            }
        }
    }
}

#[test]
fn who_has_not_authenticated_gets_a_servers_errors() {
    let pair = Pair::start(Some("secret"));
    let mut all: Vec<Vec<u8>> = in_both(&[
        "PING",
        "GET a",
        "what",
        "get",
        "ECHO a",
        "SELECT 0",
        "SELECT a",
        "CLIENT ID",
        "CLIENT SETNAME a",
        "CLIENT WHAT",
        "COMMAND",
        "COMMAND COUNT",
        "MSET a 1 b 2",
        "MGET a b",
        "DBSIZE",
        "QUIT",
        "RESET",
        "HELLO",
        "HELLO 2",
        "HELLO a",
        "HELLO 4",
        "HELLO 3 SETNAME a",
        "HELLO 3 WHAT",
        "HELLO 3 AUTH default wrong",
        "HELLO 3 AUTH nobody secret",
        "HELLO 3 AUTH default secret\r\nGET a",
        "HELLO 2 AUTH default secret SETNAME n\r\nCLIENT GETNAME",
        "AUTH",
        "AUTH wrong",
        "AUTH default wrong",
        "AUTH nobody secret",
        "AUTH a b c",
        "AUTH secret\r\nGET a",
        "AUTH default secret\r\nGET a",
        "AUTH secret\r\nRESET\r\nGET a",
        "AUTH secret\r\nAUTH wrong\r\nGET a",
        "AUTH secret\r\nHELLO 3 AUTH default wrong\r\nGET a",
        "AUTH secret\r\nHELLO 3\r\nRESET\r\nHELLO 3",
        "AUTH \"secret\\x00\"",
        "AUTH \"\"",
        "MULTI",
        "SUBSCRIBE a",
        "MONITOR",
        "READONLY",
        "EVAL \"return 1\" 0",
        "SHUTDOWN",
        "exec a",
        "exec",
        "SUBSCRIBE a\r\nEXEC",
        "AUTH secret\r\nSUBSCRIBE a\r\nEXEC",
        "FLUSHALL",
    ]);
    for args in [10, 11] {
        all.push(encode(&vec!["a"; args]));
        all.push([encode(&["AUTH", "secret"]), encode(&vec!["a"; args])].concat());
    }
    for len in [16_384, 16_385] {
        all.push(encode(&["AUTH", &"a".repeat(len)]));
        all.push([encode(&["AUTH", "secret"]), encode(&["ECHO", &"a".repeat(len)])].concat());
    }
    pair.compare_all(all);
}

/// What differs on purpose: the request, both replies, and why.
const DIFFERENCES: [[&str; 4]; 9] = [
    ["SELECT 1", "+OK", "-ERR SELECT is not allowed in cluster mode", "a cluster has one database"],
    ["SELECT 16", "-ERR DB index is out of range", "-ERR SELECT is not allowed in cluster mode", "the same"],
    ["READONLY", "-ERR This instance has cluster support disabled", "+OK", "clients for clusters send it"],
    ["READWRITE", "-ERR This instance has cluster support disabled", "+OK", "the same"],
    [
        "RENAME a b",
        "-ERR no such key",
        "-CROSSSLOT Keys in request don't hash to the same slot",
        "two owners",
    ],
    ["SORT k BY x*", "*0", "-ERR BY option of SORT denied in Cluster mode.", "those keys may be elsewhere"],
    [
        "COMMAND GETKEYS ping",
        GETKEYS_ARITY,
        "-ERR The command has no key arguments",
        "a later server's arity",
    ],
    [
        "COMMAND GETKEYS get",
        GETKEYS_ARITY,
        "-ERR Invalid number of arguments specified for command",
        "the same",
    ],
    ["*1048577", "", "-ERR Protocol error: invalid multibulk length", "arguments are bounded"],
];
const GETKEYS_ARITY: &str = "-ERR wrong number of arguments for 'command|getkeys' command";

#[test]
fn the_differences_are_these() {
    let pair = Pair::start(None);
    for [request, server, proxy, reason] in DIFFERENCES {
        for (addr, reply) in [(pair.server.addr(), server), (pair.proxy.addr(), proxy)] {
            let got = talk(addr, format!("{request}\r\n").as_bytes());
            assert_eq!(String::from_utf8_lossy(&got).trim_end(), reply, "{request}: {reason}");
        }
    }
}
