//! A load that runs on a thread of its own, and what it is told.

use std::{
    fmt,
    future::Future,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    ops::AddAssign,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use rustix::process::setpriority_process;
use tokio::{net::TcpStream, runtime, sync::oneshot, task::JoinSet};

use crate::{Result, keys::request, watched::PATIENCE};

/// The load's clients have no claim on the CPU that the watched ones need.
const PRIORITY: i32 = 10;

/// A client of a load.
type Client = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// What the clients of a load share: whom they talk to, and what they were told so far.
pub(crate) struct Target {
    addr: SocketAddr,
    /// Good replies.
    pub(crate) replies: AtomicU64,
    /// Error replies.
    pub(crate) errors: AtomicU64,
    refused: AtomicU64,
    /// The local addresses of all connections that were made.
    made: Mutex<Vec<SocketAddr>>,
}

/// What a load was told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted {
    replies: u64,
    errors: u64,
    /// Connections that were refused, or closed by the other side.
    closed: u64,
}

/// A running load; it ends when this is dropped, and then its connections are closed.
pub(crate) struct Load {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<()>>,
    target: Arc<Target>,
}

/// The clients of a load, before it runs.
pub(crate) struct Clients {
    clients: Vec<Client>,
    target: Arc<Target>,
}

impl Target {
    /// Connects. Who does that leaves it to the other side to close the connection.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let connect = async {
            let stream = TcpStream::connect(self.addr).await?;
            stream.set_nodelay(true)?;
            self.made.lock().unwrap_or_else(PoisonError::into_inner).push(stream.local_addr()?);
            Ok(stream)
        };
        connect.await.inspect_err(|_| _ = self.refused.fetch_add(1, Relaxed))
    }

    /// What the clients were told, while they still run. Who reads little does not notice for long that its
    /// connection was closed, so the other side is asked whom it still has.
    fn counted(&self) -> Result<Counted> {
        let there = client_list(self.addr).map_err(|error| format!("CLIENT LIST: {error}"))?;
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = made.iter().filter(|client| !there.contains(&format!(" addr={client} "))).count();
        Ok(Counted {
            replies: self.replies.load(Relaxed),
            errors: self.errors.load(Relaxed),
            closed: self.refused.load(Relaxed) + gone as u64,
        })
    }
}

impl Clients {
    /// None yet, who will talk to this address.
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let target = Target {
            addr,
            replies: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            made: Mutex::default(),
        };
        Self { clients: Vec::new(), target: Arc::new(target) }
    }

    pub(crate) fn target(&self) -> Arc<Target> {
        self.target.clone()
    }

    /// Adds one. It may end when it has nothing left to do; an error fails the run.
    pub(crate) fn add(&mut self, client: impl Future<Output = Result<()>> + Send + 'static) {
        self.clients.push(Box::pin(client));
    }

    /// Starts them all.
    pub(crate) fn start(self) -> Load {
        let (stop, stopped) = oneshot::channel();
        let clients = self.clients;
        Load { stop, target: self.target, thread: thread::spawn(move || run(clients, stopped)) }
    }
}

impl Load {
    /// Ends the load.
    pub(crate) fn end(self) -> Result<Counted> {
        let counted = self.target.counted();
        drop(self.stop);
        self.thread.join().map_err(|_| "the load panicked")?.map_err(|error| format!("the load: {error}"))?;
        counted
    }
}

/// The clients that a server says it has.
fn client_list(addr: SocketAddr) -> Result<String> {
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&request(&["CLIENT", "LIST"]))?;
    let (mut stream, mut head) = (BufReader::new(stream), String::new());
    stream.read_line(&mut head)?;
    let length = head.trim_end().strip_prefix('$').ok_or_else(|| head.trim_end().to_owned())?;
    let mut list = vec![0; length.parse()?];
    stream.read_exact(&mut list)?;
    Ok(String::from_utf8_lossy(&list).into_owned())
}

fn run(clients: Vec<Client>, mut stopped: oneshot::Receiver<()>) -> Result<()> {
    // On Linux that is this thread alone.
    setpriority_process(None, PRIORITY)?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn(client);
        }
        loop {
            tokio::select! {
                // Nobody sends: the other end is dropped.
                _ = &mut stopped => return Ok(()),
                Some(ended) = tasks.join_next() => ended??,
            }
        }
    })
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.replies += other.replies;
        self.errors += other.errors;
        self.closed += other.closed;
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replies, errors, closed } = self;
        write!(f, "{replies} replies, {errors} errors, {closed} closed")
    }
}
