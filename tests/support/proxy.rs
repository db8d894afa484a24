//! The real binary as a child process.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{Client, SOON, TestCluster, eventually_some, signal};

/// A proxy to be: `Proxy::for_seeds(&seeds).arg("--workers").arg("2").start()`.
pub struct ProxyBuilder {
    command: Command,
    listeners: usize,
    log: Option<File>,
}

impl ProxyBuilder {
    pub fn arg(mut self, arg: impl AsRef<str>) -> Self {
        self.listeners += usize::from(arg.as_ref() == "--listen");
        self.command.arg(arg.as_ref());
        self
    }

    pub fn args(self, args: &[&str]) -> Self {
        args.iter().fold(self, |builder, arg| builder.arg(arg))
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Lets it log into this file.
    pub fn log_to(mut self, log: File) -> Self {
        self.log = Some(log);
        self
    }

    /// Starts it and waits until it has printed the address of each listener and of the admin port.
    #[track_caller]
    pub fn start(mut self) -> Proxy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = || File::create(folder.path().join("log")).expect("a log file");
        let log = self.log.take().unwrap_or_else(own);
        let mut child =
            self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let (sender, lines) = mpsc::sync_channel(16);
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        // Reads to the end, so that a proxy that prints more than a pipe holds is never stuck.
        thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut proxy = Proxy { child, listeners: Vec::new(), admin: String::new(), folder };
        let until = Instant::now() + SOON;
        while proxy.admin.is_empty() || proxy.listeners.len() < self.listeners {
            let line =
                lines.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or_else(|_| {
                    panic!("the proxy did not print its addresses; its log:\n{}", proxy.log())
                });
            if let Some(addr) = line.strip_prefix("listening on ") {
                proxy.listeners.push(addr.to_owned());
            } else if let Some(addr) = line.strip_prefix("admin on ") {
                proxy.admin = addr.to_owned();
            }
        }
        proxy
    }
}

/// A running proxy. Its log is printed when the test fails.
pub struct Proxy {
    child: Child,
    listeners: Vec<String>,
    admin: String,
    folder: TempDir,
}

impl Proxy {
    /// A proxy with one worker in front of a cluster, or not even that if the arguments say otherwise.
    pub fn for_seeds<S: AsRef<str>>(seeds: &[S]) -> ProxyBuilder {
        Self::by(Self::command(), seeds)
    }

    /// The same with a command that becomes the proxy, such as another build of it.
    pub fn by<S: AsRef<str>>(command: Command, seeds: &[S]) -> ProxyBuilder {
        let seeds: Vec<&str> = seeds.iter().map(AsRef::as_ref).collect();
        let builder = ProxyBuilder { command, listeners: 0, log: None };
        builder.args(&["--seeds", &seeds.join(","), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
    }

    /// A proxy whose arguments say all, with so many listeners and an admin port.
    pub fn with(args: &[&str], listeners: usize) -> ProxyBuilder {
        let mut builder = ProxyBuilder { command: Self::command(), listeners: 0, log: None }.args(args);
        builder.listeners = listeners;
        builder
    }

    #[track_caller]
    pub fn start<S: AsRef<str>>(seeds: &[S]) -> Self {
        Self::for_seeds(seeds).start()
    }

    /// The binary without any arguments, for tests of the command line; another one if SLOTMUX_BINARY says so.
    pub fn command() -> Command {
        Command::new(std::env::var_os("SLOTMUX_BINARY").unwrap_or(env!("CARGO_BIN_EXE_slotmux").into()))
    }

    /// The address of the first listener.
    pub fn addr(&self) -> &str {
        &self.listeners[0]
    }

    /// The addresses of all listeners, as printed.
    pub fn addrs(&self) -> &[String] {
        &self.listeners
    }

    pub fn admin_addr(&self) -> &str {
        &self.admin
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// The body of `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The value of a metric: `name`, or `name{label="value",…}`. The sum of all rows that have these labels, whatever
    /// others they have; 0 if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        sum(&self.metrics(), name)
    }

    /// A GET on the admin port: the status and the body.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin port accepts");
        stream.set_read_timeout(Some(SOON)).expect("SO_RCVTIMEO");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        stream.write_all(request.as_bytes()).expect("the admin port reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the admin port answers and closes");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// All that it logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// How it ended, if it did within the limit.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            match self.child.try_wait().expect("the child can be waited for") {
                None if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                status => return status,
            }
        }
    }

    /// Stops it with SIGTERM and returns how it ended.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(SOON).expect("the proxy ends after SIGTERM")
    }
}

/// See [`Proxy::metric`]; `page` is what `/metrics` shows.
#[track_caller]
pub fn sum(page: &str, name: &str) -> f64 {
    let (name, wanted) = name.split_once('{').unwrap_or((name, ""));
    assert!(is_documented(name), "there is no metric {name}");
    let wanted: Vec<&str> =
        wanted.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
    let rows = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    rows.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .filter(|(labels, _)| {
            let labels = labels.trim_matches(['{', '}']).split(',');
            wanted.iter().all(|wanted| labels.clone().any(|label| label == *wanted))
        })
        .map(|(_, value)| value.parse::<f64>().expect("a metric is a number"))
        .sum()
}

/// Whether README has a row for the metric, or for the histogram that it is a part of.
fn is_documented(name: &str) -> bool {
    const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let families = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
    families.chain([name]).any(|family| README.contains(&format!("| `{family}` |")))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}--- end of the proxy's log ---", self.log());
        }
        if self.wait(Duration::ZERO).is_none() {
            self.signal("TERM");
            if self.wait(Duration::from_secs(5)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // A task that panics ends alone where panics unwind, and nobody might miss it.
        if !thread::panicking() && self.log().contains("panicked at") {
            panic!("the proxy's log:\n{}", self.log());
        }
    }
}
