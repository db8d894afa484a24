//! Every bound has a row: name, default, reason, metric, and what happens at it. The structs of limits, the
//! command line, its help and the README's table come from these rows.

use std::time::Duration;

use super::file::Section;
use super::read::Reader;
use super::settings::Scope;

/// One bound.
#[derive(Debug)]
pub struct Bound {
    /// What has one of its own: a file may give it at the top for all of them, too.
    pub scope: Scope,
    /// The key in a file; the flag is the same with hyphens.
    pub name: &'static str,
    /// The flag, without its two hyphens.
    pub flag: &'static str,
    /// The default, as one would write it.
    pub default: &'static str,
    /// The smallest value that makes sense.
    pub least: &'static str,
    /// The largest value that makes sense.
    pub most: &'static str,
    /// What stands in the help for the value: `DURATION`, `SIZE` or `N`.
    pub unit: &'static str,
    /// What is bounded; the help text.
    pub what: &'static str,
    /// Why the default has its value.
    pub reason: &'static str,
    /// The metric that shows how near it is, or that it was reached.
    pub metric: &'static str,
    /// What happens at the bound.
    pub at_bound: &'static str,
}

macro_rules! bounds {
    (@type duration) => { Duration };
    (@type optional) => { Option<Duration> };
    (@type size) => { usize };
    (@type count) => { usize };
    (@unit duration) => { "DURATION" };
    (@unit optional) => { "DURATION" };
    (@unit size) => { "SIZE" };
    (@unit count) => { "N" };
    (@row $scope:ident $name:ident $flag:literal $kind:ident $default:literal $least:literal $most:literal
        $what:literal $reason:literal $metric:literal $at:literal) => {
        Bound {
            scope: Scope::$scope, name: stringify!($name), flag: $flag, default: $default, least: $least,
            most: $most, unit: bounds!(@unit $kind), what: $what, reason: $reason, metric: $metric, at_bound: $at,
        }
    };
    ($($(#[$doc:meta])* $limits:ident, $scope:ident {
        $($name:ident, $flag:literal: $kind:ident = $default:literal, $least:literal ..= $most:literal,
            what: $what:literal, reason: $reason:literal, metric: $metric:literal, at: $at:literal;)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $limits {
                $(#[doc = $what] pub $name: bounds!(@type $kind),)*
            }

            impl $limits {
                /// Reads the bounds, the innermost section first.
                pub(super) fn read(reader: &mut Reader<'_>, sections: &[&Section<'_>]) -> Self {
                    Self {
                        $($name: reader.$kind(
                            &bounds!(@row $scope $name $flag $kind $default $least $most $what $reason $metric $at),
                            sections,
                        ),)*
                    }
                }
            }

            impl Default for $limits {
                fn default() -> Self {
                    Reader::defaults(|reader| Self::read(reader, &[]))
                }
            }
        )*

        /// The rows of the table.
        pub const BOUNDS: &[Bound] = &[
            $($(bounds!(@row $scope $name $flag $kind $default $least $most $what $reason $metric $at),)*)*
        ];
    };
}

bounds! {
/// The bounds of a client; each listener has its own.
SessionLimits, Listener {
    command_deadline, "command-deadline": duration = "30s", "1ms" ..= "1h",
    what: "How long a command may be held and repeated while the cluster changes",
    reason: "1.5 × the servers' default cluster-node-timeout of 15 s plus the election; an unplanned \
             failover takes 17 to 23 s. Clients should set their socket timeout above it, or lower it",
    metric: "slotmux_bound_reached_total{bound=\"command_deadline\"}",
    at: "the cluster's last error, or CLUSTERDOWN with the reason";

    command_timeout, "command-timeout": optional = "off", "10ms" ..= "1h",
    what: "How long a command may take from its framing to its reply, on a node that does not answer included; or `off`. \
           Not what waits for others or takes a connection of its own (BLPOP, WAIT, WATCH and its EXEC, SELECT, \
           SUBSCRIBE), nor what administers nodes",
    reason: "off: a server lets a script or a large command take its time, and `link_timeout` finds dead nodes",
    metric: "slotmux_bound_reached_total{bound=\"command_timeout\"}",
    at: "INDOUBT for a write that is on a node, TIMEOUT for a read, as at the deadline for what was not sent; the \
         late reply is dropped, and nobody else notices. Until it comes, or the connection ends, what the client \
         sends next on that slot goes behind it, or waits as long, and so does what has no slot or a connection of \
         its own";

    max_request, "max-request": size = "1GiB", "1KiB" ..= "4GiB",
    what: "Bytes of one request",
    reason: "a server's own client-query-buffer-limit; one argument has at most 512 MiB there and here",
    metric: "slotmux_bound_reached_total{bound=\"max_request\"}",
    at: "a protocol error before the request is buffered, and the connection is closed";

    max_arguments, "max-arguments": count = "1048576", "16" ..= "16777216",
    what: "Arguments of one request",
    reason: "a server's limit for many years; an argument costs the planner memory of its own",
    metric: "slotmux_bound_reached_total{bound=\"max_arguments\"}",
    at: "`Protocol error: invalid multibulk length`, and the connection is closed";

    input_hard, "input-hard": size = "64MiB", "64KiB" ..= "4GiB",
    what: "Bytes of requests read ahead for a client whose replies are not read yet",
    reason: "clients write a whole pipeline before they read: 200,000 GETs are 8 MB",
    metric: "slotmux_bound_used_ratio{bound=\"input_hard\"}",
    at: "the client is not read until it reads its replies";

    output_soft, "output-soft": size = "1MiB", "16KiB" ..= "4GiB",
    what: "Bytes of unread replies, with those that are to be expected, past which nothing more is forwarded for a client",
    reason: "several times what a socket's own buffers hold, and 10,000 slow clients stay below 10 GB",
    metric: "slotmux_bound_used_ratio{bound=\"output_soft\"}",
    at: "later requests of this client wait in its input";

    output_hard, "output-hard": size = "64MiB", "64KiB" ..= "64GiB",
    what: "Bytes of unread replies, with those that wait for their turn, that a client may have and read nothing",
    reason: "64 times output_soft: what was in flight when that was reached may be large, and one reply larger still",
    metric: "slotmux_bound_used_ratio{bound=\"output_hard\"}",
    at: "the client is closed if it takes no byte for output_grace";

    output_grace, "output-grace": duration = "10s", "10ms" ..= "1h",
    what: "How long a client beyond output_hard may take no byte of its replies",
    reason: "a client that pauses for longer, for a collection of its garbage say, is as good as gone",
    metric: "slotmux_clients_closed_total{reason=\"output_hard\"}",
    at: "the client is closed";

    stall_timeout, "stall-timeout": duration = "60s", "10ms" ..= "1h",
    what: "How long nothing may move either way for a client with input_hard and output_soft both reached",
    reason: "as a server's client-output-buffer-limit has it for slow subscribers: 60 s",
    metric: "slotmux_clients_closed_total{reason=\"stall_timeout\"}",
    at: "the client is closed: it writes without reading, and would wait for ever";

    client_timeout, "client-timeout": optional = "off", "1s" ..= "8760h",
    what: "How long a client is kept that sends and takes nothing, is not subscribed and waits for no reply; or `off`",
    reason: "off, as a server's own timeout is: pools keep connections that they seldom use",
    metric: "slotmux_clients_closed_total{reason=\"client_timeout\"}",
    at: "the client is closed";

    handshake_timeout, "handshake-timeout": duration = "30s", "100ms" ..= "1h",
    what: "How long a client may take to log in, where a password is asked for",
    reason: "clients log in as soon as they are connected; who does not takes the place of others",
    metric: "slotmux_clients_closed_total{reason=\"handshake_timeout\"}",
    at: "the client is closed";

    session_in_flight, "session-in-flight": count = "1024", "1" ..= "1048576",
    what: "Commands of one client that wait for their replies",
    reason: "ten times a deep pipeline; each of them costs an entry, and replies that came early wait in it",
    metric: "slotmux_bound_used_ratio{bound=\"session_in_flight\"}",
    at: "later requests of this client wait in its input";

    pubsub_output_hard, "pubsub-output-hard": size = "32MiB", "64KiB" ..= "64GiB",
    what: "Bytes of unread messages and replies of a client that is subscribed or monitors",
    reason: "a server's own client-output-buffer-limit for subscribers",
    metric: "slotmux_clients_closed_total{reason=\"pubsub_output\"}",
    at: "the client is closed at once, as a server does it";

    pubsub_output_soft, "pubsub-output-soft": size = "8MiB", "16KiB" ..= "64GiB",
    what: "Bytes of the same that it may have for pubsub_output_grace only",
    reason: "as above",
    metric: "slotmux_bound_reached_total{bound=\"pubsub_output_soft\"}",
    at: "the client has pubsub_output_grace to come below it again";

    pubsub_output_grace, "pubsub-output-grace": duration = "60s", "10ms" ..= "1h",
    what: "How long such a client may be beyond pubsub_output_soft",
    reason: "as above",
    metric: "slotmux_clients_closed_total{reason=\"pubsub_output\"}",
    at: "the client is closed";
}

/// The bounds of what is kept for a cluster and its nodes.
ClusterLimits, Cluster {
    max_held_bytes, "max-held-bytes": size = "64MiB", "64KiB" ..= "64GiB",
    what: "Bytes of all commands that one worker holds while slots have no owner, or a node is not reached",
    reason: "20 s of a failover at 3 MB/s of affected writes per worker",
    metric: "slotmux_bound_used_ratio{bound=\"max_held_bytes\"}",
    at: "further commands for such slots get CLUSTERDOWN at once; at twice as much also where the node is not known to be down";

    link_queue, "link-queue": size = "16MiB", "64KiB" ..= "4GiB",
    what: "Bytes queued or unanswered on one connection to a node",
    reason: "a tenth of a second of a 1.25 GB/s network: more only makes a slow node's queue longer",
    metric: "slotmux_bound_used_ratio{bound=\"link_queue\"}",
    at: "clients with commands on it get no further ones forwarded; if the node is silent for 50 ms besides, or at four times as much, no \
         client does; commands for other nodes do not notice";

    max_reply, "max-reply": size = "1GiB", "64KiB" ..= "64GiB",
    what: "Bytes of one reply of a node",
    reason: "twice the largest value that a server stores by default; a reply is kept whole until it is passed on",
    metric: "slotmux_bound_reached_total{bound=\"max_reply\"}",
    at: "the command gets an error of its own, and the connection is given up as a lost one";

    script_cache, "script-cache": size = "16MiB", "64KiB" ..= "1GiB",
    what: "Bytes of the scripts that clients have shown, kept to be loaded on nodes that lack them",
    reason: "a thousand scripts of 16 KB: more than applications have, unless they write values into scripts. \
             Not a part of max_memory",
    metric: "slotmux_bound_reached_total{bound=\"script_cache\"}",
    at: "the script that was shown or needed longest ago is forgotten: a node that lacks it answers NOSCRIPT";

    link_timeout, "link-timeout": duration = "15s", "50ms" ..= "1h",
    what: "How long a node may owe replies and send nothing before its connection is given up",
    reason: "the servers' default cluster-node-timeout: the cluster itself waits as long for a node, \
             and half the command deadline is left to repeat what is safe",
    metric: "slotmux_bound_reached_total{bound=\"link_timeout\"}",
    at: "the connection is reset; what is safe is repeated, a write in doubt gets INDOUBT";

    dedicated_per_node, "dedicated-per-node": count = "1024", "2" ..= "65536",
    what: "Connections to one node, from the whole process, that single clients have for themselves: those that wait in \
           blocking commands, and those that watch keys, for whom an eighth is reserved",
    reason: "a thousand consumers that block at once; a server takes 10,000 clients by default",
    metric: "slotmux_waiting_for_connection",
    at: "a blocking command waits in line for its own timeout, WATCH for its deadline";

    max_connections_per_node, "max-connections-per-node": count = "1280", "6" ..= "100000",
    what: "Connections to one node, of every kind together, from the whole process",
    reason: "an eighth of what a server takes by default (its maxclients): dedicated_per_node and room for what the \
             workers share, which must fit in with one for the topology: workers × (2 × connections_per_node + 3) + 1",
    metric: "slotmux_bound_used_ratio{bound=\"max_connections_per_node\"}",
    at: "further connections to that node wait until one has ended";

    slowlog_log_slower_than, "slowlog-log-slower-than": optional = "10ms", "0s" ..= "1h",
    what: "How long a command may take from its framing to its reply without being noted for SLOWLOG; or `off`",
    reason: "a server's own default",
    metric: "slotmux_bound_reached_total{bound=\"slowlog_log_slower_than\"}",
    at: "it is noted, with the node and the time that it was there; blocking commands are not";

    slowlog_max_len, "slowlog-max-len": count = "128", "1" ..= "10000",
    what: "Commands that are kept for SLOWLOG",
    reason: "a server's own default; each has at most 32 arguments of 128 bytes",
    metric: "slotmux_bound_reached_total{bound=\"slowlog_max_len\"}",
    at: "the oldest one goes";

    connect_timeout, "connect-timeout": duration = "2s", "10ms" ..= "1m",
    what: "How long opening a connection to a node may take, its handshake included",
    reason: "a lost SYN is sent again after 1 s, so that one may be lost",
    metric: "slotmux_bound_reached_total{bound=\"connect_timeout\"}",
    at: "the next attempt, with backoff and jitter";
}

/// The bounds of the process.
ProcessLimits, Process {
    drain_timeout, "drain-timeout": duration = "10s", "0s" ..= "1h",
    what: "How long a stop waits for replies in flight",
    reason: "below the 30 s that Kubernetes gives a container to end",
    metric: "slotmux_bound_reached_total{bound=\"drain_timeout\"}",
    at: "the remaining connections are closed and the proxy exits with 0";

    max_memory, "max-memory": size = "4GiB", "8MiB" ..= "1TiB",
    what: "Bytes of all buffers: requests and replies of clients, held commands, requests and replies of nodes, \
           subscriptions",
    reason: "a quarter of a small machine of today; a container's limit should be twice as much and 64 MiB, since many clients \
             with large values that come and go leave as much again behind for a moment",
    metric: "slotmux_bound_used_ratio{bound=\"max_memory\"}",
    at: "the clients with the largest unread outputs are closed, or a node's unfinished reply that is twice the largest of \
         them is dropped and its command gets an error; where unplanned inputs and subscriptions are most of the memory, \
         or no output has 64 KiB, the clients with the largest of those";

    max_clients, "max-clients": count = "10000", "1" ..= "1000000",
    what: "Client connections",
    reason: "a server's own default",
    metric: "slotmux_bound_used_ratio{bound=\"max_clients\"}",
    at: "`ERR max number of clients reached`, and the connection is closed";
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_whole_and_its_default_is_usable() {
        let (session, cluster) = (SessionLimits::default(), ClusterLimits::default());
        assert_eq!((session.command_deadline.as_secs(), session.max_request), (30, 1 << 30));
        assert_eq!((cluster.link_timeout.as_secs(), ProcessLimits::default().max_clients), (15, 10_000));
        for bound in BOUNDS {
            assert_eq!(bound.flag, bound.name.replace('_', "-"));
            assert!(!bound.reason.is_empty() && !bound.at_bound.is_empty(), "{}", bound.name);
            assert!(bound.metric.starts_with("slotmux_"), "{}", bound.name);
        }
    }
}
