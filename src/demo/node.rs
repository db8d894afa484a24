//! One server process: its ports, its folder, its life.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{ClusterOptions, DemoError, NodeLine, Reply, client::Client, guard::Guard};

/// Client ports are taken from here: like this the bus ports, 10,000 higher, stay below the range from which the
/// kernel takes the local ports of outgoing connections (32,768 and up).
const PORTS: std::ops::Range<u16> = 12_000..22_000;

/// A server's bus port is its client port and this much.
const BUS_OFFSET: u16 = 10_000;

/// How many ports are tried for one server: others may look for free ones at the same time.
const PORT_ATTEMPTS: usize = 50;

/// What the log says when a port was taken after all.
const PORT_TAKEN: &str = "Address already in use";

/// Between two looks at a condition.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// One server process of a [`Cluster`](super::Cluster).
pub struct Node {
    /// It changes only while the server does not run.
    port: AtomicU16,
    id: String,
    folder: PathBuf,
    binary: PathBuf,
    args: Vec<String>,
    password: Option<String>,
    child: Mutex<Child>,
}

impl Node {
    /// Starts a server in `folder` on ports that are free just now. It may still fail to get them:
    /// [`ready`](Self::ready) finds out.
    pub(super) fn spawn(
        options: &ClusterOptions,
        binary: &Path,
        folder: PathBuf,
        guard: &Guard,
    ) -> Result<Self, DemoError> {
        fs::create_dir_all(&folder).map_err(|source| DemoError::Folder { path: folder.clone(), source })?;
        let port = free_port().ok_or(DemoError::NoPort)?;
        let args = options.arguments();
        let child = launch(binary, port, &args, &folder, guard)?;
        Ok(Self {
            port: AtomicU16::new(port),
            id: String::new(),
            folder,
            binary: binary.to_owned(),
            args,
            password: options.password.clone(),
            child: Mutex::new(child),
        })
    }

    /// Waits until the server answers, on other ports if somebody else took these meanwhile.
    pub(super) fn ready(&mut self, guard: &Guard, until: Instant) -> Result<(), DemoError> {
        for _ in 0..PORT_ATTEMPTS {
            match self.answering(until) {
                Err(DemoError::Ended { log, .. }) if log.contains(PORT_TAKEN) => {
                    self.port.store(free_port().ok_or(DemoError::NoPort)?, Ordering::Release);
                    // Left by a server that failed after it had read its configuration.
                    let _ = fs::remove_file(self.folder.join("nodes.conf"));
                    *self.child() = launch(&self.binary, self.port(), &self.args, &self.folder, guard)?;
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    self.id = self.ask(&["CLUSTER", "MYID"])?;
                    return Ok(());
                }
            }
        }
        Err(DemoError::NoPort)
    }

    /// Starts a killed server again, on the same port and with its old identity, and waits until it answers.
    pub(super) fn restart(&self, guard: &Guard, until: Instant) -> Result<(), DemoError> {
        self.kill();
        loop {
            *self.child() = launch(&self.binary, self.port(), &self.args, &self.folder, guard)?;
            match self.answering(until) {
                // Somebody's connection may have its local port there for a moment.
                Err(DemoError::Ended { log, .. }) if log.contains(PORT_TAKEN) && Instant::now() < until => {}
                other => return other,
            }
        }
    }

    /// The same on other ports: the others learn the new address from the node itself.
    pub(super) fn restart_elsewhere(&self, guard: &Guard, until: Instant) -> Result<(), DemoError> {
        self.kill();
        self.port.store(free_port().ok_or(DemoError::NoPort)?, Ordering::Release);
        self.restart(guard, until)
    }

    /// The client port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Acquire)
    }

    /// `127.0.0.1:port`
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// The id under which the cluster knows the node.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Whether the process exists; a stopped one does.
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Ends the process by SIGKILL and waits for its end.
    pub fn kill(&self) {
        let mut child = self.child();
        // It may have ended before; both are fine then.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends one command over a connection of its own; an error reply is a reply.
    pub fn call(&self, args: &[&str]) -> Result<Reply, DemoError> {
        Client::connect(self.port(), self.password.as_deref())
            .and_then(|mut client| client.call(args))
            .map_err(|source| DemoError::Unreachable { port: self.port(), source })
    }

    /// Like [`call`](Self::call), for commands whose reply is a text; an error reply is an error.
    pub fn ask(&self, args: &[&str]) -> Result<String, DemoError> {
        match self.call(args)? {
            Reply::Error(reply) => {
                Err(DemoError::Refused { port: self.port(), command: args.join(" "), reply })
            }
            reply => Ok(reply.text()),
        }
    }

    /// The node's own view of the cluster.
    pub fn view(&self) -> Result<Vec<NodeLine>, DemoError> {
        Ok(NodeLine::parse_all(&self.ask(&["CLUSTER", "NODES"])?))
    }

    /// Where its files are, `server.log` and what it writes itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Waits until it is this server, and not another on the same port, that answers.
    fn answering(&self, until: Instant) -> Result<(), DemoError> {
        loop {
            if !self.is_running() {
                return Err(DemoError::Ended { port: self.port(), log: self.log_tail() });
            }
            let folder = self.folder.to_string_lossy();
            match self.call(&["CONFIG", "GET", "dir"]) {
                Ok(Reply::Array(Some(pair))) if pair.last().is_some_and(|dir| dir.text() == folder) => {
                    return Ok(());
                }
                Err(error) if Instant::now() > until => return Err(error),
                _ if Instant::now() > until => {
                    return Err(DemoError::Unreachable {
                        port: self.port(),
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                _ => thread::sleep(POLL),
            }
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(
    binary: &Path,
    port: u16,
    args: &[String],
    folder: &Path,
    guard: &Guard,
) -> Result<Child, DemoError> {
    let path = folder.join("server.log");
    let (out, err) = File::create(&path)
        .and_then(|log| Ok((log.try_clone()?, log)))
        .map_err(|source| DemoError::Folder { path, source })?;
    let child = Command::new(binary)
        .arg("--port")
        .arg(port.to_string())
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|source| DemoError::Spawn { path: binary.to_owned(), source })?;
    guard.watch(child.id());
    Ok(child)
}

/// A port that is free just now, together with its bus port. It is given once: a node that is down comes back to its own.
fn free_port() -> Option<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = (0..PORT_ATTEMPTS * 4).map(|_| fastrand::u16(PORTS));
    ports.find(|&port| free(port) && free(port + BUS_OFFSET) && given.insert(port))
}
