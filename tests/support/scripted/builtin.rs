//! What a scripted node does without its script.

use super::{Action, Conn, Shared, lock};
use crate::support::slot_of;

/// The commands that a script does not see, unless it asks for them by
/// [`ScriptedNode::control`](super::ScriptedNode::control).
const CONTROL: [&str; 12] = [
    "HELLO",
    "AUTH",
    "CLIENT",
    "CLUSTER",
    "PING",
    "ASKING",
    "COMMAND",
    "INFO",
    "READONLY",
    "READWRITE",
    "SELECT",
    "RESET",
];

pub(super) fn is_control(args: &[Vec<u8>]) -> bool {
    CONTROL.contains(&word(args, 0).as_str())
}

/// The argument in capitals; empty if there is none.
fn word(args: &[Vec<u8>], i: usize) -> String {
    args.get(i).map(|arg| String::from_utf8_lossy(arg).to_ascii_uppercase()).unwrap_or_default()
}

/// Handshake, topology, and a store that all nodes share.
pub(super) fn answer(shared: &Shared, conn: &mut Conn, args: &[Vec<u8>]) -> Action {
    match word(args, 0).as_str() {
        "HELLO" => hello(conn, args),
        "CLIENT" if word(args, 1) == "ID" => Action::int(conn.id as i64),
        "CLUSTER" => cluster(shared, conn, &word(args, 1)),
        "PING" if args.len() == 1 => Action::reply("+PONG\r\n"),
        "PING" => Action::bulk(&args[1]),
        "ASKING" => {
            conn.asking = true;
            Action::ok()
        }
        "COMMAND" => Action::reply("*0\r\n"),
        "INFO" => Action::bulk("# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\n"),
        "AUTH" | "CLIENT" | "READONLY" | "READWRITE" | "SELECT" | "RESET" => Action::ok(),
        name => redirect(shared, conn, args).unwrap_or_else(|| execute(shared, name, args)),
    }
}

fn hello(conn: &mut Conn, args: &[Vec<u8>]) -> Action {
    let fields = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n";
    let id = conn.id;
    match word(args, 1).as_str() {
        "3" => conn.resp = 3,
        "2" => conn.resp = 2,
        "" => {}
        _ => return Action::error("NOPROTO unsupported protocol version"),
    }
    let head = if conn.resp == 3 { "%4" } else { "*8" };
    Action::reply(format!("{head}\r\n{fields}$5\r\nproto\r\n:{}\r\n$2\r\nid\r\n:{id}\r\n", conn.resp))
}

fn cluster(shared: &Shared, conn: &Conn, what: &str) -> Action {
    let common = lock(&shared.topology);
    let views = lock(&shared.views);
    let view = views.get(&conn.node).unwrap_or(&common);
    match what {
        "NODES" => Action::bulk(view.render(conn.node)),
        "MYID" => Action::bulk(&view.nodes[conn.node].id),
        "INFO" => {
            let state = if view.failed { "fail" } else { "ok" };
            let (known, epoch) = (view.nodes.len(), view.highest_epoch());
            Action::bulk(format!(
                "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_known_nodes:{known}\r\n\
                 cluster_current_epoch:{epoch}\r\n"
            ))
        }
        _ => Action::error(&format!("ERR unknown subcommand '{what}'. Try CLUSTER HELP.")),
    }
}

/// MOVED or CLUSTERDOWN, as the common topology has it. ASK is the scripts' business: it needs two stores.
fn redirect(shared: &Shared, conn: &Conn, args: &[Vec<u8>]) -> Option<Action> {
    let slot = slot_of(args.get(1)?);
    let topology = lock(&shared.topology);
    let importing = topology.nodes[conn.node].importing.iter().any(|(open, _)| *open == slot);
    match topology.owner(slot) {
        Some(owner) if owner == conn.node || importing && conn.asking => None,
        Some(owner) => {
            let node = &topology.nodes[owner];
            Some(Action::error(&format!("MOVED {slot} {}:{}", node.host, node.port)))
        }
        None => Some(Action::error("CLUSTERDOWN Hash slot not served")),
    }
}

fn execute(shared: &Shared, name: &str, args: &[Vec<u8>]) -> Action {
    let mut store = lock(&shared.store);
    match (name, &args[1..]) {
        ("GET", [key]) => Action::Reply(bulk_or_null(store.get(key))),
        ("SET", [key, value, ..]) => {
            store.insert(key.clone(), value.clone());
            Action::ok()
        }
        ("INCR", [key]) => {
            let old = store.get(key).and_then(|v| std::str::from_utf8(v).ok()?.parse::<i64>().ok());
            let new = old.unwrap_or(0) + 1;
            store.insert(key.clone(), new.to_string().into_bytes());
            Action::int(new)
        }
        ("APPEND", [key, more]) => {
            let value = store.entry(key.clone()).or_default();
            value.extend_from_slice(more);
            Action::int(value.len() as i64)
        }
        ("MGET", keys) => {
            let values = keys.iter().flat_map(|key| bulk_or_null(store.get(key)));
            Action::Reply([format!("*{}\r\n", keys.len()).into_bytes(), values.collect()].concat())
        }
        ("MSET", pairs) => {
            store.extend(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
            Action::ok()
        }
        ("DEL" | "UNLINK", keys) => {
            Action::int(keys.iter().filter(|key| store.remove(*key).is_some()).count() as i64)
        }
        ("EXISTS" | "TOUCH", keys) => {
            Action::int(keys.iter().filter(|key| store.contains_key(*key)).count() as i64)
        }
        _ => Action::ok(),
    }
}

fn bulk_or_null(value: Option<&Vec<u8>>) -> Vec<u8> {
    match value {
        Some(value) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
        None => b"$-1\r\n".to_vec(),
    }
}
