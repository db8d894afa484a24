//! How commands are refused in a server's own words, EXEC above all, which ends its transaction by that.

use super::planner::Planner;
use crate::command::{Route, Spec, Transact};
use crate::error::ErrorKind;
use crate::protocol::write;

/// How a server that refuses EXEC begins; the reason follows.
const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of: ";

impl Planner<'_> {
    /// Refuses a command before it is looked at. EXEC's refusal says so, as a server's does.
    #[cold]
    pub(super) fn reject(&mut self, spec: &'static Spec, route: Route, kind: ErrorKind, error: Vec<u8>) {
        let reply = match error.strip_prefix(b"-ERR ").or(error.strip_prefix(b"-")) {
            Some(reason) if route == Route::Transaction(Transact::Exec) => [ABORTED, reason].concat(),
            _ => error,
        };
        self.refuse(Some(spec), kind, reply);
    }

    /// Answers with an error of a server's own.
    pub(super) fn refuse_as(&mut self, spec: &'static Spec, text: impl AsRef<[u8]>) {
        let mut reply = Vec::new();
        write::error(&mut reply, text);
        self.refuse(Some(spec), ErrorKind::BadArgument, reply);
    }
}

/// The error that decides what becomes of a block: the first at queueing, else what EXEC itself was refused for.
pub(super) fn deciding<'a>(earlier: &'a [u8], reply: &'a [u8]) -> Vec<u8> {
    let lines = || earlier.split_inclusive(|byte| *byte == b'\n');
    if let Some(error) = lines().find(|line| line.first() == Some(&b'-')) {
        return error.to_vec();
    }
    match reply.strip_prefix(ABORTED) {
        Some(reason) => [b"-", reason].concat(),
        None => reply.to_vec(),
    }
}

/// An error at queueing as EXEC's reply: the client has read `QUEUED` in its place.
pub(super) fn aborted(error: &[u8]) -> Vec<u8> {
    [ABORTED, &error[1..]].concat()
}
