//! `make bench`: the proxy, a bare forwarder (`benches/floor`) and a direct connection, measured in turns.
//!
//! Everything that is needed is started here: a cluster of three primaries and a plain server, which share CPU 1
//! with the load, and the proxies, which have CPU 0 for themselves. Each load runs `--rounds` times on each program,
//! in an order that is drawn anew for every round, and the medians are printed as Markdown with their ratio to the
//! floor's. Two equal programs still differ by several percent on a shared machine: `--proxy` with the floor's own
//! command shows by how much on yours.
//!
//! - requests/s, p50: `redis-benchmark` at full speed.
//! - p99: [`paced`] requests at half of the floor's rate, the same for every program.
//! - CPU: what the scheduler gave to all threads of the program, per request.
//! - switches, system calls: per request; the latter where `perf stat` may count them, in a pass of their own.
//!
//! One failed round fails the run.

mod bench;
mod load;
mod options;
mod paced;
mod process;
mod report;
mod workload;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use options::Options;

/// Any failure ends the run, so nobody asks what kind it is.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --benches` starts it, too.
        println!("nothing is measured without --bench; `make bench` gives it");
        return ExitCode::SUCCESS;
    }
    match bench::run(&options) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the run failed: {error}");
            ExitCode::FAILURE
        }
    }
}
