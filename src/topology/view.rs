//! One node's view of the cluster: its answers to CLUSTER NODES and CLUSTER INFO.

use std::sync::Arc;
use std::time::Instant;

use super::slots::SLOTS;
use crate::net::{AddressMap, NodeAddr};

/// A node's view, and where it came from.
#[derive(Clone, Debug)]
pub struct View {
    /// The address that was asked,
    pub from: NodeAddr,
    /// when,
    pub asked: Instant,
    /// what it said of the whole,
    pub info: Info,
    /// and of each node.
    pub nodes: Vec<ViewNode>,
}

impl View {
    /// What the node that answered says of itself.
    pub fn myself(&self) -> Option<&ViewNode> {
        self.nodes.iter().find(|node| node.myself)
    }

    /// Whether any node owns slots in it.
    pub fn has_slots(&self) -> bool {
        self.nodes.iter().any(|node| !node.slots.is_empty())
    }

    /// The epoch that the view is of: who knows of no higher one can't know of what happened since.
    pub fn epoch(&self) -> u64 {
        self.nodes.iter().map(|node| node.epoch).max().unwrap_or(0).max(self.info.epoch)
    }

    /// Whether the node refuses all slots although it sees enough primaries: one slot has no owner, and
    /// `cluster-require-full-coverage` is `yes`.
    pub fn wants_full_coverage(&self) -> bool {
        let owners = || self.nodes.iter().filter(|node| node.primary && !node.slots.is_empty());
        let seen = owners().filter(|node| node.health == Health::Good).count();
        let slots = |node: &ViewNode| node.slots.iter().map(|(a, b)| usize::from(b - a) + 1).sum::<usize>();
        let served: usize = owners().filter(|node| node.health != Health::Failed).map(slots).sum();
        self.info.is_down && seen > owners().count() / 2 && served < SLOTS
    }
}

/// What a node says of the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// It says `cluster_state:fail`: it is cut off, or not all slots are served.
    pub is_down: bool,
    /// The highest epoch that it has heard of; 0 if it does not tell.
    pub epoch: u64,
}

impl Info {
    /// Reads the text of CLUSTER INFO; what is not there counts as well.
    pub fn parse(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Self {
            is_down: field("cluster_state:").is_some_and(|state| state.trim() == "fail"),
            epoch: field("cluster_current_epoch:").and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        }
    }
}

/// How a node is, in the eyes of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing is known against it.
    #[default]
    Good,
    /// It does not answer the node that was asked: `fail?`.
    Suspected,
    /// The primaries agree that it does not answer: `fail`.
    Failed,
}

impl Health {
    /// For people and pages.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspected => "suspected",
            Self::Failed => "failed",
        }
    }
}

/// What one node says of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewNode {
    /// The node's name: 40 hexadecimal digits.
    pub id: Arc<str>,
    /// Where it is dialled.
    pub addr: NodeAddr,
    /// Where the cluster says it is, if it is dialled elsewhere.
    pub announced: Option<NodeAddr>,
    /// Its announced host name, with the port that it announces.
    pub alias: Option<NodeAddr>,
    /// The node did not know where this one is: the address is a guess.
    pub guessed: bool,
    /// Whether this is the node that answered.
    pub myself: bool,
    /// Whether it owns, or may own, slots.
    pub primary: bool,
    /// Whether it answers its peers.
    pub health: Health,
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

/// Reads the text that `asked` answered to CLUSTER NODES (the command's page has the format). `map` has the
/// addresses that are dialled elsewhere.
///
/// Nodes that have no address yet or any more are left out.
///
/// # Errors
/// The first line that is not as documented.
pub fn parse(text: &str, asked: &NodeAddr, map: &AddressMap) -> Result<Vec<ViewNode>, ViewError> {
    let mut nodes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || ViewError(line.chars().take(200).collect());
        if let Some(node) = parse_line(line, asked, map).ok_or_else(bad)? {
            nodes.push(node);
        }
        if nodes.len() > SLOTS {
            return Err(ViewError(format!("it names more than {SLOTS} nodes")));
        }
    }
    Ok(nodes)
}

/// `None` when the line is malformed, `Some(None)` when its node can't be used.
fn parse_line(line: &str, asked: &NodeAddr, map: &AddressMap) -> Option<Option<ViewNode>> {
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
    let myself = has("myself");
    let guessed = host.is_empty() || host == "?";
    let announced = match guessed {
        // A node that does not know its own address is where it was asked,
        true if myself => asked.clone(),
        // and of another one it may know no more than that.
        true => NodeAddr { host: asked.host.clone(), port },
        false => NodeAddr { host: host.into(), port },
    };
    let alias = extra.next().filter(|name| !name.is_empty() && !name.contains('=') && *name != "?");
    let alias = alias.map(|name| NodeAddr { host: name.into(), port });
    let is_dialled = guessed && myself;
    let mapped = (!is_dialled).then(|| map.map(&announced).or_else(|| map.map(alias.as_ref()?))).flatten();
    let mut node = ViewNode {
        id: id.into(),
        announced: mapped.is_some().then(|| announced.clone()),
        addr: mapped.unwrap_or(announced),
        alias,
        guessed,
        myself,
        health: match () {
            () if has("fail") => Health::Failed,
            () if has("fail?") => Health::Suspected,
            () => Health::Good,
        },
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
        let nodes = parse(text, &asked(), &AddressMap::default()).unwrap();
        assert_eq!(nodes.len(), 4);
        assert_eq!(nodes[0].alias, Some(NodeAddr::new("hostname4", 30004)));
        assert!(!nodes[0].primary && nodes[0].replica_of.is_some());
        assert_eq!(
            (nodes[1].slots.clone(), nodes[1].open.clone(), nodes[1].epoch),
            (vec![(5461, 10922)], vec![93], 2)
        );
        assert_eq!((nodes[2].addr.clone(), nodes[2].guessed), (asked(), true));
        assert_eq!(nodes[2].slots, [(10923, 16383), (7, 7)]);
        assert_eq!((nodes[2].myself, nodes[2].alias.clone(), nodes[2].open.clone()), (true, None, vec![77]));
        assert_eq!(nodes[3].addr, NodeAddr::new("fe80::1", 30005));
        assert_eq!((nodes[3].health, nodes[0].health), (Health::Suspected, Health::Good));
    }

    #[test]
    fn an_address_is_mapped_as_it_is_announced_or_by_its_host_name() {
        let mut map = AddressMap::default();
        for rule in ["10.0.0.1:7000=127.0.0.1:1", "redis-2:7000=127.0.0.1:2"] {
            map.add(rule).unwrap();
        }
        let text = "\
a 10.0.0.1:7000@17000,redis-1 master - 0 0 1 connected
b 10.0.0.2:7000@17000,redis-2 master - 0 0 1 connected
c 10.0.0.3:7000@17000 master - 0 0 1 connected
";
        let nodes = parse(text, &asked(), &map).unwrap();
        let dialled: Vec<String> = nodes.iter().map(|node| node.addr.to_string()).collect();
        assert_eq!(dialled, ["127.0.0.1:1", "127.0.0.1:2", "10.0.0.3:7000"]);
        assert_eq!(nodes[0].announced, Some(NodeAddr::new("10.0.0.1", 7000)));
        assert_eq!(nodes[1].alias, Some(NodeAddr::new("redis-2", 7000)));
        assert_eq!(nodes[2].announced, None);
    }

    #[test]
    fn a_node_says_how_the_cluster_is() {
        let info = "cluster_enabled:1\r\ncluster_state:fail\r\ncluster_current_epoch:7\r\n";
        assert_eq!(Info::parse(info), Info { is_down: true, epoch: 7 });
        assert_eq!(Info::parse(&info.replace("fail", "ok")), Info { is_down: false, epoch: 7 });
        assert_eq!(Info::parse("# nothing"), Info::default());
    }

    #[test]
    fn who_refuses_all_slots_for_one_is_told_from_who_is_cut_off() {
        let view = |text: &str| View {
            from: asked(),
            asked: Instant::now(),
            info: Info { is_down: true, epoch: 1 },
            nodes: parse(text, &asked(), &AddressMap::default()).unwrap(),
        };
        let line = |id: u16, flags: &str, slots: &str| {
            format!("{id} 10.0.0.1:{id}@1 {flags} - 0 0 1 connected {slots}\n")
        };
        let three = |flags: [&str; 3]| {
            [line(1, flags[0], "0-100"), line(2, flags[1], "101-200"), line(3, flags[2], "201-16383")]
                .concat()
        };
        let well = three(["myself,master", "master", "master"]);
        assert!(!view(&well).wants_full_coverage());
        assert!(view(&well.replace(" 0-100", " 0-99")).wants_full_coverage());
        assert!(view(&three(["myself,master", "master", "master,fail"])).wants_full_coverage());
        assert!(!view(&three(["myself,master", "master,fail", "master,fail"])).wants_full_coverage());
        assert!(!view(&three(["myself,master", "master,fail?", "master,fail?"])).wants_full_coverage());
    }

    #[test]
    fn malformed_lines_are_named() {
        for bad in [
            "x",
            "a b c d e f g h",
            "i 1.1.1.1:1@2 master - 0 0 1 connected 16384",
            "i 1.1.1.1:1@2 master - 0 0 1 connected 5-4",
        ] {
            assert!(
                parse(bad, &asked(), &AddressMap::default()).unwrap_err().to_string().contains(bad),
                "{bad}"
            );
        }
    }
}
