//! A load on one node: what do those notice who use the same node, and those who use others?

use std::{fmt, time::Duration};

use crate::{
    Result,
    latency::median,
    load::Counted,
    loads::{LOADED, Neighbour},
    options::Options,
    watched::Watched,
    world::{Place, World},
};

/// The nodes of the watched clients: half of them use the loaded one.
const NODES: [usize; 4] = [LOADED, 1, LOADED, 2];

/// One of its figures.
type Figure = fn(&Window) -> f64;

/// The 99th percentiles of one window, in milliseconds.
struct Window {
    proxy: bool,
    loaded: bool,
    same: f64,
    others: f64,
}

/// All of one load.
struct Row {
    name: &'static str,
    windows: Vec<Window>,
    through_proxy: Counted,
    direct: Counted,
    start_kib: u64,
    peak_kib: u64,
}

/// All loads.
pub(crate) struct Report {
    rows: Vec<Row>,
    max_memory: String,
    rounds: usize,
    rate: f64,
    seconds: f64,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let &Options { rounds, rate, seconds, .. } = options;
        Self { rows: Vec::new(), max_memory: options.max_memory().to_owned(), rounds, rate, seconds }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a load.
    pub(crate) fn measure(&mut self, world: &World, load: &Neighbour, options: &Options) -> Result<()> {
        let row = measure(world, load, options).map_err(|error| format!("{}: {error}", load.name))?;
        self.rows.push(row);
        Ok(())
    }
}

/// All rounds of one load, with a proxy of its own. Who is first changes from round to round.
fn measure(world: &World, load: &Neighbour, options: &Options) -> Result<Row> {
    let proxy = world.proxy(options)?;
    let (mut through_proxy, mut direct) = (Counted::default(), Counted::default());
    let mut windows = Vec::new();
    for round in 0..options.rounds {
        let mut places = [Place::Proxy(proxy.port()), Place::Direct];
        places.rotate_left(round % 2);
        for place in places {
            let name = if place == Place::Direct { "direct" } else { "proxy" };
            let counted = if place == Place::Direct { &mut direct } else { &mut through_proxy };
            for load in [None, Some(load)] {
                let state = if load.is_some() { "loaded" } else { "calm" };
                world.rest()?;
                let window = window(world, place, load, options, counted)
                    .map_err(|error| format!("{name}, {state}: {error}"))?;
                eprintln!(
                    "{}, round {} of {}, {name}, {state}: p99 {:.3} ms on the same node, {:.3} ms on others",
                    load.map_or("without load", |load| load.name),
                    round + 1,
                    options.rounds,
                    window.same,
                    window.others
                );
                windows.push(window);
            }
        }
    }
    let (start_kib, peak_kib) = proxy.memory()?;
    Ok(Row { name: load.name, windows, through_proxy, direct, start_kib, peak_kib })
}

/// Watches one window, which begins with the load.
fn window(
    world: &World,
    place: Place,
    load: Option<&Neighbour>,
    options: &Options,
    counted: &mut Counted,
) -> Result<Window> {
    let watched = Watched::connect(world, place, &NODES, options.clients)?;
    let running = load.map(|load| load.start(world, place)).transpose()?;
    let sample = watched.paced(options.rate, Duration::from_secs_f64(options.seconds));
    if let Some(running) = running {
        *counted += running.end()?;
    }
    let sample = sample?;
    Ok(Window {
        proxy: place != Place::Direct,
        loaded: load.is_some(),
        same: sample.of(|node| node == LOADED)?.p99(),
        others: sample.of(|node| node != LOADED)?.p99(),
    })
}

impl Row {
    fn p99(&self, proxy: bool, loaded: bool, figure: Figure) -> f64 {
        let windows = self.windows.iter().filter(|window| (window.proxy, window.loaded) == (proxy, loaded));
        median(windows.map(figure))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, rate, seconds, max_memory, .. } = self;
        writeln!(
            f,
            "p99 in ms of watched clients, {rate}/s in all; medians of {rounds} windows of {seconds} s each.\n"
        )?;
        writeln!(
            f,
            "| load | watched | proxy calm | proxy loaded | direct calm | direct loaded | loaded: proxy / direct \
             | proxy: loaded / calm |\n|---|---|{}",
            "---:|".repeat(6)
        )?;
        for row in &self.rows {
            let groups: [(&str, &str, Figure); 2] =
                [(row.name, "same node", |window| window.same), ("", "other nodes", |window| window.others)];
            for (load, watched, figure) in groups {
                let [calm, loaded] = [false, true].map(|loaded| row.p99(true, loaded, figure));
                let [direct_calm, direct] = [false, true].map(|loaded| row.p99(false, loaded, figure));
                writeln!(
                    f,
                    "| {load} | {watched} | {calm:.3} | {loaded:.3} | {direct_calm:.3} | {direct:.3} | {:.2} | {:.2} |",
                    loaded / direct,
                    loaded / calm
                )?;
            }
        }
        writeln!(
            f,
            "\n| load | proxy's memory at start | peak | max_memory | the load through the proxy | directly |\n\
             |---|---:|---:|---:|---|---|"
        )?;
        for row in &self.rows {
            let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
            let (start, peak) = (mib(row.start_kib), mib(row.peak_kib));
            let Row { name, through_proxy, direct, .. } = row;
            writeln!(f, "| {name} | {start} | {peak} | {max_memory} | {through_proxy} | {direct} |")?;
        }
        Ok(())
    }
}
