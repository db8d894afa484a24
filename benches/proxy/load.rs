//! A round at full speed: redis-benchmark.

use std::process::{Command, Stdio};

use crate::{
    Result,
    workload::{self, Workload},
};

/// Many times as long as any round takes, in seconds: a program that never replies fails the run, too.
const PATIENCE: &str = "120";

/// What redis-benchmark measured.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// Requests per second.
    pub(crate) rate: f64,
    /// The median latency in milliseconds.
    pub(crate) p50: f64,
}

/// Runs `requests` requests of a load; anything but a full set of replies without errors is an error.
pub(crate) fn run(port: u16, load: &Workload, requests: usize) -> Result<Measured> {
    let output =
        benchmark(port, load.clients, load.pipeline, requests, load.command).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // It stops with status 1 at the first error of a server.
    if !output.status.success() {
        return Err(format!("redis-benchmark: {}: {}", output.status, text.trim()).into());
    }
    parse(&text).ok_or_else(|| format!("redis-benchmark: no figures in {text:?}").into())
}

/// Sets every key, through a proxy or on a plain server.
pub(crate) fn fill(port: u16) -> Result<()> {
    use workload::Command::{Set, SetLarge};
    // Random keys: five times as many requests leave less than one key in a hundred unset.
    for (command, pipeline) in [(Set, 32), (SetLarge, 4)] {
        let status =
            benchmark(port, 50, pipeline, 5 * command.keys(), command).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("port {port} cannot be filled: redis-benchmark: {status}").into());
        }
    }
    Ok(())
}

fn benchmark(
    port: u16,
    clients: usize,
    pipeline: usize,
    requests: usize,
    command: workload::Command,
) -> Command {
    let mut benchmark = Command::new("timeout");
    benchmark.args([PATIENCE, "redis-benchmark"]);
    for (flag, value) in [
        ("-p", usize::from(port)),
        ("-c", clients),
        ("-P", pipeline),
        ("-n", requests),
        ("-r", command.keys()),
    ] {
        benchmark.arg(flag).arg(value.to_string());
    }
    benchmark.args(["-h", "127.0.0.1", "--csv"]);
    benchmark.args(command.arguments());
    benchmark
}

/// The last row: test, requests per second, then average, minimum, p50, p95, p99 and maximum in milliseconds.
fn parse(text: &str) -> Option<Measured> {
    let row = text.lines().rfind(|line| line.starts_with('"') && !line.starts_with("\"test\""))?;
    let fields: Vec<&str> = row.trim_matches('"').split("\",\"").collect();
    let from_the_end = |n: usize| fields.get(fields.len().checked_sub(n)?)?.parse().ok();
    Some(Measured { rate: from_the_end(7)?, p50: from_the_end(4)? })
}
