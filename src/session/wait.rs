//! WAIT and WAITAOF: how many replicas have what this session wrote.
//!
//! A node counts for the connection that asks, and the writes came over shared links: so each link that carried some
//! is asked, in a form that never blocks it, while another connection makes the node's replicas acknowledge.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memchr::memmem;
use tokio::select;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::errand::{Errand, within};
use super::planner::{Planner, Source};
use crate::backend::{Answer, Link, Node};
use crate::command::Spec;
use crate::error::ClientError;
use crate::protocol::{Args, integer, write};
use crate::route::Signal;

const COUNT: &[u8] = b"*3\r\n$4\r\nWAIT\r\n$1\r\n0\r\n$1\r\n0\r\n";
const COUNT_AOF: &[u8] = b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n0\r\n$1\r\n0\r\n$1\r\n0\r\n";

/// What a node says that has become a replica.
const DEMOTED: &[u8] = b"cannot be used with replica instances";
/// As often the nodes are asked at once, since healthy replicas acknowledge within a round trip,
const PROMPT: u32 = 3;
/// then after a wait that doubles from this on
const WAIT_FIRST: Duration = Duration::from_millis(1);
/// and is no longer: who waits for a replica that is gone costs its node next to nothing.
const WAIT_MOST: Duration = Duration::from_millis(200);

/// What a call waits for.
struct Wanted {
    /// WAITAOF: whether the node itself must have it on disk.
    local: Option<i64>,
    replicas: i64,
    until: Option<Instant>,
}

/// What the nodes say.
#[derive(Clone, Copy)]
struct Counted {
    local: i64,
    replicas: i64,
}

impl Planner<'_> {
    /// Lets a task wait for the replicas.
    pub(super) fn replicas(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        let wanted = match Wanted::read(args) {
            Ok(wanted) => wanted,
            Err(text) => return self.refuse_as(spec, text),
        };
        let written = std::mem::take(&mut self.state.wrote);
        let mut links = self.session.worker.backend.all_links();
        links.retain(|link| written & link.bit() != 0);
        let mut is_lost = false;
        for addr in std::mem::take(&mut self.state.wrote_apart) {
            let node = self.routes.routed(&addr);
            match node.and_then(|node| self.session.link_to(node, self.protocol).ok()) {
                Some(link) => {
                    // What a node counts for a connection is all that was written before its last command.
                    link.push_ping();
                    if links.iter().all(|other| other.id() != link.id()) {
                        links.push(link);
                    }
                    self.state.wrote_apart.push(addr);
                }
                None => is_lost = true,
            }
        }
        if written == 0 && links.is_empty() && !is_lost {
            // Nothing has to be there: any node tells how many replicas it has.
            let owner = self.routes.any_slot().and_then(|slot| self.routes.owner(slot));
            links.extend(owner.and_then(|node| self.session.link_to(node, self.protocol).ok()));
        }
        // A link that has ended took with it how far it had written.
        let found = links.iter().fold(0, |found, link| found | link.bit());
        self.state.wrote = found & written;
        let is_whole = !links.is_empty() && found & written == written && !is_lost;
        let errand = self.errand(spec, 0, request.bytes().len());
        self.session.send_out(true, errand.wait(if is_whole { links } else { Vec::new() }, wanted));
    }
}

impl Wanted {
    fn read(args: &Args<'_>) -> Result<Self, &'static str> {
        let number = |at: usize| integer(args.get(at)).ok_or("ERR value is not an integer or out of range");
        let last = args.len() - 1;
        let local = if last == 3 { Some(number(1)?) } else { None };
        if local.is_some_and(|local| !(0..=1).contains(&local)) {
            return Err("ERR value is out of range, must be between 0 and 1");
        }
        let replicas = number(last - 1)?;
        let timeout = integer(args.get(last)).ok_or("ERR timeout is not an integer or out of range")?;
        let timeout = u64::try_from(timeout).map_err(|_| "ERR timeout is negative")?;
        let until = (timeout > 0).then(|| Instant::now() + Duration::from_millis(timeout));
        Ok(Wanted { local, replicas, until })
    }

    fn is_met(&self, counted: Counted) -> bool {
        counted.replicas >= self.replicas && self.local.is_none_or(|local| counted.local >= local)
    }

    fn none(&self) -> Bytes {
        self.reply(Counted { local: 0, replicas: 0 }).into()
    }

    fn reply(&self, counted: Counted) -> Vec<u8> {
        let mut reply = Vec::new();
        if self.local.is_some() {
            write::array(&mut reply, 2);
            write::integer(&mut reply, counted.local);
        }
        write::integer(&mut reply, counted.replicas);
        reply
    }
}

impl Errand {
    /// Counts until it is enough, the time is over, or another client ends it. Where a link is lost nothing is known any
    /// more: none.
    async fn wait(self, links: Vec<Rc<Link>>, wanted: Wanted) {
        let (session, counted) = (self.session.clone(), Cell::new(Counted { local: 0, replicas: 0 }));
        session.unblocked.set(None);
        session.in_line.set(true);
        let ended = select! {
            biased;
            error = session.unblocked() => error.then(|| self.refusal(&ClientError::Unblocked)),
            ended = within(wanted.until, self.count_until_met(&links, &wanted, &counted)) => ended.flatten(),
        };
        self.finish(Some(ended.unwrap_or_else(|| wanted.reply(counted.get()).into())));
    }

    /// The reply where that is not what was counted last.
    async fn count_until_met(
        &self,
        links: &[Rc<Link>],
        wanted: &Wanted,
        counted: &Cell<Counted>,
    ) -> Option<Bytes> {
        if links.is_empty() {
            return None;
        }
        for tries in 0.. {
            for link in links {
                let node = self.session.worker.routes.borrow_mut().node(link.addr());
                node.iter().for_each(Node::acknowledge);
            }
            match count(links, wanted).await {
                Ok(now) => counted.set(now),
                Err(reply) => return Some(reply),
            }
            if wanted.is_met(counted.get()) {
                break;
            }
            if tries >= PROMPT {
                sleep(WAIT_FIRST.saturating_mul(1 << (tries - PROMPT).min(10)).min(WAIT_MOST)).await;
            }
        }
        None
    }
}

/// The smallest counts of all the links' nodes.
///
/// # Errors
/// A link was lost, its node is no primary any more, or does not count at all: the reply.
async fn count(links: &[Rc<Link>], wanted: &Wanted) -> Result<Counted, Bytes> {
    let request = Bytes::from_static(if wanted.local.is_some() { COUNT_AOF } else { COUNT });
    let ask = |link: &Rc<Link>| {
        let (link, request) = (link.clone(), request.clone());
        AbortOnDropHandle::new(spawn_local(async move { link.call(request, 0, false).await }))
    };
    let answers: Vec<_> = links.iter().map(ask).collect();
    let mut least = Counted { local: i64::MAX, replicas: i64::MAX };
    for (answer, link) in answers.into_iter().zip(links) {
        let Ok(Ok(Answer { reply, .. })) = answer.await else { return Err(wanted.none()) };
        if reply.first() == Some(&b'-') {
            let passes =
                Signal::parse(&reply, link.addr()).is_some() || memmem::find(&reply, DEMOTED).is_some();
            return Err(if passes { wanted.none() } else { reply });
        }
        let mut numbers = reply
            .split(|byte| *byte == b'\n')
            .filter_map(|line| integer(line.strip_prefix(b":")?.strip_suffix(b"\r")?));
        let first = numbers.next().unwrap_or(0);
        let counted = match wanted.local {
            Some(_) => Counted { local: first, replicas: numbers.next().unwrap_or(0) },
            None => Counted { local: 0, replicas: first },
        };
        least =
            Counted { local: least.local.min(counted.local), replicas: least.replicas.min(counted.replicas) };
    }
    Ok(least)
}
