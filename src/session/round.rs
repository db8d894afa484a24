//! What is looked after in rounds instead of at every request: clients that do not read, or are gone, memory that
//! is not in use, and how near everything is to its bound.

use std::rc::Rc;
use std::time::Duration;

use super::pending::State;
use super::{Order, Session, Worker};
use crate::backend::{Link, give_back_free_pages};
use crate::metrics::{Closed, Reached};

/// The highest share of each bound that anybody uses, in millionths, by [`Reached::index`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Levels([i64; Reached::ALL.len()]);

impl Levels {
    fn raise(&mut self, bound: Reached, used: usize, limit: usize) {
        let level = &mut self.0[bound.index()];
        *level = (*level).max((used as f64 / limit as f64 * 1e6) as i64);
    }
}

impl Worker {
    /// One round.
    pub(super) fn round(&self) {
        let (now, mut levels) = (self.backend.clock.tick(), Levels::default());
        self.each_session(|session| session.round(now, &mut levels));
        let limits = &self.config.limits;
        levels.raise(Reached::MaxHeldBytes, self.held_bytes.get(), limits.max_held_bytes);
        let links = self.backend.all_links();
        let fullest = links.iter().map(Rc::as_ref).map(Link::kept).max();
        levels.raise(Reached::LinkQueue, fullest.unwrap_or(0), limits.link_queue);
        let gate = &self.backend.gate;
        levels.raise(Reached::MaxConnectionsPerNode, gate.most_connected(), gate.most());
        levels.raise(Reached::DedicatedPerNode, gate.most_dedicated(), gate.dedicated());
        for (bound, used, limit) in self.backend.memory.levels() {
            levels.raise(bound, used, limit);
        }
        self.large.age(now);
        self.show(levels);
        self.backend.memory.add_up();
        // Its own, of which other threads do not know yet.
        give_back_free_pages();
    }

    /// Shows the levels. Other clusters on this thread show theirs in the same cells: the highest stays there, and
    /// only who put it there takes it down.
    fn show(&self, Levels(levels): Levels) {
        let Levels(shown) = self.shown.replace(Levels(levels));
        for ((cell, now), before) in self.backend.metrics.used.iter().zip(levels).zip(shown) {
            if now > cell.value() || cell.value() == before {
                cell.set(now);
            }
        }
    }
}

impl Session {
    fn round(&self, now: u64, levels: &mut Levels) {
        self.look_after_wait();
        let mut state = self.state.borrow_mut();
        let limits = &self.settings.limits;
        levels.raise(Reached::InputHard, state.kept_told.input, limits.input_hard);
        levels.raise(Reached::OutputSoft, state.unread(), limits.output_soft);
        levels.raise(Reached::OutputHard, state.unread(), limits.output_hard);
        levels.raise(Reached::SessionInFlight, state.len(), limits.session_in_flight);
        self.shrink(&mut state);
        let input = state.kept_told.input;
        self.worker.count_kept(&mut state, input);
        if let Some(reason) = self.overdue(&mut state, now) {
            self.order(Order::Close(reason));
        } else if state.not_read || state.full_since != 0 {
            self.order(Order::Probe);
        }
    }

    /// Gives back the memory of a session that has been idle since the last time.
    fn shrink(&self, state: &mut State) {
        if state.is_idle() && state.out.is_empty() && state.idle_since_round {
            state.shrink();
        }
        state.idle_since_round = state.is_idle();
    }

    /// Why the client is to be closed, if it has left its replies lying for too long. A client whose replies all
    /// wait for a node's to an earlier command has nothing to read and is not to blame.
    fn overdue(&self, state: &mut State, now: u64) -> Option<Closed> {
        if self.listens_too_slowly(state, now) {
            return Some(Closed::PubsubOutput);
        }
        let limits = &self.settings.limits;
        let reached = &self.worker.backend.metrics.reached;
        if let Some((closed, bound)) = self.is_silent(state, now) {
            reached[bound.index()].add(1);
            return Some(closed);
        }
        let (unread, waits) = (state.unread(), !state.out.is_empty());
        if unread <= limits.output_hard {
            state.hard_since = 0;
        } else if state.hard_since == 0 {
            state.hard_since = now.max(1);
            reached[Reached::OutputHard.index()].add(1);
        }
        let since = |begun: u64| u128::from(now.saturating_sub(begun.max(state.wrote_at)));
        if state.hard_since != 0 && waits && since(state.hard_since) >= limits.output_grace.as_nanos() {
            reached[Reached::OutputGrace.index()].add(1);
            return Some(Closed::OutputHard);
        }
        let full = state.full_since != 0 && unread >= limits.output_soft;
        if full && waits && since(state.full_since) >= limits.stall_timeout.as_nanos() {
            reached[Reached::StallTimeout.index()].add(1);
            return Some(Closed::StallTimeout);
        }
        None
    }

    /// Whether the client keeps a connection for nothing.
    fn is_silent(&self, state: &State, now: u64) -> Option<(Closed, Reached)> {
        let (limits, about) = (&self.settings.limits, &self.about);
        let over = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_nanos();
        let owes_since = about.owes_since.get().filter(|_| !self.settings.passwords.is_empty());
        if owes_since.is_some_and(|since| over(since, limits.handshake_timeout)) {
            return Some((Closed::HandshakeTimeout, Reached::HandshakeTimeout));
        }
        let waits = !state.is_idle() || !state.out.is_empty() || state.subscriptions.is_some();
        let silent =
            limits.client_timeout.is_some_and(|limit| over(about.heard.get().max(state.wrote_at), limit));
        (silent && !waits).then_some((Closed::ClientTimeout, Reached::ClientTimeout))
    }
}
