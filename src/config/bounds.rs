//! Every bound has a row: name, default, reason, metric, and what happens at it. The command line, its
//! help and the README's table come from these rows.

use std::collections::HashMap;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Arg, ArgMatches, Command};

use super::mistakes::Mistakes;

/// One bound.
#[derive(Debug)]
pub struct Bound {
    /// The name in the documentation; the flag is the same with hyphens.
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

/// Every bound of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a command may be held and repeated, from the moment when it was framed.
    pub command_deadline: Duration,
    /// Bytes of one request.
    pub max_request: usize,
    /// Arguments of one request, its name included.
    pub max_arguments: usize,
    /// Bytes of requests read for one client and not yet forwarded.
    pub input_hard: usize,
    /// Bytes of replies that one client has not read past which nothing more is forwarded for it.
    pub output_soft: usize,
    /// Commands of one client that wait for their replies.
    pub session_in_flight: usize,
    /// Bytes of all held commands of one worker.
    pub max_held_bytes: usize,
    /// Bytes written or queued on one link and not yet answered.
    pub link_queue: usize,
    /// How long a node may owe replies and send nothing.
    pub link_timeout: Duration,
    /// How long opening a connection to a node may take, its handshake included.
    pub connect_timeout: Duration,
    /// How long a stop waits for replies in flight.
    pub drain_timeout: Duration,
    /// Client connections of the process.
    pub max_clients: usize,
}

macro_rules! bounds {
    ($($constant:ident = $name:literal, $flag:literal, $default:literal, $least:literal ..= $most:literal, $unit:literal,
        what: $what:literal, reason: $reason:literal, metric: $metric:literal, at: $at:literal;)*) => {
        $(const $constant: Bound = Bound {
            name: $name, flag: $flag, default: $default, least: $least, most: $most, unit: $unit,
            what: $what, reason: $reason, metric: $metric, at_bound: $at,
        };)*
        /// The rows of the table.
        pub const BOUNDS: &[Bound] = &[$($constant),*];
    };
}

bounds! {
    COMMAND_DEADLINE = "command_deadline", "command-deadline", "30s", "1ms" ..= "1h", "DURATION",
    what: "How long a command may be held and repeated while the cluster changes",
    reason: "1.5 × the servers' default cluster-node-timeout of 15 s plus the election; an unplanned \
             failover takes 17 to 23 s. Clients should set their socket timeout above it, or lower it",
    metric: "slotmux_errors_total{kind=\"deadline\"}",
    at: "the cluster's last error, or CLUSTERDOWN with the reason";

    MAX_REQUEST = "max_request", "max-request", "1GiB", "1KiB" ..= "4GiB", "SIZE",
    what: "Bytes of one request",
    reason: "a server's own client-query-buffer-limit; one argument has at most 512 MiB there and here",
    metric: "slotmux_errors_total{kind=\"too_large\"}",
    at: "a protocol error before the request is buffered, and the connection is closed";

    MAX_ARGUMENTS = "max_arguments", "max-arguments", "1048576", "16" ..= "16777216", "N",
    what: "Arguments of one request",
    reason: "a server's limit for many years; an argument costs the planner memory of its own",
    metric: "slotmux_errors_total{kind=\"protocol\"}",
    at: "`Protocol error: invalid multibulk length`, and the connection is closed";

    INPUT_HARD = "input_hard", "input-hard", "64MiB", "64KiB" ..= "4GiB", "SIZE",
    what: "Bytes of requests read ahead for a client whose replies are not read yet",
    reason: "clients write a whole pipeline before they read: 200,000 GETs are 8 MB",
    metric: "slotmux_client_read_bytes_total",
    at: "the client is not read until it reads its replies";

    OUTPUT_SOFT = "output_soft", "output-soft", "1MiB", "16KiB" ..= "4GiB", "SIZE",
    what: "Bytes of unread replies past which nothing more is forwarded for a client",
    reason: "several times what a socket's own buffers hold, and 10,000 slow clients stay below 10 GB",
    metric: "slotmux_client_written_bytes_total",
    at: "later requests of this client wait in its input";

    SESSION_IN_FLIGHT = "session_in_flight", "session-in-flight", "1024", "1" ..= "1048576", "N",
    what: "Commands of one client that wait for their replies",
    reason: "ten times a deep pipeline; each of them costs an entry, and replies that came early wait in it",
    metric: "slotmux_in_flight_requests",
    at: "later requests of this client wait in its input";

    MAX_HELD_BYTES = "max_held_bytes", "max-held-bytes", "64MiB", "64KiB" ..= "64GiB", "SIZE",
    what: "Bytes of all commands that one worker holds while slots have no owner",
    reason: "20 s of a failover at 3 MB/s of affected writes per worker",
    metric: "slotmux_held_bytes",
    at: "further commands for such slots get CLUSTERDOWN at once";

    LINK_QUEUE = "link_queue", "link-queue", "16MiB", "64KiB" ..= "4GiB", "SIZE",
    what: "Bytes queued or unanswered on one connection to a node",
    reason: "a tenth of a second of a 1.25 GB/s network: more only makes a slow node's queue longer",
    metric: "slotmux_in_flight_requests",
    at: "a client with commands on it gets no further ones forwarded; others do not notice";

    LINK_TIMEOUT = "link_timeout", "link-timeout", "15s", "50ms" ..= "1h", "DURATION",
    what: "How long a node may owe replies and send nothing before its connection is given up",
    reason: "the servers' default cluster-node-timeout: the cluster itself waits as long for a node, \
             and half the command deadline is left to repeat what is safe",
    metric: "slotmux_redirects_total{kind=\"lost\"}",
    at: "the connection is reset; what is safe is repeated, a write in doubt gets INDOUBT";

    CONNECT_TIMEOUT = "connect_timeout", "connect-timeout", "2s", "10ms" ..= "1m", "DURATION",
    what: "How long opening a connection to a node may take, its handshake included",
    reason: "a lost SYN is sent again after 1 s, so that one may be lost",
    metric: "slotmux_dial_failures_total{kind=\"timeout\"}",
    at: "the next attempt, with backoff and jitter";

    DRAIN_TIMEOUT = "drain_timeout", "drain-timeout", "10s", "0s" ..= "1h", "DURATION",
    what: "How long a stop waits for replies in flight",
    reason: "below the 30 s that Kubernetes gives a container to end",
    metric: "slotmux_in_flight_requests",
    at: "the remaining connections are closed and the proxy exits with 0";

    MAX_CLIENTS = "max_clients", "max-clients", "10000", "1" ..= "1000000", "N",
    what: "Client connections",
    reason: "a server's own default",
    metric: "slotmux_connections_rejected_total",
    at: "`ERR max number of clients reached`, and the connection is closed";
}

/// The values of the bounds as written, by flag.
#[derive(Clone, Debug)]
pub(super) struct BoundArgs(HashMap<&'static str, String>);

impl clap::Args for BoundArgs {
    fn augment_args(command: Command) -> Command {
        command.next_help_heading("Bounds").args(BOUNDS.iter().map(|bound| {
            let arg = Arg::new(bound.flag).long(bound.flag).global(true);
            arg.value_name(bound.unit).default_value(bound.default).help(bound.what)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for BoundArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |bound: &Bound| matches.get_one::<String>(bound.flag).cloned();
        Ok(Self(BOUNDS.iter().filter_map(|bound| Some((bound.flag, value(bound)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Limits {
    /// Reads the bounds. A value that cannot be used is noted in `mistakes` and read as nothing.
    pub(super) fn read(args: &BoundArgs, mistakes: &mut Mistakes) -> Self {
        let mut read = Reader { args, mistakes };
        Self {
            command_deadline: read.duration(&COMMAND_DEADLINE),
            max_request: read.size(&MAX_REQUEST),
            max_arguments: read.count(&MAX_ARGUMENTS),
            input_hard: read.size(&INPUT_HARD),
            output_soft: read.size(&OUTPUT_SOFT),
            session_in_flight: read.count(&SESSION_IN_FLIGHT),
            max_held_bytes: read.size(&MAX_HELD_BYTES),
            link_queue: read.size(&LINK_QUEUE),
            link_timeout: read.duration(&LINK_TIMEOUT),
            connect_timeout: read.duration(&CONNECT_TIMEOUT),
            drain_timeout: read.duration(&DRAIN_TIMEOUT),
            max_clients: read.count(&MAX_CLIENTS),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::read(&BoundArgs(HashMap::new()), &mut Mistakes::default())
    }
}

struct Reader<'a> {
    args: &'a BoundArgs,
    mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    fn duration(&mut self, bound: &Bound) -> Duration {
        self.value(bound, "duration such as 250ms, 30s or 2m", |text| humantime::parse_duration(text).ok())
    }

    fn size(&mut self, bound: &Bound) -> usize {
        self.value(bound, "size such as 64KiB, 512MiB or 1GiB", |text| {
            usize::try_from(text.parse::<ByteSize>().ok()?.as_u64()).ok()
        })
    }

    fn count(&mut self, bound: &Bound) -> usize {
        self.value(bound, "whole number", |text| text.parse().ok())
    }

    fn value<T: PartialOrd + Default>(
        &mut self,
        bound: &Bound,
        form: &str,
        parse: fn(&str) -> Option<T>,
    ) -> T {
        let text = self.args.0.get(bound.flag).map_or(bound.default, String::as_str);
        let (value, least, most) = (parse(text), parse(bound.least), parse(bound.most));
        if value.is_none() || value < least || value > most {
            let right = format!("`{text}` is no {form} from {} to {}", bound.least, bound.most);
            self.mistakes.add(bound.flag, right);
        }
        value.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_whole_and_its_default_is_usable() {
        let mut mistakes = Mistakes::default();
        Limits::read(&BoundArgs(HashMap::new()), &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes}");
        for bound in BOUNDS {
            assert_eq!(bound.flag, bound.name.replace('_', "-"));
            assert!(!bound.reason.is_empty() && !bound.at_bound.is_empty(), "{}", bound.name);
            assert!(bound.metric.starts_with("slotmux_"), "{}", bound.name);
        }
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let args = [("command-deadline", "250ms"), ("max-request", "64 MiB"), ("max-clients", "5")];
        let args = BoundArgs(args.map(|(flag, text)| (flag, text.to_owned())).into());
        let mut mistakes = Mistakes::default();
        let limits = Limits::read(&args, &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes}");
        assert_eq!(limits.command_deadline, Duration::from_millis(250));
        assert_eq!(limits.max_request, 64 << 20);
        assert_eq!(limits.max_clients, 5);
        assert_eq!(limits.link_timeout, Limits::default().link_timeout);
    }
}
