//! What the proxy itself asks of a node on a link: the replies are for nobody.

use super::Ticket;
use super::link::{Entry, Link};
use crate::protocol::write;

const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";
/// `PING` on the wire: keeps an idle link from being closed by the node's `timeout`, and shows that the node lives.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

impl Link {
    /// What `ASKING` is on the wire.
    pub const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

    /// Queues `SCRIPT LOAD`.
    pub fn push_script(&self, text: &[u8]) {
        let mut request = Vec::with_capacity(text.len() + 64);
        write::request(&mut request, [&b"SCRIPT"[..], b"LOAD", text].into_iter());
        self.push_internal(&request);
    }

    /// Queues `UNWATCH`: whoever gets this connection next finds nothing watched.
    pub fn push_unwatch(&self) {
        self.push_internal(UNWATCH);
    }

    /// Queues `ASKING`, which goes for the very next command.
    pub fn push_asking(&self) {
        self.push_internal(Self::ASKING);
    }

    /// Queues the end of another link to the same node, which was given up with writes in doubt. By number
    /// and address: a node that was restarted in between may have given the number to somebody else.
    pub(super) fn push_kill(&self, client_id: u64, addr: &str) {
        let (id, mut request) = (client_id.to_string(), Vec::new());
        let words = ["CLIENT", "KILL", "ID", &id, "ADDR", addr];
        write::request(&mut request, words.iter().map(|word| word.as_bytes()));
        self.push_internal(&request);
    }

    pub(super) fn push_internal(&self, request: &[u8]) {
        let mut queue = self.queue.borrow_mut();
        queue.send.push(request);
        queue.times.push_internal();
        let ticket = Ticket { seq: 0, part: 0 };
        queue.entries.push_back(Entry { receiver: None, ticket, len: request.len() as u32, earlier: 0 });
        drop(queue);
        self.wakeup.wake();
    }

    /// Queues `PING`.
    pub fn push_ping(&self) {
        self.push_internal(PING);
    }
}
