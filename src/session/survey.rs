//! Commands that take several questions, one after the other or to several nodes: each is a task of its own, which asks
//! over the session's links and answers its command at the end. All of them are barriers, so a session has at most one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::dispatch::{Planner, Source};
use super::recover::backoff;
use super::{Session, Worker};
use crate::backend::{Down, Link, Node, Reply, Ticket};
use crate::command::{self, Spec};
use crate::error::ClientError;
use crate::metrics::ServerError;
use crate::protocol::Protocol;
use crate::route::Signal;
use crate::topology::Cause;

/// As often a link that is being dialled is looked at.
const DIALLING: Duration = Duration::from_millis(1);

/// One such command.
pub(super) struct Survey {
    session: Rc<Session>,
    ticket: Ticket,
    pub(super) protocol: Protocol,
    /// The client's request.
    pub(super) request: Bytes,
    /// Until when its questions may be repeated.
    deadline: Instant,
    /// How often something was in the way.
    tries: Cell<u32>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No node is known to own the slot.
    Uncovered(u16),
    /// The node can't be connected to.
    Down(Down),
    /// The connection ended.
    Lost,
    /// The node refused, for a reason that passes.
    Refused(Bytes),
    /// The table is older than what a node says.
    Stale,
    /// It can't be done: this is the reply.
    Final(Bytes),
}

impl Planner<'_> {
    /// Starts a survey.
    pub(super) fn survey(&mut self, spec: &'static Spec, survey: command::Survey, request: Source<'_>) {
        let started = self.now;
        let seq = self.wait_for_task(spec, 0, request.bytes().len());
        let ticket = Ticket { seq, part: 0 };
        let session = self.session.clone();
        let deadline =
            session.worker.backend.clock.instant(started) + session.settings.limits.command_deadline;
        let (protocol, request, tries) = (self.protocol, request.to_bytes(), Cell::new(0));
        let this = Survey { session, ticket, protocol, request, deadline, tries };
        tokio::task::spawn_local(async move {
            let reply = match survey {
                command::Survey::Scan => this.scan().await,
            };
            this.finish(reply);
        });
    }
}

impl Survey {
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.session.worker
    }

    /// Answers the command.
    fn finish(self, reply: Bytes) {
        let backend = &self.worker().backend;
        let mut state = self.session.state.borrow_mut();
        if state.gone {
            return;
        }
        if reply.first() == Some(&b'-') && self.ticket.seq >= state.base() {
            backend.metrics.server_error(state.command(self.ticket), ServerError::of(&reply));
        }
        state.complete(self.ticket, Reply::Large(reply), backend.clock.tick(), &backend.metrics);
        drop(state);
        self.session.wakeup.wake();
    }

    /// The session's link to a node, once it is up.
    pub(super) async fn link(&self, node: &Rc<Node>) -> Result<Rc<Link>, Trouble> {
        loop {
            let link = node.link(self.protocol, self.session.place).map_err(Trouble::Down)?;
            if !link.is_opening() {
                return Ok(link);
            }
            if Instant::now() >= self.deadline {
                return Err(Trouble::Down(Down { until: self.deadline, since: node.down_since() }));
            }
            sleep(DIALLING).await;
        }
    }

    /// Sends a request. What a server refuses for a reason that passes is a trouble; any other error is a reply.
    pub(super) async fn ask(&self, link: &Rc<Link>, request: Bytes) -> Result<Bytes, Trouble> {
        self.session.state.borrow_mut().set_link(self.ticket, link.id());
        let reply = link.call(request, 0, false).await.map_err(|_| Trouble::Lost)?.reply;
        match Signal::parse(&reply, link.addr()) {
            Some(_) => Err(Trouble::Refused(reply)),
            None => Ok(reply),
        }
    }

    /// Waits until trouble may be over.
    ///
    /// # Errors
    /// The reply, if that makes no sense any more.
    pub(super) async fn bear(&self, trouble: Trouble) -> Result<(), Bytes> {
        let routes = || self.worker().routes.borrow();
        let (mut until, mut long) = (None, false);
        let (error, reason) = match trouble {
            Trouble::Final(reply) => return Err(reply),
            Trouble::Uncovered(slot) => {
                routes().refresh(Cause::Uncovered, None);
                long = self.session.is_long(routes().uncovered_since(slot));
                (None, "Hash slot not served")
            }
            Trouble::Down(down) => {
                routes().refresh(Cause::Connection, None);
                until = Some(down.until);
                long = down.since.is_some_and(|since| self.session.is_long(since));
                (None, "The node is down")
            }
            Trouble::Lost => {
                routes().refresh(Cause::Connection, None);
                (None, "The connection to the node was lost")
            }
            Trouble::Refused(reply) => {
                routes().refresh(Cause::Connection, None);
                (Some(reply), "The node refused")
            }
            Trouble::Stale => (None, "The node that should serve the hash slot does not"),
        };
        let now = Instant::now();
        if self.session.state.borrow().gone || long || now >= self.deadline {
            let error = error.unwrap_or_else(|| {
                let error = ClientError::ClusterDown { reason: reason.into() };
                let command = self.session.state.borrow_mut().command(self.ticket);
                self.worker().backend.metrics.error(command, error.kind());
                error.reply().into()
            });
            return Err(error);
        }
        self.tries.set(self.tries.get() + 1);
        let pause = Duration::from_nanos(backoff(self.tries.get()));
        let pause = pause.max(until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)));
        sleep(pause.min(self.deadline - now)).await;
        Ok(())
    }
}
