//! Commands that the table lacks: modules' ones and those of newer servers, learned from what nodes answer to COMMAND.
//!
//! The rows are those that RedisJSON 2.8, RediSearch 2.10 with its coordinator and RedisBloom 2.8 publish, and some of
//! commands that no server has, for what a newer one may bring.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::{
    Action, Client, Gate, HIGH, LOW, Proxy, SOON, ScriptedCluster, Value, eventually, key, nobody,
};

/// One element of COMMAND's reply.
#[derive(Clone, Default)]
struct Row {
    name: &'static str,
    arity: i64,
    flags: &'static str,
    /// First key, last key, step.
    range: (i64, i64, i64),
    categories: &'static str,
    tips: &'static str,
    /// Written key specifications; those of a range, if there are none.
    keys: Vec<String>,
    subcommands: Vec<Row>,
}

fn row(name: &'static str, arity: i64, flags: &'static str, range: (i64, i64, i64)) -> Row {
    Row { name, arity, flags, range, ..Row::default() }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn list(items: &[String]) -> String {
    format!("*{}\r\n{}", items.len(), items.concat())
}

fn statuses(words: &str) -> String {
    list(&words.split_whitespace().map(|word| format!("+{word}\r\n")).collect::<Vec<_>>())
}

fn number(number: i64) -> String {
    format!(":{number}\r\n")
}

/// A key specification; each half is a type and what describes it.
fn key_spec(flags: &str, begin: (&str, &[(&str, &str)]), find: (&str, &[(&str, &str)])) -> String {
    let half = |(kind, fields): (&str, &[(&str, &str)])| {
        let value = |text: &str| text.parse().map_or_else(|_| bulk(text), number);
        let fields: Vec<String> = fields.iter().flat_map(|(name, text)| [bulk(name), value(text)]).collect();
        list(&[bulk("type"), bulk(kind), bulk("spec"), list(&fields)])
    };
    let (begin, find) = (half(begin), half(find));
    list(&[bulk("flags"), statuses(flags), bulk("begin_search"), begin, bulk("find_keys"), find])
}

fn range_spec(flags: &str, at: &str, last: &str, step: &str) -> String {
    let find = [("lastkey", last), ("keystep", step), ("limit", "0")];
    key_spec(flags, ("index", &[("index", at)]), ("range", &find))
}

impl Row {
    /// As a server answers that has so many fields: 6 to version 5, 7 to version 6.2, 10 from 7.0 on.
    fn render(&self, fields: usize) -> String {
        let (first, last, step) = self.range;
        let mut keys = self.keys.clone();
        if keys.is_empty() && first > 0 {
            let last = if last < 0 { last } else { last - first };
            keys.push(range_spec(
                "RW access update",
                &first.to_string(),
                &last.to_string(),
                &step.to_string(),
            ));
        }
        let all = [
            bulk(self.name),
            number(self.arity),
            statuses(self.flags),
            number(first),
            number(last),
            number(step),
            statuses(self.categories),
            list(&self.tips.split_whitespace().map(bulk).collect::<Vec<_>>()),
            list(&keys),
            list(&self.subcommands.iter().map(|row| row.render(10)).collect::<Vec<_>>()),
        ];
        list(&all[..fields])
    }
}

/// What RedisJSON, RediSearch and RedisBloom have.
fn modules() -> Vec<Row> {
    vec![
        row("json.set", -1, "write denyoom module", (1, 1, 1)),
        row("json.get", -1, "readonly module", (1, 1, 1)),
        row("json.mget", -1, "readonly module", (1, -2, 1)),
        row("json.mset", -1, "write denyoom module", (1, -1, 3)),
        row("json.debug", -1, "readonly module movablekeys", (2, 2, 1)),
        row("FT.CREATE", -1, "write denyoom module", (0, 0, 0)),
        row("FT.SEARCH", -1, "readonly module", (0, 0, 0)),
        row("FT._LIST", -1, "readonly module", (0, 0, 0)),
        row("FT.SUGADD", -1, "write denyoom module", (1, 1, 1)),
        row("bf.add", 3, "write denyoom module fast", (1, 1, 1)),
        row("bf.exists", 3, "readonly module fast", (1, 1, 1)),
        row("cf.compact", -1, "readonly module", (1, 1, 1)),
    ]
}

fn reply(rows: &[Row], fields: usize) -> String {
    // The table's own are told too.
    let known = row("get", 2, "readonly fast", (1, 1, 1));
    let rows: Vec<String> = [known].iter().chain(rows).map(|row| row.render(fields)).collect();
    list(&rows)
}

/// A cluster whose nodes tell of these commands, and answer each with their number and its words.
fn cluster_with(rows: &[Row], fields: usize) -> ScriptedCluster {
    let cluster = ScriptedCluster::start(3);
    tell(&cluster, rows, fields);
    cluster.script(|conn, args| match &args[0][..] {
        b"GET" | b"SET" | b"MULTI" | b"EXEC" => Action::Default,
        name => Action::bulk(format!("{} {}", conn.node, String::from_utf8_lossy(name))),
    });
    cluster
}

fn tell(cluster: &ScriptedCluster, rows: &[Row], fields: usize) {
    for node in cluster.nodes() {
        let reply = reply(rows, fields);
        node.control(move |_, args| match (args[0] == b"COMMAND", args.len()) {
            (true, 1) => Action::reply(&reply),
            // A node before 7.0 does not know DOCS.
            (true, _) => Action::error("ERR Unknown subcommand or wrong number of arguments for 'docs'."),
            (false, _) => Action::Default,
        });
    }
}

fn start(rows: &[Row], fields: usize) -> (ScriptedCluster, Proxy, Client) {
    let cluster = cluster_with(rows, fields);
    let proxy = cluster.proxy(&[]);
    let client = proxy.connect();
    (cluster, proxy, client)
}

#[track_caller]
fn assert_refused(client: &mut Client, line: &str, why: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let reply = client.cmd(&words);
    let text = reply.text();
    assert!(reply.is_error() && text.starts_with("ERR command '") && text.contains(why), "{line}: {text}");
}

#[test]
fn a_modules_commands_go_to_the_owner_of_their_keys() {
    for fields in [6, 7, 10] {
        let (cluster, _proxy, mut client) = start(&modules(), fields);
        for (slot, node) in [(LOW, 0), (HIGH, 2)] {
            let (a, b) = (key(slot, "a"), key(slot, "b"));
            for line in [
                format!("JSON.SET {a} $ 1"),
                format!("json.get {a}"),
                format!("JSON.MGET {a} {b} $"),
                format!("json.mset {a} $ 1 {b} $ 2"),
                format!("FT.SUGADD {a} x 1"),
                format!("BF.ADD {a} x"),
            ] {
                let words: Vec<&str> = line.split(' ').collect();
                let expected = format!("{node} {}", words[0]);
                assert_eq!(client.cmd(&words), Value::bulk(expected), "{line} of {fields} fields");
            }
        }
        let (low, high) = (key(LOW, "a"), key(HIGH, "a"));
        let crosses = Value::error("CROSSSLOT Keys in request don't hash to the same slot");
        assert_eq!(client.cmd(&["JSON.MGET", &low, &high, "$"]), crosses);
        assert_eq!(client.cmd(&["JSON.MSET", &low, "$", "1", &high, "$", "1"]), crosses);
        assert!(cluster.texts().iter().all(|text| !text.contains(&format!("{low} {high}"))));
        // The last argument is a path and no key.
        assert_eq!(client.cmd(&["JSON.MGET", &low, &high]), Value::bulk("0 JSON.MGET"));
    }
}

#[test]
fn what_has_no_keys_goes_to_any_shard_as_a_barrier() {
    let (cluster, _proxy, mut client) = start(&modules(), 10);
    let (low, high) = (key(LOW, "a"), key(HIGH, "a"));
    for _ in 0..20 {
        client.send(&["JSON.SET", &low, "$", "1"]);
        client.send(&["JSON.SET", &high, "$", "1"]);
        client.send(&["FT.SEARCH", "index", "*"]);
        client.send(&["JSON.GET", &low]);
        let replies: Vec<String> =
            client.read_values(4).iter().map(|reply| reply.text().to_owned()).collect();
        assert!(replies[2].ends_with(" FT.SEARCH") && replies[3] == "0 JSON.GET", "{replies:?}");
    }
    let log = cluster.commands();
    let searches: Vec<usize> = (0..log.len()).filter(|at| log[*at].args[0] == b"FT.SEARCH").collect();
    assert_eq!(searches, (0..20).map(|i| 4 * i + 2).collect::<Vec<_>>(), "each behind all before it");
    assert!(searches.iter().any(|at| log[*at].node != log[2].node), "not always the same node");
    // What it does not have it answers itself.
    let unknown = client.cmd(&["FT.NONE", "x"]);
    assert_eq!(unknown, Value::error("ERR unknown command 'FT.NONE', with args beginning with: 'x' "));
    let arity = Value::error("ERR wrong number of arguments for 'bf.add' command");
    assert_eq!(client.cmd(&["BF.ADD", &low]), arity);
    // The server counts no arguments of these; without its key a request goes to any node.
    assert!(client.cmd(&["JSON.SET"]).text().ends_with(" JSON.SET"));
}

#[test]
fn keys_are_found_by_every_kind_of_specification() {
    let numkeys = [("keynumidx", "0"), ("firstkey", "1"), ("keystep", "1")];
    let to_the_end = [("lastkey", "-1"), ("keystep", "1"), ("limit", "0")];
    let half = [("lastkey", "-1"), ("keystep", "1"), ("limit", "2")];
    let row = |name, flags, keys| Row { keys, ..row(name, -3, flags, (0, 0, 0)) };
    let rows = [
        row(
            "new.counted",
            "readonly movablekeys",
            vec![key_spec("RO", ("index", &[("index", "2")]), ("keynum", &numkeys))],
        ),
        row(
            "new.behind",
            "write movablekeys",
            vec![key_spec(
                "RW",
                ("keyword", &[("keyword", "KEYS"), ("startfrom", "1")]),
                ("range", &to_the_end),
            )],
        ),
        row(
            "new.half",
            "write movablekeys",
            vec![key_spec(
                "RW",
                ("keyword", &[("keyword", "STREAMS"), ("startfrom", "1")]),
                ("range", &half),
            )],
        ),
        row("new.two", "write", vec![range_spec("RW", "1", "0", "1"), range_spec("RO", "3", "0", "1")]),
        row(
            "new.script",
            "noscript movablekeys no_mandatory_keys",
            vec![key_spec("RW", ("index", &[("index", "2")]), ("keynum", &numkeys))],
        ),
    ];
    let (_cluster, _proxy, mut client) = start(&rows, 10);
    let (a, b, c) = (key(HIGH, "a"), key(HIGH, "b"), key(LOW, "c"));
    for (line, keys) in [
        (format!("new.counted x 2 {a} {b} {c}"), vec![&a, &b]),
        (format!("new.behind {c} keys {a} {b}"), vec![&a, &b]),
        (format!("new.half {c} STREAMS {a} {b} {c} {c}"), vec![&a, &b]),
        (format!("new.two {a} {c} {b}"), vec![&a, &b]),
        (format!("new.script x 1 {a} {c}"), vec![&a]),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(client.cmd(&words), Value::bulk(format!("2 {}", words[0])), "{line}");
        let asked: Vec<&str> = ["COMMAND", "GETKEYS"].into_iter().chain(words).collect();
        let found = Value::Array(keys.into_iter().map(Value::bulk).collect());
        assert_eq!(client.cmd(&asked), found, "{line}");
    }
    assert!(client.cmd(&["new.script", "x", "0"]).text().ends_with(" new.script"));
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let tips = |name, flags, tips| Row { tips, ..row(name, -2, flags, (0, 0, 0)) };
    let unknown = key_spec("RW", ("unknown", &[]), ("unknown", &[]));
    let rows = [
        row("new.moves", -2, "write movablekeys", (0, 0, 0)),
        row("json.debug", -1, "readonly module movablekeys", (2, 2, 1)),
        Row {
            keys: vec![range_spec("RW", "1", "0", "1"), unknown],
            ..row("new.store", -2, "write", (1, 1, 1))
        },
        Row {
            keys: vec![range_spec("RO incomplete", "1", "0", "1")],
            ..row("new.more", -2, "write", (1, 1, 1))
        },
        row("new.waits", -2, "write blocking", (1, 1, 1)),
        row("new.admin", -2, "admin", (0, 0, 0)),
        row("new.listen", -2, "pubsub", (0, 0, 0)),
        row("new.login", -2, "fast no_auth", (0, 0, 0)),
        row("new.state", -2, "fast loading", (0, 0, 0)),
        Row { categories: "@fast @connection", ..row("new.link", -2, "readonly fast", (0, 0, 0)) },
        tips("new.everywhere", "readonly", "request_policy:all_nodes"),
        tips("new.ownrule", "readonly", "request_policy:special"),
        tips("new.unmergeable", "readonly", "request_policy:all_shards response_policy:special"),
    ];
    let (cluster, _proxy, mut client) = start(&rows, 10);
    let keys = "its keys cannot be found";
    let connection = "it may change its connection";
    for (name, why) in [
        ("new.moves", keys),
        ("JSON.DEBUG", keys),
        ("new.store", keys),
        ("new.more", keys),
        ("new.waits", "it may wait for another client"),
        ("new.admin", "it administers a node"),
        ("new.listen", "it is about channels"),
        ("new.login", connection),
        ("new.state", connection),
        ("new.link", connection),
        ("new.everywhere", "it goes to every node"),
        ("new.ownrule", "it goes to every node"),
        ("new.unmergeable", "how the replies are merged is not declared"),
    ] {
        assert_refused(&mut client, &format!("{name} x"), why);
    }
    assert!(cluster.commands().is_empty());
}

#[test]
fn what_is_meant_for_every_shard_is_merged_as_declared() {
    let tips = |name, tips| Row { tips, ..row(name, -1, "readonly", (0, 0, 0)) };
    let rows = [
        tips("new.sum", "request_policy:all_shards response_policy:agg_sum"),
        tips("new.min", "request_policy:all_shards response_policy:agg_min"),
        tips("new.and", "request_policy:all_shards response_policy:agg_logical_and"),
        tips("new.all", "request_policy:all_shards response_policy:all_succeeded"),
        tips("new.join", "nondeterministic_output request_policy:all_shards"),
    ];
    let cluster = cluster_with(&rows, 10);
    cluster.script(|conn, args| match &args[0][..] {
        b"new.sum" | b"new.min" => Action::int(conn.node as i64 + 1),
        b"new.and" => Action::reply(format!("*2\r\n:1\r\n:{}\r\n", conn.node % 2)),
        b"new.all" => Action::ok(),
        b"new.join" => Action::reply(format!("*1\r\n:{}\r\n", conn.node)),
        _ => Action::Default,
    });
    let proxy = cluster.proxy(&[]);
    let mut client = proxy.connect();
    let numbers = |numbers: &[i64]| Value::Array(numbers.iter().copied().map(Value::Int).collect());
    assert_eq!(client.cmd(&["new.sum"]), Value::Int(6));
    assert_eq!(client.cmd(&["new.min"]), Value::Int(1));
    assert_eq!(client.cmd(&["new.and"]), numbers(&[1, 0]));
    assert_eq!(client.cmd(&["new.all"]), Value::ok());
    assert_eq!(client.cmd(&["new.join"]), numbers(&[0, 1, 2]));
}

#[test]
fn subcommands_are_commands_of_their_own() {
    let debug = |name, arity, flags, range| row(name, arity, flags, range);
    let rows = [
        Row {
            subcommands: vec![
                debug("json.debug|memory", -3, "readonly module", (2, 2, 1)),
                debug("json.debug|help", 2, "readonly module", (0, 0, 0)),
                debug("json.debug|stop", 2, "module admin", (0, 0, 0)),
            ],
            ..row("json.debug", -2, "readonly module", (0, 0, 0))
        },
        Row {
            subcommands: vec![
                row("object|freq", 3, "readonly", (2, 2, 1)),
                row("object|colour", 3, "readonly", (2, 2, 1)),
            ],
            ..row("object", -2, "", (0, 0, 0))
        },
    ];
    let (_cluster, _proxy, mut client) = start(&rows, 10);
    let a = key(HIGH, "a");
    assert_eq!(client.cmd(&["JSON.DEBUG", "Memory", &a]), Value::bulk("2 JSON.DEBUG"));
    assert_eq!(client.cmd(&["OBJECT", "COLOUR", &a]), Value::bulk("2 OBJECT"));
    assert!(client.cmd(&["json.debug", "help"]).text().ends_with(" json.debug"));
    assert_refused(&mut client, "json.debug stop", "it administers a node");
    let error = |text: &str| Value::error(text);
    let wrong = "ERR wrong number of arguments for 'json.debug|memory' command";
    assert_eq!(client.cmd(&["JSON.DEBUG", "MEMORY"]), error(wrong));
    let wrong = "ERR wrong number of arguments for 'json.debug' command";
    assert_eq!(client.cmd(&["JSON.DEBUG"]), error(wrong));
    let none = "ERR unknown subcommand 'x'. Try JSON.DEBUG HELP.";
    assert_eq!(client.cmd(&["json.debug", "x"]), error(none));
    assert_eq!(client.cmd(&["object", "x"]), error("ERR unknown subcommand 'x'. Try OBJECT HELP."));
    // A space is no way to write it.
    assert!(client.cmd(&["json.debug memory", &a]).text().starts_with("ERR unknown command"));
}

#[test]
fn clients_are_told_of_what_was_learned() {
    let none = ScriptedCluster::start(3);
    let bare = none.proxy(&[]);
    let without = bare.connect().cmd(&["COMMAND", "COUNT"]).int();
    let (_cluster, proxy, mut client) = start(&modules(), 10);
    assert_eq!(client.cmd(&["COMMAND", "COUNT"]).int(), without + 12);
    let Value::Array(all) = client.cmd(&["COMMAND"]) else { panic!("an array") };
    assert_eq!(all.len() as i64, without + 12);
    let Value::Array(info) = client.cmd(&["COMMAND", "INFO", "Json.Get", "nothing", "get"]) else { panic!() };
    let Value::Array(fields) = &info[0] else { panic!("{info:?}") };
    let expected = [Value::bulk("json.get"), Value::Int(-1)];
    assert_eq!(fields[..2], expected);
    assert_eq!(fields[3..6], [Value::Int(1), Value::Int(1), Value::Int(1)]);
    assert!(format!("{:?}", fields[2]).contains("readonly") && format!("{:?}", fields[2]).contains("module"));
    assert!(!matches!(info[1], Value::Array(_)) && matches!(info[2], Value::Array(_)));
    let listed = client.cmd(&["COMMAND", "LIST", "FILTERBY", "PATTERN", "bf.*"]);
    assert_eq!(listed, Value::Array(vec![Value::bulk("bf.add"), Value::bulk("bf.exists")]));
    // The nodes say nothing of that.
    let docs = Value::bulks(&["summary", "", "since", "", "group", "module"]);
    let expected = Value::Array(vec![Value::bulk("ft.search"), docs]);
    assert_eq!(client.cmd(&["COMMAND", "DOCS", "ft.search"]), expected);
    let mut three = proxy.connect();
    three.cmd(&["HELLO", "3"]);
    assert_eq!(three.cmd(&["COMMAND", "COUNT"]).int(), without + 12);
    three.cmd(&["COMMAND"]);
    three.cmd(&["COMMAND", "DOCS"]);
    assert_eq!(three.cmd(&["PING"]), Value::Simple("PONG".into()));
}

#[test]
fn redirects_of_learned_commands_are_absorbed_in_order() {
    let cluster = cluster_with(&modules(), 10);
    let proxy = cluster.proxy(&[]);
    let mut client = proxy.connect();
    let (a, b) = (key(LOW, "a"), key(LOW, "b"));
    // The slot is half moved: one key is still at its old owner.
    let to = cluster.node(1).addr();
    cluster.edit(|topology| {
        topology.nodes[0].migrating.push((LOW, 1));
        topology.nodes[1].importing.push((LOW, 0));
    });
    cluster.script({
        let moved = a.clone().into_bytes();
        move |conn, args| match (conn.node, args.get(1)) {
            (0, Some(key)) if *key == moved => Action::error(&format!("ASK {LOW} {to}")),
            (node, _) => Action::bulk(format!("{node} {}", conn.asking)),
        }
    });
    client.send(&["JSON.SET", &a, "$", "1"]);
    client.send(&["JSON.SET", &b, "$", "1"]);
    client.send(&["JSON.GET", &a]);
    assert_eq!(client.read_values(3), ["1 true", "0 false", "1 true"].map(Value::bulk));
    // And then wholly moved.
    cluster.edit(|topology| {
        topology.assign(LOW..=LOW, 1);
        topology.nodes[1].epoch += 10;
    });
    let to = cluster.node(1).addr();
    cluster.script(move |conn, _| match conn.node {
        0 => Action::error(&format!("MOVED {LOW} {to}")),
        node => Action::bulk(format!("{node}")),
    });
    (0..5).for_each(|_| client.send(&["JSON.SET", &b, "$", "1"]));
    assert_eq!(client.read_values(5), ["1"; 5].map(Value::bulk));
}

#[test]
fn a_learned_write_in_doubt_is_not_repeated_and_a_read_is() {
    let cluster = cluster_with(&modules(), 10);
    let proxy = cluster.proxy(&[]);
    let mut client = proxy.connect();
    let a = key(LOW, "a");
    let mut closed = false;
    cluster.script(move |conn, args| match &args[0][..] {
        b"JSON.SET" => Action::CloseAfterReading,
        b"JSON.GET" if !std::mem::replace(&mut closed, true) => Action::CloseAfterReading,
        _ => Action::bulk(format!("{}", conn.node)),
    });
    assert!(client.cmd(&["JSON.SET", &a, "$", "1"]).text().starts_with("INDOUBT "));
    assert_eq!(client.cmd(&["JSON.GET", &a]), Value::bulk("0"));
    let texts = cluster.texts();
    assert_eq!(texts.iter().filter(|text| text.starts_with("JSON.SET")).count(), 1);
    assert_eq!(texts.iter().filter(|text| text.starts_with("JSON.GET")).count(), 2);
}

#[test]
fn learned_commands_are_queued_in_transactions() {
    let (cluster, _proxy, mut client) = start(&modules(), 10);
    let (a, high) = (key(LOW, "a"), key(HIGH, "a"));
    let queued = Value::Simple("QUEUED".into());
    assert_eq!(client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(client.cmd(&["JSON.SET", &a, "$", "1"]), queued);
    assert_eq!(client.cmd(&["SET", &a, "1"]), queued);
    assert!(client.cmd(&["JSON.GET", &high]).text().starts_with("CROSSSLOT"));
    assert!(client.cmd(&["EXEC"]).text().starts_with("EXECABORT"));
    assert!(cluster.commands().is_empty());
    client.cmd(&["MULTI"]);
    assert_eq!(client.cmd(&["JSON.SET", &a, "$", "1"]), queued);
    cluster.script(|_, args| match &args[0][..] {
        b"MULTI" => Action::ok(),
        b"EXEC" => Action::reply("*1\r\n+OK\r\n"),
        _ => Action::reply("+QUEUED\r\n"),
    });
    assert_eq!(client.cmd(&["EXEC"]), Value::Array(vec![Value::ok()]));
    assert_eq!(cluster.texts(), ["MULTI".to_owned(), format!("JSON.SET {a} $ 1"), "EXEC".to_owned()]);
}

#[test]
fn the_commands_are_asked_for_at_the_start_and_when_nodes_came_or_went() {
    let mut cluster = cluster_with(&modules(), 10);
    let proxy = cluster.proxy(&["--workers", "2"]);
    let mut client = proxy.connect();
    let refreshed = || proxy.metric("slotmux_topology_refreshes_total");
    // Slots that move make refreshes, and no node is asked for its commands again.
    let asked = |cluster: &ScriptedCluster| cluster.count("COMMAND");
    cluster.script(|_, _| Action::Default);
    let before = refreshed();
    let mut step = 0;
    let mut slot_moves = |cluster: &ScriptedCluster| {
        step += 1;
        cluster.edit(|topology| {
            topology.assign(LOW..=LOW, step % 3);
            topology.nodes[step % 3].epoch = 100 + step as u64;
        });
        client.cmd(&["GET", &key(LOW, "a")]);
    };
    for moves in 0..4 {
        slot_moves(&cluster);
        eventually(SOON, || refreshed() > before + f64::from(moves));
    }
    let mut client = proxy.connect();
    assert_eq!(asked(&cluster), 0, "the log was cleared when it had been asked once");
    assert!(client.cmd(&["NEW.COMMAND", "x"]).text().starts_with("ERR unknown command"));
    // A node comes, and the modules are of another version.
    cluster.add_node(None);
    tell(&cluster, &[row("new.command", -2, "readonly", (1, 1, 1))], 10);
    eventually(SOON, || {
        slot_moves(&cluster);
        !client.cmd(&["NEW.COMMAND", &key(HIGH, "a")]).is_error()
    });
    assert_eq!(asked(&cluster), 1);
    // What was learned before stays: the node says what it lacks.
    assert!(!client.cmd(&["JSON.GET", &key(HIGH, "a")]).is_error());
}

#[test]
fn who_comes_before_the_commands_are_known_waits_for_them() {
    let cluster = cluster_with(&modules(), 10);
    let gate = Gate::new();
    for node in cluster.nodes() {
        let (gate, told) = (gate.clone(), reply(&modules(), 10));
        node.control(move |_, args| match &args[0][..] {
            b"CLUSTER" => Action::Default.after(&gate),
            b"COMMAND" => Action::reply(&told),
            _ => Action::Default,
        });
    }
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).start();
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.send(&["JSON.SET", &key(LOW, "a"), "$", "1"]);
    client.send(&["JSON.GET", &key(HIGH, "a")]);
    client.send(&["NOSUCH"]);
    other.send(&["GET", &key(LOW, "a")]);
    eventually(SOON, || proxy.metric("slotmux_held_requests") == 1.0);
    assert!(proxy.connect().cmd(&["GET"]).text().starts_with("ERR wrong number"));
    gate.open();
    let replies: Vec<String> = client.read_values(3).iter().map(Value::text).collect();
    assert_eq!(replies[..2], ["0 JSON.SET", "2 JSON.GET"]);
    assert!(replies[2].starts_with("ERR unknown command"), "{replies:?}");
    assert_eq!(other.read_value(), Value::NullBulk);
}

#[test]
fn who_waits_for_commands_that_nobody_tells_is_told_so_at_the_deadline() {
    let dead = nobody();
    let proxy = Proxy::for_seeds(&[dead]).args(&["--workers", "1", "--command-deadline", "1s"]).start();
    let mut client = proxy.connect();
    let begun = Instant::now();
    client.send(&["JSON.GET", "a"]);
    client.send(&["PING"]);
    assert!(client.read_value().text().starts_with("CLUSTERDOWN No node of the cluster tells"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(client.read_value(), Value::Simple("PONG".into()));
    // The next one is not kept waiting for as long again.
    assert!(client.cmd(&["JSON.GET", "a"]).text().starts_with("CLUSTERDOWN"));
    // Who leaves meanwhile is let go.
    let mut other = proxy.connect();
    other.send(&["JSON.GET", "a"]);
    drop((client, other));
    eventually(SOON, || proxy.metric("slotmux_clients") == 0.0);
}

#[test]
fn a_node_that_does_not_tell_its_commands_is_served_all_the_same() {
    for answer in
        ["-NOPERM this user has no permissions to run the 'command' command\r\n", "*1\r\n:1\r\n", ":1\r\n"]
    {
        let cluster = ScriptedCluster::start(3);
        for node in cluster.nodes() {
            node.control(move |_, args| match args[0] == b"COMMAND" {
                true => Action::reply(answer),
                false => Action::Default,
            });
        }
        let proxy = cluster.proxy(&[]);
        let mut client = proxy.connect();
        assert_eq!(client.cmd(&["SET", &key(LOW, "a"), "1"]), Value::ok());
        assert!(client.cmd(&["JSON.GET", "a"]).text().starts_with("ERR unknown command 'JSON.GET'"));
    }
}
