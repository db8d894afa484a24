//! Which arguments of a request decide its slot: its keys, or the channel of PUBLISH and SPUBLISH.
//!
//! A node finds the slot of a request by functions of its own for the commands whose keys move (scripts, sorted set
//! operations, XREAD, SORT, GEORADIUS, MIGRATE), and those differ in corner cases from the key specifications that
//! it publishes. Routing has to see what the node sees, so this file follows the functions.

use std::fmt;

use super::bitset::bitset;
use super::error::CommandError;
use super::spec::{Flags, Spec};
use crate::protocol::Args;

bitset! {
    /// What a command does with the keys of one specification.
    KeyFlags, key {
        /// Reads the value.
        RO = "RO",
        /// Changes the value.
        RW = "RW",
        /// Overwrites the value.
        OW = "OW",
        /// Removes the key.
        RM = "RM",
        /// Returns, copies or uses the user's data.
        ACCESS = "access",
        /// Writes data that depends on the request's.
        UPDATE = "update",
        /// Adds data; nothing there changes.
        INSERT = "insert",
        /// Deletes data.
        DELETE = "delete",
        /// A channel: it has a slot, but is no key.
        NOT_KEY = "not_key",
        /// Does not find all keys.
        INCOMPLETE = "incomplete",
        /// The other flags hang on the arguments.
        VARIABLE = "variable_flags",
    }
}

/// Where some of a command's keys are.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Where to begin.
    pub begin: Begin,
    /// Which arguments from there on.
    pub find: Find,
    /// What happens to them.
    pub flags: KeyFlags,
}

/// Where a key specification begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    At(u8),
    /// Behind this word, searched from an argument on: from the end, and backwards, if that is negative.
    After(&'static str, i8),
    /// That cannot be declared.
    Unknown,
}

/// Which arguments are keys, from the beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// Every `step`-th up to `last`: counted from the beginning, or from the end if negative. With a `limit`,
    /// only the first of so many equal parts.
    Range {
        /// The last one.
        last: i8,
        /// From a key to the next.
        step: u8,
        /// 0 for no limit.
        limit: u8,
    },
    /// The first argument says how many follow.
    Count {
        /// From a key to the next.
        step: u8,
    },
    /// That cannot be declared.
    Unknown,
}

/// How a command's keys are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finder {
    /// It is this one argument, and the command is keyed.
    One(u8),
    /// By the key specifications; none may be there.
    Specs,
    /// The same for a command that was learned: how its arguments must pair is for the node to say.
    Learned,
    /// SORT: behind the last STORE.
    Sort,
    /// GEORADIUS: behind the last STORE or STOREDIST.
    GeoStore,
    /// MIGRATE: one key, or all behind KEYS.
    Migrate,
    /// XREAD: half of what is behind STREAMS.
    Streams,
}

/// Why the keys of a request cannot be told. No server executes such a request.
#[derive(Clone, Copy, Debug)]
pub enum KeyError {
    /// To a node it is a request without keys, which it refuses in words of its own: any will do.
    LetServerAnswer,
    /// It must not be cut, since it has a key without a value; Display is the server's error.
    Unpaired(&'static Spec),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::LetServerAnswer => f.write_str("ERR Invalid arguments specified for command"),
            KeyError::Unpaired(spec) => CommandError::WrongArity(spec).fmt(f),
        }
    }
}

impl std::error::Error for KeyError {}

impl Spec {
    /// The argument that alone decides the slot, for a command that is keyed by one argument at a fixed place. The
    /// request must have passed [`super::resolve`].
    #[inline]
    pub fn first_key(&self, args: &Args) -> Option<usize> {
        let Finder::One(index) = self.finder else { return None };
        debug_assert!((index as usize) < args.len());
        Some(index as usize)
    }

    /// Calls `f` with the index of every argument that decides the slot, in the order of the key specifications. The
    /// request must have passed [`super::resolve`]. After an error, what `f` was told means nothing.
    ///
    /// A keyed command without any key is an error, but for scripts and functions, whose keys may be none.
    pub fn for_each_key(&'static self, args: &Args, f: &mut dyn FnMut(usize)) -> Result<(), KeyError> {
        if let Finder::One(index) = self.finder {
            f(index as usize);
            return Ok(());
        }
        if self.keys.is_empty() {
            return Ok(());
        }
        let paired = self.keys.iter().any(|spec| matches!(spec.find, Find::Range { step: 2, .. }));
        if paired && self.finder != Finder::Learned && args.len().is_multiple_of(2) {
            return Err(KeyError::Unpaired(self));
        }
        let mut found = false;
        let mut tell = |index| {
            found = true;
            f(index);
        };
        match self.finder {
            Finder::Sort => sort_keys(args, &mut tell),
            Finder::GeoStore => geo_keys(args, &mut tell),
            Finder::Migrate => migrate_keys(args, &mut tell),
            Finder::Streams => stream_keys(args, &mut tell),
            Finder::One(_) | Finder::Specs | Finder::Learned => self.keys_by_specs(args, &mut tell)?,
        }
        if found || self.is_keyless(args) { Ok(()) } else { Err(KeyError::LetServerAnswer) }
    }

    /// Whether this is a call of a script or function that says that it has no keys.
    pub fn is_keyless(&self, args: &Args) -> bool {
        let Some(KeySpec { begin: Begin::At(at), find: Find::Count { .. }, .. }) = self.keys.first() else {
            return false;
        };
        self.flags.has(Flags::NO_MANDATORY_KEYS) && args.get(*at as usize) == b"0"
    }

    fn keys_by_specs(&self, args: &Args, f: &mut dyn FnMut(usize)) -> Result<(), KeyError> {
        // A wrong count makes the whole request one without keys, those of other specifications included.
        for spec in self.keys {
            if spec.arguments(args).is_none() && !self.flags.has(Flags::NO_MANDATORY_KEYS) {
                return Err(KeyError::LetServerAnswer);
            }
        }
        for spec in self.keys {
            for index in spec.arguments(args).into_iter().flatten() {
                f(index);
            }
        }
        Ok(())
    }
}

/// The arguments of one key specification.
type Indices = std::iter::StepBy<std::ops::Range<usize>>;

impl KeySpec {
    /// `None` if it counts its keys, and the count is wrong.
    fn arguments(&self, args: &Args) -> Option<Indices> {
        const NONE: std::ops::Range<usize> = 0..0;
        let first = match self.begin {
            Begin::At(index) => index as usize,
            Begin::After(word, from) => match behind(word, from, args) {
                Some(index) => index,
                None => return Some(NONE.step_by(1)),
            },
            Begin::Unknown => return Some(NONE.step_by(1)),
        };
        match self.find {
            Find::Range { last, step, limit } => {
                let end = match (last, limit) {
                    (0.., _) => first + last as usize + 1,
                    (_, 0) => (args.len() + 1).saturating_sub(last.unsigned_abs() as usize),
                    (_, parts) => {
                        let share = args.len().saturating_sub(first) / parts as usize;
                        (first + share + 1).saturating_sub(last.unsigned_abs() as usize)
                    }
                };
                Some((first..end.min(args.len())).step_by(step as usize))
            }
            Find::Count { step } => {
                let count = usize::try_from(leading_int(args.get(first))).ok().filter(|&count| count > 0)?;
                let room = args.len().saturating_sub(first + 1) / step as usize;
                (count <= room).then(|| (first + 1..first + 1 + count * step as usize).step_by(step as usize))
            }
            Find::Unknown => Some(NONE.step_by(1)),
        }
    }
}

/// Behind the first place of `word` with an argument behind it; from the end on, only behind argument 1.
fn behind(word: &str, from: i8, args: &Args) -> Option<usize> {
    let is_there = |&index: &usize| args.get(index).eq_ignore_ascii_case(word.as_bytes());
    let found = if from >= 0 {
        (from as usize..args.len().saturating_sub(1)).find(is_there)
    } else {
        (2..(args.len() + 1).saturating_sub(from.unsigned_abs() as usize)).rev().find(is_there)
    };
    found.map(|index| index + 1)
}

/// The number that C's `atoi` sees: a node finds keys with it, and only the command itself is strict.
fn leading_int(text: &[u8]) -> i32 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number =
        digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_add((digit - b'0') as i64));
    (if negative { -number } else { number }) as i32
}

fn sort_keys(args: &Args, f: &mut dyn FnMut(usize)) {
    f(1);
    let mut store = None;
    let mut index = 2;
    while index < args.len() {
        index += match args.get(index) {
            word if word.eq_ignore_ascii_case(b"limit") => 2,
            word if word.eq_ignore_ascii_case(b"get") || word.eq_ignore_ascii_case(b"by") => 1,
            word if word.eq_ignore_ascii_case(b"store") && index + 1 < args.len() => {
                store = Some(index + 1);
                0
            }
            _ => 0,
        } + 1;
    }
    store.into_iter().for_each(f);
}

fn geo_keys(args: &Args, f: &mut dyn FnMut(usize)) {
    f(1);
    let mut store = None;
    let mut index = 5;
    while index + 1 < args.len() {
        let word = args.get(index);
        if word.eq_ignore_ascii_case(b"store") || word.eq_ignore_ascii_case(b"storedist") {
            index += 1;
            store = Some(index);
        }
        index += 1;
    }
    store.into_iter().for_each(f);
}

fn migrate_keys(args: &Args, f: &mut dyn FnMut(usize)) {
    let mut index = 6;
    while index < args.len() {
        let word = args.get(index);
        if word.eq_ignore_ascii_case(b"keys") {
            // With a single key as well it is a syntax error.
            if args.get(3).is_empty() {
                (index + 1..args.len()).for_each(f);
            }
            return;
        }
        index += match word {
            _ if word.eq_ignore_ascii_case(b"auth") => 2,
            _ if word.eq_ignore_ascii_case(b"auth2") => 3,
            _ => 1,
        };
    }
    f(3);
}

fn stream_keys(args: &Args, f: &mut dyn FnMut(usize)) {
    let first = stream_options(args).first;
    let streams = args.len().saturating_sub(first);
    // A stream without an id, or an id without a stream: the command is refused.
    if streams.is_multiple_of(2) {
        (first..first + streams / 2).for_each(f);
    }
}

/// What stands before the streams of XREAD and XREADGROUP.
pub(super) struct StreamOptions {
    /// The first stream's place, or the number of arguments.
    pub(super) first: usize,
    /// The place of BLOCK's value, if that is among the options.
    pub(super) block: Option<usize>,
}

/// Options may come in any order, and their values may be any word: a consumer may be called STREAMS. Behind an
/// option that is not known here, anything that looks like BLOCK counts as BLOCK: a shared link must never block.
pub(super) fn stream_options(args: &Args) -> StreamOptions {
    let mut block = None;
    let mut known = true;
    let mut index = 1;
    while index < args.len() {
        let word = args.get(index);
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        index += 1;
        if is("STREAMS") {
            break;
        } else if is("BLOCK") {
            block = Some(index);
            index += 1;
        } else if is("COUNT") || is("CLAIM") {
            index += 1;
        } else if is("GROUP") {
            index += 2;
        } else if !is("NOACK") {
            known = false;
        }
    }
    if !known {
        let found = args.iter().position(|word| word.eq_ignore_ascii_case(b"BLOCK"));
        block = block.or(found.map(|at| at + 1));
    }
    StreamOptions { first: index.min(args.len()), block }
}
