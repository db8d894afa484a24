//! The one task that asks the cluster who owns which slot, and alone publishes the answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::snapshot::{Snapshot, View, merge};
use super::view::parse;
use crate::backend::{Credentials, DialError, DialGate, Permit, Purpose, open};
pub use crate::metrics::Cause;
use crate::metrics::{ClusterMetrics, Refresh as Outcome};
use crate::net::NodeAddr;
use crate::protocol::{Protocol, ReplyFramer, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Two refreshes begin at least this far apart,
const COOL_DOWN: Duration = Duration::from_millis(100);
/// and no node is asked more often than this: five times a second.
const PER_NODE: Duration = Duration::from_millis(200);
/// Without a cause the table is checked about this often (jittered by a fifth).
const PERIOD: Duration = Duration::from_secs(30);
/// How many nodes are asked at once.
const ASKED: usize = 3;
/// Once one node has answered, the others have this much time.
const STRAGGLERS: Duration = Duration::from_millis(250);
/// One query, its dial included.
const QUERY: Duration = Duration::from_secs(2);
/// After so many refreshes without an answer it is worth a line in the log; at once at the start.
const FAILURES: u32 = 3;
/// As many requests for a refresh may wait; more say nothing new.
const REQUESTS: usize = 256;
/// The largest CLUSTER NODES that is read: a thousand nodes take a fifth of a megabyte.
const MAX_ANSWER: usize = 16 << 20;

/// What the refresher and the workers share.
#[derive(Debug)]
pub struct Shared {
    snapshot: ArcSwapOption<Snapshot>,
    version: ArcSwapOption<String>,
    requests: mpsc::Sender<(Cause, Option<NodeAddr>)>,
    published: watch::Receiver<u64>,
}

impl Shared {
    /// The latest snapshot, once there is one.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// The version that a node said it has, once one did.
    pub fn server_version(&self) -> Option<Arc<String>> {
        self.version.load_full()
    }

    /// Counts the published snapshots: to wait for the next one.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.clone()
    }

    /// Asks for a refresh, if possible of `node`; returns at once and never fails: when as many
    /// requests wait already, one more says nothing new.
    pub fn ask(&self, cause: Cause, node: Option<&NodeAddr>) {
        _ = self.requests.try_send((cause, node.cloned()));
    }
}

/// The refresher: make it, share [`Refresh::shared`] with the workers, and run it.
#[derive(Debug)]
pub struct Refresh {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<(Cause, Option<NodeAddr>)>,
    published: watch::Sender<u64>,
    seeds: Vec<NodeAddr>,
    credentials: Option<Credentials>,
    gate: Arc<DialGate>,
    metrics: Arc<ClusterMetrics>,
    connections: HashMap<NodeAddr, Control>,
    permits: HashMap<NodeAddr, Permit>,
    asked: HashMap<NodeAddr, Instant>,
    /// How many refreshes in a row got no answer, and whether that was logged.
    failures: u32,
    warned: bool,
}

impl Refresh {
    /// A refresher that starts from `seeds`.
    pub fn new(
        seeds: Vec<NodeAddr>,
        credentials: Option<Credentials>,
        gate: Arc<DialGate>,
        metrics: Arc<ClusterMetrics>,
    ) -> Self {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let (published, receiver) = watch::channel(0);
        let (snapshot, version) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        let shared = Arc::new(Shared { snapshot, version, requests: sender, published: receiver });
        let (connections, permits, asked) = (HashMap::new(), HashMap::new(), HashMap::new());
        Refresh {
            shared,
            requests,
            published,
            seeds,
            credentials,
            gate,
            metrics,
            connections,
            permits,
            asked,
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
        let (mut named, mut cause) = (Vec::new(), Cause::Start);
        loop {
            self.metrics.refreshes_by_cause[cause.index()].inc();
            let begun = Instant::now();
            let found = self.refresh(std::mem::take(&mut named)).await;
            sleep_until((begun + COOL_DOWN).into()).await;
            let wait = match found {
                true => PERIOD.mul_f64(0.8 + 0.4 * fastrand::f64()),
                // Nobody answered: go on trying, a little slower.
                false => COOL_DOWN.mul_f64(1.0 + 4.0 * fastrand::f64()),
            };
            cause = if found { Cause::Periodic } else { cause };
            if let Ok(Some((why, node))) = timeout(wait, self.requests.recv()).await {
                cause = why;
                named.extend(node);
            }
            while let Ok((_, node)) = self.requests.try_recv() {
                named.extend(node.filter(|node| !named.contains(node) && named.len() < ASKED));
            }
        }
    }

    /// Asks some nodes and publishes what they say. False if none answered.
    async fn refresh(&mut self, named: Vec<NodeAddr>) -> bool {
        let nodes = self.choose(named).await;
        let mut queries = JoinSet::new();
        for node in nodes {
            // Also one that may not be dialled now has had its turn.
            self.asked.insert(node.clone(), Instant::now());
            let connection = self.connections.remove(&node);
            if connection.is_none() {
                self.permits.remove(&node);
                match self.gate.take(&node, Purpose::Topology, Instant::now()) {
                    Ok(permit) => _ = self.permits.insert(node.clone(), permit),
                    Err(_) => continue,
                }
            }
            let credentials = self.credentials.clone();
            queries.spawn(async move {
                let asked = Instant::now();
                let answer = timeout(QUERY, query(&node, connection, credentials)).await;
                (node, asked, answer.unwrap_or(Err(DialError::Timeout)))
            });
        }
        let views = self.collect(queries).await;
        if views.is_empty() {
            self.metrics.refreshes[Outcome::Failed.index()].add(1);
            return false;
        }
        self.metrics.answered();
        let before = self.shared.snapshot();
        let snapshot = merge(before.as_ref().map(|snapshot| &snapshot.table), &views);
        let changed = before.as_ref().is_none_or(|before| !Arc::ptr_eq(&before.table, &snapshot.table));
        if changed {
            let moved = before.as_ref().map_or(0, |before| snapshot.table.moved_since(&before.table));
            let (shards, covered) = (snapshot.table.shards.len(), snapshot.table.covered());
            tracing::info!(shards, covered, moved, "the topology changed");
            self.connections.retain(|addr, _| snapshot.table.known.contains_key(addr));
            self.permits.retain(|addr, _| snapshot.table.known.contains_key(addr));
            self.asked.retain(|addr, _| snapshot.table.known.contains_key(addr));
        }
        let outcome = if changed { Outcome::Changed } else { Outcome::Unchanged };
        self.metrics.refreshes[outcome.index()].add(1);
        self.metrics.topology_version.add(i64::from(changed));
        self.metrics.shards.set(snapshot.table.shards.len() as i64);
        self.metrics.slots_uncovered.set((super::SLOTS - snapshot.table.covered()) as i64);
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        self.published.send_modify(|count| *count += 1);
        true
    }

    /// Whom to ask: those that were named, then primaries, replicas and seeds, each at random; waits
    /// until there is somebody who was not asked just now.
    async fn choose(&self, named: Vec<NodeAddr>) -> Vec<NodeAddr> {
        let snapshot = self.shared.snapshot();
        let mut primaries: Vec<NodeAddr> =
            snapshot.iter().flat_map(|s| s.table.shards.iter().map(|shard| shard.addr.clone())).collect();
        let mut others: Vec<NodeAddr> =
            snapshot.iter().flat_map(|s| s.table.known.values().cloned()).collect();
        let mut seeds = self.seeds.clone();
        for list in [&mut primaries, &mut others, &mut seeds] {
            fastrand::shuffle(list);
        }
        let mut all: Vec<NodeAddr> = Vec::new();
        for node in named.iter().cloned().chain(primaries).chain(others).chain(seeds) {
            if !all.contains(&node) {
                all.push(node);
            }
        }
        loop {
            let now = Instant::now();
            let free =
                |node: &NodeAddr| self.asked.get(node).is_none_or(|at| now.duration_since(*at) >= PER_NODE);
            // Who was named by a redirect knows: wait for it rather than ask somebody else.
            let must = named.first().filter(|node| !free(node));
            let chosen: Vec<NodeAddr> = all.iter().filter(|node| free(node)).take(ASKED).cloned().collect();
            if must.is_none() && !chosen.is_empty() {
                return chosen;
            }
            sleep(COOL_DOWN / 4).await;
        }
    }

    async fn collect(
        &mut self,
        mut queries: JoinSet<(NodeAddr, Instant, Result<Answer, DialError>)>,
    ) -> Vec<View> {
        let mut views = Vec::new();
        let mut failure = None;
        loop {
            let next = if views.is_empty() {
                queries.join_next().await
            } else {
                timeout(STRAGGLERS, queries.join_next()).await.unwrap_or(None)
            };
            let Some(joined) = next else { break };
            let Ok((from, asked, answer)) = joined else { continue };
            match answer.and_then(|answer| {
                let nodes =
                    parse(&answer.text, &from).map_err(|error| DialError::Protocol(error.to_string()))?;
                Ok((nodes, answer))
            }) {
                Ok((nodes, Answer { connection, version, .. })) => {
                    if version.is_some() {
                        self.shared.version.store(version.map(Arc::new));
                    }
                    self.connections.insert(from.clone(), connection);
                    views.push(View { from, asked, nodes });
                }
                Err(error) => {
                    tracing::debug!(node = %from, %error, "a node did not tell the topology");
                    failure = Some((from, error));
                }
            }
        }
        if !views.is_empty() {
            self.failures = 0;
            if std::mem::take(&mut self.warned) {
                tracing::info!("the topology is known again");
            }
        } else if let Some((node, error)) = failure {
            self.failures = self.failures.saturating_add(1);
            let lasts = self.failures >= FAILURES || self.shared.snapshot().is_none();
            if lasts && !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(%node, %error, "no node tells the topology; trying on");
            }
        }
        views
    }
}

/// Kept for the next query.
#[derive(Debug)]
struct Control {
    stream: TcpStream,
}

struct Answer {
    text: String,
    connection: Control,
    /// Told by a new connection only.
    version: Option<String>,
}

/// Asks `node` on the connection that is there, or on a new one.
async fn query(
    node: &NodeAddr,
    connection: Option<Control>,
    credentials: Option<Credentials>,
) -> Result<Answer, DialError> {
    if let Some(connection) = connection
        && let Ok(answer) = ask(connection).await
    {
        return Ok(answer);
    }
    let opened = open(node, Protocol::Resp2, credentials.as_ref(), "slotmux-topology", &[], QUERY).await?;
    let mut connection = Control { stream: opened.stream };
    let version = version_of(&connection.request(&["HELLO"]).await?);
    let answer = ask(connection).await?;
    Ok(Answer { version, ..answer })
}

/// The version in HELLO's reply; nothing from servers so old that they do not know HELLO.
fn version_of(hello: &str) -> Option<String> {
    hello.lines().skip_while(|line| *line != "version").nth(2).map(str::to_owned)
}

async fn ask(mut connection: Control) -> Result<Answer, DialError> {
    let reply = connection.request(&["CLUSTER", "NODES"]).await?;
    match reply.split_once("\r\n") {
        Some((head, text)) if head.starts_with('$') => {
            Ok(Answer { text: text.trim_end_matches("\r\n").to_owned(), connection, version: None })
        }
        _ => Err(DialError::Protocol(reply.trim_end().chars().take(200).collect())),
    }
}

impl Control {
    /// Sends a request; its whole reply as it came.
    async fn request(&mut self, args: &[&str]) -> Result<String, DialError> {
        let mut request = Vec::new();
        write::request(&mut request, args.iter().map(|arg| arg.as_bytes()));
        self.stream.write_all(&request).await?;
        let (mut input, mut framer) = (Vec::new(), ReplyFramer::default());
        let len = loop {
            match framer.next(&input).map_err(|error| DialError::Protocol(error.to_string()))? {
                Some(len) => break len,
                None if input.len() > MAX_ANSWER => {
                    return Err(DialError::Protocol("an endless reply".into()));
                }
                None => {}
            }
            if self.stream.read_buf(&mut input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        };
        Ok(String::from_utf8_lossy(&input[..len]).into_owned())
    }
}
