//! Commands that wait at a node until another client acts: BLPOP, XREAD BLOCK and their kin.

use std::iter;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::select;

use super::aborted::deciding;
use super::blocked::{Blocked, Ending};
use super::errand::{Errand, Hold, UNBLOCKED, Verdict, within};
use super::planner::{Planner, Source};
use crate::backend::{Dedicated, Link, Use};
use crate::command::{KeyError, Patience, Spec};
use crate::error::ClientError;
use crate::protocol::{Args, ReplyFramer, RequestFramer, RequestLimits, write};
use crate::route::plan::{self, PlanError};

/// Who wants to wait for longer waits for ever, as far as the proxy's clock is concerned.
const EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Planner<'_> {
    /// Lets a task wait for what the request asks for.
    pub(super) fn blocking(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        let slot = match plan::slot(spec, args) {
            Ok((slot, _)) => slot,
            Err(PlanError::CrossSlot) => return self.fail(spec, &ClientError::CrossSlot),
            Err(PlanError::Keys(KeyError::LetServerAnswer)) => return self.anywhere(spec, request),
            Err(PlanError::Keys(error @ KeyError::Unpaired(_))) => return self.unpaired(spec, error),
        };
        let wait = Wait::new(spec, args, request.to_bytes());
        let errand = self.errand(spec, slot, request.bytes().len());
        self.session.errand_memory.set(request.len());
        self.session.send_out(true, errand.block(wait));
    }

    /// Notes a command that a task will answer.
    pub(super) fn errand(&mut self, spec: &'static Spec, slot: u16, len: usize) -> Errand {
        let seq = self.expect(spec, slot, len);
        Errand { session: self.session.clone(), seq, spec, slot, protocol: self.protocol }
    }
}

/// A call that waits, as it is sent the first time and again.
struct Wait {
    request: Bytes,
    patience: Option<Patience>,
    /// When the client's own timeout is over, if it has one.
    until: Option<Instant>,
    /// For each stream that is to be read from its end on, its place and its id's among the arguments, and where that
    /// end was.
    ends: Vec<(usize, usize, Option<Vec<u8>>)>,
    sent: bool,
    was_recalled: bool,
}

impl Wait {
    fn new(spec: &Spec, args: &Args<'_>, request: Bytes) -> Self {
        let patience = spec.patience(args);
        let timeout = patience.as_ref().and_then(|patience| patience.timeout(args));
        // One that no clock reaches is for the node to refuse.
        let until = timeout.filter(|timeout| !timeout.is_zero() && *timeout < EVER);
        let until = until.map(|timeout| Instant::now() + timeout);
        let ends = spec.read_from_end(args).map(|(stream, id)| (stream, id, None)).collect();
        Wait { request, patience, until, ends, sent: false, was_recalled: false }
    }

    /// The call as it is to be sent now, and how many replies come before its own. Nothing if its time is over.
    fn requests(&mut self, asked: bool) -> Option<(Bytes, u32)> {
        let left = match self.until {
            Some(until) => until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?,
            None => Duration::ZERO,
        };
        if !std::mem::replace(&mut self.sent, true) && self.ends.is_empty() && !asked {
            return Some((self.request.clone(), 0));
        }
        let timeout = match (&self.patience, self.until) {
            (Some(patience), Some(_)) => Some((patience.at, patience.write(left))),
            _ => None,
        };
        let mut out = if asked { Link::ASKING.to_vec() } else { Vec::new() };
        self.with_args(|args| {
            write::array(&mut out, args.len());
            for at in 0..args.len() {
                let end = self.ends.iter().find(|(_, id, _)| *id == at).and_then(|(.., end)| end.as_deref());
                match &timeout {
                    Some((place, timeout)) if *place == at => write::bulk(&mut out, timeout.as_bytes()),
                    _ => write::bulk(&mut out, end.unwrap_or(args.get(at))),
                }
            }
        });
        Some((out.into(), u32::from(asked)))
    }

    /// What asks for the ends of the streams, if they are to be known and are not, and how many replies come before
    /// the last one. EXISTS goes before several: a node of a half-moved slot that lacks one of them says so by that.
    fn ask_for_ends(&self, asked: bool) -> Option<(Bytes, u32)> {
        if self.ends.iter().all(|(.., end)| end.is_some()) {
            return None;
        }
        let (mut out, mut requests) = (Vec::new(), 0);
        self.with_args(|args| {
            let streams = || self.ends.iter().map(|(stream, ..)| args.get(*stream));
            let exists = (self.ends.len() > 1).then(|| iter::once(&b"EXISTS"[..]).chain(streams()).collect());
            let ends = streams().map(|stream| vec![b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1"]);
            for words in exists.into_iter().chain(ends) {
                out.extend_from_slice(if asked { Link::ASKING } else { b"" });
                write::request(&mut out, words.into_iter());
                requests += 1 + u32::from(asked);
            }
        });
        Some((out.into(), requests.checked_sub(1)?))
    }

    /// Notes where the streams end: there the call begins, also when it is repeated much later.
    fn note_ends(&mut self, mut replies: &[u8]) {
        if self.ends.len() > 1 {
            // How many there are.
            _ = next_reply(&mut replies);
        }
        for (.., end) in &mut self.ends {
            let Some(reply) = next_reply(&mut replies) else { return };
            // `*1 *2 $N id …`, or `*0` for a stream that is empty. An error is for the call itself to tell.
            let id = reply.strip_prefix(b"*1\r\n*2\r\n$").and_then(|rest| rest.split(|b| *b == b'\n').nth(1));
            *end = Some(match (id, reply.first()) {
                (Some(id), _) => id.strip_suffix(b"\r").unwrap_or(id).to_vec(),
                (None, Some(b'-')) => b"$".to_vec(),
                (None, _) => b"0-0".to_vec(),
            });
        }
    }

    fn with_args(&self, f: impl FnOnce(&Args<'_>)) {
        let mut framer = RequestFramer::default();
        // It was framed before.
        if let Ok(Some(_)) = framer.next(&self.request, &RequestLimits::NONE) {
            f(&framer.args(&self.request));
        }
    }
}

/// The first of `replies`, behind what ASKING was answered with.
fn next_reply<'a>(replies: &mut &'a [u8]) -> Option<&'a [u8]> {
    let rest = replies.strip_prefix(b"+OK\r\n").unwrap_or(replies);
    let len = ReplyFramer::default().next(rest).ok()??;
    let (reply, rest) = rest.split_at(len);
    *replies = rest;
    Some(reply)
}

impl Errand {
    async fn block(self, mut wait: Wait) {
        let reply = self.blocked(&mut wait).await;
        self.finish(reply);
    }

    async fn blocked(&self, wait: &mut Wait) -> Option<Bytes> {
        let mut hold = self.hold();
        let session = &self.session;
        session.unblocked.set(None);
        loop {
            session.in_line.set(true);
            let reached = select! {
                biased;
                error = session.unblocked() => {
                    return Some(if error { self.refusal(&ClientError::Unblocked) } else { self.nothing() });
                }
                reached = within(wait.until, self.reach(&mut hold, Use::Blocking)) => reached,
            };
            session.in_line.set(false);
            let (own, asked) = match reached {
                None => return Some(self.nothing()),
                Some(Err(reply)) => return Some(reply),
                Some(Ok(reached)) => reached,
            };
            let next = self.at_node(wait, own, asked, &mut hold).await;
            match next {
                Ok(None) => {}
                Ok(Some(reply)) | Err(Some(reply)) => return Some(reply),
                Err(None) => return None,
            }
        }
    }

    /// One try, on a connection that was found: the reply, or nothing if there is to be another one.
    ///
    /// # Errors
    /// The end, with the reply for the client if it gets one.
    async fn at_node(
        &self,
        wait: &mut Wait,
        own: Dedicated,
        asked: bool,
        hold: &mut Hold,
    ) -> Result<Option<Bytes>, Option<Bytes>> {
        let (session, link, begun) = (&self.session, own.link().clone(), Instant::now());
        if let Some((requests, earlier)) = wait.ask_for_ends(asked) {
            let Ok(answer) = link.call(requests, earlier, false).await else {
                return self.lost(hold).await.map(|()| None).map_err(Some);
            };
            let all = [&answer.earlier[..], &answer.reply].concat();
            let error = Bytes::from(deciding(&answer.earlier, &answer.reply));
            if let Verdict::Again = self.judge(&error, &link, hold).await.map_err(Some)? {
                return Ok(None);
            }
            wait.note_ends(&all);
        }
        let Some((requests, earlier)) = wait.requests(asked) else { return Ok(Some(self.nothing())) };
        let blocked = Blocked::new(&own, self.slot, asked, wait.was_recalled);
        *session.blocked.borrow_mut() = Some(blocked.clone());
        let result = link.call(requests, earlier, !self.spec.is_readonly()).await;
        session.blocked.take();
        // A connection that was never there is no wait.
        if !matches!(&result, Err(loss) if !loss.sent) {
            self.renew(hold, begun.elapsed());
        }
        let ended = match &result {
            Ok(answer) if answer.reply.starts_with(UNBLOCKED) => {
                // The node may be about to close it, or may still have the call.
                own.end();
                blocked.ended().await
            }
            _ => {
                drop(own);
                None
            }
        };
        match result {
            Err(loss) if loss.sent && !self.spec.is_readonly() => Err(self.in_doubt(&link)),
            Err(_) => self.lost(hold).await.map(|()| None).map_err(Some),
            // Its time was not over: it was called back because its slot is being moved.
            Ok(_) if ended == Some(Ending::Recall) => {
                wait.was_recalled = true;
                Ok(None)
            }
            // The session's own turn drops this task.
            Ok(_) if ended == Some(Ending::Left) => std::future::pending().await,
            Ok(_) if ended == Some(Ending::Timeout) => Ok(Some(self.nothing())),
            Ok(answer) => {
                if !self.spec.is_readonly() {
                    self.wrote_apart(&link);
                }
                let verdict = self.judge(&answer.reply, &link, hold).await.map_err(Some)?;
                Ok(match verdict {
                    Verdict::Final => Some(self.passed_on(hold.told(answer.reply))),
                    Verdict::Again => None,
                })
            }
        }
    }
}
