//! How often a node may be dialled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::net::NodeAddr;

/// A node gets at most this many dials,
const DIALS: usize = 10;
/// within this time, from the whole process: a fleet that lost a node must not be what keeps it down.
const WINDOW: Duration = Duration::from_secs(1);
/// Addresses that were not dialled lately are forgotten when there are more than this many.
const REMEMBERED: usize = 4096;

/// Counts dials per node for the whole process. A lock is no matter here: dials are rare.
#[derive(Debug, Default)]
pub struct DialGate {
    dials: Mutex<HashMap<NodeAddr, VecDeque<Instant>>>,
}

impl DialGate {
    /// Takes a dial to `addr` at `now`, or tells when there will be one.
    ///
    /// # Errors
    /// The time from which on to try again.
    pub fn take(&self, addr: &NodeAddr, now: Instant) -> Result<(), Instant> {
        let mut all = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > REMEMBERED {
            all.retain(|_, dials| dials.back().is_some_and(|last| now.duration_since(*last) < WINDOW));
        }
        let dials = all.entry(addr.clone()).or_default();
        match dials.front() {
            Some(first) if dials.len() >= DIALS && now.duration_since(*first) < WINDOW => {
                return Err(*first + WINDOW);
            }
            Some(_) if dials.len() >= DIALS => _ = dials.pop_front(),
            _ => {}
        }
        dials.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dialled_at_most_ten_times_in_any_second() {
        let gate = DialGate::default();
        let (addr, other) = (NodeAddr::new("a", 1), NodeAddr::new("b", 1));
        let start = Instant::now();
        let mut taken: Vec<Instant> = Vec::new();
        for step in 0..400 {
            let now = start + Duration::from_millis(step * 10);
            match gate.take(&addr, now) {
                Ok(()) => taken.push(now),
                Err(until) => assert!(until > now),
            }
        }
        assert_eq!(taken.len(), 40);
        assert!(taken.windows(11).all(|w| w[10] - w[0] >= WINDOW));
        assert!(gate.take(&other, start).is_ok());
    }
}
