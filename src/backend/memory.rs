//! What the process keeps in buffers, and the call for somebody to go when that exceeds `max_memory`.
//!
//! Each worker adds to cells of its own as its buffers grow and shrink. When they have grown by a megabyte since it
//! looked last, and in every round, it adds up those of all workers. From then on until somebody has gone its links
//! read no further into replies that are not all there. So the bound is kept to a megabyte for each worker, what
//! its links read in one turn besides.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::config::ProcessLimits;
use crate::metrics::{Owner, Reached, WorkerMetrics};

/// A worker that keeps this much more than when it looked last adds up what all keep.
const STEP: i64 = 1 << 20;
/// Closing a client whose output, or input, is smaller than this would free nothing worth the harm.
pub const WORTHWHILE: u64 = 64 * 1024;
/// Where inputs are most of what is kept, they are closed down to this size: many small ones fill the memory too.
pub const WORTHWHILE_INPUT: u64 = 4 * 1024;

/// What all workers share.
#[derive(Debug)]
pub struct Memory {
    limits: ProcessLimits,
    workers: Box<[Arc<WorkerMetrics>]>,
    places: Box<[Place]>,
}

/// A worker's part in a cluster: what it tells the others, and how they call it.
#[derive(Debug, Default)]
struct Place {
    output: AtomicU64,
    input: AtomicU64,
    called: Notify,
    /// From the call until somebody has gone.
    is_paused: AtomicBool,
}

/// Who has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The largest unread output, or reply that is not all there, of the place that asks.
    Output,
    /// The largest inputs of the place that asks.
    Input,
    /// Somebody of another place.
    Elsewhere,
    /// Nobody: nothing that is kept is worth it.
    Nobody,
}

impl Memory {
    /// For these workers, each of which serves this many clusters.
    #[must_use]
    pub fn new(limits: ProcessLimits, workers: &[Arc<WorkerMetrics>], clusters: usize) -> Arc<Self> {
        let places = (0..workers.len() * clusters).map(|_| Place::default()).collect();
        Arc::new(Memory { limits, workers: workers.into(), places })
    }

    /// The account of one place; places count from 0.
    #[must_use]
    pub fn account(self: &Arc<Self>, place: usize, metrics: Arc<WorkerMetrics>) -> Account {
        Account { shared: self.clone(), place, metrics, next_check: Cell::new(STEP) }
    }

    fn is_over(&self) -> bool {
        self.kept() > self.limits.max_memory
    }

    /// Whether those fill the memory that send what cannot be planned, or sent to a node, yet.
    fn is_mostly_input(&self) -> bool {
        let of = |owner| self.workers.iter().map(move |worker| worker.kept.of(owner).value()).sum::<i64>();
        let input = of(Owner::ClientInput) + of(Owner::Subscriptions) + of(Owner::Held);
        input.max(0) as usize > self.kept() / 2
    }

    /// Bytes; never less than nothing, though cells are read while they change.
    fn kept(&self) -> usize {
        self.workers.iter().map(|worker| worker.kept.all()).sum::<i64>().max(0) as usize
    }
}

/// One worker's buffers, as far as they belong to one cluster.
pub struct Account {
    shared: Arc<Memory>,
    place: usize,
    metrics: Arc<WorkerMetrics>,
    next_check: Cell<i64>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account {} of {:?}", self.place, self.shared)
    }
}

impl Drop for Account {
    /// Who ends first at a stop is nobody's victim.
    fn drop(&mut self) {
        self.publish(0, 0);
    }
}

impl Account {
    /// How many clients all workers have.
    pub fn clients(&self) -> i64 {
        self.shared.workers.iter().map(|worker| worker.clients.value()).sum()
    }

    /// How many there may be.
    pub fn max_clients(&self) -> usize {
        self.shared.limits.max_clients
    }

    /// Keeps `now` bytes for this owner instead of `before`.
    #[inline]
    pub fn change(&self, owner: Owner, before: usize, now: usize) {
        self.metrics.kept.add(owner, now as i64 - before as i64);
    }

    /// To be called at the end of a turn in which more may have been kept than before.
    #[inline]
    pub fn check(&self) {
        if self.metrics.kept.all() >= self.next_check.get() {
            self.add_up();
        }
    }

    /// Adds up what all workers keep, and calls all of them if it is too much.
    #[cold]
    pub fn add_up(&self) {
        self.next_check.set(self.metrics.kept.all() + STEP);
        if self.shared.is_over() {
            for place in &self.shared.places {
                place.is_paused.store(true, Relaxed);
                place.called.notify_one();
            }
        }
    }

    /// Waits until somebody found that the process keeps too much.
    pub async fn called(&self) {
        self.shared.places[self.place].called.notified().await;
    }

    /// Whether links are to read no further into replies that are not all there.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.shared.places[self.place].is_paused.load(Relaxed)
    }

    /// They may go on; who calls wakes them.
    pub fn go_on(&self) {
        self.next_check.set(self.metrics.kept.all() + STEP);
        self.shared.places[self.place].is_paused.store(false, Relaxed);
    }

    /// Whether the process keeps too much.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.is_over()
    }

    /// By how many bytes it does.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.shared.kept().saturating_sub(self.shared.limits.max_memory)
    }

    /// The largest unread output and the largest input of the other places, as they have published them.
    #[must_use]
    pub fn largest_elsewhere(&self) -> (usize, usize) {
        let others = || self.shared.places.iter().enumerate().filter(|(place, _)| *place != self.place);
        let output = others().map(|(_, place)| place.output.load(Relaxed)).max().unwrap_or(0);
        let input = others().map(|(_, place)| place.input.load(Relaxed)).max().unwrap_or(0);
        (output as usize, input as usize)
    }

    /// Tells the other places of this one's largest unread output and largest input.
    pub fn publish(&self, output: usize, input: usize) {
        self.shared.places[self.place].output.store(output as u64, Relaxed);
        self.shared.places[self.place].input.store(input as u64, Relaxed);
    }

    /// As [`Self::publish`], of one client or link, where that is more: so that they know also while this worker is
    /// too busy to look for its largest.
    #[inline]
    pub fn raise(&self, output: usize, input: usize) {
        let place = &self.shared.places[self.place];
        for (cell, size) in [(&place.output, output as u64), (&place.input, input as u64)] {
            if size > cell.load(Relaxed) {
                cell.store(size, Relaxed);
            }
        }
    }

    /// Who has to go, by what the places have published.
    #[must_use]
    pub fn victim(&self) -> Victim {
        let largest = |victim, size: fn(&Place) -> &AtomicU64, least| {
            // The first of equal ones, at whichever place this is asked.
            let sizes = self.shared.places.iter().map(|place| size(place).load(Relaxed)).enumerate();
            let largest = sizes.rev().max_by_key(|(_, size)| *size).filter(|(_, size)| *size >= least);
            largest.map(|(place, _)| (place, victim))
        };
        let output = largest(Victim::Output, |place| &place.output, WORTHWHILE);
        let input = |least| largest(Victim::Input, |place| &place.input, least);
        let chosen = match self.shared.is_mostly_input() {
            true => input(WORTHWHILE_INPUT).or(output),
            false => output.or_else(|| input(WORTHWHILE)),
        };
        match chosen {
            Some((place, victim)) if place == self.place => victim,
            Some(_) => Victim::Elsewhere,
            None => Victim::Nobody,
        }
    }

    /// How much of the process's bounds is in use.
    #[must_use]
    pub fn levels(&self) -> [(Reached, usize, usize); 2] {
        let Memory { limits, workers, .. } = &*self.shared;
        let clients: i64 = workers.iter().map(|worker| worker.clients.value()).sum();
        [
            (Reached::MaxClients, clients.max(0) as usize, limits.max_clients),
            (Reached::MaxMemory, self.shared.kept(), limits.max_memory),
        ]
    }
}

/// So large a block is a page of its own for the allocator.
const LARGE_BLOCK: usize = 4 << 20;

/// Pages that have been free for a second go back to the system when the next large block is freed (mimalloc's
/// `purge_delay`), and a thread's own pages are looked through when it allocates one; an idle proxy would do neither,
/// and keep what a large value took for ever. This one is never written to, so that it takes no memory.
pub fn give_back_free_pages() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Shape};

    #[test]
    fn the_largest_output_of_all_places_goes_first_then_the_largest_input() {
        let metrics = Metrics::new(Shape { workers: 2, ..Shape::default() });
        let limits = ProcessLimits { max_memory: 10 << 20, ..Default::default() };
        let memory = Memory::new(limits, metrics.workers(), 1);
        let mut accounts: Vec<Account> = metrics
            .workers()
            .iter()
            .enumerate()
            .map(|(i, worker)| memory.account(i, worker.clone()))
            .collect();
        let [one, two] = &accounts[..] else { panic!("two places") };
        let victims = || (one.victim(), two.victim());
        assert_eq!(victims(), (Victim::Nobody, Victim::Nobody));
        one.publish(1 << 20, 9 << 20);
        two.publish(2 << 20, 0);
        assert_eq!(victims(), (Victim::Elsewhere, Victim::Output));
        two.publish(1 << 20, 0);
        assert_eq!(victims(), (Victim::Output, Victim::Elsewhere), "one of two equal ones");
        one.publish(1000, 9 << 20);
        two.publish(1000, 0);
        assert_eq!(victims(), (Victim::Input, Victim::Elsewhere));
        two.change(Owner::LinkReplies, 0, 6 << 20);
        one.change(Owner::ClientInput, 0, 5 << 20);
        assert!(one.is_over() && two.is_over());
        one.publish(9000, 9000);
        two.publish(1 << 20, 0);
        assert_eq!(victims(), (Victim::Elsewhere, Victim::Output));
        two.change(Owner::LinkReplies, 6 << 20, 1 << 20);
        assert!(!one.is_over());
        assert_eq!(victims(), (Victim::Input, Victim::Elsewhere), "inputs fill the memory");
        one.publish(1 << 20, 4000);
        assert_eq!(victims(), (Victim::Output, Victim::Elsewhere), "closing those would free too little");
        drop(accounts.remove(0));
        assert_eq!(accounts[0].victim(), Victim::Output, "a worker that has ended has none");
    }
}
