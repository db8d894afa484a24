//! What administrators order: it goes to several nodes at once, replicas too.
//!
//! Each gets it on a connection of the session's own. A node may take long about it, or end by it, and behind it on a
//! shared link others' commands would wait, or be lost.

use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::timeout_at;

use super::Order;
use super::survey::{Survey, Trouble};
use crate::backend::{Node, Use};
use crate::command::Whom;
use crate::error::ClientError;
use crate::protocol::{RequestFramer, RequestLimits};
use crate::topology::Cause;
use crate::topology::view::Health;

/// What DEBUG says of a key that others may have.
const NO_SUCH_KEY: &[u8] = b"-ERR no such key";

/// What came of an order at one node.
enum Outcome {
    Reply(Bytes),
    /// The node closed the connection instead of a reply.
    Ended(ClientError),
    Failed(ClientError),
}

impl Survey {
    /// Has all nodes that it is for carry out an order: the first reply, once all have succeeded, or the first error.
    /// Where nodes ended instead, the client's connection does, as a server's would. Nothing if it is closed because the
    /// outcome is unknown.
    pub(super) async fn administer(self: &Rc<Self>, whom: Whom) -> Option<Bytes> {
        let nodes = loop {
            let nodes = self.nodes(whom);
            if !nodes.is_empty() {
                break nodes;
            }
            if let Err(reply) = self.bear(Trouble::Uncovered(0)).await {
                return Some(reply);
            }
        };
        let orders: Vec<_> = nodes.into_iter().map(|node| spawn_local(self.clone().order(node))).collect();
        let (mut replies, mut ended, mut failed) = (Vec::new(), None, None);
        for order in orders {
            match order.await {
                Ok(Outcome::Reply(reply)) => replies.push(reply),
                Ok(Outcome::Ended(error)) => _ = ended.get_or_insert(error),
                Ok(Outcome::Failed(error)) => _ = failed.get_or_insert(error),
                Err(_) => {}
            }
        }
        if let Some(refusal) = replies.iter().find(|reply| is_error(reply) && !lacks_key(reply)) {
            return Some(self.passed_on(refusal.clone()));
        }
        if failed.is_some() || ended.is_some() {
            self.worker().topology.ask(Cause::Connection, None);
        }
        match failed.or(ended.take_if(|_| whom != Whom::AllAndMayEnd || !replies.is_empty())) {
            Some(error @ ClientError::Indoubt { .. }) => {
                let mut state = self.session.state.borrow_mut();
                self.session.in_doubt(&mut state, self.ticket.seq, &error).map(Bytes::from)
            }
            Some(error) => Some(self.refusal(&error)),
            None if ended.is_some() => {
                self.session.order(Order::Finish);
                Some(Bytes::new())
            }
            None => {
                let done = replies.iter().find(|reply| !is_error(reply)).or(replies.first());
                Some(self.passed_on(done.cloned().unwrap_or_default()))
            }
        }
    }

    async fn order(self: Rc<Self>, node: Rc<Node>) -> Outcome {
        let addr = || node.addr().clone();
        let database = self.session.affinity.get().apart.database;
        let own = node.dedicated(self.protocol, database, Use::Watching);
        let Ok(Ok(own)) = timeout_at(self.deadline().into(), own).await else {
            return Outcome::Failed(ClientError::Unreached { node: addr() });
        };
        match own.link().call(self.request.clone(), 0, true).await {
            Ok(answer) => Outcome::Reply(answer.reply),
            Err(loss) if !loss.sent => Outcome::Failed(ClientError::Unreached { node: addr() }),
            Err(_) if own.link().is_given_up() => Outcome::Failed(ClientError::Indoubt { node: addr() }),
            Err(_) => Outcome::Ended(ClientError::Indoubt { node: addr() }),
        }
    }

    /// Those that an order is for and that the cluster does not take for failed, primaries first.
    fn nodes(&self, whom: Whom) -> Vec<Rc<Node>> {
        let Some(snapshot) = self.worker().topology.snapshot() else { return Vec::new() };
        let all = &snapshot.members;
        let spared = match whom {
            Whom::AllBut(at) if all.len() > 1 => self.argument(at.into()),
            _ => None,
        };
        let mut members: Vec<_> = all
            .values()
            .filter(|member| member.health != Health::Failed)
            .filter(|member| whom != Whom::Primaries || member.primary)
            .filter(|member| spared.as_deref() != Some(member.id.as_bytes()))
            .collect();
        members.sort_by_key(|member| !member.primary);
        let mut routes = self.worker().routes.borrow_mut();
        members.iter().filter_map(|member| routes.node(&member.addr)).collect()
    }

    fn argument(&self, at: usize) -> Option<Vec<u8>> {
        let mut framer = RequestFramer::default();
        framer.next(&self.request, &RequestLimits::NONE).ok()??;
        let args = framer.args(&self.request);
        (at < args.len()).then(|| args.get(at).to_vec())
    }
}

fn is_error(reply: &Bytes) -> bool {
    reply.first() == Some(&b'-')
}

fn lacks_key(reply: &Bytes) -> bool {
    reply.starts_with(NO_SUCH_KEY)
}
