//! What a node may say to CLUSTER SHARDS: nothing panics, and nothing that is cut short is taken for a whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotmux::topology::names::shards;

fuzz_target!(|reply: &[u8]| {
    if let Some(names) = shards(reply) {
        assert!(names.values().all(|named| named.hosts.len() <= 3 && named.port != Some(0)));
        assert!(reply.split_last().is_none_or(|(_, cut)| shards(cut).is_none()));
    }
});
