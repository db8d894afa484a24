//! The slot table, read once from CLUSTER NODES.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::resp;

#[derive(Clone)]
pub struct Slots {
    /// The primaries.
    pub nodes: Vec<SocketAddr>,
    /// The index of each slot's owner.
    pub owners: Vec<u8>,
}

/// Asks any node of the cluster.
pub fn read(seed: &str) -> Slots {
    let text = ask(seed);
    let mut slots = Slots { nodes: Vec::new(), owners: vec![0; 16_384] };
    for line in text.lines().filter(|line| line.contains("master")) {
        let words: Vec<&str> = line.split(' ').collect();
        let address = words[1].split('@').next().expect("an address");
        // A node that met no other does not know its own host.
        let address =
            if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
        slots.nodes.push(address.parse().expect("an address and a port"));
        for range in &words[8..] {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (usize, usize) = (from.parse().expect("a slot"), to.parse().expect("a slot"));
            slots.owners[from..=to].fill(slots.nodes.len() as u8 - 1);
        }
    }
    slots
}

fn ask(seed: &str) -> String {
    let mut stream = TcpStream::connect(seed).expect("the seed accepts");
    stream.write_all(b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n").expect("the seed reads");
    let (mut text, mut chunk) = (Vec::new(), [0; 65_536]);
    while resp::reply_end(&text).is_none() {
        let n = stream.read(&mut chunk).expect("the seed answers");
        assert!(n > 0, "the seed has gone");
        text.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8(text).expect("CLUSTER NODES is a text")
}
