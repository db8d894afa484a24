//! What CLUSTER SHARDS and CLUSTER SLOTS add to CLUSTER NODES: further names of nodes, and zones.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::Health;
use crate::protocol::Value;

/// Replies nest no deeper: a shard, its nodes, a node's fields. Further down nothing is looked at.
const DEPTH: usize = 6;

/// What these commands tell of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Host names and addresses by which a redirect may call it.
    pub hosts: Vec<Arc<str>>,
    /// Its port without TLS, if it has one.
    pub port: Option<u16>,
    /// Its port with TLS, if it has one.
    pub tls_port: Option<u16>,
    /// Where it stands, if it tells.
    pub zone: Option<Arc<str>>,
    /// How it is. A node that still loads counts as suspected.
    pub health: Health,
}

/// What is known of nodes besides CLUSTER NODES, by their ids.
pub type Names = HashMap<Arc<str>, Named>;

/// Reads a whole reply to CLUSTER SHARDS, in RESP2 or RESP3; `None` if it is none.
pub fn shards(reply: &[u8]) -> Option<Names> {
    let Value::List(shards) = Value::read(reply, DEPTH)? else { return None };
    let mut names = Names::new();
    for shard in &shards {
        let Some(Value::List(nodes)) = shard.field("nodes") else { return None };
        for node in nodes {
            let id = node.field("id")?.text()?;
            let hosts = ["hostname", "endpoint", "ip"].map(|name| node.field(name).and_then(Value::text));
            let health = match node.field("health").and_then(Value::text) {
                Some("fail" | "failed") => Health::Failed,
                Some("loading") => Health::Suspected,
                _ => Health::Good,
            };
            let zone = node.field("availability-zone").and_then(Value::text);
            let named = Named {
                hosts: usable(hosts),
                port: node.field("port").and_then(port),
                tls_port: node.field("tls-port").and_then(port),
                zone: zone.filter(|zone| !zone.is_empty()).map(Into::into),
                health,
            };
            names.insert(id.into(), named);
        }
    }
    Some(names)
}

/// Reads a whole reply to CLUSTER SLOTS, in RESP2 or RESP3; `None` if it is none. Servers before 4.0 name no
/// ids: there is nothing to learn from them.
pub fn slots(reply: &[u8]) -> Option<Names> {
    let Value::List(ranges) = Value::read(reply, DEPTH)? else { return None };
    let mut names = Names::new();
    for range in &ranges {
        let Value::List(range) = range else { return None };
        for node in range.get(2..)? {
            let Value::List(node) = node else { return None };
            let [endpoint, at, rest @ ..] = &node[..] else { return None };
            let Some(id) = rest.first().and_then(Value::text) else { continue };
            let more = |name| rest.get(1).and_then(|more| more.field(name)).and_then(Value::text);
            let hosts = usable([more("hostname"), endpoint.text(), more("ip")]);
            names.insert(id.into(), Named { hosts, port: port(at), ..Named::default() });
        }
    }
    Some(names)
}

/// An empty name and `?` say nothing.
fn usable(hosts: [Option<&str>; 3]) -> Vec<Arc<str>> {
    let mut usable: Vec<Arc<str>> = Vec::new();
    for host in hosts.into_iter().flatten().filter(|host| !host.is_empty() && *host != "?") {
        if usable.iter().all(|known| **known != *host) {
            usable.push(host.into());
        }
    }
    usable
}

fn port(value: &Value<'_>) -> Option<u16> {
    value.number().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(named: &Named) -> Vec<&str> {
        named.hosts.iter().map(|host| &**host).collect()
    }

    #[test]
    fn shards_name_nodes_in_both_protocols() {
        let fields = "$2\r\nid\r\n$1\r\na\r\n$4\r\nport\r\n:7000\r\n$8\r\ntls-port\r\n:7001\r\n\
             $2\r\nip\r\n$8\r\n10.0.0.1\r\n$8\r\nendpoint\r\n$5\r\nfoo.x\r\n$8\r\nhostname\r\n$5\r\nfoo.x\r\n\
             $17\r\navailability-zone\r\n$2\r\nz1\r\n$6\r\nhealth\r\n$6\r\nonline\r\n";
        let slots = "$5\r\nslots\r\n*2\r\n:0\r\n:100\r\n$5\r\nnodes\r\n";
        for reply in [
            format!("*1\r\n*4\r\n{slots}*1\r\n*16\r\n{fields}"),
            format!("*1\r\n%2\r\n{slots}*1\r\n%8\r\n{fields}"),
        ] {
            let names = shards(reply.as_bytes()).unwrap();
            let named = &names["a"];
            assert_eq!(hosts(named), ["foo.x", "10.0.0.1"]);
            assert_eq!(
                (named.port, named.tls_port, named.zone.as_deref()),
                (Some(7000), Some(7001), Some("z1"))
            );
            assert_eq!(named.health, Health::Good);
        }
    }

    #[test]
    fn slots_name_nodes_as_far_as_the_server_does() {
        let reply = "*2\r\n*4\r\n:0\r\n:1\r\n*4\r\n$5\r\nfoo.x\r\n:7000\r\n$1\r\na\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n\
             *3\r\n$-1\r\n:7001\r\n$1\r\nb\r\n*3\r\n:2\r\n:3\r\n*2\r\n$8\r\n10.0.0.9\r\n:7002\r\n";
        let names = slots(reply.as_bytes()).unwrap();
        assert_eq!((hosts(&names["a"]), names["a"].port), (vec!["foo.x", "10.0.0.1"], Some(7000)));
        assert_eq!((hosts(&names["b"]), names.len()), (vec![], 2));
    }

    #[test]
    fn what_is_no_such_reply_is_none() {
        for reply in
            ["", "-ERR x\r\n", "*1\r\n", "*-1\r\n", "*1\r\n*0\r\nx", "$3\r\nfoo\r\n", "*9999999999999\r\n"]
        {
            assert!(shards(reply.as_bytes()).is_none() && slots(reply.as_bytes()).is_none(), "{reply}");
        }
        let deep = "*1\r\n".repeat(100_000);
        assert!(shards(deep.as_bytes()).is_none());
    }
}
