//! A client's task: a turn reads, plans what is whole, writes what is ready, and ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::ahead::Ahead;
use super::input::{Input, Stop};
use super::learning::Wait;
use super::local::Client;
use super::window::Window;
use super::{Order, Session, Worker};
use crate::backend::{Backend, LARGE, Link, SCRATCH, make_room};
use crate::metrics::{Closed, Reached};
use crate::net::Stream;
use crate::protocol::RequestFramer;

/// As often a turn reads.
const TURN_READS: usize = 4;
/// So much of an announced request is given room at once.
pub(super) const BELIEVED: usize = 1 << 20;
/// A command that has waited for less than this is still sent for a client that sends no more, but may read.
const LEAVING: Duration = Duration::from_secs(1);
/// A client's socket and all that only its own task needs.
pub(super) struct Turn {
    pub(super) session: Rc<Session>,
    pub(super) worker: Rc<Worker>,
    pub(super) stream: Stream,
    pub(super) framer: RequestFramer,
    /// What was read and is not planned yet.
    pub(super) input: BytesMut,
    /// What was read behind it while nothing could be planned.
    ahead: Ahead,
    pub(super) client: Client,
    /// Nothing more is planned until this command is the first unanswered one.
    pub(super) barrier: u64,
    /// PUBLISH waits for the commands before this one: the last that is no PUBLISH.
    pub(super) others: u64,
    /// No more is read: the client has closed its side.
    pub(super) eof: bool,
    /// No more is planned: after QUIT or a protocol error.
    pub(super) closing: bool,
    /// CLIENT PAUSE, or a command that timed out, holds back what comes next.
    pub(super) paused: bool,
    /// A command that nobody knows waits for the cluster to tell its own.
    pub(super) wait: Option<Wait>,
    /// A link whose queue was full when a command was added to it.
    pub(super) full: Option<Rc<Link>>,
    /// Bounds that hold the input back and have been counted, a bit for each [`Reached::index`].
    pub(super) counted: u32,
    /// How many commands may be in flight.
    pub(super) window: Window,
    /// How many commands in flight the worker was told of.
    pub(super) in_flight: usize,
    /// When to look at held commands again.
    pub(super) sleep: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    pub(super) fn new(session: Rc<Session>, stream: Stream) -> Self {
        let (worker, client) = (session.worker.clone(), Client::new(session.id, session.settings.clone()));
        Turn {
            window: Window::new(&session.settings.limits),
            session,
            worker,
            stream,
            framer: RequestFramer::default(),
            input: BytesMut::new(),
            ahead: Ahead::default(),
            client,
            barrier: 0,
            others: 0,
            eof: false,
            closing: false,
            paused: false,
            wait: None,
            full: None,
            counted: 0,
            in_flight: 0,
            sleep: None,
        }
    }

    /// One turn. Ready when the connection is to be closed; true if the client may have to read what it was sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.session.wakeup.begin(cx);
        self.worker.spin.turn(self.worker.backend.clock.tick());
        if self.session.order.get() != Order::None && self.obey() {
            return Poll::Ready(false);
        }
        let is_long = self.tell();
        self.closing |= self.worker.draining.get();
        let is_empty = self.input.is_empty() && self.ahead.is_empty();
        let mut stop = match is_long && self.go_on() {
            true => Stop::Budget,
            false if is_empty => Stop::Empty,
            false => self.plan_input(),
        };
        let (mut reads, mut was_full) = (0, false);
        while stop != Stop::Budget && reads < TURN_READS && !was_full {
            let Poll::Ready(read) = self.read(stop, cx) else { break };
            let Ok(read) = read else { return Poll::Ready(false) };
            (stop, was_full) = read;
            reads += 1;
        }
        if (self.eof || self.closing) && self.session.waits_for_nobody(self.closing) {
            self.end_errand();
        }
        self.look_after_held(cx);
        let Ok(writes_on) = self.write(cx) else { return Poll::Ready(false) };
        let mut state = self.session.state.borrow_mut();
        if state.cut {
            drop(state);
            self.end_here();
            state = self.session.state.borrow_mut();
        }
        let transaction = self.client.transaction.as_ref();
        self.session.about.multi.set(transaction.map_or(-1, |transaction| transaction.len() as i32));
        let errand = self.session.errand_kept();
        let split = state.splitting.as_ref().map_or(0, |splitting| splitting.memory());
        let queued = errand + split + transaction.map_or(0, |transaction| transaction.memory());
        // Not the input's capacity: pages into which nothing has been read take no memory.
        self.worker.count_kept(&mut state, self.input.len() + self.ahead.len() + queued);
        self.in_flight = self.worker.count_in_flight(self.in_flight, state.len());
        // There may be more to read: only a read that found nothing has set the alarm for it.
        let reads_on = was_full || reads == TURN_READS;
        let goes_on = stop == Stop::Budget || reads_on || writes_on || split > 0 || state.merging;
        if goes_on {
            self.session.wakeup.go_on_in_line(cx, &self.worker.backend.allowance);
        } else if stop == Stop::Blocked && self.may_go_on(&state) {
            self.session.wakeup.go_on(cx);
        }
        // As a server does it: a client that has gone does not wait any more.
        self.closing |= self.eof && self.paused;
        let over = self.closing || (self.eof && stop != Stop::Budget);
        let finished = state.is_idle() && state.out.is_empty();
        drop(state);
        let ends = over && finished && (self.closing || stop == Stop::Empty);
        if ends { Poll::Ready(!self.eof) } else { Poll::Pending }
    }

    /// Does what others ordered. True if the connection is to be closed at once.
    #[cold]
    fn obey(&mut self) -> bool {
        match self.session.order.replace(Order::None) {
            Order::None => false,
            Order::Probe => self.stream.is_broken(),
            Order::Finish => {
                self.closing = true;
                false
            }
            Order::Close(reason) => {
                self.count_closed(reason);
                true
            }
        }
    }

    fn count_closed(&self, reason: Closed) {
        self.worker.backend.metrics.closed[reason.index()].add(1);
        tracing::info!(
            client = self.session.id,
            peer = self.stream.peer(),
            reason = reason.label(),
            "closing a client"
        );
    }

    /// The client, or the proxy, goes: what waits for it at a node must not follow it.
    #[cold]
    fn end_errand(&mut self) {
        self.session.errand.take();
        self.closing = true;
        self.session.state.borrow_mut().abandon_all();
        self.worker.backend.metrics.abandoned.add(1);
    }

    /// The place has been reached at which a write's unknown outcome closes the connection.
    #[cold]
    fn end_here(&mut self) {
        self.closing = true;
        let mut state = self.session.state.borrow_mut();
        let held = state.abandon_all();
        self.worker.backend.metrics.abandoned.add(held as u64);
        self.worker.count_held(&mut state);
        self.count_closed(Closed::Indoubt);
    }

    /// Reads once and plans; true if there may be more to read. Pending when there is nothing, or no room.
    ///
    /// Where planning was not stopped the input is part of one request, which `max_request` bounds.
    fn read(&mut self, stop: Stop, cx: &mut Context<'_>) -> Poll<io::Result<(Stop, bool)>> {
        let blocked = stop == Stop::Blocked;
        if self.eof || self.closing {
            self.session.state.borrow_mut().not_read = true;
            return Poll::Pending;
        }
        if blocked && self.is_full() {
            return Poll::Pending;
        }
        let worker = self.worker.clone();
        let Backend { metrics, scratch, .. } = &*worker.backend;
        if blocked || self.input.is_empty() {
            let most =
                if blocked { self.worker.backend.allowance.share(&self.session.wakeup) } else { SCRATCH };
            let mut scratch = scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let filled = buffer.filled();
            metrics.bytes_in.add(filled.len() as u64);
            self.eof = filled.is_empty();
            let was_full = filled.len() == most;
            if blocked {
                self.ahead.push(filled);
                return Poll::Ready(Ok((stop, was_full)));
            }
            let mut input = Input::Scratch(filled);
            let stop = self.plan(&mut input);
            self.input.extend_from_slice(input.bytes());
            return Poll::Ready(Ok((stop, was_full)));
        }
        let wanted = self.framer.wants().saturating_sub(self.input.len());
        make_room(&mut self.input, wanted, LARGE, BELIEVED);
        let most = self.may_read();
        let mut room = (&mut self.input).limit(most);
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut room))?;
        metrics.bytes_in.add(count as u64);
        self.eof = count == 0;
        Poll::Ready(Ok((self.plan_input(), count == most)))
    }

    /// How many bytes a read may bring where something has been read already.
    fn may_read(&self) -> usize {
        let waiting = self.input.len().max(self.framer.wants()) + self.ahead.len();
        self.worker.backend.allowance.of(waiting, &self.session.wakeup).min(SCRATCH)
    }

    /// Whether no more is read ahead; counts that, once until all was planned.
    fn is_full(&self) -> bool {
        let (limit, mut state) = (self.session.settings.limits.input_hard, self.session.state.borrow_mut());
        let full = self.input.len() + self.ahead.len() >= limit;
        if full && state.full_since == 0 {
            state.full_since = self.worker.backend.clock.now().max(1);
            self.worker.backend.metrics.reached[Reached::InputHard.index()].add(1);
        }
        full
    }

    fn plan_input(&mut self) -> Stop {
        while !self.input.is_empty() || !self.ahead.is_empty() {
            if self.input.is_empty() {
                self.ahead.take_into(&mut self.input, 0);
            }
            let mut input = Input::Buffer(std::mem::take(&mut self.input));
            let stop = self.plan(&mut input);
            if let Input::Buffer(rest) = input
                && !rest.is_empty()
            {
                self.input = rest;
            }
            if stop != Stop::Empty || self.ahead.is_empty() {
                return stop;
            }
            let wanted = self.framer.wants().saturating_sub(self.input.len());
            self.ahead.take_into(&mut self.input, wanted);
        }
        Stop::Empty
    }

    /// Sends held commands that may go, and sets the alarm for the others.
    fn look_after_held(&mut self, cx: &mut Context<'_>) {
        let session = self.session.clone();
        let mut state = session.state.borrow_mut();
        if state.lanes.is_none() {
            return;
        }
        let mut due = session.pump(&mut state, &mut self.worker.routes.borrow_mut(), self.client.protocol);
        let until = state.oldest().map_or(0, |started| started + LEAVING.as_nanos() as u64);
        if due.is_some() && self.eof && self.worker.backend.clock.now() < until {
            due = due.min(Some(until));
        } else if due.is_some() && self.eof {
            // The client does not wait any more; a command that waits must not follow it.
            let dropped = state.abandon_held();
            self.worker.backend.metrics.abandoned.add(dropped as u64);
            self.closing = true;
        }
        state.unwatch();
        self.worker.count_held(&mut state);
        match due {
            None => self.sleep = None,
            Some(due) => {
                let at = session.instant(due).into();
                let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
                sleep.as_mut().reset(at);
                if sleep.as_mut().poll(cx).is_ready() {
                    session.wakeup.wake();
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.worker.count_in_flight(self.in_flight, 0);
    }
}
