//! Every metric declared once: its name, unit, labels and description, and the cells that it adds up.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::Metrics;
use super::cells::{Counter, Gauge, Histogram};
use super::labels::{
    Cause, Closed, DialFailure, LinkState, Owner, Phase, Reached, Redirect, Refresh, ServerError,
};
use super::nodes::NodeMetrics;
use super::samples::Scrape;
use super::sets::{ClusterMetrics, ControlMetrics, LEVELS, WorkerMetrics};
use crate::error::ErrorKind;

/// The declaration of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// The full name, with its unit at the end, and `_total` if it only grows.
    pub name: &'static str,
    /// What it is, for a person.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// How it behaves.
    pub kind: Kind,
    pub(super) read: Read,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// The sum and the number of durations; buckets too where the configuration asks for them.
    Summary,
}

/// How many series a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// What has as many.
    pub per: Per,
    /// The number; the most if `rare`.
    pub rows: usize,
    /// Whether only those are shown that are not zero.
    pub rare: bool,
}

/// What a metric is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// The process.
    Process,
    /// Each cluster.
    Cluster,
    /// Each node.
    Node,
}

/// The values of a label.
type Values = fn() -> Vec<&'static str>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Read {
    /// A count of each worker.
    Worker(fn(&WorkerMetrics) -> &Counter),
    /// A value of each worker.
    WorkerGauge(fn(&WorkerMetrics) -> &Gauge),
    /// A count of each worker for each value of the label.
    Labelled(Values, fn(&WorkerMetrics) -> &[Counter]),
    /// Nanoseconds of each worker for each value of the label.
    Seconds(Values, fn(&WorkerMetrics) -> &[Counter]),
    /// A histogram of each worker for each command family.
    Durations(fn(&WorkerMetrics) -> &[Histogram]),
    /// A count of each worker for each command.
    Commands(fn(&WorkerMetrics) -> &[Counter]),
    /// A count of each worker for each command's row and value of the other label.
    ByCommand(Values, fn(&WorkerMetrics, usize, usize) -> u64),
    Control(fn(&ControlMetrics) -> &Counter),
    /// The proxy's own errors by command and kind; the acceptor gives one of them.
    Errors,
    /// How often each bound was reached, on any thread.
    Bounds,
    /// The highest share of each bound that is in use on any thread.
    Used,
    /// Bytes kept by owner.
    Kept,
    ClusterGauge(fn(&ClusterMetrics) -> &Gauge),
    ClusterLabelled(Values, fn(&ClusterMetrics) -> &[Counter]),
    ClusterAge,
    Node(fn(&NodeMetrics) -> &Counter),
    NodeGauge(fn(&NodeMetrics) -> &Gauge),
    NodeGauges(Values, fn(&NodeMetrics) -> &[Gauge]),
    /// Only the counts that are not zero.
    NodeRare(Values, fn(&NodeMetrics) -> &[Counter]),
    NodeDurations,
    NodeLongest,
    Version,
    /// A value of the process, where the system tells it.
    System(fn(&Metrics) -> Option<f64>),
}

macro_rules! declared {
    ($($kind:ident $name:literal $([$($label:literal),*])? $help:literal = $read:expr;)*) => {
        /// Every metric that the proxy exposes.
        pub const DECLARED: &[Declared] = &[$(Declared {
            name: $name,
            help: $help,
            labels: &[$($($label),*)?],
            kind: Kind::$kind,
            read: $read,
        }),*];
    };
}

/// The values of a label, from the enum that they are declared with.
macro_rules! values {
    ($name:ident) => {
        || $name::ALL.iter().map(|value| value.label()).collect()
    };
}
pub(super) use values;

use Read::*;

declared! {
    Gauge "slotmux_clients" "Client connections" = WorkerGauge(|w| &w.clients);
    Counter "slotmux_connections_total" "Client connections served" = Worker(|w| &w.connections);
    Counter "slotmux_connections_rejected_total" "Client connections closed at max_clients" =
        Control(|c| &c.rejected);
    Counter "slotmux_accept_errors_total" "Failed calls of accept" = Control(|c| &c.accept_errors);
    Counter "slotmux_client_read_bytes_total" "Bytes read from clients" = Worker(|w| &w.bytes_in);
    Counter "slotmux_client_written_bytes_total" "Bytes written to clients" = Worker(|w| &w.bytes_out);
    Counter "slotmux_requests_total" ["command"] "Requests answered" = Commands(|w| &w.requests);
    Histogram "slotmux_request_duration_seconds" ["family"]
        "Time from a request's framing to its reply" = Durations(|w| &w.latency);
    Counter "slotmux_request_phase_seconds_total" ["phase"]
        "Time that requests spent queued for a node, on a node, and held or waiting to be repeated" =
        Seconds(values!(Phase), |w| &w.phase_nanos);
    Gauge "slotmux_in_flight_requests" "Commands that wait for a node's reply" =
        WorkerGauge(|w| &w.in_flight);
    Counter "slotmux_errors_total" ["command", "kind"] "Errors that the proxy itself gave to clients" =
        Errors;
    Counter "slotmux_server_errors_total" ["command", "code"]
        "Errors of nodes passed on to clients; of a command that was split each part's" =
        ByCommand(values!(ServerError), |w, row, code| w.server_errors.value(row, code));
    Counter "slotmux_redirects_total" ["kind"]
        "Redirects, refusals and lost connections that the proxy absorbed or tried to" =
        Labelled(values!(Redirect), |w| &w.redirects);
    Counter "slotmux_replays_total" "Commands sent once more" = Worker(|w| &w.replays);
    Gauge "slotmux_held_requests" "Commands that wait for a slot's owner or a retry" =
        WorkerGauge(|w| &w.held);
    Gauge "slotmux_waiting_for_connection" "Clients that wait in line for a connection of their own to a node" =
        WorkerGauge(|w| &w.waiting);
    Gauge "slotmux_held_bytes" "Bytes of held commands" = WorkerGauge(|w| w.kept.of(Owner::Held));
    Counter "slotmux_abandoned_requests_total" "Commands dropped because their client left" =
        Worker(|w| &w.abandoned);
    Gauge "slotmux_node_links" ["cluster", "node", "state"] "Shared connections to a node" =
        NodeGauges(values!(LinkState), |n| &n.links);
    Counter "slotmux_node_dials_total" ["cluster", "node"] "Attempts to open a shared connection" =
        Node(|n| &n.dials);
    Counter "slotmux_node_dial_failures_total" ["cluster", "node", "kind"]
        "Failed attempts to open a shared connection" = NodeRare(values!(DialFailure), |n| &n.dial_failures);
    Counter "slotmux_node_links_lost_total" ["cluster", "node"]
        "Shared connections that ended though the node is still wanted" = Node(|n| &n.links_lost);
    Counter "slotmux_node_read_bytes_total" ["cluster", "node"] "Bytes read from a node" =
        Node(|n| &n.read_bytes);
    Counter "slotmux_node_written_bytes_total" ["cluster", "node"] "Bytes written to a node" =
        Node(|n| &n.written_bytes);
    Gauge "slotmux_node_in_flight_requests" ["cluster", "node"] "Requests queued for a node or unanswered" =
        NodeGauge(|n| &n.in_flight);
    Gauge "slotmux_node_queued_bytes" ["cluster", "node"] "Bytes of those requests" =
        NodeGauge(|n| &n.queued_bytes);
    Summary "slotmux_node_duration_seconds" ["cluster", "node"]
        "Time from a request's write to a node to the reply" = NodeDurations;
    Gauge "slotmux_node_duration_max_seconds" ["cluster", "node"]
        "The longest such time of the last one to two minutes" = NodeLongest;
    Gauge "slotmux_topology_version" ["cluster"] "Version of the slot table, 0 before the first" =
        ClusterGauge(|c| &c.topology_version);
    Gauge "slotmux_topology_age_seconds" ["cluster"]
        "Time since a refresh of the slot table got an answer, or since the start" = ClusterAge;
    Gauge "slotmux_shards" ["cluster"] "Primaries in the slot table" = ClusterGauge(|c| &c.shards);
    Gauge "slotmux_slots_uncovered" ["cluster"] "Slots without an owner" = ClusterGauge(|c| &c.slots_uncovered);
    Gauge "slotmux_cluster_down" ["cluster"] "1 while all nodes that answer say that the cluster is down" =
        ClusterGauge(|c| &c.cluster_down);
    Gauge "slotmux_cluster_refuses_all" ["cluster"]
        "1 while all slots are refused because one has no owner: set cluster-require-full-coverage no" =
        ClusterGauge(|c| &c.refuses_all);
    Gauge "slotmux_foreign_seeds" ["cluster"] "Seeds that are no part of the cluster" =
        ClusterGauge(|c| &c.foreign_seeds);
    Counter "slotmux_topology_refreshes_total" ["cluster", "outcome"] "Refreshes of the slot table" =
        ClusterLabelled(values!(Refresh), |c| &c.refreshes);
    Counter "slotmux_topology_refresh_causes_total" ["cluster", "cause"]
        "What made the proxy refresh the slot table" = ClusterLabelled(values!(Cause), |c| &c.refreshes_by_cause);
    Counter "slotmux_clients_closed_total" ["reason"] "Client connections that the proxy closed" =
        Labelled(values!(Closed), |w| &w.closed);
    Gauge "slotmux_memory_bytes" ["owner"] "Bytes of buffers" = Kept;
    Counter "slotmux_bound_reached_total" ["bound"] "How often a bound took effect" = Bounds;
    Gauge "slotmux_bound_used_ratio" ["bound"]
        "The highest share of a bound that anybody uses now; 1 is the bound" = Used;
    Gauge "slotmux_build_info" ["version"] "1 for the version that runs" = Version;
    Gauge "process_start_time_seconds" "Start of the process since the Unix epoch" = System(Metrics::start_time);
    Gauge "process_resident_memory_bytes" "Resident memory of the process" =
        System(|_| super::text::resident_bytes().map(|bytes| bytes as f64));
    Gauge "process_open_fds" "Open descriptors" = System(|_| super::text::open_fds().map(|count| count as f64));
    Gauge "process_max_fds" "Descriptors that may be open at most" =
        System(|_| super::text::max_fds().map(|count| count as f64));
    Counter "process_cpu_seconds_total" "User and system time of the process" =
        System(|_| Some(super::text::cpu_seconds()));
}

impl Declared {
    /// How many series it has with so many command families and commands; `per_node_histograms` as configured.
    #[must_use]
    pub fn series(&self, families: usize, commands: usize, per_node_histograms: bool) -> Series {
        // The buckets, their sum and their count.
        let histogram = Histogram::BUCKETS + 2;
        let (per, rows, rare) = match self.read {
            Worker(_) | WorkerGauge(_) | Control(_) | Version | System(_) => (Per::Process, 1, false),
            Labelled(values, _) | Seconds(values, _) => (Per::Process, values().len(), false),
            Bounds => (Per::Process, Reached::ALL.len(), false),
            Durations(_) => (Per::Process, families * histogram, false),
            Commands(_) => (Per::Process, commands + 1, true),
            ByCommand(values, _) => (Per::Process, (commands + 1) * values().len(), true),
            Errors => (Per::Process, (commands + 1) * ErrorKind::ALL.len(), true),
            Used => (Per::Process, LEVELS.len(), false),
            Kept => (Per::Process, Owner::ALL.len(), false),
            ClusterGauge(_) | ClusterAge => (Per::Cluster, 1, false),
            ClusterLabelled(values, _) => (Per::Cluster, values().len(), false),
            Node(_) | NodeGauge(_) | NodeLongest => (Per::Node, 1, false),
            NodeGauges(values, _) => (Per::Node, values().len(), false),
            NodeRare(values, _) => (Per::Node, values().len(), true),
            NodeDurations => (Per::Node, if per_node_histograms { histogram } else { 2 }, false),
        };
        Series { per, rows, rare }
    }
}

/// The descriptions in the form that a registry wants. One that it would refuse is left out; a test
/// proves that there is none.
pub(super) fn descs() -> Vec<Desc> {
    let desc = |metric: &Declared| {
        let labels = metric.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default()).ok()
    };
    DECLARED.iter().filter_map(desc).collect()
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let scrape = Scrape::of(self);
        let family = |metric: &Declared| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
                Kind::Summary if self.shape.per_node_histograms => MetricType::HISTOGRAM,
                Kind::Summary => MetricType::SUMMARY,
            });
            family.set_metric(scrape.samples(metric));
            family
        };
        // The encoder refuses a family without a sample.
        DECLARED.iter().map(family).filter(|family| !family.get_metric().is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Shape;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_carry_their_unit() {
        let names: HashSet<_> = DECLARED.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), DECLARED.len());
        for metric in DECLARED {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.len() > 5 && !metric.help.ends_with('.'), "{}", metric.name);
        }
        assert_eq!(descs().len(), DECLARED.len(), "a registry takes every description");
    }

    #[test]
    fn workers_are_added_up() {
        let metrics = Metrics::new(Shape {
            families: &["string", "hash"],
            commands: &["get", "hget"],
            clusters: vec!["main".into()],
            workers: 2,
            per_node_histograms: false,
        });
        let [one, two] = metrics.workers() else { panic!("two workers") };
        one.clients.add(3);
        two.clients.sub(1);
        one.latency[1].record(1);
        two.latency[1].record(1);
        two.error(Some(1), ErrorKind::Indoubt);
        one.error(None, ErrorKind::UnknownCommand);
        one.server_error(Some(0), ServerError::WrongType);
        one.requests[1].inc();
        two.requests[1].inc();
        two.requests[2].inc();
        two.latency[0].record(60_000);
        metrics.clusters()[0].refreshes[Refresh::Changed.index()].inc();
        let page = metrics.render();
        for line in [
            "slotmux_clients 2",
            "slotmux_requests_total{command=\"hget\"} 2",
            "slotmux_requests_total{command=\"other\"} 1",
            "slotmux_errors_total{command=\"hget\",kind=\"indoubt\"} 1",
            "slotmux_errors_total{command=\"other\",kind=\"unknown_command\"} 1",
            "slotmux_server_errors_total{command=\"get\",code=\"wrongtype\"} 1",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"0.00005\"} 0",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"0.0001\"} 1",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"+Inf\"} 1",
            "slotmux_topology_refreshes_total{cluster=\"main\",outcome=\"changed\"} 1",
            "# TYPE slotmux_request_duration_seconds histogram",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in:\n{page}");
        }
        assert!(!page.contains("command=\"get\"} 0"), "rows of zero are left out:\n{page}");
        assert!(page.contains("process_resident_memory_bytes "), "{page}");
    }
}
