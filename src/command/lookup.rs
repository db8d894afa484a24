//! From a request to its row.
//!
//! The index is an open-addressing table, built by the compiler: a lookup is one hash of at most sixteen bytes of
//! the name, seldom more than one row looked at, and nothing to initialise.

use super::error::CommandError;
use super::spec::{Flags, Spec};
use super::table::TABLE;
use crate::protocol::Args;

/// The row of a request, with its existence and its number of arguments checked, in the order and with the words
/// of a server. For a container it is the row of the subcommand.
#[inline]
pub fn resolve<'a>(args: &Args<'a>) -> Result<&'static Spec, CommandError<'a>> {
    match lookup(args.get(0), 0) {
        Some(spec) if !spec.container && spec.accepts(args.len()) => Ok(spec),
        found => resolve_slowly(found, args),
    }
}

/// The row of a name as COMMAND INFO takes it: `get`, or `config|get`.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut words = name.splitn(2, |&byte| byte == b'|');
    let spec = lookup(words.next()?, 0)?;
    match words.next() {
        None => Some(spec),
        Some(word) => lookup(word, spec.id + 1),
    }
}

/// What is left once the plain case is done: containers and errors.
fn resolve_slowly<'a>(
    found: Option<&'static Spec>,
    args: &Args<'a>,
) -> Result<&'static Spec, CommandError<'a>> {
    let mut spec = found.ok_or(CommandError::Unknown(*args))?;
    if spec.container && args.len() > 1 {
        spec = lookup(args.get(1), spec.id + 1).ok_or(CommandError::UnknownSubcommand(spec, *args))?;
    }
    if spec.accepts(args.len()) { Ok(spec) } else { Err(CommandError::WrongArity(spec)) }
}

/// `scope` is 0 for a command, and its container's place plus one for a subcommand.
#[inline]
fn lookup(word: &[u8], scope: u16) -> Option<&'static Spec> {
    let mut slot = hash(word, scope);
    loop {
        let spec = TABLE.get(INDEX[slot] as usize)?;
        if spec.scope == scope && spec.word.as_bytes().eq_ignore_ascii_case(word) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// More than twice the rows, so that there are free slots and chains stay short.
const SLOTS: usize = 1024;
const FREE: u16 = u16::MAX;

static INDEX: [u16; SLOTS] = index();

const fn index() -> [u16; SLOTS] {
    let mut slots = [FREE; SLOTS];
    let mut row = 0;
    while row < TABLE.len() {
        let spec = &TABLE[row];
        // A cluster's node has none of these: to it they are unknown commands.
        if !spec.flags.has(Flags::ONLY_SENTINEL) {
            let mut slot = hash(spec.word.as_bytes(), spec.scope);
            while slots[slot] != FREE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = row as u16;
        }
        row += 1;
    }
    slots
}

/// Of the first and the last eight bytes and the length. Setting bit 5 makes letters lower case; that it also makes
/// equals of a few other characters costs a comparison, no more.
#[inline]
const fn hash(word: &[u8], scope: u16) -> usize {
    let (first, last) = if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
        (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
    } else if let (Some(first), Some(last)) = (word.first(), word.last()) {
        (*first as u64, ((word[word.len() / 2] as u64) << 8) | *last as u64)
    } else {
        (0, 0)
    };
    const CASE: u64 = 0x2020_2020_2020_2020;
    let mixed =
        (first | CASE) ^ (last | CASE).rotate_left(29) ^ ((word.len() as u64) << 56) ^ ((scope as u64) << 24);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rows a lookup of this row looks at.
    fn chain(spec: &Spec) -> usize {
        let mut slot = hash(spec.word.as_bytes(), spec.scope);
        let mut looked_at = 1;
        while INDEX[slot] != spec.id {
            slot = (slot + 1) % SLOTS;
            looked_at += 1;
        }
        looked_at
    }

    #[test]
    fn every_row_is_found_in_any_case() {
        let mut worst = 0;
        for spec in TABLE.iter().filter(|spec| !spec.flags.has(Flags::ONLY_SENTINEL)) {
            let name = spec.name.replace(' ', "|");
            assert_eq!(find(name.as_bytes()).map(|found| found.id), Some(spec.id), "{name}");
            assert_eq!(find(name.to_uppercase().as_bytes()).map(|found| found.id), Some(spec.id), "{name}");
            worst = worst.max(chain(spec));
        }
        assert!(worst <= 8, "a lookup looks at up to {worst} rows");
        for name in ["get", "set", "mget", "mset", "incr", "hget", "hset", "del", "lpush", "zadd", "sadd"] {
            let looked_at = find(name.as_bytes()).map(chain);
            assert!(looked_at.is_some_and(|rows| rows <= 2), "{name}: {looked_at:?}");
        }
    }

    #[test]
    fn no_other_name_is_found() {
        for name in [
            "",
            "ge",
            "gett",
            "config get",
            "get|",
            "get|x",
            "config|",
            "config|get|x",
            "sentinel",
            "[GET",
            "\x27et",
        ] {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }
}
