//! One command of a session that has not been answered.

use bytes::Bytes;

use super::gather::Gather;
use crate::command::{Route, Spec, Transact};

/// One command that has not been answered.
#[derive(Debug)]
pub(crate) struct Pending {
    /// When it was framed, in nanoseconds of the worker's clock.
    pub(crate) started: u64,
    /// `None` for a request that was answered here and is no known command.
    pub(crate) spec: Option<&'static Spec>,
    /// How long its request is.
    pub(crate) len: u32,
    pub(crate) slot: u16,
    /// The link that it was sent on, unless it was cut into parts.
    pub(crate) link: u32,
    /// How many replies come before the last one, where several requests go in one piece.
    pub(crate) earlier: u32,
    /// The client wants no reply to it; set when it is added to the queue.
    pub(crate) silent: bool,
    pub(crate) progress: Progress,
}

/// How far a command is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Sent or held: the reply is still to come.
    Waiting,
    /// Cut into parts.
    Parts(Box<Gather>),
    /// The reply is there, but not that of an earlier command.
    Done(Bytes),
    /// The proxy answers it once something else has happened.
    Elsewhere,
    /// Instead of a reply the connection is closed here.
    Cut,
}

impl Pending {
    pub(super) fn only_reads(&self) -> bool {
        self.spec.is_some_and(Spec::is_readonly)
    }

    /// Whether it is a transaction.
    pub(super) fn is_exec(&self) -> bool {
        self.spec.is_some_and(|spec| spec.route == Route::Transaction(Transact::Exec))
    }

    /// Whether the reply that comes next is the last one.
    pub(super) fn is_last_part(&self) -> bool {
        match &self.progress {
            Progress::Waiting => true,
            Progress::Parts(gather) => gather.is_last(),
            Progress::Elsewhere | Progress::Done(_) | Progress::Cut => false,
        }
    }

    /// Bytes of replies that wait in it.
    pub(super) fn early(&self) -> usize {
        match &self.progress {
            Progress::Waiting | Progress::Elsewhere | Progress::Cut => 0,
            Progress::Parts(gather) => gather.bytes(),
            Progress::Done(reply) => reply.len(),
        }
    }
}
