//! `command_timeout`: a command that takes too long is answered in the node's stead. The link stays, and the reply
//! is dropped when it comes: its number is not that of any command any more. Until then what was a write is
//! [late](super::late).

use super::Session;
use super::entry::{Pending, Progress};
use super::pending::State;
use crate::command::{Barrier, Route};
use crate::error::ClientError;
use crate::metrics::Reached;
use crate::net::NodeAddr;

impl Session {
    /// Answers the commands that were framed longer than `command_timeout` before `now`, if there is one.
    ///
    /// They are in the order of their framing, so the first one tells whether there are any.
    pub(super) fn time_out(&self, now: u64) {
        let Some(limit) = self.settings.limits.command_timeout else { return };
        let mut state = self.state.borrow_mut();
        if state.lanes.as_ref().is_some_and(|lanes| lanes.late.is_awaited()) {
            self.wakeup.wake();
        }
        while let Some(started) = state.oldest()
            && u128::from(now.saturating_sub(started)) >= limit.as_nanos()
            && !state.cut
            && !state.merging
            && !state.waits_elsewhere()
        {
            self.give_up_first(&mut state, now);
            self.wakeup.wake();
        }
    }

    /// Answers the first command. Earlier ones there are none, so that none has to be forbidden to be repeated.
    fn give_up_first(&self, state: &mut State, now: u64) {
        let (seq, mut error, mut node) = (state.base(), None, None);
        let spec = state.get(seq).and_then(|pending| pending.spec);
        let (readonly, command) = (spec.is_some_and(|spec| spec.is_readonly()), spec.map(|spec| spec.id));
        let publishes = spec.is_some_and(|spec| spec.barrier == Barrier::AfterOthers);
        let waiting = state.waiting(seq);
        // Some keys of a write may have been changed, whatever became of the others.
        let torn = waiting.first().map(|(slot, ..)| *slot);
        let torn = torn.filter(|_| !readonly && state.parts(seq).is_some_and(|parts| parts.has_begun()));
        // A read may be overtaken: nobody sees any more what it finds.
        if !readonly && !waiting.is_empty() {
            state.lanes();
        }
        for (slot, ticket, link) in waiting {
            let lanes = state.lanes.as_mut();
            let held = lanes.and_then(|lanes| lanes.release_if_first(slot, ticket));
            match held {
                Some(held) => error = held.history.error.or(error),
                // A part of very many, which is still to be sent.
                None if link == 0 => {}
                None => {
                    match &mut state.lanes {
                        Some(lanes) if readonly => _ = lanes.back(slot, ticket),
                        Some(lanes) => lanes.answered_early(slot, ticket, publishes),
                        None => {}
                    }
                    let link = self.worker.backend.link(link);
                    node = Some(link.map_or_else(|| NodeAddr::new("?", 0), |link| link.addr().clone()));
                }
            }
        }
        if let (Some(slot), None) = (torn, &node) {
            let owner = self.worker.routes.borrow().owner(slot).map(|node| node.addr().clone());
            node = Some(owner.unwrap_or_else(|| NodeAddr::new("?", 0)));
        }
        let metrics = &self.worker.backend.metrics;
        metrics.reached[Reached::CommandTimeout.index()].add(1);
        let reply = match (node, error) {
            (Some(node), _) if !readonly => self.in_doubt(state, seq, &ClientError::IndoubtTimeout { node }),
            (Some(node), _) => Some(self.text(command, &ClientError::Timeout { node })),
            (None, Some(error)) => Some(error.to_vec()),
            (None, None) => {
                let reason = "No node could serve the command within command_timeout".into();
                Some(self.text(command, &ClientError::ClusterDown { reason }))
            }
        };
        if let Some(reply) = reply {
            state.settle(seq, Some(reply.into()), now, metrics);
        }
    }

    /// An error's text as a reply; counts it.
    fn text(&self, command: Option<u16>, error: &ClientError) -> Vec<u8> {
        self.worker.backend.metrics.error(command, error.kind());
        error.reply()
    }
}

impl State {
    /// Whether the first command is a task's that must not be left alone: it waits for as long as the client wants, has a
    /// connection of the session's own, or changes nodes.
    fn waits_elsewhere(&self) -> bool {
        let only_asks = |pending: &Pending| match pending.spec.map(|spec| spec.route) {
            Some(Route::Survey(survey)) => !survey.administers(),
            _ => false,
        };
        let first = self.queue.front();
        first.is_some_and(|first| matches!(first.progress, Progress::Elsewhere) && !only_asks(first))
    }
}
