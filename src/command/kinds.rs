//! The columns of the table that are ours: where a command goes, how its replies merge, what it waits for.

use crate::protocol::Topics;

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the owner of one slot, which all its keys (or its channel) must share.
    Keyed,
    /// To the owner of the slot whose number is argument 2.
    BySlotNumber,
    /// Cut by slot, a part to each owner; the replies are merged.
    Split,
    /// To the primary of every shard; the replies are merged.
    AllShards,
    /// It has no key, and any primary answers it alike.
    AnyShard,
    /// It waits at the owner of its keys' slot for another client, on a connection of its own.
    Blocking,
    /// It waits for the replicas of the nodes that the client wrote to.
    Replicas,
    /// It takes several questions, one after the other or to several nodes.
    Survey(Survey),
    /// The proxy answers it.
    Local(Local),
    /// All workers of the proxy are asked, about their clients.
    Clients(Clients),
    /// A transaction begins or ends, or what it hangs on.
    Transaction(Transact),
    /// What nodes say unasked is asked for, or not any more.
    Listen(Listen),
    /// It is not served; the text says why, in words that can follow `ERR `.
    Refused(&'static str),
}

impl Route {
    /// Whether nodes carry a call out, where it could overtake an earlier one. WAIT only asks where those went.
    pub const fn acts_at_nodes(self) -> bool {
        match self {
            Route::Local(_) | Route::Clients(_) | Route::Replicas | Route::Refused(_) => false,
            Route::Listen(what) => !matches!(what, Listen::Unsubscribe(_)),
            Route::Transaction(step) => matches!(step, Transact::Watch | Transact::Exec),
            _ => true,
        }
    }

    /// Whether a call within MULTI is carried out at once; others are queued.
    pub const fn is_immediate(self) -> bool {
        match self {
            Route::Transaction(step) => !matches!(step, Transact::Unwatch),
            Route::Local(local) => matches!(local, Local::Quit | Local::Reset),
            _ => false,
        }
    }
}

/// The commands by which a client is told what it did not ask for one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// SUBSCRIBE and its kin.
    Subscribe(Topics),
    /// UNSUBSCRIBE and its kin.
    Unsubscribe(Topics),
    /// MONITOR.
    Monitor,
}

/// The commands that make a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the command of that name
pub enum Transact {
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
}

/// What takes several questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survey {
    /// A page of the whole keyspace.
    Scan,
    /// Any key, each with the same chance.
    RandomKey,
    /// What all primaries say of themselves.
    Info,
    /// What a primary is configured with, without secrets.
    Config,
    /// It administers nodes.
    Administer(Whom),
    /// It is asked of any primary, but only by administrators.
    AnyNode,
    /// What any primary says of commands, else what the proxy knows.
    Docs,
}

impl Survey {
    /// Whether it needs `admin_commands`.
    pub const fn administers(self) -> bool {
        matches!(self, Survey::Administer(_) | Survey::AnyNode)
    }
}

/// Which nodes carry out what administers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All, replicas too.
    All,
    /// All, and instead of answering they may end.
    AllAndMayEnd,
    /// All but the one whose id is this argument, which is about it.
    AllBut(u8),
    /// All primaries, those without slots too: replicas refuse it.
    Primaries,
}

/// What the proxy answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the command of that name
pub enum Local {
    AclWhoami,
    Asking,
    Auth,
    ClientGetname,
    ClientGetredir,
    ClientId,
    ClientInfo,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    ClientSetinfo,
    ClientSetname,
    ClientTrackinginfo,
    Cluster(ClusterLocal),
    Command,
    CommandCount,
    CommandGetkeys,
    CommandInfo,
    CommandList,
    Echo,
    Hello,
    Ping,
    Quit,
    Readonly,
    Readwrite,
    Reset,
    Select,
    Slowlog(Slowlog),
}

impl Local {
    /// Whether it may be queued within MULTI: it changes nothing about how the commands behind it are served.
    pub const fn may_be_queued(self) -> bool {
        !matches!(self, Local::Auth | Local::ClientReply | Local::Hello | Local::Quit | Local::Reset)
    }
}

/// Of CLIENT what is about all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the subcommand of that name
pub enum Clients {
    Kill,
    List,
    Pause,
    Unblock,
    Unpause,
}

/// Of SLOWLOG what the proxy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the subcommand of that name
pub enum Slowlog {
    Get,
    Len,
    Reset,
}

/// Of CLUSTER what the proxy answers itself, as the one node that owns all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the subcommand of that name
pub enum ClusterLocal {
    Info,
    Keyslot,
    Myid,
    Myshardid,
    Nodes,
    Replicas,
    Shards,
    Slots,
}

/// What a call has to do with scripts, which are known by the hash of their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Nothing.
    None,
    /// This argument is the text of one.
    Text(u8),
    /// The first argument is the hash of one.
    Hash,
    /// All are forgotten.
    Flush,
}

/// How the replies of several nodes become one. An error of any node is the reply, whatever the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// There is one reply; it is passed on.
    Pass,
    /// Integers are added.
    Sum,
    /// The smallest of the integers.
    MinInt,
    /// The largest of the integers.
    MaxInt,
    /// Arrays of 0 and 1 are joined by position: 1 where every node says 1.
    LogicalAnd,
    /// The first reply, once every node succeeded.
    AllSucceeded,
    /// Arrays are appended to each other.
    Concat,
    /// One reply, an integer: of those who received a message, the connections of this process are to be replaced by
    /// its clients.
    Receivers(Topics),
    /// Names and numbers in turns: the numbers are added. Connections are replaced as above.
    SumByName(Topics),
    /// Integers are added: how many patterns there are. Connections are replaced as above.
    SumPatterns,
    /// Arrays are appended to each other, without what was in an earlier one.
    Union,
    /// The elements of the parts' arrays, in the order of the keys in the request.
    ByKeyOrder,
    /// The same for the commands of a transaction, of which one part may have been given up for a watched key.
    Exec,
}

/// What a command without one slot waits for, so that a pipeline means what it means on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// Nothing: the order within its slot, or its place among the replies, is all it needs.
    None,
    /// All earlier replies, and it holds all later commands.
    Full,
    /// PUBLISH: earlier commands that are no PUBLISH.
    AfterOthers,
}

/// What a command is about; a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the group of that name
pub enum Family {
    Generic,
    Str,
    Hash,
    List,
    Set,
    Zset,
    Stream,
    Bitmap,
    HyperLogLog,
    Geo,
    Scripting,
    PubSub,
    Transaction,
    Connection,
    Server,
    Cluster,
    Other,
}

impl Family {
    /// Every family, in the order of their indices.
    pub const ALL: [Family; 17] = [
        Family::Generic,
        Family::Str,
        Family::Hash,
        Family::List,
        Family::Set,
        Family::Zset,
        Family::Stream,
        Family::Bitmap,
        Family::HyperLogLog,
        Family::Geo,
        Family::Scripting,
        Family::PubSub,
        Family::Transaction,
        Family::Connection,
        Family::Server,
        Family::Cluster,
        Family::Other,
    ];

    /// The label of every family, by its index.
    pub const LABELS: [&'static str; Family::ALL.len()] = {
        let mut labels = [""; Family::ALL.len()];
        let mut index = 0;
        while index < labels.len() {
            labels[index] = Family::ALL[index].label();
            index += 1;
        }
        labels
    };

    /// The family's place in [`Family::ALL`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The family's name as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Family::Generic => "generic",
            Family::Str => "string",
            Family::Hash => "hash",
            Family::List => "list",
            Family::Set => "set",
            Family::Zset => "zset",
            Family::Stream => "stream",
            Family::Bitmap => "bitmap",
            Family::HyperLogLog => "hyperloglog",
            Family::Geo => "geo",
            Family::Scripting => "scripting",
            Family::PubSub => "pubsub",
            Family::Transaction => "transaction",
            Family::Connection => "connection",
            Family::Server => "server",
            Family::Cluster => "cluster",
            Family::Other => "other",
        }
    }

    /// The family's name as `COMMAND DOCS` writes it.
    pub(super) const fn group(self) -> &'static str {
        match self {
            Family::Zset => "sorted-set",
            Family::Transaction => "transactions",
            other => other.label(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Family;

    #[test]
    fn families_are_dense() {
        for (place, family) in Family::ALL.iter().enumerate() {
            assert_eq!(family.index(), place);
        }
    }
}
