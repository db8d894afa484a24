//! Framing of requests: multibulk and inline, at any split of the bytes.
//!
//! The rules, the limits and the errors' texts are those of `networking.c` of redis-server 7.0
//! (`processInlineBuffer`, `processMultibulkBuffer`), the oddities included: the two bytes after a
//! bulk and the byte after a carriage return are skipped unread, and a NUL hides the line end behind it.

use std::fmt;

use super::inline;
use super::{Args, Span};
use crate::error::ErrorKind;

/// A line that names a count or holds an inline request may be this long (`PROTO_INLINE_MAX_SIZE`).
pub const MAX_LINE: usize = 64 * 1024;
/// The longest argument (`proto-max-bulk-len`, the servers' default).
pub const MAX_BULK: i64 = 512 * 1024 * 1024;
/// A client that must still authenticate may send this many arguments,
const UNAUTHENTICATED_ARGUMENTS: i64 = 10;
/// and none longer than this.
const UNAUTHENTICATED_BULK: i64 = 16384;

/// What a request may be at most.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Arguments of one request, the name counted.
    pub arguments: usize,
    /// Bytes of one request as it was sent.
    pub bytes: usize,
    /// Whether the client has still to authenticate: a server then takes small requests only.
    pub unauthenticated: bool,
}

impl RequestLimits {
    /// For a request that was framed, and so held to its limits, before.
    pub const NONE: RequestLimits =
        RequestLimits { arguments: usize::MAX >> 1, bytes: usize::MAX, unauthenticated: false };
}

/// Why a request can't be framed; the connection is closed after the reply `-ERR Protocol error: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// An inline request without an end within 64 KiB.
    InlineTooBig,
    /// Quotes of an inline request that do not close.
    UnbalancedQuotes,
    /// A count line without an end within 64 KiB.
    CountTooBig,
    /// A bulk length line without an end within 64 KiB.
    BulkCountTooBig,
    /// No number of arguments.
    ArgumentCount,
    /// More arguments than allowed; a server's text is the same.
    TooManyArguments,
    /// More arguments than a client may send that has not authenticated.
    UnauthenticatedArgumentCount,
    /// No number, a negative one, or more bytes than allowed.
    BulkLength,
    /// A longer argument than a client may send that has not authenticated.
    UnauthenticatedBulkLength,
    /// Another byte where a bulk should begin.
    ExpectedBulk(u8),
    /// The whole request would be larger than the limit of this proxy, in bytes.
    RequestTooBig(usize),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ERR Protocol error: ")?;
        match self {
            Self::InlineTooBig => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::CountTooBig => f.write_str("too big mbulk count string"),
            Self::BulkCountTooBig => f.write_str("too big bulk count string"),
            Self::ArgumentCount | Self::TooManyArguments => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedArgumentCount => f.write_str("unauthenticated multibulk length"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::RequestTooBig(limit) => write!(f, "request larger than max_request ({limit} bytes)"),
            // See `write_expected_bulk`: the byte is written raw, which a `str` can't hold.
            Self::ExpectedBulk(byte) => write!(f, "expected '$', got '{}'", byte.escape_ascii()),
        }
    }
}

impl std::error::Error for RequestError {}

impl RequestError {
    /// Its kind, for counting.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::RequestTooBig(_) => ErrorKind::TooLarge,
            _ => ErrorKind::Protocol,
        }
    }

    /// Appends the reply that the client gets, byte for byte a server's.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'-');
        match *self {
            Self::ExpectedBulk(byte) => {
                out.extend_from_slice(b"ERR Protocol error: expected '$', got '");
                match byte {
                    // The server formats into a C string: nothing behind a NUL is sent.
                    0 => {}
                    b'\r' | b'\n' => out.extend_from_slice(b" '"),
                    byte => out.extend_from_slice(&[byte, b'\'']),
                }
            }
            ref other => out.extend_from_slice(other.to_string().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A whole request at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Framed {
    /// How many bytes of the buffer it takes.
    pub len: usize,
    /// An inline request, rewritten as the multibulk that the nodes get; the spans count in it.
    pub rewritten: Option<Vec<u8>>,
}

/// Finds requests in a growing buffer without looking at a byte twice.
#[derive(Debug, Default)]
pub struct RequestFramer {
    spans: Vec<Span>,
    /// Where to go on in the request at the front of the buffer.
    at: usize,
    /// Arguments of it still to come; 0 when its first line has not been read.
    left: usize,
    /// Its next argument's length, once that line has been read.
    bulk: Option<usize>,
}

/// A line that can't be read yet, or what it says.
enum Line {
    Partial,
    TooLong,
    Number { value: i64, next: usize },
    NoNumber,
}

impl RequestFramer {
    /// The next whole request at the front of `bytes`, or `None` while it is not all there.
    ///
    /// Until `Some` was returned the caller must not remove bytes from the front; after it, it must
    /// remove `len` of them. A request without arguments (`*0`, an empty line) is to be ignored.
    #[inline]
    pub fn next(&mut self, bytes: &[u8], limits: &RequestLimits) -> Result<Option<Framed>, RequestError> {
        if self.left == 0 {
            match bytes.first() {
                None => return Ok(None),
                Some(b'*') => {}
                Some(_) => return self.inline(bytes, limits),
            }
            self.spans.clear();
            let (count, next) = match line(bytes, 1) {
                Line::Partial => return Ok(None),
                Line::TooLong => return Err(RequestError::CountTooBig),
                Line::NoNumber => return Err(RequestError::ArgumentCount),
                Line::Number { value, next } => (value, next),
            };
            if count > limits.arguments as i64 {
                return Err(RequestError::TooManyArguments);
            }
            if limits.unauthenticated && count > UNAUTHENTICATED_ARGUMENTS {
                return Err(RequestError::UnauthenticatedArgumentCount);
            }
            if count <= 0 {
                return Ok(Some(Framed { len: next, rewritten: None }));
            }
            self.left = count as usize;
            self.at = next;
        }
        self.bulks(bytes, limits)
    }

    /// The arguments of the request that `next` returned last; `bytes` begins where that request does.
    #[inline]
    pub fn args<'a>(&'a self, bytes: &'a [u8]) -> Args<'a> {
        Args::new(bytes, &self.spans)
    }

    /// How long the buffer must at least be for `next` to get further: a hint for reading.
    pub fn wants(&self) -> usize {
        self.bulk.map_or(0, |len| self.at + len + 2)
    }

    /// Gives back memory that a large request took.
    pub fn shrink(&mut self) {
        if self.left == 0 && self.spans.capacity() > 64 {
            self.spans = Vec::new();
        }
    }

    #[inline]
    fn bulks(&mut self, bytes: &[u8], limits: &RequestLimits) -> Result<Option<Framed>, RequestError> {
        while self.left > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => match self.bulk_length(bytes, limits)? {
                    Some(len) => len,
                    None => return Ok(None),
                },
            };
            let end = self.at + len;
            if bytes.len() < end + 2 {
                self.bulk = Some(len);
                return Ok(None);
            }
            self.spans.push(Span { start: self.at as u32, end: end as u32 });
            self.bulk = None;
            self.at = end + 2;
            self.left -= 1;
        }
        Ok(Some(Framed { len: std::mem::take(&mut self.at), rewritten: None }))
    }

    /// Reads the line `$LENGTH` and moves behind it.
    #[inline]
    fn bulk_length(&mut self, bytes: &[u8], limits: &RequestLimits) -> Result<Option<usize>, RequestError> {
        // Where no bulk begins, the line may end with its very first byte.
        let is_bulk = bytes.get(self.at) == Some(&b'$');
        let line = if is_bulk { line(bytes, self.at + 1) } else { slow_line(bytes, self.at + 1) };
        let (len, next) = match line {
            Line::Partial => return Ok(None),
            Line::TooLong => return Err(RequestError::BulkCountTooBig),
            _ if !is_bulk => return Err(RequestError::ExpectedBulk(bytes[self.at])),
            Line::NoNumber => return Err(RequestError::BulkLength),
            Line::Number { value, next } => (value, next),
        };
        if !(0..=MAX_BULK).contains(&len) {
            return Err(RequestError::BulkLength);
        }
        if limits.unauthenticated && len > UNAUTHENTICATED_BULK {
            return Err(RequestError::UnauthenticatedBulkLength);
        }
        let len = len as usize;
        if next + len + 2 > limits.bytes {
            return Err(RequestError::RequestTooBig(limits.bytes));
        }
        self.at = next;
        Ok(Some(len))
    }

    fn inline(&mut self, bytes: &[u8], limits: &RequestLimits) -> Result<Option<Framed>, RequestError> {
        self.spans.clear();
        let end = match memchr::memchr2(b'\n', 0, &bytes[self.at..]).map(|i| self.at + i) {
            Some(i) if bytes[i] == b'\n' => i,
            found => {
                if bytes.len() > MAX_LINE {
                    return Err(RequestError::InlineTooBig);
                }
                self.at = found.unwrap_or(bytes.len());
                return Ok(None);
            }
        };
        self.at = 0;
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        let words = inline::split(line).ok_or(RequestError::UnbalancedQuotes)?;
        if words.len() > limits.arguments {
            return Err(RequestError::TooManyArguments);
        }
        let mut request = Vec::with_capacity(line.len() + 16 * (words.len() + 1));
        super::write::array(&mut request, words.len());
        for word in &words {
            super::write::bulk(&mut request, word);
            let end = request.len() as u32 - 2;
            self.spans.push(Span { start: end - word.len() as u32, end });
        }
        Ok(Some(Framed { len: end + 1, rewritten: Some(request) }))
    }
}

/// The number between `from` and the next carriage return.
#[inline]
fn line(bytes: &[u8], from: usize) -> Line {
    let mut at = from;
    let mut value = 0i64;
    // Nearly every line: one to nine digits, no leading zero.
    while let Some(&byte) = bytes.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || at - from == 9 {
            break;
        }
        value = value * 10 + i64::from(digit);
        at += 1;
    }
    if at > from && bytes.get(at) == Some(&b'\r') && (bytes[from] != b'0' || at - from == 1) {
        return if at + 1 < bytes.len() { Line::Number { value, next: at + 2 } } else { Line::Partial };
    }
    slow_line(bytes, from)
}

#[cold]
fn slow_line(bytes: &[u8], from: usize) -> Line {
    let start = from - 1;
    if bytes.len() <= from {
        return Line::Partial;
    }
    let end = match memchr::memchr2(b'\r', 0, &bytes[start..]).map(|i| start + i) {
        Some(i) if bytes[i] == b'\r' => i,
        _ if bytes.len() - start > MAX_LINE => return Line::TooLong,
        _ => return Line::Partial,
    };
    if end + 1 >= bytes.len() {
        return Line::Partial;
    }
    let digits = bytes.get(from..end).unwrap_or(&[]);
    match integer(digits) {
        Some(value) => Line::Number { value, next: end + 2 },
        None => Line::NoNumber,
    }
}

/// A decimal as `string2ll` of the servers takes it: no plus, no leading zero, no space.
pub(crate) fn integer(digits: &[u8]) -> Option<i64> {
    let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
    match unsigned {
        b"0" if digits.len() == 1 => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
        _ => None,
    }
}
