//! The clusters of a configuration.

use std::collections::HashSet;
use std::sync::Arc;

use super::file::Section;
use super::read::{Reader, Written};
use super::settings::{self, Scope, Setting};
use super::{ClusterAuth, ClusterConfig, ClusterLimits, keys};
use crate::net::{AddressMap, NodeAddr};

const CLUSTER_PASSWORD: &str = "SLOTMUX_CLUSTER_PASSWORD";
const CLUSTER_USER: &str = "SLOTMUX_CLUSTER_USER";
/// The name of a cluster that flags alone describe.
const ONLY_CLUSTER: &str = "default";
/// Every one of them is multiplied by workers and by nodes, and a node has 10,000 in all.
const MAX_CONNECTIONS_PER_NODE: usize = 64;

/// The clusters that the file names, or the one that flags describe. Only a demo's have no seeds.
pub(super) fn clusters(
    reader: &mut Reader<'_>,
    top: &Section<'_>,
    workers: usize,
    demo: bool,
) -> Vec<Arc<ClusterConfig>> {
    let read = |reader: &mut Reader<'_>, name: &str, section: &Section<'_>| {
        let cluster = cluster(reader, name, section, top, demo);
        refuse_too_few_connections(reader, &cluster, &[section, top], workers);
        Arc::new(cluster)
    };
    let (at, nodes) = match top.find("clusters") {
        None => return vec![read(reader, ONLY_CLUSTER, &Section::default())],
        Some((at, node)) => {
            let section = node.section(&at, reader.mistakes);
            (at, section.entries())
        }
    };
    if nodes.is_empty() {
        reader.mistakes.add(&at, "names no cluster: write `NAME:` and its seeds below");
    } else if nodes.len() > 1 {
        refuse_flags_for_one(reader, nodes.len());
    }
    let mut clusters = Vec::with_capacity(nodes.len());
    for (name, node) in nodes {
        let section = node.section(&top.at(&format!("clusters.{name}")), reader.mistakes);
        keys::check(&section, Scope::Cluster, reader.mistakes);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_plain) {
            let text = format!("{name:?} is no name for a cluster: write letters, digits, `-`, `_` and `.`");
            reader.mistakes.add(&at, text);
        }
        clusters.push(read(reader, name, &section));
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
        admin_commands: reader.is_on(&settings::ADMIN_COMMANDS, &both),
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

/// Each worker has its shared links for either version of the protocol, one each for subscriptions, MONITOR and WAIT, and the
/// topology is asked over another one.
fn refuse_too_few_connections(
    reader: &mut Reader<'_>,
    cluster: &ClusterConfig,
    sections: &[&Section<'_>; 2],
    workers: usize,
) {
    let (most, each) = (cluster.limits.max_connections_per_node, cluster.connections_per_node);
    let needed = cluster.shared_connections(workers);
    // A value that could not be read is told already.
    if (1..needed).contains(&most) {
        let text = format!(
            "{most} are fewer than the {needed} that cluster {} needs: {workers} workers × (2 × {each} + 3) + 1",
            cluster.name
        );
        let (key, flag) = ("max_connections_per_node", "max-connections-per-node");
        // Or else the default is too few for so many workers.
        let default = if sections[1].is_absent() { format!("--{flag}") } else { sections[1].at(key) };
        let at = reader.text(key, Some(flag), sections).map_or(default, |written| written.at);
        reader.mistakes.add(at, text);
    }
}

fn cluster_auth(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<ClusterAuth> {
    let passwords = reader.secrets(&settings::CLUSTER_PASSWORDS, CLUSTER_PASSWORD, section);
    let written = reader.text(settings::CLUSTER_USER.key, settings::CLUSTER_USER.flag, &[section]);
    let flag = written.as_ref().is_some_and(|written| written.at.starts_with("--"));
    let user = match (reader.env)(CLUSTER_USER).map(|user| user.into_string()) {
        Some(Ok(text)) if !flag => Some(Written { at: CLUSTER_USER.into(), text }),
        Some(Err(_)) if !flag => {
            reader.mistakes.add(CLUSTER_USER, "is no UTF-8, as the name of a user is");
            None
        }
        _ => written,
    };
    if let (Some([]), Some(user)) = (passwords.as_deref(), &user) {
        reader.mistakes.add(
            &user.at,
            format!(
                "a user needs a password: give `passwords`, --cluster-password-file or {CLUSTER_PASSWORD}"
            ),
        );
    }
    let user = user.map(|user| user.text);
    passwords.filter(|passwords| !passwords.is_empty()).map(|passwords| ClusterAuth { user, passwords })
}
