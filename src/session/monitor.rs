//! MONITOR: a client that is shown the commands of all clients.

use std::rc::Rc;

use bytes::Bytes;

use super::Session;
use super::pending::State;
use super::planner::Planner;
use crate::backend::{Reply, Ticket};
use crate::command::{Flags, Spec};
use crate::error::ErrorKind;
use crate::protocol::write;
use crate::route::monitor::Watcher;
use crate::route::pubsub::Messages;

/// Whether a client monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Monitoring {
    #[default]
    No,
    /// The command of this number waits for the nodes.
    Begins(u64),
    Yes,
}

impl Planner<'_> {
    /// MONITOR. As on a server a second one has no reply.
    pub(super) fn monitor(&mut self, spec: &'static Spec) {
        let (seq, protocol) = (self.state.next_seq(), self.protocol);
        let own = self.state.subscriptions.get_or_insert_default();
        own.speak(protocol);
        if own.monitoring == Monitoring::Yes {
            return self.answer(Some(spec), Bytes::new());
        }
        own.monitoring = Monitoring::Begins(seq);
        self.expect(spec, 0, 0);
        let (session, patience) = (self.session, self.session.settings.limits.command_deadline);
        session.worker.monitor.watch(session.id, Rc::<Session>::clone(session), patience);
    }

    /// Refuses what a server refuses to who monitors, whom it takes for a kind of replica. False if there is nothing
    /// about it.
    pub(super) fn is_for_others(&mut self, spec: &'static Spec) -> bool {
        let touches = [Flags::READONLY, Flags::WRITE, Flags::MAY_REPLICATE];
        let monitors = self.state.subscriptions.as_ref().is_some_and(|own| own.monitoring == Monitoring::Yes);
        if !monitors || !touches.iter().any(|flag| spec.flags.has(*flag)) {
            return false;
        }
        let mut reply = Vec::new();
        write::error(&mut reply, "ERR Replica can't interact with the keyspace");
        self.refuse(Some(spec), ErrorKind::Refused, reply);
        true
    }
}

impl Watcher for Session {
    fn show(&self, lines: &Messages<'_>) {
        let mut state = self.state.borrow_mut();
        if let Some(protocol) = state.subscriptions.as_ref().map(|own| own.protocol()) {
            self.tell(&mut state, protocol, lines);
        }
    }

    fn begun(&self, error: Option<&[u8]>) {
        let mut state = self.state.borrow_mut();
        let State { subscriptions: Some(own), .. } = &mut *state else { return };
        let Monitoring::Begins(seq) = own.monitoring else { return };
        own.monitoring = if error.is_none() { Monitoring::Yes } else { Monitoring::No };
        if own.is_empty() {
            state.subscriptions = None;
        }
        let reply = Bytes::copy_from_slice(error.unwrap_or(b"+OK\r\n"));
        let (backend, ticket) = (&self.worker.backend, Ticket { seq, part: 0 });
        state.complete(ticket, Reply::Large(reply), backend.clock.now(), &backend.metrics);
        self.wakeup.wake();
    }
}
