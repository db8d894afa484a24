//! From the command line and the file to the configuration.

use std::num::NonZeroUsize;

use clap::ArgMatches;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::args::Flags;
use super::clusters::clusters;
use super::file::{Node, Section, read_file};
use super::listeners::listeners;
use super::mistakes::Mistakes;
use super::read::{Env, Reader, Written};
use super::settings::{self, Scope};
use super::{Config, DemoOptions, Invocation, ProcessLimits, Spin, keys};
use crate::net::ListenAddr;

/// More threads than any machine of today has cores: a typing error, not a wish.
const MAX_WORKERS: usize = 1024;
/// Thousands of listeners fit in.
const MAX_FILE: u64 = 1 << 20;

/// Nothing, with a mistake, where there is nobody to ask or the file can't be read at all.
pub(super) fn invocation(matches: &ArgMatches, env: Env<'_>, mistakes: &mut Mistakes) -> Option<Invocation> {
    let (name, sub) = matches.subcommand().unwrap_or(("serve", matches));
    let flags = Flags::read(sub);
    let checked = if name == "check" { sub.get_one::<String>("file") } else { None };
    let file = checked.or_else(|| sub.get_one::<String>("config")).cloned();
    let tree = file.as_deref().and_then(|file| match read_text(file) {
        Ok(text) => Node::parse(&text, file, env, mistakes),
        Err(error) => {
            mistakes.add(file, format!("cannot be read: {error}"));
            None
        }
    });
    let top = tree.as_ref().zip(file.as_deref()).map(|(tree, file)| tree.top(file)).unwrap_or_default();
    if name == "health" {
        // The rest of the file concerns the proxy that runs, not who asks it.
        let admin = admin(&mut Reader { flags: &flags, env, mistakes: &mut *mistakes }, &top);
        if admin.is_none() {
            mistakes.add("--admin", "there is nobody to ask: the admin port is off");
        }
        return admin.map(Invocation::Health);
    }
    let demo = (name == "demo").then(|| DemoOptions::read(sub, mistakes));
    if tree.is_none() && file.is_some() {
        return None;
    }
    let config = config(&mut Reader { flags: &flags, env, mistakes }, &top, demo.is_some());
    Some(match (demo, file) {
        (Some(demo), _) => Invocation::Demo(demo, config),
        (None, Some(file)) if name == "check" => Invocation::Check { file, config },
        (None, _) => Invocation::Serve(config),
    })
}

fn config(reader: &mut Reader<'_>, top: &Section<'_>, demo: bool) -> Config {
    keys::check(top, Scope::Process, reader.mistakes);
    let workers = reader.number(&settings::WORKERS, &[top], MAX_WORKERS).unwrap_or_else(default_workers);
    let clusters = clusters(reader, top, workers, demo);
    Config {
        listeners: listeners(reader, top, &clusters, demo),
        clusters,
        admin: admin(reader, top),
        per_node_histograms: reader.is_on(&settings::PER_NODE_HISTOGRAMS, &[top]),
        workers,
        spin: reader.choose(&settings::SPIN, &[top], [("auto", Spin::Auto), ("off", Spin::Off)]),
        limits: ProcessLimits::read(reader, &[top]),
        log: log_level(reader, top),
    }
}

fn admin(reader: &mut Reader<'_>, top: &Section<'_>) -> Option<ListenAddr> {
    let written = reader.text_or_default(&settings::ADMIN, &[top]);
    if written.text == "off" {
        return None;
    }
    reader.parsed(vec![written], "; `off` serves no metrics").pop()
}

fn log_level(reader: &mut Reader<'_>, top: &Section<'_>) -> Targets {
    let Written { at, text } = reader.text_or_default(&settings::LOG_LEVEL, &[top]);
    // `Targets` alone would read a misspelt level as the name of a module.
    let levels = |text: &str| text.contains('=') || text.trim().parse::<LevelFilter>().is_ok();
    let read = text.split(',').all(levels).then(|| text.parse().ok()).flatten();
    read.unwrap_or_else(|| {
        let right = "write error, warn, info, debug or trace, or `info,slotmux::topology=debug`";
        reader.mistakes.add(at, format!("`{text}` is no level: {right}"));
        Targets::new()
    })
}

fn read_text(file: &str) -> std::io::Result<String> {
    String::from_utf8(read_file(file, MAX_FILE)?).map_err(|_| std::io::Error::other("it is no UTF-8"))
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
