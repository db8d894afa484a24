//! What a client sent while nothing of it could be planned.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::turn::BELIEVED;

/// Small reads are gathered up to this size: what is read at once at most.
const PIECE: usize = crate::backend::SCRATCH;

/// In pieces: it grows without being copied, takes what it holds and not twice that, and is given back bit by bit.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pieces: VecDeque<BytesMut>,
    len: usize,
}

impl Ahead {
    /// Bytes in it.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.pieces.back_mut() {
            Some(last) if last.len() + bytes.len() <= PIECE => last.extend_from_slice(bytes),
            _ => self.pieces.push_back(BytesMut::from(bytes)),
        }
    }

    /// Moves the first bytes behind `input`, of which a request wants `wanted` more, if that is known.
    pub(super) fn take_into(&mut self, input: &mut BytesMut, wanted: usize) {
        let Some(piece) = self.pieces.pop_front() else { return };
        self.len -= piece.len();
        if input.is_empty() {
            *input = piece;
        } else {
            crate::backend::make_room(input, wanted.min(self.len + piece.len()), piece.len(), BELIEVED);
            input.extend_from_slice(&piece);
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_takes_its_size() {
        let (mut ahead, mut expected, mut input) = (Ahead::default(), Vec::new(), BytesMut::new());
        for i in 0..2000usize {
            let bytes = vec![i as u8; 1 + i * 37 % PIECE];
            expected.extend_from_slice(&bytes);
            ahead.push(&bytes);
        }
        let taken: usize = ahead.pieces.iter().map(BytesMut::capacity).sum();
        assert!(taken < expected.len() * 5 / 4, "{taken} for {}", expected.len());
        while !ahead.is_empty() {
            ahead.take_into(&mut input, 0);
        }
        assert_eq!(input, expected);
    }
}
