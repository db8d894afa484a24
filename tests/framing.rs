//! Requests and replies are framed alike at every split of the bytes.

use proptest::prelude::*;
use slotmux::protocol::{ReplyFramer, RequestFramer, RequestLimits, write};

const LIMITS: RequestLimits = RequestLimits { arguments: 1 << 20, bytes: 512 << 20, unauthenticated: false };

/// Frames everything in `bytes`, which arrive in pieces of the given sizes; ends at an error.
fn requests(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut framer, mut buffer, mut found) = (RequestFramer::default(), Vec::new(), Vec::new());
    for piece in split(bytes, pieces) {
        buffer.extend_from_slice(piece);
        loop {
            match framer.next(&buffer, &LIMITS) {
                Ok(Some(framed)) => {
                    let source = framed.rewritten.as_deref().unwrap_or(&buffer);
                    let args: Vec<_> = framer.args(source).iter().map(<[u8]>::to_vec).collect();
                    if framed.len > 0 && source.first() == Some(&b'*') && !source.starts_with(b"*0") {
                        found.push(args);
                    }
                    buffer.drain(..framed.len);
                }
                Ok(None) => break,
                Err(error) => {
                    let mut out = Vec::new();
                    error.write(&mut out);
                    return (found, Some(String::from_utf8_lossy(&out).into()));
                }
            }
        }
    }
    (found, None)
}

fn replies(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Vec<u8>>, String> {
    let (mut framer, mut buffer, mut found) = (ReplyFramer::default(), Vec::new(), Vec::new());
    for piece in split(bytes, pieces) {
        buffer.extend_from_slice(piece);
        while let Some(len) = framer.next(&buffer).map_err(|error| error.to_string())? {
            found.push(buffer.drain(..len).collect());
        }
    }
    Ok(found)
}

/// What is left of `bytes`, the first reply of which is given up once `kept` pieces of it are there.
fn behind_the_first(bytes: &[u8], pieces: &[usize], kept: usize) -> Result<Vec<u8>, String> {
    let (mut framer, mut rest, mut buffer) = (ReplyFramer::default(), None, Vec::new());
    for (i, piece) in split(bytes, pieces).into_iter().enumerate() {
        buffer.extend_from_slice(piece);
        if i < kept && rest.is_none() {
            if let Some(len) = framer.next(&buffer).map_err(|error| error.to_string())? {
                return Ok(bytes[len..].to_vec());
            }
            continue;
        }
        let rest = rest.get_or_insert_with(|| framer.give_up());
        if !rest.is_over() {
            let used = rest.pass(&buffer).map_err(|error| error.to_string())?;
            buffer.drain(..used);
        }
    }
    Ok(buffer)
}

fn split<'a>(bytes: &'a [u8], pieces: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut out) = (bytes, Vec::new());
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (head, tail) = rest.split_at(piece.clamp(1, rest.len()));
        out.push(head);
        rest = tail;
    }
    out
}

fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)
}

fn reply() -> impl Strategy<Value = Vec<u8>> {
    let text = "[ -~]{0,20}";
    let leaf = prop_oneof![
        text.prop_map(|t| format!("+{t}\r\n").into_bytes()),
        text.prop_map(|t| format!("-ERR {t}\r\n").into_bytes()),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|b| {
            let mut out = Vec::new();
            write::bulk(&mut out, &b);
            out
        }),
        prop::sample::select(vec![
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5e9\r\n",
            ",inf\r\n",
            "(123\r\n",
            "=7\r\ntxt:abc\r\n",
            "!3\r\nERR\r\n"
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        (prop::sample::select(vec!['*', '~', '>', '%', '|']), prop::collection::vec(inner, 0..6)).prop_map(
            |(kind, mut elements)| {
                let paired = matches!(kind, '%' | '|');
                if paired && elements.len() % 2 == 1 {
                    elements.pop();
                }
                let count = if paired { elements.len() / 2 } else { elements.len() };
                let mut out = format!("{kind}{count}\r\n").into_bytes();
                out.extend(elements.concat());
                if kind == '|' {
                    out.extend_from_slice(b":1\r\n");
                }
                out
            },
        )
    })
}

proptest! {
    #[test]
    fn requests_are_the_same_at_every_split(
        all in prop::collection::vec(arguments(), 1..8),
        pieces in prop::collection::vec(1usize..50, 1..8),
    ) {
        let mut bytes = Vec::new();
        for args in &all {
            write::request(&mut bytes, args.iter().map(Vec::as_slice));
        }
        let (found, error) = requests(&bytes, &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(&found, &all);
        prop_assert_eq!(requests(&bytes, &[1]).0, all);
    }

    #[test]
    fn any_bytes_are_framed_or_refused_the_same_at_every_split(
        bytes in prop::collection::vec(prop::sample::select(b"*$\r\n-0123456789abc\"' \\x\0".to_vec()), 0..60),
        pieces in prop::collection::vec(1usize..9, 1..8),
    ) {
        prop_assert_eq!(requests(&bytes, &pieces), requests(&bytes, &[bytes.len().max(1)]));
    }

    #[test]
    fn replies_are_the_same_at_every_split(
        all in prop::collection::vec(reply(), 1..8),
        pieces in prop::collection::vec(1usize..50, 1..8),
    ) {
        let bytes = all.concat();
        prop_assert_eq!(replies(&bytes, &pieces), Ok(all.clone()));
        prop_assert_eq!(replies(&bytes, &[1]), Ok(all));
    }

    #[test]
    fn a_reply_that_is_given_up_ends_where_it_would_have_ended(
        first in reply(),
        behind in reply(),
        pieces in prop::collection::vec(1usize..50, 1..8),
        kept in 1usize..20,
    ) {
        let bytes = [first, behind.clone()].concat();
        prop_assert_eq!(behind_the_first(&bytes, &pieces, kept), Ok(behind.clone()));
        prop_assert_eq!(behind_the_first(&bytes, &[1], kept), Ok(behind));
    }
}

#[test]
fn inline_requests_are_framed_as_telnet_sends_them() {
    let (found, error) =
        requests(b"PING\r\nset k \"a b\"\r\n\r\n  \nget k\n*1\r\n$4\r\nPING\r\nPING\n", &[3]);
    assert_eq!(error, None);
    let found: Vec<Vec<String>> = found
        .iter()
        .map(|args| args.iter().map(|arg| String::from_utf8_lossy(arg).into()).collect())
        .collect();
    assert_eq!(found, [vec!["PING"], vec!["set", "k", "a b"], vec!["get", "k"], vec!["PING"], vec!["PING"]]);
}

#[test]
fn replies_that_are_no_resp_are_refused() {
    for bad in [&b"hello\r\n"[..], b"$x\r\n", b"$-2\r\n", b"*9999999999999\r\n", b"$\r\n", b"*+1\r\n"] {
        assert!(replies(bad, &[64]).is_err(), "{}", bad.escape_ascii());
    }
}
