//! What all sessions of one worker that use the same cluster share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Session;
use super::bulk::LargeSlots;
use super::control::{Control, Paused};
use super::pending::{State, Told};
use super::round::Levels;
use super::scripts::ScriptCache;
use super::spin::Spin;
use crate::backend::Backend;
use crate::config::{ClusterConfig, SessionConfig, SessionLimits};
use crate::metrics::{Owner, Phase};
use crate::route::Routes;
use crate::route::monitor::Monitor;
use crate::route::pubsub::Hub;
use crate::topology::Shared;

/// How often sessions and links are looked after, at least.
const ROUND: Duration = Duration::from_secs(1);
/// Times that are looked after in rounds are kept to a quarter of the shortest one.
const ROUNDS: u32 = 4;
/// A link on which nothing has happened for so long is pinged: far below any `timeout` of a server that
/// makes sense.
const IDLE: Duration = Duration::from_secs(10);

/// One cluster on one worker's thread: its routes, its nodes' links and its sessions.
#[derive(Debug)]
pub struct Worker {
    /// What its links share.
    pub backend: Rc<Backend>,
    /// Its routing table.
    pub routes: RefCell<Routes>,
    /// What its clients are subscribed to.
    pub hub: Rc<Hub>,
    /// What those are shown that monitor.
    pub monitor: Rc<Monitor>,
    /// To ask for a refresh, also while the routes are being changed.
    pub topology: Arc<Shared>,
    /// The cluster's part of the configuration.
    pub config: Arc<ClusterConfig>,
    /// To reach the cluster's other workers.
    pub(super) control: Arc<Control>,
    /// A command that takes so long is one for the slow log.
    pub(super) slow_nanos: u64,
    /// Which commands are to wait for CLIENT UNPAUSE.
    pub(super) paused: Paused,
    /// What holds for the clients of each of its listeners.
    settings: Vec<Arc<SessionConfig>>,
    /// The scripts that clients have shown.
    pub(super) scripts: ScriptCache,
    /// Cancelled when the process stops: sessions finish what is on its way and end.
    drain: CancellationToken,
    /// The same, without a lock.
    pub(super) draining: Cell<bool>,
    pub(super) spin: Spin,
    pub(super) large: LargeSlots,
    pub(super) sessions: RefCell<HashMap<u64, Weak<Session>>>,
    /// How many sessions there have been.
    places: Cell<u32>,
    /// Request bytes of the commands that are held, of all sessions.
    pub(super) held_bytes: Cell<usize>,
    /// How many those commands are, and since when.
    held: Cell<(usize, u64)>,
    /// The levels of bounds that it showed last.
    pub(super) shown: Cell<Levels>,
}

impl Worker {
    /// A worker without sessions; `may_spin` if it has a core to itself.
    pub fn new(
        backend: Rc<Backend>,
        topology: Arc<Shared>,
        config: Arc<ClusterConfig>,
        settings: Vec<Arc<SessionConfig>>,
        control: Arc<Control>,
        drain: CancellationToken,
        may_spin: bool,
    ) -> Rc<Self> {
        let (hub, monitor) =
            (Hub::new(backend.clone(), control.subscribed.clone()), Monitor::new(backend.clone()));
        let routes = RefCell::new(Routes::new(backend.clone(), topology.clone()));
        let (sessions, places, held_bytes) = (RefCell::default(), Cell::new(0), Cell::new(0));
        let (spin, held, shown) = (Spin::new(may_spin), Cell::default(), Cell::default());
        let slow = config.limits.slowlog_log_slower_than;
        let slow_nanos = slow.map_or(u64::MAX, |slow| slow.as_nanos() as u64);
        Rc::new(Worker {
            spin,
            large: LargeSlots::default(),
            scripts: ScriptCache::new(control.scripts.clone()),
            backend,
            routes,
            hub,
            monitor,
            topology,
            config,
            settings,
            control,
            paused: Paused::default(),
            slow_nanos,
            drain,
            draining: Cell::new(false),
            sessions,
            places,
            held_bytes,
            held,
            shown,
        })
    }

    /// Takes over new snapshots and looks after links and sessions, for ever.
    pub async fn keep(self: Rc<Self>) {
        let mut published = self.topology.published();
        let link_timeout = self.config.limits.link_timeout;
        let limits = || self.settings.iter().map(|settings| &settings.limits);
        let of = |limits: &SessionLimits| {
            let shortest = limits.output_grace.min(limits.stall_timeout).min(limits.handshake_timeout);
            limits.client_timeout.map_or(shortest, |limit| shortest.min(limit))
        };
        let shortest = limits().map(of).min();
        let every = ROUND.min(shortest.unwrap_or(ROUND).min(link_timeout) / ROUNDS);
        let mut round = tokio::time::interval(every);
        // A worker that got no time must not take its own silence for the nodes'.
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let command_timeout = limits().filter_map(|limits| limits.command_timeout).min();
        let mut timeouts = tokio::time::interval(command_timeout.unwrap_or(ROUND) / ROUNDS);
        timeouts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rounds = |time: Duration| (time.as_secs_f64() / every.as_secs_f64()).ceil() as u32;
        let (limit, idle) = (rounds(link_timeout), rounds(IDLE));
        loop {
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                _ = round.tick() => {
                    self.routes.borrow_mut().check_links(limit, idle);
                    self.round();
                    continue;
                }
                _ = timeouts.tick(), if command_timeout.is_some() => {
                    let now = self.backend.clock.tick();
                    self.each_session(|session| session.time_out(now));
                    continue;
                }
                () = self.drain.cancelled(), if !self.draining.get() => {
                    self.draining.set(true);
                    self.each_session(|session| session.wakeup.wake());
                    continue;
                }
            }
            let Some(snapshot) = self.topology.snapshot() else { continue };
            self.routes.borrow_mut().install(&snapshot);
            self.hub.routes_changed();
            self.monitor.routes_changed();
            // Also when nothing changed: somebody may wait for just that to be confirmed.
            self.each_session(|session| {
                if session.state.borrow().lanes.is_some() {
                    session.wakeup.wake();
                }
            });
        }
    }

    /// Keeps its clients subscribed, for ever.
    pub async fn keep_subscribed(self: Rc<Self>) {
        loop {
            let next = self.hub.tend(&mut self.routes.borrow_mut());
            match next {
                // There is more: others come first.
                Some(next) if next <= Instant::now() => yield_now().await,
                Some(next) => _ = timeout_at(next.into(), self.hub.wait()).await,
                None => self.hub.wait().await,
            }
        }
    }

    /// Shows those who monitor what they want to see, for ever.
    pub async fn keep_monitored(self: Rc<Self>) {
        loop {
            let next = self.monitor.tend(&mut self.routes.borrow_mut());
            match next {
                Some(next) => _ = timeout_at(next.into(), self.monitor.wait()).await,
                None => self.monitor.wait().await,
            }
        }
    }

    /// The number of a new session, by which it gets its links.
    pub(super) fn next_place(&self) -> u32 {
        self.places.replace(self.places.get().wrapping_add(1))
    }

    pub(super) fn enter(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.id, Rc::downgrade(session));
    }

    pub(super) fn leave(&self, session: &Session) {
        self.sessions.borrow_mut().remove(&session.id);
    }

    /// Keeps the count of a client's commands that wait for replies; returns what was told.
    #[inline]
    pub(super) fn count_in_flight(&self, told: usize, now: usize) -> usize {
        if told != now {
            self.backend.metrics.in_flight.add(now as i64 - told as i64);
            if (told == 0) != (now == 0) {
                self.spin.waits(now > 0);
            }
        }
        now
    }

    /// Keeps the account of a client's buffers, of which the input takes this much.
    #[inline]
    pub(super) fn count_kept(&self, state: &mut State, input: usize) {
        let topics = state.subscriptions.as_ref().map_or(0, |own| own.memory());
        let now = Told { input, output: state.out.memory(), early: state.early, topics };
        if state.kept_told != now {
            self.tell_kept(state, now);
        }
    }

    fn tell_kept(&self, state: &mut State, now: Told) {
        let (memory, told) = (&self.backend.memory, std::mem::replace(&mut state.kept_told, now));
        memory.change(Owner::ClientInput, told.input, now.input);
        memory.change(Owner::ClientOutput, told.output, now.output);
        memory.change(Owner::EarlyReplies, told.early, now.early);
        memory.change(Owner::Subscriptions, told.topics, now.topics);
        memory.raise(state.freed(), now.input + now.topics);
        memory.check();
    }

    /// Keeps the count of what all sessions hold.
    pub(super) fn count_held(&self, state: &mut State) {
        let (commands, bytes) = state.held();
        let (commands_told, bytes_told) = std::mem::replace(&mut state.held_told, (commands, bytes));
        let (metrics, now) = (&self.backend.metrics, self.backend.clock.now());
        let (held, since) = self.held.get();
        metrics.phase_nanos[Phase::Redirect.index()].add((now - since).wrapping_mul(held as u64));
        self.held.set((held + commands - commands_told, now));
        self.held_bytes.set(self.held_bytes.get() + bytes - bytes_told);
        metrics.held.add(commands as i64 - commands_told as i64);
        self.backend.memory.change(Owner::Held, bytes_told, bytes);
    }

    pub(super) fn each_session(&self, f: impl FnMut(&Rc<Session>)) {
        let sessions: Vec<_> = self.sessions.borrow().values().filter_map(Weak::upgrade).collect();
        sessions.iter().for_each(f);
    }
}
