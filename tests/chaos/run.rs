//! What all threads of a run share.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{journal::Journal, judge::Judge, settings::Settings};

pub struct Run {
    pub settings: Settings,
    pub journal: Journal,
    pub judge: Judge,
    /// The proxy's listeners; the second one keeps the order of whole pipelines.
    pub listeners: Vec<String>,
    stop: AtomicBool,
}

impl Run {
    pub fn new(settings: Settings, journal: Journal, listeners: Vec<String>) -> Self {
        Self { settings, journal, judge: Judge::default(), listeners, stop: AtomicBool::new(false) }
    }

    /// The listener that a client connects to.
    pub fn listener(&self, client: usize) -> String {
        self.listeners[client % self.listeners.len()].clone()
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
