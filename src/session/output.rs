//! What a client has still to be sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::turn::Turn;

/// Small replies of which so many bytes wait to be written are set aside as a chunk: to copy megabytes of them into
/// ever larger buffers takes milliseconds.
const CHUNK: usize = 64 * 1024;

/// Small replies are gathered in one buffer, large ones are kept as they are.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// What goes first: large replies, and what was gathered in front of them.
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    chunked: usize,
    /// Those of them that others have too: their memory is not this client's.
    shared: usize,
    /// How much of the first chunk has been written, with those before it that may share memory with others behind it:
    /// that is kept until all of them are.
    spent: usize,
    /// Room in the buffers of `chunks` that none of their bytes takes.
    spare: usize,
    /// What goes last.
    tail: Vec<u8>,
    /// How much of `tail` has been written; only when `chunks` is empty.
    written: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    shared: bool,
    /// It may share memory with those behind it.
    more: bool,
    /// Room in its buffer that it does not take.
    spare: usize,
}

impl Output {
    /// Where to append a small reply.
    #[inline]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends a reply without a copy, or with one where that is cheaper.
    pub(crate) fn push(&mut self, reply: Bytes) {
        if reply.len() < crate::backend::LARGE {
            self.tail.extend_from_slice(&reply);
            return;
        }
        self.add(reply, false, false);
    }

    /// Appends what others get too, without a copy.
    pub(crate) fn share(&mut self, bytes: Bytes) {
        self.add(bytes, true, false);
    }

    /// Appends the pieces of one reply without a copy; they may share memory.
    pub(crate) fn push_pieces(&mut self, pieces: Vec<Bytes>) {
        let last = pieces.len().saturating_sub(1);
        for (i, piece) in pieces.into_iter().enumerate() {
            self.add(piece, false, i < last);
        }
    }

    /// To be called when the client takes no more for now.
    #[inline]
    fn set_aside(&mut self) {
        if self.tail.len() >= CHUNK {
            self.end_tail();
        }
    }

    fn end_tail(&mut self) {
        if self.tail.len() > self.written {
            let room = self.tail.capacity();
            let mut bytes = Bytes::from(std::mem::take(&mut self.tail));
            bytes.advance(std::mem::take(&mut self.written));
            let spare = room - bytes.len();
            self.chunked += bytes.len();
            self.spare += spare;
            self.chunks.push_back(Chunk { bytes, shared: false, more: false, spare });
        } else {
            self.tail.clear();
            self.written = 0;
        }
    }

    fn add(&mut self, bytes: Bytes, shared: bool, more: bool) {
        self.end_tail();
        self.chunked += bytes.len();
        self.shared += if shared { bytes.len() } else { 0 };
        self.chunks.push_back(Chunk { bytes, shared, more, spare: 0 });
    }

    /// Bytes to be written.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chunked + self.tail.len() - self.written
    }

    /// Bytes of memory that it takes.
    #[inline]
    pub(crate) fn memory(&self) -> usize {
        self.chunked - self.shared + self.spent + self.spare + self.tail.capacity()
    }

    /// Bytes that others have too, or had.
    pub(crate) fn shared(&self) -> usize {
        self.shared
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All there is to write, if it is in one piece.
    #[inline]
    pub(crate) fn single(&self) -> Option<&[u8]> {
        self.chunks.is_empty().then(|| &self.tail[self.written..])
    }

    /// What to write next, up to so many bytes; the number of slices that were filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; 16], mut most: usize) -> usize {
        let mut count = 0;
        let parts = self.chunks.iter().map(|chunk| &chunk.bytes[..]).chain(Some(&self.tail[self.written..]));
        for (part, slice) in parts.filter(|part| !part.is_empty()).zip(slices.iter_mut()) {
            let part = &part[..part.len().min(most)];
            most -= part.len();
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    /// Notes that the kernel has taken `count` more bytes.
    #[inline]
    pub(crate) fn wrote(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let len = chunk.bytes.len();
            let taken = count.min(len);
            self.chunked -= taken;
            if chunk.shared {
                self.shared -= taken;
            }
            if count < len {
                chunk.bytes.advance(count);
                self.spent += if chunk.shared { 0 } else { count };
                return;
            }
            count -= len;
            self.spent = if chunk.more { self.spent + taken } else { 0 };
            self.spare -= chunk.spare;
            self.chunks.pop_front();
        }
        self.written += count;
        if self.written == self.tail.len() {
            self.written = 0;
            self.tail.clear();
        }
    }

    /// Gives back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Output::default();
        }
    }
}

impl Turn {
    /// Writes what the kernel takes. True if it would take more, but the turn is to end with that.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let (session, backend) = (&self.session, &self.worker.backend);
        let mut state = session.state.borrow_mut();
        let mut most = backend.allowance.of(state.out.len(), &session.wakeup);
        while !state.out.is_empty() && most > 0 {
            let stream = Pin::new(&mut self.stream);
            let written = match state.out.single() {
                Some(bytes) => stream.poll_write(cx, &bytes[..bytes.len().min(most)]),
                None => {
                    let mut slices = [IoSlice::new(&[]); 16];
                    let filled = state.out.slices(&mut slices, most);
                    stream.poll_write_vectored(cx, &slices[..filled])
                }
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    most -= count.min(most);
                    state.out.wrote(count);
                    self.window.written += count as u64;
                    state.wrote_at = backend.clock.now();
                    backend.metrics.bytes_out.add(count as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        state.out.set_aside();
        Ok(most == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_reply_takes_its_memory_until_all_of_it_is_written() {
        let (mut output, len) = (Output::default(), 4 * crate::backend::LARGE);
        output.push(Bytes::from(vec![0; len]));
        output.push(Bytes::from(vec![0; len]));
        output.wrote(len - 1);
        assert_eq!((output.len(), output.memory()), (len + 1, 2 * len));
        output.wrote(2);
        assert_eq!((output.len(), output.memory()), (len - 1, len));
        output.wrote(len - 1);
        assert_eq!((output.len(), output.memory()), (0, 0));
    }

    #[test]
    fn pieces_that_share_memory_take_it_until_the_last_of_them_is_written() {
        let (mut output, len) = (Output::default(), 4 * crate::backend::LARGE);
        let whole = Bytes::from(vec![0; 2 * len]);
        output.push_pieces(vec![whole.slice(..len), whole.slice(len..)]);
        for written in [len - 1, 2, len - 2] {
            output.wrote(written);
            assert_eq!(output.memory(), 2 * len);
        }
        output.wrote(1);
        assert_eq!((output.len(), output.memory()), (0, 0));
    }

    #[test]
    fn many_small_replies_become_chunks_whose_room_counts_until_they_are_written() {
        let mut output = Output::default();
        output.tail().extend_from_slice(&vec![0; CHUNK - 1]);
        output.set_aside();
        assert!(output.single().is_some());
        output.tail().extend_from_slice(&[0; 100]);
        output.wrote(50);
        let memory = output.memory();
        output.set_aside();
        assert_eq!((output.single(), output.len(), output.memory()), (None, CHUNK + 49, memory));
        output.wrote(CHUNK + 49);
        assert_eq!((output.len(), output.memory()), (0, 0));
    }

    #[test]
    fn replies_come_out_in_order_whatever_their_size_and_the_writes() {
        let (mut output, mut expected, mut got) = (Output::default(), Vec::new(), Vec::new());
        for i in 0..500usize {
            let reply = vec![i as u8; if i % 11 == 0 { crate::backend::LARGE + i } else { i % 200 }];
            expected.extend_from_slice(&reply);
            output.push(Bytes::from(reply));
            for round in 0..i % 3 {
                let mut slices = [IoSlice::new(&[]); 16];
                let filled = output.slices(&mut slices, usize::MAX);
                let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                bytes.truncate(1 + 5000 * round);
                output.wrote(bytes.len());
                got.extend(bytes);
            }
            if i % 7 == 0 {
                output.set_aside();
            }
        }
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = output.slices(&mut slices, usize::MAX);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            output.wrote(bytes.len());
            got.extend(bytes);
        }
        assert_eq!(got, expected);
    }
}
