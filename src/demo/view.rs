//! One node's view of its cluster: the lines of CLUSTER NODES.

use std::ops::RangeInclusive;

/// One line of CLUSTER NODES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLine {
    /// The node's id, 40 hexadecimal digits.
    pub id: String,
    /// The client port; 0 while the address is unknown.
    pub port: u16,
    /// `myself`, `master`, `slave`, `fail?`, `fail`, `handshake`, `noaddr` …
    pub flags: Vec<String>,
    /// The id of the primary that it copies.
    pub primary: Option<String>,
    /// Its config epoch, or its primary's.
    pub epoch: u64,
    /// The cluster bus's link to it is up.
    pub connected: bool,
    /// The slots that it owns.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Slots that it is giving away or taking over, as written: `[93->-<id>]`, `[93-<-<id>]`.
    pub open: Vec<String>,
}

impl NodeLine {
    /// All lines of a CLUSTER NODES reply; lines that are not understood are left out.
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }

    /// Whether the line has this flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// Whether the node is known, reachable and not suspected.
    pub fn is_healthy(&self) -> bool {
        let ill = ["fail", "fail?", "handshake", "noaddr"];
        (self.connected || self.is("myself")) && !ill.iter().any(|flag| self.is(flag))
    }

    /// Whether the node says that it owns the slot.
    pub fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }

    /// How many slots it owns.
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|range| range.len()).sum()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let id = words.next()?.to_owned();
        let address = words.next()?.split('@').next()?;
        let port = address.rsplit(':').next()?.parse().ok()?;
        let flags = words.next()?.split(',').map(str::to_owned).collect();
        let primary = words.next().filter(|&id| id != "-").map(str::to_owned);
        let epoch = words.nth(2)?.parse().ok()?;
        let connected = words.next()? == "connected";
        let (open, owned): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('['));
        let slots = owned.into_iter().map(range).collect::<Option<_>>()?;
        let open = open.into_iter().map(str::to_owned).collect();
        Some(Self { id, port, flags, primary, epoch, connected, slots, open })
    }
}

fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    Some(from.parse().ok()?..=to.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_open_slots() {
        let line =
            "07c3 127.0.0.1:30004@31004,host myself,master - 0 1426238317239 4 connected 0-9 93 [93->-e7d1]";
        let node = NodeLine::parse_all(line).remove(0);
        assert_eq!((node.port, node.epoch, node.slot_count()), (30004, 4, 11));
        assert!(node.is_healthy() && node.owns(93) && !node.owns(92));
        assert_eq!(node.open, ["[93->-e7d1]"]);
        assert_eq!(node.primary, None);
    }

    #[test]
    fn a_replica_in_handshake_is_not_healthy() {
        let line = "07c3 127.0.0.1:30004@31004 slave,handshake e7d1 0 0 0 disconnected";
        let node = NodeLine::parse_all(line).remove(0);
        assert_eq!(node.primary.as_deref(), Some("e7d1"));
        assert!(!node.is_healthy());
    }
}
