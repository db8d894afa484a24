//! Commands that a task of their own carries out, on a connection of the session's own: those that wait at a node,
//! and those about watched keys. All of them are barriers, so that nothing else of the session is on its way.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use super::lanes::Next;
use super::recover::{backoff, kind};
use crate::backend::{Dedicated, Link, Reply, Ticket, Use};
use crate::command::Spec;
use crate::error::ClientError;
use crate::metrics::{Reached, Redirect, ServerError};
use crate::protocol::Protocol;
use crate::route::Signal;
use crate::topology::Cause;

/// A command that was on a node for so long has been waiting there.
const WAITED: Duration = Duration::from_secs(1);

/// What a node says of a wait that it did not end by itself.
pub(super) const UNBLOCKED: &[u8] = b"-UNBLOCKED ";

/// What a node that stops being a primary says to those who wait there, before it closes the connection.
const FORCED: &[u8] = b"-UNBLOCKED force unblock";

/// What Redis 7.0 says to those who read from a group when their stream is deleted, also because it is at another node
/// now (blocked.c, `unblockDeletedStreamReadgroupClients`);
const DELETED: &[u8] = b"-UNBLOCKED the stream key no longer exists\r\n";
/// and what the next one hears who asks for a group that is nowhere.
const NO_GROUP: &[u8] = b"-NOGROUP No such key";

/// One command of a session, while a task carries it out.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) session: Rc<Session>,
    pub(super) seq: u64,
    pub(super) spec: &'static Spec,
    pub(super) slot: u16,
    pub(super) protocol: Protocol,
}

/// What an errand has been through since it was at no node.
#[derive(Debug)]
pub(super) struct Hold {
    deadline: Instant,
    tries: u32,
    next: Next,
    /// The last error that the cluster gave.
    error: Option<Bytes>,
    /// The stream that was waited for is not where it was.
    is_deleted: bool,
}

/// What a reply means to an errand.
pub(super) enum Verdict {
    /// It is the command's own.
    Final,
    /// Not executed: to be tried again, as the hold says now.
    Again,
}

impl Session {
    /// Bytes of the request that one carries out, and of what the client watches.
    pub(super) fn errand_kept(&self) -> usize {
        let watched = self.watch.borrow().as_ref().map_or(0, |watch| watch.memory());
        self.errand_memory.get() + watched
    }

    /// Lets a task carry out a command. It ends with the session; one that `waits` for others also with the client's
    /// end of sending.
    pub(super) fn send_out(&self, waits: bool, work: impl Future<Output = ()> + 'static) {
        self.waits.set(waits.then(Instant::now));
        (*self.leave.borrow_mut(), _) = (None, self.left.set(false));
        *self.errand.borrow_mut() = Some(AbortOnDropHandle::new(spawn_local(work)));
    }

    /// Answers a command that a task carried out.
    pub(super) fn answer_for_task(&self, ticket: Ticket, reply: Bytes) {
        let (mut state, backend) = (self.state.borrow_mut(), &self.worker.backend);
        if state.gone {
            return;
        }
        state.complete(ticket, Reply::Large(reply), backend.clock.tick(), &backend.metrics);
        self.wakeup.wake();
    }

    /// What a node says, as the reply to a command that a task carries out: an error is counted, unless the client
    /// has been told already that there was no reply in time.
    pub(super) fn passed_on(&self, ticket: Ticket, reply: Bytes) -> Bytes {
        let mut state = self.state.borrow_mut();
        if reply.first() == Some(&b'-') && !state.gone && ticket.seq >= state.base() {
            let metrics = &self.worker.backend.metrics;
            metrics.server_error(state.command(ticket), ServerError::of(&reply));
        }
        reply
    }

    /// Whether a task carries out a command of this session.
    pub(super) fn is_on_errand(&self) -> bool {
        self.errand.borrow().as_ref().is_some_and(|task| !task.is_finished())
    }
}

impl Hold {
    /// Until when a node is to be found.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the client is told at last: of a stream that is nowhere what the node said that it waited at.
    pub(super) fn told(&self, reply: Bytes) -> Bytes {
        if self.is_deleted && reply.starts_with(NO_GROUP) { Bytes::from_static(DELETED) } else { reply }
    }
}

impl Errand {
    /// The beginning of the search for a node.
    pub(super) fn hold(&self) -> Hold {
        let deadline = Instant::now() + self.session.settings.limits.command_deadline;
        Hold { deadline, tries: 0, next: Next::Owner, error: None, is_deleted: false }
    }

    /// A connection to whoever serves the slot now; true with it if ASKING must go before the command.
    ///
    /// # Errors
    /// None was found within the deadline: the reply for the client.
    pub(super) async fn reach(&self, hold: &mut Hold, purpose: Use) -> Result<(Dedicated, bool), Bytes> {
        let database = self.session.affinity.get().apart.database;
        loop {
            let (node, asked) = {
                let mut routes = self.session.worker.routes.borrow_mut();
                match &hold.next {
                    Next::Ask(addr) => (routes.node(addr), true),
                    Next::Owner => (routes.owner(self.slot).cloned(), false),
                }
            };
            let (cause, reason) = match node {
                None => (Cause::Uncovered, "Hash slot not served"),
                Some(node) => {
                    let begun = Instant::now();
                    let found = node.dedicated(self.protocol, database, purpose).await;
                    // Who stands in line waits for other clients, unless that is for a node that is down.
                    if node.down_since().is_none() {
                        self.renew(hold, begun.elapsed());
                    }
                    match found {
                        Ok(dedicated) => return Ok((dedicated, asked)),
                        Err(_) => (Cause::Connection, "The node is down"),
                    }
                }
            };
            hold.next = Next::Owner;
            self.session.worker.topology.ask(cause, None);
            self.pause(hold, 0, reason).await?;
        }
    }

    /// Waits before the next try, at least `wait` nanoseconds.
    ///
    /// # Errors
    /// The deadline is over: the reply for the client.
    pub(super) async fn pause(&self, hold: &mut Hold, wait: u64, reason: &'static str) -> Result<(), Bytes> {
        let waits = self.session.waits.get();
        if waits.is_none() {
            self.session.waits.set(Some(Instant::now()));
            self.session.wakeup.wake();
        }
        let paused = self.pause_for(hold, wait, reason).await;
        self.session.waits.set(waits);
        paused
    }

    async fn pause_for(&self, hold: &mut Hold, wait: u64, reason: &'static str) -> Result<(), Bytes> {
        hold.tries += 1;
        let wait = Duration::from_nanos(wait.max(backoff(hold.tries)));
        if Instant::now() + wait > hold.deadline {
            sleep_until(hold.deadline.into()).await;
            let metrics = &self.session.worker.backend.metrics;
            metrics.reached[Reached::CommandDeadline.index()].add(1);
            let refusal = self.refusal(&ClientError::ClusterDown { reason: reason.into() });
            return Err(hold.error.take().unwrap_or(refusal));
        }
        sleep(wait).await;
        Ok(())
    }

    /// What was on a node, or in line for one, for `took` has been waiting, if that was long: it has a whole deadline again.
    pub(super) fn renew(&self, hold: &mut Hold, took: Duration) {
        if took > WAITED {
            *hold = Hold { next: hold.next.clone(), ..self.hold() };
        }
    }

    /// What to do about a reply that `link` gave.
    ///
    /// # Errors
    /// The deadline is over: the reply for the client.
    pub(super) async fn judge(
        &self,
        reply: &Bytes,
        link: &Rc<Link>,
        hold: &mut Hold,
    ) -> Result<Verdict, Bytes> {
        let metrics = &self.session.worker.backend.metrics;
        let (next, wait) = if reply.starts_with(FORCED) {
            // The node is no primary any more.
            metrics.redirects[Redirect::ReadOnly as usize].add(1);
            self.session.worker.topology.ask(Cause::Uncovered, None);
            (Next::Owner, 0)
        } else if reply == DELETED {
            (hold.is_deleted, hold.error) = (true, Some(reply.clone()));
            (Next::Owner, 0)
        } else {
            match self.session.signal(reply, link, self.slot) {
                None => return Ok(Verdict::Final),
                Some(signal) => {
                    metrics.redirects[kind(&signal) as usize].add(1);
                    hold.error = Some(reply.clone());
                    let (next, wait) = self.session.follow(&signal, link, hold.tries + 1);
                    if matches!(signal, Signal::Moved { .. } | Signal::Ask { .. }) && wait == 0 {
                        (hold.next, hold.tries) = (next, hold.tries + 1);
                        return Ok(Verdict::Again);
                    }
                    (next, wait)
                }
            }
        };
        hold.next = next;
        self.pause(hold, wait, "The cluster is changing").await?;
        Ok(Verdict::Again)
    }

    /// The connection ended before the reply to something that may be repeated.
    ///
    /// # Errors
    /// The deadline is over: the reply for the client.
    pub(super) async fn lost(&self, hold: &mut Hold) -> Result<(), Bytes> {
        let worker = &self.session.worker;
        worker.backend.metrics.redirects[Redirect::Lost as usize].add(1);
        worker.topology.ask(Cause::Connection, None);
        hold.next = Next::Owner;
        self.pause(hold, 0, "The node does not answer").await
    }

    /// The connection to `link`'s node ended with a write on its way.
    pub(super) fn in_doubt(&self, link: &Link) -> Option<Bytes> {
        let error = ClientError::Indoubt { node: link.addr().clone() };
        let mut state = self.session.state.borrow_mut();
        self.session.in_doubt(&mut state, self.seq, &error).map(Bytes::from)
    }

    /// Notes that a connection of the session's own carried a write: its replicas may be waited for.
    pub(super) fn wrote_apart(&self, link: &Link) {
        let wrote = &mut self.session.state.borrow_mut().wrote_apart;
        if !wrote.contains(link.addr()) {
            wrote.push(link.addr().clone());
        }
    }

    /// A node's reply that the client gets: an error is counted.
    pub(super) fn passed_on(&self, reply: Bytes) -> Bytes {
        self.session.passed_on(Ticket { seq: self.seq, part: 0 }, reply)
    }

    /// An error that the proxy makes, counted.
    pub(super) fn refusal(&self, error: &ClientError) -> Bytes {
        self.session.worker.backend.metrics.error(Some(self.spec.id), error.kind());
        error.reply().into()
    }

    /// A server's reply when the time is over, or a watched key was changed.
    pub(super) fn nothing(&self) -> Bytes {
        Bytes::from_static(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        })
    }

    /// Answers the command; with nothing if the connection ends there.
    pub(super) fn finish(self, reply: Option<Bytes>) {
        self.session.in_line.set(false);
        self.session.errand_memory.set(0);
        match reply {
            Some(reply) => self.session.answer_for_task(Ticket { seq: self.seq, part: 0 }, reply),
            None => self.session.wakeup.wake(),
        }
    }
}

/// What comes of `work`, or nothing if it takes longer than until `deadline`, if there is one.
pub(super) async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline.into(), work).await.ok(),
    }
}
