//! The one task that asks the cluster who owns which slot, and alone publishes the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::ask::{ASKED, named_by};
use super::budget::Budget;
use super::commands::Commands;
use super::membership::{Selection, select};
use super::merge::merge;
use super::names::Names;
use super::options::Options;
use super::outsiders::Outsiders;
use super::query::{Ask, Control};
use super::shared::{Shared, Wish};
use super::snapshot::{Snapshot, State};
use super::view::View;
use super::{Cause, SLOTS};
use crate::backend::{DialError, DialGate};
use crate::metrics::{ClusterMetrics, Refresh as Outcome};
use crate::net::NodeAddr;

/// Two refreshes begin at least this far apart.
pub(super) const COOL_DOWN: Duration = Duration::from_millis(100);
/// Without a cause the table is checked about this often (jittered by a fifth).
const PERIOD: Duration = Duration::from_secs(30);
/// After so many refreshes without an answer it is worth a line in the log; at once at the start.
const FAILURES: u32 = 3;

/// The refresher: make it, share [`Refresh::shared`] with the workers, and run it.
#[derive(Debug)]
pub struct Refresh {
    pub(super) shared: Arc<Shared>,
    wishes: mpsc::Receiver<Wish>,
    published: watch::Sender<u64>,
    pub(super) options: Arc<Options>,
    pub(super) gate: Arc<DialGate>,
    metrics: Arc<ClusterMetrics>,
    pub(super) connections: HashMap<NodeAddr, Control>,
    pub(super) budget: Budget,
    pub(super) outsiders: Outsiders,
    /// Names besides CLUSTER NODES, and of which nodes they were asked for.
    pub(super) names: Names,
    pub(super) named: Vec<Arc<str>>,
    pub(super) ask_names_by: Ask,
    pub(super) commands: Commands,
    /// Nobody of the cluster answered the last time.
    pub(super) is_lost: bool,
    /// How many refreshes in a row got no answer.
    failures: u32,
    /// Whether that was logged.
    warned: bool,
}

impl Refresh {
    /// A refresher that starts from the seeds of `options`.
    pub fn new(options: Options, gate: Arc<DialGate>, metrics: Arc<ClusterMetrics>) -> Self {
        let (shared, wishes, published) = Shared::new();
        Refresh {
            shared: Arc::new(shared),
            wishes,
            published,
            options: Arc::new(options),
            gate,
            metrics,
            connections: HashMap::new(),
            budget: Budget::default(),
            outsiders: Outsiders::default(),
            names: Names::new(),
            named: Vec::new(),
            ask_names_by: Ask::default(),
            commands: Commands::default(),
            is_lost: false,
            failures: 0,
            warned: false,
        }
    }

    /// What the workers need.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Refreshes for ever.
    pub async fn run(mut self) {
        let (mut cause, mut nodes, mut looked) = (Cause::Start, Vec::new(), Instant::now());
        loop {
            let begun = Instant::now();
            // What only this one does is due also if wishes never cease.
            if looked.elapsed() > PERIOD.mul_f64(1.2) && cause != Cause::Start {
                cause = Cause::Periodic;
            }
            if matches!(cause, Cause::Start | Cause::Periodic) {
                looked = begun;
            }
            self.refresh(cause, std::mem::take(&mut nodes)).await;
            sleep_until((begun + COOL_DOWN).into()).await;
            cause = if self.shared.snapshot().is_none() { Cause::Start } else { Cause::Periodic };
            let wait = match self.is_lost {
                false => PERIOD
                    .mul_f64(0.8 + 0.4 * fastrand::f64())
                    .min(self.outsiders.patience().unwrap_or(PERIOD * 2)),
                // Nobody answered: go on trying, a little slower.
                true => COOL_DOWN.mul_f64(1.0 + 4.0 * fastrand::f64()),
            };
            if let Ok(Some((wish, node))) = timeout(wait, self.wishes.recv()).await {
                cause = wish;
                nodes.extend(node);
            }
            while let Ok((_, node)) = self.wishes.try_recv() {
                nodes.extend(node.filter(|node| !nodes.contains(node) && nodes.len() < ASKED));
            }
        }
    }

    /// Asks some nodes, first those given, and publishes what they say.
    async fn refresh(&mut self, cause: Cause, nodes: Vec<NodeAddr>) {
        self.metrics.refreshes_by_cause[cause.index()].add(1);
        let before = self.shared.snapshot();
        let (mut views, mut failure) = self.ask_some(cause, nodes).await;
        let first = self.select(before.as_deref(), &views);
        if before.is_none() || first.anew {
            // One node may have been cut off, or removed, for long: hear those that it names.
            let others = named_by(&first);
            let (more, error) = self.ask_all(others).await;
            views.extend(more);
            failure = failure.or(error);
        }
        let selection = self.select(before.as_deref(), &views);
        if selection.anew && self.failures < FAILURES {
            // Nobody of the cluster that is known has been given time to answer.
            self.is_lost = true;
            self.complain(failure);
            return self.metrics.refreshes[Outcome::Failed.index()].add(1);
        }
        self.outsiders.update(&selection, &self.options.seeds, Instant::now());
        self.metrics.foreign_seeds.set(self.outsiders.list().len() as i64);
        self.is_lost = selection.counted.is_empty();
        self.complain(failure);
        if self.is_lost {
            self.metrics.refreshes[Outcome::Failed.index()].add(1);
            return;
        }
        let known = before.as_deref().filter(|_| !selection.anew);
        let mut snapshot = merge(known, &selection.counted, &self.names);
        if let (true, Some(before)) = (selection.anew, &before) {
            tracing::warn!("the seeds tell of another cluster, and nobody of the old one: taking it over");
            snapshot.version = before.version + 1;
        }
        for view in &selection.counted {
            let Some(node) = view.myself() else { continue };
            if let Some(member) = snapshot.members.get(&node.id) {
                self.budget.is_same(&view.from, &member.addr);
                self.budget.is_same(&node.addr, &member.addr);
            }
        }
        // Before the snapshot: who waits for that finds both.
        if let Some(learned) = self.commands.learn(&selection.counted, &snapshot) {
            self.shared.learned.store(Arc::new(learned));
        }
        self.publish(before.as_deref(), snapshot);
    }

    fn select<'a>(&self, before: Option<&Snapshot>, views: &'a [View]) -> Selection<'a> {
        select(before, views, &self.options.seeds, |view| self.outsiders.has(view))
    }

    fn publish(&mut self, before: Option<&Snapshot>, mut snapshot: Snapshot) {
        let changed = before.is_none_or(|before| before.version != snapshot.version);
        let table = &snapshot.table;
        if changed {
            let moved = before.map_or(0, |before| table.moved_since(&before.table));
            let (shards, covered) = (table.shards.len(), table.covered());
            tracing::info!(shards, covered, moved, "the topology changed");
        }
        self.connections.retain(|addr, _| table.known.contains_key(addr));
        self.names.retain(|id, _| snapshot.members.contains_key(id));
        if snapshot.state == State::Refusing && before.is_none_or(|before| before.state != State::Refusing) {
            tracing::warn!(
                uncovered = SLOTS - table.covered(),
                "the nodes refuse all slots because some have no owner that is alive: with \
                 `cluster-require-full-coverage no` the others would be served"
            );
        }
        snapshot.foreign = self.outsiders.list();
        let outcome = if changed { Outcome::Changed } else { Outcome::Unchanged };
        self.metrics.refreshes[outcome.index()].add(1);
        self.metrics.answered();
        self.metrics.topology_version.set(snapshot.version as i64);
        self.metrics.shards.set(table.shards.len() as i64);
        self.metrics.slots_uncovered.set((SLOTS - table.covered()) as i64);
        self.metrics.cluster_down.set(i64::from(snapshot.state != State::Well));
        self.metrics.refuses_all.set(i64::from(snapshot.state == State::Refusing));
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        self.published.send_modify(|count| *count += 1);
    }

    /// Says once that nobody tells the topology, and once that somebody does again.
    fn complain(&mut self, failure: Option<(NodeAddr, DialError)>) {
        if !self.is_lost {
            self.failures = 0;
            if std::mem::take(&mut self.warned) {
                tracing::info!("the topology is known again");
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let lasts = self.failures >= FAILURES || self.shared.snapshot().is_none();
        if !lasts || std::mem::replace(&mut self.warned, true) {
            return;
        }
        match failure {
            Some((node, error)) => tracing::warn!(%node, %error, "no node tells the topology; trying on"),
            None => tracing::warn!("the nodes that answer are of no cluster that serves slots; trying on"),
        }
    }
}
