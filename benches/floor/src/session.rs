//! A client's connection.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWrite, net::TcpStream};

use crate::{Cluster, fill, link::Entry, resp, wake};

/// What links see of a session.
#[derive(Default)]
pub struct Session {
    /// The requests without a reply in `output`, in the order in which the client sent them.
    pub pending: RefCell<VecDeque<Rc<Entry>>>,
    output: RefCell<BytesMut>,
    waker: RefCell<Option<Waker>>,
}

impl Session {
    /// Takes the reply to an entry: straight to the output when it is the entry's turn.
    pub fn deliver(&self, entry: &Rc<Entry>, reply: &[u8]) {
        let mut pending = self.pending.borrow_mut();
        if !Rc::ptr_eq(pending.front().expect("the entry is pending"), entry) {
            entry.reply.borrow_mut().extend_from_slice(reply);
            entry.done.set(true);
            return;
        }
        let mut output = self.output.borrow_mut();
        output.extend_from_slice(reply);
        pending.pop_front();
        while pending.front().is_some_and(|entry| entry.done.get()) {
            let entry = pending.pop_front().expect("there is one");
            output.extend_from_slice(&entry.reply.borrow());
        }
        wake(&self.waker);
    }
}

/// Forwards a client's requests until it leaves.
pub async fn run(mut stream: TcpStream, cluster: Rc<Cluster>) {
    let session = Rc::new(Session::default());
    let mut input = BytesMut::with_capacity(16_384);
    poll_fn(|cx| {
        while let Poll::Ready(n) = fill(&mut stream, &mut input, cx) {
            if n == 0 {
                return Poll::Ready(());
            }
            while let Some(request) = resp::request(&input) {
                let slot = crc16::State::<crc16::XMODEM>::calculate(&input[request.key]) & 16_383;
                let link = &cluster.links[usize::from(cluster.owners[usize::from(slot)])];
                link.send(&input[..request.end], &session);
                input.advance(request.end);
            }
        }
        if !drain(&mut stream, &mut session.output.borrow_mut(), cx) {
            return Poll::Ready(());
        }
        *session.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Writes what there is; false when the client has gone.
fn drain(stream: &mut TcpStream, output: &mut BytesMut, cx: &mut Context<'_>) -> bool {
    while !output.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, output) {
            Poll::Ready(Ok(n)) => output.advance(n),
            Poll::Ready(Err(_)) => return false,
            Poll::Pending => break,
        }
    }
    true
}
