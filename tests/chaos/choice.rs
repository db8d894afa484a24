//! What a client sends next.

use std::collections::HashSet;

use crate::{
    client::Client,
    keys::{GROUP, TAGS, WIDE, registers},
    many::Many,
    ops::{Op, has_channel, has_queue},
    support::Value,
};

/// The deepest pipeline.
const DEPTH: usize = 40;

impl Client<'_> {
    pub fn pipeline(&mut self) -> Vec<Op> {
        let depth = self.rng.usize(1..=DEPTH);
        let mut claimed = HashSet::new();
        let mut ops = Vec::with_capacity(depth);
        while ops.len() < depth {
            if self.rng.u16(..2000) == 0 {
                self.change_size(&mut ops);
            }
            let op = self.op();
            let (word, tags) = op.claims();
            if !tags.iter().any(|&tag| claimed.contains(&(word, tag))) {
                claimed.extend(tags.into_iter().map(|tag| (word, tag)));
                ops.push(op);
            }
        }
        ops
    }

    /// Small and large values on one key, one behind the other.
    fn change_size(&mut self, ops: &mut Vec<Op>) {
        let tag = self.rng.usize(..TAGS);
        for large in [false, true, false] {
            ops.extend([Op::Set(tag, self.next(tag, 0, large)), Op::Get(tag)]);
        }
    }

    fn op(&mut self) -> Op {
        let tag = self.rng.usize(..TAGS);
        let add = |log: &mut Vec<_>| {
            log.push((0, 0, None));
            log.len() as u32 - 1
        };
        match self.rng.u8(..100) {
            0..18 => Op::Push(tag, add(&mut self.keys[tag].list.log)),
            18..26 => Op::Tail(tag),
            26..40 => Op::Incr(tag, self.rng.u8(..4) == 0),
            40..45 => Op::Count(tag),
            45..57 => Op::Set(tag, self.next(tag, 0, false)),
            57..70 => Op::Get(tag),
            70..74 => {
                let places = self.places();
                let number = |(tag, which)| (tag, self.next(tag, which, false));
                Op::MSet(places.into_iter().map(number).collect())
            }
            74..79 => Op::MGet(self.places()),
            79..85 => Op::Transfer(tag, self.rng.u8(1..), add(&mut self.keys[tag].blocks.log)),
            85..90 if has_queue(tag) => Op::Enqueue(tag, add(&mut self.keys[tag].queue)),
            90..95 if has_channel(tag, false) || has_channel(tag, true) => {
                Op::Publish(tag, add(&mut self.keys[tag].channel))
            }
            // A client that has got one uses other connections to the nodes for a while.
            85..98 if self.rng.u16(..500) == 0 => Op::Large(tag),
            96..98 => {
                let wide = self.rng.u8(..25) == 0;
                let with = self.half_moved();
                Op::Many(Many::draw(&mut self.rng, wide, with))
            }
            85..96 => Op::Fixed(tag),
            98 => Op::Keyless("PING", Some(Value::Simple("PONG".to_owned()))),
            _ if self.rng.u8(..4) == 0 => Op::Keyless("DBSIZE", None),
            _ => Op::Keyless("ECHO x", Some(Value::bulk("x"))),
        }
    }

    fn next(&mut self, tag: usize, which: usize, large: bool) -> u32 {
        self.keys[tag].registers[which].next(which, large)
    }

    /// Every other time the tag whose slot is half moved, if there is one.
    fn half_moved(&mut self) -> Option<usize> {
        self.run.half_moved().filter(|_| self.rng.bool())
    }

    /// Registers of several tags: one of each, several of each, or, rarely, more than 1,000 in all.
    fn places(&mut self) -> Vec<(usize, usize)> {
        let (tags, registers) = match self.rng.u8(..100) {
            0 if registers(self.me) == WIDE.end => (TAGS, WIDE),
            0..50 => (self.rng.usize(2..6), GROUP.start..self.rng.usize(GROUP.start + 2..=GROUP.end)),
            _ => (self.rng.usize(2..6), 0..1),
        };
        let first = self.half_moved().unwrap_or_else(|| self.rng.usize(..TAGS));
        let tags = (0..tags).map(|n| (first + 5 * n) % TAGS);
        let mut places: Vec<_> =
            tags.flat_map(|tag| registers.clone().map(move |which| (tag, which))).collect();
        self.rng.shuffle(&mut places);
        places
    }
}
