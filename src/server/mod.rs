//! Accepting clients, handing them to workers, and draining.
//!
//! Acceptors run on the control runtime, the one of the main thread. Each worker is a thread with a
//! runtime of its own; a [`WorkerHandle`] is what the control thread holds of it.

mod acceptor;
mod descriptors;
mod signals;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::ProcessLimits;
use crate::metrics::{ControlMetrics, Reached, WorkerMetrics};
use crate::net::{Listener, Peer, StdStream};

pub use descriptors::{affordable_clients, affordable_dedicated, raise_open_files};
pub use signals::cancel_on_signal;
pub use worker::{ClusterParts, Parts};

/// New clients that wait for a worker to take them over. A worker takes them at every turn; this many
/// are a storm of reconnecting clients, and beyond it the kernel's backlog holds them.
pub const INCOMING_QUEUE: usize = 1024;

/// What the control thread holds of a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    /// The worker's place, from 0.
    pub index: usize,
    /// Takes new clients to the worker; bounded by [`INCOMING_QUEUE`].
    pub sender: mpsc::Sender<Incoming>,
    /// Clients that the worker has or is about to get; counted by [`ClientSlot`].
    pub clients: Arc<AtomicUsize>,
    /// What the worker counts.
    pub metrics: Arc<WorkerMetrics>,
    /// Cancelled when the worker's thread has ended, whether drained or dead.
    pub ended: CancellationToken,
}

/// A new client on its way to a worker.
#[derive(Debug)]
pub struct Incoming {
    /// The connection, tuned and non-blocking.
    pub stream: StdStream,
    /// Who connected.
    pub peer: Peer,
    /// The listener's place in the configuration.
    pub listener: usize,
    /// Counts this client for as long as it is held: the worker keeps it as long as the session lives.
    pub slot: ClientSlot,
}

/// One client in its worker's count; dropping it takes the client out again.
#[derive(Debug)]
pub struct ClientSlot(Arc<AtomicUsize>);

impl ClientSlot {
    /// Counts a client.
    #[must_use]
    pub fn take(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Relaxed);
        Self(Arc::clone(clients))
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A worker's thread ended without having been asked to.
#[derive(Debug)]
pub struct WorkerDied(usize);

impl fmt::Display for WorkerDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} ended unexpectedly", self.0)
    }
}

/// Accepts clients on all listeners, in the order of the configuration, until `shutdown`, then closes the listeners and waits for the
/// workers, which watch the same token, to drain: at most `limits.drain_timeout`. Clients are as many as
/// `limits.max_clients` and the open files allow.
///
/// # Errors
/// A worker ended before the shutdown.
pub async fn serve(
    listeners: Vec<Listener>,
    workers: &[WorkerHandle],
    limits: &ProcessLimits,
    metrics: &Arc<ControlMetrics>,
    shutdown: &CancellationToken,
) -> Result<(), WorkerDied> {
    let mut acceptors = JoinSet::new();
    let max_clients = affordable_clients(limits.max_clients);
    for (index, listener) in listeners.into_iter().enumerate() {
        let (workers, metrics) = (workers.to_vec(), Arc::clone(metrics));
        let acceptor = acceptor::Acceptor::new(listener, index, workers, max_clients, metrics);
        acceptors.spawn(shutdown.clone().run_until_cancelled_owned(acceptor.run()));
    }
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        index = first_ended(workers) => return Err(WorkerDied(index)),
    }
    acceptors.shutdown().await;
    drain(workers, limits.drain_timeout, metrics).await;
    Ok(())
}

/// Waits for every worker to end; what still runs after `timeout` ends with the process.
async fn drain(workers: &[WorkerHandle], timeout: Duration, metrics: &ControlMetrics) {
    info!(clients = clients(workers), "stopping: no new clients, delivering replies in flight");
    let all = async {
        for worker in workers {
            worker.ended.cancelled().await;
        }
    };
    match tokio::time::timeout(timeout, all).await {
        Ok(()) => info!("stopped"),
        Err(_) => {
            metrics.reached[Reached::DrainTimeout.index()].inc();
            warn!(clients = clients(workers), "the drain timeout passed: closing what is left");
        }
    }
}

async fn first_ended(workers: &[WorkerHandle]) -> usize {
    let mut ended = JoinSet::new();
    for worker in workers {
        let (token, index) = (worker.ended.clone(), worker.index);
        ended.spawn(async move {
            token.cancelled().await;
            index
        });
    }
    match ended.join_next().await {
        Some(Ok(index)) => index,
        _ => std::future::pending().await,
    }
}

fn clients(workers: &[WorkerHandle]) -> usize {
    workers.iter().map(|worker| worker.clients.load(Relaxed)).sum()
}
