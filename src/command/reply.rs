//! What COMMAND and its subcommands answer, from the table and what was learned, in the form of redis 7.0.
//!
//! Each function appends one whole reply. `args` is the whole request, `COMMAND` included.

use super::glob;
use super::keys::{Begin, Find, KeyError, KeyFlags, KeySpec};
use super::learned::Learned;
use super::spec::{Flags, Spec};
use crate::protocol::{Args, Span};

/// COMMAND.
pub fn command(learned: &Learned, resp3: bool, out: &mut Vec<u8>) {
    let mut reply = Reply { out, resp3 };
    reply.array(commands(learned).count());
    commands(learned).for_each(|spec| reply.entry(spec));
}

/// COMMAND COUNT.
pub fn count(learned: &Learned, out: &mut Vec<u8>) {
    Reply { out, resp3: false }.integer(commands(learned).count() as i64);
}

/// COMMAND INFO: all commands, or a null for each name that there is not.
pub fn info(learned: &Learned, args: &Args, resp3: bool, out: &mut Vec<u8>) {
    if args.len() <= 2 {
        return command(learned, resp3, out);
    }
    let mut reply = Reply { out, resp3 };
    reply.array(args.len() - 2);
    for name in args.iter().skip(2) {
        match learned.find(name) {
            Some(spec) => reply.entry(spec),
            None => reply.null(),
        }
    }
}

/// COMMAND DOCS: what the table has of it; names that there are not are left out.
pub fn docs(learned: &Learned, args: &Args, resp3: bool, out: &mut Vec<u8>) {
    let named: Vec<_> = args.iter().skip(2).filter_map(|name| learned.find(name)).collect();
    let mut reply = Reply { out, resp3 };
    if args.len() <= 2 {
        reply.map(commands(learned).count());
        commands(learned).for_each(|spec| reply.documentation(spec));
    } else {
        reply.map(named.len());
        named.into_iter().for_each(|spec| reply.documentation(spec));
    }
}

/// COMMAND LIST, also with FILTERBY.
pub fn list(learned: &Learned, args: &Args, resp3: bool, out: &mut Vec<u8>) {
    let is = |index, word: &str| args.get(index).eq_ignore_ascii_case(word.as_bytes());
    let value = args.get(4);
    let named: Vec<&str> = match args.len() {
        0..=2 => rows(learned).map(|spec| spec.name).collect(),
        5 if is(2, "FILTERBY") && is(3, "MODULE") => Vec::new(),
        5 if is(2, "FILTERBY") && is(3, "ACLCAT") => {
            let wanted = |name: &str| name.as_bytes()[1..].eq_ignore_ascii_case(value);
            rows(learned).filter(|spec| spec.acl.names().any(wanted)).map(|spec| spec.name).collect()
        }
        5 if is(2, "FILTERBY") && is(3, "PATTERN") => {
            let wanted = |spec: &&Spec| glob::matches(value, full_name(spec).as_bytes(), false);
            rows(learned).filter(wanted).map(|spec| spec.name).collect()
        }
        _ => return Reply { out, resp3 }.error("ERR syntax error"),
    };
    let mut reply = Reply { out, resp3 };
    reply.array(named.len());
    named.into_iter().for_each(|name| reply.bulk(name.replace(' ', "|").as_bytes()));
}

/// COMMAND GETKEYS.
pub fn getkeys(learned: &Learned, args: &Args, out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    let mut spans = Vec::new();
    for arg in args.iter().skip(2) {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(arg);
        spans.push(Span { start, end: bytes.len() as u32 });
    }
    let inner = Args::new(&bytes, &spans);
    match keys_of(learned, &inner) {
        Ok(keys) => {
            let mut reply = Reply { out, resp3: false };
            reply.array(keys.len());
            keys.into_iter().for_each(|index| reply.bulk(inner.get(index)));
        }
        Err(text) => Reply { out, resp3: false }.error(text),
    }
}

fn keys_of(learned: &Learned, args: &Args) -> Result<Vec<usize>, &'static str> {
    let spec = match learned.resolve(args) {
        Ok(spec) => spec,
        Err(super::CommandError::WrongArity(spec)) if has_keys(spec) => {
            return Err("ERR Invalid number of arguments specified for command");
        }
        Err(super::CommandError::WrongArity(_)) => return Err("ERR The command has no key arguments"),
        Err(_) => return Err("ERR Invalid command specified"),
    };
    if !has_keys(spec) {
        return Err("ERR The command has no key arguments");
    }
    let mut keys = Vec::new();
    match spec.for_each_key(args, &mut |index| keys.push(index)) {
        Ok(()) => Ok(keys),
        Err(KeyError::LetServerAnswer) if spec.flags.has(Flags::NO_MANDATORY_KEYS) => Ok(Vec::new()),
        Err(_) => Err("ERR Invalid arguments specified for command"),
    }
}

fn has_keys(spec: &Spec) -> bool {
    spec.keys.iter().any(|keys| !keys.flags.has(KeyFlags::NOT_KEY))
}

/// Flags that a server keeps to itself.
const HIDDEN: [&str; 4] = ["may_replicate", "only_sentinel", "sentinel", "protected"];

/// All rows that a node of a cluster has.
fn rows(learned: &Learned) -> impl Iterator<Item = &'static Spec> {
    super::table().filter(|spec| !spec.flags.has(Flags::ONLY_SENTINEL)).chain(learned.specs())
}

/// The same without subcommands.
fn commands(learned: &Learned) -> impl Iterator<Item = &'static Spec> {
    rows(learned).filter(|spec| spec.scope == 0)
}

fn full_name(spec: &Spec) -> String {
    spec.name.replace(' ', "|")
}

/// Writes the types that differ between the protocol's versions.
struct Reply<'a> {
    out: &'a mut Vec<u8>,
    resp3: bool,
}

impl Reply<'_> {
    /// One element of COMMAND's reply.
    fn entry(&mut self, spec: &'static Spec) {
        let (first, last, step, movable) = legacy_range(spec.keys);
        let flags: Vec<_> = spec.flags.names().filter(|name| !HIDDEN.contains(name)).collect();
        self.array(10);
        self.bulk(full_name(spec).as_bytes());
        self.integer(spec.arity as i64);
        self.set(flags.len() + movable as usize);
        flags.into_iter().for_each(|name| self.simple(name));
        if movable {
            self.simple("movablekeys");
        }
        self.integer(first);
        self.integer(last);
        self.integer(step);
        self.set(spec.acl.names().count());
        spec.acl.names().for_each(|name| self.simple(name));
        self.set(spec.tips.names().count());
        spec.tips.names().for_each(|name| self.bulk(name.as_bytes()));
        self.set(spec.keys.len());
        spec.keys.iter().for_each(|keys| self.key_spec(keys));
        // A server says so, too: an empty set, or a full array.
        if spec.container {
            self.array(spec.subcommands().count())
        } else {
            self.set(0)
        }
        spec.subcommands().for_each(|subcommand| self.entry(subcommand));
    }

    fn key_spec(&mut self, spec: &KeySpec) {
        self.map(3);
        self.bulk(b"flags");
        self.set(spec.flags.names().count());
        spec.flags.names().for_each(|name| self.simple(name));
        self.bulk(b"begin_search");
        match spec.begin {
            Begin::At(index) => self.typed("index", &[("index", index as i64)]),
            Begin::After(word, from) => {
                self.kind("keyword", 2);
                self.bulk(b"keyword");
                self.bulk(word.as_bytes());
                self.bulk(b"startfrom");
                self.integer(from as i64);
            }
            Begin::Unknown => self.kind("unknown", 0),
        }
        self.bulk(b"find_keys");
        match spec.find {
            Find::Range { last, step, limit } => self.typed(
                "range",
                &[("lastkey", last as i64), ("keystep", step as i64), ("limit", limit as i64)],
            ),
            Find::Count { step } => {
                self.typed("keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", step as i64)])
            }
            Find::Unknown => self.kind("unknown", 0),
        }
    }

    /// One half of a key specification: its type, then the begin of a map of `fields` that describe it.
    fn kind(&mut self, kind: &str, fields: usize) {
        self.map(2);
        self.bulk(b"type");
        self.bulk(kind.as_bytes());
        self.bulk(b"spec");
        self.map(fields);
    }

    fn typed(&mut self, kind: &str, fields: &[(&str, i64)]) {
        self.kind(kind, fields.len());
        for (name, value) in fields {
            self.bulk(name.as_bytes());
            self.integer(*value);
        }
    }

    /// One pair of COMMAND DOCS' map.
    fn documentation(&mut self, spec: &'static Spec) {
        self.bulk(full_name(spec).as_bytes());
        self.map(if spec.container { 4 } else { 3 });
        // Empty, but there: redis-cli prints it unasked.
        self.bulk(b"summary");
        self.bulk(b"");
        self.bulk(b"since");
        self.bulk(spec.since.as_bytes());
        self.bulk(b"group");
        let is_module = spec.flags.has(Flags::MODULE);
        self.bulk(if is_module { b"module" } else { spec.family.group().as_bytes() });
        if spec.container {
            self.bulk(b"subcommands");
            self.map(spec.subcommands().count());
            spec.subcommands().for_each(|subcommand| self.documentation(subcommand));
        }
    }

    fn array(&mut self, len: usize) {
        self.head(b'*', len as i64);
    }

    fn set(&mut self, len: usize) {
        self.head(if self.resp3 { b'~' } else { b'*' }, len as i64);
    }

    fn map(&mut self, pairs: usize) {
        if self.resp3 { self.head(b'%', pairs as i64) } else { self.head(b'*', 2 * pairs as i64) }
    }

    fn integer(&mut self, value: i64) {
        self.head(b':', value);
    }

    fn null(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    fn bulk(&mut self, text: &[u8]) {
        self.head(b'$', text.len() as i64);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn head(&mut self, kind: u8, value: i64) {
        self.out.push(kind);
        self.out.extend_from_slice(value.to_string().as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}

/// First key, last key and step as COMMAND told them before there were key specifications, and whether those three
/// do not tell everything. The rule is a server's own: ranges that touch are joined, what else there is moves.
fn legacy_range(keys: &[KeySpec]) -> (i64, i64, i64, bool) {
    if let [KeySpec { begin: Begin::At(at), find: Find::Range { last, step, .. }, .. }] = *keys {
        return (at as i64, from_end_or(at, last), step as i64, false);
    }
    let (mut first, mut end, mut movable) = (0, 0, false);
    for spec in keys {
        match (spec.begin, spec.find) {
            (Begin::At(at), Find::Range { last, step: 1, .. }) if end == 0 || end == at as i64 - 1 => {
                first = if first == 0 { at as i64 } else { first };
                end = from_end_or(at, last);
            }
            _ => movable = true,
        }
    }
    (first, end, (first != 0) as i64, movable)
}

/// An argument's place, or a negative one that counts from the end.
fn from_end_or(at: u8, last: i8) -> i64 {
    if last < 0 { last as i64 } else { at as i64 + last as i64 }
}
