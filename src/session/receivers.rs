//! Numbers of subscribers that nodes tell, told in clients.

use std::collections::VecDeque;

use super::Session;
use super::pending::State;
use super::planner::Planner;
use crate::backend::{Request, Ticket};
use crate::command::{Merge, Spec};
use crate::net::NodeAddr;
use crate::protocol::{Args, RequestFramer, RequestLimits, write};
use crate::topology::slot_of;

/// A client's messages that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Commands before this one may be messages.
    pub(super) until: u64,
    /// In their order; none while nobody has ever subscribed.
    sent: VecDeque<Message>,
}

/// A message, and what was to be added to its node's number of receivers when it was sent: who got it may have left
/// before the number comes.
#[derive(Debug)]
struct Message {
    seq: u64,
    node: NodeAddr,
    beyond: i64,
}

impl Messages {
    fn add(&mut self, base: u64, message: Message) {
        // Those that failed, or were sent elsewhere.
        while self.sent.front().is_some_and(|first| first.seq < base) {
            self.sent.pop_front();
        }
        self.sent.push_back(message);
    }

    fn take(&mut self, seq: u64) -> Option<Message> {
        let place = self.sent.binary_search_by_key(&seq, |message| message.seq).ok()?;
        let message = self.sent.remove(place);
        if self.sent.is_empty() {
            self.sent = VecDeque::new();
        }
        message
    }
}

impl Planner<'_> {
    /// A command is planned that may be a message.
    #[cold]
    pub(super) fn note_message(&mut self, spec: &'static Spec, args: &Args<'_>) {
        let seq = self.state.next_seq();
        self.state.messages.until = seq + 1;
        let receivers = self.session.worker.hub.receivers();
        let channel = args.get(1);
        if receivers.any()
            && let Merge::Receivers(kind) = spec.merge
            && let Some(owner) = self.routes.owner(slot_of(channel))
        {
            let (node, base) = (owner.addr().clone(), self.state.base());
            let beyond = receivers.beyond(kind, channel, &node);
            self.state.messages.add(base, Message { seq, node, beyond });
        }
    }

    /// What is to be added to the nodes' numbers, in the form of a node's reply.
    pub(super) fn own_part(&self, spec: &'static Spec, args: &Args<'_>) -> Option<Vec<u8>> {
        let (counts, mut own) = (self.session.worker.hub.receivers().counts(), Vec::new());
        match spec.merge {
            Merge::SumPatterns => write::integer(&mut own, counts.beyond_patterns()),
            Merge::SumByName(kind) => {
                write::array(&mut own, 2 * (args.len() - 2));
                for name in args.iter().skip(2) {
                    write::bulk(&mut own, name);
                    write::integer(&mut own, counts.beyond_all(kind, name));
                }
            }
            _ => return None,
        }
        Some(own)
    }
}

impl Session {
    /// A node's number of receivers of a message, told in clients.
    #[cold]
    pub(super) fn in_clients(
        &self,
        state: &mut State,
        ticket: Ticket,
        reply: &[u8],
        request: Request<'_>,
    ) -> Option<Vec<u8>> {
        let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
        let Merge::Receivers(kind) = state.get(ticket.seq)?.spec?.merge else { return None };
        let told: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let sent = state.messages.take(ticket.seq);
        let mut framer = RequestFramer::default();
        framer.next(request.bytes(), &RequestLimits::NONE).ok()??;
        let channel = framer.args(request.bytes()).get(1);
        let node = request.link().addr();
        let now = self.worker.hub.receivers().beyond(kind, channel, node);
        let then = sent.filter(|sent| sent.node == *node).map_or(now, |sent| sent.beyond);
        let mut reply = Vec::new();
        write::integer(&mut reply, (told + now.max(then)).max(0));
        Some(reply)
    }
}
