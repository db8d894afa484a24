//! Commands that were answered in their node's stead after `command_timeout`, and that the node may still carry out.
//! What the same client sends later must not overtake them: in their slots the [lanes](super::lanes) see to that; what
//! has no slot, or a connection of its own, waits in the client's input, for `command_timeout` at most.

use std::collections::BTreeMap;

use super::pending::State;
use super::planner::Planner;
use super::turn::Turn;
use crate::backend::Ticket;
use crate::command::{Barrier, Route, Spec};
use crate::config::Ordering;
use crate::error::ClientError;
use crate::metrics::Reached;

/// Why a command was not sent that would have overtaken one of them.
const MUST_WAIT: &str = "An earlier command that got no reply within command_timeout must come first";

/// Those of one session.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// The slot of each, and whether there, before it too, were only messages that were published.
    ///
    /// One for each slot is enough: replies on one link come in order, so that of the last one tells of all.
    commands: BTreeMap<Ticket, (u16, bool)>,
    /// Since when a command waits in the client's input for them, by the worker's clock; 0 if none does.
    awaited_since: u64,
}

impl Late {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Whether a command waits in the client's input.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited_since != 0
    }

    pub(super) fn add(&mut self, ticket: Ticket, slot: u16, publishes: bool) {
        self.commands.insert(ticket, (slot, publishes));
    }

    /// Takes one out: its slot, and whether only messages were published there.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<(u16, bool)> {
        let removed = self.commands.remove(&ticket);
        if self.is_empty() {
            self.awaited_since = 0;
        }
        removed
    }

    fn only_publishes(&self) -> bool {
        self.commands.values().all(|(_, publishes)| *publishes)
    }
}

impl State {
    /// Whether a node may still carry out a command that was answered in its stead.
    #[inline]
    pub(super) fn has_late(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| !lanes.late.is_empty())
    }
}

impl Turn {
    /// Looks at a command that comes while there are such commands. True if it does not go now: it waits, and the turn is
    /// [paused](Turn::paused), or it has waited for too long, and was refused.
    #[cold]
    pub(super) fn is_behind_late(
        &mut self,
        spec: &'static Spec,
        route: Route,
        barrier: Barrier,
        planner: &mut Planner<'_>,
    ) -> bool {
        let limits = &self.session.settings.limits;
        let (Some(lanes), Some(limit)) = (&mut planner.state.lanes, limits.command_timeout) else {
            return false;
        };
        let late = &mut lanes.late;
        let is_queued = self.client.transaction.is_some() && !route.is_immediate();
        let may_overtake = match barrier {
            Barrier::AfterOthers if late.only_publishes() => false,
            Barrier::AfterOthers | Barrier::Full => true,
            Barrier::None => false,
        };
        let is_strict = self.session.settings.ordering == Ordering::Connection;
        if is_queued || !route.acts_at_nodes() || !(may_overtake || is_strict) {
            return false;
        }
        if !late.is_awaited() {
            late.awaited_since = planner.now.max(1);
        }
        self.paused = u128::from(planner.now.saturating_sub(late.awaited_since)) < limit.as_nanos();
        if !self.paused {
            late.awaited_since = 0;
            self.worker.backend.metrics.reached[Reached::CommandTimeout.index()].add(1);
            self.client.unqueueable(Some(spec), planner);
            let error = ClientError::ClusterDown { reason: MUST_WAIT.into() };
            planner.reject(spec, route, error.kind(), error.reply());
        }
        true
    }
}
