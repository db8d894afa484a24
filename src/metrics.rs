//! What is counted, where, and how it is shown to a scraper.
//!
//! Each worker counts in a [`WorkerMetrics`] of its own, which that worker alone writes: a count is a
//! relaxed load and a relaxed store, never a locked instruction. Whoever scrapes reads them all and adds
//! them up, and may see counts that are a moment apart.

mod cells;
mod commands;
mod expose;
mod labels;
mod nodes;
mod samples;
mod sets;
mod text;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use cells::{Counter, Gauge, Histogram};
pub use expose::{DECLARED, Declared, Kind, Per, Series};
pub use labels::{
    Cause, Closed, DialFailure, LinkState, Owner, Phase, Reached, Redirect, Refresh, ServerError,
};
pub use nodes::{NodeCells, NodeMetrics};
pub use sets::{ClusterMetrics, ControlMetrics, Kept, LEVELS, WorkerMetrics};

/// What labels are made of, and what is shown.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// The command families, by whose index durations are counted.
    pub families: &'static [&'static str],
    /// The commands, by whose index requests are counted.
    pub commands: &'static [&'static str],
    /// The clusters' names.
    pub clusters: Vec<Arc<str>>,
    /// How many workers there are.
    pub workers: usize,
    /// Whether each node's durations are shown in buckets.
    pub per_node_histograms: bool,
}

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    shape: Shape,
    workers: Box<[Arc<WorkerMetrics>]>,
    control: Arc<ControlMetrics>,
    clusters: Box<[Arc<ClusterMetrics>]>,
    nodes: Arc<nodes::Nodes>,
    descs: Vec<prometheus::core::Desc>,
    started: SystemTime,
    begun: Instant,
}

impl Metrics {
    /// Metrics of this shape, all of them zero.
    #[must_use]
    pub fn new(shape: Shape) -> Arc<Self> {
        let (begun, nodes) = (Instant::now(), Arc::new(nodes::Nodes::default()));
        let (families, commands, workers) = (shape.families.len(), shape.commands.len(), shape.workers);
        let worker = |index| WorkerMetrics::new(begun, (index, workers), nodes.clone(), families, commands);
        Arc::new(Self {
            workers: (0..workers).map(|index| Arc::new(worker(index))).collect(),
            control: Arc::new(ControlMetrics::default()),
            clusters: shape
                .clusters
                .iter()
                .map(|name| Arc::new(ClusterMetrics::new(name.clone(), begun)))
                .collect(),
            nodes,
            shape,
            descs: expose::descs(),
            started: SystemTime::now(),
            begun,
        })
    }

    /// The set of each worker, by its index.
    #[must_use]
    pub fn workers(&self) -> &[Arc<WorkerMetrics>] {
        &self.workers
    }

    /// The set of the control thread.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlMetrics> {
        &self.control
    }

    /// The set of each cluster, in the order of their names in the shape.
    #[must_use]
    pub fn clusters(&self) -> &[Arc<ClusterMetrics>] {
        &self.clusters
    }

    /// The whole page in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        text::render(self)
    }
}
