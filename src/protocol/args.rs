//! The arguments of one framed request, as places in the bytes that it came in.

/// Where one argument lies in its request: `start..end`, counted from the request's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The argument's first byte.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// A request's arguments, the command's name first; nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// `spans` lie in `bytes`, as a framer found them.
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Args { bytes, spans }
    }

    /// Where they lie.
    pub(crate) fn spans(&self) -> &'a [Span] {
        self.spans
    }

    /// How many arguments there are, the command's name counted.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no argument at all; a framed request has at least its name.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`, or an empty one where there is none.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        match self.spans.get(index) {
            Some(span) => &self.bytes[span.start as usize..span.end as usize],
            None => &[],
        }
    }

    /// The arguments in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| &bytes[span.start as usize..span.end as usize])
    }
}
