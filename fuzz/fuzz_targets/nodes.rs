//! What a node may say to CLUSTER NODES: nothing panics, and merging it twice changes nothing.
#![no_main]

use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use slotmux::net::{AddressMap, NodeAddr};
use slotmux::topology::merge::merge;
use slotmux::topology::names::Names;
use slotmux::topology::view::{Info, View, parse};

fuzz_target!(|text: &str| {
    let from = NodeAddr::new("127.0.0.1", 1);
    let Ok(nodes) = parse(text, &from, &AddressMap::default()) else { return };
    let view = View { from, asked: Instant::now(), info: Info::default(), nodes };
    let first = merge(None, &[&view], &Names::new());
    let again = merge(Some(&first), &[&view], &Names::new());
    assert!(Arc::ptr_eq(&first.table, &again.table));
});
