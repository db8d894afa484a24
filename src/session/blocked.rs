//! Where a session waits for others, and what ends that: another client, a slot that is being moved, or that the client
//! has gone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use crate::backend::{Dedicated, Link, Node};

/// A wait that is younger may be none: the answer may be on its way.
const BRIEF: Duration = Duration::from_millis(100);
/// When the proxy stops, or closes the client, an answer has this time to come.
const PARTING: Duration = Duration::from_secs(1);
/// One that was called back already is called back again after this time: each time costs a connection.
const RECALLED: Duration = Duration::from_secs(1);
/// After this time it is asked again to end.
const AGAIN: Duration = Duration::from_millis(10);

/// Where a session waits at a node.
#[derive(Debug)]
pub(super) struct Blocked {
    node: Rc<Node>,
    link: Rc<Link>,
    slot: u16,
    /// It came there by ASK.
    asked: bool,
    /// Not to be called back before.
    stays: Instant,
    /// How many attempts to end it are on their way,
    ending: Cell<u32>,
    answered: Notify,
    /// who did,
    ended: Cell<Option<Ending>>,
    /// and who may have, since the node's answer was lost: that shows when the wait ends so.
    in_doubt: Cell<Option<Ending>>,
}

/// Who ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another client, as if its time were over,
    Timeout,
    /// or by the error UNBLOCKED.
    Error,
    /// The proxy: the call asks again.
    Recall,
    /// The client does not wait any more.
    Left,
}

impl Session {
    /// Whether a task waits, for others or for the cluster, for a client that does not wait any more: `closing`, or it
    /// sends no more. What is about to be answered is for the client still: a wait that has just begun is only asked to
    /// end, and so is any if it is not the client who goes.
    pub(super) fn waits_for_nobody(self: &Rc<Self>, closing: bool) -> bool {
        let Some(since) = self.waits.get().filter(|_| self.is_on_errand()) else { return false };
        let is_over = self.left.get() || !closing && since.elapsed() > BRIEF;
        if !is_over {
            let leave = || AbortOnDropHandle::new(spawn_local(self.clone().leave_soon(closing)));
            self.leave.borrow_mut().get_or_insert_with(leave);
        }
        is_over
    }

    /// Ends a wait of a client that sends no more, or is `closing`, unless it is answered soon.
    async fn leave_soon(self: Rc<Self>, closing: bool) {
        let ended = async {
            while self.is_on_errand() {
                let blocked = self.blocked.borrow().clone();
                if let Some(blocked) = blocked
                    && blocked.end(Ending::Left).await
                {
                    return;
                }
                sleep(AGAIN).await;
                // In line for a connection there is nothing for it yet.
                if self.in_line.get() && !closing {
                    return;
                }
            }
        };
        _ = timeout(if closing { PARTING } else { BRIEF }, ended).await;
        self.left.set(true);
        self.wakeup.wake();
    }

    /// Whether it waits for other clients, or in line to do so.
    pub(super) fn is_blocked(&self) -> bool {
        self.in_line.get() || self.blocked.borrow().is_some()
    }

    /// Calls back what waits at the source of a slot that is being moved: what it waits for may be put at the target.
    pub(super) fn look_after_wait(&self) {
        let Some(blocked) = self.blocked.borrow().clone() else { return };
        let is_open = self.worker.routes.borrow().is_open(blocked.slot);
        let is_ending = blocked.ending.get() > 0 || blocked.ended.get().is_some();
        if is_open && !blocked.asked && !is_ending && Instant::now() >= blocked.stays {
            spawn_local(async move { blocked.end(Ending::Recall).await });
        }
    }

    /// Until another client ends a wait that is not at a node; whether by an error.
    pub(super) async fn unblocked(&self) -> bool {
        loop {
            self.in_line_ended.notified().await;
            // Nothing if it came too late for an earlier wait.
            if let Some(error) = self.unblocked.take() {
                return error;
            }
        }
    }

    /// Ends what this session waits for, as CLIENT UNBLOCK does it. False if it waits for nothing, or was just served.
    pub(super) async fn unblock(&self, error: bool) -> bool {
        loop {
            let blocked = self.blocked.borrow().clone();
            if let Some(blocked) = blocked {
                if blocked.end(if error { Ending::Error } else { Ending::Timeout }).await {
                    return true;
                }
                match blocked.ended.get() {
                    None => return false,
                    // It was called back meanwhile, and may wait elsewhere already.
                    Some(_) if self.blocked.borrow().is_some() => {
                        sleep(AGAIN).await;
                        continue;
                    }
                    Some(_) => {}
                }
            } else if !self.in_line.get() {
                return false;
            }
            self.unblocked.set(Some(error));
            self.in_line_ended.notify_one();
            return true;
        }
    }
}

impl Blocked {
    pub(super) fn new(own: &Dedicated, slot: u16, asked: bool, was_recalled: bool) -> Rc<Self> {
        let (node, link) = (own.node().clone(), own.link().clone());
        let stays = Instant::now() + if was_recalled { RECALLED } else { Duration::ZERO };
        let (ending, ended, in_doubt) = (Cell::new(0), Cell::new(None), Cell::new(None));
        Rc::new(Blocked { node, link, slot, asked, stays, ending, answered: Notify::new(), ended, in_doubt })
    }

    /// Ends it. False if something else had.
    async fn end(&self, by: Ending) -> bool {
        self.ending.set(self.ending.get() + 1);
        let did = self.node.unblock(&self.link).await;
        match did {
            // A call that was put off is ended more than once: who asked for an end goes before the proxy.
            Some(true) if by != Ending::Recall || self.ended.get().is_none() => self.ended.set(Some(by)),
            Some(_) => {}
            None => self.in_doubt.set(Some(by)),
        }
        self.ending.set(self.ending.get() - 1);
        self.answered.notify_one();
        did == Some(true)
    }

    /// Who ended it, once that is known.
    pub(super) async fn ended(&self) -> Option<Ending> {
        while self.ending.get() > 0 {
            self.answered.notified().await;
        }
        self.ended.get().or(self.in_doubt.get())
    }
}
