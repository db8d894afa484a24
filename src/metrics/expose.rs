//! Every metric declared once: its name, unit and description, and the cells that it adds up.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{Counter, Gauge, Histogram};
use super::sets::{Cause, ControlMetrics, DialFailure, Redirect, Refresh, WorkerMetrics};
use super::{Metrics, text};
use crate::error::ErrorKind;

/// The declaration of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// The full name, with its unit at the end, and `_total` if it only grows.
    pub name: &'static str,
    /// What it is, for a person.
    pub help: &'static str,
    /// The name of its label, if it has one.
    pub label: Option<&'static str>,
    /// How it behaves.
    pub kind: Kind,
    read: Read,
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
}

#[derive(Clone, Copy, Debug)]
enum Read {
    /// A count of each worker.
    Worker(fn(&WorkerMetrics) -> &Counter),
    /// A value of each worker.
    WorkerGauge(fn(&WorkerMetrics) -> &Gauge),
    /// A count of each worker for each value of the label.
    Labelled(fn() -> Vec<&'static str>, fn(&WorkerMetrics) -> &[Counter]),
    /// How many durations each worker has for each command family.
    Families(fn(&WorkerMetrics) -> &[Histogram]),
    /// A histogram of each worker for each command family.
    Durations(fn(&WorkerMetrics) -> &[Histogram]),
    Control(fn(&ControlMetrics) -> &Counter),
    ControlGauge(fn(&ControlMetrics) -> &Gauge),
    ControlLabelled(fn() -> Vec<&'static str>, fn(&ControlMetrics) -> &[Counter]),
    Version,
    Started,
    Resident,
}

macro_rules! declared {
    ($($kind:ident $name:literal $([$label:literal])? $help:literal = $read:expr;)*) => {
        /// Every metric that the proxy exposes.
        pub const DECLARED: &[Declared] = &[$(Declared {
            name: $name,
            help: $help,
            label: [$(Some($label),)? None][0],
            kind: Kind::$kind,
            read: $read,
        }),*];
    };
}

use Read::{
    Control, ControlGauge, ControlLabelled, Durations, Families, Labelled, Resident, Started, Version,
    Worker, WorkerGauge,
};

declared! {
    Gauge "slotmux_clients" "Client connections" = WorkerGauge(|w| &w.clients);
    Counter "slotmux_connections_total" "Client connections served" = Worker(|w| &w.connections);
    Counter "slotmux_connections_rejected_total" "Client connections closed at max_clients" =
        Control(|c| &c.rejected);
    Counter "slotmux_accept_errors_total" "Failed calls of accept" = Control(|c| &c.accept_errors);
    Counter "slotmux_requests_total" ["family"] "Requests answered" = Families(|w| &w.latency);
    Histogram "slotmux_request_duration_seconds" ["family"]
        "Time from a request's framing to its reply" = Durations(|w| &w.latency);
    Gauge "slotmux_in_flight_requests" "Commands that wait for a node's reply" =
        WorkerGauge(|w| &w.in_flight);
    Counter "slotmux_errors_total" ["kind"] "Errors that the proxy itself gave to clients" =
        Labelled(|| ErrorKind::ALL.iter().map(|kind| kind.label()).collect(), |w| &w.errors);
    Counter "slotmux_server_errors_total" "Errors of nodes passed on to clients" =
        Worker(|w| &w.server_errors);
    Counter "slotmux_redirects_total" ["kind"]
        "Redirects, refusals and lost connections that the proxy absorbed or tried to" =
        Labelled(|| Redirect::ALL.iter().map(|kind| kind.label()).collect(), |w| &w.redirects);
    Counter "slotmux_replays_total" "Commands sent once more" = Worker(|w| &w.replays);
    Gauge "slotmux_held_requests" "Commands that wait for a slot's owner or a retry" =
        WorkerGauge(|w| &w.held);
    Gauge "slotmux_held_bytes" "Bytes of held commands" = WorkerGauge(|w| &w.held_bytes);
    Counter "slotmux_abandoned_requests_total" "Commands dropped because their client left" =
        Worker(|w| &w.abandoned);
    Counter "slotmux_client_read_bytes_total" "Bytes read from clients" = Worker(|w| &w.bytes_in);
    Counter "slotmux_client_written_bytes_total" "Bytes written to clients" = Worker(|w| &w.bytes_out);
    Gauge "slotmux_links" "Open shared connections to nodes" = WorkerGauge(|w| &w.links);
    Counter "slotmux_dials_total" "Attempts to open a connection to a node" = Worker(|w| &w.dials);
    Counter "slotmux_dial_failures_total" ["kind"] "Failed attempts to open a connection to a node" =
        Labelled(|| DialFailure::ALL.iter().map(|kind| kind.label()).collect(), |w| &w.dial_failures);
    Gauge "slotmux_topology_version" "Version of the slot table, 0 before the first" =
        ControlGauge(|c| &c.topology_version);
    Gauge "slotmux_slots_uncovered" "Slots without an owner" = ControlGauge(|c| &c.slots_uncovered);
    Counter "slotmux_topology_refreshes_total" ["outcome"] "Refreshes of the slot table" =
        ControlLabelled(|| Refresh::ALL.iter().map(|kind| kind.label()).collect(), |c| &c.refreshes);
    Counter "slotmux_topology_refresh_causes_total" ["cause"] "What made the proxy refresh the slot table" =
        ControlLabelled(
            || Cause::ALL.iter().map(|cause| cause.label()).collect(),
            |c| &c.refreshes_by_cause,
        );
    Gauge "slotmux_cluster_down" "1 while no node that is asked says that the cluster is well" =
        ControlGauge(|c| &c.cluster_down);
    Gauge "slotmux_cluster_refuses_all"
        "1 while all slots are refused because one has no owner: set cluster-require-full-coverage no" =
        ControlGauge(|c| &c.refuses_all);
    Gauge "slotmux_foreign_seeds" "Seeds that are no part of the cluster" =
        ControlGauge(|c| &c.foreign_seeds);
    Gauge "slotmux_build_info" ["version"] "1 for the version that runs" = Version;
    Gauge "process_start_time_seconds" "Start of the process since the Unix epoch" = Started;
    Gauge "process_resident_memory_bytes" "Resident memory of the process" = Resident;
}

/// The descriptions in the form that a registry wants. One that it would refuse is left out; a test
/// proves that there is none.
pub(super) fn descs() -> Vec<Desc> {
    let desc = |metric: &Declared| {
        let labels = metric.label.iter().map(|&label| label.to_owned()).collect();
        Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default()).ok()
    };
    DECLARED.iter().filter_map(desc).collect()
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let family = |metric: &Declared| {
            let samples = metric.samples(self);
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family.set_metric(samples);
            family
        };
        // The encoder refuses a family without a sample.
        DECLARED.iter().map(family).filter(|family| !family.get_metric().is_empty()).collect()
    }
}

impl Declared {
    fn samples(&self, metrics: &Metrics) -> Vec<Metric> {
        let workers = &metrics.workers;
        let control = &*metrics.control;
        let counts = |labels: &[&str], cells: fn(&WorkerMetrics) -> &[Counter]| {
            let total = |index: usize| workers.iter().map(|worker| cells(worker)[index].value()).sum();
            self.each_label(labels, |index| number(total(index)))
        };
        match self.read {
            Worker(cell) => vec![self.sample(None, number(workers.iter().map(|w| cell(w).value()).sum()))],
            WorkerGauge(cell) => {
                let total: i64 = workers.iter().map(|worker| cell(worker).value()).sum();
                vec![self.sample(None, total as f64)]
            }
            Labelled(labels, cells) => counts(&labels(), cells),
            Families(cells) => {
                let total = |index: usize| workers.iter().map(|worker| cells(worker)[index].count()).sum();
                self.each_label(metrics.families, |index| number(total(index)))
            }
            Durations(cells) => (metrics.families.iter().enumerate())
                .map(|(index, family)| {
                    self.histogram(family, workers.iter().map(|worker| &cells(worker)[index]))
                })
                .collect(),
            Control(cell) => vec![self.sample(None, number(cell(control).value()))],
            ControlGauge(cell) => vec![self.sample(None, cell(control).value() as f64)],
            ControlLabelled(labels, cells) => {
                self.each_label(&labels(), |index| number(cells(control)[index].value()))
            }
            Version => vec![self.sample(Some(env!("CARGO_PKG_VERSION")), 1.0)],
            Started => {
                let since = metrics.started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                vec![self.sample(None, since.as_secs_f64())]
            }
            Resident => {
                text::resident_bytes().map(|bytes| self.sample(None, number(bytes))).into_iter().collect()
            }
        }
    }

    fn each_label(&self, labels: &[&str], value: impl Fn(usize) -> f64) -> Vec<Metric> {
        labels.iter().enumerate().map(|(index, label)| self.sample(Some(label), value(index))).collect()
    }

    fn sample(&self, label: Option<&str>, value: f64) -> Metric {
        let mut metric = self.labelled(label);
        if self.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }

    fn histogram<'a>(&self, family: &str, cells: impl Iterator<Item = &'a Histogram>) -> Metric {
        let mut counts = [0; Histogram::BUCKETS];
        let sum: f64 = cells.map(|cell| cell.sum_into(&mut counts)).sum();
        let mut below = 0;
        let bucket = |(border, count): (f64, &u64)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(border);
            bucket.set_cumulative_count(below);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(Histogram::borders().zip(&counts).map(bucket).collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(counts.iter().sum());
        let mut metric = self.labelled(Some(family));
        metric.set_histogram(histogram);
        metric
    }

    fn labelled(&self, value: Option<&str>) -> Metric {
        let pair = self.label.zip(value).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        Metric::from_label(pair.into_iter().collect())
    }
}

/// Counts are shown as the format's 64-bit floats: exact up to 2^53.
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let metrics = Metrics::new(&["string", "hash"], 2);
        let [one, two] = metrics.workers() else { panic!("two workers") };
        one.clients.add(3);
        two.clients.sub(1);
        one.latency[1].record(1);
        two.latency[1].record(1);
        two.errors[ErrorKind::Indoubt.index()].inc();
        two.latency[0].record(60_000);
        metrics.control().refreshes[Refresh::Changed.index()].inc();
        let page = metrics.render();
        for line in [
            "slotmux_clients 2",
            "slotmux_requests_total{family=\"hash\"} 2",
            "slotmux_requests_total{family=\"string\"} 1",
            "slotmux_errors_total{kind=\"indoubt\"} 1",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"0.00005\"} 0",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"0.0001\"} 1",
            "slotmux_request_duration_seconds_bucket{family=\"string\",le=\"+Inf\"} 1",
            "slotmux_topology_refreshes_total{outcome=\"changed\"} 1",
            "# TYPE slotmux_request_duration_seconds histogram",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in:\n{page}");
        }
        assert!(page.contains("process_resident_memory_bytes "), "{page}");
    }
}
