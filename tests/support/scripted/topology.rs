//! What the scripted nodes say about their cluster.

use std::{fmt::Write, ops::RangeInclusive};

const SLOTS: usize = 16_384;

/// A cluster's layout; all of it may be edited.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    pub nodes: Vec<TopologyNode>,
    /// The number of each slot's owner.
    pub owners: Vec<Option<usize>>,
    /// `cluster_state` of CLUSTER INFO.
    pub failed: bool,
}

/// One node, as CLUSTER NODES describes it.
#[derive(Clone, Debug)]
pub struct TopologyNode {
    pub id: String,
    /// As written: an address, empty, `?`, or an IPv6 address.
    pub host: String,
    pub port: u16,
    pub hostname: Option<String>,
    /// The number of the node that it copies.
    pub primary: Option<usize>,
    pub epoch: u64,
    /// Further flags: `fail`, `fail?`, `noaddr` …
    pub flags: Vec<String>,
    pub connected: bool,
    /// Slots that it gives away, and to whom; only its own line shows them.
    pub migrating: Vec<(u16, usize)>,
    /// Slots that it takes over, and from whom.
    pub importing: Vec<(u16, usize)>,
    /// CLUSTER NODES leaves it out.
    pub hidden: bool,
}

impl Topology {
    /// Primaries that share the slots evenly, with epochs from 1.
    pub fn even(ports: &[u16]) -> Self {
        let mut topology = Self { owners: vec![None; SLOTS], ..Self::default() };
        for &port in ports {
            topology.add(port, None);
        }
        for (slot, owner) in topology.owners.iter_mut().enumerate() {
            *owner = Some(slot * ports.len() / SLOTS);
        }
        topology
    }

    /// One more node without slots, with the highest epoch if it is a primary.
    pub fn add(&mut self, port: u16, primary: Option<usize>) -> usize {
        let epoch = match primary {
            Some(primary) => self.nodes[primary].epoch,
            None => self.highest_epoch() + 1,
        };
        self.nodes.push(TopologyNode {
            id: format!("{port:040x}"),
            host: "127.0.0.1".to_owned(),
            port,
            hostname: None,
            primary,
            epoch,
            flags: Vec::new(),
            connected: true,
            migrating: Vec::new(),
            importing: Vec::new(),
            hidden: false,
        });
        self.nodes.len() - 1
    }

    pub fn owner(&self, slot: u16) -> Option<usize> {
        self.owners[usize::from(slot)]
    }

    pub fn highest_epoch(&self) -> u64 {
        self.nodes.iter().map(|node| node.epoch).max().unwrap_or(0)
    }

    /// Gives the slots to a node, under a new epoch, and closes them where they were open.
    pub fn assign(&mut self, slots: RangeInclusive<u16>, to: usize) {
        self.nodes[to].epoch = self.highest_epoch() + 1;
        for node in &mut self.nodes {
            node.migrating.retain(|(slot, _)| !slots.contains(slot));
            node.importing.retain(|(slot, _)| !slots.contains(slot));
        }
        self.owners[usize::from(*slots.start())..=usize::from(*slots.end())].fill(Some(to));
    }

    /// Takes the slots' owner away.
    pub fn uncover(&mut self, slots: RangeInclusive<u16>) {
        self.owners[usize::from(*slots.start())..=usize::from(*slots.end())].fill(None);
    }

    /// Opens a slot between its owner and `to`.
    pub fn open(&mut self, slot: u16, to: usize) {
        let from = self.owner(slot).expect("a slot that moves has an owner");
        self.nodes[from].migrating.push((slot, to));
        self.nodes[to].importing.push((slot, from));
    }

    /// A replica takes over from its primary: all slots, a new epoch, the roles changed.
    pub fn fail_over(&mut self, replica: usize) {
        let old = self.nodes[replica].primary.take().expect("only a replica takes over");
        self.nodes[old].primary = Some(replica);
        self.nodes[replica].epoch = self.highest_epoch() + 1;
        for owner in self.owners.iter_mut().filter(|owner| **owner == Some(old)) {
            *owner = Some(replica);
        }
    }

    /// CLUSTER NODES as the node `myself` would print it.
    pub fn render(&self, myself: usize) -> String {
        let mut text = String::new();
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, node)| !node.hidden || *i == myself) {
            let hostname = node.hostname.as_ref().map(|name| format!(",{name}")).unwrap_or_default();
            let mut flags: Vec<&str> = if i == myself { vec!["myself"] } else { vec![] };
            flags.push(if node.primary.is_some() { "slave" } else { "master" });
            flags.extend(node.flags.iter().map(String::as_str));
            let primary = node.primary.map_or("-", |primary| &self.nodes[primary].id);
            let link = if node.connected { "connected" } else { "disconnected" };
            let (id, host, port, epoch) = (&node.id, &node.host, node.port, node.epoch);
            let bus = u32::from(port) + 10_000;
            write!(
                text,
                "{id} {host}:{port}@{bus}{hostname} {} {primary} 0 0 {epoch} {link}",
                flags.join(",")
            )
            .and_then(|()| self.write_slots(&mut text, i, i == myself))
            .expect("a String can be written to");
            text.push('\n');
        }
        text
    }

    fn write_slots(&self, text: &mut String, i: usize, open: bool) -> std::fmt::Result {
        let mut slot = 0;
        while slot < self.owners.len() {
            let length = self.owners[slot..].iter().take_while(|owner| **owner == Some(i)).count();
            match length {
                0 => {}
                1 => write!(text, " {slot}")?,
                _ => write!(text, " {slot}-{}", slot + length - 1)?,
            }
            slot += length.max(1);
        }
        if open {
            for (slot, to) in &self.nodes[i].migrating {
                write!(text, " [{slot}->-{}]", self.nodes[*to].id)?;
            }
            for (slot, from) in &self.nodes[i].importing {
                write!(text, " [{slot}-<-{}]", self.nodes[*from].id)?;
            }
        }
        Ok(())
    }
}
