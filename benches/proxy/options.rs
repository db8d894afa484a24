//! The command line.

use clap::Parser;

use crate::{
    Result,
    workload::{WORKLOADS, Workload},
};

/// Measures the proxy, a bare forwarder and a direct connection in turns.
#[derive(Parser)]
pub(crate) struct Options {
    /// How often each load runs on each program
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,

    /// The loads to run, by name
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Makes every load this much longer or shorter
    #[arg(long, default_value_t = 1.0)]
    pub(crate) scale: f64,

    /// The proxy's command; {seed} and {port} stand for a node's address and the port to listen on
    #[arg(long, default_value_t = default_proxy())]
    pub(crate) proxy: String,

    /// The bare forwarder's binary
    #[arg(long, default_value = "target/floor/release/floor")]
    pub(crate) floor: String,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    /// The loads that are asked for.
    pub(crate) fn workloads(&self) -> Result<Vec<&'static Workload>> {
        if let Some(unknown) = self.only.iter().find(|name| WORKLOADS.iter().all(|load| load.name != **name))
        {
            let names: Vec<&str> = WORKLOADS.iter().map(|load| load.name).collect();
            return Err(format!("there is no load {unknown}; there are {}", names.join(", ")).into());
        }
        let wanted =
            |load: &&Workload| self.only.is_empty() || self.only.iter().any(|name| name == load.name);
        Ok(WORKLOADS.iter().filter(wanted).collect())
    }
}

fn default_proxy() -> String {
    let binary = env!("CARGO_BIN_EXE_slotmux");
    format!("{binary} --seeds {{seed}} --listen 127.0.0.1:{{port}} --admin 127.0.0.1:0 --workers 1")
}
