//! From cells to the samples of a page.

use std::sync::Arc;

use prometheus::proto::{self, LabelPair, Metric};

use super::Metrics;
use super::cells::{Counter, Histogram};
use super::commands::OTHER;
use super::expose::{Declared, Kind, Read, values};
use super::labels::{Owner, Reached};
use super::nodes::{NodeMetrics, Row};
use super::sets::LEVELS;
use crate::error::ErrorKind;

/// One reading of all cells: what is shown of nodes is the same for all metrics.
pub(super) struct Scrape<'a> {
    metrics: &'a Metrics,
    nodes: Vec<Arc<Row>>,
}

impl<'a> Scrape<'a> {
    pub(super) fn of(metrics: &'a Metrics) -> Self {
        Scrape { metrics, nodes: metrics.nodes.rows() }
    }

    /// The samples of one metric.
    pub(super) fn samples(&self, declared: &Declared) -> Vec<Metric> {
        let Metrics { workers, control, .. } = self.metrics;
        let one = |value: f64| vec![declared.sample(&[], value)];
        let total = |index: usize, cells: fn(&super::WorkerMetrics) -> &[Counter]| -> u64 {
            workers.iter().map(|worker| cells(worker)[index].value()).sum()
        };
        match declared.read {
            Read::Worker(cell) => one(workers.iter().map(|w| cell(w).value()).sum::<u64>() as f64),
            Read::WorkerGauge(cell) => one(workers.iter().map(|w| cell(w).value()).sum::<i64>() as f64),
            Read::Labelled(labels, cells) => {
                declared.each(&[], &labels(), |index| total(index, cells) as f64)
            }
            Read::Seconds(labels, cells) => {
                declared.each(&[], &labels(), |index| total(index, cells) as f64 / 1e9)
            }
            Read::Durations(cells) => {
                let durations = |(index, family): (usize, &&str)| {
                    declared.histogram(&[family], workers.iter().map(|worker| &cells(worker)[index]))
                };
                self.metrics.shape.families.iter().enumerate().map(durations).collect()
            }
            Read::Commands(cells) => {
                let commands: Vec<&str> = self.commands().collect();
                declared.each_rare(&[], &commands, |row| total(row, cells))
            }
            Read::ByCommand(labels, cell) => {
                let labels = labels();
                let count = |row, kind| workers.iter().map(|worker| cell(worker, row, kind)).sum();
                let each = |(row, command)| declared.each_rare(&[command], &labels, |kind| count(row, kind));
                self.commands().enumerate().flat_map(each).collect()
            }
            Read::Errors => {
                let labels: fn() -> Vec<&'static str> = values!(ErrorKind);
                let (labels, other) = (labels(), self.commands().count() - 1);
                let count = |row: usize, kind: usize| {
                    let given: u64 = workers.iter().map(|worker| worker.errors.value(row, kind)).sum();
                    let rejected = row == other && kind == ErrorKind::MaxClients.index();
                    given + if rejected { control.rejected.value() } else { 0 }
                };
                let each = |(row, command)| declared.each_rare(&[command], &labels, |kind| count(row, kind));
                self.commands().enumerate().flat_map(each).collect()
            }
            Read::Used => {
                let labels: Vec<&str> = LEVELS.iter().map(|bound| bound.label()).collect();
                declared.each(&[], &labels, |index| {
                    let used = workers.iter().map(|worker| worker.used[LEVELS[index].index()].value());
                    used.max().unwrap_or_default() as f64 / 1e6
                })
            }
            Read::Kept => {
                let labels: fn() -> Vec<&'static str> = values!(Owner);
                declared.each(&[], &labels(), |index| {
                    workers.iter().map(|worker| worker.kept.of(Owner::ALL[index]).value()).sum::<i64>() as f64
                })
            }
            Read::Control(cell) => one(cell(control).value() as f64),
            Read::Bounds => {
                let labels: fn() -> Vec<&'static str> = values!(Reached);
                declared.each(&[], &labels(), |index| {
                    (total(index, |w| &w.reached) + control.reached[index].value()) as f64
                })
            }
            Read::Version => vec![declared.sample(&[env!("CARGO_PKG_VERSION")], 1.0)],
            Read::System(value) => value(self.metrics).map(one).unwrap_or_default(),
            Read::ClusterGauge(_) | Read::ClusterLabelled(..) | Read::ClusterAge => {
                self.of_clusters(declared)
            }
            _ => self.nodes.iter().flat_map(|row| self.of_node(declared, row)).collect(),
        }
    }

    /// The labels of the commands in the order of their counts; the last is of what names none.
    fn commands(&self) -> impl Iterator<Item = &'static str> {
        self.metrics.shape.commands.iter().copied().chain([OTHER])
    }

    fn of_clusters(&self, declared: &Declared) -> Vec<Metric> {
        let samples = |cluster: &Arc<super::ClusterMetrics>| {
            let name = &*cluster.name;
            match declared.read {
                Read::ClusterGauge(cell) => vec![declared.sample(&[name], cell(cluster).value() as f64)],
                Read::ClusterLabelled(labels, cells) => {
                    declared.each(&[name], &labels(), |index| cells(cluster)[index].value() as f64)
                }
                _ => vec![declared.sample(&[name], cluster.age())],
            }
        };
        self.metrics.clusters.iter().flat_map(samples).collect()
    }

    fn of_node(&self, declared: &Declared, row: &Row) -> Vec<Metric> {
        let labels: [&str; 2] = [&row.cluster, &row.node];
        let count = |cell: &dyn Fn(&NodeMetrics) -> u64| row.workers.iter().map(cell).sum::<u64>();
        let value = |cell: &dyn Fn(&NodeMetrics) -> i64| row.workers.iter().map(cell).sum::<i64>() as f64;
        match declared.read {
            Read::Node(cell) => vec![declared.sample(&labels, count(&|node| cell(node).value()) as f64)],
            Read::NodeGauge(cell) => vec![declared.sample(&labels, value(&|node| cell(node).value()))],
            Read::NodeGauges(last, cells) => {
                declared.each(&labels, &last(), |index| value(&|node| cells(node)[index].value()))
            }
            Read::NodeRare(last, cells) => {
                declared.each_rare(&labels, &last(), |index| count(&|node| cells(node)[index].value()))
            }
            Read::NodeDurations => {
                vec![self.durations(declared, &labels, row.workers.iter().map(|node| &node.answered))]
            }
            Read::NodeLongest => {
                let now = self.metrics.begun.elapsed().as_nanos() as u64;
                let longest = row.workers.iter().map(|node| node.longest.value(now)).max();
                vec![declared.sample(&labels, longest.unwrap_or_default() as f64 / 1e9)]
            }
            _ => Vec::new(),
        }
    }

    /// A histogram, or only its sum and count.
    fn durations<'h>(
        &self,
        declared: &Declared,
        labels: &[&str],
        cells: impl Iterator<Item = &'h Histogram>,
    ) -> Metric {
        let mut metric = declared.histogram(labels, cells);
        if !self.metrics.shape.per_node_histograms {
            let mut summary = proto::Summary::default();
            summary.set_sample_sum(metric.get_histogram().get_sample_sum());
            summary.set_sample_count(metric.get_histogram().get_sample_count());
            metric = declared.labelled(labels);
            metric.set_summary(summary);
        }
        metric
    }
}

impl Metrics {
    /// When the process began, in seconds since the Unix epoch.
    pub(super) fn start_time(&self) -> Option<f64> {
        Some(self.started.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64())
    }
}

impl Declared {
    /// A sample for each value of the last label.
    fn each(&self, first: &[&str], last: &[&str], value: impl Fn(usize) -> f64) -> Vec<Metric> {
        let sample = |(index, label): (usize, &&str)| self.sample(&[first, &[*label]].concat(), value(index));
        last.iter().enumerate().map(sample).collect()
    }

    /// A sample for each value of the last label whose count is not zero.
    fn each_rare(&self, first: &[&str], last: &[&str], count: impl Fn(usize) -> u64) -> Vec<Metric> {
        let sample = |(index, label): (usize, &&str)| {
            let count = count(index);
            (count > 0).then(|| self.sample(&[first, &[*label]].concat(), count as f64))
        };
        last.iter().enumerate().filter_map(sample).collect()
    }

    fn sample(&self, labels: &[&str], value: f64) -> Metric {
        let mut metric = self.labelled(labels);
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

    fn histogram<'h>(&self, labels: &[&str], cells: impl Iterator<Item = &'h Histogram>) -> Metric {
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
        let mut metric = self.labelled(labels);
        metric.set_histogram(histogram);
        metric
    }

    fn labelled(&self, values: &[&str]) -> Metric {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }
}
