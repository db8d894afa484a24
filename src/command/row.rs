//! What the rows of the table are written with, and what the compiler adds to them.

use super::keys::{Begin, Find, Finder, KeyFlags, KeySpec};
use super::kinds::{
    Barrier, Clients, ClusterLocal, Family, Listen, Local, Merge, Route, Script, Survey, Transact, Whom,
};
use super::lookup::Folded;
use super::spec::{Categories, Flags, Spec, Tips, acl};
use crate::protocol::Topics;

/// Where a command goes, how its replies merge, what it waits for.
pub(super) struct Serving {
    route: Route,
    merge: Merge,
    barrier: Barrier,
    /// Its slot is that of argument 1, although that is no key to a server.
    by_channel: bool,
}

const fn serving(route: Route, merge: Merge, barrier: Barrier) -> Serving {
    Serving { route, merge, barrier, by_channel: false }
}

pub(super) const KEYED: Serving = serving(Route::Keyed, Merge::Pass, Barrier::None);
pub(super) const BY_CHANNEL: Serving = Serving {
    route: Route::Keyed,
    merge: Merge::Receivers(Topics::Channels),
    barrier: Barrier::AfterOthers,
    by_channel: true,
};
pub(super) const BY_SHARD_CHANNEL: Serving =
    serving(Route::Keyed, Merge::Receivers(Topics::Shards), Barrier::None);
pub(super) const ANY: Serving = serving(Route::AnyShard, Merge::Pass, Barrier::Full);
pub(super) const AT_NODE: Serving = serving(Route::Blocking, Merge::Pass, Barrier::Full);
pub(super) const REPLICAS: Serving = serving(Route::Replicas, Merge::Pass, Barrier::Full);
/// A container's own row is used by none but COMMAND: without a subcommand the number of arguments is wrong.
pub(super) const CONTAINER: Serving = no("a subcommand is missing");

pub(super) const BY_SLOT_NUMBER: Serving = serving(Route::BySlotNumber, Merge::Pass, Barrier::None);

pub(super) const fn cluster(what: ClusterLocal) -> Serving {
    local(Local::Cluster(what))
}

pub(super) const fn split(merge: Merge) -> Serving {
    serving(Route::Split, merge, Barrier::None)
}

pub(super) const fn fan_out(merge: Merge) -> Serving {
    serving(Route::AllShards, merge, Barrier::Full)
}

pub(super) const fn survey(survey: Survey) -> Serving {
    serving(Route::Survey(survey), Merge::Pass, Barrier::Full)
}

pub(super) const fn administer(whom: Whom) -> Serving {
    survey(Survey::Administer(whom))
}

pub(super) const fn local(local: Local) -> Serving {
    serving(Route::Local(local), Merge::Pass, Barrier::None)
}

/// The others' answers take a while: as on one server, nothing of the client's happens meanwhile.
pub(super) const fn clients(what: Clients) -> Serving {
    serving(Route::Clients(what), Merge::Pass, Barrier::Full)
}

/// What changes how later commands are served waits for the earlier ones.
pub(super) const fn local_alone(local: Local) -> Serving {
    serving(Route::Local(local), Merge::Pass, Barrier::Full)
}

pub(super) const fn transact(step: Transact) -> Serving {
    let barrier = match step {
        Transact::Watch | Transact::Unwatch => Barrier::Full,
        Transact::Multi | Transact::Exec | Transact::Discard => Barrier::None,
    };
    serving(Route::Transaction(step), Merge::Pass, barrier)
}

/// What ends here, or begins, concerns the commands behind it.
pub(super) const fn subscribe(kind: Topics) -> Serving {
    serving(Route::Listen(Listen::Subscribe(kind)), Merge::Pass, Barrier::Full)
}

pub(super) const MONITOR: Serving = serving(Route::Listen(Listen::Monitor), Merge::Pass, Barrier::Full);

pub(super) const fn unsubscribe(kind: Topics) -> Serving {
    serving(Route::Listen(Listen::Unsubscribe(kind)), Merge::Pass, Barrier::Full)
}

pub(super) const fn no(reason: &'static str) -> Serving {
    serving(Route::Refused(reason), Merge::Pass, Barrier::None)
}

pub(super) const fn no_alone(reason: &'static str) -> Serving {
    serving(Route::Refused(reason), Merge::Pass, Barrier::Full)
}

pub(super) const fn one(at: u8, flags: u32) -> KeySpec {
    range(at, 0, 1, flags)
}

pub(super) const fn range(at: u8, last: i8, step: u8, flags: u32) -> KeySpec {
    key_spec(Begin::At(at), Find::Range { last, step, limit: 0 }, flags)
}

pub(super) const fn numkeys(at: u8, step: u8, flags: u32) -> KeySpec {
    key_spec(Begin::At(at), Find::Count { step }, flags)
}

pub(super) const fn after(word: &'static str, from: i8, last: i8, limit: u8, flags: u32) -> KeySpec {
    key_spec(Begin::After(word, from), Find::Range { last, step: 1, limit }, flags)
}

pub(super) const fn unknown(flags: u32) -> KeySpec {
    key_spec(Begin::Unknown, Find::Unknown, flags)
}

const fn key_spec(begin: Begin, find: Find, flags: u32) -> KeySpec {
    KeySpec { begin, find, flags: KeyFlags::from_bits(flags) }
}

pub(super) const fn row(
    name: &'static str,
    arity: i16,
    flags: u32,
    family: Family,
    keys: &'static [KeySpec],
    serving: Serving,
    since: &'static str,
) -> Spec {
    let finder = match keys {
        _ if serving.by_channel => Finder::One(1),
        [KeySpec { begin: Begin::At(at), find: Find::Range { last: 0, .. }, .. }] => Finder::One(*at),
        _ => Finder::Specs,
    };
    Spec {
        name,
        arity,
        flags: Flags::from_bits(flags),
        keys,
        route: serving.route,
        merge: serving.merge,
        barrier: serving.barrier,
        script: Script::None,
        family,
        since,
        id: 0,
        container: false,
        tips: Tips::from_bits(0),
        acl: Categories::from_bits(own_category(family)),
        finder,
        scope: 0,
        word: name,
        learned: &[],
        plain: false,
        folded: Folded::new(b"", 0),
    }
}

impl Spec {
    pub(super) const fn tips(mut self, tips: u32) -> Spec {
        self.tips = Tips::from_bits(tips);
        self
    }

    /// The categories beside those that follow from the flags, where that is not the family's own.
    pub(super) const fn acl(mut self, categories: u32) -> Spec {
        self.acl = Categories::from_bits(categories);
        self
    }

    pub(super) const fn script(mut self, script: Script) -> Spec {
        self.script = script;
        self
    }

    pub(super) const fn found_by(mut self, finder: Finder) -> Spec {
        self.finder = finder;
        self
    }
}

/// Fills in what follows from the rows' order, names and flags.
pub(super) const fn complete<const ROWS: usize>(mut rows: [Spec; ROWS]) -> [Spec; ROWS] {
    let mut container = 0;
    let mut place = 0;
    while place < ROWS {
        rows[place].id = place as u16;
        match behind_space(rows[place].name) {
            None => container = place,
            Some(word) => {
                rows[place].word = word;
                rows[place].scope = container as u16 + 1;
                rows[container].container = true;
            }
        }
        rows[place].folded = Folded::new(rows[place].word.as_bytes(), rows[place].scope);
        // So that one look at the finder tells the commands that are keyed by one argument.
        if matches!(rows[place].finder, Finder::One(_)) && !matches!(rows[place].route, Route::Keyed) {
            rows[place].finder = Finder::Specs;
        }
        let flags = rows[place].flags;
        rows[place].plain = matches!(rows[place].route, Route::Keyed)
            && matches!(rows[place].merge, Merge::Pass)
            && matches!(rows[place].barrier, Barrier::None)
            && matches!(rows[place].script, Script::None)
            && !flags.has(Flags::NO_MANDATORY_KEYS)
            && !flags.has(Flags::BLOCKING);
        rows[place].acl = rows[place].acl.with(implied_categories(&rows[place]));
        place += 1;
    }
    rows
}

const fn behind_space(name: &'static str) -> Option<&'static str> {
    let mut place = 0;
    while place < name.len() {
        if name.as_bytes()[place] == b' ' {
            return Some(name.split_at(place + 1).1);
        }
        place += 1;
    }
    None
}

const fn own_category(family: Family) -> u32 {
    match family {
        Family::Generic => acl::KEYSPACE,
        Family::Str => acl::STRING,
        Family::Hash => acl::HASH,
        Family::List => acl::LIST,
        Family::Set => acl::SET,
        Family::Zset => acl::SORTEDSET,
        Family::Stream => acl::STREAM,
        Family::Bitmap => acl::BITMAP,
        Family::HyperLogLog => acl::HYPERLOGLOG,
        Family::Geo => acl::GEO,
        Family::Scripting => acl::SCRIPTING,
        Family::Transaction => acl::TRANSACTION,
        Family::Connection => acl::CONNECTION,
        Family::PubSub | Family::Server | Family::Cluster | Family::Other => 0,
    }
}

/// The categories that a server derives from the flags.
const fn implied_categories(spec: &Spec) -> Categories {
    let flags = spec.flags;
    let scripting = spec.acl.has(Categories::SCRIPTING);
    let mut implied = if flags.has(Flags::FAST) { acl::FAST } else { acl::SLOW };
    if flags.has(Flags::WRITE) {
        implied |= acl::WRITE;
    }
    // What a script reads is for its own commands to say.
    if flags.has(Flags::READONLY) && !scripting {
        implied |= acl::READ;
    }
    if flags.has(Flags::ADMIN) {
        implied |= acl::ADMIN | acl::DANGEROUS;
    }
    if flags.has(Flags::PUBSUB) {
        implied |= acl::PUBSUB;
    }
    if flags.has(Flags::BLOCKING) {
        implied |= acl::BLOCKING;
    }
    Categories::from_bits(implied)
}
