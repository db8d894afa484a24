//! One request on a link, for a task that awaits its reply.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::{Link, Loss, Receiver, Reply, Request, Ticket};

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
