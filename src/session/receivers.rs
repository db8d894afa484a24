//! Numbers of subscribers that nodes tell, told in clients.

use super::Session;
use super::pending::State;
use super::planner::Planner;
use crate::backend::{Request, Ticket};
use crate::command::{Merge, Spec};
use crate::protocol::{Args, RequestFramer, RequestLimits, write};

impl Planner<'_> {
    /// What is to be added to the nodes' numbers, in the form of a node's reply.
    pub(super) fn own_part(&self, spec: &'static Spec, args: &Args<'_>) -> Option<Vec<u8>> {
        let (counts, mut own) = (self.session.worker.hub.receivers().counts(), Vec::new());
        match spec.merge {
            Merge::SumPatterns => write::integer(&mut own, counts.beyond_patterns()),
            Merge::SumByName(kind) => {
                write::array(&mut own, 2 * (args.len() - 2));
                for name in args.iter().skip(2) {
                    write::bulk(&mut own, name);
                    write::integer(&mut own, counts.beyond_all(kind, name));
                }
            }
            _ => return None,
        }
        Some(own)
    }
}

impl Session {
    /// A node's number of receivers of a message, told in clients.
    #[cold]
    pub(super) fn in_clients(
        &self,
        state: &mut State,
        ticket: Ticket,
        reply: &[u8],
        request: Request<'_>,
    ) -> Option<Vec<u8>> {
        let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
        let Merge::Receivers(kind) = state.get(ticket.seq)?.spec?.merge else { return None };
        let told = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let mut framer = RequestFramer::default();
        framer.next(request.bytes(), &RequestLimits::NONE).ok()??;
        let channel = framer.args(request.bytes()).get(1);
        let node = request.link().addr();
        let receivers = self.worker.hub.receivers().of_message(kind, channel, node, told);
        let mut reply = Vec::new();
        write::integer(&mut reply, receivers);
        Some(reply)
    }
}
