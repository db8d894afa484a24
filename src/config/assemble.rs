//! From the command line and the file to the configuration.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use clap::ArgMatches;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::args::Flags;
use super::file::{Node, Section};
use super::mistakes::Mistakes;
use super::read::{Env, Reader, Written};
use super::settings::{self, Scope, Setting};
use super::{
    ClusterAuth, ClusterConfig, ClusterLimits, Config, DemoOptions, Invocation, ListenerConfig, OnIndoubt,
    Ordering, ProcessLimits, SessionConfig, SessionLimits, Spin, keys,
};
use crate::net::{AddressMap, ListenAddr, NodeAddr};

const CLUSTER_PASSWORD: &str = "SLOTMUX_CLUSTER_PASSWORD";
const CLUSTER_USER: &str = "SLOTMUX_CLUSTER_USER";
const CLIENT_PASSWORD: &str = "SLOTMUX_CLIENT_PASSWORD";
/// The name of a cluster that flags alone describe.
const ONLY_CLUSTER: &str = "default";
/// Away from 6379, where the server that the demo needs may already run as a service.
const DEMO_LISTEN: &str = "127.0.0.1:7379";
/// More threads than any machine of today has cores: a typing error, not a wish.
const MAX_WORKERS: usize = 1024;
/// Every one of them is multiplied by workers and by nodes, and a node has 10,000 in all.
const MAX_CONNECTIONS_PER_NODE: usize = 64;

/// Nothing, with a mistake, where there is nobody to ask or the file can't be read at all.
pub(super) fn invocation(matches: &ArgMatches, env: Env<'_>, mistakes: &mut Mistakes) -> Option<Invocation> {
    let (name, sub) = matches.subcommand().unwrap_or(("serve", matches));
    let flags = Flags::read(sub);
    let checked = if name == "check" { sub.get_one::<String>("file") } else { None };
    let file = checked.or_else(|| sub.get_one::<String>("config")).cloned();
    let tree = file.as_deref().and_then(|file| match std::fs::read_to_string(file) {
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
    let clusters = clusters(reader, top, demo);
    for cluster in &clusters {
        refuse_too_few_connections(reader, cluster, workers);
    }
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

fn clusters(reader: &mut Reader<'_>, top: &Section<'_>, demo: bool) -> Vec<Arc<ClusterConfig>> {
    let (at, nodes) = match top.find("clusters") {
        None => return vec![Arc::new(cluster(reader, ONLY_CLUSTER, &Section::default(), top, demo))],
        Some((at, node)) => {
            let section = node.section(&at, reader.mistakes);
            (at, section.entries())
        }
    };
    if nodes.is_empty() {
        reader.mistakes.add(at, "names no cluster: write `NAME:` and its seeds below");
    } else if nodes.len() > 1 {
        refuse_flags_for_one(reader, nodes.len());
    }
    let mut clusters = Vec::with_capacity(nodes.len());
    for (name, node) in nodes {
        let section = node.section(&top.at(&format!("clusters.{name}")), reader.mistakes);
        keys::check(&section, Scope::Cluster, reader.mistakes);
        clusters.push(Arc::new(cluster(reader, name, &section, top, demo)));
    }
    clusters
}

/// A flag that describes one cluster says nothing when there are several.
fn refuse_flags_for_one(reader: &mut Reader<'_>, clusters: usize) {
    let of_one = |setting: &&Setting| setting.scope == Scope::Cluster && !setting.general;
    for flag in settings::SETTINGS.iter().filter(of_one).filter_map(|setting| setting.flag) {
        if reader.flags.values(flag).is_some() {
            let text = format!("which of the {clusters} clusters in the file is meant? Write it there");
            reader.mistakes.add(format!("--{flag}"), text);
        }
    }
    for variable in [CLUSTER_PASSWORD, CLUSTER_USER] {
        if (reader.env)(variable).is_some() {
            let right =
                format!("which of the {clusters} clusters in the file is meant? Write `${{NAME}}` there");
            reader.mistakes.add(variable, right);
        }
    }
}

fn cluster(
    reader: &mut Reader<'_>,
    name: &str,
    section: &Section<'_>,
    top: &Section<'_>,
    demo: bool,
) -> ClusterConfig {
    let written = reader.texts(&settings::SEEDS, &[section]);
    match (written.first(), demo) {
        (Some(seed), true) => {
            reader.mistakes.add(&seed.at, "the demo starts a cluster of its own: leave the seeds out");
        }
        (None, false) => {
            let at = match (section.is_absent(), top.is_absent()) {
                (false, _) => section.at(settings::SEEDS.key),
                (true, false) => top.at(&settings::SEEDS.path()),
                (true, true) => "--seeds".to_owned(),
            };
            reader
                .mistakes
                .add(at, "name at least one node of the cluster, as in 10.0.0.1:6379,10.0.0.2:6379");
        }
        _ => {}
    }
    let (seeds, mut known) = (reader.parsed::<NodeAddr>(written, ""), HashSet::new());
    let both = [section, top];
    ClusterConfig {
        name: name.into(),
        seeds: seeds.into_iter().filter(|seed| known.insert(seed.clone())).collect(),
        auth: cluster_auth(reader, section),
        address_map: address_map(reader, section),
        connections_per_node: reader
            .number(&settings::CONNECTIONS_PER_NODE, &both, MAX_CONNECTIONS_PER_NODE)
            .unwrap_or(1),
        limits: ClusterLimits::read(reader, &both),
    }
}

fn address_map(reader: &mut Reader<'_>, section: &Section<'_>) -> AddressMap {
    let mut map = AddressMap::default();
    for Written { at, text } in reader.texts(&settings::ADDRESS_MAP, &[section]) {
        if let Err(error) = map.add(&text) {
            reader.mistakes.add(at, error.to_string());
        }
    }
    map
}

/// Each worker has its shared links for either version of the protocol, and the topology is asked over one more.
fn refuse_too_few_connections(reader: &mut Reader<'_>, cluster: &ClusterConfig, workers: usize) {
    let (most, each) = (cluster.limits.max_connections_per_node, cluster.connections_per_node);
    let needed = 2 * workers * each + 1;
    // A value that could not be read is told already.
    if (1..needed).contains(&most) {
        let text = format!(
            "{most} are fewer than the {needed} that cluster {} needs: 2 × {workers} workers × {each} + 1",
            cluster.name
        );
        reader.mistakes.add("max_connections_per_node", text);
    }
}

fn cluster_auth(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<ClusterAuth> {
    let before = reader.mistakes.count();
    let passwords = reader.secrets(&settings::CLUSTER_PASSWORDS, CLUSTER_PASSWORD, section);
    let written = reader.text(settings::CLUSTER_USER.key, settings::CLUSTER_USER.flag, &[section]);
    let from_env =
        || Some(Written { at: CLUSTER_USER.into(), text: (reader.env)(CLUSTER_USER)?.into_string().ok()? });
    let flag = written.as_ref().is_some_and(|written| written.at.starts_with("--"));
    let user = if flag { written } else { from_env().or(written) };
    if let (true, Some(user)) = (passwords.is_empty() && reader.mistakes.count() == before, &user) {
        reader.mistakes.add(
            &user.at,
            format!(
                "a user needs a password: give `passwords`, --cluster-password-file or {CLUSTER_PASSWORD}"
            ),
        );
    }
    let user = user.map(|user| user.text);
    (!passwords.is_empty()).then_some(ClusterAuth { user, passwords })
}

fn listeners(
    reader: &mut Reader<'_>,
    top: &Section<'_>,
    clusters: &[Arc<ClusterConfig>],
    demo: bool,
) -> Vec<ListenerConfig> {
    let mut listeners = Vec::new();
    let given = top.find("listeners").filter(|_| reader.flags.values("listen").is_none());
    match given {
        None => {
            let mut written = reader.texts(&settings::LISTEN, &[]);
            if written.is_empty() {
                let text = if demo { DEMO_LISTEN } else { settings::LISTEN.default };
                written.push(Written { at: top.at("listeners"), text: text.to_owned() });
            }
            for written in written {
                listeners.extend(listener(reader, written, &Section::default(), top, clusters));
            }
        }
        Some((_, Node::List(nodes))) if !nodes.is_empty() => {
            for (i, node) in nodes.iter().enumerate() {
                let at = top.at(&format!("listeners[{i}]"));
                let section = node.section(&at, reader.mistakes);
                keys::check(&section, Scope::Listener, reader.mistakes);
                match reader.text(settings::LISTEN.key, None, &[&section]) {
                    Some(written) => listeners.extend(listener(reader, written, &section, top, clusters)),
                    None => reader.mistakes.add(at, "its `address` is missing: HOST:PORT or unix:/path"),
                }
            }
        }
        Some((at, _)) => reader.mistakes.add(at, "must be a list of sections, each with an `address`"),
    }
    listeners
}

fn listener(
    reader: &mut Reader<'_>,
    written: Written,
    section: &Section<'_>,
    top: &Section<'_>,
    clusters: &[Arc<ClusterConfig>],
) -> Option<ListenerConfig> {
    let (before, at) = (reader.mistakes.count(), written.at.clone());
    let passwords = reader.secrets(&settings::CLIENT_PASSWORDS, CLIENT_PASSWORD, section);
    let asks = !passwords.is_empty() || reader.mistakes.count() > before;
    let both = [section, top];
    let session = SessionConfig {
        passwords,
        ordering: reader.choose(
            &settings::ORDERING,
            &both,
            [("key", Ordering::Key), ("connection", Ordering::Connection)],
        ),
        on_indoubt: reader.choose(
            &settings::ON_INDOUBT,
            &both,
            [("error", OnIndoubt::Error), ("disconnect", OnIndoubt::Disconnect)],
        ),
        limits: SessionLimits::read(reader, &both),
    };
    let unprotected = reader.is_on(&settings::UNPROTECTED, &[section]);
    let cluster = cluster_of(reader, &at, section, clusters);
    let mode = mode(reader, section);
    let addr: ListenAddr = reader.parsed(vec![written], "; a socket is written unix:/path").pop()?;
    if !asks && !unprotected && !addr.is_local() {
        let text = format!(
            "{addr} is open to other machines and no client password is set: whoever reaches it could do \
             all that the proxy's own login at the cluster allows. Set one with `passwords`, \
             --client-password-file or {CLIENT_PASSWORD}, listen on 127.0.0.1 or unix:/path, or take the risk with \
             --unprotected"
        );
        reader.mistakes.add(&at, text);
    }
    if mode.is_some() && !matches!(addr, ListenAddr::Unix(_)) {
        reader.mistakes.add(section.at("mode"), "only a Unix socket has a mode");
    }
    Some(ListenerConfig { addr, mode, cluster, session: Arc::new(session) })
}

fn cluster_of(
    reader: &mut Reader<'_>,
    at: &str,
    section: &Section<'_>,
    clusters: &[Arc<ClusterConfig>],
) -> usize {
    let names = || clusters.iter().map(|cluster| &*cluster.name).collect::<Vec<_>>().join(", ");
    match reader.text(settings::LISTEN_CLUSTER.key, None, &[section]) {
        None if clusters.len() > 1 => {
            reader
                .mistakes
                .add(at, format!("which cluster does it serve? Write `cluster:` with one of {}", names()));
            0
        }
        None => 0,
        Some(Written { at, text }) => {
            clusters.iter().position(|cluster| *cluster.name == text).unwrap_or_else(|| {
                reader
                    .mistakes
                    .add(at, format!("`{text}` is no cluster of this file; there are {}", names()));
                0
            })
        }
    }
}

/// Octal digits, as chmod takes them.
fn mode(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<u32> {
    let Written { at, text } = reader.text(settings::LISTEN_MODE.key, None, &[section])?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
    if mode.is_none() {
        reader.mistakes.add(at, format!("`{text}` are no permissions such as \"0660\""));
    }
    mode
}

fn admin(reader: &mut Reader<'_>, top: &Section<'_>) -> Option<ListenAddr> {
    let Setting { key, flag, default, .. } = settings::ADMIN;
    let written = reader
        .text(key, flag, &[top])
        .unwrap_or_else(|| Written { at: key.to_owned(), text: default.to_owned() });
    if written.text == "off" {
        return None;
    }
    reader.parsed(vec![written], "; `off` serves no metrics").pop()
}

fn log_level(reader: &mut Reader<'_>, top: &Section<'_>) -> Targets {
    let Setting { key, flag, default, .. } = settings::LOG_LEVEL;
    let Written { at, text } = reader
        .text(key, flag, &[top])
        .unwrap_or_else(|| Written { at: key.to_owned(), text: default.to_owned() });
    // `Targets` alone would read a misspelt level as the name of a module.
    let levels = |text: &str| text.contains('=') || text.trim().parse::<LevelFilter>().is_ok();
    let read = text.split(',').all(levels).then(|| text.parse().ok()).flatten();
    read.unwrap_or_else(|| {
        let right = "write error, warn, info, debug or trace, or `info,slotmux::topology=debug`";
        reader.mistakes.add(at, format!("`{text}` is no level: {right}"));
        Targets::new()
    })
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
