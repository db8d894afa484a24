//! What a link has to write and what it wrote: every request's bytes, once, until its reply came.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Small requests share chunks of this size: a few hundred of them, a page-friendly allocation.
const CHUNK: usize = 32 * 1024;
/// A request from this size on is taken over as it is instead of being copied into a chunk.
pub const LARGE: usize = 16 * 1024;
/// As many chunks go into one `writev`.
const SLICES: usize = 16;

/// A byte stream in chunks with three cursors: queued, written, answered.
///
/// Offsets count from the connection's first byte. A request never crosses a chunk's end, so that its
/// bytes can be had as one slice for as long as it has not been answered.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    chunks: VecDeque<Chunk>,
    spare: Option<Vec<u8>>,
    queued: u64,
    written: u64,
    answered: u64,
    /// The chunk in which `written` lies.
    writing: usize,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    bytes: ChunkBytes,
}

#[derive(Debug)]
enum ChunkBytes {
    Shared(Vec<u8>),
    Large(Bytes),
}

impl Chunk {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            ChunkBytes::Shared(bytes) => bytes,
            ChunkBytes::Large(bytes) => bytes,
        }
    }

    #[inline]
    fn end(&self) -> u64 {
        self.start + self.bytes().len() as u64
    }
}

impl SendBuffer {
    /// Queues a copy of `request`.
    #[inline]
    pub(super) fn push(&mut self, request: &[u8]) {
        self.queued += request.len() as u64;
        if let Some(Chunk { bytes: ChunkBytes::Shared(bytes), .. }) = self.chunks.back_mut()
            && bytes.capacity() - bytes.len() >= request.len()
        {
            bytes.extend_from_slice(request);
            return;
        }
        self.push_chunk(request);
    }

    /// Queues `request` without a copy.
    pub(super) fn push_large(&mut self, request: Bytes) {
        self.set_empty_aside();
        let start = self.queued;
        self.queued += request.len() as u64;
        self.chunks.push_back(Chunk { start, bytes: ChunkBytes::Large(request) });
    }

    #[cold]
    fn push_chunk(&mut self, request: &[u8]) {
        self.set_empty_aside();
        let mut bytes = match self.spare.take() {
            Some(spare) if spare.capacity() >= request.len() => spare,
            _ => Vec::with_capacity(CHUNK.max(request.len())),
        };
        bytes.extend_from_slice(request);
        let start = self.queued - request.len() as u64;
        self.chunks.push_back(Chunk { start, bytes: ChunkBytes::Shared(bytes) });
    }

    /// The first chunk must hold the next request: an empty one does not stay before another.
    fn set_empty_aside(&mut self) {
        if let Some(Chunk { bytes: ChunkBytes::Shared(bytes), .. }) = self.chunks.front_mut()
            && bytes.is_empty()
        {
            self.spare = Some(std::mem::take(bytes));
            self.chunks.pop_front();
        }
    }

    /// Bytes that still have to be written.
    #[inline]
    pub(super) fn unwritten(&self) -> usize {
        (self.queued - self.written) as usize
    }

    /// Where the next byte to write stands, counted from the connection's first.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes kept: all that is queued or written and not yet answered.
    pub(super) fn kept(&self) -> usize {
        (self.queued - self.answered) as usize
    }

    /// How much of what has not been answered is written; nothing if more is answered than was written.
    pub(super) fn written_unanswered(&self) -> u64 {
        self.written.saturating_sub(self.answered)
    }

    /// What to write next, up to so many bytes; the number of slices that were filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES], mut most: usize) -> usize {
        let mut count = 0;
        for (chunk, slice) in self.chunks.iter().skip(self.writing).zip(slices.iter_mut()) {
            let skip = self.written.saturating_sub(chunk.start) as usize;
            let bytes = &chunk.bytes()[skip..];
            let bytes = &bytes[..bytes.len().min(most)];
            most -= bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// An array for `slices`.
    pub(super) fn no_slices<'a>() -> [IoSlice<'a>; SLICES] {
        [IoSlice::new(&[]); SLICES]
    }

    /// Notes that the kernel has taken `count` more bytes.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        while self.chunks.get(self.writing).is_some_and(|chunk| chunk.end() <= self.written)
            && self.writing + 1 < self.chunks.len()
        {
            self.writing += 1;
        }
    }

    /// The first request that has not been answered, which is `len` bytes long.
    pub(super) fn front(&self, len: usize) -> &[u8] {
        // `answer` leaves the chunk that holds the next request in front.
        let Some(chunk) = self.chunks.front() else { return &[] };
        let from = (self.answered - chunk.start) as usize;
        chunk.bytes().get(from..from + len).unwrap_or(&[])
    }

    /// As [`SendBuffer::front`], to keep; a large request is not copied.
    pub(super) fn front_bytes(&self, len: usize) -> Bytes {
        match self.chunks.front() {
            Some(Chunk { start, bytes: ChunkBytes::Large(bytes) }) if *start == self.answered => {
                bytes.slice(..len.min(bytes.len()))
            }
            _ => Bytes::copy_from_slice(self.front(len)),
        }
    }

    /// All there is to write, if it is in one piece.
    #[inline]
    pub(super) fn single(&self) -> Option<&[u8]> {
        let chunk = self.chunks.get(self.writing)?;
        (self.writing + 1 == self.chunks.len())
            .then(|| &chunk.bytes()[(self.written - chunk.start) as usize..])
    }

    /// Lets go of the first unanswered request, of `len` bytes.
    #[inline]
    pub(super) fn answer(&mut self, len: usize) {
        self.answered += len as u64;
        if self.chunks.front().is_some_and(|chunk| chunk.end() <= self.answered) {
            self.release();
        }
    }

    /// Drops the front chunk, or empties it when it is the only one.
    fn release(&mut self) {
        if self.chunks.len() == 1
            && let Some(Chunk { start, bytes: ChunkBytes::Shared(bytes) }) = self.chunks.front_mut()
            && bytes.capacity() <= CHUNK
        {
            bytes.clear();
            *start = self.queued;
            return;
        }
        if let Some(Chunk { bytes: ChunkBytes::Shared(mut bytes), .. }) = self.chunks.pop_front()
            && bytes.capacity() <= CHUNK
        {
            bytes.clear();
            self.spare = Some(bytes);
        }
        self.writing = self.writing.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(buffer: &mut SendBuffer, count: usize) -> Vec<u8> {
        let mut slices = SendBuffer::no_slices();
        let filled = buffer.slices(&mut slices, usize::MAX);
        let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        bytes.truncate(count);
        buffer.wrote(bytes.len());
        bytes
    }

    #[test]
    fn requests_are_written_once_in_order_and_kept_until_answered() {
        let mut buffer = SendBuffer::default();
        let mut all = Vec::new();
        let sizes: Vec<usize> =
            (0..2000).map(|i| if i % 97 == 0 { LARGE + i } else { 1 + i % 300 }).collect();
        let requests: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, n)| vec![i as u8; *n]).collect();
        let mut got = Vec::new();
        let mut next = 0;
        for (i, request) in requests.iter().enumerate() {
            if request.len() >= LARGE {
                buffer.push_large(Bytes::from(request.clone()));
            } else {
                buffer.push(request);
            }
            all.extend_from_slice(request);
            if i % 3 == 0 {
                got.extend(written(&mut buffer, 777));
            }
            if i % 50 == 0 {
                got.extend(written(&mut buffer, usize::MAX));
            }
            while i % 7 == 0 && (sizes[next] as u64) <= buffer.written_unanswered() {
                assert_eq!(buffer.front(sizes[next]), requests[next]);
                buffer.answer(sizes[next]);
                next += 1;
            }
        }
        while buffer.unwritten() > 0 {
            got.extend(written(&mut buffer, 100_000));
        }
        assert_eq!(got, all);
        for (request, size) in requests.iter().zip(&sizes).skip(next) {
            assert_eq!(buffer.front(*size), request);
            buffer.answer(*size);
        }
        assert_eq!(buffer.kept(), 0);
    }
}
