//! Where requests are planned from, and where planning stops.

use bytes::{Buf, Bytes, BytesMut};

use crate::backend::LARGE;

/// Why planning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is no whole request.
    Empty,
    /// The turn has done enough.
    Budget,
    /// Something must be answered, or be read by the client, first.
    Blocked,
}

/// Where requests are planned from.
pub(super) enum Input<'a> {
    Scratch(&'a [u8]),
    Buffer(BytesMut),
}

impl Input<'_> {
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Input::Scratch(bytes) => bytes,
            Input::Buffer(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        match self {
            Input::Scratch(bytes) => *bytes = &bytes[count..],
            Input::Buffer(bytes) => bytes.advance(count),
        }
    }

    /// Takes a large request out without a copy; it is gone from the input then.
    #[inline(always)]
    pub(super) fn take_large(&mut self, len: usize) -> Option<Bytes> {
        match self {
            Input::Buffer(bytes) if len >= LARGE => Some(bytes.split_to(len).freeze()),
            _ => None,
        }
    }
}
