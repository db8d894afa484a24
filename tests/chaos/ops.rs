//! What a client sends.

use crate::{
    keys::{TAGS, is_large, key, register_value, registers, value, which},
    many::{Many, TURN},
    support::{Value, encode},
};

/// Whether the tag has a channel, on which clients publish; with `sharded`, one of its shard.
pub fn has_channel(tag: usize, sharded: bool) -> bool {
    tag % 3 == usize::from(sharded)
}

/// Whether the tag has a queue, from which others pop.
pub fn has_queue(tag: usize) -> bool {
    tag % 4 == 1
}

/// What clients do, by [`Op::name`].
pub const NAMES: [&str; 29] = [
    "RPUSH",
    "LRANGE",
    "EVAL",
    "INCR",
    "GET",
    "GET of a large value",
    "SET",
    "SET of a large value",
    "MSET",
    "MSET within slots",
    "MSET of thousands",
    "MGET",
    "MGET within slots",
    "MGET of thousands",
    "EXISTS",
    "EXISTS of thousands",
    "TOUCH",
    "TOUCH of thousands",
    "DEL",
    "DEL of thousands",
    "UNLINK",
    "UNLINK of thousands",
    "MULTI",
    "RPUSH of a queue",
    "PUBLISH",
    "SPUBLISH",
    "PING",
    "ECHO x",
    "DBSIZE",
];

/// A command, or a transaction, as it was sent.
pub enum Op {
    Push(usize, u32),
    Tail(usize),
    /// By EVAL, or by INCR.
    Incr(usize, bool),
    Count(usize),
    Set(usize, u32),
    Get(usize),
    MSet(Vec<(usize, u32)>),
    /// Of these tags and registers.
    MGet(Vec<(usize, usize)>),
    Many(Many),
    /// How much, and the number of an element that is appended to a list with it.
    Transfer(usize, u8, u32),
    Enqueue(usize, u32),
    Publish(usize, u32),
    Fixed(usize),
    /// GET of a value that is large.
    Large(usize),
    /// A command without a key, and what its reply has to be.
    Keyless(&'static str, Option<Value>),
}

impl Op {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Push(..) => "RPUSH",
            Self::Tail(_) => "LRANGE",
            Self::Incr(_, true) => "EVAL",
            Self::Incr(..) => "INCR",
            Self::Count(_) | Self::Get(_) | Self::Fixed(_) => "GET",
            Self::Large(_) => "GET of a large value",
            Self::Set(_, n) if is_large(*n) => "SET of a large value",
            Self::Set(..) => "SET",
            Self::MSet(pairs) if pairs.len() > TURN => "MSET of thousands",
            Self::MSet(pairs) if which(pairs[0].1) > 0 => "MSET within slots",
            Self::MSet(_) => "MSET",
            Self::MGet(places) if places.len() > TURN => "MGET of thousands",
            Self::MGet(places) if places[0].1 > 0 => "MGET within slots",
            Self::MGet(_) => "MGET",
            Self::Many(many) if many.keys.len() > TURN => many.thousands(),
            Self::Many(many) => many.name,
            Self::Transfer(..) => "MULTI",
            Self::Enqueue(..) => "RPUSH of a queue",
            Self::Publish(tag, _) if has_channel(*tag, true) => "SPUBLISH",
            Self::Publish(..) => "PUBLISH",
            Self::Keyless(name, _) => name,
        }
    }

    /// Whether it changes nothing: then its outcome is never unknown.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Push(..) | Self::Incr(..) | Self::Set(..) | Self::MSet(_) | Self::Transfer(..) => false,
            Self::Enqueue(..) | Self::Publish(..) => false,
            Self::Many(many) => many.is_read(),
            Self::Tail(_) | Self::Count(_) | Self::Get(_) | Self::MGet(_) => true,
            Self::Fixed(_) | Self::Large(_) | Self::Keyless(..) => true,
        }
    }

    /// The tags of all its keys.
    pub fn tags(&self) -> Vec<usize> {
        match self {
            Self::MSet(pairs) => pairs.iter().map(|(tag, _)| *tag).collect(),
            Self::MGet(places) => places.iter().map(|(tag, _)| *tag).collect(),
            Self::Many(many) => many.tags.clone(),
            op => op.tag().into_iter().collect(),
        }
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<usize> {
        match self {
            Self::Push(tag, _) | Self::Set(tag, _) | Self::Enqueue(tag, _) | Self::Publish(tag, _) => {
                Some(*tag)
            }
            Self::Tail(tag) | Self::Incr(tag, _) | Self::Count(tag) | Self::Get(tag) => Some(*tag),
            Self::Transfer(tag, ..) | Self::Fixed(tag) | Self::Large(tag) => Some(*tag),
            Self::MSet(_) | Self::MGet(_) | Self::Many(_) | Self::Keyless(..) => None,
        }
    }

    /// The tags of which the command has several keys that a later one of its pipeline may share, and a word for these
    /// keys. A node may refuse the first and carry out the second, and then the first must not be repeated: order wins.
    pub fn claims(&self) -> (&'static str, Vec<usize>) {
        match self {
            Self::Transfer(tag, ..) => ("transfer", vec![*tag]),
            Self::MSet(pairs) if which(pairs[0].1) > 0 => {
                ("registers", pairs.iter().map(|(tag, _)| *tag).collect())
            }
            Self::MGet(places) if places[0].1 > 0 => {
                ("registers", places.iter().map(|(tag, _)| *tag).collect())
            }
            Self::Many(many) if !many.is_read() => ("deleted", many.tags.clone()),
            _ => ("", Vec::new()),
        }
    }

    pub fn replies(&self) -> usize {
        if matches!(self, Self::Transfer(..)) { 7 } else { 1 }
    }

    /// The bytes, as client `me` sends them.
    pub fn encode(&self, me: usize, names: &Names) -> Vec<u8> {
        let Names { list, blocks, counter, register } = names;
        match self {
            Self::Push(tag, n) => encode(&["RPUSH", &list[*tag], &value(me, *tag, *n)]),
            Self::Tail(tag) => encode(&["LRANGE", &list[*tag], "-3", "-1"]),
            Self::Incr(tag, true) => {
                encode(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", &counter[*tag]])
            }
            Self::Incr(tag, _) => encode(&["INCR", &counter[*tag]]),
            Self::Count(tag) => encode(&["GET", &counter[*tag]]),
            Self::Set(tag, n) => encode(&["SET", &register[*tag][0], &register_value(me, *tag, *n)]),
            Self::Get(tag) => encode(&["GET", &register[*tag][0]]),
            Self::MSet(pairs) => {
                let pair =
                    |&(tag, n): &(usize, u32)| [register[tag][which(n)].clone(), register_value(me, tag, n)];
                let pairs = pairs.iter().flat_map(pair);
                encode(&["MSET".to_owned()].into_iter().chain(pairs).collect::<Vec<_>>())
            }
            Self::MGet(places) => {
                let keys = places.iter().map(|&(tag, which)| register[tag][which].as_str());
                encode(&["MGET"].into_iter().chain(keys).collect::<Vec<_>>())
            }
            Self::Many(many) => {
                let keys = many.keys.iter().map(String::as_str);
                encode(&[many.name].into_iter().chain(keys).collect::<Vec<_>>())
            }
            Self::Transfer(tag, n, element) => {
                let (a, b, n) = (key(*tag, "a"), key(*tag, "b"), n.to_string());
                let block: [&[&str]; 7] = [
                    &["MULTI"],
                    &["DECRBY", &a, &n],
                    &["INCRBY", &b, &n],
                    &["GET", &a],
                    &["GET", &b],
                    &["RPUSH", &blocks[*tag], &value(me, *tag, *element)],
                    &["EXEC"],
                ];
                block.iter().flat_map(|command| encode(command)).collect()
            }
            Self::Enqueue(tag, n) => encode(&["RPUSH", &key(*tag, "queue"), &value(me, *tag, *n)]),
            Self::Publish(tag, n) => encode(&[self.name(), &key(*tag, "channel"), &value(me, *tag, *n)]),
            Self::Fixed(tag) => encode(&["GET", &key(*tag, "fixed0")]),
            Self::Large(tag) => encode(&["GET", &key(*tag, "large")]),
            Self::Keyless(words, _) => encode(&words.split(' ').collect::<Vec<_>>()),
        }
    }
}

/// The names of a client's own keys.
pub struct Names {
    pub list: Vec<String>,
    /// The lists to which transactions append.
    pub blocks: Vec<String>,
    pub counter: Vec<String>,
    /// By tag and number.
    pub register: Vec<Vec<String>>,
}

impl Names {
    pub fn new(client: usize) -> Self {
        let all = |kind: &str| (0..TAGS).map(|tag| key(tag, &format!("{kind}{client}"))).collect();
        let one = |tag, which| key(tag, &format!("register{client}.{which}"));
        let register = (0..TAGS).map(|tag| (0..registers(client)).map(|which| one(tag, which)).collect());
        Self {
            list: all("list"),
            blocks: all("blocks"),
            counter: all("counter"),
            register: register.collect(),
        }
    }
}
