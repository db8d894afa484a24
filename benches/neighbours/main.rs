//! `make neighbours`: what does a client notice of what its neighbours do?
//!
//! Watched clients send GET of small keys on chosen shards, while others break something or load it. Everything is
//! started here: a cluster of three primaries, which shares CPU 1 with all the clients, and the proxy, which has
//! CPU 0 for itself. Medians are printed as Markdown. There are two families.
//!
//! [`isolated`]: one of the three primaries is stopped and continued in turns, while other clients wait for it. The
//! watched ones use only the other two. Replies per second (each client sends when its reply came) and latencies (at
//! a fixed rate) are compared with those of the windows in which all is well.
//!
//! [`bounded`]: a load on one node that could fill memory or keep a shared connection busy. What those see who use
//! the same node is compared with the same load and the same watched clients directly at the nodes; what those see
//! who use other nodes, with the proxy at rest. The proxy's peak memory stands beside it. Every load has a proxy of
//! its own. Directly, the slow readers' values stay in the node: some 3 GB of memory have to be free.
//!
//! How it is measured:
//!
//! - A paced request's latency runs from when the sender took it up ([`paced`]); it waits for no other's reply.
//! - The load has a thread of its own, of lower priority: on the CPU that all clients share, the watched ones would
//!   otherwise wait for the load's client, and not for the proxy or the node. So has the loaded node in [`bounded`]:
//!   others would wait for what a machine of its own does elsewhere.
//! - Nodes and clients share one CPU. So figures through the proxy are compared only with others of the same run.
//!
//! An error reply or a closed connection of a watched client fails the run, as does whatever else could not be
//! measured. Those of the load are counted.

mod bounded;
mod isolated;
mod keys;
mod latency;
mod load;
mod loads;
mod options;
mod paced;
#[path = "../proxy/process.rs"]
#[expect(dead_code, reason = "CPU time and system calls are `make bench`'s")]
mod process;
mod reply;
mod watched;
mod world;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use isolated::ISOLATED;
use loads::LOADED;
use options::Options;
use world::World;

/// Any failure ends the run, so nobody asks what kind it is; it may happen on another thread.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --benches` starts it, too.
        println!("nothing is measured without --bench; `make neighbours` gives it");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the run failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what is asked for. What is complete is printed even if something else fails later.
fn run(options: &Options) -> Result<()> {
    let loads = options.loads()?;
    let world = World::start()?;
    if options.wants(ISOLATED) {
        let report = isolated::run(&world, options).map_err(|error| format!("{ISOLATED}: {error}"))?;
        println!("{report}");
    }
    let mut report = bounded::Report::new(options);
    world.step_back(LOADED)?;
    let measured = loads.into_iter().try_for_each(|load| report.measure(&world, load, options));
    if !report.is_empty() {
        println!("{report}");
    }
    measured
}
