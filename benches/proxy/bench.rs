//! The run: who is measured, in which order, and what becomes of it.

use std::process::Command;

use slotmux::demo::{Cluster, ClusterOptions};

use crate::{
    Result, load,
    options::Options,
    paced,
    process::Program,
    report::{Figures, Memory, Report, Row, median},
    workload::{self, Workload},
};

/// The CPU of the proxies.
const PROXY_CPU: usize = 0;

/// The CPU of everything else.
const LOAD_CPU: usize = 1;

/// Enough for a thousand clients; a shell's limit often is 1,024 files.
const FILES: usize = 8_192;

/// The part of a round's requests that suffices to warm up, and to count system calls.
const SHORT: usize = 5;

/// A program and what it can do.
struct Subject {
    name: &'static str,
    program: Program,
    /// The direct connection shares its CPU with the load, so that its counters say nothing.
    counted: bool,
    /// The floor forwards a command to the owner of its first key.
    splits: bool,
}

/// Measures everything that is asked for.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let loads = options.workloads()?;
    move_to_cpu(LOAD_CPU)?;
    eprintln!("starting a cluster of three primaries, a plain server, the floor and the proxy");
    let cluster = Cluster::start(ClusterOptions { replicas_per_primary: 0, ..ClusterOptions::default() })?;
    let subjects = start(options, &cluster)?;
    for subject in &subjects {
        // The floor fills the cluster for the proxy, too.
        if subject.name != "slotmux" {
            eprintln!("filling: {}", subject.name);
            load::fill(subject.program.port())?;
        }
    }
    let mut report = Report::default();
    for load in loads {
        let rows = measure(load, &subjects, options).map_err(|error| format!("{}: {error}", load.name))?;
        report.rows.extend(rows);
    }
    for subject in subjects.iter().filter(|subject| subject.counted) {
        let (start_kib, peak_kib) = subject.program.memory()?;
        report.memory.push(Memory { program: subject.name, start_kib, peak_kib });
    }
    Ok(report)
}

fn start(options: &Options, cluster: &Cluster) -> Result<Vec<Subject>> {
    let seed = &cluster.seeds()[0];
    let words = |command: String| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let proxy = words(options.proxy.replace("{seed}", seed));
    let floor = words(format!("{} 127.0.0.1:{{port}} {seed}", options.floor));
    let server =
        ["redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let subject = |name, command: &[String], cpu| -> Result<Subject> {
        let program = Program::start(command, cpu)?;
        Ok(Subject { name, program, counted: cpu == PROXY_CPU, splits: name != "floor" })
    };
    Ok(vec![
        subject("slotmux", &proxy, PROXY_CPU)?,
        subject("floor", &floor, PROXY_CPU)?,
        subject("no proxy", &server.map(str::to_owned), LOAD_CPU)?,
    ])
}

/// Binds this process, and with it every child from here on, to a CPU.
fn move_to_cpu(cpu: usize) -> Result<()> {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", &cpu.to_string(), &pid]).output()?;
    if !moved.status.success() {
        return Err(format!("two CPUs are needed: {}", String::from_utf8_lossy(&moved.stderr).trim()).into());
    }
    // If it is not allowed, only the load of a thousand clients fails.
    let _ = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={FILES}:")]).output()?;
    Ok(())
}

/// All rounds of one load.
fn measure(load: &'static Workload, subjects: &[Subject], options: &Options) -> Result<Vec<Row>> {
    let able = |subject: &&Subject| subject.splits || load.command != workload::Command::Mget;
    let subjects: Vec<&Subject> = subjects.iter().filter(able).collect();
    let requests = ((load.requests as f64 * options.scale) as usize).max(1_000);
    for subject in &subjects {
        load::run(subject.program.port(), load, requests / SHORT)
            .map_err(|error| format!("{}: {error}", subject.name))?;
    }
    let full = in_turns(&subjects, options.rounds, load.name, |subject| full_speed(load, subject, requests))?;
    let of = |name, figure: fn(&Figures) -> f64| {
        median(full.iter().filter(|(by, _)| *by == name).map(|(_, f)| figure(f)))
    };
    // The floor's rate is everybody's measure; where it cannot take part, the slowest one's.
    let slowest = || subjects.iter().filter_map(|s| of(s.name, |f| f.rate)).fold(f64::MAX, f64::min);
    let rate = of("floor", |f| f.rate).unwrap_or_else(slowest) / 2.0;
    let title = format!("{} at {rate:.0}/s", load.name);
    let paced = in_turns(&subjects, options.rounds, &title, |subject| {
        paced::p99(subject.program.port(), load, rate)
            .map_err(|error| format!("at {rate:.0}/s: {error}").into())
    })?;
    let row = |subject: &&Subject| -> Result<Row> {
        let name = subject.name;
        Ok(Row {
            load: load.name,
            program: name,
            rate: of(name, |f| f.rate),
            p50: of(name, |f| f.p50),
            p99: median(paced.iter().filter(|(by, _)| *by == name).map(|(_, p99)| *p99)),
            cpu: of(name, |f| f.cpu).filter(|_| subject.counted),
            switches: of(name, |f| f.switches).filter(|_| subject.counted),
            calls: if subject.counted { system_calls(load, subject, requests / SHORT)? } else { None },
        })
    };
    subjects.iter().map(row).collect()
}

/// Does the same with every program, round by round, each in an order of its own.
fn in_turns<T>(
    subjects: &[&Subject],
    rounds: usize,
    title: &str,
    mut measure: impl FnMut(&Subject) -> Result<T>,
) -> Result<Vec<(&'static str, T)>> {
    let mut results = Vec::new();
    let mut order = subjects.to_vec();
    for round in 1..=rounds {
        fastrand::shuffle(&mut order);
        for subject in &order {
            eprintln!("{title}, round {round} of {rounds}: {}", subject.name);
            let result = measure(subject).map_err(|error| format!("{}: {error}", subject.name))?;
            results.push((subject.name, result));
        }
    }
    Ok(results)
}

/// One round as fast as it goes.
fn full_speed(load: &Workload, subject: &Subject, requests: usize) -> Result<Figures> {
    let before = subject.program.counted()?;
    let measured = load::run(subject.program.port(), load, requests)?;
    let (cpu, switches) = subject.program.counted()?.per_request(before, requests);
    Ok(Figures { rate: measured.rate, p50: measured.p50, cpu, switches })
}

/// System calls per request, in a pass of its own: to count them costs a little.
fn system_calls(load: &Workload, subject: &Subject, requests: usize) -> Result<Option<f64>> {
    let port = subject.program.port();
    let calls = subject.program.system_calls(|| load::run(port, load, requests).map(drop))?;
    Ok(calls.map(|calls| calls as f64 / requests as f64))
}
