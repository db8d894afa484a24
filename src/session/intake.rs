//! From bytes that were read to planned commands: frames them, looks each up, and lets it go or wait.

use super::control::Pause;
use super::input::{Input, Stop};
use super::local::Client;
use super::pending::State;
use super::planner::{Planner, Source};
use super::turn::Turn;
use crate::command::{Barrier, Flags, Listen, Local, Route, Script, Spec, Transact, resolve};
use crate::config::Ordering;
use crate::error::{ClientError, ErrorKind};
use crate::metrics::{Closed, Reached};
use crate::protocol::{Args, Framed, RequestError, RequestLimits};

/// After so many requests, keys, or bytes of them a turn lets others run.
pub(super) const TURN_KEYS: usize = 500;
pub(super) const TURN_BYTES: usize = 64 * 1024;
/// Request bytes of one client that wait for replies; a larger request goes alone.
const IN_FLIGHT_BYTES: usize = 1 << 20;

impl Turn {
    /// Plans the whole requests at the front of `input`.
    pub(super) fn plan(&mut self, input: &mut Input<'_>) -> Stop {
        self.with_planner(|turn, planner| turn.plan_all(input, planner))
    }

    #[inline(always)]
    fn plan_all(&mut self, input: &mut Input<'_>, planner: &mut Planner<'_>) -> Stop {
        planner.plain = self.is_plain(planner);
        self.paused = false;
        planner.session.about.heard.set(planner.now);
        if planner.state.large_at != 0 && planner.state.is_idle() {
            planner.choose_links();
        }
        let (mut keys, mut bytes) = (0, 0);
        loop {
            if self.closing {
                input.advance(input.bytes().len());
                return Stop::Empty;
            }
            if planner.full.is_some() {
                self.full = planner.full.take();
            }
            if self.is_blocked(planner) {
                if !input.bytes().is_empty() {
                    self.count_blocked(planner);
                }
                return Stop::Blocked;
            }
            if keys >= TURN_KEYS || bytes >= TURN_BYTES {
                return Stop::Budget;
            }
            match self.request(input, planner) {
                Ok(Some((arguments, len))) => {
                    keys += arguments;
                    bytes += len;
                }
                Ok(None) => {
                    (self.counted, planner.state.full_since) = (0, 0);
                    return Stop::Empty;
                }
                Err(stop) => return stop,
            }
        }
    }

    /// Whether the next request has to wait, whatever it is.
    #[inline]
    fn is_blocked(&mut self, planner: &Planner<'_>) -> bool {
        let (state, limits) = (&*planner.state, &self.session.settings.limits);
        !state.is_idle()
            && (state.base() < self.barrier
                || (state.len() >= self.window.most && !self.window.widens(state, limits))
                || state.bytes() >= IN_FLIGHT_BYTES
                || self.link_is_full()
                || self.session.settings.ordering == Ordering::Connection)
            || state.unread() >= limits.output_soft
    }

    #[inline]
    fn link_is_full(&self) -> bool {
        self.full.as_ref().is_some_and(|link| link.is_over())
    }

    /// Counts the bound that holds back what the client sent, once until all of it has been planned.
    #[cold]
    fn count_blocked(&mut self, planner: &Planner<'_>) {
        let (state, limits) = (&*planner.state, &self.session.settings.limits);
        let bound = if state.unread() >= limits.output_soft {
            Reached::OutputSoft
        } else if state.base() < self.barrier {
            return;
        } else if state.len() >= limits.session_in_flight {
            Reached::SessionInFlight
        } else if self.link_is_full() {
            Reached::LinkQueue
        } else {
            return;
        };
        if self.counted & 1 << bound.index() == 0 {
            self.counted |= 1 << bound.index();
            self.worker.backend.metrics.reached[bound.index()].add(1);
        }
    }

    /// Whether what blocked the planning may be over.
    pub(super) fn may_go_on(&self, state: &State) -> bool {
        state.is_idle()
            && state.unread() < self.session.settings.limits.output_soft
            && !self.closing
            && !self.paused
    }

    /// Plans one request: how many arguments and bytes it had.
    #[inline]
    fn request(
        &mut self,
        input: &mut Input<'_>,
        planner: &mut Planner<'_>,
    ) -> Result<Option<(usize, usize)>, Stop> {
        let limits = &self.session.settings.limits;
        let limits = RequestLimits {
            arguments: limits.max_arguments,
            bytes: limits.max_request,
            unauthenticated: !self.client.authenticated,
        };
        let framed = match self.framer.next(input.bytes(), &limits) {
            Ok(Some(framed)) => framed,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.unframed(&error, planner);
                return Ok(None);
            }
        };
        let bytes = framed.rewritten.as_deref().unwrap_or(&input.bytes()[..framed.len]);
        let args = self.framer.args(bytes);
        let count = args.len();
        if count == 0 {
            // It counts as the one that CLIENT REPLY SKIP is about, as on a server.
            planner.state.replies.next();
            input.advance(framed.len);
            return Ok(Some((1, framed.len)));
        }
        let found = match resolve(&args) {
            Ok(spec) if planner.plain && spec.is_plain() => {
                return Ok(Some(self.carry_out(spec, None, count, &framed, input, planner)));
            }
            Err(error) => self.learned(error, &args),
            found => found,
        };
        let (spec, barrier, route) = match &found {
            Ok(spec) => {
                let (route, barrier) = self.placement(spec, &args);
                (*spec, barrier, route)
            }
            Err(error) if error.is_http() => {
                self.refused(None);
                planner.refuse(None, ErrorKind::Protocol, Vec::new());
                return Ok(None);
            }
            Err(error) => {
                self.paused = planner.unknown(error, &mut self.client, &mut self.wait);
                let len = if self.paused { 0 } else { framed.len };
                input.advance(len);
                return if self.paused { Err(Stop::Blocked) } else { Ok(Some((1, len))) };
            }
        };
        if planner.pause != Pause::None && self.is_held(spec, route, planner) {
            return Err(Stop::Blocked);
        }
        if barrier != Barrier::None && !self.passes(barrier, planner) {
            return Err(Stop::Blocked);
        }
        if planner.state.has_late() && self.is_behind_late(spec, route, barrier, planner) {
            let len = if self.paused { 0 } else { framed.len };
            input.advance(len);
            return if self.paused { Err(Stop::Blocked) } else { Ok(Some((1, len))) };
        }
        let planned = self.carry_out(spec, Some((route, barrier)), count, &framed, input, planner);
        planner.plain = self.is_plain(planner);
        Ok(Some(planned))
    }

    /// Whether nothing but a command's own row says what becomes of it.
    fn is_plain(&self, planner: &Planner<'_>) -> bool {
        self.client.authenticated
            && self.client.transaction.is_none()
            && planner.state.subscriptions.is_none()
            && planner.pause == Pause::None
            && !planner.state.has_late()
    }

    /// Carries out one command: a plain one, or one that goes this way.
    #[inline(always)]
    fn carry_out(
        &mut self,
        spec: &'static Spec,
        way: Option<(Route, Barrier)>,
        count: usize,
        framed: &Framed,
        input: &mut Input<'_>,
        planner: &mut Planner<'_>,
    ) -> (usize, usize) {
        planner.session.about.last.set(Some(spec.id));
        // A large request leaves the input here, so that no copy of it is made.
        let large = if framed.rewritten.is_none() { input.take_large(framed.len) } else { None };
        let taken = large.is_some();
        if taken {
            planner.note_command(framed.len);
        }
        let source = match (&large, &framed.rewritten) {
            (Some(bytes), _) => Source::Owned(bytes),
            (None, Some(bytes)) => Source::Slice(bytes),
            (None, None) => Source::Slice(&input.bytes()[..framed.len]),
        };
        let args = self.framer.args(source.bytes());
        planner.writes = !spec.is_readonly();
        match way {
            None => planner.keyed(spec, &args, source),
            Some((route, _)) => {
                Self::go(&mut self.client, &mut self.closing, spec, route, &args, source, planner);
            }
        }
        let barrier = way.map_or(Barrier::None, |(_, barrier)| barrier);
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
        (count, framed.len)
    }

    /// Whether CLIENT PAUSE holds a command back. Who has not logged in learns so at once.
    #[cold]
    fn is_held(&mut self, spec: &'static Spec, route: Route, planner: &Planner<'_>) -> bool {
        let writes = self.client.transaction.as_ref().is_some_and(|transaction| transaction.writes());
        let executes = route == Route::Transaction(Transact::Exec) && writes;
        self.paused = self.client.authenticated && (executes || planner.pause.holds(spec));
        self.paused
    }

    /// Where a request goes and what it waits for; what is only queued waits for nothing.
    #[inline]
    fn placement(&self, spec: &'static Spec, args: &Args<'_>) -> (Route, Barrier) {
        let (route, barrier) = spec.placement(args);
        if self.client.transaction.is_some() { (route, self.client.barrier(route)) } else { (route, barrier) }
    }

    /// Answers what is no request, or too large a one, and closes.
    #[cold]
    fn unframed(&mut self, error: &RequestError, planner: &mut Planner<'_>) {
        self.refused(Some(error));
        let mut text = Vec::new();
        error.write(&mut text);
        planner.refuse(None, error.kind(), text);
    }

    /// Closes the connection after the replies: what came is no request, or exceeds a bound.
    fn refused(&mut self, error: Option<&RequestError>) {
        self.closing = true;
        let metrics = &self.worker.backend.metrics;
        metrics.closed[Closed::Protocol.index()].add(1);
        let bound = match error {
            Some(RequestError::RequestTooBig(_)) => Some(Reached::MaxRequest),
            Some(RequestError::TooManyArguments) => Some(Reached::MaxArguments),
            _ => None,
        };
        if let Some(bound) = bound {
            metrics.reached[bound.index()].add(1);
        }
    }

    /// Whether a command that is a barrier may go now.
    fn passes(&self, barrier: Barrier, planner: &Planner<'_>) -> bool {
        match barrier {
            Barrier::None => true,
            Barrier::Full => planner.state.is_idle(),
            Barrier::AfterOthers => planner.state.base() >= self.others || planner.state.is_idle(),
        }
    }

    /// Carries out a command that is not plain: apart, so that the way of all others stays short.
    #[allow(clippy::too_many_arguments)]
    #[inline(never)]
    fn go(
        client: &mut Client,
        closing: &mut bool,
        spec: &'static Spec,
        route: Route,
        args: &Args<'_>,
        source: Source<'_>,
        planner: &mut Planner<'_>,
    ) {
        if !client.authenticated && !spec.flags.has(Flags::NO_AUTH) {
            return planner.reject(spec, route, ErrorKind::NoAuth, ClientError::NoAuth.reply());
        }
        if planner.state.subscriptions.is_some() && planner.is_restricted(spec, route, args) {
            return;
        }
        if spec.script != Script::None {
            planner.session.see_script(spec.script, args);
        }
        if client.transaction.is_some() && !route.is_immediate() {
            return client.queue(spec, route, args, source.bytes(), planner);
        }
        if spec.flags.has(Flags::PUBSUB) {
            planner.note_message(spec, args);
        }
        match route {
            Route::Keyed => planner.keyed(spec, args, source),
            Route::BySlotNumber => planner.by_slot_number(spec, args, source),
            Route::Split => planner.split(spec, args, source),
            Route::AllShards => planner.everywhere(spec, args, source),
            Route::AnyShard => planner.anywhere(spec, source),
            Route::Blocking => planner.blocking(spec, args, source),
            Route::Replicas => planner.replicas(spec, args, source),
            Route::Survey(survey) => planner.survey(spec, survey, source),
            Route::Local(Local::Select) => planner.select(spec, args),
            Route::Local(local) => {
                *closing |= local == Local::Quit;
                client.answer_alone(local, spec, args, planner);
            }
            Route::Transaction(step) => client.transact(step, spec, args, source, planner),
            Route::Clients(what) => planner.ask_workers(spec, what, args),
            Route::Listen(Listen::Subscribe(kind)) => planner.subscribe(kind, spec, args),
            Route::Listen(Listen::Unsubscribe(kind)) => planner.unsubscribe(kind, spec, args),
            Route::Listen(Listen::Monitor) => planner.monitor(spec),
            Route::Refused(reason) => {
                planner
                    .fail(spec, &ClientError::Refused { command: spec.name.into(), reason: reason.into() });
            }
        }
    }
}
