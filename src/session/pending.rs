//! A session's commands that have not been answered, in the order in which they came.

use std::collections::VecDeque;

use bytes::Bytes;

use super::entry::{Pending, Progress};
use super::gather::Gather;
use super::lanes::Lanes;
use super::output::Output;
use super::receivers::Messages;
use super::replies::Replies;
use super::splitting::Splitting;
use super::subscribe::Subscriptions;
use crate::backend::{Reply, Ticket};
use crate::command::Merge;
use crate::metrics::{Owner, WorkerMetrics};
use crate::net::NodeAddr;

/// Replies that came early are told of at once when there are so many bytes more of them.
const EARLY_STEP: usize = 16 * 1024;

/// Bytes of a client's buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) early: usize,
    pub(crate) topics: usize,
}

/// What a session and its links share.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) queue: VecDeque<Pending>,
    /// The number of the first command in the queue.
    pub(super) base: u64,
    /// Request bytes of the commands in the queue.
    pub(super) bytes: usize,
    pub(crate) out: Output,
    /// Which replies the client gets.
    pub(crate) replies: Replies,
    /// Bytes of replies that wait for those to earlier commands.
    pub(super) early: usize,
    pub(crate) lanes: Option<Box<Lanes>>,
    /// Its messages that are on their way.
    pub(crate) messages: Messages,
    /// The links that carried its writes, by [`Link::bit`](crate::backend::Link::bit).
    pub(crate) wrote: u64,
    /// The nodes that it wrote to on connections of its own.
    pub(crate) wrote_apart: Vec<NodeAddr>,
    /// The routes' version that the commands in the queue were sent by.
    pub(crate) version: u64,
    /// What the worker was told of what is held.
    pub(crate) held_told: (usize, usize),
    /// What the worker was told of.
    pub(crate) kept_told: Told,
    /// When the client took a byte last, by the worker's clock,
    pub(crate) wrote_at: u64,
    /// since when it has not been read because its input is full, or 0,
    pub(crate) full_since: u64,
    /// and since when its unread output has exceeded `output_hard`, or 0.
    pub(crate) hard_since: u64,
    /// Nothing is read from it any more, so that its leaving must be asked for.
    pub(crate) not_read: bool,
    /// The first command is one at which the connection is to be closed.
    pub(crate) cut: bool,
    /// It was idle when the worker looked last.
    pub(crate) idle_since_round: bool,
    /// The reply to the first command is being merged, little by little.
    pub(super) merging: bool,
    /// When a command or a reply was large last, by the worker's clock; 0 if long ago.
    pub(super) large_at: u64,
    /// The command that is being split, little by little; nothing is planned behind it.
    pub(super) splitting: Option<Box<Splitting>>,
    /// What it is subscribed to, if it is to anything.
    pub(crate) subscriptions: Option<Box<Subscriptions>>,
    /// The client has gone: what still comes for it is dropped.
    pub(crate) gone: bool,
}

impl State {
    /// The number that the next command gets.
    #[inline]
    pub(crate) fn next_seq(&self) -> u64 {
        self.base + self.queue.len() as u64
    }

    /// The number of the first command that has not been answered.
    #[inline]
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Request bytes of the commands that have not been answered.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of replies that the client has not taken, those that wait for their turn included.
    #[inline]
    pub(crate) fn unread(&self) -> usize {
        self.out.len() + self.early
    }

    /// Bytes of memory that go with the client's unread replies, if it has any.
    #[inline]
    pub(crate) fn freed(&self) -> usize {
        if self.unread() == 0 { 0 } else { self.out.memory() + self.out.shared() + self.early }
    }

    /// When the first command was framed that has not been answered, by the worker's clock.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.queue.front().map(|pending| pending.started)
    }

    /// The number of the last command that publishes and has not been answered.
    pub(crate) fn last_publish(&self) -> Option<u64> {
        let publishes =
            |pending: &Pending| pending.spec.is_some_and(|spec| matches!(spec.merge, Merge::Receivers(_)));
        Some(self.base + self.queue.iter().rposition(publishes)? as u64)
    }

    /// What of command `seq` waits for a reply: slot, ticket and link of each part.
    pub(crate) fn waiting(&mut self, seq: u64) -> Vec<(u16, Ticket, u32)> {
        match self.get(seq) {
            Some(Pending { progress: Progress::Parts(gather), .. }) => {
                gather.waiting().map(|(part, slot, link)| (slot, Ticket { seq, part }, link)).collect()
            }
            Some(Pending { progress: Progress::Waiting, slot, link, .. }) => {
                vec![(*slot, Ticket { seq, part: 0 }, *link)]
            }
            _ => Vec::new(),
        }
    }

    /// Adds a command, whose number is [`State::next_seq`] before the call.
    #[inline]
    pub(crate) fn push(&mut self, mut pending: Pending) {
        if !self.replies.are_all() {
            pending.silent = self.replies.next();
        }
        self.bytes += pending.len as usize;
        self.queue.push_back(pending);
    }

    /// The place in the table of the command that `ticket` is for.
    pub(crate) fn command(&mut self, ticket: Ticket) -> Option<u16> {
        Some(self.get(ticket.seq)?.spec?.id)
    }

    pub(crate) fn get(&mut self, seq: u64) -> Option<&mut Pending> {
        self.queue.get_mut(seq.checked_sub(self.base)? as usize)
    }

    /// The slot that `ticket` is for.
    pub(crate) fn slot(&mut self, ticket: Ticket) -> u16 {
        match self.get(ticket.seq) {
            Some(Pending { progress: Progress::Parts(gather), .. }) => gather.slot(ticket.part),
            Some(pending) => pending.slot,
            None => 0,
        }
    }

    /// The parts of command `seq`, if it was cut.
    pub(crate) fn parts(&mut self, seq: u64) -> Option<&mut Gather> {
        match self.get(seq) {
            Some(Pending { progress: Progress::Parts(gather), .. }) => Some(gather),
            _ => None,
        }
    }

    /// How many replies to `ticket` come before the last one.
    pub(crate) fn earlier(&mut self, ticket: Ticket) -> u32 {
        match self.get(ticket.seq) {
            Some(Pending { progress: Progress::Parts(gather), .. }) => gather.earlier(ticket.part),
            Some(pending) => pending.earlier,
            None => 0,
        }
    }

    /// Notes that `ticket` was sent (again) on `link`.
    pub(crate) fn set_link(&mut self, ticket: Ticket, link: u32) {
        match self.get(ticket.seq) {
            Some(Pending { progress: Progress::Parts(gather), .. }) => gather.set_link(ticket.part, link),
            Some(pending) => pending.link = link,
            None => {}
        }
    }

    /// When the command was framed, if the reply to `ticket` is the next one that the client gets.
    #[inline(always)]
    pub(crate) fn next_in_line(&self, ticket: Ticket) -> Option<u64> {
        match self.queue.front() {
            Some(Pending { progress: Progress::Waiting, silent: false, started, .. })
                if ticket.seq == self.base =>
            {
                Some(*started)
            }
            _ => None,
        }
    }

    /// Takes the reply to the first command.
    #[inline(always)]
    pub(crate) fn write_first(&mut self, reply: Reply<'_>, now: u64, metrics: &WorkerMetrics) {
        match reply {
            Reply::Small(bytes) => self.out.tail().extend_from_slice(bytes),
            Reply::Large(bytes) => self.out.push(bytes),
        }
        self.pop(now, metrics);
        self.flush(now, metrics);
    }

    /// Takes the reply to `ticket`. True if anything can be written to the client now.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        ticket: Ticket,
        reply: Reply<'_>,
        now: u64,
        metrics: &WorkerMetrics,
    ) -> bool {
        if self.next_in_line(ticket).is_some() {
            self.write_first(reply, now, metrics);
            return true;
        }
        // As `get`, which would borrow all of the state.
        let Some(place) = ticket.seq.checked_sub(self.base) else { return false };
        let Some(pending) = self.queue.get_mut(place as usize) else { return false };
        if matches!(pending.progress, Progress::Cut) {
            return false;
        }
        let reply = if pending.silent { Reply::Small(b"") } else { reply };
        self.early += reply.bytes().len();
        match &mut pending.progress {
            Progress::Parts(gather) => gather.complete(ticket.part, reply),
            progress => *progress = Progress::Done(reply.into_bytes()),
        }
        if self.early >= self.kept_told.early + EARLY_STEP {
            self.tell_early(metrics);
        }
        self.flush(now, metrics)
    }

    /// Tells how much came early: its own turn does it too, but that may be long in coming.
    #[cold]
    fn tell_early(&mut self, metrics: &WorkerMetrics) {
        let told = std::mem::replace(&mut self.kept_told.early, self.early);
        metrics.kept.add(Owner::EarlyReplies, self.early as i64 - told as i64);
    }

    /// Answers a whole command, whatever parts of it are still to come: with this reply, or by closing the
    /// connection. True if there is anything to do for the session's task.
    pub(crate) fn settle(
        &mut self,
        seq: u64,
        reply: Option<Bytes>,
        now: u64,
        metrics: &WorkerMetrics,
    ) -> bool {
        let Some(pending) = self.get(seq) else { return false };
        let before = pending.early();
        let reply = reply.map(|reply| if pending.silent { Bytes::new() } else { reply });
        match (reply, &mut pending.progress) {
            (None, Progress::Parts(gather)) => gather.cut = true,
            (None, progress) => *progress = Progress::Cut,
            (Some(reply), progress) => *progress = Progress::Done(reply),
        }
        let after = pending.early();
        self.early = self.early - before + after;
        self.flush(now, metrics)
    }

    /// Moves the replies that are next in line to the output. True if there were any, or the place is reached at
    /// which the connection is to be closed.
    #[inline]
    pub(crate) fn flush(&mut self, now: u64, metrics: &WorkerMetrics) -> bool {
        let before = self.base;
        while let Some(front) = self.queue.front_mut() {
            let early = match &mut front.progress {
                Progress::Done(reply) => {
                    let reply = std::mem::take(reply);
                    let len = reply.len();
                    self.out.push(reply);
                    len
                }
                Progress::Parts(gather) if gather.cut => {
                    self.cut = true;
                    return true;
                }
                Progress::Parts(gather) if gather.is_done() => {
                    let kept = gather.bytes();
                    if !front.silent && !gather.merge(&mut self.out) {
                        self.early += gather.bytes() - kept;
                        self.merging = true;
                        return true;
                    }
                    kept
                }
                Progress::Cut => {
                    self.cut = true;
                    return true;
                }
                _ => break,
            };
            self.early -= early;
            self.pop(now, metrics);
        }
        self.base != before
    }

    #[inline]
    fn pop(&mut self, now: u64, metrics: &WorkerMetrics) {
        if let Some(pending) = self.queue.pop_front() {
            self.base += 1;
            self.bytes -= pending.len as usize;
            let mut command = metrics.requests.len() - 1;
            if let Some(spec) = pending.spec {
                metrics.latency[spec.family.index()].record(now.saturating_sub(pending.started));
                command = usize::from(spec.id);
            }
            metrics.requests[command].inc();
        }
    }

    /// Gives back memory that is not in use.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        self.out.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Spec, resolve};
    use crate::protocol::RequestFramer;

    fn get() -> &'static Spec {
        let mut framer = RequestFramer::default();
        let request = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        let limits = crate::protocol::RequestLimits { arguments: 9, bytes: 99, unauthenticated: false };
        framer.next(request, &limits).unwrap();
        resolve(&framer.args(request)).unwrap()
    }

    #[test]
    fn a_client_that_never_pauses_is_not_watched_for_ever() {
        let (families, commands) = (&crate::command::Family::LABELS, &crate::command::NAMES);
        let shape = crate::metrics::Shape { families, commands, workers: 1, ..Default::default() };
        let all = crate::metrics::Metrics::new(shape);
        let (mut state, metrics) = (State::default(), &all.workers()[0]);
        let push = |state: &mut State| {
            let progress = Progress::Waiting;
            state.push(Pending {
                started: 0,
                spec: Some(get()),
                len: 1,
                slot: 7,
                link: 1,
                earlier: 0,
                silent: false,
                progress,
            });
            state.next_seq() - 1
        };
        push(&mut state);
        state.watch();
        for _ in 0..3 {
            let seq = push(&mut state);
            state.lanes().sent(7, Ticket { seq, part: 0 }, 1, Default::default(), false);
            assert!(state.base() > 0 || !state.unwatch());
            let first = Ticket { seq: state.base(), part: 0 };
            state.complete(first, Reply::Small(b"+OK\r\n"), 0, metrics);
        }
        assert!(!state.is_idle() && state.unwatch());
    }
}
