//! SCAN over the whole cluster: its cursor, which is all the state there is, and the pages of a node. Pure.
//!
//! A cursor is a plain number below 2^53, since clients parse it as a double. From the highest bit on: the slot from
//! which on there is work to do (14 bits), the last slot of the range that is being scanned (14), the position in the
//! node's table (13), and a check (12) of what that position was in.
//!
//! A node's own cursor counts its table's buckets with the bits reversed, so that the table may grow and shrink. Read
//! backwards it is a fraction of the table; its first 13 bits are enough to go on from, with less than 1/8192 of the
//! table scanned twice.

use crate::protocol::{ReplyFramer, write};
use crate::topology::{SLOTS, slot_of};

const SLOT_BITS: u32 = 14;
const POSITION_BITS: u32 = 13;
const CHECK_BITS: u32 = 12;

/// The check of a cursor that stands before its range: no stamp has this value.
const NOTHING: u16 = 1;

/// Where a client's scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// All slots before this one are done.
    pub slot: u16,
    /// The last slot of the range that is being scanned.
    pub end: u16,
    /// How far that is done, in 8192nds of the node's table.
    pub position: u16,
    /// The [`stamp`] of what the position is in.
    pub check: u16,
}

impl Cursor {
    /// Before the range that begins with `slot`.
    #[must_use]
    pub fn before(slot: u16) -> Self {
        Cursor { slot, end: slot, position: 0, check: NOTHING }
    }

    /// Behind `slot`; nothing when that is the last one.
    #[must_use]
    pub fn behind(slot: u16) -> Option<Self> {
        (usize::from(slot) + 1 < SLOTS).then(|| Self::before(slot + 1))
    }

    /// What a client gave; 0 begins.
    #[must_use]
    pub fn decode(number: u64) -> Self {
        if number == 0 {
            return Self::before(0);
        }
        let field = |at: u32, bits: u32| (number >> at & ((1 << bits) - 1)) as u16;
        let (position, end) = (CHECK_BITS, CHECK_BITS + POSITION_BITS);
        Cursor {
            slot: field(end + SLOT_BITS, SLOT_BITS),
            end: field(end, SLOT_BITS),
            position: field(position, POSITION_BITS),
            check: field(0, CHECK_BITS),
        }
    }

    /// What a client gets; never 0, which is the end.
    #[must_use]
    pub fn encode(self) -> u64 {
        let high = u64::from(self.slot) << SLOT_BITS | u64::from(self.end);
        (high << POSITION_BITS | u64::from(self.position)) << CHECK_BITS | u64::from(self.check)
    }
}

/// A check of what a position is in: a process, its config epoch, and whether it is asked as the slots' owner or as
/// the target or source of one that is being moved.
#[must_use]
pub fn stamp(run_id: &str, epoch: u64, role: u8) -> u16 {
    // FNV-1a: short, and the same in every process.
    let bytes = run_id.bytes().chain(epoch.to_le_bytes()).chain([role]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // All but 0, for which there is no reason, and NOTHING.
    let values = (1 << CHECK_BITS) - 2;
    ((hash ^ hash >> 32) % values) as u16 + 2
}

/// A cursor as servers read it (`strtoul` of the whole argument).
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    let (negative, digits) = match text {
        [] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// How a node's own cursor is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// One table for all slots.
    Whole,
    /// A table for each slot; the cursor's low bits are the slot.
    BySlot,
}

impl Table {
    /// The node's cursor for a place in it.
    #[must_use]
    pub fn cursor(self, slot: u16, position: u16) -> u64 {
        let place = (u64::from(position) << (64 - POSITION_BITS)).reverse_bits();
        match self {
            Table::Whole => place,
            Table::BySlot => place << SLOT_BITS | u64::from(slot),
        }
    }

    /// The place of a node's cursor, rounded down; `slot` is the one that the scan began with.
    #[must_use]
    pub fn place(self, cursor: u64, slot: u16) -> (u16, u16) {
        let position = |place: u64| (place.reverse_bits() >> (64 - POSITION_BITS)) as u16;
        match self {
            Table::Whole => (slot, position(cursor)),
            Table::BySlot => ((cursor & (SLOTS as u64 - 1)) as u16, position(cursor >> SLOT_BITS)),
        }
    }
}

/// Keys that were found, as they came.
#[derive(Debug, Default)]
pub struct Found {
    count: usize,
    keys: Vec<u8>,
}

impl Found {
    /// Adds what a node's reply has of the slots `from..=to`; the node's next cursor. `None`: it is no such reply.
    pub fn add(&mut self, reply: &[u8], from: u16, to: u16) -> Option<u64> {
        let (cursor, rest) = element(reply.strip_prefix(b"*2\r\n")?)?;
        let cursor = std::str::from_utf8(bulk(cursor)?).ok()?.parse().ok()?;
        let end = memchr::memchr(b'\n', rest)?;
        let mut rest = rest.strip_prefix(b"*").and(rest.get(end + 1..))?;
        while !rest.is_empty() {
            let (key, behind) = element(rest)?;
            if (from..=to).contains(&slot_of(bulk(key)?)) {
                self.count += 1;
                self.keys.extend_from_slice(key);
            }
            rest = behind;
        }
        Some(cursor)
    }

    /// The reply to the client.
    #[must_use]
    pub fn reply(&self, next: Option<Cursor>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.keys.len() + 64);
        write::array(&mut out, 2);
        write::bulk(&mut out, next.map_or(0, Cursor::encode).to_string().as_bytes());
        write::array(&mut out, self.count);
        out.extend_from_slice(&self.keys);
        out
    }
}

/// The node to which a slot is being moved, by what its owner says in CLUSTER NODES: `[93->-ID]`.
#[must_use]
pub fn target(nodes: &str, slot: u16) -> Option<&str> {
    let own = nodes.lines().find(|line| {
        line.split(' ').nth(2).is_some_and(|flags| flags.split(',').any(|flag| flag == "myself"))
    })?;
    let mark = format!("[{slot}->-");
    own.split(' ').find_map(|word| word.strip_prefix(&*mark)?.strip_suffix(']'))
}

fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = ReplyFramer::default().next(bytes).ok()??;
    Some(bytes.split_at(len))
}

/// What is in a bulk string.
fn bulk(element: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'\n', element.strip_prefix(b"$")?)? + 2;
    element.get(end..element.len().checked_sub(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_survives_its_number(slot in 0u16..16384, end in 0u16..16384, position in 0u16..8192, check in 1u16..4096) {
            let cursor = Cursor { slot, end, position, check };
            let number = cursor.encode();
            prop_assert!(number != 0 && number < 1 << 53);
            prop_assert_eq!(Cursor::decode(number), cursor);
            prop_assert_eq!((number as f64) as u64, number);
        }

        #[test]
        fn a_stamp_fits_and_is_no_beginning(run_id in "[0-9a-f]{40}", epoch: u64, role in 0u8..3) {
            let stamp = stamp(&run_id, epoch, role);
            prop_assert!(stamp != NOTHING && stamp != 0 && stamp < 1 << CHECK_BITS);
        }

        #[test]
        fn a_place_is_never_behind_the_nodes_cursor(bits in 0u32..34, raw: u64, slot in 0u16..16384) {
            // A node's cursor is below its table's size.
            let cursor = raw & ((1 << bits) - 1);
            for (table, own) in [(Table::Whole, cursor), (Table::BySlot, cursor << 14 | u64::from(slot))] {
                let (at, position) = table.place(own, slot);
                prop_assert_eq!(at, slot);
                let again = table.cursor(at, position);
                prop_assert_eq!(table.place(again, slot), (at, position));
                let fraction = |cursor: u64| match table {
                    Table::Whole => cursor.reverse_bits(),
                    Table::BySlot => (cursor >> 14).reverse_bits(),
                };
                prop_assert!(fraction(again) <= fraction(own));
                if bits <= 13 {
                    prop_assert_eq!(again, own);
                }
            }
        }

        #[test]
        fn anything_is_a_cursor_or_none(text: Vec<u8>, number: u64) {
            let _ = parse(&text);
            prop_assert_eq!(parse(number.to_string().as_bytes()), Some(number));
            let _ = Cursor::decode(number);
        }
    }

    #[test]
    fn cursors_are_read_as_servers_read_them() {
        assert_eq!(parse(b""), Some(0));
        assert_eq!(parse(b"+7"), Some(7));
        assert_eq!(parse(b"-1"), Some(u64::MAX));
        for bad in [&b"abc"[..], b" 1", b"1 ", b"-", b"18446744073709551616", b"1e3"] {
            assert_eq!(parse(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn only_keys_of_the_range_are_passed_on() {
        // The slots of these are 12182 and 5061.
        let reply = b"*2\r\n$2\r\n96\r\n*2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n";
        let mut found = Found::default();
        assert_eq!(found.add(reply, 12182, 16383), Some(96));
        assert_eq!(found.add(reply, 0, 5060), Some(96));
        assert_eq!(found.reply(None), b"*2\r\n$1\r\n0\r\n*1\r\n$3\r\nfoo\r\n");
        for bad in [&b"*1\r\n"[..], b"+OK\r\n", b"*2\r\n$1\r\nx\r\n*0\r\n", b"*2\r\n:1\r\n*0\r\n"] {
            assert_eq!(found.add(bad, 0, 16383), None);
        }
        assert_eq!(found.add(b"*2\r\n$1\r\n0\r\n*0\r\n", 0, 1), Some(0));
    }

    #[test]
    fn a_slots_owner_says_where_it_goes() {
        let nodes = "ab 127.0.0.1:1@2 master - 0 0 1 connected 1 [93->-zz]\n\
                     cd 127.0.0.1:3@4 myself,master - 0 0 2 connected 93 [93->-ab] [94-<-ab]\n";
        assert_eq!((target(nodes, 93), target(nodes, 94)), (Some("ab"), None));
    }
}
