//! What one client asks about all clients of the process: it goes to every worker over a channel of its own, never for a
//! request that nodes serve.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use super::clients::{Filter, Found};
use super::scripts::Scripts;
use super::slowlog::SlowLog;
use super::{Order, Worker};
use crate::command::{Flags, Spec};
use crate::config::ClusterLimits;
use crate::metrics::Closed;
use crate::route::pubsub::Counts;

/// Questions that wait for a worker. Each is of a client that waits for it, and is answered in the worker's next turn.
const INBOX: usize = 64;

/// How the workers of one cluster reach each other.
#[derive(Debug)]
pub struct Control {
    inboxes: Vec<mpsc::Sender<Message>>,
    /// What the clients of all workers are subscribed to.
    pub(super) subscribed: Arc<Counts>,
    /// The scripts that its clients have shown.
    pub(super) scripts: Arc<Scripts>,
    /// What took its clients long.
    pub(super) slowlog: SlowLog,
    /// What each worker takes when it starts.
    receivers: Mutex<Vec<Option<Inbox>>>,
}

type Inbox = mpsc::Receiver<Message>;

/// What is asked of every worker.
#[derive(Debug)]
pub(super) enum Ask {
    /// The lines of these clients.
    List(Filter),
    /// To close these clients; the one that asks closes itself.
    Kill(Filter),
    /// To plan no more commands, or none that may write, until then.
    Pause(Pause, Instant),
    /// To plan all again.
    Unpause,
    /// To end the wait of this client; with an error, or as if its time were over.
    Unblock(u64, bool),
}

#[derive(Debug)]
struct Message {
    ask: Arc<Ask>,
    /// The client that asks.
    by: u64,
    answer: oneshot::Sender<Vec<Found>>,
}

/// Which commands wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pause {
    #[default]
    None,
    /// Those that may write.
    Writes,
    All,
}

impl Pause {
    /// Whether this command waits.
    pub(super) fn holds(self, spec: &Spec) -> bool {
        match self {
            Pause::None => false,
            Pause::Writes => spec.flags.has(Flags::WRITE) || spec.flags.has(Flags::MAY_REPLICATE),
            Pause::All => true,
        }
    }
}

impl Control {
    /// For so many workers of a cluster.
    #[must_use]
    pub fn new(workers: usize, limits: &ClusterLimits) -> Arc<Self> {
        let (inboxes, receivers): (_, Vec<_>) = (0..workers).map(|_| mpsc::channel(INBOX)).unzip();
        let receivers = Mutex::new(receivers.into_iter().map(Some).collect());
        Arc::new(Control {
            inboxes,
            subscribed: Arc::default(),
            scripts: Scripts::new(limits.script_cache),
            slowlog: SlowLog::default(),
            receivers,
        })
    }

    /// Asks all workers; what they found, those that have ended left out.
    pub(super) async fn ask(&self, ask: Ask, by: u64) -> Vec<Found> {
        let ask = Arc::new(ask);
        let mut answers = Vec::with_capacity(self.inboxes.len());
        for inbox in &self.inboxes {
            let (answer, receiver) = oneshot::channel();
            if inbox.send(Message { ask: ask.clone(), by, answer }).await.is_ok() {
                answers.push(receiver);
            }
        }
        let mut found = Vec::new();
        for answer in answers {
            found.extend(answer.await.unwrap_or_default());
        }
        found
    }

    fn inbox(&self, worker: usize) -> Option<Inbox> {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        receivers.get_mut(worker)?.take()
    }
}

/// Which commands of a worker's clients wait, and until when.
#[derive(Debug, Default)]
pub(super) struct Paused {
    what: Cell<Pause>,
    until: Cell<Option<Instant>>,
}

impl Paused {
    #[inline]
    pub(super) fn now(&self) -> Pause {
        self.what.get()
    }

    /// As on a server, a further pause makes it only stricter and longer.
    fn begin(&self, what: Pause, until: Instant) {
        self.what.set(self.what.get().max(what));
        self.until.set(self.until.get().max(Some(until)));
    }
}

impl Worker {
    /// Answers what is asked of this worker, for ever.
    pub async fn answer_control(self: Rc<Self>, worker: usize) {
        let Some(mut inbox) = self.control.inbox(worker) else { return };
        loop {
            let until = self.paused.until.get();
            let over = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(Message { ask, answer, .. }) if let Ask::Unblock(id, error) = *ask => {
                        self.unblock(id, error, answer);
                    }
                    // Who asked may have gone.
                    Some(Message { ask, by, answer }) => _ = answer.send(self.carry_out(&ask, by)),
                    None => return,
                },
                () = over => self.unpause(),
            }
        }
    }

    fn carry_out(&self, ask: &Ask, by: u64) -> Vec<Found> {
        let mut found = Vec::new();
        match ask {
            Ask::List(filter) => self.each_session(|session| found.extend(session.find(filter, true))),
            Ask::Kill(filter) => self.each_session(|session| {
                let killed = session.find(filter, false);
                if killed.is_some() && session.id != by {
                    session.order(Order::Close(Closed::Killed));
                }
                found.extend(killed);
            }),
            Ask::Pause(what, until) => self.paused.begin(*what, *until),
            Ask::Unpause => self.unpause(),
            // It takes a question to a node.
            Ask::Unblock(..) => {}
        }
        found
    }

    /// Ends the wait of a client, if it is one of this worker's.
    fn unblock(&self, id: u64, error: bool, answer: oneshot::Sender<Vec<Found>>) {
        let session = self.sessions.borrow().get(&id).and_then(Weak::upgrade);
        spawn_local(async move {
            let ended = match session {
                Some(session) => session.unblock(error).await,
                None => false,
            };
            _ = answer.send(if ended { vec![Found { id, line: Vec::new() }] } else { Vec::new() });
        });
    }

    fn unpause(&self) {
        self.paused.what.set(Pause::None);
        self.paused.until.set(None);
        self.each_session(|session| session.wakeup.wake());
    }
}
