//! Commands that take several questions, one after the other or to several nodes: each is a task of its own, which asks
//! over the session's links and answers its command at the end. All of them are barriers, so a session has at most one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::planner::{Planner, Source};
use super::recover::backoff;
use super::{Session, Worker};
use crate::backend::{Answer, Down, Link, Node, Ticket};
use crate::command::{self, Spec};
use crate::error::{ClientError, ErrorKind};
use crate::protocol::Protocol;
use crate::route::Signal;
use crate::topology::Cause;

/// As often a link that is being dialled is looked at.
const DIALLING: Duration = Duration::from_millis(1);

const ADMINISTERS: &str = "it administers the nodes; the setting admin_commands would allow it";

/// One such command.
pub(super) struct Survey {
    pub(super) session: Rc<Session>,
    pub(super) ticket: Ticket,
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
        if survey.administers() && !self.session.worker.config.admin_commands {
            let (command, reason) = (spec.name.into(), ADMINISTERS.into());
            return self.fail(spec, &ClientError::Refused { command, reason });
        }
        let seq = self.expect(spec, 0, request.bytes().len());
        let ticket = Ticket { seq, part: 0 };
        let session = self.session.clone();
        let deadline =
            session.worker.backend.clock.instant(started) + session.settings.limits.command_deadline;
        let (protocol, request, tries) = (self.protocol, request.to_bytes(), Cell::new(0));
        let this = Rc::new(Survey { session, ticket, protocol, request, deadline, tries });
        tokio::task::spawn_local(async move {
            let reply = match survey {
                command::Survey::Administer(whom) => {
                    let Some(reply) = this.administer(whom).await else { return };
                    reply
                }
                command::Survey::Scan => this.scan().await,
                command::Survey::RandomKey => this.random_key().await,
                command::Survey::Info => this.info().await,
                command::Survey::Config => this.config().await,
                command::Survey::AnyNode => this.ask_any().await.unwrap_or_else(|error| error),
                command::Survey::Docs => this.docs().await,
            };
            this.session.answer_for_task(this.ticket, reply);
        });
    }
}

impl Survey {
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.session.worker
    }

    /// Until when questions may be repeated.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A node's reply that the client gets: an error is counted.
    pub(super) fn passed_on(&self, reply: Bytes) -> Bytes {
        self.session.passed_on(self.ticket, reply)
    }

    /// An error that the proxy makes, counted.
    pub(super) fn refusal(&self, error: &ClientError) -> Bytes {
        self.count(error.kind());
        error.reply().into()
    }

    /// Counts an error that the proxy makes.
    pub(super) fn count(&self, kind: ErrorKind) {
        let command = self.session.state.borrow_mut().command(self.ticket);
        self.worker().backend.metrics.error(command, kind);
    }

    /// The session's link to a node, once it is up.
    pub(super) async fn link(&self, node: &Rc<Node>) -> Result<Rc<Link>, Trouble> {
        loop {
            let link = self.session.link_to(node, self.protocol).map_err(Trouble::Down)?;
            if !link.is_opening() {
                return Ok(link);
            }
            if Instant::now() >= self.deadline {
                return Err(Trouble::Down(Down {
                    until: self.deadline,
                    since: node.down_since(),
                    full: false,
                }));
            }
            sleep(DIALLING).await;
        }
    }

    /// Sends a request. What a server refuses for a reason that passes is a trouble; any other error is a reply.
    pub(super) async fn ask(&self, link: &Rc<Link>, request: Bytes) -> Result<Bytes, Trouble> {
        self.session.state.borrow_mut().set_link(self.ticket, link.id());
        self.call(link, request, 0).await.map(|answer| answer.reply)
    }

    /// As [`Survey::ask`], for several requests in one piece.
    pub(super) async fn call(
        &self,
        link: &Rc<Link>,
        requests: Bytes,
        earlier: u32,
    ) -> Result<Answer, Trouble> {
        let answer = link.call(requests, earlier, false).await.map_err(|_| Trouble::Lost)?;
        match Signal::parse(&answer.reply, link.addr()) {
            Some(_) => Err(Trouble::Refused(answer.reply)),
            None => Ok(answer),
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
            Trouble::Final(reply) => return Err(self.passed_on(reply)),
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
            let refusal = self.refusal(&ClientError::ClusterDown { reason: reason.into() });
            return Err(error.unwrap_or(refusal));
        }
        self.tries.set(self.tries.get() + 1);
        let pause = Duration::from_nanos(backoff(self.tries.get()));
        let pause = pause.max(until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)));
        sleep(pause.min(self.deadline - now)).await;
        Ok(())
    }
}
