//! A worker's thread: its runtime, its routes, and the clients that it is given.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{INCOMING_QUEUE, Incoming, WorkerHandle};
use crate::backend::{Account, Allowance, Backend, Clock, DialGate, Memory, SCRATCH, Settings};
use crate::config::{ClusterConfig, Config, SessionConfig, Spin};
use crate::metrics::WorkerMetrics;
use crate::net::Stream;
use crate::session::{self, Control, Worker};
use crate::topology::Shared;

/// Numbers the clients of the process, as CLIENT ID tells them.
static NEXT_CLIENT: AtomicU64 = AtomicU64::new(1);

/// What every worker is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<ClusterParts>,
    /// What the process keeps.
    pub memory: Arc<Memory>,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
}

/// What every worker has of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterParts {
    /// Its part of the configuration.
    pub config: Arc<ClusterConfig>,
    /// Its topology.
    pub topology: Arc<Shared>,
    /// Bounds the dials and connections to its nodes.
    pub gate: Arc<DialGate>,
    /// How its workers reach each other.
    pub control: Arc<Control>,
}

impl ClusterParts {
    /// What the clients of this cluster share on one worker.
    fn worker(
        self,
        index: usize,
        settings: Vec<Arc<SessionConfig>>,
        memory: Account,
        metrics: Arc<WorkerMetrics>,
        shutdown: CancellationToken,
        may_spin: bool,
    ) -> Rc<Worker> {
        let ClusterParts { config, topology, gate, control } = self;
        let links = Settings {
            cluster: config.name.clone(),
            credentials: config.auth.clone(),
            connections_per_node: config.connections_per_node,
            connect_timeout: config.limits.connect_timeout,
            max_reply: config.limits.max_reply,
            link_queue: config.limits.link_queue,
            link_timeout: config.limits.link_timeout,
        };
        let scratch = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
        let clock = Clock::since(metrics.begun);
        let backend = Rc::new(Backend {
            settings: links,
            gate,
            clock,
            metrics,
            memory,
            links: RefCell::default(),
            scratch,
            allowance: Allowance::default(),
        });
        let worker = Worker::new(backend, topology, config, settings, control, shutdown, may_spin);
        spawn_local(worker.clone().keep());
        spawn_local(worker.clone().keep_subscribed());
        spawn_local(worker.clone().keep_monitored());
        spawn_local(worker.clone().relieve());
        spawn_local(worker.clone().answer_control(index));
        let (spinner, backend) = (worker.clone(), worker.backend.clone());
        spawn_local(async move { spinner.spin().await });
        spawn_local(async move { backend.allowance.share_out().await });
        worker
    }
}

impl WorkerHandle {
    /// Starts a worker's thread, which drains and ends when `parts.shutdown` is cancelled.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn spawn(index: usize, metrics: Arc<WorkerMetrics>, parts: Parts) -> io::Result<Self> {
        let (sender, incoming) = mpsc::channel::<Incoming>(INCOMING_QUEUE);
        let ended = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = ended.clone().drop_guard();
        let counted = metrics.clone();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _guard = guard;
            LocalSet::new().block_on(&runtime, work(index, incoming, counted, parts));
        })?;
        Ok(Self { index, sender, clients: Arc::new(AtomicUsize::new(0)), metrics, ended })
    }
}

/// Serves the clients that come, until the process stops and the last one is gone.
async fn work(
    index: usize,
    mut incoming: mpsc::Receiver<Incoming>,
    metrics: Arc<WorkerMetrics>,
    parts: Parts,
) {
    let Parts { config, clusters, memory, shutdown } = parts;
    let (may_spin, count) = (may_spin(&config), clusters.len());
    let start = |(cluster, parts): (usize, ClusterParts)| {
        let listeners = config.listeners.iter().filter(|listener| listener.cluster == cluster);
        let settings = listeners.map(|listener| listener.session.clone()).collect();
        let account = memory.account(index * count + cluster, metrics.clone());
        parts.worker(index, settings, account, metrics.clone(), shutdown.clone(), may_spin)
    };
    let workers: Vec<Rc<Worker>> = clusters.into_iter().enumerate().map(start).collect();
    let clients = TaskTracker::new();
    loop {
        let client = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            client = incoming.recv() => client,
        };
        let Some(Incoming { stream, slot, listener, peer }) = client else { break };
        let listener = &config.listeners[listener];
        let Ok(stream) = Stream::from_std(stream) else { continue };
        let Ok(ends) = stream.ends(peer) else { continue };
        metrics.connections.add(1);
        metrics.clients.add(1);
        let (worker, metrics) = (workers[listener.cluster].clone(), metrics.clone());
        let settings = listener.session.clone();
        clients.spawn_local(async move {
            session::serve(stream, ends, worker, settings, NEXT_CLIENT.fetch_add(1, Relaxed)).await;
            metrics.clients.sub(1);
            drop(slot);
        });
    }
    // Those that were accepted and not taken yet are closed.
    drop(incoming);
    clients.close();
    clients.wait().await;
}

/// Whether workers may poll: never with fewer cores than workers and one more, for whom they would only
/// be in the way. A worker may be alone on the cores that it is bound to, if the machine has others.
fn may_spin(config: &Config) -> bool {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let bound = rustix::thread::sched_getaffinity(None).map_or(usable, |cores| cores.count() as usize);
    // Less than it is bound to: a share of the time is all that the process may use.
    let cores = if usable < bound { usable } else { online_cores().unwrap_or(usable) };
    config.spin == Spin::Auto && cores > config.workers && bound >= config.workers
}

/// How many cores the machine has: `0-7`, or `0-3,6`.
fn online_cores() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? - first.parse::<usize>().ok()? + 1)
    };
    text.trim().split(',').map(count).sum()
}
