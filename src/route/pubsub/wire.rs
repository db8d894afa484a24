//! One connection on which a node tells of topics: what comes is noted, or handed on if it is a message.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use super::{Hub, Op, What};
use crate::backend::{Link, Listener, Loss, Receiver, Reply, Request, Ticket};
use crate::net::NodeAddr;
use crate::protocol::{Push, Said, Topics};

/// What a node says of a slot that it does not have; never to PING.
const ELSEWHERE: [&[u8]; 2] = [b"-MOVED ", b"-CLUSTERDOWN "];
/// In the error of a node that does not know the command, or does not permit it.
const ITS_NAME: &[u8] = b"sunsubscribe";

/// What happened on a connection.
pub(super) enum Event {
    /// A node has answered a command.
    Answered { op: u64, error: Option<Bytes> },
    /// It never will.
    Unanswered { op: u64 },
    /// A node has ended a subscription by itself: the shard has lost the channel's slot.
    Dropped { line: u64, name: Bytes },
    /// A connection has ended, or could not be `opened`.
    Ended { line: u64, node: NodeAddr, opened: bool },
}

/// A connection.
pub(super) struct Line {
    pub(super) id: u64,
    pub(super) link: Rc<Link>,
    pub(super) wire: Rc<Wire>,
    /// How many topics are subscribed on it, or are being subscribed or left.
    pub(super) uses: usize,
}

/// What the link of a connection knows of it.
pub(super) struct Wire {
    pub(super) hub: Rc<Hub>,
    pub(super) node: NodeAddr,
    pub(super) line: u64,
    /// Whether the node has answered anything on it.
    pub(super) opened: Cell<bool>,
    /// The command last answered that is a SUNSUBSCRIBE, which a PING follows.
    pub(super) left: Cell<u64>,
}

impl Wire {
    fn note(&self, event: Event) {
        self.hub.events.borrow_mut().push_back(event);
        self.hub.notify.notify_one();
    }

    /// Whether this is what the command was to bring about.
    fn is_answer(&self, push: &Push<'_>, asked: Option<Ticket>) -> bool {
        self.asked(asked, |op| {
            let subscribes = matches!(op.what, What::Subscribe);
            let is_its = op.kind == push.kind && op.name == push.topic;
            is_its && subscribes == (push.said == Said::Subscribed) && !op.leaves_shard()
        })
    }

    /// Whether this error is the answer to SUNSUBSCRIBE, which a PING follows. That may get an error, too: a node that
    /// is busy with a script gives both the same.
    fn is_shard_left(&self, frame: &[u8], asked: Option<Ticket>) -> bool {
        let is_its = || {
            ELSEWHERE.iter().any(|error| frame.starts_with(error))
                || frame.windows(ITS_NAME.len()).any(|name| name == ITS_NAME)
        };
        let leaves = frame.first() == Some(&b'-') && self.asked(asked, Op::leaves_shard);
        leaves && (self.note_left(asked) || is_its())
    }

    /// Notes that a SUNSUBSCRIBE was answered; false if it had been before.
    fn note_left(&self, asked: Option<Ticket>) -> bool {
        asked.is_some_and(|ticket| self.left.replace(ticket.seq) != ticket.seq)
    }

    fn asked(&self, asked: Option<Ticket>, is_so: impl FnOnce(&Op) -> bool) -> bool {
        let state = self.hub.state.borrow();
        asked.and_then(|ticket| state.ops.get(&ticket.seq)).is_some_and(is_so)
    }
}

impl Listener for Wire {
    fn hear(&self, frame: &Reply<'_>, asked: Option<Ticket>) -> bool {
        let frame = frame.bytes();
        let Some(push) = Push::parse(frame) else {
            return frame.first() != Some(&b'>') && !self.is_shard_left(frame, asked);
        };
        if push.said == Said::Message {
            self.hub.message(self.line, &push, frame);
            return false;
        }
        if self.is_answer(&push, asked) {
            return true;
        }
        if (push.said, push.kind) == (Said::Unsubscribed, Topics::Shards) {
            if self.asked(asked, |op| op.leaves_shard() && op.name == push.topic) {
                self.note_left(asked);
            }
            self.note(Event::Dropped { line: self.line, name: Bytes::copy_from_slice(push.topic) });
        }
        false
    }

    fn pause(&self) {
        let mut state = self.hub.state.borrow_mut();
        let super::State { topics, batch, .. } = &mut *state;
        self.hub.hand_out(topics, batch);
    }

    fn ended(&self) {
        let opened = self.opened.get();
        self.note(Event::Ended { line: self.line, node: self.node.clone(), opened });
    }
}

impl Receiver for Wire {
    fn reply(&self, ticket: Ticket, reply: Reply<'_>, _: Request<'_>) {
        self.opened.set(true);
        let is_error = reply.bytes().first() == Some(&b'-');
        let error = is_error.then(|| reply.into_bytes());
        self.note(Event::Answered { op: ticket.seq, error });
    }

    fn lost(&self, ticket: Ticket, _: &Loss, _: &[u8]) -> bool {
        self.note(Event::Unanswered { op: ticket.seq });
        false
    }
}
