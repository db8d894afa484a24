//! What nodes may reply to a command's parts: nothing panics, and what is made of it is one whole reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotmux::command::table;
use slotmux::protocol::ReplyFramer;
use slotmux::route::merge::{by_weight, merge};

fn whole(reply: &[u8]) -> Option<usize> {
    ReplyFramer::default().next(reply).ok().flatten()
}

fuzz_target!(|input: &[u8]| {
    let (mut parts, mut rest) = (Vec::new(), input);
    while let Some(len) = whole(rest) {
        parts.push(&rest[..len]);
        rest = &rest[len..];
    }
    if parts.is_empty() {
        return;
    }
    let order: Vec<u32> = rest.iter().map(|byte| u32::from(*byte) % parts.len() as u32).collect();
    let mut rules: Vec<_> = table().map(|spec| spec.merge).collect();
    rules.dedup();
    for how in rules {
        let mut out = Vec::new();
        merge(how, &parts, &order, &mut out);
        assert_eq!(whole(&out), Some(out.len()), "{how:?} makes {}", out.escape_ascii());
    }
    let weighted: Vec<_> = parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let _ = by_weight(&weighted, 0.5);
});
