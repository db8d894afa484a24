//! The command table against a real server: what it says of every command that it knows, the keys that it finds in
//! all kinds of requests, whether it routes them, and its words for requests that it does not execute.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use slotmux::command::{self, Begin, Catalog, Find, KeyError, Learned, Route, Spec, reply};
use slotmux::protocol::{Args, Span};

mod server;
use server::{Client, Server, Value};

/// A request that can lend its [`Args`].
struct Request {
    words: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Request {
    fn new<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Self {
        let words: Vec<Vec<u8>> = words.into_iter().map(|word| word.as_ref().to_vec()).collect();
        let mut spans = Vec::new();
        let mut bytes = Vec::new();
        for word in &words {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(word);
            spans.push(Span { start, end: bytes.len() as u32 });
        }
        Request { words, bytes, spans }
    }

    fn parse(line: &str) -> Self {
        Request::new(line.split(' '))
    }

    fn args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.spans)
    }

    fn behind(&self, words: &[&str]) -> Request {
        let words = words.iter().map(|word| word.as_bytes().to_vec());
        Request::new(words.chain(self.words.iter().cloned()))
    }

    fn keys(&self) -> Result<Vec<Vec<u8>>, KeyError> {
        let args = self.args();
        let mut keys = Vec::new();
        let spec = command::resolve(&args).unwrap();
        spec.for_each_key(&args, &mut |index| keys.push(self.words[index].clone()))?;
        if let Some(first) = spec.first_key(&args) {
            assert_eq!(keys, [self.words[first].clone()], "{self}");
        }
        Ok(keys)
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.words.iter().try_for_each(|word| write!(f, "{:.40} ", String::from_utf8_lossy(word)))
    }
}

/// Requests for the finders that have a rule of their own, and corners of the others.
const HANDWRITTEN: &[&str] = &[
    "sort {t}k",
    "sort {t}k STORE {t}d",
    "sort {t}k LIMIT 0 1 DESC ALPHA store {t}d",
    "sort {t}k BY store GET store STORE {t}d",
    "sort {t}k STORE {t}a STORE {t}b",
    "sort {t}k STORE limit STORE {t}b",
    "sort {t}k STORE",
    "sort_ro {t}k BY x LIMIT 0 1",
    "georadius {t}k 1 1 1 m",
    "georadius {t}k 1 1 1 m STORE {t}d",
    "georadius {t}k 1 1 1 m COUNT 1 ASC STOREDIST {t}d",
    "georadius {t}k 1 1 1 m STORE",
    "georadiusbymember {t}k m 1 m",
    "georadiusbymember {t}k m 1 m store {t}d",
    "georadiusbymember {t}k STORE 1 m WITHCOORD STOREDIST {t}d",
    "georadius_ro {t}k 1 1 1 m",
    "migrate host 6379 {t}k 0 1000",
    "migrate host 6379 {t}k 0 1000 COPY REPLACE AUTH keys",
    "migrate host 6379 {t}k 0 1000 AUTH2 keys keys",
    "migrate host 6379  0 1000 COPY KEYS {t}a",
    "migrate host 6379  0 1000 AUTH keys REPLACE KEYS {t}a {t}b {t}c",
    "migrate host 6379  0 1000 AUTH2 keys keys keys {t}a {t}b",
    "xread STREAMS {t}a 0",
    "xread COUNT 5 STREAMS {t}a {t}b {t}c 0 0 $",
    "xread BLOCK 0 COUNT 5 streams {t}a {t}b 0 0",
    "xreadgroup GROUP g c STREAMS {t}a >",
    "xreadgroup GROUP streams c COUNT 1 NOACK STREAMS {t}a {t}b > 0",
    "xreadgroup GROUP g streams STREAMS {t}a >",
    "eval script 0",
    "eval script 0 arg",
    "eval script 1 {t}a",
    "eval script 2 {t}a {t}b c",
    "evalsha_ro sha 2 {t}a {t}b c",
    "fcall f 1 {t}a b",
    "fcall_ro f 0 b",
    "zunionstore {t}d 2 {t}a {t}b WEIGHTS 1 2 AGGREGATE MAX",
    "zdiffstore {t}d 1 {t}a",
    "zunion 1 {t}a WITHSCORES",
    "sintercard 2 {t}a {t}b LIMIT 1",
    "lmpop 2 {t}a {t}b LEFT COUNT 1",
    "blmpop 0 2 {t}a {t}b LEFT COUNT 1",
    "bzmpop 0 1 {t}a MIN",
    "blpop {t}a 0",
    "blpop {t}a {t}b {t}c 0",
    "bitop AND {t}d {t}a",
    "bitop AND {t}d {t}a {t}b",
    "mset {t}a 1 {t}b 2",
    "msetnx {t}a 1",
    "set {t}k v GET",
    "bitfield {t}k GET u8 0",
    "lcs {t}a {t}b LEN",
    "rename {t}a {t}b",
    "pfmerge {t}d {t}a {t}b",
    "memory usage {t}k SAMPLES 5",
    "object encoding {t}k",
    "xgroup create {t}k g $ MKSTREAM",
    "xinfo stream {t}k FULL",
    "geosearchstore {t}d {t}k FROMMEMBER m BYRADIUS 1 m",
    "zrangestore {t}d {t}k 0 -1",
];

/// Requests whose keys cannot be told. To the node, too, they are requests without a key, which it refuses.
const KEYLESS: &[&str] = &[
    "eval script x",
    "eval script -1",
    "eval script 00",
    "eval script 3 {t}a",
    "fcall f x",
    "zunion 0 {t}a",
    "zunion x {t}a",
    "zunionstore {t}d 0 {t}a",
    "zunionstore {t}d 5 {t}a",
    "zinter 99999999999999999999 {t}a",
    "sintercard 0 {t}a",
    "lmpop 3 {t}a LEFT",
    "zmpop x {t}a MIN",
    "xread STREAMS {t}a {t}b 0",
    "xread COUNT 1 STREAMS",
    "xread COUNT 1 NOACK",
    "xreadgroup GROUP g c STREAMS {t}a {t}b 0",
];

/// Odd requests in which a node does find keys, although the command will refuse them.
const KEYED_ALL_THE_SAME: &[&str] = &[
    "eval script 1x {t}a",
    "eval script +1 {t}a",
    "eval script 4294967297 {t}a",
    "zunionstore {t}d 1x {t}a",
    "georadius {t}k 1 1 1 m STORE {t}a STORE {t}b",
    "xread COUNT streams STREAMS {t}a 0",
    "xreadgroup COUNT 1 GROUP g streams STREAMS {t}a >",
    "pfmerge {t}d",
];

#[test]
fn keys_are_those_of_a_server() {
    let server = Server::start();
    let mut client = server.client();
    let known = rows_of(&mut client);
    let mut compared = BTreeMap::new();
    let handwritten = HANDWRITTEN.iter().map(|line| Request::parse(line));
    let generated = command::table().flat_map(requests);
    for request in handwritten.chain(generated) {
        let spec = command::resolve(&request.args()).unwrap();
        if !known.contains_key(spec.name) || is_channel(spec) {
            continue;
        }
        let reply = client.call(&request.behind(&["COMMAND", "GETKEYS"]).words);
        match &reply {
            Value::Array(_) if matches!(request.keys(), Err(KeyError::Unpaired(_))) => {
                assert!(spec.name.starts_with("mset") && request.words.len() % 2 == 0, "{request}");
            }
            Value::Array(keys) => {
                let keys: Vec<_> = keys.iter().map(|key| key.text().to_vec()).collect();
                assert_eq!(request.keys().unwrap(), keys, "{request}");
                *compared.entry(spec.name).or_insert(0) += 1;
            }
            Value::Error(text) if text.contains("no key arguments") => {
                assert!(request.keys().unwrap().is_empty(), "{request}");
                *compared.entry(spec.name).or_insert(0) += 1;
            }
            Value::Error(text) if text.contains("Invalid arguments") => {
                // COMMAND GETKEYS and the node's routing differ here: the node does find the key.
                assert!(request.keys().is_err() || spec.name == "pfmerge", "{request}");
            }
            // The newest servers allow more arguments.
            Value::Error(text) if text.contains("Invalid number") || text.contains("wrong number") => {
                assert!(
                    !accepts(&known[spec.name], request.words.len()) || request.words.len() == 1,
                    "{request}"
                )
            }
            other => panic!("{request}: {other:?}"),
        }
    }
    for name in known.keys().filter(|name| !is_channel(named(name))) {
        // COMMAND GETKEYS of 7.0 cannot be asked about a command that stands alone.
        let alone = known[name] == 1 && named(name).keys.is_empty();
        assert!(
            compared.contains_key(name.as_str()) || alone || named(name).container,
            "{name} was not compared"
        );
    }
}

#[test]
fn a_node_routes_what_has_keys_and_answers_the_rest() {
    let server = Server::start();
    let mut client = server.client();
    let known = rows_of(&mut client);
    let lists = [HANDWRITTEN, KEYLESS, KEYED_ALL_THE_SAME].concat();
    let handwritten = lists.into_iter().map(Request::parse);
    let mut asked = BTreeSet::new();
    for request in handwritten.chain(command::table().flat_map(requests)) {
        let spec = command::resolve(&request.args()).unwrap();
        let served = matches!(spec.route, Route::Keyed | Route::Split);
        let accepted = known.get(spec.name).is_some_and(|row| accepts(row, request.words.len()));
        if !served || !accepted || spec.name == "publish" {
            continue;
        }
        asked.insert(spec.name);
        // The node has no slots: whatever it routes comes back as CLUSTERDOWN.
        let reply = client.call(&request.words);
        let routed =
            matches!(&reply, Value::Error(text) if text.starts_with("CLUSTERDOWN Hash slot not served"));
        match request.keys() {
            Ok(keys) if keys.is_empty() => {
                assert_eq!(spec.placement(&request.args()).0, Route::AnyShard, "{request}")
            }
            Ok(_) => assert!(routed, "{request}: {reply:?}"),
            Err(KeyError::LetServerAnswer) => {
                assert!(!routed && matches!(reply, Value::Error(_)), "{request}: {reply:?}");
            }
            Err(KeyError::Unpaired(_)) => assert!(routed, "{request}: {reply:?}"),
        }
    }
    let keyed =
        |name: &&String| matches!(named(name).route, Route::Keyed | Route::Split) && *name != "publish";
    assert_eq!(asked.len(), known.keys().filter(keyed).count());
    for line in KEYLESS {
        assert!(matches!(Request::parse(line).keys(), Err(KeyError::LetServerAnswer)), "{line}");
    }
    for line in KEYED_ALL_THE_SAME {
        assert!(Request::parse(line).keys().is_ok_and(|keys| !keys.is_empty()), "{line}");
    }
}

/// Where the table follows a newer server than the one that is asked: name, what differs.
const NEWER: &[(&str, &str)] = &[
    ("blmove", "flags"),
    ("blpop", "flags"),
    ("brpop", "flags"),
    ("brpoplpush", "flags"),
    ("bzpopmax", "flags"),
    ("bzpopmin", "flags"),
    ("cluster|shards", "flags"),
    ("cluster|slots", "flags"),
    ("command|getkeys", "arity"),
    ("command|getkeysandflags", "arity"),
    ("randomkey", "flags"),
    ("scan", "flags"),
    ("wait", "flags"),
    ("zrank", "arity"),
    ("zrevrank", "arity"),
];

#[test]
fn command_info_is_that_of_a_server() {
    const COLUMNS: [&str; 10] = [
        "name",
        "arity",
        "flags",
        "first key",
        "last key",
        "step",
        "categories",
        "tips",
        "key specs",
        "subcommands",
    ];
    let server = Server::start();
    let mut seen = Vec::new();
    for resp3 in [false, true] {
        let mut client = server.client();
        if resp3 {
            client.call(&["HELLO", "3"]);
        }
        for name in rows_of(&mut server.client()).keys() {
            let request = Request::new(["COMMAND", "INFO", &name.replace(' ', "|")]);
            let theirs = entry(client.call(&request.words));
            let mut ours = Vec::new();
            reply::info(&Learned::default(), &request.args(), resp3, &mut ours);
            let ours = entry(Value::parse(&ours));
            assert_eq!(ours.len(), 10);
            for (column, (ours, theirs)) in COLUMNS.iter().zip(ours.iter().zip(&theirs)) {
                // Each subcommand is asked for by itself; tips are the newest servers'.
                if matches!(*column, "subcommands" | "tips") || ours == theirs {
                    continue;
                }
                let full_name = name.replace(' ', "|");
                let allowed = NEWER.iter().position(|known| *known == (full_name.as_str(), *column));
                // A flag that came or went takes its category along.
                let allowed = allowed.or_else(|| {
                    let by_flags = *column == "categories";
                    NEWER.iter().position(|known| by_flags && *known == (full_name.as_str(), "flags"))
                });
                seen.push(allowed.unwrap_or_else(|| panic!("{name}: {column}: {ours} is not {theirs}")));
            }
        }
    }
    assert!(
        (0..NEWER.len()).all(|known| seen.contains(&known)),
        "a difference that is none any more: {seen:?}"
    );
}

#[test]
fn command_docs_and_command_have_a_servers_form() {
    /// The version and the group of each command and subcommand.
    fn facts(value: &Value, facts: &mut BTreeMap<String, (Value, Value)>) {
        let (Value::Map(pairs) | Value::Array(pairs)) = value else { panic!("{value:?}") };
        for pair in pairs.chunks(2) {
            let (Value::Map(fields) | Value::Array(fields)) = &pair[1] else { panic!("{:?}", pair[1]) };
            let field =
                |name: &[u8]| fields.chunks(2).find(|field| field[0].is_text(name)).map(|field| &field[1]);
            let name = String::from_utf8_lossy(pair[0].text()).into_owned();
            facts_of_subcommands(field(b"subcommands"), facts);
            assert!(field(b"summary").is_some(), "{name}");
            facts.insert(name, (field(b"since").unwrap().clone(), field(b"group").unwrap().clone()));
        }
    }
    fn facts_of_subcommands(value: Option<&Value>, all: &mut BTreeMap<String, (Value, Value)>) {
        value.into_iter().for_each(|value| facts(value, all));
    }
    let server = Server::start();
    for resp3 in [false, true] {
        let mut client = server.client();
        if resp3 {
            client.call(&["HELLO", "3"]);
        }
        for line in ["COMMAND DOCS", "command docs get CONFIG nope config|get"] {
            let request = Request::parse(line);
            let mut bytes = Vec::new();
            reply::docs(&Learned::default(), &request.args(), resp3, &mut bytes);
            let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
            facts(&Value::parse(&bytes), &mut ours);
            facts(&client.call(&request.words), &mut theirs);
            for (name, fact) in theirs {
                // A server counts a version that was never released.
                assert!(
                    ours[&name] == fact || name == "client|pause",
                    "{name}: {:?} is not {fact:?}",
                    ours[&name]
                );
            }
        }
        let mut bytes = Vec::new();
        reply::command(&Learned::default(), resp3, &mut bytes);
        let Value::Array(commands) = Value::parse(&bytes) else { panic!("COMMAND gives no array") };
        let mut bytes = Vec::new();
        reply::count(&Learned::default(), &mut bytes);
        assert_eq!(Value::parse(&bytes), Value::Integer(commands.len() as i64));
    }
}

#[test]
fn command_list_filters_as_a_server() {
    let server = Server::start();
    let mut client = server.client();
    let known = rows_of(&mut client);
    let lines = [
        "COMMAND LIST",
        "COMMAND LIST FILTERBY MODULE json",
        "COMMAND LIST FILTERBY ACLCAT scripting",
        "COMMAND LIST FILTERBY aclcat HASH",
        "COMMAND LIST FILTERBY ACLCAT nope",
        "COMMAND LIST FILTERBY PATTERN x*",
        "COMMAND LIST FILTERBY PATTERN *|SET*",
        "COMMAND LIST FILTERBY PATTERN [g-i]?[^t]",
        "COMMAND LIST FILTERBY PATTERN [i-gx]et\\",
        "COMMAND LIST FILTERBY PATTERN ?e[t-",
        "COMMAND LIST FILTERBY nope x",
        "COMMAND LIST FILTERBY PATTERN",
        "COMMAND LIST x",
    ];
    for line in lines {
        let request = Request::parse(line);
        let mut ours = Vec::new();
        reply::list(&Learned::default(), &request.args(), false, &mut ours);
        let names = |value: Value| match value {
            Value::Array(names) => {
                let names = names.iter().map(|name| String::from_utf8_lossy(name.text()).replace('|', " "));
                let mut names: Vec<_> = names.filter(|name| known.contains_key(name)).collect();
                names.sort();
                names
            }
            other => vec![format!("{other:?}")],
        };
        assert_eq!(names(Value::parse(&ours)), names(client.call(&request.words)), "{line}");
    }
}

#[test]
fn command_getkeys_answers_as_a_server() {
    let server = Server::start();
    let mut client = server.client();
    let lines =
        ["get k", "mget a b", "eval s 0", "eval s x", "config get x", "config nope", "nope x", "ping x"];
    let odd = ["get k k", "spublish a b", "zunion 0 a", "memory usage k", "subscribe x"];
    for line in lines.iter().chain(&odd) {
        let request = Request::parse(line).behind(&["COMMAND", "GETKEYS"]);
        let mut ours = Vec::new();
        reply::getkeys(&Learned::default(), &request.args(), &mut ours);
        assert_eq!(
            format!("{:?}", Value::parse(&ours)),
            format!("{:?}", client.call(&request.words)),
            "{line}"
        );
    }
}

#[test]
fn errors_are_a_servers_to_the_byte() {
    let server = Server::start();
    let mut client = server.client();
    let long = "x".repeat(300);
    let almost = "y".repeat(125);
    let requests: Vec<Vec<&[u8]>> = vec![
        vec![b"foo"],
        vec![b""],
        vec![b"", b""],
        vec![b"foo", b"", b""],
        vec![b"foo", b"a", b"b", b"c"],
        vec![b"FoO", b"a\r\nb", b"\n\n", b"\0hidden", b"c\0d"],
        vec![b"fo\0o", b"a"],
        vec![b"f\r\noo", b"a"],
        vec![b"\xff\xfe", b"\x80\x81", b"\t'\"\\"],
        vec![long.as_bytes(), long.as_bytes(), b"more"],
        vec![b"foo", almost.as_bytes(), b"abc", b"more"],
        vec![b"foo", &almost.as_bytes()[1..], b"abc", b"more"],
        vec![b"foo", &almost.as_bytes()[..120], b"abcdef", b"more"],
        vec![b"config get", b"x"],
        vec![b"config|get", b"x"],
        vec![b"get "],
        vec![b"sentinel", b"masters"],
        vec![b"config"],
        vec![b"CONFIG", b"x"],
        vec![b"Config", b"", b"y"],
        vec![b"xgroup", b"a\r\nb\0c"],
        vec![b"object", long.as_bytes()],
        vec![b"client", b"\xff'"],
        vec![b"command", b"nope"],
        vec![b"config", b"get"],
        vec![b"CONFIG", b"SET", b"x"],
        vec![b"memory", b"usage"],
        vec![b"GET"],
        vec![b"get", b"a", b"b"],
        vec![b"restore-asking", b"a"],
        vec![b"eval", b"x"],
        vec![b"bitop", b"and", b"x"],
        vec![b"command", b"count", b"x"],
        vec![b"multi", b"x"],
    ];
    for words in requests {
        let request = Request::new(&words);
        let mut ours = Vec::new();
        command::resolve(&request.args()).unwrap_err().write_to(&mut ours);
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&client.call_for_error(&request.words)),
            "{request}"
        );
        assert_eq!(ours, client.call_for_error(&request.words), "{request}");
    }
    // Too few and too many arguments for everything.
    for (name, arity) in rows_of(&mut client) {
        let words: Vec<&str> = name.split(' ').collect();
        let wrong = if arity < 0 { -arity - 1 } else { arity + 1 } as usize;
        if NEWER.contains(&(name.replace(' ', "|").as_str(), "arity")) || wrong < words.len() {
            continue;
        }
        let filler = std::iter::repeat_n("x", wrong - words.len());
        let request = Request::new(words.into_iter().chain(filler));
        let ours = command::resolve(&request.args()).unwrap_err().to_string();
        assert_eq!(ours.as_bytes(), client.call_for_error(&request.words), "{request}");
    }
}

/// Every command that the server knows, in the table's spelling, with its arity.
fn rows_of(client: &mut Client) -> BTreeMap<String, i64> {
    fn walk(value: &Value, rows: &mut BTreeMap<String, i64>) {
        let Value::Array(columns) = value else { panic!("{value:?}") };
        let name = String::from_utf8_lossy(columns[0].text()).replace('|', " ");
        rows.insert(name, columns[1].integer());
        if let Value::Array(subcommands) = &columns[9] {
            subcommands.iter().for_each(|subcommand| walk(subcommand, rows));
        }
    }
    let mut rows = BTreeMap::new();
    let Value::Array(commands) = client.call(&["COMMAND"]) else { panic!("COMMAND gives no array") };
    commands.iter().for_each(|command| walk(command, &mut rows));
    assert!(rows.len() > 300);
    rows
}

fn accepts(arity: &i64, arguments: usize) -> bool {
    if *arity < 0 { arguments as i64 >= -arity } else { arguments as i64 == *arity }
}

fn named(name: &str) -> &'static Spec {
    command::find(name.replace(' ', "|").as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"))
}

/// A node routes these by slot, but does not call what they name a key.
fn is_channel(spec: &Spec) -> bool {
    ["publish", "spublish", "ssubscribe", "sunsubscribe"].contains(&spec.name)
}

/// Requests of all lengths that the arity allows, with every number of keys that fits in.
fn requests(spec: &'static Spec) -> Vec<Request> {
    let least = spec.arity.unsigned_abs() as usize;
    let most = if spec.arity < 0 { least + 5 } else { least };
    if command::find(spec.name.replace(' ', "|").as_bytes()).is_none() || spec.container {
        return Vec::new();
    }
    let mut requests = Vec::new();
    for len in least..=most {
        let mut words: Vec<String> = spec.name.split(' ').map(String::from).collect();
        for index in words.len()..len {
            words.push(format!("{{t}}{index}"));
        }
        let count = spec.keys.iter().find_map(|keys| match (keys.begin, keys.find) {
            (Begin::At(at), Find::Count { step }) => Some((at as usize, step as usize)),
            _ => None,
        });
        let Some((at, step)) = count else {
            requests.push(Request::new(&words));
            continue;
        };
        for keys in 1..=(len - at - 1) / step {
            words[at].clear();
            let _ = write!(words[at], "{keys}");
            requests.push(Request::new(&words));
        }
    }
    requests
}

/// The columns of COMMAND INFO's only entry, written out so that order does not matter where a server has none.
fn entry(reply: Value) -> Vec<String> {
    let Value::Array(entries) = reply else { panic!("{reply:?}") };
    let Value::Array(columns) = &entries[0] else { panic!("{:?}", entries[0]) };
    columns.iter().map(canonical).collect()
}

fn canonical(value: &Value) -> String {
    let (kind, items) = match value {
        Value::Array(items) => ('*', items),
        Value::Set(items) => ('~', items),
        Value::Map(items) => ('%', items),
        other => return format!("{other:?}"),
    };
    // The servers' remarks on key specifications are for readers of their documentation.
    let skip = if items.first().is_some_and(|item| item.is_text(b"notes")) { 2 } else { 0 };
    let mut texts: Vec<_> = items.iter().skip(skip).map(canonical).collect();
    if items.iter().all(|item| matches!(item, Value::Simple(_))) {
        texts.sort();
    }
    format!("{kind}{}{texts:?}", texts.len())
}

/// COMMAND's row under another name, so that the table lacks it; as bytes.
fn renamed(row: &Value) -> Vec<u8> {
    let Value::Array(fields) = row else { panic!("{row:?}") };
    let name = Value::Bulk([b"x.", fields[0].text()].concat());
    let Value::Array(subcommands) = &fields[9] else { panic!("{row:?}") };
    let mut bytes = b"*10\r\n".to_vec();
    std::iter::once(&name).chain(&fields[1..9]).for_each(|field| render(field, &mut bytes));
    bytes.extend(format!("*{}\r\n", subcommands.len()).bytes());
    bytes.extend(subcommands.iter().flat_map(renamed));
    bytes
}

fn render(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Simple(text) => out.extend(format!("+{text}\r\n").bytes()),
        Value::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
        Value::Bulk(bytes) => {
            out.extend(format!("${}\r\n", bytes.len()).bytes());
            out.extend(bytes);
            out.extend(b"\r\n");
        }
        Value::Array(items) => {
            out.extend(format!("*{}\r\n", items.len()).bytes());
            items.iter().for_each(|item| render(item, out));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_learned_of_a_command_is_what_the_table_has_of_it() {
    let server = Server::start();
    let Value::Array(rows) = server.client().call(&["COMMAND"]) else { panic!("an array") };
    let mut reply = format!("*{}\r\n", rows.len()).into_bytes();
    reply.extend(rows.iter().flat_map(renamed));
    let mut catalog = Catalog::default();
    let learned = catalog.learn(&reply).unwrap();
    let (mut served, mut compared) = (BTreeSet::new(), 0);
    for spec in learned.specs() {
        let name = spec.name.strip_prefix("x.").unwrap().replace(' ', "|");
        let known = command::find(name.as_bytes()).unwrap_or_else(|| panic!("{name}"));
        if !matches!(spec.route, Route::Refused(_)) {
            assert_eq!(spec.acl, known.acl, "{name}");
            assert_eq!(
                (spec.is_readonly(), spec.is_foreign()),
                (known.is_readonly(), known.is_foreign()),
                "{name}"
            );
            assert_eq!(format!("{:?}", spec.keys), format!("{:?}", known.keys), "{name}");
            let is_safe = !matches!(known.route, Route::Refused(_) | Route::Local(_) | Route::Transaction(_));
            assert!(is_safe || known.keys.is_empty(), "{name} goes out though {:?}", known.route);
            assert_eq!(spec.container, known.container, "{name}");
            served.insert(name);
        }
        compared += 1;
    }
    assert!(compared > 350, "{compared}");
    let served = |names: &[&str]| names.iter().map(|name| served.contains(*name)).collect::<Vec<_>>();
    assert_eq!(
        served(&["get", "mset", "eval", "zunionstore", "dbsize", "xinfo|stream", "flushall"]),
        [true; 7]
    );
    // Of SORT's keys not all are declared; the others change their connection, block or administer.
    let refused =
        ["sort", "select", "asking", "readonly", "hello", "multi", "blpop", "subscribe", "config|set"];
    assert_eq!(served(&refused), [false; 9]);
    // The same rows are not kept twice.
    let again: Vec<_> = catalog.learn(&reply).unwrap().specs().collect();
    assert!(again.into_iter().zip(learned.specs()).all(|(one, other)| std::ptr::eq(one, other)));
}
