//! WATCH to EXEC: watched keys live on a connection of the session's own, and so does their transaction.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::time::sleep;

use super::aborted::{aborted, deciding};
use super::errand::{Errand, Verdict, within};
use super::lanes::Touched;
use super::planner::{Planner, Source};
use super::recover::BACKOFF_MOST;
use super::transaction::MULTI;
use crate::backend::{Dedicated, Use};
use crate::command::{Merge, Spec};
use crate::error::ClientError;
use crate::protocol::{Args, integer, write};
use crate::route::Signal;
use crate::route::merge::merge;
use crate::route::plan::{self, PlanError};

const OK: &[u8] = b"+OK\r\n";
/// What the memory of a watched key is taken for, besides its bytes.
const KEY: usize = 32;

/// What a session watches. Whoever gets the connection next finds nothing watched.
#[derive(Debug)]
pub(super) struct Watch {
    own: Dedicated,
    pub(super) slot: u16,
    /// It came to its node by ASK.
    asked: bool,
    /// A key may have been changed unseen: EXEC answers nil.
    broken: bool,
    /// The keys, and how much memory they take.
    keys: HashSet<Box<[u8]>>,
    size: usize,
}

impl Watch {
    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.size
    }

    /// What EXEC executes: before all else it counts the watched keys. In a slot that has begun to move since, the
    /// node refuses EXEC if one of them is absent: it may have been set at the target. At the target itself there is
    /// nothing to find out.
    fn block(&self, block: Bytes) -> Bytes {
        let Some(commands) = block.strip_prefix(MULTI).filter(|_| !self.asked) else { return block };
        let mut out = Vec::with_capacity(block.len() + self.size);
        out.extend_from_slice(MULTI);
        write::array(&mut out, 1 + self.keys.len());
        write::bulk(&mut out, b"EXISTS");
        self.keys.iter().for_each(|key| write::bulk(&mut out, key));
        out.extend_from_slice(commands);
        out.into()
    }

    /// The reply to that, without the count.
    fn reply(&self, reply: Bytes) -> Bytes {
        let count = |line: &[u8]| integer(line.strip_prefix(b"*")?.strip_suffix(b"\r\n")?);
        let mut lines = reply.split_inclusive(|byte| *byte == b'\n');
        let (Some(head), Some(first)) = (lines.next(), lines.next()) else { return reply };
        let Some(count) = count(head).filter(|count| *count > 0 && !self.asked) else { return reply };
        let mut out = Vec::with_capacity(reply.len());
        write::array(&mut out, count as usize - 1);
        out.extend_from_slice(&reply[head.len() + first.len()..]);
        out.into()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.own.link().push_unwatch();
    }
}

impl Planner<'_> {
    /// Lets a task watch keys.
    pub(super) fn watch(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        let slot = match plan::slot(spec, args) {
            Ok((slot, _)) => slot,
            Err(PlanError::CrossSlot) => return self.fail(spec, &ClientError::CrossSlotWatch),
            Err(PlanError::Keys(error)) => return self.unpaired(spec, error),
        };
        if self.session.watch.borrow().as_ref().is_some_and(|watch| watch.slot != slot) {
            return self.fail(spec, &ClientError::CrossSlotWatch);
        }
        let mut keys: HashSet<Box<[u8]>> = args.iter().skip(1).map(Box::from).collect();
        let watched = self.session.watch.borrow();
        keys.retain(|key| !watched.as_ref().is_some_and(|watch| watch.keys.contains(key)));
        let size = keys.iter().map(|key| KEY + key.len()).sum::<usize>();
        let before = watched.as_ref().map_or(0, |watch| watch.size);
        if before + size > self.session.settings.limits.max_request {
            return self.fail(spec, &ClientError::TransactionTooLarge);
        }
        drop(watched);
        let errand = self.errand(spec, slot, request.bytes().len());
        self.session.send_out(false, errand.watch(request.to_bytes(), keys, size));
    }

    /// Lets a task carry out the transaction of watched keys: a block, and what was answered `here`.
    pub(super) fn exec_watched(
        &mut self,
        spec: &'static Spec,
        block: Bytes,
        earlier: u32,
        order: Vec<u32>,
        here: Vec<u8>,
    ) {
        let Some(watch) = self.session.watch.take() else { return };
        let errand = self.errand(spec, watch.slot, block.len());
        self.session.send_out(false, async move {
            let reply = errand.exec(watch, block, earlier).await;
            let reply = reply.map(|reply| {
                if here.starts_with(b"*0\r\n") || !reply.starts_with(b"*") {
                    return reply;
                }
                let mut merged = Vec::new();
                merge(Merge::Exec, &[&reply, &here], &order, &mut merged);
                merged.into()
            });
            errand.finish(reply);
        });
    }
}

impl Errand {
    async fn watch(self, request: Bytes, keys: HashSet<Box<[u8]>>, size: usize) {
        let watch = self.session.watch.take();
        let reply = match watch {
            Some(watch) => self.watch_more(watch, request).await,
            None => self.watch_first(request).await,
        };
        if let Some(watch) = &mut *self.session.watch.borrow_mut() {
            watch.size += size;
            watch.keys.extend(keys);
        }
        self.finish(Some(reply));
    }

    /// Whether the client has changed its protocol or its database since: then its connection can't carry out what comes.
    fn is_elsewhere(&self, watch: &Watch) -> bool {
        watch.own.speaks() != Some((self.protocol, self.session.affinity.get().apart.database))
    }

    async fn watch_first(&self, request: Bytes) -> Bytes {
        let mut hold = self.hold();
        loop {
            let reached = within(Some(hold.deadline()), self.reach(&mut hold, Use::Watching)).await;
            let (own, asked) = match reached {
                None => return self.refusal(&ClientError::NoConnection),
                Some(Err(reply)) => return reply,
                Some(Ok(reached)) => reached,
            };
            let link = own.link().clone();
            if asked {
                link.push_asking();
            }
            let next = match link.call(request.clone(), 0, false).await {
                Err(_) => self.lost(&mut hold).await,
                Ok(answer) => match self.judge(&answer.reply, &link, &mut hold).await {
                    Ok(Verdict::Final) => {
                        if *answer.reply == *OK {
                            let (slot, keys, broken) = (self.slot, HashSet::new(), false);
                            let watch = Watch { own, slot, asked, broken, keys, size: 0 };
                            *self.session.watch.borrow_mut() = Some(watch);
                        }
                        return self.passed_on(answer.reply);
                    }
                    Ok(Verdict::Again) => Ok(()),
                    Err(reply) => Err(reply),
                },
            };
            if let Err(reply) = next {
                return reply;
            }
        }
    }

    /// More keys on the same connection. If that has lost its place, the transaction is lost already.
    async fn watch_more(&self, mut watch: Watch, request: Bytes) -> Bytes {
        let link = watch.own.link().clone();
        watch.broken |= self.is_elsewhere(&watch);
        if watch.asked {
            link.push_asking();
        }
        let reply = match link.call(request, 0, false).await {
            Ok(answer) if self.session.signal(&answer.reply, &link, self.slot).is_none() => {
                self.passed_on(answer.reply)
            }
            _ => {
                watch.broken = true;
                Bytes::from_static(OK)
            }
        };
        *self.session.watch.borrow_mut() = Some(watch);
        reply
    }

    /// The reply to EXEC: nil if a watched key may have been changed, as it may where its slot has moved.
    async fn exec(&self, watch: Watch, block: Bytes, earlier: u32) -> Option<Bytes> {
        let link = watch.own.link().clone();
        let owns = {
            let routes = self.session.worker.routes.borrow();
            watch.asked || routes.owner(watch.slot).is_some_and(|owner| owner.addr() == link.addr())
        };
        if watch.broken || !owns || self.is_elsewhere(&watch) {
            return Some(self.nothing());
        }
        let learned = self.session.worker.topology.learned().clone();
        let writes = !Touched::by(&block, &learned).is_some_and(|touched| touched.reads_only);
        self.session.load_scripts(&link, &block);
        if watch.asked {
            link.push_asking();
        }
        let earlier = earlier + u32::from(!watch.asked);
        match link.call(watch.block(block), earlier, writes).await {
            Err(loss) if loss.sent && writes => self.in_doubt(&link),
            Err(_) => Some(self.nothing()),
            Ok(answer) if answer.reply.first() == Some(&b'-') => {
                let error = deciding(&answer.earlier, &answer.reply);
                let Some(signal) = self.session.signal(&error, &link, self.slot) else {
                    return Some(self.passed_on(aborted(&error).into()));
                };
                if signal == Signal::NoReplicas {
                    // Only writes are refused there: who watches again at once would do so all the time.
                    sleep(BACKOFF_MOST).await;
                }
                Some(self.nothing())
            }
            Ok(answer) => {
                if writes {
                    self.wrote_apart(&link);
                }
                Some(watch.reply(answer.reply))
            }
        }
    }
}
