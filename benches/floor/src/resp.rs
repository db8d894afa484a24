//! Where requests and replies end.

use std::ops::Range;

/// A whole request at the beginning of the input.
pub struct Request {
    pub end: usize,
    /// Its first argument.
    pub key: Range<usize>,
}

/// The request that begins at 0, if all of it is there.
pub fn request(input: &[u8]) -> Option<Request> {
    let (count, mut at) = number(input, 0)?;
    let mut key = 0..0;
    for i in 0..count {
        let (length, start) = number(input, at)?;
        let end = start + length as usize;
        if i == 1 {
            key = start..end;
        }
        at = end + 2;
        if at > input.len() {
            return None;
        }
    }
    Some(Request { end: at, key })
}

/// Where the reply that begins at 0 ends, if all of it is there.
pub fn reply_end(input: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1usize);
    while left > 0 {
        match *input.get(at)? {
            b'+' | b'-' | b':' => at += memchr::memchr(b'\n', &input[at..])? + 1,
            b'$' => {
                let (length, next) = number(input, at)?;
                at = if length >= 0 { next + length as usize + 2 } else { next };
                if at > input.len() {
                    return None;
                }
            }
            b'*' => {
                let (count, next) = number(input, at)?;
                at = next;
                left += count.max(0) as usize;
            }
            other => panic!("a reply of type {other}"),
        }
        left -= 1;
    }
    Some(at)
}

/// The integer behind the type byte at `at`, and where the next line begins.
fn number(input: &[u8], at: usize) -> Option<(i64, usize)> {
    let (mut i, mut n, mut negative) = (at + 1, 0i64, false);
    if input.get(i) == Some(&b'-') {
        negative = true;
        i += 1;
    }
    while i < input.len() {
        if input[i] == b'\r' {
            return (i + 1 < input.len()).then_some((if negative { -n } else { n }, i + 2));
        }
        n = n * 10 + i64::from(input[i] - b'0');
        i += 1;
    }
    None
}
