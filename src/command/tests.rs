//! The table's rules, and the keys of commands that redis 7.0 lacks, by their specification.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::protocol::{Args, Span};

/// Calls `f` with the arguments of a request written with spaces.
fn with<R>(line: &str, f: impl FnOnce(&Args) -> R) -> R {
    let mut spans = Vec::new();
    let mut start = 0;
    for word in line.split(' ') {
        spans.push(Span { start, end: start + word.len() as u32 });
        start += word.len() as u32 + 1;
    }
    f(&Args::new(line.as_bytes(), &spans))
}

fn keys(line: &str) -> String {
    with(line, |args| {
        let mut keys = Vec::new();
        let tell = &mut |index| keys.push(String::from_utf8_lossy(args.get(index)).into_owned());
        match resolve(args).unwrap().for_each_key(args, tell) {
            Ok(()) => keys.join(" "),
            Err(error) => error.to_string(),
        }
    })
}

fn placement(line: &str) -> (Route, Barrier) {
    with(line, |args| resolve(args).unwrap().placement(args))
}

#[test]
fn keys_of_newer_commands() {
    for (line, expected) in [
        ("msetex 2 a 1 b 2 EX 10", "a b"),
        ("MSETEX 1 a 1 NX", "a"),
        ("msetex 3 a 1 b 2", "ERR Invalid arguments specified for command"),
        ("msetex 0 a 1", "ERR Invalid arguments specified for command"),
        ("hgetex a EX 10 FIELDS 1 f", "a"),
        ("hgetdel a FIELDS 1 f", "a"),
        ("hsetex a EX 10 FIELDS 1 f v", "a"),
        ("hexpire a 10 NX FIELDS 2 f g", "a"),
        ("httl a FIELDS 1 f", "a"),
        ("xdelex a KEEPREF IDS 1 1-1", "a"),
        ("xackdel a g KEEPREF IDS 1 1-1", "a"),
        ("delex a IFEQ v", "a"),
        ("delifeq a v", "a"),
        ("digest a", "a"),
        ("xreadgroup GROUP g c CLAIM 50 COUNT 1 STREAMS a b > >", "a b"),
        ("xread NEWER STREAMS a 0", "a"),
        ("script show sha", ""),
        ("mset a 1 b", "ERR wrong number of arguments for 'mset' command"),
        ("msetnx a 1 b", "ERR wrong number of arguments for 'msetnx' command"),
    ] {
        assert_eq!(keys(line), expected, "{line}");
    }
}

#[test]
fn declared_ways_to_find_keys_that_no_row_needs() {
    let find = |begin, find, line: &str| {
        let keys: &'static [KeySpec] = Box::leak(Box::new([KeySpec { begin, find, flags: KeyFlags::RO }]));
        let spec: &'static Spec =
            Box::leak(Box::new(Spec { keys, finder: keys::Finder::Specs, ..*super::find(b"eval").unwrap() }));
        let mut found = Vec::new();
        with(line, |args| spec.for_each_key(args, &mut |index| found.push(index)).is_ok());
        found
    };
    let range = |last, step, limit| Find::Range { last, step, limit };
    assert_eq!(find(Begin::After("KEYS", 1), range(-1, 1, 0), "x a keys b c"), [3, 4]);
    assert_eq!(find(Begin::After("KEYS", 1), range(-1, 1, 0), "x a b keys"), [0; 0]);
    assert_eq!(find(Begin::After("KEYS", 2), range(0, 1, 0), "x keys a keys b keys c"), [4]);
    assert_eq!(find(Begin::After("KEYS", -2), range(-1, 1, 0), "x 1 keys b keys c"), [5]);
    assert_eq!(find(Begin::After("KEYS", -2), range(-1, 1, 0), "x 1 keys b c d"), [3, 4, 5]);
    assert_eq!(find(Begin::After("KEYS", -2), range(-1, 1, 0), "x keys b c d"), [0; 0]);
    assert_eq!(find(Begin::After("STREAMS", 1), range(-1, 1, 2), "x streams a b 0 0"), [2, 3]);
    assert_eq!(find(Begin::At(1), range(-2, 1, 0), "x a b c 0"), [1, 2, 3]);
    assert_eq!(find(Begin::At(2), range(3, 2, 0), "x 1 a 1 b 2 c"), [2, 4]);
    assert_eq!(find(Begin::After("KEYS", 1), Find::Count { step: 1 }, "x keys 2 a b c"), [3, 4]);
    assert_eq!(find(Begin::Unknown, Find::Unknown, "x a"), [0; 0]);
}

#[test]
fn calls_that_differ_from_their_row() {
    let anywhere = (Route::AnyShard, Barrier::Full);
    let keyed = (Route::Keyed, Barrier::None);
    assert_eq!(placement("eval script 0 a"), anywhere);
    assert_eq!(placement("FCALL_RO f 0"), anywhere);
    assert_eq!(placement("evalsha sha 1 a"), keyed);
    // Not a number that a node takes: it is one for LetServerAnswer, or has a key.
    assert_eq!(placement("eval script 00 a"), keyed);
    assert_eq!(placement("xread COUNT block STREAMS block 0"), keyed);
    assert_eq!(placement("xreadgroup GROUP block block STREAMS a >"), keyed);
    assert_eq!(placement("get block"), keyed);
    for line in [
        "xread BLOCK 0 STREAMS a 0",
        "XREAD count 1 block 0 STREAMS a 0",
        "xreadgroup GROUP g STREAMS block 10 STREAMS a >",
        "xread NEWER streams BLOCK 0 STREAMS a 0",
    ] {
        assert_eq!(placement(line), (Route::Blocking, Barrier::Full), "{line}");
        assert!(with(line, |args| resolve(args).unwrap().blocks(args)), "{line}");
    }
    assert!(with("blpop a 0", |args| resolve(args).unwrap().blocks(args)));
    for (line, at, timeout) in [
        ("blpop a b 1.5", 3, 1500),
        ("brpoplpush a b 2", 3, 2000),
        ("blmove a b left right 0", 5, 0),
        ("blmpop 3 1 a left", 1, 3000),
        ("bzmpop 0.25 1 a min", 1, 250),
        ("xread block 20 streams a $", 2, 20),
        ("xreadgroup group g c count 1 block 7 streams a >", 7, 7),
    ] {
        let patience = with(line, |args| {
            let patience = resolve(args).unwrap().patience(args).unwrap();
            (patience.at, patience.timeout(args).unwrap().as_millis())
        });
        assert_eq!(patience, (at, timeout), "{line}");
    }
    assert_eq!(placement("publish channel message"), (Route::Keyed, Barrier::AfterOthers));
    assert_eq!(keys("publish channel message"), "channel");
    assert_eq!(keys("spublish channel message"), "channel");
}

/// The shared links' safety: nothing that may change a connection's state, or block it, is ever forwarded.
#[test]
fn what_is_forwarded_is_harmless_to_a_shared_link() {
    for spec in table()
        .filter(|spec| matches!(spec.route, Route::Keyed | Route::Split | Route::AllShards | Route::AnyShard))
    {
        let flags = spec.flags;
        let is_stream = ["xread", "xreadgroup"].contains(&spec.name);
        assert!(!flags.has(Flags::BLOCKING) || is_stream, "{} blocks", spec.name);
        assert!(!flags.has(Flags::NO_AUTH) && !flags.has(Flags::NO_MULTI), "{}", spec.name);
        let is_report = spec.name == "pfdebug" || spec.name.starts_with("latency ");
        assert!(!flags.has(Flags::ADMIN) || is_report, "{} administers", spec.name);
        assert!(!matches!(spec.family, Family::Transaction), "{}", spec.name);
        let publishes = ["publish", "spublish"].contains(&spec.name) || spec.name.starts_with("pubsub ");
        assert!(!flags.has(Flags::PUBSUB) || publishes, "{}", spec.name);
        let is_help = spec.word() == "help";
        assert!(!matches!(spec.family, Family::Connection) || is_help, "{}", spec.name);
        assert!(!matches!(spec.family, Family::Cluster) || is_help, "{}", spec.name);
    }
}

#[test]
fn rows_are_in_order_and_whole() {
    let mut container = None;
    for (place, spec) in table().enumerate() {
        assert_eq!(spec.id as usize, place, "{}", spec.name);
        assert_eq!(spec.name, spec.name.to_lowercase());
        match spec.name.split_once(' ') {
            None => container = Some(spec),
            Some((first, _)) => assert_eq!(container.map(|row| row.name), Some(first), "{}", spec.name),
        }
        assert_eq!(spec.container, spec.subcommands().count() > 0, "{}", spec.name);
        let words = spec.name.split(' ').count();
        assert!(spec.arity.unsigned_abs() as usize >= words, "{}", spec.name);
        if matches!(spec.route, Route::AllShards | Route::AnyShard) {
            assert_eq!(spec.barrier, Barrier::Full, "{} has no slot", spec.name);
            assert!(spec.keys.is_empty(), "{}", spec.name);
        }
    }
}

/// A request that is keyed must never go to any shard but for a count of keys, or STREAMS, that is wrong.
#[test]
fn the_least_arguments_are_enough_for_a_key() {
    for spec in table().filter(|spec| matches!(spec.route, Route::Keyed | Route::Split)) {
        let counted = spec.keys.iter().any(|keys| matches!(keys.find, Find::Count { .. }));
        let words = spec.name.split(' ').count();
        let least = spec.arity.unsigned_abs() as usize;
        let line = format!("{}{}", spec.name, " x".repeat(least - words));
        if counted || spec.name.starts_with("xread") {
            assert_eq!(keys(&line), "ERR Invalid arguments specified for command", "{line}");
        } else {
            assert!(keys(&line).starts_with('x'), "{line}");
        }
    }
}
