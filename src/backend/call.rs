//! One request on a link, for a task that awaits its reply.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::handshake::{self, Told};
use super::{Link, Loss, Receiver, Reply, Request, Ticket};
use crate::protocol::ReplyFramer;

/// How long after it was refused a busy node is asked again.
const BUSY: Duration = Duration::from_secs(1);

/// A reply, and those before it where several requests went in one piece.
#[derive(Debug)]
pub struct Answer {
    /// The last reply.
    pub reply: Bytes,
    /// The replies before it.
    pub earlier: Bytes,
}

struct Call {
    writes: bool,
    waker: RefCell<Option<Waker>>,
    result: Cell<Option<Result<Answer, Loss>>>,
}

impl Link {
    /// Sends requests in one piece, to which `earlier` replies come before the last one, and waits for them.
    /// `writes` says whether they must not be sent again once they were sent.
    ///
    /// # Errors
    /// The link ended before the last reply.
    pub async fn call(&self, requests: Bytes, earlier: u32, writes: bool) -> Result<Answer, Loss> {
        let call = Rc::new(Call { writes, waker: RefCell::default(), result: Cell::default() });
        if self.is_closed() {
            return Err(Loss { node: self.addr().clone(), sent: false, reason: "it was closed before" });
        }
        self.push_block(call.clone(), Ticket { seq: 0, part: 0 }, requests, earlier);
        poll_fn(|cx| match call.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                *call.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Introduces a link that was opened while its node ran a script, once that is over.
    pub(super) async fn introduce_later(self: Rc<Self>) {
        loop {
            sleep(BUSY).await;
            let mut requests = Vec::new();
            handshake::introduction(&mut requests, &self.name);
            let Ok(answer) = self.call(requests.into(), 2, false).await else { return };
            let named = ReplyFramer::default().next(&answer.earlier).ok().flatten().unwrap_or(0);
            if let Some(told) = Told::parse(&answer.earlier[named..], &answer.reply) {
                return self.note(told);
            }
        }
    }
}

impl Call {
    fn finish(&self, result: Result<Answer, Loss>) {
        self.result.set(Some(result));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Receiver for Call {
    fn reply(&self, _: Ticket, reply: Reply<'_>, request: Request<'_>) {
        let earlier = Bytes::copy_from_slice(request.earlier());
        self.finish(Ok(Answer { reply: reply.into_bytes(), earlier }));
    }

    fn lost(&self, _: Ticket, loss: &Loss, _: &[u8]) -> bool {
        self.finish(Err(loss.clone()));
        loss.sent && self.writes
    }
}
