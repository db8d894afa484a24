//! What was sent and not yet answered.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, net::TcpStream};

/// Larger than most turns' output, so that one write takes all of it; small enough to stay in the cache.
const CHUNK: usize = 64 * 1024;

/// Requests in the order of their sending, in chunks that no request straddles. Three cursors run over them: all
/// before `answered` is gone, all before `written` was taken by the kernel, the rest is queued.
#[derive(Default)]
pub struct Kept {
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first chunk was answered.
    answered: usize,
    /// The chunk that is being written, and how much of it was.
    writing: usize,
    written: usize,
    /// An empty chunk for the next time.
    spare: Option<Vec<u8>>,
}

impl Kept {
    /// Appends a request.
    pub fn push(&mut self, request: &[u8]) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.capacity() - chunk.len() >= request.len() => {
                chunk.extend_from_slice(request)
            }
            _ => self.push_chunk(request),
        }
    }

    /// Forgets the oldest request, which has this length: its reply came.
    pub fn forget(&mut self, length: usize) {
        self.answered += length;
        if self.answered < self.chunks[0].len() {
            return;
        }
        self.answered = 0;
        if self.chunks.len() == 1 {
            self.chunks[0].clear();
            self.written = 0;
        } else {
            let mut chunk = self.chunks.pop_front().expect("there are two");
            // It was written, but perhaps the next one not begun yet.
            match self.writing.checked_sub(1) {
                Some(before) => self.writing = before,
                None => self.written = 0,
            }
            if chunk.capacity() <= CHUNK {
                chunk.clear();
                self.spare = Some(chunk);
            }
        }
    }

    /// Writes what is queued, or as much as the kernel takes; panics when the peer has gone.
    pub fn write(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) {
        while let Some(chunk) = self.chunks.get(self.writing) {
            if self.written < chunk.len() {
                match Pin::new(&mut *stream).poll_write(cx, &chunk[self.written..]) {
                    Poll::Ready(n) => self.written += n.expect("the node is there"),
                    Poll::Pending => return,
                }
            } else if self.writing + 1 < self.chunks.len() {
                self.writing += 1;
                self.written = 0;
            } else {
                return;
            }
        }
    }

    #[cold]
    fn push_chunk(&mut self, request: &[u8]) {
        let mut chunk = match self.spare.take() {
            Some(chunk) if chunk.capacity() >= request.len() => chunk,
            _ => Vec::with_capacity(CHUNK.max(request.len())),
        };
        chunk.extend_from_slice(request);
        self.chunks.push_back(chunk);
    }
}
