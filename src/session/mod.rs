//! One client: its turn, its pending commands, and what it takes to keep them in order while the cluster
//! changes. One file per duty; none of them but the turn touches the socket.

mod abandon;
mod aborted;
mod about;
mod administer;
mod ahead;
mod blocked;
mod blocking;
mod bulk;
mod clients;
mod cluster;
mod control;
mod database;
mod dispatch;
mod docs;
mod entry;
mod errand;
mod everywhere;
mod gather;
mod info;
mod input;
mod intake;
mod lanes;
mod late;
mod learning;
mod local;
mod monitor;
mod noscript;
mod output;
mod parting;
mod pending;
mod planner;
mod pump;
mod receivers;
mod recover;
mod relief;
mod replies;
mod round;
mod scan;
mod scripts;
mod slowlog;
mod spin;
mod splitting;
mod subscribe;
mod subscribing;
mod survey;
mod timeout;
mod transaction;
mod turn;
mod wait;
mod watch;
mod watching;
mod window;
mod worker;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::{Affinity, Loss, Receiver, Reply, Request, Ticket, Wakeup};
use crate::config::SessionConfig;
use crate::metrics::{Closed, ServerError};
use crate::net::{Ends, Stream};

use about::About;
use blocked::Blocked;
pub use control::Control;
use pending::State;
pub use scripts::Scripts;
use subscribe::Leaving;
use watching::Watch;
pub use worker::Worker;

/// What a client's task and the links share of it.
#[derive(Debug)]
pub struct Session {
    id: u64,
    /// Which of a node's links it uses: sessions are counted by worker, as clients are dealt out to workers in turns.
    affinity: Cell<Affinity>,
    worker: Rc<Worker>,
    /// What its listener's clients are subject to.
    settings: Arc<SessionConfig>,
    ends: Ends,
    about: About,
    wakeup: Wakeup,
    /// What its task is to do besides, in its next turn.
    order: Cell<Order>,
    state: RefCell<State>,
    /// The task that carries out a command which needs one,
    errand: RefCell<Option<AbortOnDropHandle<()>>>,
    /// and the bytes of its request, if it may wait for long,
    errand_memory: Cell<usize>,
    /// since when it waits, for others or for the cluster,
    waits: Cell<Option<Instant>>,
    /// what ends that when the client sends no more, and whether it is time,
    leave: RefCell<Option<AbortOnDropHandle<()>>>,
    left: Cell<bool>,
    /// where it waits at a node,
    blocked: RefCell<Option<Rc<Blocked>>>,
    /// or that it waits in line for a connection, and how another client ended that.
    in_line: Cell<bool>,
    unblocked: Cell<Option<bool>>,
    in_line_ended: Notify,
    room: Cell<Room>,
    /// The keys that the client watches.
    watch: RefCell<Option<Watch>>,
}

/// Whether there is room on the links that its commands are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Room {
    #[default]
    Here,
    /// It waits for room on one.
    Awaited,
    /// That has room by now, and the commands are still held.
    Told,
}

/// What others make a session's task do; the greater one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    #[default]
    None,
    /// To look whether the client is still there.
    Probe,
    /// To take no more requests: the connection ends at a command that is on its way.
    Finish,
    /// To close the connection at once.
    Close(Closed),
}

impl Receiver for Session {
    #[inline]
    fn reply(&self, ticket: Ticket, reply: Reply<'_>, request: Request<'_>) {
        let mut state = self.state.borrow_mut();
        if state.gone {
            return;
        }
        let is_error = reply.bytes().first() == Some(&b'-');
        if is_error && !request.earlier().is_empty() {
            return self.block_refused(&mut state, ticket, reply.bytes(), request);
        }
        if (is_error && self.redirected(&mut state, ticket, reply.bytes(), request))
            || self.answered(&mut state, ticket, reply, request)
        {
            self.wakeup.wake();
        }
    }

    fn is_large(&self, ticket: Ticket) {
        self.note_reply(&mut self.state.borrow_mut(), ticket);
    }

    fn has_room(&self) {
        self.room.set(Room::Told);
        self.wakeup.wake();
    }

    fn lost(&self, ticket: Ticket, loss: &Loss, request: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        if state.gone {
            return loss.sent;
        }
        self.wakeup.wake();
        self.lost_on_way(&mut state, ticket, loss, request)
    }
}

impl Session {
    /// Nothing more comes for the client; returns what the hub has to be told.
    fn leave_state(&self) -> Leaving {
        let mut state = self.state.borrow_mut();
        let leaving = self.end_subscriptions(&mut state);
        state.leave();
        leaving
    }

    /// Makes the session's task do something.
    fn order(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            self.wakeup.wake();
        }
    }

    /// A node refused requests that it got in one piece.
    #[cold]
    fn block_refused(&self, state: &mut State, ticket: Ticket, reply: &[u8], request: Request<'_>) {
        let error = aborted::deciding(request.earlier(), reply);
        if !self.redirected(state, ticket, &error, request) {
            let is_exec = state.get(ticket.seq).is_some_and(|pending| pending.is_exec());
            let text = if is_exec { aborted::aborted(&error) } else { error };
            self.answered(state, ticket, Reply::Small(&text), request);
        }
        self.wakeup.wake();
    }

    /// Takes a command's own result. True if the session's task has something to do.
    #[inline]
    fn answered(&self, state: &mut State, ticket: Ticket, reply: Reply<'_>, request: Request<'_>) -> bool {
        if state.lanes.is_some() {
            if self.script_told(state, ticket, Some(reply.bytes())) {
                return true;
            }
            self.watched_answer(state, ticket, request.bytes());
        }
        // Not a late one, whose client was told that there was no reply in time.
        if reply.bytes().first() == Some(&b'-') && ticket.seq >= state.base() {
            self.worker.backend.metrics.server_error(state.command(ticket), ServerError::of(reply.bytes()));
        }
        let backend = &self.worker.backend;
        let now = backend.clock.now();
        if ticket.seq < state.messages.until
            && let Some(reply) = self.in_clients(state, ticket, reply.bytes(), request)
        {
            return state.complete(ticket, Reply::Small(&reply), now, &backend.metrics)
                || state.lanes.is_some();
        }
        if let Some(started) = state.next_in_line(ticket) {
            if now.saturating_sub(started) >= self.worker.slow_nanos {
                self.note_slow(state, ticket, request, now);
            }
            state.write_first(reply, now, &backend.metrics);
            return true;
        }
        // The first command was framed before the others.
        if state.oldest().is_some_and(|started| now.saturating_sub(started) >= self.worker.slow_nanos) {
            self.note_slow(state, ticket, request, now);
        }
        state.complete(ticket, reply, now, &backend.metrics) || state.lanes.is_some()
    }
}

/// Serves one client until it leaves, does something that closes the connection, or the worker drains.
pub async fn serve(stream: Stream, ends: Ends, worker: Rc<Worker>, settings: Arc<SessionConfig>, id: u64) {
    let (wakeup, state) = (Wakeup::default(), RefCell::default());
    let (order, affinity) =
        (Cell::default(), Affinity { session: worker.next_place(), ..Default::default() });
    let (about, worker_of) = (About::new(worker.backend.clock.tick()), worker.clone());
    let session = Rc::new(Session {
        id,
        affinity: Cell::new(affinity),
        worker: worker_of,
        settings,
        ends,
        about,
        wakeup,
        order,
        state,
        errand: RefCell::default(),
        waits: Cell::default(),
        leave: RefCell::default(),
        left: Cell::default(),
        blocked: RefCell::default(),
        in_line: Cell::default(),
        errand_memory: Cell::default(),
        room: Cell::default(),
        unblocked: Cell::default(),
        in_line_ended: Notify::new(),
        watch: RefCell::default(),
    });
    worker.enter(&session);
    let mut turn = turn::Turn::new(session.clone(), stream);
    let parts = poll_fn(|cx| turn.poll(cx)).await;
    let waits = session.is_on_errand();
    // What waits at a node for this client ends at once: nothing is popped for somebody who has gone.
    drop((session.errand.take(), session.leave.take(), session.blocked.take(), session.watch.take()));
    let (held, _) = session.state.borrow().held();
    worker.backend.metrics.abandoned.add(held as u64 + u64::from(waits));
    let leaving = session.leave_state();
    session.forget(leaving).await;
    {
        let mut state = session.state.borrow_mut();
        worker.count_held(&mut state);
        worker.count_kept(&mut state, 0);
    }
    if parts {
        Box::pin(parting::part(&mut turn.stream)).await;
    }
    worker.leave(&session);
}
