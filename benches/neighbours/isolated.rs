//! One of three primaries is stopped: what do those notice who use the other two?

use std::{
    fmt,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Result,
    latency::{Latencies, median},
    load::Counted,
    loads::pace,
    options::Options,
    process::Program,
    watched::{Sample, Watched},
    world::{NODES, Place, World},
};

/// As `--only` names it.
pub(crate) const ISOLATED: &str = "isolated";

/// The forms take turns twice in a window, so that each sees a stopped node both before and after the others find
/// that it failed.
const TURNS: usize = 2;

/// How long the proxy may take to serve a node that has come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a window gave.
struct Figures {
    rate: f64,
    latencies: Latencies,
}

/// What all windows gave.
pub(crate) struct Report {
    well: Vec<Figures>,
    stopped: Vec<Figures>,
    others: Counted,
    seconds: f64,
}

/// A stopped process; it goes on when this is dropped.
struct Stopped(Pid);

/// Measures windows with all well and with one node stopped in turns. Each pair stops another node.
pub(crate) fn run(world: &World, options: &Options) -> Result<Report> {
    let proxy = world.proxy(options)?;
    let place = Place::Proxy(proxy.port());
    let others = pace(world, place)?;
    let mut report = Report {
        well: Vec::new(),
        stopped: Vec::new(),
        others: Counted::default(),
        seconds: options.seconds,
    };
    for pair in 0..options.pairs {
        let node = pair % NODES;
        for stop in [false, true] {
            let state = if stop { "one stopped" } else { "all well" };
            let figures =
                window(world, place, options, node, stop).map_err(|error| format!("{state}: {error}"))?;
            let Figures { rate, latencies } = &figures;
            eprintln!(
                "{ISOLATED}, pair {} of {}, {state}: {rate:.0}/s, p99 {:.3} ms",
                pair + 1,
                options.pairs,
                latencies.p99()
            );
            if stop { &mut report.stopped } else { &mut report.well }.push(figures);
        }
        whole(world, &proxy, node)?;
    }
    report.others = others.end()?;
    Ok(report)
}

/// Watches those who do not use a node, which may be stopped meanwhile.
fn window(world: &World, place: Place, options: &Options, node: usize, stop: bool) -> Result<Figures> {
    let nodes: Vec<usize> = (0..NODES).filter(|&other| other != node).collect();
    let watched = Watched::connect(world, place, &nodes, options.clients)?;
    let _stopped = if stop { Some(Stopped::new(world.cluster.nodes()[node].pid())?) } else { None };
    let turn = Duration::from_secs_f64(options.seconds / (2 * TURNS) as f64);
    let (mut rates, mut samples) = (0.0, Vec::new());
    for _ in 0..TURNS {
        rates += watched.closed(turn)?;
        samples.extend(watched.paced(options.rate, turn)?.0);
    }
    Ok(Figures { rate: rates / TURNS as f64, latencies: Sample(samples).of(|_| true)? })
}

/// Returns when all nodes see all well again, and the proxy serves the node that was stopped.
fn whole(world: &World, proxy: &Program, node: usize) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while let Err(error) = serves(world, proxy, node) {
        if Instant::now() > until {
            return Err(format!("the proxy does not serve a node that has come back: {error}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    world.rest()
}

fn serves(world: &World, proxy: &Program, node: usize) -> Result<()> {
    let mut stream = TcpStream::connect(world.addr(Place::Proxy(proxy.port()), node))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&world.requests(node)[0])?;
    let mut head = [0; 64];
    match stream.read(&mut head)? {
        n if n > 0 && head[0] == b'$' => Ok(()),
        n => Err(head[..n].escape_ascii().to_string().into()),
    }
}

impl Stopped {
    fn new(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("a node has ended")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that has ended meanwhile is missed soon enough.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { well, stopped, others, seconds } = self;
        writeln!(
            f,
            "One of three primaries stopped; clients of the other two. Medians of {} windows of {seconds} s each.\n",
            well.len()
        )?;
        writeln!(f, "| {ISOLATED} | all well | one stopped | ratio |\n|---|---:|---:|---:|")?;
        let mut row = |name: &str, decimals: usize, figure: fn(&Figures) -> f64| {
            let (well, stopped) = (median(well.iter().map(figure)), median(stopped.iter().map(figure)));
            writeln!(f, "| {name} | {well:.decimals$} | {stopped:.decimals$} | {:.2} |", stopped / well)
        };
        row("replies/s", 0, |figures| figures.rate)?;
        row("p50 ms", 3, |figures| figures.latencies.p50())?;
        row("p99 ms", 3, |figures| figures.latencies.p99())?;
        row("max ms", 3, |figures| figures.latencies.max())?;
        writeln!(f, "\nThe others, who use all three, got: {others}.")
    }
}
