//! What a node may say to CLUSTER NODES: nothing panics, and merging it twice changes nothing.
#![no_main]

use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use slotmux::net::NodeAddr;
use slotmux::topology::snapshot::{View, merge};
use slotmux::topology::view::parse;

fuzz_target!(|text: &str| {
    let from = NodeAddr::new("127.0.0.1", 1);
    let Ok(nodes) = parse(text, &from) else { return };
    let view = View { from, asked: Instant::now(), nodes };
    let first = merge(None, std::slice::from_ref(&view));
    let again = merge(Some(&first.table), std::slice::from_ref(&view));
    assert!(Arc::ptr_eq(&first.table, &again.table));
});
