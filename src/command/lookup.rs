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
    let folded = Folded::new(word, scope);
    let mut slot = folded.slot();
    loop {
        let spec = TABLE.get(INDEX[slot] as usize)?;
        if spec.folded == folded && (word.len() <= 16 || spec.word.as_bytes().eq_ignore_ascii_case(word)) {
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
            let mut slot = spec.folded.slot();
            while slots[slot] != FREE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = row as u16;
        }
        row += 1;
    }
    slots
}

/// A word in lower case, as far as two numbers hold it: all of up to sixteen bytes, else both its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Folded {
    first: u64,
    last: u64,
    /// The word's length and its scope.
    rest: u64,
}

impl Folded {
    #[inline]
    pub(super) const fn new(word: &[u8], scope: u16) -> Folded {
        let (first, last) = if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
            (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
        } else if let (Some(first), Some(last)) = (word.first_chunk(), word.last_chunk()) {
            (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
        } else if let (Some(first), Some(last)) = (word.first(), word.last()) {
            (*first as u64, ((word[word.len() / 2] as u64) << 8) | *last as u64)
        } else {
            (0, 0)
        };
        let rest = ((word.len() as u64) << 16) | scope as u64;
        Folded { first: lower_case(first), last: lower_case(last), rest }
    }

    #[inline]
    const fn slot(self) -> usize {
        // Of the rotations tried, these give the shortest chains: at most four rows, 1.2 on average.
        let mixed = self.first ^ self.last.rotate_left(41) ^ self.rest.rotate_left(30);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
    }
}

/// Eight ASCII characters at once; what is no upper case letter stays. A byte's upper bit tells, after each addition,
/// whether the character was at least as large as the constant is far from 0x80.
#[inline]
const fn lower_case(text: u64) -> u64 {
    const EVERY: u64 = 0x0101_0101_0101_0101;
    let low = text & (0x7f * EVERY);
    let from_a = low + (0x80 - b'A' as u64) * EVERY;
    let behind_z = low + (0x7f - b'Z' as u64) * EVERY;
    let upper = (from_a ^ behind_z) & !text & (0x80 * EVERY);
    text | (upper >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rows a lookup of this row looks at.
    fn chain(spec: &Spec) -> usize {
        let mut slot = spec.folded.slot();
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
        assert!(worst <= 4, "a lookup looks at up to {worst} rows");
        for name in ["get", "set", "mget", "mset", "incr", "hget", "hset", "del", "lpush", "zadd", "sadd"] {
            let looked_at = find(name.as_bytes()).map(chain);
            assert!(looked_at.is_some_and(|rows| rows <= 2), "{name}: {looked_at:?}");
        }
    }

    #[test]
    fn only_letters_are_folded() {
        for byte in 0..=255u8 {
            let text = u64::from_le_bytes([byte; 8]);
            assert_eq!(lower_case(text).to_le_bytes(), [byte.to_ascii_lowercase(); 8]);
        }
    }

    #[test]
    fn no_other_name_is_found() {
        let close = ["", "ge", "gett", "config get", "get|", "get|x", "config|", "config|get|x", "sentinel"];
        let aliases = ["[et", "g\x05t", "restore\rasking", "georadiusby_ember_ro"];
        for name in close.into_iter().chain(aliases) {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }
}
