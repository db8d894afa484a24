//! The task of one link: it writes the whole queue once a turn, reads, and hands out the replies.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::link::{Entry, Link, NOT_WANTED, OVER_MEMORY, Queue, State};
use super::send_buffer::{LARGE, SendBuffer};
use super::share::Share;
use super::times::Times;
use super::{BULK, Backend, Reply, Request, SCRATCH, make_room};
use crate::metrics::{LinkState, Phase, Reached};
use crate::protocol::{ReplyFramer, Rest};

/// A turn reads until a read has brought all that it might, or until it has handed out so many replies; then others run.
const REPLIES_PER_TURN: usize = 1000;

/// So long a reply is given room at once, as soon as something of it is there: to copy megabytes takes milliseconds.
const BELIEVED: usize = 64 << 20;

/// Why a link ended, for people.
pub(super) type Reason = &'static str;

/// The reason where a node's answer exceeds the bound.
const LARGE_REPLY: Reason = "a reply larger than max_reply";

/// The reason where that is no RESP.
pub(super) const GARBAGE: Reason = "garbage from the node";

/// A link's socket and what was read from it but makes no whole reply yet.
pub(super) struct Connection {
    pub(super) link: Rc<Link>,
    pub(super) backend: Rc<Backend>,
    pub(super) stream: TcpStream,
    pub(super) input: BytesMut,
    pub(super) framer: ReplyFramer,
    /// What is still to come of a reply whose command got an error instead.
    pub(super) rest: Option<Rest>,
    /// Whether it was told that the reply which is being read is large.
    pub(super) told_large: bool,
    share: Share,
    /// How many entries there were when replies were last counted.
    entries: Cell<usize>,
}

impl Connection {
    pub(super) fn new(link: Rc<Link>, backend: Rc<Backend>, stream: TcpStream, share: Share) -> Self {
        let (input, framer, entries) = (BytesMut::new(), ReplyFramer::default(), Cell::new(0));
        Connection { link, backend, stream, input, framer, rest: None, told_large: false, share, entries }
    }

    /// One turn. Ready when the link has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let ended = self.turn(cx);
        self.link.tell(&self.backend.memory, self.input.capacity());
        // Replies that came early were added by those who wait for them.
        self.backend.memory.check();
        ended
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.link.wakeup.begin(cx);
        let begun = self.link.queue.borrow().entries.len();
        self.entries.set(begun);
        if let Some(reason) = self.link.give_up.get() {
            if reason != OVER_MEMORY {
                return Poll::Ready(reason);
            }
            self.link.give_up.set(None);
            if let Err(reason) = self.drop_reply() {
                return Poll::Ready(reason);
            }
            self.count_read();
        }
        let mut goes_on = false;
        while !goes_on && let Poll::Ready(read) = self.read(cx) {
            self.count_read();
            let was_full = match read {
                Ok(was_full) => was_full,
                Err(reason) => return Poll::Ready(reason),
            };
            goes_on = was_full || begun.saturating_sub(self.entries.get()) >= REPLIES_PER_TURN;
        }
        if let Some(listener) = &self.link.listener {
            listener.pause();
        }
        match self.write(cx) {
            Err(error) => return Poll::Ready(reason_of(&error)),
            Ok(writes_on) => goes_on |= writes_on,
        }
        if goes_on {
            self.link.wakeup.go_on(cx);
        }
        let queue = self.link.queue.borrow();
        if self.link.state.get() == State::Retired {
            self.share.state(LinkState::Leaving);
            if queue.entries.is_empty() {
                return Poll::Ready(NOT_WANTED);
            }
        }
        self.share.holds(queue.times.requests(queue.entries.len()), queue.send.kept());
        if self.link.is_over() || self.link.is_full() {
            self.link.room.left(queue.send.kept());
        }
        Poll::Pending
    }

    /// Reads once and hands out the replies that are whole. True if there may be more to read.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Reason>> {
        let backend = self.backend.clone();
        if self.input.is_empty() && self.rest.is_none() {
            let mut scratch = backend.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Err(error) => return Poll::Ready(Err(reason_of(&error))),
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err("closed by the node")),
                Ok(()) => {}
            }
            self.link.note_read(backend.clock.tick());
            let bytes = buffer.filled();
            self.share.node.read_bytes.add(bytes.len() as u64);
            let used = match self.replies(bytes) {
                Ok(used) => used,
                Err(reason) => return Poll::Ready(Err(reason)),
            };
            self.input.extend_from_slice(&bytes[used..]);
            return Poll::Ready(Ok(bytes.len() == SCRATCH));
        }
        let len = self.input.len().max(self.framer.wants());
        if len > backend.settings.max_reply {
            self.refuse_reply(Reached::MaxReply);
            return Poll::Ready(Err(LARGE_REPLY));
        }
        if len >= BULK && !self.told_large {
            self.tell_large();
        }
        // What is small and begun is read on: others wait behind it.
        if backend.memory.is_paused() && self.rest.is_none() && len > SCRATCH {
            return Poll::Pending;
        }
        let wanted = self.framer.wants().saturating_sub(self.input.len());
        make_room(&mut self.input, wanted, SCRATCH, BELIEVED);
        let most = self.link.may_move(len).min(SCRATCH);
        let mut room = (&mut self.input).limit(most);
        let count = match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut room)) {
            Err(error) => return Poll::Ready(Err(reason_of(&error))),
            Ok(0) => return Poll::Ready(Err("closed by the node")),
            Ok(count) => count,
        };
        self.share.node.read_bytes.add(count as u64);
        self.link.note_read(backend.clock.tick());
        let handed_out = if self.rest.is_some() { self.pass() } else { self.replies_of_input() };
        Poll::Ready(handed_out.map(|()| count == most))
    }

    /// Throws away what was read of a reply that is not kept, and hands out what comes behind it.
    #[cold]
    pub(super) fn pass(&mut self) -> Result<(), Reason> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let used = rest.pass(&self.input).map_err(|_| GARBAGE)?;
        // What is left is little: a header, or what came behind.
        self.input = BytesMut::from(&self.input[used..]);
        if rest.is_over() {
            self.rest = None;
            return if self.input.is_empty() { Ok(()) } else { self.replies_of_input() };
        }
        Ok(())
    }

    /// As [`Self::replies`], from the connection's own buffer, whose large replies need no copy.
    fn replies_of_input(&mut self) -> Result<(), Reason> {
        let mut input = std::mem::take(&mut self.input);
        // The reply that was cut off is the first one.
        if let Some(len) = self.framer.next(&input).map_err(|_| GARBAGE)? {
            self.told_large = false;
            if len >= LARGE {
                let reply = input.split_to(len).freeze();
                self.hand_out(Reply::Large(reply))?;
            } else {
                self.hand_out(Reply::Small(&input[..len]))?;
                input.advance(len);
            }
            let used = self.replies(&input)?;
            input.advance(used);
        }
        if !input.is_empty() {
            self.input = input;
        }
        Ok(())
    }

    /// Whose reply it is learns early that it is large.
    #[cold]
    fn tell_large(&mut self) {
        self.told_large = true;
        if let Some(Entry { receiver: Some(receiver), ticket, .. }) = self.link.queue.borrow().entries.front()
        {
            receiver.is_large(*ticket);
        }
    }

    /// Hands out the whole replies in `bytes`; returns how long they are together.
    fn replies(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let mut used = 0;
        while used < bytes.len() {
            match self.framer.next(&bytes[used..]) {
                Ok(Some(len)) => {
                    self.hand_out(Reply::Small(&bytes[used..used + len]))?;
                    used += len;
                }
                Ok(None) => break,
                Err(_) => return Err(GARBAGE),
            }
        }
        Ok(used)
    }

    #[inline]
    pub(super) fn hand_out(&mut self, reply: Reply<'_>) -> Result<(), Reason> {
        let is_push = reply.bytes().first() == Some(&b'>');
        if (is_push || self.link.listener.is_some()) && !self.is_answer(&reply) {
            return Ok(());
        }
        let queue = &mut *self.link.queue.borrow_mut();
        let Some(mut entry) = queue.entries.pop_front() else { return Err("a reply that nobody asked for") };
        if entry.earlier > 0 {
            entry.earlier -= 1;
            queue.entries.push_front(entry);
            return self.keep_earlier(&mut queue.earlier, reply.bytes());
        }
        let len = entry.len as usize;
        self.link.note_length(reply.bytes().len());
        // A node that refuses a request before it has read all of it: nothing can follow on this connection.
        let early = queue.send.written_unanswered() < len as u64;
        match entry.receiver {
            Some(receiver) => {
                let request = Request { link: &self.link, queue, len };
                receiver.reply(entry.ticket, reply, request);
            }
            None => {
                let Queue { entries, times, .. } = queue;
                self.count_replies(times, entries.len() + 1);
                times.answered_internal();
                self.entries.set(entries.len());
            }
        }
        queue.send.answer(len);
        if !queue.earlier.is_empty() {
            queue.earlier = Vec::new();
        }
        if early { Err("a reply before the request was sent") } else { Ok(()) }
    }

    /// Whether this answers a command. What the node says unasked goes to the listener, if there is one.
    #[cold]
    fn is_answer(&self, reply: &Reply<'_>) -> bool {
        let Some(listener) = &self.link.listener else { return false };
        let asked = self.link.queue.borrow().entries.front().map(|entry| entry.ticket);
        listener.hear(reply, asked)
    }

    /// Keeps a reply that is not the last one to its entry. All of them together are one reply to its sender.
    #[cold]
    fn keep_earlier(&self, earlier: &mut Vec<u8>, reply: &[u8]) -> Result<(), Reason> {
        if earlier.len() + reply.len() > self.backend.settings.max_reply {
            return Err(LARGE_REPLY);
        }
        earlier.extend_from_slice(reply);
        Ok(())
    }

    /// Counts the replies since the last time.
    fn count_read(&self) {
        let Queue { entries, times, .. } = &mut *self.link.queue.borrow_mut();
        self.count_replies(times, entries.len());
    }

    /// Counts the replies since the last time, of which `left` entries are left.
    fn count_replies(&self, times: &mut Times, left: usize) {
        let replies = self.entries.replace(left).saturating_sub(left);
        let (now, mut sum) = (self.backend.clock.now(), 0);
        times.answered(replies, now, |requests, longest, nanos| {
            self.share.node.answered(now, requests as u64, longest, nanos);
            sum += nanos;
        });
        self.backend.metrics.phase_nanos[Phase::Node.index()].add(sum);
    }

    /// Writes what the kernel takes. True if it would take more, but the turn is to end with that.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut queue = self.link.queue.borrow_mut();
        let before = queue.send.written();
        let may_write = self.link.may_write(&queue);
        let allowed = self.link.may_move(queue.send.unwritten());
        let mut most = may_write.min(allowed);
        while queue.send.unwritten() > 0 && most > 0 {
            let stream = Pin::new(&mut self.stream);
            let written = match queue.send.single() {
                Some(bytes) => stream.poll_write(cx, &bytes[..bytes.len().min(most)]),
                None => {
                    let mut slices = SendBuffer::no_slices();
                    let filled = queue.send.slices(&mut slices, most);
                    stream.poll_write_vectored(cx, &slices[..filled])
                }
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    queue.send.wrote(count);
                    most -= count;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        let Queue { send, entries, times, .. } = &mut *queue;
        if send.written() > before {
            self.share.node.written_bytes.add(send.written() - before);
            let (all, now) = (send.unwritten() == 0, self.backend.clock.tick());
            let queued = times.wrote(entries, send.written(), all, now);
            self.backend.metrics.phase_nanos[Phase::Queue.index()].add(queued);
        }
        Ok(most == 0 && allowed < may_write)
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "reset by the node",
        io::ErrorKind::BrokenPipe => "closed by the node",
        io::ErrorKind::TimedOut => "the node's machine does not answer",
        _ => "the connection failed",
    }
}
