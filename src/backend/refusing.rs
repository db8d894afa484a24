//! Replies that exceed a bound: the command gets an error instead.

use super::Reply;
use super::connection::{Connection, Reason};
use super::link::OVER_MEMORY;
use crate::error::ClientError;
use crate::metrics::Reached;

impl Connection {
    /// Answers the command whose reply is being read with an error, and keeps nothing of what is still to come: others have
    /// commands on this connection. A message is none's to miss.
    #[cold]
    pub(super) fn drop_reply(&mut self) -> Result<(), Reason> {
        if self.input.is_empty() || self.rest.is_some() {
            return Ok(());
        }
        if self.link.listener.is_some() || self.input.first() == Some(&b'>') {
            return Err(OVER_MEMORY);
        }
        let (rest, input) = (self.framer.give_up(), std::mem::take(&mut self.input));
        self.told_large = false;
        self.refuse(Reached::MaxMemory)?;
        (self.rest, self.input) = (Some(rest), input);
        self.pass()
    }

    /// Answers the command whose reply is being read, which exceeds a bound, in the proxy's own words. The
    /// connection is of no use any more.
    #[cold]
    pub(super) fn refuse_reply(&mut self, bound: Reached) {
        let is_push = self.input.first() == Some(&b'>');
        if std::mem::take(&mut self.input).is_empty() || is_push {
            return;
        }
        _ = self.refuse(bound);
    }

    fn refuse(&mut self, bound: Reached) -> Result<(), Reason> {
        let (error, metrics) = (ClientError::ReplyTooLarge { limit: bound.label() }, &self.backend.metrics);
        metrics.reached[bound.index()].add(1);
        metrics.error(None, error.kind());
        self.hand_out(Reply::Small(&error.reply()))
    }
}
