//! The listeners of a configuration.

use std::sync::Arc;

use super::file::{Node, Section};
use super::read::{Reader, Written};
use super::settings::{self, Scope};
use super::{
    ClusterConfig, CrossSlot, Gap, ListenerConfig, OnIndoubt, Ordering, SessionConfig, SessionLimits, keys,
};
use crate::net::{ListenAddr, NodeAddr};

const CLIENT_PASSWORD: &str = "SLOTMUX_CLIENT_PASSWORD";
/// Away from 6379, where the server that the demo needs may already run as a service.
const DEMO_LISTEN: &str = "127.0.0.1:7379";

/// The listeners that flags name, or else the file, or else the usual one.
pub(super) fn listeners(
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
                let at = written.at.clone();
                let listener = listener(reader, written, &Section::default(), top, clusters);
                add(&mut listeners, listener, at, reader);
            }
        }
        Some((_, Node::List(nodes))) if !nodes.is_empty() => {
            for (i, node) in nodes.iter().enumerate() {
                let at = top.at(&format!("listeners[{i}]"));
                let section = node.section(&at, reader.mistakes);
                keys::check(&section, Scope::Listener, reader.mistakes);
                if !matches!(node, Node::Map(_)) {
                    continue;
                }
                match reader.text(settings::LISTEN.key, None, &[&section]) {
                    Some(written) => {
                        let at = written.at.clone();
                        let listener = listener(reader, written, &section, top, clusters);
                        add(&mut listeners, listener, at, reader);
                    }
                    None => reader.mistakes.add(at, "its `address` is missing: HOST:PORT or unix:/path"),
                }
            }
        }
        Some((at, _)) => reader.mistakes.add(at, "must be a list of sections, each with an `address`"),
    }
    listeners
}

/// Adds a listener, unless another one has its address; port 0 is another port for each.
fn add(
    listeners: &mut Vec<ListenerConfig>,
    new: Option<ListenerConfig>,
    at: String,
    reader: &mut Reader<'_>,
) {
    let Some(new) = new else { return };
    let is_free = matches!(new.addr, ListenAddr::Tcp(_, 0));
    if !is_free && listeners.iter().any(|other| other.addr == new.addr) {
        reader.mistakes.add(at, format!("{} is the address of another listener already", new.addr));
    }
    listeners.push(new);
}

fn listener(
    reader: &mut Reader<'_>,
    written: Written,
    section: &Section<'_>,
    top: &Section<'_>,
    clusters: &[Arc<ClusterConfig>],
) -> Option<ListenerConfig> {
    let at = written.at.clone();
    let passwords = reader.secrets(&settings::CLIENT_PASSWORDS, CLIENT_PASSWORD, section);
    let asks = passwords.as_ref().is_none_or(|passwords| !passwords.is_empty());
    let both = [section, top];
    let session = SessionConfig {
        passwords: passwords.unwrap_or_default(),
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
        across: reader.choose(
            &settings::CROSS_SLOT_TRANSACTIONS,
            &both,
            [("error", CrossSlot::Error), ("per_slot", CrossSlot::PerSlot)],
        ),
        announce: announce(reader, section),
        gap: reader.choose(
            &settings::PUBSUB_GAP,
            &both,
            [("disconnect", Gap::Disconnect), ("resubscribe", Gap::Resubscribe)],
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

fn announce(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<NodeAddr> {
    let written = reader.text(settings::ANNOUNCE.key, None, &[section])?;
    reader.parsed(vec![written], "").pop()
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
