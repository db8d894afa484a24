//! Which slot a key hashes to.

use crc16::{State, XMODEM};

/// How many slots a cluster has.
pub const SLOTS: usize = 16384;

/// The slot of `key`: CRC16/XMODEM modulo 16,384, of the hash tag where the key has one
/// (cluster specification, "Hash tags": between the first `{` and the next `}`, unless that is empty).
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    State::<XMODEM>::calculate(hash_tag(key)) & (SLOTS as u16 - 1)
}

#[inline]
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else { return key };
    match memchr::memchr(b'}', &key[open + 1..]) {
        Some(len @ 1..) => &key[open + 1..open + 1 + len],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_cluster_specification_hold() {
        assert_eq!(State::<XMODEM>::calculate(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"123456789"), 0x31c3 & 16383);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
    }
}
