//! One run of the proxy: bind, start, serve, drain.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin;
use crate::backend::{DialGate, GateLimits, Memory, give_back_free_pages};
use crate::command::{self, Family};
use crate::config::{ClusterConfig, Config, DemoOptions, ListenerConfig};
use crate::demo::{Cluster, ClusterOptions, DemoError};
use crate::metrics::{ClusterMetrics, Metrics, Shape};
use crate::net::{BindError, ListenAddr, Listener};
use crate::server::{self, ClusterParts, Parts, WorkerDied, WorkerHandle};
use crate::session::Control;
use crate::topology::{Options, Refresh};

/// So often free pages are given back: for hundreds of megabytes that takes tens of milliseconds, which a worker is to
/// spend but seldom.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(250);

/// What the proxy is bound to, with the ports that it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Where clients connect: `127.0.0.1:6379`, `unix:/path`.
    pub listeners: Vec<String>,
    /// Where metrics are served.
    pub admin: Option<String>,
}

impl Bound {
    /// Writes one line for each: `listening on ADDRESS`, then `admin on ADDRESS`. Scripts read them.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn announce(&self, out: &mut impl Write) -> io::Result<()> {
        for listener in &self.listeners {
            writeln!(out, "listening on {listener}")?;
        }
        if let Some(admin) = &self.admin {
            writeln!(out, "admin on {admin}")?;
        }
        out.flush()
    }
}

/// Why a run ended otherwise than by a clean stop.
#[derive(Debug)]
pub enum RunError {
    /// An address could not be bound.
    Bind(BindError),
    /// The system refused a thread or a runtime.
    System(io::Error),
    /// A worker ended unexpectedly.
    Worker(WorkerDied),
    /// The demo's cluster could not be started.
    Demo(DemoError),
}

/// Runs the proxy on this thread until `shutdown` is cancelled and the clients are drained.
///
/// Everything is bound before anything is served; then `on_listening` is called, once, and from there on
/// clients may connect.
///
/// # Errors
/// An address cannot be bound, the system refuses a thread, or a worker dies.
pub fn run(
    config: Config,
    shutdown: CancellationToken,
    on_listening: impl FnOnce(&Bound),
) -> Result<(), RunError> {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(serve(config, shutdown, on_listening))
}

/// Starts a throwaway cluster, then [`run`]s the proxy in front of it. The cluster ends with the run.
///
/// # Errors
/// The cluster cannot be started, or as [`run`].
pub fn run_demo(
    options: DemoOptions,
    mut config: Config,
    shutdown: CancellationToken,
    on_listening: impl FnOnce(&Bound),
) -> Result<(), RunError> {
    let DemoOptions { primaries, replicas } = options;
    let options = ClusterOptions { primaries, replicas_per_primary: replicas, ..ClusterOptions::default() };
    let cluster = Cluster::start(options)?;
    let seeds = cluster.seeds();
    let found: Vec<_> = seeds.iter().filter_map(|seed| seed.parse().ok()).collect();
    for seedless in &mut config.clusters {
        Arc::make_mut(seedless).seeds.clone_from(&found);
    }
    run(config, shutdown, |bound| {
        on_listening(bound);
        let text = format!("\n{}\n{}", cluster.describe(), what_to_try(bound, &seeds));
        // Nobody may be reading; the demo runs all the same.
        drop(io::stdout().lock().write_all(text.as_bytes()));
    })
}

/// What the demo tells people to try, once the proxy listens.
fn what_to_try(bound: &Bound, seeds: &[String]) -> String {
    let mut lines = String::new();
    let place = bound.listeners.first().and_then(|addr| addr.parse().ok()).map(|addr| match addr {
        ListenAddr::Tcp(host, port) => format!("-h {host} -p {port}"),
        ListenAddr::Unix(path) => format!("-s {}", path.display()),
    });
    if let Some(place) = place {
        lines += &format!("connect:   redis-cli {place}\n");
        lines += &format!("load:      redis-benchmark {place} -t set,get -P 16 -q\n");
    }
    if let Some(seed) = seeds.first() {
        lines += &format!(
            "reshard:   redis-cli --cluster rebalance {seed} --cluster-weight \
             $(redis-cli -u redis://{seed} cluster myid)=0.2\n"
        );
    }
    if let Some(admin) = &bound.admin {
        lines += &format!("metrics:   curl http://{admin}/metrics\n");
    }
    lines + "Ctrl-C stops the proxy and the cluster and leaves nothing behind.\n"
}

async fn serve(
    config: Config,
    shutdown: CancellationToken,
    on_listening: impl FnOnce(&Bound),
) -> Result<(), RunError> {
    let bind = |listener: &ListenerConfig| Listener::bind(&listener.addr, listener.mode);
    let listeners: Vec<Listener> = config.listeners.iter().map(bind).collect::<Result<_, _>>()?;
    let admin = config.admin.as_ref().map(|addr| Listener::bind(addr, None)).transpose()?;
    let bound = Bound {
        listeners: listeners.iter().map(|listener| listener.local_addr().to_owned()).collect(),
        admin: admin.as_ref().map(|listener| listener.local_addr().to_owned()),
    };

    server::raise_open_files();
    let config = Arc::new(config);
    let metrics = Metrics::new(Shape {
        families: &Family::LABELS,
        commands: &command::NAMES,
        clusters: config.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
        workers: config.workers,
        per_node_histograms: config.per_node_histograms,
    });
    let (clusters, refreshers) = clusters(&config, &metrics);
    let topologies = clusters.iter().map(|cluster| cluster.topology.clone()).collect();
    let memory = Memory::new(config.limits.clone(), metrics.workers(), clusters.len());
    let parts = Parts { config: config.clone(), clusters, memory, shutdown: shutdown.clone() };
    let workers = start_workers(&metrics, &parts)?;
    for refresh in refreshers {
        tokio::spawn(refresh.run());
    }
    if let Some(listener) = admin {
        let state = admin::State { metrics: metrics.clone(), topologies, drain: shutdown.clone() };
        // Not ended by `shutdown`: a drain that takes long can be watched.
        tokio::spawn(admin::serve(listener, state, CancellationToken::new()));
    }
    let version = env!("CARGO_PKG_VERSION");
    info!(version, workers = workers.len(), listeners = bound.listeners.join(" "), "serving");
    tokio::spawn(give_back());
    on_listening(&bound);
    server::serve(listeners, &workers, &config.limits, metrics.control(), &shutdown).await?;
    Ok(())
}

/// Gives back what workers have freed, for ever.
async fn give_back() {
    let mut ticks = interval(GIVE_BACK_EVERY);
    loop {
        ticks.tick().await;
        give_back_free_pages();
    }
}

/// What the workers need of each cluster, and the tasks that keep its topology.
fn clusters(config: &Config, metrics: &Metrics) -> (Vec<ClusterParts>, Vec<Refresh>) {
    let start = |(cluster, metrics): (&Arc<ClusterConfig>, &Arc<ClusterMetrics>)| {
        let gate = DialGate::new(GateLimits {
            most: cluster.limits.max_connections_per_node,
            // For each worker one besides that tells of topics, and one that monitors.
            shared: cluster.shared_connections(config.workers),
            dedicated: cluster.limits.dedicated_per_node,
            dedicated_in_all: server::affordable_dedicated(config.limits.max_clients, config.clusters.len()),
        });
        let options = Options {
            seeds: cluster.seeds.clone(),
            credentials: cluster.auth.clone(),
            address_map: cluster.address_map.clone(),
        };
        let refresh = Refresh::new(options, gate.clone(), metrics.clone());
        let parts = ClusterParts {
            config: cluster.clone(),
            topology: refresh.shared(),
            gate,
            control: Control::new(config.workers, &cluster.limits),
        };
        (parts, refresh)
    };
    config.clusters.iter().zip(metrics.clusters()).map(start).unzip()
}

fn start_workers(metrics: &Metrics, parts: &Parts) -> io::Result<Vec<WorkerHandle>> {
    let spawn = |(index, metrics)| WorkerHandle::spawn(index, Arc::clone(metrics), parts.clone());
    metrics.workers().iter().enumerate().map(spawn).collect()
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

impl From<DemoError> for RunError {
    fn from(error: DemoError) -> Self {
        Self::Demo(error)
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<WorkerDied> for RunError {
    fn from(error: WorkerDied) -> Self {
        Self::Worker(error)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system refused a thread or its runtime: {error}"),
            Self::Worker(error) => error.fmt(f),
            Self::Demo(text) => write!(f, "the demo cannot start: {text}"),
        }
    }
}

impl std::error::Error for RunError {}
