//! Commands of many keys that are always there, or never: what they answer is known beforehand. Several of their keys
//! are in one slot, so while that moves the nodes say TRYAGAIN, and the command is split.

use fastrand::Rng;

use crate::{
    keys::{TAGS, key},
    support::Value,
};

/// So many keys of each tag are there; each has its name as its value.
const THERE: usize = 60;
/// More keys than this are planned in several turns.
pub const TURN: usize = 1000;

/// A command, and what its reply has to be.
pub struct Many {
    pub name: &'static str,
    pub tags: Vec<usize>,
    pub keys: Vec<String>,
    pub reply: Value,
}

impl Many {
    /// A few keys of a few tags each; or thousands, of all tags or of a single one. `with` is one of the tags.
    pub fn draw(rng: &mut Rng, wide: bool, with: Option<usize>) -> Self {
        let count = match (wide, rng.u8(..4)) {
            (false, _) => 2,
            (true, 0) => rng.usize(TURN + 1..9 * TURN),
            (true, _) => rng.usize(TURN + 1..2 * TURN),
        };
        let tags = match (wide, rng.bool()) {
            (false, _) => rng.usize(2..=4),
            (true, true) => TAGS,
            (true, false) => 1,
        };
        let others = rng.choose_multiple((0..TAGS).filter(|tag| Some(*tag) != with), tags);
        let tags: Vec<usize> = with.into_iter().chain(others).take(tags).collect();
        let count = if wide { count } else { rng.usize(2..=5) * tags.len() };
        let name = ["MGET", "EXISTS", "TOUCH", "DEL", "UNLINK"][rng.usize(..5)];
        let deletes = matches!(name, "DEL" | "UNLINK");
        let mut keys: Vec<(String, bool)> = (0..count)
            .map(|n| {
                let (tag, i) = (tags[n % tags.len()], rng.usize(..THERE));
                match rng.u8(..8) {
                    _ if deletes => (key(tag, &format!("never{i}")), false),
                    0 => (key(tag, &format!("absent{i}")), false),
                    _ => (there(tag, i), true),
                }
            })
            .collect();
        rng.shuffle(&mut keys);
        let value = |(key, there): &(String, bool)| if *there { Value::bulk(key) } else { Value::NullBulk };
        let reply = match name {
            "MGET" => Value::Array(keys.iter().map(value).collect()),
            _ => Value::Int(keys.iter().filter(|(_, there)| *there).count() as i64),
        };
        Self { name, tags, keys: keys.into_iter().map(|(key, _)| key).collect(), reply }
    }

    /// What it is called with more than 1,000 keys.
    pub fn thousands(&self) -> &'static str {
        match self.name {
            "MGET" => "MGET of thousands",
            "EXISTS" => "EXISTS of thousands",
            "TOUCH" => "TOUCH of thousands",
            "DEL" => "DEL of thousands",
            _ => "UNLINK of thousands",
        }
    }

    pub fn is_read(&self) -> bool {
        !matches!(self.name, "DEL" | "UNLINK")
    }
}

fn there(tag: usize, i: usize) -> String {
    key(tag, &format!("there{i}"))
}

/// The keys of a tag that are there.
pub fn all_there(tag: usize) -> impl Iterator<Item = String> {
    (0..THERE).map(move |i| there(tag, i))
}
