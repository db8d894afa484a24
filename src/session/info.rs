//! INFO: what the nodes say, as of the one server that clients see, and a section about the proxy.

use super::Worker;
use super::local::server_name;
use crate::protocol::Args;
use crate::route::info::merge;
use crate::topology::snapshot::ShardFacts;

/// Which sections a client asks for.
#[derive(Debug)]
pub(super) struct Sections(Vec<String>);

impl Sections {
    pub(super) fn of(args: &Args<'_>) -> Self {
        Sections(args.iter().skip(1).map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect())
    }

    fn has(&self, name: &str) -> bool {
        let wanted = |word: &String| ["all", "default", "everything", name].contains(&&**word);
        self.0.is_empty() || self.0.iter().any(wanted)
    }
}

/// The whole text; `texts` is what those of `nodes` say that answered.
pub(super) fn text(worker: &Worker, sections: &Sections, texts: &[String], nodes: usize) -> String {
    let memory = &worker.backend.memory;
    let clients = memory.clients().to_string();
    let own = [("connected_clients", clients.clone()), ("maxclients", memory.max_clients().to_string())];
    let stand_in = stand_in(worker, sections);
    // What clients look at when they connect is there also when no node answers.
    let merged = merge(if texts.is_empty() { std::slice::from_ref(&stand_in) } else { texts }, &own);
    if !sections.has("slotmux") {
        return merged;
    }
    let snapshot = worker.topology.snapshot();
    let snapshot = snapshot.as_deref();
    let owners = |shards: Vec<ShardFacts<'_>>| shards.iter().filter(|shard| !shard.slots.is_empty()).count();
    let lines = [
        ("slotmux_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("slotmux_process_id", std::process::id().to_string()),
        ("slotmux_uptime_in_seconds", worker.backend.metrics.begun.elapsed().as_secs().to_string()),
        ("slotmux_connected_clients", clients),
        ("slotmux_cluster", worker.config.name.to_string()),
        ("slotmux_cluster_state", snapshot.map_or("unknown", |snapshot| snapshot.state.label()).to_owned()),
        ("slotmux_slots_covered", snapshot.map_or(0, |snapshot| snapshot.table.covered()).to_string()),
        ("slotmux_topology_version", snapshot.map_or(0, |snapshot| snapshot.version).to_string()),
        ("slotmux_shards", snapshot.map_or(0, |snapshot| owners(snapshot.shards())).to_string()),
        ("slotmux_shards_asked", nodes.to_string()),
        ("slotmux_shards_answering", texts.len().to_string()),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
    let between = if merged.is_empty() { "" } else { "\r\n" };
    format!("{merged}{between}# Slotmux\r\n{lines}")
}

fn stand_in(worker: &Worker, sections: &Sections) -> String {
    let server = format!(
        "redis_version:{}\r\nredis_mode:standalone\r\nprocess_id:{}\r\n",
        server_name(worker).version,
        std::process::id(),
    );
    let all = [
        ("Server", &*server),
        ("Clients", "connected_clients:0\r\nmaxclients:0\r\n"),
        // Clients wait with their first command while it is 1.
        ("Persistence", "loading:0\r\nasync_loading:0\r\n"),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n"),
        ("Cluster", "cluster_enabled:0\r\n"),
    ];
    let wanted = all.iter().filter(|(name, _)| sections.has(&name.to_ascii_lowercase()));
    wanted.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect::<Vec<_>>().join("\r\n")
}
