//! The command line.

use clap::Parser;

use crate::{
    Result,
    isolated::ISOLATED,
    loads::{LOADS, Neighbour},
};

/// Measures what a client notices of what its neighbours do.
#[derive(Parser)]
pub(crate) struct Options {
    /// What to measure, by name
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// How long a window takes, in seconds
    #[arg(long, default_value_t = 6.0)]
    pub(crate) seconds: f64,

    /// How often each load is measured, through the proxy and directly
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,

    /// Pairs of windows with all well and one node stopped
    #[arg(long, default_value_t = 5)]
    pub(crate) pairs: usize,

    /// Requests per second of all watched clients together, where they are paced
    #[arg(long, default_value_t = 4_000.0)]
    pub(crate) rate: f64,

    /// The number of watched clients
    #[arg(long, default_value_t = 20)]
    pub(crate) clients: usize,

    /// The proxy's command; {seeds} and {port} stand for the nodes' addresses and the port to listen on
    #[arg(long, default_value_t = default_proxy())]
    pub(crate) proxy: String,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    /// Whether something is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// The loads that are asked for; an error if anything on the command line makes no sense.
    pub(crate) fn loads(&self) -> Result<Vec<&'static Neighbour>> {
        let mut names = vec![ISOLATED];
        names.extend(LOADS.iter().map(|load| load.name));
        if let Some(unknown) = self.only.iter().find(|only| !names.contains(&only.as_str())) {
            return Err(format!("there is no {unknown}; there are {}", names.join(", ")).into());
        }
        // Four clients: two on the loaded node, and one on each of the others.
        let sensible = self.rounds > 0
            && self.pairs > 0
            && self.clients >= 4
            && (0.5..=3600.0).contains(&self.seconds)
            && (100.0..=100_000.0).contains(&self.rate);
        if !sensible {
            return Err("needed are a round, a pair, four clients, half a second and 100 requests/s".into());
        }
        Ok(LOADS.iter().filter(|load| self.wants(load.name)).collect())
    }

    /// The proxy's `--max-memory`, as its command says it.
    pub(crate) fn max_memory(&self) -> &str {
        let mut words = self.proxy.split([' ', '=']).skip_while(|word| *word != "--max-memory");
        words.nth(1).unwrap_or("the default")
    }
}

/// With a `link_timeout` that a window has time for.
fn default_proxy() -> String {
    let binary = env!("CARGO_BIN_EXE_slotmux");
    format!(
        "{binary} --seeds {{seeds}} --listen 127.0.0.1:{{port}} --admin 127.0.0.1:0 --workers 1 \
         --max-memory 512MiB --link-timeout 2s --log-level warn"
    )
}
