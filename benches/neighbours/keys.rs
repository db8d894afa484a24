//! Keys on chosen nodes, and requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    ops::RangeInclusive,
    time::Duration,
};

use slotmux::topology::slot_of;

use crate::Result;

/// How many SETs are on their way at once.
const BATCH_BYTES: usize = 1024 * 1024;

/// How long a node may take for one such batch.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first `count` keys `prefix:N` whose slots are among these.
pub(crate) fn keys_in(slots: &[RangeInclusive<u16>], prefix: &str, count: usize) -> Vec<String> {
    let keys = (0..).map(|n| format!("{prefix}:{n}"));
    keys.filter(|key| slots.iter().any(|range| range.contains(&slot_of(key.as_bytes()))))
        .take(count)
        .collect()
}

/// As many keys `{tag}prefix:N` in one slot, which is among these.
pub(crate) fn keys_in_one_slot(slots: &[RangeInclusive<u16>], prefix: &str, count: usize) -> Vec<String> {
    let tag = keys_in(slots, "tag", 1);
    (0..count).map(|n| format!("{{{}}}{prefix}:{n}", tag[0])).collect()
}

/// A request as RESP.
pub(crate) fn request<A: AsRef<str>>(args: &[A]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", args.len());
    for arg in args.iter().map(AsRef::as_ref) {
        text.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
    }
    text.into_bytes()
}

/// GET of a key.
pub(crate) fn get(key: &str) -> Vec<u8> {
    request(&["GET", key])
}

/// Sets keys to values of a length, at the node that owns them all.
pub(crate) fn fill(node: SocketAddr, keys: &[String], length: usize) -> Result<()> {
    let mut stream = TcpStream::connect(node)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let value = "x".repeat(length);
    for batch in keys.chunks((BATCH_BYTES / (length + 64)).max(1)) {
        let requests: Vec<u8> = batch.iter().flat_map(|key| request(&["SET", key, &value])).collect();
        stream.write_all(&requests)?;
        let expected = b"+OK\r\n".repeat(batch.len());
        let mut replies = vec![0; expected.len()];
        stream.read_exact(&mut replies)?;
        if replies != expected {
            return Err(format!("{node} to SET: {}", replies.escape_ascii()).into());
        }
    }
    Ok(())
}
