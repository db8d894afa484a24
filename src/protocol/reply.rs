//! Framing of replies in RESP2 and RESP3, at any split of the bytes, without building values.

use std::fmt;

/// What a node sent is no RESP: the link can't be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// No type of RESP2 or RESP3 begins with this byte.
    Type(u8),
    /// A length or count that is no number, or too large to be one.
    Number,
    /// A simple string, error or number without an end within 1 MiB.
    Line,
}

/// A line may be this long: errors repeat what clients and scripts wrote.
const MAX_LINE: usize = 1 << 20;
/// More elements of one aggregate than any server has: nested ones cannot overflow the count.
const MAX_ELEMENTS: i64 = 1 << 31;

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "reply of unknown type '{}'", byte.escape_ascii()),
            Self::Number => f.write_str("reply with a length that is no number"),
            Self::Line => write!(f, "reply with a line longer than {MAX_LINE} bytes"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// Finds whole replies in a growing buffer without looking at a byte twice (but for one short line).
///
/// Aggregates are not a stack but a count of elements still to come: that is all a border needs.
#[derive(Debug, Default)]
pub struct ReplyFramer {
    /// Where to go on in the reply at the front of the buffer.
    at: usize,
    /// Elements of it still to come; 0 between replies.
    left: usize,
    /// How long the buffer must be for the element that was cut off.
    wants: usize,
    /// How far the line that was cut off has been searched for its end; 0 if none was.
    searched: usize,
}

impl ReplyFramer {
    /// Where the reply at the front of `bytes` ends, or `None` while it is not all there.
    ///
    /// Until `Some` was returned the caller must not remove bytes from the front; after it, it must
    /// remove that many. A push (`>`) is returned like a reply: look at the first byte.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        if self.left == 0 {
            self.left = 1;
            self.at = 0;
        } else if self.searched > self.at && !self.resume(bytes)? {
            return Ok(None);
        }
        while self.left > 0 {
            let Some(&kind) = bytes.get(self.at) else { return Ok(None) };
            let (end, more) = match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {
                    match memchr::memchr(b'\n', &bytes[self.at..]) {
                        Some(i) => (self.at + i + 1, 0),
                        None => {
                            self.searched = bytes.len();
                            self.wants = 0;
                            return Ok(None);
                        }
                    }
                }
                b'$' | b'=' | b'!' => match number(bytes, self.at + 1)? {
                    Some((len @ 0.., next)) => (next + len as usize + 2, 0),
                    Some((_, next)) => (next, 0),
                    None => return Ok(None),
                },
                b'*' | b'~' | b'>' | b'%' | b'|' => match number(bytes, self.at + 1)? {
                    Some((count, _)) if count > MAX_ELEMENTS => return Err(ReplyError::Number),
                    Some((count, next)) => (next, elements(kind, count)),
                    None => return Ok(None),
                },
                other => return Err(ReplyError::Type(other)),
            };
            if end > bytes.len() {
                self.wants = end;
                return Ok(None);
            }
            self.at = end;
            self.left = self.left - 1 + more;
        }
        Ok(Some(self.at))
    }

    /// Goes on with a line that was cut off; whether its end is there now.
    #[cold]
    fn resume(&mut self, bytes: &[u8]) -> Result<bool, ReplyError> {
        match memchr::memchr(b'\n', &bytes[self.searched..]) {
            Some(i) => {
                self.at = self.searched + i + 1;
                (self.left, self.searched) = (self.left - 1, 0);
                Ok(true)
            }
            None if bytes.len() - self.at > MAX_LINE => Err(ReplyError::Line),
            None => {
                self.searched = bytes.len();
                Ok(false)
            }
        }
    }

    /// Gives up the reply at the front of the buffer, of which nothing is to be kept: what its bytes are, from the front on.
    #[cold]
    pub fn give_up(&mut self) -> Rest {
        let Self { at, left, .. } = std::mem::take(self);
        Rest { skip: at, left }
    }

    /// How long the buffer must at least be for `next` to get further: a hint for reading.
    pub fn wants(&self) -> usize {
        if self.left == 0 { 0 } else { self.wants }
    }
}

/// A reply that is read to its end without being kept.
#[derive(Debug)]
pub struct Rest {
    /// Bytes before the next of its elements.
    skip: usize,
    /// How many of those are to come.
    left: usize,
}

impl Rest {
    /// How many of the bytes at the front of `bytes`, which come next, are its own and may go. What is left over belongs
    /// to an element that is cut off, or comes behind the reply.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, ReplyError> {
        let mut used = 0;
        loop {
            let step = self.skip.min(bytes.len() - used);
            (used, self.skip) = (used + step, self.skip - step);
            let Some(&kind) = bytes.get(used).filter(|_| self.left > 0) else { return Ok(used) };
            let (end, more) = match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => match memchr::memchr(b'\n', &bytes[used..])
                {
                    Some(i) => (used + i + 1, 0),
                    None if bytes.len() - used > MAX_LINE => return Err(ReplyError::Line),
                    None => return Ok(used),
                },
                b'$' | b'=' | b'!' => match number(bytes, used + 1)? {
                    Some((len, next)) => (if len < 0 { next } else { next + len as usize + 2 }, 0),
                    None => return Ok(used),
                },
                b'*' | b'~' | b'>' | b'%' | b'|' => match number(bytes, used + 1)? {
                    Some((count, _)) if count > MAX_ELEMENTS => return Err(ReplyError::Number),
                    Some((count, next)) => (next, elements(kind, count)),
                    None => return Ok(used),
                },
                other => return Err(ReplyError::Type(other)),
            };
            (self.skip, self.left) = (end - used, self.left - 1 + more);
        }
    }

    /// Whether all of it has passed.
    pub fn is_over(&self) -> bool {
        self.skip == 0 && self.left == 0
    }
}

/// How many elements follow an aggregate's header; -1 is RESP2's null array.
fn elements(kind: u8, count: i64) -> usize {
    let count = count.max(0) as usize;
    match kind {
        b'%' => count * 2,
        // An attribute stands before the element that it belongs to and is none itself.
        b'|' => count * 2 + 1,
        _ => count,
    }
}

/// The number from `from` to the line's end, and where the next line begins.
#[inline]
fn number(bytes: &[u8], from: usize) -> Result<Option<(i64, usize)>, ReplyError> {
    let mut at = from;
    let mut value = 0i64;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'0'..=b'9' if at - from < 12 => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if at > from => return Ok((at + 1 < bytes.len()).then_some((value, at + 2))),
            b'-' if at == from => return minus_one(bytes, from),
            _ => return Err(ReplyError::Number),
        }
        at += 1;
    }
    Ok(None)
}

/// RESP2's nulls are the only negative lengths: `$-1` and `*-1`.
fn minus_one(bytes: &[u8], from: usize) -> Result<Option<(i64, usize)>, ReplyError> {
    match &bytes[from..] {
        [b'-', b'1', b'\r', b'\n', ..] => Ok(Some((-1, from + 4))),
        [b'-'] | [b'-', b'1'] | [b'-', b'1', b'\r'] => Ok(None),
        _ => Err(ReplyError::Number),
    }
}
