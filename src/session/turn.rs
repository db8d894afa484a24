//! A client's task: a turn reads, plans what is whole, writes what is ready, and ends.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::dispatch::{Planner, Source};
use super::local::Client;
use super::{Session, Worker};
use crate::backend::LARGE;
use crate::command::{Barrier, Local, Route, Spec, resolve};
use crate::config::Ordering;
use crate::error::ClientError;
use crate::net::Stream;
use crate::protocol::{Args, RequestFramer, RequestLimits};

/// After so many requests, keys, or bytes of them a turn lets others run.
const TURN_KEYS: usize = 1000;
const TURN_BYTES: usize = 256 * 1024;
/// As often a turn reads.
const TURN_READS: usize = 4;
/// Request bytes of one client that wait for replies; a larger request goes alone.
const IN_FLIGHT_BYTES: usize = 1 << 20;

/// A client's socket and all that only its own task needs.
pub(super) struct Turn {
    session: Rc<Session>,
    worker: Rc<Worker>,
    stream: Stream,
    framer: RequestFramer,
    /// What was read and is not planned yet.
    input: BytesMut,
    client: Client,
    /// Nothing more is planned until this command is the first unanswered one.
    barrier: u64,
    /// PUBLISH waits for the commands before this one: the last that is no PUBLISH.
    others: u64,
    /// No more is read: the client has closed its side.
    eof: bool,
    /// No more is planned: after QUIT or a protocol error.
    closing: bool,
    /// Whether the worker was told that this client waits for a reply.
    waits: bool,
    /// When to look at held commands again.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Why planning stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// There is no whole request.
    Empty,
    /// The turn has done enough.
    Budget,
    /// Something must be answered, or be read by the client, first.
    Blocked,
}

/// Where requests are planned from.
enum Input<'a> {
    Scratch(&'a [u8]),
    Buffer(BytesMut),
}

impl Input<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Input::Scratch(bytes) => bytes,
            Input::Buffer(bytes) => bytes,
        }
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        match self {
            Input::Scratch(bytes) => *bytes = &bytes[count..],
            Input::Buffer(bytes) => bytes.advance(count),
        }
    }

    /// Takes a large request out without a copy; it is gone from the input then.
    fn take_large(&mut self, len: usize) -> Option<Bytes> {
        match self {
            Input::Buffer(bytes) if len >= LARGE => Some(bytes.split_to(len).freeze()),
            _ => None,
        }
    }
}

impl Turn {
    pub(super) fn new(session: Rc<Session>, stream: Stream) -> Self {
        let worker = session.worker.clone();
        let client = Client::new(session.id, worker.config.client_password.is_none());
        Turn {
            session,
            worker,
            stream,
            framer: RequestFramer::default(),
            input: BytesMut::new(),
            client,
            barrier: 0,
            others: 0,
            eof: false,
            closing: false,
            waits: false,
            sleep: None,
        }
    }

    /// One turn. Ready when the connection is to be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.wakeup.begin(cx);
        self.worker.spin.turn(self.worker.backend.clock.tick());
        self.closing |= self.worker.drain.is_cancelled();
        let mut stop = self.plan_input();
        for _ in 0..TURN_READS {
            if stop == Stop::Budget {
                break;
            }
            match self.read(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(next)) => stop = next,
            }
        }
        self.look_after_held(cx);
        if self.write(cx).is_err() {
            return Poll::Ready(());
        }
        let state = self.session.state.borrow();
        if self.waits == state.is_idle() {
            self.waits = !self.waits;
            self.worker.spin.waits(self.waits);
        }
        if stop == Stop::Budget || (stop == Stop::Blocked && self.may_go_on(&state)) {
            self.session.wakeup.wake();
        }
        let over = self.closing || (self.eof && stop != Stop::Budget);
        let finished = state.is_idle() && state.out.is_empty();
        if over && finished && (self.closing || stop == Stop::Empty) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Reads once and plans. Pending when there is nothing to read, or no room.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stop>> {
        if self.eof || self.closing || self.input.len() >= self.worker.config.limits.input_hard {
            return Poll::Pending;
        }
        let metrics = self.worker.backend.metrics.clone();
        if self.input.is_empty() {
            let worker = self.worker.clone();
            let mut scratch = worker.backend.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let filled = buffer.filled();
            metrics.bytes_in.add(filled.len() as u64);
            self.eof = filled.is_empty();
            let mut input = Input::Scratch(filled);
            let stop = self.plan(&mut input);
            self.input.extend_from_slice(input.bytes());
            return Poll::Ready(Ok(stop));
        }
        let wanted = self.framer.wants().saturating_sub(self.input.len());
        // What a client announces is believed up to a megabyte at a time.
        self.input.reserve(wanted.clamp(LARGE, 1 << 20));
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        metrics.bytes_in.add(count as u64);
        self.eof = count == 0;
        Poll::Ready(Ok(self.plan_input()))
    }

    fn plan_input(&mut self) -> Stop {
        if self.input.is_empty() {
            return Stop::Empty;
        }
        let mut input = Input::Buffer(std::mem::take(&mut self.input));
        let stop = self.plan(&mut input);
        if let Input::Buffer(rest) = input
            && !rest.is_empty()
        {
            self.input = rest;
        }
        stop
    }

    /// Plans the whole requests at the front of `input`.
    fn plan(&mut self, input: &mut Input<'_>) -> Stop {
        let (session, worker) = (self.session.clone(), self.worker.clone());
        let mut state = session.state.borrow_mut();
        let routes = worker.routes.borrow();
        if state.version != routes.version() {
            // What is on its way was sent by older routes.
            if !state.is_idle() {
                state.watch();
            }
            state.version = routes.version();
        }
        let now = worker.backend.clock.now();
        let mut planner = Planner {
            session: &session,
            state: &mut state,
            routes: &routes,
            protocol: self.client.protocol,
            now,
        };
        let (mut keys, mut bytes) = (0, 0);
        loop {
            if self.closing {
                input.advance(input.bytes().len());
                return Stop::Empty;
            }
            if self.is_blocked(&planner) {
                return Stop::Blocked;
            }
            if keys >= TURN_KEYS || bytes >= TURN_BYTES {
                return Stop::Budget;
            }
            match self.request(input, &mut planner) {
                Ok(Some((arguments, len))) => {
                    keys += arguments;
                    bytes += len;
                }
                Ok(None) => return Stop::Empty,
                Err(stop) => return stop,
            }
        }
    }

    /// Whether the next request has to wait, whatever it is.
    #[inline]
    fn is_blocked(&self, planner: &Planner<'_>) -> bool {
        let (state, limits) = (&*planner.state, &self.worker.config.limits);
        !state.is_idle()
            && (state.base() < self.barrier
                || state.len() >= limits.session_in_flight
                || state.bytes() >= IN_FLIGHT_BYTES
                || self.worker.config.ordering == Ordering::Connection
                || (state.lanes.is_some() && self.worker.held_bytes.get() >= limits.max_held_bytes))
            || state.out.len() >= limits.output_soft
    }

    /// Whether what blocked the planning may be over.
    fn may_go_on(&self, state: &super::pending::State) -> bool {
        state.is_idle() && state.out.len() < self.worker.config.limits.output_soft && !self.closing
    }

    /// Plans one request: how many arguments and bytes it had.
    #[inline]
    fn request(
        &mut self,
        input: &mut Input<'_>,
        planner: &mut Planner<'_>,
    ) -> Result<Option<(usize, usize)>, Stop> {
        let limits = &self.worker.config.limits;
        let limits = RequestLimits {
            arguments: limits.max_arguments,
            bytes: limits.max_request,
            unauthenticated: !self.client.authenticated,
        };
        let framed = match self.framer.next(input.bytes(), &limits) {
            Ok(Some(framed)) => framed,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.closing = true;
                let mut text = Vec::new();
                error.write(&mut text);
                planner.answer(None, text.into());
                return Ok(None);
            }
        };
        let bytes = framed.rewritten.as_deref().unwrap_or(&input.bytes()[..framed.len]);
        let args = self.framer.args(bytes);
        let count = args.len();
        if count == 0 {
            input.advance(framed.len);
            return Ok(Some((1, framed.len)));
        }
        let found = resolve(&args);
        let (spec, barrier, route) = match &found {
            Ok(spec) => {
                let (route, barrier) = spec.placement(&args);
                (*spec, barrier, route)
            }
            Err(error) => {
                let mut text = Vec::new();
                crate::protocol::write::error(&mut text, &error.to_string());
                planner.answer(None, text.into());
                input.advance(framed.len);
                return Ok(Some((1, framed.len)));
            }
        };
        if barrier != Barrier::None && !self.passes(spec, barrier, planner) {
            return Err(Stop::Blocked);
        }
        // A large request leaves the input here, so that no copy of it is made.
        let large = if framed.rewritten.is_none() { input.take_large(framed.len) } else { None };
        let taken = large.is_some();
        let source = match (&large, &framed.rewritten) {
            (Some(bytes), _) => Source::Owned(bytes),
            (None, Some(bytes)) => Source::Slice(bytes),
            (None, None) => Source::Slice(&input.bytes()[..framed.len]),
        };
        let bytes = match source {
            Source::Slice(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        };
        let args = self.framer.args(bytes);
        Self::go(&mut self.client, &mut self.closing, spec, route, &args, source, planner, &self.worker);
        if barrier == Barrier::Full {
            self.barrier = planner.state.next_seq();
        }
        if barrier != Barrier::AfterOthers {
            self.others = planner.state.next_seq();
        }
        if !taken {
            input.advance(framed.len);
        }
        self.framer.shrink();
        Ok(Some((count, framed.len)))
    }

    /// Whether a command that is a barrier may go now.
    fn passes(&self, _spec: &Spec, barrier: Barrier, planner: &Planner<'_>) -> bool {
        match barrier {
            Barrier::None => true,
            Barrier::Full => planner.state.is_idle(),
            Barrier::AfterOthers => planner.state.base() >= self.others || planner.state.is_idle(),
        }
    }

    #[allow(clippy::too_many_arguments)]
    #[inline]
    fn go(
        client: &mut Client,
        closing: &mut bool,
        spec: &'static Spec,
        route: Route,
        args: &Args<'_>,
        source: Source<'_>,
        planner: &mut Planner<'_>,
        worker: &Worker,
    ) {
        if !client.authenticated && !spec.flags.has(crate::command::Flags::NO_AUTH) {
            return planner.fail(spec, &ClientError::NoAuth);
        }
        match route {
            Route::Keyed => planner.keyed(spec, args, source),
            Route::Split => planner.split(spec, args, source),
            Route::AllShards => planner.everywhere(spec, source),
            Route::AnyShard => planner.anywhere(spec, source),
            Route::Local(local) => {
                *closing |= local == Local::Quit;
                let mut reply = Vec::new();
                client.answer(local, args, &worker.config, &mut reply);
                planner.protocol = client.protocol;
                planner.answer(Some(spec), reply.into());
            }
            Route::Refused(reason) => {
                planner
                    .fail(spec, &ClientError::Refused { command: spec.name.into(), reason: reason.into() });
            }
        }
    }

    /// Sends held commands that may go, and sets the alarm for the others.
    fn look_after_held(&mut self, cx: &mut Context<'_>) {
        let session = self.session.clone();
        let mut state = session.state.borrow_mut();
        if state.lanes.is_none() {
            return;
        }
        let due = session.pump(&mut state, &mut self.worker.routes.borrow_mut(), self.client.protocol);
        if due.is_some() && self.eof {
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

    /// Writes what the kernel takes.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut state = self.session.state.borrow_mut();
        while !state.out.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let written = match state.out.single() {
                Some(bytes) => stream.poll_write(cx, bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); 16];
                    let filled = state.out.slices(&mut slices);
                    stream.poll_write_vectored(cx, &slices[..filled])
                }
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    state.out.wrote(count);
                    self.worker.backend.metrics.bytes_out.add(count as u64);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.waits {
            self.worker.spin.waits(false);
        }
    }
}
