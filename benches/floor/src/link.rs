//! The connection to a node, shared by all sessions of a worker.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;

use crate::{fill, kept::Kept, resp, session::Session, wake};

/// What sessions see of a link.
#[derive(Default)]
pub struct Link {
    kept: RefCell<Kept>,
    in_flight: RefCell<VecDeque<Rc<Entry>>>,
    waker: RefCell<Option<Waker>>,
}

/// A request on its way.
pub struct Entry {
    /// The length of the request, which the link keeps. Not a `usize`, which would make the entry eight bytes
    /// larger: of that size mimalloc 0.1 takes a detour that costs a tenth of all instructions.
    length: u32,
    pub done: Cell<bool>,
    /// The reply, if it came before its turn.
    pub reply: RefCell<BytesMut>,
    session: Rc<Session>,
}

impl Link {
    /// Queues a request of a session.
    pub fn send(&self, request: &[u8], session: &Rc<Session>) {
        self.kept.borrow_mut().push(request);
        let entry = Rc::new(Entry {
            length: u32::try_from(request.len()).expect("a request is below 4 GiB"),
            done: Cell::new(false),
            reply: RefCell::default(),
            session: session.clone(),
        });
        session.pending.borrow_mut().push_back(entry.clone());
        self.in_flight.borrow_mut().push_back(entry);
        wake(&self.waker);
    }
}

/// Passes replies on and writes what was queued, forever.
pub async fn run(mut stream: TcpStream, link: Rc<Link>) {
    let mut input = BytesMut::with_capacity(65_536);
    poll_fn(|cx| {
        while let Poll::Ready(n) = fill(&mut stream, &mut input, cx) {
            assert!(n > 0, "a node has gone");
            let mut in_flight = link.in_flight.borrow_mut();
            let mut kept = link.kept.borrow_mut();
            while let Some(end) = resp::reply_end(&input) {
                let entry = in_flight.pop_front().expect("a reply answers a request");
                kept.forget(entry.length as usize);
                entry.session.deliver(&entry, &input[..end]);
                input.advance(end);
            }
        }
        link.kept.borrow_mut().write(&mut stream, cx);
        *link.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::<()>::Pending
    })
    .await;
}
