//! What a run is, from the environment; the Makefile says what the variables mean.

use std::{env, path::PathBuf, time::Duration};

use crate::{nemesis::Kind, support::valkey_server};

#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub length: Duration,
    pub clients: usize,
    /// Commands a second, of all clients together.
    pub rate: u32,
    pub nemeses: Vec<Kind>,
    /// The servers' program, if it is not redis-server 7.0.
    pub server: Option<PathBuf>,
    /// Show the schedule, also if all is well.
    pub verbose: bool,
    /// More arguments for the proxy.
    pub proxy: Vec<String>,
}

impl Settings {
    /// What the environment says, else these.
    pub fn or(seconds: u64, clients: usize, rate: u32, nemeses: &str) -> Self {
        let valkey = env::var_os("CHAOS_VALKEY").is_some();
        Self {
            seed: var("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32)),
            length: Duration::from_secs(var("CHAOS_SECONDS").unwrap_or(seconds)),
            clients: var("CHAOS_CLIENTS").unwrap_or(clients),
            rate: var("CHAOS_RATE").unwrap_or(rate),
            nemeses: Kind::parse(&var("CHAOS_NEMESES").unwrap_or_else(|| nemeses.to_owned()), valkey),
            verbose: env::var_os("CHAOS_VERBOSE").is_some(),
            proxy: var::<String>("CHAOS_PROXY_ARGS")
                .map(|args| args.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            server: valkey.then(|| valkey_server().to_owned()),
        }
    }

    /// On Valkey 9.
    pub fn on_valkey(self) -> Self {
        Self { server: Some(valkey_server().to_owned()), ..self }
    }

    /// Only what a cluster's operator plans: nothing may be noticed.
    pub fn is_quiet(&self) -> bool {
        self.nemeses.iter().all(|kind| kind.is_planned())
    }

    /// How long the servers wait for a silent node. With planned changes only, a busy machine must not make the cluster
    /// fail over by itself.
    pub fn node_timeout(&self) -> Duration {
        Duration::from_secs(if self.is_quiet() { 5 } else { 3 })
    }

    /// Seconds for which a client pauses for each command, on average.
    pub fn pause(&self) -> f64 {
        self.clients as f64 / f64::from(self.rate)
    }
}

fn var<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not understood")))
}
