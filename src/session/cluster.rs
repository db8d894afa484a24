//! CLUSTER, for clients that know of clusters: the proxy is the one node, and owns all slots.

use super::Session;
use super::local::quoting;
use crate::command::ClusterLocal;
use crate::net::{Local, NodeAddr};
use crate::protocol::{Args, Protocol, write};
use crate::topology::{SLOTS, slot_of};

/// A server's bus port is this much above its own. Nobody listens there, and no client connects to it.
const BUS_PORT: u16 = 10_000;

/// Appends the reply to a client of this session.
pub(super) fn answer(
    what: ClusterLocal,
    args: &Args<'_>,
    session: &Session,
    protocol: Protocol,
    out: &mut Vec<u8>,
) {
    let id =
        |salt| id(salt, &node(session).map_or_else(|| session.ends.local_text(), |node| node.to_string()));
    match what {
        ClusterLocal::Info => write::text(out, &info(), protocol),
        ClusterLocal::Keyslot => write::integer(out, i64::from(slot_of(args.get(2)))),
        ClusterLocal::Myid => write::bulk(out, id(NODE).as_bytes()),
        ClusterLocal::Myshardid => write::bulk(out, id(SHARD).as_bytes()),
        ClusterLocal::Replicas if args.get(2) == id(NODE).as_bytes() => write::array(out, 0),
        ClusterLocal::Replicas => quoting(out, "ERR Unknown node ", args.get(2), ""),
        ClusterLocal::Nodes | ClusterLocal::Shards | ClusterLocal::Slots => match node(session) {
            None => write::error(out, NO_ADDRESS),
            Some(node) if what == ClusterLocal::Slots => slots(&node, &id(NODE), protocol, out),
            Some(node) if what == ClusterLocal::Shards => shards(&node, &id(NODE), protocol, out),
            Some(node) => write::text(out, &nodes(&node, &id(NODE)), protocol),
        },
    }
}

const NO_ADDRESS: &str = "ERR clients of a Unix socket cannot be told which node to connect to: set `announce: HOST:PORT` \
                          for this listener";

/// What the listener announces, or else where this client is connected to.
fn node(session: &Session) -> Option<NodeAddr> {
    match (&session.settings.announce, &session.ends.local) {
        (Some(addr), _) => Some(addr.clone()),
        (None, Local::Tcp(addr)) => Some(NodeAddr::new(addr.ip().to_string(), addr.port())),
        (None, Local::Unix(_)) => None,
    }
}

/// What an id is one of.
const NODE: u8 = 0;
const SHARD: u8 = 1;

/// Forty hexadecimal digits that follow from the address: all proxies behind one address are one node to their clients,
/// also after a restart.
fn id(of: u8, addr: &str) -> String {
    // FNV-1a, three times.
    let hash = |part: u8| {
        let bytes = addr.bytes().chain([of, part]);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    format!("{:016x}{:016x}{:08x}", hash(0), hash(1), hash(2) >> 32)
}

fn info() -> String {
    let fields = [
        ("cluster_slots_assigned", SLOTS),
        ("cluster_slots_ok", SLOTS),
        ("cluster_slots_pfail", 0),
        ("cluster_slots_fail", 0),
        ("cluster_known_nodes", 1),
        ("cluster_size", 1),
        ("cluster_current_epoch", 0),
        ("cluster_my_epoch", 0),
        ("cluster_stats_messages_sent", 0),
        ("cluster_stats_messages_received", 0),
        ("total_cluster_links_buffer_limit_exceeded", 0),
    ];
    let lines: String = fields.iter().map(|(field, value)| format!("{field}:{value}\r\n")).collect();
    format!("cluster_state:ok\r\n{lines}")
}

fn nodes(NodeAddr { host, port }: &NodeAddr, id: &str) -> String {
    let (bus, last) = (port.checked_add(BUS_PORT).unwrap_or(0), SLOTS - 1);
    format!("{id} {host}:{port}@{bus} myself,master - 0 0 0 connected 0-{last}\n")
}

fn slots(node: &NodeAddr, id: &str, protocol: Protocol, out: &mut Vec<u8>) {
    write::array(out, 1);
    write::array(out, 3);
    range(out);
    write::array(out, 4);
    write::bulk(out, node.host.as_bytes());
    write::integer(out, i64::from(node.port));
    write::bulk(out, id.as_bytes());
    write::map(out, 0, protocol);
}

fn shards(node: &NodeAddr, id: &str, protocol: Protocol, out: &mut Vec<u8>) {
    write::array(out, 1);
    write::map(out, 2, protocol);
    write::bulk(out, b"slots");
    write::array(out, 2);
    range(out);
    write::bulk(out, b"nodes");
    write::array(out, 1);
    write::map(out, 7, protocol);
    write::bulk(out, b"id");
    write::bulk(out, id.as_bytes());
    write::bulk(out, b"port");
    write::integer(out, i64::from(node.port));
    for field in ["ip", "endpoint"] {
        write::bulk(out, field.as_bytes());
        write::bulk(out, node.host.as_bytes());
    }
    write::bulk(out, b"role");
    write::bulk(out, b"master");
    write::bulk(out, b"replication-offset");
    write::integer(out, 0);
    write::bulk(out, b"health");
    write::bulk(out, b"online");
}

/// The first slot and the last.
fn range(out: &mut Vec<u8>) {
    write::integer(out, 0);
    write::integer(out, SLOTS as i64 - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_forty_digits_and_follow_from_the_address() {
        assert_eq!(id(NODE, "a:1"), id(NODE, "a:1"));
        let ids = [id(NODE, "a:1"), id(NODE, "a:2"), id(NODE, "b:1"), id(SHARD, "a:1")];
        for (i, id) in ids.iter().enumerate() {
            assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert!(!ids[..i].contains(id));
        }
    }
}
