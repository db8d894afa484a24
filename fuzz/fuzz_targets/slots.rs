//! What a node may say to CLUSTER SLOTS: nothing panics, and nothing that is cut short is taken for a whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotmux::topology::names::slots;

fuzz_target!(|reply: &[u8]| {
    if let Some(names) = slots(reply) {
        assert!(names.values().all(|named| named.hosts.len() <= 3 && named.port != Some(0)));
        assert!(reply.split_last().is_none_or(|(_, cut)| slots(cut).is_none()));
    }
});
