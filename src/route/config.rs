//! CONFIG GET without secrets. Pure.

use crate::protocol::{Protocol, ReplyFramer, write};

/// What a client never gets to see, whatever it asks for.
const SECRETS: [&[u8]; 7] = [
    b"requirepass",
    b"masterauth",
    b"masteruser",
    b"primaryauth",
    b"primaryuser",
    b"tls-key-file-pass",
    b"tls-client-key-file-pass",
];

/// A node's reply to CONFIG GET, without the secrets; as it is if it is an error.
#[must_use]
pub fn without_secrets(reply: &[u8], protocol: Protocol) -> Vec<u8> {
    let kept = match reply.first() {
        Some(b'*' | b'%') => pairs(reply),
        _ => return reply.to_vec(),
    };
    let mut out = Vec::with_capacity(reply.len());
    write::map(&mut out, kept.len(), protocol);
    kept.into_iter().flatten().for_each(|element| out.extend_from_slice(element));
    out
}

/// The names and values that may be seen.
fn pairs(reply: &[u8]) -> Vec<[&[u8]; 2]> {
    let mut rest = memchr::memchr(b'\n', reply).map_or(&[][..], |end| &reply[end + 1..]);
    let mut element = || {
        let len = ReplyFramer::default().next(rest).ok()??;
        let (element, behind) = rest.split_at(len);
        rest = behind;
        Some(element)
    };
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (element(), element()) {
        let is_secret = |secret: &&[u8]| {
            let (head, text) = name.split_at(memchr::memchr(b'\n', name).map_or(0, |end| end + 1));
            !head.is_empty()
                && text.strip_suffix(b"\r\n").is_some_and(|text| text.eq_ignore_ascii_case(secret))
        };
        if !SECRETS.iter().any(is_secret) {
            pairs.push([name, value]);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let pair = |name: &str| format!("${}\r\n{name}\r\n$1\r\nx\r\n", name.len());
        let all = ["maxmemory", "requirepass", "MasterAuth", "tls-key-file-pass", "port"].map(pair).concat();
        let kept = ["maxmemory", "port"].map(pair).concat();
        let seen = |head: &str, protocol| without_secrets(format!("{head}\r\n{all}").as_bytes(), protocol);
        assert_eq!(seen("*10", Protocol::Resp2), format!("*4\r\n{kept}").as_bytes());
        assert_eq!(seen("%5", Protocol::Resp3), format!("%2\r\n{kept}").as_bytes());
        assert_eq!(without_secrets(b"-ERR x\r\n", Protocol::Resp2), b"-ERR x\r\n");
    }
}
