//! The watched clients: one connection each, GET of small keys on one node.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    runtime,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Result,
    latency::Latencies,
    paced,
    reply::Expected,
    world::{Place, World},
};

/// How long a reply may be awaited; a client that waits longer fails the run. Many times as long as any stall that is
/// worth a figure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Before anything counts: what is sent first pays for cold connections.
const WARM_UP: Duration = Duration::from_millis(300);

/// One client.
pub(crate) struct Client {
    /// It does not block: in one form tokio reads it, in the other it is written while somebody reads.
    pub(crate) stream: TcpStream,
    /// Whose keys it asks for.
    pub(crate) node: usize,
    /// What it sends, in turns.
    pub(crate) requests: Vec<Vec<u8>>,
}

/// All of them.
pub(crate) struct Watched(Vec<Client>);

/// The latencies of each client, with the node that has its keys.
pub(crate) struct Sample(pub(crate) Vec<(usize, Vec<Duration>)>);

impl Watched {
    /// Connects `count` clients, dealt out over `nodes`, and warms them up.
    pub(crate) fn connect(world: &World, place: Place, nodes: &[usize], count: usize) -> Result<Self> {
        let connect = |&node: &usize| -> Result<Client> {
            let stream = TcpStream::connect(world.addr(place, node))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(Client { stream, node, requests: world.requests(node) })
        };
        let watched = Self(nodes.iter().cycle().take(count).map(connect).collect::<Result<_>>()?);
        watched.closed(WARM_UP)?;
        Ok(watched)
    }

    /// Replies per second when each client sends its next request as soon as its reply came.
    pub(crate) fn closed(&self, length: Duration) -> Result<f64> {
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut tasks = JoinSet::new();
            let until = Instant::now() + length;
            for client in &self.0 {
                let stream = tokio::net::TcpStream::from_std(client.stream.try_clone()?)?;
                tasks.spawn(ask(stream, client.requests.clone(), until));
            }
            let mut replies = 0;
            while let Some(counted) = tasks.join_next().await {
                replies += counted??;
            }
            Ok(replies as f64 / length.as_secs_f64())
        })
    }

    /// The latencies at `rate` requests per second, of all clients together.
    pub(crate) fn paced(&self, rate: f64, length: Duration) -> Result<Sample> {
        paced::run(&self.0, rate, length).map(Sample)
    }
}

impl Sample {
    /// The latencies of those clients that the node decides.
    pub(crate) fn of(&self, wanted: impl Fn(usize) -> bool) -> Result<Latencies> {
        let clients = self.0.iter().filter(|(node, _)| wanted(*node));
        let latencies = clients.flat_map(|(_, latencies)| latencies.iter().copied()).collect();
        Latencies::new(latencies).ok_or_else(|| "no request was paced".into())
    }
}

/// Asks until then; returns the number of the replies that came before.
async fn ask(stream: tokio::net::TcpStream, requests: Vec<Vec<u8>>, until: Instant) -> Result<usize> {
    let expected: Expected = World::expected();
    let mut stream = BufReader::new(stream);
    let mut replies = 0;
    loop {
        let request = &requests[replies % requests.len()];
        timeout(PATIENCE, stream.write_all(request)).await.map_err(|_| "a watched client cannot send")??;
        expected.demand(&mut stream, PATIENCE).await?;
        if Instant::now() >= until {
            return Ok(replies);
        }
        replies += 1;
    }
}
