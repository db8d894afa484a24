//! The configuration as used: typed, checked, and immutable once it is built.
//!
//! The command line as written is [`Args`], all text; [`Invocation::parse`] makes a [`Config`] of it
//! and reports every mistake in one run.

mod args;
mod bounds;
mod demo;
mod mistakes;
mod secret;

use std::ffi::OsString;
use std::num::NonZeroUsize;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::net::{ListenAddr, NodeAddr};

pub use args::{Args, Cli};
pub use bounds::{BOUNDS, Bound, Limits};
pub use demo::DemoOptions;
pub use mistakes::{EXIT_USAGE, Mistakes, Usage};
pub use secret::Secret;

/// The user name that clients log in as, that of a server's `requirepass`.
pub const CLIENT_USER: &str = "default";

const DEFAULT_LISTEN: &str = "127.0.0.1:6379";
/// Away from 6379, where the server that the demo needs may already run as a service.
const DEFAULT_DEMO_LISTEN: &str = "127.0.0.1:7379";
/// More threads than any machine of today has cores: a typing error, not a wish.
const MAX_WORKERS: usize = 1024;
/// Every one of them is multiplied by workers and by nodes, and a node has 10,000 in all.
const MAX_CONNECTIONS_PER_NODE: usize = 64;

/// What one start of the program was asked to do.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The proxy's configuration. For a demo without seeds: they are known once the cluster runs.
    pub config: Config,
    /// Present for `slotmux demo`.
    pub demo: Option<DemoOptions>,
}

/// The proxy's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Nodes to learn the cluster from; one that answers is enough. Never empty, but for a demo.
    pub seeds: Vec<NodeAddr>,
    /// Where clients connect. Never empty.
    pub listen: Vec<ListenAddr>,
    /// Where metrics and health are served, if at all.
    pub admin: Option<ListenAddr>,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Shared links per worker, node and protocol version, at least one.
    pub connections_per_node: usize,
    /// What the proxy logs in to the nodes with.
    pub cluster_auth: Option<ClusterAuth>,
    /// What clients must log in with.
    pub client_password: Option<Secret>,
    /// Across what a client's commands keep their order.
    pub ordering: Ordering,
    /// Whether a worker may poll before it sleeps.
    pub spin: Spin,
    /// Every bound.
    pub limits: Limits,
    /// What is logged.
    pub log: Targets,
}

/// The proxy's own login at the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAuth {
    /// The ACL user; `None` is the server's default user.
    pub user: Option<String>,
    /// Its password.
    pub password: Secret,
}

/// Across what the commands of one client connection keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// Commands on the same key.
    Key,
    /// All commands, across slots too.
    Connection,
}

/// Whether a worker polls for a moment before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// While that pays: an idle proxy sleeps.
    Auto,
    /// Never.
    Off,
}

impl Invocation {
    /// Reads the command line, with the program's name first, and the environment.
    ///
    /// # Errors
    /// `--help`, `--version`, or everything that is wrong.
    pub fn parse(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Usage> {
        let cli = Cli::try_parse_from(args).map_err(Usage::Clap)?;
        let mut mistakes = Mistakes::default();
        let demo = cli.demo().map(|demo| DemoOptions::read(demo, &mut mistakes));
        let config = Config::read(&cli.args, demo.is_some(), env, &mut mistakes);
        if mistakes.is_empty() { Ok(Self { config, demo }) } else { Err(Usage::Mistakes(mistakes)) }
    }
}

impl Config {
    /// Whether a client that gives this user (if any) and password may come in. False without a
    /// client password: a server then says that none is set.
    #[must_use]
    pub fn admits(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let known = user.is_none_or(|user| user == CLIENT_USER.as_bytes());
        self.client_password.as_ref().is_some_and(|secret| secret.verify(password)) && known
    }

    /// Reads the flags. A value that cannot be used is noted in `mistakes`, and something else stands in
    /// for it: with mistakes the configuration must not be used.
    fn read(
        args: &Args,
        demo: bool,
        env: impl Fn(&str) -> Option<OsString>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let client_file = args.client_password_file.as_deref();
        let client_password = secret::read(&secret::CLIENT, client_file, &env, mistakes);
        let listen = read_listen(args, demo, mistakes);
        if client_password.is_none() && !args.unprotected && mistakes.is_silent_on(secret::CLIENT.flag) {
            refuse_open_listeners(&listen, mistakes);
        }
        let workers = args.workers.as_ref();
        let orderings = [("key", Ordering::Key), ("connection", Ordering::Connection)];
        let spins = [("auto", Spin::Auto), ("off", Spin::Off)];
        Self {
            seeds: read_seeds(args, demo, mistakes),
            listen,
            admin: read_admin(args, mistakes),
            workers: workers
                .map_or_else(default_workers, |text| read_count("workers", text, MAX_WORKERS, mistakes)),
            connections_per_node: read_count(
                "connections-per-node",
                &args.connections_per_node,
                MAX_CONNECTIONS_PER_NODE,
                mistakes,
            ),
            cluster_auth: read_cluster_auth(args, env, mistakes),
            client_password,
            ordering: choose("ordering", &args.ordering, orderings, mistakes),
            spin: choose("spin", &args.spin, spins, mistakes),
            limits: Limits::read(&args.bounds, mistakes),
            log: read_log_level(args, mistakes),
        }
    }
}

fn read_seeds(args: &Args, demo: bool, mistakes: &mut Mistakes) -> Vec<NodeAddr> {
    if demo && !args.seeds.is_empty() {
        mistakes.add("seeds", "the demo starts a cluster of its own: leave --seeds out".to_owned());
    } else if !demo && args.seeds.is_empty() {
        let right = "name at least one node of the cluster, as in --seeds 10.0.0.1:6379,10.0.0.2:6379";
        mistakes.add("seeds", right.to_owned());
    }
    let mut seeds: Vec<NodeAddr> = Vec::new();
    for text in &args.seeds {
        match text.trim().parse() {
            Ok(seed) if seeds.contains(&seed) => {}
            Ok(seed) => seeds.push(seed),
            Err(error) => mistakes.add("seeds", error.to_string()),
        }
    }
    seeds
}

fn read_listen(args: &Args, demo: bool, mistakes: &mut Mistakes) -> Vec<ListenAddr> {
    let default = [if demo { DEFAULT_DEMO_LISTEN } else { DEFAULT_LISTEN }.to_owned()];
    let texts = if args.listen.is_empty() { &default[..] } else { &args.listen };
    let mut listen = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(addr) => listen.push(addr),
            Err(error) => mistakes.add("listen", format!("{error}; a socket is written unix:/path")),
        }
    }
    listen
}

fn refuse_open_listeners(listen: &[ListenAddr], mistakes: &mut Mistakes) {
    for addr in listen.iter().filter(|addr| !addr.is_local()) {
        mistakes.add(
            "listen",
            format!(
                "{addr} is open to other machines and no client password is set: whoever reaches it could do \
                 all that the proxy's own login at the cluster allows. Set one with --client-password-file or \
                 {}, listen on 127.0.0.1 or unix:/path, or take the risk with --unprotected",
                secret::CLIENT.variable
            ),
        );
    }
}

fn read_admin(args: &Args, mistakes: &mut Mistakes) -> Option<ListenAddr> {
    if args.admin == "off" {
        return None;
    }
    let read = args.admin.parse();
    read.map_err(|error| mistakes.add("admin", format!("{error}; `off` serves no metrics"))).ok()
}

fn read_cluster_auth(
    args: &Args,
    env: impl Fn(&str) -> Option<OsString>,
    mistakes: &mut Mistakes,
) -> Option<ClusterAuth> {
    let password = secret::read(&secret::CLUSTER, args.cluster_password_file.as_deref(), &env, mistakes);
    if password.is_none() && args.cluster_user.is_some() && mistakes.is_silent_on(secret::CLUSTER.flag) {
        let right = "a user needs a password: give --cluster-password-file or SLOTMUX_CLUSTER_PASSWORD";
        mistakes.add("cluster-user", right.to_owned());
    }
    password.map(|password| ClusterAuth { user: args.cluster_user.clone(), password })
}

fn read_count(flag: &'static str, text: &str, most: usize, mistakes: &mut Mistakes) -> usize {
    text.parse().ok().filter(|count| (1..=most).contains(count)).unwrap_or_else(|| {
        mistakes.add(flag, format!("`{text}` is no number from 1 to {most}"));
        1
    })
}

fn choose<T: Copy>(flag: &'static str, text: &str, choices: [(&str, T); 2], mistakes: &mut Mistakes) -> T {
    choices.iter().find(|(name, _)| *name == text).map_or_else(
        || {
            let [(one, _), (other, _)] = choices;
            mistakes.add(flag, format!("`{text}` is neither `{one}` nor `{other}`"));
            choices[0].1
        },
        |(_, value)| *value,
    )
}

fn read_log_level(args: &Args, mistakes: &mut Mistakes) -> Targets {
    // `Targets` alone would read a misspelt level as the name of a module.
    let levels = |text: &str| text.contains('=') || text.trim().parse::<LevelFilter>().is_ok();
    let read = args.log_level.split(',').all(levels).then(|| args.log_level.parse().ok()).flatten();
    read.unwrap_or_else(|| {
        let right = "write error, warn, info, debug or trace, or `info,slotmux::topology=debug`";
        mistakes.add("log-level", format!("`{}` is no level: {right}", args.log_level));
        Targets::new()
    })
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests;
