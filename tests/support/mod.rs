//! What the integration tests share: real clusters, the proxy as a process, a raw client, a scripted node.
//!
//! `mod support;` in a test file brings it in. Nothing here sleeps for a fixed time: everything waits on a
//! condition, with a generous limit that only a failing test reaches.

// Each test file compiles all of this as a module of its own, and uses a part.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod bus;
mod client;
mod cluster;
mod load;
mod migration;
mod packages;
mod pair;
mod plain;
mod proxy;
mod scripted;
mod value;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

pub use bus::Bus;
pub use client::{Client, encode};
pub use cluster::{TestCluster, take_over};
pub use load::{Done, Mix};
pub use packages::{
    node_modules, packages_of_node, python, python_of_old, script, valkey_server, virtual_environment,
};
pub use pair::{Pair, in_both, talk};
pub use plain::PlainServer;
pub use proxy::{Proxy, ProxyBuilder, sum};
pub use scripted::{
    Action, Conn, Gate, HIGH, LOW, Recorded, ScriptedCluster, ScriptedNode, Topology, TopologyNode, When,
    take_request,
};
pub use slotmux::demo::ClusterOptions;
pub use value::Value;

/// The limit for what happens within a second or two on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);

/// An address at which nobody listens: nobody else binds a port of this address of the machine's own.
pub fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.3:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// Waits until the condition holds, and panics if it does not within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(limit, || condition().then_some(()));
}

/// Waits until there is a value, and panics if there is none within `limit`.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < until, "not true within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal (`"TERM"`, `"STOP"`, …) to a process. The shell's own `kill` needs no further package.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(status.expect("sh starts").success(), "cannot send SIG{name} to process {pid}");
}

/// The slot of a key, with its hash tag: written anew, so that it does not inherit a mistake of the proxy's.
pub fn slot_of(key: impl AsRef<[u8]>) -> u16 {
    let key = key.as_ref();
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let length = key[open + 1..].iter().position(|&b| b == b'}')?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    });
    let crc =
        tag.unwrap_or(key).iter().fold(0u16, |crc, &byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            })
        });
    crc % 16_384
}

/// A key of the slot; those with other names are in the same slot.
pub fn key(slot: u16, name: &str) -> String {
    format!("{{{}}}{name}", tag_of(slot))
}

/// A short hash tag whose slot this is.
pub fn tag_of(slot: u16) -> String {
    // Numbers are tried once: thousands of them for a slot, and tests ask for many.
    static TRIED: Mutex<(u32, BTreeMap<u16, u32>)> = Mutex::new((0, BTreeMap::new()));
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    while !tried.1.contains_key(&slot) {
        let n = tried.0;
        tried.0 += 1;
        tried.1.entry(slot_of(n.to_string())).or_insert(n);
    }
    tried.1[&slot].to_string()
}
