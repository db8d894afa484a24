//! What planning needs, borrowed for one turn.

use std::rc::Rc;

use bytes::Bytes;

use super::Session;
use super::control::Pause;
use super::pending::State;
use super::turn::Turn;
use crate::backend::Link;
use crate::protocol::Protocol;
use crate::route::Routes;

/// A request's bytes: to be copied, or taken over when they are many.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Slice(&'a [u8]),
    Owned(&'a Bytes),
    /// Several requests in one piece, to which so many replies come before the last one; whether they call scripts.
    Block(&'a Bytes, u32, bool),
}

impl<'a> Source<'a> {
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Source::Slice(bytes) => bytes,
            Source::Owned(bytes) | Source::Block(bytes, ..) => bytes,
        }
    }

    pub(super) fn len(self) -> usize {
        self.bytes().len()
    }

    pub(super) fn to_bytes(self) -> Bytes {
        match self {
            Source::Slice(bytes) => Bytes::copy_from_slice(bytes),
            Source::Owned(bytes) | Source::Block(bytes, ..) => bytes.clone(),
        }
    }
}

/// What planning needs, borrowed for one turn.
pub(super) struct Planner<'a> {
    pub(super) session: &'a Rc<Session>,
    pub(super) state: &'a mut State,
    pub(super) routes: &'a Routes,
    pub(super) protocol: Protocol,
    pub(super) now: u64,
    /// Whether the command that is planned may write.
    pub(super) writes: bool,
    /// Which commands wait.
    pub(super) pause: Pause,
    /// Whether nothing but a command's own row says what becomes of it.
    pub(super) plain: bool,
    /// Whether some slots are known for large replies.
    pub(super) some_large: bool,
    /// A link whose queue is full now.
    pub(super) full: Option<Rc<Link>>,
}

impl Turn {
    /// Borrows what planning needs.
    #[inline(always)]
    pub(super) fn with_planner<R>(&mut self, work: impl FnOnce(&mut Self, &mut Planner<'_>) -> R) -> R {
        let (session, worker) = (self.session.clone(), self.worker.clone());
        let mut state = session.state.borrow_mut();
        let routes = worker.routes.borrow();
        if state.version != routes.version() {
            // What is on its way was sent by older routes.
            if !state.is_idle() {
                state.watch();
            }
            state.version = routes.version();
        }
        let now = worker.backend.clock.now();
        let mut planner = Planner {
            session: &session,
            state: &mut state,
            routes: &routes,
            protocol: self.client.protocol,
            now,
            writes: false,
            pause: worker.paused.now(),
            plain: false,
            some_large: worker.large.any(),
            full: None,
        };
        work(self, &mut planner)
    }
}
