//! A command that was cut into parts, until the last part's reply has come.

use bytes::Bytes;

use crate::backend::Reply;
use crate::command::Merge;
use crate::route::merge::merge;

/// The parts of one command and their replies so far.
#[derive(Debug)]
pub(crate) struct Gather {
    how: Merge,
    parts: Vec<Part>,
    /// For every key of the request, in its order, the part that has it.
    order: Vec<u32>,
    /// Parts whose reply is still to come.
    left: usize,
    /// The small replies, one behind the other in the order in which they came.
    small: Vec<u8>,
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
    Small { start: usize, end: usize },
    Large(Bytes),
}

impl Gather {
    /// A command whose keys lie in the parts that `order` says.
    pub(crate) fn new(how: Merge, order: Vec<u32>, parts: usize) -> Self {
        Gather { how, parts: Vec::with_capacity(parts), order, left: 0, small: Vec::new() }
    }

    /// Whether but one reply is still to come.
    pub(crate) fn is_last(&self) -> bool {
        self.left == 1
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

    /// Takes a part's reply; true when it was the last one.
    pub(crate) fn complete(&mut self, part: u32, reply: Reply<'_>) -> bool {
        let reply = match reply {
            Reply::Large(bytes) => PartReply::Large(bytes),
            Reply::Small(bytes) => {
                let start = self.small.len();
                self.small.extend_from_slice(bytes);
                PartReply::Small { start, end: self.small.len() }
            }
        };
        if self.parts[part as usize].reply.replace(reply).is_none() {
            self.left -= 1;
        }
        self.left == 0
    }

    /// Bytes of the replies so far.
    pub(crate) fn bytes(&self) -> usize {
        let large = |part: &Part| match &part.reply {
            Some(PartReply::Large(bytes)) => bytes.len(),
            _ => 0,
        };
        self.small.len() + self.parts.iter().map(large).sum::<usize>()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Appends the merged reply.
    pub(crate) fn merge(&self, out: &mut Vec<u8>) {
        let parts: Vec<&[u8]> = self.parts.iter().map(|part| self.reply(part)).collect();
        merge(self.how, &parts, &self.order, out);
    }

    fn reply<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match &part.reply {
            Some(PartReply::Small { start, end }) => &self.small[*start..*end],
            Some(PartReply::Large(bytes)) => bytes,
            None => &[],
        }
    }
}
