//! Learning commands from what a server answers to COMMAND: modules' ones, and those of newer servers.
//!
//! What a command does to its connection cannot be told from there, so the rule is strict: a command is served if
//! its keys can be found, or if it is about data, having the flag `write` or `readonly`; and not if it may block,
//! administers, is about channels, or is in the category of those that change their connection.

use std::collections::HashMap;

use super::keys::{Begin, Find, Finder, KeyFlags, KeySpec};
use super::kinds::{Barrier, Family, Merge, Route, Script};
use super::learned::Learned;
use super::lookup::{Folded, find};
use super::spec::{Categories, Flags, Spec, Tips};
use super::table::TABLE;
use crate::protocol::Value;

/// So many commands and subcommands are learned at most: each is kept for as long as the process lives.
const MOST: usize = 4096;
/// Longer names, and more key specifications, no command has.
const LONGEST_NAME: usize = 128;
const MOST_KEY_SPECS: usize = 16;
/// Bytes of COMMAND's row; the longest of a server's own, CLUSTER with all subcommands, takes 5 KB.
const LONGEST_ROW: usize = 64 * 1024;
/// A row, its subcommands, one of them, its key specifications, one of them, a half of it, what describes that.
const DEPTH: usize = 7;

const ADMIN: &str = "it administers a node; ask the node";
const BLOCKS: &str = "it may wait for another client, and a connection to a node is shared";
const CHANNELS: &str = "it is about channels, in a way that this proxy does not know";
const CONNECTION: &str = "it may change its connection, and a connection to a node is shared";
const CONTAINER: &str = "a subcommand is missing";
const KEYS: &str = "its keys cannot be found: the server does not declare where all of them are";
const MERGING: &str = "it goes to every shard, and how the replies are merged is not declared";
const NODES: &str = "it goes to every node, replicas too, or by a rule of its own; ask the nodes";

/// What was learned of one cluster. What was learned stays learned: during an upgrade some nodes know a command and
/// others do not, and a node without it says so itself.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By the bytes of COMMAND's row, so that the same row is not kept twice.
    rows: HashMap<Box<[u8]>, Box<[&'static Spec]>>,
    learned: Learned,
    kept: usize,
}

impl Catalog {
    /// Learns from a whole reply to COMMAND what the table lacks; `None` if it is no such reply.
    pub fn learn(&mut self, reply: &[u8]) -> Option<Learned> {
        let mut rest = reply;
        for _ in 0..Value::enter(&mut rest)? {
            let before = rest;
            let value = Value::take(&mut rest, DEPTH)?;
            let bytes = &before[..before.len() - rest.len()];
            if bytes.len() <= LONGEST_ROW && !self.rows.contains_key(bytes) {
                let Some(row) = Row::read(&value) else { continue };
                let specs = self.keep(&row);
                if specs.is_empty() {
                    continue;
                }
                self.rows.insert(bytes.into(), specs);
            }
            for spec in self.rows.get(bytes).into_iter().flatten() {
                self.learned.insert(spec);
            }
        }
        rest.is_empty().then(|| self.learned.clone())
    }

    /// Whether there is no room for further commands.
    pub fn is_full(&self) -> bool {
        self.kept >= MOST
    }

    /// Keeps what the table lacks of a command: all of it, or subcommands.
    fn keep(&mut self, row: &Row<'_>) -> Box<[&'static Spec]> {
        let known = find(row.name.as_bytes());
        let lacks = |subcommand: &Row<'_>| find(subcommand.name.replace(' ', "|").as_bytes()).is_none();
        let subcommands: Vec<Row<'_>> = row.subcommands().filter(lacks).collect();
        let count = subcommands.len() + usize::from(known.is_none());
        if count == 0 || self.kept + count > MOST {
            return Box::default();
        }
        self.kept += count;
        let specs: Vec<Spec> = subcommands.iter().map(|row| row.spec(&[])).collect();
        let specs: &'static [Spec] = specs.leak();
        let command = known.is_none().then(|| &*Box::leak(Box::new(row.spec(specs))));
        command.into_iter().chain(specs).collect()
    }
}

/// One element of COMMAND's reply.
struct Row<'a> {
    /// In lower case; a subcommand's with its container's, as in the table.
    name: String,
    arity: i16,
    fields: &'a [Value<'a>],
}

impl<'a> Row<'a> {
    fn read(value: &'a Value<'a>) -> Option<Self> {
        let fields = value.list()?;
        let name = fields.first()?.text()?.to_ascii_lowercase();
        let is_name =
            (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        let arity = i16::try_from(fields.get(1)?.number()?).ok()?;
        is_name.then(|| Row { name: name.replacen('|', " ", 1), arity, fields })
    }

    fn subcommands(&self) -> impl Iterator<Item = Row<'a>> {
        let rows = self.fields.get(9).and_then(Value::list).unwrap_or_default();
        let prefix = format!("{} ", self.name);
        rows.iter().filter_map(Row::read).filter(move |row| row.name.starts_with(&prefix))
    }

    fn texts(&self, field: usize) -> impl Iterator<Item = &'a str> {
        self.fields.get(field).and_then(Value::list).unwrap_or_default().iter().filter_map(Value::text)
    }

    fn spec(&self, subcommands: &'static [Spec]) -> Spec {
        let name: &'static str = self.name.clone().leak();
        let found = self.keys();
        let (route, merge, barrier) = self.serving(&found);
        let keys: &'static [KeySpec] = found.unwrap_or_default().leak();
        let finder = match (route, keys) {
            (Route::Keyed, [KeySpec { begin: Begin::At(at), find: Find::Range { last: 0, .. }, .. }])
                if usize::from(*at) < self.arity.unsigned_abs() as usize =>
            {
                Finder::One(*at)
            }
            _ => Finder::Learned,
        };
        let is_subcommand = name.contains(' ');
        Spec {
            name,
            arity: self.arity,
            flags: self.flags(),
            keys,
            route,
            merge,
            barrier,
            family: Family::Other,
            since: "",
            id: TABLE.len() as u16,
            container: self.fields.get(9).and_then(Value::list).is_some_and(|rows| !rows.is_empty()),
            tips: Tips::named(self.texts(7)),
            acl: self.categories(),
            finder,
            scope: if is_subcommand { u16::MAX } else { 0 },
            word: name.split_once(' ').map_or(name, |(_, word)| word),
            learned: subcommands,
            script: Script::None,
            plain: false,
            folded: Folded::new(b"", 0),
        }
    }

    fn flags(&self) -> Flags {
        Flags::named(self.texts(2))
    }

    fn categories(&self) -> Categories {
        Categories::named(self.texts(6))
    }

    /// Where a call goes, by what the server says; the rule is this file's.
    fn serving(&self, keys: &Result<Vec<KeySpec>, &'static str>) -> (Route, Merge, Barrier) {
        let refuse = |reason| (Route::Refused(reason), Merge::Pass, Barrier::None);
        let (flags, categories) = (self.flags(), self.categories());
        if self.subcommands().next().is_some() {
            return refuse(CONTAINER);
        }
        for (flag, reason) in [
            (Flags::BLOCKING, BLOCKS),
            (Flags::ADMIN, ADMIN),
            (Flags::ASKING, ADMIN),
            (Flags::PUBSUB, CHANNELS),
            (Flags::NO_AUTH, CONNECTION),
            (Flags::NO_MULTI, CONNECTION),
        ] {
            if flags.has(flag) {
                return refuse(reason);
            }
        }
        if categories.has(Categories::CONNECTION) || categories.has(Categories::TRANSACTION) {
            return refuse(CONNECTION);
        }
        let is_about_data = flags.has(Flags::READONLY) || flags.has(Flags::WRITE);
        match (self.tip("request_policy:"), keys) {
            (Some("all_shards"), _) if !is_about_data => refuse(CONNECTION),
            (Some("all_shards"), _) => match self.merge() {
                Some(merge) => (Route::AllShards, merge, Barrier::Full),
                None => refuse(MERGING),
            },
            (None | Some("multi_shard"), Err(reason)) => refuse(reason),
            // Not cut, even if it may be: what belongs to which key only the command knows.
            (None | Some("multi_shard"), Ok(keys)) if !keys.is_empty() => {
                (Route::Keyed, Merge::Pass, Barrier::None)
            }
            (None, Ok(_)) if is_about_data => (Route::AnyShard, Merge::Pass, Barrier::Full),
            (None, Ok(_)) => refuse(CONNECTION),
            (Some(_), _) => refuse(NODES),
        }
    }

    fn merge(&self) -> Option<Merge> {
        Some(match self.tip("response_policy:") {
            None => Merge::Concat,
            Some("agg_sum") => Merge::Sum,
            Some("agg_min") => Merge::MinInt,
            Some("agg_logical_and") => Merge::LogicalAnd,
            Some("all_succeeded") => Merge::AllSucceeded,
            Some(_) => return None,
        })
    }

    fn tip(&self, policy: &str) -> Option<&'a str> {
        self.texts(7).find_map(|tip| tip.strip_prefix(policy))
    }

    /// The key specifications, or why not all keys can be found by them.
    fn keys(&self) -> Result<Vec<KeySpec>, &'static str> {
        let keys = match self.fields.get(8).and_then(Value::list) {
            Some(specs) if specs.len() > MOST_KEY_SPECS => return Err(KEYS),
            Some(specs) => specs.iter().map(key_spec).collect::<Option<Vec<_>>>(),
            None => self.range().map(|range| range.into_iter().collect()),
        };
        let keys = keys.ok_or(KEYS)?;
        // Then there are keys beside those that stand in a row.
        let moves = self.texts(2).any(|flag| flag == "movablekeys");
        let in_rows = |spec: &KeySpec| matches!((spec.begin, spec.find), (Begin::At(_), Find::Range { .. }));
        if moves && keys.iter().all(in_rows) { Err(KEYS) } else { Ok(keys) }
    }

    /// First key, last key and step, from servers before 7.0; without keys there is none.
    fn range(&self) -> Option<Option<KeySpec>> {
        let number = |field: usize| self.fields.get(field).and_then(Value::number);
        let (first, last, step) = (number(3)?, number(4)?, number(5)?);
        if first <= 0 {
            return Some(None);
        }
        let flags = if self.flags().has(Flags::WRITE) { KeyFlags::RW } else { KeyFlags::RO };
        let last = if last < 0 { last } else { last.checked_sub(first).filter(|last| *last >= 0)? };
        let find = Find::Range { last: last.try_into().ok()?, step: positive(step)?, limit: 0 };
        Some(Some(KeySpec { begin: Begin::At(first.try_into().ok()?), find, flags }))
    }
}

/// A key specification, if it tells where all its keys are.
fn key_spec(value: &Value<'_>) -> Option<KeySpec> {
    let flags = value.field("flags")?.list()?;
    let flags = KeyFlags::named(flags.iter().filter_map(Value::text));
    if flags.has(KeyFlags::INCOMPLETE) {
        return None;
    }
    let (begin, find) = (value.field("begin_search")?, value.field("find_keys")?);
    let (begin_spec, find_spec) = (begin.field("spec")?, find.field("spec")?);
    let number = |spec: &Value<'_>, name| spec.field(name).and_then(Value::number);
    let begin = match begin.field("type")?.text()? {
        "index" => Begin::At(positive(number(begin_spec, "index")?)?),
        "keyword" => {
            let word = begin_spec.field("keyword")?.text().filter(|word| word.len() <= LONGEST_NAME)?;
            let from = number(begin_spec, "startfrom")?.try_into().ok()?;
            Begin::After(word.to_owned().leak(), from)
        }
        _ => return None,
    };
    let find = match find.field("type")?.text()? {
        "range" => Find::Range {
            last: number(find_spec, "lastkey")?.try_into().ok()?,
            step: positive(number(find_spec, "keystep")?)?,
            limit: number(find_spec, "limit")?.try_into().ok()?,
        },
        // As all servers' own commands have it.
        "keynum" if (number(find_spec, "keynumidx"), number(find_spec, "firstkey")) == (Some(0), Some(1)) => {
            Find::Count { step: positive(number(find_spec, "keystep")?)? }
        }
        _ => return None,
    };
    Some(KeySpec { begin, find, flags })
}

fn positive(number: i64) -> Option<u8> {
    u8::try_from(number).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(names: impl ExactSizeIterator<Item = String>) -> Vec<u8> {
        let mut reply = format!("*{}\r\n", names.len());
        for name in names {
            let row = "*6\r\n$LEN\r\nNAME\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n";
            reply += &row.replace("LEN", &name.len().to_string()).replace("NAME", &name);
        }
        reply.into_bytes()
    }

    #[test]
    fn so_many_commands_are_learned_and_no_more() {
        let mut catalog = Catalog::default();
        let some = reply((0..3).map(|i| format!("x.{i}")));
        assert_eq!(catalog.learn(&some).unwrap().specs().count(), 3);
        assert!(!catalog.is_full());
        let learned = catalog.learn(&reply((0..MOST + 10).map(|i| format!("y.{i}")))).unwrap();
        assert_eq!((learned.specs().count(), catalog.is_full()), (MOST, true));
        assert!(learned.find(b"X.1").is_some() && learned.find(b"y.0").is_some());
        // What is known already still counts.
        assert_eq!(catalog.learn(&some).unwrap().specs().count(), MOST);
    }

    #[test]
    fn a_newer_row_takes_the_place_of_an_older_one() {
        let mut catalog = Catalog::default();
        let old = reply(["x.a".to_owned()].into_iter());
        let new = String::from_utf8(old.clone()).unwrap().replace(":2\r\n", ":3\r\n");
        let arity = |learned: Learned| learned.find(b"x.a").unwrap().arity;
        assert_eq!(arity(catalog.learn(&old).unwrap()), 2);
        assert_eq!(arity(catalog.learn(new.as_bytes()).unwrap()), 3);
        assert_eq!(arity(catalog.learn(&old).unwrap()), 2);
        assert_eq!(catalog.kept, 2);
    }

    #[test]
    fn nothing_is_learned_from_what_is_no_such_reply() {
        let whole = reply(["x.a".to_owned()].into_iter());
        for end in 0..whole.len() {
            assert!(Catalog::default().learn(&whole[..end]).is_none(), "{end}");
        }
        for reply in ["-ERR no\r\n", "*1\r\n-ERR\r\n", "$1\r\nx\r\n", "*-1\r\n", "*9999999999\r\n"] {
            assert!(Catalog::default().learn(reply.as_bytes()).is_none(), "{reply}");
        }
        for name in ["", "a b", "a\u{1}", &"x".repeat(LONGEST_NAME + 1)] {
            let learned = Catalog::default().learn(&reply([name.to_owned()].into_iter())).unwrap();
            assert_eq!(learned.specs().count(), 0, "{name:?}");
        }
        let deep = format!("*1\r\n{}", "*1\r\n".repeat(100_000));
        assert!(Catalog::default().learn(deep.as_bytes()).is_none());
    }
}
