//! One node's view of the cluster: its answer to CLUSTER NODES.

use std::sync::Arc;

use super::slots::SLOTS;
use crate::net::NodeAddr;

/// What one node says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewNode {
    /// The node's name: 40 hexadecimal digits.
    pub id: Arc<str>,
    /// Where it is.
    pub addr: NodeAddr,
    /// Its announced host name, with the same port.
    pub alias: Option<NodeAddr>,
    /// Whether this is the node that answered.
    pub myself: bool,
    /// Whether it owns, or may own, slots.
    pub primary: bool,
    /// The config epoch of its claims.
    pub epoch: u64,
    /// The name of the primary that it replicates.
    pub replica_of: Option<Arc<str>>,
    /// The slots that it serves, as inclusive ranges.
    pub slots: Vec<(u16, u16)>,
    /// Slots that are being moved away from it or to it; only of the node that answered.
    pub open: Vec<u16>,
}

/// A line of CLUSTER NODES that is not as documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewError(String);

impl std::fmt::Display for ViewError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unexpected line in CLUSTER NODES: {}", self.0)
    }
}

/// Reads the text that `asked` answered to CLUSTER NODES (the command's page has the format).
///
/// Nodes that have no address yet or any more are left out.
///
/// # Errors
/// The first line that is not as documented.
pub fn parse(text: &str, asked: &NodeAddr) -> Result<Vec<ViewNode>, ViewError> {
    let mut nodes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || ViewError(line.chars().take(200).collect());
        if let Some(node) = parse_line(line, asked).ok_or_else(bad)? {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// `None` when the line is malformed, `Some(None)` when its node can't be used.
fn parse_line(line: &str, asked: &NodeAddr) -> Option<Option<ViewNode>> {
    let mut words = line.split(' ');
    let (id, place, flags, primary) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (_ping, _pong, epoch, _link) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let epoch = epoch.parse().ok()?;
    let has = |flag: &str| flags.split(',').any(|f| f == flag);
    if has("noaddr") || has("handshake") {
        return Some(None);
    }
    let (place, mut extra) = match place.split_once(',') {
        Some((place, extra)) => (place, extra.split(',')),
        None => (place, "".split(',')),
    };
    let (host, port) = place.split('@').next()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if port == 0 {
        return Some(None);
    }
    // A node that does not know its own address yet means the one that was asked.
    let host: Arc<str> = if host.is_empty() || host == "?" { asked.host.clone() } else { host.into() };
    let alias = extra.next().filter(|name| !name.is_empty() && !name.contains('=') && *name != "?");
    let mut node = ViewNode {
        id: id.into(),
        addr: NodeAddr { host, port },
        alias: alias.map(|name| NodeAddr { host: name.into(), port }),
        myself: has("myself"),
        primary: has("master"),
        epoch,
        replica_of: (primary != "-").then(|| primary.into()),
        slots: Vec::new(),
        open: Vec::new(),
    };
    for word in words.filter(|word| !word.is_empty()) {
        match word.strip_prefix('[') {
            Some(open) => node.open.push(slot(open.split('-').next()?)?),
            None => {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                let range = (slot(first)?, slot(last)?);
                if range.0 > range.1 {
                    return None;
                }
                node.slots.push(range);
            }
        }
    }
    Some(Some(node))
}

fn slot(text: &str) -> Option<u16> {
    text.parse().ok().filter(|slot| usize::from(*slot) < SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> NodeAddr {
        NodeAddr::new("10.0.0.9", 7000)
    }

    #[test]
    fn lines_of_all_versions_are_read() {
        let text = "\
07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,hostname4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002 master - 0 1426238316232 2 connected 5461-10922 [93-<-292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f]
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f :30003@31003,,tls-port=0,shard-id=x myself,master - 0 1426238318243 3 connected 10923-16383 [77->-e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca] 7
6ec23923021cf3ffec47632106199cb7f496ce01 fe80::1:30005@31005 master,fail? - 0 1426238316232 5 disconnected
824fe116063bc5fcf9f4ffd895bc17aee7731ac3 :0@0 master,noaddr - 0 0 6 disconnected
";
        let nodes = parse(text, &asked()).unwrap();
        assert_eq!(nodes.len(), 4);
        assert_eq!(nodes[0].alias, Some(NodeAddr::new("hostname4", 30004)));
        assert!(!nodes[0].primary && nodes[0].replica_of.is_some());
        assert_eq!(
            (nodes[1].slots.clone(), nodes[1].open.clone(), nodes[1].epoch),
            (vec![(5461, 10922)], vec![93], 2)
        );
        assert_eq!(nodes[2].addr, NodeAddr::new("10.0.0.9", 30003));
        assert_eq!(nodes[2].slots, [(10923, 16383), (7, 7)]);
        assert_eq!((nodes[2].myself, nodes[2].alias.clone(), nodes[2].open.clone()), (true, None, vec![77]));
        assert_eq!(nodes[3].addr, NodeAddr::new("fe80::1", 30005));
    }

    #[test]
    fn malformed_lines_are_named() {
        for bad in [
            "x",
            "a b c d e f g h",
            "i 1.1.1.1:1@2 master - 0 0 1 connected 16384",
            "i 1.1.1.1:1@2 master - 0 0 1 connected 5-4",
        ] {
            assert!(parse(bad, &asked()).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
