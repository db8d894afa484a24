//! How commands are refused in a server's own words, EXEC above all, which ends its transaction by that.

use super::planner::Planner;
use crate::command::{Route, Spec, Transact};
use crate::error::ErrorKind;
use crate::protocol::{ReplyFramer, write};

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
    let mut rest = earlier;
    while let Ok(Some(len)) = ReplyFramer::default().next(rest) {
        let (reply, behind) = rest.split_at(len);
        if reply.first() == Some(&b'-') {
            return reply.to_vec();
        }
        rest = behind;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reply_that_is_an_error_decides_and_no_line_within_one() {
        let earlier = b"+OK\r\n$12\r\n-MOVED 1 a:1\r\n*1\r\n-ERR in it\r\n";
        assert_eq!(deciding(earlier, b":1\r\n"), b":1\r\n");
        let refused = [&earlier[..], b"-TRYAGAIN x\r\n+QUEUED\r\n"].concat();
        assert_eq!(deciding(&refused, b":1\r\n"), b"-TRYAGAIN x\r\n");
        assert_eq!(
            deciding(b"", b"-EXECABORT Transaction discarded because of: LOADING x\r\n"),
            b"-LOADING x\r\n"
        );
    }
}
