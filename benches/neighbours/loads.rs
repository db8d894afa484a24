//! What the neighbours do: the loads.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Result,
    keys::{fill, get, keys_in, keys_in_one_slot, request},
    load::{Clients, Load, Target},
    reply::{Expected, Reply},
    world::{NODES, Place, World},
};

/// The node that the loads touch.
pub(crate) const LOADED: usize = 0;

const MIB: usize = 1024 * 1024;

/// Values that are large, and values that are not.
const LARGE: usize = 10 * MIB;
const LARGE_KEYS: usize = 20;
const MEDIUM: usize = 4 * 1024;
const MEDIUM_KEYS: usize = 100;
const SMALL: usize = 64;
const WRITTEN: usize = 64 * 1024;

/// The keys of one MGET.
const MGET_KEYS: usize = 100_000;

/// Slow readers come within a second, and then take so much each second.
const SLOW_READERS: usize = 200;
const SIP: usize = 10 * 1024;

/// A pipeline of those who hurry.
const PIPELINE: usize = 16;

/// How long a node hangs, in seconds, and how often.
const HANG: &str = "0.05";
const HANG_EVERY: Duration = Duration::from_millis(200);

/// Who got an error or was closed comes again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// Who reads at full speed reads so much at once.
const READ: usize = 256 * 1024;

/// Nodes set no limit to what a client has not read; without one, they would fill the memory for who never reads.
const NO_LIMIT: &str = "normal 0 0 0";
const LIMIT: &str = "normal 256mb 0 0";

/// A load.
pub(crate) struct Neighbour {
    /// As `--only` names it and the report shows it.
    pub(crate) name: &'static str,
    /// The nodes' client-output-buffer-limit while the load is directly at one.
    limit: &'static str,
    clients: fn(&World, Place) -> Result<Clients>,
}

/// All loads, in the order of the report.
pub(crate) const LOADS: [Neighbour; 6] = [
    Neighbour { name: "slow-readers", limit: NO_LIMIT, clients: slow_readers },
    Neighbour { name: "no-reader", limit: LIMIT, clients: no_reader },
    Neighbour { name: "mget", limit: NO_LIMIT, clients: mget },
    Neighbour { name: "mget-slot", limit: NO_LIMIT, clients: mget_slot },
    Neighbour { name: "large-values", limit: NO_LIMIT, clients: large_values },
    Neighbour { name: "slow-node", limit: NO_LIMIT, clients: slow_node },
];

impl Neighbour {
    /// Sets the load's keys, and begins.
    pub(crate) fn start(&self, world: &World, place: Place) -> Result<Load> {
        let limit = if place == Place::Direct { self.limit } else { NO_LIMIT };
        world.cluster.nodes()[LOADED].ask(&["CONFIG", "SET", "client-output-buffer-limit", limit])?;
        Ok((self.clients)(world, place)?.start())
    }
}

/// Twenty clients who ask all nodes, 500 times a second together; who waits for a reply sends nothing.
pub(crate) fn pace(world: &World, place: Place) -> Result<Load> {
    let requests: Vec<Vec<u8>> = (0..NODES).flat_map(|node| world.requests(node)).collect();
    let client = Talker {
        requests: requests.into(),
        replies: 1,
        expected: World::expected(),
        pause: Some(Duration::from_millis(40)),
    };
    Ok(talkers(world, place, 20, &client).start())
}

/// 200 clients GET 10 MB and read 10 KB a second.
fn slow_readers(world: &World, place: Place) -> Result<Clients> {
    let requests = stored(world, "large", LARGE_KEYS, LARGE)?;
    let mut clients = Clients::new(world.addr(place, LOADED));
    for i in 0..SLOW_READERS {
        let (request, target) = (requests[i % requests.len()].clone(), clients.target());
        clients.add(async move {
            sleep(Duration::from_secs(1) * i as u32 / SLOW_READERS as u32).await;
            // They do not come again: directly at the node they are all served, and the load is to be the same.
            let _closed = sip(&target, &request).await;
            Ok(())
        });
    }
    Ok(clients)
}

/// 5 clients pipeline GET of 4 KB values and never read.
fn no_reader(world: &World, place: Place) -> Result<Clients> {
    let pipeline = stored(world, "medium", MEDIUM_KEYS, MEDIUM)?.concat();
    let mut clients = Clients::new(world.addr(place, LOADED));
    for _ in 0..5 {
        let (pipeline, target) = (pipeline.clone(), clients.target());
        clients.add(async move {
            loop {
                let _closed = pour(&target, &pipeline).await;
                sleep(AGAIN).await;
            }
        });
    }
    Ok(clients)
}

/// 2 clients MGET 100,000 keys: through the proxy of as many of the node's slots as there are, directly of one slot,
/// since a node takes no others.
fn mget(world: &World, place: Place) -> Result<Clients> {
    if place == Place::Direct {
        return mget_slot(world, place);
    }
    mget_of(world, place, keys_in(world.slots(LOADED), "many", MGET_KEYS))
}

/// The same of one slot, through the proxy, too.
fn mget_slot(world: &World, place: Place) -> Result<Clients> {
    mget_of(world, place, keys_in_one_slot(world.slots(LOADED), "many", MGET_KEYS))
}

fn mget_of(world: &World, place: Place, keys: Vec<String>) -> Result<Clients> {
    fill(world.addr(Place::Direct, LOADED), &keys, SMALL)?;
    let mut args = vec!["MGET".to_owned()];
    args.extend(keys);
    let client = Talker {
        requests: vec![request(&args)].into(),
        replies: 1,
        expected: Expected::array(MGET_KEYS, SMALL),
        pause: None,
    };
    Ok(talkers(world, place, 2, &client))
}

/// 10 clients GET 10 MB values and read them at full speed.
fn large_values(world: &World, place: Place) -> Result<Clients> {
    let client = Talker {
        requests: stored(world, "large", LARGE_KEYS, LARGE)?.into(),
        replies: 1,
        expected: Expected::bulk(LARGE),
        pause: None,
    };
    Ok(talkers(world, place, 10, &client))
}

/// The node hangs for 50 ms in each 200 ms, while 5 clients write one pipeline of 64 KiB values after the other: it reads
/// more slowly than they send.
fn slow_node(world: &World, place: Place) -> Result<Clients> {
    let value = "x".repeat(WRITTEN);
    let keys = keys_in(world.slots(LOADED), "written", PIPELINE);
    let pipeline: Vec<u8> = keys.iter().flat_map(|key| request(&["SET", key, &value])).collect();
    let client =
        Talker { requests: vec![pipeline].into(), replies: PIPELINE, expected: Expected::ok(), pause: None };
    let mut clients = talkers(world, place, 5, &client);
    clients.add(hang(world.addr(Place::Direct, LOADED)));
    Ok(clients)
}

/// Sets keys on the loaded node; returns GET of each.
fn stored(world: &World, prefix: &str, count: usize, length: usize) -> Result<Vec<Vec<u8>>> {
    let keys = keys_in(world.slots(LOADED), prefix, count);
    fill(world.addr(Place::Direct, LOADED), &keys, length)?;
    Ok(keys.iter().map(|key| get(key)).collect())
}

fn talkers(world: &World, place: Place, count: usize, client: &Talker) -> Clients {
    let mut clients = Clients::new(world.addr(place, LOADED));
    for _ in 0..count {
        clients.add(client.clone().run(clients.target()));
    }
    clients
}

/// A client that sends its next request when it has all replies to the last.
#[derive(Clone)]
struct Talker {
    /// Drawn from at random.
    requests: Arc<[Vec<u8>]>,
    /// The number of replies to each request.
    replies: usize,
    expected: Expected,
    /// From one request to the next, at least.
    pause: Option<Duration>,
}

impl Talker {
    /// Talks on, whatever comes; only what is no reply at all is an error.
    async fn run(self, target: Arc<Target>) -> Result<()> {
        loop {
            if let Err(error) = self.talk(&target).await
                && error.kind() == ErrorKind::InvalidData
            {
                return Err(error.into());
            }
            sleep(AGAIN).await;
        }
    }

    async fn talk(&self, target: &Target) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(READ, target.connect().await?);
        let mut ticks = self.pause.map(ticks);
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            stream.write_all(&self.requests[fastrand::usize(..self.requests.len())]).await?;
            let mut refused = false;
            for _ in 0..self.replies {
                let reply = self.expected.read(&mut stream).await?;
                let good = matches!(reply, Reply::Good);
                if good { &target.replies } else { &target.errors }.fetch_add(1, Relaxed);
                refused |= !good;
            }
            if refused {
                sleep(AGAIN).await;
            }
        }
    }
}

/// Asks once, and takes the reply in small sips until the connection ends.
async fn sip(target: &Target, request: &[u8]) -> io::Result<()> {
    let mut stream = target.connect().await?;
    stream.write_all(request).await?;
    let mut sip = vec![0; SIP];
    let mut first = true;
    loop {
        sleep(Duration::from_secs(1)).await;
        if stream.read(&mut sip).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if std::mem::take(&mut first) {
            if sip[0] == b'-' { &target.errors } else { &target.replies }.fetch_add(1, Relaxed);
        }
    }
}

/// Sends until the connection ends, and reads nothing.
async fn pour(target: &Target, pipeline: &[u8]) -> io::Result<()> {
    let mut stream = target.connect().await?;
    loop {
        stream.write_all(pipeline).await?;
    }
}

/// Lets a node hang now and then.
async fn hang(node: SocketAddr) -> Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(node).await?);
    let mut ticks = ticks(HANG_EVERY);
    loop {
        ticks.tick().await;
        stream.write_all(&request(&["DEBUG", "SLEEP", HANG])).await?;
        if let Reply::Error(text) = Expected::ok().read(&mut stream).await? {
            return Err(format!("DEBUG SLEEP: {text}").into());
        }
    }
}

/// One that is missed is not made up for.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
