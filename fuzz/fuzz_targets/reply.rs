//! Replies, in pieces: nothing panics, and every split gives the same replies or the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotmux::net::NodeAddr;
use slotmux::protocol::ReplyFramer;
use slotmux::route::Signal;

fn frame(bytes: &[u8], piece: usize) -> (Vec<usize>, bool) {
    let (mut framer, mut buffer, mut lengths) = (ReplyFramer::default(), Vec::new(), Vec::new());
    let asked = NodeAddr::new("127.0.0.1", 1);
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match framer.next(&buffer) {
                Ok(None) => break,
                Ok(Some(len)) => {
                    if let Some(signal) = Signal::parse(&buffer[..len], &asked) {
                        let _ = signal.is_exact(&buffer[..len]);
                    }
                    lengths.push(len);
                    buffer.drain(..len);
                }
                Err(_) => return (lengths, true),
            }
        }
    }
    (lengths, false)
}

/// Given up after any of its pieces, a reply passes to its end and no further.
fn give_up(reply: &[u8], piece: usize) {
    for begun in (piece..reply.len()).step_by(piece) {
        let mut framer = ReplyFramer::default();
        if framer.next(&reply[..begun]) != Ok(None) {
            return;
        }
        let (mut rest, mut kept) = (framer.give_up(), reply[..begun].to_vec());
        let behind = [&reply[begun..], b"+behind"].concat();
        for next in behind.chunks(piece) {
            kept.extend_from_slice(next);
            let used = rest.pass(&kept);
            kept.drain(..used.unwrap_or_else(|error| panic!("a whole reply does not pass: {error:?}")));
        }
        assert!(rest.is_over() && kept == b"+behind");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = frame(bytes, bytes.len().max(1));
    assert_eq!(frame(bytes, usize::from(piece).max(1)), whole);
    assert_eq!(frame(bytes, 1), whole);
    if let Some(&len) = whole.0.first() {
        give_up(&bytes[..len], usize::from(piece).max(1));
    }
});
