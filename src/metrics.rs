//! What is counted, where, and how it is shown to a scraper.
//!
//! Each worker counts in a [`WorkerMetrics`] of its own, which that worker alone writes: a count is a
//! relaxed load and a relaxed store, never a locked instruction. Whoever scrapes reads them all and adds
//! them up, and may see counts that are a moment apart.

mod cells;
mod expose;
mod sets;
mod text;

use std::sync::Arc;
use std::time::SystemTime;

pub use cells::{Counter, Gauge, Histogram};
pub use expose::{DECLARED, Declared, Kind};
pub use sets::{Cause, ControlMetrics, DialFailure, Redirect, Refresh, WorkerMetrics};

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    families: &'static [&'static str],
    workers: Box<[Arc<WorkerMetrics>]>,
    control: Arc<ControlMetrics>,
    descs: Vec<prometheus::core::Desc>,
    started: SystemTime,
}

impl Metrics {
    /// Metrics for `workers` workers and these command families, by whose index requests are counted.
    #[must_use]
    pub fn new(families: &'static [&'static str], workers: usize) -> Arc<Self> {
        Arc::new(Self {
            families,
            workers: (0..workers).map(|_| Arc::new(WorkerMetrics::new(families.len()))).collect(),
            control: Arc::new(ControlMetrics::default()),
            descs: expose::descs(),
            started: SystemTime::now(),
        })
    }

    /// The set of each worker, by its index.
    #[must_use]
    pub fn workers(&self) -> &[Arc<WorkerMetrics>] {
        &self.workers
    }

    /// The set of the control thread: acceptors and topology.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlMetrics> {
        &self.control
    }

    /// The whole page in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        text::render(self)
    }
}
