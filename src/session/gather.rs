//! A command that was cut into parts, until the last part's reply has come.

use bytes::Bytes;

use super::output::Output;
use crate::backend::{BULK, LARGE, Reply};
use crate::command::Merge;
use crate::route::merge::{ByKeyOrder, merge};

/// The parts of one command and their replies so far.
#[derive(Debug)]
pub(crate) struct Gather {
    how: Merge,
    parts: Vec<Part>,
    /// For every key of the request, in its order, the part that has it.
    order: Vec<u32>,
    /// Parts whose reply is still to come.
    left: usize,
    /// Whether its parts are not known yet.
    more: bool,
    /// Whether the connection is to be closed where the command is. What is on its way still has to be found.
    pub(crate) cut: bool,
    /// The merging, while it is done little by little.
    merging: Option<Box<Merging>>,
    /// The small replies, one behind the other in the order in which they came, in chunks: to copy megabytes takes
    /// milliseconds.
    small: Vec<Vec<u8>>,
    /// Bytes of all replies so far.
    bytes: usize,
}

/// Of so many keys' values, and bytes of them that are copied, the reply is made at once, or in one step.
const MANY: usize = 125;
const LONG: usize = BULK / 8;

/// So many bytes of small replies lie one behind the other.
const CHUNK: usize = 64 * 1024;

/// A reply that is being made: small values are copied one behind the other, large ones are not.
#[derive(Debug)]
struct Merging {
    so_far: ByKeyOrder,
    pieces: Vec<Bytes>,
    tail: Vec<u8>,
    /// Bytes that were copied.
    copied: usize,
}

impl Merging {
    /// What was copied becomes a piece if it is as long as that.
    fn end_piece(&mut self, least: usize) {
        if self.tail.len() >= least {
            self.pieces.push(std::mem::take(&mut self.tail).into());
        }
    }

    fn append_to(self, out: &mut Output) {
        out.push_pieces(self.pieces);
        out.tail().extend_from_slice(&self.tail);
    }
}

#[derive(Debug)]
struct Part {
    slot: u16,
    link: u32,
    /// How many replies come before the last one.
    earlier: u32,
    reply: Option<PartReply>,
}

#[derive(Debug)]
enum PartReply {
    Small { chunk: usize, start: usize, end: usize },
    Large(Bytes),
}

impl Gather {
    /// A command whose keys lie in the parts that `order` says.
    pub(crate) fn new(how: Merge, order: Vec<u32>, parts: usize) -> Self {
        Gather {
            how,
            parts: Vec::with_capacity(parts),
            order,
            left: 0,
            more: false,
            cut: false,
            merging: None,
            small: Vec::new(),
            bytes: 0,
        }
    }

    /// A command whose parts, and which keys lie in them, are not known yet.
    pub(crate) fn unknown(how: Merge) -> Self {
        Gather { more: true, ..Gather::new(how, Vec::new(), 0) }
    }

    /// Says which parts there are, and in which of them the keys lie. A part that is split takes numbers behind theirs,
    /// also where not all of them have been sent.
    pub(crate) fn set_parts(&mut self, slots: impl Iterator<Item = u16>, order: Vec<u32>) {
        slots.for_each(|slot| _ = self.add(slot, 0));
        (self.order, self.more) = (order, false);
    }

    /// Whether a reply has come: that part has perhaps been carried out.
    pub(crate) fn has_begun(&self) -> bool {
        self.parts.iter().any(|part| part.reply.is_some())
    }

    /// Whether but one reply is still to come.
    pub(crate) fn is_last(&self) -> bool {
        self.left == 1 && !self.more
    }

    /// Adds a part; returns its number.
    pub(crate) fn add(&mut self, slot: u16, link: u32) -> u32 {
        self.left += 1;
        self.parts.push(Part { slot, link, earlier: 0, reply: None });
        (self.parts.len() - 1) as u32
    }

    /// Makes a part one to which `earlier` replies come before the last one.
    pub(crate) fn set_earlier(&mut self, part: u32, earlier: u32) {
        self.parts[part as usize].earlier = earlier;
    }

    pub(crate) fn earlier(&self, part: u32) -> u32 {
        self.parts[part as usize].earlier
    }

    /// Gives all keys of `part` but the first to parts of their own; the numbers of those, one a key.
    pub(crate) fn split(&mut self, part: u32) -> Vec<u32> {
        let slot = self.slot(part);
        let keys: Vec<usize> = (0..self.order.len()).filter(|key| self.order[*key] == part).collect();
        let mut parts = Vec::new();
        for key in keys.into_iter().skip(1) {
            let new = self.add(slot, 0);
            self.order[key] = new;
            parts.push(new);
        }
        parts
    }

    pub(crate) fn slot(&self, part: u32) -> u16 {
        self.parts[part as usize].slot
    }

    pub(crate) fn set_link(&mut self, part: u32, link: u32) {
        self.parts[part as usize].link = link;
    }

    /// Number, slot and link of every part that waits for its reply.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (u32, u16, u32)> {
        let parts = self.parts.iter().enumerate();
        parts.filter(|(_, part)| part.reply.is_none()).map(|(i, part)| (i as u32, part.slot, part.link))
    }

    /// Takes a part's reply.
    pub(crate) fn complete(&mut self, part: u32, reply: Reply<'_>) {
        self.bytes += reply.bytes().len();
        let reply = match reply {
            Reply::Large(bytes) => PartReply::Large(bytes),
            Reply::Small(bytes) => {
                if self.small.last().is_none_or(|chunk| chunk.len() + bytes.len() > CHUNK) {
                    self.small.push(Vec::new());
                }
                let chunk = self.small.len() - 1;
                let (start, last) = (self.small[chunk].len(), &mut self.small[chunk]);
                last.extend_from_slice(bytes);
                PartReply::Small { chunk, start, end: last.len() }
            }
        };
        if self.parts[part as usize].reply.replace(reply).is_none() {
            self.left -= 1;
        }
    }

    /// Bytes of the replies so far, and of what has been made of them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.merging.as_ref().map_or(0, |merging| merging.copied)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left == 0 && !self.more
    }

    /// Appends the merged reply, or makes some more of it if that is long work. True once it is appended.
    pub(crate) fn merge(&mut self, out: &mut Output) -> bool {
        let is_long = (self.order.len() > MANY || self.bytes > LONG) && self.how == Merge::ByKeyOrder;
        let merging = match self.merging.take() {
            None if is_long => Some(self.begin_merging()),
            merging => merging,
        };
        if let Some(mut merging) = merging {
            match self.merge_on(&mut merging) {
                Some(true) => {
                    merging.append_to(out);
                    return true;
                }
                Some(false) => {
                    self.merging = Some(merging);
                    return false;
                }
                // Something is wrong with a part.
                None => {}
            }
        }
        merge(self.how, &self.replies(), &self.order, out.tail());
        true
    }

    fn begin_merging(&self) -> Box<Merging> {
        let mut tail = Vec::new();
        let so_far = ByKeyOrder::begin(self.parts.len(), &self.order, &mut tail);
        Box::new(Merging { so_far, pieces: Vec::new(), tail, copied: 0 })
    }

    /// True once all is there; `None` if a part has too little, or another form.
    fn merge_on(&self, merging: &mut Merging) -> Option<bool> {
        let (mut keys, until) = (0, merging.copied + LONG);
        while keys < MANY && merging.copied < until && !merging.so_far.is_done(&self.order) {
            let (part, range) = merging.so_far.next(&self.order, |part| self.reply(&self.parts[part]))?;
            keys += 1;
            match &self.parts[part].reply {
                Some(PartReply::Large(reply)) if range.len() >= LARGE => {
                    merging.end_piece(1);
                    merging.pieces.push(reply.slice(range));
                }
                _ => {
                    merging.copied += range.len();
                    merging.tail.extend_from_slice(&self.reply(&self.parts[part])[range]);
                }
            }
            merging.end_piece(CHUNK);
        }
        Some(merging.so_far.is_done(&self.order))
    }

    fn replies(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| self.reply(part)).collect()
    }

    fn reply<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match &part.reply {
            Some(PartReply::Small { chunk, start, end }) => &self.small[*chunk][*start..*end],
            Some(PartReply::Large(bytes)) => bytes,
            None => &[],
        }
    }
}
