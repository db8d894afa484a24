//! One row of the table, and what is derived from it.

use super::bitset::bitset;
use std::time::Duration;

use super::keys::{Find, Finder, KeySpec};
use super::kinds::{Barrier, Family, Merge, Route, Script};
use super::lookup::Folded;
use super::table::TABLE;
use crate::protocol::Args;

bitset! {
    /// What a server's table says about a command.
    Flags, flag {
        /// May write.
        WRITE = "write",
        /// Never writes; such a command may be sent twice.
        READONLY = "readonly",
        /// Refused by a server that is out of memory.
        DENYOOM = "denyoom",
        /// Administers the server.
        ADMIN = "admin",
        /// About channels.
        PUBSUB = "pubsub",
        /// Not from scripts.
        NOSCRIPT = "noscript",
        /// May wait for another client.
        BLOCKING = "blocking",
        /// Also while the server loads its data.
        LOADING = "loading",
        /// Also on a replica that lost its primary.
        STALE = "stale",
        /// Not shown by MONITOR.
        SKIP_MONITOR = "skip_monitor",
        /// Not in the slow log.
        SKIP_SLOWLOG = "skip_slowlog",
        /// Accepted for a slot that is being imported.
        ASKING = "asking",
        /// Takes constant or logarithmic time.
        FAST = "fast",
        /// Also before authentication.
        NO_AUTH = "no_auth",
        /// May replicate although it has no flag `write`.
        MAY_REPLICATE = "may_replicate",
        /// Only on a sentinel.
        ONLY_SENTINEL = "only_sentinel",
        /// On a sentinel too.
        SENTINEL = "sentinel",
        /// Needs a setting to be allowed.
        PROTECTED = "protected",
        /// Not while data is loaded in the background.
        NO_ASYNC_LOADING = "no_async_loading",
        /// Not in a transaction.
        NO_MULTI = "no_multi",
        /// Also while a script runs too long.
        ALLOW_BUSY = "allow_busy",
        /// Its keys may be none: scripts and functions.
        NO_MANDATORY_KEYS = "no_mandatory_keys",
        /// Touches keys that it does not name.
        TOUCHES_ARBITRARY_KEYS = "touches_arbitrary_keys",
        /// May change or go.
        EXPERIMENTAL = "experimental",
        /// A module's.
        MODULE = "module",
    }
}

bitset! {
    /// The categories of access control that a command is in.
    Categories, acl {
        /// Keys of any type.
        KEYSPACE = "@keyspace",
        /// Reads.
        READ = "@read",
        /// Writes.
        WRITE = "@write",
        /// Sets.
        SET = "@set",
        /// Sorted sets.
        SORTEDSET = "@sortedset",
        /// Lists.
        LIST = "@list",
        /// Hashes.
        HASH = "@hash",
        /// Strings.
        STRING = "@string",
        /// Bitmaps.
        BITMAP = "@bitmap",
        /// HyperLogLogs.
        HYPERLOGLOG = "@hyperloglog",
        /// Geospatial indices.
        GEO = "@geo",
        /// Streams.
        STREAM = "@stream",
        /// Channels.
        PUBSUB = "@pubsub",
        /// Administration.
        ADMIN = "@admin",
        /// Quick.
        FAST = "@fast",
        /// Not quick.
        SLOW = "@slow",
        /// May wait.
        BLOCKING = "@blocking",
        /// To be given with care.
        DANGEROUS = "@dangerous",
        /// The connection itself.
        CONNECTION = "@connection",
        /// Transactions.
        TRANSACTION = "@transaction",
        /// Scripts and functions.
        SCRIPTING = "@scripting",
    }
}

bitset! {
    /// A server's hints to its clients. They inform; the columns of our own decide.
    Tips, tip {
        /// The same call may give another reply.
        NONDETERMINISTIC = "nondeterministic_output",
        /// The same call may give another order.
        UNORDERED = "nondeterministic_output_order",
        /// Meant for every shard.
        ALL_SHARDS = "request_policy:all_shards",
        /// Meant for every node.
        ALL_NODES = "request_policy:all_nodes",
        /// To be split by slot.
        MULTI_SHARD = "request_policy:multi_shard",
        /// Needs a client's own rule.
        SPECIAL = "request_policy:special",
        /// Integers are added.
        SUM = "response_policy:agg_sum",
        /// The smallest integer.
        MIN = "response_policy:agg_min",
        /// 1 where all say 1.
        AND = "response_policy:agg_logical_and",
        /// All must succeed.
        ALL_SUCCEEDED = "response_policy:all_succeeded",
        /// One must succeed.
        ONE_SUCCEEDED = "response_policy:one_succeeded",
        /// Replies merge by a rule of the client's own.
        SPECIAL_REPLY = "response_policy:special",
    }
}

/// One command or subcommand: a row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// In lower case; a subcommand with its container's name: `config get`.
    pub name: &'static str,
    /// As a server counts, the names included: exactly so many arguments, or at least so many if negative.
    pub arity: i16,
    /// What a server's table says about it.
    pub flags: Flags,
    /// Where its keys are, as a server declares it.
    pub keys: &'static [KeySpec],
    /// Where it goes; see [`Spec::placement`] for the calls that differ from their row.
    pub route: Route,
    /// How the replies of several nodes become one.
    pub merge: Merge,
    /// What it waits for.
    pub barrier: Barrier,
    /// What it has to do with scripts.
    pub script: Script,
    /// What it is about.
    pub family: Family,
    /// The version that brought it.
    pub since: &'static str,
    /// Its place in the table; of a command that was learned the number of rows.
    pub id: u16,
    /// Whether it has subcommands.
    pub container: bool,
    /// A server's hints to its clients.
    pub tips: Tips,
    /// The categories of access control.
    pub acl: Categories,
    /// How its keys are found.
    pub(super) finder: Finder,
    /// 0, or for a subcommand its container's place plus one.
    pub(super) scope: u16,
    /// The last word of the name.
    pub(super) word: &'static str,
    /// The subcommands, if it was learned.
    pub(super) learned: &'static [Spec],
    /// See [`Spec::is_plain`].
    pub(super) plain: bool,
    /// What a lookup compares.
    pub(super) folded: Folded,
}

/// The argument by which a call says how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Its place.
    pub at: usize,
    /// What it counts.
    unit: Duration,
}

impl Patience {
    /// How long the call waits, 0 for ever; nothing if a server refuses it.
    pub fn timeout(&self, args: &Args) -> Option<Duration> {
        let text = std::str::from_utf8(args.get(self.at)).ok()?;
        let units: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(units * self.unit.as_secs_f64()).ok()
    }

    /// The argument for a call that waits only so long, which is not 0: that would be for ever.
    pub fn write(&self, left: Duration) -> String {
        let milliseconds = left.as_millis().max(1);
        if self.unit.as_secs() == 0 {
            milliseconds.to_string()
        } else {
            format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
        }
    }
}

impl Spec {
    /// Whether it may be sent twice: it has the flag `readonly`. Scripts, functions and PUBLISH do not.
    #[inline]
    pub const fn is_readonly(&self) -> bool {
        self.flags.has(Flags::READONLY)
    }

    /// Whether its row alone says where every call of it goes: to the owner of its keys' slot, with nothing to wait
    /// for and nothing to remember.
    #[inline]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// The last word of the name: `get` of `config get`.
    #[inline]
    pub const fn word(&self) -> &'static str {
        self.word
    }

    /// Whether a request of `arguments` arguments, the names included, has the right number of them.
    #[inline]
    pub const fn accepts(&self, arguments: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { arguments >= wanted } else { arguments == wanted }
    }

    /// The rows of a container's subcommands.
    pub fn subcommands(&'static self) -> impl Iterator<Item = &'static Spec> {
        let first = self.id as usize + 1;
        let rows = TABLE.get(first..).unwrap_or_default().iter();
        rows.take_while(move |row| row.scope as usize == first).chain(self.learned)
    }

    /// Whether its code is no server's own: it may answer with any text, also with one of the cluster's errors.
    pub const fn is_foreign(&self) -> bool {
        self.flags.has(Flags::NO_MANDATORY_KEYS) || self.flags.has(Flags::MODULE)
    }

    /// Where this very call goes and what it waits for. That is its row's [`Spec::route`] and [`Spec::barrier`],
    /// but for XREAD and XREADGROUP with BLOCK, which wait at the node, and for a script or function without keys,
    /// which goes to any shard as a barrier.
    pub fn placement(&self, args: &Args) -> (Route, Barrier) {
        if self.route == Route::Keyed {
            if self.flags.has(Flags::NO_MANDATORY_KEYS) && self.is_keyless(args) {
                return (Route::AnyShard, Barrier::Full);
            }
            if self.blocks(args) {
                return (Route::Blocking, Barrier::Full);
            }
        }
        (self.route, self.barrier)
    }

    /// Whether this call may wait for another client: XREAD and XREADGROUP only with BLOCK.
    pub fn blocks(&self, args: &Args) -> bool {
        self.flags.has(Flags::BLOCKING)
            && (self.finder != Finder::Streams || super::keys::stream_options(args).block.is_some())
    }

    /// How the call, one that [`Spec::blocks`], says how long it waits.
    pub fn patience(&self, args: &Args) -> Option<Patience> {
        let (seconds, milliseconds) = (Duration::from_secs(1), Duration::from_millis(1));
        if self.finder == Finder::Streams {
            return super::keys::stream_options(args).block.map(|at| Patience { at, unit: milliseconds });
        }
        // In front of a number of keys, or behind all keys.
        let counts = matches!(self.keys.first()?.find, Find::Count { .. });
        Some(Patience { at: if counts { 1 } else { args.len() - 1 }, unit: seconds })
    }

    /// The places of the streams, and of their ids, that XREAD is to read from their ends on.
    pub fn read_from_end<'a>(&self, args: &'a Args<'_>) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let reads = self.finder == Finder::Streams && self.is_readonly();
        let first = if reads { super::keys::stream_options(args).first } else { args.len() };
        let streams = (args.len() - first) / 2;
        (first..first + streams).map(move |at| (at, at + streams)).filter(|(_, id)| args.get(*id) == b"$")
    }
}
