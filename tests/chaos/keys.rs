//! The keys, and what the one client that writes a key knows of it.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
};

use super::journal::{History, Ms, Outcome, Span};
use crate::support::tag_of;

/// Hash tags, evenly over all slots: with three primaries a third of them each.
pub const TAGS: usize = 24;

/// Bytes of a large value at least: one that other connections to the nodes are for.
const LARGE: usize = 300_000;

/// A client's registers of a tag: the first is set and read alone, the next ones together,
pub const GROUP: Range<usize> = 1..4;
/// and with these, of all tags, a command has more than 1,000 keys; only some clients have them.
pub const WIDE: Range<usize> = 4..48;

/// How many registers of each tag a client has.
pub fn registers(client: usize) -> usize {
    if client.is_multiple_of(10) { WIDE.end } else { GROUP.end }
}

/// The slot of a tag.
pub fn slot(tag: usize) -> u16 {
    (tag * 16_384 / TAGS + 100) as u16
}

/// `{tag}` and a name.
pub fn key(tag: usize, name: &str) -> String {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..TAGS).map(|tag| tag_of(slot(tag))).collect());
    format!("{{{}}}{name}", NAMES[tag])
}

/// The value of a tag's key `large`.
pub fn large(tag: usize) -> String {
    key(tag, "large").repeat(LARGE / 10)
}

/// A value that is written once in a run.
pub fn value(client: usize, tag: usize, n: u32) -> String {
    format!("{client}.{tag}.{n}")
}

/// The number in a value, if that client wrote it there.
pub fn number(client: usize, tag: usize, value: &str) -> Option<u32> {
    value.strip_prefix(&format!("{client}.{tag}."))?.parse().ok()
}

/// The number behind `last` for this register. It says which register it is for, and whether its value is large.
fn next(last: u32, which: usize, large: bool) -> u32 {
    ((last >> 8) + 1) << 8 | (which as u32) << 1 | u32::from(large)
}

/// The register that a number is for.
pub fn which(n: u32) -> usize {
    (n as usize & 0xFF) >> 1
}

/// Whether the value with this number is large.
pub fn is_large(n: u32) -> bool {
    n & 1 != 0
}

/// The value of a register that has this number.
pub fn register_value(client: usize, tag: usize, n: u32) -> String {
    let value = value(client, tag, n);
    if is_large(n) { format!("{value}.{}", "x".repeat(LARGE)) } else { value }
}

/// The number in a register's value, if that client wrote just this there.
pub fn register_number(client: usize, tag: usize, which: usize, value: &str) -> Option<u32> {
    let n = number(client, tag, value.split(".x").next()?)?;
    (self::which(n) == which && value == register_value(client, tag, n)).then_some(n)
}

/// The beginning of a text that may be large.
pub fn shown(text: &str) -> String {
    text.chars().take(300).collect()
}

/// What a kept file has to show so that a loss is the cluster's.
#[derive(Clone)]
pub enum Evidence {
    /// This value was written to the key.
    Written(String, String),
    /// The counter stood as high.
    Reached(String, u64),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(key, value) => write!(f, "{key} = {}", shown(value)),
            Self::Reached(key, n) => write!(f, "{key} = {n}"),
        }
    }
}

/// What a reply means for what is known of its key.
pub enum Verdict {
    Fine,
    /// It is older than what was acknowledged, the last time at `known`: the cluster's loss, or ours.
    Back {
        known: Span,
        evidence: Evidence,
    },
    /// It can never be.
    Wrong(String),
}

/// A number that only its client raises: a counter, or the length of a list.
#[derive(Default)]
pub struct Count {
    pub known: u64,
    /// Raises that may have happened.
    pub doubt: u64,
    pub at: Span,
}

impl Count {
    /// A raise was answered with the new number.
    pub fn raised(&mut self, key: &str, to: u64, at: Span) -> Verdict {
        self.learn(key, 1, to, at)
    }

    /// The number was read.
    pub fn read(&mut self, key: &str, n: u64, at: Span) -> Verdict {
        self.learn(key, 0, n, at)
    }

    pub fn failed(&mut self, outcome: Outcome) {
        self.doubt += u64::from(outcome == Outcome::Doubt);
    }

    fn learn(&mut self, key: &str, by: u64, to: u64, at: Span) -> Verdict {
        let (low, high) = (self.known + by, self.known + self.doubt + by);
        let (was, known) = (self.known, self.at);
        *self = Self { known: to, doubt: 0, at };
        if to < low {
            Verdict::Back { known, evidence: Evidence::Reached(key.to_owned(), was) }
        } else if to > high {
            Verdict::Wrong(format!("{key} is {to}, and can be {high} at most"))
        } else {
            Verdict::Fine
        }
    }
}

/// A string that only its client sets.
#[derive(Default)]
pub struct Register {
    /// The number of the last SET that was sent.
    pub last: u32,
    /// What it may hold; 0 is nothing.
    possible: Vec<u32>,
    /// Values of SETs that were refused, or that went lost: they never come back.
    gone: Vec<u32>,
    at: Span,
}

impl Register {
    /// The number of the next SET.
    pub fn next(&mut self, which: usize, large: bool) -> u32 {
        self.last = next(self.last, which, large);
        self.last
    }

    pub fn set(&mut self, n: u32, outcome: Outcome, at: Span) {
        match outcome {
            Outcome::Done => (self.possible, self.at) = (vec![n], at),
            Outcome::Doubt => {
                if self.possible.is_empty() {
                    self.possible.push(0);
                }
                self.possible.push(n);
            }
            Outcome::Refused => self.gone.push(n),
        }
    }

    /// It was read; `None` is what its client never wrote.
    pub fn read(&mut self, key: &str, n: Option<u32>, value: impl Fn(u32) -> String, at: Span) -> Verdict {
        let Some(n) = n.filter(|n| *n <= self.last) else {
            return Verdict::Wrong(format!("{key} has a value that nobody wrote"));
        };
        if self.gone.contains(&n) {
            return Verdict::Wrong(format!(
                "{key} has {}, which was refused, or had gone lost: a stale read, or a repeated write",
                shown(&value(n))
            ));
        }
        // What was acknowledged comes before what is in doubt.
        let known = self.possible.first().copied().unwrap_or(0);
        let highest = self.possible.iter().copied().max().unwrap_or(0);
        let fine = self.possible.contains(&n) || n == 0 && self.possible.is_empty();
        // What was acknowledged is overwritten by what was in doubt; it comes back if the cluster loses that.
        self.possible.retain(|&possible| possible != n && (possible != known || n < known));
        self.gone.append(&mut self.possible);
        self.possible.push(n);
        let before = std::mem::replace(&mut self.at, at);
        if fine {
            return Verdict::Fine;
        }
        if n > highest {
            return Verdict::Wrong(format!(
                "{key} has {}, and had {} later",
                shown(&value(n)),
                shown(&value(highest))
            ));
        }
        Verdict::Back { known: before, evidence: Evidence::Written(key.to_owned(), value(known)) }
    }
}

/// A list to which only its client appends.
#[derive(Default)]
pub struct List {
    pub length: Count,
    /// Element `n` is number `n` here: when it was sent and answered, and how that ended.
    pub log: Vec<(Ms, Ms, Option<Outcome>)>,
    /// It was shorter once than it had been; what was known then.
    pub shrunk: Option<Arc<str>>,
}

/// All that one client knows of its keys of one tag.
#[derive(Default)]
pub struct Keys {
    pub counter: Count,
    pub counter_history: History,
    pub registers: Vec<Register>,
    pub register_history: History,
    pub list: List,
    pub list_history: History,
    /// To what transactions appended.
    pub blocks: List,
    /// What was put into the tag's queue, as in [`List::log`].
    pub queue: Vec<(Ms, Ms, Option<Outcome>)>,
    /// What was published on the tag's channel, in the same way.
    pub channel: Vec<(Ms, Ms, Option<Outcome>)>,
}

impl Keys {
    pub fn new(client: usize) -> Self {
        Self { registers: (0..registers(client)).map(|_| Register::default()).collect(), ..Self::default() }
    }
}

#[test]
fn counts_go_up_by_what_was_asked_for_and_what_is_in_doubt() {
    let count = |doubt| Count { known: 5, doubt, at: (0, 0) };
    assert!(matches!(count(0).raised("k", 6, (1, 1)), Verdict::Fine));
    assert!(matches!(count(0).raised("k", 7, (1, 1)), Verdict::Wrong(_)), "carried out twice");
    assert!(matches!(count(1).raised("k", 7, (1, 1)), Verdict::Fine));
    assert!(matches!(count(1).raised("k", 8, (1, 1)), Verdict::Wrong(_)));
    assert!(matches!(count(1).read("k", 4, (1, 1)), Verdict::Back { .. }), "lost, or stale");
    let mut settled = count(1);
    assert!(matches!(settled.read("k", 5, (1, 1)), Verdict::Fine));
    assert!(matches!(settled.read("k", 6, (2, 2)), Verdict::Wrong(_)), "what had not happened happens");
}

#[test]
fn registers_have_the_last_value_or_one_that_is_in_doubt() {
    let read = |register: &mut Register, n| register.read("k", n, |n| n.to_string(), (1, 1));
    let set = |outcomes: &[Outcome]| {
        let mut register = Register::default();
        let written = outcomes.iter().map(|outcome| {
            let n = register.next(0, false);
            register.set(n, *outcome, (0, 0));
            n
        });
        let written: Vec<u32> = written.collect();
        (register, written)
    };
    let (mut register, n) = set(&[Outcome::Done, Outcome::Done]);
    assert!(matches!(read(&mut register, None), Verdict::Wrong(_)), "nobody wrote it");
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Fine));
    assert!(matches!(read(&mut register, Some(n[0])), Verdict::Back { .. }), "stale");
    let (mut register, n) = set(&[Outcome::Done, Outcome::Doubt]);
    assert!(matches!(read(&mut register, Some(n[0])), Verdict::Fine));
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Wrong(_)), "carried out later");
    let (mut register, n) = set(&[Outcome::Done, Outcome::Doubt, Outcome::Doubt]);
    assert!(matches!(read(&mut register, Some(n[2])), Verdict::Fine));
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Wrong(_)), "carried out later");
    let (mut register, n) = set(&[Outcome::Done, Outcome::Doubt]);
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Fine));
    assert!(matches!(read(&mut register, Some(n[0])), Verdict::Back { .. }), "lost, or stale");
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Wrong(_)), "it does not come back");
    let (mut register, n) = set(&[Outcome::Done, Outcome::Refused]);
    assert!(matches!(read(&mut register, Some(n[1])), Verdict::Wrong(_)), "refused, and carried out");
}
